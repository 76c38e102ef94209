//! What a guest sees: a range of bytes to read, write, zero, discard and flush.

use crate::error::Result;
use std::fmt::Debug;
use std::ops::Range;

/// What a stretch of a device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes to be read.
    Data,
    /// Reads as zeros without any reading (a hole of the host file, or nothing below).
    Zero,
}

/// A stretch of a device whose bytes come from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Guest bytes.
    pub range: Range<u64>,
    /// What it holds.
    pub kind: ExtentKind,
    /// Whether any layer of the chain holds the stretch (zeros that a layer holds are present; what no
    /// layer holds reads as zeros and is absent).
    pub present: bool,
    /// Layers between the top (0) and the one that holds the stretch; the lowest layer's number where none does.
    pub depth: usize,
    /// Where the bytes lie in that layer's file, for [`ExtentKind::Data`] and for present zeros.
    pub file_offset: Option<u64>,
}

/// A disk as a guest sees it. Every method takes `&self`: many threads use one device.
///
/// Offsets and lengths are bytes, at any alignment. A range that does not lie within the device is
/// [`Error::Invalid`](crate::Error::Invalid).
pub trait BlockDevice: Send + Sync + Debug {
    /// The size in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Writes `data` at `offset`. Durable only after [`flush`](Self::flush).
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes `range` read as zeros. With `unmap` the host may give its space back.
    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> Result<()>;

    /// Says that the guest no longer needs `range`: afterwards it reads as zeros or as before.
    fn discard(&self, range: Range<u64>) -> Result<()>;

    /// Returns once every write that was complete before the call is durable.
    fn flush(&self) -> Result<()>;

    /// What the device holds from `offset` on: one extent that starts at `offset` and ends at `end` or before.
    fn extent(&self, offset: u64, end: u64) -> Result<Extent>;
}
