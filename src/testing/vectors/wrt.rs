//! Vectors of what a writer must leave behind: the same disk but for what was written, and all that it does not know.

use super::maker::{Maker, id, raw};
use super::sparse::Sparse;
use super::vector::{After, Case, Disk, Operation, Perhaps, Role, Vector, Verdict};
use super::{IMAGE, plain, sparse_overlay};
use crate::conformance::{hex, mark};
use crate::format::{BITS_PER_SECTOR, MergeMark, RawRecord, State};
use crate::violation::Violation as V;
use Operation::{Close, Fill, Flush, Resize, Write, Zero};

const RAW: &str = "base.raw";

pub(super) fn all() -> Vec<Vector> {
    [sessions(), overlays(), zeros_and_fills(), sizes(), kept(), killed()].concat()
}

fn write(offset: u64, length: u64, byte: u8) -> Operation {
    Write { offset, length, pattern: hex(&[byte]) }
}

/// `maker` before, `then`, and the disk as `after` has it.
fn vector(name: &str, purpose: &str, maker: &mut Maker, then: Vec<Operation>, after: &Maker) -> Vector {
    let file = maker.finish();
    let unclean = !matches!(then.last(), Some(Close));
    let changes = then.iter().any(|operation| !matches!(operation, Fill { .. } | Flush | Close));
    let state = match (unclean, changes) {
        (false, _) => State::Closed,
        (true, true) => State::Writing,
        (true, false) => State::Filling,
    };
    let records = after.header.unknown.iter();
    let after = After {
        new_epoch: Some(changes),
        state: Some(state.to_string()),
        complete: false,
        visible_length: None,
        kept: records.map(|record| (record.record_type, record.flags, hex(&record.payload))).collect(),
        merge_mark: after.header.merge_mark.as_ref().map(mark),
        copy_mark: None,
        group_mark: None,
        compat: after.header.compat,
        disk: Some(after.expected()),
        perhaps: Vec::new(),
    };
    let case = Case { write: true, then, after: Some(after), ..maker.opens(IMAGE) };
    Vector::new(name, purpose, &[]).file(IMAGE, Role::Image, file).case(case)
}

fn sessions() -> Vec<Vector> {
    let written = || plain().bytes(4000..5000, 0x77);
    let mut unclean = plain();
    unclean.header.state = State::Writing;
    let mut filling = sparse_overlay();
    filling.header.state = State::Filling;
    let mut last = plain();
    last.header.sequence = i64::MAX as u64 - 3;
    vec![
        vector(
            "wrt-close",
            "A write and a clean close: closed, another epoch.",
            &mut plain(),
            vec![write(4000, 1000, 0x77), Close],
            &written(),
        )
        .also(&["ORD-50", "ORD-51", "ORD-52"]),
        vector(
            "wrt-flush",
            "A write and a flush, then the process ends: the state says so, the epoch is another.",
            &mut plain(),
            vec![write(4000, 1000, 0x77), Flush],
            &written(),
        )
        .also(&["ORD-50", "CHN-14"]),
        vector(
            "wrt-after_crash",
            "A session after one that was not closed.",
            &mut unclean,
            vec![write(4000, 1000, 0x77), Close],
            &written(),
        )
        .also(&["ORD-21", "ORD-22"]),
        vector(
            "wrt-after_filling",
            "A write after a session that ended while it was filling.",
            &mut filling,
            vec![write(0, 4096, 0x33), Close],
            &sparse_overlay().bytes(0..4096, 0x33),
        )
        .also(&["ORD-50"]),
        vector(
            "wrt-sequence_near_end",
            "There are three sequence numbers left, and a session takes two.",
            &mut last,
            vec![write(0, 1, 0x01), Close],
            &plain().bytes(0..1, 0x01),
        )
        .also(&["HDR-15"]),
    ]
}

fn base() -> Sparse {
    raw("base", 20_000, &[0..20_000])
}

fn over() -> Maker {
    Maker::overlay("top ", 40_000, 12).over_raw(&base(), RAW, 20_000).data(8192..12_288).garbage(16_384..20_480)
}

/// What a guest does with the overlay over the raw file.
fn over_raw(name: &str, purpose: &str, then: Vec<Operation>, after: Maker, rules: &[&str]) -> Vector {
    vector(name, purpose, &mut over(), then, &after).also(rules).file(RAW, Role::Parent, base())
}

fn overlays() -> Vec<Vector> {
    vec![
        over_raw(
            "wrt-block",
            "A write of one whole block.",
            vec![write(4096, 4096, 0x11), Close],
            over().bytes(4096..8192, 0x11),
            &["ALC-09"],
        ),
        over_raw(
            "wrt-part_of_block",
            "A write into part of an absent block: the parent's bytes stay around it.",
            vec![write(5000, 10, 0x11), Close],
            over().bytes(5000..5010, 0x11),
            &["ALC-09", "ORD-44"],
        ),
        over_raw(
            "wrt-over_parent_end",
            "A write into the block in which the parent ends; garbage lay there.",
            vec![write(19_000, 10, 0x11), Close],
            over().bytes(19_000..19_010, 0x11),
            &["ORD-44", "ALC-04", "ALC-05"],
        ),
        over_raw(
            "wrt-last_block",
            "A write into the last, short block.",
            vec![write(39_999, 1, 0x11), Close],
            over().bytes(39_999..40_000, 0x11),
            &["ORD-44", "ALC-06"],
        ),
        over_raw(
            "wrt-across_blocks",
            "A write from the middle of a block to the middle of the third.",
            vec![write(6000, 8000, 0x11), Close],
            over().bytes(6000..14_000, 0x11),
            &["ORD-44"],
        ),
    ]
}

fn zeros_and_fills() -> Vec<Vector> {
    vec![
        over_raw(
            "wrt-zero",
            "Zeros over the parent's data: never the absence of a block.",
            vec![Zero { offset: 0, length: 8192 }, Close],
            over().zeros(0..8192),
            &["ORD-02", "ORD-45", "ALC-10"],
        ),
        over_raw(
            "wrt-zero_part",
            "Zeros over part of a block.",
            vec![Zero { offset: 100, length: 200 }, Close],
            over().zeros(100..300),
            &["ORD-02", "ORD-45"],
        ),
        over_raw(
            "wrt-zero_over_garbage",
            "Zeros where the parent ends and a crash left garbage.",
            vec![Zero { offset: 16_384, length: 4096 }, Close],
            over().zeros(16_384..20_480),
            &["ORD-02", "ORD-45"],
        ),
        over_raw(
            "wrt-fill",
            "Absent blocks are filled from below: content and epoch stay.",
            vec![Fill { offset: 0, length: 16_384 }, Close],
            over().filled(0..16_384),
            &["ORD-45", "ORD-50"],
        ),
        over_raw(
            "wrt-fill_unclosed",
            "The same, and the process ends without closing.",
            vec![Fill { offset: 0, length: 16_384 }, Flush],
            over().filled(0..16_384),
            &["ORD-50"],
        ),
        over_raw(
            "wrt-fill_then_write",
            "A fill, and then a change: now the epoch is another.",
            vec![Fill { offset: 0, length: 4096 }, write(4096, 4096, 0x22), Close],
            over().filled(0..4096).bytes(4096..8192, 0x22),
            &["ORD-50"],
        ),
    ]
}

/// The same disk with another size.
fn resized(mut maker: Maker, size: u64) -> Maker {
    maker.disk.set_len(size);
    maker.header.virtual_size = size;
    for section in &mut maker.header.sections {
        section.covered = size;
    }
    maker
}

fn sizes() -> Vec<Vector> {
    let shrunk = resized(over(), 10_000);
    // Parent bytes and bytes of the image that were cut off do not come back.
    let regrown = resized(resized(over(), 10_000), 40_000);
    let mut regrown_disk = regrown.clone();
    regrown_disk.disk.zero(10_000..40_000);
    let with_base = |vector: Vector| vector.file(RAW, Role::Parent, base());
    vec![
        vector(
            "wrt-grow_complete",
            "A complete image grows by an odd number of bytes.",
            &mut plain(),
            vec![Resize { size: 20_001 }, Close],
            &resized(plain(), 20_001),
        )
        .also(&["ORD-60"]),
        vector(
            "wrt-shrink_complete",
            "A complete image shrinks to an odd number of bytes.",
            &mut plain(),
            vec![Resize { size: 1001 }, Close],
            &resized(plain(), 1001),
        ),
        with_base(vector(
            "wrt-shrink_overlay",
            "An overlay shrinks into a present block.",
            &mut over(),
            vec![Resize { size: 10_000 }, Close],
            &shrunk,
        ))
        .also(&["ORD-63"]),
        with_base(vector(
            "wrt-shrink_and_grow",
            "An overlay shrinks and grows again: nothing that was cut off comes back.",
            &mut over(),
            vec![Resize { size: 10_000 }, Close, Resize { size: 40_000 }, Close],
            &regrown_disk,
        ))
        .also(&["ORD-60", "ORD-61", "ORD-63", "CHN-10"]),
    ]
}

fn kept() -> Vec<Vector> {
    let mut maker = sparse_overlay();
    maker.header.compat = 1 << 40;
    maker.header.unknown = vec![
        RawRecord { record_type: 6, flags: 0, payload: b"odd length".to_vec() },
        RawRecord { record_type: 900, flags: 0, payload: Vec::new() },
        RawRecord { record_type: 900, flags: 0, payload: b"the same type again".to_vec() },
    ];
    let after = maker.clone().bytes(0..4096, 0x44);
    vec![
        vector(
            "wrt-unknown_kept",
            "Unknown records and optional features outlive a session.",
            &mut maker,
            vec![write(0, 4096, 0x44), Close],
            &after,
        )
        .also(&["HDR-21", "REC-13", "BMP-01"])
        .no_bitmap("", V::BitmapRecord),
        mark_kept(),
        bad_sector_kept(),
        bits_past_end(),
    ]
}

/// Whoever may open a marked file and does not take part in the merge leaves the mark as it is.
fn mark_kept() -> Vector {
    let mut maker = plain();
    maker.header.merge_mark = Some(MergeMark { child_uuid: id("child"), child_epoch: id("the epoch before") });
    let after = maker.clone().bytes(0..512, 0x66);
    let purpose = "A file that is being merged into, opened by override and written: the mark stays as it is.";
    let mut vector = vector("wrt-merge_mark_kept", purpose, &mut maker, vec![write(0, 512, 0x66), Close], &after);
    vector.cases[0].ignore_marks = true;
    vector.also(&["CHN-04", "CHN-15"])
}

/// A write into blocks of a sound sector, beside one that is bad in the same page.
fn bad_sector_kept() -> Vector {
    let span = BITS_PER_SECTOR * 4096;
    let mut maker = Maker::overlay("seal", 2 * span, 12).data(4096..8192).data(span..span + 4096);
    let mut after = maker.clone().bytes(span + 8192..span + 12_288, 0x55);
    maker.finish();
    let (at, rotten) = (maker.sector_at(0) + 3, [0x80]);
    let mut bytes = maker.file.clone();
    bytes.write(at, &rotten);
    maker.bad.insert(0);
    after.bad.insert(0);
    let purpose = "A write beside a bad sector in the same page: it is written back as it was, and stays bad.";
    let then = vec![write(span + 8192, 4096, 0x55), Close];
    let mut vector = vector("wrt-bad_sector_kept", purpose, &mut maker, then, &after).also(&["PAG-05"]);
    vector.rules.push(V::SealedSector.id().into());
    vector.files[0].bytes = bytes;
    debug_assert_eq!(vector.cases[0].result, Verdict::Damaged);
    vector
}

/// Bits past the end were set when the disk was shrunk; growing must not show what lies there.
fn bits_past_end() -> Vector {
    let mut maker = Maker::overlay("tail", 5000, 12).data(0..5000).set_bit(2).set_bit(3);
    let data = maker.header.data_offset;
    maker.file.write(data + 5000, &super::maker::tagged("gone", 5000..16_384));
    let mut after = resized(Maker::overlay("tail", 5000, 12).data(0..5000), 16_384);
    after.header.data_offset = data;
    let purpose = "Bits past the end of the disk are set and garbage lies there; after growing it reads as zeros.";
    vector("wrt-grow_over_old_bits", purpose, &mut maker, vec![Resize { size: 16_384 }, Close], &after)
        .also(&["ORD-60", "ORD-61", "ALC-07"])
}

/// A process is killed after `then`. What it wrote after its last flush may be there or not, sector by sector (law O).
fn killed_after(name: &str, purpose: &str, maker: &mut Maker, then: Vec<Operation>, flushed: &Maker) -> Vector {
    let last = then.iter().rposition(|operation| matches!(operation, Flush)).map_or(0, |at| at + 1);
    let perhaps = then[last..].iter().filter_map(|operation| match operation {
        Write { offset, length, pattern } => {
            Some(Perhaps { offset: *offset, length: *length, pattern: pattern.clone() })
        }
        Zero { offset, length } => Some(Perhaps { offset: *offset, length: *length, pattern: hex(&[0]) }),
        _ => None,
    });
    // Whether a session was begun, and who holds what, is the writer's affair.
    let disk = Disk { extents: None, sha256: None, ..flushed.expected() };
    let after = After { disk: Some(disk), perhaps: perhaps.collect(), ..After::default() };
    let file = maker.finish();
    let case = Case { write: true, then, after: Some(after), ..maker.opens(IMAGE) };
    Vector::new(name, purpose, &[]).also(&["ORD-03"]).file(IMAGE, Role::Image, file).case(case)
}

fn killed() -> Vec<Vector> {
    let over_raw = |name: &str, purpose: &str, then: Vec<Operation>, flushed: Maker| {
        killed_after(name, purpose, &mut over(), then, &flushed).file(RAW, Role::Parent, base())
    };
    vec![
        killed_after(
            "wrt-killed-overwrite",
            "A process is killed that has overwritten data and not flushed it.",
            &mut plain(),
            vec![write(4000, 1000, 0x77)],
            &plain(),
        ),
        killed_after(
            "wrt-killed-after_flush",
            "What was flushed is there; what was written over it afterwards may be.",
            &mut plain(),
            vec![write(512, 4096, 0x11), Flush, write(1024, 1024, 0x22)],
            &plain().bytes(512..4608, 0x11),
        ),
        killed_after(
            "wrt-killed-twice",
            "Two writes, one over a part of the other: none, the first, or both.",
            &mut plain(),
            vec![write(0, 2048, 0x11), write(700, 900, 0x22)],
            &plain(),
        ),
        killed_after(
            "wrt-killed-zero",
            "Zeros that were not flushed.",
            &mut plain(),
            vec![Zero { offset: 100, length: 1200 }],
            &plain(),
        ),
        over_raw(
            "wrt-killed-allocation",
            "Blocks that were allocated and not flushed: the parent's bytes, or what was written, and no garbage.",
            vec![write(4096, 4096, 0x33), write(16_384, 4096, 0x44)],
            over(),
        ),
        over_raw(
            "wrt-killed-part_of_block",
            "A part of a block that was allocated and not flushed: around it are the parent's bytes in any case.",
            vec![write(5000, 10, 0x33), write(19_000, 1500, 0x44)],
            over(),
        ),
        over_raw(
            "wrt-killed-allocation_after_flush",
            "A block that was allocated and flushed, then overwritten; another one that was only allocated.",
            vec![write(4096, 4096, 0x33), Flush, write(6000, 100, 0x44), write(24_576, 4096, 0x55)],
            over().bytes(4096..8192, 0x33),
        ),
        over_raw(
            "wrt-killed-zeroed_block",
            "A block of the parent's that was zeroed and not flushed.",
            vec![Zero { offset: 0, length: 4096 }],
            over(),
        ),
    ]
}
