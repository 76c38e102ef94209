//! One connection, on which the requests of many callers are under way at once.
//!
//! No thread of its own reads it: of the callers that wait one does. It fetches what is its own into its own memory; when
//! the next reply is another caller's, that one goes on reading. So nothing is copied on the way.

use super::Breach;
use super::handshake::{Handshake, Move, Offer};
use super::replies::{self, Chunk, Found, What};
use crate::nbd::inbox::Inbox;
use crate::nbd::proto::*;
use crate::nbd::socket::{Socket, StartTls, write_all};
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering, lock, wait};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Most requests that one caller has under way: their heads fit into what any socket takes, so that who sends them
/// never waits for a server that waits for its replies to be read.
pub(super) const MOST: usize = 256;
/// Bits of a cookie that say which of a caller's requests it is.
const COOKIE_BITS: u32 = 16;
/// Most chunks of one reply that are not in order, or wait for their caller.
const MOST_CHUNKS: usize = 4096;
/// How long a server may take to hear that this client goes.
const GOODBYE: Duration = Duration::from_secs(1);
/// Most bytes of chunks that wait for their caller.
const MOST_POSTED: usize = 16 << 20;

impl Chunk {
    /// The number of the caller that it is for.
    fn call(&self) -> u64 {
        self.cookie >> COOKIE_BITS
    }

    /// Bytes of memory that it takes, beside itself.
    fn cost(&self) -> usize {
        match &self.what {
            What::Status { descriptors, .. } => descriptors.len() * size_of::<Descriptor>(),
            What::Failed(_, words) => words.len(),
            What::Simple | What::Nothing | What::Data { .. } | What::Hole { .. } => 0,
        }
    }
}

/// The connection is gone, and why.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Loss {
    #[error("{0}")]
    Host(String),
    #[error("the server ended the connection")]
    Ended,
    #[error("{0}")]
    Breach(#[from] Breach),
}

impl From<io::Error> for Loss {
    fn from(error: io::Error) -> Loss {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Loss::Host("the server does not answer".into()),
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Loss::Ended,
            _ => Loss::Host(error.to_string()),
        }
    }
}

/// Why a call did not do what it should.
#[derive(Debug)]
pub(super) enum Failure {
    Lost(Loss),
    /// The server's number of the error, and its words.
    Refused(u32, String),
}

impl From<Loss> for Failure {
    fn from(loss: Loss) -> Failure {
        Failure::Lost(loss)
    }
}

/// What a request asks for.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
    /// Zeros, and whether the server may give the space back.
    Zeroes(bool),
    Flush,
    /// What the metadata context says: where the reply goes.
    Status(&'a mut Vec<Descriptor>),
}

/// One request, and how far its reply has come.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    asked: Asked<'a>,
    range: Range<u64>,
    reply: Reply,
}

#[derive(Debug, Default)]
struct Reply {
    /// What of a read has arrived: apart, in no order.
    arrived: Vec<Range<u64>>,
    refused: Option<(u32, String)>,
    done: bool,
}

impl<'a> Ask<'a> {
    /// Asks for `range`, which is not longer than the protocol allows.
    pub(super) fn new(asked: Asked<'a>, range: Range<u64>) -> Ask<'a> {
        Ask { asked, range, reply: Reply::default() }
    }

    pub(super) fn asked(&self) -> &Asked<'a> {
        &self.asked
    }

    pub(super) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    fn head(&self, cookie: u64) -> RequestHead {
        let (command, flags) = match &self.asked {
            Asked::Read(_) => (NBD_CMD_READ, 0),
            Asked::Write(_) => (NBD_CMD_WRITE, 0),
            Asked::Zeroes(true) => (NBD_CMD_WRITE_ZEROES, 0),
            Asked::Zeroes(false) => (NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE),
            Asked::Flush => (NBD_CMD_FLUSH, 0),
            Asked::Status(_) => (NBD_CMD_BLOCK_STATUS, 0),
        };
        let length = (self.range.end - self.range.start) as u32;
        RequestHead { magic: NBD_REQUEST_MAGIC, flags, command, cookie, offset: self.range.start, length }
    }

    /// Where a stretch of the disk lies in the memory that is read into. It must be part of what was asked for, and not
    /// have arrived yet.
    fn room(&mut self, offset: u64, length: u32) -> Result<&mut [u8], Breach> {
        let Asked::Read(room) = &mut self.asked else { return Err(Breach::Chunk) };
        let end = offset.checked_add(u64::from(length)).ok_or(Breach::Range)?;
        let arrived = &mut self.reply.arrived;
        let outside = offset < self.range.start || end > self.range.end || length == 0;
        if outside || arrived.iter().any(|other| other.start < end && offset < other.end) {
            return Err(Breach::Range);
        }
        let full = arrived.len() == MOST_CHUNKS;
        match arrived.last_mut().filter(|last| last.end == offset) {
            Some(last) => last.end = end,
            None if full => return Err(Breach::Chunk),
            None => arrived.push(offset..end),
        }
        let place = (offset - self.range.start) as usize..(end - self.range.start) as usize;
        Ok(&mut room[place])
    }

    /// Deals with a chunk of the reply. What follows it on the wire comes from `source`, if something does.
    fn take(&mut self, chunk: Chunk, structured: bool, source: Option<(&mut Inbox, &dyn Socket)>) -> Result<(), Loss> {
        if self.reply.done {
            return Err(Breach::Cookie.into());
        }
        let fetch = |room: &mut [u8]| match source {
            Some((inbox, socket)) => inbox.fetch(socket, room).map_err(Loss::from),
            None => Err(Breach::Chunk.into()),
        };
        match chunk.what {
            What::Simple => match &mut self.asked {
                Asked::Read(_) if structured => return Err(Breach::Chunk.into()),
                Asked::Status(_) => return Err(Breach::Chunk.into()),
                Asked::Read(room) => {
                    fetch(room)?;
                    self.reply.arrived.push(self.range.clone());
                }
                Asked::Write(_) | Asked::Zeroes(_) | Asked::Flush => {}
            },
            What::Nothing => {}
            What::Failed(errno, words) => self.reply.refused = Some((errno, words)),
            What::Data { offset, length } => fetch(self.room(offset, length)?)?,
            What::Hole { offset, length } => self.room(offset, length)?.fill(0),
            What::Status { descriptors, .. } => match &mut self.asked {
                Asked::Status(found) => **found = descriptors,
                _ => return Err(Breach::Chunk.into()),
            },
        }
        if chunk.last {
            self.reply.done = true;
            self.check_whole()?;
        }
        Ok(())
    }

    /// A reply of success must hold what was asked for.
    fn check_whole(&self) -> Result<(), Breach> {
        let arrived: u64 = self.reply.arrived.iter().map(|range| range.end - range.start).sum();
        let whole = match &self.asked {
            Asked::Read(room) => arrived == room.len() as u64,
            Asked::Status(found) => !found.is_empty(),
            Asked::Write(_) | Asked::Zeroes(_) | Asked::Flush => true,
        };
        if whole || self.reply.refused.is_some() { Ok(()) } else { Err(Breach::Missing) }
    }
}

/// A connection to one export.
pub(super) struct Wire {
    socket: Arc<dyn Socket>,
    offer: Offer,
    /// Held by whoever sends: requests go out whole.
    sending: Mutex<()>,
    hall: Mutex<Hall>,
    changed: Condvar,
    calls: AtomicU64,
}

/// Where callers wait for their replies.
struct Hall {
    /// What has arrived; whoever reads has it with them.
    inbox: Option<Inbox>,
    /// A chunk that waits for the caller it belongs to. What follows it on the wire is that caller's too.
    due: Option<Chunk>,
    /// The callers that have requests under way, by their numbers.
    open: BTreeMap<u64, Open>,
    lost: Option<Loss>,
}

/// A caller that has requests under way.
struct Open {
    /// Whether they read.
    reads: bool,
    /// What others have read for it.
    posted: Vec<Chunk>,
}

/// What a caller finds that has waited.
enum Turn {
    /// What others have read for it.
    Posted(Vec<Chunk>),
    /// It is to read, first what follows the chunk, if there is one.
    Read(Inbox, Option<Chunk>),
}

impl Wire {
    /// Haggles over `socket` until the server has promised the export, and the metadata context if it has that. It is given so much time; after that it may take
    /// as long as it likes, since nobody knows how long a flush takes.
    ///
    /// # Errors
    /// The server is none, is too slow, or has no such export.
    pub(super) fn open(
        mut socket: Arc<dyn Socket>,
        (export, context): (&str, &str),
        tls: Option<&Arc<dyn StartTls>>,
        time: Duration,
    ) -> Result<Wire, Loss> {
        let end = Instant::now() + time;
        let mut handshake = Handshake::new(export, context, tls.is_some());
        let (mut inbox, mut out) = (Inbox::new(), Vec::new());
        let offer = loop {
            let step = handshake.next(inbox.bytes(), &mut out)?;
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err(io::Error::from(ErrorKind::TimedOut).into());
            }
            socket.set_timeout(Some(rest))?;
            if !out.is_empty() {
                write_all(&*socket, &mut [IoSlice::new(&out)])?;
                out.clear();
            }
            match step {
                Move::More(wanted) => {
                    if !inbox.fill(&*socket, wanted)? {
                        return Err(Loss::Ended);
                    }
                }
                Move::GoOn(taken) => inbox.take(taken),
                Move::StartTls(taken) => {
                    inbox.take(taken);
                    // What has arrived already is no more to be trusted than what comes: it goes to TLS, and nowhere else.
                    let early = std::mem::replace(&mut inbox, Inbox::new());
                    let tls = tls.ok_or(Breach::NoTls)?;
                    socket = tls.start(socket, early.bytes(), end).map_err(|error| match error.kind() {
                        ErrorKind::InvalidData | ErrorKind::InvalidInput => Breach::Tls(error.to_string()).into(),
                        _ => Loss::from(error),
                    })?;
                    handshake.secured(&mut out);
                }
                Move::Chosen(taken, offer) => {
                    inbox.take(taken);
                    break offer;
                }
            }
        };
        socket.set_timeout(None)?;
        let hall = Hall { inbox: Some(inbox), due: None, open: BTreeMap::new(), lost: None };
        let (sending, changed, calls) = (Mutex::new(()), Condvar::new(), AtomicU64::new(0));
        Ok(Wire { socket, offer, sending, hall: Mutex::new(hall), changed, calls })
    }

    /// What the server promised.
    pub(super) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Sends all requests and waits for all replies.
    ///
    /// # Errors
    /// The connection is lost: what the server did of it nobody knows. Or the first request that the server refused;
    /// the others are done.
    pub(super) fn call(&self, asks: &mut [Ask<'_>]) -> Result<(), Failure> {
        for asks in asks.chunks_mut(MOST) {
            let call = self.calls.fetch_add(1, Ordering::Relaxed) & (u64::MAX >> COOKIE_BITS);
            let reads = asks.iter().any(|ask| matches!(ask.asked, Asked::Read(_)));
            lock(&self.hall).open.insert(call, Open { reads, posted: Vec::new() });
            let done = self.send(call, asks).and_then(|()| self.receive(call, asks));
            lock(&self.hall).open.remove(&call);
            done?;
        }
        match asks.iter_mut().find_map(|ask| ask.reply.refused.take()) {
            Some((errno, words)) => Err(Failure::Refused(errno, words)),
            None => Ok(()),
        }
    }

    fn send(&self, call: u64, asks: &mut [Ask<'_>]) -> Result<(), Loss> {
        let mut heads = Vec::with_capacity(asks.len() * RequestHead::LENGTH);
        for (ask, index) in asks.iter_mut().zip(0..) {
            ask.reply = Reply::default();
            ask.head(call << COOKIE_BITS | index).put(&mut heads);
        }
        let mut slices = Vec::with_capacity(asks.len() * 2);
        for (ask, head) in asks.iter().zip(heads.chunks(RequestHead::LENGTH)) {
            slices.push(IoSlice::new(head));
            if let Asked::Write(data) = &ask.asked {
                slices.push(IoSlice::new(data));
            }
        }
        let sending = lock(&self.sending);
        let sent = write_all(&*self.socket, &mut slices);
        drop(sending);
        sent.map_err(|error| self.lose(error.into()))
    }

    /// Waits for the replies to `asks`, and reads them and those of others as it must.
    fn receive(&self, call: u64, asks: &mut [Ask<'_>]) -> Result<(), Loss> {
        let mut left = asks.len();
        while left > 0 {
            match self.turn(call)? {
                Turn::Posted(chunks) => {
                    for chunk in chunks {
                        left -= self.take(chunk, asks, None).map_err(|loss| self.lose(loss))?;
                    }
                }
                Turn::Read(mut inbox, due) => {
                    let read = self.read(call, asks, &mut left, &mut inbox, due).map_err(|loss| self.lose(loss));
                    let due = read?;
                    let mut hall = lock(&self.hall);
                    (hall.inbox, hall.due) = (Some(inbox), due);
                    drop(hall);
                    self.changed.notify_all();
                }
            }
        }
        Ok(())
    }

    /// Waits until there is something for this caller: what others have read for it, or its turn to read.
    fn turn(&self, call: u64) -> Result<Turn, Loss> {
        let mut hall = lock(&self.hall);
        loop {
            if let Some(loss) = &hall.lost {
                return Err(loss.clone());
            }
            let posted = hall.open.get_mut(&call).map(|open| std::mem::take(&mut open.posted)).unwrap_or_default();
            if !posted.is_empty() {
                return Ok(Turn::Posted(posted));
            }
            if hall.due.as_ref().is_none_or(|due| due.call() == call)
                && let Some(inbox) = hall.inbox.take()
            {
                return Ok(Turn::Read(inbox, hall.due.take()));
            }
            hall = wait(&self.changed, hall);
        }
    }

    /// Reads until all `asks` have their replies, or bytes follow that are another caller's: its chunk is returned.
    fn read(
        &self,
        call: u64,
        asks: &mut [Ask<'_>],
        left: &mut usize,
        inbox: &mut Inbox,
        mut due: Option<Chunk>,
    ) -> Result<Option<Chunk>, Loss> {
        while *left > 0 {
            let chunk = match due.take() {
                Some(chunk) => chunk,
                None => self.fetch(inbox)?,
            };
            if chunk.call() == call {
                *left -= self.take(chunk, asks, Some(inbox))?;
            } else if let Some(chunk) = self.post(chunk)? {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    /// Puts a chunk of another caller where that one finds it. A chunk that bytes follow is returned: only that caller
    /// has room for them. The others must not wait for it to look: it may be sending still, to a server that sends too.
    fn post(&self, chunk: Chunk) -> Result<Option<Chunk>, Breach> {
        let mut hall = lock(&self.hall);
        let open = hall.open.get_mut(&chunk.call()).ok_or(Breach::Cookie)?;
        if matches!(chunk.what, What::Data { .. }) || open.reads && chunk.what == What::Simple {
            return Ok(Some(chunk));
        }
        let cost: usize = open.posted.iter().map(Chunk::cost).sum();
        if open.posted.len() == MOST_CHUNKS || cost + chunk.cost() > MOST_POSTED {
            return Err(Breach::Chunk);
        }
        open.posted.push(chunk);
        drop(hall);
        self.changed.notify_all();
        Ok(None)
    }

    /// Deals with a chunk of a reply to one of `asks`, and returns how many replies are whole by that. Without an `inbox`
    /// it is one that no bytes follow.
    fn take(&self, chunk: Chunk, asks: &mut [Ask<'_>], inbox: Option<&mut Inbox>) -> Result<usize, Loss> {
        let index = chunk.cookie as usize & ((1 << COOKIE_BITS) - 1);
        let ask = asks.get_mut(index).ok_or(Breach::Cookie)?;
        if matches!(&chunk.what, What::Status { context, .. } if Some(*context) != self.offer.context) {
            return Err(Breach::Chunk.into());
        }
        let last = chunk.last;
        ask.take(chunk, self.offer.structured, inbox.map(|inbox| (inbox, &*self.socket)))?;
        Ok(usize::from(last))
    }

    fn fetch(&self, inbox: &mut Inbox) -> Result<Chunk, Loss> {
        loop {
            match replies::next(inbox.bytes(), self.offer.structured)? {
                Found::Chunk(taken, chunk) => {
                    inbox.take(taken);
                    return Ok(chunk);
                }
                Found::More(wanted) => {
                    if !inbox.fill(&*self.socket, wanted)? {
                        return Err(Loss::Ended);
                    }
                }
            }
        }
    }

    /// Gives the connection up: all callers are told. Returns why it was given up first.
    pub(super) fn lose(&self, loss: Loss) -> Loss {
        let first = lock(&self.hall).lost.get_or_insert(loss).clone();
        self.changed.notify_all();
        // One that is gone already is as good.
        let _ = self.socket.shutdown(Shutdown::Both);
        first
    }
}

impl Drop for Wire {
    /// Says good-bye, so that the server need not guess.
    fn drop(&mut self) {
        if lock(&self.hall).lost.is_none() {
            let (magic, command) = (NBD_REQUEST_MAGIC, NBD_CMD_DISC);
            let mut out = Vec::new();
            RequestHead { magic, flags: 0, command, cookie: 0, offset: 0, length: 0 }.put(&mut out);
            let _ = self.socket.set_timeout(Some(GOODBYE));
            let _ = write_all(&*self.socket, &mut [IoSlice::new(&out)]);
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }
}
