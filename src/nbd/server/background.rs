//! What may take long: flushes, and what goes over long ranges. A second thread of the connection does it.

use super::Server;
use super::connection::Outlet;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::nbd::{Replies, Terms};
use crate::sync::{Condvar, Mutex, lock, wait};
use std::collections::VecDeque;
use std::ops::Range;

/// While so many tasks wait, a client that sends more waits too.
const MOST: usize = 1024;
/// Bytes that are read at once to have them cached.
const CACHE_STEP: u64 = 1 << 20;

/// What is answered later.
#[derive(Debug)]
pub(super) enum Later {
    /// Once all that is complete now is durable.
    Flush(u64),
    /// Once it is done.
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
    Trim(Range<u64>),
    Cache(Range<u64>),
    WriteZeroes(Range<u64>, bool),
}

/// The tasks of one connection.
#[derive(Default)]
pub(super) struct Background {
    tasks: Mutex<Tasks>,
    changed: Condvar,
}

#[derive(Default)]
struct Tasks {
    /// Requests that are answered after the next flush.
    flushes: Vec<u64>,
    long: VecDeque<Task>,
    closed: bool,
}

impl Tasks {
    fn len(&self) -> usize {
        self.flushes.len() + self.long.len()
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
            tasks = wait(&self.changed, tasks);
        }
        for later in later {
            match later {
                Later::Flush(cookie) => tasks.flushes.push(cookie),
                Later::Long(task) => tasks.long.push_back(task),
            }
        }
        self.changed.notify_all();
    }

    /// There will be no more tasks; those that wait are done.
    pub(super) fn close(&self) {
        lock(&self.tasks).closed = true;
        self.changed.notify_all();
    }

    /// Flushes come first: they are short beside the rest, and guests wait for them.
    fn next(&self) -> Option<Turn> {
        let mut tasks = lock(&self.tasks);
        loop {
            let turn = match () {
                () if !tasks.flushes.is_empty() => Some(Turn::Flush(std::mem::take(&mut tasks.flushes))),
                () => tasks.long.pop_front().map(Turn::Long),
            };
            if turn.is_some() {
                self.changed.notify_all();
            }
            if turn.is_some() || tasks.closed {
                return turn;
            }
            tasks = wait(&self.changed, tasks);
        }
    }

    /// Does tasks until there will be no more.
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
                }
                Turn::Long(task) => match task.work.run(&*terms.export.device) {
                    Ok(()) if task.fua => lock(&self.tasks).flushes.push(task.cookie),
                    Ok(()) => replies.done(task.cookie),
                    Err(error) => replies.error(task.cookie, server.errno(&error)),
                },
            }
            outlet.send(&replies, &[]);
            replies.clear();
        }
    }
}

fn flush(terms: &Terms) -> Result<()> {
    if terms.export.read_only { Ok(()) } else { terms.export.device.flush() }
}

impl Work {
    fn run(self, device: &(impl BlockDevice + ?Sized)) -> Result<()> {
        match self {
            Work::Trim(range) => device.discard(range),
            Work::WriteZeroes(range, unmap) => device.write_zeroes(range, unmap),
            Work::Cache(range) => {
                let mut buffer = vec![0; (range.end - range.start).min(CACHE_STEP) as usize];
                let mut at = range.start;
                while at < range.end {
                    let piece = (range.end - at).min(CACHE_STEP);
                    device.read_at(&mut buffer[..piece as usize], at)?;
                    at += piece;
                }
                Ok(())
            }
        }
    }
}
