//! A storage in memory: for tests, the simulator, and whoever wants a disk that is gone at the end.

use super::{FileId, LockMode, Storage};
use crate::error::{Error, Result};
use crate::sync::{Mutex, Ordering, StaticCounter, lock};
use std::collections::BTreeMap;
use std::ops::Range;

/// Memory is held in chunks of this many bytes; what was never written costs nothing.
const CHUNK: u64 = 4096;

/// A sparse array of bytes behind the [`Storage`] trait. A barrier costs nothing and means nothing.
#[derive(Debug)]
pub struct MemoryStorage {
    name: String,
    number: u64,
    content: Mutex<Content>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    size: u64,
    chunks: BTreeMap<u64, Box<[u8; CHUNK as usize]>>,
}

impl MemoryStorage {
    /// An empty storage that errors call `name`.
    pub fn new(name: impl Into<String>) -> MemoryStorage {
        static NUMBERS: StaticCounter = StaticCounter::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        MemoryStorage { name: name.into(), number, content: Mutex::default() }
    }

    /// A storage that holds `bytes`.
    pub fn with_bytes(name: impl Into<String>, bytes: &[u8]) -> MemoryStorage {
        let storage = MemoryStorage::new(name);
        lock(&storage.content).write(bytes, 0);
        storage
    }

    /// Another storage with the same content.
    pub fn copy(&self, name: impl Into<String>) -> MemoryStorage {
        MemoryStorage { content: Mutex::new(lock(&self.content).clone()), ..MemoryStorage::new(name) }
    }

    /// All the bytes, zeros included.
    pub fn contents(&self) -> Vec<u8> {
        let content = lock(&self.content);
        let mut bytes = vec![0; content.size as usize];
        content.read(&mut bytes, 0);
        bytes
    }
}

/// The parts of `range` in each chunk: chunk number, bytes within the chunk.
fn parts(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let chunk = at / CHUNK;
        let end = range.end.min((chunk + 1) * CHUNK);
        let part = (at - chunk * CHUNK) as usize..(end.max(at) - chunk * CHUNK) as usize;
        at = end;
        (!part.is_empty()).then_some((chunk, part))
    })
}

impl Content {
    fn read(&self, buffer: &mut [u8], offset: u64) {
        let mut rest = buffer;
        for (chunk, part) in parts(offset..offset + rest.len() as u64) {
            let (piece, after) = rest.split_at_mut(part.len());
            match self.chunks.get(&chunk) {
                Some(bytes) => piece.copy_from_slice(&bytes[part]),
                None => piece.fill(0),
            }
            rest = after;
        }
    }

    fn write(&mut self, data: &[u8], offset: u64) {
        let end = offset + data.len() as u64;
        let mut rest = data;
        for (chunk, part) in parts(offset..end) {
            let (piece, after) = rest.split_at(part.len());
            self.chunks.entry(chunk).or_insert_with(|| Box::new([0; CHUNK as usize]))[part].copy_from_slice(piece);
            rest = after;
        }
        self.size = self.size.max(if data.is_empty() { 0 } else { end });
    }

    /// Whole chunks are dropped without looking at those that are not there.
    fn zero(&mut self, range: Range<u64>) {
        let whole = range.start.div_ceil(CHUNK)..range.end / CHUNK;
        if whole.start < whole.end {
            let gone: Vec<u64> = self.chunks.range(whole.clone()).map(|(&chunk, _)| chunk).collect();
            gone.iter().for_each(|chunk| drop(self.chunks.remove(chunk)));
        }
        for edge in [range.start..range.end.min(whole.start * CHUNK), range.start.max(whole.end * CHUNK)..range.end] {
            for (chunk, part) in parts(edge) {
                if let Some(bytes) = self.chunks.get_mut(&chunk) {
                    bytes[part].fill(0);
                }
            }
        }
    }
}

impl Storage for MemoryStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> Result<u64> {
        Ok(lock(&self.content).size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none() {
            return Err(Error::Invalid(format!("{}: no storage reaches beyond 2^64", self.name)));
        }
        lock(&self.content).read(buffer, offset);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        if offset.checked_add(data.len() as u64).is_none() {
            return Err(Error::NoSpace { file: self.name.clone() });
        }
        lock(&self.content).write(data, offset);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let mut content = lock(&self.content);
        if size < content.size {
            let old = content.size;
            content.zero(size..old);
        }
        content.size = size;
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        let mut content = lock(&self.content);
        let end = range.end.min(content.size);
        if range.start < end {
            content.zero(range.start..end);
        }
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.punch(range)
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let content = lock(&self.content);
        let mut found: Option<Range<u64>> = None;
        for &chunk in content.chunks.range(range.start / CHUNK..).map(|(chunk, _)| chunk) {
            let bytes = chunk * CHUNK..(chunk + 1) * CHUNK;
            match &mut found {
                _ if bytes.start >= range.end => break,
                None => found = Some(bytes),
                Some(run) if run.end == bytes.start => run.end = bytes.end,
                Some(_) => break,
            }
        }
        let found = found.map(|run| run.start.max(range.start)..run.end.min(range.end));
        Ok(found.filter(|run| !run.is_empty()))
    }

    /// Nobody else can reach it.
    fn lock(&self, _mode: LockMode) -> Result<()> {
        Ok(())
    }

    fn id(&self) -> Option<FileId> {
        Some((u64::MAX, self.number))
    }

    fn allocated(&self) -> Result<Option<u64>> {
        Ok(Some(lock(&self.content).chunks.len() as u64 * CHUNK))
    }
}
