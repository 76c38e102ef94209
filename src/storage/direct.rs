//! Cache mode `none`: requests go past the page cache of the host, through a descriptor of their own.
//!
//! The kernel keeps the page cache and direct requests coherent only one after the other: a page that is written
//! through the cache while a neighbour of its goes to the device directly can undo that one. So whatever is written
//! through the cache waits until no direct request is under way, and holds new ones up.

use super::buffer::{ALIGNMENT, Buffer};
use super::ring::Rings;
use super::transfer::{Piece, read_full, read_together, read_units, write_all, write_run};
use crate::sync::{RwLock, RwLockWriteGuard, read, write};
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::fs::File;
use std::io;

/// Bytes that are moved at once through memory of one's own, where the caller's is not aligned.
const BOUNCE: usize = 1 << 20;

/// A file's second description, opened with O_DIRECT. The first one is `cached` below.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// What offsets and lengths are multiples of.
    unit: usize,
    /// What addresses of memory are multiples of.
    memory: usize,
    rings: Rings,
    /// Held by direct requests together, by writes through the cache alone.
    edges: RwLock<()>,
}

impl Direct {
    pub(super) fn new(file: File) -> Direct {
        let (unit, memory) = alignments(&file);
        Direct { file, unit, memory, rings: Rings::default(), edges: RwLock::new(()) }
    }

    /// Whether the memory of `bytes` may be handed to the device.
    fn aligned(&self, bytes: &[u8]) -> bool {
        (bytes.as_ptr() as usize).is_multiple_of(self.memory)
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
        if self.takes(buffer.len(), offset) && self.aligned(buffer) {
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
        let filled = read_units(&self.file, buffer, offset, self.unit)?;
        read_full(cached, &mut buffer[filled..], offset + filled as u64)
    }

    /// Writes all of `data`, through the cache if offset or length are not aligned.
    pub(super) fn write(&self, cached: &File, data: &[u8], offset: u64) -> io::Result<()> {
        if !self.takes(data.len(), offset) {
            let _alone = self.alone();
            return write_all(cached, data, offset);
        }
        let _together = read(&self.edges);
        if self.aligned(data) {
            return write_all(&self.file, data, offset);
        }
        let mut bounce = Buffer::new(data.len().min(BOUNCE));
        let mut at = offset;
        for piece in data.chunks(BOUNCE) {
            let copy = &mut bounce.bytes_mut()[..piece.len()];
            copy.copy_from_slice(piece);
            write_all(&self.file, copy, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Fills several buffers, at once where the host can.
    pub(super) fn read_batch(&self, cached: &File, pieces: &mut [(u64, &mut [u8])]) -> io::Result<()> {
        let mut bounces: Vec<Option<Buffer>> = Vec::with_capacity(pieces.len());
        let takes = |(offset, buffer): &&mut (u64, &mut [u8])| self.takes(buffer.len(), *offset);
        let (mut whole, odd): (Vec<_>, Vec<_>) = pieces.iter_mut().partition(takes);
        bounces.extend(whole.iter().map(|(_, buffer)| (!self.aligned(buffer)).then(|| Buffer::new(buffer.len()))));
        let mut aligned: Vec<(u64, &mut [u8])> = whole
            .iter_mut()
            .zip(&mut bounces)
            .map(|((offset, buffer), bounce)| (*offset, bounce.as_mut().map_or(&mut **buffer, Buffer::bytes_mut)))
            .collect();
        self.fill_batch(cached, &mut aligned)?;
        for ((_, buffer), bounce) in whole.iter_mut().zip(&bounces) {
            bounce.iter().for_each(|bounce| buffer.copy_from_slice(bounce.bytes()));
        }
        odd.into_iter().try_for_each(|(offset, buffer)| self.read(cached, buffer, *offset))
    }

    /// Aligned reads.
    fn fill_batch(&self, cached: &File, pieces: &mut [(u64, &mut [u8])]) -> io::Result<()> {
        let _together = read(&self.edges);
        read_together(&self.rings, &self.file, pieces, |buffer, offset| self.fill(cached, buffer, offset))
    }

    /// Writes several runs of pieces that follow each other, at once where the host can.
    pub(super) fn write_runs<'a>(&self, cached: &File, runs: impl Iterator<Item = &'a [Piece<'a>]>) -> io::Result<()> {
        let (whole, odd): (Vec<_>, Vec<_>) = runs.partition(|run| self.takes(length(run), run[0].0));
        let gathered: Vec<Option<Buffer>> = whole.iter().map(|run| self.gathered(run)).collect();
        let pieces: Vec<Piece<'_>> = whole
            .iter()
            .zip(&gathered)
            .map(|(run, gathered)| (run[0].0, gathered.as_ref().map_or(run[0].1, Buffer::bytes)))
            .collect();
        self.write_batch(&pieces)?;
        if odd.is_empty() {
            return Ok(());
        }
        let _alone = self.alone();
        odd.iter().try_for_each(|run| write_run(cached, run))
    }

    /// The bytes of a run in memory that the device takes, unless they are that already.
    fn gathered(&self, run: &[Piece<'_>]) -> Option<Buffer> {
        if run.len() == 1 && self.aligned(run[0].1) {
            return None;
        }
        let mut bounce = Buffer::new(length(run));
        let mut rest = bounce.bytes_mut();
        for (_, data) in run {
            let (copy, after) = rest.split_at_mut(data.len());
            copy.copy_from_slice(data);
            rest = after;
        }
        Some(bounce)
    }

    /// Aligned writes. What the ring did not write whole is written again.
    fn write_batch(&self, pieces: &[Piece<'_>]) -> io::Result<()> {
        let _together = read(&self.edges);
        let written = if pieces.len() > 1 { self.rings.write(&self.file, pieces) } else { None };
        let written = written.unwrap_or_else(|| vec![false; pieces.len()]);
        let mut rest = pieces.iter().zip(written).filter(|(_, written)| !written);
        rest.try_for_each(|((offset, data), _)| write_all(&self.file, data, *offset))
    }
}

/// Bytes of a run.
fn length(run: &[Piece<'_>]) -> usize {
    run.iter().map(|(_, data)| data.len()).sum()
}

/// What offsets and lengths, and what addresses are multiples of: as the host tells, else what suits every device.
fn alignments(file: &File) -> (usize, usize) {
    let told = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let told = told.map_or((0, 0), |told| (told.stx_dio_offset_align, told.stx_dio_mem_align));
    let usable = |told: u32| if told.is_power_of_two() { (told as usize).min(ALIGNMENT) } else { ALIGNMENT };
    (usable(told.0), usable(told.1))
}
