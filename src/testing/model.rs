//! The naive model of a disk: for each sector the contents it may have, and nothing else.
//!
//! The last content of a sector is what the guest sees now; the ones before it are what a power loss may bring
//! back. A flush that ends forgets what was older than the content at its start. After a failed barrier what was
//! in flight stays in doubt until it is written again and flushed: no engine can know better.

use super::fingerprint::Fingerprint;
use super::sector::{SECTOR, Sector, mix};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::limits::SECTOR_SIZE;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// What a sector may hold.
#[derive(Debug, Clone)]
struct Cell {
    /// Oldest first; never empty.
    versions: Vec<Sector>,
    /// How many versions were forgotten: numbers of versions never change.
    forgotten: u64,
    /// The number of the version that the last completed write left.
    complete: u64,
    /// Versions numbered below this are in doubt since a barrier failed.
    doubt: u64,
}

impl Cell {
    fn of(content: Sector) -> Cell {
        Cell { versions: vec![content], forgotten: 0, complete: 0, doubt: 0 }
    }

    fn newest(&self) -> u64 {
        self.forgotten + self.versions.len() as u64 - 1
    }

    fn current(&self) -> &Sector {
        &self.versions[self.versions.len() - 1]
    }

    fn push(&mut self, content: Sector) {
        self.versions.push(content);
    }

    /// Version `number` is durable.
    fn flushed(&mut self, number: u64) {
        if number < self.doubt {
            return;
        }
        self.doubt = 0;
        if number > self.forgotten {
            self.versions.drain(..(number - self.forgotten) as usize);
            self.forgotten = number;
        }
    }

    /// The version that `bytes` are, or begin like at the end of a disk.
    fn allowed(&self, bytes: &[u8]) -> Option<&Sector> {
        self.versions.iter().rev().find(|version| version.bytes()[..bytes.len()] == *bytes)
    }
}

/// A disk that no law allows.
#[derive(Debug, Clone)]
pub struct Breach {
    /// The law that is broken: `R`, `O`, `E`, `S`, `F`.
    pub law: char,
    /// How.
    pub what: String,
}

impl Breach {
    /// A breach of `law`.
    pub fn new(law: char, what: impl Into<String>) -> Breach {
        Breach { law, what: what.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "law {}: {}", self.law, self.what)
    }
}

/// A write or flush under way: the versions it speaks of.
#[derive(Debug)]
pub struct Ticket(Vec<(u64, u64)>);

/// What a disk was seen to hold.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its size in bytes.
    pub size: u64,
    /// The bytes of the watched sectors, one run after the other.
    bytes: Vec<u8>,
    /// A hash of each of them, followed by zeros if the disk ends in it.
    hashes: Vec<u64>,
}

/// A disk as its guest may expect it.
#[derive(Debug, Clone)]
pub struct Model {
    /// Sizes it may have, the newest last.
    sizes: Vec<u64>,
    cells: BTreeMap<u64, Cell>,
    /// Sectors that are watched; all others are never touched.
    windows: Vec<Range<u64>>,
}

impl Model {
    /// A disk of `size` bytes that reads as zeros, all of it watched.
    pub fn zeros(size: u64) -> Model {
        Model::watching(size, vec![0..u64::MAX])
    }

    /// A disk of `size` bytes that reads as zeros, of which the sectors in `windows` are watched.
    pub fn watching(size: u64, windows: Vec<Range<u64>>) -> Model {
        let mut model = Model { sizes: vec![size], cells: BTreeMap::new(), windows };
        model.add_cells(0, size);
        model
    }

    fn add_cells(&mut self, from: u64, to: u64) {
        let sectors = from.div_ceil(SECTOR_SIZE)..to.div_ceil(SECTOR_SIZE);
        for window in &self.windows {
            for number in window.start.max(sectors.start)..window.end.min(sectors.end) {
                // A crash may still bring back what was there before a shrink that is not durable.
                let zero = Sector::zero;
                self.cells.entry(number).and_modify(|cell| cell.push(zero())).or_insert_with(|| Cell::of(zero()));
            }
        }
    }

    /// The size as of the last resize.
    pub fn size(&self) -> u64 {
        self.sizes[self.sizes.len() - 1]
    }

    /// The smallest size that it may have.
    pub fn least_size(&self) -> u64 {
        self.sizes.iter().copied().min().unwrap_or_default()
    }

    /// What the guest sees at sector `number`, if that is watched.
    pub fn current(&self, number: u64) -> Option<&Sector> {
        self.cells.get(&number).map(Cell::current)
    }

    /// A write of `data` at `offset` is issued.
    pub fn begin_write(&mut self, data: &[u8], offset: u64) -> Ticket {
        let end = offset + data.len() as u64;
        let mut versions = Vec::new();
        for (number, cell) in self.cells.range_mut(offset / SECTOR_SIZE..end.div_ceil(SECTOR_SIZE)) {
            let at = number * SECTOR_SIZE;
            let (from, to) = (at.max(offset), (at + SECTOR_SIZE).min(end));
            let mut bytes = *cell.current().bytes();
            bytes[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            cell.push(Sector::new(bytes));
            versions.push((*number, cell.newest()));
        }
        Ticket(versions)
    }

    /// The write has returned.
    pub fn end_write(&mut self, ticket: Ticket) {
        for (number, version) in ticket.0 {
            if let Some(cell) = self.cells.get_mut(&number) {
                cell.complete = cell.complete.max(version);
            }
        }
    }

    /// A flush is called.
    pub fn begin_flush(&self) -> Ticket {
        Ticket(self.cells.iter().map(|(number, cell)| (*number, cell.complete)).collect())
    }

    /// The flush has returned.
    pub fn end_flush(&mut self, ticket: Ticket) {
        for (number, version) in ticket.0 {
            if let Some(cell) = self.cells.get_mut(&number) {
                cell.flushed(version);
            }
        }
    }

    /// A barrier has failed: what was not flushed stays in doubt.
    pub fn doubt(&mut self) {
        for cell in self.cells.values_mut().filter(|cell| cell.versions.len() > 1) {
            cell.doubt = cell.newest() + 1;
        }
    }

    /// A resize is called: from here the disk may have either size.
    pub fn begin_resize(&mut self, size: u64) {
        let old = self.size();
        self.sizes.push(size);
        if size > old {
            self.add_cells(old, size);
        }
    }

    /// The resize has returned: its size is durable.
    pub fn end_resize(&mut self) {
        let size = self.size();
        let before = self.sizes.iter().rev().nth(1).copied().unwrap_or(size);
        self.sizes = vec![size];
        for cell in self.cells.range_mut(before.div_ceil(SECTOR_SIZE)..).map(|(_, cell)| cell) {
            (cell.complete, cell.doubt) = (cell.newest(), 0);
            cell.flushed(cell.newest());
        }
        drop(self.cells.split_off(&size.div_ceil(SECTOR_SIZE)));
        let kept = (size % SECTOR_SIZE) as usize;
        if kept != 0
            && let Some(last) = self.cells.get_mut(&(size / SECTOR_SIZE))
        {
            for version in &mut last.versions {
                *version = Sector::from_slice(&version.bytes()[..kept]);
            }
        }
    }

    /// The same disk with another size, which it has had for long.
    pub fn resized(mut self, size: u64) -> Model {
        self.begin_resize(size);
        self.end_resize();
        self
    }

    /// The same content as on a device of `size` bytes, whose bytes past the last whole sector are not watched.
    pub fn device_of(mut self, size: u64) -> Model {
        drop(self.cells.split_off(&(self.size() / SECTOR_SIZE)));
        self.sizes = vec![size];
        self
    }

    /// The disk as its guest sees it, all of it durable.
    pub fn durable(mut self) -> Model {
        self.sizes.drain(..self.sizes.len() - 1);
        self.cells.values_mut().for_each(|cell| *cell = Cell::of(cell.current().clone()));
        self
    }

    /// A job begins that gives this disk the content, and at least the size, of `other`.
    pub fn becoming(&mut self, other: &Model) {
        if other.size() > self.size() {
            self.begin_resize(other.size());
        }
        for (number, cell) in &other.cells {
            if let Some(own) = self.cells.get_mut(number)
                && own.current() != cell.current()
            {
                own.push(cell.current().clone());
            }
        }
    }

    /// The job has ended: all is durable.
    pub fn became(&mut self) {
        *self = std::mem::replace(self, Model::zeros(0)).durable();
    }

    /// Whether the disk may have that size.
    pub fn may_have(&self, size: u64) -> bool {
        self.sizes.contains(&size)
    }

    /// Whether sector `number` may read as `bytes`, which may end before it does. One that is not watched may hold anything.
    pub fn allows(&self, number: u64, bytes: &[u8]) -> bool {
        self.cells.get(&number).is_none_or(|cell| cell.allowed(bytes).is_some())
    }

    /// Runs of watched bytes within `size`.
    pub fn runs(&self, size: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let runs = self.windows.iter().map(move |window| {
            window.start.saturating_mul(SECTOR_SIZE).min(size)..window.end.saturating_mul(SECTOR_SIZE).min(size)
        });
        runs.filter(|run| !run.is_empty())
    }

    /// Reads all that is watched and holds it against what is allowed.
    pub fn check(&self, device: &dyn BlockDevice) -> std::result::Result<Seen, Breach> {
        let size = device.size();
        if !self.may_have(size) {
            return Err(Breach::new('O', format!("the size is {size}, allowed are {:?}", self.sizes)));
        }
        self.check_content(device, size)
    }

    /// As [`check`](Self::check), whatever the size: what lies within both sizes is held against what is allowed.
    pub fn check_content(&self, device: &dyn BlockDevice, size: u64) -> std::result::Result<Seen, Breach> {
        let mut bytes = Vec::new();
        for run in self.runs(size) {
            let start = bytes.len();
            bytes.resize(start + (run.end - run.start) as usize, 0);
            device
                .read_at(&mut bytes[start..], run.start)
                .map_err(|e| Breach::new('R', format!("cannot read {}..{}: {e}", run.start, run.end)))?;
        }
        let mut seen = Seen { size, bytes, hashes: Vec::new() };
        seen.hashes = self
            .sectors_of(&seen)
            .map(|(number, found)| self.check_sector(number, found))
            .collect::<std::result::Result<_, _>>()?;
        Ok(seen)
    }

    /// The hash of a sector that may hold what it does.
    fn check_sector(&self, number: u64, found: &[u8]) -> std::result::Result<u64, Breach> {
        let whole = || Sector::from_slice(found);
        let Some(cell) = self.cells.get(&number) else { return Ok(whole().hash()) };
        match cell.allowed(found) {
            Some(version) if found.len() == SECTOR => Ok(version.hash()),
            Some(_) => Ok(whole().hash()),
            None => {
                let what = format!("sector {number} reads as {:?}, allowed are {:?}", whole(), cell.versions);
                Err(Breach::new('O', what))
            }
        }
    }

    fn sectors_of<'a>(&'a self, seen: &'a Seen) -> impl Iterator<Item = (u64, &'a [u8])> {
        let mut rest = &seen.bytes[..];
        self.runs(seen.size).flat_map(move |run| {
            let (run_bytes, after) = rest.split_at((run.end - run.start) as usize);
            rest = after;
            (run.start / SECTOR_SIZE..).zip(run_bytes.chunks(SECTOR))
        })
    }

    /// Takes what was seen as what the guest sees now. With `durable` (after a power loss) nothing else is left;
    /// without, older contents may still come back.
    pub fn adopt(&mut self, seen: &Seen, durable: bool) {
        let contents: Vec<(u64, Sector)> =
            self.sectors_of(seen).map(|(number, bytes)| (number, Sector::from_slice(bytes))).collect();
        if durable {
            self.sizes = vec![seen.size];
            self.cells = contents.into_iter().map(|(number, content)| (number, Cell::of(content))).collect();
            return;
        }
        self.sizes.retain(|size| *size != seen.size);
        self.sizes.push(seen.size);
        for (number, content) in contents {
            if let Some(cell) = self.cells.get_mut(&number) {
                if *cell.current() != content {
                    cell.push(content);
                }
                cell.complete = cell.newest();
                if cell.doubt > 0 {
                    cell.doubt = cell.newest() + 1;
                }
            }
        }
    }

    /// A hash of each sector that was seen, 0 for one in doubt, and the size.
    pub fn fingerprint(&self, seen: &Seen) -> Vec<u64> {
        let hashes = self.sectors_of(seen).zip(&seen.hashes).map(|((number, _), hash)| {
            let doubtful = self.cells.get(&number).is_some_and(|cell| cell.doubt > 0);
            if doubtful { 0 } else { *hash }
        });
        hashes.chain([seen.size]).collect()
    }

    /// What the guest sees now: a hash of each sector, 0 for one in doubt, and the size under a number that no sector has.
    pub fn content(&self) -> BTreeMap<u64, u64> {
        let hash = |cell: &Cell| if cell.doubt > 0 { 0 } else { cell.current().hash() };
        let sectors = self.cells.iter().map(|(number, cell)| (*number, hash(cell)));
        sectors.chain([(u64::MAX, self.size())]).collect()
    }

    /// The first watched sector that differs from `before` and of which `clean` says that nobody changed it.
    pub fn changed_unseen(
        &self,
        seen: &Seen,
        before: &BTreeMap<u64, u64>,
        clean: impl Fn(u64) -> Result<bool>,
    ) -> Result<Option<u64>> {
        for ((number, bytes), hash) in self.sectors_of(seen).zip(&seen.hashes) {
            let doubtful = self.cells.get(&number).is_none_or(|cell| cell.doubt > 0);
            // Of a sector that the end of the disk cuts, only a part was kept if the disk ended elsewhere then.
            if bytes.len() < SECTOR && before.get(&u64::MAX) != Some(&seen.size) {
                continue;
            }
            let known = before.get(&number).copied().unwrap_or_else(|| Sector::zero().hash());
            if !doubtful && known != 0 && *hash != known && clean(number)? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Takes into a fingerprint what is allowed.
    pub fn tell(&self, into: &mut Fingerprint) {
        self.sizes.iter().for_each(|size| into.number(*size));
        for (number, cell) in &self.cells {
            into.number(number << 1 | u64::from(cell.doubt > 0));
            into.number(cell.complete - cell.forgotten.min(cell.complete));
            cell.versions.iter().for_each(|version| into.content(version));
        }
    }

    /// A hash of what is allowed.
    pub fn hash(&self) -> u64 {
        let sizes = self.sizes.iter().fold(3, |state, size| mix(state, *size));
        self.cells.iter().fold(sizes, |state, (number, cell)| {
            cell.versions
                .iter()
                .fold(mix(state, number << 1 | u64::from(cell.doubt > 0)), |state, v| mix(state, v.hash()))
        })
    }

    /// Reads back what was discarded, or a write that failed should have left: each sector is that, or as before.
    pub fn read_back(&mut self, device: &dyn BlockDevice, ticket: Ticket) -> Result<std::result::Result<(), Breach>> {
        for (number, version) in ticket.0 {
            let Some(cell) = self.cells.get_mut(&number) else { continue };
            let at = number * SECTOR_SIZE;
            let mut bytes = [0; SECTOR];
            let within = (device.size() - at).min(SECTOR_SIZE) as usize;
            device.read_at(&mut bytes[..within], at)?;
            let found = Sector::new(bytes);
            let before = cell.versions[cell.versions.len() - 2].clone();
            if found == before && found != *cell.current() {
                cell.push(before.clone());
            }
            if found == before && cell.doubt > 0 {
                // Perhaps nothing was written: what a failed barrier left in doubt still is.
                cell.doubt = cell.newest() + 1;
            } else if found != *cell.current() {
                return Ok(Err(Breach::new(
                    'O',
                    format!("sector {number} reads as {found:?}, neither as before nor as after"),
                )));
            }
            cell.complete = cell.complete.max(version).max(cell.newest());
        }
        Ok(Ok(()))
    }
}
