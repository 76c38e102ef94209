//! A bitmap section: where it lies, what its bits speak of, and how much room they need.

use super::flaw::{require, support};
use super::kinds::SectionKind;
use super::seal::{BITS_PER_PAGE, BITS_PER_SECTOR};
use super::{Flaw, Uuid};
use crate::limits::{GRANULARITY_SHIFTS, INTENT_SHIFTS, MAX_OFFSET, PAGE_SIZE, SLOTS_END};
use crate::violation::Violation;
use std::ops::Range;

/// A range of the file that holds bits in sealed sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its random identity, which seeds the checksums of its sectors.
    pub id: Uuid,
    /// What its bits say.
    pub kind: SectionKind,
    /// One bit speaks of 2^this bytes of the disk.
    pub granularity_shift: u8,
    /// Whether a file is refused by whoever does not know the kind.
    pub required: bool,
    /// Where it lies in the file, in bytes.
    pub offset: u64,
    /// How long it is in the file, in bytes; may be longer than its bits need.
    pub length: u64,
    /// Bytes of the disk, from its start, that the bits speak of.
    pub covered: u64,
}

impl Section {
    /// Bytes of the disk that one bit speaks of.
    pub fn granule(&self) -> u64 {
        1u64.checked_shl(self.granularity_shift.into()).unwrap_or(u64::MAX)
    }

    /// How many bits have a meaning.
    pub fn bits(&self) -> u64 {
        self.covered.div_ceil(self.granule())
    }

    /// Sealed sectors that hold those bits.
    pub fn sectors(&self) -> u64 {
        self.bits().div_ceil(BITS_PER_SECTOR)
    }

    /// Pages that hold those bits.
    pub fn pages(&self) -> u64 {
        self.bits().div_ceil(BITS_PER_PAGE)
    }

    /// The bytes of the file that it takes.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }

    /// Bytes of the file that a section needs whose bits speak of `covered` bytes, 2^`shift` each: whole pages.
    pub fn needed_length(covered: u64, shift: u8) -> u64 {
        let granule = 1u64.checked_shl(shift.into()).unwrap_or(u64::MAX);
        // No overflow: there are at most 2^64 / 31744 pages.
        covered.div_ceil(granule).div_ceil(BITS_PER_PAGE) * PAGE_SIZE
    }

    /// Holds the section against the rules that need no more than itself.
    pub(super) fn check(&self) -> Result<(), Flaw> {
        support(self.kind.known() || !self.required, Violation::SectionKind, || format!("a section of {}", self.kind))?;
        require(self.required || self.kind != SectionKind::Allocation, Violation::KnownRecordRequired)?;
        let aligned = self.offset.is_multiple_of(PAGE_SIZE) && self.length.is_multiple_of(PAGE_SIZE);
        let end = self.offset.checked_add(self.length);
        let placed = self.offset >= SLOTS_END && end.is_some_and(|end| end <= MAX_OFFSET);
        require(aligned && placed, Violation::SectionPlace)?;
        require(!self.id.is_nil(), Violation::SectionId)?;
        // What the bits of an unknown kind mean, or whether it has any, is not known either.
        if self.kind.known() {
            let shifts = if self.kind == SectionKind::Intent { INTENT_SHIFTS } else { GRANULARITY_SHIFTS };
            require(shifts.contains(&self.granularity_shift), Violation::Granularity)?;
            let needed = Section::needed_length(self.covered, self.granularity_shift);
            require(self.length >= needed, Violation::SectionLength)?;
        }
        Ok(())
    }
}
