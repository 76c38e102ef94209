//! The stated maxima of the format (`spec/format.md`, limits): every length read from a file is held against one.

/// Metadata is written in pages of this many bytes.
pub const PAGE_SIZE: u64 = 4096;
/// What the host writes old-or-new, and what one seal covers.
pub const SECTOR_SIZE: u64 = 512;
/// Bytes of one header slot; the second slot starts here.
pub const SLOT_SIZE: u64 = 64 << 10;
/// First byte that belongs to neither header slot.
pub const SLOTS_END: u64 = 2 * SLOT_SIZE;
/// Largest virtual size, and largest data offset.
pub const MAX_SIZE: u64 = 1 << 60;
/// Largest end of anything in a file.
pub const MAX_OFFSET: u64 = 1 << 61;
/// Smallest and largest granularity, as powers of two.
pub const GRANULARITY_SHIFTS: std::ops::RangeInclusive<u8> = 12..=24;
/// The same for the regions of an intent section.
pub const INTENT_SHIFTS: std::ops::RangeInclusive<u8> = 12..=48;
/// Bytes of a bitmap's name.
pub const BITMAP_NAME: std::ops::RangeInclusive<usize> = 1..=1023;
/// Most bits of an intent section that is read.
pub const MAX_INTENTS: u64 = 1 << 16;
/// Most bits of a dirty bitmap.
pub const MAX_BITMAP_BITS: u64 = 1 << 36;
/// Most sections in one file.
pub const MAX_SECTIONS: usize = 64;
/// Longest parent hint in bytes.
pub const MAX_HINT: usize = 4096;
/// Chains deeper than this are refused unless the caller allows more.
pub const DEFAULT_DEPTH: usize = 64;
