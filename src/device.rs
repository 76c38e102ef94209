//! What a guest sees: a range of bytes to read, write, zero, discard and flush.

use crate::error::Result;
use crate::storage::Storage;
use crate::sync::Arc;
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
#[derive(Debug, Clone)]
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
    /// Where the bytes lie, for [`ExtentKind::Data`] and for present zeros that a file has room for.
    pub place: Option<Place>,
}

/// A place in a file. Guest data lies in place, so the bytes of a layer stay where they are as long as it is open.
#[derive(Debug, Clone)]
pub struct Place {
    /// The file.
    pub file: Arc<dyn Storage>,
    /// The offset of the first byte.
    pub offset: u64,
}

/// One request of a batch.
#[derive(Debug)]
pub enum Request<'a> {
    /// Fill `buffer` from `offset`.
    Read {
        /// Where the bytes go.
        buffer: &'a mut [u8],
        /// The first byte of the disk.
        offset: u64,
    },
    /// Write `data` at `offset`.
    Write {
        /// What is written.
        data: &'a [u8],
        /// The first byte of the disk.
        offset: u64,
    },
    /// See [`BlockDevice::write_zeroes`].
    WriteZeroes {
        /// Bytes of the disk.
        range: Range<u64>,
        /// Whether the host may give the space back.
        unmap: bool,
    },
    /// See [`BlockDevice::discard`].
    Discard {
        /// Bytes of the disk.
        range: Range<u64>,
    },
}

impl Request<'_> {
    /// Bytes that it reads or writes.
    pub(crate) fn payload(&self) -> usize {
        match self {
            Request::Read { buffer, .. } => buffer.len(),
            Request::Write { data, .. } => data.len(),
            Request::WriteZeroes { .. } | Request::Discard { .. } => 0,
        }
    }

    /// Carries it out by itself.
    fn run<D: BlockDevice + ?Sized>(&mut self, device: &D) -> Result<()> {
        match self {
            Request::Read { buffer, offset } => device.read_at(buffer, *offset),
            Request::Write { data, offset } => device.write_at(data, *offset),
            Request::WriteZeroes { range, unmap } => device.write_zeroes(range.clone(), *unmap),
            Request::Discard { range } => device.discard(range.clone()),
        }
    }
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

    /// Carries out a batch: in any order, and as many requests at once as the host takes. The results are in the
    /// order of the batch.
    ///
    /// Requests of one batch that touch the same bytes are under way at the same time: either may be the later one.
    fn submit(&self, batch: &mut [Request<'_>]) -> Vec<Result<()>> {
        if let [request] = batch {
            return vec![request.run(self)];
        }
        let (mut reads, mut writes) = (Vec::<(u64, &mut [u8])>::new(), Vec::<(u64, &[u8])>::new());
        for request in batch.iter_mut() {
            match request {
                Request::Read { buffer, offset } => reads.push((*offset, buffer)),
                Request::Write { data, offset } => writes.push((*offset, data)),
                Request::WriteZeroes { .. } | Request::Discard { .. } => {}
            }
        }
        let read = !reads.is_empty() && self.read_batch(&mut reads).is_ok();
        let written = !writes.is_empty() && self.write_batch(&writes).is_ok();
        let result = |request: &mut Request<'_>| match request {
            Request::Read { .. } if read => Ok(()),
            Request::Write { .. } if written => Ok(()),
            // Also after a failure of the group: each request gets a word of its own.
            request => request.run(self),
        };
        batch.iter_mut().map(result).collect()
    }

    /// Fills several buffers, each from its offset, all or with an error.
    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        pieces.iter_mut().try_for_each(|(offset, buffer)| self.read_at(buffer, *offset))
    }

    /// Writes several pieces, each at its offset, all or with an error.
    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        pieces.iter().try_for_each(|(offset, data)| self.write_at(data, *offset))
    }

    /// Makes `range` read as the bytes at `place`, as a write does, by sharing the host's space. False: the host does
    /// not share there, and nothing has changed; copy the bytes instead.
    fn share(&self, range: Range<u64>, place: &Place) -> Result<bool> {
        let _ = (range, place);
        Ok(false)
    }
}
