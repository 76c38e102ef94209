//! Does with this library what the `then` of a case says, one process after the other.

use super::run::{Files, Mismatch};
use super::vector::{Case, Operation};
use crate::conformance::{Opening, Process};
use crate::error::Error;

/// Does what `case` asks for, from an open to the end of the last process. `live`: the guest writes beside the jobs.
pub(super) fn play(files: &Files, case: &Case, live: bool) -> Result<(), Mismatch> {
    let begin = || {
        let base = |operation: &Operation| match operation {
            Operation::Merge { base, .. } => case.parents.iter().position(|name| name == base),
            _ => None,
        };
        let down_to = case.then.iter().filter_map(base).max().map(|parent| case.parents[parent].clone());
        let opening = Opening { write: true, down_to, live, ..case.opening() };
        Process::open(files, opening).map_err(|error| format!("does not open for writing: {error}"))
    };
    let mut process = begin()?;
    for operation in &case.then {
        match operation {
            Operation::Kill => {
                drop(process);
                process = begin()?;
            }
            _ if operation.refused().is_empty() => {
                process.perform(operation).map_err(|error| format!("{operation:?}: {error}"))?;
            }
            _ => is_refused(files, &mut process, operation).map_err(|error| format!("{operation:?}: {error}"))?,
        }
    }
    Ok(())
}

/// A job that must be refused is, and no file has changed.
fn is_refused(files: &Files, process: &mut Process<'_>, operation: &Operation) -> Result<(), Mismatch> {
    let contents = || files.contents().map_err(|error| error.to_string());
    let before = contents()?;
    match process.perform(operation) {
        Ok(()) => return Err("is not refused".into()),
        Err(Error::Refused { .. } | Error::Denied(_) | Error::Invalid(_) | Error::Locked { .. }) => {}
        Err(error) => return Err(format!("fails for another reason: {error}")),
    }
    let after = contents()?;
    match before.iter().find(|(name, bytes)| after.get(*name) != Some(bytes)) {
        Some((name, _)) => Err(format!("is refused, and {name} has changed")),
        None => Ok(()),
    }
}
