//! SIGINT and SIGTERM: the first asks the command to stop cleanly, a second one ends it.

use lvd::{Error, Result};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Begins to listen.
pub fn listen() -> Result<()> {
    let stop = STOP.get_or_init(Default::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The order matters: the second handler sees what an earlier signal has left, not this one's own mark.
        signal_hook::flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|error| Error::io("signals", "cannot listen", error))?;
    }
    Ok(())
}

/// Whether the user asked to stop.
pub fn stopped() -> bool {
    STOP.get().is_some_and(|stop| stop.load(Ordering::Relaxed))
}

/// [`Error::Cancelled`] once the user asked to stop.
pub fn go_on() -> Result<()> {
    if stopped() { Err(Error::Cancelled) } else { Ok(()) }
}

/// A stream whose end comes when the user asks to stop.
pub fn stop_stream() -> Result<impl Read + Send> {
    let failed = |error| Error::io("signals", "cannot listen", error);
    let (end, signal) = UnixStream::pair().map_err(failed)?;
    for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let signal = signal.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(number, signal).map_err(failed)?;
    }
    if stopped() {
        // It came before anybody was told of it.
        (&signal).write_all(&[0]).map_err(failed)?;
    }
    Ok(end)
}
