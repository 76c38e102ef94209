//! Vectors as files: JSON, dumps and the manifest, and back.

use super::sparse::{Sparse, sha256};
use super::vector::{Case, Outcome, Vector};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Paths below `testdata/` and their bytes.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// Where the manifest lies.
pub const MANIFEST: &str = "manifest.json";

/// The version of the vectors' own JSON. 2: a vector, and its entry in the manifest, say in one word what is to come of
/// it; in 1 the entry said how its first case ends.
pub const SCHEMA: u32 = 2;

/// The index of all vectors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format that the vectors are about.
    pub format: u32,
    /// The version of the vectors' own JSON; a runner refuses one it does not know.
    pub schema: u32,
    /// The vectors by name.
    pub vectors: Vec<Entry>,
}

/// A vector as the manifest lists it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Where its JSON file lies.
    pub path: String,
    /// What an implementation must make of it, as its JSON file says too.
    pub result: Outcome,
    /// The rules it exercises.
    pub rules: Vec<String>,
    /// The SHA-256 of its JSON file, which names its dumps.
    pub sha256: String,
}

/// All files of `vectors`.
pub fn render(vectors: &[Vector]) -> Tree {
    let mut tree = Tree::new();
    let mut entries = Vec::new();
    for vector in vectors {
        let mut vector = vector.clone();
        let folder = format!("vectors/{}", vector.area());
        let name = vector.name.clone();
        let mut dump = |part: &str, bytes: &Sparse| {
            let text = bytes.dump();
            let file = format!("{name}.{part}.hex");
            (!text.is_empty()).then(|| {
                tree.insert(format!("{folder}/{file}"), text.into_bytes());
                file
            })
        };
        for file in &mut vector.files {
            file.length = file.bytes.len();
            file.dump = dump(&file.name, &file.bytes);
        }
        let mut known: Vec<(Sparse, Option<String>)> = Vec::new();
        for disk in vector.cases.iter_mut().flat_map(Case::disks_mut) {
            // Cases of one vector mostly show one disk.
            disk.dump = match known.iter().find(|(bytes, _)| *bytes == disk.bytes) {
                Some((_, file)) => file.clone(),
                None => {
                    let part = if known.is_empty() { "disk".into() } else { format!("disk-{}", known.len() + 1) };
                    let file = dump(&part, &disk.bytes);
                    known.push((disk.bytes.clone(), file.clone()));
                    file
                }
            };
        }
        let path = format!("{folder}/{name}.json");
        let json = json(&vector);
        entries.push(Entry {
            name,
            path: path.clone(),
            result: vector.result,
            rules: vector.rules.clone(),
            sha256: sha256(&json),
        });
        tree.insert(path, json);
    }
    tree.insert(MANIFEST.into(), json(&Manifest { format: 1, schema: SCHEMA, vectors: entries }));
    tree
}

/// The vectors that a tree holds; `read` gives the bytes of a path.
pub fn load(read: impl Fn(&str) -> Result<Vec<u8>, String>) -> Result<Vec<Vector>, String> {
    let manifest: Manifest = parse(&read(MANIFEST)?)?;
    manifest.vectors.iter().map(|entry| load_one(entry, &read)).collect()
}

fn load_one(entry: &Entry, read: impl Fn(&str) -> Result<Vec<u8>, String>) -> Result<Vector, String> {
    let json = read(&entry.path)?;
    if sha256(&json) != entry.sha256 {
        return Err(format!("{}: not the file that the manifest lists", entry.path));
    }
    let mut vector: Vector = parse(&json).map_err(|error| format!("{}: {error}", entry.path))?;
    let folder = entry.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let bytes = |dump: &Option<String>, length: u64| match dump {
        None => Ok(Sparse::new(length)),
        Some(file) => {
            let text = String::from_utf8(read(&format!("{folder}/{file}"))?).map_err(|error| error.to_string())?;
            Sparse::parse(&text, length).map_err(|error| format!("{file}: {error}"))
        }
    };
    for file in &mut vector.files {
        file.bytes = bytes(&file.dump, file.length)?;
    }
    for disk in vector.cases.iter_mut().flat_map(Case::disks_mut) {
        disk.bytes = bytes(&disk.dump, disk.size)?;
    }
    Ok(vector)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("the types of vectors have no maps and no floats");
    text.push(b'\n');
    text
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}
