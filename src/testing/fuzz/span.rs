//! Stretches and sizes that few bytes of an input put on the edges of blocks, sectors, pages of bits, and disks.

use crate::format::{BITS_PER_PAGE, BITS_PER_SECTOR};
use crate::limits::{PAGE_SIZE, SECTOR_SIZE};
use arbitrary::Arbitrary;
use std::ops::Range;

/// Bytes less than a page.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Rest {
    /// None.
    None,
    /// Whole sectors.
    Sectors(u8),
    /// Any number.
    Bytes(u16),
}

impl Rest {
    fn bytes(self) -> u64 {
        match self {
            Rest::None => 0,
            Rest::Sectors(number) => u64::from(number) * SECTOR_SIZE % PAGE_SIZE,
            Rest::Bytes(number) => u64::from(number) % PAGE_SIZE,
        }
    }
}

/// A stretch of a disk, near one of its edges. It may be empty.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Span {
    edge: u8,
    pages: i8,
    rest: Rest,
    length_pages: u8,
    length_rest: Rest,
}

impl Span {
    /// The stretch on a disk of `size` bytes that is interesting at `edges`, its ends included.
    pub fn on(self, size: u64, edges: &[u64]) -> Range<u64> {
        let edges: Vec<u64> = [0, size].iter().chain(edges).copied().filter(|edge| *edge <= size).collect();
        let edge = edges[usize::from(self.edge) % edges.len()];
        let pages = i64::from(self.pages % 16);
        let start = edge.saturating_add_signed(pages * PAGE_SIZE as i64).saturating_add(self.rest.bytes()).min(size);
        let length = u64::from(self.length_pages % 8) * PAGE_SIZE + self.length_rest.bytes();
        start..start.saturating_add(length).min(size)
    }
}

/// Offsets at which the bits of blocks of `granule` bytes end in one sector, and in one page.
pub fn bit_edges(granule: u64) -> [u64; 2] {
    [BITS_PER_SECTOR, BITS_PER_PAGE].map(|bits| bits * granule)
}

/// The size of a disk: a few pages, zero among them, or so many that their bits need a second sector, or page.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Size {
    reach: u8,
    pages: u8,
    rest: Rest,
}

impl Size {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        let [sector, page] = bit_edges(PAGE_SIZE).map(|edge| edge - 8 * PAGE_SIZE);
        let least = match self.reach % 32 {
            0 => sector,
            1 => page,
            _ => 0,
        };
        least + u64::from(self.pages % 32) * PAGE_SIZE + self.rest.bytes()
    }

    /// In bytes, a few pages at most.
    pub fn few_bytes(self) -> u64 {
        u64::from(self.pages % 8) * PAGE_SIZE + self.rest.bytes()
    }
}

/// The size of a block: mostly 4 KiB.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Granule(u8);

impl Granule {
    /// As a power of two.
    pub fn shift(self) -> u8 {
        [12, 12, 13, 16][usize::from(self.0) % 4]
    }
}
