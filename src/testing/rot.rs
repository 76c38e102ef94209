//! Metadata that was written well and goes bad: what a device does that a crash does not.
//!
//! Every sector of a header slot or of a section is *harmed* in turn: it becomes zeros, a bit of it flips, it is what it was
//! before (a write that was acknowledged and never made), or a write that was meant for another sector lands on it, and
//! that one is what it was before. Then some pairs of them.
//!
//! The format says what cannot be told (`spec/format.md`, sections 2 and 6): a sealed sector that is an older version of
//! itself, or has become zeros; the loss of a newest header whose other slot was not made equal to it yet. All else is found:
//! the disk reads right or says what it cannot read, a check tells of it, and bitmaps have dirty what they do not know. And
//! where it cannot be told, no block reads as what never was its own.

use super::choices::Random;
use super::file::Content;
use super::laws::{Opened, View, superset};
use super::model::Breach;
use super::sector::{SECTOR, Sector};
use super::sim::SimDisk;
use crate::error::Error;
use crate::format::{BITS_PER_SECTOR, Header, Section, SectionKind, Uuid, header_length};
use crate::limits::{SECTOR_SIZE, SLOT_SIZE};
use crate::violation::Violation;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Blocks are read one by one; no granule is smaller.
const BLOCK: u64 = 4096;
/// Pairs of harms that are tried on a state.
const PAIRS: usize = 6;

/// What sectors held before, oldest first, no content twice in a row.
#[derive(Debug, Default, Clone)]
pub struct Past(HashMap<(Arc<str>, u64), Vec<Sector>>);

impl Past {
    /// Takes in what the page cache shows of all that is no guest data.
    pub fn note(&mut self, disk: &SimDisk) {
        for (name, payload) in disk.payloads() {
            let Some(content) = disk.cached(&name) else { continue };
            for (number, sector) in &content.sectors {
                if payload.contains(&(number * SECTOR_SIZE)) {
                    continue;
                }
                let held = self.0.entry((Arc::clone(&name), *number)).or_default();
                if held.last() != Some(sector) {
                    held.push(sector.clone());
                }
            }
        }
    }

    /// What a sector held before it held `now`: at first, what space holds that nobody wrote.
    fn before(&self, name: &Arc<str>, number: u64, now: &Sector, content: &Content) -> Sector {
        let held = self.0.get(&(Arc::clone(name), number)).map_or(&[][..], |held| &held[..]);
        let at = held.iter().rposition(|sector| sector == now).unwrap_or(held.len());
        held[..at].iter().next_back().unwrap_or(&content.fill).clone()
    }
}

/// What a sector is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// A header slot.
    Slot,
    /// A section of that kind.
    Bits(&'static str),
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Slot => "header",
            Part::Bits(kind) => kind,
        }
    }
}

/// A sector of metadata, and how many of its bytes count.
#[derive(Debug, Clone)]
struct Place {
    file: Arc<str>,
    number: u64,
    part: Part,
    counts: u64,
}

/// What happens to a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Zeroed,
    Flipped,
    Stale,
    Misdirected,
}

impl Harm {
    const ALL: [Harm; 4] = [Harm::Zeroed, Harm::Flipped, Harm::Stale, Harm::Misdirected];

    fn name(self) -> &'static str {
        match self {
            Harm::Zeroed => "zeroed",
            Harm::Flipped => "a bit flipped",
            Harm::Stale => "a write lost",
            Harm::Misdirected => "a write misdirected",
        }
    }
}

/// A sector and what it holds afterwards.
type Change = (Arc<str>, u64, Sector);

/// How often a kind of harm was done, and what became of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Outcomes {
    /// Sectors harmed.
    pub harms: u64,
    /// Every disk read right, and every bitmap told of every change.
    pub right: u64,
    /// Something was refused, and nothing read wrong.
    pub told: u64,
    /// A disk or a bitmap was not what it had been: as far as the format says that nobody can tell.
    pub untold: u64,
}

/// What became of all harms, by what was done and to what.
#[derive(Debug, Default, Clone)]
pub struct Ledger(pub BTreeMap<(&'static str, &'static str), Outcomes>);

impl Ledger {
    /// Counts what `other` counts, too.
    pub fn add(&mut self, other: &Ledger) {
        for (key, more) in &other.0 {
            let sum = self.0.entry(*key).or_default();
            sum.harms += more.harms;
            sum.right += more.right;
            sum.told += more.told;
            sum.untold += more.untold;
        }
    }

    fn count(&mut self, key: (&'static str, &'static str), outcome: Outcome) {
        let sum = self.0.entry(key).or_default();
        sum.harms += 1;
        match outcome {
            Outcome::Right => sum.right += 1,
            Outcome::Told => sum.told += 1,
            Outcome::Untold => sum.untold += 1,
        }
    }
}

/// What became of a harm, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Right,
    Told,
    Untold,
}

/// The metadata of one file: its slots, and the header that counts.
struct Metadata {
    name: Arc<str>,
    content: Arc<Content>,
    slots: [Option<Header>; 2],
}

impl Metadata {
    fn of(disk: &SimDisk, name: Arc<str>) -> Option<Metadata> {
        let content = disk.cached(&name)?;
        let slots = [0, 1].map(|slot| Header::decode(&slot_bytes(&content, slot)).ok());
        slots.iter().any(Option::is_some).then_some(Metadata { name, content, slots })
    }

    fn newest(&self) -> &Header {
        self.slots.iter().flatten().max_by_key(|header| header.sequence).expect("a slot is whole")
    }

    /// Slots that hold the header that counts.
    fn keepers(&self) -> impl Iterator<Item = u64> + '_ {
        let sequence = self.newest().sequence;
        (0..2u64).filter(move |slot| self.slots[*slot as usize].as_ref().is_some_and(|own| own.sequence == sequence))
    }

    /// All sectors that a reader may look at, and one of each section that it must not.
    fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        let place = |number, part, counts| Place { file: Arc::clone(&self.name), number, part, counts };
        for slot in (0..2).filter(|slot| self.slots[*slot as usize].is_some()) {
            let length = slot_bytes(&self.content, slot).len() as u64;
            let first = slot * SLOT_SIZE / SECTOR_SIZE;
            let sectors = 0..length.div_ceil(SECTOR_SIZE);
            places.extend(sectors.map(|n| place(first + n, Part::Slot, SECTOR_SIZE.min(length - n * SECTOR_SIZE))));
        }
        for section in &self.newest().sections {
            let first = section.offset / SECTOR_SIZE;
            let sectors = 0..(section.sectors() + 1).min(section.length / SECTOR_SIZE);
            places.extend(sectors.map(|n| place(first + n, Part::Bits(kind_name(section.kind)), SECTOR_SIZE)));
        }
        places
    }
}

fn kind_name(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Allocation => "allocation",
        SectionKind::Dirty => "dirty",
        SectionKind::Intent => "intent",
        SectionKind::Sync => "sync",
        SectionKind::Other(_) => "unknown",
    }
}

/// As much of a header slot as its header takes.
pub(super) fn slot_bytes(content: &Content, slot: u64) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR];
    content.read(&mut bytes, slot * SLOT_SIZE);
    bytes.resize(header_length(&bytes), 0);
    content.read(&mut bytes, slot * SLOT_SIZE);
    bytes
}

/// PAG-01 to PAG-03, in the words of the format. True: the bits of the sector are not known.
fn is_bad(sector: &Sector, id: Uuid, index: u64) -> bool {
    let bytes = sector.bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&id.0), &bytes[..508]);
    let sealed =
        bytes[496..504] == index.to_le_bytes() && &bytes[504..508] == b"SEAL" && bytes[508..] == checksum.to_le_bytes();
    !sector.is_zero() && !sealed
}

/// A state, and the metadata in it.
struct Sound<'a> {
    disk: &'a SimDisk,
    views: &'a [View],
    files: Vec<Metadata>,
}

/// What harms did, by the words of the format.
#[derive(Default)]
struct Damage {
    /// Files whose header that counts is in no slot any more, or stands beside one of another file.
    headers: Vec<Uuid>,
    /// Files with headers of two files.
    mixed: Vec<Arc<str>>,
    /// Kinds of sections of which a sector is another one, and right by itself.
    silent: BTreeSet<&'static str>,
    /// Bad sectors with bits of the disk: by the file's UUID, the section, and the sector's index.
    bad: Vec<(Uuid, Section, u64)>,
}

impl<'a> Sound<'a> {
    fn of(disk: &'a SimDisk, views: &'a [View]) -> Sound<'a> {
        let files = disk.names().into_iter().filter_map(|name| Metadata::of(disk, name)).collect();
        Sound { disk, views, files }
    }

    fn content(&self, file: &Arc<str>) -> &Content {
        &self.files.iter().find(|own| own.name == *file).expect("a file with metadata").content
    }

    /// What `harm` makes of the sector, and of another one.
    fn changes(&self, places: &[Place], at: usize, harm: Harm, past: &Past, random: &mut Random) -> Vec<Change> {
        let place = &places[at];
        let change = |place: &Place, sector| (Arc::clone(&place.file), place.number, sector);
        let now = |place: &Place| self.content(&place.file).sector(place.number);
        let before = |place: &Place| past.before(&place.file, place.number, &now(place), self.content(&place.file));
        let mut changes = match harm {
            Harm::Zeroed => vec![change(place, Sector::zero())],
            Harm::Flipped => {
                let mut bytes = *now(place).bytes();
                bytes[random.below(place.counts) as usize] ^= 1 << random.below(8);
                vec![change(place, Sector::new(bytes))]
            }
            Harm::Stale => vec![change(place, before(place))],
            Harm::Misdirected => {
                let other = &places[(at + 1 + random.below(places.len() as u64 - 1) as usize) % places.len()];
                vec![change(place, now(other)), change(other, before(other))]
            }
        };
        changes.retain(|(file, number, sector)| self.content(file).sector(*number) != *sector);
        changes
    }

    /// What the words of the format make of it, slot by slot and sector by sector.
    fn damage(&self, changes: &[Change], harmed: &SimDisk) -> Damage {
        let mut damage = Damage::default();
        for file in &self.files {
            let Some(content) = harmed.cached(&file.name) else { continue };
            let header = file.newest();
            let kept = |slot| slot_bytes(&file.content, slot) == slot_bytes(&content, slot);
            let whole = [0, 1].map(|slot| Header::decode(&slot_bytes(&content, slot)).ok());
            let mixed = matches!(&whole, [Some(a), Some(b)] if (a.kind, a.uuid) != (b.kind, b.uuid));
            if !file.keepers().any(kept) || mixed {
                damage.headers.push(header.uuid);
            }
            damage.mixed.extend(mixed.then(|| Arc::clone(&file.name)));
            for section in &header.sections {
                for index in 0..section.sectors() {
                    let number = section.offset / SECTOR_SIZE + index;
                    let sector = content.sector(number);
                    let changed = changes.iter().any(|(name, at, _)| *name == file.name && *at == number);
                    if is_bad(&sector, section.id, index) {
                        damage.bad.push((header.uuid, *section, index));
                    } else if changed {
                        damage.silent.insert(kind_name(section.kind));
                    }
                }
            }
        }
        damage
    }

    /// Makes `changes` and holds what is then there against what the format promises.
    fn judge(&self, changes: &[Change]) -> Result<Outcome, Breach> {
        let harmed = self.disk.fork();
        changes.iter().for_each(|(file, number, sector)| harmed.spoil(file, *number, sector.clone()));
        let damage = self.damage(changes, &harmed);
        let before: Vec<_> = harmed.names().iter().map(|name| harmed.cached(name)).collect();
        let mut outcome = Outcome::Right;
        for view in self.views {
            let seen = catch_unwind(AssertUnwindSafe(|| self.look(view, &harmed, &damage, changes.len() == 1)));
            let seen = seen.unwrap_or_else(|_| Err(Breach::new('R', "a panic")));
            outcome =
                outcome.max(seen.map_err(|breach| Breach::new(breach.law, format!("{}: {}", view.name, breach.what)))?);
        }
        let same = harmed.names().iter().map(|name| harmed.cached(name)).zip(&before).all(|pair| match pair {
            (Some(now), Some(before)) => Arc::ptr_eq(&now, before),
            _ => false,
        });
        match same && !harmed.written_read_only() {
            true => Ok(outcome),
            false => Err(Breach::new('R', "opening for reading wrote")),
        }
    }

    fn look(&self, view: &View, harmed: &SimDisk, damage: &Damage, single: bool) -> Result<Outcome, Breach> {
        let opened = match (view.open)(harmed) {
            Ok(opened) => opened,
            Err(error) if view.required && damage.headers.is_empty() => {
                return Err(Breach::new('R', format!("does not open: {error}")));
            }
            Err(_) if view.required => return Ok(Outcome::Told),
            Err(_) => return Ok(Outcome::Right),
        };
        if opened.image.as_ref().is_some_and(|image| damage.mixed.iter().any(|name| **name == *image.name())) {
            return Err(Breach::new('R', "opens, and its slots have headers of two files"));
        }
        if damage.headers.is_empty() {
            let refused = self.read(view, &opened, harmed, damage)?;
            let checked = check(&opened, damage)?;
            if refused || checked {
                return Ok(Outcome::Told);
            }
        } else if single && opened.header.as_ref().is_some_and(|header| damage.headers.contains(&header.uuid)) {
            // An older header, and its own disk. (Who names the file may take it for what it was.)
            let size = opened.device.size().min(view.model.least_size());
            view.model.check_content(&*opened.device, size)?;
        }
        let strictly = view.model.check(&*opened.device).and_then(|seen| match &opened.image {
            Some(image) => superset(view, image, &seen),
            None => Ok(()),
        });
        match strictly {
            Ok(()) => Ok(Outcome::Right),
            Err(_) if !damage.headers.is_empty() || !damage.silent.is_empty() => Ok(Outcome::Untold),
            Err(breach) => Err(breach),
        }
    }

    /// Reads block by block: each sector is right or, under bits that nobody can tell are wrong, what another layer has there.
    /// Whether a read was refused, which only bad sectors may do, and those of the top must.
    fn read(&self, view: &View, opened: &Opened, harmed: &SimDisk, damage: &Damage) -> Result<bool, Breach> {
        let size = opened.device.size();
        if !view.model.may_have(size) {
            return Err(Breach::new('O', format!("the size is {size}")));
        }
        let allocation = |uuid: Option<Uuid>| {
            let of_file = move |own: &Uuid| uuid.is_none_or(|uuid| *own == uuid);
            damage.bad.iter().filter(move |(own, section, _)| section.kind == SectionKind::Allocation && of_file(own))
        };
        let top = opened.header.as_ref().map_or(Uuid([0; 16]), |header| header.uuid);
        let mut refused = false;
        for run in view.model.runs(size) {
            let mut at = run.start;
            while at < run.end {
                let end = (at / BLOCK * BLOCK + BLOCK).min(run.end);
                let mut bytes = vec![0; (end - at) as usize];
                let unknown =
                    |(_, section, index): &&(Uuid, Section, u64)| at / section.granule() / BITS_PER_SECTOR == *index;
                match opened.device.read_at(&mut bytes, at) {
                    Ok(()) if allocation(Some(top)).any(|bad| unknown(&bad)) => {
                        return Err(Breach::new('O', format!("byte {at} is read, and its bit is not known")));
                    }
                    Ok(()) => self.hold(view, harmed, damage, at, &bytes)?,
                    Err(error) if refusal(&error) && allocation(None).any(|bad| unknown(&bad)) => refused = true,
                    Err(error) => return Err(Breach::new('R', format!("cannot read byte {at}: {error}"))),
                }
                at = end;
            }
        }
        Ok(refused)
    }

    fn hold(&self, view: &View, harmed: &SimDisk, damage: &Damage, at: u64, bytes: &[u8]) -> Result<(), Breach> {
        for (number, found) in (at / SECTOR_SIZE..).zip(bytes.chunks(SECTOR)) {
            let below = || !damage.silent.is_empty() && self.in_a_layer(harmed, number, found);
            if !view.model.allows(number, found) && !below() {
                let found = Sector::from_slice(found);
                return Err(Breach::new('O', format!("sector {number} reads as {found:?}, which never was its own")));
            }
        }
        Ok(())
    }

    /// Whether a layer has these bytes there, perhaps only up to where it is seen or ends, and zeros from there on.
    fn in_a_layer(&self, harmed: &SimDisk, number: u64, found: &[u8]) -> bool {
        let seen = found.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        harmed.names().iter().any(|name| {
            let header = self.files.iter().find(|file| file.name == *name).map(|file| file.newest());
            let start = header.map_or(0, |header| header.data_offset);
            let mut held = vec![0; seen];
            harmed.cached(name).iter().for_each(|content| content.read(&mut held, start + number * SECTOR_SIZE));
            held == found[..seen]
        })
    }
}

fn refusal(error: &Error) -> bool {
    error.violation() == Some(Violation::SealedSector)
}

/// A check tells of the bad sectors of the file, each by its place, and of nothing else (PAG-07). Whether it told of any.
fn check(opened: &Opened, damage: &Damage) -> Result<bool, Breach> {
    let Some(image) = &opened.image else { return Ok(false) };
    let header = image.header();
    let of_disk = |(uuid, section, index): &&(Uuid, Section, u64)| {
        let within = section.granule() * BITS_PER_SECTOR * index < header.virtual_size;
        *uuid == header.uuid && section.kind == SectionKind::Allocation && within
    };
    let bad = damage.bad.iter().filter(of_disk);
    let expected: BTreeSet<u64> = bad.map(|(_, section, index)| section.offset + index * SECTOR_SIZE).collect();
    let report = image.check().map_err(|error| Breach::new('R', format!("check: {error}")))?;
    let told: BTreeSet<u64> = report.findings.iter().map(|finding| finding.at).collect();
    match told == expected {
        true => Ok(!told.is_empty()),
        false => Err(Breach::new('R', format!("check tells of {told:?}, bad are {expected:?}"))),
    }
}

/// The newest header slot of each file in turn becomes poison, where the other one is not equal to it yet.
pub fn judge_newest(disk: &SimDisk, views: &[View]) -> Result<(), Breach> {
    let sound = Sound::of(disk, views);
    for file in &sound.files {
        let mut keepers = file.keepers();
        let (Some(only), None) = (keepers.next(), keepers.next()) else { continue };
        let number = only * SLOT_SIZE / SECTOR_SIZE;
        let changes = [(Arc::clone(&file.name), number, Sector::poison())];
        sound.judge(&changes).map_err(|breach| {
            Breach::new(breach.law, format!("with the newest header of {} rotten: {}", file.name, breach.what))
        })?;
    }
    Ok(())
}

/// Every sector of metadata is harmed in every way, and a few pairs of them. `seed` has the choices repeat.
pub fn judge_all(disk: &SimDisk, views: &[View], past: &Past, seed: u64, ledger: &mut Ledger) -> Result<(), Breach> {
    let sound = Sound::of(disk, views);
    let places: Vec<Place> = sound.files.iter().flat_map(Metadata::places).collect();
    if places.len() < 2 {
        return Ok(());
    }
    let mut random = Random(seed);
    let mut judge = |chosen: &[(usize, Harm)], random: &mut Random| {
        let changes: Vec<Change> =
            chosen.iter().flat_map(|(at, harm)| sound.changes(&places, *at, *harm, past, random)).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let key = match chosen {
            [(at, harm)] => (harm.name(), places[*at].part.name()),
            _ => ("two at once", "any"),
        };
        let outcome = sound.judge(&changes).map_err(|breach| {
            let name = |(file, number, sector): &Change| format!("{file} at {}: {sector:?}", number * SECTOR_SIZE);
            let names: Vec<String> = changes.iter().map(name).collect();
            Breach::new(breach.law, format!("{} ({}): {}", key.0, names.join("; "), breach.what))
        })?;
        ledger.count(key, outcome);
        Ok(())
    };
    for at in 0..places.len() {
        for harm in Harm::ALL {
            judge(&[(at, harm)], &mut random)?;
        }
    }
    for _ in 0..PAIRS {
        let pair = [(); 2].map(|()| {
            let at = random.below(places.len() as u64) as usize;
            (at, Harm::ALL[random.below(4) as usize])
        });
        judge(&pair, &mut random)?;
    }
    Ok(())
}
