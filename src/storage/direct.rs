//! Cache mode `none`: requests go past the page cache of the host, through a descriptor of their own.
//!
//! The kernel keeps the page cache and direct requests coherent only one after the other: a page that is written
//! through the cache while a neighbour of its goes to the device directly can undo that one. So whatever is written
//! through the cache waits until no direct request is under way, and holds new ones up.

use super::buffer::{ALIGNMENT, Buffer, aligned};
use super::transfer::{Piece, read_full, write_run};
use crate::sync::{RwLock, RwLockWriteGuard, read, write};
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that are moved at once through memory of one's own, where the caller's is not aligned.
const BOUNCE: usize = 1 << 20;

/// A file's second description, opened with O_DIRECT. The first one is `cached` below.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// What offsets and lengths are multiples of.
    unit: usize,
    /// Held by direct requests together, by writes through the cache alone.
    edges: RwLock<()>,
}

impl Direct {
    pub(super) fn new(file: File) -> Direct {
        let unit = unit(&file);
        Direct { file, unit, edges: RwLock::new(()) }
    }

    /// Whether `length` bytes at `offset` may go to the device.
    fn takes(&self, length: usize, offset: u64) -> bool {
        length.is_multiple_of(self.unit) && offset.is_multiple_of(self.unit as u64)
    }

    /// Waits until no direct request is under way, and holds new ones up.
    pub(super) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        write(&self.edges)
    }

    /// Fills `buffer`. What is not aligned is cut out of a larger aligned read.
    pub(super) fn read(&self, cached: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let _together = read(&self.edges);
        if self.takes(buffer.len(), offset) && aligned(buffer) {
            return self.fill(cached, buffer, offset);
        }
        let mut skip = (offset % self.unit as u64) as usize;
        let whole = |rest: &[u8], skip: usize| (skip + rest.len()).next_multiple_of(self.unit).min(BOUNCE);
        let mut bounce = Buffer::new(whole(buffer, skip));
        let (mut rest, mut at) = (buffer, offset - skip as u64);
        while !rest.is_empty() {
            let whole = whole(rest, skip);
            self.fill(cached, &mut bounce.bytes_mut()[..whole], at)?;
            let (piece, after) = rest.split_at_mut(rest.len().min(whole - skip));
            piece.copy_from_slice(&bounce.bytes()[skip..][..piece.len()]);
            (rest, at, skip) = (after, at + whole as u64, 0);
        }
        Ok(())
    }

    /// An aligned read. One that stops within a unit is at the end of the file, where not every file system takes
    /// another direct request.
    fn fill(&self, cached: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() && filled.is_multiple_of(self.unit) {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        read_full(cached, &mut buffer[filled..], offset + filled as u64)
    }

    /// Writes all of `data`, through the cache if offset or length are not aligned.
    pub(super) fn write(&self, cached: &File, data: &[u8], offset: u64) -> io::Result<()> {
        if !self.takes(data.len(), offset) {
            let _alone = self.alone();
            return cached.write_all_at(data, offset);
        }
        let _together = read(&self.edges);
        if aligned(data) {
            return self.file.write_all_at(data, offset);
        }
        let mut bounce = Buffer::new(data.len().min(BOUNCE));
        let mut at = offset;
        for piece in data.chunks(BOUNCE) {
            let copy = &mut bounce.bytes_mut()[..piece.len()];
            copy.copy_from_slice(piece);
            self.file.write_all_at(copy, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes several runs of pieces that follow each other.
    ///
    /// One run goes to the device in one request. Several are pages of metadata, scattered: one by one each would
    /// cost as much as a write of the guest, through the cache the next barrier writes them together.
    pub(super) fn write_runs<'a>(&self, cached: &File, runs: &[&'a [Piece<'a>]]) -> io::Result<()> {
        if let [run] = runs {
            let length = run.iter().map(|(_, data)| data.len()).sum();
            if self.takes(length, run[0].0) {
                return self.gather(run, length);
            }
        }
        let _alone = self.alone();
        runs.iter().try_for_each(|run| write_run(cached, run))
    }

    fn gather(&self, run: &[Piece<'_>], length: usize) -> io::Result<()> {
        let mut bounce = Buffer::new(length);
        let mut rest = bounce.bytes_mut();
        for (_, data) in run {
            let (copy, after) = rest.split_at_mut(data.len());
            copy.copy_from_slice(data);
            rest = after;
        }
        let _together = read(&self.edges);
        self.file.write_all_at(bounce.bytes(), run[0].0)
    }
}

/// The logical sector where the host tells it, else what suits every device.
fn unit(file: &File) -> usize {
    let told = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).map_or(0, |told| told.stx_dio_offset_align);
    if told.is_power_of_two() { (told as usize).min(ALIGNMENT) } else { ALIGNMENT }
}
