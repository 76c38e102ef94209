//! What may take long. Flushes, and what goes over long ranges, a second thread of the connection does; what other
//! machines are asked for has more threads, so that it holds up nothing that is near.

use super::Server;
use super::connection::Outlet;
use super::replies::Replies;
use super::transmission::Terms;
use crate::device;
use crate::error::Result;
use crate::nbd::proto::Descriptor;
use crate::sync::{Condvar, Mutex, lock, wait};
use std::collections::VecDeque;
use std::ops::Range;

/// While so many tasks wait, a client that sends more waits too.
const MOST: usize = 1024;
/// Bytes that are read at once to have them cached.
const CACHE_STEP: u64 = 1 << 20;
/// Most threads of a connection that wait for other machines.
const MOST_WORKERS: usize = 16;
/// Most writes that such a thread carries out together: what comes after them is begun before they end.
const MOST_TOGETHER: usize = 16;
/// Bytes of memory that requests of a connection may take which wait for other machines; a client that sends more waits.
const MOST_COST: u64 = 64 << 20;

/// What is answered later.
#[derive(Debug)]
pub(super) enum Later {
    /// Once all that is complete now is durable.
    Flush(u64),
    /// Once it is done, one after the other.
    Long(Task),
}

/// Something to do, and then perhaps to make durable.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) cookie: u64,
    pub(super) work: Work,
    pub(super) fua: bool,
}

#[derive(Debug)]
pub(super) enum Work {
    /// The range, and whether the reply is in one piece.
    Read(Range<u64>, bool),
    Write(u64, Vec<u8>),
    Trim(Range<u64>),
    Cache(Range<u64>),
    WriteZeroes(Range<u64>, bool),
    /// The range, and whether one descriptor is wanted.
    BlockStatus(Range<u64>, bool),
}

impl Task {
    /// Bytes of memory that it takes.
    fn cost(&self) -> u64 {
        match &self.work {
            Work::Read(range, _) => range.end - range.start,
            Work::Write(_, data) => data.len() as u64,
            Work::Trim(_) | Work::Cache(_) | Work::WriteZeroes(..) | Work::BlockStatus(..) => 0,
        }
    }
}

/// The tasks of one connection.
#[derive(Default)]
pub(super) struct Background {
    tasks: Mutex<Tasks>,
    /// Signalled when there is something for the thread that flushes, or will not be.
    changed: Condvar,
    /// The same for threads for far tasks.
    far: Condvar,
    /// Signalled when there is room for more tasks.
    room: Condvar,
}

#[derive(Default)]
struct Tasks {
    /// Requests that are answered after the next flush.
    flushes: Vec<u64>,
    long: VecDeque<Task>,
    far: VecDeque<Task>,
    /// Bytes of memory that far tasks take, those that are under way too.
    cost: u64,
    /// Whether a flush has come before what is long that waits.
    overtaken: bool,
    /// Threads for far tasks, and those of them that wait for one.
    workers: usize,
    idle: usize,
    closed: bool,
}

impl Tasks {
    fn len(&self) -> usize {
        self.flushes.len() + self.long.len() + self.far.len()
    }
}

/// What is done next.
enum Turn {
    Flush(Vec<u64>),
    Long(Task),
}

impl Background {
    /// Takes over what is answered later, all at once: flushes that came together are one.
    pub(super) fn add(&self, later: Vec<Later>) {
        if later.is_empty() {
            return;
        }
        let mut tasks = lock(&self.tasks);
        while tasks.len() >= MOST {
            tasks = wait(&self.room, tasks);
        }
        for later in later {
            match later {
                Later::Flush(cookie) => tasks.flushes.push(cookie),
                Later::Long(task) => tasks.long.push_back(task),
            }
        }
        drop(tasks);
        self.changed.notify_all();
    }

    /// Takes over what another machine is asked for, and says how many more threads that takes.
    pub(super) fn add_far(&self, far: Vec<Task>) -> usize {
        let mut tasks = lock(&self.tasks);
        for task in far {
            // One that takes more than there may be is taken alone.
            while tasks.len() >= MOST || tasks.cost > 0 && tasks.cost + task.cost() > MOST_COST {
                self.far.notify_one();
                tasks = wait(&self.room, tasks);
            }
            tasks.cost += task.cost();
            tasks.far.push_back(task);
        }
        let writes = tasks.far.iter().filter(|task| matches!(task.work, Work::Write(..))).count();
        let wanted = tasks.far.len() - writes + writes.div_ceil(MOST_TOGETHER);
        let more = wanted.saturating_sub(tasks.idle).min(MOST_WORKERS - tasks.workers);
        tasks.workers += more;
        drop(tasks);
        self.far.notify_one();
        more
    }

    /// A thread for far tasks ends, or is not to be had.
    pub(super) fn lacks_thread(&self) {
        lock(&self.tasks).workers -= 1;
        self.changed.notify_all();
    }

    /// There will be no more tasks. Those that wait are done if the client has ended in order, and `finish` says so. One that
    /// is gone may ask for the same on another connection, and then for something else: what is not begun must not come after
    /// that.
    pub(super) fn close(&self, finish: bool) {
        let mut tasks = lock(&self.tasks);
        tasks.closed = true;
        if !finish {
            tasks.long.clear();
            tasks.far.clear();
        }
        drop(tasks);
        self.changed.notify_all();
        self.far.notify_all();
    }

    /// Flushes come first: they are short beside the rest, and guests wait for them. They take turns with what is long, which
    /// would else wait for ever where somebody always flushes.
    fn next(&self) -> Option<Turn> {
        let mut tasks = lock(&self.tasks);
        loop {
            let alone = tasks.long.is_empty();
            let flush = !tasks.flushes.is_empty() && (alone || !tasks.overtaken);
            tasks.overtaken = flush && !alone;
            let turn = match flush {
                true => Some(Turn::Flush(std::mem::take(&mut tasks.flushes))),
                false => tasks.long.pop_front().map(Turn::Long),
            };
            if turn.is_some() {
                self.room.notify_all();
            }
            // Far tasks may end in a flush.
            if turn.is_some() || tasks.closed && tasks.workers == 0 {
                return turn;
            }
            tasks = wait(&self.changed, tasks);
        }
    }

    /// Far tasks for one thread: several are writes.
    fn next_far(&self) -> Option<Vec<Task>> {
        let mut tasks = lock(&self.tasks);
        tasks.idle += 1;
        while tasks.far.is_empty() && !tasks.closed {
            tasks = wait(&self.far, tasks);
        }
        tasks.idle -= 1;
        let is_write = |task: &Task| matches!(task.work, Work::Write(..));
        let writes = tasks.far.iter().take(MOST_TOGETHER).take_while(|task| is_write(task)).count();
        let most = writes.max(1).min(tasks.far.len());
        let taken: Vec<Task> = tasks.far.drain(..most).collect();
        let more = !tasks.far.is_empty();
        drop(tasks);
        if more {
            self.far.notify_one();
        }
        self.room.notify_all();
        (!taken.is_empty()).then_some(taken)
    }

    /// Flushes and does what is long until there will be no more.
    pub(super) fn run(&self, server: &Server, terms: &Terms, outlet: &Outlet) {
        let mut replies = Replies::new(terms.structured);
        while let Some(turn) = self.next() {
            match turn {
                Turn::Flush(cookies) => {
                    let flushed = flush(terms).map_err(|error| server.errno(&error));
                    for cookie in cookies {
                        match flushed {
                            Ok(()) => replies.done(cookie),
                            Err(errno) => replies.error(cookie, errno),
                        }
                    }
                    outlet.send(&replies, &[]);
                    replies.clear();
                }
                Turn::Long(task) => self.carry_out(task, server, terms, outlet),
            }
        }
    }

    /// Does what is far until there will be no more.
    pub(super) fn run_far(&self, server: &Server, terms: &Terms, outlet: &Outlet) {
        // It is one less also if it panics: the thread that flushes would wait for it, and the server for that.
        let _leaving = Leaving(self);
        while let Some(tasks) = self.next_far() {
            let cost: u64 = tasks.iter().map(Task::cost).sum();
            // Those that wait when the server stops are left to the next one.
            if !server.stopping() {
                self.carry_out_all(tasks, server, terms, outlet);
            }
            lock(&self.tasks).cost -= cost;
            self.room.notify_all();
        }
    }

    /// Does what several tasks ask for: writes together.
    fn carry_out_all(&self, tasks: Vec<Task>, server: &Server, terms: &Terms, outlet: &Outlet) {
        let mut writes: Vec<device::Request<'_>> = tasks.iter().filter_map(|task| task.work.write()).collect();
        if writes.len() < tasks.len() {
            return tasks.into_iter().for_each(|task| self.carry_out(task, server, terms, outlet));
        }
        let results = terms.export.device.submit(&mut writes);
        let mut replies = Replies::new(terms.structured);
        let mut durable = Vec::new();
        for (task, result) in tasks.iter().zip(results) {
            match result {
                Ok(()) if task.fua => durable.push(task.cookie),
                Ok(()) => replies.done(task.cookie),
                Err(error) => replies.error(task.cookie, server.errno(&error)),
            }
        }
        self.flush_later(durable);
        outlet.send(&replies, &[]);
    }

    /// Has requests answered after the next flush.
    fn flush_later(&self, cookies: Vec<u64>) {
        if !cookies.is_empty() {
            lock(&self.tasks).flushes.extend(cookies);
            self.changed.notify_all();
        }
    }

    fn carry_out(&self, task: Task, server: &Server, terms: &Terms, outlet: &Outlet) {
        let Task { cookie, work, fua } = task;
        let (mut replies, mut memory) = (Replies::new(terms.structured), Vec::new());
        match work.run(terms, &mut memory) {
            Ok(Done::Changed) if fua => return self.flush_later(vec![cookie]),
            Ok(Done::Changed) => replies.done(cookie),
            Ok(Done::Read(offset, df)) => replies.read(cookie, offset, &memory, 0..memory.len(), df),
            Ok(Done::Told(found)) => replies.block_status(cookie, &found),
            Err(error) => replies.error(cookie, server.errno(&error)),
        }
        outlet.send(&replies, &memory);
    }
}

/// A thread for far tasks that will end.
struct Leaving<'a>(&'a Background);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.lacks_thread();
    }
}

fn flush(terms: &Terms) -> Result<()> {
    if terms.export.read_only { Ok(()) } else { terms.export.device.flush() }
}

/// What work has led to.
enum Done {
    Changed,
    /// What was read is in memory: where on the disk it begins, and whether the reply is in one piece.
    Read(u64, bool),
    Told(Vec<Vec<Descriptor>>),
}

impl Work {
    /// It as one of a batch, if it is a write.
    fn write(&self) -> Option<device::Request<'_>> {
        match self {
            Work::Write(offset, data) => Some(device::Request::Write { data, offset: *offset }),
            _ => None,
        }
    }

    fn run(self, terms: &Terms, memory: &mut Vec<u8>) -> Result<Done> {
        let device = &*terms.export.device;
        match self {
            Work::Read(range, df) => {
                memory.resize((range.end - range.start) as usize, 0);
                device.read_at(memory, range.start)?;
                return Ok(Done::Read(range.start, df));
            }
            Work::BlockStatus(range, one) => return terms.describe(range, one).map(Done::Told),
            Work::Write(offset, data) => device.write_at(&data, offset)?,
            Work::Trim(range) => device.discard(range)?,
            Work::WriteZeroes(range, unmap) => device.write_zeroes(range, unmap)?,
            Work::Cache(range) => {
                memory.resize((range.end - range.start).min(CACHE_STEP) as usize, 0);
                let mut at = range.start;
                while at < range.end {
                    let piece = (range.end - at).min(CACHE_STEP);
                    device.read_at(&mut memory[..piece as usize], at)?;
                    at += piece;
                }
            }
        }
        Ok(Done::Changed)
    }
}
