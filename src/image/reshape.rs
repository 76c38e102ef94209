//! Changing size, parent and sections of an open image. Requests wait meanwhile.

use super::dirty::Bitmaps;
use super::order::{Session, copy_data};
use super::{Image, Layout};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{Header, Parent, Section, SectionKind, Uuid};
use crate::limits::{MAX_SIZE, PAGE_SIZE, SLOTS_END};
use crate::storage::Host;
use crate::switch::{Step, skipped};
use crate::sync::{Arc, write};
use std::ops::Range;

impl Image {
    /// Sets the size of the disk in bytes, durably. What is added reads as zeros, also where a parent is longer.
    ///
    /// # Errors
    /// `Invalid` beyond the limits (HDR-13), `NoSpace`, `Io`.
    pub fn resize(&self, size: u64) -> Result<()> {
        let mut layout = write(&self.layout);
        self.check_writable()?;
        if size == layout.size {
            return self.order.secure_found();
        }
        if size > MAX_SIZE {
            return Err(Error::Invalid(format!("{}: no disk is larger than {MAX_SIZE} bytes", self.name())));
        }
        self.order.begin(Session::Writing)?;
        self.order.flush(layout.allocation.as_ref())?;
        self.fold(&layout)?;
        if size < layout.size { self.shrink(&mut layout, size) } else { self.grow(&mut layout, size) }
    }

    /// The header first, then the space: until both slots name the smaller disk, a crash shows the larger one, whole.
    fn shrink(&self, layout: &mut Layout, size: u64) -> Result<()> {
        let old_end = layout.place(layout.size);
        layout.beside.iter().try_for_each(|sidecar| sidecar.cover_less(size))?;
        self.order.change_header(Session::Filling, |header| {
            set_size(header, size);
            if let Some(parent) = header.parent.as_mut().filter(|_| !skipped(Step::LowerVisible)) {
                parent.visible_length = parent.visible_length.min(size);
            }
        })?;
        self.order.settle()?;
        self.adopt(layout);
        let behind = self.order.header().sections.iter().any(|section| section.offset >= old_end);
        let cut = layout.place(size);
        // A volume beside a sidecar keeps its length: it may be longer than the disk, for reasons of its own.
        let ends_here = Arc::ptr_eq(&self.data, &self.file) && !behind && self.data.zeros_when_new();
        if ends_here { self.data.set_size(cut) } else { self.data.punch(cut..old_end) }
    }

    /// In a sidecar of an image that is about to shrink to `size` (BMP-11).
    fn cover_less(&self, size: u64) -> Result<()> {
        let mut layout = write(&self.layout);
        self.order.change_header(Session::None, |header| cover_at_most(header, size))?;
        self.adopt(&mut layout);
        Ok(())
    }

    fn grow(&self, layout: &mut Layout, size: u64) -> Result<()> {
        self.clear_past_end(layout)?;
        if Arc::ptr_eq(&self.data, &self.file) {
            self.make_way(layout, size)?;
        } else {
            self.lengthen_section(layout, size)?;
        }
        let (old_end, end) = (layout.place(layout.size), layout.place(size));
        if self.data.size()? < end {
            self.data.set_size(end)?;
        }
        if !skipped(Step::ZeroGrown) {
            // What lies there was never the guest's, or no longer is. Where bits tell, the blocks that come are absent
            // (ORD-61) and only the rest of the last one may be present.
            let told = layout.allocation.as_ref().map(|_| layout.place(layout.size.next_multiple_of(layout.granule)));
            self.data.punch(old_end..told.unwrap_or(end).min(end))?;
            self.order.barrier()?;
        }
        self.order.change_header(Session::Filling, |header| set_size(header, size))?;
        self.adopt(layout);
        Ok(())
    }

    /// ORD-61: an earlier, larger size may have left bits behind.
    fn clear_past_end(&self, layout: &Layout) -> Result<()> {
        let Some(allocation) = layout.allocation.as_ref().filter(|_| !skipped(Step::ClearShrunk)) else {
            return Ok(());
        };
        let mut at = layout.size.div_ceil(layout.granule);
        while at < allocation.capacity() {
            let run = allocation.run(at, allocation.capacity())?;
            if run.present {
                allocation.clear(at..run.end)?;
                self.order.wrote();
            }
            at = run.end;
        }
        self.order.flush(Some(allocation))
    }

    /// Moves the sections that the grown data area needs the space of, and the allocation section if it is too short.
    fn make_way(&self, layout: &mut Layout, size: u64) -> Result<()> {
        let header = self.order.header();
        let data = layout.data_offset..layout.place(size);
        let mut moved = (*header).clone();
        let mut free = data.end.next_multiple_of(PAGE_SIZE);
        free = header.sections.iter().map(|section| section.offset + section.length).fold(free, u64::max);
        for section in &mut moved.sections {
            let needed = needed_length(section, size);
            let in_way = section.offset < data.end && section.offset + section.length > data.start;
            if in_way || needed > section.length {
                section.length = needed.max(section.length);
                section.offset = free;
                free += section.length;
            }
        }
        self.move_sections(layout, &header, moved)
    }

    /// In a sidecar no data is in the way: its allocation section, if it gets too short, goes behind what there is.
    fn lengthen_section(&self, layout: &mut Layout, size: u64) -> Result<()> {
        let header = self.order.header();
        let mut moved = (*header).clone();
        let free = self.file.size()?.next_multiple_of(PAGE_SIZE);
        for section in &mut moved.sections {
            let needed = needed_length(section, size);
            if needed > section.length {
                (section.offset, section.length) = (free, needed);
            }
        }
        self.move_sections(layout, &header, moved)
    }

    /// Copies sections to the places that `moved` gives them, and makes `moved` the header.
    fn move_sections(&self, layout: &mut Layout, old: &Header, moved: Header) -> Result<()> {
        let pairs: Vec<(&Section, &Section)> =
            old.sections.iter().zip(&moved.sections).filter(|(a, b)| a != b).collect();
        if pairs.is_empty() {
            return Ok(());
        }
        for (from, to) in &pairs {
            self.order.metadata(self.zero_space(to.range()))?;
            if !skipped(Step::CopyMoved) {
                // A sector keeps its identity and index, so a section is moved byte for byte.
                self.order.metadata(copy_data(&*self.file, from.range(), to.offset))?;
            }
        }
        self.order.barrier()?;
        let sections = moved.sections.clone();
        self.order.change_header(Session::Filling, |header| header.sections = sections)?;
        self.order.settle()?;
        self.adopt(layout);
        let data = old.data_range();
        let mut reclaimed =
            pairs.iter().map(|(from, _)| from.range()).filter(|range| data.is_empty() || range.end <= data.start);
        reclaimed.try_for_each(|range| self.file.punch(range))
    }

    pub(super) fn zero_space(&self, range: Range<u64>) -> Result<()> {
        if self.file.zeros_when_new() {
            // Even if it is long enough: a run whose barrier failed may have lengthened it, in the page cache alone.
            self.file.set_size(self.file.size()?.max(range.end))?;
        }
        if skipped(Step::ZeroedSpace) { Ok(()) } else { self.file.punch(range) }
    }

    /// Replaces the parent link, durably, in one header update; content and epoch stay the same.
    ///
    /// `None` makes the image complete: its allocation section goes too. The caller has brought in every block that
    /// the new parent does not present as the old one did. `below` is what the new link speaks of.
    ///
    /// # Errors
    /// `Invalid` when a block is absent and no parent shall be (ORD-70).
    pub fn relink(&self, parent: Option<Parent>, below: Option<Arc<dyn BlockDevice>>) -> Result<()> {
        let mut layout = write(&self.layout);
        self.check_writable()?;
        let completes = parent.is_none();
        if completes && !skipped(Step::AllPresent) {
            self.check_all_present(&layout)?;
        }
        if !skipped(Step::FlushBeforeRelink) {
            self.order.flush(layout.allocation.as_ref())?;
        }
        let dropped = layout.allocation.as_ref().filter(|_| completes).map(|allocation| allocation.section().range());
        self.order.change_header(Session::Filling, |header| {
            header.parent = parent;
            if completes {
                header.sections.retain(|section| section.kind != SectionKind::Allocation);
            }
        })?;
        self.order.settle()?;
        self.adopt(&mut layout);
        layout.below = below;
        dropped.map_or(Ok(()), |range| self.file.punch(range))
    }

    fn check_all_present(&self, layout: &Layout) -> Result<()> {
        let Some(allocation) = &layout.allocation else { return Ok(()) };
        let blocks = layout.blocks(&(0..layout.size));
        if blocks.is_empty() || allocation.all_present(blocks)? {
            return Ok(());
        }
        Err(Error::Invalid(format!("{}: still needs its parent", self.name())))
    }

    /// Makes an overlay hold nothing, after all of it was merged into its parent; content and epoch stay the same.
    ///
    /// A new, empty section takes the place of the old one in one header update; then the space goes back to the host.
    pub fn empty(&self, host: &dyn Host) -> Result<()> {
        let mut layout = write(&self.layout);
        self.check_writable()?;
        let header = self.order.header();
        let Some(old) = header.allocation() else {
            return Err(Error::Invalid(format!("{}: a complete image cannot be emptied", self.name())));
        };
        self.order.begin(Session::Filling)?;
        self.order.flush(layout.allocation.as_ref())?;
        let offset = self.free_space(&header, &header.sections, old.length)?;
        let new = Section { id: Uuid(host.random()), offset, ..*old };
        self.order.metadata(self.zero_space(new.range()))?;
        self.order.barrier()?;
        self.order.change_header(Session::Filling, |header| {
            for section in header.sections.iter_mut().filter(|section| section.kind == SectionKind::Allocation) {
                *section = new;
            }
        })?;
        self.order.settle()?;
        self.adopt(&mut layout);
        self.file.punch(old.range())?;
        self.data.punch(layout.place(0)..layout.place(layout.size))
    }

    /// Room for `length` bytes of section beside `taken` and the data: the first gap, or the end of all.
    pub(super) fn free_space(&self, header: &Header, taken: &[Section], length: u64) -> Result<u64> {
        let mut taken: Vec<Range<u64>> = taken.iter().map(Section::range).collect();
        taken.push(header.data_range());
        taken.sort_by_key(|range| range.start);
        let mut at = SLOTS_END;
        for range in taken.iter().filter(|range| !range.is_empty()) {
            if at + length <= range.start {
                break;
            }
            at = at.max(range.end.next_multiple_of(PAGE_SIZE));
        }
        if !self.file.zeros_when_new() && at + length > self.file.size()? {
            return Err(Error::NoSpace { file: self.file.name().into() });
        }
        Ok(at)
    }

    /// Takes over what the header now says; what is below stays.
    pub(super) fn adopt(&self, layout: &mut Layout) {
        let below = layout.below.take();
        let header = self.order.header();
        let mut next = Layout::new(
            &header,
            &self.file,
            self.cache_bytes,
            Bitmaps::new(&header, &self.file, self.order.distrusts()),
        );
        if layout.bitmaps.fits(&header) {
            // Their bits may be in memory alone.
            std::mem::swap(&mut next.bitmaps, &mut layout.bitmaps);
        }
        next.below = below;
        next.beside = std::mem::take(&mut layout.beside);
        *layout = next;
    }
}

fn set_size(header: &mut Header, size: u64) {
    header.virtual_size = size;
    for section in header.sections.iter_mut().filter(|section| section.kind == SectionKind::Allocation) {
        section.covered = size;
    }
    cover_at_most(header, size);
    if let Some(host) = &mut header.host {
        host.length = size;
    }
}

/// What a growth brings is dirty until a bitmap is cleared (BMP-11).
fn cover_at_most(header: &mut Header, size: u64) {
    for section in header.sections.iter_mut().filter(|section| section.kind.known()) {
        section.covered = section.covered.min(size);
    }
}

/// What a section needs for a disk of `size`; others than the allocation section stay as they are.
fn needed_length(section: &Section, size: u64) -> u64 {
    match section.kind {
        SectionKind::Allocation => Section::needed_length(size, section.granularity_shift),
        _ => section.length,
    }
}

#[cfg(test)]
mod tests;
