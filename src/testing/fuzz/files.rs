//! Files in memory that notice what must not be done to them, and that share extents like some hosts do.

use crate::chain::{Chain, ChainOptions, ParentPolicy};
use crate::error::{Error, Result};
use crate::format::Parent;
use crate::limits::PAGE_SIZE;
use crate::storage::{FileId, Host, LockMode, MemoryStorage, Storage};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open file. One that was opened for reading is never asked to change.
#[derive(Debug)]
struct Handle {
    file: Arc<MemoryStorage>,
    write: bool,
    changes: Arc<AtomicU64>,
}

impl Handle {
    fn changes(&self) {
        assert!(self.write, "{}: opened for reading, and changed", self.file.name());
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Storage for Handle {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn size(&self) -> Result<u64> {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.changes();
        self.file.write_at(data, offset)
    }

    /// Whole pages, and only in every other stretch of 64 KiB: nobody can tell sharing from copying.
    fn share(&self, offset: u64, source: &dyn Storage, range: Range<u64>) -> Result<bool> {
        let pages = [offset, range.start, range.end].iter().all(|at| at.is_multiple_of(PAGE_SIZE));
        if !pages || offset / (64 << 10) % 2 == 1 || range.end > source.size()? {
            return Ok(false);
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        source.read_at(&mut bytes, range.start)?;
        self.write_at(&bytes, offset).map(|()| true)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.changes();
        self.file.set_size(size)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.changes();
        self.file.punch(range)
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.changes();
        self.file.write_zeroes(range)
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.file.next_data(range)
    }

    fn lock(&self, mode: LockMode) -> Result<()> {
        self.file.lock(mode)
    }

    fn id(&self) -> Option<FileId> {
        self.file.id()
    }

    fn read_only(&self) -> bool {
        !self.write
    }
}

/// Some files by their names, each with how often it was changed.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<String, (Arc<MemoryStorage>, Arc<AtomicU64>)>,
}

impl Files {
    /// A new, empty file.
    pub fn create(&mut self, name: &str) -> Arc<dyn Storage> {
        self.files.insert(name.into(), (Arc::new(MemoryStorage::new(name)), Arc::default()));
        self.open(name, true).expect("just made")
    }

    /// Opens a file.
    pub fn open(&self, name: &str, write: bool) -> Result<Arc<dyn Storage>> {
        let gone = || Error::io(name, "cannot open", std::io::ErrorKind::NotFound.into());
        let (file, changes) = self.files.get(name).cloned().ok_or_else(gone)?;
        Ok(Arc::new(Handle { file, write, changes }))
    }

    /// Nobody needs the file any more.
    pub fn remove(&mut self, name: &str) {
        self.files.remove(name);
    }

    /// Changes so far of the files of a chain.
    pub fn changes(&self, chain: &Chain) -> u64 {
        let names = chain.layers.iter().flat_map(|layer| [Some(layer.name()), layer.name().strip_suffix(".lvb")]);
        let files = names.flatten().filter_map(|name| self.files.get(name));
        files.map(|(_, changes)| changes.load(Ordering::Relaxed)).sum()
    }

    /// Opens the chain whose top is `name`: a raw file, an image, or a sidecar with its volume.
    pub fn chain(&self, name: &str, host: Arc<dyn Host>, options: &ChainOptions) -> Result<Chain> {
        let top = self.open(name, options.write)?;
        if name.ends_with(".raw") {
            return Chain::open_raw(top, host, options);
        }
        match name.strip_suffix(".lvb") {
            Some(volume) => Chain::open_sidecar(top, self.open(volume, options.write)?, host, self, options),
            None => Chain::open(top, host, self, options),
        }
    }
}

/// Parents are where the hints say.
impl ParentPolicy for Files {
    fn open(&self, link: &Parent, _: &str, write: bool) -> Result<Arc<dyn Storage>> {
        Files::open(self, &link.hint, write)
    }
}
