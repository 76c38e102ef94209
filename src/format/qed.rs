//! QED, QEMU's former image format: its header, and where its tables may lead (`spec/foreign.md`).

use super::Flaw;
use super::flaw::{require, support};
use super::layout::{Bytes, OnDisk, on_disk};
use crate::limits::{MAX_HINT, MAX_SIZE, SECTOR_SIZE};
use crate::violation::Violation;
use std::ops::{Range, RangeInclusive};

const MAGIC: [u8; 4] = *b"QED\0";
/// Bytes of a cluster, as powers of two.
const CLUSTERS: RangeInclusive<u32> = 1 << 12..=1 << 26;
/// Clusters of a table.
const TABLES: RangeInclusive<u32> = 1..=16;
/// Bytes of an entry in a table.
const ENTRY: u64 = 8;

/// Feature: the image lies on a backing file.
const BACKING_FILE: u64 = 1;
/// Feature: whoever wrote the image last did not close it.
const NEED_CHECK: u64 = 2;
/// Feature: the backing file is raw, whatever it looks like.
const BACKING_RAW: u64 = 4;

on_disk! {
    /// What a QED image starts with.
    QedFixed, table "QED header" {
        magic: Bytes<4>,
        cluster_size: u32,
        table_size: u32,
        header_size: u32,
        features: u64,
        compat_features: u64,
        autoclear_features: u64,
        l1_table_offset: u64,
        image_size: u64,
        backing_filename_offset: u32,
        backing_filename_size: u32,
    }
}

/// What the header of a QED image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QedHeader {
    /// Bytes of a cluster, a power of two.
    pub cluster_size: u64,
    /// Entries of a table, a power of two.
    pub entries: u64,
    /// The first byte of the file that may belong to a table or hold data.
    pub header_end: u64,
    /// Where the L1 table lies.
    pub l1_table: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// Whether whoever wrote the image last did not close it.
    pub need_check: bool,
    /// Where in the file the name of the backing file stands, if there is one.
    pub backing_name: Option<Range<u64>>,
    /// Whether the backing file is said to be raw.
    pub backing_raw: bool,
}

impl QedHeader {
    /// Bytes that [`decode`](Self::decode) needs.
    pub const BYTES: usize = QedFixed::SIZE;

    /// Reads the header that a file of `length` bytes starts with.
    pub fn decode(bytes: &[u8; QedHeader::BYTES], length: u64) -> Result<QedHeader, Flaw> {
        let Some(fixed) = QedFixed::parse(bytes) else { return Err(Flaw::corrupt(Violation::QedMagic)) };
        require(fixed.magic == Bytes(MAGIC), Violation::QedMagic)?;
        let unknown = fixed.features & !(BACKING_FILE | NEED_CHECK | BACKING_RAW);
        support(unknown == 0, Violation::QedFeature, || format!("the QED features {unknown:#x}"))?;
        let sized = |size: u32, sizes: RangeInclusive<u32>| size.is_power_of_two() && sizes.contains(&size);
        let geometry = sized(fixed.cluster_size, CLUSTERS) && sized(fixed.table_size, TABLES);
        require(geometry, Violation::QedGeometry)?;
        let cluster_size = u64::from(fixed.cluster_size);
        // Products of two numbers of 32 bits.
        let header_end = cluster_size * u64::from(fixed.header_size);
        let name_start = u64::from(fixed.backing_filename_offset);
        let name = name_start..name_start + u64::from(fixed.backing_filename_size);
        let header = QedHeader {
            cluster_size,
            entries: cluster_size * u64::from(fixed.table_size) / ENTRY,
            header_end,
            l1_table: fixed.l1_table_offset,
            size: fixed.image_size,
            need_check: fixed.features & NEED_CHECK != 0,
            backing_name: (fixed.features & BACKING_FILE != 0).then_some(name),
            backing_raw: fixed.features & BACKING_RAW != 0,
        };
        let reach = header.entries.saturating_mul(header.table_reach()).min(MAX_SIZE);
        require(header.size.is_multiple_of(SECTOR_SIZE) && header.size <= reach, Violation::QedSize)?;
        header.check_place(header.l1_table, header.table_bytes(), length)?;
        let named = |name: &Range<u64>| name.end <= header_end && name.end - name.start <= MAX_HINT as u64;
        require(header.backing_name.as_ref().is_none_or(named), Violation::QedName)?;
        Ok(header)
    }

    /// The name of the backing file, from its bytes.
    pub fn decode_name(bytes: &[u8]) -> Result<String, Flaw> {
        let text = String::from_utf8_lossy(bytes);
        require(text.as_bytes() == bytes && !text.contains('\0'), Violation::QedName)?;
        Ok(text.into_owned())
    }

    /// Bytes of a table.
    pub fn table_bytes(&self) -> u64 {
        self.entries * ENTRY
    }

    /// Bytes of the disk that one L2 table speaks of.
    pub fn table_reach(&self) -> u64 {
        self.entries * self.cluster_size
    }

    /// Holds a table or a cluster of `bytes` bytes at `offset` against the place it may have in a file of `length`.
    pub fn check_place(&self, offset: u64, bytes: u64, length: u64) -> Result<(), Flaw> {
        let within =
            offset > 0 && offset >= self.header_end && offset.checked_add(bytes).is_some_and(|end| end <= length);
        require(within && offset.is_multiple_of(self.cluster_size), Violation::QedPlace)
    }
}
