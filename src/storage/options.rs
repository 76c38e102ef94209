//! How to open a file, whatever the host.

use super::LockMode;

/// Whether opening may make a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Create {
    /// The file is there.
    #[default]
    No,
    /// The file is not there yet; an error if it is.
    New,
    /// It is made if it is not there.
    IfMissing,
}

/// How to open a file.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// For writing too.
    pub write: bool,
    /// Whether to make it.
    pub create: Create,
    /// Past the host's page cache (cache mode `none`).
    pub direct: bool,
    /// The lock to take before anything is read.
    pub lock: Option<LockMode>,
}
