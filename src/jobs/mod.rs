//! Stream, merge, mirror, convert, rebase and compare, on disks at rest (`spec/ordering.md`).
//!
//! All are one mechanism: go through the disk, copy the blocks that a bitmap calls for, make them durable, and only
//! then change what points to them. A job holds no state of its own on disk beyond what the files say anyway: killed
//! at any moment it leaves a right disk, and the same job begun again finds what is done.
//!
//! | file | what |
//! |---|---|
//! | `control` | [`Job`]: steps, progress, pause, resume, cancel |
//! | `throttle` | speed, and yielding to a guest |
//! | `copy` | copying a range, zeros as zeros |
//! | `stream` | [`Stream`]: what layers below hold, into the top |
//! | `merge` | [`Merge`] (commit): what upper layers hold, into one below |
//! | `mirror` | [`Mirror`] (and convert): a disk, or its top layer, into another file |
//! | `resumable` | [`ResumableMirror`]: a mirror that goes on after a restart |
//! | `backup` | [`Backup`]: a disk, or what a dirty bitmap calls for, and a new count of the bitmap |
//! | `rebase` | [`Rebase`], [`rebase_unsafe`]: the same disk on another parent |
//! | `differences` | [`differences()`]: all stretches in which two disks differ |
//! | `compare` | [`Compare`], [`compare()`]: the first byte in which two disks differ |

mod backup;
mod compare;
mod control;
mod copy;
mod differences;
mod merge;
mod mirror;
mod rebase;
mod resumable;
mod stream;
#[cfg(test)]
mod tests;
mod throttle;

pub use backup::{Backup, Count};
pub(crate) use compare::first_difference;
pub use compare::{Compare, compare};
pub use control::{Job, Progress, Work, drive};
pub use differences::differences;
pub use merge::Merge;
pub use mirror::Mirror;
pub use rebase::{Rebase, rebase_unsafe};
pub(crate) use resumable::Lacking;
pub use resumable::ResumableMirror;
pub use stream::Stream;
pub(crate) use throttle::Throttle;
