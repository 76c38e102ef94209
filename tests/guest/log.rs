//! The guest's own log of what it asked its disk for, as the device-mapper target log-writes keeps it (the kernel's
//! `Documentation/admin-guide/device-mapper/log-writes.rst`): in the order of flushes, where what has not completed before a
//! flush comes after it.

use std::path::Path;

const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

pub enum Entry {
    /// Bytes, and where.
    Write { offset: u64, data: Vec<u8> },
    /// Before the guest goes on, all that was written so far is durable. (A write with FUA is followed by one.)
    Flush,
    /// The guest says something: that a file is durable.
    Mark(String),
}

/// All entries of the log in the file at `path`, of a guest that discards nothing.
pub fn read(path: &Path) -> Vec<Entry> {
    let log = std::fs::read(path).expect("read");
    let word = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().expect("eight"));
    assert_eq!((word(0), word(8)), (MAGIC, 1), "not a log");
    let (count, sector) = (word(16), word(24) as u32 as usize);
    let (mut entries, mut at) = (Vec::new(), sector);
    for _ in 0..count {
        let (offset, sectors, flags, length) = (word(at), word(at + 8) as usize, word(at + 16), word(at + 24) as usize);
        assert_eq!(flags & DISCARD, 0, "a discard");
        if flags & MARK != 0 {
            // It stands in the sector of the entry.
            let text = &log[at + 32..][..length];
            entries.push(Entry::Mark(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()));
            at += sector;
            continue;
        }
        at += sector;
        if flags & FLUSH != 0 {
            entries.push(Entry::Flush);
        }
        if sectors > 0 {
            let data = log[at..at + sectors * sector].to_vec();
            entries.push(Entry::Write { offset: offset * sector as u64, data });
        }
        if flags & FUA != 0 {
            entries.push(Entry::Flush);
        }
        at += sectors * sector;
    }
    entries
}

/// What the log makes of `disk`.
pub fn apply(entries: &[Entry], disk: &mut [u8]) {
    for entry in entries {
        if let Entry::Write { offset, data } = entry {
            disk[*offset as usize..][..data.len()].copy_from_slice(data);
        }
    }
}
