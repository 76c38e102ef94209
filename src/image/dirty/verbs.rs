//! What is done to a bitmap as a whole. Each verb is one header update and a seal point (EPO-03).

use super::super::{Image, Layout};
use super::bits::Bits;
use super::{BitmapInfo, Trust};
use crate::error::{Error, Result};
use crate::format::{Bitmap, BitmapState, Header, Section, SectionKind, State, Uuid};
use crate::limits::{GRANULARITY_SHIFTS, MAX_INTENTS, MAX_SECTIONS, SLOT_SIZE};
use crate::switch::{Step, skipped};
use crate::sync::{read, write};
use std::ops::Range;

/// The smallest regions of intents, and the largest of disks that are not larger than [`MAX_INTENTS`] of them.
const REGION_SHIFTS: std::ops::RangeInclusive<u8> = 16..=24;
/// Regions of a disk, unless they would be larger than 16 MiB.
const FEW_REGIONS: u64 = 4096;

/// What a new bitmap is to be.
#[derive(Debug, Clone, Copy)]
pub struct NewBitmap {
    /// Bytes that one bit speaks of, as a power of two.
    pub granularity_shift: u8,
    /// Begins to record at once; else it is disabled.
    pub recording: bool,
    /// The point from which on it tells; `None`: a new one.
    pub since: Option<Uuid>,
    /// A sync bitmap.
    pub sync: bool,
    /// All is dirty at first, instead of nothing.
    pub dirty: bool,
}

impl Default for NewBitmap {
    fn default() -> NewBitmap {
        NewBitmap { granularity_shift: 16, recording: true, since: None, sync: false, dirty: false }
    }
}

/// A bitmap that was added before it has its bits.
#[derive(Debug)]
#[must_use = "nobody trusts it"]
pub struct UnbegunBitmap {
    name: String,
}

/// A change of the header that a verb prepares: the sections that it needs are made and durable before it is written.
struct Draft {
    header: Header,
    /// The new sections.
    made: Vec<Section>,
    /// What is dirty in one of them, in bytes of the disk.
    dirty: Option<(Uuid, Vec<Range<u64>>)>,
}

impl Image {
    /// The dirty bitmaps, and the records that are none.
    ///
    /// Those of the sidecars that are attached are among them, and every verb finds them by their names.
    pub fn bitmaps(&self) -> Vec<BitmapInfo> {
        let layout = read(&self.layout);
        let mut infos = layout.bitmaps.infos(&self.header());
        infos.extend(layout.beside.iter().flat_map(|sidecar| sidecar.bitmaps()));
        infos.extend(self.header().broken_bitmaps().into_iter().map(|(name, violation)| BitmapInfo {
            name,
            kind: SectionKind::Dirty,
            state: BitmapState::Disabled,
            since: Uuid::NIL,
            granularity: 0,
            trust: Trust::Stale,
            broken: Some(violation),
        }));
        infos
    }

    /// The bitmap `name`.
    ///
    /// # Errors
    /// `Invalid` if there is none.
    pub fn bitmap(&self, name: &str) -> Result<BitmapInfo> {
        let found = self.bitmaps().into_iter().find(|info| info.name == name && info.broken.is_none());
        found.ok_or_else(|| self.no_bitmap(name))
    }

    fn no_bitmap(&self, name: &str) -> Error {
        Error::Invalid(format!("{}: has no bitmap {name:?}", self.name()))
    }

    /// Whether the bitmap `name` has the disk dirty at byte `offset`, and up to where, at most `end`, that is so
    /// (BMP-05). A stale one has all of it dirty.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap or the range lies outside the disk; the host's.
    pub fn bitmap_run(&self, name: &str, offset: u64, end: u64) -> Result<(bool, u64)> {
        let layout = read(&self.layout);
        self.check_range(&layout, &(offset..end))?;
        for home in layout.beside.iter().filter(|sidecar| sidecar.has_bitmap(name)) {
            let run = read(&home.layout).bitmaps.run(name, offset, layout.size)?;
            if let Some((dirty, stop)) = run {
                return Ok((dirty, stop.min(end)));
            }
        }
        let found = layout.bitmaps.run(name, offset, layout.size)?;
        let (dirty, stop) = found.ok_or_else(|| self.no_bitmap(name))?;
        Ok((dirty, stop.min(end)))
    }

    fn has_bitmap(&self, name: &str) -> bool {
        self.bitmaps().iter().any(|info| info.name == name)
    }

    /// Does `verb` where the bitmap `name` is: in a sidecar, or in the image itself. What is nowhere yet goes into the
    /// sidecar that was attached last.
    ///
    /// A verb on a sidecar's bitmap is a seal point of the image too: the two then speak of one content.
    fn at_home<T>(&self, name: &str, verb: impl FnOnce(&Image) -> Result<T>) -> Result<T> {
        let layout = write(&self.layout);
        let here = layout.bitmaps.infos(&self.header()).iter().any(|info| info.name == name);
        let home = layout.beside.iter().find(|sidecar| sidecar.has_bitmap(name)).or(layout.beside.last()).cloned();
        let Some(sidecar) = home.filter(|_| !here) else {
            drop(layout);
            return verb(self);
        };
        self.check_writable()?;
        // A close that was killed may have left the epoch that the sidecar is to name in the page cache alone.
        self.order.secure_found()?;
        self.seal_held(&layout)?;
        sidecar.rebind(self.epoch())?;
        verb(&sidecar)
    }

    /// Makes the sidecar speak of the image's content under its `epoch`, which is sealed.
    fn rebind(&self, epoch: Uuid) -> Result<()> {
        let mut layout = write(&self.layout);
        self.check_writable()?;
        if self.header().epoch != epoch {
            self.order.follow(epoch, epoch, State::Closed)?;
            self.adopt(&mut layout);
        }
        Ok(())
    }

    /// Adds a bitmap. Returns its `since`.
    ///
    /// # Errors
    /// `Invalid` if there is one of that name, or the name or the granularity is none (BMP-03); `NoSpace`, the host's.
    pub fn add_bitmap(&self, name: &str, new: &NewBitmap) -> Result<Uuid> {
        self.add_bitmap_with(name, new, &[])
    }

    /// Adds a bitmap in which `dirty`, stretches of the disk in bytes and in order, is dirty from its first moment on
    /// (BMP-15).
    ///
    /// # Errors
    /// As [`add_bitmap`](Self::add_bitmap).
    pub fn add_bitmap_with(&self, name: &str, new: &NewBitmap, dirty: &[Range<u64>]) -> Result<Uuid> {
        self.at_home(name, |home| home.add_here(name, new, dirty, None))
    }

    /// Adds a bitmap whose bits are still to come: up to [`begin_bitmap`](Self::begin_bitmap) it has missed writes
    /// (BMP-15).
    ///
    /// # Errors
    /// As [`add_bitmap`](Self::add_bitmap).
    pub fn add_bitmap_unbegun(&self, name: &str, new: &NewBitmap) -> Result<UnbegunBitmap> {
        let unbegun = UnbegunBitmap { name: name.to_owned() };
        if skipped(Step::BitsBeforeTrust) {
            return self.add_bitmap(name, new).map(|_| unbegun);
        }
        let (disabled, nothing) = (NewBitmap { recording: false, ..*new }, self.order.random());
        self.at_home(name, |home| home.add_here(name, &disabled, &[], Some(nothing)))?;
        Ok(unbegun)
    }

    /// Has the bitmap record: it has all its bits, and the disk has not changed since it was added, as the caller alone knows
    /// (BMP-15).
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap; the host's.
    pub fn begin_bitmap(&self, unbegun: &UnbegunBitmap) -> Result<()> {
        let (name, recording) = (&unbegun.name, BitmapState::Recording);
        self.at_home(name, |home| home.change_bitmaps(|layout, draft| home.set_state(layout, draft, name, recording)))
    }

    fn add_here(&self, name: &str, new: &NewBitmap, dirty: &[Range<u64>], epoch: Option<Uuid>) -> Result<Uuid> {
        if !GRANULARITY_SHIFTS.contains(&new.granularity_shift) {
            let text = format!("{}: no bitmap has granules of 2^{} bytes", self.name(), new.granularity_shift);
            return Err(Error::Invalid(text));
        }
        let since = new.since.unwrap_or_else(|| self.order.random());
        let state = if new.recording { BitmapState::Recording } else { BitmapState::Disabled };
        self.change_bitmaps(|layout, draft| {
            if draft.header.bitmaps.iter().any(|bitmap| bitmap.name == name) {
                return Err(Error::Invalid(format!("{}: there is a bitmap {name:?} already", self.name())));
            }
            let kind = if new.sync { SectionKind::Sync } else { SectionKind::Dirty };
            let section = self.make_section(layout, draft, kind, new.granularity_shift)?;
            let all = new.dirty.then_some(0..layout.size);
            draft.dirty = Some((section, all.into_iter().chain(dirty.iter().cloned()).collect()));
            self.reach(layout, draft)?;
            let epoch = epoch.unwrap_or(draft.header.epoch);
            self.put(draft, Bitmap { section, since, epoch, state, name: name.to_owned() })
        })?;
        Ok(since)
    }

    /// Takes a bitmap away, with its successor if it is frozen. A record that is no bitmap goes by its name too.
    ///
    /// # Errors
    /// `Invalid` if there is none; the host's.
    pub fn remove_bitmap(&self, name: &str) -> Result<()> {
        self.at_home(name, |home| home.remove_here(name))
    }

    fn remove_here(&self, name: &str) -> Result<()> {
        self.change_bitmaps(|_, draft| {
            let header = &mut draft.header;
            let broken = header.remove_broken_bitmaps(name);
            let gone: Vec<Uuid> = header.bitmaps.iter().filter(|b| b.name == name).map(|b| b.section).collect();
            if gone.is_empty() && !broken {
                return Err(self.no_bitmap(name));
            }
            header.bitmaps.retain(|bitmap| bitmap.name != name);
            header.sections.retain(|section| !gone.contains(&section.id));
            Ok(())
        })
    }

    /// Begins a new count: nothing is dirty any more, and what was stale or had missed writes is valid again. Its point is
    /// `since` (`None`: a new one), which is returned.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap, `Denied` if it is frozen; `NoSpace`, the host's.
    pub fn clear_bitmap(&self, name: &str, since: Option<Uuid>) -> Result<Uuid> {
        self.at_home(name, |home| home.clear_here(name, since))
    }

    fn clear_here(&self, name: &str, since: Option<Uuid>) -> Result<Uuid> {
        let since = since.unwrap_or_else(|| self.order.random());
        self.change_bitmaps(|layout, draft| {
            let old = self.thawed(draft, name)?;
            let replaced = draft.section(&old).copied();
            if replaced.is_some_and(|section| section.kind == SectionKind::Sync) {
                let why = "tells what the target of a mirror lacks: only a mirror knows better";
                return Err(Error::Denied(format!("{}: the bitmap {name:?} {why}", self.name())));
            }
            draft.header.bitmaps.retain(|bitmap| bitmap.name != name);
            draft.header.sections.retain(|section| section.id != old.section);
            self.begin_count(layout, draft, replaced, Bitmap { since, ..old })
        })?;
        Ok(since)
    }

    /// Ends the recording. The bitmap goes on telling of the changes up to now.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap, `Denied` if it is frozen or stale; the host's.
    pub fn disable_bitmap(&self, name: &str) -> Result<()> {
        self.at_home(name, |home| home.turn(name, BitmapState::Disabled))
    }

    /// Records again, if no write was missed since.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap, `Denied` if it is frozen or has missed writes; the host's.
    pub fn enable_bitmap(&self, name: &str) -> Result<()> {
        self.at_home(name, |home| home.turn(name, BitmapState::Recording))
    }

    fn turn(&self, name: &str, state: BitmapState) -> Result<()> {
        let trust = self.bitmap(name)?.trust;
        self.change_bitmaps(|layout, draft| {
            let old = self.thawed(draft, name)?;
            if old.state == state {
                return Ok(());
            }
            if trust != Trust::Valid {
                let why = if trust == Trust::Stale { "is stale" } else { "has missed writes" };
                return Err(Error::Denied(format!("{}: the bitmap {name:?} {why}: clear or remove it", self.name())));
            }
            self.set_state(layout, draft, name, state)
        })
    }

    /// The bitmap `name` is in that state from the new header on, and tells of all changes up to there.
    fn set_state(&self, layout: &Layout, draft: &mut Draft, name: &str, state: BitmapState) -> Result<()> {
        self.reach(layout, draft)?;
        let epoch = draft.header.epoch;
        for bitmap in draft.header.bitmaps.iter_mut().filter(|bitmap| bitmap.name == name) {
            (bitmap.state, bitmap.epoch) = (state, epoch);
        }
        Ok(())
    }

    /// Freezes a recording bitmap for a backup. What changes from here on goes to its successor, whose point is `since`
    /// (`None`: a new one), which is returned.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap, `Denied` if it does not record, or is stale; `NoSpace`, the host's.
    pub fn freeze_bitmap(&self, name: &str, since: Option<Uuid>) -> Result<Uuid> {
        self.at_home(name, |home| home.freeze_here(name, since))
    }

    fn freeze_here(&self, name: &str, since: Option<Uuid>) -> Result<Uuid> {
        let since = since.unwrap_or_else(|| self.order.random());
        let trust = self.bitmap(name)?.trust;
        self.change_bitmaps(|layout, draft| {
            let old = self.thawed(draft, name)?;
            if old.state != BitmapState::Recording || trust != Trust::Valid {
                return Err(Error::Denied(format!("{}: the bitmap {name:?} does not record", self.name())));
            }
            let epoch = draft.header.epoch;
            for bitmap in draft.header.bitmaps.iter_mut().filter(|bitmap| bitmap.name == name) {
                (bitmap.state, bitmap.epoch) = (BitmapState::Frozen, epoch);
            }
            let frozen = draft.section(&old).copied();
            self.begin_count(layout, draft, frozen, Bitmap { since, ..old })
        })?;
        Ok(since)
    }

    /// Ends a freeze after a backup that succeeded: the bitmap tells of what changed since the freeze.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap, `Denied` if it is not frozen; the host's.
    pub fn hand_over_bitmap(&self, name: &str) -> Result<()> {
        self.at_home(name, |home| home.hand_over_here(name))
    }

    fn hand_over_here(&self, name: &str) -> Result<()> {
        self.change_bitmaps(|_, draft| {
            let (frozen, _) = self.frozen(draft, name)?;
            draft.header.bitmaps.retain(|bitmap| bitmap.section != frozen.section);
            draft.header.sections.retain(|section| section.id != frozen.section);
            Ok(())
        })
    }

    /// Ends a freeze as if it had never begun: the bitmap tells of what changed before it and since.
    ///
    /// # Errors
    /// As [`hand_over_bitmap`](Self::hand_over_bitmap).
    pub fn take_back_bitmap(&self, name: &str) -> Result<()> {
        self.at_home(name, |home| home.take_back_here(name))
    }

    fn take_back_here(&self, name: &str) -> Result<()> {
        self.change_bitmaps(|layout, draft| {
            let (frozen, successor) = self.frozen(draft, name)?;
            layout.bitmaps.join_frozen(name, layout.size)?;
            self.order.metadata(layout.bitmaps.save())?;
            draft.header.bitmaps.retain(|bitmap| bitmap.section != frozen.section);
            draft.header.sections.retain(|section| section.id != frozen.section);
            for bitmap in draft.header.bitmaps.iter_mut().filter(|bitmap| bitmap.section == successor.section) {
                bitmap.since = frozen.since;
            }
            Ok(())
        })
    }

    /// Makes dirty in the bitmap `name` every granule that `dirty`, stretches of the disk in bytes, touches. Durable on
    /// return.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap; the host's.
    pub fn merge_bitmap(&self, name: &str, dirty: &[Range<u64>]) -> Result<()> {
        self.at_home(name, |home| home.merge_here(name, dirty))
    }

    fn merge_here(&self, name: &str, dirty: &[Range<u64>]) -> Result<()> {
        let layout = write(&self.layout);
        self.check_writable()?;
        self.order.secure_found()?;
        let merged = layout.bitmaps.join(name, dirty);
        if !merged {
            return Err(self.no_bitmap(name));
        }
        self.order.metadata(layout.bitmaps.save())
    }

    /// Has nothing dirty in the bitmap `name` but `dirty`, stretches of the disk in bytes and in order: what a merge has
    /// added since goes.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap, `Denied` if it is frozen; `NoSpace`, the host's.
    pub fn restore_bitmap(&self, name: &str, dirty: &[Range<u64>]) -> Result<()> {
        self.at_home(name, |home| home.restore_here(name, dirty))
    }

    fn restore_here(&self, name: &str, dirty: &[Range<u64>]) -> Result<()> {
        self.change_bitmaps(|layout, draft| {
            let old = self.thawed(draft, name)?;
            let Some(like) = draft.section(&old).copied() else { return Err(self.no_bitmap(name)) };
            draft.header.sections.retain(|section| section.id != like.id);
            let section = self.make_section(layout, draft, like.kind, like.granularity_shift)?;
            draft.dirty = Some((section, dirty.to_vec()));
            for bitmap in draft.header.bitmaps.iter_mut().filter(|bitmap| bitmap.section == like.id) {
                bitmap.section = section;
            }
            Ok(())
        })
    }

    /// Ends the recording of `bitmaps` in this image, which is sealed: they go on in an overlay of it, and tell here of
    /// what had changed at the point that the overlay's link names.
    ///
    /// # Errors
    /// The host's. What was disabled may be enabled again, nothing having been written meanwhile.
    pub fn rest_below_overlay(&self, bitmaps: &[BitmapInfo]) -> Result<()> {
        let here = read(&self.layout).bitmaps.infos(&self.header());
        let (own, beside): (Vec<_>, Vec<_>) =
            bitmaps.iter().partition(|info| here.iter().any(|own| own.name == info.name));
        if !own.is_empty() {
            self.change_bitmaps(|_, draft| {
                let epoch = draft.header.epoch;
                for bitmap in &mut draft.header.bitmaps {
                    if own.iter().any(|info| info.name == bitmap.name) {
                        (bitmap.state, bitmap.epoch) = (BitmapState::Disabled, epoch);
                    }
                }
                Ok(())
            })?;
        }
        beside.iter().try_for_each(|info| self.disable_bitmap(&info.name))
    }

    /// The dirty stretches of the bitmap `name`, in bytes.
    ///
    /// # Errors
    /// As [`bitmap_run`](Self::bitmap_run).
    pub fn dirty_stretches(&self, name: &str) -> Result<Vec<Range<u64>>> {
        let size = read(&self.layout).size;
        self.dirty_within(name, 0..size)
    }

    /// The dirty stretches of the bitmap `name` in `range`, in bytes.
    ///
    /// # Errors
    /// As [`bitmap_run`](Self::bitmap_run).
    pub(crate) fn dirty_within(&self, name: &str, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        let (mut dirty, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let (set, end) = self.bitmap_run(name, at, range.end)?;
            if set {
                dirty.push(at..end);
            }
            at = end;
        }
        Ok(dirty)
    }

    /// Goes on, in this image, with bitmaps of `from`, which has the same content at this moment (BMP-14). One of the same
    /// name gives way. Sync bitmaps do not go on: they tell of one disk and its target.
    ///
    /// # Errors
    /// As [`add_bitmap`](Self::add_bitmap).
    pub fn take_over_bitmaps(&self, from: &Image, bitmaps: &[BitmapInfo]) -> Result<()> {
        for info in bitmaps.iter().filter(|info| info.kind == SectionKind::Dirty) {
            let dirty = from.dirty_stretches(&info.name)?;
            if self.has_bitmap(&info.name) {
                self.remove_bitmap(&info.name)?;
            }
            let granularity_shift = info.granularity.trailing_zeros() as u8;
            let new = NewBitmap { granularity_shift, since: Some(info.since), ..NewBitmap::default() };
            self.add_bitmap_with(&info.name, &new, &dirty)?;
        }
        Ok(())
    }

    /// One verb: all is durable, `edit` drafts the header, the sections it made are zeroed and durable, then one update.
    fn change_bitmaps(&self, edit: impl FnOnce(&Layout, &mut Draft) -> Result<()>) -> Result<()> {
        let mut layout = write(&self.layout);
        self.check_writable()?;
        self.order.secure_found()?;
        self.order.flush(layout.allocation.as_ref())?;
        self.fold(&layout)?;
        let old = self.order.header();
        let mut draft = Draft { header: self.order.sealed_header()?, made: Vec::new(), dirty: None };
        edit(&layout, &mut draft)?;
        if !draft.made.is_empty() {
            // Nothing names them yet: what fails here harms nobody.
            let dirty = |section: &Section| draft.dirty.iter().find(|(id, _)| *id == section.id);
            draft
                .made
                .iter()
                .try_for_each(|section| self.write_new(section, dirty(section).map_or(&[], |it| &it.1)))?;
            self.order.barrier()?;
        }
        self.order.seal_as(draft.header)?;
        self.adopt(&mut layout);
        let kept = self.order.header();
        let gone = old.sections.iter().filter(|old| !kept.sections.iter().any(|section| section.id == old.id));
        gone.into_iter().try_for_each(|section| self.file.punch(section.range()))
    }

    /// The bitmap `name`, which is not frozen.
    fn thawed(&self, draft: &Draft, name: &str) -> Result<Bitmap> {
        let mut named = draft.header.bitmaps.iter().filter(|bitmap| bitmap.name == name);
        match (named.next(), named.next()) {
            (None, _) => Err(self.no_bitmap(name)),
            (Some(bitmap), None) if bitmap.state != BitmapState::Frozen => Ok(bitmap.clone()),
            _ => Err(Error::Denied(format!("{}: the bitmap {name:?} is frozen for a backup", self.name()))),
        }
    }

    /// The frozen bitmap `name` and its successor.
    fn frozen(&self, draft: &Draft, name: &str) -> Result<(Bitmap, Bitmap)> {
        let find = |frozen: bool| {
            let matches = |bitmap: &&Bitmap| bitmap.name == name && (bitmap.state == BitmapState::Frozen) == frozen;
            draft.header.bitmaps.iter().find(matches).cloned()
        };
        match (find(true), find(false)) {
            (Some(frozen), Some(successor)) => Ok((frozen, successor)),
            (None, None) => Err(self.no_bitmap(name)),
            _ => Err(Error::Denied(format!("{}: the bitmap {name:?} is not frozen", self.name()))),
        }
    }

    fn put(&self, draft: &mut Draft, bitmap: Bitmap) -> Result<()> {
        let result = draft.header.check_bitmap(&bitmap);
        result.map_err(|rule| Error::Invalid(format!("{}: {:?}: {rule}", self.name(), bitmap.name)))?;
        draft.header.bitmaps.push(bitmap);
        Ok(())
    }

    /// Adds an empty section that covers the disk, and returns its identity.
    fn make_section(&self, layout: &Layout, draft: &mut Draft, kind: SectionKind, shift: u8) -> Result<Uuid> {
        let full = draft.header.sections.len() >= MAX_SECTIONS;
        // Once bitmaps have come to the last page of a slot, it is for other records.
        if full || draft.header.encode().is_ok_and(|bytes| bytes.len() as u64 == SLOT_SIZE) {
            return Err(Error::Invalid(format!("{}: has no room for one more bitmap", self.name())));
        }
        let length = Section::needed_length(layout.size, shift);
        // Neither what the header at hand names nor what the new one does.
        let mut taken = self.order.header().sections.clone();
        taken.extend(draft.header.sections.iter().cloned());
        let offset = self.free_space(&draft.header, &taken, length)?;
        let id = self.order.random();
        let (granularity_shift, covered) = (shift, layout.size);
        draft.header.sections.push(Section { id, kind, granularity_shift, required: false, offset, length, covered });
        draft.made.extend(draft.header.sections.last().copied());
        Ok(id)
    }

    /// Gives `bitmap` an empty section like `like`, and puts it behind the others.
    fn begin_count(&self, layout: &Layout, draft: &mut Draft, like: Option<Section>, bitmap: Bitmap) -> Result<()> {
        let (kind, shift) = like.map_or((SectionKind::Dirty, 16), |section| (section.kind, section.granularity_shift));
        let section = self.make_section(layout, draft, kind, shift)?;
        self.reach(layout, draft)?;
        let epoch = draft.header.epoch;
        self.put(draft, Bitmap { section, epoch, ..bitmap })
    }

    /// Writes a new section, with the bits set that `dirty` touches.
    fn write_new(&self, section: &Section, dirty: &[Range<u64>]) -> Result<()> {
        self.zero_space(section.range())?;
        Bits::new(self.file.clone(), *section).absorb(dirty).map(drop)
    }

    /// Gives the file an intent section that reaches as far as its bitmaps do. No intent is set at this moment.
    fn reach(&self, layout: &Layout, draft: &mut Draft) -> Result<()> {
        if draft.header.intents().is_some_and(|intents| intents.covered >= layout.size) {
            return Ok(());
        }
        draft.header.sections.retain(|section| section.kind != SectionKind::Intent);
        self.make_section(layout, draft, SectionKind::Intent, region_shift(layout.size)).map(drop)
    }
}

impl Draft {
    fn section(&self, bitmap: &Bitmap) -> Option<&Section> {
        self.header.sections.iter().find(|section| section.id == bitmap.section)
    }
}

/// The size of the regions of a disk, as a power of two.
fn region_shift(size: u64) -> u8 {
    let fits = |shift: u8, most: u64| size.div_ceil(1 << shift) <= most;
    let few = REGION_SHIFTS.into_iter().find(|&shift| fits(shift, FEW_REGIONS));
    few.or_else(|| (24..48).find(|&shift| fits(shift, MAX_INTENTS))).unwrap_or(48)
}
