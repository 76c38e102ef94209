//! QED images, sound and mangled, beside a reader that knows nothing but the words of `spec/foreign.md`.

use crate::chain::RawDevice;
use crate::device::{BlockDevice, ExtentKind};
use crate::error::{Error, Result};
use crate::foreign::{Foreign, Qed};
use crate::storage::MemoryStorage;
use crate::testing::hostile::number::Number;
use crate::violation::Violation;
use arbitrary::{Arbitrary, Unstructured};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a cluster of the images that are built.
pub const CLUSTER: u64 = 4096;
/// Longer lists of changes tell nothing new.
const MOST_MANGLES: usize = 6;
/// An input whose first byte has this bit is a file itself.
const RAW: u8 = 0x80;

/// What becomes of a cluster of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Cluster {
    /// The backing file shows.
    Absent,
    /// Zeros, whatever lies below.
    Zeros,
    /// It lies in the file.
    Data,
}

/// What is done to the bytes of an image.
#[derive(Debug, Clone, Copy)]
pub enum Mangle {
    /// A byte.
    Byte(u64, u8),
    /// A number of 64 bits, on a multiple of 8.
    Number(u64, u64),
    /// The file ends there.
    Cut(u64),
}

/// What an input of the fuzz target describes.
#[derive(Debug, Arbitrary)]
struct Described {
    sectors: u16,
    large_tables: bool,
    /// Bytes of the backing file.
    backing: Option<u16>,
    /// Runs of clusters.
    runs: [(Cluster, u8); 4],
    probes: [(u16, u8); 3],
    mangles: Vec<Place>,
}

/// A change where numbers are that lead somewhere.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Place {
    Header(u8, u8),
    HeaderNumber(u8, Number),
    /// An entry of the table that begins with this cluster.
    Entry(u8, u8, Number),
    Cut(u16),
}

impl Place {
    fn mangle(self) -> Mangle {
        match self {
            Place::Header(at, byte) => Mangle::Byte(u64::from(at) % 72, byte),
            Place::HeaderNumber(word, number) => Mangle::Number(u64::from(word) % 9 * 8, number.value()),
            Place::Entry(cluster, entry, number) => {
                Mangle::Number(u64::from(cluster) * CLUSTER + u64::from(entry) * 8, number.value())
            }
            Place::Cut(sectors) => Mangle::Cut(u64::from(sectors) * 512 + 8),
        }
    }
}

/// Reads the image that `input` describes.
///
/// # Panics
/// If it is read as something else than it is.
pub fn play(input: &[u8]) {
    match input.split_first() {
        Some((knobs, file)) if knobs & RAW != 0 => {
            agrees(file, &[0xbb; 50_000], &[(0, 5000), (4000, 70_000), (u64::MAX, 10)]);
        }
        _ => drop(Described::arbitrary_take_rest(Unstructured::new(input)).map(|image| image.agrees())),
    }
}

impl Described {
    fn agrees(&self) {
        let (sectors, tables) = (u64::from(self.sectors % 4096), 1 + u64::from(self.large_tables));
        let runs = self.runs.iter().flat_map(|(kind, length)| vec![*kind; 1 + usize::from(*length)]);
        let mut file = build(sectors * 512, tables, self.backing.is_some(), &runs.collect::<Vec<_>>());
        let backing = vec![0xbb; usize::from(self.backing.unwrap_or(0)) * 8];
        if self.mangles.is_empty() {
            assert!(open(&file, &backing).is_ok(), "a sound image is refused");
        }
        self.mangles.iter().take(MOST_MANGLES).for_each(|place| mangled(&mut file, place.mangle()));
        let probes =
            self.probes.map(|(start, length)| (u64::from(start) * 64 + u64::from(length % 8), u64::from(length) * 90));
        agrees(&file, &backing, &probes);
    }
}

/// Changes the bytes of an image.
pub fn mangled(file: &mut Vec<u8>, mangle: Mangle) {
    match mangle {
        Mangle::Byte(at, byte) => put(file, at, &[byte]),
        Mangle::Number(at, number) => put(file, at, &number.to_le_bytes()),
        Mangle::Cut(length) => file.truncate(length as usize),
    }
}

/// Puts `bytes` at `at`, lengthening the file if need be.
pub fn put(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let range = at as usize..at as usize + bytes.len();
    file.resize(file.len().max(range.end), 0);
    file[range].copy_from_slice(bytes);
}

fn number(file: &[u8], at: u64) -> u64 {
    let mut bytes = [0; 8];
    let rest = file.get(at as usize..).unwrap_or_default();
    bytes.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(bytes)
}

/// An image of `size` bytes with tables of `table` clusters, over a raw file if `backed`. Cluster n of the disk is
/// number n of `clusters`, again and again; each byte of data is the number of its cluster in the file.
pub fn build(size: u64, table: u64, backed: bool, clusters: &[Cluster]) -> Vec<u8> {
    let (mut file, entries) = (Vec::new(), table * CLUSTER / 8);
    put(&mut file, 0, b"QED\0");
    for (at, field) in [(4, CLUSTER), (8, table), (12, 1)] {
        put(&mut file, at, &(field as u32).to_le_bytes());
    }
    let features = if backed { 5 } else { 0 };
    for (at, field) in [(16, features), (40, CLUSTER), (48, size), (56, 64 | 4 << 32)] {
        put(&mut file, at, &u64::to_le_bytes(field));
    }
    put(&mut file, 64, b"base");
    put(&mut file, CLUSTER * (1 + table) - 1, &[0]);
    for (cluster, kind) in (0..size.div_ceil(CLUSTER)).zip(clusters.iter().cycle()) {
        let l1 = CLUSTER + cluster / entries * 8;
        if *kind != Cluster::Absent && number(&file, l1) == 0 {
            let end = file.len() as u64;
            put(&mut file, l1, &end.to_le_bytes());
            put(&mut file, end + table * CLUSTER - 1, &[0]);
        }
        let entry = number(&file, l1) + cluster % entries * 8;
        match kind {
            Cluster::Absent => {}
            Cluster::Zeros => put(&mut file, entry, &1u64.to_le_bytes()),
            Cluster::Data => {
                let end = file.len() as u64;
                put(&mut file, entry, &end.to_le_bytes());
                put(&mut file, end, &[(end / CLUSTER) as u8 | 1; CLUSTER as usize]);
            }
        }
    }
    file
}

/// Byte `g` of the disk by QED-09; `None` if an entry on the way breaks QED-05.
pub fn naive(file: &[u8], backing: &[u8], g: u64) -> Option<u8> {
    let fields = number(file, 8);
    let (cluster_size, table_size) = (number(file, 4) & 0xffff_ffff, fields & 0xffff_ffff);
    let (header_size, entries) = (fields >> 32, table_size * cluster_size / 8);
    let placed = |at: u64, bytes: u64| {
        let end = u128::from(at) + u128::from(bytes);
        (at.is_multiple_of(cluster_size) && at >= header_size * cluster_size && end <= file.len() as u128).then_some(at)
    };
    let below = if number(file, 16) & 1 == 1 { backing.get(g as usize).copied().unwrap_or(0) } else { 0 };
    let n = g / cluster_size;
    let table = number(file, number(file, 40) + n / entries * 8);
    if table == 0 {
        return Some(below);
    }
    match number(file, placed(table, entries * 8)? + n % entries * 8) {
        0 => Some(below),
        1 => Some(0),
        cluster => Some(file[(placed(cluster, cluster_size)? + g % cluster_size) as usize]),
    }
}

/// Opens the image over its backing file, as a chain does.
pub fn open(file: &[u8], backing: &[u8]) -> Result<Qed> {
    // So few bytes of tables that pages go and come back.
    let qed = Qed::open(Arc::new(MemoryStorage::with_bytes("image", file)), 16 << 10)?;
    if qed.link()?.is_some() {
        qed.set_below(Arc::new(RawDevice::new(Arc::new(MemoryStorage::with_bytes("base", backing)), false)?));
    }
    Ok(qed)
}

/// The image reads as the naive reader says, byte for byte and extent for extent, each time that it is read.
///
/// # Panics
/// If it does not.
pub fn agrees(file: &[u8], backing: &[u8], probes: &[(u64, u64)]) {
    let qed = match open(file, backing) {
        Ok(qed) => qed,
        Err(error) => return assert!(error.violation().is_some_and(|rule| rule.id().starts_with("QED-")), "{error}"),
    };
    for (start, length) in probes {
        let start = start % (qed.size() + 1);
        let range = start..(start + length).min(qed.size());
        let expected: Option<Vec<u8>> = range.clone().map(|g| naive(file, backing, g)).collect();
        let mut bytes = vec![0xaa; (range.end - range.start) as usize];
        match (qed.read_at(&mut bytes, start), expected) {
            (Ok(()), Some(expected)) => {
                assert!(bytes == expected, "bytes {range:?}");
                // In another order, from whatever pages are in memory by then.
                for g in range.clone().rev().step_by(3000) {
                    let mut byte = [0xaa];
                    assert!(qed.read_at(&mut byte, g).is_ok() && byte[0] == expected[(g - start) as usize], "byte {g}");
                }
            }
            (Err(Error::Corrupt { at: Some(_), violation: Violation::QedPlace, .. }), None) => {}
            (read, expected) => panic!("bytes {range:?}: {read:?} where {:?} is right", expected.is_some()),
        }
        extents_agree(&qed, file, backing, range);
    }
    extents_agree(&qed, file, backing, 0..qed.size().min(8 << 20));
    assert!(qed.read_at(&mut [0], qed.size()).is_err());
    assert!(matches!(qed.write_at(&[0], 0), Err(Error::Denied(_))));
}

fn extents_agree(qed: &Qed, file: &[u8], backing: &[u8], range: Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let Ok(extent) = qed.extent(at, range.end) else {
            assert_eq!(naive(file, backing, at), None, "byte {at}");
            return;
        };
        assert!(extent.range.start == at && at < extent.range.end && extent.range.end <= range.end);
        for g in extent.range.clone().step_by(CLUSTER as usize).chain([extent.range.end - 1]) {
            let byte = naive(file, backing, g);
            match (extent.kind, &extent.place) {
                (ExtentKind::Zero, _) => assert_eq!(byte, Some(0), "byte {g}"),
                (ExtentKind::Data, Some(place)) => {
                    let mut found = [0];
                    place.file.read_at(&mut found, place.offset + (g - at)).expect("memory is read");
                    assert_eq!(byte, Some(found[0]), "byte {g}");
                    assert_eq!(place.file.name(), if extent.depth == 0 { "image" } else { "base" });
                }
                (ExtentKind::Data, None) => panic!("data at {at} lies nowhere"),
            }
        }
        at = extent.range.end;
    }
}
