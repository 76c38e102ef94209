//! A mirror under a writing guest: every granule of the target equals the source, is marked as behind, is being copied,
//! or is being written by a request that will mark it.
//!
//! Writes of the guest do one of two things. *Behind*: they change the source and then mark the granules; the copier
//! comes back to them. *Through*: they change both disks while they hold the granules. Through costs the guest a second
//! write; behind costs the copier a second copy, and a guest that is faster than the copier would never be caught up
//! with. So a [`Pace`] bounds what may be behind, and what would exceed it goes through: every load converges.

use super::lag::Lag;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::jobs::Work;
use crate::range_lock::RangeLocks;
use crate::sync::{Arc, AtomicBool, AtomicU64, Condvar, Mutex, Ordering, lock, wait};
use std::ops::Range;

/// Bytes that are copied, or found equal, together.
const GRANULE: u64 = 64 << 10;
/// What [`Pace::Bounded`] lets be behind.
const BOUND: u64 = 8 << 20;

/// What a guest's write to a granule that was copied already does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// Leaves it behind, however much is: fastest for the guest, and READY may never come.
    Background,
    /// Leaves it behind until 8 MiB are, then goes through: every load converges.
    #[default]
    Bounded,
    /// Goes through: nothing that was copied falls behind again.
    WriteThrough,
}

/// How far a mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorProgress {
    /// Bytes of disk that the target does not have yet, or no longer has right.
    pub behind: u64,
    /// Of those, bytes that were copied before.
    pub lag: u64,
    /// Bytes that were read from the source to be copied.
    pub copied: u64,
    /// The target was equal, durably, at some moment: the guest may be moved to it.
    pub ready: bool,
}

/// What a guest changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change<'a> {
    Write(&'a [u8], u64),
    Zero { start: u64, end: u64, unmap: bool },
    Discard { start: u64, end: u64 },
}

impl Change<'_> {
    fn range(&self) -> Range<u64> {
        match *self {
            Change::Write(data, offset) => offset..offset.saturating_add(data.len() as u64),
            Change::Zero { start, end, .. } | Change::Discard { start, end } => start..end,
        }
    }

    pub(super) fn apply(&self, device: &dyn BlockDevice) -> Result<()> {
        match *self {
            Change::Write(data, offset) => device.write_at(data, offset),
            Change::Zero { start, end, unmap } => device.write_zeroes(start..end, unmap),
            Change::Discard { start, end } => device.discard(start..end),
        }
    }
}

/// A copy of a guest's disk that follows it. [`Disk`](super::Disk) sends it what the guest changes; whoever calls
/// [`step`](LiveMirror::step), from any number of threads, copies the rest.
#[derive(Debug)]
pub struct LiveMirror {
    /// Copies a range as it is now, and makes the copy count.
    work: Box<dyn Work>,
    target: Arc<dyn BlockDevice>,
    size: u64,
    granule: u64,
    lag: Mutex<Lag>,
    /// Signalled when granules are no longer in flight.
    landed: Condvar,
    /// Held by whoever makes granules equal: the copier, and writes that go through.
    granules: RangeLocks,
    pace: Mutex<Pace>,
    /// A pivot waits for nothing but the rest of the lag: let none be added.
    catching_up: AtomicBool,
    ready: AtomicBool,
    copied: AtomicU64,
    /// Bytes written to the target since a barrier on it was begun.
    unsaved: AtomicU64,
    stopped: AtomicBool,
}

impl LiveMirror {
    /// `work` copies into `target`; all of it is behind at first.
    pub(super) fn new(work: impl Work + 'static, target: Arc<dyn BlockDevice>) -> LiveMirror {
        let size = work.total();
        let granule = GRANULE.max(work.alignment());
        LiveMirror {
            lag: Mutex::new(Lag::new(size.div_ceil(granule) as usize)),
            landed: Condvar::new(),
            work: Box::new(work),
            target,
            size,
            granule,
            granules: RangeLocks::default(),
            pace: Mutex::new(Pace::default()),
            catching_up: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            copied: AtomicU64::new(0),
            unsaved: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Changes the pace, at any time.
    pub fn set_pace(&self, pace: Pace) {
        *lock(&self.pace) = pace;
    }

    /// How far it is.
    pub fn progress(&self) -> MirrorProgress {
        let lag = lock(&self.lag);
        MirrorProgress {
            behind: (lag.count() as u64 * self.granule).min(self.size),
            lag: lag.relapsed() as u64 * self.granule,
            copied: self.copied.load(Ordering::Relaxed),
            ready: self.ready.load(Ordering::Acquire),
        }
    }

    /// What the job does, as QEMU names it: `mirror` or `commit`.
    pub fn kind(&self) -> &'static str {
        self.work.kind()
    }

    /// What must be durable before the guest's first write is mirrored.
    pub(super) fn prepare(&self) -> Result<()> {
        self.work.prepare()
    }

    /// Copies at most about `budget` bytes of what is behind. When nothing is, the target is made durable and the mirror
    /// is ready.
    ///
    /// # Errors
    /// What the copy met. Its granules are behind as before, so calling again tries again; dropping the mirror loses
    /// nothing of the guest's.
    pub fn step(&self, budget: u64) -> Result<MirrorProgress> {
        let most = (budget / self.granule).clamp(1, (1 << 20) / GRANULE) as usize;
        // Mostly the first pass, but the lag is kept well within its bound.
        let taken = {
            let mut lag = lock(&self.lag);
            if self.stopped.load(Ordering::Acquire) {
                return Err(Error::Cancelled);
            }
            let relapsed_first = lag.relapsed() as u64 * self.granule > BOUND / 2;
            lag.take(most, relapsed_first)
        };
        let Some(taken) = taken else { return self.settle() };
        self.copy(taken)?;
        if self.unsaved.load(Ordering::Relaxed) >= BOUND {
            // So that a pivot, during which the guest waits, finds little that is not durable yet.
            self.unsaved.store(0, Ordering::Relaxed);
            self.target.flush()?;
        }
        Ok(self.progress())
    }

    /// Copies granules that were taken. Their marks are gone before the first byte is read: a guest's write that comes
    /// later marks them again.
    fn copy(&self, taken: Range<usize>) -> Result<()> {
        let result = {
            let bytes = self.bytes(&taken);
            let _held = self.granules.lock(bytes.clone());
            self.work.piece(bytes)
        };
        lock(&self.lag).landed(taken, result.is_ok());
        self.landed.notify_all();
        let copied = result?;
        self.copied.fetch_add(copied, Ordering::Relaxed);
        self.unsaved.fetch_add(copied, Ordering::Relaxed);
        Ok(())
    }

    /// Nothing is left to take. Ready is said once all was equal and then made durable.
    fn settle(&self) -> Result<MirrorProgress> {
        if !self.ready.load(Ordering::Acquire) && lock(&self.lag).none() {
            self.target.flush()?;
            self.ready.store(true, Ordering::Release);
        }
        Ok(self.progress())
    }

    /// Brings the lag down to nothing while the guest goes on, so that little is left to do once it must wait.
    pub(super) fn catch_up(&self) -> Result<()> {
        self.catching_up.store(true, Ordering::Release);
        let caught = self.drain().and_then(|()| self.target.flush());
        if caught.is_err() {
            self.go_on();
        }
        caught
    }

    /// Copies all that is behind, and waits for other copiers. With the guest stopped the two are equal afterwards.
    pub(super) fn drain(&self) -> Result<()> {
        loop {
            let taken = {
                let mut lag = lock(&self.lag);
                loop {
                    match lag.take((1 << 20) / GRANULE as usize, true) {
                        Some(taken) => break taken,
                        None if lag.none() => return Ok(()),
                        None => lag = wait(&self.landed, lag),
                    }
                }
            };
            self.copy(taken)?;
        }
    }

    /// Makes the copy count: durable, and said so on disk.
    pub(super) fn finish(&self) -> Result<()> {
        self.work.finish()
    }

    /// The guest goes on as before after a pivot that failed.
    pub(super) fn go_on(&self) {
        self.catching_up.store(false, Ordering::Release);
    }

    /// Ends the copying: on return no copier writes to the target any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let mut lag = lock(&self.lag);
        while lag.in_flight() > 0 {
            lag = wait(&self.landed, lag);
        }
    }

    /// A guest's change of `source`, and what the target needs for it.
    pub(super) fn change(&self, change: Change<'_>, source: &dyn BlockDevice) -> Result<()> {
        let range = change.range();
        if range.start >= range.end || range.end > self.size {
            // Nothing to mirror; the source says what is wrong with it.
            return change.apply(source);
        }
        let granules = (range.start / self.granule) as usize..range.end.div_ceil(self.granule) as usize;
        if !self.goes_through(&granules) {
            let result = change.apply(source);
            // After the source, and also if it failed: part of it may have been written.
            lock(&self.lag).mark(granules);
            return result;
        }
        let _held = self.granules.lock(self.bytes(&granules));
        let equal = self.claim_equal(&granules, &change);
        let result = change.apply(source);
        // A target's error is not the guest's: the copier will meet it, and tell of it.
        if result.is_err() || equal.iter().try_for_each(|part| self.pass_on(&change, part)).is_err() {
            lock(&self.lag).mark(granules);
        }
        result
    }

    fn goes_through(&self, granules: &Range<usize>) -> bool {
        let bound = match *lock(&self.pace) {
            _ if self.catching_up.load(Ordering::Acquire) => 0,
            Pace::Background => return false,
            Pace::Bounded => BOUND,
            Pace::WriteThrough => 0,
        };
        if bound == 0 {
            // Even what is behind: a write that marked it again just after the copier took it would keep it behind.
            return true;
        }
        let lag = lock(&self.lag);
        if lag.first_pass_over() && !self.ready.load(Ordering::Acquire) {
            // From here on nothing is added until nothing is behind, which therefore comes.
            return true;
        }
        let added = lag.would_add(granules.clone());
        added > 0 && (lag.relapsed() + added) as u64 * self.granule > bound
    }

    /// Makes `granules`, which this change claimed, equal on the target.
    fn pass_on(&self, change: &Change<'_>, granules: &Range<usize>) -> Result<()> {
        let (bytes, whole) = (self.bytes(granules), change.range());
        let part = bytes.start.max(whole.start)..bytes.end.min(whole.end);
        self.unsaved.fetch_add(part.end - part.start, Ordering::Relaxed);
        match *change {
            Change::Write(data, offset) => {
                self.target.write_at(&data[(part.start - offset) as usize..(part.end - offset) as usize], part.start)
            }
            Change::Zero { unmap, .. } => self.target.write_zeroes(part, unmap),
            // What a discard leaves is the source's affair: what it reads as now is copied.
            Change::Discard { .. } => self.work.piece(bytes).map(drop),
        }
    }

    /// The runs of granules that will be equal once `range` is written to both disks: those that are equal now, and those
    /// that lie in it whole. The rest of a granule that is behind and only partly written would stay behind.
    ///
    /// Marks are taken away before the source is written: whoever marks later wrote to the source later.
    fn claim_equal(&self, granules: &Range<usize>, change: &Change<'_>) -> Vec<Range<usize>> {
        let range = change.range();
        let mut lag = lock(&self.lag);
        let mut runs: Vec<Range<usize>> = Vec::new();
        for granule in granules.clone() {
            let bytes = self.bytes(&(granule..granule + 1));
            let whole = range.start <= bytes.start && bytes.end <= range.end;
            if lag.is_behind(granule) && !whole {
                continue;
            }
            lag.clear(granule..granule + 1);
            match runs.last_mut() {
                Some(run) if run.end == granule => run.end += 1,
                _ => runs.push(granule..granule + 1),
            }
        }
        runs
    }

    fn bytes(&self, granules: &Range<usize>) -> Range<u64> {
        granules.start as u64 * self.granule..(granules.end as u64 * self.granule).min(self.size)
    }
}
