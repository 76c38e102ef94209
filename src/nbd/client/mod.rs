//! A Network Block Device client: an export of a server as a [`Storage`](crate::storage::Storage), so that everything
//! that takes a raw file takes it too: as a parent, as a source, as a target.
//!
//! | file | what |
//! |---|---|
//! | `handshake` | options → an offer, without I/O |
//! | `replies` | bytes of a server → replies, without I/O |
//! | `wire` | one connection, with the requests of many callers under way |
//! | `link` | some connections, and new ones when they are lost |
//! | `unflushed` | what a new server gets again |
//! | `statuses` | what is known of holes |
//! | `storage` | [`NbdStorage`] |
//! | `bitmap` | [`NbdBitmap`] |
//!
//! No count that a server sends is believed: each is held against a limit, and against what was asked for.

mod bitmap;
mod handshake;
mod link;
mod replies;
mod statuses;
mod storage;
mod unflushed;
mod wire;

pub use bitmap::NbdBitmap;
pub use handshake::{Handshake, Move, Offer};
pub use replies::{Chunk, Found, What, next};
pub use storage::NbdStorage;

use super::{MAX_STRING, Socket, StartTls};
use crate::sync::Arc;
use std::io;
use std::time::Duration;

/// How a client goes about it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether it is to be written to.
    pub write: bool,
    /// Most connections, where the server allows several.
    pub connections: usize,
    /// How long requests wait for a server that is gone to come back. (Requests that the old connections still hold must be
    /// dealt with by then: a server that carries them out later than those that are made again is not noticed.) What it may have acknowledged and not made durable
    /// is kept for it meanwhile. With zero they fail, and so does every later one.
    pub reconnect: Duration,
    /// Encrypts the connections, and is required if it is there.
    pub tls: Option<Arc<dyn StartTls>>,
}

impl Default for Options {
    fn default() -> Options {
        Options { write: false, connections: 4, reconnect: Duration::from_secs(30), tls: None }
    }
}

/// Makes a connection to the server.
pub type Connector = Box<dyn Fn() -> io::Result<Arc<dyn Socket>> + Send + Sync>;

/// What a server did that no client can live with, or did not promise that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// It does not begin with the protocol's magic number.
    #[error("it is no NBD server")]
    NoServer,
    /// It speaks the protocol as it was before it had options.
    #[error("the server speaks the protocol of before 2010")]
    OldStyle,
    /// TLS was asked for and is not to be had.
    #[error("the server has no TLS")]
    NoTls,
    /// The handshake of TLS failed: the server is not the one, or does not like this client.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server wants TLS.
    #[error("the server wants TLS")]
    TlsRequired,
    /// There is no export of that name.
    #[error("the server has no such export")]
    NoExport,
    /// The server does not give the export, and says why.
    #[error("the server does not give the export: {0}")]
    Refused(String),
    /// A size of blocks that is no power of two, or too large, or larger than what a request may hold.
    #[error("the server's sizes of blocks make no sense")]
    BlockSize,
    /// A size that no device has.
    #[error("the server's disk is larger than any can be")]
    Size,
    /// After a loss of the connection there was an export of another size or kind.
    #[error("another export is in its place")]
    Changed,
    /// A message does not begin with its magic number, or answers what was not asked.
    #[error("the server sent something that is no reply")]
    Magic,
    /// A message is longer than it can be, or than its parts.
    #[error("the server sent a message of an impossible length")]
    Length,
    /// More replies than an option can have.
    #[error("the server sent too many replies")]
    Replies,
    /// A reply that the option does not have.
    #[error("the server sent a reply that its option does not have")]
    Reply,
    /// A reply to a request that is not under way.
    #[error("the server answered what was not asked")]
    Cookie,
    /// A chunk that the request does not have.
    #[error("the server sent a chunk that its request does not have")]
    Chunk,
    /// Data from outside the range that was asked for, or twice.
    #[error("the server sent data that was not asked for")]
    Range,
    /// A reply of success without all that was asked for.
    #[error("the server left out some of what was asked for")]
    Missing,
}

/// The server's words, for one line: nothing that a terminal would take for more than words.
fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_STRING)]);
    text.trim().escape_debug().to_string()
}
