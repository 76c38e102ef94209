//! Exclusive locks on ranges of the disk, for requests that change which layer holds a block.

use crate::sync::{Condvar, Mutex, lock, wait};
use std::collections::BTreeMap;
use std::ops::Range;

/// Who holds which range.
#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    held: Mutex<Held>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    /// Start and end of each range, none overlapping another.
    ranges: BTreeMap<u64, u64>,
    /// How many wait: to wake nobody costs a system call too.
    waiting: usize,
}

impl Held {
    /// Only the last range that starts before the end of `range` can reach into it.
    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.ranges.range(..range.end).next_back().is_some_and(|(_, &end)| end > range.start)
    }
}

/// Held ranges; dropping them lets the next one in.
#[must_use]
pub(crate) struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    starts: Vec<u64>,
}

impl RangeLocks {
    /// Waits until nobody holds any byte of `range`, and holds it.
    pub(crate) fn lock(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.lock_all(vec![range])
    }

    /// The same for several ranges, which may overlap each other. It holds none while it waits, so two that want the same
    /// ranges never wait for each other.
    pub(crate) fn lock_all(&self, ranges: Vec<Range<u64>>) -> RangeGuard<'_> {
        let ranges = merged(ranges);
        let mut held = lock(&self.held);
        while ranges.iter().any(|range| held.overlaps(range)) {
            held.waiting += 1;
            held = wait(&self.released, held);
            held.waiting -= 1;
        }
        held.ranges.extend(ranges.iter().map(|range| (range.start, range.end)));
        RangeGuard { locks: self, starts: ranges.into_iter().map(|range| range.start).collect() }
    }
}

/// The same bytes in ranges that do not overlap.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let joins = next.start < range.end;
        if joins {
            range.end = range.end.max(next.end);
        }
        joins
    });
    ranges
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.locks.held);
        for start in &self.starts {
            held.ranges.remove(start);
        }
        if held.waiting > 0 {
            self.locks.released.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Eight threads add to the same counters without atomics' help: only the lock keeps the sums right. Every third time
    /// a thread wants two ranges at once, in whatever order.
    #[test]
    fn overlapping_ranges_exclude_each_other() {
        let locks = RangeLocks::default();
        let cells: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (locks, cells) = (&locks, &cells);
                scope.spawn(move || {
                    for round in 0..200 {
                        let start = (thread * 7 + round * 13) % 60;
                        let other = start * 5 % 61;
                        let _held = match round % 3 {
                            0 => locks.lock_all(vec![start..start + 4, other..other + 3]),
                            _ => locks.lock(start..start + 4),
                        };
                        for cell in &cells[start as usize..start as usize + 4] {
                            let seen = cell.load(Ordering::Relaxed);
                            std::thread::yield_now();
                            cell.store(seen + 1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let sum: u64 = cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum();
        assert_eq!(sum, 8 * 200 * 4);
        assert!(lock(&locks.held).ranges.is_empty());
    }
}
