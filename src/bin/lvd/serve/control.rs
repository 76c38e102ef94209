//! `--control`: the socket at which jobs, snapshots and bitmaps of the disks are commanded.

use super::listen::Place;
use super::{End, spawn};
use crate::args::{Access, Format, Opening, OutputFormat, Serve};
use crate::copy::{hint_from, is_blank, overlay_beside};
use crate::create::ParentOf;
use crate::open::{self, Disk, Target, host};
use crate::output;
use lvd::chain::{Chain, ChainOptions, Layer};
use lvd::control::{Device, Files, Options, Server, TargetFormat, TargetMode};
use lvd::image::CreateOptions;
use lvd::live;
use lvd::nbd::client::NbdBitmap;
use lvd::nbd::server::Exports;
use lvd::storage::Storage;
use lvd::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Serves the control socket of `place`, if there is one. Commands call `disks` by the names of their `exports`.
pub fn start(
    arguments: &Serve,
    place: &Place,
    exports: &Arc<Exports>,
    disks: &[Arc<live::Disk>],
    ends: &Sender<End>,
) -> Result<Option<Arc<Server>>> {
    let Some(listener) = place.control()? else { return Ok(None) };
    let named = exports.all().into_iter().zip(disks);
    let devices = named.map(|(export, disk)| Device::new(export.name.clone(), disk.clone())).collect();
    let files = Box::new(AnyFile { access: arguments.opening.access.clone() });
    let quit = {
        let ends = ends.clone();
        Box::new(move || drop(ends.send(End::Signal)))
    };
    let server = Server::new(devices, files, exports.clone(), Options::default(), Box::new(output::complain), quit);
    let (served, ends) = (server.clone(), ends.clone());
    spawn("control-accept", move || {
        loop {
            match listener.accept() {
                Ok(socket) => {
                    if let Err(error) = served.serve(socket) {
                        output::complain(&format!("cannot serve a client: {error}"));
                    }
                }
                Err(error) => {
                    let _ = ends.send(End::Listener(error));
                    return;
                }
            }
        }
    })?;
    Ok(Some(server))
}

/// Every file that the server's user may open: who reaches the socket is trusted as that user is.
struct AnyFile {
    access: Access,
}

impl Files for AnyFile {
    fn overlay(
        &self,
        name: &str,
        below: &Layer,
        then: &mut dyn FnMut(Arc<dyn Storage>, String) -> Result<()>,
    ) -> Result<()> {
        let path = Path::new(name);
        if open::uri(path)?.is_some() {
            return Err(Error::Invalid(format!("{name}: an overlay is a file of this machine")));
        }
        // A snapshot that is asked for twice must not throw the first one away.
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(Error::Invalid(format!("{name}: it exists")));
        }
        let hint = hint_from(path, below.name())?;
        let target = Target::open(path, &self.access)?;
        target.keep_if(|| then(target.storage().clone(), hint.clone()))
    }

    fn target(
        &self,
        name: &str,
        format: TargetFormat,
        size: u64,
        mode: TargetMode,
        then: &mut dyn FnMut(Chain) -> Result<()>,
    ) -> Result<()> {
        let path = PathBuf::from(name);
        let exists = open::exists(&path);
        if matches!(mode, TargetMode::Existing | TargetMode::Kept) && !exists {
            return Err(Error::Invalid(format!("{name}: there is no such file")));
        }
        let (said, to_be) = match format {
            TargetFormat::Lvd => (Format::Lvd, OutputFormat::Lvd),
            TargetFormat::Raw => (Format::Raw, OutputFormat::Raw),
        };
        let resumed = mode == TargetMode::Resumed;
        if mode == TargetMode::Kept || resumed && exists && !is_blank(&path, to_be)? {
            let (format, access) = (Some(said), self.access.clone());
            let opening = Opening { format, access, ignore_marks: resumed, ..Opening::default() };
            return then(Disk::open(&path, &opening, true)?.into_chain());
        }
        let target = Target::open(&path, &self.access)?;
        // An empty raw file is nothing that a mirror has left.
        let size = if resumed && format == TargetFormat::Raw { 0 } else { size };
        target.keep_if(|| then(chain(&target, format, size, &self.access)?))
    }

    fn beside(&self, name: &str, disk: &Chain, then: &mut dyn FnMut(Chain) -> Result<()>) -> Result<()> {
        let path = Path::new(name);
        let options = overlay_beside(disk, path)?;
        let target = Target::open(path, &self.access)?;
        target.keep_if(|| {
            target.create(&options)?;
            then(target.chain(&self.access)?)
        })
    }

    fn increment(
        &self,
        name: &str,
        previous: &str,
        size: u64,
        then: &mut dyn FnMut(Chain) -> Result<()>,
    ) -> Result<()> {
        let path = Path::new(name);
        // Absolute for the server, whose directory nobody knows; for the file itself beside it, if it is.
        let hint = hint_from(path, previous)?;
        let parent = ParentOf::open(path, &hint, Some(Format::Lvd), &self.access)?;
        let options = CreateOptions {
            virtual_size: size,
            parent: Some(parent.link(size)?),
            copy_mark: true,
            ..CreateOptions::default()
        };
        drop(parent);
        let target = Target::open(path, &self.access)?;
        target.keep_if(|| {
            target.create(&options)?;
            then(target.chain(&self.access)?)
        })
    }

    fn group(&self, name: &str) -> Result<Arc<dyn Storage>> {
        let path = Path::new(name);
        if open::uri(path)?.is_some() || std::fs::symlink_metadata(path).is_ok() {
            return Err(Error::Invalid(format!("{name}: the file of a group is a new file of this machine")));
        }
        Ok(Target::open(path, &self.access)?.storage().clone())
    }

    fn bitmap(&self, export: &str, name: &str) -> Result<NbdBitmap> {
        open::bitmap(Path::new(export), name)
    }

    fn layer(&self, chain: &Chain, name: &str) -> Result<usize> {
        open::layer_in(chain, Path::new(name))
    }
}

/// What a disk of `size` bytes is copied into while a guest writes to it.
fn chain(target: &Target, format: TargetFormat, size: u64, access: &Access) -> Result<Chain> {
    match format {
        TargetFormat::Lvd => {
            target.create(&CreateOptions { virtual_size: size, copy_mark: true, ..CreateOptions::default() })?;
            target.chain(access)
        }
        TargetFormat::Raw => {
            let storage = target.storage();
            if storage.zeros_when_new() {
                storage.set_size(0)?;
                storage.set_size(size)?;
            }
            Chain::open_raw(storage.clone(), host(), &ChainOptions { write: true, ..ChainOptions::default() })
        }
    }
}
