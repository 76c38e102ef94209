//! The fixed header of a complete image, its checksum, and how much of the file there is.

use super::Value::{Bytes, Eight, Four, Two};
use super::{Row, answer, everything, spoilt};
use crate::limits::{MAX_SIZE, SLOT_SIZE, SLOTS_END};
use crate::testing::vectors::draft::Draft;
use crate::testing::vectors::vector::{Case, Role, Vector};
use crate::testing::vectors::{IMAGE, plain, refused};
use crate::violation::Violation as V;

pub(super) fn all() -> Vec<Vector> {
    let fields = FIELDS.iter().map(|&(name, purpose, at, value, rules)| {
        spoilt(name, purpose, rules, plain(), |draft| draft.put_late(at, &value.bytes()))
    });
    fields.chain(checksums()).chain(flipped()).chain(lengths()).collect()
}

const FIELDS: &[Row] = &[
    ("hdr-magic-byte_1", "The L of the magic is a small letter.", 1, Bytes(b"l"), &[V::Magic]),
    ("hdr-magic-byte_2", "The V of the magic is another letter.", 2, Bytes(b"W"), &[V::Magic]),
    ("hdr-magic-byte_3", "The D of the magic is a small letter.", 3, Bytes(b"d"), &[V::Magic]),
    ("hdr-magic-carriage_return", "The carriage return of the magic became a line feed.", 4, Bytes(b"\n"), &[V::Magic]),
    ("hdr-magic-line_feed", "The first line feed of the magic became a carriage return.", 5, Bytes(b"\r"), &[V::Magic]),
    ("hdr-magic-control_z", "The control-Z of the magic became a zero.", 6, Bytes(b"\0"), &[V::Magic]),
    ("hdr-magic-reversed", "The magic is stored backwards.", 0, Bytes(b"\n\x1a\n\rDVL\x89"), &[V::Magic]),
    ("hdr-version-257", "The version's low byte is 1, and so is the next one.", 8, Four(257), &[V::Version]),
    ("hdr-version-65537", "The version's low half is 1, and so is the high one.", 8, Four(65_537), &[V::Version]),
    ("hdr-version-high_bit", "The version is 1 and has its highest bit set.", 8, Four(0x8000_0001), &[V::Version]),
    ("hdr-version-ones", "The version is all ones.", 8, Four(u32::MAX), &[V::Version]),
    ("hdr-length-8", "The header's length is that of the magic.", 12, Four(8), &[V::HeaderLength]),
    ("hdr-length-127", "The header's length is a byte less than the least.", 12, Four(127), &[V::HeaderLength]),
    ("hdr-length-129", "The header's length is a byte more than the least.", 12, Four(129), &[V::HeaderLength]),
    ("hdr-length-slot_less_1", "The header's length is a byte less than a slot.", 12, Four(65_535), &[V::HeaderLength]),
    ("hdr-length-slot_and_1", "The header's length is a byte more than a slot.", 12, Four(65_537), &[V::HeaderLength]),
    ("hdr-length-big_endian", "The header's length is stored big endian.", 12, Four(128 << 24), &[V::HeaderLength]),
    ("hdr-length-ones", "The header's length is all ones.", 12, Four(u32::MAX), &[V::HeaderLength]),
    ("hdr-kind-big_endian", "The kind is stored big endian.", 20, Two(0x100), &[V::Kind]),
    ("hdr-kind-high_bit", "The kind is 1 and has its highest bit set.", 20, Two(0x8001), &[V::Kind]),
    ("hdr-kind-ones", "The kind is all ones.", 20, Two(u16::MAX), &[V::Kind]),
    ("hdr-state-big_endian", "The state writing is stored big endian.", 22, Two(0x200), &[V::State]),
    ("hdr-state-high_bit", "The state has its highest bit set, and no other.", 22, Two(0x8000), &[V::State]),
    ("hdr-state-ones", "The state is all ones.", 22, Two(u16::MAX), &[V::State]),
    (
        "hdr-sequence-2_63_and_1",
        "The sequence number is 1 and has its highest bit set.",
        24,
        Eight(1 << 63 | 1),
        &[V::Sequence],
    ),
    ("hdr-size-2_61", "The virtual size is twice the most.", 64, Eight(1 << 61), &[V::VirtualSize]),
    ("hdr-size-high_bit", "The virtual size is 2^63.", 64, Eight(1 << 63), &[V::VirtualSize]),
    (
        "hdr-size-ones",
        "The virtual size is all ones: added to the data offset it wraps.",
        64,
        Eight(u64::MAX),
        &[V::VirtualSize],
    ),
    (
        "hdr-size-big_endian",
        "The virtual size is stored big endian, and still a size.",
        64,
        Eight(12_288u64.swap_bytes()),
        &[V::DataArea],
    ),
    (
        "hdr-size-max_in_short_file",
        "The largest size, in a file that has three pages of it.",
        64,
        Eight(MAX_SIZE),
        &[V::DataArea],
    ),
    (
        "hdr-data_offset-page_0",
        "The data area begins at the second page of slot 0.",
        72,
        Eight(4096),
        &[V::DataOffset, V::Overlap],
    ),
    (
        "hdr-data_offset-slot_1",
        "The data area begins where slot 1 does.",
        72,
        Eight(SLOT_SIZE),
        &[V::DataOffset, V::Overlap],
    ),
    (
        "hdr-data_offset-less_1",
        "The data area begins with the last byte of slot 1.",
        72,
        Eight(SLOTS_END - 1),
        &[V::DataOffset, V::Overlap],
    ),
    (
        "hdr-data_offset-and_1",
        "The data offset is a byte more than the least.",
        72,
        Eight(SLOTS_END + 1),
        &[V::DataOffset],
    ),
    (
        "hdr-data_offset-half_page",
        "The data offset is half a page more than the least.",
        72,
        Eight(SLOTS_END + 2048),
        &[V::DataOffset],
    ),
    ("hdr-data_offset-2_61", "The data offset is twice the most.", 72, Eight(1 << 61), &[V::DataOffset]),
    (
        "hdr-data_offset-high_bit",
        "The data offset is right but for its highest bit.",
        72,
        Eight(1 << 63 | SLOTS_END),
        &[V::DataOffset],
    ),
    ("hdr-data_offset-ones", "The data offset is all ones.", 72, Eight(u64::MAX), &[V::DataOffset]),
    (
        "hdr-data_offset-big_endian",
        "The data offset is stored big endian, and still an offset.",
        72,
        Eight(SLOTS_END.swap_bytes()),
        &[V::DataArea],
    ),
    (
        "hdr-data_offset-page_on",
        "The data offset is a page more: the data area ends a page behind the file.",
        72,
        Eight(SLOTS_END + 4096),
        &[V::DataArea],
    ),
    (
        "hdr-data_offset-max_in_short_file",
        "The largest data offset, in a file that ends long before.",
        72,
        Eight(MAX_SIZE),
        &[V::DataArea],
    ),
    (
        "hdr-incompat-bit_31",
        "The last bit of the first half of the word.",
        80,
        Eight(1 << 31),
        &[V::IncompatibleFeature],
    ),
    (
        "hdr-incompat-bit_32",
        "The first bit of the second half of the word.",
        80,
        Eight(1 << 32),
        &[V::IncompatibleFeature],
    ),
    ("hdr-incompat-ones", "All incompatible features.", 80, Eight(u64::MAX), &[V::IncompatibleFeature]),
    ("hdr-count-1_of_0", "A record is counted and the header has none.", 104, Four(1), &[V::RecordWalk]),
    ("hdr-count-high_bit", "2^31 records are counted and the header has none.", 104, Four(1 << 31), &[V::RecordWalk]),
    ("hdr-reserved-middle", "A reserved byte in the middle is not zero.", 117, Bytes(&[0x10]), &[V::HeaderReserved]),
    ("hdr-reserved-ones", "All reserved bytes are ones.", 108, Bytes(&[0xff; 20]), &[V::HeaderReserved]),
];

/// A vector both of whose slots hold `slot`, whose checksum is wrong.
fn torn(name: &str, purpose: &str, slot: &[u8]) -> Vector {
    refused(name, purpose, V::HeaderChecksum, answer(V::HeaderChecksum), plain(), slot)
}

/// Checksums that somebody might compute.
fn checksums() -> Vec<Vector> {
    let right = Draft::of(&plain().header).slot();
    let zeroed = [&right[..16], &[0; 4], &right[20..]].concat();
    let of = |bytes: &[u8]| crc32c::crc32c(bytes);
    let is = u32::from_le_bytes([right[16], right[17], right[18], right[19]]);
    let mut former = zeroed[..128].to_vec();
    former[24] ^= 1;
    [
        ("hdr-checksum-begun_with_0", "The initial value is 0.", crc32c::crc32c_append(u32::MAX, &zeroed[..128])),
        ("hdr-checksum-of_slot", "Computed over all of the slot.", of(&zeroed)),
        ("hdr-checksum-of_less", "Computed without the last eight bytes.", of(&zeroed[..120])),
        ("hdr-checksum-of_more", "Computed over eight bytes too many.", of(&zeroed[..136])),
        ("hdr-checksum-field_left_out", "The field itself was left out instead of zeroed.", {
            of(&[&right[..16], &right[20..128]].concat())
        }),
        ("hdr-checksum-of_other_sequence", "That of the header with another sequence number.", of(&former)),
        ("hdr-checksum-halves_swapped", "Its halves are swapped.", is.rotate_left(16)),
        ("hdr-checksum-ones", "All ones.", u32::MAX),
        ("hdr-checksum-and_1", "One more than it should be.", is.wrapping_add(1)),
    ]
    .map(|(name, purpose, checksum)| {
        let mut slot = right.clone();
        slot[16..20].copy_from_slice(&checksum.to_le_bytes());
        torn(name, purpose, &slot)
    })
    .into()
}

/// What lies under the checksum is not looked at if that is wrong.
fn flipped() -> Vec<Vector> {
    let flip = |right: &[u8], name: &str, what: &str, at: usize, mask: u8| {
        let mut slot = right.to_vec();
        slot[at] ^= mask;
        let purpose = format!("A bit of {what} flipped after the checksum.");
        torn(&format!("hdr-checksum-{name}_flipped"), &purpose, &slot)
    };
    let plain = Draft::of(&plain().header).slot();
    let all = Draft::of(&everything().maker.header).slot();
    let length = u32::from_le_bytes([all[12], all[13], all[14], all[15]]) as usize;
    let fields = [
        ("length", "the header's length, which stays one", 12, 0x08),
        ("kind", "the kind, which stays one", 20, 0x03),
        ("state", "the state, which becomes none", 22, 0x04),
        ("sequence", "the sequence number", 24, 0x40),
        ("uuid", "the UUID", 32, 0x01),
        ("epoch", "the epoch", 63, 0x80),
        ("data_offset", "the data offset", 73, 0x10),
        ("incompat", "the incompatible features", 80, 0x01),
        ("ro_compat", "the features that ask for read-only", 95, 0x80),
        ("compat", "the compatible features", 96, 0x01),
        ("count", "the number of records", 104, 0x01),
        ("reserved", "a reserved byte", 108, 0x01),
    ];
    let records = [
        ("record_type", "the type of the first record", 128, 0x02),
        ("record_flags", "the flags of the first record", 130, 0x01),
        ("record_length", "the length of the first record", 132, 0x08),
        ("section_id", "the identity of a section", 136, 0x01),
        ("record_padding", "the last byte of the header, which is padding", length - 1, 0x80),
    ];
    let of_header = fields.map(|(name, what, at, mask)| flip(&plain, name, what, at, mask));
    let of_records = records.map(|(name, what, at, mask)| flip(&all, name, what, at, mask));
    of_header.into_iter().chain(of_records).collect()
}

/// What a file lacks of its slots is taken as zeros.
fn lengths() -> Vec<Vector> {
    let short: [(&str, &str, u64, &[V]); 7] = [
        ("hdr-file-1_byte", "The file ends behind the first byte of the magic.", 1, &[V::Magic]),
        (
            "hdr-file-8_bytes",
            "The file ends behind the magic: its version is 0, and its length out of range.",
            8,
            &[V::Version],
        ),
        (
            "hdr-file-9_bytes",
            "The file ends within the version, which is 1: the header's length is 0.",
            9,
            &[V::HeaderLength],
        ),
        ("hdr-file-16_bytes", "The file ends before the checksum, which is taken as 0.", 16, &[V::HeaderChecksum]),
        (
            "hdr-file-74_bytes",
            "The file ends before the last byte of the header that is not zero.",
            74,
            &[V::HeaderChecksum],
        ),
        (
            "hdr-file-75_bytes",
            "The file ends behind the last byte of the header that is not zero: the header is whole.",
            75,
            &[V::Slots, V::DataArea],
        ),
        (
            "hdr-file-in_slot_1",
            "The file ends within slot 1, behind a header that is whole.",
            SLOT_SIZE + 4096,
            &[V::Slots, V::DataArea],
        ),
    ];
    short
        .map(|(name, purpose, length, rules)| {
            let mut file = plain().finish();
            file.set_len(length);
            Vector::new(name, purpose, &rules[..1]).also(&["HDR-20"]).file(IMAGE, Role::Image, file).case(Case::new(
                IMAGE,
                answer(rules[0]),
                rules,
            ))
        })
        .into()
}
