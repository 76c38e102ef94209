//! Files and block devices of Linux.

use super::buffer::{Buffer, aligned, aligned_range};
use super::{Create, FileId, FileOptions, LockMode, Storage, lock};
use crate::error::{Error, Result};
use crate::sync::{RwLock, read, write};
use rustix::fs::{FallocateFlags, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Zeros that are written at once where the host cannot punch.
const ZEROS: usize = 1 << 20;

/// A regular file or a block device.
///
/// In cache mode `none` aligned requests use a second descriptor with O_DIRECT; others go through the page cache
/// while no direct request is under way, because the kernel keeps the two coherent only one after the other.
#[derive(Debug)]
pub struct FileStorage {
    name: String,
    path: PathBuf,
    file: File,
    direct: Option<File>,
    edges: RwLock<()>,
    device: bool,
    read_only: bool,
    id: FileId,
}

impl FileStorage {
    /// Opens `path`, following symbolic links as the host does.
    ///
    /// # Errors
    /// `Io`; `Invalid` for what is neither a regular file nor a block device; `Locked`.
    pub fn open(path: impl AsRef<Path>, options: &FileOptions) -> Result<FileStorage> {
        let path = path.as_ref();
        let name = path.display().to_string();
        // O_NONBLOCK: opening a FIFO must not wait for its other end.
        let file = File::options()
            .read(true)
            .write(options.write)
            .create(options.create == Create::IfMissing)
            .create_new(options.create == Create::New)
            .custom_flags((OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32)
            .open(path)
            .map_err(|error| Error::io(&name, "cannot open", error))?;
        FileStorage::adopt(name, path.to_owned(), file, options)
    }

    fn adopt(name: String, path: PathBuf, file: File, options: &FileOptions) -> Result<FileStorage> {
        let metadata = file.metadata().map_err(|error| Error::io(&name, "cannot examine", error))?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = if kind.is_dir() { "a directory" } else { "neither a file nor a block device" };
            return Err(Error::Invalid(format!("{name}: {what}")));
        }
        if let Some(mode) = options.lock {
            lock::lock(&file, &name, mode)?;
        }
        let direct = if options.direct { Some(reopen_direct(&name, &file, options.write)?) } else { None };
        let id =
            if kind.is_block_device() { (u64::MAX - 1, metadata.rdev()) } else { (metadata.dev(), metadata.ino()) };
        let (device, read_only) = (kind.is_block_device(), !options.write);
        Ok(FileStorage { name, path, file, direct, edges: RwLock::new(()), device, read_only, id })
    }

    fn failed(&self, what: &str, offset: u64, error: io::Error) -> Error {
        Error::io(&self.name, format!("cannot {what} at offset {offset}"), error)
    }

    fn write_through(&self, file: &File, data: &[u8], offset: u64) -> Result<()> {
        file.write_all_at(data, offset).map_err(|error| self.failed("write", offset, error))
    }

    /// Reads until the buffer is full or the file ends; zeros follow.
    fn read_through(&self, file: &File, mut buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut at = offset;
        while !buffer.is_empty() {
            match file.read_at(buffer, at) {
                Ok(0) => {
                    buffer.fill(0);
                    break;
                }
                Ok(length) => {
                    buffer = &mut buffer[length..];
                    at += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read", at, error)),
            }
        }
        Ok(())
    }

    /// Cuts `range` at the end of the file; `None` if nothing is left.
    fn within(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let end = range.end.min(self.size()?);
        Ok((range.start < end).then_some(range.start..end))
    }

    /// Lets the host make zeros, or writes them where it cannot.
    fn make_zeros(&self, range: Range<u64>, how: FallocateFlags) -> Result<()> {
        let Some(range) = self.within(range)? else { return Ok(()) };
        let _alone = self.direct.is_some().then(|| write(&self.edges));
        let flags = how | FallocateFlags::KEEP_SIZE;
        loop {
            return match rustix::fs::fallocate(&self.file, flags, range.start, range.end - range.start) {
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
            self.write_through(&self.file, &zeros[..length], at)?;
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
        let Some(direct) = self.direct.as_ref().filter(|_| aligned_range(buffer.len(), offset)) else {
            let _alone = self.direct.is_some().then(|| write(&self.edges));
            return self.read_through(&self.file, buffer, offset);
        };
        let _together = read(&self.edges);
        if aligned(buffer, offset) {
            return self.read_through(direct, buffer, offset);
        }
        let mut bounce = Buffer::new(buffer.len());
        self.read_through(direct, bounce.bytes_mut(), offset)?;
        buffer.copy_from_slice(bounce.bytes());
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let Some(direct) = self.direct.as_ref().filter(|_| aligned_range(data.len(), offset)) else {
            let _alone = self.direct.is_some().then(|| write(&self.edges));
            return self.write_through(&self.file, data, offset);
        };
        let _together = read(&self.edges);
        if aligned(data, offset) {
            return self.write_through(direct, data, offset);
        }
        let mut bounce = Buffer::new(data.len());
        bounce.bytes_mut().copy_from_slice(data);
        self.write_through(direct, bounce.bytes(), offset)
    }

    /// Pieces that follow each other become one write.
    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let mut rest = pieces;
        while let Some(&(offset, first)) = rest.first() {
            let mut end = offset + first.len() as u64;
            let follows = |(at, data): &&(u64, &[u8])| {
                let next = *at == end;
                end += data.len() as u64;
                next
            };
            let run = 1 + rest[1..].iter().take_while(follows).count();
            match run {
                1 => self.write_at(first, offset)?,
                _ => self.write_at(&rest[..run].iter().map(|(_, data)| *data).collect::<Vec<_>>().concat(), offset)?,
            }
            rest = &rest[run..];
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io(&self.name, "cannot make durable", error))
    }

    fn sync_directory(&self) -> Result<()> {
        if self.device {
            return Ok(());
        }
        let directory = match self.path.parent() {
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
        let Some(start) = self.seek(SeekFrom::Data(range.start), range.start)? else { return Ok(None) };
        if start >= range.end {
            return Ok(None);
        }
        let end = self.seek(SeekFrom::Hole(start), start)?.unwrap_or(range.end);
        Ok(Some(start..end.min(range.end)))
    }

    fn lock(&self, mode: LockMode) -> Result<()> {
        lock::lock(&self.file, &self.name, mode)
    }

    fn id(&self) -> Option<FileId> {
        Some(self.id)
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

/// Another description of the same file, whatever its name now leads to.
fn reopen_direct(name: &str, file: &File, write: bool) -> Result<File> {
    let direct = File::options()
        .read(true)
        .write(write)
        .custom_flags((OFlags::DIRECT | OFlags::CLOEXEC).bits() as i32)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    direct.map_err(|error| Error::io(name, "the host does not allow direct I/O (cache mode none)", error))
}

/// Opens `relative` within `directory`: neither `..`, nor an absolute path, nor a symbolic link leads out of it.
///
/// # Errors
/// `Denied` for a name that leads out; else as [`FileStorage::open`].
pub fn open_beneath(directory: &Path, relative: &Path, options: &FileOptions) -> Result<FileStorage> {
    let path = directory.join(relative);
    let name = path.display().to_string();
    let failed = |error: io::Error| Error::io(&name, "cannot open", error);
    let start = File::open(directory).map_err(failed)?;
    let access = if options.write { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&start, relative, flags, Mode::empty(), resolve) {
        Ok(file) => FileStorage::adopt(name, path, File::from(file), options),
        Err(Errno::XDEV) => Err(Error::Denied(format!("{name}: leads out of {}", directory.display()))),
        Err(error) => Err(failed(error.into())),
    }
}
