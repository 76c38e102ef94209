//! Jobs that are stopped anywhere and begun again: stream, rebase, mirror.

use super::files::{BLOCK, SIZE, alone, base, copy, copy_raw, hint, mid, sidecar, top, volume_raw};
use super::guest::{overlay, with_sidecar};
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::Parent;
use crate::image::{CreateOptions, Image};
use crate::jobs::{Job, Mirror, Rebase, ResumableMirror, Stream, Work, rebase_unsafe};
use crate::limits::{SECTOR_SIZE, SLOT_SIZE};
use crate::sync::Arc;
use crate::testing::crash::Scenario;
use crate::testing::laws::Open;
use crate::testing::model::{Breach, Model};
use crate::testing::world::World;

/// Steps a job to its end, a few blocks at a time.
pub(super) fn run(w: &mut World, work: impl Work + 'static) -> Result<()> {
    let job = Job::new(work, w.host.clone());
    loop {
        w.disk.note("job steps", 0..0);
        if job.step(3 * BLOCK)?.finished {
            w.disk.note("job reports its end", 0..0);
            return Ok(());
        }
        w.point();
    }
}

/// An overlay takes in its parent and becomes complete.
pub(super) const STREAM: Scenario = Scenario {
    name: "stream",
    setup: |w| {
        overlay(w)?;
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, 3 * BLOCK..3 * BLOCK + 512)?;
        w.durable("top", || disk.close())?;
        // Under clear bits lies what a write left that was never committed.
        let (file, offset) = disk.image(0)?.data_location();
        file.write_at(&[0x99; 2 * BLOCK as usize], offset + BLOCK)
    },
    body: stream,
    recover: |w| {
        stream(w)?;
        w.forget("alone");
        w.carry_on("top", "top.lvd")
    },
};

fn stream(w: &mut World) -> Result<()> {
    let disk = w.open("top.lvd")?;
    let model = w.model("top").unwrap_or_else(|| Model::zeros(SIZE));
    w.view("alone", alone, model, false);
    run(w, Stream::new(&disk, None)?)?;
    w.promise("alone");
    w.point();
    w.durable("top", || disk.close())
}

/// The lower of two overlays is no longer needed.
pub(super) const STREAM_TO_BASE: Scenario = Scenario {
    name: "stream to a base",
    setup: three_layers,
    body: stream_to_base,
    recover: |w| {
        stream_to_base(w)?;
        w.carry_on("top", "top.lvd")
    },
};

fn stream_to_base(w: &mut World) -> Result<()> {
    let disk = w.open("top.lvd")?;
    // The same command again, also after the middle has gone from the chain.
    run(w, Stream::new(&disk, Some(disk.layers.len() - 1))?)?;
    w.durable("top", || disk.close())?;
    drop(disk);
    // The middle is written by somebody else: the top does not notice.
    let mid = w.open("mid.lvd")?;
    w.write("mid", &mid, 0..BLOCK)?;
    w.durable("mid", || mid.close())
}

/// Setup: `top.lvd` on `mid.lvd` on `base.lvd`, all with blocks of their own.
pub(super) fn three_layers(w: &mut World) -> Result<()> {
    w.with_base(SIZE)?;
    w.with_overlay("mid", mid, ("base.lvd", "base"), SIZE)?;
    write_closed(w, "mid", "mid.lvd", &[BLOCK..2 * BLOCK, 3 * BLOCK..3 * BLOCK + 512])?;
    w.with_overlay("top", top, ("mid.lvd", "mid"), SIZE)?;
    write_closed(w, "top", "top.lvd", &[0..512])
}

/// Setup: one session.
pub(super) fn write_closed(w: &mut World, view: &str, name: &str, ranges: &[std::ops::Range<u64>]) -> Result<()> {
    let disk = w.open(name)?;
    for range in ranges {
        w.write(view, &disk, range.clone())?;
    }
    w.durable(view, || disk.close())
}

/// A raw volume is filled, and needs its sidecar no more.
pub(super) const STREAM_SIDECAR: Scenario = Scenario {
    name: "stream into a volume",
    setup: |w| {
        with_sidecar(w)?;
        write_closed(w, "top", "volume.raw.lvb", &[BLOCK..BLOCK + 512])
    },
    body: stream_sidecar,
    recover: stream_sidecar,
};

fn stream_sidecar(w: &mut World) -> Result<()> {
    // A sidecar without an allocation section has nothing to say any more.
    if w.promised("volume") {
        return Ok(());
    }
    if sidecar(&w.disk).is_ok() {
        let disk = w.open("volume.raw.lvb")?;
        w.refusable("top");
        run(w, Stream::new(&disk, None)?)?;
        w.durable("top", || disk.close())?;
    }
    let model = w.model("top").unwrap_or_else(|| Model::zeros(SIZE));
    w.forget("top");
    w.view("volume", volume_raw, model.device_of(SIZE.next_multiple_of(512)), true);
    w.point();
    Ok(())
}

/// An overlay moves to another parent.
pub(super) const REBASE: Scenario = Scenario {
    name: "rebase",
    setup: |w| {
        overlay(w)?;
        write_closed(w, "top", "top.lvd", &[0..512])?;
        w.create("copy.lvd", 4 * BLOCK)?;
        w.view("copy", copy, Model::zeros(4 * BLOCK), true);
        write_closed(w, "copy", "copy.lvd", &[BLOCK..2 * BLOCK])
    },
    body: rebase,
    recover: |w| {
        rebase(w)?;
        w.carry_on("top", "top.lvd")
    },
};

fn rebase(w: &mut World) -> Result<()> {
    let disk = w.open("top.lvd")?;
    let parent = super::files::chain(&w.disk, w.host.clone(), "copy.lvd", false, None)?;
    run(w, Rebase::new(&disk, &parent, hint("copy.lvd"))?)?;
    w.forget("base");
    w.durable("top", || disk.close())
}

/// The same, after a crash that left one sector of a link to what that parent was then.
pub(super) const REBASE_TORN: Scenario = Scenario {
    name: "rebase after a torn header",
    setup: |w| {
        (REBASE.setup)(w)?;
        write_closed(w, "top", "top.lvd", &[0..SIZE])?;
        let disk = w.open("top.lvd")?;
        let mut header = (*disk.image(0)?.header()).clone();
        header.parent = Some(w.link("copy.lvd", SIZE)?);
        header.sequence += 1;
        let bytes = header.encode().unwrap_or_else(|violation| panic!("{violation}"));
        disk.image(0)?.storage().write_at(&bytes[..SECTOR_SIZE as usize], SLOT_SIZE)?;
        write_closed(w, "copy", "copy.lvd", &[0..BLOCK])
    },
    body: rebase,
    recover: |w| {
        rebase(w)?;
        w.carry_on("top", "top.lvd")
    },
};

/// A whole disk is copied into a new image.
pub(super) const MIRROR: Scenario = Scenario {
    name: "mirror",
    setup: |w| {
        overlay(w)?;
        write_closed(w, "top", "top.lvd", &[BLOCK..BLOCK + 512])
    },
    body: |w| mirror(w, None),
    recover: |w| {
        mirror(w, None)?;
        w.carry_on("copy", "copy.lvd")
    },
};

/// The top alone is copied, onto the same parent.
pub(super) const MIRROR_TOP: Scenario = Scenario {
    name: "mirror the top",
    setup: |w| {
        overlay(w)?;
        write_closed(w, "top", "top.lvd", &[BLOCK..BLOCK + 512, 4 * BLOCK..SIZE])
    },
    body: |w| mirror(w, Some("base.lvd")),
    recover: |w| {
        mirror(w, Some("base.lvd"))?;
        w.carry_on("copy", "copy.lvd")
    },
};

fn mirror(w: &mut World, parent: Option<&str>) -> Result<()> {
    let source = w.open("top.lvd")?;
    if w.promised("copy") {
        return Ok(());
    }
    watch_copy(w, "copy", copy);
    let marked = w.header("copy.lvd").is_some_and(|header| header.copy_mark.is_some());
    if !marked {
        let parent = parent.map(|parent| w.link(parent, SIZE)).transpose()?;
        let options = CreateOptions { virtual_size: SIZE, parent, copy_mark: true, ..CreateOptions::default() };
        Image::create(&*w.file("copy.lvd")?, &*w.host, &options)?;
    }
    let target = w.open_marked("copy.lvd")?;
    match parent {
        Some(_) => run(w, Mirror::top(&source, &target)?)?,
        None => run(w, Mirror::full(source.top(), target.layers[0].clone(), !marked)?)?,
    }
    w.promise("copy");
    w.point();
    if let Some(parent) = parent {
        // It finds its parent by another way from now on: a second header right after the one without the mark.
        let link = Parent { hint: hint(parent).replace("directory", "elsewhere"), ..w.link(parent, SIZE)? };
        rebase_unsafe(&**target.image(0)?, link)?;
    }
    w.durable("copy", || target.close())
}

/// The copy may not open, but if it does it is one.
fn watch_copy(w: &mut World, name: &'static str, open: Open) {
    let model = w.model("top").unwrap_or_else(|| Model::zeros(SIZE));
    w.view(name, open, model.durable(), false);
}

/// A copy that dies is taken up where it was, after its disk has changed.
pub(super) const MIRROR_RESUMED: Scenario = Scenario {
    name: "mirror, resumed",
    setup: |w| {
        overlay(w)?;
        write_closed(w, "top", "top.lvd", &[BLOCK..BLOCK + 512])
    },
    body: |w| mirror_resumed(w, "copy.lvd", copy),
    recover: |w| {
        mirror_resumed(w, "copy.lvd", copy)?;
        w.carry_on("copy", "copy.lvd")
    },
};

/// The same into a raw file, of which nothing tells what it has.
pub(super) const MIRROR_RAW_RESUMED: Scenario = Scenario {
    name: "mirror into a raw file, resumed",
    setup: overlay,
    body: |w| mirror_resumed(w, "copy.raw", copy_raw),
    recover: |w| mirror_resumed(w, "copy.raw", copy_raw),
};

fn mirror_resumed(w: &mut World, name: &str, open: Open) -> Result<()> {
    if w.promised("copy") {
        return Ok(());
    }
    let source = w.open("top.lvd")?;
    // While no mirror runs: it is begun again, and was perhaps right before.
    w.write("top", &source, 2 * BLOCK + 512..2 * BLOCK + 1024)?;
    let raw = name.ends_with(".raw");
    let there = if raw { w.disk.exists(name) } else { w.header(name).is_some_and(|header| header.copy_mark.is_some()) };
    if raw {
        drop(w.file(name)?);
        w.disk.set_payload(name, 0..u64::MAX);
    } else {
        if !there {
            let options = CreateOptions { virtual_size: SIZE, copy_mark: true, ..CreateOptions::default() };
            Image::create(&*w.file(name)?, &*w.host, &options)?;
        }
        w.view("copy", open, Model::zeros(SIZE + 1), false);
    }
    let target = if raw { w.open(name)? } else { w.open_marked(name)? };
    if raw && target.size() != SIZE {
        // Its length was lost: it is not the one of which the bitmap tells (SYN-01), which gives way to another.
        w.forget_bitmap("top", "mirror");
    }
    let lacks = || source.image(0).and_then(|image| image.dirty_stretches("mirror")).ok();
    let before = lacks();
    let work = Arc::new(ResumableMirror::new(&source, target.layers[0].clone(), "mirror", 12, !there)?);
    let job = Job::new(work.clone(), w.host.clone());
    for step in 0.. {
        if job.progress().done == SIZE {
            if !raw {
                watch_copy(w, "copy", open);
            }
            w.forget_bitmap("top", "mirror");
        } else if step == 1 && w.promised_bitmap("top", "mirror") && lacks() != before {
            w.report(Err(Breach::new('S', "a mirror was begun anew, though its target says what it has")));
        } else if step == 1 && !w.promised_bitmap("top", "mirror") {
            w.promise_bitmap("top", "mirror");
        }
        if job.step(2 * BLOCK)?.finished {
            break;
        }
        if step == 2 {
            w.disk.note("what was copied is dropped from the sync bitmap", 0..0);
            work.checkpoint()?;
        }
    }
    if raw {
        watch_copy(w, "copy", open);
    }
    w.promise("copy");
    w.point();
    w.durable("copy", || target.close())?;
    w.durable("top", || source.close())
}

/// A whole disk is copied into a raw file, which cannot say that it is no copy yet.
pub(super) const MIRROR_RAW: Scenario =
    Scenario { name: "mirror into a raw file", setup: overlay, body: mirror_raw, recover: mirror_raw };

fn mirror_raw(w: &mut World) -> Result<()> {
    if w.promised("copy") {
        return Ok(());
    }
    let source = w.open("top.lvd")?;
    let fresh = !w.disk.exists("copy.raw");
    drop(w.file("copy.raw")?);
    w.disk.set_payload("copy.raw", 0..u64::MAX);
    let target: Chain = w.open("copy.raw")?;
    run(w, Mirror::full(source.top(), target.layers[0].clone(), fresh)?)?;
    watch_copy(w, "copy", copy_raw);
    w.promise("copy");
    w.point();
    drop(target);
    assert_eq!(base(&w.disk)?.device.size(), source.size());
    Ok(())
}
