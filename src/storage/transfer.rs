//! Whole transfers: short ones go on, interrupted ones begin again.

use super::calls::{self, uninterrupted};
use super::ring::Rings;
use std::fs::File;
use std::io::{self, IoSlice};

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
pub(super) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let filled = read_units(file, buffer, offset, 1)?;
    buffer[filled..].fill(0);
    Ok(())
}

/// Reads until the buffer is full, the file ends, or a read has stopped within a unit. How many bytes were read.
pub(super) fn read_units(file: &File, buffer: &mut [u8], offset: u64, unit: usize) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() && filled.is_multiple_of(unit) {
        match uninterrupted(|| calls::read(file, &mut buffer[filled..], offset + filled as u64))? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

/// Writes all of `data` in as few requests as it takes.
pub(super) fn write_all(file: &File, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match uninterrupted(|| calls::write(file, data, offset))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            length => {
                data = &data[length..];
                offset += length as u64;
            }
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
        write_all(file, piece, at)?;
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
        match uninterrupted(|| calls::write_slices(file, &rest[..together(rest)], at))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            length => {
                IoSlice::advance_slices(&mut rest, length);
                at += length as u64;
            }
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
