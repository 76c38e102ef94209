//! What a writer says before it writes: which regions of the disk may have dirty bits that are not on disk yet.

use super::bits::{Saved, read_page, set, write_pages};
use crate::bitmap::Page;
use crate::error::Result;
use crate::format::{BITS_PER_PAGE, Section};
use crate::limits::PAGE_SIZE;
use crate::storage::Storage;
use crate::switch::{Mistake, Step, planted, skipped};
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering, lock, wait};
use std::ops::Range;

/// Misses after which twice as many regions are intended at once: a load that is scattered all over the disk would else
/// wait for a barrier in each region.
const WIDEN_AFTER: u32 = 32;
/// Regions that are intended at most ahead of a load that goes through the disk in order.
const MOST_AHEAD: u64 = 64;

/// The intent section of one file. Small enough to be in memory whole (64 Ki bits at most, for a disk of any size).
#[derive(Debug)]
pub(super) struct Intents {
    file: Arc<dyn Storage>,
    section: Section,
    /// Intents that a change may rely on (INT-04).
    hits: Vec<AtomicU64>,
    /// Intents that were relied on since the last fold.
    used: Vec<AtomicU64>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    /// As they are to be written next.
    pages: Vec<Page>,
    /// A round or a fold is under way.
    busy: bool,
    started: u64,
    done: u64,
    /// Where the last miss ended, and how many followed each other.
    last: u64,
    ahead: u64,
    /// Misses that did not follow each other.
    scattered: u32,
}

impl Intents {
    /// Reads the section, and returns with it the stretches of the disk, in bytes, that its intents touch. What is bad is
    /// one of them only in an unclean file (INT-02); written back, it is set. Nothing in the section is a hit: what a
    /// reader finds may be in the page cache alone.
    pub(super) fn read(file: Arc<dyn Storage>, section: Section, unclean: bool) -> (Intents, Vec<Range<u64>>) {
        let pages: Vec<Page> = (0..section.pages()).map(|index| read_page(&*file, &section, index)).collect();
        let sound = set_regions(&section, &pages);
        let pages: Vec<Page> = pages.into_iter().map(Page::with_bad_set).collect();
        let found = stretches(&section, if unclean { set_regions(&section, &pages) } else { sound });
        let words = section.bits().div_ceil(64);
        let zeros = || (0..words).map(|_| AtomicU64::new(0)).collect();
        let state = State { pages, busy: false, started: 0, done: 0, last: 0, ahead: 1, scattered: 0 };
        let (hits, used, ended) = (zeros(), zeros(), Condvar::new());
        (Intents { file, section, hits, used, state: Mutex::new(state), ended }, found)
    }

    fn set_regions(&self, state: &State) -> Vec<u64> {
        set_regions(&self.section, &state.pages)
    }

    fn regions(&self, range: &Range<u64>) -> Range<u64> {
        let region = self.section.granule();
        range.start / region..range.end.div_ceil(region).min(self.section.bits())
    }

    /// Returns once every region that `range`, in bytes, touches has an intent that counts (INT-01, INT-04).
    pub(super) fn intend(&self, range: &Range<u64>) -> Result<()> {
        let regions = self.regions(range);
        let mut all = true;
        for region in regions.clone() {
            let (word, mask) = ((region / 64) as usize, 1 << (region % 64));
            all &= self.hits[word].load(Ordering::SeqCst) & mask != 0;
            if self.used[word].load(Ordering::Relaxed) & mask == 0 {
                self.used[word].fetch_or(mask, Ordering::Relaxed);
            }
        }
        if all || skipped(Step::IntentFirst) { Ok(()) } else { self.miss(regions) }
    }

    /// Sets intents in a round that begins after the call: requests that come while one runs share the next.
    fn miss(&self, regions: Range<u64>) -> Result<()> {
        let mut state = lock(&self.state);
        let wanted = state.widen(&regions, self.section.bits());
        state.set(wanted);
        let round = state.started + 1;
        while state.done < round {
            if state.busy {
                state = wait(&self.ended, state);
                continue;
            }
            state.busy = true;
            state.started += 1;
            let (pages, set) = (self.encode(&state), self.set_regions(&state));
            drop(state);
            let result = self.write(&pages);
            if result.is_ok() {
                self.rely_on(&set);
            }
            state = lock(&self.state);
            state.busy = false;
            state.done = state.started;
            self.ended.notify_all();
            result?;
        }
        Ok(())
    }

    /// Clears intents whose bits `save` makes durable: all of them, or those that nothing relied on since the last fold.
    ///
    /// # Errors
    /// The host's: nothing more is to be written then.
    pub(super) fn fold(&self, all: bool, save: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut state = lock(&self.state);
        while state.busy {
            state = wait(&self.ended, state);
        }
        let chosen: Vec<u64> =
            self.set_regions(&state).into_iter().filter(|&region| all || !is_set(&self.used, region)).collect();
        self.used.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        state.scattered /= 2;
        state.busy = true;
        // No hits from here on: who comes now waits for the next round. Who came before has set its bits already.
        if !planted(Mistake::IntentStaysHit) {
            chosen.iter().for_each(|&region| clear(&self.hits, region));
        }
        chosen.iter().for_each(|&region| state.clear(region));
        drop(state);
        let saved = if skipped(Step::BitsBeforeClear) { Ok(()) } else { save() };
        let state = lock(&self.state);
        let (pages, set) = (self.encode(&state), self.set_regions(&state));
        drop(state);
        let result = saved.and_then(|()| if chosen.is_empty() { Ok(()) } else { self.write(&pages) });
        if result.is_ok() && !chosen.is_empty() {
            self.rely_on(&set);
        }
        lock(&self.state).busy = false;
        self.ended.notify_all();
        result
    }

    fn encode(&self, state: &State) -> Vec<Saved> {
        let page = |(index, page): (u64, &Page)| {
            (self.section.offset + index * PAGE_SIZE, Box::new(page.encode(self.section.id, index)))
        };
        (0..).zip(&state.pages).map(page).collect()
    }

    fn write(&self, pages: &[Saved]) -> Result<()> {
        write_pages(&*self.file, pages)?;
        if skipped(Step::IntentBarrier) { Ok(()) } else { self.file.sync() }
    }

    fn rely_on(&self, regions: &[u64]) {
        for region in regions {
            self.hits[(region / 64) as usize].fetch_or(1 << (region % 64), Ordering::SeqCst);
        }
    }
}

impl State {
    /// What to intend for a miss in `regions`, so that the load at hand misses seldom.
    fn widen(&mut self, regions: &Range<u64>, bits: u64) -> Range<u64> {
        if regions.start == self.last {
            self.ahead = (self.ahead * 2).min(MOST_AHEAD);
        } else {
            self.ahead = 1;
            self.scattered += 1;
        }
        let group = 1u64 << (self.scattered / WIDEN_AFTER).min(16);
        let wide = regions.start / group * group..regions.end.next_multiple_of(group).max(regions.end + self.ahead - 1);
        self.last = wide.end;
        wide.start..wide.end.min(bits)
    }

    fn set(&mut self, regions: Range<u64>) {
        for region in regions {
            set(&self.pages[(region / BITS_PER_PAGE) as usize], region % BITS_PER_PAGE..region % BITS_PER_PAGE + 1);
        }
    }

    fn clear(&mut self, region: u64) {
        let bit = region % BITS_PER_PAGE;
        // No sector is bad any more.
        let _ = self.pages[(region / BITS_PER_PAGE) as usize].clear_range(bit..bit + 1);
    }
}

/// The regions whose bits are set.
fn set_regions(section: &Section, pages: &[Page]) -> Vec<u64> {
    (0..section.bits()).filter(|at| pages[(at / BITS_PER_PAGE) as usize].get(at % BITS_PER_PAGE)).collect()
}

/// The bytes of `regions`; those that follow each other are one stretch.
fn stretches(section: &Section, regions: Vec<u64>) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for region in regions {
        let bytes = region * section.granule()..(region + 1).saturating_mul(section.granule());
        match found.last_mut() {
            Some(last) if last.end == bytes.start => last.end = bytes.end,
            _ => found.push(bytes),
        }
    }
    found
}

fn is_set(words: &[AtomicU64], region: u64) -> bool {
    words[(region / 64) as usize].load(Ordering::Relaxed) & 1 << (region % 64) != 0
}

fn clear(words: &[AtomicU64], region: u64) {
    words[(region / 64) as usize].fetch_and(!(1 << (region % 64)), Ordering::SeqCst);
}
