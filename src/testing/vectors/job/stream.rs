//! Stream: the disk stays what it is, and needs fewer layers.

use super::super::chn::chain;
use super::super::maker::{Maker, raw};
use super::super::vector::{Case, Flag, Held, Operation, Role, Stretch, Vector};
use super::*;
use Operation::{Close, Discard, Finish, Flush, Kill, Run};

const LOWER: &str = "lower.lvd";
const SIDECAR: &str = "sidecar.lvb";
const VOLUME: &str = "volume.raw";

pub(super) fn all() -> Vec<Vector> {
    [whole(), to_a_layer(), stopped(), beside_a_guest(), vec![past_a_mark()]].concat()
}

/// A layer with data and zeros, over a base of which it shows a part.
fn middle(base: &Maker) -> Maker {
    Maker::overlay("midl", SIZE, 13)
        .over(base, BASE, 30_000)
        .data(2048..3072)
        .zeros(13_312..13_824)
        .data(32_768..33_792)
        .garbage(16_384..16_896)
}

/// `open` is complete and holds `disk`.
fn all_here(open: &str, disk: &Sparse) -> Case {
    let mut case = complete(reads(open, &[], disk));
    if let Some(disk) = &mut case.disk {
        disk.extents = Some(vec![Stretch { offset: 0, length: disk.size, held: Held::Here }]);
    }
    case
}

fn three(
    name: &str,
    purpose: &str,
    rules: &[&str],
    then: Vec<Operation>,
    finally: impl FnOnce(&Maker) -> Vec<Case>,
) -> Vector {
    let mut bottom = base();
    let mut middle = middle(&bottom);
    let mut top = over(&middle, MIDDLE);
    let finally = finally(&top);
    script(
        chain(name, purpose, &[], &mut [(IMAGE, &mut top), (MIDDLE, &mut middle), (BASE, &mut bottom)]),
        rules,
        then,
        finally,
    )
}

fn whole() -> Vec<Vector> {
    let then = || vec![stream(None), Finish, Close];
    let below = raw("raw ", 20_000, &[0..3000, 12_288..20_000]);
    let mut on_raw = Maker::overlay("top ", SIZE, 13)
        .over_raw(&below, RAW, 20_000)
        .data(8192..8704)
        .garbage(0..1024)
        .garbage(20_480..22_528)
        .garbage(39_936..SIZE);
    let mut filling = on_raw.clone().filled(0..16_384);
    filling.header.state = State::Filling;
    let mut unclean = on_raw.clone();
    unclean.header.state = State::Writing;
    let mut full = on_raw.clone().filled(0..SIZE);
    let over_raw = |name: &str, purpose: &str, rules: &[&str], top: &mut Maker, new_epoch: bool| {
        let vector = chain(name, purpose, &[], &mut [(IMAGE, &mut *top)]).file(RAW, Role::Parent, below.clone());
        script(vector, rules, then(), vec![closed(all_here(IMAGE, &top.disk), new_epoch)])
    };
    let mut bottom = base();
    let mut side = Maker::sidecar("side", SIZE, 12).over(&bottom, BASE, 30_000).data(4096..4608).garbage(8192..8704);
    let volume = chain(
        "job-stream-sidecar",
        "A volume is filled, and its sidecar no longer needs a parent.",
        &[],
        &mut [(SIDECAR, &mut side), (BASE, &mut bottom)],
    );
    let volume = volume.file(VOLUME, Role::Volume, side.volume.clone().unwrap_or_default());
    let beside = |case: Case| Case { volume: Some(VOLUME.into()), ..case };
    let found = vec![beside(closed(all_here(SIDECAR, &side.disk), false)), raw_reads(VOLUME, &side.disk)];
    let mut volume = script(volume, &["ORD-70", "ORD-71"], then(), found);
    volume.files[0].role = Role::Sidecar;
    volume.cases[0] = beside(volume.cases[0].clone());
    vec![
        three(
            "job-stream-all",
            "Three layers become a complete image: data, zeros, and what a short layer hides.",
            &["ORD-02", "ORD-45", "ORD-70", "ORD-71"],
            then(),
            |top| vec![closed(all_here(IMAGE, &top.disk), false)],
        ),
        over_raw(
            "job-stream-all_over_raw",
            "Over a raw file that is shorter; garbage lies under clear bits.",
            &["ORD-02", "ORD-45", "ORD-70", "ALC-05"],
            &mut on_raw,
            false,
        ),
        over_raw(
            "job-stream-nothing_absent",
            "All blocks are present: only the link goes.",
            &["ORD-70", "ORD-71"],
            &mut full,
            false,
        ),
        over_raw(
            "job-stream-after_filling",
            "The last session ended while it was filling: content and epoch stay.",
            &["ORD-50", "ORD-70"],
            &mut filling,
            false,
        ),
        over_raw(
            "job-stream-after_crash",
            "The last session ended while it was writing: its epoch is not sealed by a session that only fills.",
            &["ORD-53", "ORD-70"],
            &mut unclean,
            true,
        ),
        volume,
    ]
}

fn to_a_layer() -> Vec<Vector> {
    let below = raw("raw ", 24_000, &[0..24_000]);
    let mut lower = Maker::overlay("lowr", SIZE, 14).over_raw(&below, RAW, 22_000).data(33_000..34_000);
    let mut middle = Maker::overlay("midl", SIZE, 12).over(&lower, LOWER, SIZE).data(4096..4608).zeros(16_384..20_480);
    let mut top = Maker::overlay("top ", SIZE, 12).over(&middle, MIDDLE, SIZE).data(8192..8704).zeros(33_280..33_792);
    let layers = &mut [(IMAGE, &mut top), (MIDDLE, &mut middle), (LOWER, &mut lower)];
    let purpose = "The layers above one in the middle are streamed: the top lies on that, which nothing was done to.";
    let four = chain("job-stream-to_middle", purpose, &[], layers).file(RAW, Role::Parent, below);
    let found = vec![
        visible(closed(reads(IMAGE, &[LOWER, RAW], &top.disk), false), SIZE),
        closed(holds(LOWER, &[RAW], &lower), false),
    ];
    let four = script(four, &["ORD-02", "ORD-71"], vec![stream(Some(LOWER)), Finish, Close], found);

    let mut bottom = base();
    let mut short = Maker::overlay("midl", 20_000, 12).over(&bottom, BASE, 14_000).data(4096..4608);
    let mut above = Maker::overlay("top ", SIZE, 12).over(&short, MIDDLE, 18_000).data(24_576..25_088);
    let purpose = "The layer between is short and shows less still: nothing of the base comes to light that it hid.";
    let hidden = chain(
        "job-stream-short_between",
        purpose,
        &[],
        &mut [(IMAGE, &mut above), (MIDDLE, &mut short), (BASE, &mut bottom)],
    );
    let found = vec![visible(closed(reads(IMAGE, &[BASE], &above.disk), false), 14_000)];
    let hidden = script(hidden, &["CHN-10", "ORD-71"], vec![stream(Some(BASE)), Finish, Close], found);

    let mut fine = Maker::overlay("midl", SIZE, 12).over(&bottom, BASE, SIZE).data(4096..4608).zeros(13_000..13_100);
    let mut coarse = Maker::overlay("top ", SIZE, 14).over(&fine, MIDDLE, SIZE);
    let purpose = "The top's blocks are larger than those between, and hold a part of them and of the base.";
    let blocks = chain(
        "job-stream-coarse_top",
        purpose,
        &[],
        &mut [(IMAGE, &mut coarse), (MIDDLE, &mut fine), (BASE, &mut bottom)],
    );
    let found = vec![visible(closed(reads(IMAGE, &[BASE], &coarse.disk), false), SIZE)];
    let blocks = script(blocks, &["ORD-44", "ORD-71"], vec![stream(Some(BASE)), Finish, Close], found);
    vec![four, hidden, blocks]
}

fn stopped() -> Vec<Vector> {
    let some = || vec![stream(None), Run { done: 12_288 }, Kill];
    let again =
        [some(), vec![stream(None), Run { done: 24_576 }, Flush], some(), vec![stream(None), Finish, Close]].concat();
    vec![
        three(
            "job-stream-killed",
            "A stream that was killed: the same disk, in the same epoch, on the same layers.",
            &["ORD-03", "ORD-50", "ORD-70"],
            some(),
            |top| vec![with(reads(IMAGE, &[MIDDLE, BASE], &top.disk), |after| after.new_epoch = Some(false))],
        ),
        three(
            "job-stream-killed_again",
            "It is killed thrice, and comes to its end.",
            &["ORD-03", "ORD-50", "ORD-70", "ORD-71"],
            again,
            |top| vec![closed(all_here(IMAGE, &top.disk), false)],
        ),
    ]
}

fn beside_a_guest() -> Vec<Vector> {
    let guest = |base: Option<&str>| {
        vec![
            stream(base),
            Run { done: 8192 },
            write(1200, 300, 0x11),
            write(14_000, 4000, 0x22),
            zero(25_000, 500),
            zero(8192, 4096),
            Discard { offset: 8192, length: 4096 },
            Run { done: 24_576 },
            write(0, 512, 0x33),
            write(32_000, 1000, 0x44),
            Flush,
            Discard { offset: 36_864, length: SIZE - 36_864 },
            Finish,
            write(20_480, 4096, 0x55),
            Close,
        ]
    };
    let purpose = "The guest writes, zeroes and discards, behind the stream and before it.";
    let rules = &["ORD-08", "ORD-44", "ORD-45", "ORD-50", "ORD-70", "ALC-10"];
    let all = three("job-stream-guest", purpose, rules, guest(None), |top| {
        vec![closed(all_here(IMAGE, &written(&top.disk, &guest(None))), true)]
    });
    let purpose = "The same, down to a layer that stays.";
    let some = three("job-stream-guest_to_base", purpose, rules, guest(Some(BASE)), |top| {
        vec![visible(closed(reads(IMAGE, &[BASE], &written(&top.disk, &guest(Some(BASE)))), true), 30_000)]
    });
    vec![all.flag(Flag::Live), some.flag(Flag::Live)]
}

/// With the child gone whom the mark names, the new chain would not open.
fn past_a_mark() -> Vector {
    let bottom = base();
    let mut child = Maker::overlay("midl", SIZE, 12).over(&bottom, BASE, SIZE).data(4096..4608);
    let mut bottom = marked(&bottom, &child);
    let mut top = over(&child, MIDDLE);
    let purpose = "A stream would put the top on a base that the layer between is being merged into.";
    let vector = chain(
        "job-stream-refused-marked_base",
        purpose,
        &[],
        &mut [(IMAGE, &mut top), (MIDDLE, &mut child), (BASE, &mut bottom)],
    );
    let found = vec![closed(holds(IMAGE, &[MIDDLE, BASE], &top), false)];
    script(vector, &["CHN-16"], vec![forbidden(stream(Some(BASE)), &["CHN-16", "CHN-04"])], found)
}
