//! The naive disk: bytes, and nothing else.

use crate::testing::sector::mix;
use std::collections::BTreeMap;
use std::ops::Range;

const PAGE: u64 = 4096;

/// A disk of some size. Pages that nobody touched are zeros and cost nothing.
#[derive(Debug, Clone, Default)]
pub struct Bytes {
    size: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
}

impl Bytes {
    /// A disk that reads as zeros.
    pub fn zeros(size: u64) -> Bytes {
        Bytes { size, pages: BTreeMap::new() }
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What `range` reads as.
    pub fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (number, page) in self.pages.range(range.start / PAGE..range.end.div_ceil(PAGE)) {
            let at = number * PAGE;
            let part = at.max(range.start)..(at + PAGE).min(range.end);
            bytes[(part.start - range.start) as usize..(part.end - range.start) as usize]
                .copy_from_slice(&page[(part.start - at) as usize..(part.end - at) as usize]);
        }
        bytes
    }

    /// Puts `data` at `offset`.
    pub fn write(&mut self, data: &[u8], offset: u64) {
        for (at, byte) in (offset..).zip(data) {
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
            page[(at % PAGE) as usize] = *byte;
        }
    }

    /// Makes `range` zeros.
    pub fn zero(&mut self, range: Range<u64>) {
        for (number, page) in self.pages.range_mut(range.start / PAGE..range.end.div_ceil(PAGE)) {
            let at = number * PAGE;
            let part = at.max(range.start)..(at + PAGE).min(range.end).max(range.start).max(at);
            page[(part.start - at) as usize..(part.end - at) as usize].fill(0);
        }
    }

    /// Sets the size; what is added reads as zeros.
    pub fn resize(&mut self, size: u64) {
        self.zero(size..self.size.max(size));
        self.size = size;
    }

    /// A disk of `size` bytes that shows the first `visible` bytes of this one.
    pub fn seen(&self, visible: u64, size: u64) -> Bytes {
        let mut seen = self.clone();
        seen.resize(visible);
        seen.resize(size);
        seen
    }

    /// This disk over the first part of `longer`.
    pub fn over(&self, longer: &Bytes) -> Bytes {
        let mut over = longer.clone();
        over.resize(over.size.max(self.size));
        over.zero(0..self.size);
        for part in self.touched() {
            over.write(&self.read(part.clone()), part.start);
        }
        over
    }

    /// The pages that were ever touched, and lie within the size.
    pub fn touched(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let within = self.pages.keys().map(|page| page * PAGE..((page + 1) * PAGE).min(self.size));
        within.filter(|part| part.start < part.end)
    }

    /// Whether `range` is zeros.
    pub fn is_zero(&self, range: Range<u64>) -> bool {
        let pages = self.pages.range(range.start / PAGE..range.end.div_ceil(PAGE));
        pages.map(|(number, _)| number * PAGE).all(|at| {
            let part = at.max(range.start)..(at + PAGE).min(range.end);
            self.read(part).iter().all(|byte| *byte == 0)
        })
    }

    /// A hash of what is read.
    pub fn hash(&self) -> u64 {
        let pages = self.pages.iter().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
        pages.fold(mix(1, self.size), |state, (number, page)| {
            let (words, _) = page.as_chunks::<8>();
            words.iter().fold(mix(state, *number), |state, word| mix(state, u64::from_le_bytes(*word)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside a vector, which nobody doubts.
    #[test]
    fn it_is_a_vector_of_bytes() {
        let mut random = crate::testing::choices::Random(3);
        let (mut disk, mut vector) = (Bytes::zeros(20_000), vec![0; 20_000]);
        for round in 0..400 {
            let start = random.below(disk.size() + 1);
            let range = start..(start + random.below(9000)).min(disk.size());
            let slice = range.start as usize..range.end as usize;
            match random.below(3) {
                0 => {
                    disk.zero(range);
                    vector[slice].fill(0);
                }
                1 => {
                    let size = random.below(30_000);
                    disk.resize(size);
                    vector.resize(size as usize, 0);
                }
                _ => {
                    vector[slice.clone()].fill(round as u8 | 1);
                    disk.write(&vector[slice], range.start);
                }
            }
            assert!(disk.read(0..disk.size()) == vector);
            assert_eq!(disk.is_zero(0..disk.size()), vector.iter().all(|byte| *byte == 0));
            let visible = random.below(disk.size() + 1);
            let mut seen = vector[..visible as usize].to_vec();
            seen.resize(25_000, 0);
            assert!(disk.seen(visible, 25_000).read(0..25_000) == seen);
        }
    }
}
