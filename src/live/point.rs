//! A disk as it was at one instant, while its guest goes on (copy-before-write).
//!
//! What the guest is about to change is copied to the *store* first. Whoever reads the disk of that instant gets from the
//! store what lies there, and the rest from the disk itself, which has not changed there. Who copies, and who reads from the
//! disk, holds the granules meanwhile: a change waits for them, since it finds its granules not kept yet (ORD-98).

use super::disk::Disk;
use crate::chain::Layer;
use crate::device::{BlockDevice, Extent};
use crate::error::{Error, Result};
use crate::jobs::{Backup, Work};
use crate::range_lock::RangeLocks;
use crate::switch::{Mistake, planted};
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use bitvec::vec::BitVec;
use std::ops::Range;

/// Bytes that are copied or read while their granules are held: a request of the guest that meets them waits so long.
const PIECE: u64 = 1 << 20;
/// The same where only extents are looked up.
const LOOK: u64 = 64 << 20;
/// A disk as it was when this was made: a device that only reads.
#[derive(Debug)]
pub struct PointInTime {
    backup: Backup,
    source: Arc<dyn BlockDevice>,
    store: Arc<dyn BlockDevice>,
    /// Whether the store is on another machine.
    far: bool,
    size: u64,
    granule: u64,
    /// What changed up to the instant, by the bitmap of this name: one bit a granule.
    dirty: Option<(String, BitVec<u64>)>,
    state: Mutex<State>,
    /// Held by whoever copies granules to the store, or reads them from the disk.
    granules: RangeLocks,
}

#[derive(Debug)]
struct State {
    /// Granules that the store has.
    kept: BitVec<u64>,
    /// Bytes that were copied before a write of the guest.
    before: u64,
    /// Why it is lost.
    broken: Option<Broken>,
}

#[derive(Debug)]
struct Broken {
    text: String,
    /// Until the one who asks first has taken it.
    cause: Option<Error>,
}

impl PointInTime {
    /// Of the disk as it is now, and held still. `backup` copies granules of `granularity` bytes, raised to those that it is
    /// made for, to the `store`; what it does not want that one has already, if it is `complete` then.
    pub(super) fn new(
        backup: Backup,
        source: Arc<dyn BlockDevice>,
        store: &Layer,
        granularity: u64,
        complete: bool,
        dirty: Option<String>,
    ) -> Result<PointInTime> {
        let size = source.size();
        let granule = backup.granule()?.max(granularity);
        let count = size.div_ceil(granule) as usize;
        let mut wanted = BitVec::repeat(false, count);
        for range in backup.wanted(0..size)? {
            wanted[(range.start / granule) as usize..range.end.div_ceil(granule) as usize].fill(true);
        }
        let kept = if complete { !wanted.clone() } else { BitVec::repeat(false, count) };
        let state = Mutex::new(State { kept, before: 0, broken: None });
        let dirty = dirty.map(|name| (name, wanted));
        let (store, far, granules) = (store.device(), store.is_far(), RangeLocks::default());
        Ok(PointInTime { backup, source, store, far, size, granule, dirty, state, granules })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn backup(&self) -> &Backup {
        &self.backup
    }

    /// Bytes that writes of the guest had copied first.
    #[must_use]
    pub fn copied_before(&self) -> u64 {
        self.state().before
    }

    /// The granules that `range` touches; what lies past the end has none.
    fn granules_of(&self, range: &Range<u64>) -> Range<usize> {
        let end = range.end.min(self.size);
        if range.start >= end {
            0..0
        } else {
            (range.start / self.granule) as usize..end.div_ceil(self.granule) as usize
        }
    }

    fn bytes(&self, granules: &Range<usize>) -> Range<u64> {
        granules.start as u64 * self.granule..(granules.end as u64 * self.granule).min(self.size)
    }

    /// Pieces of `granules`, each of about `length` bytes.
    fn pieces(&self, granules: Range<usize>, length: u64) -> impl Iterator<Item = Range<usize>> {
        let stride = (length / self.granule).max(1) as usize;
        let end = granules.end;
        granules.step_by(stride).map(move |start| start..end.min(start + stride))
    }

    /// Whether another machine gets something before `range` may change.
    pub(super) fn asks_far(&self, range: &Range<u64>) -> bool {
        self.far && !self.state().kept[self.granules_of(range)].all()
    }

    /// The store has what is about to change in `range`, or the point is lost: the guest goes on in any case.
    pub(super) fn before(&self, range: &Range<u64>) {
        let granules = self.granules_of(range);
        for piece in self.pieces(granules, PIECE) {
            {
                let state = self.state();
                if state.broken.is_some() {
                    return;
                }
                if state.kept[piece.clone()].all() {
                    continue;
                }
            }
            match self.keep(&piece) {
                Ok(copied) => self.state().before += copied,
                Err(error) => self.lose(error),
            }
        }
    }

    /// Copies to the store what of `granules` it does not have. Returns the bytes that were read.
    fn keep(&self, granules: &Range<usize>) -> Result<u64> {
        let _held = self.granules.lock(self.bytes(granules));
        let missing = missing(&self.state().kept, granules);
        let mut copied = 0;
        for run in missing {
            if planted(Mistake::KeptBeforeCopied) {
                self.state().kept[run.clone()].fill(true);
            }
            copied += self.backup.copy(self.bytes(&run))?;
            self.state().kept[run].fill(true);
        }
        Ok(copied)
    }

    fn lose(&self, error: Error) {
        self.state().broken.get_or_insert_with(|| Broken { text: error.to_string(), cause: Some(error) });
    }

    /// Whether the point is still to be had.
    ///
    /// # Errors
    /// What a copy before a write has met, at first; then `Invalid`.
    pub fn check(&self) -> Result<()> {
        match &mut self.state().broken {
            None => Ok(()),
            Some(broken) => Err(broken.cause.take().unwrap_or_else(|| {
                Error::Invalid(format!("what the disk was at that instant is lost: {}", broken.text))
            })),
        }
    }

    /// Whether the bitmap had byte `offset` dirty at the instant, and up to where, at most `end`, that is so.
    ///
    /// # Errors
    /// `Invalid` if it is not the bitmap that the point was made with.
    pub fn bitmap_run(&self, name: &str, offset: u64, end: u64) -> Result<(bool, u64)> {
        let Some((_, dirty)) = self.dirty.as_ref().filter(|(known, _)| known == name) else {
            return Err(Error::Invalid(format!("no bitmap {name:?} goes with this point in time")));
        };
        let end = end.min(self.size);
        if offset >= end {
            return Ok((false, end));
        }
        let first = (offset / self.granule) as usize;
        Ok((dirty[first], self.run(dirty, first, end)))
    }

    /// Where the run of equal bits of `bits` ends that begins at granule `first`, in bytes and at most `end`.
    fn run(&self, bits: &BitVec<u64>, first: usize, end: u64) -> u64 {
        let rest = &bits[first..end.div_ceil(self.granule) as usize];
        let length = if bits[first] { rest.first_zero() } else { rest.first_one() };
        ((first + length.unwrap_or(rest.len())) as u64 * self.granule).min(end)
    }

    /// Has `look` look at `range`, or the first part of it that lies in one place, there. Returns its end and what `look` says.
    fn at_home<T>(
        &self,
        range: Range<u64>,
        look: impl FnOnce(&dyn BlockDevice, Range<u64>) -> Result<T>,
    ) -> Result<(u64, T)> {
        let granules = self.granules_of(&range);
        let _held = (!planted(Mistake::ReadersHoldNothing)).then(|| self.granules.lock(self.bytes(&granules)));
        self.check()?;
        let (kept, end) = {
            let state = self.state();
            (state.kept[granules.start], self.run(&state.kept, granules.start, range.end))
        };
        let device = if kept { &self.store } else { &self.source };
        look(&**device, range.start..end).map(|told| (end, told))
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<u64> {
        let end = offset.checked_add(length).filter(|&end| end <= self.size);
        end.ok_or_else(|| Error::Invalid(format!("{length} bytes at {offset} lie outside the disk of {}", self.size)))
    }
}

/// The runs of clear bits of `kept` within `granules`.
fn missing(kept: &BitVec<u64>, granules: &Range<usize>) -> Vec<Range<usize>> {
    let (mut runs, mut at) = (Vec::new(), granules.start);
    while let Some(start) = kept[at..granules.end].first_zero().map(|found| at + found) {
        at = kept[start..granules.end].first_one().map_or(granules.end, |found| start + found);
        runs.push(start..at);
    }
    runs
}

impl BlockDevice for PointInTime {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let end = self.check_range(offset, buffer.len() as u64)?;
        let mut at = offset;
        while at < end {
            let piece = at..end.min(at - at % PIECE + PIECE);
            (at, ()) = self.at_home(piece, |device, range| {
                device.read_at(&mut buffer[(range.start - offset) as usize..(range.end - offset) as usize], range.start)
            })?;
        }
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        Err(read_only())
    }

    fn write_zeroes(&self, _: Range<u64>, _: bool) -> Result<()> {
        Err(read_only())
    }

    fn discard(&self, _: Range<u64>) -> Result<()> {
        Err(read_only())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Where the bytes lie is not told: they may be elsewhere when they are fetched.
    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        let end = end.min(self.size);
        if offset >= end {
            return self.source.extent(offset, end);
        }
        let piece = offset..end.min(offset.saturating_add(LOOK));
        let (_, found) = self.at_home(piece, |device, range| device.extent(range.start, range.end))?;
        Ok(Extent { place: None, ..found })
    }
}

fn read_only() -> Error {
    Error::Denied("a point in time cannot be changed".into())
}

/// A backup of a disk as it was when this was made.
#[derive(Debug)]
pub(super) struct LiveBackup {
    /// Whose guest has everything copied before it changes it.
    pub(super) point: Attached,
}

impl Work for LiveBackup {
    fn kind(&self) -> &'static str {
        "backup"
    }

    fn total(&self) -> u64 {
        self.point.size
    }

    fn alignment(&self) -> u64 {
        self.point.granule
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        let granules = self.point.granules_of(&range);
        self.point
            .pieces(granules, PIECE)
            .map(|piece| {
                self.point.check()?;
                self.point.keep(&piece)
            })
            .sum()
    }

    fn checkpoint(&self) -> Result<()> {
        self.point.backup.checkpoint()
    }

    /// Only what the point still has is a backup.
    fn finish(&self) -> Result<()> {
        self.point.check()?;
        self.point.backup.finish()
    }

    fn load(&self) -> u64 {
        self.point.disk.load()
    }
}

/// A point in time whose disk has everything copied before it changes it. When this is dropped it no longer does, and a
/// bitmap of which no use was made is as if it had never been asked for.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) point: Arc<PointInTime>,
    pub(super) disk: Arc<Disk>,
    /// The number of the job that the disk counts it as.
    pub(super) number: u64,
}

impl std::ops::Deref for Attached {
    type Target = PointInTime;

    fn deref(&self) -> &PointInTime {
        &self.point
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Whoever reads on would read what is kept no longer.
        self.point.lose(Error::Cancelled);
        // What fails here leaves a frozen bitmap, which tells of everything and is taken back by the next backup.
        let _ = self.point.backup.take_back_count();
        self.disk.detach(self.number);
    }
}

/// The disk of one instant for others to read, for as long as they need it.
#[derive(Debug)]
pub struct Pull {
    attached: Attached,
}

impl Pull {
    pub(super) fn new(attached: Attached) -> Pull {
        Pull { attached }
    }

    /// What they read. It fails once this is dropped.
    #[must_use]
    pub fn device(&self) -> Arc<PointInTime> {
        self.attached.point.clone()
    }

    /// They have all that they want, durably: the bitmap tells of what changed since the instant (BAK-02).
    ///
    /// # Errors
    /// The host's; what a copy before a write has met.
    pub fn end(&self) -> Result<()> {
        self.attached.check()?;
        self.attached.backup().end_count()
    }
}
