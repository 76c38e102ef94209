//! One LVD image: a guest's disk, complete or as an overlay above other layers.
//!
//! - `create` and `open` turn files into images and back;
//! - `io` serves the guest: it finds who holds a block, and moves blocks into this layer;
//! - `alloc` holds the allocation bits;
//! - `order` is the only place that decides when a header, a bit or a barrier is written;
//! - `dirty` notes what the guest changes, in its dirty bitmaps (`spec/bitmaps.md`);
//! - `reshape` changes size, parent and sections; `check` looks for damage;
//! - `group` is the file that decides for several disks whether they have moved.

mod alloc;
mod check;
mod create;
mod dirty;
mod group;
mod io;
mod open;
mod order;
mod reshape;
#[cfg(test)]
mod tests;

pub use check::{CheckReport, Finding};
pub use create::CreateOptions;
pub use dirty::{BitmapInfo, NewBitmap, Trust, UnbegunBitmap};
pub use group::Group;
pub(crate) use group::check_place;
pub use open::OpenOptions;

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{CopyMark, GroupMark, Header, MergeMark, Point, State, Uuid};
use crate::range_lock::RangeLocks;
use crate::storage::Storage;
use crate::sync::{Arc, RwLock, read, write};
use alloc::Allocation;
use dirty::Bitmaps;
use order::{Order, Session};
use std::ops::Range;

/// An open image. All methods take `&self`; any number of threads may use it at once.
///
/// What is below an overlay is not its business: [`set_below`](Image::set_below) tells it whom to ask
/// ([`Chain`](crate::chain::Chain) does). Dropping an image without [`close`](Image::close) is what a
/// crash of the process is: nothing flushed is lost, and the next session has more to check.
#[derive(Debug)]
pub struct Image {
    /// Header and sections.
    file: Arc<dyn Storage>,
    /// Guest data: the same file, or the volume that a sidecar serves.
    data: Arc<dyn Storage>,
    /// Requests hold it for reading, changes of the shape for writing.
    layout: RwLock<Layout>,
    ranges: RangeLocks,
    order: Order,
    writable: bool,
    cache_bytes: u64,
}

/// What a request needs to know of the header.
#[derive(Debug)]
struct Layout {
    size: u64,
    data_offset: u64,
    granule: u64,
    allocation: Option<Allocation>,
    bitmaps: Bitmaps,
    /// Sidecars that hold bitmaps of this image.
    beside: Vec<Arc<Image>>,
    below: Option<Arc<dyn BlockDevice>>,
    /// Bytes of `below` that shine through; zeros beyond.
    visible: u64,
}

impl Layout {
    fn new(header: &Header, file: &Arc<dyn Storage>, cache_bytes: u64, bitmaps: Bitmaps) -> Layout {
        let section = header.allocation().cloned();
        Layout {
            size: header.virtual_size,
            data_offset: header.data_offset,
            granule: section.as_ref().map_or(1, |section| 1 << section.granularity_shift),
            allocation: section.map(|section| Allocation::new(file.clone(), section, cache_bytes)),
            bitmaps,
            beside: Vec::new(),
            below: None,
            visible: header.parent.as_ref().map_or(0, |parent| parent.visible_length),
        }
    }

    /// The blocks that `range` touches.
    fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.granule..range.end.div_ceil(self.granule)
    }

    /// The bytes of `blocks`, cut at the end of the disk.
    fn bytes(&self, blocks: &Range<u64>) -> Range<u64> {
        blocks.start * self.granule..blocks.end.saturating_mul(self.granule).min(self.size)
    }

    /// Where guest byte `offset` lies in the data file.
    fn place(&self, offset: u64) -> u64 {
        self.data_offset + offset
    }
}

impl Image {
    /// The newest header.
    pub fn header(&self) -> Arc<Header> {
        self.order.header()
    }

    /// The identity of the image, for ever the same.
    pub fn uuid(&self) -> Uuid {
        self.header().uuid
    }

    /// The write epoch: names exactly this content while no session is open (law E).
    pub fn epoch(&self) -> Uuid {
        self.header().epoch
    }

    /// How errors name the image.
    pub fn name(&self) -> &str {
        self.file.name()
    }

    /// Whether the image holds every block itself: no parent, no allocation bitmap.
    pub fn complete(&self) -> bool {
        read(&self.layout).allocation.is_none()
    }

    /// Bytes that one allocation bit speaks of; 1 in a complete image.
    pub fn granule(&self) -> u64 {
        read(&self.layout).granule
    }

    /// Whether the image was opened for writing.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Why the image takes no more writes, if an earlier one failed.
    pub fn poisoned(&self) -> Option<String> {
        self.order.poisoned().map(str::to_owned)
    }

    /// The file that holds the guest's data, and where byte 0 of the disk lies in it. A complete image is
    /// raw from there on.
    pub fn data_location(&self) -> (Arc<dyn Storage>, u64) {
        (self.data.clone(), read(&self.layout).data_offset)
    }

    /// The file that holds header and sections.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.file
    }

    /// Sets the device that absent blocks are read from, as far as the parent link makes it visible.
    pub fn set_below(&self, below: Option<Arc<dyn BlockDevice>>) {
        write(&self.layout).below = below;
    }

    /// How far from `offset` on (to `end` at most) the image itself holds the disk, or does not:
    /// `(held here, end of the run)`.
    ///
    /// # Errors
    /// `Corrupt` with PAG-01 where the bits cannot be read.
    pub fn local_run(&self, offset: u64, end: u64) -> Result<(bool, u64)> {
        let layout = read(&self.layout);
        self.check_range(&layout, &(offset..end))?;
        layout.run(offset, end)
    }

    /// Sets or clears the merge mark in one header update (CHN-04).
    ///
    /// Setting it replaces the epoch in the same update (ORD-80): the content is about to change.
    /// Clearing it changes neither content nor epoch. Durable on return.
    pub fn set_merge_mark(&self, mark: Option<MergeMark>) -> Result<()> {
        let _held_still = write(&self.layout);
        self.check_writable()?;
        let session = if mark.is_some() { Session::Writing } else { Session::None };
        self.order.change_header(session, |header| header.merge_mark = mark)
    }

    /// Says that the image is not a whole copy any more, before it becomes one of something else (ORD-90).
    pub fn set_copy_mark(&self) -> Result<()> {
        let _held_still = write(&self.layout);
        self.check_writable()?;
        self.order.change_header(Session::Writing, |header| header.copy_mark = Some(CopyMark { group: Uuid::NIL }))
    }

    /// Says that the image is now a whole copy: all data is durable before the mark goes (ORD-90).
    pub fn clear_copy_mark(&self) -> Result<()> {
        let layout = write(&self.layout);
        self.check_writable()?;
        self.order.flush(layout.allocation.as_ref())?;
        self.order.change_header(Session::None, |header| header.copy_mark = None)
    }

    /// Has `group` decide when the image is a copy (`spec/groups.md`), which it is not yet. Durable on return.
    pub fn set_copy_group(&self, group: Uuid) -> Result<()> {
        let _held_still = write(&self.layout);
        self.check_writable()?;
        self.order.change_header(Session::None, |header| header.copy_mark = Some(CopyMark { group }))
    }

    /// Has `group` decide whether the disk has moved from here, or takes it out of its group. Durable on return.
    pub fn set_group_mark(&self, group: Option<Uuid>) -> Result<()> {
        let _held_still = write(&self.layout);
        self.check_writable()?;
        let mark = group.map(|group| GroupMark { group });
        self.order.change_header(Session::None, |header| header.set_group_mark(mark))
    }

    /// Says of which moments the image is a backup (`spec/bitmaps.md`, section 8). Durable on return.
    pub fn set_points(&self, points: Vec<Point>) -> Result<()> {
        let _held_still = write(&self.layout);
        self.check_writable()?;
        self.order.change_header(Session::None, |header| header.points = points)
    }

    /// Makes everything durable and gives the content an epoch of its own, if it changed (law E).
    ///
    /// The image stays usable: the next change begins a new session.
    pub fn seal(&self) -> Result<()> {
        // For writing: no request is under way while the header says closed.
        let layout = write(&self.layout);
        self.seal_held(&layout)
    }

    fn seal_held(&self, layout: &Layout) -> Result<()> {
        if self.writable && self.header().state != State::Closed {
            // Left by a crash, if no session of ours: closing it now gives its content a name again.
            self.order.begin(Session::Filling)?;
        }
        if self.order.session() == Session::Writing {
            self.fold(layout)?;
        }
        self.order.seal(layout.allocation.as_ref())
    }

    /// Makes the bits of all bitmaps durable, here and in the sidecars, and clears their intents.
    fn fold(&self, layout: &Layout) -> Result<()> {
        self.order.metadata(layout.bitmaps.fold(true))?;
        layout.beside.iter().try_for_each(|sidecar| sidecar.order.metadata(read(&sidecar.layout).bitmaps.fold(true)))
    }

    /// The clean end of a session: seals the image. Without it the next session starts as after a crash.
    pub fn close(&self) -> Result<()> {
        self.seal()
    }

    fn check_writable(&self) -> Result<()> {
        if !self.writable {
            return Err(Error::Denied(format!("{}: opened read-only", self.file.name())));
        }
        self.order.check_poison()
    }

    fn check_range(&self, layout: &Layout, range: &Range<u64>) -> Result<()> {
        if range.start <= range.end && range.end <= layout.size {
            return Ok(());
        }
        let (name, size) = (self.file.name(), layout.size);
        Err(Error::Invalid(format!("{name}: bytes {} to {} lie outside the disk of {size}", range.start, range.end)))
    }
}
