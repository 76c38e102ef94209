//! Vectors of who may lie on whom: identities, epochs, marks, and what a session on a parent leaves.

use super::IMAGE;
use super::chn::{BASE, MIDDLE, base, chain, over, refused};
use super::maker::{Maker, id};
use super::vector::{Case, Flag, Role, Vector, Verdict};
use crate::format::{CopyMark, Identity, MergeMark, State, Uuid};
use crate::violation::Violation as V;
use Verdict::Refused;

pub(super) fn all() -> Vec<Vector> {
    [matching(), states(), merging(), trusted(), merging_three(), copying()].concat()
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
pub(super) fn marked(base: &Maker, child: Uuid) -> Maker {
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
    ]
}

/// The caller overrides CHN-03 and not CHN-04: the child that the mark names still has to name the file, in one of its two
/// epochs.
fn trusted() -> Vec<Vector> {
    let vector = |name: &str, purpose: &str, change: fn(Identity) -> Option<Identity>| {
        let bottom = base();
        let mut top = over(&bottom);
        let mut mixed = marked(&bottom, top.header.uuid);
        let parent = top.header.parent.as_mut().expect("it has a parent");
        parent.identity = parent.identity.and_then(change);
        let name = format!("chn-merge-trusted_{name}");
        let purpose = format!("The caller overrides CHN-03, which leaves CHN-04: {purpose}");
        let layers = &mut [(IMAGE, &mut top), (BASE, &mut mixed)];
        let mut vector = refused(&name, &purpose, Refused, &[V::Marked], layers);
        vector.cases[0].trust_links = true;
        vector
    };
    vec![
        vector("other_epoch", "the child's link names an epoch that is neither the file's nor the mark's.", |named| {
            Some(Identity { epoch: id("older"), ..named })
        }),
        vector("other_file", "the child's link names another file.", |named| {
            Some(Identity { uuid: id("another"), ..named })
        }),
        vector("no_identity", "the child's link names nobody.", |_| None),
    ]
}

/// Layers between the ends of a merge carry the mark too.
fn merging_three() -> Vec<Vector> {
    let bottom = base();
    let mut middle = Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 32_768).data(8192..12_288);
    let mut high = Maker::overlay("top ", 32_768, 12).over(&middle, MIDDLE, 32_768).data(4096..8192);
    let mut marked_middle = marked(&middle, high.header.uuid);
    let mut under_both = marked(&bottom, high.header.uuid);
    let mark = &[V::Marked];
    vec![
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
