//! Changes that a server may have acknowledged and not made durable: one that takes its place gets them again.

use super::wire::{Ask, Asked};
use crate::sync::{Mutex, lock};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of memory after which changes are to be made durable.
const MOST: usize = 64 << 20;
/// Changes that are sent at once.
const AT_ONCE: usize = 64;
/// What a change costs beside its data.
const OVERHEAD: usize = 64;

/// A change that was asked for.
#[derive(Debug)]
pub(super) enum Change {
    Write { offset: u64, data: Vec<u8> },
    Zeroes { range: Range<u64>, unmap: bool },
}

impl Change {
    fn cost(&self) -> usize {
        match self {
            Change::Write { data, .. } => data.len() + OVERHEAD,
            Change::Zeroes { .. } => OVERHEAD,
        }
    }

    fn range(&self) -> Range<u64> {
        match self {
            Change::Write { offset, data } => *offset..offset + data.len() as u64,
            Change::Zeroes { range, .. } => range.clone(),
        }
    }

    fn ask(&self) -> Ask<'_> {
        match self {
            Change::Write { data, .. } => Ask::new(Asked::Write(data), self.range()),
            Change::Zeroes { unmap, .. } => Ask::new(Asked::Zeroes(*unmap), self.range()),
        }
    }
}

/// All changes since the last flush, in the order in which they were asked for, from before they were. Those that failed
/// are not among them: what is there then is undefined, until it is written again.
#[derive(Debug, Default)]
pub(super) struct Unflushed(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    /// By their numbers.
    changes: BTreeMap<u64, Entry>,
    next: u64,
    /// Bytes of memory that they take.
    cost: usize,
}

#[derive(Debug)]
struct Entry {
    change: Change,
    /// Whether it has been answered: the next flush covers it.
    answered: bool,
}

impl Unflushed {
    /// Notes changes that are about to be asked for, and returns their numbers.
    pub(super) fn add(&self, changes: impl Iterator<Item = Change>) -> Range<u64> {
        let mut log = lock(&self.0);
        let start = log.next;
        for change in changes {
            log.cost += change.cost();
            let number = log.next;
            log.changes.insert(number, Entry { change, answered: false });
            log.next += 1;
        }
        start..log.next
    }

    /// They have been answered.
    pub(super) fn answered(&self, numbers: Range<u64>) {
        lock(&self.0).changes.range_mut(numbers).for_each(|(_, entry)| entry.answered = true);
    }

    /// Whether a flush is due.
    pub(super) fn is_full(&self) -> bool {
        lock(&self.0).cost > MOST
    }

    /// The changes that a flush covers which is sent from now on.
    pub(super) fn covered(&self) -> Vec<u64> {
        let log = lock(&self.0);
        log.changes.iter().filter(|(_, entry)| entry.answered).map(|(number, _)| *number).collect()
    }

    /// They are durable, or have failed.
    pub(super) fn forget(&self, numbers: impl IntoIterator<Item = u64>) {
        let mut log = lock(&self.0);
        for number in numbers {
            let cost = log.changes.remove(&number).map_or(0, |entry| entry.change.cost());
            log.cost -= cost;
        }
    }

    /// Has `call` carry out all of them again, some at a time.
    pub(super) fn replay<E>(&self, mut call: impl FnMut(&mut [Ask<'_>]) -> Result<(), E>) -> Result<(), E> {
        let log = lock(&self.0);
        let changes: Vec<&Change> = log.changes.values().map(|entry| &entry.change).collect();
        for changes in in_order(&changes) {
            let mut asks: Vec<Ask<'_>> = changes.iter().map(|change| change.ask()).collect();
            call(&mut asks)?;
        }
        Ok(())
    }
}

/// Changes that may be under way together: those of one group do not touch the same bytes.
fn in_order<'a, 'b>(changes: &'a [&'b Change]) -> Vec<&'a [&'b Change]> {
    let (mut groups, mut start) = (Vec::new(), 0);
    for at in 0..changes.len() {
        let range = changes[at].range();
        let meets = |other: &&Change| other.range().start < range.end && range.start < other.range().end;
        if at - start == AT_ONCE || changes[start..at].iter().any(meets) {
            groups.push(&changes[start..at]);
            start = at;
        }
    }
    groups.push(&changes[start..]);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64) -> Change {
        Change::Write { offset, data: vec![1; 10] }
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it() {
        let log = Unflushed::default();
        let first = log.add([write(0)].into_iter());
        let second = log.add([write(10), write(20)].into_iter());
        log.answered(second.clone());
        let covered = log.covered();
        log.answered(first);
        log.forget(covered.clone());
        let left: Vec<u64> = lock(&log.0).changes.keys().copied().collect();
        assert_eq!((covered, left), (vec![1, 2], vec![0]));
        assert_eq!(lock(&log.0).cost, 10 + OVERHEAD);
    }

    #[test]
    fn what_touches_the_same_bytes_is_not_sent_together() {
        let changes = [write(0), write(10), write(5), Change::Zeroes { range: 0..100, unmap: true }, write(200)];
        let changes: Vec<&Change> = changes.iter().collect();
        let lengths: Vec<usize> = in_order(&changes).iter().map(|group| group.len()).collect();
        assert_eq!(lengths, [2, 1, 2]);
    }
}
