//! Sharing extents between files, on file systems that can.

use super::calls;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;

/// What `statfs` says of file systems on which `copy_file_range` shares. Elsewhere it copies, as one can do oneself and
/// find zeros meanwhile.
const SHARING: [u64; 3] = [0x5846_5342, 0x9123_683e, 0xca45_1a4e];

/// Whether the file system of `file` (XFS, btrfs, bcachefs) can share extents between its files.
pub(super) fn can_share(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|told| SHARING.contains(&(told.f_type as u64 & 0xffff_ffff)))
}

/// Makes `target` from `offset` on what `range` of `source` is. False if the host will not, for whatever reason but want
/// of space or a failing device.
pub(super) fn share(target: &File, mut offset: u64, source: &File, range: Range<u64>) -> io::Result<bool> {
    let mut from = range.start;
    while from < range.end {
        let length = usize::try_from(range.end - from).unwrap_or(usize::MAX);
        match calls::copy(source, &mut from, target, &mut offset, length) {
            // The source ends before the range does.
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::FBIG)) => return Err(error.into()),
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}
