//! Vectors of jobs: what the files must show when a job has ended, was stopped, went on, or was refused.
//!
//! What is expected comes from the makers' models of the disks, never from a job: a stream and a rebase change no disk,
//! a merge puts the upper disk over the lower one, a copy is the same disk once more.

mod copy;
mod merge;
mod rebase;
mod stream;

use super::maker::Maker;
use super::sparse::Sparse;
use super::vector::{After, Case, Disk, Flag, Operation, Vector, Verdict};
use crate::conformance::{hex, mark, repeat};
use crate::format::{Identity, MergeMark, State};
use crate::violation::Violation as V;
use Operation::{Write, Zero};

const IMAGE: &str = super::IMAGE;
const MIDDLE: &str = "middle.lvd";
const BASE: &str = "base.lvd";
const RAW: &str = "base.raw";
const SIBLING: &str = "sibling.lvd";

/// Bytes of most disks: a multiple of nothing.
const SIZE: u64 = 40_000;

pub(super) fn all() -> Vec<Vector> {
    [stream::all(), merge::all(), copy::all(), rebase::all()].concat()
}

/// `vector`, whose first case goes on with `then`; `finally` is what is left.
fn script(mut vector: Vector, rules: &[&str], then: Vec<Operation>, finally: Vec<Case>) -> Vector {
    let case = &mut vector.cases[0];
    (case.write, case.then, case.finally) = (true, then, finally);
    vector.also(rules).flag(Flag::Jobs)
}

/// The lowest layer: a complete image with data here and there.
fn base() -> Maker {
    Maker::complete("base", SIZE)
        .data(0..2048)
        .data(8192..9216)
        .data(13_000..21_000)
        .data(25_000..26_000)
        .data(38_912..SIZE)
}

/// An overlay with data and zeros of its own, some over data and some over nothing.
fn over(parent: &Maker, name: &str) -> Maker {
    let visible = parent.disk.len().min(SIZE);
    Maker::overlay("top ", SIZE, 12)
        .over(parent, name, visible)
        .data(1000..1600)
        .zeros(8192..8704)
        .data(28_672..29_696)
        .zeros(38_000..SIZE)
        .garbage(16_384..17_408)
}

/// Another child of the base.
fn sibling(base: &Maker) -> Maker {
    Maker::overlay("sibl", SIZE, 12).over(base, BASE, SIZE).data(4096..4608)
}

/// The lower disk after a merge: as the upper one as far as that goes.
fn merged(lower: &Sparse, upper: &Sparse) -> Sparse {
    let mut disk = lower.clone();
    disk.set_len(lower.len().max(upper.len()));
    disk.copy(upper, 0..upper.len());
    disk
}

/// The disk after what a guest writes of `then`.
fn written(disk: &Sparse, then: &[Operation]) -> Sparse {
    let mut disk = disk.clone();
    for operation in then {
        match operation {
            Write { offset, length, pattern } => {
                disk.write(*offset, &repeat(pattern, *length).expect("a pattern of digits"));
            }
            Zero { offset, length } => disk.zero(*offset..offset + length),
            _ => {}
        }
    }
    disk
}

fn write(offset: u64, length: u64, byte: u8) -> Operation {
    Write { offset, length, pattern: hex(&[byte]) }
}

fn zero(offset: u64, length: u64) -> Operation {
    Zero { offset, length }
}

/// A stream to `base`, or of all layers.
fn stream(base: Option<&str>) -> Operation {
    Operation::Stream { base: base.map(Into::into), refused: Vec::new() }
}

/// A merge of the opened file into `base`.
fn merge(base: &str) -> Operation {
    Operation::Merge { top: None, base: base.into(), empty: false, refused: Vec::new() }
}

/// A copy of the whole disk into the image `to`.
fn copy(to: &str) -> Operation {
    Operation::Copy { to: to.into(), raw: false, granule: None, alone: false, refused: Vec::new() }
}

/// A copy of the opened file alone.
fn copy_alone(to: &str) -> Operation {
    Operation::Copy { to: to.into(), raw: false, granule: None, alone: true, refused: Vec::new() }
}

/// A copy of the whole disk into the raw file `to`.
fn copy_raw(to: &str) -> Operation {
    Operation::Copy { to: to.into(), raw: true, granule: None, alone: false, refused: Vec::new() }
}

fn rebase(onto: &[&str]) -> Operation {
    Operation::Rebase { onto: names(onto), raw: false, refused: Vec::new() }
}

/// The job that these rules forbid.
fn forbidden(mut job: Operation, rules: &[&str]) -> Operation {
    *job.refused_mut().expect("guests are forbidden nothing") = names(rules);
    job
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| name.to_string()).collect()
}

/// `open` on `parents` opens, and reads as `disk`; who holds what is the job's choice.
fn reads(open: &str, parents: &[&str], disk: &Sparse) -> Case {
    let disk = Disk { size: disk.len(), sha256: Some(disk.sha256()), dump: None, extents: None, bytes: disk.clone() };
    Case { parents: names(parents), disk: Some(disk), ..Case::new(open, Verdict::Valid, &[]) }
}

/// `open` on `parents` reads as `maker` says, who holds the same blocks as there.
fn holds(open: &str, parents: &[&str], maker: &Maker) -> Case {
    Case { parents: names(parents), disk: Some(maker.expected()), ..Case::new(open, Verdict::Valid, &[]) }
}

/// The raw file `open` is `disk`.
fn raw_reads(open: &str, disk: &Sparse) -> Case {
    Case { raw: true, ..reads(open, &[], disk) }
}

/// `open` on `parents` is refused.
fn refuses(open: &str, parents: &[&str], rules: &[V]) -> Case {
    Case { parents: names(parents), ..Case::new(open, Verdict::Refused, rules) }
}

/// The same, and the file was closed cleanly, its epoch the old one or another.
fn closed(case: Case, new_epoch: bool) -> Case {
    let state = Some(State::Closed.to_string());
    with(case, |after| (after.new_epoch, after.state) = (Some(new_epoch), state))
}

/// The same, and so many bytes of the parent are visible.
fn visible(case: Case, length: u64) -> Case {
    with(case, |after| after.visible_length = Some(length))
}

/// The same, and the image is complete: it holds all of the disk.
fn complete(case: Case) -> Case {
    with(case, |after| after.complete = true)
}

fn with(mut case: Case, change: impl FnOnce(&mut After)) -> Case {
    change(case.after.get_or_insert_default());
    case
}

/// Whoever looks into `open` finds the mark of `top`, whose chain named the file in the epoch of `named`.
fn is_marked(open: &str, parents: &[&str], top: &Maker, named: &Maker) -> Case {
    let found = MergeMark { child_uuid: top.header.uuid, child_epoch: named.header.epoch };
    let looked_at =
        Case { parents: names(parents), trust_links: true, ignore_marks: true, ..Case::new(open, Verdict::Valid, &[]) };
    with(looked_at, |after| (after.merge_mark, after.new_epoch) = (Some(mark(&found)), Some(true)))
}

/// `maker` while `top` is being merged into it and nothing has changed yet: the next header, with the mark.
fn marked(maker: &Maker, top: &Maker) -> Maker {
    let mut marked = maker.next();
    marked.header.state = State::Writing;
    marked.header.merge_mark = Some(MergeMark { child_uuid: top.header.uuid, child_epoch: maker.header.epoch });
    marked
}

/// Lets the link of `child` name `parent` as it is now.
fn link_to(child: &mut Maker, parent: &Maker) {
    let identity = Identity { uuid: parent.header.uuid, epoch: parent.header.epoch };
    child.header.parent.as_mut().expect("it has a parent").identity = Some(identity);
}
