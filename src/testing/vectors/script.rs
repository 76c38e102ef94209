//! Does with this library what the `then` of a case says: a guest's requests, and jobs at rest or beside the guest.

use super::run::{Files, Mismatch, repeat};
use super::vector::{Case, Operation};
use crate::chain::{Chain, ChainOptions, Layer};
use crate::device::BlockDevice;
use crate::error::Error;
use crate::image::{CreateOptions, Image};
use crate::jobs::{Job, Merge, Mirror, Rebase, Stream, Work, drive};
use crate::live::{Disk, LiveMirror, MirrorOptions};
use crate::sync::Arc;

/// Bytes that a job goes through at once: less than any disk, so that a job can be stopped within.
const STEP: u64 = 4096;

/// Does what `case` asks for, from an open to the end of the last process. `live`: the guest writes beside the jobs.
pub(super) fn play(files: &mut Files, case: &Case, live: bool) -> Result<(), Mismatch> {
    let mut process =
        Process::begin(files, case, live).map_err(|error| format!("does not open for writing: {error}"))?;
    case.then.iter().try_for_each(|operation| {
        let result = match operation.refused() {
            [] => process.perform(files, operation).map_err(|error| error.to_string()),
            _ => process.is_refused(files, operation),
        };
        result.map_err(|error| format!("{operation:?}: {error}"))
    })
}

/// One process, from its open of the files until it is dropped.
struct Process<'a> {
    case: &'a Case,
    live: bool,
    disk: Arc<Disk>,
    job: Option<Running>,
    /// Layers that were the guest's, until they are closed.
    left: Vec<Arc<Chain>>,
}

/// A job under way.
enum Running {
    /// One that only goes through the disk, and the target that it closes.
    Steps(Box<Job>, Option<Chain>),
    /// One that also follows the guest, on a disk of so many bytes.
    Follows(Arc<LiveMirror>, u64),
}

impl<'a> Process<'a> {
    fn begin(files: &Files, case: &'a Case, live: bool) -> Result<Process<'a>, Error> {
        let base = |operation: &Operation| match operation {
            Operation::Merge { base, .. } => case.parents.iter().position(|name| name == base),
            _ => None,
        };
        let write_also = case.then.iter().filter_map(base).max().map(|parent| parent + 1);
        let options = ChainOptions { write: true, write_also, ..ChainOptions::default() };
        let disk = Disk::new(files.case(case, options)?);
        Ok(Process { case, live, disk, job: None, left: Vec::new() })
    }

    /// A job that must be refused is, and no file has changed.
    fn is_refused(&mut self, files: &mut Files, operation: &Operation) -> Result<(), Mismatch> {
        let contents = |files: &Files| files.contents().map_err(|error| error.to_string());
        let before = contents(files)?;
        match self.perform(files, operation) {
            Ok(()) => return Err("is not refused".into()),
            Err(Error::Refused { .. } | Error::Denied(_) | Error::Invalid(_) | Error::Locked { .. }) => {}
            Err(error) => return Err(format!("fails for another reason: {error}")),
        }
        let after = contents(files)?;
        match before.iter().find(|(name, bytes)| after.get(*name) != Some(bytes)) {
            Some((name, _)) => Err(format!("is refused, and {name} has changed")),
            None => Ok(()),
        }
    }

    fn perform(&mut self, files: &mut Files, operation: &Operation) -> Result<(), Error> {
        let disk = &self.disk;
        match operation {
            Operation::Write { offset, length, pattern } => {
                disk.write_at(&repeat(pattern, *length).map_err(Error::Invalid)?, *offset)
            }
            Operation::Zero { offset, length } => disk.write_zeroes(*offset..offset + length, true),
            Operation::Fill { offset, length } => disk.chain().image(0)?.fill(*offset..offset + length).map(drop),
            Operation::Discard { offset, length } => disk.discard(*offset..offset + length),
            Operation::Resize { size } => disk.resize(*size),
            Operation::Flush => disk.flush(),
            Operation::Close => self.close(),
            Operation::Run { done } => self.run(*done),
            Operation::Finish => self.finish(),
            Operation::Pivot => self.pivot(),
            Operation::Kill => {
                *self = Process::begin(files, self.case, self.live)?;
                Ok(())
            }
            Operation::Stream { base, .. } => self.stream(base.as_deref()),
            Operation::Merge { top, base, empty, .. } => self.merge(top.as_deref(), base, *empty),
            Operation::Copy { to, raw, granule, alone, .. } => {
                let target = self.target(files, to, *raw, *granule, *alone)?;
                self.copy(target, *alone)
            }
            Operation::Rebase { onto, raw, .. } => self.rebase(files, onto, *raw),
        }
    }

    /// The number of the layer of that name.
    fn layer(&self, name: &str) -> Result<usize, Error> {
        let number = self.disk.chain().layers.iter().position(|layer| layer.name() == name);
        number.ok_or_else(|| Error::Invalid(format!("{name}: no layer of the disk")))
    }

    fn take_job(&mut self) -> Result<Running, Error> {
        self.job.take().ok_or_else(|| Error::Invalid("no job is under way".into()))
    }

    fn at_rest(&mut self, job: Job, target: Option<Chain>) -> Result<(), Error> {
        self.job = Some(Running::Steps(Box::new(job), target));
        Ok(())
    }

    fn follow(&mut self, mirror: Arc<LiveMirror>) -> Result<(), Error> {
        self.job = Some(Running::Follows(mirror, self.disk.size()));
        Ok(())
    }

    /// Refuses `what`, if it is wanted, beside a guest.
    fn at_rest_only(&self, wanted: bool, what: &str) -> Result<(), Error> {
        match self.live && wanted {
            true => Err(Error::Denied(format!("{what} is nothing that the library does beside a guest"))),
            false => Ok(()),
        }
    }

    fn stream(&mut self, base: Option<&str>) -> Result<(), Error> {
        let base = base.map(|name| self.layer(name)).transpose()?;
        let job = match self.live {
            true => self.disk.stream(base)?,
            false => self.new_job(Stream::new(&self.disk.chain(), base)?),
        };
        self.at_rest(job, None)
    }

    fn merge(&mut self, top: Option<&str>, base: &str, empty: bool) -> Result<(), Error> {
        self.at_rest_only(empty, "emptying the top")?;
        let (top, base) = (top.map_or(Ok(0), |name| self.layer(name))?, self.layer(base)?);
        match top {
            0 if self.live => self.follow(self.disk.merge_active_with(base, &options())?),
            _ if self.live => self.at_rest(self.disk.merge(top, base)?, None),
            _ => self.at_rest(self.new_job(Merge::new(&self.disk.chain(), top, base, empty)?), None),
        }
    }

    /// The target of a copy, made if it is not there.
    fn target(
        &self,
        files: &mut Files,
        to: &str,
        raw: bool,
        granule: Option<u64>,
        alone: bool,
    ) -> Result<Chain, Error> {
        let chain = self.disk.chain();
        if !files.has(to) {
            let below = alone.then(|| chain.layer(1)).transpose()?;
            let link = |below: &Layer| below.link(below.size().min(chain.size()), below.name().into());
            let create = CreateOptions {
                virtual_size: chain.size(),
                granularity_shift: granule.unwrap_or(STEP).trailing_zeros() as u8,
                parent: below.map(link).transpose()?,
                allocation: granule.is_some(),
                copy_mark: true,
            };
            let storage = files.add(to);
            if !raw {
                Image::create(&*storage, &**files.host(), &create)?;
            }
        }
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        match raw {
            true => Chain::open_raw(files.open(to)?, files.host().clone(), &options),
            false => files.chain(to, if alone { &self.case.parents } else { &[] }, &options),
        }
    }

    fn copy(&mut self, target: Chain, alone: bool) -> Result<(), Error> {
        self.at_rest_only(alone, "copying the top alone")?;
        if self.live {
            return self.follow(self.disk.mirror_with(target, &options())?);
        }
        let work = match alone {
            true => Mirror::top(&self.disk.chain(), &target)?,
            false => Mirror::full(self.disk.chain().top(), target.layer(0)?.clone(), false)?,
        };
        self.at_rest(self.new_job(work), Some(target))
    }

    fn rebase(&mut self, files: &Files, onto: &[String], raw: bool) -> Result<(), Error> {
        self.at_rest_only(true, "a rebase")?;
        let (parent, rest) = onto.split_first().ok_or_else(|| Error::Invalid("onto nothing".into()))?;
        let options = ChainOptions::default();
        let chain = match raw {
            true => Chain::open_raw(files.open(parent)?, files.host().clone(), &options)?,
            false => files.chain(parent, rest, &options)?,
        };
        let work = Rebase::new(&self.disk.chain(), &chain, parent.clone())?;
        self.at_rest(self.new_job(work), None)
    }

    fn new_job(&self, work: impl Work + 'static) -> Job {
        Job::new(work, self.disk.chain().host().clone())
    }

    /// Until the job has gone through so many bytes of the disk.
    fn run(&self, done: u64) -> Result<(), Error> {
        match &self.job {
            Some(Running::Steps(job, _)) => {
                while job.progress().done < done {
                    job.step(STEP)?;
                }
                Ok(())
            }
            Some(Running::Follows(mirror, size)) => {
                while size - mirror.progress().behind < done {
                    mirror.step(STEP)?;
                }
                Ok(())
            }
            None => Err(Error::Invalid("no job is under way".into())),
        }
    }

    fn finish(&mut self) -> Result<(), Error> {
        match self.take_job()? {
            Running::Steps(job, target) => {
                drive(&job, |_| {})?;
                target.map_or(Ok(()), |target| target.close())
            }
            Running::Follows(mirror, _) => {
                until_ready(&mirror)?;
                self.disk.split(&mirror)?.close()
            }
        }
    }

    fn pivot(&mut self) -> Result<(), Error> {
        let Running::Follows(mirror, _) = self.take_job()? else {
            return Err(Error::Invalid("only a job that follows the guest can move it".into()));
        };
        until_ready(&mirror)?;
        self.left.push(self.disk.pivot(&mirror)?);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        self.left.drain(..).try_for_each(|chain| chain.close())?;
        self.disk.close()
    }
}

fn until_ready(mirror: &LiveMirror) -> Result<(), Error> {
    while !mirror.progress().ready {
        mirror.step(STEP)?;
    }
    Ok(())
}

/// Small enough that a disk of a vector has many granules.
fn options() -> MirrorOptions {
    MirrorOptions { granularity: STEP, piece: STEP, ..MirrorOptions::default() }
}
