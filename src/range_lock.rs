//! Exclusive locks on ranges of the disk, for requests that change which layer holds a block.

use crate::sync::{Condvar, Mutex, lock, wait};
use std::collections::BTreeMap;
use std::ops::Range;

/// The ranges now held, none overlapping another.
#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    held: Mutex<BTreeMap<u64, u64>>,
    released: Condvar,
}

/// One held range; dropping it lets the next one in.
#[must_use]
pub(crate) struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    start: u64,
}

impl RangeLocks {
    /// Waits until nobody holds any byte of `range`, and holds it.
    pub(crate) fn lock(&self, range: Range<u64>) -> RangeGuard<'_> {
        let mut held = lock(&self.held);
        // The held ranges do not overlap: only the last that starts before our end can reach into ours.
        while held.range(..range.end).next_back().is_some_and(|(_, &end)| end > range.start) {
            held = wait(&self.released, held);
        }
        held.insert(range.start, range.end);
        RangeGuard { locks: self, start: range.start }
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        lock(&self.locks.held).remove(&self.start);
        self.locks.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Eight threads add to the same counters without atomics' help: only the lock keeps the sums right.
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
                        let _held = locks.lock(start..start + 4);
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
        assert!(lock(&locks.held).is_empty());
    }
}
