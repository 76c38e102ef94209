//! A raw file or block device as a layer: no header, no identity, every byte its own.

use crate::device::{BlockDevice, Extent, ExtentKind, Place};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, lock};
use std::ops::Range;

/// The bytes of a storage, seen as a disk of the storage's length (which may be any number of bytes).
///
/// After a failed barrier nothing more is written: what the host holds is unknown, and a second barrier that
/// succeeds would say nothing about the first.
#[derive(Debug)]
pub struct RawDevice {
    storage: Arc<dyn Storage>,
    size: AtomicU64,
    writable: bool,
    failure: Mutex<Option<String>>,
}

impl RawDevice {
    /// Sees `storage` as a disk. With `write` false every change is refused.
    ///
    /// # Errors
    /// What the storage says when asked for its length.
    pub fn new(storage: Arc<dyn Storage>, write: bool) -> Result<RawDevice> {
        let size = AtomicU64::new(storage.size()?);
        let writable = write && !storage.read_only();
        Ok(RawDevice { storage, size, writable, failure: Mutex::new(None) })
    }

    /// Where the bytes lie.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Whether changes are allowed.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// The failed barrier since which nothing is written, if there was one.
    pub fn poisoned(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Sets the size in bytes, on the host even if it is the size already: an earlier process may have grown the
    /// file, failed to make that durable, and left a length behind that the host only believes in. A block device keeps
    /// its size, which must suffice.
    ///
    /// # Errors
    /// [`Error::Denied`] if opened for reading, [`Error::Poisoned`] after a failed barrier, [`Error::NoSpace`], or the
    /// host's.
    pub fn set_size(&self, size: u64) -> Result<()> {
        self.may_write()?;
        if !self.storage.zeros_when_new() {
            let enough = size <= self.size();
            return if enough { Ok(()) } else { Err(Error::NoSpace { file: self.storage.name().into() }) };
        }
        self.storage.set_size(size)?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    fn may_write(&self) -> Result<()> {
        let file = self.storage.name();
        if !self.writable {
            return Err(Error::Denied(format!("{file}: opened for reading only")));
        }
        match &*lock(&self.failure) {
            Some(cause) => Err(Error::Poisoned { file: file.into(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn within(&self, offset: u64, length: u64) -> Result<Range<u64>> {
        let size = self.size();
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(offset..end),
            _ => Err(Error::Invalid(format!(
                "{}: {length} bytes at offset {offset} do not lie within its {size} bytes",
                self.storage.name()
            ))),
        }
    }

    fn within_range(&self, range: &Range<u64>) -> Result<()> {
        self.within(range.start, range.end.saturating_sub(range.start)).map(drop)
    }
}

impl BlockDevice for RawDevice {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.within(offset, buffer.len() as u64)?;
        self.storage.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.may_write()?;
        self.within(offset, data.len() as u64)?;
        self.storage.write_at(data, offset)
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> Result<()> {
        self.may_write()?;
        self.within_range(&range)?;
        if range.is_empty() {
            return Ok(());
        }
        if unmap { self.storage.punch(range) } else { self.storage.write_zeroes(range) }
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.write_zeroes(range, true)
    }

    fn flush(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        self.may_write()?;
        self.storage.sync().inspect_err(|error| {
            lock(&self.failure).get_or_insert_with(|| error.to_string());
        })
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        self.within_range(&(offset..end))?;
        let (kind, end) = match self.storage.next_data(offset..end)? {
            Some(data) if data.start > offset => (ExtentKind::Zero, data.start.min(end)),
            Some(data) if data.end > offset => (ExtentKind::Data, data.end.min(end)),
            // A hint that says nothing: the bytes are there to be read.
            Some(_) => (ExtentKind::Data, end),
            None => (ExtentKind::Zero, end),
        };
        let place = Some(Place { file: self.storage.clone(), offset });
        Ok(Extent { range: offset..end, kind, present: true, depth: 0, place })
    }

    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        pieces.iter().try_for_each(|(offset, buffer)| self.within(*offset, buffer.len() as u64).map(drop))?;
        self.storage.read_batch(pieces)
    }

    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        self.may_write()?;
        pieces.iter().try_for_each(|(offset, data)| self.within(*offset, data.len() as u64).map(drop))?;
        self.storage.write_batch(pieces)
    }

    fn share(&self, range: Range<u64>, place: &Place) -> Result<bool> {
        self.may_write()?;
        self.within_range(&range)?;
        let length = range.end.saturating_sub(range.start);
        self.storage.share(range.start, &*place.file, place.offset..place.offset.saturating_add(length))
    }
}
