//! Dirty bitmaps put into a file by hand, and what a reader must make of them.
//!
//! What is dirty is worked out from the text of `spec/bitmaps.md` with stretches of the disk, one for each reason: there
//! are no pages here, no memory of what was read, and nothing of the library's own bitmaps.

use super::draft::{BITMAP, POINT};
use super::maker::{Maker, id};
use super::sparse::Sparse;
use super::vector::{BitmapFacts, Case, NoBitmap, PointFacts, Trusted, Verdict};
use crate::format::{BITS_PER_SECTOR, RawRecord, Section, SectionKind, State, Uuid, seal};
use crate::limits::{PAGE_SIZE, SECTOR_SIZE};
use crate::violation::Violation;
use std::collections::BTreeSet;
use std::ops::Range;

// States of a bitmap.
pub(super) const DISABLED: u16 = 0;
pub(super) const RECORDING: u16 = 1;
pub(super) const FROZEN: u16 = 2;

/// The bits of a section in the making.
#[derive(Debug, Clone)]
pub(super) struct Bits {
    kind: SectionKind,
    shift: u8,
    /// The disk if absent.
    covered: Option<u64>,
    set: BTreeSet<u64>,
    /// Sectors in which a byte is not what it was.
    rotten: BTreeSet<u64>,
    /// Sealed for another section.
    foreign: bool,
    place: u64,
    id: Uuid,
}

impl Bits {
    fn new(kind: SectionKind, shift: u8, set: &[u64]) -> Bits {
        let set = set.iter().copied().collect();
        Bits { kind, shift, covered: None, set, rotten: BTreeSet::new(), foreign: false, place: 0, id: Uuid::NIL }
    }

    /// Dirty bits of granules of `2^shift` bytes.
    pub(super) fn dirty(shift: u8, set: &[u64]) -> Bits {
        Bits::new(SectionKind::Dirty, shift, set)
    }

    /// What a mirror's target lacks, in granules of `2^shift` bytes.
    pub(super) fn sync(shift: u8, set: &[u64]) -> Bits {
        Bits::new(SectionKind::Sync, shift, set)
    }

    /// Intents for regions of `2^shift` bytes.
    pub(super) fn intents(shift: u8, set: &[u64]) -> Bits {
        Bits::new(SectionKind::Intent, shift, set)
    }

    /// They speak of `bytes` of the disk.
    pub(super) fn covers(mut self, bytes: u64) -> Bits {
        self.covered = Some(bytes);
        self
    }

    /// Nobody can read the bits of these sectors.
    pub(super) fn rotten(mut self, sectors: &[u64]) -> Bits {
        self.rotten.extend(sectors);
        self
    }

    /// The sectors are those of another section.
    pub(super) fn foreign(mut self) -> Bits {
        self.foreign = true;
        self
    }

    fn granule(&self) -> u64 {
        1 << self.shift
    }

    fn covered(&self) -> u64 {
        self.covered.expect("the bits lie in a file")
    }

    fn section(&self) -> Section {
        Section {
            id: self.id,
            kind: self.kind,
            granularity_shift: self.shift,
            required: false,
            offset: self.place,
            length: Section::needed_length(self.covered(), self.shift),
            covered: self.covered(),
        }
    }

    fn write(&self, file: &mut Sparse) {
        let owner = if self.foreign { id("an older section") } else { self.id };
        let sectors: BTreeSet<u64> =
            self.set.iter().map(|bit| bit / BITS_PER_SECTOR).chain(self.rotten.clone()).collect();
        for sector in sectors {
            let mut bytes = [0; SECTOR_SIZE as usize];
            for bit in self.set.range(sector * BITS_PER_SECTOR..(sector + 1) * BITS_PER_SECTOR) {
                let bit = bit % BITS_PER_SECTOR;
                bytes[(bit / 8) as usize] |= 1 << (bit % 8);
            }
            seal(&mut bytes, owner, sector);
            bytes[77] ^= if self.rotten.contains(&sector) { 0x55 } else { 0 };
            file.write(self.place + sector * SECTOR_SIZE, &bytes);
        }
    }

    /// What the bits that are set speak of; those past the last one with a meaning of nothing.
    fn set(&self) -> Vec<Range<u64>> {
        let bits = self.covered().div_ceil(self.granule());
        self.set.range(..bits).map(|bit| bit * self.granule()..(bit + 1) * self.granule()).collect()
    }

    /// What the sectors speak of that cannot be read: bad ones, and all of each page that does not lie in the file.
    fn lost(&self, file: &Sparse) -> Vec<Range<u64>> {
        let span = BITS_PER_SECTOR * self.granule();
        let used: BTreeSet<u64> = self.set.iter().map(|bit| bit / BITS_PER_SECTOR).collect();
        let bad = self.rotten.iter().chain(used.iter().filter(|_| self.foreign));
        let mut lost: Vec<Range<u64>> = bad.map(|sector| sector * span..(sector + 1) * span).collect();
        let whole_pages = file.len().saturating_sub(self.place) / PAGE_SIZE;
        if whole_pages * PAGE_SIZE < self.section().length {
            lost.push(whole_pages * 8 * span..u64::MAX);
        }
        lost
    }

    /// The granules that `stretch` touches.
    fn widened(&self, stretch: &Range<u64>) -> Range<u64> {
        let granule = self.granule();
        stretch.start / granule * granule..stretch.end.div_ceil(granule).saturating_mul(granule)
    }
}

/// A bitmap in the making: what its record says, right or not.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    name: Vec<u8>,
    state: u16,
    since: Uuid,
    /// The header's if absent.
    epoch: Option<Uuid>,
    bits: Bits,
    /// The section that the record names, if it is not that of the bits.
    section: Option<Uuid>,
    /// The rule that the record breaks.
    broken: Option<Violation>,
    change: fn(&mut Vec<u8>),
}

impl Mark {
    /// A bitmap `name` in `state` that is as it should be.
    pub(super) fn new(name: &str, state: u16, bits: Bits) -> Mark {
        let since = id(&format!("since, {name}, {state}"));
        let (name, change) = (name.into(), (|_| {}) as fn(&mut Vec<u8>));
        Mark { name, state, since, epoch: None, bits, section: None, broken: None, change }
    }

    /// It speaks of changes up to another content.
    pub(super) fn until(mut self, epoch: Uuid) -> Mark {
        self.epoch = Some(epoch);
        self
    }

    /// Its record names this section.
    pub(super) fn of(mut self, section: Uuid) -> Mark {
        self.section = Some(section);
        self
    }

    /// Its name is no text.
    pub(super) fn bytes(mut self, name: &[u8]) -> Mark {
        self.name = name.to_vec();
        self
    }

    /// It is no bitmap, for `rule`.
    pub(super) fn none(mut self, rule: Violation) -> Mark {
        self.broken = Some(rule);
        self
    }

    /// What it is, and is no bitmap for, is done to the payload of its record.
    pub(super) fn none_by(self, rule: Violation, change: fn(&mut Vec<u8>)) -> Mark {
        Mark { change, ..self.none(rule) }
    }

    fn payload(&self, epoch: Uuid) -> Vec<u8> {
        let section = self.section.unwrap_or(self.bits.id);
        let mut payload = [section.0, self.since.0, self.epoch.unwrap_or(epoch).0].concat();
        payload.extend(self.state.to_le_bytes());
        payload.extend((self.name.len() as u16).to_le_bytes());
        payload.extend([0; 12]);
        payload.extend(&self.name);
        (self.change)(&mut payload);
        payload
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// A file with dirty bitmaps in the making.
#[derive(Debug, Clone)]
pub(super) struct Tracked {
    pub(super) maker: Maker,
    marks: Vec<Mark>,
    /// The intent sections, of which the first counts.
    intents: Vec<Bits>,
    loose: Vec<Bits>,
    points: Vec<Vec<u8>>,
    /// The disk changed behind its bitmaps' backs, and their records do not show it.
    distrusted: bool,
}

impl Tracked {
    pub(super) fn new(maker: Maker) -> Tracked {
        Tracked { maker, marks: vec![], intents: vec![], loose: vec![], points: vec![], distrusted: false }
    }

    /// Puts bits behind all that the file has.
    fn place(&mut self, mut bits: Bits) -> Bits {
        let number = self.marks.len() + self.intents.len() + self.loose.len();
        bits.id = id(&format!("{}, section {number}", self.maker.header.uuid));
        bits.place = self.maker.file.len().next_multiple_of(PAGE_SIZE);
        bits.covered.get_or_insert(self.maker.header.virtual_size);
        let section = bits.section();
        self.maker.file.set_len(section.range().end);
        bits.write(&mut self.maker.file);
        self.maker.header.sections.push(section);
        bits
    }

    /// Adds a bitmap and its section.
    pub(super) fn mark(mut self, mut mark: Mark) -> Tracked {
        mark.bits = self.place(mark.bits);
        self.marks.push(mark);
        self
    }

    /// Adds a bitmap `name` in `state` that is as it should be.
    pub(super) fn bitmap(self, name: &str, state: u16, bits: Bits) -> Tracked {
        self.mark(Mark::new(name, state, bits))
    }

    /// Adds a section of intents.
    pub(super) fn intents(mut self, bits: Bits) -> Tracked {
        let bits = self.place(bits);
        self.intents.push(bits);
        self
    }

    /// Adds a section that no record names.
    pub(super) fn loose(mut self, bits: Bits) -> Tracked {
        let bits = self.place(bits);
        self.loose.push(bits);
        self
    }

    /// Adds the record of a backup point, right or not.
    pub(super) fn point(mut self, payload: &[u8]) -> Tracked {
        self.points.push(payload.to_vec());
        self
    }

    /// The last session ended, or did not, in `state`.
    pub(super) fn state(mut self, state: State) -> Tracked {
        self.maker.header.state = state;
        self
    }

    /// Whoever opens it sees that the disk changed behind its bitmaps' backs (EPO-04, EPO-07).
    pub(super) fn distrusted(mut self) -> Tracked {
        self.distrusted = true;
        self
    }

    /// The section of the first bitmap.
    pub(super) fn first_section(&self) -> Uuid {
        self.marks[0].bits.id
    }

    /// So many bytes at the end of the file are not there.
    pub(super) fn cut(mut self, bytes: u64) -> Tracked {
        let length = self.maker.file.len() - bytes;
        self.maker.file.set_len(length);
        self
    }

    /// The file, with its bits and its header.
    pub(super) fn finish(&mut self) -> Sparse {
        let record = |record_type, payload: Vec<u8>| RawRecord { record_type, flags: 0, payload };
        let epoch = self.maker.header.epoch;
        let marks = self.marks.iter().map(|mark| record(BITMAP, mark.payload(epoch)));
        self.maker.header.unknown = marks.chain(self.points.iter().map(|point| record(POINT, point.clone()))).collect();
        self.maker.finish()
    }

    /// Opening it as `name`.
    pub(super) fn opens(&self, name: &str) -> Case {
        self.told(self.maker.header.virtual_size, self.maker.opens(name))
    }

    /// Adds to `case` what is told of the bitmaps on a disk of `size` bytes.
    pub(super) fn told(&self, size: u64, mut case: Case) -> Case {
        debug_assert!(matches!(case.result, Verdict::Valid | Verdict::Damaged));
        case.bitmaps.extend(self.facts(size));
        case.no_bitmaps.extend(self.marks.iter().filter_map(|mark| {
            let mut name = mark.payload(Uuid::NIL);
            let name = String::from_utf8_lossy(&name.split_off(name.len().min(64))).into_owned();
            Some(NoBitmap { name, broken: mark.broken?.id().into() })
        }));
        let right = self.points.iter().find(|point| point.len() == 32);
        case.point = case.point.or(right.map(|point| PointFacts {
            source: Uuid(std::array::from_fn(|at| point[at])).to_string(),
            point: Uuid(std::array::from_fn(|at| point[16 + at])).to_string(),
        }));
        case
    }

    fn facts(&self, size: u64) -> Vec<BitmapFacts> {
        let right: Vec<&Mark> = self.marks.iter().filter(|mark| mark.broken.is_none()).collect();
        let of_name = |mark: &Mark, frozen: bool| {
            right.iter().copied().find(|other| other.name == mark.name && (other.state == FROZEN) == frozen)
        };
        let mut facts = Vec::new();
        for mark in &right {
            let (frozen, other) = (of_name(mark, true), of_name(mark, false));
            if mark.state != FROZEN && frozen.is_some() {
                continue;
            }
            let trust = other.map_or(Trusted::Stale, |other| self.trust(other));
            let dirty = match trust {
                Trusted::Stale => vec![0..size],
                _ => frozen.iter().chain(&other).flat_map(|part| self.dirty(part, size)).collect(),
            };
            facts.push(BitmapFacts {
                name: mark.text(),
                sync: mark.bits.kind == SectionKind::Sync,
                state: ["disabled", "recording", "frozen"][usize::from(mark.state)].into(),
                granularity: mark.bits.granule(),
                since: mark.since.to_string(),
                trust,
                dirty: united(dirty, size),
            });
        }
        facts
    }

    fn trust(&self, mark: &Mark) -> Trusted {
        let agrees = !self.distrusted && mark.epoch.is_none_or(|epoch| epoch == self.maker.header.epoch);
        match mark.state {
            _ if agrees => Trusted::Valid,
            RECORDING => Trusted::Stale,
            _ => Trusted::MissedWrites,
        }
    }

    /// Each reason for which part of a disk of `size` bytes is dirty, BMP-05 from its beginning to its end.
    fn dirty(&self, mark: &Mark, size: u64) -> Vec<Range<u64>> {
        let bits = &mark.bits;
        let mut dirty = bits.set();
        dirty.extend(bits.lost(&self.maker.file));
        if bits.covered() < size {
            dirty.push(bits.covered() / bits.granule() * bits.granule()..size);
        }
        if mark.state == RECORDING {
            let (intended, end) = self.intended();
            dirty.extend(intended.iter().map(|stretch| bits.widened(stretch)));
            if self.maker.header.state == State::Writing && end < bits.covered() {
                dirty.push(bits.widened(&(end..u64::MAX)));
            }
        }
        dirty
    }

    /// What intents speak of, and where they end (INT-02).
    fn intended(&self) -> (Vec<Range<u64>>, u64) {
        let readable = self.intents.first().filter(|bits| bits.covered().div_ceil(bits.granule()) <= 1 << 16);
        let Some(bits) = readable else { return (Vec::new(), 0) };
        let lost = bits.lost(&self.maker.file);
        let known = |stretch: &Range<u64>| !lost.iter().any(|lost| lost.contains(&stretch.start));
        let mut intended: Vec<Range<u64>> = bits.set().into_iter().filter(known).collect();
        if self.maker.header.state == State::Writing {
            intended.extend(lost);
        }
        (intended, bits.covered())
    }
}

/// Stretches that overlap or meet become one; nothing reaches past `size`. Offsets and lengths.
fn united(mut stretches: Vec<Range<u64>>, size: u64) -> Vec<(u64, u64)> {
    stretches.sort_by_key(|stretch| stretch.start);
    let mut united: Vec<Range<u64>> = Vec::new();
    for stretch in stretches {
        let stretch = stretch.start..stretch.end.min(size);
        match united.last_mut() {
            _ if stretch.start >= stretch.end => {}
            Some(last) if stretch.start <= last.end => last.end = last.end.max(stretch.end),
            _ => united.push(stretch),
        }
    }
    united.into_iter().map(|stretch| (stretch.start, stretch.end - stretch.start)).collect()
}
