//! The course of a job: pieces claimed from one cursor, any number of callers, pause, resume, cancel, speed, progress.
//!
//! Nothing here starts a thread. Whoever wants several calls [`drive`] from several.

use super::throttle::{PATIENCE, Throttle};
use crate::error::{Error, Result};
use crate::jobs::copy::PIECE;
use crate::storage::Host;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, lock, wait};
use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

/// Most bytes of disk that one step goes through. Large, since holes cost nothing; what is copied goes in smaller pieces.
const MOST_AT_ONCE: u64 = 16 << 20;
/// Bytes after whose copying one caller makes them durable while the others go on: the device works from the start, and
/// not only at the end.
const CHECKPOINT: u64 = 64 << 20;

/// What a job does, without its course: go through `0..total` in any order and in pieces, then make it count.
///
/// `prepare` and `finish` are called once each, before the first and after the last piece, while no piece is being
/// worked on. Every job is so made that it may be dropped at any moment and begun again: what is done is then found
/// done, or done again.
pub trait Work: Send + Sync + Debug {
    /// The job's name, as in QEMU: `stream`, `commit`, `mirror`, …
    fn kind(&self) -> &'static str;

    /// Bytes of disk to go through.
    fn total(&self) -> u64;

    /// Pieces start at multiples of this many bytes.
    fn alignment(&self) -> u64;

    /// What must be durable before the first piece.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Goes through one piece. Returns the bytes that were read or written for it (zeros and holes are free).
    fn piece(&self, range: Range<u64>) -> Result<u64>;

    /// Makes durable what was copied so far. Pieces go on meanwhile.
    fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    /// Makes the work durable, then what points to it.
    fn finish(&self) -> Result<()>;

    /// Bytes that a guest of the disk has read and written so far, and one for each request; for a disk at rest always 0.
    fn load(&self) -> u64 {
        0
    }
}

impl<W: Work + ?Sized> Work for Arc<W> {
    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    fn total(&self) -> u64 {
        (**self).total()
    }

    fn alignment(&self) -> u64 {
        (**self).alignment()
    }

    fn prepare(&self) -> Result<()> {
        (**self).prepare()
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        (**self).piece(range)
    }

    fn checkpoint(&self) -> Result<()> {
        (**self).checkpoint()
    }

    fn finish(&self) -> Result<()> {
        (**self).finish()
    }

    fn load(&self) -> u64 {
        (**self).load()
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of disk gone through; never falls.
    pub done: u64,
    /// Bytes of disk to go through.
    pub total: u64,
    /// Bytes that were copied for it.
    pub copied: u64,
    /// Whether all is done and durable.
    pub finished: bool,
    /// Only the end is left, and is held back ([`Job::hold`]).
    pub held: bool,
    /// The job is paused, or ahead of its speed, or yields to the guest: nothing was done, call again after this time.
    pub wait: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Created,
    /// One caller prepares or finishes; the others wait.
    Alone,
    Copying,
    Finished,
    Failed,
}

#[derive(Debug)]
struct Course {
    phase: Phase,
    next: u64,
    in_flight: usize,
    done: u64,
    copied: u64,
    /// Bytes copied since the last checkpoint began.
    unsaved: u64,
    /// Pieces that failed.
    again: Vec<Range<u64>>,
    failure: Option<String>,
}

/// A [`Work`] under way. All methods take `&self`: several threads may step one job, another may pause it.
#[derive(Debug)]
pub struct Job {
    work: Box<dyn Work>,
    host: Arc<dyn Host>,
    course: Mutex<Course>,
    changed: Condvar,
    paused: AtomicBool,
    cancelled: AtomicBool,
    held: AtomicBool,
    throttle: Throttle,
}

impl Job {
    /// A job that has not begun. `host` tells it the time.
    pub fn new(work: impl Work + 'static, host: Arc<dyn Host>) -> Job {
        let course = Course {
            phase: Phase::Created,
            next: 0,
            in_flight: 0,
            done: 0,
            copied: 0,
            unsaved: 0,
            again: Vec::new(),
            failure: None,
        };
        Job {
            work: Box::new(work),
            throttle: Throttle::new(host.clone(), 100),
            host,
            course: Mutex::new(course),
            changed: Condvar::new(),
            paused: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            held: AtomicBool::new(false),
        }
    }

    /// The job's name: `stream`, `commit`, `mirror`, …
    pub fn kind(&self) -> &'static str {
        self.work.kind()
    }

    /// Does about `budget` bytes of disk: prepares the job if nobody has, else one piece, else finishes.
    ///
    /// Several threads may call it at once; whoever finds nothing left to do waits for those who are still at it.
    ///
    /// # Errors
    /// [`Error::Cancelled`] after [`cancel`](Self::cancel). What the work met, once; the job has then failed, and
    /// every other caller is told so. What was done is kept: a new job of the same kind goes on from there.
    pub fn step(&self, budget: u64) -> Result<Progress> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(Error::Cancelled);
        }
        let pause = if self.paused.load(Ordering::Acquire) { Some(PATIENCE) } else { self.throttle.pause() };
        if pause.is_some() {
            return Ok(Progress { wait: pause, ..self.progress() });
        }
        match self.claim(budget)? {
            Task::Prepare => self.alone(Phase::Copying, |work| work.prepare()),
            Task::Piece(range) => self.piece(range),
            Task::Finish => self.alone(Phase::Finished, |work| work.finish()),
            Task::Nothing => Ok(self.progress()),
            Task::Held => Ok(Progress { held: true, wait: Some(PATIENCE), ..self.progress() }),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let course = lock(&self.course);
        Progress {
            done: course.done,
            total: self.work.total(),
            copied: course.copied,
            finished: course.phase == Phase::Finished,
            held: false,
            wait: None,
        }
    }

    /// Lets no further piece begin until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Release);
    }

    /// Takes back [`pause`](Self::pause).
    pub fn resume(&self) {
        self.paused.store(false, Ordering::Release);
    }

    /// Ends the job at the next piece. What it has done stays, and is right as it is.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Lets the job not finish until [`release`](Self::release): it goes through the whole disk, and what points to the
    /// copy stays as it is.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// Takes back [`hold`](Self::hold).
    pub fn release(&self) {
        self.held.store(false, Ordering::Release);
    }

    /// Has a job that failed in some pieces go on with these. False if something else failed, for good.
    pub fn retry(&self) -> bool {
        let mut course = lock(&self.course);
        let again = course.phase == Phase::Failed && !course.again.is_empty();
        if again {
            (course.phase, course.failure) = (Phase::Copying, None);
        }
        again
    }

    /// Copies at most `limit` bytes a second from now on; 0 for no limit.
    pub fn set_speed(&self, limit: u64) {
        self.throttle.set_speed(limit);
    }

    /// Works for at most `percent` of the time while a guest makes requests, or for as long as it takes to move as many bytes
    /// as the guest does, and in short pieces then; 100 (as at first) for all of it. An idle guest costs the job nothing.
    pub fn set_share(&self, percent: u8) {
        self.throttle.set_share(percent);
    }

    fn claim(&self, budget: u64) -> Result<Task> {
        let total = self.work.total();
        let mut course = lock(&self.course);
        loop {
            if self.cancelled.load(Ordering::Acquire) {
                return Err(Error::Cancelled);
            }
            match course.phase {
                Phase::Created => {
                    course.phase = Phase::Alone;
                    return Ok(Task::Prepare);
                }
                Phase::Copying if !course.again.is_empty() => {
                    course.in_flight += 1;
                    return Ok(course.again.pop().map_or(Task::Nothing, Task::Piece));
                }
                Phase::Copying if course.next < total => {
                    let start = course.next;
                    course.next = self.piece_end(start, budget, total);
                    course.in_flight += 1;
                    return Ok(Task::Piece(start..course.next));
                }
                Phase::Copying if course.in_flight == 0 && self.held.load(Ordering::Acquire) => return Ok(Task::Held),
                Phase::Copying if course.in_flight == 0 => {
                    course.phase = Phase::Alone;
                    return Ok(Task::Finish);
                }
                Phase::Copying | Phase::Alone => course = wait(&self.changed, course),
                Phase::Finished => return Ok(Task::Nothing),
                Phase::Failed => {
                    let cause = course.failure.clone().unwrap_or_default();
                    return Err(Error::Invalid(format!("the {} job failed: {cause}", self.kind())));
                }
            }
        }
    }

    /// The end of a piece of about `budget` bytes, on the alignment or at the end of the disk.
    fn piece_end(&self, start: u64, budget: u64, total: u64) -> u64 {
        let alignment = self.work.alignment().max(1);
        // Of a guest's requests none waits for more than a short piece.
        let most = if self.throttle.yields(self.work.load()) { PIECE } else { MOST_AT_ONCE };
        // A tenth of a second's worth, so that a slow job still moves evenly.
        let most = match self.throttle.speed() {
            0 => most,
            speed => (speed / 10).clamp(1, most),
        };
        let length = budget.clamp(1, most).div_ceil(alignment).saturating_mul(alignment);
        start.saturating_add(length).min(total)
    }

    fn piece(&self, range: Range<u64>) -> Result<Progress> {
        let begun = self.throttle.begin();
        let result = self.work.piece(range.clone()).and_then(|copied| self.checkpoint(copied).map(|()| copied));
        self.throttle.end(begun, result.as_ref().copied().unwrap_or_default(), self.work.load());
        let mut course = lock(&self.course);
        course.in_flight -= 1;
        match &result {
            Ok(copied) => {
                course.done += range.end - range.start;
                course.copied += copied;
            }
            Err(error) => {
                course.again.push(range);
                course.fail(error);
            }
        }
        drop(course);
        self.changed.notify_all();
        result.map(|_| self.progress())
    }

    /// Makes durable what was copied, if that is much by now. The caller's piece counts as under way until it is.
    fn checkpoint(&self, copied: u64) -> Result<()> {
        let mut course = lock(&self.course);
        course.unsaved += copied;
        if course.unsaved < CHECKPOINT {
            return Ok(());
        }
        course.unsaved = 0;
        drop(course);
        self.work.checkpoint()
    }

    fn alone(&self, then: Phase, body: impl FnOnce(&dyn Work) -> Result<()>) -> Result<Progress> {
        let result = body(&*self.work);
        let mut course = lock(&self.course);
        match &result {
            Ok(()) => course.phase = then,
            Err(error) => course.fail(error),
        }
        drop(course);
        self.changed.notify_all();
        result.map(|()| self.progress())
    }
}

impl Course {
    fn fail(&mut self, error: &Error) {
        self.phase = Phase::Failed;
        self.failure.get_or_insert_with(|| error.to_string());
    }
}

enum Task {
    Prepare,
    Piece(Range<u64>),
    Finish,
    Held,
    Nothing,
}

/// Steps `job` on this thread until it is finished, telling `on_progress` after every step.
///
/// Call it from several threads at once to copy with several.
///
/// # Errors
/// As [`Job::step`].
pub fn drive(job: &Job, mut on_progress: impl FnMut(&Progress)) -> Result<()> {
    loop {
        let progress = job.step(MOST_AT_ONCE)?;
        on_progress(&progress);
        if progress.finished {
            return Ok(());
        }
        if let Some(time) = progress.wait {
            job.host.sleep(time);
        }
    }
}
