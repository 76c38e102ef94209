//! Copy: the same disk once more, and nobody takes for it what is not whole.

use super::super::chn::chain;
use super::super::maker::{Maker, id};
use super::super::vector::{Case, Flag, Operation, Role, Vector};
use super::*;
use crate::format::{CopyMark, Uuid};
use Operation::{Close, Finish, Flush, Kill, Pivot, Run};

const TARGET: &str = "target.lvd";
const TARGET_RAW: &str = "target.raw";

pub(super) fn all() -> Vec<Vector> {
    [whole(), alone(), stopped(), beside_a_guest(), refused()].concat()
}

fn source() -> (Maker, Maker) {
    let base = base();
    (over(&base, BASE), base)
}

/// Something is done with two layers; `targets` are there before.
fn two(
    name: &str,
    purpose: &str,
    rules: &[&str],
    targets: &[(&str, &Sparse)],
    then: Vec<Operation>,
    found: impl FnOnce(&Maker) -> Vec<Case>,
) -> Vector {
    let (mut top, mut base) = source();
    let found = found(&top);
    let mut vector = chain(name, purpose, &[], &mut [(IMAGE, &mut top), (BASE, &mut base)]);
    for (name, bytes) in targets {
        vector = vector.file(name, Role::Other, (*bytes).clone());
    }
    script(vector, rules, then, found)
}

/// A file that is all junk.
fn junk(length: u64) -> Sparse {
    let mut bytes = Sparse::new(length);
    bytes.write(0, &vec![0xee; length as usize]);
    bytes
}

/// An image that an earlier run has made and not finished.
fn begun(mut target: Maker) -> Sparse {
    target.header.copy_mark = Some(CopyMark { group: Uuid::NIL });
    target.header.state = State::Writing;
    target.finish()
}

fn whole() -> Vec<Vector> {
    let rules = &["ORD-90", "CHN-06"];
    let unchanged = |top: &Maker| closed(holds(IMAGE, &[BASE], top), false);
    let coarse =
        Operation::Copy { to: TARGET.into(), raw: false, granule: Some(16_384), alone: false, refused: vec![] };
    let into_raw = |name: &str, purpose: &str, targets: &[(&str, &Sparse)]| {
        two(name, purpose, &[], targets, vec![copy_raw(TARGET_RAW), Finish], |top| {
            vec![raw_reads(TARGET_RAW, &top.disk), unchanged(top)]
        })
    };
    vec![
        two(
            "job-copy-image",
            "All layers are copied into a complete image.",
            rules,
            &[],
            vec![copy(TARGET), Finish],
            |top| {
                let copied = with(complete(reads(TARGET, &[], &top.disk)), |after| {
                    after.state = Some(State::Closed.to_string())
                });
                vec![copied, unchanged(top)]
            },
        ),
        two(
            "job-copy-coarse_image",
            "They are copied into an image with larger blocks than any of them.",
            rules,
            &[],
            vec![coarse, Finish],
            |top| vec![reads(TARGET, &[], &top.disk)],
        ),
        into_raw("job-copy-raw", "They are copied into a new raw file.", &[]),
        into_raw(
            "job-copy-longer_raw",
            "The raw file is there, longer, and full of junk: it is cut, and zeros are written.",
            &[(TARGET_RAW, &junk(50_000))],
        ),
        into_raw("job-copy-shorter_raw", "The raw file is there, and shorter.", &[(TARGET_RAW, &junk(10_000))]),
    ]
}

/// The top alone: its copy lies on the same parent, and shows as much of it.
fn alone() -> Vec<Vector> {
    let mut bottom = base();
    let short =
        |parent: &Maker| Maker::overlay("top ", SIZE, 12).over(parent, BASE, 14_000).data(4096..4608).zeros(8192..8704);
    let mut top = short(&bottom);
    let then = || vec![copy_alone(TARGET), Finish];
    let found = |top: &Maker| vec![reads(TARGET, &[BASE], &top.disk), closed(holds(IMAGE, &[BASE], top), false)];
    let purpose = "What the top holds is copied, and the copy lies on the same parent.";
    let plain = two("job-copy-alone", purpose, &["ORD-90", "CHN-07"], &[], then(), found);
    let purpose = "The same, and the top shows less of the parent than there is.";
    let vector = chain("job-copy-alone_short", purpose, &[], &mut [(IMAGE, &mut top), (BASE, &mut bottom)]);
    let hiding = script(vector, &["ORD-90", "CHN-10"], then(), found(&top));
    let mut earlier =
        Maker::overlay("copy", SIZE, 12).over(&bottom, BASE, SIZE).bytes(0..4096, 0xee).bytes(24_576..28_672, 0xee);
    earlier.header.uuid = id("copy");
    let purpose = "An earlier run has left other blocks in the target than the top holds.";
    let again =
        two("job-copy-alone_again", purpose, &["ORD-90", "CHN-06"], &[(TARGET, &begun(earlier))], then(), found);
    vec![plain, hiding, again.flag(Flag::Crash)]
}

fn stopped() -> Vec<Vector> {
    let some = || vec![copy(TARGET), Run { done: 12_288 }, Kill];
    let earlier = Maker::complete("copy", SIZE).bytes(0..SIZE, 0xee);
    vec![
        two("job-copy-killed", "A copy that was killed is no copy.", &["ORD-90", "CHN-06"], &[], some(), |top| {
            vec![refuses(TARGET, &[], &[V::Copying]), closed(holds(IMAGE, &[BASE], top), false)]
        }),
        two(
            "job-copy-killed_again",
            "It is killed twice, and comes to its end.",
            &["ORD-90", "CHN-06"],
            &[],
            [some(), some(), vec![copy(TARGET), Finish]].concat(),
            |top| vec![complete(reads(TARGET, &[], &top.disk))],
        ),
        two(
            "job-copy-marked",
            "An earlier run's target holds something else everywhere, also where the disk has zeros.",
            &["ORD-90", "CHN-06"],
            &[(TARGET, &begun(earlier))],
            vec![copy(TARGET), Finish],
            |top| vec![reads(TARGET, &[], &top.disk)],
        )
        .flag(Flag::Crash),
    ]
}

fn beside_a_guest() -> Vec<Vector> {
    let guest = |copy: Operation| {
        vec![
            copy,
            Run { done: 8192 },
            write(700, 300, 0x11),
            write(16_000, 3000, 0x22),
            Run { done: 20_480 },
            zero(8700, 100),
            write(20_480, 100, 0x33),
            zero(28_672, 8192),
            Flush,
        ]
    };
    let rules = &["ORD-90", "ORD-92", "ORD-93", "ORD-94", "ORD-95", "ORD-96", "ORD-97"];
    let later = || vec![write(12_000, 2000, 0x44), Close];
    let split = [guest(copy(TARGET)), vec![Finish], later()].concat();
    let pivot = [guest(copy(TARGET)), vec![Pivot], later()].concat();
    let to_raw = [guest(copy_raw(TARGET_RAW)), vec![Finish], later()].concat();
    let before = |top: &Maker| written(&top.disk, &guest(copy(TARGET)));
    let after = |top: &Maker| written(&before(top), &later());
    [
        two(
            "job-copy-guest_split",
            "The guest writes meanwhile, and goes on with the source: the target is the disk of one moment.",
            rules,
            &[],
            split,
            |top| vec![reads(TARGET, &[], &before(top)), closed(reads(IMAGE, &[BASE], &after(top)), true)],
        ),
        two("job-copy-guest_pivot", "The guest goes on with the target.", rules, &[], pivot, |top| {
            vec![reads(TARGET, &[], &after(top)), closed(reads(IMAGE, &[BASE], &before(top)), true)]
        }),
        two("job-copy-guest_raw", "The target is a raw file.", rules, &[], to_raw, |top| {
            vec![raw_reads(TARGET_RAW, &before(top)), closed(reads(IMAGE, &[BASE], &after(top)), true)]
        }),
    ]
    .map(|vector| vector.flag(Flag::Live))
    .into()
}

fn refused() -> Vec<Vector> {
    let bottom = base();
    let mut top = over(&bottom, BASE);
    // As between the last steps of a merge: sealed, and the mark still there.
    let mut marked = marked(&bottom, &top).next();
    marked.header.state = State::Closed;
    let purpose = "The parent is being merged into by the top: a copy of it would be another child.";
    let vector = chain("job-copy-refused-marked_parent", purpose, &[], &mut [(IMAGE, &mut top), (BASE, &mut marked)]);
    let finally = vec![closed(holds(IMAGE, &[BASE], &top), false)];
    let child = script(vector, &["CHN-16"], vec![forbidden(copy_alone(TARGET), &["CHN-16"])], finally);
    let found = |top: &Maker| vec![closed(holds(IMAGE, &[BASE], top), false)];
    let own = two(
        "job-copy-refused-own_layer",
        "The target is a layer of the disk, which is locked.",
        &["ORD-90"],
        &[],
        vec![forbidden(copy(BASE), &["CHN-11"])],
        found,
    );
    vec![child, own]
}
