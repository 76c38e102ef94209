//! Which granules of a mirror's target are behind its source.

use bitvec::vec::BitVec;
use std::ops::Range;

/// One bit a granule: set, the target may differ from the source there.
///
/// The first pass goes through all granules in order; behind it a granule is set only because the guest wrote there
/// again. Those are the *lag*, which a limit can bound: a write that would exceed it goes to both disks at once.
#[derive(Debug)]
pub(super) struct Lag {
    behind: BitVec<u64>,
    /// How many are set.
    count: usize,
    /// Where the first pass is: no granule from here on was ever copied.
    first_pass: usize,
    /// Granules that are set behind the first pass.
    relapsed: usize,
    /// Granules being copied now.
    in_flight: usize,
    /// Where the search for relapsed granules goes on, so that none waits for ever.
    next: usize,
    /// It is the turn of the relapsed ones.
    turn: bool,
}

impl Lag {
    /// `granules` granules, none of them copied yet.
    pub(super) fn new(granules: usize) -> Lag {
        Lag {
            behind: BitVec::repeat(true, granules),
            count: granules,
            first_pass: 0,
            relapsed: 0,
            in_flight: 0,
            next: 0,
            turn: false,
        }
    }

    /// The guest wrote to `granules`, or a copy of them failed.
    pub(super) fn mark(&mut self, granules: Range<usize>) {
        for granule in granules {
            if !self.behind.replace(granule, true) {
                self.count += 1;
                self.relapsed += usize::from(granule < self.first_pass);
            }
        }
    }

    /// The target is about to be made equal in `granules`, without the copier.
    pub(super) fn clear(&mut self, granules: Range<usize>) {
        for granule in granules {
            if self.behind.replace(granule, false) {
                self.count -= 1;
                self.relapsed -= usize::from(granule < self.first_pass);
            }
        }
    }

    pub(super) fn is_behind(&self, granule: usize) -> bool {
        self.behind[granule]
    }

    /// How many of `granules` would join the lag if they were marked.
    pub(super) fn would_add(&self, granules: Range<usize>) -> usize {
        granules.filter(|&granule| granule < self.first_pass && !self.behind[granule]).count()
    }

    /// Takes the next granules to copy, at most `most` in a row: they count as in flight until [`landed`](Self::landed).
    ///
    /// With `relapsed_first` the lag comes before the rest of the first pass, every other time: a guest that is faster
    /// than the copier adds to the lag for ever, and the first pass ends nevertheless.
    pub(super) fn take(&mut self, most: usize, relapsed_first: bool) -> Option<Range<usize>> {
        self.turn = relapsed_first && !self.turn;
        let start = match self.turn && self.relapsed > 0 {
            true => self.find_relapsed()?,
            false => self.find_first_pass().or_else(|| self.find_relapsed())?,
        };
        let run = self.behind[start..].iter().take(most).take_while(|behind| **behind).count();
        let taken = start..start + run;
        self.clear(taken.clone());
        self.first_pass = self.first_pass.max(taken.end);
        self.next = taken.end;
        self.in_flight += run;
        Some(taken)
    }

    fn find_first_pass(&mut self) -> Option<usize> {
        let found = self.behind[self.first_pass..].first_one().map(|at| self.first_pass + at);
        // Once it finds nothing the pass is over, and whatever is marked from then on is lag.
        self.first_pass = found.unwrap_or(self.behind.len());
        found
    }

    fn find_relapsed(&self) -> Option<usize> {
        let before = &self.behind[..self.first_pass];
        let from = self.next.min(before.len());
        before[from..].first_one().map(|at| from + at).or_else(|| before.first_one())
    }

    /// Granules that were taken are copied; those that were not are behind again, before they leave the flight.
    pub(super) fn landed(&mut self, granules: Range<usize>, copied: bool) {
        if !copied {
            self.mark(granules.clone());
        }
        self.in_flight -= granules.len();
    }

    /// Nothing is behind and nothing is on its way.
    pub(super) fn none(&self) -> bool {
        self.in_flight == 0 && self.count == 0
    }

    /// Granules that were taken and have not landed.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// All granules were copied once.
    pub(super) fn first_pass_over(&self) -> bool {
        self.first_pass == self.behind.len()
    }

    /// Granules behind the first pass that are to be copied again.
    pub(super) fn relapsed(&self) -> usize {
        self.relapsed
    }

    /// Granules to copy in all, those on their way included.
    pub(super) fn count(&self) -> usize {
        self.count + self.in_flight
    }
}
