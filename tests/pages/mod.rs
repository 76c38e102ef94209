//! The repository as text: its files, and the rules in the pages of the specification.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A rule: `**HDR-05** (reader, MUST) The header's checksum is right. It is …`
#[derive(Debug)]
pub struct Rule {
    pub id: String,
    pub role: String,
    pub level: String,
    /// What follows, up to the next blank line, on one line.
    pub text: String,
}

/// The files below `directory` whose names end in `extension`, with their text.
pub fn files(directory: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut pending) = (Vec::new(), vec![root.join(directory)]);
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let ignored = |path: &Path| path.ends_with("target") || path.ends_with("corpus");
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).filter(|p| !ignored(p)));
        } else if path.extension().is_some_and(|e| e == extension) {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path.strip_prefix(root).unwrap().to_owned(), text));
        }
    }
    found.sort();
    found
}

/// The rules that the specification defines.
pub fn rules() -> BTreeMap<String, Rule> {
    let mut rules = BTreeMap::new();
    for (path, text) in files("spec", "md") {
        for paragraph in text.split("\n\n") {
            let Some((id, rest)) = paragraph.strip_prefix("**").and_then(|text| text.split_once("** (")) else {
                continue;
            };
            if ids(id) != [id] {
                continue;
            }
            let (binds, text) = rest.split_once(") ").expect("who it binds, and how strongly");
            let (role, level) = binds.split_once(", ").expect("who it binds, and how strongly");
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let rule = Rule { id: id.into(), role: role.into(), level: level.into(), text };
            assert!(rules.insert(id.to_owned(), rule).is_none(), "{id} is defined twice, again in {}", path.display());
        }
    }
    rules
}

/// The rule numbers in `text`: three capitals, a hyphen, two digits.
pub fn ids(text: &str) -> Vec<&str> {
    let is_id = |at: usize| {
        let bytes = &text.as_bytes()[at..];
        let alone = at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric();
        let shape = bytes.len() >= 6
            && bytes[..3].iter().all(u8::is_ascii_uppercase)
            && bytes[3] == b'-'
            && bytes[4..6].iter().all(u8::is_ascii_digit);
        alone && shape && !bytes.get(6).is_some_and(u8::is_ascii_alphanumeric)
    };
    (0..text.len()).filter(|&at| is_id(at)).map(|at| &text[at..at + 6]).collect()
}
