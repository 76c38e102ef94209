//! Network Block Devices, as `doc/proto.md` of the NBD project says: a server of disks for guests and tools of others, and
//! a client for disks that others serve.
//!
//! | file | what |
//! |---|---|
//! | `proto` | the protocol's numbers and the heads of its messages, under its own names |
//! | `export` | what is offered: a device, its name, the bitmaps that go with it |
//! | `context` | metadata contexts: what `NBD_CMD_BLOCK_STATUS` tells of a device |
//! | `handshake` | options of a client ↔ replies, until it has chosen an export |
//! | `transmission` | bytes of a client → requests, refused where they are wrong |
//! | `replies` | results → bytes |
//! | `socket`, `inbox` | a connection's byte stream, and what of it has arrived and is not dealt with |
//! | `tls` | such a stream encrypted, and the certificates for it (feature `tls`) |
//! | [`server`] | sockets and threads around them |
//!
//! All but the last four do no I/O of their own: bytes go in and come out, in pieces of any size. No count that a client
//! sends is believed: each is held against a limit below before anything is done with it.

pub mod client;
mod context;
mod export;
mod handshake;
mod inbox;
pub mod proto;
mod replies;
pub mod server;
mod socket;
#[cfg(feature = "tls")]
pub mod tls;
mod transmission;
mod uri;

pub use context::Context;
pub use export::{Export, ExportDevice, Exports};
pub use handshake::{Answer, Handshake, Tls};
pub use replies::Replies;
pub use socket::{Shutdown, Socket, StartTls, prepare};
pub use transmission::{Command, Parsed, Request, Terms, Transmission};
pub use uri::{PORT, Place, Tls as UriTls, Uri};

/// Longest data of an option in bytes. A client that announces more is shown the door.
pub const MAX_OPTION: u32 = 64 << 10;
/// Most options of one handshake.
pub const MAX_OPTIONS: u32 = 1024;
/// Most queries of one `NBD_OPT_LIST_META_CONTEXT` or `NBD_OPT_SET_META_CONTEXT`.
pub const MAX_QUERIES: u32 = 1024;
/// Longest string of the protocol in bytes: names of exports, descriptions.
pub const MAX_STRING: usize = 4096;
/// Most bytes that one request reads or writes, which `NBD_INFO_BLOCK_SIZE` tells clients. One that sends more is
/// shown the door, one that asks for more is refused.
pub const MAX_PAYLOAD: u32 = 32 << 20;
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
