//! Serving the guest: who holds a block, and how it comes into this layer.

use super::alloc::Allocation;
use super::order::Session;
use super::{Image, Layout};
use crate::device::{BlockDevice, Extent, ExtentKind, Place};
use crate::error::Result;
use crate::switch::{Mistake, Step, planted, skipped};
use crate::sync::read;
use crate::zeros;
use std::ops::Range;

/// Bytes that are copied from below at once.
const FILL_CHUNK: u64 = 1 << 20;
/// Bytes that are copied from below at least, so that scattered data is not copied in crumbs.
const FILL_LEAST: u64 = 64 << 10;
/// Bytes that are shared with a file below at once: a guest's write to one of them waits meanwhile.
const SHARE_CHUNK: u64 = 64 << 20;
/// Blocks that are zeroed between two looks at the cache.
const ZERO_STRIDE: u64 = 1 << 16;

impl BlockDevice for Image {
    fn size(&self) -> u64 {
        read(&self.layout).size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let layout = read(&self.layout);
        let range = offset..offset.saturating_add(buffer.len() as u64);
        self.check_range(&layout, &range)?;
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (present, end) = layout.run(at, range.end)?;
            let (piece, after) = rest.split_at_mut((end - at) as usize);
            match present {
                true => self.data.read_at(piece, layout.place(at))?,
                false => layout.read_below(piece, at)?,
            }
            (at, rest) = (end, after);
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let layout = read(&self.layout);
        let range = offset..offset.saturating_add(data.len() as u64);
        if !self.begin_change(&layout, &range)? {
            return Ok(());
        }
        let blocks = layout.blocks(&range);
        let absent = match &layout.allocation {
            Some(allocation) if !allocation.all_present(blocks.clone())? => allocation,
            _ => {
                self.data.write_at(data, layout.place(offset))?;
                self.order.wrote();
                return Ok(());
            }
        };
        let held = self.ranges.lock(layout.bytes(&blocks));
        let (head, tail) = self.edges(&layout, absent, &range)?;
        let mut pieces: Vec<(u64, &[u8])> = Vec::with_capacity(3);
        pieces.push((layout.place(offset - head.len() as u64), &head));
        pieces.push((layout.place(offset), data));
        pieces.push((layout.place(range.end), &tail));
        pieces.retain(|(_, piece)| !piece.is_empty());
        self.data.write_batch(&pieces)?;
        self.publish(absent, blocks)?;
        drop(held);
        self.relieve(absent)
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> Result<()> {
        let layout = read(&self.layout);
        if !self.begin_change(&layout, &range)? {
            return Ok(());
        }
        let Some(allocation) = &layout.allocation else {
            self.zero(&layout, range, unmap)?;
            self.order.wrote();
            return Ok(());
        };
        let mut at = range.start;
        while at < range.end {
            let stride_end = (at / layout.granule + ZERO_STRIDE).saturating_mul(layout.granule);
            let stride = at..stride_end.min(range.end);
            at = stride.end;
            self.zero_blocks(&layout, allocation, stride, unmap)?;
            self.relieve(allocation)?;
        }
        Ok(())
    }

    /// Gives back the space of whole blocks that this layer holds. What it does not hold is left as it is:
    /// a cleared bit would bring the parent's bytes back.
    fn discard(&self, range: Range<u64>) -> Result<()> {
        let layout = read(&self.layout);
        self.check_range(&layout, &range)?;
        self.check_writable()?;
        let unit = layout.granule.max(crate::limits::PAGE_SIZE);
        let end = if range.end == layout.size { range.end } else { range.end / unit * unit };
        let mut at = range.start.next_multiple_of(unit);
        while at < end {
            let (present, stop) = layout.run(at, end)?;
            if present {
                self.begin_writing(&layout, &(at..stop))?;
                self.zero(&layout, at..stop, true)?;
                self.order.wrote();
                if let (Some(allocation), true) = (&layout.allocation, planted(Mistake::DiscardGivesUp)) {
                    allocation.clear(layout.blocks(&(at..stop)))?;
                }
            }
            at = stop;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let layout = read(&self.layout);
        if self.writable {
            self.order.secure_found()?;
        }
        self.order.flush(layout.allocation.as_ref())?;
        if self.order.session() < Session::Writing {
            return Ok(());
        }
        let now = self.order.now();
        self.order.metadata(layout.bitmaps.fold_if_due(now))?;
        layout.beside.iter().try_for_each(|sidecar| {
            let beside = read(&sidecar.layout);
            sidecar.order.metadata(beside.bitmaps.fold_if_due(now))
        })
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        let layout = read(&self.layout);
        self.check_range(&layout, &(offset..end))?;
        let (present, end) = layout.run(offset, end)?;
        if !present {
            return layout.extent_below(offset, end);
        }
        let from = layout.place(offset);
        let data = self.data.next_data(from..layout.place(end))?;
        let (kind, stop) = match data {
            None => (ExtentKind::Zero, end),
            Some(data) if data.start > from => (ExtentKind::Zero, data.start - layout.data_offset),
            Some(data) => (ExtentKind::Data, (data.end - layout.data_offset).min(end)),
        };
        let place = Some(Place { file: self.data.clone(), offset: from });
        Ok(Extent { range: offset..stop, kind, present: true, depth: 0, place })
    }

    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        let layout = read(&self.layout);
        let (mut here, mut below) = (Vec::with_capacity(pieces.len()), Vec::new());
        for (offset, buffer) in pieces.iter_mut() {
            let range = *offset..offset.saturating_add(buffer.len() as u64);
            self.check_range(&layout, &range)?;
            let (mut at, mut rest) = (*offset, &mut **buffer);
            while !rest.is_empty() {
                let (present, end) = layout.run(at, range.end)?;
                let (piece, after) = rest.split_at_mut((end - at) as usize);
                match present {
                    true => here.push((layout.place(at), piece)),
                    false => below.extend(layout.seen_below(piece, at)),
                }
                (at, rest) = (end, after);
            }
        }
        self.data.read_batch(&mut here)?;
        layout.below.as_ref().map_or(Ok(()), |device| device.read_batch(&mut below))
    }

    /// Overwrites and whole blocks go out at once. What needs bytes from below comes after them, one by one.
    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let layout = read(&self.layout);
        let (mut together, mut alone, mut new) = (Vec::with_capacity(pieces.len()), Vec::new(), Vec::new());
        for &(offset, data) in pieces {
            let range = offset..offset.saturating_add(data.len() as u64);
            if !self.begin_change(&layout, &range)? {
                continue;
            }
            let blocks = layout.blocks(&range);
            match &layout.allocation {
                Some(allocation) if !allocation.all_present(blocks.clone())? => {
                    if layout.bytes(&blocks) != range {
                        alone.push((offset, data));
                        continue;
                    }
                    new.push(blocks);
                }
                _ => {}
            }
            together.push((layout.place(offset), data));
        }
        let held = self.ranges.lock_all(new.iter().map(|blocks| layout.bytes(blocks)).collect());
        self.data.write_batch(&together)?;
        self.order.wrote();
        if let Some(allocation) = &layout.allocation {
            new.into_iter().try_for_each(|blocks| self.publish(allocation, blocks))?;
            drop(held);
            self.relieve(allocation)?;
        }
        drop(layout);
        alone.into_iter().try_for_each(|(offset, data)| self.write_at(data, offset))
    }

    fn share(&self, range: Range<u64>, place: &Place) -> Result<bool> {
        let layout = read(&self.layout);
        if !self.begin_change(&layout, &range)? {
            return Ok(true);
        }
        let blocks = layout.blocks(&range);
        if layout.allocation.is_some() && layout.bytes(&blocks) != range {
            return Ok(false);
        }
        let _held = self.ranges.lock(layout.bytes(&blocks));
        if !self.share_here(&layout, &range, place)? {
            return Ok(false);
        }
        match &layout.allocation {
            Some(allocation) => self.publish(allocation, blocks).and_then(|()| self.relieve(allocation))?,
            None => self.order.wrote(),
        }
        Ok(true)
    }
}

impl Image {
    /// Checks a change of `range` and begins its session. False if there is nothing to change.
    fn begin_change(&self, layout: &Layout, range: &Range<u64>) -> Result<bool> {
        self.check_range(layout, range)?;
        self.check_writable()?;
        if range.is_empty() {
            return Ok(false);
        }
        self.begin_writing(layout, range)?;
        Ok(true)
    }

    /// What comes before a change of `range`: the session, and a note of it in the dirty bitmaps.
    fn begin_writing(&self, layout: &Layout, range: &Range<u64>) -> Result<()> {
        self.order.begin(Session::Writing)?;
        if layout.bitmaps.recording() {
            self.order.metadata(layout.bitmaps.note(range))?;
        }
        layout.beside.iter().try_for_each(|sidecar| {
            let beside = read(&sidecar.layout);
            sidecar.order.check_poison()?;
            if beside.bitmaps.recording() { sidecar.order.metadata(beside.bitmaps.note(range)) } else { Ok(()) }
        })
    }

    /// Data is written: the blocks are this layer's. Their bits are durable after the next flush.
    fn publish(&self, allocation: &Allocation, blocks: Range<u64>) -> Result<()> {
        let result = allocation.set(blocks);
        self.order.wrote();
        result
    }

    /// Commits when too many pages wait in memory.
    fn relieve(&self, allocation: &Allocation) -> Result<()> {
        if allocation.crowded() { self.order.flush(Some(allocation)) } else { Ok(()) }
    }

    /// ORD-44: the bytes from below that complete the first and the last block of a write, where those are absent.
    fn edges(&self, layout: &Layout, allocation: &Allocation, range: &Range<u64>) -> Result<(Vec<u8>, Vec<u8>)> {
        let whole = layout.bytes(&layout.blocks(range));
        let fill = |range: Range<u64>, block: u64| -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            if !range.is_empty() && !skipped(Step::FillBlock) && !allocation.run(block, block + 1)?.present {
                bytes.resize((range.end - range.start) as usize, 0);
                layout.read_below(&mut bytes, range.start)?;
            }
            Ok(bytes)
        };
        let head = fill(whole.start..range.start, range.start / layout.granule)?;
        let tail = fill(range.end..whole.end, range.end / layout.granule)?;
        Ok((head, tail))
    }

    /// Zeroes a stretch of an overlay. Where nothing is below, absent blocks read as zeros already.
    fn zero_blocks(&self, layout: &Layout, allocation: &Allocation, range: Range<u64>, unmap: bool) -> Result<()> {
        let blocks = layout.blocks(&range);
        let _held = self.ranges.lock(layout.bytes(&blocks));
        let mut at = range.start;
        while at < range.end {
            let run = allocation.run(at / layout.granule, blocks.end)?;
            let stop = (run.end * layout.granule).min(range.end);
            if run.present {
                self.zero(layout, at..stop, unmap)?;
                self.order.wrote();
            } else if layout.below.is_some() && at < layout.visible {
                let (head, tail) = self.edges(layout, allocation, &(at..stop))?;
                self.data.write_at(&head, layout.place(at - head.len() as u64))?;
                self.data.write_at(&tail, layout.place(stop))?;
                // ORD-45: what lies under a clear bit is garbage.
                self.zero(layout, at..stop, unmap)?;
                self.publish(allocation, layout.blocks(&(at..stop)))?;
            }
            at = stop;
        }
        Ok(())
    }

    fn zero(&self, layout: &Layout, range: Range<u64>, unmap: bool) -> Result<()> {
        if skipped(Step::ZerosWritten) {
            return Ok(());
        }
        let place = layout.place(range.start)..layout.place(range.end);
        if unmap { self.data.punch(place) } else { self.data.write_zeroes(place) }
    }

    /// Brings the absent blocks that `range` touches into this layer, as they read now: copy-on-read, stream.
    ///
    /// Content and epoch stay the same. Zeros become holes, and present. Returns the bytes that were copied.
    pub fn fill(&self, range: Range<u64>) -> Result<u64> {
        let layout = read(&self.layout);
        self.check_range(&layout, &range)?;
        self.check_writable()?;
        let Some(allocation) = &layout.allocation else { return Ok(0) };
        let (mut at, mut copied) = (range.start / layout.granule * layout.granule, 0);
        while at < range.end {
            let blocks = layout.blocks(&(at..range.end));
            let run = allocation.run(blocks.start, blocks.end)?;
            let end = (run.end * layout.granule).min(layout.size);
            if run.present {
                at = end;
                continue;
            }
            self.order.begin(Session::Filling)?;
            let (next, moved) = self.fill_piece(&layout, allocation, at..end)?;
            self.relieve(allocation)?;
            copied += if moved { next - at } else { 0 };
            at = next;
        }
        Ok(copied)
    }

    /// Fills the first piece of `range`, all of it absent a moment ago, and says where the piece ends, and whether bytes
    /// were moved for it: zeros, and what the host shares, take none.
    fn fill_piece(&self, layout: &Layout, allocation: &Allocation, range: Range<u64>) -> Result<(u64, bool)> {
        let below = layout.extent_below(range.start, range.end)?;
        let zeros = below.kind == ExtentKind::Zero;
        if let (false, Some(place)) = (zeros, &below.place)
            && let Some(end) = self.fill_shared(layout, allocation, below.range.clone(), place)?
        {
            return Ok((end, false));
        }
        let limit = if zeros { ZERO_STRIDE * layout.granule } else { FILL_CHUNK.max(layout.granule) };
        // A piece of zeros that ends inside a block is followed by data there: the block is copied.
        let whole = below.range.end == layout.size || below.range.end - range.start >= layout.granule;
        let zeros = zeros && whole;
        let end = match zeros {
            true if below.range.end == layout.size => below.range.end,
            true => below.range.end / layout.granule * layout.granule,
            false => below.range.end.max(range.start + FILL_LEAST).next_multiple_of(layout.granule),
        };
        let piece = range.start..end.min(range.start.saturating_add(limit)).min(range.end);
        let _held = (!planted(Mistake::FillUnlocked)).then(|| self.ranges.lock(piece.clone()));
        let mut at = piece.start;
        while at < piece.end {
            // A guest may have written here since.
            let (present, stop) = layout.run(at, piece.end)?;
            if !present || planted(Mistake::FillTrustsOldLook) {
                match zeros {
                    true => self.zero(layout, at..stop, true)?,
                    false => self.copy_up(layout, at..stop)?,
                }
                self.publish(allocation, layout.blocks(&(at..stop)))?;
            }
            at = stop;
        }
        Ok((piece.end, !zeros))
    }

    /// Fills whole blocks from the start of `range` on, which lies at `place`, by sharing them, as far as the host does.
    /// Says where the filled part ends, if there is one.
    fn fill_shared(
        &self,
        layout: &Layout,
        allocation: &Allocation,
        range: Range<u64>,
        place: &Place,
    ) -> Result<Option<u64>> {
        let limit = range.start.saturating_add(SHARE_CHUNK);
        let end = if range.end == layout.size { range.end } else { range.end / layout.granule * layout.granule };
        let piece = range.start..end.min(limit);
        if piece.is_empty() {
            return Ok(None);
        }
        let _held = self.ranges.lock(piece.clone());
        let mut at = piece.start;
        while at < piece.end {
            let (present, stop) = layout.run(at, piece.end)?;
            if !present {
                let from = Place { file: place.file.clone(), offset: place.offset + (at - piece.start) };
                if !self.share_here(layout, &(at..stop), &from)? {
                    break;
                }
                self.publish(allocation, layout.blocks(&(at..stop)))?;
            }
            at = stop;
        }
        Ok((at > piece.start).then_some(at))
    }

    fn share_here(&self, layout: &Layout, range: &Range<u64>, place: &Place) -> Result<bool> {
        let there = place.offset..place.offset.saturating_add(range.end - range.start);
        self.data.share(layout.place(range.start), &*place.file, there)
    }

    fn copy_up(&self, layout: &Layout, range: Range<u64>) -> Result<()> {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        layout.read_below(&mut buffer, range.start)?;
        for (stretch, zero) in zeros::stretches(&buffer, layout.granule as usize) {
            let at = range.start + stretch.start as u64;
            if zero {
                self.zero(layout, at..range.start + stretch.end as u64, true)?;
            } else {
                self.data.write_at(&buffer[stretch], layout.place(at))?;
            }
        }
        Ok(())
    }
}

impl Layout {
    /// Whether this layer holds the disk at `offset`, and up to where, at most `end`, that is so.
    pub(super) fn run(&self, offset: u64, end: u64) -> Result<(bool, u64)> {
        let Some(allocation) = &self.allocation else { return Ok((true, end)) };
        let run = allocation.run(offset / self.granule, end.div_ceil(self.granule))?;
        Ok((run.present, run.end.saturating_mul(self.granule).min(end)))
    }

    /// Zeroes what does not shine through from below; what does is yet to be read.
    fn seen_below<'a>(&self, buffer: &'a mut [u8], offset: u64) -> Option<(u64, &'a mut [u8])> {
        let visible = match &self.below {
            Some(_) => self.visible.saturating_sub(offset).min(buffer.len() as u64) as usize,
            None => 0,
        };
        let (seen, beyond) = buffer.split_at_mut(visible);
        beyond.fill(0);
        (!seen.is_empty()).then_some((offset, seen))
    }

    /// Reads what shines through: the device below, up to the visible length, and zeros beyond (ALC).
    fn read_below(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match (&self.below, self.seen_below(buffer, offset)) {
            (Some(below), Some((offset, seen))) => below.read_at(seen, offset),
            _ => Ok(()),
        }
    }

    fn extent_below(&self, offset: u64, end: u64) -> Result<Extent> {
        match &self.below {
            Some(below) if offset < self.visible => {
                let extent = below.extent(offset, end.min(self.visible))?;
                Ok(Extent { depth: extent.depth + 1, ..extent })
            }
            _ => Ok(Extent { range: offset..end, kind: ExtentKind::Zero, present: false, depth: 0, place: None }),
        }
    }
}
