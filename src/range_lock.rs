//! Exclusive locks on ranges of the disk, for requests that change which layer holds a block.
//!
//! They are fair: who waits comes before everybody who asks later for any of the same bytes. A copier that wants a long
//! stretch hence gets it, however many short requests follow each other there.

use crate::sync::{Condvar, Mutex, lock, wait};
use std::collections::{BTreeMap, VecDeque};
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
    /// What is waited for, in the order in which it was asked. To wake nobody costs a system call too.
    waiting: VecDeque<(u64, Vec<Range<u64>>)>,
    /// The next one's number in it.
    next: u64,
}

impl Held {
    /// Whether nobody holds any byte of `ranges`, and nobody who asked before number `number` waits for one.
    fn free(&self, ranges: &[Range<u64>], number: u64) -> bool {
        let earlier = self.waiting.iter().take_while(|(other, _)| *other < number);
        !ranges.iter().any(|range| self.overlaps(range)) && !earlier.into_iter().any(|(_, other)| meet(ranges, other))
    }

    /// Only the last range that starts before the end of `range` can reach into it.
    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.ranges.range(..range.end).next_back().is_some_and(|(_, &end)| end > range.start)
    }
}

/// Whether two lists of ranges, each in order, have a byte in common.
fn meet(one: &[Range<u64>], other: &[Range<u64>]) -> bool {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        if a.start < b.end && b.start < a.end {
            return true;
        }
        if a.end <= b.end {
            one.next()
        } else {
            other.next()
        };
    }
    false
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

    /// The same for several ranges, which may overlap each other. It holds none while it waits, and waits only for who
    /// asked before, so two that want the same ranges never wait for each other.
    pub(crate) fn lock_all(&self, ranges: Vec<Range<u64>>) -> RangeGuard<'_> {
        let ranges = merged(ranges);
        let mut held = lock(&self.held);
        if !held.free(&ranges, u64::MAX) {
            let number = held.next;
            held.next += 1;
            held.waiting.push_back((number, ranges.clone()));
            while !held.free(&ranges, number) {
                held = wait(&self.released, held);
            }
            held.waiting.retain(|(other, _)| *other != number);
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
        if !held.waiting.is_empty() {
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

    /// A copier that wanted sixteen granules never got them: of the guest's requests for one of them each came before
    /// the last had ended. Now they queue behind it.
    #[test]
    fn who_waits_comes_before_who_asks_later() {
        let locks = RangeLocks::default();
        let order = std::sync::Mutex::new(Vec::new());
        let waiting = |number| {
            while lock(&locks.held).waiting.len() < number {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            let first = locks.lock(4..5);
            let get = |name: &'static str, range: Range<u64>| {
                let (locks, order) = (&locks, &order);
                scope.spawn(move || {
                    let _held = locks.lock(range);
                    order.lock().unwrap().push(name);
                })
            };
            get("the long one", 0..16);
            waiting(1);
            let late = get("free, but asked late", 9..10);
            waiting(2);
            get("elsewhere", 20..21).join().unwrap();
            drop(first);
            late.join().unwrap();
        });
        assert_eq!(*order.lock().unwrap(), ["elsewhere", "the long one", "free, but asked late"]);
        assert!(lock(&locks.held).waiting.is_empty());
    }

    #[test]
    fn lists_of_ranges_meet_where_they_share_a_byte() {
        assert!(meet(&[0..2, 8..9], &[2..4, 7..10]) && meet(&[3..4], &[0..9]));
        assert!(!meet(&[0..2, 8..9], &[2..8, 9..10]) && !meet(&[], &[0..1]));
    }
}
