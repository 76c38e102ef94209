//! Which granules of a mirror's target are behind its source.

use crate::switch::{Mistake, planted};
use bitvec::vec::BitVec;
use std::ops::Range;

/// One bit a granule: set, the target may differ from the source there.
///
/// The first pass goes through all granules in order; behind it a granule is set only because the guest wrote there
/// again, or because a copy failed. Those are the *lag*. Writes that will set some more announce it, so that the lag,
/// announced writes included, can be held within a bound.
#[derive(Debug)]
pub(super) struct Lag {
    behind: BitVec<u64>,
    /// How many are set.
    count: usize,
    /// Where the first pass is: no granule from here on was ever copied.
    first_pass: usize,
    /// Granules that are set behind the first pass.
    relapsed: usize,
    /// Granules that writes under way are going to mark, each as often as it is announced.
    announced: usize,
    /// Granules that were behind and are being made equal now. One may be so twice: it fell behind again meanwhile.
    in_flight: Vec<Range<usize>>,
    /// Where the search for relapsed granules goes on, so that none waits for ever.
    next: usize,
}

impl Lag {
    /// `granules` granules, none of them copied yet.
    pub(super) fn new(granules: usize) -> Lag {
        Lag {
            behind: BitVec::repeat(true, granules),
            count: granules,
            first_pass: 0,
            relapsed: 0,
            announced: 0,
            in_flight: Vec::new(),
            next: 0,
        }
    }

    /// A write that will mark `granules` may begin, if the lag stays within `bound` even when all of them join it.
    ///
    /// Any of them may: one that the first pass has not reached may be copied before it is marked, and one that is
    /// marked already may be copied and its place be taken by another.
    pub(super) fn announce(&mut self, granules: &Range<usize>, bound: usize) -> bool {
        let within = self.has_room(granules.len(), bound);
        self.announced += if within { granules.len() } else { 0 };
        within
    }

    /// Whether the lag stays within `bound` when so many granules join it, and all that are announced.
    pub(super) fn has_room(&self, granules: usize, bound: usize) -> bool {
        let others = if planted(Mistake::UnannouncedWrites) { 0 } else { self.announced };
        self.relapsed + others + granules <= bound
    }

    /// The announced write has ended, whether well or not.
    pub(super) fn written(&mut self, granules: Range<usize>) {
        self.announced -= granules.len();
        self.mark(granules);
    }

    /// The target may differ in `granules` from now on.
    pub(super) fn mark(&mut self, granules: Range<usize>) {
        for granule in granules {
            if !self.behind.replace(granule, true) {
                self.count += 1;
                self.relapsed += usize::from(granule < self.first_pass);
            }
        }
    }

    /// Takes the marks of `granules` away.
    pub(super) fn clear(&mut self, granules: Range<usize>) {
        for granule in granules {
            if self.behind.replace(granule, false) {
                self.count -= 1;
                self.relapsed -= usize::from(granule < self.first_pass);
            }
        }
    }

    /// Whether `granule` may differ though nothing is wrong: it is behind or on its way, or a change is under way that
    /// will mark some.
    pub(super) fn explains(&self, granule: usize) -> bool {
        let under_way = self.announced > 0 && !planted(Mistake::DifferenceBelieved);
        under_way || self.is_behind(granule) || self.in_flight.iter().any(|taken| taken.contains(&granule))
    }

    pub(super) fn is_behind(&self, granule: usize) -> bool {
        self.behind[granule]
    }

    /// Takes the next granules to copy, at most `most` in a row: they are in flight until [`landed`](Self::landed).
    /// The first pass comes first: what relapses before its end is likely to do so again.
    pub(super) fn take(&mut self, most: usize) -> Option<Range<usize>> {
        let start = if self.first_pass_over() { self.find_relapsed()? } else { self.find_first_pass()? };
        let run = self.behind[start..].iter().take(most).take_while(|behind| **behind).count();
        let taken = start..start + run;
        self.take_these(taken.clone());
        self.first_pass = self.first_pass.max(taken.end);
        self.next = taken.end;
        Some(taken)
    }

    /// Takes `granules`, all of them behind.
    pub(super) fn take_these(&mut self, granules: Range<usize>) {
        self.clear(granules.clone());
        self.in_flight.push(granules);
    }

    fn find_first_pass(&mut self) -> Option<usize> {
        let found = self.behind[self.first_pass..].first_one().map(|at| self.first_pass + at)?;
        self.first_pass = found;
        Some(found)
    }

    fn find_relapsed(&self) -> Option<usize> {
        let before = &self.behind[..self.first_pass];
        let from = self.next.min(before.len());
        before[from..].first_one().map(|at| from + at).or_else(|| before.first_one())
    }

    /// Granules that were taken together are equal; those that are not are behind again, before they leave the flight.
    pub(super) fn landed(&mut self, granules: Range<usize>, equal: bool) {
        if !equal {
            self.mark(granules.clone());
        }
        let place = self.in_flight.iter().position(|taken| *taken == granules);
        self.in_flight.swap_remove(place.expect("what lands was taken, and as one"));
    }

    /// Every granule was taken, or written to both disks: what is behind now, or ever will be, has relapsed.
    pub(super) fn first_pass_over(&mut self) -> bool {
        if self.count == self.relapsed {
            self.first_pass = self.behind.len();
        }
        self.first_pass == self.behind.len()
    }

    /// Nothing is behind and nothing is on its way.
    pub(super) fn none(&self) -> bool {
        self.in_flight.is_empty() && self.count == 0
    }

    /// Granules that were taken and have not landed.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.iter().map(Range::len).sum()
    }

    /// All that is not equal now.
    pub(super) fn rest(&self) -> Vec<Range<usize>> {
        let mut rest = self.in_flight.clone();
        let mut at = 0;
        while let Some(start) = self.behind[at..].first_one().map(|found| at + found) {
            at = self.behind[start..].first_zero().map_or(self.behind.len(), |found| start + found);
            rest.push(start..at);
        }
        rest
    }

    /// Granules behind the first pass that are to be copied again.
    pub(super) fn relapsed(&self) -> usize {
        self.relapsed
    }

    /// Granules to copy in all, those on their way included.
    pub(super) fn count(&self) -> usize {
        self.count + self.in_flight()
    }
}
