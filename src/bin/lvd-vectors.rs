//! Writes the conformance vectors, or holds `testdata/` against what it would write.
//!
//!     lvd-vectors DIRECTORY          writes all files below DIRECTORY
//!     lvd-vectors --check [DIR]      compares byte for byte with DIR (testdata/ by default)

use lvd::testing::vectors::{self, text};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Files of `testdata/` that are written by hand.
const BY_HAND: &[&str] = &[
    // Python leaves it beside what it imports.
    "__pycache__/",
    "ADAPTER.md",
    "README.md",
    "restore.py",
    "run.py",
    "test_run.py",
    "kaitai/",
    "reader/",
    "runner/",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--check"] => check(Path::new("testdata")),
        ["--check", directory] => check(Path::new(directory)),
        [directory] if !directory.starts_with('-') => write(Path::new(directory)),
        _ => Err(io::Error::other("usage: lvd-vectors DIRECTORY | --check [DIRECTORY]")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lvd-vectors: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let tree = text::render(&vectors::all());
    for (path, bytes) in &tree {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(path, bytes)?;
    }
    // What a vector that is no more has left behind.
    for path in files(directory, Path::new(""))? {
        if !expected(&tree, &path) {
            fs::remove_file(directory.join(&path))?;
        }
    }
    println!("{}", summary(&tree));
    Ok(())
}

fn check(directory: &Path) -> io::Result<()> {
    let tree = text::render(&vectors::all());
    let mut differences = Vec::new();
    for (path, bytes) in &tree {
        match fs::read(directory.join(path)) {
            Ok(found) if found == *bytes => {}
            Ok(_) => differences.push(format!("{path}: differs")),
            Err(error) => differences.push(format!("{path}: {error}")),
        }
    }
    let extra = files(directory, Path::new(""))?.into_iter().filter(|path| !expected(&tree, path));
    differences.extend(extra.map(|path| format!("{}: no vector has such a file", path.display())));
    if differences.is_empty() {
        println!("{}", summary(&tree));
        return Ok(());
    }
    differences.iter().for_each(|difference| eprintln!("{difference}"));
    let (count, name) = (differences.len(), directory.display());
    Err(io::Error::other(format!("{count} files of {name} are not as they should be: lvd-vectors {name}")))
}

fn summary(tree: &text::Tree) -> String {
    let bytes: usize = tree.values().map(Vec::len).sum();
    let count = tree.keys().filter(|path| path.starts_with("vectors/") && path.ends_with(".json")).count();
    format!("{count} vectors in {} files of {} KiB", tree.len(), bytes / 1024)
}

fn expected(tree: &text::Tree, path: &Path) -> bool {
    path.to_str().is_some_and(|path| {
        tree.contains_key(path)
            || BY_HAND.iter().any(|hand| path == *hand || (hand.ends_with('/') && path.starts_with(hand)))
    })
}

/// All files below `directory/folder`, by their paths from `directory`.
fn files(directory: &Path, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            found.extend(files(directory, &path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
