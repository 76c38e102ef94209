//! `stream` and `commit`: jobs within one chain.

use crate::args::{Commit, Stream};
use crate::open::Disk;
use crate::run;
use lvd::jobs::{self, Job, Work};
use lvd::{Error, Result};

pub fn stream(arguments: &Stream) -> Result<()> {
    let disk = Disk::open(&arguments.image, &arguments.opening, true)?;
    let base = arguments.base.as_deref().map(|path| disk.layer_in(path)).transpose()?;
    let work = jobs::Stream::new(disk.chain(), base)?;
    finish(&disk, work, "stream", &arguments.running)
}

pub fn commit(arguments: &Commit) -> Result<()> {
    // Which layers are to be written is known only once the chain has been looked at.
    let looked = Disk::open(&arguments.image, &arguments.opening, false)?;
    let (top, base) = ends(arguments, &looked)?;
    drop(looked);
    let disk = Disk::open_down_to(&arguments.image, &arguments.opening, true, Some(base))?;
    if ends(arguments, &disk)? != (top, base) {
        return Err(Error::Invalid(format!("{}: its chain was changed by somebody else", disk.chain().name())));
    }
    // What lies between is gone afterwards, and a top that others lie on stays as it is.
    let empty = !arguments.keep && base == top + 1 && top == 0;
    let work = jobs::Merge::new(disk.chain(), top, base, empty)?;
    finish(&disk, work, "commit", &arguments.running)
}

/// The numbers of the layer that is merged and of the one that it is merged into.
fn ends(arguments: &Commit, disk: &Disk) -> Result<(usize, usize)> {
    let top = arguments.top.as_deref().map_or(Ok(0), |path| disk.layer_in(path))?;
    let base = arguments.into.as_deref().map_or(Ok(top + 1), |path| disk.layer_in(path))?;
    if base >= disk.chain().layers.len() {
        let name = disk.chain().layer(top)?.name();
        return Err(Error::Invalid(format!("{name}: it has no parent to be merged into")));
    }
    Ok((top, base))
}

/// Runs the job and closes the disk, whatever came of it.
fn finish(disk: &Disk, work: impl Work + 'static, verb: &str, running: &crate::args::Running) -> Result<()> {
    let job = Job::new(work, disk.chain().host().clone());
    let done = run::run_and_close(&job, verb, running, || disk.close())?;
    run::tell(verb, running, done)
}
