//! Files of the scenarios: how they are made and opened.

use crate::chain::{Chain, ChainOptions, ParentPolicy};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{Header, Parent};
use crate::image::{CreateOptions, Group, Image};
use crate::storage::{Host, Storage};
use crate::testing::host::SimHost;
use crate::testing::laws::{Open, Opened};
use crate::testing::model::Model;
use crate::testing::sim::SimDisk;
use crate::testing::world::World;
use std::sync::Arc;

/// Bytes of a block.
pub(in crate::testing) const BLOCK: u64 = 4096;
/// Five blocks and an odd rest.
pub(in crate::testing) const SIZE: u64 = 5 * BLOCK + 1000;

/// Gives parents by the last part of their hint.
#[derive(Debug)]
pub(in crate::testing) struct ByName(pub(in crate::testing) SimDisk);

impl ParentPolicy for ByName {
    fn open(&self, link: &Parent, _: &str, write: bool) -> Result<Arc<dyn Storage>> {
        let name = link.hint.rsplit('/').next().unwrap_or_default();
        Ok(self.0.open(name, write)?)
    }
}

/// A hint so long that the header does not fit into one sector.
pub(in crate::testing) fn hint(name: &str) -> String {
    format!("{}/{name}", "directory".repeat(40))
}

/// The group of a scenario, if its file is there and right.
pub(in crate::testing) const GROUP: &str = "group.lvg";

/// Opens a chain from `name` down, by the group if there is one. `write_also` as in [`ChainOptions`].
pub(in crate::testing) fn chain(
    disk: &SimDisk,
    host: Arc<dyn Host>,
    name: &str,
    write: bool,
    write_also: Option<usize>,
) -> Result<Chain> {
    let group = if disk.exists(GROUP) { Group::open(disk.open(GROUP, write)?, host.clone()).ok() } else { None };
    let options = ChainOptions { write, write_also, group: group.map(Arc::new), ..ChainOptions::default() };
    let top = disk.open(name, write)?;
    if name.ends_with(".raw") {
        return Chain::open_raw(top, host, &options);
    }
    let policy = ByName(disk.clone());
    let opened = match name.strip_suffix(".lvb") {
        Some(volume) => Chain::open_sidecar(top, disk.open(volume, write)?, host, &policy, &options),
        None => Chain::open(top, host, &policy, &options),
    }?;
    if write {
        note_payload(disk, &opened);
    }
    Ok(opened)
}

/// Tells the disk where guest data lies in the layers of `chain`.
pub(in crate::testing) fn note_payload(disk: &SimDisk, chain: &Chain) {
    for image in chain.layers.iter().filter_map(|layer| layer.image()) {
        let (data, offset) = image.data_location();
        disk.set_payload(data.name(), offset..offset + image.size());
    }
}

/// Opens a chain for looking.
pub(in crate::testing) fn look(disk: &SimDisk, name: &str) -> Result<Opened> {
    let chain = chain(disk, Arc::new(SimHost::new(0)), name, false, None)?;
    let header = chain.layers[0].image().map(|image| image.header());
    let image = chain.layers[0].image().cloned();
    Ok(Opened { device: Arc::new(chain), header, image })
}

macro_rules! views {
    ($($view:ident $name:literal)*) => {
        $(pub(in crate::testing) fn $view(disk: &SimDisk) -> Result<Opened> {
            look(disk, $name)
        })*
    };
}

views! {
    top "top.lvd"
    over "over.lvd"
    mid "mid.lvd"
    base "base.lvd"
    base_raw "base.raw"
    sibling "sibling.lvd"
    copy "copy.lvd"
    copy_raw "copy.raw"
    volume_raw "volume.raw"
    sidecar "volume.raw.lvb"
    tracked "tracked.raw.lvb"
}

/// Disks that move together: each as it is at first, and its copy.
pub(in crate::testing) const MOVING: [[&str; 2]; 2] = [["one.lvd", "one.copy.lvd"], ["two.lvd", "two.copy.lvd"]];

pub(in crate::testing) fn one(disk: &SimDisk) -> Result<Opened> {
    look(disk, side(disk)?[0])
}

pub(in crate::testing) fn two(disk: &SimDisk) -> Result<Opened> {
    look(disk, side(disk)?[1])
}

/// Their views, in the order of [`MOVING`].
pub(in crate::testing) const VIEWS: [(&str, Open); 2] = [("one", one), ("two", two)];

/// Opens one of their files for writing, by whatever there is of the group.
pub(in crate::testing) fn open_moving(disk: &SimDisk, name: &str) -> Result<Chain> {
    chain(disk, Arc::new(SimHost::new(0)), name, true, None)
}

/// The files that are the disks now: of each exactly one opens for writing, and of both the same one.
pub(in crate::testing) fn side(disk: &SimDisk) -> Result<[&'static str; 2]> {
    match MOVING.map(|sides| sides.map(|name| open_moving(disk, name).is_ok())) {
        [[true, false], [true, false]] => Ok(MOVING.map(|[source, _]| source)),
        [[false, true], [false, true]] => Ok(MOVING.map(|[_, target]| target)),
        open => Err(Error::Invalid(format!("{open:?} of {MOVING:?} open for writing"))),
    }
}

/// Opens the top on its own: it has no parent any more.
pub(in crate::testing) fn alone(disk: &SimDisk) -> Result<Opened> {
    let image = Image::open(disk.open("top.lvd", false)?, Arc::new(SimHost::new(0)), &Default::default())?;
    match image.complete() {
        true => {
            let image = Arc::new(image);
            Ok(Opened { header: Some(image.header()), device: image.clone(), image: Some(image) })
        }
        false => Err(Error::Invalid("it has a parent".into())),
    }
}

impl World {
    /// Opens a chain for writing.
    pub(in crate::testing) fn open(&self, name: &str) -> Result<Chain> {
        self.open_also(name, None)
    }

    /// Opens a chain for writing, the layers down to `last` too.
    pub(in crate::testing) fn open_also(&self, name: &str, last: Option<usize>) -> Result<Chain> {
        chain(&self.disk, self.host.clone(), name, true, last)
    }

    /// Opens a chain whose top may be marked, for writing.
    pub(in crate::testing) fn open_marked(&self, name: &str) -> Result<Chain> {
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        let top = self.disk.open(name, true)?;
        let opened = Chain::open(top, self.host.clone(), &ByName(self.disk.clone()), &options)?;
        note_payload(&self.disk, &opened);
        Ok(opened)
    }

    /// A file to be created, or to be created again.
    pub(in crate::testing) fn file(&self, name: &str) -> Result<Arc<dyn Storage>> {
        Ok(if self.disk.exists(name) { self.disk.open(name, true)? } else { self.disk.create(name)? })
    }

    /// Creates an overlay of `size` bytes on `parent`, of which as much is visible as fits.
    pub(in crate::testing) fn create_overlay(&self, name: &str, parent: &str, size: u64) -> Result<()> {
        let link = self.link(parent, size)?;
        let options = CreateOptions { virtual_size: size, parent: Some(link), ..CreateOptions::default() };
        Image::create(&*self.file(name)?, &*self.host, &options)
    }

    /// A link to `parent`, for a child of `size` bytes.
    pub(in crate::testing) fn link(&self, parent: &str, size: u64) -> Result<Parent> {
        let below = chain(&self.disk, self.host.clone(), parent, false, None)?;
        below.layers[0].link(size.min(below.size()), hint(parent))
    }

    /// Creates a complete image.
    pub(in crate::testing) fn create(&self, name: &str, size: u64) -> Result<()> {
        let options = CreateOptions { virtual_size: size, ..CreateOptions::default() };
        Image::create(&*self.file(name)?, &*self.host, &options)
    }

    /// Fills a disk that was just made, except for a hole in its second block.
    pub(in crate::testing) fn fill(&mut self, view: &str, name: &str) -> Result<()> {
        let chain = self.open(name)?;
        self.write(view, &chain, 0..BLOCK)?;
        self.write(view, &chain, 2 * BLOCK..chain.size())?;
        self.durable(view, || chain.close())
    }

    /// Setup: `base.lvd`, with a view of it.
    pub(in crate::testing) fn with_base(&mut self, size: u64) -> Result<()> {
        self.create("base.lvd", size)?;
        self.view("base", base, Model::zeros(size), true);
        self.fill("base", "base.lvd")
    }

    /// Setup: `base.raw`, with a view of it.
    pub(in crate::testing) fn with_raw_base(&mut self, size: u64) -> Result<()> {
        self.disk.create("base.raw")?.set_size(size)?;
        self.disk.set_payload("base.raw", 0..u64::MAX);
        self.view("base", base_raw, Model::zeros(size), true);
        self.fill("base", "base.raw")
    }

    /// Setup: the disks of [`MOVING`], of `size` bytes, with something written to each, and copies of them to be.
    pub(in crate::testing) fn with_group(&mut self, size: u64) -> Result<()> {
        for ((view, open), [source, target]) in VIEWS.into_iter().zip(MOVING) {
            let options = CreateOptions { virtual_size: size, ..CreateOptions::default() };
            Image::create(&*self.file(source)?, &*self.host, &options)?;
            Image::create(&*self.file(target)?, &*self.host, &CreateOptions { copy_mark: true, ..options })?;
            // It is looked at once all four are there.
            self.view(view, open, Model::zeros(size), false);
            let chain = self.open(source)?;
            self.write(view, &chain, 0..1024)?;
            self.durable(view, || chain.close())?;
        }
        VIEWS.iter().for_each(|(view, _)| self.promise(view));
        Ok(())
    }

    /// Setup: an overlay `NAME.lvd` with its view `NAME`, on `parent`, whose view is `below`.
    pub(in crate::testing) fn with_overlay(
        &mut self,
        view: &'static str,
        open: crate::testing::laws::Open,
        (parent, below): (&str, &str),
        size: u64,
    ) -> Result<()> {
        self.create_overlay(&format!("{view}.lvd"), parent, size)?;
        let model = self.model(below).map(|model| model.resized(size)).unwrap_or_else(|| Model::zeros(size));
        self.view(view, open, model, true);
        Ok(())
    }

    /// What a user does with a disk after a crash: flushes what is seen, writes where the crash was, part of a block, zeroes, flushes, closes,
    /// looks again. The image must be sound all along.
    pub(in crate::testing) fn carry_on(&mut self, view: &str, name: &str) -> Result<()> {
        let chain = self.open(name)?;
        let size = chain.size();
        self.read(view, &chain);
        self.flush(view, &chain)?;
        self.write(view, &chain, 0..BLOCK.min(size))?;
        self.write(view, &chain, size - size.min(700)..size)?;
        self.flush(view, &chain)?;
        self.zero(view, &chain, BLOCK + 512..3 * BLOCK, true)?;
        self.write(view, &chain, 3 * BLOCK + 1024..3 * BLOCK + 1536)?;
        self.flush(view, &chain)?;
        self.read(view, &chain);
        self.sound(&chain)?;
        self.durable(view, || chain.close())?;
        drop(chain);
        let chain = self.open(name)?;
        self.read(view, &chain);
        self.sound(&chain)
    }

    /// No layer has damage.
    pub(in crate::testing) fn sound(&self, chain: &Chain) -> Result<()> {
        for image in chain.layers.iter().filter_map(|layer| layer.image()) {
            let report = image.check()?;
            if let Some(finding) = report.findings.first() {
                return Err(Error::Invalid(format!("{}: {} ({})", image.name(), finding.text, finding.violation)));
            }
        }
        Ok(())
    }

    /// The header of a file as the page cache shows it, if it has one.
    pub(in crate::testing) fn header(&self, name: &str) -> Option<Header> {
        Image::read_header(&*self.disk.open(name, false).ok()?).ok()
    }
}
