//! Jobs under a guest that goes on writing.
//!
//! | file | what |
//! |---|---|
//! | `disk` | what the guest holds on to while layers come and go beneath it; stream, merge, copy-on-read |
//! | `still` | what is done to it at one instant: snapshots, backups begun |
//! | `point` | a disk as it was at one instant: backup and pull while the guest goes on |
//! | `mirror` | a second disk that becomes, and stays, what the guest's disk is; pivot and cancel |
//! | `group` | pivots of several disks as one decision |
//! | `comparison` | what of the second disk is still to be held against the first |
//! | `lag` | which granules of the second disk are behind, and when a write must not add to them |

mod comparison;
mod disk;
mod group;
mod lag;
mod mirror;
mod point;
mod still;
#[cfg(test)]
mod tests;

pub use disk::Disk;
pub use group::{Move, Moved, pivot_together};
pub use mirror::{LiveMirror, MirrorOptions, MirrorProgress, Pace};
pub use point::{PointInTime, Pull};
pub use still::{BackupOptions, BackupPlan, Still};
