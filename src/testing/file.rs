//! One simulated file: what is durable, what the page cache shows, and the operations that lie between the two.

use super::sector::{SECTOR, Sector, mix};
use crate::limits::SECTOR_SIZE;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The bytes of a file, sparse.
#[derive(Debug, Clone)]
pub struct Content {
    /// The length in bytes.
    pub size: u64,
    /// Sectors that were ever written or zeroed.
    pub sectors: BTreeMap<u64, Sector>,
    /// What the other sectors within the length read as.
    pub fill: Sector,
}

impl Content {
    /// An empty file, as a file system gives it.
    pub fn empty() -> Content {
        Content { size: 0, sectors: BTreeMap::new(), fill: Sector::zero() }
    }

    /// What sector `number` reads as.
    pub fn sector(&self, number: u64) -> Sector {
        if number * SECTOR_SIZE >= self.size {
            return Sector::zero();
        }
        self.sectors.get(&number).unwrap_or(&self.fill).clone()
    }

    /// Sets the length; what lies past a shorter end is gone.
    pub fn set_size(&mut self, size: u64) {
        if size < self.size {
            drop(self.sectors.split_off(&size.div_ceil(SECTOR_SIZE)));
            let kept = (size % SECTOR_SIZE) as usize;
            if kept != 0
                && let Some(last) = self.sectors.get_mut(&(size / SECTOR_SIZE))
            {
                *last = Sector::from_slice(&last.bytes()[..kept]);
            }
        }
        self.size = size;
    }

    /// Drops what lies past the end, which no later length brings back.
    pub fn trim(&mut self) {
        drop(self.sectors.split_off(&self.size.div_ceil(SECTOR_SIZE)));
    }

    /// Fills `buffer` from `offset`.
    pub fn read(&self, buffer: &mut [u8], offset: u64) {
        let end = offset.saturating_add(buffer.len() as u64);
        let within = end.min(self.size).saturating_sub(offset) as usize;
        if self.fill.is_zero() {
            buffer.fill(0);
        } else {
            buffer[..within].fill(self.fill.bytes()[0]);
            buffer[within..].fill(0);
        }
        let stop = offset + within as u64;
        for (number, sector) in self.sectors.range(offset / SECTOR_SIZE..stop.div_ceil(SECTOR_SIZE)) {
            let at = number * SECTOR_SIZE;
            let from = at.max(offset);
            let to = (at + SECTOR_SIZE).min(stop);
            if from < to {
                buffer[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&sector.bytes()[(from - at) as usize..(to - at) as usize]);
            }
        }
    }

    /// A hash of all that can be read.
    pub fn hash(&self) -> u64 {
        let stirred = self
            .sectors
            .iter()
            .map(|(number, sector)| if *sector == self.fill { 0 } else { mix(mix(1, *number), sector.hash()) });
        mix(self.size, stirred.fold(0, u64::wrapping_add))
    }
}

/// What was done to a file and is not known to be durable.
#[derive(Debug, Clone)]
pub enum Action {
    /// Sectors were written, punched or zeroed: their numbers and contents, in order. What was done to a part of a
    /// sector carries the whole sector as the cache shows it.
    Sectors(Vec<(u64, Sector)>),
    /// The length was set, or raised by a write past the end.
    Size(u64),
    /// The file was created.
    Entry,
}

/// One operation in flight.
#[derive(Debug, Clone)]
pub struct Op {
    /// What was done.
    pub action: Action,
    /// Whether a barrier that failed left it behind: the page cache calls it clean, so no later barrier covers it.
    pub abandoned: bool,
    /// Its number among all operations of the disk.
    pub number: u64,
}

impl Op {
    /// The contents the operation gives to sectors, in order.
    pub fn contents(&self) -> &[(u64, Sector)] {
        match &self.action {
            Action::Sectors(contents) => contents,
            Action::Size(_) | Action::Entry => &[],
        }
    }
}

/// A file of a simulated disk.
#[derive(Debug, Clone)]
pub struct SimFile {
    /// Its name.
    pub name: Arc<str>,
    /// What a power loss cannot take.
    pub durable: Arc<Content>,
    /// What a read shows.
    pub cache: Arc<Content>,
    /// What was done since, oldest first.
    pub pending: Vec<Op>,
    /// Whether the directory entry is durable.
    pub entry: bool,
    /// Bytes that hold guest data: a crash splits a write there in fewer ways.
    pub payload: Range<u64>,
    /// Whether the file is a block device: its length is fixed, its unwritten bytes are poison.
    pub device: bool,
    /// Whether something could not be written back, and nobody was told yet.
    pub owes: bool,
}

impl SimFile {
    /// A new file, its directory entry not yet durable.
    pub fn create(name: &str, number: u64) -> SimFile {
        let empty = Arc::new(Content::empty());
        let entry = Op { action: Action::Entry, abandoned: false, number };
        SimFile {
            name: name.into(),
            durable: Arc::clone(&empty),
            cache: empty,
            pending: vec![entry],
            entry: false,
            payload: 0..0,
            device: false,
            owes: false,
        }
    }

    /// A block device of `size` bytes that nobody has written yet.
    pub fn device(name: &str, size: u64) -> SimFile {
        let content = Arc::new(Content { size, sectors: BTreeMap::new(), fill: Sector::poison() });
        SimFile {
            name: name.into(),
            durable: Arc::clone(&content),
            cache: content,
            pending: Vec::new(),
            entry: true,
            payload: 0..0,
            device: true,
            owes: false,
        }
    }

    /// Whether `end` lies past a device, which does not grow.
    pub fn past_device(&self, end: u64) -> bool {
        self.device && end > self.cache.size
    }

    /// Writes into the page cache.
    pub fn write(&mut self, data: &[u8], offset: u64, number: u64) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        if end > self.cache.size {
            self.set_size(end, number);
        }
        let numbers = offset / SECTOR_SIZE..end.div_ceil(SECTOR_SIZE);
        let contents = numbers.map(|n| (n, self.overlaid(n, data, offset))).collect();
        self.put(contents, number);
    }

    fn put(&mut self, contents: Vec<(u64, Sector)>, number: u64) {
        Arc::make_mut(&mut self.cache).sectors.extend(contents.iter().cloned());
        self.push(Action::Sectors(contents), number);
    }

    /// Sector `number` of the cache under `data` at `offset`.
    fn overlaid(&self, number: u64, data: &[u8], offset: u64) -> Sector {
        let at = number * SECTOR_SIZE;
        let end = offset + data.len() as u64;
        if at >= offset && at + SECTOR_SIZE <= end {
            return Sector::from_slice(&data[(at - offset) as usize..][..SECTOR]);
        }
        let mut bytes = *self.cache.sector(number).bytes();
        let (from, to) = (at.max(offset), (at + SECTOR_SIZE).min(end));
        bytes[(from - at) as usize..(to - at) as usize]
            .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
        Sector::new(bytes)
    }

    /// Zeroes what lies within the length.
    pub fn zero(&mut self, range: Range<u64>, number: u64) {
        let range = range.start..range.end.min(self.cache.size);
        if range.is_empty() {
            return;
        }
        let numbers = range.start / SECTOR_SIZE..range.end.div_ceil(SECTOR_SIZE);
        let contents = match self.device {
            true => numbers.map(|n| (n, self.zeroed(n, &range))).collect(),
            // Elsewhere there are holes already.
            false => self.held(&numbers).into_iter().map(|n| (n, self.zeroed(n, &range))).collect(),
        };
        self.put(contents, number);
    }

    /// Sectors of `numbers` that hold anything, or may after a crash.
    fn held(&self, numbers: &Range<u64>) -> BTreeSet<u64> {
        let kept = [&self.cache, &self.durable].into_iter().flat_map(|content| content.sectors.range(numbers.clone()));
        let in_flight = self.pending.iter().flat_map(Op::contents).map(|(number, _)| *number);
        kept.map(|(number, _)| *number).chain(in_flight.filter(|number| numbers.contains(number))).collect()
    }

    fn zeroed(&self, number: u64, range: &Range<u64>) -> Sector {
        let at = number * SECTOR_SIZE;
        let mut bytes = *self.cache.sector(number).bytes();
        bytes[(at.max(range.start) - at) as usize..((at + SECTOR_SIZE).min(range.end) - at) as usize].fill(0);
        Sector::new(bytes)
    }

    /// Sets the length.
    pub fn set_size(&mut self, size: u64, number: u64) {
        Arc::make_mut(&mut self.cache).set_size(size);
        self.push(Action::Size(size), number);
    }

    fn push(&mut self, action: Action, number: u64) {
        self.pending.push(Op { action, abandoned: false, number });
    }

    /// A barrier that started after operation `last` was issued has ended: what it covers is durable.
    pub fn settle(&mut self, last: u64) {
        let (covered, rest): (Vec<Op>, Vec<Op>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|op| !op.abandoned && op.number <= last && !matches!(op.action, Action::Entry));
        self.pending = rest;
        for op in covered {
            self.make_durable(&op);
        }
        Arc::make_mut(&mut self.durable).trim();
    }

    fn make_durable(&mut self, op: &Op) {
        if let Action::Size(size) = op.action {
            Arc::make_mut(&mut self.durable).set_size(size);
            self.pending.retain(|older| older.number > op.number || !matches!(older.action, Action::Size(_)));
            for older in self.pending.iter_mut().filter(|older| older.number < op.number) {
                cut(older, size.div_ceil(SECTOR_SIZE));
            }
        }
        for older in self.pending.iter_mut().filter(|older| older.number < op.number) {
            supersede(older, op.contents());
        }
        Arc::make_mut(&mut self.durable).sectors.extend(op.contents().iter().cloned());
    }

    /// A barrier has failed, as Linux fails it: what it covered is clean in the page cache and nowhere else.
    pub fn abandon(&mut self, last: u64) {
        for op in self.pending.iter_mut().filter(|op| op.number <= last && !matches!(op.action, Action::Entry)) {
            op.abandoned = true;
        }
    }

    /// A barrier has failed, as file systems fail it that go back: what it covered is gone from the page cache, too.
    pub fn revert(&mut self, last: u64) {
        self.pending.retain(|op| op.number > last || matches!(op.action, Action::Entry));
        let mut cache = Content::clone(&self.durable);
        for op in &self.pending {
            match &op.action {
                Action::Size(size) => cache.set_size(*size),
                Action::Sectors(contents) => cache.sectors.extend(contents.iter().cloned()),
                Action::Entry => {}
            }
        }
        self.cache = Arc::new(cache);
    }

    /// The directory was synced.
    pub fn settle_entry(&mut self) {
        self.entry = true;
        self.pending.retain(|op| !matches!(op.action, Action::Entry));
    }
}

/// An older operation no longer decides about sectors from `end` on, which a durable shorter length took away.
fn cut(older: &mut Op, end: u64) {
    if let Action::Sectors(contents) = &mut older.action {
        contents.retain(|(number, _)| *number < end);
    }
}

/// An older operation no longer decides about sectors that a durable one has since written.
fn supersede(older: &mut Op, contents: &[(u64, Sector)]) {
    if let Action::Sectors(old) = &mut older.action {
        old.retain(|(number, _)| contents.binary_search_by_key(number, |c| c.0).is_err());
    }
}
