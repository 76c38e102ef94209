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

/// What a mode does to the file, and what it does not bear beside it.
fn claims(mode: LockMode) -> (&'static [i64], &'static [i64]) {
    match mode {
        LockMode::Shared => (&[READ], &[WRITE, RESIZE]),
        LockMode::Exclusive => (&[READ, WRITE, WRITE_UNCHANGED, RESIZE], &[READ, WRITE, WRITE_UNCHANGED, RESIZE]),
    }
}

/// Takes the lock, or says who seems to be in the way.
///
/// As in QEMU: first every byte of one's own is locked for reading, then the bytes of others are looked at. Two who
/// come at once may both fail; they never both get in.
pub(super) fn lock(file: &File, name: &str, mode: LockMode) -> Result<()> {
    let (uses, unshares) = claims(mode);
    let own = uses.iter().map(|bit| IN_USE + bit).chain(unshares.iter().map(|bit| UNSHARED + bit));
    for byte in own {
        fcntl(file, FcntlArg::F_OFD_SETLK(&request(libc::F_RDLCK, byte))).map_err(|error| match error {
            nix::Error::EACCES | nix::Error::EAGAIN => locked(name, "another program holds it"),
            error => Error::io(name, "cannot lock", error.into()),
        })?;
    }
    let others = uses.iter().map(|bit| UNSHARED + bit).chain(unshares.iter().map(|bit| IN_USE + bit));
    for byte in others {
        let mut probe = request(libc::F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).map_err(|error| Error::io(name, "cannot lock", error.into()))?;
        if probe.l_type != libc::F_UNLCK as libc::c_short {
            release(file, mode);
            let by = if byte == IN_USE + WRITE { "another program writes to it" } else { "another program uses it" };
            return Err(locked(name, by));
        }
    }
    Ok(())
}

/// Lets go of everything: who is refused does not go on with the file.
fn release(file: &File, mode: LockMode) {
    let (uses, unshares) = claims(mode);
    for byte in uses.iter().map(|bit| IN_USE + bit).chain(unshares.iter().map(|bit| UNSHARED + bit)) {
        // Unlocking cannot fail on bytes of one's own; the file closes soon anyway.
        let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&request(libc::F_UNLCK, byte)));
    }
}

fn locked(name: &str, by: &str) -> Error {
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
