//! One process that works on files as a case says: it opens them, and does what guest and jobs do.

use super::words::{Opening, Operation};
use crate::chain::{Chain, ChainOptions, GivenParents, Layer};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::image::{CreateOptions, Group, Image, OpenOptions};
use crate::jobs::{Job, Merge, Mirror, Rebase, Stream, Work, drive};
use crate::live::{Disk, LiveMirror, MirrorOptions};
use crate::storage::{Host, LockMode, Storage};
use crate::sync::Arc;
use std::fmt::Debug;

/// Bytes that a job goes through at once: less than any disk, so that a job can be stopped within.
const STEP: u64 = 4096;

/// Where the files of a case lie.
pub trait Place: Debug {
    /// Opens a file; for writing too if `write`.
    ///
    /// # Errors
    /// `Denied` if there is none of that name; the host's.
    fn open(&self, name: &str, write: bool) -> Result<Arc<dyn Storage>>;

    /// Whether there is a file of that name.
    fn has(&self, name: &str) -> bool;

    /// A new, empty file.
    ///
    /// # Errors
    /// The host's.
    fn add(&self, name: &str) -> Result<Arc<dyn Storage>>;

    /// Time and random bytes.
    fn host(&self) -> &Arc<dyn Host>;
}

/// The files of these names as parents, whatever the hints say; those down to layer `options.write_also` for writing.
fn given(place: &dyn Place, parents: &[String], options: &ChainOptions) -> Result<GivenParents> {
    let open = |(above, name): (usize, &String)| place.open(name, options.write_also.is_some_and(|last| above < last));
    Ok(GivenParents::new(parents.iter().enumerate().map(open).collect::<Result<Vec<_>>>()?))
}

/// Opens `top` on `parents`.
fn on_parents(place: &dyn Place, top: &str, parents: &[String], options: &ChainOptions) -> Result<Chain> {
    let policy = given(place, parents, options)?;
    Chain::open(place.open(top, options.write)?, place.host().clone(), &policy, options)
}

/// Opens the file of a group.
fn group(place: &dyn Place, name: &str, write: bool) -> Result<Arc<Group>> {
    Group::open(place.open(name, write)?, place.host().clone()).map(Arc::new)
}

/// Opens files as a disk.
///
/// # Errors
/// Those of [`Chain::open`], and of the place.
pub fn open(place: &dyn Place, opening: &Opening) -> Result<Chain> {
    let write = opening.write;
    let down_to = opening.down_to.as_ref().and_then(|name| opening.parents.iter().position(|parent| parent == name));
    let group = opening.group.as_ref().map(|name| group(place, name, write)).transpose()?;
    let usual = ChainOptions::default();
    let options = ChainOptions {
        write,
        write_also: down_to.map(|parent| parent + 1),
        depth: opening.depth.unwrap_or(usual.depth),
        trust_links: opening.trust_links,
        ignore_marks: opening.ignore_marks,
        group,
        ..usual
    };
    let host = || place.host().clone();
    let chain = match &opening.volume {
        _ if opening.raw => Chain::open_raw(place.open(&opening.open, write)?, host(), &options),
        Some(volume) => {
            let policy = given(place, &opening.parents, &options)?;
            let (file, volume) = (place.open(&opening.open, write)?, place.open(volume, write)?);
            Chain::open_sidecar(file, volume, host(), &policy, &options)
        }
        None => on_parents(place, &opening.open, &opening.parents, &options),
    }?;
    if let Some(beside) = &opening.beside {
        let how = OpenOptions { write, ignore_marks: opening.ignore_marks, ..OpenOptions::default() };
        let (image, sidecar) = (chain.image(0)?, place.open(beside, write)?);
        sidecar.lock(if write { LockMode::Exclusive } else { LockMode::Shared })?;
        image.attach(Arc::new(Image::open_beside(sidecar, image, host(), &how)?))?;
    }
    Ok(chain)
}

/// Opens a file alone: an image without its parents, a sidecar with its volume.
///
/// # Errors
/// As [`open`].
pub fn alone(place: &dyn Place, opening: &Opening) -> Result<Image> {
    let options = OpenOptions { ignore_marks: opening.ignore_marks, ..OpenOptions::default() };
    let (file, host) = (place.open(&opening.open, false)?, place.host().clone());
    file.lock(LockMode::Shared)?;
    match &opening.volume {
        Some(volume) => Image::open_sidecar(file, place.open(volume, false)?, host, &options),
        None => Image::open(file, host, &options),
    }
}

/// One process, from its open of the files until it is dropped.
pub struct Process<'a> {
    place: &'a dyn Place,
    opening: Opening,
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
    /// Opens files as a disk.
    ///
    /// # Errors
    /// Those of [`Chain::open`], and of the place.
    pub fn open(place: &'a dyn Place, opening: Opening) -> Result<Process<'a>> {
        let disk = Disk::new(open(place, &opening)?);
        Ok(Process { place, opening, disk, job: None, left: Vec::new() })
    }

    /// What the guest has at this moment.
    pub fn chain(&self) -> Arc<Chain> {
        self.disk.chain()
    }

    /// Does what `operation` says. [`Operation::Kill`] is whoever's who lets processes begin and end.
    ///
    /// # Errors
    /// Whatever it meets; `Invalid` for what makes no sense here.
    pub fn perform(&mut self, operation: &Operation) -> Result<()> {
        let disk = &self.disk;
        match operation {
            Operation::Write { offset, length, pattern } => disk.write_at(&repeat(pattern, *length)?, *offset),
            Operation::Zero { offset, length } => disk.write_zeroes(*offset..offset + length, true),
            Operation::Fill { offset, length } => disk.chain().image(0)?.fill(*offset..offset + length).map(drop),
            Operation::Discard { offset, length } => disk.discard(*offset..offset + length),
            Operation::Resize { size } => disk.resize(*size),
            Operation::Flush => disk.flush(),
            Operation::Close => self.close(),
            Operation::Run { done } => self.run(*done),
            Operation::Finish => self.finish(),
            Operation::Pivot => self.pivot(),
            Operation::Kill => Err(Error::Invalid("a process does not end itself".into())),
            Operation::Stream { base, .. } => self.stream(base.as_deref()),
            Operation::Merge { top, base, empty, .. } => self.merge(top.as_deref(), base, *empty),
            Operation::Copy { to, raw, granule, alone, .. } => {
                let target = self.target(to, *raw, *granule, *alone)?;
                self.copy(target, *alone)
            }
            Operation::Rebase { onto, raw, .. } => self.rebase(onto, *raw),
        }
    }

    /// The number of the layer of that name.
    fn layer(&self, name: &str) -> Result<usize> {
        let number = self.disk.chain().layers.iter().position(|layer| layer.name() == name);
        number.ok_or_else(|| Error::Invalid(format!("{name}: no layer of the disk")))
    }

    fn take_job(&mut self) -> Result<Running> {
        self.job.take().ok_or_else(|| Error::Invalid("no job is under way".into()))
    }

    fn at_rest(&mut self, job: Job, target: Option<Chain>) -> Result<()> {
        self.job = Some(Running::Steps(Box::new(job), target));
        Ok(())
    }

    fn follow(&mut self, mirror: Arc<LiveMirror>) -> Result<()> {
        self.job = Some(Running::Follows(mirror, self.disk.size()));
        Ok(())
    }

    /// Refuses `what`, if it is wanted, beside a guest.
    fn at_rest_only(&self, wanted: bool, what: &str) -> Result<()> {
        match self.opening.live && wanted {
            true => Err(Error::Denied(format!("{what} is nothing that the library does beside a guest"))),
            false => Ok(()),
        }
    }

    fn stream(&mut self, base: Option<&str>) -> Result<()> {
        let base = base.map(|name| self.layer(name)).transpose()?;
        let job = match self.opening.live {
            true => self.disk.stream(base)?,
            false => self.new_job(Stream::new(&self.disk.chain(), base)?),
        };
        self.at_rest(job, None)
    }

    fn merge(&mut self, top: Option<&str>, base: &str, empty: bool) -> Result<()> {
        self.at_rest_only(empty, "emptying the top")?;
        let (top, base) = (top.map_or(Ok(0), |name| self.layer(name))?, self.layer(base)?);
        match top {
            0 if self.opening.live => self.follow(self.disk.merge_active_with(base, &options())?),
            _ if self.opening.live => self.at_rest(self.disk.merge(top, base)?, None),
            _ => self.at_rest(self.new_job(Merge::new(&self.disk.chain(), top, base, empty)?), None),
        }
    }

    /// The target of a copy, made if it is not there.
    fn target(&self, to: &str, raw: bool, granule: Option<u64>, alone: bool) -> Result<Chain> {
        let chain = self.disk.chain();
        if !self.place.has(to) {
            let below = alone.then(|| chain.layer(1)).transpose()?;
            let link = |below: &Layer| below.link(below.size().min(chain.size()), below.name().into());
            let create = CreateOptions {
                virtual_size: chain.size(),
                granularity_shift: granule.unwrap_or(STEP).trailing_zeros() as u8,
                parent: below.map(link).transpose()?,
                allocation: granule.is_some(),
                copy_mark: true,
            };
            let storage = self.place.add(to)?;
            if !raw {
                Image::create(&*storage, &**self.place.host(), &create)?;
            }
        }
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        match raw {
            true => Chain::open_raw(self.place.open(to, true)?, self.place.host().clone(), &options),
            false => on_parents(self.place, to, if alone { &self.opening.parents } else { &[] }, &options),
        }
    }

    fn copy(&mut self, target: Chain, alone: bool) -> Result<()> {
        self.at_rest_only(alone, "copying the top alone")?;
        if self.opening.live {
            return self.follow(self.disk.mirror_with(target, &options())?);
        }
        let work = match alone {
            true => Mirror::top(&self.disk.chain(), &target)?,
            false => Mirror::full(self.disk.chain().top(), target.layer(0)?.clone(), false)?,
        };
        self.at_rest(self.new_job(work), Some(target))
    }

    fn rebase(&mut self, onto: &[String], raw: bool) -> Result<()> {
        self.at_rest_only(true, "a rebase")?;
        let (parent, rest) = onto.split_first().ok_or_else(|| Error::Invalid("onto nothing".into()))?;
        let options = ChainOptions::default();
        let chain = match raw {
            true => Chain::open_raw(self.place.open(parent, false)?, self.place.host().clone(), &options)?,
            false => on_parents(self.place, parent, rest, &options)?,
        };
        let work = Rebase::new(&self.disk.chain(), &chain, parent.clone())?;
        self.at_rest(self.new_job(work), None)
    }

    fn new_job(&self, work: impl Work + 'static) -> Job {
        Job::new(work, self.disk.chain().host().clone())
    }

    /// Until the job has gone through so many bytes of the disk.
    fn run(&self, done: u64) -> Result<()> {
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

    fn finish(&mut self) -> Result<()> {
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

    fn pivot(&mut self) -> Result<()> {
        let Running::Follows(mirror, _) = self.take_job()? else {
            return Err(Error::Invalid("only a job that follows the guest can move it".into()));
        };
        until_ready(&mirror)?;
        self.left.push(self.disk.pivot(&mirror)?);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.left.drain(..).try_for_each(|chain| chain.close())?;
        self.disk.close()
    }
}

fn until_ready(mirror: &LiveMirror) -> Result<()> {
    while !mirror.progress().ready {
        mirror.step(STEP)?;
    }
    Ok(())
}

/// Small enough that a disk of a vector has many granules.
fn options() -> MirrorOptions {
    MirrorOptions { granularity: STEP, piece: STEP, ..MirrorOptions::default() }
}

/// The bytes that `pattern`, in hexadecimal digits, makes when it is repeated.
///
/// # Errors
/// `Invalid` if it is no such digits.
pub fn repeat(pattern: &str, length: u64) -> Result<Vec<u8>> {
    let digit = |at: usize| pattern.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = (0..pattern.len()).step_by(2).map(digit).collect();
    match bytes {
        Some(bytes) if !bytes.is_empty() => Ok(bytes.into_iter().cycle().take(length as usize).collect()),
        _ => Err(Error::Invalid(format!("{pattern:?} is no pattern"))),
    }
}
