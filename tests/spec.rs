//! The specification and the code say the same: structures, rules, and what may use what.

mod pages;

use lvd::Violation;
use lvd::format::structures;
use lvd::switch::Step;
use pages::{files, ids, rules};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first. A module uses its own line and those above it.
const LAYERS: &[&[&str]] = &[
    &["error", "violation", "switch", "limits", "sync", "units", "zeros", "range_lock"],
    &["storage"],
    &["format"],
    &["bitmap"],
    &["device"],
    &["image", "foreign"],
    &["chain"],
    &["jobs"],
    &["live"],
    &["nbd"],
    &["control"],
    &["conformance"],
    &["testing"],
];

/// What only the storages, the connections of NBD and of the control socket, and the binaries touch: the operating system, clocks, randomness and threads.
const OUTSIDE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::process",
    "std::net",
    "std::os",
    "std::thread",
    "Instant",
    "SystemTime",
    "rustix",
    "nix::",
    "rand::",
    "getrandom",
    "libc::",
];

#[test]
fn tables_are_the_structures() {
    let mut tables = BTreeMap::new();
    for (path, text) in files("spec", "md") {
        for part in text.split("\n### Table: ").skip(1) {
            let (name, rest) = part.split_once('\n').unwrap();
            let lines = rest.lines().skip_while(|line| line.is_empty()).take_while(|line| line.starts_with('|'));
            let mut rows: Vec<Vec<String>> = lines
                .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).take(4).collect())
                .collect();
            assert!(rows.len() > 2, "{}: the table {name} follows its heading", path.display());
            assert_eq!(rows[0], ["Offset", "Size", "Type", "Field"], "{name}");
            let before = tables.insert(name.trim().to_owned(), rows.split_off(2));
            assert!(before.is_none(), "the table {name} stands in two places");
        }
    }
    for structure in structures() {
        let table = tables.remove(structure.name).unwrap_or_else(|| panic!("no table: {}", structure.name));
        let printed: Vec<_> = structure
            .fields
            .iter()
            .map(|f| vec![f.offset.to_string(), f.size.to_string(), f.kind.clone(), f.name.to_owned()])
            .collect();
        assert_eq!(table, printed, "the table {} and its structure", structure.name);
    }
    assert_eq!(tables.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "tables without a structure");
}

#[test]
fn rules_of_the_code_are_defined_in_the_same_words() {
    let rules = rules();
    let violations = Violation::ALL.iter().map(|violation| (violation.id(), violation.rule()));
    let all: Vec<_> = violations.chain(Step::ALL.iter().map(|step| (step.id(), step.rule()))).collect();
    assert_eq!(all.iter().map(|rule| rule.0).collect::<BTreeSet<_>>().len(), all.len(), "each number stands once");
    let mut wrong = Vec::new();
    for (id, sentence) in all {
        let defined = rules.get(id).map_or("nothing", |rule| rule.text.as_str());
        let (first, rest) = sentence.split_at(1);
        let capital = first.to_uppercase() + rest;
        if !defined.strip_prefix(&capital).is_some_and(|rest| rest.starts_with(['.', ':'])) {
            wrong.push(format!("{id}: the code says \"{sentence}\", spec/ says \"{defined}\""));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_that_is_cited_exists() {
    let rules = rules();
    let code = ["src", "tests", "benches", "fuzz"].into_iter().filter(|d| Path::new(d).exists());
    let sources = code.flat_map(|directory| files(directory, "rs")).chain(files("spec", "md"));
    let mut missing = BTreeSet::new();
    for (path, text) in sources {
        let unknown = ids(&text).into_iter().filter(|id| !rules.contains_key(*id));
        // "UTF-16" and the like are no rules: only what begins as rules do.
        let families: BTreeSet<_> = rules.keys().map(|id| &id[..3]).collect();
        missing
            .extend(unknown.filter(|id| families.contains(&id[..3])).map(|id| format!("{id} in {}", path.display())));
    }
    assert!(missing.is_empty(), "cited, but not defined in spec/: {missing:#?}");
}

/// The code of the library, by module, without comments and without tests.
fn library() -> Vec<(String, PathBuf, String)> {
    let mut modules = Vec::new();
    for (path, text) in files("src", "rs") {
        let parts: Vec<_> = path.iter().skip(1).map(|part| part.to_str().unwrap()).collect();
        let module = parts[0].trim_end_matches(".rs").to_owned();
        if module == "bin" || module == "lib" || parts.iter().any(|part| ["tests", "tests.rs"].contains(part)) {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code: Vec<_> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        modules.push((module, path, code.join("\n")));
    }
    modules
}

/// The names that `code` takes from the root of the crate.
fn used(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        match rest.strip_prefix('{') {
            None => names.push(&rest[..word(rest)]),
            Some(group) => {
                let mut depth = 1;
                let mut start = true;
                for (at, c) in group.char_indices() {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    if depth == 0 {
                        break;
                    }
                    if start && c.is_alphabetic() {
                        names.push(&group[at..at + word(&group[at..])]);
                    }
                    start = depth == 1 && (c == ',' || (start && c.is_whitespace()));
                }
            }
        }
    }
    names
}

/// The table of answers in `spec/format.md`: for each word of the vectors, the rules that are answered so. The word of the
/// row "all others" stands with no rule.
fn answers() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/format.md")).unwrap();
    let table = text.split("### Answers").nth(1).expect("the table of answers");
    let rows = table.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    let mut answers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        for word in cells[3].split('`').skip(1).step_by(2) {
            answers.insert(word.to_owned(), ids(cells[2]).into_iter().map(str::to_owned).collect());
        }
    }
    assert!(answers.len() == 6 && answers["invalid"].is_empty(), "{answers:?}");
    answers
}

/// Rules that are answered as the table says, or as damage of the file.
const TWICE: &[&str] = &["REC-07", "CHN-05", "QED-05"];

/// The vectors answer each rule as the table says. Three rules have two answers, as the text below the table says.
#[test]
fn vectors_answer_as_the_specification_does() {
    let answers = answers();
    let listed = |rule: &str| answers.values().any(|rules| rules.iter().any(|listed| listed == rule));
    let mut seen = BTreeSet::new();
    for (path, text) in files("testdata/vectors", "json") {
        let vector: serde_json::Value = serde_json::from_str(&text).unwrap();
        for case in vector["cases"].as_array().unwrap() {
            let word = case["result"].as_str().unwrap();
            for rule in case["broken"].as_array().into_iter().flatten().map(|rule| rule.as_str().unwrap()) {
                let twice = TWICE.contains(&rule) && word == "invalid";
                let right = match word {
                    "invalid" => twice || !listed(rule),
                    word => answers[word].iter().any(|listed| listed == rule),
                };
                assert!(right, "{}: {word} for {rule}", path.display());
                seen.insert((word.to_owned(), rule.to_owned()));
            }
            // Records that are no bitmaps keep no file from opening, whatever its answer is.
            for none in case["no_bitmaps"].as_array().into_iter().flatten() {
                let rule = none["broken"].as_str().unwrap();
                assert!(answers["no_bitmaps"].iter().any(|listed| listed == rule), "{}: {rule}", path.display());
                seen.insert(("no_bitmaps".to_owned(), rule.to_owned()));
            }
        }
    }
    let shown = |word: &str, rule: &String| seen.contains(&(word.to_owned(), rule.clone()));
    // No vector can make the host fail.
    for (word, rule) in answers.iter().flat_map(|(word, rules)| rules.iter().map(move |rule| (word, rule))) {
        assert!(word == "valid" || shown(word, rule), "no vector shows {word} for {rule}");
    }
    for twice in TWICE {
        assert!(shown("invalid", &twice.to_string()), "no vector shows the other answer to {twice}");
    }
}

#[test]
fn layers_use_only_those_before_them() {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let root = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    // Names that the root of the crate exports stand for the modules they come from.
    let mut exported = BTreeMap::new();
    for line in root.lines().filter_map(|line| line.strip_prefix("pub use ")) {
        let (module, names) = line.split_once("::").unwrap();
        for name in names.split(|c: char| !c.is_alphanumeric()).filter(|name| !name.is_empty()) {
            exported.insert(name, module);
        }
    }
    let mut wrong = Vec::new();
    for (module, path, code) in library() {
        let own = layer(&module).unwrap_or_else(|| panic!("{module} has no layer"));
        for name in used(&code) {
            let name = exported.get(name).copied().unwrap_or(name);
            if layer(name).is_some_and(|other| other > own) {
                wrong.push(format!("{} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_storages_and_servers_touch_the_outside() {
    let mut wrong = Vec::new();
    let outside = [
        "src/control/job.rs",
        "src/control/outbox.rs",
        "src/control/server.rs",
        "src/storage",
        "src/nbd/client/link.rs",
        "src/nbd/client/mod.rs",
        "src/nbd/client/wire.rs",
        "src/nbd/server/background.rs",
        "src/nbd/server/connection.rs",
        "src/nbd/server/mod.rs",
        "src/nbd/socket.rs",
        "src/nbd/tls",
    ];
    let inside = |path: &Path| !outside.iter().any(|outside| path.starts_with(outside));
    for (module, path, code) in library().into_iter().filter(|(_, path, _)| inside(path)) {
        for name in OUTSIDE.iter().filter(|name| code.contains(*name)) {
            wrong.push(format!("{} uses {name} in {module}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn names_are_found_in_uses() {
    let code = "use crate::{Error, format::{Header, Uuid}, zeros};\ncrate::image::open();";
    assert_eq!(used(code), ["Error", "format", "zeros", "image"]);
    assert_eq!(ids("see HDR-05, XORD-11, ORD-111 and (CHN-02)"), ["HDR-05", "CHN-02"]);
}
