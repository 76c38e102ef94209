//! Files in memory that notice what must not be done to them, that share extents like some hosts do, and that fail when
//! they are told to.

use crate::chain::{Chain, ChainOptions, ParentPolicy};
use crate::error::{Error, Result};
use crate::format::Parent;
use crate::limits::PAGE_SIZE;
use crate::storage::{FileId, Host, LockMode, MemoryStorage, Storage};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// When changes of files fail.
#[derive(Debug)]
pub struct Fault {
    /// Changes that come first; `u64::MAX`: none fails.
    left: AtomicU64,
    /// One change fails, and no later one.
    once: AtomicBool,
    fired: AtomicBool,
}

impl Default for Fault {
    fn default() -> Fault {
        Fault { left: AtomicU64::new(u64::MAX), once: AtomicBool::default(), fired: AtomicBool::default() }
    }
}

impl Fault {
    /// Lets so many changes of any file through; the next one fails, and unless `once` all later ones.
    pub fn arm(&self, changes: u64, once: bool) {
        self.once.store(once, Ordering::Relaxed);
        self.left.store(changes, Ordering::Relaxed);
    }

    /// Nothing fails any more, and nothing has.
    pub fn mend(&self) {
        self.arm(u64::MAX, false);
        self.fired.store(false, Ordering::Relaxed);
    }

    /// Whether something has failed.
    pub fn fired(&self) -> bool {
        self.fired.load(Ordering::Relaxed)
    }

    fn pass(&self, file: &str) -> Result<()> {
        match self.left.load(Ordering::Relaxed) {
            u64::MAX => Ok(()),
            0 => {
                self.fired.store(true, Ordering::Relaxed);
                if self.once.load(Ordering::Relaxed) {
                    self.left.store(u64::MAX, Ordering::Relaxed);
                }
                Err(Error::io(file, "cannot write", std::io::ErrorKind::Other.into()))
            }
            left => {
                self.left.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// An open file. One that was opened for reading is never asked to change.
#[derive(Debug)]
struct Handle {
    file: Arc<MemoryStorage>,
    write: bool,
    changes: Arc<AtomicU64>,
    fault: Arc<Fault>,
}

impl Handle {
    fn changes(&self) -> Result<()> {
        assert!(self.write, "{}: opened for reading, and changed", self.file.name());
        self.fault.pass(self.file.name())?;
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
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
        self.changes()?;
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
        if self.write { self.fault.pass(self.name()) } else { Ok(()) }
    }

    fn sync_directory(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.changes()?;
        self.file.set_size(size)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.changes()?;
        self.file.punch(range)
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.changes()?;
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

    /// The changes so far stand for the time of the last one.
    fn fingerprint(&self) -> Result<[u8; 16]> {
        let number = self.file.id().map_or(0, |(_, number)| number);
        let time = 1 + self.changes.load(Ordering::Relaxed);
        let mut fingerprint = [0; 16];
        fingerprint[..8].copy_from_slice(&time.to_le_bytes());
        fingerprint[8..].copy_from_slice(&number.to_le_bytes());
        Ok(fingerprint)
    }

    fn read_only(&self) -> bool {
        !self.write
    }
}

/// Some files by their names, each with how often it was changed.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<String, (Arc<MemoryStorage>, Arc<AtomicU64>)>,
    /// When changes fail, of all of them.
    pub fault: Arc<Fault>,
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
        Ok(Arc::new(Handle { file, write, changes, fault: self.fault.clone() }))
    }

    /// Changes so far of all files.
    pub fn all_changes(&self) -> u64 {
        self.files.values().map(|(_, changes)| changes.load(Ordering::Relaxed)).sum()
    }

    /// A file as it is now.
    pub fn keep(&self, name: &str) -> MemoryStorage {
        self.files[name].0.copy(name)
    }

    /// Puts another file, of the content that was kept, in the place of one.
    pub fn put_back(&mut self, name: &str, kept: &MemoryStorage) {
        self.files.insert(name.into(), (Arc::new(kept.copy(name)), Arc::default()));
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
