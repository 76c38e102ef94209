//! Disks in formats of others: read as parents and as sources of copies, never written (`spec/foreign.md`).
//!
//! | file | what |
//! |---|---|
//! | `qed` | QED, QEMU's former format |
//! | `pages` | the pages of a file's tables in memory, bounded in number |

mod pages;
mod qed;
#[cfg(test)]
mod tests;

pub use qed::{Qed, QedFacts};

use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::{Parent, ParentFormat};
use crate::storage::Storage;
use crate::sync::Arc;

/// A disk in a format of others. As a [`BlockDevice`] it refuses every change.
///
/// What is below it is not its business: a chain opens that, by the caller's policy, and tells it.
pub trait Foreign: BlockDevice {
    /// The number of its format in a link.
    fn format(&self) -> ParentFormat;

    /// The file.
    fn storage(&self) -> &Arc<dyn Storage>;

    /// The link to what it lies on, if it names anything.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) if the file does not say in which format that is: nothing is guessed.
    fn link(&self) -> Result<Option<Parent>>;

    /// Sets the device that what it does not hold is read from. Once: the first one stays.
    fn set_below(&self, below: Arc<dyn BlockDevice>);
}
