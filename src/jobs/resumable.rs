//! A mirror that goes on after a restart: a sync bitmap of the source tells what the target still lacks
//! (`spec/bitmaps.md`, section 9).

use crate::chain::{Chain, Layer};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{BitmapState, Point, SectionKind, Uuid};
use crate::image::{BitmapInfo, Image, NewBitmap, Trust};
use crate::jobs::control::Work;
use crate::jobs::mirror::Mirror;
use crate::switch::{Step, skipped};
use crate::sync::{Arc, Mutex, lock};
use std::ops::Range;

/// A [`Mirror`] of a whole disk that copies only what its sync bitmap has dirty.
#[derive(Debug)]
pub struct ResumableMirror {
    copy: Mirror,
    lacking: Arc<Lacking>,
    /// What this run went through, in order and apart.
    done: Mutex<Vec<Range<u64>>>,
}

/// What the target of a mirror lacks, on disk: a sync bitmap of the source's top.
#[derive(Debug)]
pub(crate) struct Lacking {
    image: Arc<Image>,
    name: String,
    granularity_shift: u8,
    source: Vec<Layer>,
    target: Layer,
    /// Whether it cannot be what a run before has left.
    fresh: bool,
    /// Whether this run is through with the bitmap. Held while the bitmap is frozen.
    ended: Mutex<bool>,
}

impl ResumableMirror {
    /// Copies into `target` what the sync bitmap `name` of the source's top says that it lacks. If there is none, or it does
    /// not fit the target (SYN-01), all is copied, and a new one made, of granules of `2^granularity_shift` bytes. See
    /// [`Mirror::full`] for `target` and `fresh`. A raw target is taken to be the one of the run before if it has the size of
    /// the disk, unless `fresh`.
    ///
    /// # Errors
    /// As [`Mirror::full`]; `Denied` if the source's top is not open for writing; `Invalid` if it can keep no bitmaps, or has
    /// another bitmap of this name.
    pub fn new(
        source: &Chain,
        target: Layer,
        name: &str,
        granularity_shift: u8,
        fresh: bool,
    ) -> Result<ResumableMirror> {
        let image = source.image(0)?.clone();
        if !image.writable() {
            return Err(Error::Denied(format!("{}: its sync bitmap is written: open it for writing", image.name())));
        }
        if let Some(other) = image.bitmaps().into_iter().find(|info| info.name == name && !is_sync(info)) {
            let what = if other.broken.is_some() { "is none" } else { "tells of changes, not of what a target lacks" };
            return Err(Error::Invalid(format!("{}: the bitmap {name:?} {what}", image.name())));
        }
        let copy = Mirror::full(source.top(), target.clone(), fresh)?;
        let fresh = fresh || matches!(target, Layer::Raw(_)) && target.size() != source.size();
        let (name, source, ended) = (name.to_owned(), source.layers.clone(), Mutex::default());
        let lacking = Arc::new(Lacking { image, name, granularity_shift, source, target, fresh, ended });
        Ok(ResumableMirror { copy, lacking, done: Mutex::default() })
    }

    pub(crate) fn lacking(&self) -> &Arc<Lacking> {
        &self.lacking
    }

    /// What is not done, of the whole disk.
    fn not_done(&self) -> Vec<Range<u64>> {
        let done = lock(&self.done);
        let ends = [0].into_iter().chain(done.iter().map(|range| range.end));
        let starts = done.iter().map(|range| range.start).chain([self.copy.total()]);
        ends.zip(starts).map(|(end, start)| end..start).filter(|range| !range.is_empty()).collect()
    }
}

impl Work for ResumableMirror {
    fn kind(&self) -> &'static str {
        self.copy.kind()
    }

    fn total(&self) -> u64 {
        self.copy.total()
    }

    fn alignment(&self) -> u64 {
        self.copy.alignment()
    }

    fn prepare(&self) -> Result<()> {
        self.copy.prepare()?;
        self.lacking.begin()
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        let copied = self.lacking.stretches(range.clone())?.into_iter().map(|stretch| self.copy.piece(stretch)).sum();
        let mut done = lock(&self.done);
        let at = done.partition_point(|other| other.start < range.start);
        done.insert(at, range);
        done.dedup_by(|next, before| {
            let meet = before.end == next.start;
            before.end = if meet { next.end } else { before.end };
            meet
        });
        copied
    }

    /// For a disk at rest. Beside a guest it is the live mirror that knows what is equal.
    fn checkpoint(&self) -> Result<()> {
        let not_done = self.not_done();
        self.lacking.drop_copied(|| not_done)
    }

    fn finish(&self) -> Result<()> {
        self.copy.checkpoint()?;
        self.lacking.end()?;
        self.copy.finish()
    }
}

impl Lacking {
    /// Takes up the bitmap that there is, if it fits the target, or makes one in which all is dirty.
    fn begin(&self) -> Result<()> {
        // The run that created the target may have been killed before its name was durable.
        self.target.files().iter().try_for_each(|file| file.sync_directory())?;
        match self.image.bitmap(&self.name) {
            Ok(found) if self.fits(&found) => return self.take_up(),
            Ok(_) => self.image.remove_bitmap(&self.name)?,
            Err(_) => {}
        }
        let granularity_shift = self.granularity_shift;
        let new = NewBitmap { granularity_shift, sync: true, dirty: true, ..NewBitmap::default() };
        let since = self.image.add_bitmap(&self.name, &new)?;
        self.name_states(&[since])
    }

    /// Begins a state that is this run's own, of which the target then tells alone (SYN-06): a source that is rolled back to
    /// before does not fit what this run makes of the target.
    fn take_up(&self) -> Result<()> {
        if self.target.image().is_none() {
            return self.thaw();
        }
        let size = self.image.size();
        self.drop_copied(|| vec![0..size])?;
        self.name_states(&[self.image.bitmap(&self.name)?.since])
    }

    /// SYN-01.
    fn fits(&self, bitmap: &BitmapInfo) -> bool {
        let records = bitmap.trust == Trust::Valid && bitmap.state != BitmapState::Disabled;
        let named = |point: &Point| (point.source, point.point) == (self.image.uuid(), bitmap.since);
        let target = self.target.image().map(|image| image.header());
        records
            && !self.fresh
            && target.is_none_or(|header| header.copy_mark.is_some() && header.points.iter().any(named))
    }

    /// A run that died, or failed, may have left it frozen.
    fn thaw(&self) -> Result<()> {
        match self.image.bitmap(&self.name)?.state {
            BitmapState::Frozen => self.image.take_back_bitmap(&self.name),
            _ => Ok(()),
        }
    }

    /// The target says that it is in the state that any of these `since` names (SYN-04).
    fn name_states(&self, names: &[Uuid]) -> Result<()> {
        let Some(target) = self.target.image() else { return Ok(()) };
        target.set_points(names.iter().map(|&point| Point { source: self.image.uuid(), point }).collect())
    }

    /// What of `range` the target lacks.
    fn stretches(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.image.dirty_within(&self.name, range)
    }

    /// Begins a new state, durably, and drops from the bitmap what the target has by now: all but what `rest` says, and what
    /// changes from here on.
    ///
    /// `rest` is called when the bitmap counts anew, and returns what is not equal, once nothing is under way any more that
    /// was when it was called.
    ///
    /// # Errors
    /// The host's: the bitmap then tells of more than it need.
    pub(crate) fn drop_copied(&self, rest: impl FnOnce() -> Vec<Range<u64>>) -> Result<()> {
        let ended = lock(&self.ended);
        if *ended {
            return Ok(());
        }
        self.thaw()?;
        let before = self.image.bitmap(&self.name)?.since;
        let point = self.image.freeze_bitmap(&self.name, None)?;
        let rest = rest();
        if !skipped(Step::EqualDurable) {
            self.target.secure()?;
            self.source.iter().try_for_each(Layer::secure)?;
        }
        if !skipped(Step::TargetNamesState) {
            // The one before is not always what it says first: a run may have died here.
            self.name_states(&[point, before])?;
        }
        let stretches: Result<Vec<_>> = rest.into_iter().map(|range| self.stretches(range)).collect();
        self.image.merge_bitmap(&self.name, &stretches?.concat())?;
        self.image.hand_over_bitmap(&self.name)
    }

    /// The target lacks `range`, though it was copied: durably, so that this run or another one copies it again.
    pub(crate) fn lacks(&self, range: Range<u64>) -> Result<()> {
        let ended = lock(&self.ended);
        if *ended { Ok(()) } else { self.image.merge_bitmap(&self.name, &[range]) }
    }

    /// On return this run writes no more to the bitmap, nor to the target's points, and another one may take them up.
    pub(crate) fn stop(&self) {
        *lock(&self.ended) = true;
    }

    /// The target, which is durably all there, lacks nothing any more: after this it may lose its mark (SYN-05).
    fn end(&self) -> Result<()> {
        let mut ended = lock(&self.ended);
        if !*ended {
            self.image.remove_bitmap(&self.name)?;
        }
        *ended = true;
        self.target.image().map_or(Ok(()), |target| target.set_points(Vec::new()))
    }
}

fn is_sync(info: &BitmapInfo) -> bool {
    info.kind == SectionKind::Sync && info.broken.is_none()
}
