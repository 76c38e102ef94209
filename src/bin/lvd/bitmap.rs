//! `bitmap`: the dirty bitmaps of an image, or of a raw volume's sidecar.

use crate::args::{Access, Bitmap, Format, Named, Opening, Sidecar};
use crate::open::{self, Disk, Target};
use crate::{control, output, signals};
use lvd::format::{BitmapState, SectionKind, Uuid};
use lvd::image::{BitmapInfo, Image, NewBitmap, OpenOptions, Trust};
use lvd::jobs::differences;
use lvd::storage::LockMode;
use lvd::units::Size;
use lvd::{BlockDevice, Error, Result};
use serde_json::json;
use std::ops::Range;
use std::path::Path;

pub fn bitmap(verb: &Bitmap) -> Result<()> {
    if control::bitmap(verb)? {
        return Ok(());
    }
    match verb {
        Bitmap::Add { granularity, disabled, at } => {
            let granularity_shift = shift(*granularity)?;
            let new = NewBitmap { granularity_shift, recording: !disabled, ..NewBitmap::default() };
            tell(change(&at.named, |image, name| image.add_bitmap(name, &new))?)
        }
        Bitmap::Clear(at) => tell(change(&at.named, |image, name| image.clear_bitmap(name, None))?),
        Bitmap::Remove(at) => change(&at.named, Image::remove_bitmap),
        Bitmap::Enable(at) => change(&at.named, Image::enable_bitmap),
        Bitmap::Disable(at) => change(&at.named, Image::disable_bitmap),
        Bitmap::Merge { from, at, sources } => merge(from.as_deref(), &at.named, sources),
        Bitmap::Fetch(fetch) => control::fetch(fetch),
        Bitmap::List { opening, output, image } => list(image, opening, output.json()),
        Bitmap::Extents { output, named } => extents(named, output.json()),
        Bitmap::Attach(sidecar) => attach(sidecar),
        Bitmap::Detach(sidecar) => detach(sidecar),
        Bitmap::Export { named, file } => export(named, file),
        Bitmap::Import { named, file } => {
            change(named, |image, name| import(image, name, &beside(image, file, false)?))
        }
        Bitmap::Rebuild { old_format, named, old } => {
            let opening = Opening { format: *old_format, sidecar: None, ..named.opening.clone() };
            rebuild(named, &Disk::open(old, &opening, false)?)
        }
    }
}

fn shift(granularity: u64) -> Result<u8> {
    match granularity.is_power_of_two() {
        true => Ok(granularity.trailing_zeros() as u8),
        false => Err(Error::Invalid(format!("a granularity is a power of two, not {granularity}"))),
    }
}

/// Opens the disk for writing, does `verb`, and closes it.
fn change<T>(named: &Named, verb: impl FnOnce(&Image, &str) -> Result<T>) -> Result<T> {
    let disk = Disk::open(&named.image, &named.opening, true)?;
    let result = verb(image(&disk)?, &named.name);
    let closed = disk.close();
    let result = result?;
    closed.map(|()| result)
}

/// The top layer, whose bitmaps are meant.
pub fn image(disk: &Disk) -> Result<&Image> {
    disk.chain().image(0).map(|image| &**image).map_err(|_| {
        Error::Invalid(format!("{}: a raw volume keeps its bitmaps in a sidecar: --sidecar FILE", disk.chain().name()))
    })
}

fn tell(since: Uuid) -> Result<()> {
    output::line(format!("since {since}"))
}

/// What is merged: its size, granularity and point are told where they are known.
struct Source {
    size: u64,
    info: Option<BitmapInfo>,
    dirty: Vec<Range<u64>>,
}

fn source(image: &Image, size: u64, name: &str) -> Result<Source> {
    Ok(Source { size, info: Some(image.bitmap(name)?), dirty: image.dirty_stretches(name)? })
}

fn far_source(export: &Path, name: &str) -> Result<Source> {
    let bitmap = open::bitmap(export, name)?;
    Ok(Source { size: bitmap.size(), info: None, dirty: bitmap.dirty()? })
}

/// All sources are looked at first: one that does not fit changes nothing.
fn merge(from: Option<&Path>, named: &Named, names: &[String]) -> Result<()> {
    let others: Vec<Source> = match from {
        Some(export) if open::uri(export)?.is_some() => {
            names.iter().map(|name| far_source(export, name)).collect::<Result<_>>()?
        }
        Some(path) => {
            let opening = Opening { access: named.opening.access.clone(), ..Opening::default() };
            let disk = Disk::open(path, &opening, false)?;
            names.iter().map(|name| source(image(&disk)?, disk.chain().size(), name)).collect::<Result<_>>()?
        }
        None => Vec::new(),
    };
    let disk = Disk::open(&named.image, &named.opening, true)?;
    let merged = merge_into(&disk, &named.name, names, others);
    let closed = disk.close();
    merged.and(closed)
}

fn merge_into(disk: &Disk, name: &str, names: &[String], others: Vec<Source>) -> Result<()> {
    let (image, size) = (image(disk)?, disk.chain().size());
    let sources = match others.is_empty() {
        true => names.iter().map(|name| source(image, size, name)).collect::<Result<_>>()?,
        false => others,
    };
    if let Some(other) = sources.iter().find(|source| source.size != size) {
        let text = format!("{}: it has {size} bytes, and the disk of the other bitmap {}", image.name(), other.size);
        return Err(Error::Invalid(text));
    }
    let dirty = sources.iter().map(|source| &source.dirty[..]);
    if image.bitmap(name).is_ok() {
        return dirty.into_iter().try_for_each(|dirty| image.merge_bitmap(name, dirty));
    }
    let infos = || sources.iter().filter_map(|source| source.info.as_ref());
    let least = infos().map(|info| info.granularity).min().unwrap_or(1 << 16);
    let since = infos().next().map(|info| info.since);
    let new = NewBitmap { granularity_shift: shift(least)?, recording: false, since, ..NewBitmap::default() };
    image.add_bitmap_with(name, &new, &in_order(dirty))?;
    Ok(())
}

/// The stretches of several bitmaps as those of one: in order, and apart.
fn in_order<'a>(all: impl Iterator<Item = &'a [Range<u64>]>) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = all.flatten().cloned().collect();
    all.sort_by_key(|range| range.start);
    all.dedup_by(|next, before| {
        let touches = next.start <= before.end;
        if touches {
            before.end = before.end.max(next.end);
        }
        touches
    });
    all
}

fn list(path: &Path, opening: &Opening, json: bool) -> Result<()> {
    let disk = Disk::open(path, opening, false)?;
    let image = image(&disk)?;
    if json {
        let facts = image.bitmaps().iter().map(|info| fact(image, info)).collect::<Result<Vec<_>>>()?;
        return output::json(&json!(facts));
    }
    for info in image.bitmaps() {
        let (name, state) = (&info.name, words(&info));
        if let Some(rule) = info.broken {
            output::line(format!("{name:<24} no bitmap: {rule}"))?;
            continue;
        }
        let (dirty, granularity) = (Size(dirty_bytes(image, &info)?), Size(info.granularity));
        output::line(format!("{name:<24} {state:<24} {dirty:>10} dirty, in {granularity}, since {}", info.since))?;
    }
    Ok(())
}

fn words(info: &BitmapInfo) -> String {
    let state = match info.kind {
        SectionKind::Sync => format!("sync, {}", info.state),
        _ => info.state.to_string(),
    };
    match info.trust {
        Trust::Valid => state,
        Trust::MissedWrites => format!("{state}, missed writes"),
        Trust::Stale => "stale: all counts as dirty".into(),
    }
}

fn dirty_bytes(image: &Image, info: &BitmapInfo) -> Result<u64> {
    Ok(image.dirty_stretches(&info.name)?.iter().map(|range| range.end - range.start).sum())
}

/// In the words of `qemu-img info`, and our own.
pub fn fact(image: &Image, info: &BitmapInfo) -> Result<serde_json::Value> {
    if let Some(rule) = info.broken {
        return Ok(json!({ "name": info.name, "broken": rule.id() }));
    }
    let flags = if info.state == BitmapState::Recording { vec!["auto"] } else { vec![] };
    Ok(json!({
        "name": info.name, "granularity": info.granularity, "flags": flags, "kind": info.kind.to_string(),
        "state": info.state.to_string(),
        "since": info.since.to_string(), "stale": info.trust == Trust::Stale,
        "missed-writes": info.trust == Trust::MissedWrites, "dirty-bytes": dirty_bytes(image, info)?,
    }))
}

fn extents(named: &Named, json: bool) -> Result<()> {
    let disk = Disk::open(&named.image, &named.opening, false)?;
    let (image, size) = (image(&disk)?, disk.chain().size());
    let mut table = Stretches::new(json, ("clean", "dirty"));
    let mut at = 0;
    while at < size && !output::closed() {
        signals::go_on()?;
        let (dirty, end) = image.bitmap_run(&named.name, at, size)?;
        table.row(at..end, dirty)?;
        at = end;
    }
    table.end()
}

/// A list of stretches in the words of `nbdinfo --map`.
pub struct Stretches {
    json: bool,
    words: (&'static str, &'static str),
    rows: Vec<serde_json::Value>,
}

impl Stretches {
    pub fn new(json: bool, words: (&'static str, &'static str)) -> Stretches {
        Stretches { json, words, rows: Vec::new() }
    }

    pub fn row(&mut self, range: Range<u64>, set: bool) -> Result<()> {
        let (offset, length) = (range.start, range.end - range.start);
        let description = if set { self.words.1 } else { self.words.0 };
        if self.json {
            let kind = u8::from(set);
            self.rows.push(json!({ "offset": offset, "length": length, "type": kind, "description": description }));
            return Ok(());
        }
        output::line(format!("{offset:>16}  {length:>16}  {}  {description}", u8::from(set)))
    }

    pub fn end(self) -> Result<()> {
        if self.json { output::json(&json!(self.rows)) } else { Ok(()) }
    }
}

fn attach(sidecar: &Sidecar) -> Result<()> {
    let file = open::storage(&sidecar.image, true, &Access::default(), Some(LockMode::Exclusive))?;
    let target = match open::format_of(&*file, sidecar.format, "-f")? {
        Format::Raw => {
            let target = Target::open(&sidecar.file, &Access::default())?;
            return target.keep_if(|| Image::create_beside(&**target.storage(), &*file, &*open::host()));
        }
        _ => Target::open(&sidecar.file, &Access::default())?,
    };
    target.keep_if(|| {
        let options = OpenOptions { write: true, ..OpenOptions::default() };
        let image = Image::open(file, open::host(), &options)?;
        image.seal()?;
        Image::create_beside_image(&**target.storage(), &image)
    })
}

/// The sidecar `file` of `image`.
fn beside(image: &Image, file: &Path, write: bool) -> Result<Image> {
    let lock = if write { LockMode::Exclusive } else { LockMode::Shared };
    let storage = open::storage(file, write, &Access::default(), Some(lock))?;
    Image::open_beside(storage, image, open::host(), &OpenOptions { write, ..OpenOptions::default() })
}

fn detach(sidecar: &Sidecar) -> Result<()> {
    let opening = Opening { format: sidecar.format, ..Opening::default() };
    let disk = Disk::open(&sidecar.image, &opening, true)?;
    let image = image(&disk)?;
    image.seal()?;
    let from = beside(image, &sidecar.file, false)?;
    from.bitmaps().iter().try_for_each(|info| import(image, &info.name, &from))?;
    disk.close()?;
    let name = sidecar.file.display().to_string();
    std::fs::remove_file(&sidecar.file).map_err(|error| Error::io(&name, "cannot delete", error))
}

fn export(named: &Named, file: &Path) -> Result<()> {
    let disk = Disk::open(&named.image, &named.opening, true)?;
    let image = image(&disk)?;
    image.seal()?;
    let info = image.bitmap(&named.name)?;
    let target = Target::open(file, &Access::default())?;
    target.keep_if(|| {
        Image::create_beside_image(&**target.storage(), image)?;
        let options = OpenOptions { write: true, ..OpenOptions::default() };
        let to = Image::open_beside(target.storage().clone(), image, open::host(), &options)?;
        copy(image, &to, &info, false)
    })?;
    disk.close()
}

/// Copies a bitmap that tells of all changes up to what the image holds now.
fn import(image: &Image, name: &str, from: &Image) -> Result<()> {
    let info = from.bitmap(name)?;
    if info.trust != Trust::Valid {
        let text = format!("{}: the bitmap {name:?} does not fit what {} holds now", from.name(), image.name());
        return Err(Error::Denied(text));
    }
    copy(from, image, &info, info.state == BitmapState::Recording)
}

fn copy(from: &Image, to: &Image, info: &BitmapInfo, recording: bool) -> Result<()> {
    let (granularity_shift, sync) = (shift(info.granularity)?, info.kind == SectionKind::Sync);
    let new = NewBitmap { granularity_shift, recording, since: Some(info.since), sync, dirty: false };
    to.add_bitmap_with(&info.name, &new, &from.dirty_stretches(&info.name)?).map(drop)
}

fn rebuild(named: &Named, old: &Disk) -> Result<()> {
    let disk = Disk::open(&named.image, &named.opening, true)?;
    let top = image(&disk)?;
    if top.bitmap(&named.name).is_err() {
        let points = old.top()?.image().map(|image| image.header().points.clone()).unwrap_or_default();
        let since = points.iter().find(|point| point.source == top.uuid()).map(|point| point.point);
        tell(top.add_bitmap(&named.name, &NewBitmap { since, ..NewBitmap::default() })?)?;
    }
    let unit = top.bitmap(&named.name)?.granularity;
    let mut dirty = Vec::new();
    let size = disk.chain().size();
    differences(disk.chain(), old.chain(), unit, &mut |range, differs| {
        signals::go_on()?;
        if differs && range.start < size {
            dirty.push(range.start..range.end.min(size));
        }
        Ok(())
    })?;
    top.merge_bitmap(&named.name, &dirty)?;
    disk.close()
}
