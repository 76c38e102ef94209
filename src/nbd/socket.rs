//! What both ends need of a connection's byte stream.

use super::uri::Place;
use crate::sync::Arc;
use std::fmt::Debug;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
pub use std::net::Shutdown;
use std::net::{TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a machine may take to answer to each of its addresses. The host would wait for one that is gone for minutes.
const CONNECT: Duration = Duration::from_secs(10);

/// A byte stream that one thread reads while others write.
pub trait Socket: Send + Sync {
    /// Waits for bytes and takes those that are there; 0 at the end.
    ///
    /// # Errors
    /// The host's; `WouldBlock` or `TimedOut` after the timeout.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends at least one byte, and returns how many it were.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// How long reads and writes wait; `None`: for ever.
    ///
    /// # Errors
    /// The host's.
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Ends one direction or both, for all threads that use it.
    ///
    /// # Errors
    /// The host's.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
}

/// TLS at either end: `tls::ServerTls`, `tls::ClientTls`, or what another library makes of it.
pub trait StartTls: Debug + Send + Sync {
    /// Does the handshake of TLS, and returns what is encrypted from then on. `early` is what has arrived already.
    ///
    /// # Errors
    /// `InvalidData` if the other end is to blame; the host's; `WouldBlock` or `TimedOut` at `end`.
    fn start(&self, socket: Arc<dyn Socket>, early: &[u8], end: Instant) -> io::Result<Arc<dyn Socket>>;
}

macro_rules! socket {
    ($type:ty) => {
        impl Socket for $type {
            fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
                Read::read(&mut &*self, buffer)
            }

            fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
                Write::write_vectored(&mut &*self, slices)
            }

            fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                self.set_read_timeout(timeout)?;
                self.set_write_timeout(timeout)
            }

            fn shutdown(&self, how: Shutdown) -> io::Result<()> {
                <$type>::shutdown(self, how)
            }
        }
    };
}

socket!(TcpStream);
#[cfg(unix)]
socket!(UnixStream);

/// Connects to a server.
///
/// # Errors
/// The host's.
pub(super) fn connect(place: &Place) -> io::Result<Arc<dyn Socket>> {
    match place {
        Place::Tcp(host, port) => {
            let mut why = ErrorKind::NotFound.into();
            for address in (host.as_str(), *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, CONNECT) {
                    Ok(socket) => {
                        prepare(&socket)?;
                        return Ok(Arc::new(socket));
                    }
                    Err(error) => why = error,
                }
            }
            Err(why)
        }
        #[cfg(unix)]
        Place::Unix(path) => Ok(Arc::new(UnixStream::connect(path)?)),
        #[cfg(not(unix))]
        Place::Unix(_) => Err(ErrorKind::Unsupported.into()),
    }
}

/// Has a socket send what it is given at once, and notice that the other machine is gone.
///
/// # Errors
/// The host's.
pub fn prepare(socket: &TcpStream) -> io::Result<()> {
    // Messages go out whole; waiting for more helps nobody.
    socket.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, Duration::from_secs(15))?;
        sockopt::set_tcp_keepintvl(socket, Duration::from_secs(5))?;
        sockopt::set_tcp_keepcnt(socket, 3)?;
        // The same for what was sent and never acknowledged.
        sockopt::set_tcp_user_timeout(socket, 30_000)?;
    }
    Ok(())
}

/// Sends all of it.
///
/// # Errors
/// The host's.
pub(crate) fn write_all(socket: &dyn Socket, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
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
