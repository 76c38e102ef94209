//! A connection that rustls encrypts.
//!
//! rustls does no I/O, and has one state for both directions. That state is locked while bytes go through it, never
//! while anybody waits for the other end: a thread that reads and one that writes do not wait for each other, also when
//! both directions are full.

use crate::nbd::Socket;
use crate::nbd::inbox::Inbox;
use crate::sync::{Arc, Mutex, lock};
use rustls::Connection;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// Bytes that are encrypted and sent at once.
const PIECE: usize = 256 << 10;
/// Most bytes that the other end may send before the handshake is over. It takes a few KiB.
const MOST_HANDSHAKE: usize = 256 << 10;
/// How long the other end may take to make room for the words that end a connection.
const GOODBYE: Duration = Duration::from_secs(1);

/// A [`Socket`] on top of another, encrypted.
///
/// A wait that the other end answers in drops ends after twice the timeout at the latest. After an error of
/// [`write`](Socket::write) nothing more is sent. The end of the connection underneath is the end, whether or not the
/// other end said so: what it sends says itself how long it is.
pub struct TlsSocket {
    socket: Arc<dyn Socket>,
    /// What has arrived and is not decrypted. Held by who reads; taken before `connection`.
    incoming: Mutex<Inbox>,
    /// What is encrypted and not sent. Held by who writes, so that it goes out in the order in which it was encrypted;
    /// taken before `connection`.
    outgoing: Mutex<Outgoing>,
    /// Held for computations, never for a wait.
    connection: Mutex<Connection>,
    timeout: Mutex<Option<Duration>>,
}

impl TlsSocket {
    /// Does the handshake.
    pub(super) fn start(
        socket: Arc<dyn Socket>,
        early: &[u8],
        mut connection: Connection,
        end: Instant,
    ) -> io::Result<TlsSocket> {
        connection.set_buffer_limit(Some(PIECE));
        let (mut incoming, mut outgoing) = (Inbox::holding(early), Outgoing::default());
        let mut heard = 0;
        loop {
            outgoing.collect(&mut connection)?;
            wait_until(&*socket, end)?;
            outgoing.send(&*socket, Some(end))?;
            if !connection.is_handshaking() {
                break;
            }
            if incoming.bytes().is_empty() {
                wait_until(&*socket, end)?;
                if !incoming.fill(&*socket, 1)? {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                heard += incoming.bytes().len();
                if heard > MOST_HANDSHAKE {
                    return Err(io::Error::new(ErrorKind::InvalidData, "an endless handshake"));
                }
            }
            if let Err(error) = decrypt(&mut connection, &mut incoming) {
                // The other end is told why, if it listens.
                let _ = outgoing.collect(&mut connection).and_then(|()| outgoing.send(&*socket, Some(end)));
                return Err(error);
            }
        }
        socket.set_timeout(None)?;
        let (incoming, outgoing) = (Mutex::new(incoming), Mutex::new(outgoing));
        Ok(TlsSocket { socket, incoming, outgoing, connection: Mutex::new(connection), timeout: Mutex::new(None) })
    }

    /// When a wait that begins now is over.
    fn end_of_wait(&self) -> Option<Instant> {
        lock(&self.timeout).map(|timeout| Instant::now() + timeout)
    }

    /// Says that nothing more will be sent, unless somebody is still sending, or cannot any more.
    fn say_goodbye(&self) {
        let Ok(mut outgoing) = self.outgoing.try_lock() else { return };
        let said = {
            let mut connection = lock(&self.connection);
            connection.send_close_notify();
            outgoing.collect(&mut connection)
        };
        if said.is_ok() && !outgoing.bytes.is_empty() && self.socket.set_timeout(Some(GOODBYE)).is_ok() {
            let _ = outgoing.send(&*self.socket, Some(Instant::now() + GOODBYE));
            let _ = self.socket.set_timeout(*lock(&self.timeout));
        }
        outgoing.over = true;
    }
}

impl Socket for TlsSocket {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.end_of_wait();
        let mut incoming = lock(&self.incoming);
        let mut count = 0;
        loop {
            {
                let mut connection = lock(&self.connection);
                loop {
                    match connection.reader().read(&mut buffer[count..]) {
                        // The end, or all that there was room for.
                        Ok(0) => return Ok(count),
                        Ok(more) => count += more,
                        Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                        Err(_) if incoming.bytes().is_empty() => break,
                        Err(_) => decrypt(&mut connection, &mut incoming)?,
                    }
                }
            }
            if count > 0 {
                return Ok(count);
            }
            in_time(end)?;
            if !incoming.fill(&*self.socket, 1)? {
                return Ok(0);
            }
        }
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let end = self.end_of_wait();
        let mut outgoing = lock(&self.outgoing);
        let count = {
            let mut connection = lock(&self.connection);
            let count = connection.writer().write_vectored(slices)?;
            outgoing.collect(&mut connection)?;
            count
        };
        outgoing.send(&*self.socket, end)?;
        Ok(count)
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(timeout)?;
        *lock(&self.timeout) = timeout;
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.say_goodbye();
        }
        self.socket.shutdown(how)
    }
}

impl Drop for TlsSocket {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}

/// Lets some of what has arrived through; plaintext and answers wait in the connection.
fn decrypt(connection: &mut Connection, incoming: &mut Inbox) -> io::Result<()> {
    let mut bytes = incoming.bytes();
    let taken = connection.read_tls(&mut bytes)?;
    if taken == 0 {
        // The other end has said that it would send no more.
        return Err(ErrorKind::UnexpectedEof.into());
    }
    incoming.take(taken);
    connection.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    Ok(())
}

fn in_time(end: Option<Instant>) -> io::Result<()> {
    if end.is_some_and(|end| Instant::now() >= end) { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
}

/// Has the next wait end by then.
fn wait_until(socket: &dyn Socket, end: Instant) -> io::Result<()> {
    in_time(Some(end))?;
    // Not zero, which would be no timeout.
    let rest = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    socket.set_timeout(Some(rest))
}

/// What is encrypted and not sent.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    /// Part of a record may be out, or the words that end a connection: nothing can follow.
    over: bool,
}

impl Outgoing {
    /// Takes what is to go out.
    fn collect(&mut self, connection: &mut Connection) -> io::Result<()> {
        while connection.wants_write() {
            connection.write_tls(&mut self.bytes)?;
        }
        Ok(())
    }

    /// Sends all of it.
    fn send(&mut self, socket: &dyn Socket, end: Option<Instant>) -> io::Result<()> {
        let sent = if self.over { Err(ErrorKind::BrokenPipe.into()) } else { send_all(socket, &self.bytes, end) };
        self.over |= sent.is_err();
        self.bytes.clear();
        sent
    }
}

fn send_all(socket: &dyn Socket, mut bytes: &[u8], end: Option<Instant>) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(&[IoSlice::new(bytes)]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if !bytes.is_empty() {
            in_time(end)?;
        }
    }
    Ok(())
}
