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

    /// The first difference in `range`, within the shorter of the two.
    fn differs(&self, range: Range<u64>) -> Result<Option<u64>> {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut at = range.start;
        while at < range.end {
            let one = extent(&*self.one, at, range.end)?;
            let other = extent(&*self.other, at, one.range.end)?;
            let end = other.range.end;
            let found = match (one.kind, other.kind) {
                (ExtentKind::Zero, ExtentKind::Zero) => None,
                (ExtentKind::Zero, ExtentKind::Data) => first_byte(&*self.other, at..end, &mut right)?,
                (ExtentKind::Data, ExtentKind::Zero) => first_byte(&*self.one, at..end, &mut left)?,
                (ExtentKind::Data, ExtentKind::Data) => self.differs_data(at..end, &mut left, &mut right)?,
            };
            if found.is_some() {
                return Ok(found);
            }
            at = end;
        }
        Ok(None)
    }

    fn differs_data(&self, range: Range<u64>, left: &mut Vec<u8>, right: &mut Vec<u8>) -> Result<Option<u64>> {
        let mut at = range.start;
        while at < range.end {
            let end = piece_end(at, range.end);
            let (left, right) = (sized(left, &(at..end)), sized(right, &(at..end)));
            self.one.read_at(left, at)?;
            self.other.read_at(right, at)?;
            if left != right {
                let place = left.iter().zip(right.iter()).position(|(a, b)| a != b);
                return Ok(place.map(|place| at + place as u64));
            }
            at = end;
        }
        Ok(None)
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
        let mut found = self.differs(both)?;
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
