//! Guests that know what their disk must hold.

use super::{bytes, content, same};
use crate::common::Random;
use lvd::{BlockDevice, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A guest that has the disk to itself.
pub struct Guest<'a> {
    pub disk: &'a dyn BlockDevice,
    /// What the disk holds.
    pub model: Vec<u8>,
}

impl<'a> Guest<'a> {
    /// Takes the disk as it is.
    pub fn new(disk: &'a dyn BlockDevice) -> Guest<'a> {
        Guest { disk, model: content(disk) }
    }

    pub fn write(&mut self, range: Range<u64>, byte: u8) {
        let part = &mut self.model[range.start as usize..range.end as usize];
        part.fill(byte);
        self.disk.write_at(part, range.start).unwrap();
    }

    pub fn zero(&mut self, range: Range<u64>) {
        self.model[range.start as usize..range.end as usize].fill(0);
        self.disk.write_zeroes(range, true).unwrap();
    }

    /// Each byte is zero afterwards, or as before; which is the disk's choice, once.
    pub fn discard(&mut self, range: Range<u64>) {
        self.disk.discard(range.clone()).unwrap();
        let found = bytes(self.disk, range.clone());
        let model = &mut self.model[range.start as usize..range.end as usize];
        for (at, (found, model)) in found.iter().zip(model.iter_mut()).enumerate() {
            assert!(*found == 0 || *found == *model, "byte {} after a discard", range.start as usize + at);
            *model = *found;
        }
    }

    /// Some request.
    pub fn act(&mut self, random: &mut Random) {
        let size = self.model.len() as u64;
        if size == 0 {
            return self.disk.flush().unwrap();
        }
        let start = random.below(size);
        let longest = if random.below(4) == 0 { 300_000 } else { 20_000 };
        let mut range = start..start + random.below((size - start).min(longest) + 1);
        if random.below(2) == 0 {
            range = range.start / 512 * 512..range.end.div_ceil(512).saturating_mul(512).min(size);
        }
        match random.below(8) {
            0 => self.zero(range),
            1 => self.discard(range),
            2 => self.disk.flush().unwrap(),
            3 => self.check(range),
            kind => self.write(range, (random.next() as u8) << 3 | kind as u8),
        }
    }

    #[track_caller]
    pub fn check(&self, range: Range<u64>) {
        let wanted = &self.model[range.start as usize..range.end as usize];
        same(&bytes(self.disk, range.clone()), wanted, &format!("the guest's disk from {}", range.start));
    }

    #[track_caller]
    pub fn check_all(&self) {
        self.check(0..self.model.len() as u64);
    }
}

/// A guest whose process is killed one day: what it may find afterwards.
pub struct Mortal {
    /// What the disk held at the last flush.
    flushed: Vec<u8>,
    /// What was written since, the request included that did not return.
    since: Vec<(Range<u64>, u8)>,
    random: Random,
}

impl Mortal {
    pub fn new(before: Vec<u8>, seed: u64) -> Mortal {
        Mortal { flushed: before, since: Vec::new(), random: Random::new(seed) }
    }

    /// What the disk holds, as long as nobody is killed.
    pub fn now(&self) -> Vec<u8> {
        let mut now = self.flushed.clone();
        self.since.iter().for_each(|(range, byte)| now[range.start as usize..range.end as usize].fill(*byte));
        now
    }

    /// A write, or a flush.
    pub fn act(&mut self, disk: &dyn BlockDevice) -> Result<()> {
        let size = self.flushed.len() as u64;
        if self.random.below(5) == 0 {
            disk.flush()?;
            self.flushed = self.now();
            self.since.clear();
            return Ok(());
        }
        let start = self.random.below(size) / SECTOR * SECTOR;
        let end = (start + (1 + self.random.below(20)) * SECTOR).min(size);
        let byte = if self.random.below(4) == 0 { 0 } else { self.random.next() as u8 };
        self.since.push((start..end, byte));
        match byte {
            0 => disk.write_zeroes(start..end, true),
            byte => disk.write_at(&vec![byte; (end - start) as usize], start),
        }
    }

    /// Each byte is as it was flushed, or as it was written since.
    #[track_caller]
    pub fn check(&self, found: &[u8], what: &str) {
        assert_eq!(found.len(), self.flushed.len(), "{what}: the size");
        for (at, byte) in found.iter().enumerate() {
            let written = |(range, new): &(Range<u64>, u8)| range.contains(&(at as u64)) && new == byte;
            assert!(
                *byte == self.flushed[at] || self.since.iter().any(written),
                "{what}: byte {at} is {byte:#x}, which was never there since the last flush"
            );
        }
    }
}

const SECTOR: u64 = 512;
/// Requests that each guest makes, however short the story.
const LEAST: u64 = 30;

/// Guests on several threads. Each owns every so-manyth sector, so that they meet in one block and nobody overwrites
/// what another has to find.
pub struct Guests<'a> {
    pub disk: &'a dyn BlockDevice,
    pub count: u64,
    /// The first bytes of the disk are all that they use.
    pub size: u64,
}

impl Guests<'_> {
    /// Runs `story` while all of them go on, then holds every sector against what its owner wrote. Returns what the
    /// disk holds.
    pub fn during(&self, story: impl FnOnce()) -> Vec<u8> {
        self.during_with(&content(self.disk), story)
    }

    /// As [`during`](Self::during), on a disk that holds `before`.
    fn during_with(&self, before: &[u8], story: impl FnOnce()) -> Vec<u8> {
        let stop = AtomicBool::new(false);
        let mut after = before.to_vec();
        let writers: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let stop = &stop;
            let threads: Vec<_> =
                (0..self.count).map(|number| scope.spawn(move || self.writer(number, before, stop))).collect();
            // Also if the story panics, or the threads would go on for ever.
            let _end = AtEnd(stop);
            story();
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for sector in 0..self.size.div_ceil(SECTOR) as usize {
            let place = sector * SECTOR as usize..((sector + 1) * SECTOR as usize).min(self.size as usize);
            after[place.clone()].copy_from_slice(&writers[sector % self.count as usize][place]);
        }
        same(&content(self.disk), &after, "the disk after its guests");
        after
    }

    /// One of the guests: its own sectors of what it returns are what it wrote.
    fn writer(&self, number: u64, before: &[u8], stop: &AtomicBool) -> Vec<u8> {
        static SEEDS: AtomicU64 = AtomicU64::new(0);
        let (mut model, mut random) = (before.to_vec(), Random::new(SEEDS.fetch_add(1, Ordering::Relaxed)));
        let own = self.size.div_ceil(SECTOR) / self.count;
        let mut requests = 0;
        while requests < LEAST || !stop.load(Ordering::Relaxed) {
            requests += 1;
            let at = (random.below(own) * self.count + number) * SECTOR;
            let range = at..(at + SECTOR).min(self.size);
            let part = &mut model[range.start as usize..range.end as usize];
            match random.below(16) {
                0 => self.disk.flush().unwrap(),
                1..=2 => {
                    part.fill(0);
                    self.disk.write_zeroes(range.clone(), number.is_multiple_of(2)).unwrap();
                }
                _ => {
                    part.fill(random.next() as u8);
                    self.disk.write_at(part, range.start).unwrap();
                }
            }
            same(&bytes(self.disk, range), part, &format!("writer {number}'s own sector at {at}"));
        }
        model
    }
}

struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
