//! Where two disks differ.

use crate::device::{BlockDevice, ExtentKind};
use crate::error::Result;
use crate::jobs::copy::{extent, piece_end, sized};
use std::ops::Range;

/// Goes through two disks and tells, stretch by stretch, where they differ: in units of `unit` bytes, a multiple of
/// 4096. What the longer one has past the end of the other counts as different. `found` gets each stretch, in order.
///
/// # Errors
/// What reading them meets, and what `found` says.
pub fn differences(
    one: &dyn BlockDevice,
    other: &dyn BlockDevice,
    unit: u64,
    found: &mut dyn FnMut(Range<u64>, bool) -> Result<()>,
) -> Result<()> {
    let (shorter, longer) = (one.size().min(other.size()), one.size().max(other.size()));
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut run: Option<(Range<u64>, bool)> = None;
    let mut put = |range: Range<u64>, differs: bool| -> Result<()> {
        match &mut run {
            Some((last, same)) if *same == differs => last.end = range.end,
            _ => {
                if let Some((last, same)) = run.replace((range, differs)) {
                    found(last, same)?;
                }
            }
        }
        Ok(())
    };
    let mut at = 0;
    while at < shorter {
        let first = extent(one, at, shorter)?;
        let second = extent(other, at, first.range.end)?;
        let both = second.range.end;
        if first.kind == ExtentKind::Zero && second.kind == ExtentKind::Zero && (both - at >= unit || both == shorter) {
            let end = if both == shorter { both } else { both - both % unit };
            put(at..end, false)?;
            at = end;
            continue;
        }
        let end = piece_end(at, shorter).max((at + unit).min(shorter));
        let (a, b) = (sized(&mut left, &(at..end)), sized(&mut right, &(at..end)));
        one.read_at(a, at)?;
        other.read_at(b, at)?;
        let mut start = at;
        while start < end {
            let stop = (start + unit - start % unit).min(end);
            let within = (start - at) as usize..(stop - at) as usize;
            put(start..stop, a[within.clone()] != b[within])?;
            start = stop;
        }
        at = end;
    }
    if longer > shorter {
        put(shorter..longer, true)?;
    }
    match run {
        Some((last, differs)) => found(last, differs),
        None => Ok(()),
    }
}
