//! The guest's file system as the host sees it.

use crate::common::{MIB, Place, Run};
use crate::{lvd, tool};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// What file `number` of the guest holds (`content` in `init`).
pub fn content(number: u64) -> String {
    let first = number * 10000;
    (first..=first + 100 + number * 7919 % 4000).map(|line| format!("{line}\n")).collect()
}

/// A disk of `size` bytes with an ext4 in which a directory for the guest's files is, and `filling` bytes of others.
pub fn make(place: &Place, name: &str, size: u64, filling: u64) -> PathBuf {
    let tree = place.path("tree");
    fs::create_dir_all(tree.join("files")).expect("made");
    for number in 0..filling / MIB {
        let data = crate::common::Random::new(number).bytes(MIB as usize);
        fs::write(tree.join(format!("filling{number}")), data).expect("written");
    }
    let disk = place.sparse(name, size);
    tool!("mke2fs", "-q", "-t", "ext4", "-E", "nodiscard", "-d", &tree, &disk).code(0);
    fs::remove_dir_all(tree).expect("removed");
    disk
}

/// The raw disk `raw` is what a machine left that stopped at some moment: after the journal's replay the file system is
/// whole, and all `files` are in it. The disk is changed.
#[track_caller]
pub fn survives(raw: &Path, files: RangeInclusive<u64>, what: &str) {
    if let Err(flaw) = repaired(raw).and_then(|()| hold(raw, files)) {
        panic!("{what}: {flaw}");
    }
}

/// The raw disk `raw` is what a guest left that had unmounted it.
#[track_caller]
pub fn is_clean(raw: &Path, files: RangeInclusive<u64>, what: &str) {
    if let Err(flaw) = whole(raw).and_then(|()| hold(raw, files)) {
        panic!("{what}: {flaw}");
    }
}

/// Does what a machine does when it boots: replays the journal, ends deletions that were under way. `-p` does nothing that
/// could lose something, and says so where that would not do.
pub fn repaired(raw: &Path) -> Result<(), String> {
    let repair = tool!("e2fsck", "-fp", raw);
    match repair.code {
        Some(0 | 1) => whole(raw),
        _ => Err(said("e2fsck -fp", &repair)),
    }
}

fn whole(raw: &Path) -> Result<(), String> {
    let check = tool!("e2fsck", "-fn", raw);
    if check.code == Some(0) { Ok(()) } else { Err(said("e2fsck -fn", &check)) }
}

fn said(what: &str, run: &Run) -> String {
    format!("{what}: {:?}: {} {}", run.code, run.text(), run.err)
}

/// All `files` are there and hold what they should.
pub fn hold(raw: &Path, files: RangeInclusive<u64>) -> Result<(), String> {
    let found = tempfile::tempdir_in(raw.parent().expect("in a directory")).expect("a directory");
    let dump = tool!("debugfs", "-R", format!("rdump /files {}", found.path().display()), raw);
    for number in files {
        match fs::read_to_string(found.path().join("files").join(number.to_string())) {
            Ok(data) if data == content(number) => {}
            Ok(data) => return Err(format!("file {number} holds something else: {data:.40}…")),
            Err(error) => return Err(format!("file {number}: {error}; {}", said("debugfs", &dump))),
        }
    }
    Ok(())
}

/// The disk that `image` shows, as a raw file of its own.
#[track_caller]
pub fn raw_copy(place: &Place, image: &str) -> PathBuf {
    let raw = place.path(&format!("{image}.raw"));
    let _ = fs::remove_file(&raw);
    lvd!("convert", "-O", "raw", place.path(image), &raw).ok();
    raw
}
