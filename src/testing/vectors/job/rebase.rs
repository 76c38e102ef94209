//! Rebase: the same disk on another parent.

use super::super::chn::chain;
use super::super::maker::{Maker, raw};
use super::super::vector::{Operation, Role, Vector};
use super::*;
use Operation::{Close, Finish, Kill, Run};

const OTHER: &str = "other.lvd";
const OTHER_RAW: &str = "other.raw";

pub(super) fn all() -> Vec<Vector> {
    [onto_others(), vec![refused()]].concat()
}

/// A top with blocks of its own that shows a part of its parent.
fn top(base: &Maker) -> Maker {
    Maker::overlay("top ", SIZE, 12)
        .over(base, BASE, 30_000)
        .data(4096..4608)
        .zeros(13_000..13_100)
        .garbage(24_576..25_088)
}

/// The top goes from its base onto `files`, the upper one first.
fn onto(name: &str, purpose: &str, then: Vec<Operation>, files: &[(&str, Sparse)]) -> Vector {
    let mut bottom = base();
    let mut top = top(&bottom);
    let parents: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let finally = vec![closed(reads(IMAGE, &parents, &top.disk), false)];
    let mut vector = chain(name, purpose, &[], &mut [(IMAGE, &mut top), (BASE, &mut bottom)]);
    for (name, bytes) in files {
        vector = vector.file(name, Role::Other, bytes.clone());
    }
    script(vector, &["ORD-45", "ORD-71", "CHN-10"], then, finally)
}

fn onto_others() -> Vec<Vector> {
    let bottom = base();
    let whole = |parents: &[&str]| vec![rebase(parents), Finish, Close];
    // The base again, but for some sectors: data over zeros, zeros over data, other data.
    let mut other = bottom.clone().bytes(4608..5120, 0xee).zeros(8192..8704).bytes(25_000..25_010, 0xee);
    other.header.uuid = super::super::maker::id("other");
    let mut longer = Maker::complete("othr", 50_000).data(0..50_000);
    let short = raw("othr", 14_000, &[0..14_000]);
    let below = raw("raw ", SIZE, &[0..SIZE]);
    let mut coarse = Maker::overlay("othr", SIZE, 14).over_raw(&below, OTHER_RAW, 20_000).zeros(0..512);
    let onto_raw = vec![Operation::Rebase { onto: names(&[OTHER_RAW]), raw: true, refused: vec![] }, Finish, Close];
    let some = || vec![rebase(&[OTHER]), Run { done: 12_288 }, Kill];
    vec![
        onto(
            "job-rebase-almost_equal",
            "The new parent differs in a few sectors from the old one.",
            whole(&[OTHER]),
            &[(OTHER, other.finish())],
        ),
        onto(
            "job-rebase-longer",
            "It is longer than the disk and has data everywhere: nothing of it comes to light.",
            whole(&[OTHER]),
            &[(OTHER, longer.finish())],
        ),
        onto("job-rebase-onto_raw", "It is a raw file, and short.", onto_raw, &[(OTHER_RAW, short)]),
        onto(
            "job-rebase-onto_overlay",
            "It is an overlay with larger blocks, on a parent of its own.",
            whole(&[OTHER, OTHER_RAW]),
            &[(OTHER, coarse.finish()), (OTHER_RAW, below)],
        ),
        onto(
            "job-rebase-killed_again",
            "A rebase is killed twice, and comes to its end.",
            [some(), some(), whole(&[OTHER])].concat(),
            &[(OTHER, longer.finish())],
        ),
    ]
}

fn refused() -> Vector {
    let mut bottom = base();
    let mut top = top(&bottom);
    let other = Maker::complete("othr", SIZE).data(0..1024);
    // As between the last steps of a merge: sealed, and the mark still there.
    let mut marked = marked(&other, &sibling(&other)).next();
    marked.header.state = State::Closed;
    let purpose = "The new parent is being merged into, by a child that is not in the chain.";
    let vector = chain("job-rebase-refused-marked", purpose, &[], &mut [(IMAGE, &mut top), (BASE, &mut bottom)]).file(
        OTHER,
        Role::Other,
        marked.finish(),
    );
    let finally = vec![closed(holds(IMAGE, &[BASE], &top), false)];
    script(vector, &["CHN-04", "CHN-16"], vec![forbidden(rebase(&[OTHER]), &["CHN-16", "CHN-04"])], finally)
}
