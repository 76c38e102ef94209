//! Whole transfers: short ones go on, interrupted ones begin again.

use super::ring::Rings;
use rustix::io::{Errno, pwritev};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

/// An offset of the file, and what is to be written there.
pub(super) type Piece<'a> = (u64, &'a [u8]);

/// Most pieces that one system call takes (IOV_MAX).
const PIECES: usize = 1024;
/// Most bytes that one system call writes through the host's cache. The cache keeps what is written together in one folio,
/// and ext4 (Linux 6.18) walks all blocks of a folio whenever one of them is written: of a file of 1 GiB that was written
/// 1 MiB at a time, 4 KiB at random take 12 µs; 128 KiB at a time, 4.5 µs; 32 KiB at a time, 3 µs. The file itself is written
/// at 3.9, 3.6 and 2.2 GiB/s: faster than disks are, still.
const MOST_CACHED: usize = 32 << 10;

/// Reads until the buffer is full or the file ends; zeros follow.
pub(super) fn read_full(file: &File, mut buffer: &mut [u8], offset: u64) -> io::Result<()> {
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
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills several buffers at once, where the host can. What was not filled whole is left to `alone`: it may end with the
/// file.
pub(super) fn read_together(
    rings: &Rings,
    file: &File,
    pieces: &mut [(u64, &mut [u8])],
    alone: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let filled = if pieces.len() > 1 { rings.read(file, pieces) } else { None };
    let filled = filled.unwrap_or_else(|| vec![false; pieces.len()]);
    let mut rest = pieces.iter_mut().zip(filled).filter(|(_, filled)| !filled);
    rest.try_for_each(|((offset, buffer), _)| alone(buffer, *offset))
}

/// The longest runs of pieces that follow each other.
pub(super) fn runs<'a, 'b>(pieces: &'b [Piece<'a>]) -> impl Iterator<Item = &'b [Piece<'a>]> {
    pieces.chunk_by(|(at, data), (next, _)| at.checked_add(data.len() as u64) == Some(*next))
}

/// Writes through the host's cache. See [`MOST_CACHED`].
pub(super) fn write_cached(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    let mut at = offset;
    for piece in data.chunks(MOST_CACHED) {
        file.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Writes pieces that follow each other through the host's cache, in as few requests as it takes and [`MOST_CACHED`] allows.
pub(super) fn write_run(file: &File, run: &[Piece<'_>]) -> io::Result<()> {
    if let [(offset, data)] = run {
        return write_cached(file, data, *offset);
    }
    let mut at = run.first().map_or(0, |(offset, _)| *offset);
    let mut slices: Vec<IoSlice<'_>> =
        run.iter().flat_map(|(_, data)| data.chunks(MOST_CACHED)).map(IoSlice::new).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match pwritev(file, &rest[..together(rest)], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => {
                IoSlice::advance_slices(&mut rest, length);
                at += length as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// How many slices one request takes: at least one.
fn together(slices: &[IoSlice<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |slice: &&IoSlice<'_>| {
        bytes += slice.len();
        bytes <= MOST_CACHED
    };
    slices.iter().take(PIECES).take_while(fits).count().max(1)
}
