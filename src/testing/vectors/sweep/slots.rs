//! Two slots: a whole one that breaks a rule beside one that is right, two that differ, two of which none is whole.

use super::{Breach, Change, Invalid, Unsupported, answer, base, everything};
use crate::format::{Header, HostFormat};
use crate::testing::vectors::draft::{Draft, HOST, MERGE_MARK, PARENT, REQUIRED, SECTION};
use crate::testing::vectors::maker::{Maker, id, tagged};
use crate::testing::vectors::vector::{Case, Role, Vector, Verdict};
use crate::testing::vectors::{IMAGE, plain, sid};
use crate::violation::Violation as V;

pub(super) fn all() -> Vec<Vector> {
    [not_hidden(), unequal(), both_wrong(), none_whole()].concat()
}

/// In the fixed header of a complete image.
const OF_HEADER: &[Breach] = &[
    ("version_2", "is of version 2", &[V::Version], |d| d.put(8, &[2])),
    ("kind", "has a kind that version 1 does not have", &[V::Kind], |d| d.put(20, &[4])),
    ("uuid", "has a UUID of nil", &[V::Identity], |d| d.put(32, &[0; 16])),
    ("epoch", "has an epoch of nil", &[V::Identity], |d| d.put(48, &[0; 16])),
    ("size", "has a virtual size of 2^60 + 1", &[V::VirtualSize], |d| d.put(64, &(1u64 << 60 | 1).to_le_bytes())),
    ("data_offset", "has a data offset that is no multiple of a page", &[V::DataOffset], |d| d.put(73, &[2])),
    ("reserved", "has a reserved byte that is not zero", &[V::HeaderReserved], |d| d.put(117, &[1])),
    ("count", "counts a record that it does not have", &[V::RecordWalk], |d| d.put_late(104, &[1])),
    ("unknown_required", "has a required record of unknown type", &[V::RequiredRecord], |d| d.add(900, REQUIRED, b"")),
    ("order", "has records that are not in order", &[V::RecordOrder], |d| {
        d.add(901, 0, b"");
        d.add(900, 0, b"");
    }),
];

/// In the records of an image that has one of every type.
const OF_RECORDS: &[Breach] = &[
    ("padding", "has a record whose padding is not zero", &[V::RecordPadding], |d| {
        let at = d.place(PARENT) + 8 + 65;
        d.put_late(at, &[1]);
    }),
    ("record_flags", "has a record with an unknown flag", &[V::RecordFlags], |d| d.record(PARENT).flags |= 4),
    ("record_length", "has a record that is too short for its type", &[V::RecordLength], |d| {
        d.record(MERGE_MARK).payload.truncate(40)
    }),
    ("two_parents", "has two parents", &[V::RecordCount], |d| {
        let at = d.records.iter().position(|record| record.record_type == PARENT).unwrap_or_default();
        d.records.insert(at, d.records[at].clone());
    }),
    ("identity", "has a parent with a UUID that its flags do not speak of", &[V::ParentFormat], |d| {
        d.put_in(PARENT, 0, &[7])
    }),
    ("hint", "has a hint that is no text", &[V::Hint], |d| d.put_in(PARENT, 64, &[0xff])),
    ("mark", "has a merge mark that names no child", &[V::MergeMark], |d| d.put_in(MERGE_MARK, 0, &[0; 16])),
    ("optional_parent", "has a parent that need not be understood", &[V::KnownRecordRequired], |d| {
        d.record(PARENT).flags = 0
    }),
    ("section_kind", "has a required section of unknown kind", &[V::SectionKind], |d| {
        let mut another = d.records[1].clone();
        another.flags = REQUIRED;
        another.payload[..18].copy_from_slice(&[&id("another section").0[..], &[5, 0]].concat());
        another.payload[30] = 1; // an offset of 2^48 and more
        d.records.insert(1, another);
    }),
    ("granule", "has a section with granules of 2 KiB", &[V::Granularity], |d| d.put_in(SECTION, 18, &[11])),
    ("section_place", "has a section within a slot", &[V::SectionPlace, V::Overlap], |d| d.put_in(SECTION, 26, &[1])),
    ("section_length", "has a section without room for its bits", &[V::SectionLength], |d| {
        d.put_in(SECTION, 32, &[0; 8])
    }),
    ("overlap", "has a section that reaches into the data area", &[V::Overlap], |d| d.put_in(SECTION, 34, &[2])),
    ("section_id", "has a section without identity", &[V::SectionId], |d| d.put_in(SECTION, 0, &[0; 16])),
    ("covers", "has an allocation section that covers a byte too many", &[V::AllocationCovers], |d| {
        d.put_in(SECTION, 40, &[1])
    }),
    ("visible_length", "sees more of its parent than its own disk has", &[V::VisibleLength], |d| {
        d.put_in(PARENT, 40, &32_769u64.to_le_bytes())
    }),
];

/// In a sidecar.
const OF_SIDECAR: &[Breach] = &[
    ("host", "has a host record that need not be understood", &[V::KnownRecordRequired], |d| d.record(HOST).flags = 0),
    ("host_format", "has a host of unknown format", &[V::HostFormat], |d| d.put_in(HOST, 0, &[3])),
    ("host_length", "has a host that is shorter than the disk", &[V::HostCovers], |d| d.put_in(HOST, 9, &[0x7f])),
    ("allocation_home", "has the allocation section of an image", &[V::AllocationHome], |d| d.put_in(HOST, 0, &[1])),
];

/// The slot of `header`, changed.
fn spoilt(header: &Header, change: impl Fn(&mut Draft)) -> Vec<u8> {
    let mut draft = Draft::of(header);
    change(&mut draft);
    draft.slot()
}

/// A file whose slots hold `slots`, and that does not open.
fn fails(name: &str, purpose: &str, rules: &[V], verdict: Verdict, mut maker: Maker, slots: [&[u8]; 2]) -> Vector {
    maker.seal_bits();
    maker.slot(0, slots[0]);
    maker.slot(1, slots[1]);
    Vector::new(name, purpose, rules).file(IMAGE, Role::Image, maker.file).case(Case::new(IMAGE, verdict, rules))
}

/// A header that is whole and breaks a rule is hidden neither by an older one that is right nor by a newer one. Which
/// slot is which alternates.
fn not_hidden() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let files = [(OF_HEADER, plain()), (OF_RECORDS, everything().maker), (OF_SIDECAR, sid::side())];
    for (breaches, maker) in files {
        for (number, &(name, what, rules, change)) in breaches.iter().enumerate() {
            let right = maker.next();
            let (older, newer) = (spoilt(&maker.header, change), spoilt(&right.next().header, change));
            let right = right.encoded();
            let mut vector = |name: String, purpose: String, mut slots: [&[u8]; 2]| {
                slots.rotate_left(number % 2);
                let vector = fails(&name, &purpose, rules, answer(rules[0]), maker.clone(), slots).also(&["HDR-18"]);
                vectors.push(given(vector, &maker));
            };
            // As `slots-newer-version_2` and `slots-newer-reserved` of the other module.
            if !["version_2", "reserved"].contains(&name) {
                let purpose = format!("The newer header {what}: the older one does not take its place.");
                vector(format!("slots-newer-{name}"), purpose, [&right, &newer]);
            }
            let purpose = format!("The older header {what}: the newer one does not hide it.");
            vector(format!("slots-older-{name}"), purpose, [&older, &right]);
        }
    }
    vectors
}

/// What is opened together with the file of `maker`.
fn given(mut vector: Vector, maker: &Maker) -> Vector {
    if maker.header.host.is_some_and(|host| host.format == HostFormat::Raw) {
        vector.files[0].name = sid::SIDECAR.into();
        vector.files[0].role = Role::Sidecar;
        vector.cases[0].open = sid::SIDECAR.into();
        vector.cases[0].volume = Some(sid::VOLUME.into());
        let volume = maker.volume.clone().expect("a sidecar has a volume");
        return vector.file(sid::VOLUME, Role::Volume, volume);
    }
    if maker.header.parent.is_some() {
        vector.cases[0].ignore_marks = true;
        return vector.file(super::RAW, Role::Parent, base());
    }
    vector
}

/// Two headers of one sequence number that are right by themselves.
fn unequal() -> Vec<Vector> {
    let header: &[(&str, &str, usize, &[u8])] = &[
        ("state", "One is closed, the other one is writing.", 22, &[2]),
        ("size", "One has a disk that is a byte smaller.", 64, &12_287u64.to_le_bytes()),
        ("ro_compat", "One has a feature that writers do not know.", 88, &[2]),
        ("compat", "One has a feature that may be ignored.", 96, &[1]),
    ];
    let records: &[(&str, &str, Change)] = &[
        ("hint", "The hints differ in a letter.", |d| d.put_in(PARENT, 64, b"c")),
        ("visible_length", "The visible lengths differ.", |d| d.put_in(PARENT, 40, &[1])),
        ("section_id", "The identities of a section differ.", |d| d.put_in(SECTION, 0, b"another identity")),
        ("unknown_record", "Records that nobody knows differ.", |d| d.put_in(900, 2, b"D")),
        ("fewer_records", "One has a record less.", |d| {
            d.records.pop();
        }),
    ];
    let vector = |name: &str, purpose: &str, maker: Maker, change: &dyn Fn(&mut Draft)| {
        let slots = [&maker.encoded()[..], &spoilt(&maker.header, change)];
        let rule = V::EqualSequence;
        let name = format!("slots-equal_sequence-{name}");
        given(fails(&name, purpose, &[rule], answer(rule), maker.clone(), slots), &maker)
    };
    let of_header =
        header.iter().map(|(name, purpose, at, bytes)| vector(name, purpose, plain(), &|d| d.put(*at, bytes)));
    let of_records = records.iter().map(|(name, purpose, change)| vector(name, purpose, everything().maker, change));
    of_header.chain(of_records).collect()
}

/// Two whole slots, one or both of which break a rule: the first that does is named, whichever is newer.
fn both_wrong() -> Vec<Vector> {
    let older = plain();
    let newer = older.next();
    let (six, seven) = (older.encoded(), newer.encoded());
    let at = |maker: &Maker, at: usize, byte: u8| spoilt(&maker.header, |d| d.put(at, &[byte]));
    let vector = |name: &str, purpose: &str, rule: V, slots: [&[u8]; 2]| {
        fails(&format!("slots-both-{name}"), purpose, &[rule], answer(rule), plain(), slots).also(&["HDR-18"])
    };
    vec![
        vector(
            "state_and_incompat",
            "The older header, in slot 0, has no right state, the newer one an unknown incompatible feature.",
            V::State,
            [&at(&older, 22, 3), &at(&newer, 80, 1)],
        ),
        vector(
            "incompat_and_state",
            "The older header, in slot 0, has an unknown incompatible feature, the newer one no right state.",
            V::IncompatibleFeature,
            [&at(&older, 80, 1), &at(&newer, 22, 3)],
        ),
        vector(
            "reserved_and_version",
            "A reserved byte in slot 0, version 2 in slot 1.",
            V::HeaderReserved,
            [&at(&newer, 108, 1), &at(&older, 8, 2)],
        ),
        vector(
            "version_and_reserved",
            "Version 2 in slot 0, a reserved byte in slot 1.",
            V::Version,
            [&at(&older, 8, 2), &at(&newer, 108, 1)],
        ),
        vector(
            "kind_and_size",
            "An unknown kind in slot 0, a size out of range in slot 1.",
            V::Kind,
            [&at(&newer, 20, 9), &at(&older, 71, 0x80)],
        ),
        vector(
            "equal_but_reserved",
            "Two headers of one sequence number, one with a reserved byte: the rule that it breaks is named, not that \
            they differ.",
            V::HeaderReserved,
            [&six, &at(&older, 127, 1)],
        ),
        vector(
            "equal_but_incompat",
            "Two headers of one sequence number, one with an unknown incompatible feature.",
            V::IncompatibleFeature,
            [&at(&newer, 84, 1), &seven],
        ),
    ]
}

/// All pairs of what a slot is that is not whole: the flaw that comes later in the list of HDR-20 is told.
fn none_whole() -> Vec<Vector> {
    let seven = plain().next().encoded();
    let with = |at: usize, bytes: &[u8]| {
        let mut slot = seven.clone();
        slot[at..at + bytes.len()].copy_from_slice(bytes);
        slot
    };
    let mut newer_length = with(8, &[2]);
    newer_length[12] = 127;
    // In the order of the list; an empty slot has no flaw, or the first of all if both are empty.
    let states = [
        ("empty", "nothing", V::Magic, Vec::new()),
        ("noise", "noise", V::Magic, tagged("junk", 0..512)),
        ("length", "a length out of range", V::HeaderLength, with(12, &[127])),
        ("checksum", "a wrong checksum", V::HeaderChecksum, with(33, &[0xff])),
        ("newer_length", "version 2 with a length out of range", V::Version, newer_length),
        ("newer_checksum", "version 2 with a wrong checksum", V::Version, with(8, &[2])),
    ];
    // The other module has these, and most twins are in `hdr`.
    let known = ["noise_and_checksum", "checksum_and_empty", "empty_and_noise", "length_and_checksum"];
    let known = [&known[..], &["checksum_and_newer_checksum"]].concat();
    let mut vectors = Vec::new();
    for (first, (name_0, what_0, rule_0, slot_0)) in states.iter().enumerate() {
        for (second, (name_1, what_1, rule_1, slot_1)) in states.iter().enumerate() {
            let name = format!("{name_0}_and_{name_1}");
            if known.contains(&&name[..]) || first == second && *name_0 != "newer_length" {
                continue;
            }
            let rule = if first > second { *rule_0 } else { *rule_1 };
            let verdict = if rule == V::Version { Unsupported } else { Invalid };
            let purpose = format!("In slot 0 {what_0}, in slot 1 {what_1}.");
            let name = format!("slots-flaw-{name}");
            vectors.push(fails(&name, &purpose, &[rule], verdict, plain(), [slot_0, slot_1]).also(&["HDR-20"]));
        }
    }
    vectors
}
