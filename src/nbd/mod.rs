//! Network Block Devices, as `doc/proto.md` of the NBD project says: a server of disks for guests and tools of others, and
//! a client for disks that others serve.
//!
//! | module | what |
//! |---|---|
//! | [`proto`] | the protocol's numbers and the heads of its messages, under its own names |
//! | `uri` | where an export is |
//! | `socket`, `inbox` | a connection's byte stream, and what of it has arrived and is not dealt with |
//! | `tls` | such a stream encrypted, and the certificates for it (feature `tls`) |
//! | [`server`] | exports for clients |
//! | [`client`] | exports of servers |
//!
//! At both ends the protocol itself does no I/O: bytes go in and come out, in pieces of any size. No count that the other
//! end sends is believed: each is held against a limit before anything is done with it.

pub mod client;
mod inbox;
pub mod proto;
pub mod server;
mod socket;
#[cfg(feature = "tls")]
pub mod tls;
mod uri;

#[cfg(feature = "control")]
pub(crate) use socket::write_all;
pub use socket::{Shutdown, Socket, StartTls, prepare};
pub use uri::{PORT, Place, Uri, UriTls};

/// Longest data of an option, or of a reply to one, in bytes.
pub const MAX_OPTION: u32 = 64 << 10;
/// Most options of one handshake, and most replies to them.
pub const MAX_OPTIONS: u32 = 1024;
/// Longest string of the protocol in bytes: names of exports, descriptions.
pub const MAX_STRING: usize = 4096;
/// Most bytes that one request reads or writes, which `NBD_INFO_BLOCK_SIZE` tells clients. One that sends more is
/// shown the door, one that asks for more is refused.
pub const MAX_PAYLOAD: u32 = 32 << 20;
