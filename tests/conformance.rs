//! Every vector of `testdata/` against the library, and the vectors against their own promises.

use lvd::switch;
use lvd::testing::vectors::vector::Verdict;
use lvd::testing::vectors::{Vector, all, run, text};
use lvd::violation::Violation;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;

/// The vectors as they are in the repository, not as the generator would make them.
fn vectors() -> Vec<Vector> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    text::load(|path| fs::read(root.join(path)).map_err(|error| format!("{path}: {error}"))).unwrap()
}

fn opens(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Valid | Verdict::Damaged)
}

#[test]
fn the_library_agrees_with_every_vector() {
    let wrong: Vec<String> = vectors().iter().filter_map(|vector| run::run(vector).err()).collect();
    assert!(wrong.is_empty(), "{} vectors do not agree:\n{}", wrong.len(), wrong.join("\n"));
}

/// Change the generator or the order of writes, and the vectors are to be written again: see `testdata/README.md`.
#[test]
fn testdata_is_what_the_generator_makes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for (path, bytes) in text::render(&all()) {
        let found = fs::read(root.join(&path)).unwrap_or_default();
        assert!(found == bytes, "{path}: not what the generator makes");
    }
}

/// A check that could be left out without a vector that notices would be one that nobody else needs to make.
#[test]
fn every_check_is_needed_by_a_vector() {
    let vectors = vectors();
    // A library without a check may do anything with a file that breaks the rule; its messages would be noise.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let rows: Vec<(Violation, Vec<&str>)> = Violation::ALL
        .iter()
        .map(|&rule| {
            let notices = |vector: &&Vector| {
                let run = || switch::without_check(rule, || run::run(vector));
                !matches!(catch_unwind(AssertUnwindSafe(run)), Ok(Ok(())))
            };
            (rule, vectors.iter().filter(notices).map(|vector| vector.name.as_str()).collect())
        })
        .collect();
    set_hook(hook);
    for (rule, names) in &rows {
        println!("{:6} {:3}  {}", rule.id(), names.len(), names.first().unwrap_or(&"-"));
    }
    let unneeded: Vec<&str> = rows.iter().filter(|(_, names)| names.is_empty()).map(|(rule, _)| rule.id()).collect();
    assert!(unneeded.is_empty(), "no vector needs the checks of {}", unneeded.join(", "));
}

#[test]
fn every_rule_that_a_file_can_break_has_vectors_on_both_sides() {
    let (mut broken, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for vector in vectors() {
        for case in &vector.cases {
            match opens(case.result) {
                true => kept.extend(vector.rules.iter().cloned()),
                false => broken.extend(case.broken.iter().cloned()),
            }
            if case.result == Verdict::Damaged {
                broken.extend(case.broken.iter().cloned());
            }
        }
    }
    let rules: BTreeSet<String> = Violation::ALL.iter().map(|rule| rule.id().to_string()).collect();
    let without = |side: &BTreeSet<String>| rules.difference(side).cloned().collect::<Vec<_>>();
    assert!(without(&broken).is_empty(), "no vector breaks {:?}", without(&broken));
    assert!(without(&kept).is_empty(), "no vector keeps, and is about, {:?}", without(&kept));
}

#[test]
fn the_numbers_that_were_promised() {
    let vectors = vectors();
    let negative = vectors.iter().filter(|vector| vector.cases[0].result != Verdict::Valid).count();
    println!("{} vectors, {negative} of them negative", vectors.len());
    assert!(vectors.len() >= 150);
    assert!(negative * 100 >= vectors.len() * 55, "{negative} of {}", vectors.len());
}

/// The pages that define rules.
const SPEC: [&str; 4] = ["format.md", "chain.md", "foreign.md", "ordering.md"];

/// Names of rules in vectors are rules of the specification.
#[test]
fn vectors_name_rules_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec");
    let spec: String = SPEC.map(|file| fs::read_to_string(root.join(file)).unwrap()).concat();
    for vector in vectors() {
        let broken = vector.cases.iter().flat_map(|case| &case.broken);
        for rule in vector.rules.iter().chain(broken) {
            assert!(spec.contains(&format!("**{rule}** (")), "{}: the specification has no rule {rule}", vector.name);
        }
    }
}

/// Rules for readers that no file can show to be kept or broken.
const NOT_IN_FILES: &[(&str, &str)] = &[
    ("CHN-11", "locks are between processes"),
    ("CHN-12", "so are the bytes they are held on"),
    ("CHN-17", "and whether a host has them is not the file's matter"),
    ("HDR-22", "a host that fails to read is no file"),
    ("PAG-08", "the same for pages"),
];

#[test]
fn every_rule_that_binds_readers_has_a_vector() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec");
    let spec = SPEC.map(|file| fs::read_to_string(root.join(file)).unwrap()).concat();
    let vectors = vectors();
    let broken = vectors.iter().flat_map(|vector| &vector.cases).flat_map(|case| &case.broken);
    let named: BTreeSet<&str> =
        vectors.iter().flat_map(|vector| &vector.rules).chain(broken).map(String::as_str).collect();
    for line in spec.lines().filter(|line| line.contains("** (reader, MUST)")) {
        let rule = line.trim_start_matches('*').split('*').next().unwrap_or_default();
        let excused = NOT_IN_FILES.iter().any(|(id, _)| *id == rule);
        assert!(named.contains(rule) != excused, "{rule}: a vector about it, or an excuse why there is none");
    }
}

/// The dump of a disk, its hash and its extents say the same.
#[test]
fn what_vectors_say_of_a_disk_is_consistent() {
    for vector in vectors() {
        for case in &vector.cases {
            let disks = case.disk.iter().chain(case.after.iter().map(|after| &after.disk));
            for disk in disks {
                if let Some(hash) = &disk.sha256 {
                    assert_eq!(*hash, disk.bytes.sha256(), "{}", vector.name);
                }
                let mut end = 0;
                for extent in &disk.extents {
                    assert!(extent.offset == end && extent.length > 0, "{}: extents have gaps", vector.name);
                    end += extent.length;
                }
                assert_eq!(end, disk.size, "{}: the extents are not all of the disk", vector.name);
            }
        }
    }
}
