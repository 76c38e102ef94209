//! What of a mirror's target is still to be compared with its source, and the comparing of it.

use crate::chain::Layer;
use crate::error::{Error, Result};
use crate::jobs::first_difference;
use bitvec::vec::BitVec;
use std::ops::Range;

/// The two disks of a mirror, by their tops.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) source: Layer,
    pub(super) target: Layer,
}

impl Sides {
    /// The first byte of `range` in which the two differ, and the bytes that were read of either.
    pub(super) fn compare(&self, range: Range<u64>) -> Result<(Option<u64>, u64)> {
        first_difference(self.source.as_device(), self.target.as_device(), range)
    }

    /// The target differs at that byte.
    pub(super) fn differ(&self, at: u64) -> Error {
        Error::Differs { file: self.target.name().into(), from: self.source.name().into(), at }
    }
}

/// One bit a granule: set, the comparison has not come to it. Without a comparison none is.
#[derive(Debug)]
pub(super) struct Comparison {
    left: BitVec<u64>,
    /// How many are set.
    count: usize,
    /// Granules that are being compared.
    taken: usize,
}

impl Comparison {
    /// A comparison of no granule, or of all `granules`.
    pub(super) fn new(granules: usize, wanted: bool) -> Comparison {
        let count = if wanted { granules } else { 0 };
        Comparison { left: BitVec::repeat(wanted, granules), count, taken: 0 }
    }

    /// All granules are to be compared, also those that were.
    pub(super) fn begin_anew(&mut self) {
        self.left.fill(true);
        self.count = self.left.len();
    }

    /// Takes the next granules to compare, at most `most` in a row.
    pub(super) fn take(&mut self, most: usize) -> Option<Range<usize>> {
        let start = self.left.first_one()?;
        let run = self.left[start..].iter().take(most).take_while(|left| **left).count();
        self.left[start..start + run].fill(false);
        self.count -= run;
        self.taken += run;
        Some(start..start + run)
    }

    /// Of the granules that were taken together those before `unequal` are equal; the others are to be compared again.
    pub(super) fn landed(&mut self, granules: Range<usize>, unequal: usize) {
        self.taken -= granules.len();
        for granule in unequal..granules.end {
            self.count += usize::from(!self.left.replace(granule, true));
        }
    }

    /// Every granule was equal at some moment since it was asked for, if it was.
    pub(super) fn over(&self) -> bool {
        self.granules() == 0
    }

    /// Granules that are being compared.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Granules that it has to find equal yet.
    pub(super) fn granules(&self) -> usize {
        self.count + self.taken
    }
}
