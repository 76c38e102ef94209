//! A guest that goes on writing while its disk is given a new top, streamed, merged and mirrored.
//!
//! Between the steps of a job the guest writes parts of blocks and whole ones, zeroes, discards and flushes; where the
//! disk is not held still it also writes inside a barrier. Until a pivot returns it relies on the source, from then on
//! on the target, and if a copy fails it gives the copy up and goes on.

use super::files::{BLOCK, SIZE, alone, base, copy, note_payload, over};
use super::guest::overlay;
use super::jobs::{three_layers, write_closed};
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::image::{CreateOptions, Image};
use crate::jobs::Job;
use crate::live::{Disk, LiveMirror, MirrorOptions, Pace};
use crate::testing::crash::Scenario;
use crate::testing::laws::Open;
use crate::testing::model::Model;
use crate::testing::world::World;
use std::sync::Arc;

/// What the guest does next, of a disk that is `view`.
pub(super) fn guest(w: &mut World, view: &'static str, disk: &Disk, turn: usize) -> Result<()> {
    match turn % 7 {
        0 => w.write(view, disk, BLOCK + 512..BLOCK + 1024),
        1 => w.zero(view, disk, 2 * BLOCK - 512..3 * BLOCK, true),
        2 => w.flush(view, disk),
        3 => w.write(view, disk, 3 * BLOCK..4 * BLOCK),
        4 => w.discard(view, disk, 0..2 * BLOCK),
        5 => w.write(view, disk, SIZE - 700..SIZE),
        _ => w.flush(view, disk),
    }
}

/// Steps `job` to its end; the guest of `top` has a turn before each step. `before` is called before each, too.
fn run(w: &mut World, disk: &Disk, job: &Job, before: fn(&mut World)) -> Result<()> {
    for turn in 0.. {
        guest(w, "top", disk, turn)?;
        before(w);
        w.disk.note("job steps", 0..0);
        if job.step(2 * BLOCK)?.finished {
            w.disk.note("job reports its end", 0..0);
            break;
        }
    }
    Ok(())
}

/// What was written before is below, what is written from then on above.
pub(super) const SNAPSHOT: Scenario = Scenario {
    name: "live snapshot",
    setup: overlay,
    body: |w| {
        let disk = Disk::new(w.open("top.lvd")?);
        w.write("top", &*disk, 0..512)?;
        w.flush("top", &*disk)?;
        w.write("top", &*disk, 3 * BLOCK..4 * BLOCK)?;
        snapshot(w, &disk)?;
        for turn in 0..3 {
            guest(w, "over", &disk, turn)?;
        }
        w.durable("over", || disk.close())
    },
    recover: after_snapshot,
};

/// The same of a disk whose changes a bitmap tells of.
pub(super) const SNAPSHOT_WITH_BITMAP: Scenario =
    Scenario { name: "live snapshot with a bitmap", setup: super::bitmaps::overlay, ..SNAPSHOT };

/// Whoever was told of no new top, and finds none, goes on with the old one, and may ask again.
fn after_snapshot(w: &mut World) -> Result<()> {
    if !w.promised("over") && w.open("over.lvd").is_err() {
        w.carry_on("top", "top.lvd")?;
        let disk = Disk::new(w.open("top.lvd")?);
        guest(w, "top", &disk, 0)?;
        snapshot(w, &disk)?;
        w.durable("over", || disk.close())?;
    }
    w.carry_on("over", "over.lvd")
}

fn snapshot(w: &mut World, disk: &Arc<Disk>) -> Result<()> {
    let model = w.model("top").unwrap_or_else(|| Model::zeros(SIZE)).durable();
    w.view("over", over, model, false);
    w.carry_bitmaps("over", "top");
    let file = w.file("over.lvd")?;
    w.disk.note("snapshot", 0..0);
    w.durable("top", || disk.snapshot(file, super::files::hint("top.lvd"), 12))?;
    note_payload(&w.disk, &disk.chain());
    w.promise("over");
    w.disk.note("the guest has a new top", 0..0);
    w.point();
    Ok(())
}

/// The disk takes in all that it lies on.
pub(super) const STREAM: Scenario = Scenario {
    name: "live stream",
    setup: |w| {
        overlay(w)?;
        write_closed(w, "top", "top.lvd", &[3 * BLOCK..3 * BLOCK + 512])
    },
    body: stream,
    recover: |w| {
        stream(w)?;
        w.carry_on("top", "top.lvd")
    },
};

fn stream(w: &mut World) -> Result<()> {
    w.forget("alone");
    let disk = Disk::new(w.open("top.lvd")?);
    // A run before may have ended, and the machine right after it.
    if disk.chain().image(0)?.complete() {
        w.durable("top", || disk.flush())?;
    } else {
        let job = disk.stream(None)?;
        // It stands alone from some moment of its last step on.
        run(w, &disk, &job, |w| as_top(w, "alone", alone))?;
        w.forget("alone");
    }
    if let Some(model) = w.model("top") {
        w.view("top", alone, model, true);
    }
    w.point();
    w.write("top", &*disk, 2 * BLOCK..3 * BLOCK)?;
    w.durable("top", || disk.close())
}

/// `view` may be opened from now on, and then holds what the guest sees.
fn as_top(w: &mut World, view: &'static str, open: Open) {
    if let Some(model) = w.model("top") {
        w.view(view, open, model, false);
    }
}

/// The two layers that the guest's lies on become one.
pub(super) const MERGE_BELOW: Scenario = Scenario {
    name: "live merge below",
    setup: three_layers,
    body: merge_below,
    recover: |w| {
        merge_below(w)?;
        w.carry_on("top", "top.lvd")
    },
};

fn merge_below(w: &mut World) -> Result<()> {
    if w.promised("merged") {
        return Ok(());
    }
    w.refusable("base");
    w.forget("merged");
    let disk = Disk::new(w.open_also("top.lvd", Some(2))?);
    w.becoming("base", "mid");
    let job = disk.merge(1, 2)?;
    run(w, &disk, &job, |_| {})?;
    drop(job);
    w.became("base");
    if let Some(model) = w.model("base") {
        w.view("merged", base, model, true);
    }
    w.forget("base");
    w.point();
    w.durable("top", || disk.close())
}

/// Small pieces, and little that may be behind.
pub(in crate::testing) const OPTIONS: MirrorOptions = MirrorOptions {
    granularity: BLOCK,
    bound: BLOCK,
    piece: 2 * BLOCK,
    pace: Pace::Background,
    share: 100,
    compare: false,
};

/// How a copy ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Pivot,
    Split,
    Abandon,
}

/// Copies until READY and a little further, and ends it. `target` is the view of what is copied to, opened by `open`.
fn copy_and_end(
    w: &mut World,
    disk: &Arc<Disk>,
    mirror: &Arc<LiveMirror>,
    (target, open): (&'static str, Open),
    end: End,
) -> Result<Option<Arc<Chain>>> {
    let mut turn = 0;
    while !mirror.progress().ready {
        guest(w, "top", disk, turn)?;
        turn += 1;
        if turn == 4 {
            // From here on what is copied is written twice.
            mirror.set_pace(Pace::WriteThrough);
        }
        if turn == 5 {
            // The flush that READY waits for does not cover what comes while it runs.
            let device: Arc<dyn BlockDevice> = disk.clone();
            w.write_inside(1, &["top"], &device, 2 * BLOCK + 512..2 * BLOCK + 1024);
        }
        w.disk.note("mirror steps", 0..0);
        mirror.step(2 * BLOCK)?;
        if turn == 3 {
            w.disk.note("mirror saves", 0..0);
            mirror.save()?;
        }
    }
    w.disk.note("READY", 0..0);
    w.point();
    mirror.set_pace(Pace::Background);
    guest(w, "top", disk, 0)?;
    guest(w, "top", disk, 3)?;
    if end == End::Abandon {
        disk.abandon(mirror)?;
        w.disk.note("abandoned", 0..0);
        return Ok(None);
    }
    let model = w.model("top").unwrap_or_else(|| Model::zeros(SIZE)).durable();
    w.view(target, open, model, false);
    // Nor does the first barrier of a pivot, before the guest is held.
    let device: Arc<dyn BlockDevice> = disk.clone();
    w.write_inside(1, &["top", target], &device, 4 * BLOCK..4 * BLOCK + 512);
    w.disk.note("pivot, or split", 0..0);
    let left = if end == End::Pivot { disk.pivot(mirror)? } else { disk.split(mirror)? };
    if let Some(model) = w.model(target) {
        w.view(target, open, model.durable(), true);
    }
    w.disk.note("done", 0..0);
    w.point();
    Ok(Some(left))
}

/// The guest moves to a copy.
pub(super) const MIRROR_PIVOT: Scenario = Scenario {
    name: "live mirror, pivot",
    setup: overlay,
    body: |w| mirror(w, End::Pivot, Begin::Anew),
    recover: |w| {
        if !w.promised("copy") {
            mirror(w, End::Pivot, Begin::Anew)?;
        }
        if w.promised("copy") { w.carry_on("copy", "copy.lvd") } else { w.carry_on("top", "top.lvd") }
    },
};

/// A copy of one instant is split off.
pub(super) const MIRROR_SPLIT: Scenario = Scenario {
    name: "live mirror, split",
    setup: overlay,
    body: |w| mirror(w, End::Split, Begin::Anew),
    recover: |w| split_again(w, Begin::Anew),
};

/// A copy is given up. What is left of it never opens.
pub(super) const MIRROR_ABANDON: Scenario = Scenario {
    name: "live mirror, abandon",
    setup: overlay,
    body: |w| mirror(w, End::Abandon, Begin::Anew),
    recover: |w| w.carry_on("top", "top.lvd"),
};

/// A mirror that dies is taken up where it was: its target lacks nothing in the end that the guest wrote meanwhile.
pub(super) const MIRROR_RESUMED: Scenario = Scenario {
    name: "live mirror, resumed",
    setup: overlay,
    body: |w| mirror(w, End::Split, Begin::Resumable),
    recover: |w| split_again(w, Begin::Resumable),
};

fn split_again(w: &mut World, begin: Begin) -> Result<()> {
    if !w.promised("copy") {
        mirror(w, End::Split, begin)?;
    }
    w.carry_on("top", "top.lvd")?;
    if w.promised("copy") { w.carry_on("copy", "copy.lvd") } else { Ok(()) }
}

/// How a mirror begins.
#[derive(Clone, Copy, PartialEq)]
enum Begin {
    /// With a new target.
    Anew,
    /// With the target of a run before, if there is one, and what its sync bitmap says.
    Resumable,
}

fn mirror(w: &mut World, end: End, begin: Begin) -> Result<()> {
    let disk = Disk::new(w.open("top.lvd")?);
    let copied = copy_to_file(w, &disk, end, begin);
    let view = match &copied {
        Ok(Some(left)) if end == End::Split => {
            w.durable("copy", || left.close())?;
            "top"
        }
        Ok(Some(_)) => "copy",
        // The guest does without.
        Ok(None) | Err(_) => "top",
    };
    for turn in 0..3 {
        guest(w, view, &disk, turn)?;
    }
    w.durable(view, || disk.close())?;
    copied.map(drop)
}

/// A mirror that fails is given up.
fn copy_to_file(w: &mut World, disk: &Arc<Disk>, end: End, begin: Begin) -> Result<Option<Arc<Chain>>> {
    let marked = w.header("copy.lvd").is_some_and(|header| header.copy_mark.is_some());
    if begin == Begin::Anew || !marked {
        let options = CreateOptions { virtual_size: SIZE, copy_mark: true, ..CreateOptions::default() };
        Image::create(&*w.file("copy.lvd")?, &*w.host, &options)?;
    }
    // A disk of no such size: from here on it is refused, or it is wrong.
    w.view("copy", copy, Model::zeros(SIZE + 1), false);
    let target = w.open_marked("copy.lvd")?;
    let mirror = match begin {
        Begin::Anew => disk.mirror_with(target, &OPTIONS)?,
        Begin::Resumable => {
            // While no mirror runs.
            w.write("top", &**disk, 2 * BLOCK + 1024..2 * BLOCK + 1536)?;
            disk.mirror_resumable(target, "mirror", 12, &OPTIONS)?
        }
    };
    let ended = copy_and_end(w, disk, &mirror, ("copy", copy), end);
    if ended.is_err() {
        disk.abandon(&mirror)?;
    }
    ended
}

/// The layer that the guest writes to is merged into the one below, and the guest goes on there.
pub(super) const MERGE_ACTIVE: Scenario = Scenario {
    name: "live merge of the active layer",
    setup: |w| {
        overlay(w)?;
        write_closed(w, "top", "top.lvd", &[BLOCK..BLOCK + 512])
    },
    body: merge_active,
    recover: |w| {
        if !w.promised("base") {
            merge_active(w)?;
        }
        if !w.promised("base") {
            return w.carry_on("top", "top.lvd");
        }
        // The base is about to change: it is no parent of the old top any more.
        w.refusable("top");
        w.carry_on("base", "base.lvd")
    },
};

fn merge_active(w: &mut World) -> Result<()> {
    // What a run before has left there is nobody's disk.
    w.forget("base");
    let disk = Disk::new(w.open_also("top.lvd", Some(1))?);
    let mirror = disk.merge_active_with(1, &OPTIONS)?;
    let ended = copy_and_end(w, &disk, &mirror, ("base", base), End::Pivot);
    let view = if ended.is_ok() { "base" } else { "top" };
    match &ended {
        // As soon as the base changes it is no parent of the old top any more.
        Ok(_) => w.refusable("top"),
        Err(_) => drop(disk.abandon(&mirror)?),
    }
    for turn in 0..3 {
        guest(w, view, &disk, turn)?;
    }
    w.durable(view, || disk.close())?;
    ended.map(drop)
}
