//! Locks between processes: open file description locks on the bytes that QEMU uses, so that QEMU and LVD keep
//! each other out (`spec/chain.md`, locks).

use super::LockMode;
use crate::error::{Error, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::File;

/// A byte from here on says: somebody does this to the file.
const IN_USE: i64 = 100;
/// A byte from here on says: nobody else may do this to the file.
const UNSHARED: i64 = 200;

/// What QEMU's permission bits stand for, as byte numbers.
const READ: i64 = 0;
const WRITE: i64 = 1;
const WRITE_UNCHANGED: i64 = 2;
const RESIZE: i64 = 3;
const ALL: &[i64] = &[WRITE, READ, WRITE_UNCHANGED, RESIZE];

/// What a mode does to the file, and what it does not bear beside it.
fn claims(mode: LockMode) -> (&'static [i64], &'static [i64]) {
    match mode {
        LockMode::Shared => (&[READ], &[WRITE, RESIZE]),
        LockMode::Exclusive => (ALL, ALL),
    }
}

fn bytes(uses: &'static [i64], unshares: &'static [i64]) -> impl Iterator<Item = i64> {
    uses.iter().map(|bit| IN_USE + bit).chain(unshares.iter().map(|bit| UNSHARED + bit))
}

/// Takes the lock in place of the one `held` before, or says what is in the way and keeps that one.
pub(super) fn change(file: &File, name: &str, mode: LockMode, held: Option<LockMode>) -> Result<()> {
    let result = claim(file, name, mode);
    let keep = if result.is_ok() { Some(mode) } else { held };
    let kept: Vec<i64> = keep.map(claims).into_iter().flat_map(|(uses, unshares)| bytes(uses, unshares)).collect();
    unlock(file, bytes(ALL, ALL).filter(|byte| !kept.contains(byte)));
    result
}

/// Gives up all locks now: they would live as long as any copy of the descriptor, and a process that is just being started
/// has one.
pub(super) fn release(file: &File) {
    unlock(file, bytes(ALL, ALL));
}

fn unlock(file: &File, bytes: impl Iterator<Item = i64>) {
    for byte in bytes {
        // To unlock a byte cannot fail where locking one did not, and nothing could be done about it.
        let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&request(libc::F_UNLCK, byte)));
    }
}

/// As in QEMU: first every byte of one's own is locked for reading, then the bytes of others are looked at. Two who
/// come at once may both fail; they never both get in.
fn claim(file: &File, name: &str, mode: LockMode) -> Result<()> {
    let failed = |error: nix::Error| Error::io(name, "cannot lock", error.into());
    let (uses, unshares) = claims(mode);
    for byte in bytes(uses, unshares) {
        fcntl(file, FcntlArg::F_OFD_SETLK(&request(libc::F_RDLCK, byte))).map_err(|error| match error {
            nix::Error::EACCES | nix::Error::EAGAIN => locked(name, "another program holds it"),
            error => failed(error),
        })?;
    }
    for byte in bytes(unshares, uses) {
        let mut probe = request(libc::F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).map_err(failed)?;
        if probe.l_type != libc::F_UNLCK as libc::c_short {
            let by = match byte - IN_USE {
                WRITE => "another program writes to it",
                READ => "another program reads it",
                _ => "another program uses it",
            };
            return Err(locked(name, by));
        }
    }
    Ok(())
}

pub(super) fn locked(name: &str, by: &str) -> Error {
    Error::Locked { file: name.into(), by: by.into() }
}

fn request(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}
