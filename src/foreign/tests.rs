//! QED images, sound and mangled, beside a reader that knows nothing but the words of the specification.

use super::*;
use crate::chain::RawDevice;
use crate::device::ExtentKind;
use crate::error::Error;
use crate::storage::MemoryStorage;
use crate::violation::Violation;
use proptest::prelude::*;
use proptest::sample::select;

const CLUSTER: u64 = 4096;

/// What becomes of a cluster of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    Absent,
    Zeros,
    Data,
}

/// What is done to the bytes of an image.
#[derive(Debug, Clone)]
enum Mangle {
    Byte(u64, u8),
    /// A number of 64 bits, on a multiple of 8.
    Number(u64, u64),
    Cut(u64),
}

/// Puts `bytes` at `at`, lengthening the file if need be.
fn put(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
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
fn build(size: u64, table: u64, backed: bool, clusters: &[Cluster]) -> Vec<u8> {
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
fn naive(file: &[u8], backing: &[u8], g: u64) -> Option<u8> {
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
fn open(file: &[u8], backing: &[u8]) -> Result<Qed> {
    // So few bytes of tables that pages go and come back.
    let qed = Qed::open(Arc::new(MemoryStorage::with_bytes("image", file)), 16 << 10)?;
    if qed.link()?.is_some() {
        qed.set_below(Arc::new(RawDevice::new(Arc::new(MemoryStorage::with_bytes("base", backing)), false)?));
    }
    Ok(qed)
}

/// The image reads as the naive reader says, byte for byte and extent for extent.
fn agrees(file: &[u8], backing: &[u8], probes: &[(u64, u64)]) {
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
            (Ok(()), Some(expected)) => assert!(bytes == expected, "bytes {range:?}"),
            (Err(Error::Corrupt { at: Some(_), violation: Violation::QedPlace, .. }), None) => {}
            (read, expected) => panic!("bytes {range:?}: {read:?} where {:?} is right", expected.is_some()),
        }
        extents_agree(&qed, file, backing, range);
    }
    extents_agree(&qed, file, backing, 0..qed.size().min(8 << 20));
    assert!(qed.read_at(&mut [0], qed.size()).is_err());
    assert!(matches!(qed.write_at(&[0], 0), Err(Error::Denied(_))));
}

fn extents_agree(qed: &Qed, file: &[u8], backing: &[u8], range: std::ops::Range<u64>) {
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
                    place.file.read_at(&mut found, place.offset + (g - at)).unwrap();
                    assert_eq!(byte, Some(found[0]), "byte {g}");
                    assert_eq!(place.file.name(), if extent.depth == 0 { "image" } else { "base" });
                }
                (ExtentKind::Data, None) => panic!("data at {at} lies nowhere"),
            }
        }
        at = extent.range.end;
    }
}

/// Runs of some clusters, and such that an L2 table is missing before one that is there.
fn kinds() -> impl Strategy<Value = Vec<Cluster>> {
    let length = prop_oneof![4 => 1..40usize, 1 => 400..700usize];
    let runs = (select(&[Cluster::Absent, Cluster::Zeros, Cluster::Data][..]), length);
    prop::collection::vec(runs, 1..12)
        .prop_map(|runs| runs.into_iter().flat_map(|(kind, length)| vec![kind; length]).collect())
}

/// Mostly where numbers are that lead somewhere.
fn mangles() -> impl Strategy<Value = Vec<Mangle>> {
    let places = prop_oneof![0..9u64, 512..530u64, 1024..1100u64, 0..4000u64].prop_map(|word| word * 8);
    let numbers = prop_oneof![
        0..20u64,
        any::<u64>(),
        (0..200u64).prop_map(|cluster| cluster * CLUSTER),
        (0..64u32).prop_map(|bit| 1 << bit),
        (0..3u64).prop_map(|less| u64::MAX - less * CLUSTER),
    ];
    let mangle = prop_oneof![
        (0..72u64, any::<u8>()).prop_map(|(at, byte)| Mangle::Byte(at, byte)),
        (places, numbers).prop_map(|(at, number)| Mangle::Number(at, number)),
        (0..400_000u64).prop_map(Mangle::Cut),
    ];
    prop::collection::vec(mangle, 1..4)
}

/// Ranges, of any length and at any place.
fn probes() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((any::<u64>(), select(&[1u64, 512, 5000, 100_000][..])), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn sound_images_are_read(
        sectors in 0..9000u64,
        table in select(&[1u64, 2][..]),
        clusters in kinds(),
        backing in prop::option::of(0..300_000usize),
        probes in probes(),
    ) {
        let file = build(sectors * 512, table, backing.is_some(), &clusters);
        let backing = vec![0xbb; backing.unwrap_or(0)];
        prop_assert!(open(&file, &backing).is_ok());
        agrees(&file, &backing, &probes);
    }

    #[test]
    fn mangled_images_are_refused_or_read_as_they_are(
        sectors in 1..9000u64,
        clusters in kinds(),
        backed in any::<bool>(),
        mangles in mangles(),
        probes in probes(),
    ) {
        let mut file = build(sectors * 512, 1, backed, &clusters);
        for mangle in mangles {
            match mangle {
                Mangle::Byte(at, byte) => put(&mut file, at, &[byte]),
                Mangle::Number(at, number) => put(&mut file, at, &number.to_le_bytes()),
                Mangle::Cut(length) => file.truncate(length as usize),
            }
        }
        agrees(&file, &[0xbb; 50_000], &probes);
    }

    #[test]
    fn any_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..20_000), magic in any::<bool>()) {
        if magic && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(b"QED\0");
        }
        agrees(&bytes, &[], &[(0, 10)]);
    }
}

#[test]
fn a_change_is_refused() {
    let qed = open(&build(8192, 1, false, &[Cluster::Data]), &[]).unwrap();
    for result in [qed.write_at(&[1], 0), qed.write_zeroes(0..1, false), qed.discard(0..1)] {
        assert!(matches!(result, Err(Error::Denied(_))), "{result:?}");
    }
    qed.flush().unwrap();
}

/// Where tables of the largest size reach further than numbers go.
#[test]
fn the_largest_tables_are_read_in_pieces() {
    let (cluster, table) = (64u64 << 20, 16u64);
    let image = MemoryStorage::new("image");
    let (l1, l2, data) = (cluster, cluster * (1 + table), cluster * (1 + 2 * table));
    let mut header = build(512, 1, false, &[Cluster::Absent]);
    for (at, field) in [(4, cluster), (8, table)] {
        put(&mut header, at, &(field as u32).to_le_bytes());
    }
    put(&mut header, 40, &l1.to_le_bytes());
    put(&mut header, 48, &(1u64 << 60).to_le_bytes());
    image.write_at(&header[..72], 0).unwrap();
    image.set_size(data + cluster).unwrap();
    let last = (1 << 60) / cluster - 1;
    let entries = table * cluster / 8;
    image.write_at(&l2.to_le_bytes(), l1 + last / entries * 8).unwrap();
    image.write_at(&data.to_le_bytes(), l2 + last % entries * 8).unwrap();
    image.write_at(b"end", data + cluster - 3).unwrap();
    let qed = Qed::open(Arc::new(image), 0).unwrap();
    let mut bytes = [0; 3];
    qed.read_at(&mut bytes, (1 << 60) - 3).unwrap();
    assert_eq!(&bytes, b"end");
    let (mut at, mut extents) = (0, 0);
    while at < 1 << 60 {
        at = qed.extent(at, 1 << 60).unwrap().range.end;
        extents += 1;
    }
    assert!(extents < 300_000, "{extents} extents");
}
