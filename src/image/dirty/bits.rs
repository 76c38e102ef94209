//! The bits of one dirty section in memory. They are only ever set.

use crate::bitmap::{Page, Run};
use crate::error::Result;
use crate::format::{BITS_PER_PAGE, BITS_PER_SECTOR, Section};
use crate::limits::PAGE_SIZE;
use crate::storage::Storage;
use crate::sync::{Arc, AtomicBool, Mutex, OnceLock, Ordering, lock};
use std::ops::Range;

/// Pages whose places are allocated together.
const GROUP: u64 = 512;

/// A page's file offset and bytes.
pub(super) type Saved = (u64, Box<[u8; PAGE_SIZE as usize]>);

/// Pages that are read, changed and written together, without staying in memory.
const AT_ONCE: usize = 256;

/// One dirty section: its pages are read when they are first asked for, and stay. A page takes 4 KiB and speaks of
/// 31744 granules, so a disk of 1 TiB takes 2 MiB at granules of 64 KiB, and those parts that nobody asks for nothing.
#[derive(Debug)]
pub(super) struct Bits {
    file: Arc<dyn Storage>,
    section: Section,
    groups: Vec<OnceLock<Box<[Slot]>>>,
    loading: Mutex<()>,
}

/// The place of a page.
#[derive(Debug, Default)]
struct Slot {
    page: OnceLock<Box<Page>>,
    /// It may have bits that the file has not.
    unsaved: AtomicBool,
}

impl Bits {
    pub(super) fn new(file: Arc<dyn Storage>, section: Section) -> Bits {
        let groups = (0..section.pages().div_ceil(GROUP)).map(|_| OnceLock::new()).collect();
        Bits { file, section, groups, loading: Mutex::default() }
    }

    pub(super) fn section(&self) -> &Section {
        &self.section
    }

    /// Sets the bits of the granules that `range`, in bytes, touches. Takes no lock where the pages are in memory.
    ///
    /// Whoever finds a bit set notes the page as not saved all the same: the one who set it may not have come so far, and
    /// a fold that begins in between must not pass the page over (INT-05).
    pub(super) fn mark(&self, range: &Range<u64>) {
        let granule = self.section.granule();
        let bits = range.start / granule..range.end.div_ceil(granule).min(self.section.bits());
        let mut at = bits.start;
        while at < bits.end {
            let first = at / BITS_PER_PAGE * BITS_PER_PAGE;
            let end = bits.end.min(first + BITS_PER_PAGE);
            let slot = self.slot(at / BITS_PER_PAGE);
            set(self.load(slot, at / BITS_PER_PAGE), at - first..end - first);
            if !slot.unsaved.load(Ordering::SeqCst) {
                slot.unsaved.store(true, Ordering::SeqCst);
            }
            at = end;
        }
    }

    /// Whether granule `granule` of a disk of `size` bytes is dirty, and up to which one that is so. What reaches past
    /// the bits, and what cannot be read, is dirty (BMP-05).
    pub(super) fn run(&self, granule: u64, size: u64) -> Result<(bool, u64)> {
        let (all, covered) = (size.div_ceil(self.section.granule()), self.section.covered);
        let known = if size <= covered { all } else { covered / self.section.granule() };
        let (mut at, mut found) = (granule, None);
        while at < all {
            let (dirty, stop) = if at < known { self.run_in_page(at, known)? } else { (true, all) };
            if found.is_some_and(|before| before != dirty) {
                break;
            }
            (found, at) = (Some(dirty), stop);
        }
        Ok((found.unwrap_or(false), at))
    }

    fn run_in_page(&self, at: u64, end: u64) -> Result<(bool, u64)> {
        let index = at / BITS_PER_PAGE;
        if let Some((dirty, stop)) = self.run_out_of_memory(index)? {
            return Ok((dirty, stop.saturating_mul(BITS_PER_PAGE).min(end)));
        }
        let first = index * BITS_PER_PAGE;
        let (run, stop) = self.load(self.slot(index), index).run(at - first, (end - first).min(BITS_PER_PAGE));
        Ok((run != Run::Clear, first + stop))
    }

    /// What is known without reading of the page, if it is not in memory, and up to which page: those that were never
    /// written are clear, those that the file ends before are bad.
    fn run_out_of_memory(&self, index: u64) -> Result<Option<(bool, u64)>> {
        if self.loaded(index) {
            return Ok(None);
        }
        let (offset, pages) = (self.section.offset, self.section.pages());
        let whole = (self.file.size()?.saturating_sub(offset) / PAGE_SIZE).min(pages);
        let (dirty, known) = if index < whole {
            let rest = offset + index * PAGE_SIZE..offset + whole * PAGE_SIZE;
            let data = self.file.next_data(rest.clone())?;
            (false, (data.map_or(rest.end, |data| data.start) - offset) / PAGE_SIZE)
        } else {
            (true, pages)
        };
        Ok((known > index).then(|| (dirty, (index..known).find(|&page| self.loaded(page)).unwrap_or(known))))
    }

    fn loaded(&self, index: u64) -> bool {
        let group = self.groups.get((index / GROUP) as usize).and_then(OnceLock::get);
        group.is_some_and(|group| group[(index % GROUP) as usize].page.get().is_some())
    }

    fn slot(&self, index: u64) -> &Slot {
        let new = || (0..GROUP).map(|_| Slot::default()).collect();
        &self.groups[(index / GROUP) as usize].get_or_init(new)[(index % GROUP) as usize]
    }

    /// The page, from memory or the file. One that the host cannot read, or that lies past the end of the file, has no
    /// good sector.
    fn load<'a>(&self, slot: &'a Slot, index: u64) -> &'a Page {
        if let Some(page) = slot.page.get() {
            return page;
        }
        let _one = lock(&self.loading);
        slot.page.get_or_init(|| Box::new(read_page(&*self.file, &self.section, index)))
    }

    /// Sets the bits of the granules that `ranges`, in order, touch. Pages that are not in memory get them in the file, and
    /// are not in memory afterwards either: however many they are, it takes no more.
    ///
    /// Returns whether the file was written to: no page of it may be written again before a barrier.
    pub(super) fn absorb(&self, ranges: &[Range<u64>]) -> Result<bool> {
        let granule = self.section.granule();
        let bits = |range: &Range<u64>| range.start / granule..range.end.div_ceil(granule).min(self.section.bits());
        let covered = ranges.iter().filter(|range| range.start < self.section.covered);
        let ranges: Vec<Range<u64>> = covered.map(bits).filter(|bits| !bits.is_empty()).collect();
        let (mut rest, mut at, mut wrote) = (&ranges[..], 0, false);
        while !rest.is_empty() {
            // Nobody reads a page from the file between its being read here and written.
            let _one = lock(&self.loading);
            let mut pages: Vec<Saved> = Vec::new();
            while let (Some(first), true) = (rest.first(), pages.len() < AT_ONCE) {
                let index = at.max(first.start / BITS_PER_PAGE);
                let page = index * BITS_PER_PAGE..(index + 1) * BITS_PER_PAGE;
                let within = rest.iter().take_while(|bits| bits.start < page.end);
                let within =
                    within.map(|bits| bits.start.max(page.start) - page.start..bits.end.min(page.end) - page.start);
                let slot = self.loaded(index).then(|| self.slot(index));
                match slot.and_then(|slot| slot.page.get().map(|page| (slot, page))) {
                    Some((slot, page)) => {
                        within.for_each(|bits| set(page, bits));
                        slot.unsaved.store(true, Ordering::SeqCst);
                    }
                    None => {
                        let page = read_page(&*self.file, &self.section, index);
                        within.for_each(|bits| set(&page, bits));
                        // Also one that could not be read: it is bad from now on, and its intents may go (INT-03).
                        let at = self.section.offset + index * PAGE_SIZE;
                        pages.push((at, Box::new(page.encode(self.section.id, index))));
                    }
                }
                rest = &rest[rest.partition_point(|bits| bits.end <= page.end)..];
                at = index + 1;
            }
            write_pages(&*self.file, &pages)?;
            wrote |= !pages.is_empty();
        }
        Ok(wrote)
    }

    /// Takes the pages that are not saved, as they are now. They count as saved: if writing them fails, nothing more is
    /// written to the file.
    pub(super) fn take_unsaved(&self) -> Vec<Saved> {
        let mut taken = Vec::new();
        for (number, group) in (0..).zip(&self.groups) {
            for (index, slot) in (number * GROUP..).zip(group.get().into_iter().flatten()) {
                if let (true, Some(page)) = (slot.unsaved.swap(false, Ordering::SeqCst), slot.page.get()) {
                    let at = self.section.offset + index * PAGE_SIZE;
                    taken.push((at, Box::new(page.encode(self.section.id, index))));
                }
            }
        }
        taken
    }
}

/// Writes pages, in any order.
pub(super) fn write_pages(file: &dyn Storage, pages: &[Saved]) -> Result<()> {
    let pieces: Vec<(u64, &[u8])> = pages.iter().map(|(at, page)| (*at, &page[..])).collect();
    file.write_batch(&pieces)
}

/// Reads a page of a section; all of it is bad if the host cannot, or if it lies past the end of the file.
pub(super) fn read_page(file: &dyn Storage, section: &Section, index: u64) -> Page {
    let mut bytes = [0; PAGE_SIZE as usize];
    let at = section.offset + index * PAGE_SIZE;
    let there = file.size().is_ok_and(|size| at + PAGE_SIZE <= size);
    if !there || file.read_at(&mut bytes, at).is_err() {
        bytes = [0xff; PAGE_SIZE as usize];
    }
    Page::decode(&bytes, section.id, index)
}

/// Sets bits, but for those in bad sectors, which count as set anyway.
pub(super) fn set(page: &Page, bits: Range<u64>) {
    if page.set_range(bits.clone()).is_ok() {
        return;
    }
    let mut at = bits.start;
    while at < bits.end {
        let end = bits.end.min((at / BITS_PER_SECTOR + 1) * BITS_PER_SECTOR);
        // The only way for this to fail is what is wanted.
        let _ = page.set_range(at..end);
        at = end;
    }
}
