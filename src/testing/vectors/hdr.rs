//! Vectors of the fixed header's fields.

use super::draft::Draft;
use super::maker::Maker;
use super::vector::{Case, Flag, Role, Vector, Verdict};
use super::{IMAGE, broken, opens, plain, refused};
use crate::format::{RawRecord, State};
use crate::limits::{MAX_SIZE, SLOT_SIZE, SLOTS_END};
use crate::violation::Violation as V;
use Verdict::{Invalid, Unsupported};

pub(super) fn all() -> Vec<Vector> {
    [magic_and_version(), length(), checksum(), words(), identity(), sizes(), sequence(), file_length()].concat()
}

/// A complete image with one field of the header changed, its checksum made right again.
fn field(name: &str, purpose: &str, rule: V, verdict: Verdict, at: usize, bytes: &[u8]) -> Vector {
    broken(name, purpose, rule, verdict, plain(), |draft| draft.put(at, bytes))
}

fn magic_and_version() -> Vec<Vector> {
    let noise: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
    vec![
        opens(
            "hdr-image-plain",
            "A complete image, both slots equal, the second page of the disk zeros.",
            &[V::Slots, V::Magic, V::Version, V::HeaderReserved, V::IncompatibleFeature, V::Kind, V::Identity],
            &mut plain(),
        )
        .also(&["HDR-19", "ALC-01", "ALC-02"]),
        field(
            "hdr-magic-first_byte",
            "The first byte of the magic has lost its high bit.",
            V::Magic,
            Invalid,
            0,
            &[0x09],
        ),
        field("hdr-magic-last_byte", "The last byte of the magic differs.", V::Magic, Invalid, 7, &[0x0d]),
        field(
            "hdr-magic-newlines_changed",
            "A transfer in text mode made LF of CR LF.",
            V::Magic,
            Invalid,
            4,
            b"\n\x1a\n\0",
        ),
        field("hdr-magic-qcow2", "The magic of another format.", V::Magic, Invalid, 0, b"QFI\xfb\0\0\0\x03"),
        refused("hdr-magic-noise", "Noise in both slots.", V::Magic, Invalid, plain(), &noise),
        refused("hdr-magic-zeros", "Both slots are empty.", V::Magic, Invalid, plain(), &[]),
        field("hdr-version-0", "Version 0 was never given out.", V::Version, Unsupported, 8, &0u32.to_le_bytes()),
        field("hdr-version-2", "A newer version is not damage.", V::Version, Unsupported, 8, &2u32.to_le_bytes()),
        field("hdr-version-big_endian", "The 1 is stored big endian.", V::Version, Unsupported, 8, &1u32.to_be_bytes()),
        version_2_of_another_checksum(),
    ]
}

/// Magic, version, length and checksum keep their places; a newer version with another checksum is still newer.
fn version_2_of_another_checksum() -> Vector {
    let mut slot = Draft::of(&plain().header).slot();
    slot[8] = 2;
    refused(
        "hdr-version-2-checksum_wrong",
        "Version 2 and a checksum that is not right: newer, since nothing else is known of it.",
        V::Version,
        Unsupported,
        plain(),
        &slot,
    )
}

fn length() -> Vec<Vector> {
    let late = |name: &str, purpose: &str, length: u32| {
        broken(name, purpose, V::HeaderLength, Invalid, plain(), |draft| draft.put_late(12, &length.to_le_bytes()))
    };
    vec![
        opens("hdr-length-min", "The smallest header: 128 bytes, no record.", &[V::HeaderLength], &mut plain()),
        longest(),
        late("hdr-length-0", "The header's length is 0.", 0),
        late("hdr-length-120", "The header's length is less than the fixed header.", 120),
        late("hdr-length-unaligned", "The header's length is no multiple of 8.", 132),
        late("hdr-length-past_slot", "The header's length is 8 more than a slot.", SLOT_SIZE as u32 + 8),
        late("hdr-length-huge", "The header's length is 2^32 - 8.", u32::MAX - 7),
    ]
}

/// The record that fills the slot to its last byte is unknown and optional.
fn longest() -> Vector {
    let mut maker = plain();
    let mut payload = vec![0; SLOT_SIZE as usize - 128 - 8];
    payload[0] = 0xa5;
    *payload.last_mut().expect("it is not empty") = 0x5a;
    maker.header.unknown.push(RawRecord { record_type: 700, flags: 0, payload });
    let purpose = "The largest header: an unknown optional record fills the slot to its last byte.";
    opens("hdr-length-max", purpose, &[V::HeaderLength], &mut maker)
}

fn checksum() -> Vec<Vector> {
    let right = || Draft::of(&plain().header).slot();
    let changed = |name: &str, purpose: &str, at: usize, bytes: &[u8]| {
        let mut slot = right();
        slot[at..at + bytes.len()].copy_from_slice(bytes);
        refused(name, purpose, V::HeaderChecksum, Invalid, plain(), &slot)
    };
    let crc32c = u32::from_le_bytes([right()[16], right()[17], right()[18], right()[19]]);
    let mut zeroed = right()[..128].to_vec();
    zeroed[16..20].fill(0);
    let unzeroed = crc32c::crc32c(&right()[..128]);
    let padded = crc32c::crc32c(&[&zeroed[..], &[0; 4096 - 128]].concat());
    vec![
        changed("hdr-checksum-zero", "The checksum is zero.", 16, &[0; 4]),
        changed("hdr-checksum-big_endian", "The checksum is stored big endian.", 16, &crc32c.to_be_bytes()),
        changed("hdr-checksum-complement", "The final exclusive-or was left out.", 16, &(!crc32c).to_le_bytes()),
        changed("hdr-checksum-crc32", "CRC-32 as in zlib instead of crc32c.", 16, &crc32(&zeroed).to_le_bytes()),
        changed("hdr-checksum-of_itself", "Computed with the checksum in place of zeros.", 16, &unzeroed.to_le_bytes()),
        changed(
            "hdr-checksum-of_page",
            "Computed over a page instead of the header's length.",
            16,
            &padded.to_le_bytes(),
        ),
        changed("hdr-checksum-size_flipped", "One bit of the virtual size flipped after the checksum.", 66, &[1]),
        changed("hdr-checksum-last_byte", "One bit of the last byte it covers flipped.", 127, &[0x80]),
        after_the_header(),
    ]
}

fn after_the_header() -> Vector {
    let mut maker = plain();
    let purpose = "What lies in a slot behind the header has no meaning, not even in two slots that are equal.";
    let mut vector =
        opens("hdr-checksum-not_behind_header", purpose, &[V::HeaderChecksum, V::EqualSequence], &mut maker);
    maker.file.write(128, b"left from a longer header");
    maker.file.write(2 * SLOT_SIZE - 16, b"the slot's end!!");
    vector.files[0].bytes = maker.file;
    vector
}

fn words() -> Vec<Vector> {
    let mut vectors = vec![
        field("hdr-reserved-first", "The first reserved byte is not zero.", V::HeaderReserved, Invalid, 108, &[1]),
        field("hdr-reserved-last", "The last reserved byte is not zero.", V::HeaderReserved, Invalid, 127, &[0x80]),
        field("hdr-incompat-bit_0", "An unknown incompatible feature.", V::IncompatibleFeature, Unsupported, 80, &[1]),
        field("hdr-incompat-bit_63", "The last bit of the word.", V::IncompatibleFeature, Unsupported, 87, &[0x80]),
        broken(
            "hdr-incompat-before_fields",
            "An unknown incompatible feature beside a state and a reserved byte that only it may explain: newer, not damaged.",
            V::IncompatibleFeature,
            Unsupported,
            plain(),
            |draft| {
                draft.put(80, &[4]);
                draft.put(22, &[9]);
                draft.put(120, &[1]);
            },
        ),
        field("hdr-kind-0", "No kind.", V::Kind, Unsupported, 20, &[0, 0]),
        field("hdr-kind-4", "A kind that version 1 does not have.", V::Kind, Unsupported, 20, &[4, 0]),
        field("hdr-kind-high_byte", "The kind is 257.", V::Kind, Unsupported, 20, &[1, 1]),
        field("hdr-state-3", "The first state that is none.", V::State, Invalid, 22, &[3, 0]),
        field("hdr-state-high_byte", "The state is 256.", V::State, Invalid, 22, &[0, 1]),
    ];
    let mut compat = plain();
    compat.header.compat = 0x8000_0000_0000_0001;
    vectors
        .push(opens("hdr-compat-unknown", "Optional features that nobody knows.", &[], &mut compat).also(&["HDR-21"]));
    vectors.extend([1, 31, 32, 63].map(read_only_feature));
    for (state, name) in [(State::Filling, "filling"), (State::Writing, "writing")] {
        let mut maker = plain();
        maker.header.state = state;
        let purpose = format!("The last session ended {name}: an unclean file is read like any other.");
        vectors.push(opens(&format!("hdr-state-{name}"), &purpose, &[V::State], &mut maker).also(&["ALC-11"]));
    }
    vectors
}

fn read_only_feature(bit: u32) -> Vector {
    let mut maker = plain();
    maker.header.ro_compat = 1 << bit;
    let purpose = "A feature unknown to writers: it opens for reading, and not for writing.";
    let case = Case { write: true, ..Case::new(IMAGE, Unsupported, &[V::ReadOnlyFeature]) };
    opens(&format!("hdr-ro_compat-bit_{bit}"), purpose, &[V::ReadOnlyFeature], &mut maker).case(case)
}

fn identity() -> Vec<Vector> {
    vec![
        field("hdr-uuid-nil", "The UUID is nil.", V::Identity, Invalid, 32, &[0; 16]),
        field("hdr-epoch-nil", "The epoch is nil.", V::Identity, Invalid, 48, &[0; 16]),
    ]
}

fn sizes() -> Vec<Vector> {
    let offset =
        |name: &str, purpose: &str, at: u64| field(name, purpose, V::DataOffset, Invalid, 72, &at.to_le_bytes());
    let size =
        |name: &str, purpose: &str, size: u64| field(name, purpose, V::VirtualSize, Invalid, 64, &size.to_le_bytes());
    let mut vectors = vec![
        size("hdr-size-above_max", "The virtual size is 2^60 + 1.", MAX_SIZE + 1),
        size(
            "hdr-size-overflow",
            "The virtual size is 2^64 - 4096: added to the data offset it wraps.",
            u64::MAX - 4095,
        )
        .also(&["LIM-01"]),
        offset("hdr-data_offset-0", "The data area of an image lies over the header.", 0).or(V::Overlap),
        offset("hdr-data_offset-in_slot_1", "The data offset is a page before the end of slot 1.", SLOTS_END - 4096)
            .or(V::Overlap),
        offset("hdr-data_offset-unaligned", "The data offset is a multiple of 512 only.", SLOTS_END + 512),
        offset("hdr-data_offset-above_max", "The data offset is 2^60 + 4096.", MAX_SIZE + 4096),
        offset("hdr-data_offset-overflow", "The data offset is 2^64 - 4096.", u64::MAX - 4095).also(&["LIM-01"]),
    ];
    let mut far = plain_at(1 << 40);
    vectors.push(opens("hdr-data_offset-1_tib", "The data area begins at 1 TiB.", &[V::DataOffset], &mut far));
    let mut farthest = plain_at(MAX_SIZE);
    let purpose = "The data area begins at the largest offset.";
    vectors.push(opens("hdr-data_offset-max", purpose, &[V::DataOffset], &mut farthest).flag(Flag::Huge));
    vectors
}

/// The plain image with its data area elsewhere.
fn plain_at(data_offset: u64) -> Maker {
    let mut maker = Maker::complete("disk", 12_288);
    maker.header.data_offset = data_offset;
    maker.file.set_len(data_offset + 12_288);
    maker.data(0..1536).data(10_752..12_288)
}

fn sequence() -> Vec<Vector> {
    let with = |name: &str, purpose: &str, sequence: u64| {
        let mut maker = plain();
        maker.header.sequence = sequence;
        opens(name, purpose, &[V::Sequence], &mut maker)
    };
    let bad = |name: &str, purpose: &str, sequence: u64| {
        field(name, purpose, V::Sequence, Invalid, 24, &sequence.to_le_bytes())
    };
    vec![
        with("hdr-sequence-min", "The first sequence number.", 1),
        with("hdr-sequence-max", "The last sequence number, 2^63 - 1.", i64::MAX as u64),
        bad("hdr-sequence-0", "The sequence number is 0.", 0),
        bad("hdr-sequence-2_63", "The sequence number is 2^63.", 1 << 63),
        bad("hdr-sequence-above_max", "The sequence number is 2^64 - 1.", u64::MAX),
    ]
}

fn file_length() -> Vec<Vector> {
    let cut = |name: &str, purpose: &str, rule: V, others: &[V], length: u64| {
        let mut file = plain().finish();
        file.set_len(length);
        let rules = [&[rule], others].concat();
        Vector::new(name, purpose, &[rule]).file(IMAGE, Role::Image, file).case(Case::new(IMAGE, Invalid, &rules))
    };
    let mut longer = plain();
    longer.file.set_len(longer.file.len() + 777);
    longer.file.write(SLOTS_END + 12_288 + 100, b"not of the disk");
    vec![
        opens(
            "hdr-file-longer",
            "The file is longer than its data area, as after a shrink.",
            &[V::DataArea],
            &mut longer,
        ),
        cut("hdr-file-byte_short", "The last byte of the data area is missing.", V::DataArea, &[], SLOTS_END + 12_287),
        cut("hdr-file-no_data", "The file ends with the slots.", V::DataArea, &[], SLOTS_END),
        cut("hdr-file-slot_1_cut", "The file ends a byte before slot 1 does.", V::Slots, &[V::DataArea], SLOTS_END - 1),
        cut("hdr-file-one_slot", "The file ends with slot 0.", V::Slots, &[V::DataArea], SLOT_SIZE),
        cut(
            "hdr-file-in_slot_0",
            "The file ends within slot 0, behind a header that is whole.",
            V::Slots,
            &[V::DataArea],
            4096,
        ),
        cut("hdr-file-half_header", "The file ends within the header.", V::HeaderChecksum, &[], 60),
        cut("hdr-file-7_bytes", "The file ends within the magic.", V::Magic, &[], 7),
        cut("hdr-file-empty", "An empty file.", V::Magic, &[], 0),
    ]
}

/// CRC-32 with the polynomial of zlib, which is the wrong one.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
