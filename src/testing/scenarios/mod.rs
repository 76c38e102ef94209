//! The scenarios that are explored, each a short story of a disk.
//!
//! Disks have a few blocks and an odd end. Parents are not zeros, parent links are long enough for a header to span two
//! sectors (so that it can tear), and new space of block devices is poison.

mod files;
mod guest;
mod jobs;
mod making;
mod merging;
mod resizing;

use super::crash::Scenario;

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
    &merging::MERGE,
    &merging::MERGE_PAST_SHORT,
    &merging::MERGE_INTO_RAW,
    &merging::MERGE_AND_EMPTY,
];
