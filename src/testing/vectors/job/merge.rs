//! Merge: the lower disk becomes what the upper one is, and no one but the upper one's chain sees it half done.

use super::super::chn::chain;
use super::super::maker::{Maker, raw};
use super::super::vector::{Case, Flag, Operation, Role, Vector};
use super::*;
use Operation::{Close, Finish, Flush, Kill, Pivot, Run};

/// What keeps a child from lying on a base that has changed, or is about to.
const NOT_THIS_CHILD: &[V] = &[V::Marked, V::ParentMatches];

pub(super) fn all() -> Vec<Vector> {
    [whole(), shapes(), between(), stopped(), by_hand(), beside_a_guest(), refused()].concat()
}

/// The top and the base of a merge, and another child of the base.
struct Pair {
    top: Maker,
    base: Maker,
    sibling: Maker,
}

impl Pair {
    fn new() -> Pair {
        let base = base();
        Pair { top: over(&base, BASE), sibling: sibling(&base), base }
    }

    fn does(&mut self, name: &str, purpose: &str, rules: &[&str], then: Vec<Operation>, finally: Vec<Case>) -> Vector {
        let vector = chain(name, purpose, &[], &mut [(IMAGE, &mut self.top), (BASE, &mut self.base)]);
        script(vector.file(SIBLING, Role::Other, self.sibling.finish()), rules, then, finally)
    }

    /// What is found when the merge has ended.
    fn done(&self) -> Vec<Case> {
        vec![
            visible(closed(holds(IMAGE, &[BASE], &self.top), false), SIZE),
            closed(reads(BASE, &[], &merged(&self.base.disk, &self.top.disk)), true),
            refuses(SIBLING, &[BASE], &[V::ParentMatches]),
        ]
    }

    /// What is found when it has begun and not ended; the mark last.
    fn begun(&self) -> Vec<Case> {
        vec![
            holds(IMAGE, &[BASE], &self.top),
            refuses(SIBLING, &[BASE], NOT_THIS_CHILD),
            refuses(BASE, &[], &[V::Marked]),
            is_marked(BASE, &[], &self.top, &self.base),
        ]
    }
}

fn whole() -> Vec<Vector> {
    let rules = &["ORD-80", "ORD-81", "ORD-82", "CHN-03", "CHN-10"];
    let mut pair = Pair::new();
    let done = pair.done();
    let plain = pair.does(
        "job-merge-two",
        "The top is merged into its base: both read the same then, and another child is refused.",
        rules,
        vec![merge(BASE), Finish, Close],
        done,
    );
    let mut written_before = Pair::new();
    let then = vec![write(5000, 100, 0x11), write(20_000, 10_000, 0x22), Flush, merge(BASE), Finish, Close];
    let disk = written(&written_before.top.disk, &then);
    let finally =
        vec![visible(closed(reads(IMAGE, &[BASE], &disk), true), SIZE), closed(reads(BASE, &[], &disk), true)];
    let after_writes = written_before.does(
        "job-merge-after_writes",
        "The session that merges has written before: the top has a new epoch too.",
        rules,
        then,
        finally,
    );
    let mut emptied = Pair::new();
    let mut finally = emptied.done();
    let nothing = Maker::overlay("top ", SIZE, 12).expected().extents;
    finally[0].disk.as_mut().expect("it opens").extents = nothing;
    let empty = Operation::Merge { top: None, base: BASE.into(), empty: true, refused: Vec::new() };
    let emptied = emptied.does(
        "job-merge-emptied_top",
        "After the merge the top holds nothing, and reads the same.",
        &["ORD-10", "ORD-32", "ORD-81", "ORD-82"],
        vec![empty, Finish, Close],
        finally,
    );
    vec![plain, after_writes, emptied]
}

/// A top and a base of two sizes and granules.
fn two(name: &str, purpose: &str, rules: &[&str], top: &mut Maker, base: &mut Maker) -> Vector {
    let finally = vec![
        visible(closed(holds(IMAGE, &[BASE], top), false), top.disk.len()),
        closed(reads(BASE, &[], &merged(&base.disk, &top.disk)), true),
    ];
    let vector = chain(name, purpose, &[], &mut [(IMAGE, top), (BASE, base)]);
    script(vector, rules, vec![merge(BASE), Finish, Close], finally)
}

fn shapes() -> Vec<Vector> {
    let mut bottom = base();
    let sealed = &["ORD-80", "ORD-81", "ORD-82"];
    let with = |rule: &'static str| [sealed, &[rule][..]].concat();
    let top = || Maker::overlay("top ", SIZE, 12);
    let mut longer = Maker::overlay("top ", 61_000, 12).over(&bottom, BASE, SIZE).data(36_864..45_000).zeros(0..512);
    let mut shorter =
        Maker::overlay("top ", 21_234, 12).over(&bottom, BASE, 21_234).data(4096..4608).zeros(20_480..21_234);
    let mut hiding = top().over(&bottom, BASE, 14_000).data(4096..4608).zeros(8192..8704);
    let below = raw("raw ", SIZE, &[0..SIZE]);
    let mut coarse = Maker::overlay("base", SIZE, 14).over_raw(&below, RAW, SIZE).data(33_000..34_000);
    let mut fine = top().over(&coarse, BASE, SIZE).data(5000..5100).zeros(20_480..24_576);
    let mut small =
        Maker::overlay("base", SIZE, 12).over_raw(&below, RAW, 30_000).data(33_000..34_000).garbage(20_480..20_992);
    let mut large = Maker::overlay("top ", SIZE, 15).over(&small, BASE, SIZE).data(5000..5100);
    // The base's own parent is still needed.
    let on_raw = |mut vector: Vector| {
        vector.cases[0].finally.iter_mut().for_each(|case| case.parents.push(RAW.into()));
        vector.file(RAW, Role::Parent, below.clone())
    };
    let short_raw = raw("raw ", 20_000, &[0..3000, 12_288..20_000]);
    let mut above = top().over_raw(&short_raw, RAW, 16_000).data(4096..4608).zeros(0..512).data(36_864..37_376);
    let purpose = "The base is a raw file, and too short: it is lengthened, and nothing marks it.";
    let into_raw =
        chain("job-merge-into_raw", purpose, &[], &mut [(IMAGE, &mut above)]).file(RAW, Role::Parent, short_raw);
    let finally = vec![visible(closed(holds(IMAGE, &[RAW], &above), false), SIZE), raw_reads(RAW, &above.disk)];
    vec![
        two("job-merge-longer_top", "The top is longer: the base grows.", &with("ORD-60"), &mut longer, &mut bottom),
        two(
            "job-merge-shorter_top",
            "The top is shorter: what the base has past its end stays.",
            sealed,
            &mut shorter,
            &mut bottom,
        ),
        two(
            "job-merge-hidden",
            "The top shows a part of the base: what it hides becomes zeros in the base.",
            &with("ORD-83"),
            &mut hiding,
            &mut bottom,
        ),
        on_raw(two(
            "job-merge-coarse_base",
            "The base's blocks are larger: they are filled from below it around what is merged.",
            &with("ORD-44"),
            &mut fine,
            &mut coarse,
        )),
        on_raw(two(
            "job-merge-fine_base",
            "The base's blocks are smaller, and its own parent shows less than it has.",
            sealed,
            &mut large,
            &mut small,
        )),
        script(into_raw, &["ORD-83", "CHN-09"], vec![merge(RAW), Finish, Close], finally),
    ]
}

/// A top, a layer between, and a base, of three sizes.
struct Three {
    top: Maker,
    middle: Maker,
    base: Maker,
}

impl Three {
    fn new() -> Three {
        let base = base();
        let middle =
            Maker::overlay("midl", 30_000, 13).over(&base, BASE, 24_000).data(2048..3072).zeros(16_384..17_000);
        let top = Maker::overlay("top ", 45_000, 12).over(&middle, MIDDLE, 28_000).data(4096..4608).zeros(0..512);
        Three { top, middle, base }
    }

    fn does(&mut self, name: &str, purpose: &str, rules: &[&str], then: Vec<Operation>, finally: Vec<Case>) -> Vector {
        let layers = &mut [(IMAGE, &mut self.top), (MIDDLE, &mut self.middle), (BASE, &mut self.base)];
        script(chain(name, purpose, &[], layers), rules, then, finally)
    }

    /// What is found when both upper layers have been merged into the base. `named`: the one between as the top's link
    /// names it.
    fn done(&self, named: &Maker) -> Vec<Case> {
        vec![
            visible(closed(holds(IMAGE, &[BASE], &self.top), false), 45_000),
            closed(reads(BASE, &[], &merged(&self.base.disk, &self.top.disk)), true),
            refuses(MIDDLE, &[BASE], NOT_THIS_CHILD),
            closed(is_marked(MIDDLE, &[BASE], &self.top, named), true),
        ]
    }
}

fn between() -> Vec<Vector> {
    let rules = &["ORD-80", "ORD-81", "ORD-82", "ORD-83", "ORD-84"];
    let mut three = Three::new();
    let done = three.done(&three.middle);
    let whole = three.does(
        "job-merge-three",
        "The top and a layer between are merged into the base, all of other sizes: the one between is nobody's then.",
        rules,
        vec![merge(BASE), Finish, Close],
        done,
    );
    let mut three = Three::new();
    let below = merged(&three.base.disk, &three.middle.disk);
    let finally = vec![
        closed(holds(IMAGE, &[MIDDLE, BASE], &three.top), false),
        visible(closed(holds(MIDDLE, &[BASE], &three.middle), false), 30_000),
        closed(reads(BASE, &[], &below), true),
    ];
    let then = vec![merge_of(MIDDLE, BASE), Finish, Close];
    let purpose = "The layer below the top is merged into the base: the top sees nothing of it.";
    let lower = three.does("job-merge-below_top", purpose, &["ORD-80", "ORD-81", "ORD-82", "ORD-83"], then, finally);
    let mut three = Three::new();
    let begun = vec![
        holds(IMAGE, &[MIDDLE, BASE], &three.top),
        refuses(MIDDLE, &[BASE], NOT_THIS_CHILD),
        refuses(BASE, &[], &[V::Marked]),
        is_marked(MIDDLE, &[BASE], &three.top, &three.middle),
        is_marked(BASE, &[], &three.top, &three.base),
    ];
    let then = vec![merge(BASE), Run { done: 16_384 }, Kill];
    let purpose = "It is killed: the top opens as before, the layer between and the base do not.";
    let rules = &["ORD-03", "ORD-80", "ORD-84", "CHN-04"];
    let killed = three.does("job-merge-three_killed", purpose, rules, then, begun);
    vec![whole, lower, killed]
}

fn merge_of(top: &str, base: &str) -> Operation {
    Operation::Merge { top: Some(top.into()), base: base.into(), empty: false, refused: Vec::new() }
}

fn stopped() -> Vec<Vector> {
    let some = || vec![merge(BASE), Run { done: 12_288 }, Kill];
    let mut pair = Pair::new();
    let begun = pair.begun();
    let killed = pair.does(
        "job-merge-killed",
        "A merge that was killed: the top reads as before; the base opens neither alone nor for another child.",
        &["ORD-03", "ORD-80", "CHN-04"],
        some(),
        begun,
    );
    let mut pair = Pair::new();
    let done = pair.done();
    let again = pair.does(
        "job-merge-killed_again",
        "It is killed twice, and comes to its end.",
        &["ORD-80", "ORD-81", "ORD-82", "CHN-04"],
        [some(), vec![merge(BASE), Run { done: 24_576 }, Flush], some(), vec![merge(BASE), Finish, Close]].concat(),
        done,
    );
    vec![killed, again]
}

/// Files as a crash in each part of a merge leaves them.
fn by_hand() -> Vec<Vector> {
    let rules = &["ORD-80", "ORD-81", "ORD-82", "CHN-04"];
    let finish = || vec![merge(BASE), Finish, Close];
    // What the base holds where the top hides it may be anything, of another size of pieces than the next run's.
    let half_done = |pair: &Pair| {
        marked(&pair.base, &pair.top).bytes(8192..8704, 0xee).bytes(28_672..29_000, 0xee).bytes(39_000..SIZE, 0xee)
    };
    let mut pair = Pair::new();
    pair.base = half_done(&pair);
    let done = pair.done();
    let purpose = "The base carries the mark and some of the top's blocks, not all of them right: the merge goes on.";
    let begun = pair.does("job-merge-marked", purpose, rules, finish(), done);

    // All of the top is in the base, durably. A merge that goes on may see that, and write nothing again.
    let sealed = || {
        let mut pair = Pair::new();
        let mut base = marked(&pair.base, &pair.top).next();
        base.header.state = State::Closed;
        base.disk = merged(&base.disk, &pair.top.disk);
        pair.base = base.filled(0..SIZE);
        pair
    };
    let linked = || {
        let mut pair = sealed();
        link_to(&mut pair.top, &pair.base);
        pair
    };
    let done_either_way = |pair: &Pair| {
        let mut done = pair.done();
        done.iter_mut().filter(|case| case.open == BASE).for_each(|case| {
            case.after.as_mut().expect("it says what the header says").new_epoch = None;
        });
        done
    };
    let mut pair = sealed();
    let done = done_either_way(&pair);
    let purpose = "The base is sealed, and the top's link does not name it yet.";
    let unlinked = pair.does("job-merge-sealed", purpose, rules, finish(), done);

    let mut pair = linked();
    let done = done_either_way(&pair);
    let purpose = "The top's link names the sealed base, and the mark is still there.";
    let relinked = pair.does("job-merge-relinked", purpose, rules, finish(), done);

    let mut pair = linked();
    let mut found = pair.begun();
    // Which mark there is now depends on that too; that the top opens is what counts.
    found.pop();
    let then = vec![merge(BASE), Run { done: 12_288 }, Kill];
    let purpose = "The same, and it is killed once more: the top still opens, by the epoch that its link names now.";
    let killed = pair.does("job-merge-relinked_killed", purpose, &["ORD-80", "CHN-04"], then, found);

    let mut three = Three::new();
    let named = three.middle.clone();
    three.middle = marked(&three.middle, &three.top);
    let done = three.done(&named);
    let purpose = "Of three layers the one between carries the mark, and the base does not yet.";
    let rules = &["ORD-80", "ORD-81", "ORD-82", "ORD-83", "ORD-84"];
    let middle = three.does("job-merge-marked_between", purpose, rules, finish(), done);

    let mut three = Three::new();
    let named = three.middle.clone();
    three.middle = marked(&three.middle, &three.top);
    three.base = marked(&three.base, &three.top).bytes(2048..3072, 0xee).bytes(28_000..29_000, 0xee);
    let done = three.done(&named);
    let purpose = "Both carry it, and the base has changed.";
    let both = three.does("job-merge-marked_both", purpose, rules, finish(), done);
    let mut vectors = vec![begun, unlinked, relinked, killed, middle, both];
    vectors.iter_mut().for_each(|vector| vector.flags.push(Flag::Crash));
    vectors
}

fn beside_a_guest() -> Vec<Vector> {
    let mut three = Three::new();
    let then = vec![
        merge_of(MIDDLE, BASE),
        Run { done: 8192 },
        write(100, 5000, 0x11),
        zero(16_000, 3000),
        Run { done: 16_384 },
        write(20_000, 10_000, 0x22),
        Finish,
        write(28_500, 500, 0x33),
        Close,
    ];
    let finally = vec![
        closed(reads(IMAGE, &[MIDDLE, BASE], &written(&three.top.disk, &then)), true),
        closed(holds(MIDDLE, &[BASE], &three.middle), false),
        closed(reads(BASE, &[], &merged(&three.base.disk, &three.middle.disk)), true),
    ];
    let purpose = "The guest writes to the top while the layer below it is merged.";
    let below = three.does("job-merge-guest_below", purpose, &["ORD-08", "ORD-44", "ORD-91"], then, finally);

    let guest = || {
        vec![
            merge(BASE),
            Run { done: 8192 },
            write(700, 300, 0x11),
            write(16_000, 3000, 0x22),
            Run { done: 20_480 },
            zero(8700, 100),
            write(38_500, 1000, 0x33),
            Flush,
            Pivot,
        ]
    };
    let mut pair = Pair::new();
    let disk = written(&pair.top.disk, &guest());
    let finally = vec![
        visible(closed(reads(IMAGE, &[BASE], &disk), true), SIZE),
        closed(reads(BASE, &[], &disk), true),
        refuses(SIBLING, &[BASE], &[V::ParentMatches]),
    ];
    let rules = &["ORD-80", "ORD-82", "ORD-92", "ORD-93", "ORD-94", "ORD-95", "ORD-97"];
    let purpose = "The layer that the guest writes to is merged below it, and the guest moves to the base.";
    let pivot = pair.does("job-merge-guest_pivot", purpose, rules, [guest(), vec![Close]].concat(), finally);

    let mut pair = Pair::new();
    let then = [guest(), vec![write(12_000, 2000, 0x44), zero(100, 100), Close]].concat();
    let disk = written(&pair.top.disk, &then);
    let finally = vec![closed(reads(BASE, &[], &disk), true), refuses(IMAGE, &[BASE], &[V::ParentMatches])];
    let purpose = "The guest goes on writing to the base: what was its top no longer lies on it.";
    let onwards = pair.does("job-merge-guest_onwards", purpose, rules, then, finally);
    [below, pivot, onwards].map(|vector| vector.flag(Flag::Live)).into()
}

/// A top above the two ends of a merge that was interrupted.
fn refused() -> Vec<Vector> {
    let bottom = base();
    let mut child = Maker::overlay("midl", SIZE, 12).over(&bottom, BASE, SIZE).data(4096..4608);
    let mut top = over(&child, MIDDLE);
    let mut marked_base = marked(&bottom, &child);
    let layers = &mut [(IMAGE, &mut top), (MIDDLE, &mut child), (BASE, &mut marked_base)];
    let purpose = "The base is being merged into by the layer between: the top's merge must wait.";
    let vector = chain("job-merge-refused-other_child", purpose, &[], layers);
    let finally =
        vec![closed(holds(IMAGE, &[MIDDLE, BASE], &top), false), closed(holds(MIDDLE, &[BASE], &child), false)];
    let other = script(vector, &["CHN-04"], vec![forbidden(merge(BASE), &["CHN-04"])], finally);

    let mut marked_child = marked(&child, &top);
    let mut bottom = bottom;
    let layers = &mut [(IMAGE, &mut top), (MIDDLE, &mut marked_child), (BASE, &mut bottom)];
    let purpose = "The upper end of the merge is itself being merged into.";
    let vector = chain("job-merge-refused-marked_top", purpose, &[], layers);
    let finally = vec![closed(holds(IMAGE, &[MIDDLE, BASE], &top), false), closed(holds(BASE, &[], &bottom), false)];
    let top = script(vector, &["CHN-04"], vec![forbidden(merge_of(MIDDLE, BASE), &["CHN-04"])], finally);
    vec![other, top]
}
