//! The only door to the outside: positional storage, and the host that brings time and random bytes.

#[cfg(target_os = "linux")]
mod buffer;
#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod direct;
#[cfg(target_os = "linux")]
mod file;
mod host;
#[cfg(target_os = "linux")]
mod lock;
mod memory;
#[cfg(target_os = "linux")]
mod open;
mod options;
#[cfg(any(test, not(target_os = "linux")))]
mod portable;
mod readonly;
#[cfg(target_os = "linux")]
mod ring;
#[cfg(target_os = "linux")]
mod share;
#[cfg(all(test, target_os = "linux"))]
mod tests;
#[cfg(target_os = "linux")]
mod transfer;

#[cfg(target_os = "linux")]
pub use file::FileStorage;
pub use host::OsHost;
pub use memory::MemoryStorage;
#[cfg(target_os = "linux")]
pub use open::open_beneath;
pub use options::{Create, FileOptions};
#[cfg(not(target_os = "linux"))]
pub use portable::{FileStorage, open_beneath};
pub use readonly::ReadOnly;

use crate::error::Result;
use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

/// How a file is held against others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Others may read, nobody may write.
    Shared,
    /// Nobody else may open it.
    Exclusive,
}

/// What tells two storages apart, whatever path they were opened by.
pub type FileId = (u64, u64);

/// A file, a block device, or a stand-in for one: bytes at offsets.
///
/// Every method takes `&self` and may be called from many threads. Errors name the storage.
pub trait Storage: Send + Sync + Debug {
    /// How errors name it: the path as the caller gave it.
    fn name(&self) -> &str;
    /// The length in bytes.
    fn size(&self) -> Result<u64>;
    /// Fills `buffer`; what lies past the end of the file reads as zeros.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
    /// Says that `range` will be read soon, and in no order: the host may fetch it in one go.
    fn will_need(&self, range: Range<u64>) {
        let _ = range;
    }
    /// Writes all of `data`, lengthening the file if need be.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;
    /// Fills several buffers, each from its offset, in any order and as many at once as the host takes.
    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        pieces.iter_mut().try_for_each(|(offset, buffer)| self.read_at(buffer, *offset))
    }
    /// Writes several pieces, each at its offset, in any order and as many at once as the host takes.
    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        pieces.iter().try_for_each(|(offset, data)| self.write_at(data, *offset))
    }
    /// Makes what starts at `offset` the same as `range` of `source` by sharing the host's extents: no byte is moved,
    /// and a later write to either file leaves the other alone. False: the host does not share here, and nothing
    /// that counts has changed.
    fn share(&self, offset: u64, source: &dyn Storage, range: Range<u64>) -> Result<bool> {
        let _ = (offset, source, range);
        Ok(false)
    }
    /// The host's file, for [`share`](Self::share).
    fn as_file(&self) -> Option<&std::fs::File> {
        None
    }
    /// One barrier (fdatasync): what was written, punched, zeroed or set in length before it is durable after it.
    fn sync(&self) -> Result<()>;
    /// Makes the directory entry of the file durable.
    fn sync_directory(&self) -> Result<()>;
    /// Sets the length; a lengthened file reads as zeros there.
    fn set_size(&self, size: u64) -> Result<()>;
    /// Makes `range` read as zeros, giving its space back where the host can. Never lengthens the file; covered by `sync`.
    fn punch(&self, range: Range<u64>) -> Result<()>;
    /// Makes `range` read as zeros and keeps its space allocated where the host can. Never lengthens the file.
    fn write_zeroes(&self, range: Range<u64>) -> Result<()>;
    /// The first stretch of `range` that may hold anything but zeros; `None` if all of it is holes, or there is none of it.
    /// Only a hint of sparseness: a storage without holes answers the whole range.
    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        Ok((!range.is_empty()).then_some(range))
    }
    /// Takes or changes the lock on the file. `Error::Locked` if another holds it.
    fn lock(&self, mode: LockMode) -> Result<()>;
    /// Device and inode, where there is one.
    fn id(&self) -> Option<FileId> {
        None
    }
    /// What tells a volume that was changed, or replaced, from one that was not: eight bytes of the time of its last
    /// modification in nanoseconds since 1970, eight of its inode number, little endian (EPO-07). Zeros where nobody knows.
    fn fingerprint(&self) -> Result<[u8; 16]> {
        Ok([0; 16])
    }
    /// Bytes the host has allocated, where it says.
    fn allocated(&self) -> Result<Option<u64>> {
        Ok(None)
    }
    /// Whether the storage was opened for reading alone.
    fn read_only(&self) -> bool {
        false
    }
    /// Whether it is on another machine, so that any request may take long, or for ever.
    fn is_far(&self) -> bool {
        false
    }
    /// Whether unwritten space reads as zeros (false for a block device).
    fn zeros_when_new(&self) -> bool {
        true
    }
}

/// Time and randomness, brought by whoever opens an image, so that a simulator can own them.
pub trait Host: Send + Sync + Debug {
    /// Sixteen random bytes, never all zero.
    fn random(&self) -> [u8; 16];
    /// Time since some fixed instant.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&self, time: Duration);
}
