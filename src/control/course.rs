//! The engine's part of a job, behind one face: what goes through the disk once, and what keeps up with the guest.

use super::server::{Device, Server};
use crate::error::{Error, Result};
use crate::jobs;
use crate::live::LiveMirror;
use crate::sync::Arc;
use std::time::Duration;

/// Bytes of disk that one step goes through, at most; the engine makes less of it where a guest would wait.
const BUDGET: u64 = 16 << 20;

/// What is stepped.
#[derive(Debug)]
pub(super) enum Course {
    /// Goes through the disk once.
    Once(Box<jobs::Job>),
    /// Keeps up with the guest until it is told what to end in.
    Mirror {
        mirror: Arc<LiveMirror>,
        /// Of a merge, the number of the layer that is merged into: it and those below stay the disk's.
        base: Option<usize>,
        /// Whether the target is on another machine.
        far: bool,
    },
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
            Course::Once(job) => job.kind(),
            Course::Mirror { mirror, .. } => mirror.kind(),
        }
    }

    pub(super) fn is_far(&self) -> bool {
        matches!(self, Course::Mirror { far: true, .. })
    }

    pub(super) fn step(&self) -> Result<Stepped> {
        match self {
            Course::Once(job) => {
                job.step(BUDGET).map(|progress| Stepped { over: progress.held, ready: false, wait: progress.wait })
            }
            Course::Mirror { mirror, .. } => {
                let progress = mirror.step(BUDGET)?;
                Ok(Stepped { over: false, ready: progress.ready, wait: progress.wait })
            }
        }
    }

    /// Bytes done, and bytes to do.
    pub(super) fn progress(&self) -> (u64, u64) {
        match self {
            Course::Once(job) => (job.progress().done, job.progress().total),
            Course::Mirror { mirror, .. } => {
                let progress = mirror.progress();
                (progress.copied, progress.copied + progress.behind)
            }
        }
    }

    pub(super) fn set_speed(&self, speed: u64) {
        match self {
            Course::Once(job) => job.set_speed(speed),
            Course::Mirror { mirror, .. } => mirror.set_speed(speed),
        }
    }

    /// After a step that failed, whether the next one tries the same again.
    pub(super) fn retry(&self) -> bool {
        match self {
            Course::Once(job) => job.retry(),
            Course::Mirror { .. } => true,
        }
    }

    /// Makes what was copied count: durable first, and then pointed to.
    pub(super) fn finish(&self, device: &Device, server: &Server) -> Result<()> {
        match self {
            Course::Once(job) => {
                job.release();
                jobs::drive(job, |_| {})
            }
            Course::Mirror { mirror, base, .. } => {
                let left = device.disk.pivot(mirror)?;
                // The guest has moved: what it has left can no longer fail the job.
                for layer in &left.layers[..base.unwrap_or(left.layers.len())] {
                    layer.close().unwrap_or_else(|error| server.report(&error.to_string()));
                }
                Ok(())
            }
        }
    }

    /// Leaves the target as the disk of this instant, and the guest where it is.
    pub(super) fn split(&self, device: &Device) -> Result<()> {
        match self {
            Course::Once(job) => Err(Error::Invalid(format!("a {} has no target of its own", job.kind()))),
            Course::Mirror { mirror, .. } => device.disk.split(mirror)?.close(),
        }
    }

    /// Ends without a result. What was done is right as it is, and another job finds it done.
    pub(super) fn abandon(&self, device: &Device, server: &Server) {
        match self {
            Course::Once(job) => job.cancel(),
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
