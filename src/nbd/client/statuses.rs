//! What the server last said of holes, so that one question serves for many extents.

use crate::nbd::proto::{Descriptor, NBD_STATE_ZERO};
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use std::ops::Range;

/// One answer of the server, as long as nobody has changed anything through this client since it was asked for. What
/// others change meanwhile it does not know, as no reader of a file does.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    known: Mutex<Option<Known>>,
    /// Beginnings and ends of changes.
    changes: AtomicU64,
}

#[derive(Debug)]
struct Known {
    changes: u64,
    start: u64,
    /// Ends of stretches, one after the other, and whether they are zeros.
    ends: Vec<(u64, bool)>,
}

impl Statuses {
    /// Something begins to change, or has changed.
    pub(super) fn change(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// What a question that is about to be asked is to give back to [`learn`](Self::learn).
    pub(super) fn begin(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Takes over what the server said from `start` on, of a disk that ends at `end`.
    pub(super) fn learn(&self, changes: u64, start: u64, end: u64, descriptors: &[Descriptor]) {
        let mut at = start;
        let mut ends: Vec<(u64, bool)> = Vec::new();
        for descriptor in descriptors {
            at = at.saturating_add(u64::from(descriptor.length)).min(end);
            let zero = descriptor.flags & NBD_STATE_ZERO != 0;
            match ends.last_mut().filter(|last| last.1 == zero) {
                Some(last) => last.0 = at,
                None => ends.push((at, zero)),
            }
        }
        *lock(&self.known) = Some(Known { changes, start, ends });
    }

    /// Whether the disk is zeros at `offset`, and up to where that is known to be so; `None` if nothing is known.
    pub(super) fn at(&self, offset: u64) -> Option<(bool, u64)> {
        let known = lock(&self.known);
        let known = known.as_ref().filter(|known| known.changes == self.begin() && known.start <= offset)?;
        let stretch = known.ends.partition_point(|(end, _)| *end <= offset);
        known.ends.get(stretch).map(|(end, zero)| (*zero, *end))
    }
}

/// The first stretch of `range` that `at` does not call zeros. `at` tells for an offset up to where, past it, the disk is
/// zeros or not.
pub(super) fn first_data<E>(
    range: Range<u64>,
    mut at: impl FnMut(u64) -> Result<(bool, u64), E>,
) -> Result<Option<Range<u64>>, E> {
    let mut offset = range.start;
    while offset < range.end {
        let (zero, end) = at(offset)?;
        let end = end.min(range.end);
        if !zero {
            return Ok(Some(offset..end));
        }
        offset = end;
    }
    Ok(None)
}
