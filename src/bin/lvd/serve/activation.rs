//! Sockets that a service manager hands over: `LISTEN_PID` and `LISTEN_FDS`, as systemd has them.
#![allow(unsafe_code)]

use super::listen::Listener;
use lvd::{Error, Result};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// The sockets that are meant for this process. To be called once, before anything else opens files.
pub fn listeners() -> Result<Vec<Listener>> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID").and_then(|pid| u32::try_from(pid).ok()) != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    (0..number("LISTEN_FDS").unwrap_or(0)).map(|index| listener(FIRST + index)).collect()
}

fn listener(number: i32) -> Result<Listener> {
    let name = format!("descriptor {number} of LISTEN_FDS");
    let failed = |error| Error::io(&name, "cannot listen", error);
    let kind = std::fs::read_link(format!("/proc/self/fd/{number}")).map_err(failed)?;
    if !kind.to_string_lossy().starts_with("socket:") {
        return Err(Error::Invalid(format!("{name}: it is not a socket")));
    }
    // SAFETY: the descriptor is open, and by the convention it is this process's to own. Nobody else does: this is the
    // one place that looks for it, and nothing was opened before.
    let handed = unsafe { OwnedFd::from_raw_fd(number) };
    // A copy is not inherited by commands that are run.
    let owned = handed.try_clone().map_err(failed)?;
    let unix = UnixListener::from(owned);
    if let Ok(address) = unix.local_addr() {
        unix.set_nonblocking(false).map_err(failed)?;
        let path = address.as_pathname().map_or_else(PathBuf::new, PathBuf::from);
        return Ok(Listener::Unix(unix, path));
    }
    let tcp = TcpListener::from(OwnedFd::from(unix));
    tcp.local_addr().and_then(|_| tcp.set_nonblocking(false)).map_err(failed)?;
    Ok(Listener::Tcp(tcp))
}
