//! Sealed sectors: the 512-byte unit of every bitmap section, and the only place that computes their checksum.
//!
//! A host writes a sector old-or-new, so one copy is enough; the seal tells a sector apart from another
//! section's, from one that lies elsewhere, and from rot.

use super::Uuid;
use super::layout::{Bytes, OnDisk, on_disk};
use crate::switch::unchecked;
use crate::violation::Violation;
use crate::zeros::is_zero;

/// Bytes of a sealed sector that carry bits.
pub const PAYLOAD_BYTES: usize = 496;
/// Bits of a sealed sector.
pub const BITS_PER_SECTOR: u64 = PAYLOAD_BYTES as u64 * 8;
/// Sealed sectors of a page.
pub const SECTORS_PER_PAGE: u64 = 8;
/// Bits of a page.
pub const BITS_PER_PAGE: u64 = SECTORS_PER_PAGE * BITS_PER_SECTOR;

/// Bytes of a sector that its checksum covers.
const COVERED: usize = 508;
const MARKER: [u8; 4] = *b"SEAL";

on_disk! {
    /// Bits and what vouches for them.
    SealedSector, table "Sealed sector" {
        bits: Bytes<PAYLOAD_BYTES>,
        index: u64,
        marker: Bytes<4>,
        checksum: u32,
    }
}

/// What a sector of a bitmap section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectorState {
    /// Never written: all zeros, every bit clear.
    Empty,
    /// Bits that can be trusted.
    Sealed,
    /// Anything else: torn, misplaced, foreign or rotten. Its bits are not known (rule PAG-01).
    Bad,
}

/// Completes a sector whose payload is in place: its index in the section `id`, the marker and the checksum.
pub fn seal(sector: &mut [u8; 512], id: Uuid, index: u64) {
    let (payload, _) = sector.split_first_chunk::<PAYLOAD_BYTES>().expect("a sector is longer than its payload");
    let mut sealed = SealedSector { bits: Bytes(*payload), index, marker: Bytes(MARKER), checksum: 0 };
    sector.copy_from_slice(&sealed.to_bytes());
    sealed.checksum = checksum(sector, id);
    sector[COVERED..].copy_from_slice(&sealed.checksum.to_le_bytes());
}

/// What the sector with number `index` of the section `id` holds.
pub fn check_sector(sector: &[u8; 512], id: Uuid, index: u64) -> SectorState {
    if is_zero(sector) {
        return SectorState::Empty;
    }
    let whole = SealedSector::parse(sector)
        .is_some_and(|s| s.marker == Bytes(MARKER) && s.index == index && s.checksum == checksum(sector, id));
    if whole || unchecked(Violation::SealedSector) { SectorState::Sealed } else { SectorState::Bad }
}

/// crc32c of the section's identity followed by all of the sector but the checksum itself.
fn checksum(sector: &[u8; 512], id: Uuid) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&id.0), &sector[..COVERED])
}
