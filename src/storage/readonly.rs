//! A storage that takes no writes, whatever is behind it.

use super::{FileId, LockMode, Storage};
use crate::error::{Error, Result};
use std::ops::Range;

/// Passes reads on and refuses everything that would change the storage.
#[derive(Debug)]
pub struct ReadOnly<S>(pub S);

impl<S: Storage> ReadOnly<S> {
    fn refuse(&self) -> Result<()> {
        Err(Error::Denied(format!("{}: opened read-only", self.0.name())))
    }
}

impl<S: Storage> Storage for ReadOnly<S> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size(&self) -> Result<u64> {
        self.0.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn will_need(&self, range: Range<u64>) {
        self.0.will_need(range);
    }

    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        self.0.read_batch(pieces)
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        self.refuse()
    }

    fn share(&self, _offset: u64, _source: &dyn Storage, _range: Range<u64>) -> Result<bool> {
        self.refuse().map(|()| false)
    }

    fn as_file(&self) -> Option<&std::fs::File> {
        self.0.as_file()
    }

    /// Passed on: what others wrote becomes durable, which is no change.
    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn sync_directory(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, _size: u64) -> Result<()> {
        self.refuse()
    }

    fn punch(&self, _range: Range<u64>) -> Result<()> {
        self.refuse()
    }

    fn write_zeroes(&self, _range: Range<u64>) -> Result<()> {
        self.refuse()
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.0.next_data(range)
    }

    fn lock(&self, mode: LockMode) -> Result<()> {
        self.0.lock(mode)
    }

    fn id(&self) -> Option<FileId> {
        self.0.id()
    }

    fn fingerprint(&self) -> Result<[u8; 16]> {
        self.0.fingerprint()
    }

    fn allocated(&self) -> Result<Option<u64>> {
        self.0.allocated()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn zeros_when_new(&self) -> bool {
        self.0.zeros_when_new()
    }
}
