//! Running a job: several threads step it, one shows how far it is and listens for signals.

use crate::args::Running;
use crate::progress::Display;
use crate::{open, output, signals};
use lvd::jobs::{Job, drive};
use lvd::units::Size;
use lvd::{Error, Result};
use serde_json::json;
use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// How often the display is brought up to date.
const TICK: Duration = Duration::from_millis(50);
const MOST_THREADS: usize = 64;

/// What a job did.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    pub total: u64,
    pub copied: u64,
    pub seconds: f64,
}

/// Runs `job`, which the user calls `verb`, to its end. SIGINT or SIGTERM cancels it.
pub fn run(job: &Job, verb: &str, running: &Running) -> Result<Done> {
    let threads = match running.threads {
        0 => lvd::control::threads(open::is_far()),
        more if more > MOST_THREADS => return Err(Error::Invalid(format!("at most {MOST_THREADS} threads"))),
        threads => threads,
    };
    if let Some(speed) = running.speed {
        job.set_speed(speed);
    }
    let display = Display::new(verb, running.progress, running.quiet || running.output.json());
    let result = step_from(job, threads, &display);
    let seconds = display.end(result.is_ok()).as_secs_f64();
    result?;
    let progress = job.progress();
    Ok(Done { total: progress.total, copied: progress.copied, seconds })
}

/// The same, and then closes what it worked on, whatever came of it.
pub fn run_and_close(job: &Job, verb: &str, running: &Running, close: impl FnOnce() -> Result<()>) -> Result<Done> {
    let done = run(job, verb, running);
    let closed = close();
    let done = done?;
    closed.map(|()| done)
}

/// Tells what a job did: as JSON if that is asked for, else in one line for whoever looks on.
pub fn tell(verb: &str, running: &Running, done: Done) -> Result<()> {
    let Done { total, copied, seconds } = done;
    if running.output.json() {
        return output::json(&json!({ "job": verb, "total": total, "copied": copied, "seconds": seconds }));
    }
    if !running.quiet && std::io::stderr().is_terminal() {
        let (size, moved, rate) = (Size(total), Size(copied), output::rate(copied, seconds));
        eprintln!("{verb}: {size} gone through, {moved} copied in {seconds:.2} s ({rate})");
    }
    Ok(())
}

fn step_from(job: &Job, threads: usize, display: &Display) -> Result<()> {
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(move || sender.send(drive(job, |_| {})));
        }
        drop(sender);
        let mut failures = Vec::new();
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failures.push(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let progress = job.progress();
            display.update(progress.done, progress.total);
            if signals::stopped() {
                job.cancel();
            }
        }
        first_cause(failures)
    })
}

/// The failure that the others are only told of: the job's word about itself is [`Error::Invalid`].
fn first_cause(failures: Vec<Error>) -> Result<()> {
    let (told, causes): (Vec<_>, Vec<_>) = failures.into_iter().partition(|error| matches!(error, Error::Invalid(_)));
    causes.into_iter().chain(told).next().map_or(Ok(()), Err)
}
