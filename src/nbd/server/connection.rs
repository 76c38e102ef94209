//! One client: the handshake, then batches of requests.

use super::Server;
use super::background::Background;
use super::batch::{Arena, Batch};
use crate::nbd::inbox::Inbox;
use crate::nbd::{Answer, Flaw, Handshake, Replies, Socket, Terms, Transmission};
use crate::sync::{Mutex, lock};
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::thread;
use std::time::Instant;

/// A client, from its first byte to its last.
pub(super) struct Connection<'a> {
    server: &'a Server,
    outlet: Outlet<'a>,
    inbox: Inbox,
}

impl<'a> Connection<'a> {
    pub(super) fn new(server: &'a Server, socket: &'a dyn Socket) -> Connection<'a> {
        let outlet = Outlet { socket, turn: Mutex::new(()) };
        Connection { server, outlet, inbox: Inbox::new() }
    }

    /// Serves it until it goes, or the server stops.
    ///
    /// # Errors
    /// What it did that nobody can serve.
    pub(super) fn serve(mut self) -> Result<(), Flaw> {
        match self.handshake()? {
            Some(terms) => self.transmission(&Transmission::new(terms)),
            None => Ok(()),
        }
    }

    /// Haggles until the client has chosen an export; `None` if it is gone, or too slow.
    fn handshake(&mut self) -> Result<Option<Terms>, Flaw> {
        let end = Instant::now() + self.server.options.handshake;
        let mut out = Vec::new();
        let mut handshake = Handshake::new(self.server.exports.clone(), &mut out);
        loop {
            let answer = handshake.next(self.inbox.bytes(), &mut out);
            if !out.is_empty() {
                if !self.in_time(end) || !self.outlet.write(&mut [IoSlice::new(&out)]) {
                    return Ok(None);
                }
                out.clear();
            }
            match answer? {
                Answer::More(wanted) => {
                    if !self.in_time(end) || !self.inbox.fill(self.outlet.socket, wanted).unwrap_or(false) {
                        return Ok(None);
                    }
                }
                Answer::GoOn(taken) => self.inbox.take(taken),
                Answer::Abort => return Ok(None),
                Answer::Chosen(taken, terms) => {
                    self.inbox.take(taken);
                    return Ok(self.outlet.socket.set_timeout(None).is_ok().then_some(terms));
                }
            }
        }
    }

    /// Has the next wait end by then. False if that is now.
    fn in_time(&self, end: Instant) -> bool {
        let rest = end.saturating_duration_since(Instant::now());
        !rest.is_zero() && self.outlet.socket.set_timeout(Some(rest)).is_ok()
    }

    fn transmission(self, transmission: &Transmission) -> Result<(), Flaw> {
        let Connection { server, outlet, mut inbox } = self;
        let terms = transmission.terms();
        let background = Background::default();
        thread::scope(|scope| {
            // However this ends, the second thread is told.
            let _closing = Closing(&background);
            let mut second = None;
            let (mut arena, mut replies) = (Arena::default(), Replies::new(terms.structured));
            loop {
                let batch = Batch::of(transmission, inbox.bytes())?;
                if batch.is_empty() {
                    match inbox.fill(outlet.socket, batch.wanted) {
                        Ok(true) => continue,
                        _ => return Ok(()),
                    }
                }
                let (taken, last) = (batch.taken, batch.last);
                if server.stopping() {
                    // Not an error: clients that reconnect ask the next server, and hand errors on to their guest.
                    return Ok(());
                }
                let later = batch.run(server, terms, &mut arena, &mut replies);
                if !later.is_empty() && second.is_none() {
                    let run = || background.run(server, terms, &outlet);
                    match thread::Builder::new().name("nbd-long".into()).spawn_scoped(scope, run) {
                        Ok(thread) => second = Some(thread),
                        Err(error) => {
                            (server.report)(&format!("cannot serve a client: {error}"));
                            return Ok(());
                        }
                    }
                }
                background.add(later);
                if !outlet.send(&replies, arena.memory()) || last {
                    return Ok(());
                }
                replies.clear();
                inbox.take(taken);
            }
        })
    }
}

/// Closes the background of a connection when it goes.
struct Closing<'a>(&'a Background);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Where replies go out: those of one thread at a time.
pub(super) struct Outlet<'a> {
    socket: &'a dyn Socket,
    turn: Mutex<()>,
}

impl Outlet<'_> {
    /// Sends all of it. False: the client is gone, and what it may still send counts no more.
    pub(super) fn send(&self, replies: &Replies, memory: &[u8]) -> bool {
        replies.is_empty() || self.write(&mut replies.slices(memory))
    }

    fn write(&self, slices: &mut [IoSlice<'_>]) -> bool {
        let _turn = lock(&self.turn);
        let sent = write_all(self.socket, slices);
        if sent.is_err() {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        sent.is_ok()
    }
}

fn write_all(socket: &dyn Socket, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match socket.write(slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
