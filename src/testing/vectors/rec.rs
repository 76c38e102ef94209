//! Vectors of the records: the walk, and what each type must hold.

use super::draft::{COPY_MARK, Draft, MERGE_MARK, PARENT, REQUIRED, SECTION};
use super::maker::{Maker, id, raw};
use super::sparse::Sparse;
use super::vector::{Role, Vector, Verdict};
use super::{broken, opens, plain, sparse_overlay};
use crate::format::{CopyMark, Header, MergeMark, RawRecord};
use crate::violation::Violation as V;
use Verdict::{Invalid, Unsupported};

pub(super) fn all() -> Vec<Vector> {
    [walk(), flags(), lengths(), reserved(), counts(), parents(), hints(), marks(), requirements(), order(), kept()]
        .concat()
}

/// An overlay over a raw file, with both marks, so that it has a record of every type that an image can have.
fn marked() -> Maker {
    let mut maker = sparse_overlay().over_raw(&base_raw(), "base.raw", 0);
    maker.header.merge_mark = Some(MergeMark { child_uuid: id("child"), child_epoch: id("child's epoch") });
    maker.header.copy_mark = Some(CopyMark { group: id("group") });
    maker
}

fn base_raw() -> Sparse {
    raw("base", 32_768, &[0..4096])
}

/// An overlay whose parent has an identity.
fn linked() -> Maker {
    sparse_overlay().over(&Maker::complete("base", 32_768), "base.lvd", 32_768)
}

/// A change of the image with both marks. Its parent is there and its marks are ignored: nothing else is wrong.
fn change(name: &str, purpose: &str, rule: V, verdict: Verdict, apply: impl FnOnce(&mut Draft)) -> Vector {
    let mut vector = broken(name, purpose, rule, verdict, marked(), apply).file("base.raw", Role::Parent, base_raw());
    vector.cases[0].ignore_marks = true;
    vector
}

/// A change of the image whose parent has an identity.
fn relink(name: &str, purpose: &str, rule: V, verdict: Verdict, apply: impl FnOnce(&mut Draft)) -> Vector {
    let base = Maker::complete("base", 32_768).finish();
    broken(name, purpose, rule, verdict, linked(), apply).file("base.lvd", Role::Parent, base)
}

fn walk() -> Vec<Vector> {
    let late = |name: &str, purpose: &str, at: usize, bytes: &[u8]| {
        change(name, purpose, V::RecordWalk, Invalid, |draft| draft.put_late(at, bytes))
    };
    // The section's record is 64 bytes; the parent's follows at 192.
    vec![
        late("rec-walk-count_low", "There is one record more than the header says.", 104, &[3]),
        late("rec-walk-count_high", "There is one record less than the header says.", 104, &[5]),
        late("rec-walk-count_0", "The header says there are no records.", 104, &[0]),
        late("rec-walk-count_max", "The header says there are 2^32 - 1 records.", 104, &[0xff; 4]),
        late("rec-walk-length_past_end", "A record reaches past the header's length.", 128 + 4, &[0, 2]),
        late(
            "rec-walk-length_max",
            "A record is 2^32 - 1 bytes long: with its head the sum wraps.",
            128 + 4,
            &[0xff; 4],
        ),
        late(
            "rec-walk-length_wraps",
            "A record of 2^32 - 8 bytes: rounded up and added it wraps to 0.",
            128 + 4,
            &[0xf8, 0xff, 0xff, 0xff],
        ),
        broken(
            "rec-walk-records_but_none_counted",
            "A complete image whose header is longer than its records.",
            V::RecordWalk,
            Invalid,
            plain(),
            |draft| {
                draft.add(900, 0, b"eight by");
                draft.put_late(104, &[0]);
            },
        ),
        padding("rec-padding-first", "The first byte of the padding is not zero.", 0),
        padding("rec-padding-last", "The last byte of the padding is not zero.", 6),
    ]
}

fn padding(name: &str, purpose: &str, at: usize) -> Vector {
    broken(name, purpose, V::RecordPadding, Invalid, plain(), |draft| {
        draft.add(900, 0, b"x");
        draft.put_late(128 + 8 + 1 + at, &[1]);
    })
}

fn flags() -> Vec<Vector> {
    vec![
        broken(
            "rec-unknown-required",
            "A required record of unknown type.",
            V::RequiredRecord,
            Unsupported,
            plain(),
            |d| d.add(900, REQUIRED, b""),
        ),
        broken(
            "rec-unknown-6_required",
            "The first type that version 1 does not have.",
            V::RequiredRecord,
            Unsupported,
            plain(),
            |d| d.add(6, REQUIRED, b"sixth"),
        ),
        broken(
            "rec-flags-unknown_record",
            "An unknown flag on an unknown record that is not required.",
            V::RecordFlags,
            Unsupported,
            plain(),
            |d| d.add(900, 2, b""),
        ),
        change("rec-flags-section", "An unknown flag on a section.", V::RecordFlags, Unsupported, |d| {
            d.record(SECTION).flags |= 2
        }),
        change("rec-flags-bit_15", "The last flag, on a parent.", V::RecordFlags, Unsupported, |d| {
            d.record(PARENT).flags |= 0x8000
        }),
    ]
}

fn lengths() -> Vec<Vector> {
    let longer = |name: &str, record: u16| {
        change(
            &format!("rec-length-{name}_longer"),
            "A record is eight bytes longer than its type says.",
            V::RecordLength,
            Invalid,
            |d| d.record(record).payload.extend([0; 8]),
        )
    };
    let shorter = |name: &str, record: u16| {
        change(
            &format!("rec-length-{name}_shorter"),
            "A record is a byte shorter than its type says.",
            V::RecordLength,
            Invalid,
            |d| {
                let payload = &mut d.record(record).payload;
                payload.truncate(payload.len() - 1);
            },
        )
    };
    let mut vectors = Vec::new();
    for (name, record) in [("section", SECTION), ("merge_mark", MERGE_MARK), ("copy_mark", COPY_MARK)] {
        vectors.extend([longer(name, record), shorter(name, record)]);
    }
    let parent =
        |name: &str, purpose: &str, apply: &dyn Fn(&mut Draft)| change(name, purpose, V::RecordLength, Invalid, apply);
    vectors.extend([
        parent("rec-length-parent_hint_longer", "The hint is longer than hint_length.", &|d| {
            d.record(PARENT).payload.push(b'x')
        }),
        parent("rec-length-parent_hint_shorter", "The hint is shorter than hint_length.", &|d| {
            d.record(PARENT).payload.truncate(66)
        }),
        parent("rec-length-parent_hint_max", "hint_length is 2^32 - 1.", &|d| d.put_in(PARENT, 48, &[0xff; 4])),
        parent("rec-length-parent_cut", "A parent record of 56 bytes.", &|d| d.record(PARENT).payload.truncate(56)),
        parent("rec-length-parent_empty", "A parent record without payload.", &|d| d.record(PARENT).payload.clear()),
        parent("rec-length-section_empty", "A section record without payload.", &|d| d.record(SECTION).payload.clear()),
    ]);
    vectors
}

fn reserved() -> Vec<Vector> {
    [
        ("section_first", SECTION, 19),
        ("section_last", SECTION, 55),
        ("parent", PARENT, 63),
        ("merge_mark", MERGE_MARK, 32),
        ("copy_mark", COPY_MARK, 31),
    ]
    .map(|(name, record, at)| {
        change(
            &format!("rec-reserved-{name}"),
            "A reserved byte of a record is not zero.",
            V::RecordLength,
            Invalid,
            |d| d.put_in(record, at, &[1]),
        )
    })
    .into()
}

fn counts() -> Vec<Vector> {
    let twice = |name: &str, record: u16| {
        change(
            &format!("rec-count-two_{name}s"),
            "A record that may be there once is there twice.",
            V::RecordCount,
            Invalid,
            |d| {
                let at = d.records.iter().position(|r| r.record_type == record).expect("the draft has one");
                d.records.insert(at, d.records[at].clone());
            },
        )
    };
    let mut vectors = vec![twice("parent", PARENT), twice("merge_mark", MERGE_MARK), twice("copy_mark", COPY_MARK)];
    let mut most = sparse_overlay();
    super::sec::add_optional(&mut most.header, 63);
    vectors.push(opens("rec-count-64_sections", "As many sections as there may be.", &[V::RecordCount], &mut most));
    let record = RawRecord { record_type: 0, flags: 0, payload: vec![7; 8] };
    most.header.unknown = vec![record; 3];
    vectors.push(opens(
        "rec-count-64_sections_last",
        "As many sections as there may be, behind records of an unknown type.",
        &[V::RecordCount, V::RequiredRecord],
        &mut most,
    ));
    let mut draft_of = sparse_overlay();
    super::sec::add_optional(&mut draft_of.header, 63);
    vectors.push(broken("rec-count-65_sections", "One section too many.", V::RecordCount, Invalid, draft_of, |d| {
        let mut another = d.records[1].clone();
        another.payload[..16].copy_from_slice(&id("one too many").0);
        another.payload[24..32].copy_from_slice(&(1u64 << 41).to_le_bytes());
        d.records.insert(1, another);
    }));
    vectors
}

fn parents() -> Vec<Vector> {
    let link = |name: &str, purpose: &str, verdict, apply: &dyn Fn(&mut Draft)| {
        relink(name, purpose, V::ParentFormat, verdict, apply)
    };
    let mut vectors = vec![
        link("rec-parent-format_0", "The parent has no format: nothing is probed.", Unsupported, &|d| {
            d.put_in(PARENT, 36, &[0])
        }),
        link("rec-parent-format_6", "A format that version 1 does not name.", Unsupported, &|d| {
            d.put_in(PARENT, 36, &[6])
        }),
        link("rec-parent-flags", "An unknown flag of a parent.", Unsupported, &|d| d.put_in(PARENT, 32, &[3])),
        link("rec-parent-no_flag", "A UUID and an epoch without the flag that there are some.", Invalid, &|d| {
            d.put_in(PARENT, 32, &[0])
        }),
        link("rec-parent-epoch_without_flag", "An epoch alone without the flag.", Invalid, &|d| {
            d.put_in(PARENT, 32, &[0]);
            d.put_in(PARENT, 0, &[0; 16]);
        }),
        link("rec-parent-uuid_nil", "An identity whose UUID is nil.", Invalid, &|d| d.put_in(PARENT, 0, &[0; 16])),
        link("rec-parent-epoch_nil", "An identity whose epoch is nil.", Invalid, &|d| d.put_in(PARENT, 16, &[0; 16])),
    ];
    vectors.push(relink(
        "rec-parent-of_complete",
        "An image without allocation section has a parent.",
        V::ParentNeedsAllocation,
        Invalid,
        |d| d.records.retain(|record| record.record_type != SECTION),
    ));
    vectors.push(relink(
        "rec-parent-visible_past_child",
        "The visible length is a byte more than the child's size.",
        V::VisibleLength,
        Invalid,
        |d| d.put_in(PARENT, 40, &32_769u64.to_le_bytes()),
    ));
    vectors
}

fn hints() -> Vec<Vector> {
    let hint = |name: &str, purpose: &str, bytes: &[u8]| {
        relink(name, purpose, V::Hint, Invalid, |d| {
            let payload = &mut d.record(PARENT).payload;
            payload.truncate(64);
            payload.extend(bytes);
            d.put_in(PARENT, 48, &(bytes.len() as u32).to_le_bytes());
        })
    };
    vec![
        hint("rec-hint-4097", "The hint is a byte too long.", &[b'h'; 4097]),
        hint("rec-hint-nul", "The hint has a NUL in it.", b"base\0.lvd"),
        hint("rec-hint-ends_in_nul", "The hint ends with a NUL as in C.", b"base.lvd\0"),
        hint("rec-hint-latin_1", "The hint is not UTF-8.", b"b\xe4se.lvd"),
        hint("rec-hint-utf8_cut", "The hint ends within a character.", b"b\xc3"),
        hint("rec-hint-nul_alone", "The hint is a NUL.", b"\0"),
        hint("rec-hint-utf16", "The hint is UTF-16, little endian.", b"b\0a\0s\0e\0"),
        hint("rec-hint-overlong", "The hint has a letter in two bytes that has room in one.", b"\xc1\xa1base"),
        hint("rec-hint-overlong_nul", "The hint has a NUL in two bytes, as in Java.", b"base\xc0\x80"),
        hint("rec-hint-past_unicode", "The hint has a character behind the last one there is.", b"\xf4\x90\x80\x80"),
        hint("rec-hint-continuation", "The hint begins within a character.", b"\xa4se"),
        hint("rec-hint-ff", "The hint has a byte that no UTF-8 has.", b"base\xff"),
        hint("rec-hint-surrogate", "The hint has a surrogate, which UTF-8 does not.", b"\xed\xa0\x80"),
    ]
}

fn marks() -> Vec<Vector> {
    let mark = |name: &str, purpose: &str, at: usize| {
        change(name, purpose, V::MergeMark, Invalid, |d| d.put_in(MERGE_MARK, at, &[0; 16]))
    };
    vec![
        mark("rec-merge_mark-child_nil", "A merge mark that names no child.", 0),
        mark("rec-merge_mark-epoch_nil", "A merge mark that names no epoch.", 16),
    ]
}

fn requirements() -> Vec<Vector> {
    let optional = |name: &str, record: u16| {
        change(
            &format!("rec-required-{name}"),
            "A record that must be understood says that it need not be.",
            V::KnownRecordRequired,
            Invalid,
            |d| d.record(record).flags = 0,
        )
    };
    let records = [("allocation", SECTION), ("parent", PARENT), ("merge_mark", MERGE_MARK), ("copy_mark", COPY_MARK)];
    records.map(|(name, record)| optional(name, record)).into()
}

fn order() -> Vec<Vector> {
    let swapped = |name: &str, purpose: &str, a: usize, b: usize| {
        change(name, purpose, V::RecordOrder, Invalid, |d| d.records.swap(a, b))
    };
    vec![
        swapped("rec-order-parent_first", "The parent stands before the section.", 0, 1),
        swapped("rec-order-marks", "The copy mark stands before the merge mark.", 2, 3),
        broken("rec-order-unknown", "Two unknown records in the wrong order.", V::RecordOrder, Invalid, plain(), |d| {
            d.add(901, 0, b"");
            d.add(900, 0, b"");
        }),
    ]
}

/// Records that nobody knows and nobody needs.
fn unknown(header: &mut Header) {
    let record = |record_type, payload: &[u8]| RawRecord { record_type, flags: 0, payload: payload.to_vec() };
    header.unknown = vec![
        record(6, b"odd length"),
        record(900, b""),
        record(900, b"the same type again"),
        record(u16::MAX, &[0xff; 40]),
    ];
}

/// The image with both marks as it is, its marks ignored.
fn all_types() -> Vector {
    let rules = &[
        V::RecordWalk,
        V::RecordFlags,
        V::RecordLength,
        V::RecordCount,
        V::ParentFormat,
        V::Hint,
        V::ParentNeedsAllocation,
        V::MergeMark,
        V::KnownRecordRequired,
        V::RecordOrder,
        V::Marked,
        V::Copying,
    ];
    let purpose = "A record of every type that an image can have, in order; the caller ignores the marks, to look.";
    let mut vector = opens("rec-all_types", purpose, rules, &mut marked()).file("base.raw", Role::Parent, base_raw());
    vector.cases[0].ignore_marks = true;
    vector
}

fn kept() -> Vec<Vector> {
    let mut image = plain();
    unknown(&mut image.header);
    let mut zero = plain();
    zero.header.unknown = vec![RawRecord { record_type: 0, flags: 0, payload: Vec::new() }];
    let mut largest = plain();
    largest.header.unknown = (0..200).map(|n| RawRecord { record_type: 1000 + n, flags: 0, payload: vec![] }).collect();
    let mut overlay = sparse_overlay();
    unknown(&mut overlay.header);
    vec![
        all_types(),
        opens(
            "rec-unknown-optional",
            "Unknown records that are not required, one type twice, odd lengths.",
            &[V::RequiredRecord, V::RecordPadding],
            &mut image,
        )
        .no_bitmap("", V::BitmapRecord),
        opens("rec-unknown-in_overlay", "The same behind an allocation section.", &[V::RequiredRecord], &mut overlay)
            .no_bitmap("", V::BitmapRecord),
        opens(
            "rec-unknown-type_0",
            "A record of type 0 is one that nobody knows: eight bytes of zeros.",
            &[V::RequiredRecord, V::RecordOrder],
            &mut zero,
        ),
        opens("rec-unknown-200", "There may be any number of unknown records.", &[V::RecordCount], &mut largest),
    ]
}
