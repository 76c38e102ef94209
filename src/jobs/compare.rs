//! Compare: whether two disks read the same, and where they first do not.

use crate::device::{BlockDevice, ExtentKind};
use crate::error::Result;
use crate::jobs::control::Work;
use crate::jobs::copy::{extent, piece_end, sized};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::zeros::is_zero;
use std::ops::Range;

/// Most bytes gone through between two looks at what others have found.
const STRETCH: u64 = 1 << 30;

/// Compares two disks. What the longer one has past the end of the other must be zeros.
#[derive(Debug)]
pub struct Compare {
    one: Arc<dyn BlockDevice>,
    other: Arc<dyn BlockDevice>,
    /// Offset of the first difference so far, `u64::MAX` for none.
    first: AtomicU64,
}

impl Compare {
    /// A comparison of `one` and `other`. With `strict` different sizes are a difference too, at the end of the
    /// shorter.
    pub fn new(one: Arc<dyn BlockDevice>, other: Arc<dyn BlockDevice>, strict: bool) -> Compare {
        let (a, b) = (one.size(), other.size());
        let first = if strict && a != b { a.min(b) } else { u64::MAX };
        Compare { one, other, first: AtomicU64::new(first) }
    }

    /// The offset of the first byte that differs, as far as is known; certain once the job has finished.
    pub fn first_difference(&self) -> Option<u64> {
        Some(self.first.load(Ordering::Acquire)).filter(|first| *first != u64::MAX)
    }
}

impl Work for Compare {
    fn kind(&self) -> &'static str {
        "compare"
    }

    fn total(&self) -> u64 {
        self.one.size().max(self.other.size())
    }

    fn alignment(&self) -> u64 {
        crate::limits::PAGE_SIZE
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        if range.start >= self.first.load(Ordering::Acquire) {
            return Ok(0);
        }
        let (one, other) = (self.one.size(), self.other.size());
        let shorter = one.min(other);
        let both = range.start.min(shorter)..range.end.min(shorter);
        let rest = range.start.max(shorter)..range.end.max(shorter);
        let longer = if one > other { &self.one } else { &self.other };
        let mut found = first_difference(&*self.one, &*self.other, both)?.0;
        if found.is_none() {
            found = first_byte(&**longer, rest, &mut Vec::new())?;
        }
        if let Some(offset) = found {
            self.first.fetch_min(offset, Ordering::AcqRel);
        }
        Ok(range.end - range.start)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// The first byte of `range`, which both have, in which they differ; and the bytes that were read of either.
pub(crate) fn first_difference(
    one: &dyn BlockDevice,
    other: &dyn BlockDevice,
    range: Range<u64>,
) -> Result<(Option<u64>, u64)> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let (mut at, mut read) = (range.start, 0);
    while at < range.end {
        let first = extent(one, at, range.end)?;
        let second = extent(other, at, first.range.end)?;
        let end = second.range.end;
        let found = match (first.kind, second.kind) {
            (ExtentKind::Zero, ExtentKind::Zero) => None,
            (ExtentKind::Zero, ExtentKind::Data) => first_byte(other, at..end, &mut right)?,
            (ExtentKind::Data, ExtentKind::Zero) => first_byte(one, at..end, &mut left)?,
            (ExtentKind::Data, ExtentKind::Data) => differs_data(one, other, at..end, &mut left, &mut right)?,
        };
        read += if (first.kind, second.kind) == (ExtentKind::Zero, ExtentKind::Zero) { 0 } else { end - at };
        if found.is_some() {
            return Ok((found, read));
        }
        at = end;
    }
    Ok((None, read))
}

fn differs_data(
    one: &dyn BlockDevice,
    other: &dyn BlockDevice,
    range: Range<u64>,
    left: &mut Vec<u8>,
    right: &mut Vec<u8>,
) -> Result<Option<u64>> {
    let mut at = range.start;
    while at < range.end {
        let end = piece_end(at, range.end);
        let (left, right) = (sized(left, &(at..end)), sized(right, &(at..end)));
        one.read_at(left, at)?;
        other.read_at(right, at)?;
        if left != right {
            let place = left.iter().zip(right.iter()).position(|(a, b)| a != b);
            return Ok(place.map(|place| at + place as u64));
        }
        at = end;
    }
    Ok(None)
}

/// The first byte of `range` that is not zero.
fn first_byte(device: &dyn BlockDevice, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<Option<u64>> {
    let mut at = range.start;
    while at < range.end {
        let found = extent(device, at, range.end)?;
        let mut end = found.range.end;
        if found.kind == ExtentKind::Data {
            end = piece_end(at, end);
            let data = sized(buffer, &(at..end));
            device.read_at(data, at)?;
            if !is_zero(data) {
                return Ok(data.iter().position(|byte| *byte != 0).map(|place| at + place as u64));
            }
        }
        at = end;
    }
    Ok(None)
}

/// The offset of the first byte in which two disks differ, `None` if they read the same. See [`Compare::new`].
///
/// # Errors
/// What reading them meets.
pub fn compare(one: Arc<dyn BlockDevice>, other: Arc<dyn BlockDevice>, strict: bool) -> Result<Option<u64>> {
    let compare = Compare::new(one, other, strict);
    let total = compare.total();
    let mut at = 0;
    while at < total && compare.first_difference().is_none_or(|first| at < first) {
        let end = at.saturating_add(STRETCH).min(total);
        compare.piece(at..end)?;
        at = end;
    }
    Ok(compare.first_difference())
}
