//! A mirror under a writing guest: every granule of the target equals the source, is marked as behind, is being made
//! equal, or is being written by a request that will mark it (ORD-92).
//!
//! Writes of the guest do one of two things. *Behind*: they change the source and then mark the granules; the copier
//! comes back to them. *Through*: they change both disks while they hold the granules. Through costs the guest a second
//! write; behind costs the copier a second copy, and a guest that is faster than the copier would never be caught up
//! with. So a [`Pace`] bounds what may be behind, and what would exceed it goes through.
//!
//! Why every load converges, unless the pace is [`Pace::Background`]: the first pass goes through the disk once, so it
//! ends. From then on all writes go through, as they do during a pivot whatever the pace. A write that goes through marks
//! nothing. So marks come only from writes that were under way when that began, a finite number, and from copies that
//! fail; the copier takes away at least one mark with each piece, and waits for a piece only as long as requests hold it
//! that came before (the range locks are fair). A failing copy ends the step, and the pivot.

use super::comparison::{Comparison, Sides};
use super::lag::Lag;
use crate::device::{BlockDevice, ExtentKind, Request};
use crate::error::{Error, Result};
use crate::jobs::{Lacking, Throttle, Work};
use crate::range_lock::RangeLocks;
use crate::storage::Host;
use crate::switch::{Mistake, Step, planted, skipped};
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, RwLock, lock, read, wait, write};
use std::ops::Range;
use std::time::Duration;

/// Most bytes that are copied while their granules are held while the mirror yields to the guest: so long may one of its requests have to wait.
const GENTLE_PIECE: u64 = 256 << 10;
/// Percent of the time that jobs beside a guest work at first while it makes requests.
pub(super) const SHARE: u8 = 30;
/// Bytes after which one caller makes durable what the target has, while others go on.
const CHECKPOINT: u64 = 64 << 20;
/// Barriers on the target before a pivot, at most, until one takes less than [`SHORT_BARRIER`].
const MOST_BARRIERS: usize = 8;
/// A guest may wait so long at a pivot.
const SHORT_BARRIER: Duration = Duration::from_millis(20);
/// How long a caller waits who finds nothing behind.
const IDLE: Duration = Duration::from_millis(10);

/// What a guest's write to a granule that was copied already does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// Leaves it behind, however much is: fastest for the guest, and READY may never come.
    Background,
    /// Leaves it behind until 8 MiB are, then goes through; through, too, from the end of the first pass on. A granule of
    /// which a guest writes a part, here and there, costs more to copy again than the part to write twice.
    #[default]
    Bounded,
    /// Goes through: nothing that was copied falls behind again.
    WriteThrough,
}

/// How a mirror works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorOptions {
    /// Bytes that are copied, or found equal, together; raised to the blocks of the two disks.
    pub granularity: u64,
    /// Bytes that [`Pace::Bounded`] lets be behind. What could not be copied comes on top.
    pub bound: u64,
    /// Bytes that are copied, or written to both disks, while their granules are held: a request of the guest that meets
    /// them waits so long.
    pub piece: u64,
    /// See [`LiveMirror::set_pace`].
    pub pace: Pace,
    /// See [`LiveMirror::set_share`].
    pub share: u8,
    /// The target is compared with its source before it is called ready, as by [`LiveMirror::compare`].
    pub compare: bool,
}

impl Default for MirrorOptions {
    fn default() -> MirrorOptions {
        let pace = Pace::default();
        MirrorOptions { granularity: 64 << 10, bound: 8 << 20, piece: 1 << 20, pace, share: SHARE, compare: false }
    }
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
    /// Bytes of disk that comparisons have found equal so far, and that one has to find equal yet.
    pub compared: u64,
    /// See `compared`.
    pub to_compare: u64,
    /// The target was equal, durably, at some moment: the guest may be moved to it.
    pub ready: bool,
    /// Nothing is behind, or the mirror is ahead of its speed, or yields to the guest: nothing was done, call again after
    /// this time.
    pub wait: Option<Duration>,
}

/// What a guest changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change<'a> {
    Write(&'a [u8], u64),
    Zero { start: u64, end: u64, unmap: bool },
    Discard { start: u64, end: u64 },
}

impl<'a> Change<'a> {
    /// What `request` changes, if it does.
    pub(super) fn of(request: &Request<'a>) -> Option<Change<'a>> {
        match request {
            Request::Read { .. } => None,
            Request::Write { data, offset } => Some(Change::Write(data, *offset)),
            Request::WriteZeroes { range, unmap } => {
                Some(Change::Zero { start: range.start, end: range.end, unmap: *unmap })
            }
            Request::Discard { range } => Some(Change::Discard { start: range.start, end: range.end }),
        }
    }

    pub(super) fn request(self) -> Request<'a> {
        match self {
            Change::Write(data, offset) => Request::Write { data, offset },
            Change::Zero { start, end, unmap } => Request::WriteZeroes { range: start..end, unmap },
            Change::Discard { start, end } => Request::Discard { range: start..end },
        }
    }

    fn length(&self) -> u64 {
        let range = self.range();
        range.end.saturating_sub(range.start)
    }

    pub(super) fn range(&self) -> Range<u64> {
        match *self {
            Change::Write(data, offset) => offset..offset.saturating_add(data.len() as u64),
            Change::Zero { start, end, .. } | Change::Discard { start, end } => start..end,
        }
    }

    /// What of it lies in `range`.
    fn within(&self, range: &Range<u64>) -> Self {
        let whole = self.range();
        let (start, end) = (range.start.max(whole.start), range.end.min(whole.end));
        match *self {
            Change::Write(data, offset) => {
                Change::Write(&data[(start - offset) as usize..(end - offset) as usize], start)
            }
            Change::Zero { unmap, .. } => Change::Zero { start, end, unmap },
            Change::Discard { .. } => Change::Discard { start, end },
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

/// A change that goes to both disks.
#[derive(Debug)]
struct Through<'a> {
    /// Its place in the batch.
    at: usize,
    change: Change<'a>,
    /// The granules that it reaches, all held.
    granules: Range<usize>,
    /// Those that are equal.
    equal: Vec<Range<usize>>,
    /// Those that are behind, and will be equal.
    claimed: Vec<Range<usize>>,
}

/// A copy of a guest's disk that follows it. [`Disk`](super::Disk) sends it what the guest changes; whoever calls
/// [`step`](LiveMirror::step), from any number of threads, copies the rest.
#[derive(Debug)]
pub struct LiveMirror {
    /// Copies a range as it is now, and makes the copy count.
    work: Box<dyn Work>,
    /// On disk, what the target lacks, so that another mirror can go on with it.
    lacking: Option<Arc<Lacking>>,
    sides: Sides,
    target: Arc<dyn BlockDevice>,
    size: u64,
    granule: u64,
    /// Granules that may be behind in [`Pace::Bounded`].
    bound: usize,
    piece: u64,
    state: Mutex<State>,
    /// Signalled when granules are no longer in flight, or being compared, and when a flush of the target ends.
    landed: Condvar,
    /// Held by whoever makes granules equal (ORD-93): the copier, and writes that go through. And by whoever finds out
    /// whether they are (ORD-99).
    granules: RangeLocks,
    /// Held for reading by each change of the guest's until it is made and marked.
    changing: RwLock<()>,
    throttle: Throttle,
    host: Arc<dyn Host>,
    /// See [`Work::load`].
    load: Arc<AtomicU64>,
}

/// What a step does.
#[derive(Debug)]
enum Turn {
    /// Nothing yet: the mirror is ahead of its speed, or yields to the guest.
    Rest,
    /// Copies granules that were behind.
    Copy(Range<usize>),
    /// Compares granules.
    Compare(Range<usize>),
    /// Nothing is left to take.
    Settle,
}

#[derive(Debug)]
struct State {
    lag: Lag,
    comparison: Comparison,
    pace: Pace,
    ready: bool,
    copied: u64,
    compared: u64,
    /// Bytes copied to the target since a barrier on it was begun.
    unsaved: u64,
    /// Pivots and splits under way: until they are done nothing may fall behind.
    completing: usize,
    /// Flushes of the target under way.
    flushing: usize,
    stopped: bool,
}

/// One of those that [`State::completing`] counts.
#[must_use]
pub(super) struct Completing<'a>(&'a LiveMirror);

impl Drop for Completing<'_> {
    fn drop(&mut self) {
        self.0.state().completing -= 1;
    }
}

impl LiveMirror {
    /// `work` copies one of `sides` into the other; all of it is behind at first. `lacking` is told what is not any more.
    pub(super) fn new(
        work: impl Work + 'static,
        lacking: Option<Arc<Lacking>>,
        sides: Sides,
        host: Arc<dyn Host>,
        load: Arc<AtomicU64>,
        options: &MirrorOptions,
    ) -> LiveMirror {
        let size = work.total();
        let granule = options.granularity.max(work.alignment());
        let granules = size.div_ceil(granule) as usize;
        let state = State {
            lag: Lag::new(granules),
            comparison: Comparison::new(granules, options.compare),
            pace: options.pace,
            ready: false,
            copied: 0,
            compared: 0,
            unsaved: 0,
            completing: 0,
            flushing: 0,
            stopped: false,
        };
        LiveMirror {
            work: Box::new(work),
            lacking,
            target: sides.target.device(),
            sides,
            size,
            granule,
            bound: (options.bound / granule) as usize,
            piece: options.piece,
            state: Mutex::new(state),
            landed: Condvar::new(),
            granules: RangeLocks::default(),
            changing: RwLock::default(),
            throttle: Throttle::new(host.clone(), options.share),
            host,
            load,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Changes the pace, at any time.
    pub fn set_pace(&self, pace: Pace) {
        self.state().pace = pace;
    }

    /// Copies at most `limit` bytes a second from now on; 0 for no limit. A pivot does not keep to it.
    pub fn set_speed(&self, limit: u64) {
        self.throttle.set_speed(limit);
    }

    /// Copies for at most `percent` of the time while the guest makes requests, or for as long as it takes to move as many
    /// bytes as the guest does; 100 for all of it. A pivot does not keep to it.
    pub fn set_share(&self, percent: u8) {
        self.throttle.set_share(percent);
    }

    /// How far it is.
    pub fn progress(&self) -> MirrorProgress {
        let state = self.state();
        MirrorProgress {
            behind: (state.lag.count() as u64 * self.granule).min(self.size),
            lag: state.lag.relapsed() as u64 * self.granule,
            copied: state.copied,
            compared: state.compared,
            to_compare: (state.comparison.granules() as u64 * self.granule).min(self.size),
            ready: state.ready,
            wait: None,
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

    /// Begins a comparison of the target with its source: [`step`](Self::step) reads all of both, piece by piece, once
    /// nothing is left to copy. Until every granule was found equal there is no pivot, and no READY if there was none
    /// before. Once all was copied, and until it is over, writes go through, whatever the pace.
    ///
    /// # Errors
    /// `Cancelled` once the mirror has ended, `Denied` if it is about to.
    pub fn compare(&self) -> Result<()> {
        let mut state = self.state();
        match (state.stopped, state.completing) {
            (true, _) => Err(Error::Cancelled),
            (false, 0) => {
                state.comparison.begin_anew();
                Ok(())
            }
            (false, _) => Err(Error::Denied(format!("the {} is about to end", self.kind()))),
        }
    }

    /// Whether all was found equal that was to be compared.
    pub(crate) fn check_compared(&self) -> Result<()> {
        match self.state().comparison.over() {
            true => Ok(()),
            false => Err(Error::Denied(format!("the target of the {} is still being compared", self.kind()))),
        }
    }

    /// Copies at most about `budget` bytes of what is behind, or compares so many if a comparison was asked for. When
    /// nothing is left of either, the target is made durable and the mirror is ready.
    ///
    /// # Errors
    /// What the copy met. Its granules are behind as before, so calling again tries again; dropping the mirror loses
    /// nothing of the guest's. [`Error::Differs`] if a comparison found a granule that counted as equal and is not: it is
    /// behind from then on, so calling again copies and compares it again. [`Error::Cancelled`] once the mirror has ended.
    pub fn step(&self, budget: u64) -> Result<MirrorProgress> {
        let pause = self.throttle.pause();
        let piece = if self.throttle.yields(self.load.load(Ordering::Relaxed)) {
            self.piece.min(GENTLE_PIECE)
        } else {
            self.piece
        };
        let turn = self.turn(pause, self.most(budget.min(piece)))?;
        let begun = self.throttle.begin();
        let done = match turn {
            Turn::Rest => return Ok(MirrorProgress { wait: pause, ..self.progress() }),
            Turn::Copy(taken) => self.copy(taken).and_then(|copied| self.checkpoint().map(|()| (copied, None))),
            Turn::Compare(taken) => self.hold_against(taken),
            Turn::Settle => return self.settle(),
        };
        let bytes = done.as_ref().map_or(0, |(bytes, _)| *bytes);
        self.throttle.end(begun, bytes, self.load.load(Ordering::Relaxed));
        done.map(|(_, wait)| MirrorProgress { wait, ..self.progress() })
    }

    /// What comes next, of at most so many granules. A comparison comes to none that is behind.
    fn turn(&self, pause: Option<Duration>, most: usize) -> Result<Turn> {
        let state = &mut *self.state();
        if state.stopped {
            return Err(Error::Cancelled);
        }
        if pause.is_some() {
            return Ok(Turn::Rest);
        }
        let copy = state.lag.take(most).map(Turn::Copy);
        Ok(copy.or_else(|| state.comparison.take(most).map(Turn::Compare)).unwrap_or(Turn::Settle))
    }

    /// Granules in `bytes`, and at least one.
    fn most(&self, bytes: u64) -> usize {
        (bytes / self.granule).max(1) as usize
    }

    /// Copies granules that were taken. Their marks are gone before the first byte is read (ORD-92): a guest's write that
    /// comes later marks them again.
    fn copy(&self, taken: Range<usize>) -> Result<u64> {
        let result = {
            let bytes = self.bytes(&taken);
            let _held = (!planted(Mistake::CopierHoldsNothing)).then(|| self.granules.lock(bytes.clone()));
            self.work.piece(bytes)
        };
        let mut state = self.state();
        if planted(Mistake::ClearAfterCopy) {
            state.lag.clear(taken.clone());
        }
        state.lag.landed(taken, result.is_ok() || planted(Mistake::FailedCopyForgotten));
        let copied = result.as_ref().copied().unwrap_or_default();
        state.copied += copied;
        state.unsaved += copied;
        drop(state);
        self.landed.notify_all();
        result
    }

    /// Holds the target against its source in granules that were taken (ORD-99). Returns the bytes that were read of
    /// either, and how long to wait if it is too early to say that they differ.
    fn hold_against(&self, taken: Range<usize>) -> Result<(u64, Option<Duration>)> {
        let bytes = self.bytes(&taken);
        let _held = (!planted(Mistake::ComparedUnheld)).then(|| self.granules.lock(bytes.clone()));
        let compared = self.sides.compare(bytes);
        let mut state = self.state();
        let unequal = match &compared {
            Ok((Some(at), _)) => (at / self.granule) as usize,
            Ok((None, _)) => taken.end,
            Err(_) => taken.start,
        };
        let equal = self.bytes(&(taken.start..unequal));
        state.compared += equal.end - equal.start;
        state.comparison.landed(taken, unequal);
        self.landed.notify_all();
        match compared? {
            (None, read) => Ok((read, None)),
            (Some(_), _) if state.stopped => Err(Error::Cancelled),
            (Some(_), read) if state.lag.explains(unequal) => Ok((read, Some(IDLE))),
            (Some(at), _) => {
                state.lag.mark(unequal..unequal + 1);
                drop(state);
                let granule = self.bytes(&(unequal..unequal + 1));
                self.lacking.as_ref().map_or(Ok(()), |lacking| lacking.lacks(granule))?;
                Err(self.sides.differ(at))
            }
        }
    }

    /// So that a pivot, during which the guest waits, finds little that is not durable yet.
    fn checkpoint(&self) -> Result<()> {
        if self.state().unsaved < CHECKPOINT { Ok(()) } else { self.save() }
    }

    /// Makes durable what the target has, and, of a resumable mirror, that it has it. [`step`](Self::step) does so now and
    /// then by itself.
    ///
    /// # Errors
    /// The hosts'; `Cancelled` once the mirror has ended.
    pub fn save(&self) -> Result<()> {
        self.flush_target()?;
        let Some(lacking) = &self.lacking else { return Ok(()) };
        lacking.drop_copied(|| {
            // Changes that the bitmap forgets are marked as behind, or are in the target, once they have ended.
            drop((!planted(Mistake::ForgottenUnderWay)).then(|| write(&self.changing)));
            self.state().lag.rest().iter().map(|granules| self.bytes(granules)).collect()
        })
    }

    /// Nothing is left to take. Ready is said once all was equal and was then made durable (ORD-96).
    fn settle(&self) -> Result<MirrorProgress> {
        let state = self.state();
        if !state.ready && state.lag.none() && state.comparison.over() {
            drop(state);
            if planted(Mistake::ReadyBeforeFlush) {
                self.state().ready = true;
            }
            self.save()?;
            self.state().ready = true;
            return Ok(self.progress());
        }
        drop(state);
        Ok(MirrorProgress { wait: Some(IDLE), ..self.progress() })
    }

    /// Makes durable what the target has.
    fn flush_target(&self) -> Result<()> {
        {
            let mut state = self.state();
            if state.stopped {
                return Err(Error::Cancelled);
            }
            state.flushing += 1;
            state.unsaved = 0;
        }
        let result = self.target.flush();
        self.state().flushing -= 1;
        self.landed.notify_all();
        result
    }

    /// From here on, until the result is dropped, nothing more falls behind: writes go through.
    pub(super) fn completing(&self) -> Completing<'_> {
        self.state().completing += 1;
        Completing(self)
    }

    /// Brings the lag down to nothing, and barriers the target, while the guest goes on: little is left to do once it must
    /// wait. A long barrier leaves much to the next one, all that the guest wrote meanwhile.
    pub(super) fn catch_up(&self) -> Result<()> {
        self.drain()?;
        for _ in 0..MOST_BARRIERS {
            let begun = self.host.now();
            self.flush_target()?;
            if self.host.now().saturating_sub(begun) < SHORT_BARRIER {
                break;
            }
        }
        Ok(())
    }

    /// Copies all that is behind, and waits for other copiers. With the guest stopped the two are equal afterwards.
    pub(super) fn drain(&self) -> Result<()> {
        loop {
            let taken = {
                let mut state = self.state();
                loop {
                    if state.stopped && !planted(Mistake::CopyAfterEnd) {
                        return Err(Error::Cancelled);
                    }
                    match state.lag.take(self.most(self.piece)) {
                        Some(taken) => break taken,
                        None if state.lag.none() => return Ok(()),
                        None => state = wait(&self.landed, state),
                    }
                }
            };
            self.copy(taken)?;
        }
    }

    /// Makes the copy count: durable, and said so on disk (ORD-97).
    pub(super) fn finish(&self) -> Result<()> {
        match skipped(Step::CountsBeforePivot) {
            true => Ok(()),
            false => self.work.finish(),
        }
    }

    /// Ends the copying: on return nobody writes to the target, or reads it, any more.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        while state.lag.in_flight() > 0 || state.flushing > 0 || state.comparison.taken() > 0 {
            state = wait(&self.landed, state);
        }
        drop(state);
        if let Some(lacking) = &self.lacking {
            lacking.stop();
        }
    }

    /// What a guest asks of `source` in one go, and what the target needs for it.
    pub(super) fn submit(&self, batch: &mut [Request<'_>], source: &dyn BlockDevice) -> Vec<Result<()>> {
        let changes: Vec<Change<'_>> = batch.iter().filter_map(Change::of).collect();
        let bytes: u64 = changes.iter().map(|change| change.length()).sum();
        // Two changes of the same bytes might end one way here and the other way there.
        if bytes <= self.piece && disjoint(changes.iter().map(Change::range).collect()) {
            return self.together(batch, source);
        }
        batch.iter_mut().map(|request| self.alone(request, source)).collect()
    }

    /// One request; a long change goes in pieces, so that it does not keep others, and the copier, off all of it.
    fn alone(&self, request: &mut Request<'_>, source: &dyn BlockDevice) -> Result<()> {
        match Change::of(request) {
            Some(change) if change.length() > self.piece => self.change(change, source),
            _ => all(self.together(std::slice::from_mut(request), source)),
        }
    }

    /// A guest's change of `source`, and what the target needs for it.
    pub(super) fn change(&self, change: Change<'_>, source: &dyn BlockDevice) -> Result<()> {
        let Some(granules) = self.granules_of(&change) else { return change.apply(source) };
        let stride = self.most(self.piece);
        granules.clone().step_by(stride).try_for_each(|start| {
            let piece = start..granules.end.min(start + stride);
            all(self.together(&mut [change.within(&self.bytes(&piece)).request()], source))
        })
    }

    /// The granules that a change reaches. `None` if there is nothing to mirror: the source says what is wrong with it.
    fn granules_of(&self, change: &Change<'_>) -> Option<Range<usize>> {
        let range = change.range();
        let forgotten =
            planted(Mistake::ShortZeroForgotten) && matches!(change, Change::Zero { .. }) && self.covers_none(&range);
        (range.start < range.end && range.end <= self.size && !forgotten)
            .then(|| (range.start / self.granule) as usize..range.end.div_ceil(self.granule) as usize)
    }

    /// Requests whose bytes do not overlap. Each change falls behind or goes through.
    fn together(&self, batch: &mut [Request<'_>], source: &dyn BlockDevice) -> Vec<Result<()>> {
        let _changing = self.lacking.as_ref().map(|_| read(&self.changing));
        let tracked = batch.iter().enumerate().filter_map(|(at, request)| {
            let change = Change::of(request)?;
            Some((at, change, self.granules_of(&change)?))
        });
        let (behind, through): (Vec<_>, Vec<_>) = tracked.partition(|(_, _, granules)| self.may_fall_behind(granules));
        let held = self.granules.lock_all(through.iter().map(|(.., granules)| self.bytes(granules)).collect());
        let through: Vec<Through<'_>> =
            through.into_iter().map(|(at, change, granules)| self.claim(at, change, granules)).collect();
        if planted(Mistake::MarkBeforeWrite) {
            behind.iter().for_each(|(.., granules)| self.state().lag.written(granules.clone()));
        }
        let results = source.submit(batch);
        for (at, _, granules) in behind {
            // ORD-92: after the source, and also if it failed, since part of it may have been written.
            let forgotten =
                planted(Mistake::MarkBeforeWrite) || results[at].is_err() && planted(Mistake::FailedWriteUnmarked);
            if !forgotten {
                self.state().lag.written(granules);
            }
        }
        if !through.is_empty() {
            self.pass_on(&through, &results, source);
        }
        drop(held);
        results
    }

    /// Whether no granule lies in `range` whole.
    fn covers_none(&self, range: &Range<u64>) -> bool {
        range.start.div_ceil(self.granule) >= range.end / self.granule
    }

    /// Whether a change of `granules` may leave them behind. If so it is announced.
    fn may_fall_behind(&self, granules: &Range<usize>) -> bool {
        let state = &mut *self.state();
        let bound = self.bound(state);
        state.lag.announce(granules, bound)
    }

    /// Whether the next change will go through, as far as one can tell: it is not announced.
    pub(super) fn goes_through(&self) -> bool {
        let state = &mut *self.state();
        let bound = self.bound(state);
        !state.lag.has_room(1, bound)
    }

    /// Granules that may be behind now.
    fn bound(&self, state: &mut State) -> usize {
        match state.pace {
            _ if state.completing > 0 => 0,
            // Else a comparison could have to wait for the copier for ever.
            _ if !state.comparison.over() && state.lag.first_pass_over() => 0,
            Pace::Background => usize::MAX,
            Pace::Bounded if state.lag.first_pass_over() => 0,
            Pace::Bounded => self.bound,
            Pace::WriteThrough => 0,
        }
    }

    /// Finds the runs of granules that will be equal once the change is made to both disks: those that are equal now, and
    /// those that are behind and will be overwritten whole, which are in flight from here on. What is behind and only
    /// partly overwritten stays behind (ORD-94), and so does what is discarded, of which some bytes may stay as they are.
    ///
    /// Marks go before the source is written: whoever marks later wrote to the source later.
    fn claim<'a>(&self, at: usize, change: Change<'a>, granules: Range<usize>) -> Through<'a> {
        let range = change.range();
        let mut state = self.state();
        let (mut equal, mut claimed) = (Vec::new(), Vec::new());
        for granule in granules.clone() {
            let bytes = self.bytes(&(granule..granule + 1));
            let whole = range.start <= bytes.start && bytes.end <= range.end || planted(Mistake::PartClearsWhole);
            let overwritten = whole && !matches!(change, Change::Discard { .. });
            match state.lag.is_behind(granule) {
                false => extend(&mut equal, granule),
                true if overwritten && planted(Mistake::ClaimedCountsAsEqual) => {
                    state.lag.clear(granule..granule + 1);
                    extend(&mut equal, granule);
                }
                true if overwritten => extend(&mut claimed, granule),
                true => {}
            }
        }
        claimed.iter().for_each(|run| state.lag.take_these(run.clone()));
        Through { at, change, granules, equal, claimed }
    }

    /// Makes changes to the target that the source has taken, where the two are to be equal.
    ///
    /// An error of the target's is not the guest's: the copier will meet it, and tell of it.
    fn pass_on(&self, changes: &[Through<'_>], results: &[Result<()>], source: &dyn BlockDevice) {
        let mut passed: Vec<bool> = changes.iter().map(|change| results[change.at].is_ok()).collect();
        let (mut owners, mut requests) = (Vec::new(), Vec::new());
        for (number, through) in changes.iter().enumerate().filter(|(_, through)| results[through.at].is_ok()) {
            for run in through.equal.iter().chain(&through.claimed) {
                match through.change.within(&self.bytes(run)) {
                    Change::Discard { start, end } => passed[number] &= self.follow_discard(start..end, source).is_ok(),
                    part => {
                        owners.push(number);
                        requests.push(part.request());
                    }
                }
            }
        }
        let taken = self.target.submit(&mut requests);
        owners.into_iter().zip(taken).for_each(|(number, result)| passed[number] &= result.is_ok());
        let mut state = self.state();
        for (through, passed) in changes.iter().zip(passed) {
            let passed = passed || results[through.at].is_ok() && planted(Mistake::TargetErrorForgotten);
            if !passed {
                state.lag.mark(through.granules.clone());
            }
            through.claimed.iter().for_each(|run| state.lag.landed(run.clone(), passed));
        }
        drop(state);
        self.landed.notify_all();
    }

    /// What a discard leaves is the source's affair: zeros, or what was there. What the source's top does not hold was
    /// not touched.
    fn follow_discard(&self, range: Range<u64>, source: &dyn BlockDevice) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let found = source.extent(at, range.end)?;
            let end = found.range.end.clamp(at + 1, range.end);
            match found.kind {
                _ if found.depth > 0 => {}
                ExtentKind::Zero => self.target.write_zeroes(at..end, true)?,
                ExtentKind::Data => drop(self.work.piece(at..end)?),
            }
            at = end;
        }
        Ok(())
    }

    fn bytes(&self, granules: &Range<usize>) -> Range<u64> {
        granules.start as u64 * self.granule..(granules.end as u64 * self.granule).min(self.size)
    }
}

/// Adds `granule`, which comes after all in `runs`.
fn extend(runs: &mut Vec<Range<usize>>, granule: usize) {
    match runs.last_mut() {
        Some(run) if run.end == granule => run.end += 1,
        _ => runs.push(granule..granule + 1),
    }
}

/// Whether no byte is in two of `ranges`.
fn disjoint(mut ranges: Vec<Range<u64>>) -> bool {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

fn all(results: Vec<Result<()>>) -> Result<()> {
    results.into_iter().collect()
}
