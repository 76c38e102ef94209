//! New images, and snapshots.

use super::files::{BLOCK, SIZE, top};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::image::{CreateOptions, Image};
use crate::testing::crash::Scenario;
use crate::testing::model::Model;
use crate::testing::world::World;

/// A new complete image, and its first flush.
pub(super) const CREATE: Scenario = Scenario {
    name: "create",
    setup: |w| {
        w.view("top", top, Model::zeros(SIZE), false);
        Ok(())
    },
    body: |w| {
        w.create("top.lvd", SIZE)?;
        first_use(w)
    },
    recover: |w| {
        make_sure(w, |w| w.create("top.lvd", SIZE))?;
        w.carry_on("top", "top.lvd")
    },
};

/// A new overlay, and its first flush.
pub(super) const CREATE_OVERLAY: Scenario = Scenario {
    name: "create an overlay",
    setup: |w| {
        w.with_base(SIZE)?;
        let model = w.model("base").unwrap_or_else(|| Model::zeros(SIZE));
        w.view("top", top, model, false);
        Ok(())
    },
    body: |w| {
        w.create_overlay("top.lvd", "base.lvd", SIZE)?;
        first_use(w)
    },
    recover: |w| {
        make_sure(w, |w| w.create_overlay("top.lvd", "base.lvd", SIZE))?;
        w.carry_on("top", "top.lvd")
    },
};

/// A new image where space is not zeros.
pub(super) const CREATE_ON_DEVICE: Scenario = Scenario {
    name: "create on a device",
    setup: |w| {
        w.disk.add_device("top.lvd", (192 << 10) + SIZE);
        w.view("top", top, Model::zeros(SIZE), false);
        Ok(())
    },
    body: |w| {
        w.create("top.lvd", SIZE)?;
        first_use(w)
    },
    recover: |w| {
        make_sure(w, |w| w.create("top.lvd", SIZE))?;
        w.carry_on("top", "top.lvd")
    },
};

/// A new image in the place of an old one that has seen more headers.
pub(super) const CREATE_AGAIN: Scenario = Scenario {
    name: "create over an older image",
    setup: |w| {
        w.create("top.lvd", SIZE)?;
        w.view("top", top, Model::zeros(SIZE), true);
        w.fill("top", "top.lvd")?;
        w.forget("top");
        Ok(())
    },
    body: |w| {
        create_again(w)?;
        first_use(w)
    },
    recover: |w| {
        if w.model("top").is_none() {
            create_again(w)?;
        }
        w.carry_on("top", "top.lvd")
    },
};

fn create_again(w: &mut World) -> Result<()> {
    let options = CreateOptions { virtual_size: SIZE, allocation: true, ..CreateOptions::default() };
    Image::create(&*w.file("top.lvd")?, &*w.host, &options)?;
    w.view("top", top, Model::zeros(SIZE), true);
    Ok(())
}

/// Creates the image unless the one that is there opens.
fn make_sure(w: &mut World, create: fn(&mut World) -> Result<()>) -> Result<()> {
    // What a killed process left may be in the page cache alone, its name too: only a finished create counts.
    if top(&w.disk).is_err() || !w.promised("top") {
        create(w)?;
        let size = SIZE;
        let model = w.model("base").unwrap_or_else(|| Model::zeros(size));
        w.view("top", top, model, true);
    }
    Ok(())
}

fn first_use(w: &mut World) -> Result<()> {
    w.promise("top");
    let chain = w.open("top.lvd")?;
    w.write("top", &chain, 512..BLOCK)?;
    w.flush("top", &chain)?;
    w.write("top", &chain, 3 * BLOCK..4 * BLOCK)?;
    w.durable("top", || chain.close())
}

/// A disk gets a new overlay: what was written before is in its parent, what is written from then on is in it.
pub(super) const SNAPSHOT: Scenario = Scenario {
    name: "snapshot",
    setup: |w| w.with_base(SIZE),
    body: |w| {
        let parent = w.open("base.lvd")?;
        w.write("base", &parent, BLOCK..2 * BLOCK)?;
        w.flush("base", &parent)?;
        w.write("base", &parent, 2 * BLOCK..3 * BLOCK)?;
        let image = parent.image(0)?.clone();
        w.durable("base", || image.seal())?;
        drop((image, parent));
        overlay_on_base(w)?;
        first_use(w)
    },
    recover: |w| {
        if !w.promised("top") && (w.barrier_failed() || w.link("base.lvd", SIZE).is_err()) {
            // The parent's session did not end, or its close failed: it is sealed before a link names it. Only a writer
            // can bring back what a failed barrier has left in the page cache alone.
            let parent = w.open("base.lvd")?;
            w.write("base", &parent, 0..512)?;
            w.durable("base", || parent.close())?;
        }
        if !w.promised("top") {
            overlay_on_base(w)?;
        }
        w.carry_on("top", "top.lvd")
    },
};

fn overlay_on_base(w: &mut World) -> Result<()> {
    let model = w.model("base").map(|model| model.resized(SIZE)).unwrap_or_else(|| Model::zeros(SIZE));
    w.view("top", top, model, false);
    w.create_overlay("top.lvd", "base.lvd", SIZE)?;
    w.promise("top");
    let opened = w.open("top.lvd")?;
    assert_eq!(opened.size(), SIZE);
    Ok(())
}
