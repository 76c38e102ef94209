//! The system calls that move bytes, one call each. A call may do a part of what it is asked for, or nothing because a signal
//! came: who calls goes on with the rest ([`uninterrupted`], [`transfer`](super::transfer)).
//!
//! No host does so at will. In tests a [`reluctant`](tests::reluctant) thread does.

use rustix::fs::{FallocateFlags, copy_file_range};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Calls again until no signal comes between.
pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Reads some of `buffer`; 0 bytes at the end of the file.
pub(super) fn read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let length = taken(buffer.len())?;
    file.read_at(&mut buffer[..length], offset)
}

/// Writes some of `data`.
pub(super) fn write(file: &File, data: &[u8], offset: u64) -> io::Result<usize> {
    let length = taken(data.len())?;
    file.write_at(&data[..length], offset)
}

/// Writes some of `slices`, of which there is one at least, and of which none is empty.
pub(super) fn write_slices(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    let bytes = slices.iter().map(|slice| slice.len()).sum();
    match taken(bytes)? {
        length if length < bytes => file.write_at(&slices[0][..length.min(slices[0].len())], offset),
        _ => Ok(rustix::io::pwritev(file, slices, offset)?),
    }
}

/// Allocates, punches or zeroes all of `range`.
pub(super) fn allocate(file: &File, how: FallocateFlags, range: &Range<u64>) -> Result<(), Errno> {
    taken(0).map_err(|_| Errno::INTR)?;
    rustix::fs::fallocate(file, how, range.start, range.end - range.start)
}

/// Copies some of `length` bytes from one file to another, or shares their extents, and moves both offsets on.
pub(super) fn copy(source: &File, from: &mut u64, target: &File, to: &mut u64, length: usize) -> Result<usize, Errno> {
    let length = taken(length).map_err(|_| Errno::INTR)?;
    copy_file_range(source, Some(from), target, Some(to), length)
}

/// For how many of `length` bytes a ring is asked.
pub(super) fn asked(length: usize) -> usize {
    taken(length).unwrap_or(0)
}

/// How many of `length` bytes a call takes: all, as far as one can tell before.
#[cfg(not(test))]
fn taken(length: usize) -> io::Result<usize> {
    Ok(length)
}

#[cfg(test)]
use tests::taken;

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        /// Most bytes of one call, and whether the last one was interrupted.
        static RELUCTANT: Cell<Option<(usize, bool)>> = const { Cell::new(None) };
    }

    /// Runs `body` on a thread whose calls take at most `most` bytes, every other one of them none since a signal comes.
    pub(in super::super) fn reluctant<T>(most: usize, body: impl FnOnce() -> T) -> T {
        RELUCTANT.set(Some((most, false)));
        let result = body();
        RELUCTANT.set(None);
        result
    }

    pub(super) fn taken(length: usize) -> io::Result<usize> {
        match RELUCTANT.get() {
            None => Ok(length),
            Some((most, true)) => {
                RELUCTANT.set(Some((most, false)));
                Ok(length.min(most))
            }
            Some((most, false)) => {
                RELUCTANT.set(Some((most, true)));
                Err(io::ErrorKind::Interrupted.into())
            }
        }
    }
}
