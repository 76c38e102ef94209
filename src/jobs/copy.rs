//! Copying a range between devices: holes and zeros stay holes, everything else goes in pieces.

use crate::device::{BlockDevice, Extent, ExtentKind};
use crate::error::{Error, Result};
use crate::limits::PAGE_SIZE;
use crate::zeros::stretches;
use std::ops::Range;

/// Most bytes that are read at once.
pub(crate) const PIECE: u64 = 1 << 20;

/// What becomes of zeros of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// They are made zeros in the target.
    Written,
    /// The target is known to read as zeros there.
    LeftOut,
}

/// Copies `range`. Returns the bytes that were read: none of what the host shares, nor of zeros.
pub(crate) fn copy(source: &dyn BlockDevice, target: &dyn BlockDevice, range: Range<u64>, zeros: Zeros) -> Result<u64> {
    let mut copied = 0;
    let mut buffer = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let extent = extent(source, at, range.end)?;
        let end = extent.range.end;
        match extent.kind {
            ExtentKind::Zero => zero(target, at..end, zeros)?,
            ExtentKind::Data => {
                let shared = extent.place.as_ref().map_or(Ok(false), |place| target.share(at..end, place))?;
                if !shared {
                    copied += copy_data(source, target, at..end, zeros, &mut buffer)?;
                }
            }
        }
        at = end;
    }
    Ok(copied)
}

/// The extent of `device` at `at`, cut to `end` and never empty.
pub(crate) fn extent(device: &dyn BlockDevice, at: u64, end: u64) -> Result<Extent> {
    let mut extent = device.extent(at, end)?;
    extent.range.end = extent.range.end.min(end);
    if extent.range.start != at || extent.range.end <= at {
        return Err(Error::Invalid(format!("the device does not say what it holds at {at}")));
    }
    Ok(extent)
}

/// The end of the next piece of at most [`PIECE`] bytes, on the next boundary if `at` is on none.
pub(crate) fn piece_end(at: u64, end: u64) -> u64 {
    let boundary = if at.is_multiple_of(PAGE_SIZE) { PIECE } else { PAGE_SIZE };
    (at - at % boundary).saturating_add(boundary).min(end)
}

/// `buffer` lengthened or cut to the length of `range`, which its caller keeps small.
pub(crate) fn sized<'a>(buffer: &'a mut Vec<u8>, range: &Range<u64>) -> &'a mut [u8] {
    buffer.resize((range.end - range.start) as usize, 0);
    buffer
}

fn copy_data(
    source: &dyn BlockDevice,
    target: &dyn BlockDevice,
    range: Range<u64>,
    zeros: Zeros,
    buffer: &mut Vec<u8>,
) -> Result<u64> {
    let mut at = range.start;
    while at < range.end {
        let end = piece_end(at, range.end);
        let data = sized(buffer, &(at..end));
        source.read_at(data, at)?;
        for (stretch, empty) in stretches(data, PAGE_SIZE as usize) {
            let place = at + stretch.start as u64..at + stretch.end as u64;
            match empty {
                true => zero(target, place, zeros)?,
                false => target.write_at(&data[stretch], place.start)?,
            }
        }
        at = end;
    }
    Ok(range.end - range.start)
}

fn zero(target: &dyn BlockDevice, range: Range<u64>, zeros: Zeros) -> Result<()> {
    match zeros {
        Zeros::Written => target.write_zeroes(range, true),
        Zeros::LeftOut => Ok(()),
    }
}
