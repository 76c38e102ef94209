//! Figures of a run, for the page that tells how all this is tested (`spec/assurance.md`).

use serde_json::Value;
use std::fs;
use std::path::Path;

/// Writes `figures` to `NAME.json` in the directory that `LVD_RECORDS` names, if it does.
///
/// # Panics
/// If that cannot be written.
pub(crate) fn record(name: &str, figures: &Value) {
    let Some(directory) = std::env::var_os("LVD_RECORDS") else { return };
    let path = Path::new(&directory).join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(figures).expect("figures are JSON");
    fs::write(&path, text + "\n").unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
