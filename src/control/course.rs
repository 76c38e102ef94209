//! The engine's part of a job, behind one face: what goes through the disk once, and what keeps up with the guest.

use super::server::{Device, Server};
use super::together::Together;
use crate::chain::{Chain, Layer};
use crate::error::{Error, Result};
use crate::jobs;
use crate::live::{LiveMirror, Move, PointInTime, Pull};
use crate::sync::Arc;
use std::time::Duration;

/// Bytes of disk that one step goes through, at most; the engine makes less of it where a guest would wait.
const BUDGET: u64 = 16 << 20;

/// How often a point in time is looked at, whether it is lost.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is stepped.
#[derive(Debug)]
pub(super) enum Course {
    /// Goes through the disk once.
    Once {
        job: Box<jobs::Job>,
        /// What it copies into, if that is no layer of the disk.
        target: Option<Chain>,
    },
    /// Keeps up with the guest until it is told what to end in.
    Mirror {
        mirror: Arc<LiveMirror>,
        /// Of a merge, the number of the layer that is merged into: it and those below stay the disk's.
        base: Option<usize>,
        /// What is copied into.
        target: Files,
    },
    /// Keeps what the disk was for others to read, until it is told that they have it.
    Pull(Pull),
}

/// The files of a copy, for what is said of them later.
#[derive(Debug, Default)]
pub(super) struct Files {
    names: Vec<String>,
    /// One is on another machine.
    far: bool,
}

impl Files {
    pub(super) fn of(layers: &[Layer]) -> Files {
        let names = layers.iter().flat_map(Layer::files).map(|file| file.name().to_owned()).collect();
        Files { names, far: layers.iter().any(Layer::is_far) }
    }
}

/// What came of a step.
pub(super) struct Stepped {
    /// There is nothing left to copy.
    pub(super) over: bool,
    pub(super) ready: bool,
    pub(super) wait: Option<Duration>,
}

impl Course {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Course::Once { job, .. } => job.kind(),
            Course::Mirror { mirror, .. } => mirror.kind(),
            Course::Pull(_) => "backup",
        }
    }

    pub(super) fn is_far(&self) -> bool {
        match self {
            Course::Once { target, .. } => {
                target.as_ref().is_some_and(|target| target.layers.iter().any(Layer::is_far))
            }
            Course::Mirror { target, .. } => target.far,
            Course::Pull(_) => false,
        }
    }

    pub(super) fn step(&self) -> Result<Stepped> {
        match self {
            Course::Once { job, .. } => {
                job.step(BUDGET).map(|progress| Stepped { over: progress.held, ready: false, wait: progress.wait })
            }
            Course::Pull(pull) => {
                pull.device().check().map(|()| Stepped { over: false, ready: true, wait: Some(LOOK_AGAIN) })
            }
            Course::Mirror { mirror, .. } => {
                let progress = mirror.step(BUDGET)?;
                Ok(Stepped { over: false, ready: progress.ready, wait: progress.wait })
            }
        }
    }

    /// Whether it copies into the file of that name, and from other files.
    pub(super) fn copies_into(&self, file: &str) -> bool {
        match self {
            Course::Once { target, .. } => {
                let files = target.as_ref().map(|target| Files::of(&target.layers)).unwrap_or_default();
                files.names.iter().any(|name| name == file)
            }
            Course::Mirror { target, .. } => target.names.iter().any(|name| name == file),
            Course::Pull(_) => false,
        }
    }

    /// The disk of an instant, if it is kept for others.
    pub(super) fn point(&self) -> Option<Arc<PointInTime>> {
        match self {
            Course::Pull(pull) => Some(pull.device()),
            Course::Once { .. } | Course::Mirror { .. } => None,
        }
    }

    /// Bytes done, and bytes to do.
    pub(super) fn progress(&self) -> (u64, u64) {
        match self {
            Course::Once { job, .. } => (job.progress().done, job.progress().total),
            Course::Pull(pull) => (pull.device().copied_before(), pull.device().copied_before()),
            Course::Mirror { mirror, .. } => {
                let progress = mirror.progress();
                let done = progress.copied + progress.compared;
                (done, done + progress.behind + progress.to_compare)
            }
        }
    }

    pub(super) fn set_speed(&self, speed: u64) {
        match self {
            Course::Once { job, .. } => job.set_speed(speed),
            Course::Mirror { mirror, .. } => mirror.set_speed(speed),
            // What it copies a guest waits for.
            Course::Pull(_) => {}
        }
    }

    /// After a step that failed, whether the next one tries the same again.
    pub(super) fn retry(&self) -> bool {
        match self {
            Course::Once { job, .. } => job.retry(),
            Course::Mirror { .. } => true,
            Course::Pull(_) => false,
        }
    }

    /// Begins to hold what keeps up with the guest against the guest's disk.
    pub(super) fn compare(&self) -> Result<()> {
        match self {
            Course::Mirror { mirror, .. } => mirror.compare(),
            Course::Once { .. } | Course::Pull(_) => {
                Err(Error::Invalid(format!("a {} has nothing to compare", self.kind())))
            }
        }
    }

    /// Whether all was found equal that was to be.
    pub(super) fn check_compared(&self) -> Result<()> {
        match self {
            Course::Mirror { mirror, .. } => mirror.check_compared(),
            Course::Once { .. } | Course::Pull(_) => Ok(()),
        }
    }

    /// Makes what was copied count: durable first, and then pointed to.
    pub(super) fn finish(&self, device: &Device, server: &Server) -> Result<()> {
        match self {
            Course::Once { job, target } => {
                job.release();
                jobs::drive(job, |_| {})?;
                target.as_ref().map_or(Ok(()), Chain::close)
            }
            Course::Pull(pull) => pull.end(),
            Course::Mirror { mirror, base, .. } => {
                let left = device.disk.pivot(mirror)?;
                close_left(&left, *base, server);
                Ok(())
            }
        }
    }

    /// The same for a mirror whose guest moves together with those of others.
    pub(super) fn finish_together(&self, device: &Device, server: &Server, together: &Together) -> Result<()> {
        let Course::Mirror { mirror, base, .. } = self else {
            return Err(Error::Invalid(format!("a {} moves no guest", self.kind())));
        };
        let left = together.arrive(Move { disk: device.disk.clone(), mirror: mirror.clone() })?;
        if let Some(error) = together.report() {
            server.report(&error.to_string());
        }
        close_left(&left, *base, server);
        Ok(())
    }

    /// Leaves the target as the disk of this instant, and the guest where it is.
    pub(super) fn split(&self, device: &Device) -> Result<()> {
        match self {
            Course::Once { .. } | Course::Pull(_) => {
                Err(Error::Invalid(format!("a {} ends in 'job-complete', or is cancelled", self.kind())))
            }
            Course::Mirror { mirror, .. } => device.disk.split(mirror)?.close(),
        }
    }

    /// Ends without a result. What was done is right as it is, and another job finds it done.
    pub(super) fn abandon(&self, device: &Device, server: &Server) {
        match self {
            Course::Once { job, target } => {
                job.cancel();
                if let Some(Err(error)) = target.as_ref().map(Chain::close) {
                    server.report(&error.to_string());
                }
            }
            Course::Pull(_) => {}
            Course::Mirror { mirror, base, .. } => {
                // A resumable mirror is taken up where it was; what was not saved is copied again.
                let saved = mirror.save();
                let target = device.disk.abandon(mirror);
                let closed = target.and_then(|target| if base.is_none() { target.close() } else { Ok(()) });
                for error in [saved, closed].into_iter().filter_map(Result::err) {
                    server.report(&error.to_string());
                }
            }
        }
    }
}

/// Closes layers that a guest has left, down to `base`, which it is on by now. It has moved: they can no longer fail the job.
fn close_left(left: &Chain, base: Option<usize>, server: &Server) {
    for layer in &left.layers[..base.unwrap_or(left.layers.len())] {
        layer.close().unwrap_or_else(|error| server.report(&error.to_string()));
    }
}
