//! The rules that a header keeps as a whole, whether it was read or is about to be written.

use super::flaw::{require, support};
use super::kinds::{HostFormat, Kind, SectionKind};
use super::record::{REQUIRED, known};
use super::{Flaw, Header};
use crate::limits::{MAX_SECTIONS, MAX_SIZE, PAGE_SIZE, SLOTS_END};
use crate::violation::Violation;
use std::ops::RangeInclusive;

/// Sequence numbers that a header can have: there is always room for a next one in 64 bits.
const SEQUENCES: RangeInclusive<u64> = 1..=i64::MAX as u64;
/// Incompatible features that this version has.
pub(super) const KNOWN_INCOMPAT: u64 = 0;
/// A feature that a writer has to know: a group decides whether the disk has moved.
pub(super) const IN_GROUP: u64 = 1;
/// Features that this version can write beside.
const KNOWN_RO_COMPAT: u64 = IN_GROUP;

impl Header {
    /// Holds the header against every rule that its bytes alone can break.
    ///
    /// Not the feature words: whoever only reads does not mind [`writable`](Self::writable).
    pub fn validate(&self) -> Result<(), Flaw> {
        self.check_features()?;
        self.check_fields()?;
        self.check_records()?;
        self.check_group()?;
        self.check_sections()?;
        self.check_overlap()
    }

    /// Refuses to write a file that has a feature this version would break (HDR-09).
    pub fn writable(&self) -> Result<(), Flaw> {
        let unknown = self.ro_compat & !KNOWN_RO_COMPAT;
        support(unknown == 0, Violation::ReadOnlyFeature, || format!("writing beside the features {unknown:#x}"))
    }

    /// Holds the header against a file of `size` bytes: its data area and its allocation section lie within.
    pub fn check_size(&self, size: u64) -> Result<(), Flaw> {
        require(size >= SLOTS_END, Violation::Slots)?;
        require(self.data_end() <= size, Violation::DataArea)?;
        require(self.allocation().is_none_or(|section| section.range().end <= size), Violation::SectionInFile)
    }

    pub(super) fn check_features(&self) -> Result<(), Flaw> {
        let unknown = self.incompat & !KNOWN_INCOMPAT;
        support(unknown == 0, Violation::IncompatibleFeature, || format!("the incompatible features {unknown:#x}"))
    }

    fn check_fields(&self) -> Result<(), Flaw> {
        require(SEQUENCES.contains(&self.sequence), Violation::Sequence)?;
        require(!self.uuid.is_nil() && !self.epoch.is_nil(), Violation::Identity)?;
        require(self.virtual_size <= MAX_SIZE, Violation::VirtualSize)?;
        let placed = match self.kind {
            Kind::Image => {
                self.data_offset.is_multiple_of(PAGE_SIZE) && (SLOTS_END..=MAX_SIZE).contains(&self.data_offset)
            }
            Kind::Sidecar | Kind::Group => self.data_offset == 0,
        };
        require(placed, Violation::DataOffset)
    }

    fn check_records(&self) -> Result<(), Flaw> {
        for record in &self.unknown {
            let (number, required) = (record.record_type, record.flags & REQUIRED != 0);
            support(!required, Violation::RequiredRecord, || format!("a record of type {number}"))?;
            support(record.flags & !REQUIRED == 0, Violation::RecordFlags, || format!("flags of type {number}"))?;
            // A known type among the unknown would be read as what it is.
            require(!known(number), Violation::RecordLength)?;
        }
        if let Some(mark) = &self.merge_mark {
            mark.check()?;
        }
        if let Some(parent) = &self.parent {
            parent.check()?;
            require(self.allocation().is_some(), Violation::ParentNeedsAllocation)?;
            require(parent.visible_length <= self.virtual_size, Violation::VisibleLength)?;
        }
        Ok(())
    }

    /// The file that decides, and the disks that it decides about.
    fn check_group(&self) -> Result<(), Flaw> {
        let named = self.group_mark.is_none_or(|mark| !mark.group.is_nil());
        let flagged = self.ro_compat & IN_GROUP != 0;
        require(named && flagged == self.group_mark.is_some(), Violation::GroupMark)?;
        let decides = self.kind == Kind::Group;
        require(decides == self.decision.is_some(), Violation::DecisionHome)?;
        let marked = self.merge_mark.is_some() || self.copy_mark.is_some() || self.group_mark.is_some();
        let disk = self.virtual_size > 0 || self.parent.is_some() || self.host.is_some() || !self.sections.is_empty();
        require(!decides || !marked && !disk, Violation::GroupAlone)
    }

    fn check_sections(&self) -> Result<(), Flaw> {
        require(self.sections.len() <= MAX_SECTIONS, Violation::RecordCount)?;
        self.sections.iter().try_for_each(|section| section.check())?;
        let mut ids: Vec<_> = self.sections.iter().map(|section| section.id).collect();
        ids.sort_unstable();
        require(ids.windows(2).all(|pair| pair[0] != pair[1]), Violation::SectionId)?;

        let mut allocations = self.sections.iter().filter(|section| section.kind == SectionKind::Allocation);
        if let Some(section) = allocations.next() {
            require(allocations.next().is_none(), Violation::AllocationCovers)?;
            require(section.covered == self.virtual_size, Violation::AllocationCovers)?;
        }
        // SEC-09 and SID-01 both ask for a host; each file without one breaks the rule that says more about it.
        let homeless = if self.allocation().is_some() { Violation::AllocationHome } else { Violation::SidecarHost };
        let own = self.host.is_none_or(|host| host.format == HostFormat::Raw) || self.allocation().is_none();
        require(own, Violation::AllocationHome)?;
        require(self.kind != Kind::Sidecar || self.host.is_some(), homeless)?;
        require(self.kind != Kind::Image || self.host.is_none(), Violation::SidecarHost)?;
        require(self.host.is_none_or(|host| host.length >= self.virtual_size), Violation::HostCovers)
    }

    /// Header slots, data area and sections share no byte, sections of unknown kinds included.
    fn check_overlap(&self) -> Result<(), Flaw> {
        let mut taken: Vec<_> = self.sections.iter().map(|section| section.range()).collect();
        taken.push(0..SLOTS_END);
        if self.kind == Kind::Image {
            taken.push(self.data_range());
        }
        taken.retain(|range| !range.is_empty());
        taken.sort_unstable_by_key(|range| range.start);
        require(taken.windows(2).all(|pair| pair[0].end <= pair[1].start), Violation::Overlap)
    }
}
