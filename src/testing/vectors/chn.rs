//! Vectors of chains: which parents are taken, how much of them is seen, and what a mark forbids.

use super::IMAGE;
use super::maker::{Maker, id, raw};
use super::sparse::Sparse;
use super::vector::{Case, Flag, Held, Role, Vector, Verdict};
use crate::format::{CopyMark, MergeMark, ParentFormat, State, Uuid};
use crate::violation::Violation as V;
use Verdict::{Invalid, Refused, Unsupported};

const BASE: &str = "base.lvd";
const MIDDLE: &str = "middle.lvd";
const RAW: &str = "base.raw";

pub(super) fn all() -> Vec<Vector> {
    [layers(), lengths(), matching(), states(), merging(), copying(), shape(), formats(), policy()].concat()
}

/// A complete image of eight pages, all of them data.
fn base() -> Maker {
    Maker::complete("base", 32_768).data(0..32_768)
}

/// An overlay with one block of its own.
fn over(base: &Maker) -> Maker {
    Maker::overlay("top ", 32_768, 12).over(base, BASE, 32_768).data(4096..8192).garbage(8192..12_288)
}

/// Files from the top down, and the case that all of it can be read.
fn chain(name: &str, purpose: &str, rules: &[V], makers: &mut [(&str, &mut Maker)]) -> Vector {
    let mut vector = Vector::new(name, purpose, rules);
    for (number, (file, maker)) in makers.iter_mut().enumerate() {
        vector = vector.file(file, if number == 0 { Role::Image } else { Role::Parent }, maker.finish());
    }
    vector.case(makers[0].1.opens(makers[0].0))
}

/// The same, but it does not open.
fn refused(name: &str, purpose: &str, verdict: Verdict, rules: &[V], makers: &mut [(&str, &mut Maker)]) -> Vector {
    let mut vector = chain(name, purpose, rules, makers);
    vector.cases = vec![Case::new(makers[0].0, verdict, rules)];
    vector
}

fn layers() -> Vec<Vector> {
    let mut bottom = base();
    let mut coarse = Maker::overlay("midl", 32_768, 16).over(&bottom, BASE, 32_768);
    coarse.header.uuid = id("middle");
    let mut fine =
        Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 32_768).data(8192..16_384).zeros(20_480..24_576);
    let mut top = Maker::overlay("top ", 32_768, 13).over(&fine, MIDDLE, 32_768).data(0..100).zeros(12_288..12_388);
    let mut top_of_coarse = Maker::overlay("top ", 32_768, 12).over(&coarse, MIDDLE, 32_768).data(0..4096);
    let raw_base = raw("raw ", 32_768, &[0..5000, 30_000..32_768]);
    let mut on_raw = Maker::overlay("top ", 32_768, 12).over_raw(&raw_base, RAW, 32_768).data(4096..8192);
    let mut twin = Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 32_768).data(0..4096);
    twin.header.uuid = bottom.header.uuid;
    let mut on_twin = Maker::overlay("top ", 32_768, 12).over(&twin, MIDDLE, 32_768).data(8192..12_288);
    vec![
        chain(
            "chn-two",
            "An overlay with one block of its own over a complete image.",
            &[V::ParentMatches],
            &mut [(IMAGE, &mut over(&bottom)), (BASE, &mut bottom.clone())],
        )
        .also(&["ALC-03", "ALC-04"]),
        chain(
            "chn-three",
            "Three layers in blocks of 8, 4 KiB and none; zeros hide data.",
            &[V::ParentMatches],
            &mut [(IMAGE, &mut top), (MIDDLE, &mut fine), (BASE, &mut bottom.clone())],
        ),
        chain(
            "chn-three-coarse_middle",
            "The middle holds nothing, in blocks larger than its disk.",
            &[V::Granularity],
            &mut [(IMAGE, &mut top_of_coarse), (MIDDLE, &mut coarse), (BASE, &mut bottom.clone())],
        ),
        chain(
            "chn-same_uuid",
            "Two layers have one UUID, as copies do: that is no cycle.",
            &[V::Cycle],
            &mut [(IMAGE, &mut on_twin), (MIDDLE, &mut twin), (BASE, &mut bottom)],
        ),
        chain("chn-raw", "An overlay over a raw file.", &[], &mut [(IMAGE, &mut on_raw)]).also(&["CHN-09"]).file(
            RAW,
            Role::Parent,
            raw_base,
        ),
    ]
}

fn lengths() -> Vec<Vector> {
    let sized = |name: &str, purpose: &str, child: u64, parent: u64, visible: u64| {
        let base = raw("raw ", parent, &[0..parent]);
        let mut top = Maker::overlay("top ", child, 12).over_raw(&base, RAW, visible).data(0..100);
        chain(name, purpose, &[V::VisibleLength], &mut [(IMAGE, &mut top)]).also(&["ALC-05"]).file(
            RAW,
            Role::Parent,
            base,
        )
    };
    let mut bottom = base();
    let mut narrow = Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 10_000);
    let mut top = Maker::overlay("top ", 32_768, 12).over(&narrow, MIDDLE, 20_000).data(4096..8192);
    let mut too_long = Maker::overlay("top ", 65_536, 12).over(&bottom, BASE, 32_768);
    too_long.header.parent.as_mut().expect("it has a parent").visible_length = 32_769;
    let mut over_cut_raw = Maker::overlay("top ", 32_768, 12).over_raw(&raw("raw ", 20_000, &[]), RAW, 20_000);
    vec![
        sized("chn-parent-shorter", "The parent ends within a block of the child.", 32_768, 10_000, 10_000),
        sized("chn-parent-longer", "The parent is longer than the child.", 10_000, 32_768, 10_000),
        sized("chn-parent-one_byte", "A parent of one byte.", 8192, 1, 1),
        sized("chn-visible-less", "Less of the parent is seen than there is, as after a shrink.", 32_768, 32_768, 6000),
        sized("chn-visible-0", "Nothing of the parent is seen.", 32_768, 32_768, 0),
        chain(
            "chn-visible-through_two",
            "What the middle hides the top does not see.",
            &[V::VisibleLength],
            &mut [(IMAGE, &mut top), (MIDDLE, &mut narrow), (BASE, &mut bottom.clone())],
        )
        .also(&["ALC-05"]),
        refused(
            "chn-visible-past_parent",
            "The visible length is a byte more than the parent has.",
            Refused,
            &[V::VisibleLength],
            &mut [(IMAGE, &mut too_long), (BASE, &mut bottom)],
        ),
        refused(
            "chn-visible-past_raw",
            "The raw parent has lost its last byte.",
            Refused,
            &[V::VisibleLength],
            &mut [(IMAGE, &mut over_cut_raw)],
        )
        .file(RAW, Role::Parent, raw("raw ", 19_999, &[]))
        .also(&["CHN-09"]),
    ]
}

fn matching() -> Vec<Vector> {
    let mut bottom = base();
    let mut top = over(&bottom);
    let mut other_epoch = bottom.next();
    let mut other_uuid = bottom.clone();
    other_uuid.header.uuid = id("another");
    let mut middle = Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 32_768).data(8192..12_288);
    let mut third = Maker::overlay("top ", 32_768, 12).over(&middle, MIDDLE, 32_768);
    let mut no_identity = over(&bottom);
    no_identity.header.parent.as_mut().expect("it has a parent").identity = None;
    let trusted = Case { trust_links: true, ..top.opens(IMAGE) };
    let rule = &[V::ParentMatches];
    vec![
        refused(
            "chn-epoch-other",
            "The parent was changed since the child was made; the caller may override.",
            Refused,
            rule,
            &mut [(IMAGE, &mut top), (BASE, &mut other_epoch)],
        )
        .case(trusted.clone())
        .also(&["CHN-14"]),
        refused(
            "chn-uuid-other",
            "Another file is in the parent's place; the caller may override.",
            Refused,
            rule,
            &mut [(IMAGE, &mut top), (BASE, &mut other_uuid)],
        )
        .case(trusted),
        refused(
            "chn-epoch-other_grandparent",
            "The parent matches, the parent's parent does not.",
            Refused,
            rule,
            &mut [(IMAGE, &mut third), (MIDDLE, &mut middle), (BASE, &mut other_epoch)],
        ),
        refused(
            "chn-identity-missing",
            "A link to an image does not say which: nothing can match.",
            Refused,
            rule,
            &mut [(IMAGE, &mut no_identity), (BASE, &mut bottom)],
        ),
    ]
}

/// What the parent's last session was makes no difference, as long as the epoch is the one that the link names.
fn states() -> Vec<Vector> {
    let with = |state: State, name: &str, purpose: &str| {
        let mut bottom = base();
        bottom.header.state = state;
        let mut top = over(&bottom);
        chain(name, purpose, &[V::ParentMatches, V::State], &mut [(IMAGE, &mut top), (BASE, &mut bottom)])
    };
    let sealed = base();
    let mut session = sealed.next();
    session.header.state = State::Writing;
    let mut one_slot = sealed.clone();
    one_slot.finish();
    let newer = session.encoded();
    one_slot.slot(1, &newer);
    let mut crashed = refused(
        "chn-session_began",
        "A session on the parent made its new epoch durable in one slot and crashed before it changed a byte.",
        Refused,
        &[V::ParentMatches],
        &mut [(IMAGE, &mut over(&sealed))],
    )
    .file(BASE, Role::Parent, one_slot.file.clone())
    .flag(Flag::Crash);
    crashed.rules.push("ORD-50".into());
    let mut torn = sealed.clone();
    torn.finish();
    torn.slot(1, &[&newer[..60], &[0xee; 68]].concat());
    let mut top = over(&sealed);
    let before = chain(
        "chn-session_torn",
        "The header that was to begin a session on the parent is torn: the old epoch still names the content.",
        &[V::ParentMatches],
        &mut [(IMAGE, &mut top)],
    )
    .file(BASE, Role::Parent, torn.file)
    .flag(Flag::Crash)
    .also(&["HDR-17", "ORD-50"]);
    vec![
        with(State::Filling, "chn-parent-filling", "The parent's last session ended while it was filling."),
        with(State::Writing, "chn-parent-writing", "The parent is unclean, but the link names its present epoch."),
        crashed,
        before,
    ]
}

/// The base while `child` is being merged into it: a new epoch, and a mark with the one that the link names.
fn marked(base: &Maker, child: Uuid) -> Maker {
    let mut marked = base.next();
    marked.header.state = State::Writing;
    marked.header.merge_mark = Some(MergeMark { child_uuid: child, child_epoch: base.header.epoch });
    marked
}

fn merging() -> Vec<Vector> {
    let bottom = base();
    let mut top = over(&bottom);
    let mut mixed = marked(&bottom, top.header.uuid).data(4096..8192);
    let mut relinked = Maker::overlay("top ", 32_768, 12).over(&mixed, BASE, 32_768).data(4096..8192);
    let mut sibling = Maker::overlay("sibl", 32_768, 12).over(&bottom, BASE, 32_768).data(0..4096);
    let mut late = over(&bottom);
    late.header.parent.as_mut().expect("it has a parent").identity.as_mut().expect("and it is named").epoch =
        id("older");
    let mut middle = Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 32_768).data(8192..12_288);
    let mut high = Maker::overlay("top ", 32_768, 12).over(&middle, MIDDLE, 32_768).data(4096..8192);
    let mut marked_middle = marked(&middle, high.header.uuid);
    let mut under_both = marked(&bottom, high.header.uuid);
    let mark = &[V::Marked];
    let alone = |case: Case| Vector { cases: vec![case], ..chain("", "", mark, &mut [(IMAGE, &mut mixed.clone())]) };
    let mut looking = alone(Case { ignore_marks: true, ..mixed.opens(IMAGE) });
    looking.name = "chn-merge-base_alone".into();
    looking.purpose = "A file that is being merged into is opened on its own; the caller may override, to look.".into();
    looking.cases.insert(0, Case::new(IMAGE, Refused, mark));
    vec![
        looking,
        chain(
            "chn-merge-child",
            "A base that is being merged into, below the child that its mark names, whose link still \
            names the epoch from before.",
            mark,
            &mut [(IMAGE, &mut top), (BASE, &mut mixed.clone())],
        )
        .also(&["CHN-03", "ORD-80"]),
        chain(
            "chn-merge-child_relinked",
            "The child's link names the new epoch already; the mark is still there.",
            mark,
            &mut [(IMAGE, &mut relinked), (BASE, &mut mixed.clone())],
        )
        .also(&["ORD-82"]),
        refused(
            "chn-merge-other_child",
            "Another child of a base that is being merged into.",
            Refused,
            &[V::Marked, V::ParentMatches],
            &mut [(IMAGE, &mut sibling), (BASE, &mut mixed.clone())],
        ),
        refused(
            "chn-merge-other_epoch",
            "The child that the mark names, with a link that names another epoch.",
            Refused,
            &[V::Marked, V::ParentMatches],
            &mut [(IMAGE, &mut late), (BASE, &mut mixed)],
        ),
        chain(
            "chn-merge-through_middle",
            "Both layers below are marked with the child on top: the merge of a middle layer \
            and its child was interrupted.",
            mark,
            &mut [(IMAGE, &mut high), (MIDDLE, &mut marked_middle.clone()), (BASE, &mut under_both)],
        )
        .also(&["ORD-84"]),
        refused(
            "chn-merge-middle_alone",
            "A marked middle layer is opened on its own.",
            Refused,
            mark,
            &mut [(MIDDLE, &mut marked_middle), (BASE, &mut under_both.clone())],
        )
        .also(&["ORD-84"]),
        refused(
            "chn-merge-middle_on_base",
            "A middle layer without mark over a base whose mark names a child above it.",
            Refused,
            &[V::Marked, V::ParentMatches],
            &mut [(MIDDLE, &mut middle), (BASE, &mut under_both)],
        ),
    ]
}

fn copying() -> Vec<Vector> {
    let mut alone = base();
    alone.header.copy_mark = Some(CopyMark { group: Uuid::NIL });
    let mut grouped = base();
    grouped.header.copy_mark = Some(CopyMark { group: id("group") });
    let mut top = over(&grouped);
    let rule = &[V::Copying];
    let looked_at = Case { ignore_marks: true, ..alone.opens(IMAGE) };
    let chained = Case { ignore_marks: true, ..top.opens(IMAGE) };
    vec![
        refused(
            "chn-copy-top",
            "A file that is not yet a copy; the caller may override, to look.",
            Refused,
            rule,
            &mut [(IMAGE, &mut alone)],
        )
        .case(looked_at),
        refused(
            "chn-copy-parent",
            "A parent that is not yet a copy.",
            Refused,
            rule,
            &mut [(IMAGE, &mut top), (BASE, &mut grouped)],
        )
        .case(chained),
    ]
}

/// Cycles and depth.
fn shape() -> Vec<Vector> {
    let mut itself = Maker::overlay("self", 8192, 12);
    let identity = itself.clone();
    itself = itself.over(&identity, IMAGE, 8192);
    let mut first = Maker::overlay("frst", 8192, 12);
    let mut second = Maker::overlay("scnd", 8192, 12).over(&first, IMAGE, 8192);
    first = first.over(&second.clone(), MIDDLE, 8192);
    let mut bottom = base();
    let mut middle = Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 32_768).data(8192..12_288);
    let mut top = Maker::overlay("top ", 32_768, 12).over(&middle, MIDDLE, 32_768);
    let deep = Case { depth: Some(2), ..Case::new(IMAGE, Refused, &[V::Cycle]) };
    let enough = Case { depth: Some(3), ..top.opens(IMAGE) };
    let returning = |mut vector: Vector, parents: &[&str]| {
        vector.cases[0].parents = parents.iter().map(|&name| name.into()).collect();
        vector
    };
    vec![
        returning(
            refused(
                "chn-cycle-self",
                "An image that is its own parent.",
                Refused,
                &[V::Cycle],
                &mut [(IMAGE, &mut itself)],
            ),
            &[IMAGE],
        ),
        returning(
            refused(
                "chn-cycle-two",
                "Two images that are each other's parents.",
                Refused,
                &[V::Cycle],
                &mut [(IMAGE, &mut first), (MIDDLE, &mut second)],
            ),
            &[MIDDLE, IMAGE],
        ),
        chain(
            "chn-depth",
            "Three layers where the caller allows three, and where it allows two.",
            &[V::Cycle],
            &mut [(IMAGE, &mut top), (MIDDLE, &mut middle), (BASE, &mut bottom)],
        )
        .case(enough)
        .case(deep),
        depth_65(),
    ]
}

/// A chain one deeper than an implementation allows whose caller says nothing.
fn depth_65() -> Vector {
    let mut below = Maker::complete("base", 4096).data(0..512);
    let purpose = "65 layers: without a word from the caller the lower 64 open, all 65 do not.";
    let mut vector = Vector::new("chn-depth-65", purpose, &[V::Cycle]).flag(Flag::Policy);
    let mut name = "layer-64.lvd".to_string();
    let mut parents = Vec::new();
    vector = vector.file(&name, Role::Parent, below.finish());
    for number in (0..64).rev() {
        let mut layer = Maker::overlay(&format!("l{number:03}"), 4096, 12).over(&below, &name, 4096);
        parents.insert(0, name);
        name = format!("layer-{number:02}.lvd");
        vector = vector.file(&name, if number == 0 { Role::Image } else { Role::Parent }, layer.finish());
        if number == 1 {
            vector = vector.case(Case { parents: parents.clone(), ..layer.opens(&name) });
        }
        below = layer;
    }
    let refused = Case { parents: parents.clone(), ..Case::new(&name, Refused, &[V::Cycle]) };
    let allowed = Case { parents, depth: Some(65), ..below.opens(&name) };
    vector.case(refused).case(allowed)
}

fn formats() -> Vec<Vector> {
    let foreign = |format: ParentFormat| {
        let mut top = Maker::overlay("top ", 8192, 12).over_raw(&Sparse::new(0), RAW, 0);
        top.header.parent.as_mut().expect("it has a parent").format = format;
        let purpose = format!("A parent in the format {format}, which is named and not described.");
        refused(&format!("chn-format-{format}"), &purpose, Unsupported, &[V::ParentFormat], &mut [(IMAGE, &mut top)])
            .file(RAW, Role::Parent, raw("raw ", 8192, &[0..512]))
    };
    let mut vectors = [ParentFormat::Qcow2, ParentFormat::Qed, ParentFormat::Vmdk].map(foreign).to_vec();
    let disguised = base().finish();
    let mut on_disguised = Maker::overlay("top ", 131_072, 12).over_raw(&disguised, RAW, 131_072).data(4096..8192);
    vectors.push(
        chain(
            "chn-raw-with_magic",
            "A raw parent begins with the magic: it is raw, since the link says so.",
            &[],
            &mut [(IMAGE, &mut on_disguised)],
        )
        .also(&["CHN-08"])
        .file(RAW, Role::Parent, disguised),
    );
    let mut on_raw = over(&base());
    vectors.push(
        refused(
            "chn-lvd-without_header",
            "The link says that the parent is an image; it is a raw file.",
            Invalid,
            &[V::Magic],
            &mut [(IMAGE, &mut on_raw)],
        )
        .also(&["CHN-08"])
        .file(BASE, Role::Parent, raw("base", 200_000, &[0..512])),
    );
    let mut damaged = base().finish();
    for slot in [0, 65_536] {
        damaged.write(slot + 40, b"rot");
    }
    vectors.push(
        refused(
            "chn-parent-header_damaged",
            "Both header slots of the parent are torn.",
            Invalid,
            &[V::HeaderChecksum],
            &mut [(IMAGE, &mut on_raw)],
        )
        .file(BASE, Role::Parent, damaged),
    );
    vectors.push(bad_parent());
    vectors
}

/// Blocks of the child that lie in a parent whose bits cannot be read cannot be read either.
fn bad_parent() -> Vector {
    let mut parent = Maker::overlay("base", 32_768, 12).data(0..32_768);
    let mut top = Maker::overlay("top ", 32_768, 12).over(&parent, BASE, 16_384).data(4096..8192);
    parent.finish();
    parent.file.write(parent.sector_at(0) + 9, &[0x99]);
    let rule = V::SealedSector;
    let purpose = "The bits of the parent are bad: of the child, what the parent would show cannot be read.";
    let mut vector = chain("chn-parent-bits_damaged", purpose, &[rule], &mut [(IMAGE, &mut top)])
        .also(&["PAG-04"])
        .file(BASE, Role::Parent, parent.file);
    let case = &mut vector.cases[0];
    (case.result, case.broken) = (Verdict::Damaged, vec![rule.id().into()]);
    let disk = case.disk.as_mut().expect("it opens");
    disk.sha256 = None;
    disk.extents.clear();
    for (offset, length, held) in [
        (0, 4096, Held::Unreadable),
        (4096, 4096, Held::Here),
        (8192, 8192, Held::Unreadable),
        (16_384, 16_384, Held::Below),
    ] {
        disk.extents.push(super::vector::Stretch { offset, length, held });
    }
    disk.bytes.zero(0..4096);
    disk.bytes.zero(8192..16_384);
    vector
}

fn policy() -> Vec<Vector> {
    let bottom = base();
    let mut top = over(&bottom);
    let nobody = |mut vector: Vector| {
        vector.cases[0].broken = vec!["CHN-01".into()];
        vector.also(&["CHN-01"])
    };
    let mut below = base();
    below.header.ro_compat = 4;
    let mut writable = over(&below);
    let mut read_only = chain(
        "chn-parent-ro_compat",
        "A parent with a feature unknown to writers: nobody writes to a parent.",
        &[V::ReadOnlyFeature],
        &mut [(IMAGE, &mut writable), (BASE, &mut below)],
    );
    read_only.cases.push(Case { write: true, ..writable.opens(IMAGE) });
    vec![
        nobody(refused(
            "chn-parent-not_given",
            "The caller gives no file for the parent: the image does not open.",
            Refused,
            &[],
            &mut [(IMAGE, &mut top)],
        )),
        read_only,
        hinted("chn-hint-empty", "The link has no hint; the caller gives the parent all the same.", ""),
        hinted("chn-hint-4096", "The longest hint.", &"h".repeat(4096)),
        hinted("chn-hint-unicode", "A hint in several scripts.", "b\u{e4}se \u{2014} \u{57fa}\u{790e} \u{1f4be}.lvd"),
        hinted(
            "chn-hint-path",
            "A hint that leads elsewhere is text: the parent is the file that is given.",
            "/etc/passwd",
        ),
    ]
}

/// An overlay whose link has that hint.
fn hinted(name: &str, purpose: &str, hint: &str) -> Vector {
    let mut bottom = base();
    let mut top = over(&bottom);
    top.header.parent.as_mut().expect("it has a parent").hint = hint.into();
    chain(name, purpose, &[V::Hint, V::ParentFormat], &mut [(IMAGE, &mut top), (BASE, &mut bottom)]).also(&["CHN-01"])
}
