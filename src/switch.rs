//! The ordering steps of `spec/ordering.md`, and the switches that skip one for a test.
//!
//! Without the feature `testing` nothing is ever skipped and the switches compile to nothing.

use crate::error::Error;
use crate::violation::Violation;
use std::fmt;

macro_rules! steps {
    ($($name:ident $id:literal $text:literal)*) => {
        /// A step that the order of writes and barriers rests on. Each is proven needed by skipping it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Step { $(#[doc = $text] $name),* }

        impl Step {
            /// Every step, in the order of the specification.
            pub const ALL: &[Step] = &[$(Step::$name),*];

            /// The rule's number in `spec/`.
            pub fn id(self) -> &'static str {
                match self { $(Step::$name => $id),* }
            }

            /// The rule in one clause.
            pub fn rule(self) -> &'static str {
                match self { $(Step::$name => $text),* }
            }
        }
    };
}

steps! {
    ZeroedSpace "ORD-10" "a section's space is zeroed and barriered before a header names it"
    DirectoryEntry "ORD-11" "the directory entry of a new file is barriered before the file is used"
    SessionSync "ORD-20" "a session syncs its files before its first write"
    RewriteHeader "ORD-21" "a session rewrites the newest header slot as it was, before its first barrier"
    RewritePages "ORD-22" "after an unclean session written pages are rewritten as they were, before that barrier"
    MendSlot "ORD-23" "a slot that differs from the newest header is made equal to it, and barriered, before an update writes it"
    OtherSlot "ORD-30" "an update writes the slot that does not hold the newest barriered header"
    HeaderBarrier "ORD-31" "a header is barriered before anything relies on it"
    EqualSlots "ORD-32" "both slots are equal and barriered before what only the older header names is reused"
    DataBarrier "ORD-40" "data is barriered before the bits that vouch for it are written"
    BitsBarrier "ORD-41" "bits are barriered before a flush is acknowledged"
    SnapshotFirst "ORD-42" "a commit publishes only bits whose data was written before its data barrier started"
    FlushPresent "ORD-43" "a flush barriers the data of blocks that were present before"
    FillBlock "ORD-44" "a write into part of an absent block fills the rest of the block from below"
    ZerosWritten "ORD-45" "zeros are written where they are wanted before their bits are set"
    EpochAtStart "ORD-50" "the epoch is replaced before the first change of a session"
    EpochAtClose "ORD-51" "the epoch is replaced at a clean close"
    FlushAtClose "ORD-52" "data and bits are barriered before the header says closed"
    ZeroGrown "ORD-60" "a grown range is zeroed and barriered before the header names it"
    ClearShrunk "ORD-61" "bits past the old end are cleared and barriered before the size is raised"
    CopyMoved "ORD-62" "sections in the way are copied and barriered before the header names their new place"
    LowerVisible "ORD-63" "shrinking lowers the visible length of the parent"
    AllPresent "ORD-70" "every block is present before the parent link goes"
    FlushBeforeRelink "ORD-71" "the image is barriered before the header drops its parent and its allocation section"
    MarkBase "ORD-80" "the base carries the merge mark before its first change"
    SealBase "ORD-81" "the base is barriered and sealed before the link names its new epoch"
    ClearMarkLast "ORD-82" "the mark is cleared only after the link is durable"
    ZerosPastShort "ORD-83" "what a short layer hides is written as zeros into the base"
    MarkBetween "ORD-84" "layers between the ends of a merge carry a mark before the base changes"
    CopyMark "ORD-90" "a copy carries its mark until all of it is durable"
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id(), self.rule())
    }
}

/// Whether a test asked this thread to leave `step` out.
#[inline]
#[allow(unused_variables)]
pub fn skipped(step: Step) -> bool {
    #[cfg(feature = "testing")]
    return plan::SKIPPED.with(|s| s.get() == Some(step));
    #[cfg(not(feature = "testing"))]
    false
}

/// Breaks off with `violation` unless `condition` holds (or a test left the check out).
#[inline]
pub fn require(condition: bool, violation: Violation, error: impl FnOnce(Violation) -> Error) -> Result<(), Error> {
    if condition || unchecked(violation) { Ok(()) } else { Err(error(violation)) }
}

/// Whether a test asked this thread not to check `violation`.
#[inline]
#[allow(unused_variables)]
pub fn unchecked(violation: Violation) -> bool {
    #[cfg(feature = "testing")]
    return plan::UNCHECKED.with(|s| s.get() == Some(violation));
    #[cfg(not(feature = "testing"))]
    false
}

#[cfg(feature = "testing")]
mod plan {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        pub(super) static SKIPPED: Cell<Option<Step>> = const { Cell::new(None) };
        pub(super) static UNCHECKED: Cell<Option<Violation>> = const { Cell::new(None) };
    }
}

/// Runs `body` on this thread with `step` left out.
#[cfg(feature = "testing")]
pub fn without_step<T>(step: Step, body: impl FnOnce() -> T) -> T {
    let before = plan::SKIPPED.replace(Some(step));
    let result = body();
    plan::SKIPPED.set(before);
    result
}

/// Runs `body` on this thread with the check for `violation` left out.
#[cfg(feature = "testing")]
pub fn without_check<T>(violation: Violation, body: impl FnOnce() -> T) -> T {
    let before = plan::UNCHECKED.replace(Some(violation));
    let result = body();
    plan::UNCHECKED.set(before);
    result
}
