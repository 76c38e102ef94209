//! The scenarios that are explored, each a short story of a disk.
//!
//! Disks have a few blocks and an odd end. Parents are not zeros, parent links are long enough for a header to span two
//! sectors (so that it can tear), and new space of block devices is poison.

mod backup;
mod bitmaps;
pub(super) mod files;
mod guest;
mod jobs;
pub(super) mod live;
mod lives;
mod making;
mod merging;
mod moving;
mod resizing;
mod sequences;

use super::crash::Scenario;
use super::world::World;
use crate::chain::Chain;
use crate::error::Result;

pub use lives::{Shape, begin};
pub use sequences::{sequences, shorter};

/// All of them.
pub const ALL: &[&Scenario] = &[
    &making::CREATE,
    &making::CREATE_OVERLAY,
    &making::CREATE_ON_DEVICE,
    &making::CREATE_AGAIN,
    &making::SNAPSHOT,
    &guest::COMPLETE,
    &guest::REOPEN,
    &guest::OVERLAY,
    &guest::ZEROES,
    &guest::BESIDE,
    &guest::TWO_SEALS,
    &guest::CHANGED_PARENT,
    &guest::SIDECAR,
    &bitmaps::TRACK,
    &bitmaps::VERBS,
    &bitmaps::FREEZE,
    &bitmaps::BEGUN,
    &bitmaps::OVERLAY,
    &bitmaps::RESIZE,
    &bitmaps::VOLUME,
    &bitmaps::SIDECAR,
    &bitmaps::ROLLED_BACK,
    &resizing::COMPLETE,
    &resizing::OVERLAY,
    &resizing::GROW_OVER_SECTION,
    &jobs::STREAM,
    &jobs::STREAM_TO_BASE,
    &jobs::STREAM_SIDECAR,
    &jobs::REBASE,
    &jobs::REBASE_TORN,
    &jobs::MIRROR,
    &jobs::MIRROR_TOP,
    &jobs::MIRROR_RAW,
    &jobs::MIRROR_RESUMED,
    &jobs::MIRROR_RAW_RESUMED,
    &merging::MERGE,
    &merging::MERGE_PAST_SHORT,
    &merging::MERGE_INTO_RAW,
    &merging::MERGE_AND_EMPTY,
    &live::SNAPSHOT,
    &live::SNAPSHOT_WITH_BITMAP,
    &live::STREAM,
    &live::MERGE_BELOW,
    &live::MIRROR_ABANDON,
    &moving::GROUP_PIVOT,
    &sequences::TORN_TWICE,
];

/// More, in which so much happens that [`Limits::USUAL`](super::crash::Limits::USUAL) take minutes.
pub const LONG: &[&Scenario] =
    &[&live::MIRROR_PIVOT, &live::MIRROR_SPLIT, &live::MIRROR_RESUMED, &live::MERGE_ACTIVE, &backup::INCREMENTAL];

/// The beginning of a disk that a fuzzer leads on: `top.lvd`, an overlay on `base.lvd`, with the bitmap `daily`.
pub const LIFE: Scenario = Scenario { name: "a life", setup: bitmaps::overlay, body: |_| Ok(()), recover: |_| Ok(()) };

/// Opens the disk of [`LIFE`] for writing, or that of another [`Shape`].
pub fn open_top(world: &World) -> Result<Chain> {
    world.open(if world.disk.exists("top.lvd") { "top.lvd" } else { "volume.raw.lvb" })
}

/// Tells the simulator where the data of a disk lies whose size has changed.
pub fn resized(world: &World, disk: &Chain) {
    files::note_payload(&world.disk, disk);
}
