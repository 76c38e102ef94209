//! What is wrong with bytes, before anybody knows which file they came from.

use crate::error::Error;
use crate::switch::unchecked;
use crate::violation::Violation;
use std::fmt;

/// A broken rule, and whether the file is damaged or only newer than this library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The rule.
    pub violation: Violation,
    /// What is not known, where `unsupported`.
    pub detail: String,
    /// Whether the file is newer, or uses a feature this library does not have; else it is damaged.
    pub unsupported: bool,
}

impl Flaw {
    /// The file is damaged.
    pub(super) fn corrupt(violation: Violation) -> Flaw {
        Flaw { violation, detail: String::new(), unsupported: false }
    }

    /// The file is newer: it has `detail`, which is not known here.
    pub(super) fn unsupported(violation: Violation, detail: String) -> Flaw {
        Flaw { violation, detail, unsupported: true }
    }

    /// The library's error for `file`, at the file offset of the header slot or sector that is to blame.
    pub fn into_error(self, file: &str, at: impl Into<Option<u64>>) -> Error {
        match self.unsupported {
            true => Error::Unsupported { file: file.into(), what: self.detail, violation: self.violation },
            false => Error::corrupt(file, at, self.violation),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unsupported {
            true => write!(f, "not supported: {} ({})", self.detail, self.violation),
            false => write!(f, "damaged ({})", self.violation),
        }
    }
}

impl std::error::Error for Flaw {}

/// Refuses a damaged file unless `condition` holds, or a test left the check out.
pub(super) fn require(condition: bool, violation: Violation) -> Result<(), Flaw> {
    if condition || unchecked(violation) { Ok(()) } else { Err(Flaw::corrupt(violation)) }
}

/// Refuses a newer file unless `condition` holds, or a test left the check out.
pub(super) fn support(condition: bool, violation: Violation, detail: impl FnOnce() -> String) -> Result<(), Flaw> {
    if condition || unchecked(violation) { Ok(()) } else { Err(Flaw::unsupported(violation, detail())) }
}
