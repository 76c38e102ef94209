//! Sealed sectors, each byte of what seals them, in each kind of place.

use crate::format::{BITS_PER_SECTOR, Uuid, seal};
use crate::limits::SECTOR_SIZE;
use crate::testing::vectors::maker::{Maker, id};
use crate::testing::vectors::pag::{Sector, bad_of, rechecksum, reseal_as, sector};
use crate::testing::vectors::vector::Vector;

pub(super) fn all() -> Vec<Vector> {
    [places(), payloads(), indexes(), markers(), checksums(), torn()].concat()
}

/// Bytes that the bits of one sector speak of.
const SPAN: u64 = BITS_PER_SECTOR * 4096;
/// Bit 3 of each of these sectors is set, the last ones of the first page and of the disk among them.
const USED: [u64; 5] = [0, 3, 7, 8, 9];
/// The one in which most is tried.
const TRIED: u64 = 3;

/// An overlay whose bits need ten sectors, of two pages.
fn ten_sectors() -> Maker {
    let block = |sector: u64| sector * SPAN + 3 * 4096;
    USED.iter().fold(Maker::overlay("seal", 9 * SPAN + 40_960, 12), |maker, &sector| {
        maker.data(block(sector)..block(sector) + 512)
    })
}

fn owner(maker: &Maker) -> Uuid {
    maker.header.allocation().expect("an overlay has one").id
}

/// What is done to a sector, and to which one.
pub(super) type Damage = fn(&mut Sector, &Maker, u64);

fn bad(name: &str, purpose: &str, number: u64, damage: impl FnOnce(&mut Sector, &Maker)) -> Vector {
    bad_of(ten_sectors(), &format!("pag-{name}"), purpose, number, damage)
}

/// One bit, the index, the marker and the checksum, each at each kind of place.
fn places() -> Vec<Vector> {
    let places = [
        (0, "the first sector"),
        (3, "a sector within a page"),
        (7, "the last sector of the first page"),
        (8, "the first sector of the second page"),
        (9, "the last sector that the bits need"),
    ];
    let damages: [(&str, &str, Damage); 4] = [
        ("bit", "A bit of the payload flipped", |bytes, _, _| bytes[0] ^= 0x10),
        ("index", "The index is one too high, the checksum right", |bytes, maker, number| {
            reseal_as(bytes, maker, number + 1)
        }),
        ("marker", "The marker is zeros, the checksum right", |bytes, maker, _| {
            bytes[504..508].fill(0);
            rechecksum(bytes, owner(maker));
        }),
        ("checksum", "The checksum is zero", |bytes, _, _| bytes[508..].fill(0)),
    ];
    let mut vectors = Vec::new();
    for (number, place) in places {
        for (name, what, damage) in damages {
            let (name, purpose) = (format!("sector_{number}-{name}"), format!("{what}: {place}."));
            vectors.push(bad(&name, &purpose, number, |bytes, maker| damage(bytes, maker, number)));
        }
    }
    vectors
}

/// Bits that flipped, and zeros in the place of parts, with nothing made right again.
fn payloads() -> Vec<Vector> {
    let flips = [
        ("payload_first_byte", "A bit of the first byte of the payload flipped.", 0, 0x80),
        ("payload_middle", "A bit in the middle of the payload flipped.", 248, 0x01),
        ("index_middle_flipped", "A bit in the middle of the index flipped.", 500, 0x01),
        ("index_last_flipped", "The highest bit of the index flipped.", 503, 0x80),
        ("marker_last_flipped", "A bit of the last byte of the marker flipped.", 507, 0x20),
        ("checksum_first_flipped", "A bit of the first byte of the checksum flipped.", 508, 0x01),
        ("checksum_middle_flipped", "A bit in the middle of the checksum flipped.", 510, 0x10),
    ];
    let zeroed = [
        ("payload_zeroed", "The payload is zeros under a seal of other bits.", 0..496),
        ("seal_zeroed", "The payload alone is left of a sealed sector.", 496..512),
        ("zeroed_but_seal_checksum", "All zeros but the checksum.", 0..508),
        ("zeroed_first_half", "The first half is zeros.", 0..256),
    ];
    let flips = flips.map(|(name, purpose, at, mask)| bad(name, purpose, TRIED, |bytes, _| bytes[at] ^= mask));
    let zeroed = zeroed.map(|(name, purpose, range)| bad(name, purpose, TRIED, |bytes, _| bytes[range].fill(0)));
    flips.into_iter().chain(zeroed).collect()
}

/// Other numbers in the place of the index, 3, under a right checksum.
fn indexes() -> Vec<Vector> {
    [
        ("index_0", "The index is 0.", 0),
        ("index_less_1", "The index is one too low.", 2),
        ("index_of_byte", "The index counts bytes.", 3 * SECTOR_SIZE),
        ("index_of_file", "The index counts sectors of the file.", 131_072 / SECTOR_SIZE + 3),
        ("index_second_byte", "The index is right in its low byte only.", 0x103),
        ("index_high_bit", "The index is right but for its highest bit.", 1 << 63 | 3),
        ("index_big_endian", "The index is stored big endian.", 3u64.swap_bytes()),
        ("index_ones", "The index is all ones.", u64::MAX),
    ]
    .map(|(name, purpose, index)| bad(name, purpose, TRIED, |bytes, maker| reseal_as(bytes, maker, index)))
    .into()
}

/// Other markers under a right checksum.
fn markers() -> Vec<Vector> {
    [
        ("marker_byte_0", "The first letter of the marker is another.", b"TEAL"),
        ("marker_byte_1", "The second letter of the marker is another.", b"SFAL"),
        ("marker_byte_2", "The third letter of the marker is another.", b"SEBL"),
        ("marker_byte_3", "The last letter of the marker is another.", b"SEAM"),
        ("marker_reversed", "The marker is stored backwards.", b"LAES"),
        ("marker_ones", "The marker is all ones.", b"\xff\xff\xff\xff"),
    ]
    .map(|(name, purpose, marker)| {
        bad(name, purpose, TRIED, |bytes, maker| {
            bytes[504..508].copy_from_slice(marker);
            rechecksum(bytes, owner(maker));
        })
    })
    .into()
}

/// A checksum of a sector and of the identity of its section.
type Checksum = fn(&Sector, &[u8; 16]) -> u32;

/// Checksums that somebody might compute: from what is there and from what it is sealed for.
fn checksums() -> Vec<Vector> {
    let other_id = |name: &str, purpose: &str, id: fn(&Maker) -> Uuid| {
        bad(name, purpose, TRIED, |bytes, maker| seal(bytes, id(maker), TRIED))
    };
    let rows: [(&str, &str, Checksum); 8] = [
        ("checksum_id_behind", "The section's identity comes behind the sector instead of before it.", |bytes, id| {
            crc32c::crc32c(&[&bytes[..508], &id[..]].concat())
        }),
        ("checksum_of_bits", "The checksum is that of identity and payload alone.", |bytes, id| {
            crc32c::crc32c(&[&id[..], &bytes[..496]].concat())
        }),
        ("checksum_of_512", "The checksum is that of all 512 bytes, its own place as zeros.", |bytes, id| {
            crc32c::crc32c(&[&id[..], &bytes[..508], &[0; 4]].concat())
        }),
        ("checksum_of_id", "The checksum is that of the identity alone.", |_, id| crc32c::crc32c(id)),
        ("checksum_complement", "The final exclusive-or was left out.", |bytes, id| {
            !crc32c::crc32c(&[&id[..], &bytes[..508]].concat())
        }),
        ("checksum_begun_with_0", "The initial value is 0.", |bytes, id| {
            crc32c::crc32c_append(u32::MAX, &[&id[..], &bytes[..508]].concat())
        }),
        ("checksum_and_1", "The checksum is one more than it should be.", |bytes, id| {
            crc32c::crc32c(&[&id[..], &bytes[..508]].concat()).wrapping_add(1)
        }),
        ("checksum_ones", "The checksum is all ones.", |_, _| u32::MAX),
    ];
    let mut vectors: Vec<Vector> = rows
        .map(|(name, purpose, checksum)| {
            bad(name, purpose, TRIED, |bytes, maker| {
                let checksum = checksum(bytes, &owner(maker).0);
                bytes[508..].copy_from_slice(&checksum.to_le_bytes());
            })
        })
        .into();
    vectors.extend([
        other_id("foreign_disk", "Sealed for the UUID of the disk.", |maker| maker.header.uuid),
        other_id("foreign_first_byte", "Sealed for an identity that differs in the first byte.", |maker| {
            let mut id = owner(maker);
            id.0[0] ^= 1;
            id
        }),
        other_id("foreign_last_byte", "Sealed for an identity that differs in the last byte.", |maker| {
            let mut id = owner(maker);
            id.0[15] ^= 0x80;
            id
        }),
        other_id("foreign_swapped", "The first three parts of the identity are byte-swapped, as in a GUID.", |maker| {
            swapped(owner(maker))
        }),
        other_id("foreign_reversed", "The identity is taken backwards.", |maker| {
            let mut id = owner(maker);
            id.0.reverse();
            id
        }),
        other_id("foreign_copy", "Sealed for the section of a copy made by somebody else.", |_| {
            id("a copy, allocation")
        }),
    ]);
    vectors
}

/// As Windows stores a UUID: its first three parts are numbers, little endian.
pub(super) fn swapped(mut id: Uuid) -> Uuid {
    for part in [0..4, 4..6, 6..8] {
        id.0[part].reverse();
    }
    id
}

/// A sector that is part old, part new; the new one has two bits more. A host that writes whole sectors leaves none.
fn torn() -> Vec<Vector> {
    let rows: [(&str, &str, std::ops::Range<usize>); 4] = [
        ("torn_first_half", "The first half is new, the second one, with the seal, old.", 0..256),
        ("torn_second_half", "The first half is old, the second one, with the seal, new.", 256..512),
        ("torn_payload", "The payload is new, the seal old.", 0..496),
        ("torn_checksum", "The checksum is new, all before it old.", 508..512),
    ];
    rows.map(|(name, purpose, new)| {
        bad(name, purpose, TRIED, |bytes, maker| {
            let mut newer = sector(maker, TRIED);
            newer[10] |= 1;
            newer[400] |= 1;
            reseal_as(&mut newer, maker, TRIED);
            bytes[new.clone()].copy_from_slice(&newer[new]);
        })
    })
    .into()
}
