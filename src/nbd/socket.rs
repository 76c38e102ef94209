//! What both ends need of a connection's byte stream.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

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
