//! Dirty bitmaps of an open image: what the guest changed since a point in time (`spec/bitmaps.md`).
//!
//! - `bits`: one bitmap's bits in memory;
//! - `intents`: what is made durable before the guest writes, so that no bit is ever missing after a crash;
//! - `verbs`: add, clear, disable and the like, each one header update.

mod bits;
mod intents;
mod verbs;

use crate::error::Result;
use crate::format::{Bitmap, BitmapState, Header, Section, SectionKind, State, Uuid};
use crate::storage::Storage;
use crate::switch::{Step, skipped};
use crate::sync::{Arc, Mutex, OnceLock, RwLock, lock, read, write};
use crate::violation::Violation;
use bits::Bits;
use intents::Intents;
use std::ops::Range;
use std::time::Duration;

pub use verbs::{NewBitmap, UnbegunBitmap};

/// How long intents stay that nothing relies on any more. After a crash all they touch counts as dirty.
const FOLD_AFTER: Duration = Duration::from_secs(10);

/// How far a bitmap is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It tells of every change from its start to now.
    Valid,
    /// It was disabled, and the disk has changed since: it tells of every change up to then (BMP-07).
    MissedWrites,
    /// Somebody changed the disk and did not tell it: all of it counts as dirty (BMP-06).
    Stale,
}

/// What is known of one dirty bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Dirty, or sync: of what the target of a mirror lacks.
    pub kind: SectionKind,
    /// What it does. A frozen one has a successor that records.
    pub state: BitmapState,
    /// Names the point from which on it tells.
    pub since: Uuid,
    /// Bytes that one bit speaks of.
    pub granularity: u64,
    /// How far it is to be trusted.
    pub trust: Trust,
    /// The rule that its record breaks: it is no bitmap, and nothing else is known of it.
    pub broken: Option<Violation>,
}

impl BitmapInfo {
    /// Whether changes are marked in it, and were all along.
    pub fn records(&self) -> bool {
        self.state == BitmapState::Recording && self.trust == Trust::Valid
    }
}

/// The dirty bitmaps of one file.
#[derive(Debug)]
pub(super) struct Bitmaps {
    file: Arc<dyn Storage>,
    list: Vec<Tracked>,
    section: Option<Section>,
    /// What of the header it was made from.
    shape: Shape,
    /// The state says that intents are to be expected, so that their absence means something (INT-02).
    unclean: bool,
    intents: OnceLock<Option<Intents>>,
    /// What the intents that were found make dirty, in bytes and in order, until the pages say so too. They may speak of far
    /// more of the disk than there is memory for its pages.
    found: RwLock<Vec<Range<u64>>>,
    beginning: Mutex<()>,
    folded: Mutex<Duration>,
}

/// The records but for their epochs, and the sections.
type Shape = (Vec<Bitmap>, Vec<Section>);

fn shape(header: &Header) -> Shape {
    let bitmaps = header.bitmaps.iter().map(|bitmap| Bitmap { epoch: Uuid::NIL, ..bitmap.clone() });
    let ours = |section: &&Section| section.kind.tells_of_changes() || section.kind == SectionKind::Intent;
    (bitmaps.collect(), header.sections.iter().filter(ours).copied().collect())
}

#[derive(Debug)]
struct Tracked {
    name: String,
    state: BitmapState,
    since: Uuid,
    trust: Trust,
    bits: Bits,
}

impl Tracked {
    fn records(&self) -> bool {
        self.state == BitmapState::Recording && self.trust == Trust::Valid
    }
}

impl Bitmaps {
    /// Those that `header` names, in `file`. With `distrust` none that records is valid, and what is disabled has missed
    /// writes: what they are about was changed behind their backs (EPO-04, EPO-07).
    pub(super) fn new(header: &Header, file: &Arc<dyn Storage>, distrust: bool) -> Bitmaps {
        let tracked = |bitmap: &Bitmap| {
            let section = header.sections.iter().find(|section| section.id == bitmap.section)?;
            let trust = match bitmap.state {
                BitmapState::Disabled if distrust || bitmap.epoch != header.epoch => Trust::MissedWrites,
                BitmapState::Recording if distrust || bitmap.epoch != header.epoch => Trust::Stale,
                _ => Trust::Valid,
            };
            let (name, state, since) = (bitmap.name.clone(), bitmap.state, bitmap.since);
            Some(Tracked { name, state, since, trust, bits: Bits::new(file.clone(), *section) })
        };
        Bitmaps {
            file: file.clone(),
            list: header.bitmaps.iter().filter_map(tracked).collect(),
            section: header.intents().copied(),
            shape: shape(header),
            unclean: header.state == State::Writing,
            intents: OnceLock::new(),
            found: RwLock::default(),
            beginning: Mutex::default(),
            folded: Mutex::default(),
        }
    }

    /// Whether it is what `header` still names, epochs aside.
    pub(super) fn fits(&self, header: &Header) -> bool {
        self.shape == shape(header)
    }

    /// Whether a change has to be noted.
    pub(super) fn recording(&self) -> bool {
        self.list.iter().any(Tracked::records)
    }

    /// The intents, read once. What they touch is dirty from then on: nothing is clean that they speak of (INT-03).
    fn intents(&self) -> Option<&Intents> {
        if let Some(intents) = self.intents.get() {
            return intents.as_ref();
        }
        let _one = lock(&self.beginning);
        let read = || {
            let read = self.section.map(|section| Intents::read(self.file.clone(), section, self.unclean));
            let (intents, mut found) = read.map_or((None, Vec::new()), |(intents, found)| (Some(intents), found));
            if self.unclean {
                // Past the end of what intents can say, they count as set.
                found.push(self.section.map_or(0, |section| section.covered)..u64::MAX);
            }
            if !skipped(Step::FoldFound) {
                *write(&self.found) = found;
            }
            intents
        };
        self.intents.get_or_init(read).as_ref()
    }

    /// Marks the granules of `range`, which is about to change; on return that is durable, or an intent is (INT-01).
    ///
    /// # Errors
    /// The host's: nothing more is to be written then.
    pub(super) fn note(&self, range: &Range<u64>) -> Result<()> {
        let intents = self.intents();
        for bitmap in self.list.iter().filter(|bitmap| bitmap.records()) {
            bitmap.bits.mark(range);
        }
        intents.map_or(Ok(()), |intents| intents.intend(range))
    }

    /// Makes all bits durable, and clears the intents over them: all, or those that nothing relies on any more.
    ///
    /// # Errors
    /// As [`note`](Self::note).
    pub(super) fn fold(&self, all: bool) -> Result<()> {
        if !self.recording() {
            return Ok(());
        }
        match self.intents() {
            Some(intents) => intents.fold(all, || self.save()),
            None => self.save(),
        }
    }

    /// Folds what nothing relies on if it was not done for a while.
    ///
    /// # Errors
    /// As [`note`](Self::note).
    pub(super) fn fold_if_due(&self, now: Duration) -> Result<()> {
        if !self.recording() {
            return Ok(());
        }
        {
            let mut folded = lock(&self.folded);
            if now.saturating_sub(*folded) < FOLD_AFTER {
                return Ok(());
            }
            *folded = now;
        }
        self.fold(false)
    }

    /// Makes dirty in the bitmap `name` what `ranges` touch. False if there is no such bitmap.
    pub(super) fn join(&self, name: &str, ranges: &[Range<u64>]) -> bool {
        self.intents();
        let Some(bitmap) = self.parts(name).pop() else { return false };
        ranges.iter().for_each(|range| bitmap.bits.mark(range));
        true
    }

    /// Makes dirty in the successor what is dirty in the frozen bitmap `name` (BMP-13).
    pub(super) fn join_frozen(&self, name: &str, size: u64) -> Result<()> {
        let parts = self.parts(name);
        let [frozen, successor] = parts[..] else { return Ok(()) };
        let granule = frozen.bits.section().granule();
        let mut at = 0;
        while at < size {
            let (dirty, end) = frozen.bits.run(at / granule, size)?;
            let range = at..end.saturating_mul(granule).min(size);
            if dirty && !skipped(Step::JoinFrozen) {
                successor.bits.mark(&range);
            }
            at = range.end;
        }
        Ok(())
    }

    /// Makes all bits durable.
    pub(super) fn save(&self) -> Result<()> {
        self.absorb_found()?;
        let pages: Vec<bits::Saved> = self.list.iter().flat_map(|bitmap| bitmap.bits.take_unsaved()).collect();
        if pages.is_empty() {
            return Ok(());
        }
        bits::write_pages(&*self.file, &pages)?;
        if skipped(Step::BitsBeforeClear) { Ok(()) } else { self.file.sync() }
    }

    /// What intents that were found make dirty becomes so in the pages.
    fn absorb_found(&self) -> Result<()> {
        let _one = lock(&self.beginning);
        let found = read(&self.found).clone();
        if found.is_empty() {
            return Ok(());
        }
        let mut wrote = false;
        for Tracked { bits, .. } in self.list.iter().filter(|bitmap| bitmap.records()) {
            wrote |= bits.absorb(&found)?;
        }
        if wrote && !skipped(Step::BitsBeforeClear) {
            self.file.sync()?;
        }
        write(&self.found).clear();
        Ok(())
    }

    /// The bitmaps by name; a frozen one and its successor are one (BMP-08). `header` is the one at hand: what is disabled
    /// has missed writes from the moment at which its epoch is no longer the header's.
    pub(super) fn infos(&self, header: &Header) -> Vec<BitmapInfo> {
        let first =
            |bitmap: &&Tracked| self.parts(&bitmap.name).first().is_some_and(|part| std::ptr::eq(*part, *bitmap));
        let missed = |bitmap: &Tracked| {
            let record = header.bitmaps.iter().find(|record| record.section == bitmap.bits.section().id);
            bitmap.state == BitmapState::Disabled && record.is_some_and(|record| record.epoch != header.epoch)
        };
        let info = |bitmap: &Tracked| match missed(bitmap) {
            true => BitmapInfo { trust: Trust::MissedWrites, ..self.info(bitmap) },
            false => self.info(bitmap),
        };
        self.list.iter().filter(first).map(info).collect()
    }

    fn info(&self, bitmap: &Tracked) -> BitmapInfo {
        let parts = self.parts(&bitmap.name);
        let trust = match (bitmap.state, parts.iter().find(|part| part.state != BitmapState::Frozen)) {
            (BitmapState::Frozen, Some(successor)) => successor.trust,
            (BitmapState::Frozen, None) => Trust::Stale,
            _ => bitmap.trust,
        };
        BitmapInfo {
            name: bitmap.name.clone(),
            kind: bitmap.bits.section().kind,
            state: bitmap.state,
            since: bitmap.since,
            granularity: bitmap.bits.section().granule(),
            trust,
            broken: None,
        }
    }

    /// The frozen one of a name first, then its successor.
    fn parts(&self, name: &str) -> Vec<&Tracked> {
        let mut parts: Vec<&Tracked> = self.list.iter().filter(|bitmap| bitmap.name == name).collect();
        parts.sort_by_key(|bitmap| bitmap.state != BitmapState::Frozen);
        parts
    }

    /// Whether the bitmap `name` has the disk, of `size` bytes, dirty at byte `offset`, and up to where that is so. `None`
    /// if there is no such bitmap.
    pub(super) fn run(&self, name: &str, offset: u64, size: u64) -> Result<Option<(bool, u64)>> {
        let parts = self.parts(name);
        let Some(first) = parts.first() else { return Ok(None) };
        self.intents();
        if self.info(first).trust == Trust::Stale {
            return Ok(Some((true, size)));
        }
        let found = read(&self.found);
        let (dirty, mut end) = run_of_all(&parts, &found, offset, size)?;
        // What several speak of ends where the first of them ends; the next of it may be like it.
        while end < size && (parts.len() > 1 || !found.is_empty()) {
            let (next, stop) = run_of_all(&parts, &found, end, size)?;
            if next != dirty {
                break;
            }
            end = stop;
        }
        Ok(Some((dirty, end)))
    }
}

/// Whether one of `parts`, or of what `found` adds to those that record, is dirty at byte `offset`, and up to where.
fn run_of_all(parts: &[&Tracked], found: &[Range<u64>], offset: u64, size: u64) -> Result<(bool, u64)> {
    let mut all = (false, size);
    for part in parts {
        let (granule, covered) = (part.bits.section().granule(), part.bits.section().covered);
        // What begins past what the bits cover touches none of them, though it may lie in the last granule.
        let found = &found[..found.partition_point(|range| range.start < covered)];
        let (dirty, end) = part.bits.run(offset / granule, size)?;
        all = either(all, (dirty, end.saturating_mul(granule).min(size)));
        if part.records() && !all.0 {
            all = either(all, run_of_ranges(found, granule, offset, size));
        }
    }
    Ok(all)
}

fn either(one: (bool, u64), other: (bool, u64)) -> (bool, u64) {
    match (one.0, other.0) {
        (true, true) => (true, one.1.max(other.1)),
        (false, false) => (false, one.1.min(other.1)),
        (true, false) => one,
        (false, true) => other,
    }
}

/// Whether one of `ranges`, which are in order, touches the granule of byte `offset`, and up to where that is so.
fn run_of_ranges(ranges: &[Range<u64>], granule: u64, offset: u64, size: u64) -> (bool, u64) {
    let start = offset / granule * granule;
    match ranges.get(ranges.partition_point(|range| range.end <= start)) {
        Some(range) if range.start < start.saturating_add(granule) => {
            (true, range.end.div_ceil(granule).saturating_mul(granule).min(size))
        }
        Some(range) => (false, (range.start / granule * granule).min(size)),
        None => (false, size),
    }
}

#[cfg(test)]
mod tests;
