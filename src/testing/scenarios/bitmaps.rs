//! Dirty bitmaps under a guest: whatever a crash leaves, they tell of every change.

use super::files::{BLOCK, chain, top, tracked};
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::image::{Image, NewBitmap, OpenOptions, Trust};
use crate::storage::{Host, Storage};
use crate::testing::crash::Scenario;
use crate::testing::host::SimHost;
use crate::testing::laws::Opened;
use crate::testing::model::{Breach, Model};
use crate::testing::sim::SimDisk;
use crate::testing::world::World;
use std::sync::Arc;
use std::time::Duration;

/// A region of intents.
const REGION: u64 = 64 << 10;
/// Four regions and an odd rest.
const SIZE: u64 = 4 * REGION + 1000;
/// Longer than intents stay that nothing relies on.
const LONG: Duration = Duration::from_secs(60);

fn model() -> Model {
    let sectors = |start: u64, bytes: u64| start / 512..(start + bytes).div_ceil(512);
    Model::watching(SIZE, (0..5).map(|region| sectors(region * REGION, 2 * BLOCK)).collect())
}

fn granules(shift: u8, since: crate::format::Uuid) -> NewBitmap {
    NewBitmap { granularity_shift: shift, since: Some(since), ..NewBitmap::default() }
}

pub(super) fn add(w: &mut World, disk: &Chain, name: &'static str, shift: u8) -> Result<()> {
    let since = w.bitmap_point("top");
    let image = disk.image(0)?.clone();
    w.disk.note("a bitmap is added", 0..0);
    w.durable("top", || image.add_bitmap(name, &granules(shift, since)).map(drop))?;
    w.promise_bitmap("top", name);
    w.point();
    Ok(())
}

fn clear(w: &mut World, disk: &Chain, name: &'static str) -> Result<()> {
    let since = w.bitmap_point("top");
    let image = disk.image(0)?.clone();
    w.disk.note("a bitmap is cleared", 0..0);
    w.durable("top", || image.clear_bitmap(name, Some(since)).map(drop))
}

fn with_image(w: &mut World) -> Result<()> {
    w.create("top.lvd", SIZE)?;
    w.view("top", top, model(), true);
    let disk = w.open("top.lvd")?;
    w.write("top", &disk, 0..BLOCK)?;
    w.write("top", &disk, 2 * REGION..2 * REGION + 512)?;
    w.durable("top", || disk.close())
}

fn with_bitmap(w: &mut World) -> Result<()> {
    with_image(w)?;
    let disk = w.open("top.lvd")?;
    add(w, &disk, "daily", 12)?;
    w.durable("top", || disk.close())
}

/// What a guest does after a crash.
fn carry_on(w: &mut World, name: &str) -> Result<()> {
    let disk = w.open(name)?;
    w.read("top", &disk);
    w.write("top", &disk, REGION + BLOCK..REGION + BLOCK + 512)?;
    w.flush("top", &disk)?;
    w.host.sleep(LONG);
    w.write("top", &disk, 3 * REGION..3 * REGION + 512)?;
    w.flush("top", &disk)?;
    w.durable("top", || disk.close())?;
    drop(disk);
    let disk = w.open(name)?;
    w.write("top", &disk, 0..512)?;
    w.read("top", &disk);
    w.durable("top", || disk.close())
}

/// Writes, flushes, folds, sessions.
pub(super) const TRACK: Scenario = Scenario {
    name: "bitmap",
    setup: with_bitmap,
    body: |w| {
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, 0..512)?;
        w.write("top", &disk, REGION + 512..REGION + 1024)?;
        w.flush("top", &disk)?;
        w.host.sleep(LONG);
        w.write("top", &disk, 2 * REGION..2 * REGION + 512)?;
        w.flush("top", &disk)?;
        w.host.sleep(LONG);
        // What was intended for the first regions is cleared here, and wanted again.
        w.flush("top", &disk)?;
        w.write("top", &disk, BLOCK..2 * BLOCK)?;
        w.zero("top", &disk, 3 * REGION..3 * REGION + BLOCK, true)?;
        w.discard("top", &disk, 2 * REGION..2 * REGION + 2 * BLOCK)?;
        w.write("top", &disk, 4 * REGION + 300..SIZE)?;
        w.flush("top", &disk)?;
        w.durable("top", || disk.close())?;
        drop(disk);
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, REGION + BLOCK..REGION + 2 * BLOCK)?;
        w.flush("top", &disk)
    },
    recover: |w| carry_on(w, "top.lvd"),
};

/// Bitmaps come, end, begin anew and go.
pub(super) const VERBS: Scenario = Scenario {
    name: "life of bitmaps",
    setup: with_bitmap,
    body: |w| {
        let disk = w.open("top.lvd")?;
        let image = disk.image(0)?.clone();
        w.write("top", &disk, 0..512)?;
        clear(w, &disk, "daily")?;
        w.write("top", &disk, BLOCK..BLOCK + 512)?;
        add(w, &disk, "weekly", 16)?;
        w.write("top", &disk, REGION..REGION + 512)?;
        w.forget_bitmap("top", "daily");
        w.durable("top", || image.disable_bitmap("daily"))?;
        w.durable("top", || image.enable_bitmap("daily"))?;
        w.promise_bitmap("top", "daily");
        w.write("top", &disk, 2 * REGION..2 * REGION + 512)?;
        clear(w, &disk, "weekly")?;
        clear(w, &disk, "daily")?;
        w.write("top", &disk, 3 * REGION..3 * REGION + 512)?;
        w.forget_bitmap("top", "weekly");
        w.durable("top", || image.remove_bitmap("weekly"))?;
        w.write("top", &disk, 3 * REGION + BLOCK..3 * REGION + BLOCK + 512)?;
        w.flush("top", &disk)?;
        clear(w, &disk, "daily")?;
        w.durable("top", || disk.close())
    },
    recover: |w| {
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, REGION + 512..REGION + 1024)?;
        clear(w, &disk, "daily")?;
        w.write("top", &disk, 2 * REGION + 512..2 * REGION + 1024)?;
        drop(disk);
        w.disk.kill();
        carry_on(w, "top.lvd")
    },
};

/// A backup begins and fails, begins again and ends well.
pub(super) const FREEZE: Scenario = Scenario {
    name: "frozen bitmap",
    setup: with_bitmap,
    body: freeze,
    recover: |w| {
        let disk = w.open("top.lvd")?;
        if disk.image(0)?.bitmap("daily")?.state == crate::format::BitmapState::Frozen {
            let image = disk.image(0)?.clone();
            w.write("top", &disk, 2 * REGION + 512..2 * REGION + 1024)?;
            w.durable("top", || image.take_back_bitmap("daily"))?;
        }
        w.durable("top", || disk.close())?;
        drop(disk);
        freeze(w)?;
        carry_on(w, "top.lvd")
    },
};

fn freeze(w: &mut World) -> Result<()> {
    let disk = w.open("top.lvd")?;
    let image = disk.image(0)?.clone();
    w.write("top", &disk, 0..512)?;
    for succeeds in [false, true] {
        let since = w.bitmap_point("top");
        w.durable("top", || image.freeze_bitmap("daily", Some(since)).map(drop))?;
        w.write("top", &disk, REGION..REGION + 512)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, 3 * REGION..3 * REGION + 512)?;
        let end = if succeeds { Image::hand_over_bitmap } else { Image::take_back_bitmap };
        w.durable("top", || end(&image, "daily"))?;
        w.write("top", &disk, 2 * REGION..2 * REGION + 512)?;
    }
    w.durable("top", || disk.close())
}

/// Bitmaps that begin with the bits of another: in one header update, and in two.
pub(super) const BEGUN: Scenario = Scenario {
    name: "bitmaps that begin with bits",
    setup: with_bitmap,
    body: |w| {
        let disk = w.open("top.lvd")?;
        let image = disk.image(0)?.clone();
        w.write("top", &disk, 0..512)?;
        w.write("top", &disk, REGION..REGION + 512)?;
        let since = image.bitmap("daily")?.since;
        let dirty = image.dirty_stretches("daily")?;
        w.durable("top", || image.add_bitmap_with("copy", &granules(16, since), &dirty).map(drop))?;
        w.promise_bitmap("top", "copy");
        w.write("top", &disk, 2 * REGION..2 * REGION + 512)?;
        let late = w.durable("top", || image.add_bitmap_unbegun("late", &granules(12, since)))?;
        w.durable("top", || image.merge_bitmap("late", &image.dirty_stretches("copy")?))?;
        w.durable("top", || image.begin_bitmap(&late))?;
        w.promise_bitmap("top", "late");
        w.write("top", &disk, 3 * REGION..3 * REGION + 512)?;
        // A merge that is taken back.
        let before = image.dirty_stretches("late")?;
        w.durable("top", || image.merge_bitmap("late", &[0..SIZE]))?;
        w.durable("top", || image.restore_bitmap("late", &before))?;
        w.write("top", &disk, 3 * REGION + BLOCK..3 * REGION + BLOCK + 512)?;
        w.durable("top", || disk.close())
    },
    recover: |w| carry_on(w, "top.lvd"),
};

/// The same in an overlay, of which some blocks are filled from below.
pub(super) const OVERLAY: Scenario = Scenario {
    name: "bitmap of an overlay",
    setup: |w| {
        w.create("base.lvd", SIZE)?;
        w.view("base", super::files::base, model(), true);
        let disk = w.open("base.lvd")?;
        w.write("base", &disk, 0..BLOCK)?;
        w.write("base", &disk, REGION..REGION + BLOCK)?;
        w.durable("base", || disk.close())?;
        drop(disk);
        w.with_overlay("top", top, ("base.lvd", "base"), SIZE)?;
        let disk = w.open("top.lvd")?;
        add(w, &disk, "daily", 12)?;
        w.durable("top", || disk.close())
    },
    body: |w| {
        let disk = w.open("top.lvd")?;
        let image = disk.image(0)?.clone();
        image.fill(0..BLOCK)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, REGION + 512..REGION + 1024)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, 0..512)?;
        clear(w, &disk, "daily")?;
        image.fill(2 * REGION..2 * REGION + BLOCK)?;
        w.write("top", &disk, 3 * REGION..3 * REGION + BLOCK)?;
        w.durable("top", || disk.close())
    },
    recover: |w| carry_on(w, "top.lvd"),
};

/// Setup: `top.lvd` on `base.lvd`, a few blocks long, with the bitmap `daily`.
pub(super) fn overlay(w: &mut World) -> Result<()> {
    super::guest::overlay(w)?;
    let disk = w.open("top.lvd")?;
    add(w, &disk, "daily", 12)?;
    w.durable("top", || disk.close())
}

/// The disk shrinks and grows again.
pub(super) const RESIZE: Scenario = Scenario {
    name: "bitmap of a disk that is resized",
    setup: with_bitmap,
    body: |w| {
        let disk = w.open("top.lvd")?;
        let image = disk.image(0)?.clone();
        w.write("top", &disk, 3 * REGION..3 * REGION + 512)?;
        clear(w, &disk, "daily")?;
        w.resize("top", 2 * REGION + 700, || image.resize(2 * REGION + 700))?;
        w.write("top", &disk, 2 * REGION..2 * REGION + 512)?;
        w.resize("top", SIZE, || image.resize(SIZE))?;
        super::files::note_payload(&w.disk, &disk);
        w.write("top", &disk, 4 * REGION..4 * REGION + 512)?;
        w.flush("top", &disk)?;
        clear(w, &disk, "daily")?;
        w.write("top", &disk, 4 * REGION..4 * REGION + 512)?;
        w.durable("top", || disk.close())
    },
    recover: |w| {
        let disk = w.open("top.lvd")?;
        let image = disk.image(0)?.clone();
        if disk.size() < SIZE {
            w.resize("top", SIZE, || image.resize(SIZE))?;
            super::files::note_payload(&w.disk, &disk);
        }
        w.durable("top", || disk.close())?;
        drop((disk, image));
        carry_on(w, "top.lvd")
    },
};

/// A raw volume whose bitmaps lie in a sidecar.
pub(super) const VOLUME: Scenario = Scenario {
    name: "bitmap beside a volume",
    setup: |w| {
        w.disk.create("tracked.raw")?.set_size(SIZE)?;
        w.disk.set_payload("tracked.raw", 0..u64::MAX);
        let (file, volume) = (w.disk.create("tracked.raw.lvb")?, w.disk.open("tracked.raw", true)?);
        Image::create_beside(&*file, &*volume, &*w.host)?;
        w.view("top", tracked, model(), true);
        let disk = chain(&w.disk, w.host.clone(), "tracked.raw.lvb", true, None)?;
        add(w, &disk, "daily", 12)?;
        w.write("top", &disk, 0..BLOCK)?;
        w.durable("top", || disk.close())
    },
    body: |w| {
        let disk = w.open("tracked.raw.lvb")?;
        w.write("top", &disk, 0..512)?;
        w.write("top", &disk, REGION + 512..REGION + 1024)?;
        w.flush("top", &disk)?;
        w.host.sleep(LONG);
        w.write("top", &disk, 2 * REGION..2 * REGION + 512)?;
        w.flush("top", &disk)?;
        clear(w, &disk, "daily")?;
        w.write("top", &disk, 3 * REGION..3 * REGION + 512)?;
        w.durable("top", || disk.close())
    },
    recover: |w| carry_on(w, "tracked.raw.lvb"),
};

/// An image whose bitmaps lie in a sidecar.
pub(super) const SIDECAR: Scenario = Scenario {
    name: "bitmap beside an image",
    setup: |w| {
        w.create("top.lvd", SIZE)?;
        w.view("top", beside, model(), true);
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, 0..BLOCK)?;
        w.durable("top", || disk.close())?;
        Image::create_beside_image(&*w.disk.create("bits.lvb")?, disk.image(0)?)?;
        drop(disk);
        let disk = open_beside(&w.disk, w.host.clone(), true)?;
        add(w, &disk, "daily", 12)?;
        w.durable("top", || disk.close())
    },
    body: |w| {
        let disk = open_beside(&w.disk, w.host.clone(), true)?;
        w.write("top", &disk, 0..512)?;
        w.write("top", &disk, REGION + 512..REGION + 1024)?;
        w.flush("top", &disk)?;
        let old = copy_of(&w.disk)?;
        w.host.sleep(LONG);
        w.write("top", &disk, 2 * REGION..2 * REGION + 512)?;
        w.flush("top", &disk)?;
        clear(w, &disk, "daily")?;
        roll_back(w, &old)?;
        w.write("top", &disk, 3 * REGION..3 * REGION + 512)?;
        w.durable("top", || disk.close())?;
        roll_back(w, &old)
    },
    recover: |w| {
        let disk = open_beside(&w.disk, w.host.clone(), true)?;
        w.read("top", &disk);
        w.write("top", &disk, REGION + BLOCK..REGION + BLOCK + 512)?;
        w.flush("top", &disk)?;
        clear(w, &disk, "daily")?;
        w.write("top", &disk, 3 * REGION..3 * REGION + 512)?;
        w.durable("top", || disk.close())?;
        drop(disk);
        let disk = open_beside(&w.disk, w.host.clone(), true)?;
        w.write("top", &disk, 0..512)?;
        w.durable("top", || disk.close())
    },
};

/// The same, and the image, written past the sidecar, is rolled back to what a stale bitmap names. A verb that is refused has
/// made the sidecar speak of that.
pub(super) const ROLLED_BACK: Scenario = Scenario {
    name: "bitmap beside an image that is rolled back",
    setup: SIDECAR.setup,
    body: |w| {
        let (old, before) = (w.disk.cached("top.lvd").expect("a file"), w.model("top").expect("a view"));
        w.forget_bitmap("top", "daily");
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, REGION..REGION + 512)?;
        w.durable("top", || disk.close())?;
        drop(disk);
        let disk = open_beside(&w.disk, w.host.clone(), true)?;
        w.write("top", &disk, 2 * REGION..2 * REGION + 512)?;
        w.durable("top", || disk.close())?;
        drop(disk);
        w.disk.note("the image is rolled back", 0..0);
        w.disk.put("top.lvd", &old);
        w.rolled_back("top", before);
        let disk = open_beside(&w.disk, w.host.clone(), true)?;
        w.disk.note("a bitmap that is not there is cleared", 0..0);
        drop(disk.image(0)?.clear_bitmap("hourly", None));
        w.write("top", &disk, 3 * REGION..3 * REGION + 512)?;
        w.durable("top", || disk.close())
    },
    recover: SIDECAR.recover,
};

fn beside(disk: &SimDisk) -> Result<Opened> {
    let chain = open_beside(disk, Arc::new(SimHost::new(0)), false)?;
    let image = chain.image(0)?.clone();
    Ok(Opened { header: Some(image.header()), device: Arc::new(chain), image: Some(image) })
}

fn open_beside(disk: &SimDisk, host: Arc<SimHost>, write: bool) -> Result<Chain> {
    let opened = chain(disk, host.clone(), "top.lvd", write, None)?;
    let options = OpenOptions { write, ..OpenOptions::default() };
    let sidecar = Image::open_beside(disk.open("bits.lvb", write)?, opened.image(0)?, host, &options)?;
    opened.image(0)?.attach(Arc::new(sidecar))?;
    Ok(opened)
}

fn copy_of(disk: &SimDisk) -> Result<Vec<u8>> {
    let file = disk.open("top.lvd", false)?;
    let mut bytes = vec![0; file.size()? as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Elsewhere, the image is an older copy of itself again: the bitmap has forgotten what it knew of that, and must be
/// stale.
fn roll_back(w: &mut World, old: &[u8]) -> Result<()> {
    let elsewhere = w.disk.fork();
    elsewhere.kill();
    elsewhere.open("top.lvd", true)?.write_at(old, 0)?;
    let opened = beside(&elsewhere)?;
    let trust = opened.image.as_ref().map(|image| image.bitmap("daily").map(|info| info.trust)).transpose()?;
    if trust != Some(Trust::Stale) {
        w.report(Err(Breach::new('S', "the sidecar of an image that was rolled back is not stale")));
    }
    Ok(())
}
