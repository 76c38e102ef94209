//! What a vector says, in the words of its JSON file (`testdata/README.md` explains them to strangers).

use super::sparse::Sparse;
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

/// How an open ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It opens and all of it can be read.
    Valid,
    /// It opens, some ranges cannot be read, and a check reports it.
    Damaged,
    /// Refused: the file breaks a rule.
    Invalid,
    /// Refused: the file is newer than version 1, or uses what it does not have.
    Unsupported,
    /// Refused: the files are sound, but not together, or not to be opened so.
    Refused,
}

/// What an implementation must make of all cases of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every case opens, and all of its disk can be read.
    Valid,
    /// Some case must not open, or opens without a part of its disk.
    Invalid,
    /// It follows from a default of the caller or of the implementation: others may have another one.
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
    /// The caller overrides CHN-04 and CHN-06.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignore_marks: bool,
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

/// What the header of an opened file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// `image` or `sidecar`.
    pub kind: String,
    /// `closed`, `filling` or `writing`.
    pub state: String,
    /// The sequence number: tells which slot was taken.
    pub sequence: u64,
    /// Who the file is.
    pub uuid: String,
    /// Which content it has.
    pub epoch: String,
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Where byte 0 of the disk lies.
    pub data_offset: u64,
    /// Whether there is neither allocation section nor parent.
    pub complete: bool,
    /// Bytes of a block, if there is an allocation section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granule: Option<u64>,
    /// The link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Link>,
    /// The merge mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_mark: Option<Mark>,
    /// The group of the copy mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_mark: Option<String>,
}

/// A dirty bitmap; a frozen one and its successor are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitmapFacts {
    /// Its name.
    pub name: String,
    /// It tells what the target of a mirror lacks.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sync: bool,
    /// `disabled`, `recording` or `frozen`.
    pub state: String,
    /// Bytes of a granule.
    pub granularity: u64,
    /// Names the point from which on it tells.
    pub since: String,
    /// How far it is to be trusted.
    pub trust: Trusted,
    /// The stretches of the disk that are dirty, each as long as can be: offset and length.
    pub dirty: Vec<(u64, u64)>,
}

/// How far a bitmap is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trusted {
    /// It tells of every change up to now.
    Valid,
    /// It was disabled, and tells of no later change.
    MissedWrites,
    /// Somebody changed the disk behind its back.
    Stale,
}

/// A record that is no bitmap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoBitmap {
    /// What follows the first 64 bytes of the record, as text.
    pub name: String,
    /// The rule that it breaks.
    pub broken: String,
}

/// What a file is a backup of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointFacts {
    /// The UUID of the disk.
    pub source: String,
    /// The `since` of the bitmap that tells of what changed afterwards.
    pub point: String,
}

/// A merge mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Who is being merged into the file.
    pub child_uuid: String,
    /// The epoch of the file that the child's link names.
    pub child_epoch: String,
}

/// The link to a parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// `lvd`, `raw`, ...
    pub format: String,
    /// The parent's UUID, if it has an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The parent's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// Bytes of it that are seen.
    pub visible_length: u64,
    /// The hint.
    pub hint: String,
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

/// A stretch of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    /// Its first byte.
    pub offset: u64,
    /// Its length.
    pub length: u64,
    /// Who holds it.
    pub held: Held,
}

/// Who holds a stretch of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// The opened file, or its volume.
    Here,
    /// Not the opened file: it reads as the parent does, or as zeros.
    Below,
    /// Nobody knows: reading any byte of it fails.
    Unreadable,
}

/// What a guest does, and what jobs do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do", deny_unknown_fields)]
pub enum Operation {
    /// Writes `length` bytes: `pattern` (hexadecimal) again and again.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// What they are.
        pattern: String,
    },
    /// Makes bytes zero.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Makes blocks present that are not, with what lies below.
    Fill {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Changes the size.
    Resize {
        /// The new size.
        size: u64,
    },
    /// Gives bytes up that read as zeros: they go on doing so.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Makes it durable.
    Flush,
    /// Ends the session of every layer that was written.
    Close,
    /// Begins to fill the opened file from the layers below.
    Stream {
        /// The layer that it is to lie on afterwards; on none if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<String>,
        /// The rules that forbid it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<String>,
    },
    /// Begins to merge a layer, and those between, into one below.
    Merge {
        /// The upper end; the opened file if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top: Option<String>,
        /// The lower end.
        base: String,
        /// The upper end shall hold nothing afterwards.
        #[serde(default, skip_serializing_if = "is_false")]
        empty: bool,
        /// The rules that forbid it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<String>,
    },
    /// Begins to copy the disk.
    Copy {
        /// The target. If there is no such file it is made.
        to: String,
        /// The target is a raw file, no image.
        #[serde(default, skip_serializing_if = "is_false")]
        raw: bool,
        /// Bytes of a block of an image that is made; it is a complete one if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        granule: Option<u64>,
        /// Only what the opened file itself holds; the target lies on its parent.
        #[serde(default, skip_serializing_if = "is_false")]
        alone: bool,
        /// The rules that forbid it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<String>,
    },
    /// Begins to move the opened file onto another parent, on which it reads the same.
    Rebase {
        /// The new parent, and the parents of that.
        onto: Vec<String>,
        /// The new parent is a raw file.
        #[serde(default, skip_serializing_if = "is_false")]
        raw: bool,
        /// The rules that forbid it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<String>,
    },
    /// The job goes on until it has gone through so many bytes of the disk, at least, and not to its end.
    Run {
        /// Bytes, from its beginning.
        done: u64,
    },
    /// The job goes to its end; a copy is split from the guest.
    Finish,
    /// The job goes to its end, and the guest goes on with what was copied or merged to.
    Pivot,
    /// The process ends where it is. Another one opens the files as they are, as the case says.
    Kill,
}

impl Operation {
    /// The rules that forbid it, if it is a job.
    pub fn refused(&self) -> &[String] {
        match self {
            Operation::Stream { refused, .. }
            | Operation::Merge { refused, .. }
            | Operation::Copy { refused, .. }
            | Operation::Rebase { refused, .. } => refused,
            _ => &[],
        }
    }

    /// The same, to be changed. `None` for what a guest does.
    pub fn refused_mut(&mut self) -> Option<&mut Vec<String>> {
        match self {
            Operation::Stream { refused, .. }
            | Operation::Merge { refused, .. }
            | Operation::Copy { refused, .. }
            | Operation::Rebase { refused, .. } => Some(refused),
            _ => None,
        }
    }
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
    /// The word of optional features.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compat: u64,
    /// What a guest reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
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
            () if self.flags.contains(&Flag::Policy) => Outcome::Acceptable,
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
