//! What is offered to clients: a device under a name.

use super::context::Context;
use crate::chain::{Holder, Layer, holder};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::live::{Disk, PointInTime};
use crate::nbd::MAX_STRING;
use crate::nbd::proto::*;
use crate::sync::{Arc, RwLock, read, write};
use std::ops::Range;

/// A device that is served: a disk, and what more a client can ask of it.
pub trait ExportDevice: BlockDevice {
    /// Whether the dirty bitmap `name` has byte `offset` dirty, and up to where, at most `end`, that is so.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such bitmap; the host's.
    fn bitmap_run(&self, name: &str, offset: u64, end: u64) -> Result<(bool, u64)>;

    /// Whether another machine is asked when `range` is read, or with `change`, when it is changed: that of a block which
    /// is changed in part the rest is read, and a change may have to be made there, too. Whoever asks this holds up nobody
    /// else meanwhile.
    fn is_far(&self, range: &Range<u64>, change: bool) -> bool {
        let _ = (range, change);
        false
    }

    /// Whether making zeros by giving space back is faster than writing them.
    fn zeroes_fast(&self) -> bool;
}

impl ExportDevice for Disk {
    fn bitmap_run(&self, name: &str, offset: u64, end: u64) -> Result<(bool, u64)> {
        self.chain().image(0)?.bitmap_run(name, offset, end)
    }

    fn is_far(&self, range: &Range<u64>, change: bool) -> bool {
        if change && self.follows_far(range) {
            return true;
        }
        let chain = self.chain();
        let Some(first_far) = chain.layers.iter().position(Layer::is_far) else { return false };
        let near = &chain.layers[..first_far];
        let Some(top) = near.first() else { return true };
        let granule = top.granule();
        let block = |at: u64| at - at % granule..(at - at % granule).saturating_add(granule).min(chain.size());
        match change {
            false => shines_through(near, range.clone()),
            true => [range.start, range.end].iter().any(|at| {
                let partial = !at.is_multiple_of(granule) && *at != chain.size();
                partial && shines_through(near, block(*at))
            }),
        }
    }

    /// A file has holes punched; what a block device does with the request nobody says beforehand.
    fn zeroes_fast(&self) -> bool {
        let top = self.chain().layer(0).map(|top| top.files().last().is_some_and(|file| file.zeros_when_new()));
        top.unwrap_or(false)
    }
}

impl ExportDevice for PointInTime {
    fn bitmap_run(&self, name: &str, offset: u64, end: u64) -> Result<(bool, u64)> {
        PointInTime::bitmap_run(self, name, offset, end)
    }

    fn zeroes_fast(&self) -> bool {
        false
    }
}

/// Whether some of `range` may be as the layers below `layers` show it. What takes long to find out is.
fn shines_through(layers: &[Layer], range: Range<u64>) -> bool {
    let (mut at, mut looks) = (range.start, 0);
    while at < range.end {
        match holder(layers, at, range.end) {
            Ok((Holder::Layer(_) | Holder::Hidden, end)) if looks < MOST_LOOKS => (at, looks) = (end, looks + 1),
            _ => return true,
        }
    }
    false
}

/// Looks at bitmaps that one request is worth.
const MOST_LOOKS: usize = 64;

/// One device as clients see it.
#[derive(Debug, Clone)]
pub struct Export {
    /// What clients ask for.
    pub name: String,
    /// A line for people; may be empty.
    pub description: String,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Whether every change is durable before it is acknowledged, as if all clients asked for it.
    pub write_through: bool,
    /// The dirty bitmaps of the device that clients may ask about.
    pub bitmaps: Vec<String>,
    /// The device.
    pub device: Arc<dyn ExportDevice>,
}

impl Export {
    /// The transmission flags. Of `several` connections a client may make use.
    pub(super) fn flags(&self, structured: bool, several: bool) -> u16 {
        let always = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
        let access = match self.read_only {
            true => NBD_FLAG_READ_ONLY,
            false => NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO,
        };
        let framing = if structured { NBD_FLAG_SEND_DF } else { 0 };
        // Every connection uses the one device: a flush covers what any of them wrote.
        always | access | framing | if several { NBD_FLAG_CAN_MULTI_CONN } else { 0 }
    }

    /// All metadata contexts that a client can choose from.
    pub(super) fn contexts(&self) -> impl Iterator<Item = Context> {
        let bitmaps = self.bitmaps.iter().map(|name| Context::DirtyBitmap(name.clone()));
        [Context::Allocation, Context::AllocationDepth].into_iter().chain(bitmaps)
    }
}

/// What one server offers; it may change meanwhile.
#[derive(Debug)]
pub struct Exports(RwLock<Vec<Arc<Export>>>);

impl Exports {
    /// Offers `exports`. The first is also what a client gets that names none.
    ///
    /// # Errors
    /// [`Error::Invalid`] if two have one name, or a name or description is longer than [`MAX_STRING`].
    pub fn new(exports: Vec<Export>) -> Result<Exports> {
        let offered = Exports(RwLock::default());
        exports.into_iter().try_for_each(|export| offered.add(export))?;
        Ok(offered)
    }

    /// Offers one more.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn add(&self, export: Export) -> Result<()> {
        if export.name.len() > MAX_STRING || export.description.len() > MAX_STRING {
            return Err(Error::Invalid(format!("an export's name or description exceeds {MAX_STRING} bytes")));
        }
        let mut exports = write(&self.0);
        if exports.iter().any(|other| other.name == export.name) {
            return Err(Error::Invalid(format!("two exports have the name {:?}", export.name)));
        }
        exports.push(Arc::new(export));
        Ok(())
    }

    /// Offers it no more. Who is connected to it stays so.
    pub fn remove(&self, name: &str) {
        write(&self.0).retain(|export| export.name != name);
    }

    /// All of them, in order.
    pub fn all(&self) -> Vec<Arc<Export>> {
        read(&self.0).clone()
    }

    /// The export of that name; for the empty name the first, if none is called so.
    pub(super) fn find(&self, name: &[u8]) -> Option<Arc<Export>> {
        let exports = read(&self.0);
        let first = exports.first().filter(|_| name.is_empty());
        exports.iter().find(|export| export.name.as_bytes() == name).or(first).cloned()
    }
}
