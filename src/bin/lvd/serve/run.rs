//! `--run`: a shell command beside the server, as nbdkit has it.

use super::listen::Place;
use super::{End, spawn};
use crate::Outcome;
use lvd::{Error, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::Sender;

/// A command that was started.
pub struct Running(Child);

impl Running {
    /// Starts it; `ends` is told when it ends.
    pub fn start(command: &str, place: &Place, export: &str, ends: Sender<End>) -> Result<Running> {
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
        let child = shell.spawn().map_err(|error| Error::io("/bin/sh", "cannot run", error))?;
        let waited = WaitId::Pid(Pid::from_child(&child));
        spawn("nbd-run", move || {
            // It stays waited for: until then its number is nobody else's, whom `terminate` would hit.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let _ = rustix::io::retry_on_intr(|| waitid(waited.clone(), options));
            let _ = ends.send(End::Command);
        })?;
        Ok(Running(child))
    }

    /// Asks it to end, and does not wait.
    pub fn terminate(&self) {
        // One that has ended is as good.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
    }

    /// How `serve` ends after it: with its exit code, and with 128 and the signal that killed it, as shells have it.
    pub fn outcome(&mut self) -> Result<Outcome> {
        let status = self.0.wait().map_err(|error| Error::io("/bin/sh", "cannot wait for it", error))?;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        Ok(Outcome::Ended(u8::try_from(code).unwrap_or(1)))
    }
}
