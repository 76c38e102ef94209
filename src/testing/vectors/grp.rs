//! Vectors of groups: the file that decides, and the disks that it decides about.

use super::chn::{BASE, chain, over, refused as chain_refused};
use super::draft::{COPY_MARK, DECISION, Draft, GROUP_MARK, HOST, REQUIRED, SECTION};
use super::maker::{Maker, id};
use super::sid::{SIDECAR, VOLUME, side};
use super::vector::{After, Case, Flag, Operation, Role, Vector, Verdict};
use super::{IMAGE, broken, plain, refused};
use crate::conformance::hex;
use crate::format::{CopyMark, Decision, GroupMark, State, Uuid};
use crate::limits::SLOT_SIZE;
use crate::violation::Violation as V;
use Verdict::{Invalid, Refused, Unsupported};

const GROUP: &str = "group.lvg";

pub(super) fn all() -> Vec<Vector> {
    [sources(), targets(), below(), written(), taken_for(), files(), marks(), interrupted()].concat()
}

/// The file of a group that has decided.
fn group(decision: Decision) -> Maker {
    let mut maker = Maker::group("group");
    maker.header.decision = Some(decision);
    maker
}

/// The disk that the group moves.
fn source() -> Maker {
    let mut maker = plain();
    maker.header.set_group_mark(Some(GroupMark { group: id("group") }));
    maker
}

/// Where the group moves it.
fn target() -> Maker {
    let mut maker = plain();
    maker.header.copy_mark = Some(CopyMark { group: id("group") });
    maker
}

/// A vector of `disk` and the file of a group.
fn pair(name: &str, purpose: &str, rules: &[V], disk: &mut Maker, group: &mut Maker) -> Vector {
    Vector::new(name, purpose, rules).file(IMAGE, Role::Image, disk.finish()).file(GROUP, Role::Group, group.finish())
}

/// An open by the group's file.
fn by_group(case: Case) -> Case {
    Case { group: Some(GROUP.into()), ..case }
}

fn for_writing(case: Case) -> Case {
    Case { write: true, ..case }
}

fn denied(rule: V) -> Case {
    Case::new(IMAGE, Refused, &[rule])
}

fn sources() -> Vec<Vector> {
    let mut other = Maker::group("other");
    other.header.decision = Some(Decision::Undecided);
    let rules = &[V::Moved, V::GroupMark, V::DecisionHome, V::GroupAlone, V::Decision];
    let opens = source().opens(IMAGE);
    let looked_at = Case { ignore_marks: true, ..for_writing(opens.clone()) };
    vec![
        pair(
            "grp-source-undecided",
            "A disk in a group that has not decided: it opens for writing too, by the group's file and not without.",
            rules,
            &mut source(),
            &mut group(Decision::Undecided),
        )
        .case(by_group(for_writing(opens.clone())))
        .case(by_group(opens.clone()))
        .case(opens.clone())
        .case(for_writing(denied(V::Moved))),
        pair(
            "grp-source-moved",
            "The disk has moved: it still opens for reading, and for writing only if the caller overrides.",
            rules,
            &mut source(),
            &mut group(Decision::Moved),
        )
        .case(by_group(for_writing(denied(V::Moved))))
        .case(by_group(opens.clone()))
        .case(looked_at),
        pair(
            "grp-source-other_group",
            "The file of another group says nothing about the disk.",
            rules,
            &mut source(),
            &mut other,
        )
        .case(by_group(for_writing(denied(V::Moved))))
        .case(by_group(opens)),
    ]
}

fn targets() -> Vec<Vector> {
    let opens = target().opens(IMAGE);
    let looked_at = Case { ignore_marks: true, ..opens.clone() };
    let mut alone = plain();
    alone.header.copy_mark = Some(CopyMark { group: Uuid::NIL });
    let mut other = Maker::group("other");
    other.header.decision = Some(Decision::Moved);
    let never = |name: &str, purpose: &str, disk: &mut Maker, group: &mut Maker| {
        pair(name, purpose, &[V::Copying, V::DecisionHome], disk, group)
            .case(by_group(denied(V::Copying)))
            .case(by_group(for_writing(denied(V::Copying))))
            .case(denied(V::Copying))
    };
    vec![
        pair(
            "grp-target-moved",
            "A copy to which its disk has moved opens by the group's file, and not without.",
            &[V::Copying, V::DecisionHome, V::Decision],
            &mut target(),
            &mut group(Decision::Moved),
        )
        .case(by_group(opens.clone()))
        .case(by_group(for_writing(opens)))
        .case(denied(V::Copying))
        .case(looked_at),
        never(
            "grp-target-undecided",
            "The group has not decided: a copy that names it is none yet.",
            &mut target(),
            &mut group(Decision::Undecided),
        ),
        never("grp-target-other_group", "Another group has moved.", &mut target(), &mut other),
        never(
            "grp-target-of_no_group",
            "A copy that stands alone is none yet, whatever a group has decided.",
            &mut alone,
            &mut group(Decision::Moved),
        ),
    ]
}

/// A file in a group as a parent, which is read.
fn below() -> Vec<Vector> {
    let base = || Maker::complete("base", 32_768).data(0..32_768);
    let mut copy = base();
    copy.header.copy_mark = Some(CopyMark { group: id("group") });
    let mut moved = base();
    moved.header.set_group_mark(Some(GroupMark { group: id("group") }));
    let rules = &[V::Copying];
    let mut on_copy = chain(
        "grp-parent-moved_copy",
        "An overlay over a copy to which its disk has moved.",
        rules,
        &mut [(IMAGE, &mut over(&copy)), (BASE, &mut copy)],
    )
    .file(GROUP, Role::Group, group(Decision::Moved).finish())
    .case(denied(V::Copying));
    on_copy.cases[0].group = Some(GROUP.into());
    let mut on_no_copy = chain_refused(
        "grp-parent-undecided_copy",
        "An overlay over a copy that is none yet.",
        Refused,
        rules,
        &mut [(IMAGE, &mut over(&copy)), (BASE, &mut copy)],
    )
    .file(GROUP, Role::Group, group(Decision::Undecided).finish());
    on_no_copy.cases[0].group = Some(GROUP.into());
    let mut top = over(&moved);
    let on_moved = chain(
        "grp-parent-moved_source",
        "An overlay over a disk that may have moved, which is only read: it is written all the same.",
        &[V::Moved, V::GroupMark],
        &mut [(IMAGE, &mut top), (BASE, &mut moved)],
    )
    .case(for_writing(top.opens(IMAGE)));
    vec![on_copy, on_no_copy, on_moved]
}

/// What a writer leaves that was let in by the group's file.
fn written() -> Vec<Vector> {
    let vector = |name: &str, purpose: &str, disk: &mut Maker, group: &mut Maker| {
        let after = disk.clone().bytes(4000..5000, 0x77);
        let mut facts = after.opens(IMAGE);
        facts.header = None;
        let then = vec![Operation::Write { offset: 4000, length: 1000, pattern: hex(&[0x77]) }, Operation::Close];
        let left = After {
            new_epoch: Some(true),
            state: Some(State::Closed.to_string()),
            disk: Some(after.expected()),
            ..After::default()
        };
        let case = Case { then, after: Some(left), finally: vec![facts], ..for_writing(disk.opens(IMAGE)) };
        pair(name, purpose, &[V::Copying, V::Moved], disk, group).case(by_group(case)).also(&["GRP-07"])
    };
    vec![
        vector(
            "grp-source-written",
            "A disk that has not moved is written: it is in no group any more.",
            &mut source(),
            &mut group(Decision::Undecided),
        ),
        vector(
            "grp-target-written",
            "A copy to which its disk has moved is written: it is no copy any more, and needs no group.",
            &mut target(),
            &mut group(Decision::Moved),
        ),
    ]
}

/// The file of a group where a disk is wanted, and the other way round.
fn taken_for() -> Vec<Vector> {
    let not_so = |case: Case| Case { broken: vec!["GRP-05".into()], ..case };
    let mut decided = group(Decision::Moved);
    let alone = Vector::new("grp-alone", "The file of a group is opened as if it were an image.", &[])
        .file(GROUP, Role::Image, decided.finish())
        .case(not_so(Case::new(GROUP, Refused, &[])));
    let image = pair(
        "grp-image_as_group",
        "An image is given as the file of a group.",
        &[],
        &mut source(),
        &mut Maker::complete("group", 4096),
    )
    .case(not_so(by_group(for_writing(denied(V::Moved)))));
    let mut sidecar = side();
    let as_group = Vector::new("grp-sidecar_as_group", "A sidecar is given as the file of a group.", &[])
        .file(IMAGE, Role::Image, target().finish())
        .file(GROUP, Role::Group, sidecar.finish())
        .case(not_so(by_group(denied(V::Copying))));
    let beside = Vector::new("grp-as_sidecar", "The file of a group is opened together with a volume.", &[])
        .file(SIDECAR, Role::Sidecar, decided.finish())
        .file(VOLUME, Role::Volume, sidecar.volume.clone().expect("a sidecar has a volume"))
        .case(Case { volume: Some(VOLUME.into()), broken: vec!["SID-05".into()], ..Case::new(SIDECAR, Refused, &[]) });
    let below = Vector::new("grp-as_parent", "The file of a group is given as a parent.", &[])
        .file(IMAGE, Role::Image, over(&decided_as_base()).finish())
        .file(BASE, Role::Parent, decided.finish())
        .case(not_so(Case::new(IMAGE, Refused, &[])));
    [alone, image, as_group, beside, below].map(|vector| vector.also(&["GRP-05"])).into()
}

/// A base that has the identity of the group.
fn decided_as_base() -> Maker {
    let mut maker = Maker::complete("base", 32_768);
    let decided = group(Decision::Moved).header;
    (maker.header.uuid, maker.header.epoch) = (decided.uuid, decided.epoch);
    maker
}

/// The group's file is not right: it opens neither by itself nor any disk.
fn files() -> Vec<Vector> {
    let file = |name: &str, purpose: &str, rule: V, verdict, change: &dyn Fn(&mut Draft)| {
        let mut maker = group(Decision::Moved);
        let mut draft = Draft::of(&maker.header);
        change(&mut draft);
        let slot = draft.slot();
        (0..2).for_each(|number| maker.slot(number, &slot));
        let case = |open: &str| Case::new(open, verdict, &[rule]);
        Vector::new(name, purpose, &[rule])
            .file(GROUP, Role::Group, maker.file)
            .file(IMAGE, Role::Image, target().finish())
            .case(case(GROUP))
            .case(by_group(case(IMAGE)))
    };
    let section = Draft::of(&super::sparse_overlay().header).record(SECTION).clone();
    let decided = |name: &str, purpose: &str, rule: V, verdict, at: usize, bytes: &'static [u8]| {
        file(&format!("grp-decision-{name}"), purpose, rule, verdict, &move |d| d.put_in(DECISION, at, bytes))
    };
    vec![
        file("grp-decision-missing", "A group without a decision.", V::DecisionHome, Invalid, &|d| d.records.clear()),
        file("grp-decision-twice", "A group with two decisions.", V::RecordCount, Invalid, &|d| {
            let decision = d.record(DECISION).clone();
            d.records.push(decision);
        }),
        file("grp-decision-optional", "A decision that need not be known.", V::KnownRecordRequired, Invalid, &|d| {
            d.record(DECISION).flags = 0
        }),
        file("grp-decision-longer", "The decision is longer than its type says.", V::RecordLength, Invalid, &|d| {
            d.record(DECISION).payload.extend([0; 8])
        }),
        file("grp-decision-cut", "The decision is shorter than its type says.", V::RecordLength, Invalid, &|d| {
            d.record(DECISION).payload.truncate(4)
        }),
        decided("reserved_first", "A reserved byte is not zero.", V::RecordLength, Invalid, 4, &[1]),
        decided("reserved_last", "The last reserved byte is not zero.", V::RecordLength, Invalid, 15, &[1]),
        decided("2", "A decision that version 1 does not have.", V::Decision, Unsupported, 0, &[2]),
        decided("high_byte", "The last byte of the decision is set.", V::Decision, Unsupported, 3, &[1]),
        file("grp-disk-size", "A group with a disk of one byte.", V::GroupAlone, Invalid, &|d| d.put(64, &[1])),
        file("grp-disk-data_offset", "A group with a data offset.", V::DataOffset, Invalid, &|d| {
            d.put(72, &(2 * SLOT_SIZE).to_le_bytes())
        }),
        file("grp-disk-section", "A group with a section.", V::GroupAlone, Invalid, &|d| {
            d.records.insert(0, section.clone());
            d.put_in(SECTION, 40, &[0; 8]);
        }),
        file("grp-disk-host", "A group with a host.", V::GroupAlone, Invalid, &|d| {
            let host = Draft::of(&side().header).record(HOST).clone();
            d.records.insert(0, host);
        }),
        file("grp-disk-copy_mark", "A group with a copy mark.", V::GroupAlone, Invalid, &|d| {
            let mark = Draft::of(&target().header).record(COPY_MARK).clone();
            d.records.insert(0, mark);
        }),
        file("grp-disk-group_mark", "A group in a group.", V::GroupAlone, Invalid, &|d| {
            let mark = Draft::of(&source().header).record(GROUP_MARK).clone();
            d.put(88, &[1]);
            d.records.insert(0, mark);
        }),
        broken("grp-decision-in_image", "An image with a decision.", V::DecisionHome, Invalid, plain(), |d| {
            d.add(DECISION, REQUIRED, &[0; 16])
        }),
        super::sid::fails("grp-decision-in_sidecar", "A sidecar with a decision.", V::DecisionHome, Invalid, |d| {
            d.add(DECISION, REQUIRED, &[0; 16])
        }),
        cut(),
    ]
}

/// The file of a group that ends within its second slot.
fn cut() -> Vector {
    let mut file = group(Decision::Moved).finish();
    file.set_len(2 * SLOT_SIZE - 1);
    Vector::new("grp-file-short", "The file of a group lacks its last byte.", &[V::Slots])
        .file(GROUP, Role::Group, file)
        .file(IMAGE, Role::Image, target().finish())
        .case(by_group(Case::new(IMAGE, Invalid, &[V::Slots])))
}

/// The mark of a disk is not right.
fn marks() -> Vec<Vector> {
    let mark = |name: &str, purpose: &str, rule: V, change: &dyn Fn(&mut Draft)| {
        broken(&format!("grp-mark-{name}"), purpose, rule, Invalid, source(), |d| change(d))
    };
    let mut second = source().header;
    second.set_group_mark(Some(GroupMark { group: id("other") }));
    let second = Draft::of(&second).record(GROUP_MARK).clone();
    let mut feature = Draft::of(&plain().header);
    feature.put(88, &[1]);
    vec![
        mark("nil", "A group mark that names no group.", V::GroupMark, &|d| d.put_in(GROUP_MARK, 0, &[0; 16])),
        mark("without_feature", "A group mark that an older writer would overlook.", V::GroupMark, &|d| {
            d.put(88, &[0])
        }),
        refused(
            "grp-mark-feature_alone",
            "The feature says that there is a group mark, and there is none.",
            V::GroupMark,
            Invalid,
            plain(),
            &feature.slot(),
        ),
        mark("required", "A group mark that keeps older readers off.", V::KnownRecordRequired, &|d| {
            d.record(GROUP_MARK).flags = REQUIRED
        }),
        mark("twice", "A disk in two groups.", V::RecordCount, &|d| d.records.push(second.clone())),
        mark("longer", "The mark is longer than its type says.", V::RecordLength, &|d| {
            d.record(GROUP_MARK).payload.extend([0; 8])
        }),
        mark("cut", "The mark is shorter than its type says.", V::RecordLength, &|d| {
            d.record(GROUP_MARK).payload.truncate(16)
        }),
        mark("reserved", "A reserved byte of the mark is not zero.", V::RecordLength, &|d| {
            d.put_in(GROUP_MARK, 31, &[1])
        }),
        unknown_feature(),
    ]
}

/// Beside a feature of writers that is known there is one that is not.
fn unknown_feature() -> Vector {
    let mut maker = source();
    maker.header.ro_compat |= 2;
    pair(
        "grp-source-unknown_feature",
        "A disk in a group has a feature besides that writers do not know.",
        &[V::ReadOnlyFeature, V::GroupMark],
        &mut maker,
        &mut group(Decision::Undecided),
    )
    .case(by_group(maker.opens(IMAGE)))
    .case(by_group(for_writing(Case::new(IMAGE, Unsupported, &[V::ReadOnlyFeature]))))
}

/// What a crash leaves of the decision.
fn interrupted() -> Vec<Vector> {
    let mut decided = group(Decision::Undecided);
    decided.header.sequence += 1;
    decided.header.decision = Some(Decision::Moved);
    let slot = decided.encoded();
    let mut one = group(Decision::Undecided);
    one.finish();
    let mut torn = one.clone();
    one.slot(1, &slot);
    torn.slot(1, &slot[..136]);
    let vector = |name: &str, purpose: &str, disk: &mut Maker, group: &Maker, case: Case| {
        Vector::new(name, purpose, &[V::DecisionHome, V::Moved, V::Copying])
            .file(IMAGE, Role::Image, disk.finish())
            .file(GROUP, Role::Group, group.file.clone())
            .case(by_group(for_writing(case)))
            .flag(Flag::Crash)
            .also(&["HDR-17", "HDR-19"])
    };
    let (whole, half) = ("The decision is in one slot.", "The decision did not arrive whole: there is none.");
    vec![
        vector("grp-decided-source", whole, &mut source(), &one, denied(V::Moved)),
        vector("grp-decided-target", whole, &mut target(), &one, target().opens(IMAGE)),
        vector("grp-torn-source", half, &mut source(), &torn, source().opens(IMAGE)),
        vector("grp-torn-target", half, &mut target(), &torn, denied(V::Copying)),
    ]
}
