//! Merges that are stopped anywhere and begun again.

use super::files::{BLOCK, SIZE, base, base_raw, mid, sibling, top};
use super::guest::overlay;
use super::jobs::{run, write_closed};
use crate::error::Result;
use crate::jobs::Merge;
use crate::testing::crash::Scenario;
use crate::testing::laws::Open;
use crate::testing::world::World;

/// An overlay into its parent, of which there is another overlay.
pub(super) const MERGE: Scenario = Scenario {
    name: "merge",
    setup: |w| {
        overlay(w)?;
        write_closed(w, "top", "top.lvd", &[BLOCK..BLOCK + 512, 3 * BLOCK..4 * BLOCK])?;
        w.with_overlay("sibling", sibling, ("base.lvd", "base"), SIZE)
    },
    body: |w| merge(w, 1, base, false),
    recover: |w| {
        merge(w, 1, base, false)?;
        w.carry_on("top", "top.lvd")
    },
};

/// As before, and the overlay holds nothing afterwards.
pub(super) const MERGE_AND_EMPTY: Scenario = Scenario {
    name: "merge and empty",
    setup: |w| {
        overlay(w)?;
        write_closed(w, "top", "top.lvd", &[0..BLOCK, 5 * BLOCK..SIZE])
    },
    body: |w| merge(w, 1, base, true),
    recover: |w| {
        merge(w, 1, base, true)?;
        w.carry_on("top", "top.lvd")
    },
};

/// Two overlays, the lower one short: what it hides of the base stays hidden. The base grows.
pub(super) const MERGE_PAST_SHORT: Scenario = Scenario {
    name: "merge past a short layer",
    setup: |w| {
        w.with_base(SIZE)?;
        w.with_overlay("mid", mid, ("base.lvd", "base"), 2 * BLOCK + 512)?;
        write_closed(w, "mid", "mid.lvd", &[BLOCK..BLOCK + 512])?;
        w.with_overlay("top", top, ("mid.lvd", "mid"), SIZE + BLOCK)?;
        write_closed(w, "top", "top.lvd", &[4 * BLOCK..4 * BLOCK + 512])
    },
    body: |w| merge(w, 2, base, false),
    recover: |w| {
        merge(w, 2, base, false)?;
        w.carry_on("top", "top.lvd")
    },
};

/// Two overlays into a raw file, which cannot say what happens to it: the layer between does.
pub(super) const MERGE_INTO_RAW: Scenario = Scenario {
    name: "merge into a raw file",
    setup: |w| {
        w.with_raw_base(SIZE)?;
        w.with_overlay("mid", mid, ("base.raw", "base"), SIZE)?;
        write_closed(w, "mid", "mid.lvd", &[BLOCK..BLOCK + 512])?;
        w.with_overlay("top", top, ("mid.lvd", "mid"), SIZE)?;
        write_closed(w, "top", "top.lvd", &[0..BLOCK, 4 * BLOCK..4 * BLOCK + 512])?;
        w.with_overlay("sibling", sibling, ("mid.lvd", "mid"), SIZE)
    },
    body: |w| merge(w, 2, base_raw, false),
    recover: |w| {
        merge(w, 2, base_raw, false)?;
        w.carry_on("top", "top.lvd")
    },
};

/// Merges the top of the chain into layer `into`, unless that was done.
fn merge(w: &mut World, into: usize, open: Open, empty: bool) -> Result<()> {
    if w.promised("merged") {
        return Ok(());
    }
    // From here on the base is refused, or is as it was, or is as the top; and so it is with the layers between.
    for view in ["base", "mid", "sibling"] {
        w.refusable(view);
    }
    w.forget("merged");
    let disk = w.open_also("top.lvd", Some(into))?;
    w.becoming("base", "top");
    // The same command again, also after the layers between have gone from the chain.
    run(w, Merge::new(&disk, 0, disk.layers.len() - 1, empty)?)?;
    w.became("base");
    if let Some(model) = w.model("base") {
        w.view("merged", open, model, true);
    }
    w.forget("base");
    w.point();
    w.durable("top", || disk.close())
}
