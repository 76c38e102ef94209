//! Records: each type's head, length, padding and place among the others, and each field of each.

use super::Value::{Bytes, Eight, Four};
use super::{Row, UNKNOWN, Unsupported, Value, everything, overlay, spoilt, spoilt_among_all, untouched};
use crate::testing::vectors::draft::{BITMAP, COPY_MARK, Draft, MERGE_MARK, PARENT, POINT, REQUIRED, SECTION};
use crate::testing::vectors::maker::Maker;
use crate::testing::vectors::plain;
use crate::testing::vectors::vector::{Role, Vector};
use crate::violation::Violation as V;

pub(super) fn all() -> Vec<Vector> {
    [vec![untouched()], walk(), heads(), lengths(), not_looked_at(), padding(), order(), fields(), links(), required()]
        .concat()
}

/// Types that an image can have, in their order, with the words of names and of purposes.
const TYPES: &[(u16, &str, &str)] = &[
    (SECTION, "section", "a section"),
    (PARENT, "parent", "a parent"),
    (MERGE_MARK, "merge_mark", "a merge mark"),
    (COPY_MARK, "copy_mark", "a copy mark"),
    (BITMAP, "bitmap", "a bitmap"),
    (POINT, "point", "a backup point"),
    (UNKNOWN, "unknown", "a record that nobody knows"),
];

/// How the records, of which the image has eight, fill the header.
fn walk() -> Vec<Vector> {
    let counts: &[(&str, &str, u32)] = &[
        ("count_big_endian", "The number of records is stored big endian.", 8 << 24),
        ("count_high_bit", "The number of records has its highest bit set.", 1 << 31 | 8),
    ];
    // The last record has three bytes and takes sixteen.
    let lasts: &[(&str, &str, u32)] = &[
        ("last_shorter", "The last record ends eight bytes before the header does.", 0),
        ("last_longer", "The last record ends eight bytes behind the header.", 9),
        ("last_big_endian", "The length of the last record is stored big endian.", 3 << 24),
        ("last_high_bit", "The length of the last record has its highest bit set.", 1 << 31 | 3),
    ];
    let headers: &[(&str, &str, i32)] = &[
        ("header_shorter", "The header ends behind the head of its last record.", -8),
        ("header_shorter_by_record", "The header ends before its last record, which is counted.", -16),
        ("header_longer", "The header goes on for eight bytes behind its last record.", 8),
    ];
    let vector = |name: &str, purpose: &str, change: &dyn Fn(&mut Draft)| {
        spoilt_among_all(&format!("rec-walk-{name}"), purpose, &[V::RecordWalk], change)
    };
    let counts = counts
        .iter()
        .map(|(name, purpose, count)| vector(name, purpose, &|draft| draft.put_late(104, &count.to_le_bytes())));
    let lasts = lasts.iter().map(|(name, purpose, length)| {
        vector(name, purpose, &|draft| draft.put_late(draft.place(UNKNOWN) + 4, &length.to_le_bytes()))
    });
    let headers = headers.iter().map(|(name, purpose, by)| {
        vector(name, purpose, &|draft| {
            let end = draft.place(UNKNOWN) as u32 + 16;
            draft.put_late(12, &end.wrapping_add_signed(*by).to_le_bytes());
        })
    });
    counts.chain(lasts).chain(headers).collect()
}

/// The lowest and the highest unknown flag of each type.
fn heads() -> Vec<Vector> {
    let known = ["section_bit_1", "parent_bit_15", "unknown_bit_1"];
    let mut vectors = Vec::new();
    for &(record_type, name, text) in TYPES {
        for (bit, which) in [(1, "lowest"), (15, "highest")] {
            if !known.contains(&&format!("{name}_bit_{bit}")[..]) {
                let (name, purpose) =
                    (format!("rec-flags-{name}_bit_{bit}"), format!("The {which} unknown flag on {text}."));
                vectors.push(spoilt_among_all(&name, &purpose, &[V::RecordFlags], |draft| {
                    draft.record(record_type).flags |= 1 << bit
                }));
            }
        }
    }
    let purpose = "The flag of a record that nobody knows is stored big endian.";
    vectors.push(spoilt_among_all("rec-flags-unknown_big_endian", purpose, &[V::RecordFlags], |draft| {
        draft.record(UNKNOWN).flags = 0x100
    }));
    vectors
}

/// Payloads cut or lengthened to so many bytes.
fn lengths() -> Vec<Vector> {
    [
        (SECTION, "section_57", "A section is a byte longer than its type says; it takes eight.", 57),
        (SECTION, "section_48", "A section is eight bytes shorter than its type says.", 48),
        (SECTION, "section_twice", "A section is twice as long as its type says.", 112),
        (PARENT, "parent_63", "A parent is a byte shorter than its fixed part.", 63),
        (MERGE_MARK, "merge_mark_49", "A merge mark is a byte longer than its type says.", 49),
        (MERGE_MARK, "merge_mark_40", "A merge mark is eight bytes shorter than its type says.", 40),
        (MERGE_MARK, "merge_mark_32", "A merge mark has no reserved field.", 32),
        (MERGE_MARK, "merge_mark_empty", "A merge mark has no payload.", 0),
        (COPY_MARK, "copy_mark_33", "A copy mark is a byte longer than its type says.", 33),
        (COPY_MARK, "copy_mark_24", "A copy mark is eight bytes shorter than its type says.", 24),
        (COPY_MARK, "copy_mark_16", "A copy mark has no reserved field.", 16),
        (COPY_MARK, "copy_mark_empty", "A copy mark has no payload.", 0),
    ]
    .map(|(record_type, name, purpose, length)| {
        spoilt_among_all(&format!("rec-length-{name}"), purpose, &[V::RecordLength], |draft| {
            draft.record(record_type).payload.resize(length, 0)
        })
    })
    .into()
}

/// Of a record that breaks REC-05 nothing of its payload is judged, nor whether it is the one that another one needs.
fn not_looked_at() -> Vec<Vector> {
    vec![
        spoilt_among_all(
            "rec-length-parent_and_format",
            "A parent is shorter than its hint asks for, and of unknown format, which is not judged.",
            &[V::RecordLength],
            |draft| {
                draft.put_in(PARENT, 36, &[9]);
                draft.put_in(PARENT, 48, &[2]);
            },
        ),
        spoilt_among_all(
            "rec-reserved-section_and_kind",
            "A section has a reserved byte that is not zero, and is of unknown kind: neither that is judged, nor that a \
            parent needs an allocation section.",
            &[V::RecordLength],
            |draft| draft.put_in(SECTION, 16, &[9, 0, 12, 1]),
        ),
    ]
}

/// The padding of each type that can have some: its first, its last, and a byte in between.
fn padding() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut all = Draft::of(&everything().maker.header);
    for &(record_type, name, text) in TYPES {
        let length = all.record(record_type).payload.len();
        let padding = length..length.next_multiple_of(8);
        if padding.is_empty() {
            continue;
        }
        for (which, at) in
            [("first", padding.start), ("middle", padding.start + padding.len() / 2), ("last", padding.end - 1)]
        {
            let (name, purpose) = (
                format!("rec-padding-{name}_{which}"),
                format!("Of the padding of {text} the {which} byte is not zero."),
            );
            vectors.push(spoilt_among_all(&name, &purpose, &[V::RecordPadding], |draft| {
                draft.put_late(draft.place(record_type) + 8 + at, &[0x80])
            }));
        }
    }
    vectors
}

/// Each pair of types in the wrong order, with no record but these and the sections that a parent needs.
fn order() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for (first, &(lower, lower_name, lower_text)) in TYPES.iter().enumerate() {
        for &(higher, higher_name, higher_text) in &TYPES[first + 1..] {
            if (lower, higher) == (SECTION, PARENT) || (lower, higher) == (MERGE_MARK, COPY_MARK) {
                continue; // as `rec-order-parent_first` and `rec-order-marks`
            }
            let name = format!("rec-order-{higher_name}_before_{lower_name}");
            let purpose = format!("In front of {lower_text} stands {higher_text}.");
            let change = |draft: &mut Draft| {
                let kept = [SECTION, lower, higher];
                draft.records.retain(|record| kept.contains(&record.record_type));
                let last = draft.records.pop().expect("the higher type comes last");
                let place = draft.records.iter().position(|record| record.record_type == lower);
                draft.records.insert(place.expect("the lower type is there"), last);
            };
            let mut vector = spoilt_among_all(&name, &purpose, &[V::RecordOrder], change);
            if lower != PARENT && higher != PARENT {
                vector.files.truncate(1);
            }
            vectors.push(vector);
        }
    }
    vectors
}

/// Fields of the image with a record of every type: their places in the payload.
const FIELDS: &[(u16, Row)] = &[
    (
        SECTION,
        (
            "rec-reserved-section_middle",
            "The middle of the first reserved field of a section is not zero.",
            21,
            Bytes(&[1]),
            &[V::RecordLength],
        ),
    ),
    (
        SECTION,
        (
            "rec-reserved-section_end",
            "The last byte of the first reserved field of a section is not zero.",
            23,
            Bytes(&[0x80]),
            &[V::RecordLength],
        ),
    ),
    (
        SECTION,
        (
            "rec-reserved-section_2",
            "The first byte of the second reserved field of a section is not zero.",
            48,
            Bytes(&[1]),
            &[V::RecordLength],
        ),
    ),
    (
        SECTION,
        (
            "rec-reserved-section_2_middle",
            "The middle of the second reserved field of a section is not zero.",
            52,
            Bytes(&[1]),
            &[V::RecordLength],
        ),
    ),
    (
        PARENT,
        (
            "rec-reserved-parent_first",
            "The first reserved byte of a parent is not zero.",
            52,
            Bytes(&[1]),
            &[V::RecordLength],
        ),
    ),
    (
        PARENT,
        (
            "rec-reserved-parent_middle",
            "The middle of the reserved field of a parent is not zero.",
            58,
            Bytes(&[1]),
            &[V::RecordLength],
        ),
    ),
    (
        MERGE_MARK,
        (
            "rec-reserved-merge_mark_middle",
            "The middle of the reserved field of a merge mark is not zero.",
            40,
            Bytes(&[1]),
            &[V::RecordLength],
        ),
    ),
    (
        MERGE_MARK,
        (
            "rec-reserved-merge_mark_last",
            "The last reserved byte of a merge mark is not zero.",
            47,
            Bytes(&[0x80]),
            &[V::RecordLength],
        ),
    ),
    (
        COPY_MARK,
        (
            "rec-reserved-copy_mark_first",
            "The first reserved byte of a copy mark is not zero.",
            16,
            Bytes(&[1]),
            &[V::RecordLength],
        ),
    ),
    (
        COPY_MARK,
        (
            "rec-reserved-copy_mark_middle",
            "The middle of the reserved field of a copy mark is not zero.",
            24,
            Bytes(&[1]),
            &[V::RecordLength],
        ),
    ),
    (
        MERGE_MARK,
        (
            "rec-merge_mark-both_nil",
            "A merge mark that names neither a child nor an epoch.",
            0,
            Bytes(&[0; 32]),
            &[V::MergeMark],
        ),
    ),
    (
        PARENT,
        (
            "rec-parent-flag_alone",
            "The flag of an identity, and neither UUID nor epoch.",
            32,
            Four(1),
            &[V::ParentFormat],
        ),
    ),
    (
        PARENT,
        ("rec-parent-uuid_without_flag", "A UUID alone without the flag.", 0, Bytes(&[7; 16]), &[V::ParentFormat]),
    ),
    (
        PARENT,
        (
            "rec-parent-visible_page_more",
            "The visible length is a page more than the child's size.",
            40,
            Eight(36_864),
            &[V::VisibleLength],
        ),
    ),
    (PARENT, ("rec-parent-visible_high_bit", "The visible length is 2^63.", 40, Eight(1 << 63), &[V::VisibleLength])),
    (PARENT, ("rec-parent-visible_ones", "The visible length is all ones.", 40, Eight(u64::MAX), &[V::VisibleLength])),
    (
        PARENT,
        (
            "rec-parent-visible_big_endian",
            "The visible length, 32768, is stored big endian.",
            40,
            Eight(32_768u64.swap_bytes()),
            &[V::VisibleLength],
        ),
    ),
    (PARENT, ("rec-length-parent_hint_0", "hint_length is 0, and there is a hint.", 48, Four(0), &[V::RecordLength])),
    (
        PARENT,
        (
            "rec-length-parent_hint_2",
            "hint_length is one more, which the padding has room for.",
            48,
            Four(2),
            &[V::RecordLength],
        ),
    ),
    (
        PARENT,
        (
            "rec-length-parent_hint_big_endian",
            "hint_length is stored big endian.",
            48,
            Four(1 << 24),
            &[V::RecordLength],
        ),
    ),
    (
        PARENT,
        (
            "rec-length-parent_hint_high_bit",
            "hint_length has its highest bit set.",
            48,
            Four(1 << 31 | 1),
            &[V::RecordLength],
        ),
    ),
];

fn fields() -> Vec<Vector> {
    let vector = |&(record_type, (name, purpose, at, value, rules)): &(u16, Row)| {
        spoilt_among_all(name, purpose, rules, |draft| draft.put_in(record_type, at, &value.bytes()))
    };
    FIELDS.iter().map(vector).collect()
}

/// What a link says that version 1 does not know.
fn links() -> Vec<Vector> {
    let rows: &[(&str, &str, usize, Value)] = &[
        ("format_257", "The format's low byte is that of lvd, and so is the next one.", 36, Four(257)),
        ("format_big_endian", "The format, 2, is stored big endian.", 36, Four(2 << 24)),
        ("format_high_bit", "The format is 2 and has its highest bit set.", 36, Four(1 << 31 | 2)),
        ("format_ones", "The format is all ones.", 36, Four(u32::MAX)),
        ("flags_bit_1", "The lowest unknown flag of a link, which has no identity.", 32, Four(2)),
        ("flags_bit_31", "The highest flag of a link.", 32, Four(1 << 31)),
        ("flags_big_endian", "Byte 3 of the flags is 1.", 32, Four(1 << 24)),
    ];
    let mut vectors: Vec<Vector> = rows
        .iter()
        .map(|(name, purpose, at, value)| {
            let change = |draft: &mut Draft| draft.put_in(PARENT, *at, &value.bytes());
            let mut vector = spoilt_among_all(&format!("rec-parent-{name}"), purpose, &[V::ParentFormat], change);
            vector.cases[0].result = Unsupported;
            vector
        })
        .collect();
    let only_dirty = |draft: &mut Draft| {
        draft.records.remove(0);
    };
    let purpose = "A parent, and of sections a dirty one alone.";
    vectors.push(spoilt_among_all("rec-parent-of_dirty_section", purpose, &[V::ParentNeedsAllocation], only_dirty));
    let linked = Maker::overlay("over", 32_768, 12).over(&Maker::complete("base", 32_768), "base.lvd", 32_768);
    let purpose = "All flags of a link that has an identity.";
    let change = |draft: &mut Draft| draft.put_in(PARENT, 32, &[0xff; 4]);
    let mut flags = spoilt("rec-parent-flags_ones", purpose, &[V::ParentFormat], linked, change);
    flags.cases[0].result = Unsupported;
    vectors.push(flags.file("base.lvd", Role::Parent, Maker::complete("base", 32_768).finish()));
    vectors
}

/// Required records that nobody knows, by their types.
fn required() -> Vec<Vector> {
    let alone: &[(&str, &str, u16)] = &[
        ("0", "A required record of type 0.", 0),
        ("10", "A required record of the first type that version 1 does not have.", 10),
        ("256", "A required record whose type is that of a section, stored big endian.", 256),
        ("high_bit", "A required record whose type is that of a section with its highest bit set.", 0x8001),
        ("max", "A required record of the last type.", u16::MAX),
    ];
    let vector = |name: &str, purpose: &str, maker: Maker, record_type: u16, place: usize| {
        let record = crate::format::RawRecord { record_type, flags: REQUIRED, payload: b"not for us".to_vec() };
        let name = format!("rec-required-unknown_{name}");
        spoilt(&name, purpose, &[V::RequiredRecord], maker, |draft| draft.records.insert(place, record))
    };
    let mut vectors: Vec<Vector> =
        alone.iter().map(|(name, purpose, record_type)| vector(name, purpose, plain(), *record_type, 0)).collect();
    vectors.push(vector("before_section", "A required record of type 0 in front of a section.", overlay(), 0, 0));
    vectors.push(vector("behind_section", "A required record of type 10 behind a section.", overlay(), 10, 1));
    vectors
}
