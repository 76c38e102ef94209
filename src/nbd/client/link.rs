//! The way to an export: some connections, and new ones when they are lost.

use super::handshake::Offer;
use super::unflushed::{Change, Unflushed};
use super::wire::{Ask, Asked, Failure, Loss, Wire};
use super::{Breach, Connector, Options};
use crate::error::{Error, Result};
use crate::limits::MAX_OFFSET;
use crate::nbd::proto::*;
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering, lock, wait};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take until it has promised the export.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The same for the second connection and all after it, without which all goes on.
const FURTHER: Duration = Duration::from_secs(2);
/// How long to wait before a connection is tried again. First of all it gives a server that has lost this client time to
/// deal with what it had sent before.
const PAUSE: Duration = Duration::from_millis(200);
/// Requests that read or write no more than this go by a connection of their own, so that no guest waits for what a job
/// has asked for.
const SMALL: u64 = 64 << 10;

/// What comes of trying to connect.
type Attempt<T> = std::result::Result<T, Loss>;

/// What two connections to one export must have in common.
const NEEDED: u16 = NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_WRITE_ZEROES;

/// Where an export is and what is known of it.
pub(super) struct Link {
    name: String,
    /// The export's name, and that of a metadata context.
    wanted: (String, String),
    connector: Connector,
    options: Options,
    offer: Offer,
    state: Mutex<State>,
    changed: Condvar,
    /// What a new server may not have.
    unflushed: Unflushed,
    /// The flush that failed first. One that succeeds after it says nothing of what was to be durable before.
    broken: Mutex<Option<String>>,
}

/// A server's number of an error, and its words.
type Refusal = (u32, String);

enum State {
    Up(Arc<Wires>),
    /// One caller connects; the others wait.
    Connecting,
    Down {
        /// When it was last there.
        since: Instant,
        /// When it was last looked for.
        tried: Instant,
        why: String,
    },
}

/// Connections that live and die together.
pub(super) struct Wires {
    wires: Vec<Wire>,
    turn: AtomicU64,
}

impl Wires {
    /// The connection for requests that move so many bytes.
    fn choose(&self, bytes: u64) -> &Wire {
        let others = self.wires.len() - 1;
        match others {
            0 => &self.wires[0],
            _ if bytes <= SMALL => &self.wires[0],
            _ => &self.wires[1 + self.turn.fetch_add(1, Ordering::Relaxed) as usize % others],
        }
    }

    fn lose(&self, loss: &Loss) {
        self.wires.iter().for_each(|wire| drop(wire.lose(loss.clone())));
    }
}

impl Link {
    /// Connects to an export, and asks for a metadata context: `wanted` are their names.
    ///
    /// # Errors
    /// The host's; [`Error::Denied`] if the export is not as `options` want it.
    pub(super) fn open(name: String, wanted: (String, String), connector: Connector, options: Options) -> Result<Link> {
        let wires = connect(&connector, &wanted, &options).map_err(|loss| failed(&name, &loss.to_string()))?;
        let offer = *wires.wires[0].offer();
        if offer.size > MAX_OFFSET {
            return Err(Error::io(&name, "cannot use it", io::Error::other(Breach::Size)));
        }
        if options.write && offer.has(NBD_FLAG_READ_ONLY) {
            return Err(Error::Denied(format!("{name}: the server lets nobody write to it")));
        }
        if options.write && !offer.has(NBD_FLAG_SEND_FLUSH) {
            return Err(Error::Denied(format!("{name}: the server has no way to make durable what is written to it")));
        }
        let state = Mutex::new(State::Up(Arc::new(wires)));
        let (changed, unflushed, broken) = (Condvar::new(), Unflushed::default(), Mutex::default());
        Ok(Link { name, wanted, connector, options, offer, state, changed, unflushed, broken })
    }

    /// What the server promised.
    pub(super) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// How errors name it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Carries out `asks`, which move so many `bytes`, over as many connections as it takes.
    ///
    /// # Errors
    /// The server's, or that it is gone, or goes again and again, for longer than the options have patience.
    pub(super) fn call(&self, action: &str, bytes: u64, asks: &mut [Ask<'_>]) -> Result<()> {
        match self.put(bytes, asks)? {
            None => Ok(()),
            Some((errno, words)) => Err(refused(&self.name, action, errno, &words)),
        }
    }

    /// The same; what the server refuses is no error.
    fn put(&self, bytes: u64, asks: &mut [Ask<'_>]) -> Result<Option<Refusal>> {
        let mut since = None;
        loop {
            let wires = self.wires()?;
            let loss = match wires.choose(bytes).call(asks) {
                Ok(()) => return Ok(None),
                // It will be another server that goes on.
                Err(Failure::Refused(errno, _)) if errno == Errno::NBD_ESHUTDOWN as u32 => {
                    Loss::Host(Errno::NBD_ESHUTDOWN.text().into())
                }
                Err(Failure::Refused(errno, words)) => return Ok(Some((errno, words))),
                Err(Failure::Lost(loss)) => loss,
            };
            self.lost(&wires, &loss);
            // A server that is there again each time may die each time of this very request, and one that breaks the protocol
            // goes on doing so.
            let patience = since.get_or_insert_with(Instant::now).elapsed() < self.options.reconnect;
            if !patience || matches!(loss, Loss::Breach(_)) {
                return Err(failed(&self.name, &loss.to_string()));
            }
        }
    }

    /// Carries out a change, which a server that comes after this one gets too, unless it was made durable before.
    ///
    /// # Errors
    /// As [`call`](Self::call); [`Error::Poisoned`] after a flush that failed.
    pub(super) fn change(&self, action: &str, bytes: u64, asks: &mut [Ask<'_>]) -> Result<()> {
        self.sound()?;
        if self.options.reconnect.is_zero() {
            return self.call(action, bytes, asks);
        }
        let numbers = self.unflushed.add(asks.iter().filter_map(change_of));
        if let Err(error) = self.call(action, bytes, asks) {
            // No server need have it: one that refuses it again would seem to have lost something.
            self.unflushed.forget(numbers);
            return Err(error);
        }
        self.unflushed.answered(numbers);
        if self.unflushed.is_full() { self.flush() } else { Ok(()) }
    }

    /// Makes durable all changes that were done before the call.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub(super) fn flush(&self) -> Result<()> {
        self.sound()?;
        let covered = self.unflushed.covered();
        if let Some((errno, words)) = self.put(0, &mut [Ask::new(Asked::Flush, 0..0)])? {
            let error = refused(&self.name, "cannot flush", errno, &words);
            lock(&self.broken).get_or_insert_with(|| error.to_string());
            return Err(error);
        }
        // Another one may have failed meanwhile.
        self.sound()?;
        self.unflushed.forget(covered);
        Ok(())
    }

    fn sound(&self) -> Result<()> {
        match &*lock(&self.broken) {
            Some(cause) => Err(Error::Poisoned { file: self.name.clone(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// The connections; new ones if they are lost.
    fn wires(&self) -> Result<Arc<Wires>> {
        let mut state = lock(&self.state);
        let since = loop {
            match &*state {
                State::Up(wires) => return Ok(wires.clone()),
                State::Connecting => state = wait(&self.changed, state),
                State::Down { since, tried, why } => {
                    let patience = since.elapsed() < self.options.reconnect;
                    let soon = tried.elapsed() < Duration::from_secs(1);
                    if self.options.reconnect.is_zero() || !patience && soon {
                        return Err(failed(&self.name, why));
                    }
                    break *since;
                }
            }
        };
        *state = State::Connecting;
        drop(state);
        let connected = self.reconnect(since);
        let mut state = lock(&self.state);
        let result = match connected {
            Ok(wires) => {
                let wires = Arc::new(wires);
                *state = State::Up(wires.clone());
                Ok(wires)
            }
            Err(loss) => {
                let why = loss.to_string();
                let error = failed(&self.name, &why);
                *state = State::Down { since, tried: Instant::now(), why };
                Err(error)
            }
        };
        drop(state);
        self.changed.notify_all();
        result
    }

    /// Tries until it works, or patience ends, which began at `since`.
    fn reconnect(&self, since: Instant) -> Attempt<Wires> {
        loop {
            thread::sleep(PAUSE);
            match self.restore() {
                Ok(wires) => return Ok(wires),
                Err(loss) if since.elapsed() >= self.options.reconnect => return Err(loss),
                Err(loss @ Loss::Breach(Breach::Changed)) => return Err(loss),
                Err(_) => {}
            }
        }
    }

    /// Connects, and gives the server what another one may have had and lost. Nobody else can change anything meanwhile:
    /// all old connections are dead, and the new ones are not known.
    fn restore(&self) -> Attempt<Wires> {
        let wires = connect(&self.connector, &self.wanted, &self.options)?;
        let offer = wires.wires[0].offer();
        let terms = |offer: &Offer| {
            let blocks = (offer.minimum, offer.maximum);
            (offer.size, blocks, offer.flags & NEEDED, offer.context.is_some())
        };
        if terms(offer) != terms(&self.offer) {
            return Err(Breach::Changed.into());
        }
        self.unflushed.replay(|asks| match wires.wires[0].call(asks) {
            Ok(()) => Ok(()),
            Err(Failure::Lost(loss)) => Err(loss),
            Err(Failure::Refused(errno, words)) => Err(Loss::Host(server_error(errno, &words).to_string())),
        })?;
        Ok(wires)
    }

    fn lost(&self, wires: &Arc<Wires>, loss: &Loss) {
        // First of all: once others may connect, nothing is to go out on the old connections any more.
        wires.lose(loss);
        let mut state = lock(&self.state);
        if matches!(&*state, State::Up(now) if Arc::ptr_eq(now, wires)) {
            let now = Instant::now();
            // The first thing that happens to it is a try.
            let tried = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
            *state = State::Down { since: now, tried, why: loss.to_string() };
        }
    }
}

/// Connects as often as `options` say and the server allows.
fn connect(connector: &Connector, (export, context): &(String, String), options: &Options) -> Attempt<Wires> {
    let open = |time| Wire::open(connector()?, (export, context), options.tls.as_ref(), time);
    let first = open(HANDSHAKE)?;
    let offer = *first.offer();
    let mut wires = vec![first];
    while offer.has(NBD_FLAG_CAN_MULTI_CONN) && wires.len() < options.connections {
        match open(FURTHER) {
            Ok(wire) if *wire.offer() == offer => wires.push(wire),
            _ => break,
        }
    }
    Ok(Wires { wires, turn: AtomicU64::new(0) })
}

/// What of a request outlives its connection.
fn change_of(ask: &Ask<'_>) -> Option<Change> {
    match ask.asked() {
        Asked::Write(data) => Some(Change::Write { offset: ask.range().start, data: data.to_vec() }),
        Asked::Zeroes(unmap) => Some(Change::Zeroes { range: ask.range(), unmap: *unmap }),
        Asked::Read(_) | Asked::Flush | Asked::Status(_) => None,
    }
}

fn failed(name: &str, why: &str) -> Error {
    Error::io(name, "no connection", io::Error::other(why.to_string()))
}

fn refused(name: &str, action: &str, errno: u32, words: &str) -> Error {
    if errno == Errno::NBD_ENOSPC as u32 {
        return Error::NoSpace { file: name.into() };
    }
    Error::io(name, action, server_error(errno, words))
}

/// What the server says, in its words if it has some.
fn server_error(errno: u32, words: &str) -> io::Error {
    let text = match errno {
        1 => "operation not permitted",
        5 => "input/output error",
        12 => "out of memory",
        22 => "invalid argument",
        28 => "no space left",
        75 => "value too large",
        95 => "not supported",
        _ => "an error without a name",
    };
    let words = if words.is_empty() { String::new() } else { format!(" ({words})") };
    io::Error::other(format!("the server says: {text}{words}"))
}
