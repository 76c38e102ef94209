//! The requests that arrived together, carried out together.

use super::Flaw;
use super::MAX_DESCRIPTORS;
use super::Server;
use super::background::{Later, Task, Work};
use super::replies::Replies;
use super::transmission::{Command, Parsed, Request, Terms, Transmission};
use crate::device;
use crate::nbd::proto::{Descriptor, Message};
use std::ops::Range;

/// Most requests of one batch.
const MOST: usize = 256;
/// Bytes that the replies of one batch may have; those of a single request may have more.
const MOST_REPLY: u64 = 4 << 20;
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
        if self.memory.len() < wanted || self.memory.len() > wanted.max(2 * MOST_REPLY as usize) {
            self.memory = vec![0; wanted];
            self.start = self.memory.as_ptr().align_offset(ALIGNMENT);
        }
        &mut self.memory[self.start..][..length]
    }
}

/// Requests of one client that arrived together.
#[derive(Default)]
pub(super) struct Batch<'a> {
    requests: Vec<Request<'a>>,
    /// Bytes that their replies may have.
    reply: u64,
    /// Bytes that they are made of.
    pub(super) taken: usize,
    /// Bytes that must be there before there is one more.
    pub(super) wanted: usize,
    /// Whether the client will send no more.
    pub(super) last: bool,
}

impl<'a> Batch<'a> {
    /// The requests of `bytes` that are complete, as many as one batch takes.
    ///
    /// # Errors
    /// The first is none. What comes before one that is none is served.
    pub(super) fn of(transmission: &Transmission, bytes: &'a [u8]) -> Result<Batch<'a>, Flaw> {
        let mut batch = Batch::default();
        while batch.requests.len() < MOST && batch.reply < MOST_REPLY && !batch.last {
            match transmission.next(&bytes[batch.taken..]) {
                Ok(Parsed::Request(length, request)) => {
                    batch.taken += length;
                    batch.last = request.command == Command::Disc;
                    batch.reply += longest_reply(&request.command, transmission.terms());
                    batch.requests.push(request);
                }
                Ok(Parsed::More(wanted)) => {
                    batch.wanted = wanted;
                    break;
                }
                Err(flaw) if batch.is_empty() => return Err(flaw),
                Err(_) => break,
            }
        }
        Ok(batch)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Carries it out. The replies are in `replies`, what was read in `arena`; what may take long is returned, and
    /// answered later.
    pub(super) fn run(self, server: &Server, terms: &Terms, arena: &mut Arena, replies: &mut Replies) -> Vec<Later> {
        let places = places(&self.requests);
        let results = self.transfer(terms, arena.make_room(places.last().map_or(0, |place| place.end)), &places);
        let mut later = Vec::new();
        for ((request, place), result) in self.requests.into_iter().zip(places).zip(results) {
            let cookie = request.cookie;
            let long = |work, fua| Later::Long(Task { cookie, work, fua });
            match (request.command, result) {
                (_, Some(Err(error))) => replies.error(cookie, server.errno(&error)),
                (Command::Read { range, df }, _) => replies.read(cookie, range.start, arena.memory(), place, df),
                (command, Some(Ok(()))) if is_fua(&command) => later.push(Later::Flush(cookie)),
                (_, Some(Ok(()))) => replies.done(cookie),
                // The rest was not carried out.
                (Command::Refused(errno), None) => replies.error(cookie, errno),
                (Command::Flush, None) => later.push(Later::Flush(cookie)),
                (Command::Trim { range, fua }, None) => later.push(long(Work::Trim(range), fua)),
                (Command::Cache { range }, None) => later.push(long(Work::Cache(range), false)),
                (Command::WriteZeroes { range, unmap, fua }, None) => {
                    later.push(long(Work::WriteZeroes(range, unmap), fua));
                }
                (Command::BlockStatus { range, one }, None) => match terms.describe(range, one) {
                    Ok(found) => replies.block_status(cookie, &found),
                    Err(error) => replies.error(cookie, server.errno(&error)),
                },
                (Command::Disc | Command::Write { .. }, None) => {}
            }
        }
        later
    }

    /// Takes out what other machines are asked for: that is answered later, so that what is near need not wait for it.
    pub(super) fn take_far(&mut self, terms: &Terms) -> Vec<Task> {
        let device = &*terms.export.device;
        let is_far = |request: &mut Request<'_>| match &request.command {
            Command::Read { range, .. } | Command::BlockStatus { range, .. } | Command::Cache { range } => {
                device.is_far(range, false)
            }
            Command::Write { offset, data, .. } => device.is_far(&(*offset..offset + data.len() as u64), true),
            Command::Trim { range, .. } | Command::WriteZeroes { range, .. } => device.is_far(range, true),
            Command::Flush | Command::Disc | Command::Refused(_) => false,
        };
        let far = self.requests.extract_if(.., is_far);
        far.map(|Request { cookie, command }| {
            let (work, fua) = match command {
                Command::Read { range, df } => (Work::Read(range, df), false),
                Command::BlockStatus { range, one } => (Work::BlockStatus(range, one), false),
                Command::Cache { range } => (Work::Cache(range), false),
                Command::Write { offset, data, fua } => (Work::Write(offset, data.to_vec()), fua),
                Command::Trim { range, fua } => (Work::Trim(range), fua),
                Command::WriteZeroes { range, unmap, fua } => (Work::WriteZeroes(range, unmap), fua),
                Command::Flush | Command::Disc | Command::Refused(_) => unreachable!("it asks nobody for anything"),
            };
            Task { cookie, work, fua }
        })
        .collect()
    }

    /// Has the device do at once what moves bytes and what is short. The results are those of the requests; there is
    /// none for what is left.
    fn transfer(&self, terms: &Terms, mut room: &mut [u8], places: &[Range<usize>]) -> Vec<Option<crate::Result<()>>> {
        let (mut batch, mut numbers, mut at) = (Vec::with_capacity(places.len()), Vec::new(), 0);
        for (number, (request, place)) in self.requests.iter().zip(places).enumerate() {
            let (before, rest) = std::mem::take(&mut room).split_at_mut(place.end - at);
            let buffer = &mut before[place.start - at..];
            (room, at) = (rest, place.end);
            if let Some(request) = device_request(&request.command, buffer) {
                batch.push(request);
                numbers.push(number);
            }
        }
        let mut results: Vec<_> = places.iter().map(|_| None).collect();
        if !batch.is_empty() {
            let done = terms.export.device.submit(&mut batch);
            numbers.into_iter().zip(done).for_each(|(number, result)| results[number] = Some(result));
        }
        results
    }
}

/// Bytes that the reply may have, as far as they count.
fn longest_reply(command: &Command<'_>, terms: &Terms) -> u64 {
    match command {
        Command::Read { range, .. } => range.end - range.start,
        Command::BlockStatus { one: false, .. } => (terms.contexts.len() * MAX_DESCRIPTORS * Descriptor::LENGTH) as u64,
        _ => 0,
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

/// The request as the device takes it, if it moves bytes or is short.
fn device_request<'a>(command: &Command<'a>, buffer: &'a mut [u8]) -> Option<device::Request<'a>> {
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

fn is_short(range: &Range<u64>) -> bool {
    range.end - range.start <= SHORT
}

/// Whether what it changes is durable before the reply.
fn is_fua(command: &Command<'_>) -> bool {
    match command {
        Command::Write { fua, .. } | Command::Trim { fua, .. } | Command::WriteZeroes { fua, .. } => *fua,
        _ => false,
    }
}
