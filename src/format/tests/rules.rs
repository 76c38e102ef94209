//! Each rule refuses the file that breaks it and nothing else; each check is left out when a test asks for it.

use super::*;
use crate::format::bitmap::BitmapBody;
use crate::format::layout::OnDisk;
use crate::format::record::BITMAP;
use crate::switch::without_check;
use crate::violation::Violation;
use std::collections::BTreeSet;

/// A rule, a sound header, and what breaks the rule in it.
type Case = (Violation, fn() -> Header, fn(&mut Header));

/// Where the records of [`overlay`] begin, and where the payloads of its section and its parent do.
const RECORDS: usize = 128;
const SECTION: usize = RECORDS + 8;
const PARENT: usize = SECTION + 56 + 8;

/// Headers that break one rule each.
const HEADERS: &[Case] = &[
    (Violation::Sequence, image, |h| h.sequence = 0),
    (Violation::Sequence, image, |h| h.sequence = 1 << 63),
    (Violation::Identity, image, |h| h.uuid = Uuid::NIL),
    (Violation::Identity, image, |h| h.epoch = Uuid::NIL),
    (Violation::VirtualSize, image, |h| h.virtual_size = (1 << 60) + 1),
    (Violation::DataOffset, image, |h| (h.data_offset, h.virtual_size) = (126 << 10, 0)),
    (Violation::DataOffset, image, |h| h.data_offset += 512),
    (Violation::DataOffset, image, |h| h.data_offset = (1 << 60) + 4096),
    (Violation::DataOffset, sidecar, |h| h.data_offset = 1 << 20),
    (Violation::IncompatibleFeature, image, |h| h.incompat = 1 << 63),
    (Violation::RequiredRecord, image, |h| h.unknown.push(record(6, 1))),
    (Violation::RecordFlags, image, |h| h.unknown.push(record(6, 2))),
    (Violation::RecordCount, image, |h| {
        h.sections = (0..65u8).map(|n| Section { id: Uuid([n + 9; 16]), ..dirty(n) }).collect();
        h.data_offset = 1 << 20;
    }),
    (Violation::ParentFormat, overlay, |h| {
        h.parent = Some(Parent { identity: Some(Identity { uuid: UUID, epoch: Uuid::NIL }), ..parent() })
    }),
    (Violation::Hint, overlay, |h| h.parent = Some(Parent { hint: "a\0b".into(), ..parent() })),
    (Violation::Hint, overlay, |h| h.parent = Some(Parent { hint: "x".repeat(4097), ..parent() })),
    (Violation::ParentNeedsAllocation, overlay, |h| h.sections.clear()),
    (Violation::VisibleLength, overlay, |h| h.parent = Some(Parent { visible_length: MIB + 1, ..parent() })),
    (Violation::MergeMark, image, |h| h.merge_mark = Some(MergeMark { child_uuid: UUID, child_epoch: Uuid::NIL })),
    (Violation::MergeMark, image, |h| h.merge_mark = Some(MergeMark { child_uuid: Uuid::NIL, child_epoch: EPOCH })),
    (Violation::KnownRecordRequired, overlay, |h| h.sections[0].required = false),
    (Violation::SectionKind, overlay, |h| {
        h.sections.push(Section { kind: SectionKind::Other(5), required: true, ..dirty(1) })
    }),
    (Violation::Granularity, overlay, |h| h.sections[0].granularity_shift = 11),
    (Violation::Granularity, overlay, |h| h.sections[0].granularity_shift = 25),
    (Violation::SectionPlace, overlay, |h| h.sections[0].offset += 512),
    (Violation::SectionPlace, overlay, |h| h.sections[0].length += 512),
    (Violation::SectionPlace, sidecar, |h| h.sections[0].offset = 1 << 61),
    (Violation::SectionPlace, sidecar, |h| h.sections[0].offset = u64::MAX << 12),
    (Violation::SectionLength, overlay, |h| h.sections[0].length = 0),
    (Violation::SectionLength, overlay, |h| {
        h.sections.push(Section { covered: (31744 << 16) + 1, ..dirty(1) });
    }),
    (Violation::Overlap, overlay, |h| h.sections.push(Section { offset: 128 << 10, ..dirty(0) })),
    (Violation::Overlap, image, |h| h.sections.push(Section { offset: (1 << 20) + (192 << 10) - 4096, ..dirty(0) })),
    (Violation::Overlap, image, |h| {
        h.sections.push(Section { kind: SectionKind::Other(9), offset: 192 << 10, ..dirty(0) })
    }),
    (Violation::SectionId, overlay, |h| h.sections.push(Section { id: h.sections[0].id, ..dirty(1) })),
    (Violation::SectionId, overlay, |h| h.sections[0].id = Uuid::NIL),
    (Violation::AllocationCovers, overlay, |h| {
        h.sections.push(Section { offset: 132 << 10, id: UUID, ..allocation() })
    }),
    (Violation::AllocationCovers, overlay, |h| h.sections[0].covered -= 4096),
    (Violation::AllocationHome, sidecar, |h| h.host = None),
    (Violation::SidecarHost, sidecar, |h| {
        h.host = None;
        h.sections.clear();
    }),
    (Violation::SidecarHost, image, |h| h.host = sidecar().host),
    (Violation::HostCovers, sidecar, |h| {
        h.host = Some(HostRecord { format: HostFormat::Raw, length: MIB - 1, former: Uuid::NIL })
    }),
    (Violation::DecisionHome, group, |h| h.decision = None),
    (Violation::DecisionHome, image, |h| h.decision = Some(Decision::Moved)),
    (Violation::GroupAlone, group, |h| h.virtual_size = 1),
    (Violation::GroupAlone, group, |h| h.sections.push(Section { covered: 0, ..allocation() })),
    (Violation::GroupAlone, group, |h| h.host = Some(HostRecord { length: 0, ..sidecar().host.unwrap() })),
    (Violation::GroupAlone, group, |h| h.merge_mark = Some(MergeMark { child_uuid: UUID, child_epoch: EPOCH })),
    (Violation::GroupAlone, group, |h| h.copy_mark = Some(CopyMark { group: Uuid::NIL })),
    (Violation::GroupAlone, group, |h| h.set_group_mark(Some(GroupMark { group: UUID }))),
    (Violation::DataOffset, group, |h| h.data_offset = 128 << 10),
    (Violation::GroupMark, grouped, |h| h.group_mark = Some(GroupMark { group: Uuid::NIL })),
    (Violation::GroupMark, grouped, |h| h.group_mark = None),
    (Violation::GroupMark, grouped, |h| h.ro_compat = 0),
];

/// Bytes of a sound overlay that break one rule each when they are put at an offset. Behind the magic, the
/// length and the checksum itself the checksum is made right again.
const BYTES: &[(Violation, usize, &[u8])] = &[
    (Violation::Magic, 0, b"LVD"),
    (Violation::Version, 8, &[2]),
    (Violation::HeaderLength, 12, &[0, 0]),
    (Violation::HeaderLength, 12, &[127]),
    (Violation::HeaderLength, 12, &[255, 255, 255, 255]),
    (Violation::HeaderLength, 12, &[8, 0, 1, 0]),
    (Violation::HeaderChecksum, 16, &[0, 0, 0, 0]),
    (Violation::Kind, 20, &[0]),
    (Violation::Kind, 20, &[4]),
    (Violation::State, 22, &[3]),
    (Violation::HeaderReserved, 108, &[1]),
    (Violation::HeaderReserved, 127, &[1]),
    (Violation::RecordWalk, 104, &[1]),
    (Violation::RecordWalk, 104, &[255, 255, 255, 255]),
    (Violation::RecordWalk, RECORDS + 4, &[255, 255, 255, 255]),
    (Violation::RecordWalk, RECORDS + 4, &[56, 1]),
    (Violation::RecordOrder, RECORDS, &[7, 0, 0]),
    (Violation::RecordFlags, RECORDS + 2, &[3]),
    (Violation::RecordLength, RECORDS + 4, &[55]),
    (Violation::RecordLength, SECTION + 19, &[1]),
    (Violation::RecordLength, SECTION + 48, &[1]),
    (Violation::RecordLength, PARENT + 48, &[7]),
    (Violation::RecordLength, PARENT + 52, &[1]),
    (Violation::RecordPadding, PARENT - 4, &[71, 0, 0, 0]),
    (Violation::ParentFormat, PARENT + 32, &[0]),
    (Violation::ParentFormat, PARENT + 32, &[3]),
    (Violation::ParentFormat, PARENT + 36, &[6]),
    (Violation::Hint, PARENT + 64, &[0xff]),
];

fn record(record_type: u16, flags: u16) -> RawRecord {
    RawRecord { record_type, flags, payload: vec![1, 2, 3] }
}

/// An optional section `place` pages behind the allocation section's first.
fn dirty(place: u8) -> Section {
    let (kind, granularity_shift, required) = (SectionKind::Dirty, 16, false);
    let offset = (128 << 10) + u64::from(place) * 4096;
    Section { id: Uuid([place + 9; 16]), kind, granularity_shift, required, offset, length: 4096, covered: MIB }
}

fn refused(violation: Violation, slot: &[u8], what: &str) {
    assert_eq!(Header::decode(slot).map_err(|flaw| flaw.violation), Err(violation), "{what}");
    assert_eq!(choose(slot, &[]).map_err(|flaw| flaw.violation).err(), Some(violation), "{what}");
    let left_out = without_check(violation, || Header::decode(slot).map_err(|flaw| flaw.violation));
    assert_ne!(left_out, Err(violation), "{what}: the check is left out");
}

#[test]
fn headers_that_break_a_rule_are_neither_written_nor_read() {
    for (number, (violation, sound, change)) in HEADERS.iter().enumerate() {
        let mut header = sound();
        header.encode().expect("sound before the change");
        change(&mut header);
        assert_eq!(header.encode(), Err(*violation), "case {number}");
        let slot = without_check(*violation, || header.encode());
        refused(*violation, &slot.expect("no other rule is broken"), &format!("case {number}"));
    }
}

#[test]
fn bytes_that_break_a_rule_are_refused() {
    for (violation, at, bytes) in BYTES {
        let mut slot = overlay().encode().unwrap();
        slot.resize(65536, 0);
        slot[*at..at + bytes.len()].copy_from_slice(bytes);
        if *at > 16 || *violation == Violation::Version {
            fix_checksum(&mut slot);
        }
        refused(*violation, &slot, &format!("{violation} at {at}"));
    }
}

/// A header with raw records, whose number and bytes are right whatever they say.
fn with_records(records: &[u8], count: u8) -> Vec<u8> {
    let mut slot = image().encode().unwrap();
    slot[12..16].copy_from_slice(&(128 + records.len() as u32).to_le_bytes());
    slot[104] = count;
    slot[128..128 + records.len()].copy_from_slice(records);
    fix_checksum(&mut slot);
    slot
}

fn one_record(record_type: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![record_type, 0, flags, 0, payload.len() as u8, 0, 0, 0];
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

#[test]
fn records_that_break_a_rule_are_refused() {
    let (merge, copy, mut host) = ([7; 32], [7; 16], [0; 32]);
    host[0] = 3;
    let merge = [&merge[..], &[0; 16]].concat();
    let copy = [&copy[..], &[0; 16]].concat();
    let cases = [
        (Violation::KnownRecordRequired, one_record(3, 0, &merge), 1),
        (Violation::KnownRecordRequired, one_record(4, 0, &copy), 1),
        (Violation::RecordCount, [one_record(3, 1, &merge), one_record(3, 1, &merge)].concat(), 2),
        (Violation::RecordCount, [one_record(4, 1, &copy), one_record(4, 1, &copy)].concat(), 2),
        (Violation::RecordLength, one_record(3, 1, &[7; 48]), 1),
        (Violation::RecordLength, one_record(4, 1, &[7; 32]), 1),
        (Violation::RecordLength, one_record(4, 1, &[0; 8]), 1),
        (Violation::RecordLength, one_record(2, 1, &[0; 8]), 1),
        (Violation::RecordLength, one_record(1, 1, &[0; 64]), 1),
        (Violation::RecordLength, one_record(5, 1, &[7; 32]), 1),
        (Violation::HostFormat, one_record(5, 1, &host), 1),
        (Violation::RequiredRecord, one_record(99, 1, &[]), 1),
        (Violation::RecordFlags, one_record(99, 4, &[]), 1),
        (Violation::KnownRecordRequired, one_record(8, 1, &copy), 1),
        (Violation::KnownRecordRequired, one_record(9, 0, &[0; 16]), 1),
        (Violation::RecordLength, one_record(8, 0, &[7; 32]), 1),
        (Violation::RecordLength, one_record(9, 1, &[0; 8]), 1),
        (Violation::RecordLength, one_record(9, 1, &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 1),
        (Violation::Decision, one_record(9, 1, &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 1),
        (Violation::RecordWalk, vec![0; 8], 0),
        (Violation::RecordWalk, [one_record(6, 0, &[1]), vec![6, 0, 0, 0, 1, 0, 0, 0]].concat(), 2),
    ];
    for (violation, records, count) in cases {
        refused(violation, &with_records(&records, count), &format!("{violation}: {records:?}"));
    }
    let header = Header::decode(&with_records(&one_record(99, 0, &[5; 3]), 1)).unwrap();
    assert_eq!(header.unknown, [RawRecord { record_type: 99, flags: 0, payload: vec![5; 3] }]);
}

#[test]
fn every_rule_of_a_header_is_tested() {
    let mut tested: BTreeSet<_> = HEADERS.iter().map(|case| case.0).chain(BYTES.iter().map(|case| case.0)).collect();
    // In the tests of this file, of `slots`, and of chains.
    tested.extend([Violation::HostFormat, Violation::Slots, Violation::EqualSequence, Violation::ReadOnlyFeature]);
    tested.extend([
        Violation::OneFile,
        Violation::DataArea,
        Violation::SectionInFile,
        Violation::Decision,
        Violation::Moved,
    ]);
    let rules = Violation::ALL.iter().filter(|rule| ["HDR", "REC", "SEC", "GRP"].contains(&&rule.id()[..3]));
    assert_eq!(rules.filter(|rule| !tested.contains(rule)).collect::<Vec<_>>(), Vec::<&Violation>::new());
}

#[test]
fn a_known_type_does_not_hide_among_the_unknown() {
    let header = Header { unknown: vec![record(2, 0)], ..image() };
    assert_eq!(header.encode(), Err(Violation::RecordLength));
}

#[test]
fn a_header_that_outgrows_its_slot_is_not_written() {
    let unknown = vec![RawRecord { record_type: 99, flags: 0, payload: vec![1; 65536 - 128 - 8] }];
    let mut header = Header { unknown, ..image() };
    assert_eq!(header.encode().unwrap().len(), 65536);
    assert_eq!(Header::decode(&header.encode().unwrap()).unwrap(), header);
    header.unknown[0].payload.push(1);
    assert_eq!(header.encode(), Err(Violation::HeaderLength));
}

#[test]
fn features_of_writers_only_bar_writers() {
    let header = Header { ro_compat: 2, compat: 4, ..image() };
    let read = Header::decode(&header.encode().unwrap()).unwrap();
    assert_eq!(read.writable().unwrap_err().violation, Violation::ReadOnlyFeature);
    assert!(without_check(Violation::ReadOnlyFeature, || read.writable()).is_ok());
    assert!(Header { compat: 4, ..image() }.writable().is_ok());
}

#[test]
fn a_file_holds_its_data_and_its_allocation() {
    let end = overlay().data_end();
    assert!(overlay().check_size(end).is_ok());
    assert_eq!(overlay().check_size(end - 1).unwrap_err().violation, Violation::DataArea);
    assert_eq!(overlay().check_size(131071).unwrap_err().violation, Violation::Slots);
    assert!(sidecar().check_size(132 << 10).is_ok());
    assert_eq!(sidecar().check_size((132 << 10) - 1).unwrap_err().violation, Violation::SectionInFile);
}

#[test]
fn sections_of_unknown_kinds_are_kept() {
    let strange = Section { kind: SectionKind::Other(77), granularity_shift: 200, covered: u64::MAX, ..dirty(1) };
    let header = Header { sections: vec![allocation(), strange], ..overlay() };
    assert_eq!(Header::decode(&header.encode().unwrap()).unwrap(), header);
    assert_eq!(strange.bits(), 1);
}

#[test]
fn sections_need_whole_pages() {
    assert_eq!(Section::needed_length(0, 12), 0);
    assert_eq!(Section::needed_length(1, 12), 4096);
    assert_eq!(Section::needed_length(31744 << 12, 12), 4096);
    assert_eq!(Section::needed_length((31744 << 12) + 1, 12), 8192);
    // 1 TiB in blocks of 4 KiB.
    assert_eq!(Section::needed_length(1 << 40, 12), 8457 * 4096);
    let _ = (Section::needed_length(u64::MAX, 0), Section::needed_length(u64::MAX, 255));
    let section = Section { covered: (3968 << 12) + 1, ..allocation() };
    assert_eq!((section.bits(), section.sectors(), section.pages(), section.granule()), (3969, 2, 1, 4096));
}

#[test]
fn a_flaw_names_its_rule_and_whether_the_file_is_only_newer() {
    let damaged = Flaw::corrupt(Violation::Magic).to_string();
    assert!(damaged.starts_with("damaged (") && damaged.contains(Violation::Magic.id()), "{damaged}");
    let newer = Flaw::unsupported(Violation::IncompatibleFeature, "feature bit 9".into()).to_string();
    assert!(
        newer.starts_with("not supported: feature bit 9 (") && newer.contains(Violation::IncompatibleFeature.id()),
        "{newer}"
    );
}

/// Who drops a broken bitmap drops no other one, and no record that is none.
#[test]
fn broken_bitmaps_are_taken_away_by_their_names() {
    let named = |name: &str| {
        let payload = [vec![0; BitmapBody::SIZE], name.as_bytes().to_vec()].concat();
        RawRecord { record_type: BITMAP, flags: 0, payload }
    };
    let other = RawRecord { record_type: 99, ..named("daily") };
    let mut header = Header { unknown: vec![named("daily"), named("weekly"), other.clone()], ..image() };
    assert!(!header.remove_broken_bitmaps("monthly") && header.unknown.len() == 3);
    assert!(header.remove_broken_bitmaps("daily"));
    assert_eq!(header.unknown, [named("weekly"), other]);
}

/// QED-02: features that a reader knows.
#[test]
fn a_qed_image_tells_how_it_was_left_and_what_is_below() {
    let decode = |features: u64| {
        let mut bytes = [0; QedHeader::BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, b"QED\0");
        for (at, number) in [(4, 65536u32), (8, 4), (12, 1)] {
            put(at, &number.to_le_bytes());
        }
        for (at, number) in [(16, features), (40, 65536), (48, MIB)] {
            put(at, &number.to_le_bytes());
        }
        QedHeader::decode(&bytes, 10 * MIB)
    };
    for features in 0..8 {
        let header = decode(features).unwrap();
        let told = [header.backing_name.is_some(), header.need_check, header.backing_raw];
        assert_eq!(told, [1, 2, 4].map(|feature| features & feature != 0), "{features}");
    }
    assert_eq!(decode(8).unwrap_err().detail, "the QED features 0x8");
}
