//! The requests that arrived together, carried out together.

use super::Server;
use super::background::{Background, Task, Work};
use crate::device;
use crate::nbd::proto::Errno;
use crate::nbd::{Command, Replies, Request, Terms};
use std::ops::Range;

/// Most requests of one batch.
const MOST: usize = 256;
/// Bytes that one batch reads; a single request may read more.
const MOST_READ: u64 = 4 << 20;
/// Longer changes without a payload may take long.
const SHORT: u64 = 1 << 20;
/// What direct I/O asks of addresses at most.
const ALIGNMENT: usize = 4096;

/// Memory that is read into, where direct I/O takes it as it is.
#[derive(Debug, Default)]
pub(super) struct Arena {
    memory: Vec<u8>,
    start: usize,
}

impl Arena {
    /// What the places of a batch are places of.
    pub(super) fn memory(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    /// Room for so many bytes. What is much more than batches need as a rule is given back.
    fn make_room(&mut self, length: usize) -> &mut [u8] {
        let wanted = length + ALIGNMENT;
        if self.memory.len() < wanted || self.memory.len() > wanted.max(2 * MOST_READ as usize) {
            self.memory = vec![0; wanted];
            self.start = self.memory.as_ptr().align_offset(ALIGNMENT);
        }
        &mut self.memory[self.start..][..length]
    }
}

/// Requests of one client.
#[derive(Default)]
pub(super) struct Batch<'a> {
    requests: Vec<Request<'a>>,
    /// Bytes that are read.
    read: u64,
}

impl<'a> Batch<'a> {
    /// Whether it takes no more.
    pub(super) fn is_full(&self) -> bool {
        self.requests.len() >= MOST || self.read >= MOST_READ
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn push(&mut self, request: Request<'a>) {
        if let Command::Read { range, .. } = &request.command {
            self.read += range.end - range.start;
        }
        self.requests.push(request);
    }

    /// Nothing of it is done: the server stops.
    pub(super) fn refuse(self, replies: &mut Replies) {
        self.requests.iter().for_each(|request| replies.error(request.cookie, Errno::NBD_ESHUTDOWN));
    }

    /// Carries it out. What may take long is handed on and answered later; the replies to the rest are in `replies`, what
    /// was read in `arena`.
    pub(super) fn run(self, server: &Server, terms: &Terms, arena: &mut Arena, replies: &mut Replies) -> Vec<Later> {
        let device = &*terms.export.device;
        let places = places(&self.requests);
        let mut rest = arena.make_room(places.last().map_or(0, |place| place.end));
        let mut batch = Vec::with_capacity(self.requests.len());
        let mut at = 0;
        for (request, place) in self.requests.iter().zip(&places) {
            let (buffer, after) = std::mem::take(&mut rest).split_at_mut(place.end - at);
            (rest, at) = (after, place.end);
            let length = place.len();
            let skipped = buffer.len() - length;
            batch.extend(transfer(&request.command, &mut buffer[skipped..]));
        }
        let mut results = if batch.is_empty() { Vec::new() } else { device.submit(&mut batch) }.into_iter();
        drop(batch);
        let mut later = Vec::new();
        for (request, place) in self.requests.into_iter().zip(places) {
            let cookie = request.cookie;
            let work = match request.command {
                Command::Refused(errno) => {
                    replies.error(cookie, errno);
                    continue;
                }
                Command::Flush => {
                    later.push(Later::Flush(cookie));
                    continue;
                }
                Command::BlockStatus { range, one } => {
                    match terms.describe(range, one) {
                        Ok(found) => replies.block_status(cookie, &found),
                        Err(error) => replies.error(cookie, server.errno(&error)),
                    }
                    continue;
                }
                Command::Disc => continue,
                command => command,
            };
            if let Some(task) = long(cookie, &work) {
                later.push(Later::Long(task));
                continue;
            }
            // Every other command went into the batch.
            match (results.next(), work) {
                (Some(Err(error)), _) => replies.error(cookie, server.errno(&error)),
                (_, Command::Read { range, df }) => replies.read(cookie, range.start, arena.memory(), place, df),
                (_, Command::Write { fua: true, .. } | Command::Trim { fua: true, .. })
                | (_, Command::WriteZeroes { fua: true, .. }) => later.push(Later::Flush(cookie)),
                _ => replies.done(cookie),
            }
        }
        later
    }
}

/// What is answered later.
pub(super) enum Later {
    Flush(u64),
    Long(Task),
}

impl Later {
    pub(super) fn hand_to(self, background: &Background) {
        match self {
            Later::Flush(cookie) => background.flush(cookie),
            Later::Long(task) => background.long(task),
        }
    }
}

/// Where each request reads into: reads begin at aligned places.
fn places(requests: &[Request<'_>]) -> Vec<Range<usize>> {
    let mut end = 0usize;
    let place = |request: &Request<'_>| {
        let start = match &request.command {
            Command::Read { range, .. } => {
                let start = end.next_multiple_of(ALIGNMENT);
                end = start + (range.end - range.start) as usize;
                start
            }
            _ => end,
        };
        start..end
    };
    requests.iter().map(place).collect()
}

/// The request as the device takes it, if it is one that is short.
fn transfer<'a>(command: &Command<'a>, buffer: &'a mut [u8]) -> Option<device::Request<'a>> {
    match command {
        Command::Read { range, .. } => Some(device::Request::Read { buffer, offset: range.start }),
        Command::Write { offset, data, .. } => Some(device::Request::Write { data, offset: *offset }),
        Command::Trim { range, .. } if is_short(range) => Some(device::Request::Discard { range: range.clone() }),
        Command::WriteZeroes { range, unmap, .. } if is_short(range) => {
            Some(device::Request::WriteZeroes { range: range.clone(), unmap: *unmap })
        }
        _ => None,
    }
}

/// The request as a task of its own, if it may take long.
fn long(cookie: u64, command: &Command<'_>) -> Option<Task> {
    let (work, fua) = match command {
        Command::Trim { range, fua } if !is_short(range) => (Work::Trim(range.clone()), *fua),
        Command::WriteZeroes { range, unmap, fua } if !is_short(range) => {
            (Work::WriteZeroes(range.clone(), *unmap), *fua)
        }
        Command::Cache { range } => (Work::Cache(range.clone()), false),
        _ => return None,
    };
    Some(Task { cookie, work, fua })
}

fn is_short(range: &Range<u64>) -> bool {
    range.end - range.start <= SHORT
}
