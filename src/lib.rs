//! LVD, "Live Virtual Disk": a virtual disk format whose only metadata is bitmaps, and its engine.
//!
//! The layers, each using only those above it:
//!
//! | module | what it is |
//! |---|---|
//! | [`error`], [`units`], [`limits`], [`sync`] | words that all share |
//! | [`storage`] | the only door to the outside: files, locks, memory, time, random bytes |
//! | [`mod@format`] | bytes ↔ types: header, records, sealed sectors (`spec/format.md`) |
//! | [`bitmap`] | the bits of a section in memory |
//! | [`foreign`] | disks in formats of others, which are only read (`spec/foreign.md`) |
//! | [`image`] | one LVD image: a guest's disk, complete or overlay (`spec/ordering.md`) |
//! | [`chain`] | an image and the layers below it, opened by the caller's policy (`spec/chain.md`) |
//! | [`jobs`] | stream, merge, mirror, convert, compare |
//! | [`live`] | a disk under a writing guest: the same jobs, snapshot, pivot |
//! | `nbd` | disks as Network Block Devices: the protocol, and a server (feature `nbd`) |
//! | `control` | commands for jobs, snapshots and bitmaps of disks that are served, as in QEMU (feature `control`) |
//!
//! With the features `cli` and `testing` there is also `conformance`: the library as conformance runners see it.
//!
//! What a guest sees is a [`BlockDevice`].

pub mod bitmap;
pub mod chain;
#[cfg(any(feature = "cli", feature = "testing"))]
pub mod conformance;
#[cfg(feature = "control")]
pub mod control;
pub mod device;
pub mod error;
pub mod foreign;
pub mod format;
pub mod image;
pub mod jobs;
pub mod limits;
pub mod live;
#[cfg(feature = "nbd")]
pub mod nbd;
mod range_lock;
pub mod storage;
pub mod switch;
pub mod sync;
#[cfg(feature = "testing")]
pub mod testing;
pub mod units;
pub mod violation;
pub mod zeros;

pub use device::{BlockDevice, Extent, ExtentKind, Place, Request};
pub use error::{Error, Result};
pub use image::{CreateOptions, Image, OpenOptions};
pub use violation::Violation;
