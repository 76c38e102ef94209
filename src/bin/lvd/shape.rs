//! `resize` and `rebase`: the same disk, larger or smaller, or on another parent.

use crate::args::{Rebase, Resize, size};
use crate::create::ParentOf;
use crate::open::{self, Disk};
use crate::run;
use lvd::chain::Layer;
use lvd::image::{Image, OpenOptions};
use lvd::jobs::{self, Job};
use lvd::storage::LockMode;
use lvd::{BlockDevice, Error, Result};
use std::path::Path;

pub fn resize(arguments: &Resize) -> Result<()> {
    let disk = Disk::open(&arguments.image, &arguments.opening, true)?;
    let old = disk.chain().size();
    let new = new_size(&arguments.size, old)?;
    if new < old && !arguments.shrink {
        let name = disk.chain().name();
        return Err(Error::Invalid(format!(
            "{name}: {new} bytes are less than the {old} it has; --shrink throws its end away"
        )));
    }
    let resized = match disk.top()? {
        Layer::Lvd(image) => image.resize(new),
        Layer::Raw(raw) => raw.set_size(new).and_then(|()| raw.flush()),
        Layer::Foreign(image) => Err(Error::Denied(format!("{}: it is only read", image.storage().name()))),
    };
    let closed = disk.close();
    resized.and(closed)
}

/// A size, or with a sign a change of the old one.
fn new_size(text: &str, old: u64) -> Result<u64> {
    let (sign, number) = match text.as_bytes().first() {
        Some(b'+') => (Some(true), &text[1..]),
        Some(b'-') => (Some(false), &text[1..]),
        _ => (None, text),
    };
    let number = size(number).map_err(Error::Invalid)?;
    let new = match sign {
        None => Some(number),
        Some(true) => old.checked_add(number),
        Some(false) => old.checked_sub(number),
    };
    new.ok_or_else(|| Error::Invalid(format!("{text}: no size is {old} bytes {text}")))
}

pub fn rebase(arguments: &Rebase) -> Result<()> {
    let (opening, running) = (&arguments.opening, &arguments.running);
    // The hint is kept in the file that holds the header.
    let child = opening.sidecar.as_deref().unwrap_or(&arguments.image);
    let parent = match arguments.parent.as_str() {
        "" => None,
        hint => Some(ParentOf::open(child, hint, arguments.parent_format, &opening.access)?),
    };
    if arguments.unchecked {
        return relink(arguments, child, parent.as_ref());
    }
    let disk = Disk::open(&arguments.image, opening, true)?;
    let host = disk.chain().host().clone();
    let job = match &parent {
        Some(parent) => {
            let work = jobs::Rebase::new(disk.chain(), parent.disk.chain(), arguments.parent.clone())?;
            Job::new(work, host)
        }
        // On nothing at all it lies once it holds everything itself.
        None => Job::new(jobs::Stream::new(disk.chain(), None)?, host),
    };
    let done = run::run(&job, "rebase", running);
    let closed = disk.close();
    let done = done?;
    closed?;
    run::tell("rebase", running, done)
}

/// Changes the link alone. The old parent is not looked at: it may be gone.
fn relink(arguments: &Rebase, child: &Path, parent: Option<&ParentOf>) -> Result<()> {
    let access = &arguments.opening.access;
    let file = open::storage(child, true, access, Some(LockMode::Exclusive))?;
    let (ignore_marks, group) = (arguments.opening.ignore_marks, open::group(&arguments.opening, true)?);
    let options = OpenOptions { write: true, ignore_marks, group, ..OpenOptions::default() };
    let image = match arguments.opening.sidecar {
        Some(_) => {
            let volume = open::storage(&arguments.image, true, access, Some(LockMode::Exclusive))?;
            Image::open_sidecar(file, volume, open::host(), &options)?
        }
        None => Image::open(file, open::host(), &options)?,
    };
    let changed = match parent {
        Some(parent) => jobs::rebase_unsafe(&image, parent.link(image.size())?),
        None => image.relink(None, None),
    };
    let closed = image.close();
    changed.and(closed)
}
