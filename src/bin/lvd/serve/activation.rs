//! Sockets that a service manager hands over: `LISTEN_PID` and `LISTEN_FDS`, as systemd has them.

use super::listen::Listener;
use listenfd::ListenFd;
use lvd::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

/// The sockets that are meant for this process. To be called once, before there are other threads: what they were named
/// by leaves the environment.
pub fn listeners() -> Result<Vec<Listener>> {
    // listenfd would also take those that are meant for nobody by name.
    let meant = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok());
    if meant != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let mut handed = ListenFd::from_env();
    (0..handed.len()).map(|index| listener(&mut handed, index)).collect()
}

fn listener(handed: &mut ListenFd, index: usize) -> Result<Listener> {
    let name = format!("socket {} of LISTEN_FDS", index + 1);
    let failed = |error| Error::io(&name, "cannot listen", error);
    let listens = |socket: BorrowedFd<'_>| rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false);
    let nobody = || Error::Invalid(format!("{name}: nobody listens at it"));
    if let Ok(Some(unix)) = handed.take_unix_listener(index) {
        unix.set_nonblocking(false).map_err(failed)?;
        let address = unix.local_addr().map_err(failed)?;
        let path = address.as_pathname().map_or_else(PathBuf::new, PathBuf::from);
        return if listens(unix.as_fd()) { Ok(Listener::Unix(unix, path)) } else { Err(nobody()) };
    }
    let tcp = handed.take_tcp_listener(index).map_err(failed)?.ok_or_else(nobody)?;
    tcp.set_nonblocking(false).map_err(failed)?;
    if listens(tcp.as_fd()) { Ok(Listener::Tcp(tcp)) } else { Err(nobody()) }
}
