//! Which files commands may name.

use crate::chain::{Chain, Layer};
use crate::error::Result;
use crate::nbd::client::NbdBitmap;
use crate::storage::Storage;
use crate::sync::Arc;
use serde::Deserialize;

/// What a disk is copied into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetFormat {
    /// An LVD image, which says on disk that it is not a copy until it is one.
    Lvd,
    /// A raw file, volume or export, which cannot say so.
    Raw,
}

/// What may be in the place of a target already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetMode {
    /// It is made; what is there counts for nothing.
    New,
    /// It is there, and its content counts for nothing.
    Existing,
    /// It is there, and is kept as it is.
    Kept,
    /// It is what a mirror before has left, and kept as it is; if there is none it is made, an empty file if it is to be raw.
    Resumed,
}

/// Opens the files that commands name, or does not: a client of the control socket reaches what this lets it reach.
///
/// What was made for a command that then fails is for the implementation to take away again.
pub trait Files: Send + Sync {
    /// Makes the new and empty file `name` for an overlay of `below`, and gives it to `then` with the hint by which it
    /// finds `below`.
    ///
    /// # Errors
    /// The policy's, the host's, and those of `then`.
    fn overlay(
        &self,
        name: &str,
        below: &Layer,
        then: &mut dyn FnMut(Arc<dyn Storage>, String) -> Result<()>,
    ) -> Result<()>;

    /// Makes or opens what a disk of `size` bytes is copied into, and gives it to `then`.
    ///
    /// # Errors
    /// The policy's, the host's, and those of `then`.
    fn target(
        &self,
        name: &str,
        format: TargetFormat,
        size: u64,
        mode: TargetMode,
        then: &mut dyn FnMut(Chain) -> Result<()>,
    ) -> Result<()>;

    /// Makes the new overlay `name`, with a copy mark, of what the top of `disk` lies on, and gives it to `then`.
    ///
    /// # Errors
    /// The policy's, the host's, and those of `then`; `Invalid` if it lies on nothing.
    fn beside(&self, name: &str, disk: &Chain, then: &mut dyn FnMut(Chain) -> Result<()>) -> Result<()>;

    /// Makes the new overlay `name`, of `size` bytes and with a copy mark, of the backup `previous`, and gives it to `then`.
    ///
    /// # Errors
    /// The policy's, the host's, and those of `then`.
    fn increment(&self, name: &str, previous: &str, size: u64, then: &mut dyn FnMut(Chain) -> Result<()>)
    -> Result<()>;

    /// Makes the new and empty file `name` for the decision of a group of disks.
    ///
    /// # Errors
    /// The policy's; the host's.
    fn group(&self, name: &str) -> Result<Arc<dyn Storage>>;

    /// The dirty bitmap `name` of an export of another server.
    ///
    /// # Errors
    /// `Invalid` if `export` is not the URI of one; the policy's, and what reaching the server meets.
    fn bitmap(&self, export: &str, name: &str) -> Result<NbdBitmap>;

    /// The number of the layer of `chain` that is in the file `name`.
    ///
    /// # Errors
    /// `Invalid` if there is none.
    fn layer(&self, chain: &Chain, name: &str) -> Result<usize>;
}
