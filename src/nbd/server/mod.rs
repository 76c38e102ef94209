//! A server: disks for guests and tools of others.
//!
//! | file | what |
//! |---|---|
//! | `export` | what is offered: a device, its name, the bitmaps that go with it |
//! | `context` | metadata contexts: what `NBD_CMD_BLOCK_STATUS` tells of a device |
//! | `handshake` | options of a client ↔ replies, until it has chosen an export |
//! | `transmission` | bytes of a client → requests, refused where they are wrong |
//! | `replies` | results → bytes |
//! | `connection` | one client: handshake, then batches of requests on a thread of its own |
//! | `batch` | the requests that arrived together, carried out together |
//! | `background` | what may take long, on more threads of the connection |
//!
//! The first five do no I/O. A connection has one thread that takes all requests that have arrived, carries them out as one
//! [`submit`](crate::BlockDevice::submit) and sends the replies in one go. Flushes, and what goes over long ranges, are
//! done on a second thread, so that they hold up nothing else; all flushes that wait there become one. What other machines
//! are asked for has further threads.

mod background;
mod batch;
mod connection;
mod context;
mod export;
mod handshake;
mod replies;
mod transmission;

pub use context::Context;
pub use export::{Export, ExportDevice, Exports};
pub use handshake::{Answer, Handshake, Tls};
pub use replies::Replies;
pub use transmission::{Command, Parsed, Request, Terms, Transmission};

use super::proto::Errno;
#[cfg(doc)]
use super::{MAX_OPTION, MAX_OPTIONS, MAX_PAYLOAD};
use super::{Socket, StartTls};
use crate::error::Error;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, lock, wait};
use connection::Connection;
use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

/// Most queries of one `NBD_OPT_LIST_META_CONTEXT` or `NBD_OPT_SET_META_CONTEXT`.
pub const MAX_QUERIES: u32 = 1024;
/// Most descriptors of one metadata context in one reply.
pub const MAX_DESCRIPTORS: usize = 4096;

/// What a client did that no server can answer: the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The flags after the greeting have bits that the server did not offer.
    #[error("unknown client flags")]
    ClientFlags,
    /// An option or request does not begin with its magic number.
    #[error("a message without its magic number")]
    Magic,
    /// An option's data exceeds [`MAX_OPTION`].
    #[error("an option that is too long")]
    OptionLength,
    /// More than [`MAX_OPTIONS`] options.
    #[error("too many options")]
    Options,
    /// `NBD_OPT_EXPORT_NAME` for an export that there is not: the option has no reply that says so.
    #[error("no such export")]
    NoExport,
    /// `NBD_OPT_EXPORT_NAME` in the clear where TLS is required.
    #[error("no TLS")]
    NoTls,
    /// A write of more than [`MAX_PAYLOAD`] bytes.
    #[error("a write that is too long")]
    Payload,
}

/// How a server treats its clients.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most clients at the same time; more wait.
    pub clients: usize,
    /// TLS, which is then required.
    pub tls: Option<Arc<dyn StartTls>>,
    /// How long a client may take to choose an export, with the handshake of TLS.
    pub handshake: Duration,
    /// How long clients may take, once the server stops, to fetch the replies that are on their way.
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { clients: 100, tls: None, handshake: Duration::from_secs(10), grace: Duration::from_secs(5) }
    }
}

/// Who is told, in a line, what went wrong: the host, or a client that is none.
pub type Report = Box<dyn Fn(&str) + Send + Sync>;

/// Serves exports to clients.
pub struct Server {
    exports: Arc<Exports>,
    options: Options,
    report: Report,
    stopping: AtomicBool,
    clients: Mutex<Clients>,
    left: Condvar,
}

#[derive(Default)]
struct Clients {
    sockets: BTreeMap<u64, Arc<dyn Socket>>,
    /// Clients so far.
    count: u64,
}

impl Server {
    /// Serves `exports` to the clients that [`serve`](Self::serve) is given.
    pub fn new(exports: impl Into<Arc<Exports>>, options: Options, report: Report) -> Arc<Server> {
        let (exports, stopping) = (exports.into(), AtomicBool::new(false));
        let (clients, left) = (Mutex::default(), Condvar::new());
        Arc::new(Server { exports, options, report, stopping, clients, left })
    }

    /// Serves one client on a thread of its own. Waits first, while there are as many as there may be. Once the server
    /// stops the client is sent away.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn serve(self: &Arc<Self>, socket: Arc<dyn Socket>) -> io::Result<()> {
        let mut clients = lock(&self.clients);
        while clients.sockets.len() >= self.options.clients.max(1) && !self.stopping() {
            clients = wait(&self.left, clients);
        }
        if self.stopping() {
            return Ok(());
        }
        let number = clients.count;
        clients.count += 1;
        clients.sockets.insert(number, socket.clone());
        drop(clients);
        // Leaves also if the thread panics, or never was.
        let seat = Seat { server: self.clone(), number };
        let serve = move || {
            if let Err(flaw) = Connection::new(&seat.server, socket).serve() {
                (seat.server.report)(&format!("a client was sent away: {flaw}"));
            }
        };
        thread::Builder::new().name("nbd".into()).spawn(serve).map(drop)
    }

    /// Stops: no request is begun any more, those under way end, and their replies go out. The others have no answer, and
    /// may be put to another server. Returns when all clients are gone. The devices are neither flushed nor closed by it.
    pub fn stop(&self) {
        let mut clients = lock(&self.clients);
        self.stopping.store(true, Ordering::SeqCst);
        self.left.notify_all();
        clients.shut(Shutdown::Read);
        let end = Instant::now() + self.options.grace;
        while !clients.sockets.is_empty() {
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                // They do not fetch their replies.
                clients.shut(Shutdown::Both);
                clients = wait(&self.left, clients);
            } else {
                clients = self.left.wait_timeout(clients, rest).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// What a client is told of `error`. What the client is not to blame for is reported.
    fn errno(&self, error: &Error) -> Errno {
        let errno = match error {
            Error::Invalid(_) => return Errno::NBD_EINVAL,
            Error::Denied(_) | Error::Refused { .. } => return Errno::NBD_EPERM,
            Error::Cancelled => return Errno::NBD_ESHUTDOWN,
            Error::NoSpace { .. } => Errno::NBD_ENOSPC,
            _ => Errno::NBD_EIO,
        };
        (self.report)(&error.to_string());
        errno
    }
}

impl Clients {
    fn shut(&self, how: Shutdown) {
        // One that is gone already is as good.
        self.sockets.values().for_each(|socket| drop(socket.shutdown(how)));
    }
}

/// The place of one client.
struct Seat {
    server: Arc<Server>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let socket = lock(&self.server.clients).sockets.remove(&self.number);
        if let Some(socket) = socket {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.server.left.notify_all();
    }
}
