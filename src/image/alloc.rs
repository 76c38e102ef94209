//! The allocation bitmap of an open image: pages in memory, loaded when needed, bounded in number.

use crate::bitmap::{BadSector, Page, Run};
use crate::error::{Error, Result};
use crate::format::{BITS_PER_PAGE, BITS_PER_SECTOR, Section};
use crate::limits::{PAGE_SIZE, SECTOR_SIZE};
use crate::storage::Storage;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, RwLock, lock, read, write};
use crate::violation::Violation;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// Readers on different cores meet in different shards.
const SHARDS: u64 = 16;
/// Pages that the host is asked to fetch together. Scattered reads of a large disk would else wait for the device twice
/// each: once for the page, once for the data.
const GROUP: u64 = 256;
/// Groups that are remembered as asked for.
const MOST_GROUPS: usize = 1 << 12;

/// Which blocks an image holds itself.
///
/// A bit in memory is set once the data it vouches for is written; it reaches the file in a commit (`order.rs`).
#[derive(Debug)]
pub(super) struct Allocation {
    file: Arc<dyn Storage>,
    section: Section,
    shards: Vec<RwLock<HashMap<u64, Arc<Page>>>>,
    unsaved: Mutex<Unsaved>,
    cached: AtomicU64,
    max_pages: u64,
    /// Groups of pages that the host was asked to fetch.
    asked_for: Mutex<HashSet<u64>>,
}

/// Pages with bits that the file does not have yet. They stay in memory, since these maps hold them too.
#[derive(Debug, Default)]
struct Unsaved {
    dirty: BTreeMap<u64, Arc<Page>>,
    /// Taken by the commit that is running.
    committing: BTreeMap<u64, Arc<Page>>,
}

/// Setting or clearing a range of bits.
type Edit = fn(&Page, Range<u64>) -> std::result::Result<u64, BadSector>;

/// A stretch of blocks in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockRun {
    pub present: bool,
    /// The block after the last of the run.
    pub end: u64,
}

impl Allocation {
    /// The bitmap in `section` of `file`, with at most about `cache_bytes` of pages in memory.
    pub(super) fn new(file: Arc<dyn Storage>, section: Section, cache_bytes: u64) -> Allocation {
        Allocation {
            file,
            section,
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            unsaved: Mutex::default(),
            cached: AtomicU64::new(0),
            max_pages: (cache_bytes / PAGE_SIZE).max(SHARDS),
            asked_for: Mutex::default(),
        }
    }

    /// The section as the header describes it.
    pub(super) fn section(&self) -> &Section {
        &self.section
    }

    /// Bits that the section has room for.
    pub(super) fn capacity(&self) -> u64 {
        self.section.length / PAGE_SIZE * BITS_PER_PAGE
    }

    /// The run of blocks from `block` that are in one state, ending at `end` at the latest.
    pub(super) fn run(&self, block: u64, end: u64) -> Result<BlockRun> {
        let mut at = block;
        let mut present = None;
        while at < end {
            let (index, first) = (at / BITS_PER_PAGE, at / BITS_PER_PAGE * BITS_PER_PAGE);
            let page = self.page(index)?;
            let limit = (end - first).min(BITS_PER_PAGE);
            let (run, stop) = page.run(at - first, limit);
            let here = match run {
                Run::Set => true,
                Run::Clear => false,
                // What was found before it stands; the bad stretch is the next call's error.
                Run::Bad if present.is_some() => break,
                Run::Bad => return Err(self.bad(at)),
            };
            if present.is_some_and(|before| before != here) {
                break;
            }
            present = Some(here);
            at = first + stop;
            if stop < limit {
                break;
            }
            if !here && at < end && page.count(0..BITS_PER_PAGE) == 0 {
                at = self.unwritten_until(index + 1)?.saturating_mul(BITS_PER_PAGE).clamp(at, end);
            }
        }
        Ok(BlockRun { present: present.unwrap_or(false), end: at })
    }

    /// Whether every block of `blocks` is present.
    pub(super) fn all_present(&self, blocks: Range<u64>) -> Result<bool> {
        let run = self.run(blocks.start, blocks.end)?;
        Ok(run.present && run.end >= blocks.end)
    }

    /// Sets the bits of `blocks`, whose data is written. They are to be committed.
    pub(super) fn set(&self, blocks: Range<u64>) -> Result<()> {
        self.change(blocks, Page::set_range)
    }

    /// Clears the bits of `blocks`, which lie past the end of the disk (ORD-61).
    pub(super) fn clear(&self, blocks: Range<u64>) -> Result<()> {
        self.change(blocks, Page::clear_range)
    }

    fn change(&self, blocks: Range<u64>, edit: Edit) -> Result<()> {
        let mut at = blocks.start;
        while at < blocks.end {
            let (index, first) = (at / BITS_PER_PAGE, at / BITS_PER_PAGE * BITS_PER_PAGE);
            let end = blocks.end.min(first + BITS_PER_PAGE);
            let page = self.page(index)?;
            edit(&page, at - first..end - first).map_err(|bad| self.bad(first + bad.bits.start))?;
            // After the bits: a commit that takes the page before this line publishes them too, rightly.
            lock(&self.unsaved).dirty.insert(index, page);
            at = end;
        }
        Ok(())
    }

    /// Whether so much is uncommitted that the caller should commit before it goes on.
    pub(super) fn crowded(&self) -> bool {
        lock(&self.unsaved).dirty.len() as u64 * 2 > self.max_pages
    }

    /// Takes the uncommitted pages as they are at this moment, as file offsets and bytes.
    /// They count as uncommitted until [`committed`](Self::committed).
    pub(super) fn take_dirty(&self) -> Vec<(u64, Box<[u8; PAGE_SIZE as usize]>)> {
        let mut unsaved = lock(&self.unsaved);
        unsaved.committing = std::mem::take(&mut unsaved.dirty);
        let encode = |(index, page): (&u64, &Arc<Page>)| {
            (self.section.offset + index * PAGE_SIZE, Box::new(page.encode(self.section.id, *index)))
        };
        unsaved.committing.iter().map(encode).collect()
    }

    /// The pages that were taken are durable.
    pub(super) fn committed(&self) {
        lock(&self.unsaved).committing.clear();
    }

    /// The page, from memory or the file.
    fn page(&self, index: u64) -> Result<Arc<Page>> {
        let shard = &self.shards[(index % SHARDS) as usize];
        if let Some(page) = read(shard).get(&index) {
            return Ok(page.clone());
        }
        // Read under the lock: a page that others load, change, commit and evict meanwhile would be stale here.
        let mut pages = write(shard);
        if let Some(page) = pages.get(&index) {
            return Ok(page.clone());
        }
        self.ask_for_group(index / GROUP);
        let mut bytes = [0; PAGE_SIZE as usize];
        self.file.read_at(&mut bytes, self.section.offset + index * PAGE_SIZE)?;
        let page = Arc::new(Page::decode(&bytes, self.section.id, index));
        if self.cached.load(Ordering::Relaxed) >= self.max_pages {
            self.evict(&mut pages);
        }
        pages.insert(index, page.clone());
        self.cached.fetch_add(1, Ordering::Relaxed);
        Ok(page)
    }

    /// Has the host fetch the pages around the one that is read next, once.
    fn ask_for_group(&self, group: u64) {
        let mut asked_for = lock(&self.asked_for);
        if asked_for.len() >= MOST_GROUPS {
            asked_for.clear();
        }
        if asked_for.insert(group) {
            drop(asked_for);
            let start = group * GROUP * PAGE_SIZE;
            let end = (start + GROUP * PAGE_SIZE).min(self.section.length);
            self.file.will_need(self.section.offset + start..self.section.offset + end);
        }
    }

    /// Drops half of the pages that nobody holds: neither a request nor the maps of uncommitted pages.
    fn evict(&self, pages: &mut HashMap<u64, Arc<Page>>) {
        let before = pages.len();
        let mut keep = false;
        pages.retain(|_, page| {
            keep = !keep;
            keep || Arc::strong_count(page) > 1
        });
        self.cached.fetch_sub((before - pages.len()) as u64, Ordering::Relaxed);
    }

    /// The first page from `index` on that may hold a bit: what the host never allocated reads as zeros (PAG-01).
    fn unwritten_until(&self, index: u64) -> Result<u64> {
        let range = self.section.offset + index * PAGE_SIZE..self.section.offset + self.section.length;
        if range.is_empty() {
            return Ok(index);
        }
        let written = self.file.next_data(range.clone())?.map_or(range.end, |data| data.start);
        let on_disk = (written - self.section.offset) / PAGE_SIZE;
        // Bits that are only in memory count.
        let unsaved = lock(&self.unsaved);
        let in_memory =
            [&unsaved.dirty, &unsaved.committing].map(|pages| pages.range(index..).next().map(|(&page, _)| page));
        Ok(in_memory.into_iter().flatten().fold(on_disk, u64::min))
    }

    /// PAG-01: the sector that holds the bit of `block` cannot be read, so nobody knows who holds the block.
    fn bad(&self, block: u64) -> Error {
        let sector = block / BITS_PER_SECTOR;
        Error::corrupt(self.file.name(), self.section.offset + sector * SECTOR_SIZE, Violation::SealedSector)
    }
}

#[cfg(test)]
mod tests;
