//! Vectors of sealed sectors: whole, and damaged in every way that a seal tells.

use super::maker::{Maker, id};
use super::vector::{Role, Vector};
use super::{IMAGE, opens};
use crate::format::{BITS_PER_SECTOR, Uuid, seal};
use crate::limits::{SECTOR_SIZE, SLOTS_END};
use crate::violation::Violation as V;

pub(super) type Sector = [u8; SECTOR_SIZE as usize];

pub(super) fn all() -> Vec<Vector> {
    [whole(), damaged(), elsewhere(), many()].concat()
}

/// Bytes that the bits of one sector speak of, with 4 KiB blocks.
const SECTOR_SPAN: u64 = BITS_PER_SECTOR * 4096;

/// An overlay of three sectors' worth of blocks, some present in each.
fn three_sectors() -> Maker {
    Maker::overlay("seal", 2 * SECTOR_SPAN + 40_960, 12)
        .data(4096..8192)
        .data(SECTOR_SPAN - 4096..SECTOR_SPAN + 4096)
        .data(2 * SECTOR_SPAN + 36_864..2 * SECTOR_SPAN + 40_960)
        .garbage(8192..8704)
}

/// The sector as it is sealed.
pub(super) fn sector(maker: &Maker, number: u64) -> Sector {
    let bytes = maker.file.read(maker.sector_at(number), SECTOR_SIZE as usize);
    bytes.try_into().expect("as many bytes as were asked for")
}

/// The three sectors, of which one was changed so that nobody can read it.
fn bad(name: &str, purpose: &str, number: u64, change: impl FnOnce(&mut Sector, &Maker)) -> Vector {
    bad_of(three_sectors(), name, purpose, number, change)
}

/// The image of `maker`, one of whose sectors was changed so that nobody can read it.
pub(super) fn bad_of(
    mut maker: Maker,
    name: &str,
    purpose: &str,
    number: u64,
    change: impl FnOnce(&mut Sector, &Maker),
) -> Vector {
    maker.finish();
    let mut bytes = sector(&maker, number);
    change(&mut bytes, &maker);
    let at = maker.sector_at(number);
    maker.file.write(at, &bytes);
    maker.bad.insert(number);
    let case = maker.opens(IMAGE);
    Vector::new(name, purpose, &[V::SealedSector])
        .also(&["PAG-04", "PAG-07"])
        .file(IMAGE, Role::Image, maker.file)
        .case(case)
}

/// Makes the checksum right, so that what was changed besides is what gets judged.
pub(super) fn reseal_as(bytes: &mut Sector, maker: &Maker, index: u64) {
    seal(bytes, maker.header.allocation().expect("an overlay").id, index);
}

fn whole() -> Vec<Vector> {
    let mut empty = Maker::overlay("none", 32_768, 12).garbage(0..512);
    let mut sealed_empty = Maker::overlay("none", 32_768, 12).garbage(0..512);
    sealed_empty.seal_bits();
    let mut bytes = [0; SECTOR_SIZE as usize];
    reseal_as(&mut bytes, &sealed_empty, 0);
    sealed_empty.file.write(SLOTS_END, &bytes);
    let mut full = Maker::overlay("full", 65_536, 12).data(0..65_536);
    let mut bits = Maker::overlay("bits", 25 * 4096, 12);
    for block in [0, 1, 7, 8, 15, 17, 24] {
        bits = bits.data(block * 4096..block * 4096 + 16);
    }
    vec![
        opens("pag-empty", "A section that was never written: all bits are clear.", &[], &mut empty)
            .also(&["PAG-03", "ALC-04"]),
        opens(
            "pag-sealed_without_bits",
            "A sealed sector in which no bit is set.",
            &[V::SealedSector],
            &mut sealed_empty,
        ),
        opens("pag-all_set", "Every bit of the disk is set, those past its end are clear.", &[], &mut full)
            .also(&["ALC-03"]),
        opens("pag-bit_order", "Bits 0, 1, 7, 8, 15, 17 and 24: least significant first.", &[], &mut bits)
            .also(&["ALC-03"]),
        opens(
            "pag-three_sectors",
            "The last block of one sector, the first of the next, the last of the disk.",
            &[V::SealedSector],
            &mut three_sectors(),
        )
        .also(&["PAG-02"]),
    ]
}

fn damaged() -> Vec<Vector> {
    let flip = |name: &str, purpose: &str, at: usize, mask: u8| bad(name, purpose, 1, |bytes, _| bytes[at] ^= mask);
    vec![
        flip("pag-bit_flipped", "A bit of the payload flipped.", 3, 0x10),
        flip("pag-payload_last_byte", "A bit of the last byte of the payload flipped.", 495, 0x80),
        flip("pag-index_flipped", "A bit of the index flipped.", 496, 1),
        flip("pag-marker_flipped", "A bit of the marker flipped.", 504, 0x20),
        flip("pag-checksum_flipped", "A bit of the checksum flipped.", 511, 1),
        bad("pag-marker_other", "The marker is another, the checksum right.", 1, |bytes, maker| {
            bytes[504..508].copy_from_slice(b"seal");
            rechecksum(bytes, maker.header.allocation().expect("an overlay").id);
        }),
        bad("pag-checksum_without_id", "The section's identity is not in the checksum.", 1, |bytes, _| {
            let checksum = crc32c::crc32c(&bytes[..508]);
            bytes[508..].copy_from_slice(&checksum.to_le_bytes());
        }),
        bad("pag-checksum_big_endian", "The checksum is stored big endian.", 1, |bytes, _| bytes[508..].reverse()),
        bad("pag-zeroed_but_marker", "All zeros but the marker.", 1, |bytes, _| {
            *bytes = [0; SECTOR_SIZE as usize];
            bytes[504..508].copy_from_slice(b"SEAL");
        }),
        bad("pag-zeroed_but_one_bit", "All zeros but one bit: not empty.", 1, |bytes, _| {
            *bytes = [0; SECTOR_SIZE as usize];
            bytes[100] = 1;
        }),
        bad(
            "pag-half_zeroed",
            "The second half is zeros: the host did not keep its promise about sectors.",
            1,
            |b, _| b[256..].fill(0),
        ),
        bad("pag-ones", "All ones.", 1, |bytes, _| bytes.fill(0xff)),
        bad("pag-noise_in_empty", "A sector that had no bits holds noise.", 1, |bytes, _| {
            bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 37) as u8)
        }),
    ]
}

/// Sectors that are right, somewhere else.
fn elsewhere() -> Vec<Vector> {
    vec![
        bad("pag-misdirected", "Sector 0 was written over sector 1.", 1, |bytes, maker| *bytes = sector(maker, 0)),
        bad("pag-misdirected_down", "Sector 2 was written over sector 0.", 0, |bytes, maker| *bytes = sector(maker, 2)),
        bad("pag-index_of_bit", "The index counts bits instead of sectors.", 1, |bytes, maker| {
            reseal_as(bytes, maker, BITS_PER_SECTOR)
        }),
        bad("pag-index_from_1", "The index counts from 1.", 1, |bytes, maker| reseal_as(bytes, maker, 2)),
        bad("pag-index_high_word", "The index is right in its low 32 bits only.", 1, |bytes, maker| {
            reseal_as(bytes, maker, 1 | 1 << 32)
        }),
        bad("pag-foreign", "The sector of another section, whose space this was.", 1, |bytes, _| {
            seal(bytes, id("an older section"), 1)
        }),
        bad("pag-foreign_nil", "Sealed for a nil identity.", 1, |bytes, _| seal(bytes, Uuid::NIL, 1)),
    ]
}

fn many() -> Vec<Vector> {
    let mut two = three_sectors();
    two.finish();
    for number in [0, 2] {
        let at = two.sector_at(number);
        two.file.write(at + 5, &[0x77]);
        two.bad.insert(number);
    }
    let mut last = three_sectors();
    last.finish();
    last.file.write(last.sector_at(2) + 400, b"rot");
    last.bad.insert(2);
    let mut past = three_sectors();
    past.finish();
    past.file.write(past.sector_at(5) + 8, b"never needed");
    let vector = |name: &str, purpose: &str, maker: &Maker| {
        Vector::new(name, purpose, &[V::SealedSector])
            .file(IMAGE, Role::Image, maker.file.clone())
            .case(maker.opens(IMAGE))
    };
    vec![
        vector("pag-two_bad", "The first and the last sector are bad; what lies between is served.", &two)
            .also(&["PAG-04", "PAG-07"]),
        vector("pag-last_bad", "The sector of the disk's last, few blocks is bad.", &last).also(&["PAG-04"]),
        vector("pag-bad_past_end", "A bad sector none of whose bits speaks of the disk.", &past).also(&["ALC-07"]),
    ]
}

/// Makes the checksum right, and nothing else.
pub(super) fn rechecksum(bytes: &mut Sector, id: Uuid) {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&id.0), &bytes[..508]);
    bytes[508..].copy_from_slice(&checksum.to_le_bytes());
}
