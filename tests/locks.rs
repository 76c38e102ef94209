//! LVD's locks beside those of QEMU: each keeps the other out of what it writes, and both read together.
#![cfg(target_os = "linux")]

use lvd::Error;
use lvd::storage::{FileOptions, FileStorage, LockMode, Storage};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

fn qemu_io(path: &Path, read_only: bool) -> Command {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]).args(read_only.then_some("-r")).arg(path);
    command
}

/// Whether qemu-io is there. Without it these tests say so, and fail if `LVD_REQUIRE_PEERS` is set.
fn peer() -> bool {
    let found = Command::new("qemu-io").arg("--version").output().is_ok();
    assert!(found || std::env::var_os("LVD_REQUIRE_PEERS").is_none(), "qemu-io is missing");
    if !found {
        eprintln!("skipped: no qemu-io");
    }
    found
}

fn image(directory: &tempfile::TempDir) -> PathBuf {
    let path = directory.path().join("disk.raw");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    path
}

fn open(path: &Path, mode: LockMode) -> lvd::Result<FileStorage> {
    let write = mode == LockMode::Exclusive;
    FileStorage::open(path, &FileOptions { write, lock: Some(mode), ..FileOptions::default() })
}

/// Whether qemu-io gets at the file.
fn qemu_may(path: &Path, write: bool) -> bool {
    let request = if write { "write 0 512" } else { "read 0 512" };
    let output = qemu_io(path, !write).args(["-c", request]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("lock"), "{said}");
    output.status.success()
}

/// A qemu-io that has the file open until it is dropped.
struct Held(Child);

impl Held {
    fn new(path: &Path, read_only: bool) -> Held {
        let mut child = qemu_io(path, read_only).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Its answer tells that it has opened the file.
        child.stdin.as_mut().unwrap().write_all(b"read 0 512\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("read 512/512"), "{line}");
        Held(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn qemu_is_kept_out() {
    if !peer() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory);
    let writer = open(&path, LockMode::Exclusive).unwrap();
    assert!(!qemu_may(&path, true) && !qemu_may(&path, false));
    writer.lock(LockMode::Shared).unwrap();
    assert!(!qemu_may(&path, true) && qemu_may(&path, false));
    drop(writer);
    assert!(qemu_may(&path, true));
}

#[test]
fn qemu_keeps_us_out() {
    if !peer() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory);
    let by = |result: lvd::Result<FileStorage>| match result {
        Err(Error::Locked { by, .. }) => by,
        other => panic!("{other:?}"),
    };
    let writer = Held::new(&path, false);
    assert!(by(open(&path, LockMode::Exclusive)).contains("writes"));
    assert!(by(open(&path, LockMode::Shared)).contains("writes"));
    drop(writer);
    let reader = Held::new(&path, true);
    assert!(by(open(&path, LockMode::Exclusive)).contains("reads"));
    let shared = open(&path, LockMode::Shared).unwrap();
    assert!(matches!(shared.lock(LockMode::Exclusive), Err(Error::Locked { .. })));
    drop(reader);
    shared.lock(LockMode::Exclusive).unwrap();
}

/// A program opened a file, closed it and started another program on it, which said that somebody reads the file: a third
/// program was being started by another thread, and until it ran it had all files of the first, locks included.
#[test]
fn a_lock_ends_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let tries: Vec<_> = (0..2000).map(|_| open(&path, LockMode::Exclusive).map(drop)).collect();
        stop.store(true, Ordering::Relaxed);
        let failed = tries.iter().filter(|opened| opened.is_err()).count();
        assert_eq!(failed, 0, "{:?}", tries.into_iter().find(Result::is_err));
    });
}
