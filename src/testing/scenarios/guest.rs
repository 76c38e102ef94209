//! A guest at work.

use super::files::{BLOCK, SIZE, chain, sidecar, top};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::image::{CreateOptions, Image};
use crate::storage::Storage;
use crate::testing::crash::Scenario;
use crate::testing::model::Model;
use crate::testing::world::World;
use std::sync::Arc;

/// Writes, zeroes and discards in a complete image.
pub(super) const COMPLETE: Scenario = Scenario {
    name: "complete image",
    setup: |w| {
        w.create("top.lvd", SIZE)?;
        w.view("top", top, Model::zeros(SIZE), true);
        w.fill("top", "top.lvd")
    },
    body: |w| {
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, 300..BLOCK + 300)?;
        w.zero("top", &disk, 2 * BLOCK + 512..3 * BLOCK, false)?;
        w.flush("top", &disk)?;
        w.discard("top", &disk, 3 * BLOCK..SIZE)?;
        w.write("top", &disk, 4 * BLOCK..4 * BLOCK + 512)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, 4 * BLOCK..5 * BLOCK)?;
        w.read("top", &disk);
        w.durable("top", || disk.close())
    },
    recover: |w| w.carry_on("top", "top.lvd"),
};

/// Session after session.
pub(super) const REOPEN: Scenario = Scenario {
    name: "sessions",
    setup: overlay,
    body: |w| {
        for block in [0, 1, 3] {
            let disk = w.open("top.lvd")?;
            w.write("top", &disk, block * BLOCK..block * BLOCK + 1024)?;
            if block == 1 {
                w.flush("top", &disk)?;
            }
            w.durable("top", || disk.close())?;
        }
        // And one that is not closed.
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, 4 * BLOCK..5 * BLOCK)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, 0..512)
    },
    recover: |w| w.carry_on("top", "top.lvd"),
};

/// Whole blocks and parts of blocks of an overlay.
pub(super) const OVERLAY: Scenario = Scenario {
    name: "overlay",
    setup: overlay,
    body: |w| {
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, 0..BLOCK)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, 512..1024)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, BLOCK + 1000..3 * BLOCK + 24)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, SIZE - 300..SIZE)?;
        w.discard("top", &disk, 0..3 * BLOCK)?;
        w.flush("top", &disk)?;
        w.read("top", &disk);
        w.durable("top", || disk.close())
    },
    recover: |w| w.carry_on("top", "top.lvd"),
};

/// Zeroes over what the parent shows, and where an uncommitted write has been.
pub(super) const ZEROES: Scenario = Scenario {
    name: "zeroes in an overlay",
    setup: |w| {
        overlay(w)?;
        // Under clear bits lies what a write left that was never committed.
        let disk = w.open("top.lvd")?;
        let (file, offset) = disk.image(0)?.data_location();
        file.write_at(&[0x99; SIZE as usize], offset)
    },
    body: |w| {
        let disk = w.open("top.lvd")?;
        w.zero("top", &disk, 2 * BLOCK..3 * BLOCK, true)?;
        w.flush("top", &disk)?;
        w.zero("top", &disk, 3 * BLOCK + 512..5 * BLOCK + 100, false)?;
        w.flush("top", &disk)?;
        w.discard("top", &disk, 0..SIZE)?;
        w.read("top", &disk);
        w.durable("top", || disk.close())
    },
    recover: |w| w.carry_on("top", "top.lvd"),
};

/// Writes that come while a flush waits for its barriers.
pub(super) const BESIDE: Scenario = Scenario {
    name: "flush beside a write",
    setup: overlay,
    body: |w| {
        let disk = w.open("top.lvd")?;
        let device = disk.top();
        w.write("top", &disk, 0..BLOCK)?;
        w.write_inside(1, &["top"], &device, 2 * BLOCK..3 * BLOCK);
        w.flush("top", &disk)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, 4 * BLOCK..5 * BLOCK)?;
        w.write_inside(2, &["top"], &device, BLOCK + 512..BLOCK + 1024);
        w.flush("top", &disk)?;
        w.write("top", &disk, 0..512)?;
        w.flush("top", &disk)
    },
    recover: |w| w.carry_on("top", "top.lvd"),
};

/// Blocks whose bits lie in two sealed sectors of one page.
pub(super) const TWO_SEALS: Scenario = Scenario {
    name: "two sealed sectors",
    setup: |w| {
        let size = 3970 * BLOCK;
        w.disk.create("base.raw")?.set_size(size)?;
        w.disk.set_payload("base.raw", 0..u64::MAX);
        let model = Model::watching(size, vec![0..16, 3967 * 8..3970 * 8]);
        w.view("base", super::files::base_raw, model.clone(), true);
        let raw = w.open("base.raw")?;
        for range in [0..2 * BLOCK, 3967 * BLOCK..3970 * BLOCK] {
            w.write("base", &raw, range)?;
        }
        w.durable("base", || raw.close())?;
        drop(raw);
        w.with_overlay("top", top, ("base.raw", "base"), size)
    },
    body: |w| {
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, 0..512)?;
        w.write("top", &disk, 3967 * BLOCK..3969 * BLOCK)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, BLOCK..2 * BLOCK)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, 3969 * BLOCK..3969 * BLOCK + 512)?;
        w.durable("top", || disk.close())
    },
    recover: |w| {
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, BLOCK..BLOCK + 512)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, 3967 * BLOCK..3969 * BLOCK)?;
        w.flush("top", &disk)?;
        w.read("top", &disk);
        w.sound(&disk)
    },
};

/// Somebody writes to a parent. Its children are refused from then on, or see it as it was.
pub(super) const CHANGED_PARENT: Scenario = Scenario {
    name: "changed parent",
    setup: |w| {
        w.with_base(SIZE)?;
        w.with_overlay("top", top, ("base.lvd", "base"), SIZE)?;
        w.refusable("top");
        Ok(())
    },
    body: change_base,
    recover: change_base,
};

fn change_base(w: &mut World) -> Result<()> {
    for block in [0, 3] {
        let disk = w.open("base.lvd")?;
        w.write("base", &disk, block * BLOCK..block * BLOCK + 512)?;
        w.flush("base", &disk)?;
        w.write("base", &disk, block * BLOCK + 512..block * BLOCK + 1024)?;
        w.durable("base", || disk.close())?;
    }
    Ok(())
}

/// A raw volume, fresh and not zeros, that is filled from below as it is used.
pub(super) const SIDECAR: Scenario = Scenario {
    name: "sidecar",
    setup: with_sidecar,
    body: |w| {
        let disk = w.open("volume.raw.lvb")?;
        let image = disk.image(0)?.clone();
        w.write("top", &disk, 0..512)?;
        image.fill(2 * BLOCK..4 * BLOCK)?;
        w.flush("top", &disk)?;
        w.write("top", &disk, 3 * BLOCK..3 * BLOCK + 512)?;
        w.zero("top", &disk, 4 * BLOCK..SIZE, true)?;
        w.flush("top", &disk)?;
        w.read("top", &disk);
        w.durable("top", || disk.close())
    },
    recover: |w| w.carry_on("top", "volume.raw.lvb"),
};

/// Setup: a volume with a sidecar, on `base.lvd`.
pub(super) fn with_sidecar(w: &mut World) -> Result<()> {
    w.with_base(SIZE)?;
    w.disk.add_device("volume.raw", SIZE.next_multiple_of(512));
    w.disk.set_payload("volume.raw", 0..u64::MAX);
    let options = CreateOptions { virtual_size: SIZE, parent: Some(w.link("base.lvd", SIZE)?), ..Default::default() };
    let (file, volume) = (w.disk.create("volume.raw.lvb")?, w.disk.open("volume.raw", true)?);
    Image::create_sidecar(&*file, &*volume, &*w.host, &options)?;
    let model = w.model("base").unwrap_or_else(|| Model::zeros(SIZE));
    w.view("top", sidecar, model, true);
    Ok(())
}

/// Setup: `top.lvd` on `base.lvd`.
pub(super) fn overlay(w: &mut World) -> Result<()> {
    w.with_base(SIZE)?;
    w.with_overlay("top", top, ("base.lvd", "base"), SIZE)?;
    let opened = chain(&w.disk, w.host.clone(), "top.lvd", false, None)?;
    w.read("top", &opened);
    let _: Arc<dyn BlockDevice> = opened.top();
    Ok(())
}
