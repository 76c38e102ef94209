//! Every vector of `testdata/` against the library, and the vectors against their own promises.

use lvd::switch;
use lvd::testing::vectors::vector::Verdict;
use lvd::testing::vectors::{Vector, run, text};
use lvd::violation::Violation;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The vectors as they are in the repository, not as the generator would make them.
fn vectors() -> Vec<Vector> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    text::load(|path| fs::read(root.join(path)).map_err(|error| format!("{path}: {error}"))).unwrap()
}

#[test]
fn the_library_agrees_with_every_vector() {
    let wrong: Vec<String> = vectors().iter().filter_map(|vector| run::run(vector).err()).collect();
    assert!(wrong.is_empty(), "{} vectors do not agree:\n{}", wrong.len(), wrong.join("\n"));
}
