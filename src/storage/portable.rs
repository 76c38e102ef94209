//! Files where the host is not Linux: what std offers, no holes, no direct I/O, the host's own whole-file locks.
//!
//! Compiled on Linux for the tests alone, so that it does not rot.

#![cfg_attr(target_os = "linux", allow(unreachable_pub))]

use super::{Create, FileOptions, LockMode, Storage};
use crate::error::{Error, Result};
use crate::sync::{Mutex, lock};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Component, Path};

/// A regular file.
#[derive(Debug)]
pub struct FileStorage {
    name: String,
    /// Behind a lock because the file has one position.
    file: Mutex<File>,
    read_only: bool,
}

impl FileStorage {
    /// Opens `path`.
    ///
    /// # Errors
    /// `Io`; `Invalid` for what is no regular file, and for direct I/O; `Locked`.
    pub fn open(path: impl AsRef<Path>, options: &FileOptions) -> Result<FileStorage> {
        let name = path.as_ref().display().to_string();
        if options.direct {
            return Err(Error::Invalid(format!("{name}: this host has no direct I/O (cache mode none)")));
        }
        let no_file = || Error::Invalid(format!("{name}: not a regular file"));
        // Looked at before it is opened: to open a FIFO would wait for its other end.
        if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(no_file());
        }
        let file = File::options()
            .read(true)
            .write(options.write)
            .create(options.create == Create::IfMissing)
            .create_new(options.create == Create::New)
            .open(&path)
            .map_err(|error| Error::io(&name, "cannot open", error))?;
        let metadata = file.metadata().map_err(|error| Error::io(&name, "cannot examine", error))?;
        if !metadata.is_file() {
            return Err(no_file());
        }
        let storage = FileStorage { name, file: Mutex::new(file), read_only: !options.write };
        options.lock.map_or(Ok(()), |mode| storage.lock(mode))?;
        Ok(storage)
    }

    fn at<T>(&self, what: &str, offset: u64, act: impl FnOnce(&mut File) -> io::Result<T>) -> Result<T> {
        let mut file = lock(&self.file);
        let result = file.seek(SeekFrom::Start(offset)).and_then(|_| act(&mut file));
        result.map_err(|error| Error::io(&self.name, format!("cannot {what} at offset {offset}"), error))
    }
}

impl Storage for FileStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> Result<u64> {
        let metadata = lock(&self.file).metadata();
        metadata.map(|metadata| metadata.len()).map_err(|error| Error::io(&self.name, "cannot tell the size", error))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.at("read", offset, |file| {
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(length) => filled += length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buffer[filled..].fill(0);
            Ok(())
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        if data.is_empty() { Ok(()) } else { self.at("write", offset, |file| file.write_all(data)) }
    }

    fn sync(&self) -> Result<()> {
        lock(&self.file).sync_data().map_err(|error| Error::io(&self.name, "cannot make durable", error))
    }

    /// Such hosts make names durable with the file, or offer no way to.
    fn sync_directory(&self) -> Result<()> {
        lock(&self.file).sync_all().map_err(|error| Error::io(&self.name, "cannot make durable", error))
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let result = lock(&self.file).set_len(size);
        result.map_err(|error| Error::io(&self.name, format!("cannot set the size to {size}"), error))
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        let (mut at, end) = (range.start, range.end.min(self.size()?));
        let zeros = vec![0; (1 << 20).min(end.saturating_sub(at) as usize)];
        while at < end {
            let length = zeros.len().min((end - at) as usize);
            self.write_at(&zeros[..length], at)?;
            at += length as u64;
        }
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.punch(range)
    }

    fn lock(&self, mode: LockMode) -> Result<()> {
        let file = lock(&self.file);
        let result = if mode == LockMode::Shared { file.try_lock_shared() } else { file.try_lock() };
        result.map_err(|error| match error {
            TryLockError::WouldBlock => Error::Locked { file: self.name.clone(), by: "another program uses it".into() },
            TryLockError::Error(error) => Error::io(&self.name, "cannot lock", error),
        })
    }

    fn read_only(&self) -> bool {
        self.read_only
    }
}

/// Opens `relative` within `directory`: neither `..`, nor an absolute path, nor a symbolic link anywhere on the way.
///
/// # Errors
/// `Denied` for a name that may lead out; else as [`FileStorage::open`].
pub fn open_beneath(directory: &Path, relative: &Path, options: &FileOptions) -> Result<FileStorage> {
    let denied = || Error::Denied(format!("{}: leads out of {}", relative.display(), directory.display()));
    let mut path = directory.to_owned();
    for component in relative.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => continue,
            _ => return Err(denied()),
        }
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
            return Err(denied());
        }
    }
    FileStorage::open(path, options)
}
