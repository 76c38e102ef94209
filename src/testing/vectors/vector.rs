//! What a vector says, in the words of its JSON file (`testdata/README.md` explains them to strangers).

use super::sparse::Sparse;
use crate::conformance::Opening;
pub use crate::conformance::{
    BitmapFacts, Facts, Held, Link, Mark, NoBitmap, Operation, PointFacts, Stretch, Trusted, Verdict,
};
use crate::violation::Violation;
use serde::{Deserialize, Serialize};

/// Files, and what opening them gives.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// `area-what-is-special`; stable for ever.
    pub name: String,
    /// One or two sentences.
    pub purpose: String,
    /// What an implementation must make of it, in one word.
    pub result: Outcome,
    /// Numbers of the rules it exercises.
    pub rules: Vec<String>,
    /// Bits of advice that a runner may select by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flag>,
    /// The files.
    pub files: Vec<File>,
    /// What is done with them, each time from the files as they are here.
    pub cases: Vec<Case>,
}

/// What a runner may need to know beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// A file is longer than most file systems allow (16 TiB): it needs tmpfs, XFS or memory.
    Huge,
    /// What a crash leaves, or what looks like it.
    Crash,
    /// Files that this library's own writer wrote: they change when the order of its writes does.
    Written,
    /// The result follows from what this implementation documents, not from a MUST of the specification.
    Policy,
    /// Bits of bitmaps cannot be read: what they speak of counts as dirty.
    Lost,
    /// Jobs are done: stream, merge, copy, rebase.
    Jobs,
    /// A guest writes while a job goes on.
    Live,
}

/// What a file is to the one that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The file that is opened.
    Image,
    /// A layer below.
    Parent,
    /// The header and sections of a volume.
    Sidecar,
    /// A raw disk beside a sidecar.
    Volume,
    /// The decision of a group.
    Group,
    /// Not a layer of it: another child of a parent, what a job copies to, where a rebase leads.
    Other,
}

/// A file of a vector.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name while the vector runs.
    pub name: String,
    /// What it is to the others.
    pub role: Role,
    /// Its exact length in bytes.
    pub length: u64,
    /// The dump of its bytes, beside the JSON file; absent if all are zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<String>,
    /// Its bytes.
    #[serde(skip)]
    pub bytes: Sparse,
}

/// What an implementation must make of all cases of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every case opens, and all of its disk can be read.
    Valid,
    /// Some case must not open, or opens without a part of its disk.
    Invalid,
    /// Several outcomes are right, all of which the vector tells: it follows from a default of the caller or of the
    /// implementation, or a process was killed before it flushed.
    Acceptable,
}

/// One open and what follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The file to open.
    pub open: String,
    /// The parents that the caller gives, from that of `open` down; hints play no part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// The volume beside it, if it is a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The sidecar that holds bitmaps of it, if it is an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
    /// It is a raw file, whose bytes are the disk.
    #[serde(default, skip_serializing_if = "is_false")]
    pub raw: bool,
    /// For writing, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub write: bool,
    /// Most layers that the caller allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// The caller overrides CHN-03.
    #[serde(default, skip_serializing_if = "is_false")]
    pub trust_links: bool,
    /// The caller overrides CHN-04, CHN-06 and GRP-06.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignore_marks: bool,
    /// The file of the group by whose decision marked files are opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How it ends.
    pub result: Verdict,
    /// Refused or damaged: the rule that is broken first; any of them if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<String>,
    /// Opened: what the header says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Facts>,
    /// Opened: what a guest reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// Opened: its dirty bitmaps, and those in the sidecar beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bitmaps: Vec<BitmapFacts>,
    /// Opened: the records that look like bitmaps and are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_bitmaps: Vec<NoBitmap>,
    /// Opened: the backup point that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<PointFacts>,
    /// Opened: what a guest then does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Operation>,
    /// What another open finds afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
    /// Further opens, for reading, of the files as all that left them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finally: Vec<Case>,
}

/// What a guest reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The size of the disk in bytes.
    pub size: u64,
    /// SHA-256 of the whole disk, unless it is too large to hash or part of it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The dump of the disk, beside the JSON file; absent if it reads as zeros. Unreadable ranges are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<String>,
    /// All of the disk in order: who holds it. Absent if that is the writer's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extents: Option<Vec<Stretch>>,
    /// Its bytes.
    #[serde(skip)]
    pub bytes: Sparse,
}

/// What another open finds afterwards.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// Whether the epoch is another one than before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_epoch: Option<bool>,
    /// The state in the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// It is a complete image, or a sidecar that needs no parent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub complete: bool,
    /// Bytes that are seen of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible_length: Option<u64>,
    /// Unknown records, byte for byte: type, flags, payload in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<(u16, u16, String)>,
    /// The merge mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_mark: Option<Mark>,
    /// The group of the copy mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_mark: Option<String>,
    /// The group that decides whether the disk has moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_mark: Option<String>,
    /// The word of optional features.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compat: u64,
    /// What a guest reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// What was written and not flushed, in order: each sector of 512 bytes holds what `disk` says, or what the first of
    /// these have made of it, however many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub perhaps: Vec<Perhaps>,
}

/// Bytes that may have been written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Perhaps {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What they are, in hexadecimal digits, again and again.
    pub pattern: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Vector {
    /// A vector without files and cases yet.
    pub(super) fn new(name: &str, purpose: &str, rules: &[Violation]) -> Vector {
        Vector {
            name: name.into(),
            purpose: purpose.into(),
            result: Outcome::Valid,
            rules: ids(rules),
            flags: Vec::new(),
            files: Vec::new(),
            cases: Vec::new(),
        }
    }

    /// Names further rules, by number.
    pub(super) fn also(mut self, rules: &[&str]) -> Vector {
        self.rules.extend(rules.iter().map(|&rule| rule.into()));
        self
    }

    /// Adds a flag.
    pub(super) fn flag(mut self, flag: Flag) -> Vector {
        self.flags.push(flag);
        self
    }

    /// Adds a file.
    pub(super) fn file(mut self, name: &str, role: Role, bytes: Sparse) -> Vector {
        self.files.push(File { name: name.into(), role, length: bytes.len(), dump: None, bytes });
        self
    }

    /// Says that the first case may as well be refused for `rule`: the order of those checks is free.
    pub(super) fn or(mut self, rule: Violation) -> Vector {
        self.cases[0].broken.push(rule.id().into());
        self
    }

    /// Says that the first case finds a record that is no bitmap.
    pub(super) fn no_bitmap(mut self, name: &str, rule: Violation) -> Vector {
        self.cases[0].no_bitmaps.push(NoBitmap { name: name.into(), broken: rule.id().into() });
        self
    }

    /// Adds a case.
    pub(super) fn case(mut self, case: Case) -> Vector {
        self.cases.push(case);
        self
    }

    /// Says in one word what its cases say.
    pub(super) fn sum_up(&mut self) {
        self.result = match () {
            () if self.flags.contains(&Flag::Policy) || self.cases.iter().any(Case::leaves_a_choice) => {
                Outcome::Acceptable
            }
            () if self.cases.iter().all(|case| case.result == Verdict::Valid) => Outcome::Valid,
            () => Outcome::Invalid,
        };
    }

    /// Gives every case that names no parents all files below, in their order.
    pub(super) fn give_parents(&mut self) {
        let below = |file: &&File| file.role == Role::Parent;
        let parents: Vec<String> = self.files.iter().filter(below).map(|file| file.name.clone()).collect();
        for case in self.cases.iter_mut().filter(|case| case.parents.is_empty()) {
            case.parents = parents.iter().filter(|name| **name != case.open).cloned().collect();
        }
    }

    /// `hdr`, `rec`, ...: the word before the first hyphen.
    pub fn area(&self) -> &str {
        self.name.split('-').next().unwrap_or_default()
    }
}

impl Case {
    /// Opening `open` ends with `result`.
    pub(super) fn new(open: &str, result: Verdict, broken: &[Violation]) -> Case {
        Case {
            open: open.into(),
            parents: Vec::new(),
            volume: None,
            beside: None,
            raw: false,
            write: false,
            depth: None,
            trust_links: false,
            ignore_marks: false,
            group: None,
            result,
            broken: ids(broken),
            header: None,
            disk: None,
            bitmaps: Vec::new(),
            no_bitmaps: Vec::new(),
            point: None,
            then: Vec::new(),
            after: None,
            finally: Vec::new(),
        }
    }

    /// How it opens the files.
    pub fn opening(&self) -> Opening {
        Opening {
            open: self.open.clone(),
            parents: self.parents.clone(),
            volume: self.volume.clone(),
            beside: self.beside.clone(),
            raw: self.raw,
            write: self.write,
            down_to: None,
            live: false,
            depth: self.depth,
            trust_links: self.trust_links,
            ignore_marks: self.ignore_marks,
            group: self.group.clone(),
        }
    }

    /// Whether more than one content is right in the end.
    fn leaves_a_choice(&self) -> bool {
        self.after.as_ref().is_some_and(|after| !after.perhaps.is_empty())
    }

    /// Every disk that it speaks of.
    pub fn disks(&self) -> Vec<&Disk> {
        let after = self.after.iter().filter_map(|after| after.disk.as_ref());
        self.disk.iter().chain(after).chain(self.finally.iter().flat_map(Case::disks)).collect()
    }

    /// The same, to be changed.
    pub(super) fn disks_mut(&mut self) -> Vec<&mut Disk> {
        let after = self.after.iter_mut().filter_map(|after| after.disk.as_mut());
        self.disk.iter_mut().chain(after).chain(self.finally.iter_mut().flat_map(Case::disks_mut)).collect()
    }
}

/// The numbers of rules.
pub(super) fn ids(rules: &[Violation]) -> Vec<String> {
    rules.iter().map(|rule| rule.id().into()).collect()
}
