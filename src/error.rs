//! Errors say who is to blame: the file, its age, the caller, the host, the policy or another process.

use crate::violation::Violation;
use std::io;

/// What every fallible call of the library returns.
pub type Result<T> = std::result::Result<T, Error>;

/// One clear line each: the culprit, the place and the broken rule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file breaks a rule of the specification.
    #[error("{file}: damaged{} ({violation})", at.map(|at| format!(" at offset {at}")).unwrap_or_default())]
    Corrupt {
        /// The file, as its storage names it.
        file: String,
        /// The file offset of the broken structure, where there is one.
        at: Option<u64>,
        /// The rule it breaks.
        violation: Violation,
    },
    /// The file is newer than this library, or uses a feature it does not have.
    #[error("{file}: not supported: {what} ({violation})")]
    Unsupported {
        /// The file, as its storage names it.
        file: String,
        /// What is not known.
        what: String,
        /// The rule that asks to refuse it.
        violation: Violation,
    },
    /// The file is sound, but a rule forbids to open or to use it as it stands: another parent, a mark.
    #[error("{file}: refused: {why} ({violation})")]
    Refused {
        /// The file, as its storage names it.
        file: String,
        /// What is in the way, and what can be done about it.
        why: String,
        /// The rule that asks to refuse it.
        violation: Violation,
    },
    /// The caller asks for something that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The caller's policy or the state of the file forbids it.
    #[error("{0}")]
    Denied(String),
    /// Somebody else holds the file.
    #[error("{file}: locked: {by}")]
    Locked {
        /// The file, as its storage names it.
        file: String,
        /// What is known of the other side.
        by: String,
    },
    /// The host has no room left.
    #[error("{file}: no space left on the host")]
    NoSpace {
        /// The file, as its storage names it.
        file: String,
    },
    /// The host failed.
    #[error("{file}: {action}: {source}")]
    Io {
        /// The file, as its storage names it.
        file: String,
        /// What was being done, as in "cannot read at offset 4096".
        action: String,
        /// The host's own word.
        source: io::Error,
    },
    /// An earlier write or barrier failed: what the host holds is unknown, so nothing more is written.
    #[error("{file}: no longer writable since an earlier failure: {cause}")]
    Poisoned {
        /// The file, as its storage names it.
        file: String,
        /// The earlier failure.
        cause: String,
    },
    /// A copy is not what it was copied from, and nobody is about to make it so: bytes were lost or changed on the way, by
    /// the host, or by somebody else.
    #[error("{file}: byte {at} of the disk is not that of {from}, of which it is a copy")]
    Differs {
        /// The copy, as its storage names it.
        file: String,
        /// What was copied.
        from: String,
        /// The offset in the disk of the first byte that differs.
        at: u64,
    },
    /// The caller cancelled the job.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// The host's error for `file`, told apart where the kind matters (no space).
    pub fn io(file: &str, action: impl Into<String>, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::NoSpace { file: file.into() }
            }
            _ => Error::Io { file: file.into(), action: action.into(), source },
        }
    }

    /// `violation` in `file`, at a file offset where one is to blame.
    pub fn corrupt(file: &str, at: impl Into<Option<u64>>, violation: Violation) -> Error {
        Error::Corrupt { file: file.into(), at: at.into(), violation }
    }

    /// `file` is refused for `why`, as `violation` asks.
    pub fn refused(file: &str, why: impl Into<String>, violation: Violation) -> Error {
        Error::Refused { file: file.into(), why: why.into(), violation }
    }

    /// The file that it is about, if it is about one.
    pub fn file(&self) -> Option<&str> {
        match self {
            Error::Corrupt { file, .. }
            | Error::Unsupported { file, .. }
            | Error::Refused { file, .. }
            | Error::Locked { file, .. }
            | Error::NoSpace { file }
            | Error::Io { file, .. }
            | Error::Poisoned { file, .. }
            | Error::Differs { file, .. } => Some(file),
            Error::Invalid(_) | Error::Denied(_) | Error::Cancelled => None,
        }
    }

    /// The rule that the file breaks, if that is what went wrong.
    pub fn violation(&self) -> Option<Violation> {
        match self {
            Error::Corrupt { violation, .. }
            | Error::Unsupported { violation, .. }
            | Error::Refused { violation, .. } => Some(*violation),
            _ => None,
        }
    }
}
