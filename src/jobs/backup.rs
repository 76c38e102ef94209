//! Backup: a disk, or what a dirty bitmap says has changed since the backup before, into another file.

use crate::chain::{Chain, Layer};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{Point, Uuid};
use crate::image::{BitmapInfo, Image, NewBitmap, Trust};
use crate::jobs::control::Work;
use crate::jobs::mirror::Mirror;
use crate::switch::{Step, skipped};
use crate::sync::{Arc, Mutex, lock};
use std::ops::Range;

/// Copies a disk at rest, or, with [`Still::backup`](crate::live::Still::backup), one that is not. A target that fails, or
/// whose writer is killed, leaves the bitmap as if it had never begun.
#[derive(Debug)]
pub struct Backup {
    copy: Mirror,
    /// What is copied: what this bitmap of the source has dirty. `None`: all.
    dirty: Option<(Arc<Image>, String)>,
    source: Vec<Layer>,
    target: Layer,
    count: Mutex<Option<Count>>,
}

/// The bitmap that tells of what changes after the backup.
#[derive(Debug)]
pub struct Count {
    image: Arc<Image>,
    name: String,
    since: Uuid,
    begun: Begun,
}

/// When the new count began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// It will at the end: the disk is at rest.
    No,
    /// When the bitmap was frozen; its successor counts.
    Frozen,
    /// When the bitmap was made.
    Made,
    /// It goes on whatever happens.
    Ended,
}

impl Count {
    /// The bitmap `name` of `image`, the top of the source, open for writing. A full backup makes it, if it is not there.
    /// `since` names the point at which its new count begins; an LVD target carries it as its point.
    pub fn new(image: Arc<Image>, name: impl Into<String>, since: Uuid) -> Count {
        Count { image, name: name.into(), since, begun: Begun::No }
    }

    /// Begins to count at this instant, at which the disk is held still (BAK-04).
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.begun = match self.image.bitmap(&self.name) {
            Ok(_) => {
                self.image.freeze_bitmap(&self.name, Some(self.since))?;
                Begun::Frozen
            }
            Err(_) => {
                self.make()?;
                Begun::Made
            }
        };
        Ok(())
    }

    fn make(&self) -> Result<()> {
        let new = NewBitmap { since: Some(self.since), ..NewBitmap::default() };
        self.image.add_bitmap(&self.name, &new).map(drop)
    }

    /// The backup is durable: what it has need not be told any more (BAK-03).
    fn end(&mut self, source: &[Layer]) -> Result<()> {
        // The top is barriered with its bitmap.
        source.iter().skip(1).try_for_each(Layer::secure)?;
        match (self.begun, self.image.bitmap(&self.name)) {
            (Begun::No, Ok(_)) => self.image.clear_bitmap(&self.name, Some(self.since)).map(drop)?,
            (Begun::No, Err(_)) => self.make()?,
            (Begun::Frozen, _) => self.image.hand_over_bitmap(&self.name)?,
            (Begun::Made | Begun::Ended, _) => {}
        }
        self.begun = Begun::Ended;
        Ok(())
    }

    /// Leaves the bitmap as if the backup had never begun.
    fn take_back(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.begun, Begun::Ended) {
            Begun::Frozen => self.image.take_back_bitmap(&self.name),
            Begun::Made => self.image.remove_bitmap(&self.name),
            Begun::No | Begun::Ended => Ok(()),
        }
    }
}

impl Backup {
    /// Copies all of `source` into `target`; then `count` begins anew. See [`Mirror::full`] for `target` and `fresh`.
    ///
    /// # Errors
    /// As [`Mirror::full`]; `Denied` if the bitmap is frozen.
    pub fn full(source: &Chain, target: Layer, fresh: bool, count: Option<Count>) -> Result<Backup> {
        let copy = Mirror::full(source.top(), target.clone(), fresh)?;
        Ok(Backup { copy, dirty: None, source: source.layers.clone(), target, count: Mutex::new(count) })
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
        Ok(Backup { copy, dirty, source: source.layers.clone(), target: layer, count: Mutex::new(count) })
    }

    /// Copies what the bitmap `name` of the top of `source` has dirty onto `target`, which holds the disk as it was at the
    /// bitmap's start, or as an earlier run has left it.
    ///
    /// `count` begins anew afterwards.
    ///
    /// # Errors
    /// As [`Mirror::full`]; `Denied` if the bitmap is not valid; the host's.
    pub fn onto(source: &Chain, target: Layer, name: &str, count: Option<Count>) -> Result<Backup> {
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
        let (dirty, count) = (Some((image, name.to_owned())), Mutex::new(count));
        Ok(Backup { copy, dirty, source: source.layers.clone(), target, count })
    }

    /// What is to be copied of `range` of the disk as it is now.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn wanted(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        match &self.dirty {
            Some((image, name)) => image.dirty_within(name, range),
            None => Ok(vec![range]),
        }
    }

    /// Bytes that are best copied together: what the target, or a bit of the bitmap, is made of.
    pub(crate) fn granule(&self) -> Result<u64> {
        let granule = self.dirty.as_ref().map(|(image, name)| image.bitmap(name)).transpose()?;
        Ok(granule.map_or(0, |info| info.granularity).max(self.copy.alignment()))
    }

    /// Copies `range` as it is now, whether it is wanted or not. Returns the bytes that were read.
    ///
    /// # Errors
    /// The hosts'.
    pub(crate) fn copy(&self, range: Range<u64>) -> Result<u64> {
        self.copy.piece(range)
    }

    /// Has the bitmap count from this instant on.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn begin_count(&self) -> Result<()> {
        lock(&self.count).as_mut().map_or(Ok(()), Count::begin)
    }

    /// Whoever was given the content has it: the bitmap tells of what changed since.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn end_count(&self) -> Result<()> {
        lock(&self.count).as_mut().map_or(Ok(()), |count| count.end(&self.source))
    }

    /// Leaves the bitmap as if the backup had never begun, unless it has ended.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn take_back_count(&self) -> Result<()> {
        lock(&self.count).as_mut().map_or(Ok(()), Count::take_back)
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
        self.wanted(range)?.into_iter().map(|stretch| self.copy.piece(stretch)).sum()
    }

    fn checkpoint(&self) -> Result<()> {
        self.copy.checkpoint()
    }

    /// Target, source, point, and only then the bitmap (BAK-02, BAK-03).
    fn finish(&self) -> Result<()> {
        if skipped(Step::BackupDurable) {
            self.end_count()?;
        }
        if let (Some(count), Layer::Lvd(target)) = (&*lock(&self.count), &self.target)
            && !skipped(Step::PointInTarget)
        {
            target.set_points(vec![Point { source: count.image.uuid(), point: count.since }])?;
        }
        self.copy.finish()?;
        self.end_count()
    }
}
