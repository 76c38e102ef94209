//! Standard output and standard error: facts, JSON, one line per error, and a reader that goes away.

use lvd::units::Size;
use lvd::{Error, Result};
use serde::Serialize;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once the reader of standard output is gone: from then on nothing is printed, and the command
/// still ends with the exit code that its work deserves.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the reader of standard output is gone.
pub fn closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Writes bytes to standard output.
pub fn raw(bytes: &[u8]) -> Result<()> {
    if closed() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(Error::io("standard output", "cannot write", error)),
        Ok(()) => Ok(()),
    }
}

/// Prints one line.
pub fn line(text: impl AsRef<str>) -> Result<()> {
    raw(format!("{}\n", text.as_ref()).as_bytes())
}

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Invalid(error.to_string()))?;
    line(text)
}

/// Says on standard error what went wrong, in one line whatever the text holds (a file's name may hold anything).
pub fn complain(text: &str) {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr().lock(), "lvd: {}", clean.trim_end());
}

/// Bytes a second for people.
pub fn rate(bytes: u64, seconds: f64) -> String {
    format!("{}/s", Size((bytes as f64 / seconds.max(1e-9)) as u64))
}
