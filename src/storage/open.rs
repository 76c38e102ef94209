//! Opening files: nothing is opened that could wait, act or be mistaken for a disk.

use super::file::{FileStorage, identity};
use super::{Create, FileOptions, Storage};
use crate::error::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fcntl_setfl, fstatfs, openat, openat2};
use rustix::io::Errno;
use std::fs::{File, FileType, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path};

/// File systems whose files the kernel makes up while they are read: proc, sysfs, debugfs, tracefs, securityfs, selinuxfs,
/// configfs, both cgroup file systems, bpf, efivarfs and pstore (`linux/magic.h`).
const MADE_UP: [u64; 12] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xf97c_ff8c,
    0x6265_6570,
    0x0027_e0eb,
    0x6367_7270,
    0xcafe_4a11,
    0xde5e_81e4,
    0x6165_676c,
];

impl FileStorage {
    /// Opens `path`, following symbolic links as the host does.
    ///
    /// # Errors
    /// `Io`; `Invalid` for what is neither a regular file nor a block device; `Locked`.
    pub fn open(path: impl AsRef<Path>, options: &FileOptions) -> Result<FileStorage> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let action = if options.create == Create::New { "cannot create" } else { "cannot open" };
        // Looked at before it is opened: to open a device can be an act, as with a watchdog or a tape.
        match std::fs::metadata(path) {
            Ok(metadata) => check_kind(&name, metadata.file_type())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && options.create != Create::No => {}
            Err(error) => return Err(Error::io(&name, action, error)),
        }
        // O_NONBLOCK: should a FIFO have taken its place, opening must not wait for the other end.
        let file = File::options()
            .read(true)
            .write(options.write)
            .create(options.create == Create::IfMissing)
            .create_new(options.create == Create::New)
            .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits() as i32)
            .open(path)
            .map_err(|error| Error::io(&name, action, error))?;
        let made = if options.create == Create::New { file.metadata().ok() } else { None };
        let opened = adopt(name, path, file, options);
        if let (Err(_), Some(made)) = (&opened, made)
            && std::fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == identity(&made))
        {
            // It was made a moment ago, and nobody asked for an empty file. One that has taken its place is somebody's.
            let _ = std::fs::remove_file(path);
        }
        opened
    }
}

/// Opens `relative` within `directory`: neither `..`, nor an absolute path, nor a symbolic link leads out of it.
///
/// # Errors
/// `Denied` for a name that leads out; else as [`FileStorage::open`].
pub fn open_beneath(directory: &Path, relative: &Path, options: &FileOptions) -> Result<FileStorage> {
    let path = directory.join(relative);
    let name = path.display().to_string();
    let failed = |error: io::Error| Error::io(&name, "cannot open", error);
    // O_DIRECTORY: a FIFO in its place would be waited at.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let start = openat(CWD, directory, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let open = |flags| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = match openat2(&start, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Linux before 5.6, or a sandbox.
            Err(Errno::NOSYS) => walk(start.as_fd(), relative, flags | OFlags::CLOEXEC),
            opened => opened,
        };
        opened.map(File::from).map_err(|error| match error {
            Errno::XDEV => Error::Denied(format!("{name}: leads out of {}", directory.display())),
            error => failed(error.into()),
        })
    };
    // As above: first only looked at.
    let place = open(OFlags::PATH)?;
    check_kind(&name, examine(&name, &place)?.file_type())?;
    let access = if options.write { OFlags::RDWR } else { OFlags::RDONLY };
    let file = open(access | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    adopt(name.clone(), &path, file, options)
}

/// Opens `relative` name by name and follows no symbolic link at all, where the kernel cannot confine them.
fn walk(start: BorrowedFd<'_>, relative: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let names = relative.components().map(|component| match component {
        Component::Normal(name) => Ok(name),
        _ => Err(Errno::XDEV),
    });
    let mut names = names.collect::<rustix::io::Result<Vec<_>>>()?;
    let last = names.pop().ok_or(Errno::ISDIR)?;
    let mut place: Option<OwnedFd> = None;
    let step = |place: &Option<OwnedFd>, name, flags| {
        let place = place.as_ref().map_or(start, |place| place.as_fd());
        openat(place, name, flags | OFlags::NOFOLLOW, Mode::empty())
    };
    for name in names {
        place = Some(step(&place, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?);
    }
    step(&place, last, flags)
}

/// Makes a storage of an open file.
fn adopt(name: String, path: &Path, file: File, options: &FileOptions) -> Result<FileStorage> {
    let metadata = examine(&name, &file)?;
    check_kind(&name, metadata.file_type())?;
    check_home(&name, &file, metadata.file_type())?;
    fcntl_setfl(&file, OFlags::empty()).map_err(|error| Error::io(&name, "cannot open", error.into()))?;
    let direct = if options.direct { Some(reopen_direct(&name, &file, options.write)?) } else { None };
    let storage = FileStorage::new(name, path.to_owned(), file, direct, &metadata, !options.write);
    options.lock.map_or(Ok(()), |mode| storage.lock(mode))?;
    Ok(storage)
}

fn examine(name: &str, file: &File) -> Result<Metadata> {
    file.metadata().map_err(|error| Error::io(name, "cannot examine", error))
}

/// Lets regular files and block devices pass.
fn check_kind(name: &str, kind: FileType) -> Result<()> {
    let what = match kind {
        kind if kind.is_file() || kind.is_block_device() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() => "a character device",
        _ => "neither a file nor a block device",
    };
    Err(Error::Invalid(format!("{name}: {what}, not a disk")))
}

/// Lets pass what lies on a file system that stores files. To read what the kernel makes up can be an act, or wait for ever,
/// as with `/proc/kmsg`.
fn check_home(name: &str, file: &File, kind: FileType) -> Result<()> {
    let home = fstatfs(file).map_err(|error| Error::io(name, "cannot examine", error.into()))?;
    match kind.is_file() && MADE_UP.contains(&(home.f_type as u64 & 0xffff_ffff)) {
        true => Err(Error::Invalid(format!("{name}: made up by the kernel, not a disk"))),
        false => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_follows_no_link_and_never_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("images");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(directory.path().join("secret"), b"secret").unwrap();
        std::fs::write(root.join("sub/base"), b"base").unwrap();
        std::os::unix::fs::symlink("sub", root.join("link")).unwrap();
        std::os::unix::fs::symlink("sub/base", root.join("short")).unwrap();
        let start = File::open(&root).unwrap();
        let open = |name: &str| walk(start.as_fd(), Path::new(name), OFlags::RDONLY);
        let file = File::from(open("sub/./base").unwrap());
        assert_eq!(file.metadata().unwrap().len(), 4);
        for name in ["../secret", "/etc/passwd", "sub/../../secret", "link/base", "short", "missing", ""] {
            assert!(open(name).is_err(), "{name}");
        }
    }
}
