//! TLS for both ends of a connection, with certificates as QEMU, libnbd and nbdkit keep them.
//!
//! | file | what |
//! |---|---|
//! | `certificates` | a directory of certificates → what rustls wants of either end |
//! | `socket` | a connection that rustls encrypts, for a thread that reads and others that write |

mod certificates;
mod socket;

use super::{Socket, StartTls};
use crate::error::{Error, Result};
use crate::sync::Arc;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
pub use socket::TlsSocket;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Instant;

/// TLS at a server's end.
#[derive(Clone)]
pub struct ServerTls(std::sync::Arc<ServerConfig>);

impl ServerTls {
    /// Takes `server-cert.pem` and `server-key.pem` of a directory. With `verify_peer` a client must have a certificate
    /// too, of an authority in `ca-cert.pem`; those in `ca-crl.pem`, if it is there, are revoked. A list that has expired
    /// lets nobody in.
    ///
    /// # Errors
    /// A file is not there, or is not what it should be.
    pub fn load(directory: &Path, verify_peer: bool) -> Result<ServerTls> {
        certificates::server(directory, verify_peer).map(|config| ServerTls(std::sync::Arc::new(config)))
    }
}

impl StartTls for ServerTls {
    fn start(&self, socket: Arc<dyn Socket>, early: &[u8], end: Instant) -> io::Result<Arc<dyn Socket>> {
        let connection = ServerConnection::new(self.0.clone()).map_err(io::Error::other)?;
        Ok(Arc::new(TlsSocket::start(socket, early, connection.into(), end)?))
    }
}

/// TLS at a client's end.
#[derive(Clone)]
pub struct ClientTls(std::sync::Arc<ClientConfig>);

impl ClientTls {
    /// Takes `ca-cert.pem` of a directory, which says whose servers are trusted: no others are, whatever the host
    /// trusts. `ca-crl.pem`, and `client-cert.pem` with `client-key.pem`, are taken if they are there.
    ///
    /// # Errors
    /// A file is not there, or is not what it should be.
    pub fn load(directory: &Path) -> Result<ClientTls> {
        certificates::client(directory).map(|config| ClientTls(std::sync::Arc::new(config)))
    }

    /// For connections to the server of that name or address, which its certificate must bear.
    pub fn to(&self, server_name: &str) -> ToServer {
        ToServer { tls: self.clone(), name: server_name.to_owned() }
    }
}

/// TLS at the end of one server's clients.
#[derive(Debug, Clone)]
pub struct ToServer {
    tls: ClientTls,
    name: String,
}

impl StartTls for ToServer {
    fn start(&self, socket: Arc<dyn Socket>, early: &[u8], end: Instant) -> io::Result<Arc<dyn Socket>> {
        let name = ServerName::try_from(self.name.clone());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connection = ClientConnection::new(self.tls.0.clone(), name).map_err(io::Error::other)?;
        Ok(Arc::new(TlsSocket::start(socket, early, connection.into(), end)?))
    }
}

// Of a configuration nothing is shown: it holds a private key.
impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

fn invalid(path: &Path, what: impl fmt::Display) -> Error {
    Error::Invalid(format!("{}: {what}", path.display()))
}
