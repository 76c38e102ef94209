//! Links and marks field by field, cycles and depth, and what is wrong with layers further down.

use super::{Breach, Invalid, Refused, Unsupported, answer, or};
use crate::format::{CopyMark, Identity, MergeMark, ParentFormat, Uuid};
use crate::testing::vectors::IMAGE;
use crate::testing::vectors::chn::{BASE, MIDDLE, refused};
use crate::testing::vectors::draft::{Draft, HOST, REQUIRED, SECTION};
use crate::testing::vectors::link::marked;
use crate::testing::vectors::maker::{Maker, id, raw};
use crate::testing::vectors::sparse::Sparse;
use crate::testing::vectors::vector::{Role, Vector, Verdict};
use crate::violation::Violation as V;

pub(super) fn all() -> Vec<Vector> {
    [identities(), lower_identities(), marks(), lengths(), cycles(), depths(), formats(), parents(), cut()].concat()
}

const SIZE: u64 = 8192;

/// A complete image of two pages.
fn base() -> Maker {
    Maker::complete("base", SIZE).data(0..512)
}

/// An overlay over `below`, a file of that name.
fn over(tag: &str, below: &Maker, name: &str) -> Maker {
    Maker::overlay(tag, SIZE, 12).over(below, name, SIZE)
}

/// The identity in the link of `maker`.
fn link(maker: &mut Maker) -> &mut Identity {
    maker.header.parent.as_mut().and_then(|parent| parent.identity.as_mut()).expect("the link has an identity")
}

/// A change of a UUID or epoch.
type Misread = fn(Uuid) -> Uuid;

const CHANGES: &[(&str, &str, Misread)] = &[
    ("first_bit", "differs in its first bit", |id| flipped(id, 0, 0x80)),
    ("last_bit", "differs in its last bit", |id| flipped(id, 15, 0x01)),
    ("second_half", "is right in its first half only", |id| halves(id, 8..16)),
    ("first_half", "is right in its second half only", |id| halves(id, 0..8)),
    ("swapped", "has its first three parts byte-swapped, as in a GUID", super::sectors::swapped),
    ("reversed", "is stored backwards", |mut id| {
        id.0.reverse();
        id
    }),
];

fn flipped(mut id: Uuid, at: usize, mask: u8) -> Uuid {
    id.0[at] ^= mask;
    id
}

fn halves(mut id: Uuid, wrong: std::ops::Range<usize>) -> Uuid {
    id.0[wrong].fill(0x55);
    id
}

/// A link that names nearly the parent.
fn identities() -> Vec<Vector> {
    let vector = |name: String, purpose: String, change: &dyn Fn(&mut Identity)| {
        let mut base = base();
        let mut top = over("top ", &base, BASE);
        change(link(&mut top));
        refused(&name, &purpose, Refused, &[V::ParentMatches], &mut [(IMAGE, &mut top), (BASE, &mut base)])
    };
    let mut vectors = Vec::new();
    for &(name, what, change) in CHANGES {
        vectors.push(vector(format!("chn-uuid-{name}"), format!("The link's UUID {what}."), &|link| {
            link.uuid = change(link.uuid)
        }));
        vectors.push(vector(format!("chn-epoch-{name}"), format!("The link's epoch {what}."), &|link| {
            link.epoch = change(link.epoch)
        }));
    }
    let swap = |link: &mut Identity| std::mem::swap(&mut link.uuid, &mut link.epoch);
    vectors.push(vector("chn-identity-swapped".into(), "UUID and epoch of the link are swapped.".into(), &swap));
    let twice = |link: &mut Identity| link.epoch = link.uuid;
    vectors.push(vector("chn-identity-uuid_twice".into(), "The link's epoch is the parent's UUID.".into(), &twice));
    let own = |link: &mut Identity| *link = Identity { uuid: id("top "), epoch: id("top , epoch 1") };
    vectors.push(vector("chn-identity-own".into(), "The link names the child itself.".into(), &own));
    vectors
}

/// Three layers.
struct Three {
    top: Maker,
    middle: Maker,
    base: Maker,
}

fn three() -> Three {
    let base = base();
    let middle = over("midl", &base, BASE);
    Three { top: over("top ", &middle, MIDDLE), middle, base }
}

impl Three {
    /// They do not open for one of `rules`.
    fn refused(mut self, name: &str, purpose: &str, verdict: Verdict, rules: &[V]) -> Vector {
        let mut layers = [(IMAGE, &mut self.top), (MIDDLE, &mut self.middle), (BASE, &mut self.base)];
        refused(name, purpose, verdict, rules, &mut layers)
    }
}

/// What is done to three layers.
type Change = fn(&mut Three);

/// The upper link is right, the lower one is not.
fn lower_identities() -> Vec<Vector> {
    let rows: &[(&str, &str, Verdict, V, Change)] = &[
        ("chn-lower-uuid", "The link of the middle layer names another UUID.", Refused, V::ParentMatches, |three| {
            link(&mut three.middle).uuid = id("another")
        }),
        ("chn-lower-no_identity", "The link of the middle layer names nobody.", Refused, V::ParentMatches, |three| {
            three.middle.header.parent.as_mut().expect("it has a link").identity = None
        }),
        (
            "chn-lower-visible",
            "The middle layer sees a byte more than its parent has.",
            Refused,
            V::VisibleLength,
            |three| three.base = Maker::complete("base", SIZE - 1),
        ),
        ("chn-lower-copy_mark", "The parent's parent is not yet a copy.", Refused, V::Copying, |three| {
            three.base.header.copy_mark = Some(CopyMark { group: Uuid::NIL })
        }),
        (
            "chn-lower-qcow2",
            "The middle layer lies on a format that is not described.",
            Unsupported,
            V::ParentFormat,
            |three| {
                three.middle.header.parent = three.middle.header.parent.take().map(|parent| crate::format::Parent {
                    identity: None,
                    format: ParentFormat::Qcow2,
                    ..parent
                })
            },
        ),
        (
            "chn-skipped",
            "The top's link names the base, and the middle layer is given.",
            Refused,
            V::ParentMatches,
            |three| three.top = over("top ", &three.base, BASE),
        ),
    ];
    rows.iter()
        .map(|&(name, purpose, verdict, rule, change)| {
            let mut three = three();
            change(&mut three);
            three.refused(name, purpose, verdict, &[rule])
        })
        .collect()
}

/// Marks that do not admit the chain: whom they name, and what the link to the marked file names.
fn marks() -> Vec<Vector> {
    let both = &[V::Marked, V::ParentMatches];
    let two = |name: &str, purpose: &str, rules: &[V], change: &dyn Fn(&mut Maker, &mut Maker)| {
        let base = base();
        let mut top = over("top ", &base, BASE);
        let mut mixed = marked(&base, top.header.uuid);
        change(&mut top, &mut mixed);
        refused(name, purpose, Refused, rules, &mut [(IMAGE, &mut top), (BASE, &mut mixed)])
    };
    let mark = |maker: &mut Maker, change: &dyn Fn(&mut MergeMark)| {
        change(maker.header.merge_mark.as_mut().expect("it is marked"))
    };
    let mut vectors = Vec::new();
    for &(name, what, change) in CHANGES {
        let purpose = format!("The UUID in the mark {what}.");
        vectors.push(two(&format!("chn-merge-child_{name}"), &purpose, both, &|_, mixed| {
            mark(mixed, &|mark| mark.child_uuid = change(mark.child_uuid))
        }));
        let purpose = format!("The epoch in the mark {what}; the link names that of before the merge.");
        vectors.push(two(&format!("chn-merge-epoch_{name}"), &purpose, both, &|_, mixed| {
            mark(mixed, &|mark| mark.child_epoch = change(mark.child_epoch))
        }));
    }
    vectors.extend([
        two("chn-merge-itself", "The mark names the file that it is in.", both, &|_, mixed| {
            let uuid = mixed.header.uuid;
            mark(mixed, &|mark| mark.child_uuid = uuid)
        }),
        two("chn-merge-other_file", "The mark admits the child, whose link names another file.", both, &|top, _| {
            link(top).uuid = id("another")
        }),
        two(
            "chn-merge-and_copy",
            "The mark admits the child; the file is not yet a copy either.",
            &[V::Copying],
            &|_, mixed| mixed.header.copy_mark = Some(CopyMark { group: id("group") }),
        ),
        two("chn-merge-top_and_copy", "The top has both marks.", &[V::Marked, V::Copying], &|top, mixed| {
            top.header.merge_mark = mixed.header.merge_mark.take();
            top.header.copy_mark = Some(CopyMark { group: Uuid::NIL });
            mixed.header.epoch = link(top).epoch;
        }),
    ]);
    let mut below = three();
    below.middle.header.merge_mark =
        Some(MergeMark { child_uuid: below.base.header.uuid, child_epoch: below.middle.header.epoch });
    let purpose = "The mark of the middle layer names the layer below it.";
    vectors.push(below.refused("chn-merge-below", purpose, Refused, &[V::Marked]));
    vectors
}

/// What is seen of a parent, and how long that is.
fn lengths() -> Vec<Vector> {
    let rows = [
        ("chn-visible-of_empty_raw", "A byte is seen of a raw parent that has none.", 1, 0),
        ("chn-visible-block_past_raw", "The raw parent is a block shorter than what is seen of it.", SIZE, SIZE - 4096),
    ];
    let raws = rows.map(|(name, purpose, visible, length)| {
        let mut top = Maker::overlay("top ", SIZE, 12).over_raw(&Sparse::new(visible), super::RAW, visible);
        refused(name, purpose, Refused, &[V::VisibleLength], &mut [(IMAGE, &mut top)]).file(
            super::RAW,
            Role::Parent,
            raw("raw ", length, &[]),
        )
    });
    let mut none = Maker::complete("base", 0);
    let mut top = Maker::overlay("top ", SIZE, 12).over(&none, BASE, 0);
    top.header.parent.as_mut().expect("it has a parent").visible_length = 1;
    let purpose = "A byte is seen of an image that has none.";
    let layers = &mut [(IMAGE, &mut top), (BASE, &mut none)];
    let empty = refused("chn-visible-of_empty_image", purpose, Refused, &[V::VisibleLength], layers);
    raws.into_iter().chain([empty]).collect()
}

/// `parents` are given, in that order.
fn given(mut vector: Vector, parents: &[&str]) -> Vector {
    vector.cases[0].parents = parents.iter().map(|&name| name.into()).collect();
    vector
}

/// A storage that is a layer already.
fn cycles() -> Vec<Vector> {
    let cycle = &[V::Cycle];
    let mut three = three();
    three.base = Maker::overlay("base", SIZE, 12).over(&three.top, IMAGE, SIZE);
    three.middle = over("midl", &three.base, BASE);
    three.top = over("top ", &three.middle, MIDDLE);
    let purpose = "Three images each of which is the next one's parent.";
    let of_three = given(three.refused("chn-cycle-three", purpose, Refused, cycle), &[MIDDLE, BASE, IMAGE]);
    let own = |tag: &str, name: &str| {
        let maker = Maker::overlay(tag, SIZE, 12);
        maker.clone().over(&maker, name, SIZE)
    };
    let mut looped = own("midl", MIDDLE);
    let mut above = over("top ", &looped, MIDDLE);
    let layers = &mut [(IMAGE, &mut above), (MIDDLE, &mut looped)];
    let purpose = "A parent that is its own parent.";
    let below = given(refused("chn-cycle-below", purpose, Refused, cycle, layers), &[MIDDLE, MIDDLE]);
    let mut raw_self = Maker::overlay("self", SIZE, 12).over_raw(&Sparse::new(SIZE), IMAGE, SIZE);
    let purpose = "An image that is its own raw parent.";
    let raw_self = given(refused("chn-cycle-raw", purpose, Refused, cycle, &mut [(IMAGE, &mut raw_self)]), &[IMAGE]);
    let mut middle = Maker::overlay("midl", SIZE, 12).over_raw(&Sparse::new(SIZE), IMAGE, SIZE);
    let mut top = over("top ", &middle, MIDDLE);
    let layers = &mut [(IMAGE, &mut top), (MIDDLE, &mut middle)];
    let purpose = "The raw parent of the middle layer is the top.";
    let raw_top = given(refused("chn-cycle-raw_top", purpose, Refused, cycle, layers), &[MIDDLE, IMAGE]);
    vec![of_three, below, raw_self, raw_top]
}

/// One layer more than the caller allows.
fn depths() -> Vec<Vector> {
    let deep = |name: &str, purpose: &str, depth: usize, mut vector: Vector| {
        (vector.name, vector.purpose) = (name.into(), purpose.into());
        vector.cases[0].depth = Some(depth);
        vector
    };
    let three = || three().refused("", "", Refused, &[V::Cycle]);
    let mut on_raw = Maker::overlay("top ", SIZE, 12).over_raw(&Sparse::new(SIZE), super::RAW, SIZE);
    let on_raw = refused("", "", Refused, &[V::Cycle], &mut [(IMAGE, &mut on_raw)]);
    let on_raw = on_raw.file(super::RAW, Role::Parent, Sparse::new(SIZE));
    vec![
        deep("chn-depth-1_of_3", "Three layers where the caller allows one.", 1, three()),
        deep("chn-depth-raw", "A raw parent is a layer: two where the caller allows one.", 1, on_raw),
    ]
}

/// Links whose format is not that of the file.
fn formats() -> Vec<Vector> {
    let lvd = |name: &str, purpose: &str, verdict, rule: &str, file: Sparse| {
        let mut top = over("top ", &base(), BASE);
        let mut vector = refused(name, purpose, verdict, &[], &mut [(IMAGE, &mut top)]).file(BASE, Role::Parent, file);
        vector.cases[0].broken = vec![rule.into()];
        vector.also(&[rule])
    };
    let mut qed = Sparse::new(262_144);
    qed.write(0, b"QED\0\0\x10\0\0\x01\0\0\0\x01\0\0\0");
    let side = Maker::sidecar("base", SIZE, 12).finish();
    let is_qed = "The link says that the parent is an image; it is a QED image.";
    let is_sidecar = "The parent is a sidecar, which is no disk by itself.";
    let purpose = "The parent is a sidecar, and the caller overrides all that can be overridden.";
    let mut trusted = lvd("chn-lvd-is_sidecar_trusted", purpose, Refused, "SID-07", side.clone());
    (trusted.cases[0].trust_links, trusted.cases[0].ignore_marks) = (true, true);
    let mut vectors = vec![
        lvd("chn-lvd-is_qed", is_qed, Invalid, "HDR-02", qed),
        lvd("chn-lvd-is_sidecar", is_sidecar, Refused, "SID-07", side),
        trusted,
        lvd("chn-lvd-is_empty", "The parent has no bytes.", Invalid, "HDR-02", Sparse::new(0)),
    ];
    let image = base().finish();
    let mut on_qed = Maker::overlay("top ", SIZE, 12).over_foreign(ParentFormat::Qed, &Sparse::new(SIZE), BASE, SIZE);
    let layers = &mut [(IMAGE, &mut on_qed)];
    let purpose = "The link says that the parent is a QED image; it is an image.";
    vectors.push(refused("chn-qed-is_lvd", purpose, Invalid, &[V::QedMagic], layers).file(BASE, Role::Parent, image));
    vectors.iter_mut().for_each(|vector| vector.rules.push("CHN-08".into()));
    let mut nobody = three().refused("chn-lower-not_given", "The parent's parent is not given.", Refused, &[]);
    nobody.files.truncate(2);
    nobody.cases[0].broken = vec!["CHN-01".into()];
    vectors.push(nobody.also(&["CHN-01"]));
    vectors
}

/// A parent whose header breaks a rule is refused as a top would be.
fn parents() -> Vec<Vector> {
    let rows: &[Breach] = &[
        ("version_2", "is of version 2", &[V::Version], |d| d.put(8, &[2])),
        ("reserved", "has a reserved byte that is not zero", &[V::HeaderReserved], |d| d.put(120, &[1])),
        ("incompat", "has an unknown incompatible feature", &[V::IncompatibleFeature], |d| d.put(83, &[1])),
        ("kind", "has an unknown kind", &[V::Kind], |d| d.put(20, &[4])),
        ("state", "has no right state", &[V::State], |d| d.put(22, &[4])),
        ("sequence", "has the sequence number 0", &[V::Sequence], |d| d.put(24, &[0; 8])),
        ("size", "is larger than 2^60 bytes", &[V::VirtualSize, V::AllocationCovers], |d| d.put(71, &[0x20])),
        ("data_offset", "has a data offset that is no multiple of a page", &[V::DataOffset], |d| d.put(72, &[8])),
        ("length", "has a header's length of 127", &[V::HeaderLength], |d| d.put_late(12, &[127])),
        ("count", "counts a record too many", &[V::RecordWalk], |d| d.put_late(104, &[9])),
        ("padding", "has a record whose padding is not zero", &[V::RecordPadding], |d| {
            d.add(900, 0, b"odd");
            let at = d.place(900) + 8 + 3;
            d.put_late(at, &[1]);
        }),
        ("unknown_required", "has a required record of unknown type", &[V::RequiredRecord], |d| {
            d.add(10, REQUIRED, b"")
        }),
        ("record_flags", "has a record with an unknown flag", &[V::RecordFlags], |d| d.record(SECTION).flags |= 2),
        ("record_length", "has a section of 48 bytes", &[V::RecordLength], |d| d.record(SECTION).payload.truncate(48)),
        ("host", "has the host record of a sidecar", &[V::SidecarHost], |d| {
            let length = 8192u64.to_le_bytes();
            d.add(HOST, REQUIRED, &[&[2, 0, 0, 0, 0, 0, 0, 0][..], &length, &[0; 16]].concat());
        }),
        ("optional_section", "has an allocation section that need not be understood", &[V::KnownRecordRequired], |d| {
            d.record(SECTION).flags = 0
        }),
        ("granule", "has blocks of 2 KiB", &[V::Granularity], |d| d.put_in(SECTION, 18, &[11])),
        ("covers", "has bits for a byte less than its disk", &[V::AllocationCovers], |d| {
            d.put_in(SECTION, 40, &[0xff, 0x1f])
        }),
        ("overlap", "has a section that reaches into its data area", &[V::Overlap], |d| d.put_in(SECTION, 34, &[2])),
        ("section_id", "has a section without identity", &[V::SectionId], |d| d.put_in(SECTION, 0, &[0; 16])),
    ];
    rows.iter()
        .map(|&(name, what, rules, change)| {
            let mut below = Maker::overlay("base", SIZE, 12).data(0..512);
            let mut top = over("top ", &below, BASE);
            below.seal_bits();
            let mut draft = Draft::of(&below.header);
            change(&mut draft);
            below.slot(0, &draft.slot());
            below.slot(1, &draft.slot());
            let (name, purpose) = (format!("chn-parent-{name}"), format!("The parent {what}."));
            let vector = refused(&name, &purpose, answer(rules[0]), &rules[..1], &mut [(IMAGE, &mut top)]);
            or(vector, &rules[1..]).file(BASE, Role::Parent, below.file)
        })
        .collect()
}

/// A parent that has lost its end.
fn cut() -> Vec<Vector> {
    let rows: [(&str, &str, u64, &[V]); 4] = [
        ("cut_data", "The parent has lost the last byte of its data area.", 196_608 + SIZE - 1, &[V::DataArea]),
        (
            "cut_section",
            "The parent ends within its allocation section.",
            131_072 + 512,
            &[V::DataArea, V::SectionInFile],
        ),
        ("cut_slot", "The parent ends within slot 1.", 131_071, &[V::Slots, V::DataArea, V::SectionInFile]),
        ("cut_header", "The parent ends within its header.", 100, &[V::HeaderChecksum]),
    ];
    rows.map(|(name, purpose, length, rules)| {
        let mut below = Maker::overlay("base", SIZE, 12);
        let mut top = over("top ", &below, BASE);
        let mut file = below.finish();
        file.set_len(length);
        let name = format!("chn-parent-{name}");
        let vector = refused(&name, purpose, answer(rules[0]), &rules[..1], &mut [(IMAGE, &mut top)]);
        or(vector, &rules[1..]).file(BASE, Role::Parent, file)
    })
    .into()
}
