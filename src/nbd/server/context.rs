//! Metadata contexts: what a client can ask about stretches of a device.

use super::MAX_DESCRIPTORS;
use super::export::ExportDevice;
use crate::device::ExtentKind;
use crate::error::Result;
use crate::nbd::proto::{Descriptor, NBD_STATE_DIRTY, NBD_STATE_HOLE, NBD_STATE_ZERO};
use std::ops::Range;

/// One metadata context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Context {
    /// `base:allocation`: holes and zeros.
    Allocation,
    /// `qemu:allocation-depth`: 0 where no layer holds the stretch, 1 for the top layer, and so on.
    AllocationDepth,
    /// `qemu:dirty-bitmap:NAME`: 1 where the bitmap is set.
    DirtyBitmap(String),
}

impl Context {
    /// The name by which clients choose it.
    pub fn name(&self) -> String {
        match self {
            Context::Allocation => "base:allocation".into(),
            Context::AllocationDepth => "qemu:allocation-depth".into(),
            Context::DirtyBitmap(name) => format!("qemu:dirty-bitmap:{name}"),
        }
    }

    /// Whether a query asks for it. With `wildcards` a namespace that ends in its colon asks for all of it: that is how
    /// a client lists, and never how it chooses.
    pub(super) fn answers(&self, query: &[u8], wildcards: bool) -> bool {
        let name = self.name();
        query == name.as_bytes() || wildcards && query.ends_with(b":") && name.as_bytes().starts_with(query)
    }

    /// What it says of `device` from the start of `range` on: at least one descriptor, none that goes past the end, as
    /// many as there are or as `most` and [`MAX_DESCRIPTORS`] allow. Neighbours differ.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn describe(
        &self,
        device: &dyn ExportDevice,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<Descriptor>> {
        let mut found: Vec<Descriptor> = Vec::new();
        let (mut at, mut looks) = (range.start, 0);
        // Looks are counted, not descriptors alone: many extents may be one to this context.
        while at < range.end && looks < MAX_DESCRIPTORS {
            let (flags, end) = self.run(device, at, range.end)?;
            // Fits: a range is not longer than the length field of a request.
            let length = (end - at) as u32;
            let full = found.len() == most;
            match found.last_mut() {
                Some(last) if last.flags == flags => last.length += length,
                _ if full => break,
                _ => found.push(Descriptor { length, flags }),
            }
            (at, looks) = (end, looks + 1);
        }
        Ok(found)
    }

    /// What it says of `at`, and up to where. A device that tells of more than it was asked for is heard up to `end`.
    fn run(&self, device: &dyn ExportDevice, at: u64, end: u64) -> Result<(u32, u64)> {
        if let Context::DirtyBitmap(name) = self {
            let (dirty, stop) = device.bitmap_run(name, at, end)?;
            return Ok((if dirty { NBD_STATE_DIRTY } else { 0 }, stop.min(end)));
        }
        let extent = device.extent(at, end)?;
        let flags = match (self, extent.kind) {
            (Context::AllocationDepth, _) if !extent.present => 0,
            (Context::AllocationDepth, _) => u32::try_from(extent.depth).unwrap_or(u32::MAX - 1) + 1,
            (_, ExtentKind::Zero) => NBD_STATE_HOLE | NBD_STATE_ZERO,
            (_, ExtentKind::Data) => 0,
        };
        Ok((flags, extent.range.end.min(end)))
    }
}
