//! Files to measure on, and memory to measure with.

use lvd::Result;
use lvd::storage::{FileId, FileOptions, FileStorage, LockMode, Storage};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what passes through a storage.
#[derive(Debug)]
pub(crate) struct Counting {
    pub(crate) inner: FileStorage,
    barriers: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl Counting {
    pub(crate) fn open(path: &Path, options: &FileOptions) -> Arc<Counting> {
        let inner = FileStorage::open(path, options).expect("the bench's own file opens");
        Arc::new(Counting { inner, barriers: AtomicU64::new(0), read: AtomicU64::new(0), written: AtomicU64::new(0) })
    }

    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.barriers, &self.written, &self.read].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Storage for Counting {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn size(&self) -> Result<u64> {
        self.inner.size()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.inner.read_at(buffer, offset)
    }
    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        self.read.fetch_add(pieces.iter().map(|(_, data)| data.len() as u64).sum(), Ordering::Relaxed);
        self.inner.read_batch(pieces)
    }
    fn will_need(&self, range: Range<u64>) {
        self.inner.will_need(range);
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.inner.write_at(data, offset)
    }
    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        self.written.fetch_add(pieces.iter().map(|(_, data)| data.len() as u64).sum(), Ordering::Relaxed);
        self.inner.write_batch(pieces)
    }
    fn share(&self, offset: u64, source: &dyn Storage, range: Range<u64>) -> Result<bool> {
        self.inner.share(offset, source, range)
    }
    fn as_file(&self) -> Option<&File> {
        self.inner.as_file()
    }
    fn sync(&self) -> Result<()> {
        self.barriers.fetch_add(1, Ordering::Relaxed);
        self.inner.sync()
    }
    fn sync_directory(&self) -> Result<()> {
        self.inner.sync_directory()
    }
    fn set_size(&self, size: u64) -> Result<()> {
        self.inner.set_size(size)
    }
    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.inner.punch(range)
    }
    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.inner.write_zeroes(range)
    }
    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.inner.next_data(range)
    }
    fn lock(&self, mode: LockMode) -> Result<()> {
        self.inner.lock(mode)
    }
    fn id(&self) -> Option<FileId> {
        self.inner.id()
    }
}

/// Aligned memory, so that direct I/O is not copied.
pub(crate) struct Memory {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

pub(crate) fn aligned(length: usize) -> Memory {
    let bytes = vec![0x5a; length + 4096];
    let start = bytes.as_ptr().align_offset(4096);
    Memory { bytes, start, length }
}

impl Memory {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..][..self.length]
    }
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.length]
    }
}

pub(crate) fn fill(size: u64, write: impl Fn(&[u8], u64) -> Result<()>) {
    let memory = aligned(1 << 20);
    for at in (0..size).step_by(1 << 20) {
        let length = (size - at).min(1 << 20) as usize;
        write(&memory.bytes()[..length], at).expect("space for the bench");
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Drops what the page cache holds of a file. False where the host has no `dd` that can.
pub(crate) fn evict(path: &Path) -> bool {
    let arguments =
        [&format!("of={}", path.display()), "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"];
    Command::new("dd").args(arguments).status().is_ok_and(|status| status.success())
}
