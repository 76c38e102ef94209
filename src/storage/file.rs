//! Files and block devices of Linux.

use super::calls;
use super::direct::Direct;
use super::lock as locks;
use super::ring::Rings;
use super::share::{can_share, share};
use super::transfer::{read_full, read_together, runs, write_cached, write_run};
use super::{FileId, LockMode, Storage};
use crate::error::{Error, Result};
use crate::sync::{Mutex, lock};
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Zeros that are written at once where the host cannot punch.
const ZEROS: usize = 1 << 20;

/// A regular file or a block device.
#[derive(Debug)]
pub struct FileStorage {
    name: String,
    path: PathBuf,
    /// Goes through the page cache; holds the locks.
    file: File,
    /// Reads through the page cache that are under way together: what is not in it is fetched at the same time.
    rings: Rings,
    /// Cache mode `none`.
    direct: Option<Direct>,
    held: Mutex<Option<LockMode>>,
    device: bool,
    /// Its file system can share extents.
    shares: bool,
    read_only: bool,
    id: FileId,
}

/// What tells files apart: a block device by its number, whatever node it was opened by.
pub(super) fn identity(metadata: &Metadata) -> FileId {
    match metadata.file_type().is_block_device() {
        true => (u64::MAX - 1, metadata.rdev()),
        false => (metadata.dev(), metadata.ino()),
    }
}

impl FileStorage {
    pub(super) fn new(
        name: String,
        path: PathBuf,
        file: File,
        direct: Option<File>,
        metadata: &Metadata,
        read_only: bool,
    ) -> FileStorage {
        let shares = can_share(&file);
        FileStorage {
            name,
            path,
            file,
            shares,
            rings: Rings::default(),
            direct: direct.map(Direct::new),
            held: Mutex::new(None),
            device: metadata.file_type().is_block_device(),
            read_only,
            id: identity(metadata),
        }
    }

    fn failed(&self, what: &str, offset: u64, error: io::Error) -> Error {
        Error::io(&self.name, format!("cannot {what} at offset {offset}"), error)
    }

    /// Cuts `range` at the end of the file; `None` if nothing is left.
    fn within(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let end = range.end.min(self.size()?);
        Ok((range.start < end).then_some(range.start..end))
    }

    /// Lets the host make zeros, or writes them where it cannot.
    fn make_zeros(&self, range: Range<u64>, how: FallocateFlags) -> Result<()> {
        let Some(range) = self.within(range)? else { return Ok(()) };
        let _alone = self.direct.as_ref().map(Direct::alone);
        let flags = how | FallocateFlags::KEEP_SIZE;
        loop {
            return match calls::allocate(&self.file, flags, &range) {
                Ok(()) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::INVAL | Errno::NOSYS) => self.write_zeros(range),
                Err(error) => Err(self.failed("make zeros", range.start, error.into())),
            };
        }
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        let zeros = vec![0; ZEROS.min((range.end - range.start) as usize)];
        let mut at = range.start;
        while at < range.end {
            let length = zeros.len().min((range.end - at) as usize);
            write_cached(&self.file, &zeros[..length], at).map_err(|error| self.failed("make zeros", at, error))?;
            at += length as u64;
        }
        Ok(())
    }

    /// The next offset from `at` on that holds data, or that does not.
    fn seek(&self, to: SeekFrom, at: u64) -> Result<Option<u64>> {
        match rustix::fs::seek(&self.file, to) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(self.failed("look for data", at, error.into())),
        }
    }
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        if lock(&self.held).is_some() {
            locks::release(&self.file);
        }
    }
}

impl Storage for FileStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> Result<u64> {
        let size = match self.device {
            false => self.file.metadata().map(|metadata| metadata.len()),
            true => rustix::fs::seek(&self.file, SeekFrom::End(0)).map_err(io::Error::from),
        };
        size.map_err(|error| Error::io(&self.name, "cannot tell the size", error))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let result = match &self.direct {
            None => read_full(&self.file, buffer, offset),
            Some(direct) => direct.read(&self.file, buffer, offset),
        };
        result.map_err(|error| self.failed("read", offset, error))
    }

    fn will_need(&self, range: Range<u64>) {
        if self.direct.is_none() {
            let length = NonZeroU64::new(range.end.saturating_sub(range.start));
            // Only a hint.
            let _ = rustix::fs::fadvise(&self.file, range.start, length, Advice::WillNeed);
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let result = match &self.direct {
            _ if data.is_empty() => return Ok(()),
            None => write_cached(&self.file, data, offset),
            Some(direct) => direct.write(&self.file, data, offset),
        };
        result.map_err(|error| self.failed("write", offset, error))
    }

    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        let first = pieces.first().map_or(0, |piece| piece.0);
        let result = match &self.direct {
            None => read_together(&self.rings, &self.file, pieces, |buffer, at| read_full(&self.file, buffer, at)),
            Some(direct) => direct.read_batch(&self.file, pieces),
        };
        result.map_err(|error| self.failed("read", first, error))
    }

    /// Pieces that follow each other become one request.
    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let result = match &self.direct {
            None => runs(pieces).try_for_each(|run| write_run(&self.file, run)),
            Some(direct) => direct.write_runs(&self.file, runs(pieces)),
        };
        result.map_err(|error| self.failed("write", pieces.first().map_or(0, |piece| piece.0), error))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io(&self.name, "cannot make durable", error))
    }

    fn sync_directory(&self) -> Result<()> {
        if self.device {
            return Ok(());
        }
        // A symbolic link's directory is not the one that names the file.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| Error::io(&directory.display().to_string(), "cannot make durable", error))
    }

    fn set_size(&self, size: u64) -> Result<()> {
        if self.device {
            let fits = self.size()? >= size;
            return if fits { Ok(()) } else { Err(Error::NoSpace { file: self.name.clone() }) };
        }
        self.file.set_len(size).map_err(|error| Error::io(&self.name, format!("cannot set the size to {size}"), error))
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.make_zeros(range, FallocateFlags::PUNCH_HOLE)
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.make_zeros(range, FallocateFlags::ZERO_RANGE)
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        if range.is_empty() || self.device {
            return Ok((!range.is_empty()).then_some(range));
        }
        let mut at = range.start;
        loop {
            let Some(start) = self.seek(SeekFrom::Data(at), at)?.filter(|start| *start < range.end) else {
                return Ok(None);
            };
            let end = self.seek(SeekFrom::Hole(start), start)?.map_or(range.end, |end| end.min(range.end));
            if start < end {
                return Ok(Some(start..end));
            }
            // It was punched between the two questions.
            at = start;
        }
    }

    /// The first lock also makes sure that the name still leads to this file: who waited for another program may
    /// hold what that one has replaced.
    fn lock(&self, mode: LockMode) -> Result<()> {
        let mut held = lock(&self.held);
        let before = *held;
        locks::change(&self.file, &self.name, mode, before)?;
        *held = Some(mode);
        let replaced = || std::fs::metadata(&self.path).map_or(true, |metadata| identity(&metadata) != self.id);
        if before.is_none() && replaced() {
            return Err(locks::locked(&self.name, "another file has taken its place since it was opened"));
        }
        Ok(())
    }

    fn share(&self, offset: u64, source: &dyn Storage, range: Range<u64>) -> Result<bool> {
        let Some(source) = source.as_file().filter(|_| self.shares) else { return Ok(false) };
        // The kernel may copy after all, and then through the cache.
        let _alone = self.direct.as_ref().map(Direct::alone);
        share(&self.file, offset, source, range).map_err(|error| self.failed("share", offset, error))
    }

    fn as_file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn id(&self) -> Option<FileId> {
        Some(self.id)
    }

    fn fingerprint(&self) -> Result<[u8; 16]> {
        let metadata = self.file.metadata().map_err(|error| Error::io(&self.name, "cannot examine", error))?;
        // A time before 1970 is none that a fingerprint can tell.
        if self.device || metadata.mtime() < 0 {
            return Ok([0; 16]);
        }
        let nanoseconds = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
        let halves = [nanoseconds.to_le_bytes(), metadata.ino().to_le_bytes()];
        Ok(std::array::from_fn(|at| halves[at / 8][at % 8]))
    }

    fn allocated(&self) -> Result<Option<u64>> {
        let metadata = self.file.metadata().map_err(|error| Error::io(&self.name, "cannot examine", error))?;
        Ok((!self.device).then(|| metadata.blocks() * 512))
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn zeros_when_new(&self) -> bool {
        !self.device
    }
}
