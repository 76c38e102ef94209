//! Backup: a disk, or what a dirty bitmap says has changed since the backup before, into another file.

use crate::chain::{Chain, Layer};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{Point, Uuid};
use crate::image::{BitmapInfo, Image, NewBitmap, Trust};
use crate::jobs::control::Work;
use crate::jobs::copy::{Zeros, copy};
use crate::jobs::mirror::Mirror;
use crate::sync::Arc;
use std::ops::Range;

/// Copies a disk at rest. A target that fails, or whose writer is killed, leaves the bitmap as if it had never begun.
#[derive(Debug)]
pub struct Backup {
    copy: Mirror,
    /// What is copied: what this bitmap of the source has dirty. `None`: all.
    dirty: Option<(Arc<Image>, String)>,
    source: Vec<Layer>,
    target: Layer,
    count: Option<Count>,
}

/// The bitmap that tells of what changes after the backup.
#[derive(Debug)]
pub struct Count {
    /// The top of the source, open for writing.
    pub image: Arc<Image>,
    /// The bitmap's name. A full backup makes it, if it is not there.
    pub name: String,
    /// Its new `since`, which an LVD target carries as its point.
    pub since: Uuid,
}

impl Backup {
    /// Copies all of `source` into `target`; then `count` begins anew. See [`Mirror::full`] for `target` and `fresh`.
    ///
    /// # Errors
    /// As [`Mirror::full`]; `Denied` if the bitmap is frozen.
    pub fn full(source: &Chain, target: Layer, fresh: bool, count: Option<Count>) -> Result<Backup> {
        let copy = Mirror::full(source.top(), target.clone(), fresh)?;
        Ok(Backup { copy, dirty: None, source: source.layers.clone(), target, count })
    }

    /// Copies what the bitmap `name` of the top of `source` has dirty into the top of `target`, an overlay of the backup
    /// before, made with a copy mark. That one's point must be the bitmap's `since`, or `since` must be (BAK-01).
    ///
    /// # Errors
    /// As [`Mirror::full`]; `Denied` if the bitmap is not valid, or does not fit the backup before.
    pub fn incremental(
        source: &Chain,
        target: &Chain,
        name: &str,
        since: Option<Uuid>,
        count: Option<Count>,
    ) -> Result<Backup> {
        let image = source.image(0)?.clone();
        let bitmap = check_valid(&image, name)?;
        let (file, before) = (image.name(), target.layer(1)?);
        let points = before.image().map(|image| image.header().points.clone()).unwrap_or_default();
        let point = points.first().map(|point| (point.source, point.point));
        let fits = match (since, point) {
            (Some(since), None) => since == bitmap.since,
            (since, Some(point)) => point == (image.uuid(), bitmap.since) && since.is_none_or(|since| since == point.1),
            (None, None) => false,
        };
        if !fits {
            let text = format!("{file}: the bitmap {name:?} tells of changes since {}, and", bitmap.since);
            let has = point.map_or("has no backup point".into(), |(_, point)| format!("is the backup of {point}"));
            return Err(Error::Denied(format!("{text} {} {has}", before.name())));
        }
        let layer = target.layer(0)?.clone();
        let copy = Mirror::full(source.top(), layer.clone(), false)?;
        let dirty = Some((image, name.to_owned()));
        Ok(Backup { copy, dirty, source: source.layers.clone(), target: layer, count })
    }

    /// Copies what the bitmap `name` of the top of `source` has dirty onto `target`, which holds the disk as it was at the
    /// bitmap's start, or as an earlier run has left it.
    ///
    /// # Errors
    /// As [`Mirror::full`]; `Denied` if the bitmap is not valid; the host's.
    pub fn onto(source: &Chain, target: Layer, name: &str) -> Result<Backup> {
        let image = source.image(0)?.clone();
        check_valid(&image, name)?;
        if target.size() != source.size() {
            let (one, other) = (target.size(), source.size());
            return Err(Error::Invalid(format!("{}: it has {one} bytes, the source {other}", target.name())));
        }
        if let Layer::Lvd(target) = &target {
            target.set_copy_mark()?;
        }
        let copy = Mirror::full(source.top(), target.clone(), false)?;
        Ok(Backup { copy, dirty: Some((image, name.to_owned())), source: source.layers.clone(), target, count: None })
    }
}

fn check_valid(image: &Image, name: &str) -> Result<BitmapInfo> {
    let bitmap = image.bitmap(name)?;
    let why = match bitmap.trust {
        Trust::Valid => return Ok(bitmap),
        Trust::Stale => "is stale",
        Trust::MissedWrites => "has missed writes",
    };
    Err(Error::Denied(format!("{}: the bitmap {name:?} {why}: only a full copy is right", image.name())))
}

impl Work for Backup {
    fn kind(&self) -> &'static str {
        "backup"
    }

    fn total(&self) -> u64 {
        self.copy.total()
    }

    fn alignment(&self) -> u64 {
        self.copy.alignment()
    }

    fn prepare(&self) -> Result<()> {
        self.copy.prepare()
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        let Some((image, name)) = &self.dirty else { return self.copy.piece(range) };
        let (source, target) = (self.source[0].device(), self.target.device());
        let dirty = image.dirty_within(name, range)?;
        dirty.into_iter().map(|stretch| copy(&*source, &*target, stretch, Zeros::Written)).sum()
    }

    fn checkpoint(&self) -> Result<()> {
        self.copy.checkpoint()
    }

    /// Target, source, point, and only then the bitmap (BAK-02, BAK-03).
    fn finish(&self) -> Result<()> {
        if let (Some(count), Layer::Lvd(target)) = (&self.count, &self.target) {
            target.set_points(vec![Point { source: count.image.uuid(), point: count.since }])?;
        }
        self.copy.finish()?;
        let Some(count) = &self.count else { return Ok(()) };
        // The top is barriered with its bitmap.
        self.source.iter().skip(1).try_for_each(Layer::secure)?;
        match count.image.bitmap(&count.name) {
            Ok(_) => count.image.clear_bitmap(&count.name, Some(count.since)),
            Err(_) => {
                count.image.add_bitmap(&count.name, &NewBitmap { since: Some(count.since), ..Default::default() })
            }
        }
        .map(drop)
    }
}
