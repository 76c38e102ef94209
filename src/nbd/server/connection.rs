//! One client: the handshake, then batches of requests.

use super::Flaw;
use super::Server;
use super::background::Background;
use super::batch::{Arena, Batch};
use super::handshake::{Answer, Handshake, Tls};
use super::replies::Replies;
use super::transmission::{Terms, Transmission};
use crate::nbd::Socket;
use crate::nbd::inbox::Inbox;
use crate::nbd::socket::write_all;
use crate::sync::{Arc, Mutex, lock};
use std::io::{ErrorKind, IoSlice};
use std::net::Shutdown;
use std::thread;
use std::time::Instant;

/// A client, from its first byte to its last.
pub(super) struct Connection<'a> {
    server: &'a Server,
    outlet: Outlet,
    inbox: Inbox,
}

impl<'a> Connection<'a> {
    pub(super) fn new(server: &'a Server, socket: Arc<dyn Socket>) -> Connection<'a> {
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
        let tls = if self.server.options.tls.is_some() { Tls::Required } else { Tls::Off };
        let mut handshake = Handshake::new(self.server.exports.clone(), tls, self.server.options.clients > 1, &mut out);
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
                    if !self.in_time(end) || !self.inbox.fill(&*self.outlet.socket, wanted).unwrap_or(false) {
                        return Ok(None);
                    }
                }
                Answer::GoOn(taken) => self.inbox.take(taken),
                Answer::StartTls(taken) => {
                    self.inbox.take(taken);
                    if !self.start_tls(end) {
                        return Ok(None);
                    }
                }
                Answer::Abort => return Ok(None),
                Answer::Chosen(taken, terms) => {
                    self.inbox.take(taken);
                    return Ok(self.outlet.socket.set_timeout(None).is_ok().then_some(terms));
                }
            }
        }
    }

    /// Encrypts what follows. What has arrived behind the option goes to TLS, which takes nothing that is not encrypted,
    /// and never on to the handshake: anybody may have put it there. False: the client is gone, or sent away.
    fn start_tls(&mut self, end: Instant) -> bool {
        let Some(tls) = &self.server.options.tls else { return false };
        let early = std::mem::replace(&mut self.inbox, Inbox::new());
        match tls.start(self.outlet.socket.clone(), early.bytes(), end) {
            Ok(socket) => self.outlet.socket = socket,
            Err(error) => {
                if error.kind() == ErrorKind::InvalidData {
                    (self.server.report)(&format!("a client was sent away: TLS: {error}"));
                }
                return false;
            }
        }
        true
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
            let mut closing = Closing { background: &background, finish: false };
            let mut second = false;
            let (mut arena, mut replies) = (Arena::default(), Replies::new(terms.structured));
            loop {
                let mut batch = Batch::of(transmission, inbox.bytes())?;
                if batch.is_empty() {
                    match inbox.fill(&*outlet.socket, batch.wanted) {
                        Ok(true) => continue,
                        _ => return Ok(()),
                    }
                }
                let (taken, last) = (batch.taken, batch.last);
                if server.stopping() {
                    // Not an error: clients that reconnect ask the next server, and hand errors on to their guest.
                    return Ok(());
                }
                let far = batch.take_far(terms);
                let later = batch.run(server, terms, &mut arena, &mut replies);
                // What is far may end in a flush.
                if !(later.is_empty() && far.is_empty() || second) {
                    second = true;
                    if !spawn(scope, server, || background.run(server, terms, &outlet)) {
                        return Ok(());
                    }
                }
                background.add(later);
                let wanted = if far.is_empty() { 0 } else { background.add_far(far) };
                for missing in (1..=wanted).rev() {
                    if !spawn(scope, server, || background.run_far(server, terms, &outlet)) {
                        (0..missing).for_each(|_| background.lacks_thread());
                        return Ok(());
                    }
                }
                let sent = outlet.send(&replies, arena.memory());
                if !sent || last {
                    closing.finish = sent;
                    return Ok(());
                }
                replies.clear();
                inbox.take(taken);
            }
        })
    }
}

/// Starts a thread of the connection. False: the host gives none, which is reported.
fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    server: &Server,
    work: impl FnOnce() + Send + 'scope,
) -> bool {
    let thread = thread::Builder::new().name("nbd-more".into()).spawn_scoped(scope, work);
    thread.inspect_err(|error| (server.report)(&format!("cannot serve a client: {error}"))).is_ok()
}

/// Closes the background of a connection when it goes.
struct Closing<'a> {
    background: &'a Background,
    finish: bool,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.background.close(self.finish);
    }
}

/// Where replies go out: those of one thread at a time.
pub(super) struct Outlet {
    socket: Arc<dyn Socket>,
    turn: Mutex<()>,
}

impl Outlet {
    /// Sends all of it. False: the client is gone, and what it may still send counts no more.
    pub(super) fn send(&self, replies: &Replies, memory: &[u8]) -> bool {
        replies.is_empty() || self.write(&mut replies.slices(memory))
    }

    fn write(&self, slices: &mut [IoSlice<'_>]) -> bool {
        let _turn = lock(&self.turn);
        let sent = write_all(&*self.socket, slices);
        if sent.is_err() {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        sent.is_ok()
    }
}
