//! One page of a bitmap section: eight sealed sectors, 31744 bits.

use crate::format::{
    BITS_PER_PAGE, BITS_PER_SECTOR, PAYLOAD_BYTES, SECTORS_PER_PAGE, SectorState, Uuid, check_sector, seal,
};
use crate::limits::{PAGE_SIZE, SECTOR_SIZE};
use crate::sync::{AtomicU8, AtomicU64, Ordering};
use std::fmt;
use std::ops::Range;

const SECTORS: usize = SECTORS_PER_PAGE as usize;
const SECTOR_BYTES: usize = SECTOR_SIZE as usize;
const WORDS_PER_SECTOR: usize = PAYLOAD_BYTES / 8;
const WORDS: usize = SECTORS * WORDS_PER_SECTOR;

/// The bits of one page, numbered from 0 to [`BITS_PER_PAGE`] - 1.
///
/// A sector whose seal was broken when it was read stays as it is: its bits are neither set nor clear, cannot
/// be changed, and are written back byte for byte (PAG-01). A bit number past the page reads as clear and is
/// left alone by every change.
pub struct Page {
    words: [AtomicU64; WORDS],
    /// Bit n: sector n is not all zeros in the file, so it is sealed even when it holds no bit any more.
    written: AtomicU8,
    /// What was read where the seal is broken.
    bad: [Option<Box<[u8; SECTOR_BYTES]>>; SECTORS],
}

/// What a run of bits has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// All are set.
    Set,
    /// All are clear.
    Clear,
    /// They lie in broken sectors: nobody knows them.
    Bad,
}

/// The change was refused, and none of it done: it touches a broken sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSector {
    /// The bits of that sector.
    pub bits: Range<u64>,
}

impl Page {
    /// A page that was never written: every bit is clear.
    pub fn new() -> Page {
        Page { words: [const { AtomicU64::new(0) }; WORDS], written: AtomicU8::new(0), bad: Default::default() }
    }

    /// Reads the page with number `page_index` of the section `id`.
    pub fn decode(bytes: &[u8; PAGE_SIZE as usize], id: Uuid, page_index: u64) -> Page {
        let mut page = Page::new();
        for (number, sector) in bytes.as_chunks::<SECTOR_BYTES>().0.iter().enumerate() {
            match check_sector(sector, id, sector_index(page_index, number)) {
                SectorState::Empty => {}
                SectorState::Sealed => page.load(number, sector),
                SectorState::Bad => page.bad[number] = Some(Box::new(*sector)),
            }
        }
        page
    }

    /// The page with every bit set that lies in a broken sector, for bitmaps of which too many set bits do no harm.
    pub fn with_bad_set(mut self) -> Page {
        for (number, bad) in self.bad.iter_mut().enumerate().filter(|(_, bad)| bad.is_some()) {
            *bad = None;
            self.words[number * WORDS_PER_SECTOR..][..WORDS_PER_SECTOR].fill_with(|| AtomicU64::new(u64::MAX));
            *self.written.get_mut() |= 1 << number;
        }
        self
    }

    fn load(&mut self, number: usize, sector: &[u8; SECTOR_BYTES]) {
        let words = &mut self.words[number * WORDS_PER_SECTOR..][..WORDS_PER_SECTOR];
        for (word, bytes) in words.iter_mut().zip(sector.as_chunks::<8>().0) {
            *word.get_mut() = u64::from_le_bytes(*bytes);
        }
        *self.written.get_mut() |= 1 << number;
    }

    /// The page as it is now, sealed. A sector that never held a bit stays zeros.
    pub fn encode(&self, id: Uuid, page_index: u64) -> [u8; PAGE_SIZE as usize] {
        let mut page = [0; PAGE_SIZE as usize];
        for (number, sector) in page.as_chunks_mut::<SECTOR_BYTES>().0.iter_mut().enumerate() {
            if let Some(bad) = &self.bad[number] {
                *sector = **bad;
                continue;
            }
            let words = &self.words[number * WORDS_PER_SECTOR..][..WORDS_PER_SECTOR];
            let mut any = 0;
            for (bytes, word) in sector.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                let word = word.load(Ordering::Acquire);
                any |= word;
                *bytes = word.to_le_bytes();
            }
            let mask = 1 << number;
            if any != 0 || self.written.load(Ordering::Relaxed) & mask != 0 {
                self.written.fetch_or(mask, Ordering::Relaxed);
                seal(sector, id, sector_index(page_index, number));
            }
        }
        page
    }

    /// Whether `bit` is set. Clear in a broken sector: ask [`is_bad`](Self::is_bad) or [`run`](Self::run).
    pub fn get(&self, bit: u64) -> bool {
        bit < BITS_PER_PAGE && self.word((bit / 64) as usize) & (1 << (bit % 64)) != 0
    }

    /// Sets the bits of `range` and returns how many of them were clear.
    ///
    /// What a thread did before it set a bit is seen by every thread that finds it set.
    pub fn set_range(&self, range: Range<u64>) -> Result<u64, BadSector> {
        self.change(range, |word, mask| mask & !word.fetch_or(mask, Ordering::AcqRel))
    }

    /// Clears the bits of `range` and returns how many of them were set.
    pub fn clear_range(&self, range: Range<u64>) -> Result<u64, BadSector> {
        self.change(range, |word, mask| mask & word.fetch_and(!mask, Ordering::AcqRel))
    }

    /// Whether `bit` lies in a broken sector.
    pub fn is_bad(&self, bit: u64) -> bool {
        bit < BITS_PER_PAGE && self.bad[(bit / BITS_PER_SECTOR) as usize].is_some()
    }

    /// The numbers of the broken sectors in the page.
    pub fn bad_sectors(&self) -> impl Iterator<Item = u64> + '_ {
        (0..SECTORS_PER_PAGE).filter(|&number| self.bad[number as usize].is_some())
    }

    /// What `bit` is, and where, at `end` at the latest, something else begins.
    pub fn run(&self, bit: u64, end: u64) -> (Run, u64) {
        let end = end.min(BITS_PER_PAGE);
        if bit >= end {
            return (Run::Clear, bit);
        }
        if self.is_bad(bit) {
            return (Run::Bad, self.sector_run(bit, end, true));
        }
        let value = self.get(bit);
        let end = self.sector_run(bit, end, false);
        let mut at = bit;
        while at < end {
            let word = self.word((at / 64) as usize);
            let other = if value { !word } else { word } & (u64::MAX << (at % 64));
            at = at / 64 * 64 + u64::from(other.trailing_zeros());
            if other != 0 {
                break;
            }
        }
        // Another thread may have turned the first bit meanwhile; the run has it nevertheless.
        (if value { Run::Set } else { Run::Clear }, at.clamp(bit + 1, end))
    }

    /// How many bits of `range` are set.
    pub fn count(&self, range: Range<u64>) -> u64 {
        masks(range).map(|(word, mask)| u64::from((self.word(word) & mask).count_ones())).sum()
    }

    /// The end of the sectors from `bit` on that are all broken, or all whole.
    fn sector_run(&self, bit: u64, end: u64, bad: bool) -> u64 {
        let first = (bit / BITS_PER_SECTOR) as usize;
        let sectors = self.bad[first..].iter().take_while(|sector| sector.is_some() == bad).count();
        end.min((first + sectors) as u64 * BITS_PER_SECTOR)
    }

    fn word(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Acquire)
    }

    fn change(&self, range: Range<u64>, turn: impl Fn(&AtomicU64, u64) -> u64) -> Result<u64, BadSector> {
        let touched = |sector: &u64| {
            let bits = sector * BITS_PER_SECTOR..(sector + 1) * BITS_PER_SECTOR;
            range.start < bits.end && bits.start < range.end && !range.is_empty()
        };
        if let Some(sector) = self.bad_sectors().find(touched) {
            return Err(BadSector { bits: sector * BITS_PER_SECTOR..(sector + 1) * BITS_PER_SECTOR });
        }
        Ok(masks(range).map(|(word, mask)| u64::from(turn(&self.words[word], mask).count_ones())).sum())
    }
}

/// The words that hold the bits of `range`, each with those bits.
fn masks(range: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let (start, end) = (range.start, range.end.min(BITS_PER_PAGE));
    let words = if start < end { start / 64..end.div_ceil(64) } else { 0..0 };
    words.map(move |word| {
        let (first, last) = (start.saturating_sub(word * 64), (end - 1 - word * 64).min(63));
        (word as usize, (u64::MAX << first) & (u64::MAX >> (63 - last)))
    })
}

/// The number in its section of a page's sector. No section is so long that it would saturate.
fn sector_index(page_index: u64, number: usize) -> u64 {
    page_index.saturating_mul(SECTORS_PER_PAGE).saturating_add(number as u64)
}

impl Default for Page {
    fn default() -> Page {
        Page::new()
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad: Vec<u64> = self.bad_sectors().collect();
        f.debug_struct("Page").field("set", &self.count(0..BITS_PER_PAGE)).field("bad", &bad).finish()
    }
}
