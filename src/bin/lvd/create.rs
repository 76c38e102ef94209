//! `create`: new images, overlays, and sidecars beside raw volumes.

use crate::args::{Access, Create, Format, Opening};
use crate::open::{self, Disk, Target, beside};
use lvd::format::{Parent, State};
use lvd::image::{CreateOptions, Image};
use lvd::limits::GRANULARITY_SHIFTS;
use lvd::{BlockDevice, Error, Result};
use std::path::Path;

pub fn create(arguments: &Create) -> Result<()> {
    let mut options = CreateOptions { granularity_shift: shift(arguments.granularity)?, ..CreateOptions::default() };
    // Where the hint leads is where it will be looked for: from the file that holds it.
    let child = arguments.sidecar.as_deref().unwrap_or(&arguments.image);
    let parent = match &arguments.parent {
        Some(hint) => Some(ParentOf::open(child, hint, arguments.parent_format, &arguments.access)?),
        None => None,
    };
    let size = arguments.size.or(parent.as_ref().map(ParentOf::size));
    if let Some(size) = size {
        options.virtual_size = size;
        options.parent = parent.as_ref().map(|parent| parent.link(size)).transpose()?;
    }
    match &arguments.sidecar {
        Some(sidecar) => create_beside(arguments, sidecar, size, options),
        None if size.is_none() => Err(Error::Invalid("say how large the disk is to be: lvd create IMG SIZE".into())),
        None => {
            let target = Target::open(&arguments.image, &arguments.access)?;
            refuse_parent(&target, parent.as_ref())?;
            target.keep_if(|| target.create(&options))
        }
    }
}

/// Makes a sidecar, and the raw volume where there is none yet. What the volume held counts for nothing.
fn create_beside(arguments: &Create, sidecar: &Path, size: Option<u64>, mut options: CreateOptions) -> Result<()> {
    let volume = Target::open(&arguments.image, &arguments.access)?;
    volume.keep_if(|| {
        let there = volume.storage().size()?;
        let size = size.unwrap_or(there);
        if there < size {
            volume.storage().set_size(size)?;
            volume.storage().sync()?;
            volume.storage().sync_directory()?;
        }
        options.virtual_size = size;
        options.allocation = true;
        let target = Target::open(sidecar, &arguments.access)?;
        if open::same_file(&**target.storage(), &**volume.storage()) {
            return Err(Error::Invalid(format!("{}: the volume itself cannot be its sidecar", sidecar.display())));
        }
        let host = open::host();
        target.keep_if(|| Image::create_sidecar(&**target.storage(), &**volume.storage(), &*host, &options))
    })
}

/// The power of two that a granule is.
fn shift(granularity: u64) -> Result<u8> {
    let shift = granularity.checked_ilog2().unwrap_or(0) as u8;
    if granularity.is_power_of_two() && GRANULARITY_SHIFTS.contains(&shift) {
        return Ok(shift);
    }
    Err(Error::Invalid("the granularity is a power of two from 4K to 16M".into()))
}

fn refuse_parent(target: &Target, parent: Option<&ParentOf>) -> Result<()> {
    let layers = parent.iter().flat_map(|parent| &parent.disk.chain().layers);
    for layer in layers {
        if open::same_file(&**open::file_of(layer), &**target.storage()) {
            return Err(Error::Invalid(format!("{}: it is the parent, or a layer below it", layer.name())));
        }
    }
    Ok(())
}

/// A disk that is to lie below an image.
pub struct ParentOf {
    pub disk: Disk,
    hint: String,
}

impl ParentOf {
    /// Opens what `hint` leads to from `child`, in a state that a link can name.
    pub fn open(child: &Path, hint: &str, said: Option<Format>, access: &Access) -> Result<ParentOf> {
        let path = beside(child, hint);
        let format = open::format_of(&*open::storage(&path, false, access, None)?, said, "-F")?;
        let opening = Opening { format: Some(format), access: access.clone(), ..Opening::default() };
        let mut disk = Disk::open(&path, &opening, false)?;
        if disk.top()?.image().is_some_and(|image| image.header().state == State::Writing) {
            drop(disk);
            // CHN-07: a link names a sealed epoch, and closing what a crash left open seals it.
            Disk::open(&path, &opening, true)?.close()?;
            disk = Disk::open(&path, &opening, false)?;
        }
        Ok(ParentOf { disk, hint: hint.to_owned() })
    }

    pub fn size(&self) -> u64 {
        self.disk.chain().size()
    }

    /// The link of a child of `size` bytes.
    pub fn link(&self, size: u64) -> Result<Parent> {
        self.disk.top()?.link(size.min(self.size()), self.hint.clone())
    }
}
