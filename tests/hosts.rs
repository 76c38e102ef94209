//! Places that a test has to make first: a block device, a full file system. Skipped where that is not allowed.
#![cfg(target_os = "linux")]

use lvd::storage::{Create, FileOptions, FileStorage, Storage};
use lvd::{BlockDevice, CreateOptions, Error, Image, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Runs a command that needs privileges; nothing if it cannot be had.
fn privileged(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    if !output.status.success() {
        eprintln!("skipped: {program}: {}", String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop device over a file of random-looking bytes, gone with this.
struct Device(PathBuf);

impl Device {
    fn new(directory: &Path, size: usize) -> Option<Device> {
        let file = directory.join("device");
        std::fs::write(&file, vec![0xee; size]).unwrap();
        privileged("losetup", &["-f", "--show", file.to_str()?]).map(|path| Device(path.into()))
    }

    fn open(&self, direct: bool) -> FileStorage {
        FileStorage::open(&self.0, &FileOptions { write: true, direct, ..FileOptions::default() }).unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).output();
    }
}

/// A tmpfs of a megabyte, gone with this.
struct Small(PathBuf);

impl Small {
    fn new(directory: &Path) -> Option<Small> {
        let path = directory.join("small");
        std::fs::create_dir(&path).unwrap();
        privileged("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", path.to_str()?]).map(|_| Small(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

fn bytes(storage: &dyn Storage, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![1; length];
    storage.read_at(&mut bytes, at).unwrap();
    bytes
}

#[test]
fn a_block_device_is_a_storage() {
    const SIZE: u64 = (1 << 20) + 512;
    let directory = tempfile::tempdir().unwrap();
    let Some(device) = Device::new(directory.path(), SIZE as usize) else { return };
    for direct in [false, true] {
        let storage = device.open(direct);
        assert_eq!(storage.size().unwrap(), SIZE);
        assert!(!storage.zeros_when_new() && storage.allocated().unwrap().is_none());
        storage.write_at(&[7; 5000], 100).unwrap();
        storage.punch(8192..12_288).unwrap();
        storage.write_zeroes(12_300..12_400).unwrap();
        storage.sync().unwrap();
        assert_eq!(bytes(&storage, 100, 5000), [7; 5000]);
        assert_eq!(bytes(&storage, 8192, 4096), [0; 4096]);
        assert_eq!(bytes(&storage, 12_300, 100), [0; 100]);
        // Its end lies within a page; behind it are zeros to read, and no space to write.
        storage.write_at(&[9; 512], SIZE - 512).unwrap();
        assert_eq!(bytes(&storage, SIZE - 512, 1024), [vec![9; 512], vec![0; 512]].concat());
        storage.punch(SIZE - 512..SIZE + 4096).unwrap();
        assert_eq!(bytes(&storage, SIZE - 512, 512), [0; 512]);
        assert!(matches!(storage.write_at(&[9; 4096], SIZE), Err(Error::NoSpace { .. })));
        assert!(matches!(storage.set_size(SIZE + 1), Err(Error::NoSpace { .. })));
        storage.set_size(SIZE - 1).unwrap();
        assert_eq!(storage.next_data(0..SIZE).unwrap(), Some(0..SIZE));
        storage.write_at(&[0xee; 16_384], 0).unwrap();
    }
}

#[test]
fn an_image_on_a_block_device_reads_as_zeros() {
    let directory = tempfile::tempdir().unwrap();
    let Some(device) = Device::new(directory.path(), 4 << 20) else { return };
    let host = Arc::new(lvd::storage::OsHost::default());
    let storage: Arc<dyn Storage> = Arc::new(device.open(false));
    let options = CreateOptions { virtual_size: 1 << 20, allocation: true, ..CreateOptions::default() };
    Image::create(&*storage, &*host, &options).unwrap();
    let open = || {
        let options = OpenOptions { write: true, ..OpenOptions::default() };
        Image::open(storage.clone(), host.clone(), &options).unwrap()
    };
    let image = open();
    image.write_at(&[5; 100], 70_000).unwrap();
    image.close().unwrap();
    let mut seen = vec![1; 1 << 20];
    open().read_at(&mut seen, 0).unwrap();
    let mut expected = vec![0; 1 << 20];
    expected[70_000..70_100].fill(5);
    assert!(seen == expected);
}

#[test]
fn a_full_file_system_is_told_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let Some(small) = Small::new(directory.path()) else { return };
    let options = FileOptions { write: true, create: Create::New, ..FileOptions::default() };
    let storage = FileStorage::open(small.0.join("file"), &options).unwrap();
    storage.set_size(8 << 20).unwrap();
    // A tmpfs cannot make zeros by itself, so they are written.
    assert!(matches!(storage.write_zeroes(0..8 << 20), Err(Error::NoSpace { .. })));
    storage.punch(0..8 << 20).unwrap();
    storage.write_at(&vec![1; 64 << 10], 1 << 20).unwrap();
    assert!(matches!(storage.write_at(&vec![1; 2 << 20], 2 << 20), Err(Error::NoSpace { .. })));
    assert_eq!(bytes(&storage, 1 << 20, 64 << 10), vec![1; 64 << 10]);
    storage.sync().unwrap();
}
