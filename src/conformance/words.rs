//! What is asked of an implementation and what it answers, in the words of the vectors (`testdata/README.md`) and of the
//! adapters (`testdata/ADAPTER.md`).

use serde::{Deserialize, Serialize};

/// How files are opened as a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// The file to open.
    pub open: String,
    /// The parents that the caller gives, from that of `open` down; hints play no part.
    #[serde(default)]
    pub parents: Vec<String>,
    /// The volume beside it, if it is a sidecar.
    #[serde(default)]
    pub volume: Option<String>,
    /// The sidecar that holds bitmaps of it, if it is an image.
    #[serde(default)]
    pub beside: Option<String>,
    /// It is a raw file, whose bytes are the disk.
    #[serde(default)]
    pub raw: bool,
    /// For writing, too.
    #[serde(default)]
    pub write: bool,
    /// The lowest of the parents that a job is going to write.
    #[serde(default)]
    pub down_to: Option<String>,
    /// The guest goes on while jobs run.
    #[serde(default)]
    pub live: bool,
    /// Most layers that the caller allows.
    #[serde(default)]
    pub depth: Option<usize>,
    /// The caller overrides CHN-03.
    #[serde(default)]
    pub trust_links: bool,
    /// The caller overrides CHN-04, CHN-06 and GRP-06.
    #[serde(default)]
    pub ignore_marks: bool,
    /// The file of the group by whose decision marked files are opened.
    #[serde(default)]
    pub group: Option<String>,
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
    /// The group that decides whether the disk has moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_mark: Option<String>,
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
    /// What follows the first 64 bytes of the record's payload, as text.
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

fn is_false(value: &bool) -> bool {
    !value
}
