//! The tables of `spec/threats.md` and the repository: every rule, vector and test that is named there exists.

mod pages;

use lvd::testing::vectors;
use pages::{files, ids, rules};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The rows of a table, as cells.
type Rows = Vec<Vec<String>>;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/threats.md")).unwrap()
}

/// The rows of the first table behind `heading`.
fn table(page: &str, heading: &str) -> Rows {
    let after = page.split(heading).nth(1).unwrap_or_else(|| panic!("no heading {heading}"));
    let lines = after.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows: Rows = lines.skip(2).map(cells).collect();
    assert!(rows.len() > 2 && rows.iter().all(|row| row.len() == 4), "{heading}: {rows:#?}");
    rows
}

/// What stands between backquotes.
fn named(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in ["src", "tests"].into_iter().flat_map(|directory| files(directory, "rs")) {
        for behind in text.split("#[test]").skip(1) {
            let line = behind.trim_start().strip_prefix("fn ");
            names.extend(line.and_then(|line| line.split('(').next()).map(str::to_owned));
        }
    }
    names
}

#[test]
fn what_the_tables_name_exists() {
    let (page, rules, tests) = (page(), rules(), tests());
    let vectors: BTreeSet<String> = vectors::all().into_iter().map(|vector| vector.name).collect();
    assert!(tests.len() > 300 && vectors.len() > 1000, "{} tests, {} vectors", tests.len(), vectors.len());
    let mut wrong = Vec::new();
    for heading in ["\n## 2. ", "\n### Images", "\n### NBD"] {
        for row in table(&page, heading) {
            let row = row.iter().map(String::as_str).collect::<Vec<_>>();
            let [who, what, by, proof] = row[..] else { unreachable!("four cells") };
            if what.starts_with("does not apply: ") {
                assert!(by.is_empty() && proof.is_empty(), "{who}: does not apply, and is proven");
                continue;
            }
            let unknown = |id: &&str| !rules.contains_key(*id);
            wrong.extend(ids(by).into_iter().filter(unknown).map(|id| format!("{who}: no rule {id}")));
            let there = |name: &&str| if name.contains('-') { vectors.contains(*name) } else { tests.contains(*name) };
            wrong.extend(named(proof).into_iter().filter(|name| !there(name)).map(|name| format!("{who}: no {name}")));
            if ids(by).is_empty() || named(proof).is_empty() {
                wrong.push(format!("{who}: {what}: no rule, or no proof"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each class stands once, by a number of the form that they have.
#[test]
fn each_class_stands_once() {
    let page = page();
    let mut seen = BTreeSet::new();
    for row in ["\n### Images", "\n### NBD"].into_iter().flat_map(|heading| table(&page, heading)) {
        for number in row[0].split(", ") {
            let (year, rest) = number.split_once('-').expect("a year");
            assert!(
                year.len() == 4 && rest.len() >= 4 && number.bytes().all(|b| b == b'-' || b.is_ascii_digit()),
                "{number}"
            );
            assert!(seen.insert(number.to_owned()), "{number} stands twice");
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
}

/// A rule of this page that no table speaks of protects nobody from anything.
#[test]
fn each_rule_of_the_page_is_for_something() {
    let page = page();
    let tables: Rows = ["\n## 2. ", "\n### Images", "\n### NBD"].into_iter().flat_map(|h| table(&page, h)).collect();
    let used: BTreeSet<&str> = tables.iter().flat_map(|row| row.iter().flat_map(|cell| ids(cell))).collect();
    let defined = page.lines().filter_map(|line| line.strip_prefix("**")?.split("**").next());
    let unused: Vec<&str> = defined.filter(|id| ids(id).len() == 1 && !used.contains(id)).collect();
    assert_eq!(unused, Vec::<&str>::new());
}
