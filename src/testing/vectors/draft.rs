//! A header as loose parts, to be put together in ways that the library would not.

use crate::format::{Header, RawRecord, fix_checksum};
use crate::limits::SLOT_SIZE;

/// Bytes of the fixed header.
pub(super) const FIXED: usize = 128;
/// Flag of a record that must be understood.
pub(super) const REQUIRED: u16 = 1;

// Types of records.
pub(super) const SECTION: u16 = 1;
pub(super) const PARENT: u16 = 2;
pub(super) const MERGE_MARK: u16 = 3;
pub(super) const COPY_MARK: u16 = 4;
pub(super) const HOST: u16 = 5;
pub(super) const BITMAP: u16 = 6;
pub(super) const POINT: u16 = 7;
pub(super) const GROUP_MARK: u16 = 8;
pub(super) const DECISION: u16 = 9;

/// The parts of a header.
#[derive(Debug, Clone)]
pub(in crate::testing) struct Draft {
    /// The fixed header; its length, checksum and count are filled in when it is put together.
    pub(in crate::testing) fixed: Vec<u8>,
    /// The records, in the order they will stand in.
    pub(in crate::testing) records: Vec<RawRecord>,
    /// Written at an offset of the finished slot, before its checksum is made right.
    late: Vec<(usize, Vec<u8>)>,
}

impl Draft {
    /// Takes a right header apart.
    pub(in crate::testing) fn of(header: &Header) -> Draft {
        let bytes = header.encode().unwrap_or_else(|rule| panic!("a draft starts from a right header: {rule}"));
        let count = u32_at(&bytes, 104);
        let (mut records, mut at) = (Vec::new(), FIXED);
        for _ in 0..count {
            let length = u32_at(&bytes, at + 4) as usize;
            records.push(RawRecord {
                record_type: u16::from_le_bytes([bytes[at], bytes[at + 1]]),
                flags: u16::from_le_bytes([bytes[at + 2], bytes[at + 3]]),
                payload: bytes[at + 8..at + 8 + length].to_vec(),
            });
            at += 8 + length.next_multiple_of(8);
        }
        Draft { fixed: bytes[..FIXED].to_vec(), records, late: Vec::new() }
    }

    /// Changes bytes of the fixed header.
    pub(in crate::testing) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.fixed[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Changes bytes of the slot after lengths and counts are filled in.
    pub(in crate::testing) fn put_late(&mut self, at: usize, bytes: &[u8]) {
        self.late.push((at, bytes.to_vec()));
    }

    /// The first record of a type.
    pub(super) fn record(&mut self, record_type: u16) -> &mut RawRecord {
        self.records.iter_mut().find(|record| record.record_type == record_type).expect("the draft has such a record")
    }

    /// Where the first record of a type begins in the slot.
    pub(super) fn place(&self, record_type: u16) -> usize {
        let before = self.records.iter().take_while(|record| record.record_type != record_type);
        FIXED + before.map(|record| 8 + record.payload.len().next_multiple_of(8)).sum::<usize>()
    }

    /// Changes bytes of the payload of the first record of a type.
    pub(super) fn put_in(&mut self, record_type: u16, at: usize, bytes: &[u8]) {
        self.record(record_type).payload[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Changes bytes of the payload of the record with that number.
    pub(super) fn put_at(&mut self, number: usize, at: usize, bytes: &[u8]) {
        self.records[number].payload[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Adds a record at the end.
    pub(super) fn add(&mut self, record_type: u16, flags: u16, payload: &[u8]) {
        self.records.push(RawRecord { record_type, flags, payload: payload.to_vec() });
    }

    /// All of the slot, with its length, its count and, last of all, its checksum.
    pub(in crate::testing) fn slot(&self) -> Vec<u8> {
        let mut bytes = self.fixed.clone();
        for record in &self.records {
            bytes.extend(record.record_type.to_le_bytes());
            bytes.extend(record.flags.to_le_bytes());
            bytes.extend((record.payload.len() as u32).to_le_bytes());
            bytes.extend(&record.payload);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let length = bytes.len() as u32;
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        bytes[104..108].copy_from_slice(&(self.records.len() as u32).to_le_bytes());
        bytes.resize(bytes.len().max(SLOT_SIZE as usize), 0);
        for (at, late) in &self.late {
            bytes[*at..*at + late.len()].copy_from_slice(late);
        }
        fix_checksum(&mut bytes);
        bytes
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
