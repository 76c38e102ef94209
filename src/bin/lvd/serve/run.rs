//! `--run`: a shell command beside the server, as nbdkit has it.

use super::listen::Place;
use super::{End, spawn};
use crate::Outcome;
use lvd::{Error, Result};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::Sender;

/// Starts it; `ends` is told when it ends.
pub fn start(command: &str, place: &Place, export: &str, ends: Sender<End>) -> Result<()> {
    let listener = &place.listeners[0];
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(command)
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS")
        .env("uri", place.uri(listener, export)?)
        .env("exportname", export);
    shell.env("unixsocket", listener.path().unwrap_or(Path::new(""))).env("nbd", listener.qemu_name(export)?);
    let mut child = shell.spawn().map_err(|error| Error::io("/bin/sh", "cannot run", error))?;
    spawn("nbd-run", move || drop(ends.send(End::Command(child.wait()))))
}

/// How `serve` ends after it: with its exit code, and with 128 and the signal that killed it, as shells have it.
pub fn outcome(status: io::Result<ExitStatus>) -> Result<Outcome> {
    let status = status.map_err(|error| Error::io("/bin/sh", "cannot wait for it", error))?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(Outcome::Ended(u8::try_from(code).unwrap_or(1)))
}
