//! The ordering steps of `spec/ordering.md`, mistakes that others have made, and the switches that skip a step or make a
//! mistake for a test.
//!
//! Without the feature `testing` nothing is ever skipped, no mistake is made, and the switches compile to nothing.

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
    EmptySlot "ORD-24" "the first 512 bytes of such a slot are zeroed, and barriered, before it is made equal to the newest header"
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
    IntentFirst "INT-01" "law D, dirtiness: before a change is issued, its granules' bits, or intents that touch all of them, are durable, for every recording bitmap"
    FoldFound "INT-03" "a session keeps the intents that it finds until their granules' bits are durable"
    IntentBarrier "INT-04" "an intent is barriered before a change relies on it"
    BitsBeforeClear "INT-05" "law C, clearing: an intent is cleared only after every bit that was set under it is durable"
    CarryBitmaps "EPO-01" "a writer that knows bitmaps carries them"
    StaleStays "EPO-02" "a stale bitmap stays stale"
    SidecarFirst "EPO-05" "the sidecar is written first"
    DropFormer "EPO-06" "`former` is nil, durably, before a bitmap of the sidecar is cleared, removed, added or handed over"
    JoinFrozen "BMP-13" "bits of a frozen bitmap are set in its successor, and durable, before it is taken back"
    BitmapsGoOn "BMP-14" "a bitmap that goes on in another layer has all its bits there, durably, before that layer opens as the guest's disk"
    BitsBeforeTrust "BMP-15" "a bitmap that begins with bits is trusted once it has them"
    BackupDurable "BAK-02" "law C, clearing: the target, and the source, are barriered after the last copied read, before the bitmap begins a new count"
    PointInTarget "BAK-03" "the point is in the target, durably, before the bitmap has it as `since`"
    EqualDurable "SYN-03" "law C, clearing: target and source are barriered after what the target has was copied, before the sync bitmap forgets it"
    TargetNamesState "SYN-04" "the target names a state, durably, before the sync bitmap does"
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
    GroupSettled "GRP-08" "what a group's file says is durable before a writer relies on it"
    SourcesMarked "GRP-09" "every source says that it is in the group, durably, before the decision"
    TargetsMarked "GRP-10" "every target names the group in its copy mark, durably, before the decision"
    TargetsDurable "GRP-11" "every target is a whole copy, durably, before the decision"
    DecisionFirst "GRP-12" "the decision is durable before a target loses its mark and before a guest is moved"
    CountsBeforePivot "ORD-97" "the target counts, durably, before the guest is moved to it"
}

macro_rules! mistakes {
    ($($name:ident $text:literal)*) => {
        /// A mistake in the handling of requests that are under way at once. Each is proven to be found by making it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Mistake { $(#[doc = $text] $name),* }

        impl Mistake {
            /// Every mistake.
            pub const ALL: &[Mistake] = &[$(Mistake::$name),*];

            /// It in one clause.
            pub fn what(self) -> &'static str {
                match self { $(Mistake::$name => $text),* }
            }
        }
    };
}

mistakes! {
    MarkBeforeWrite "a granule is marked before the source is written, and is copied and called equal in between"
    FailedWriteUnmarked "a write that failed marks nothing, though part of it was written"
    ClearAfterCopy "marks are taken away after the copy, with those that were set while it ran"
    FailedCopyForgotten "granules whose copy failed count as equal"
    TrackedLate "requests that begin before a mirror's first copy, and end during it, are not marked"
    PartClearsWhole "a granule that is behind counts as equal once a part of it was written to both disks"
    ShortZeroForgotten "zeros that cover no whole granule are not mirrored"
    TargetErrorForgotten "a write that the target did not take leaves its granules equal"
    CopierHoldsNothing "the copier does not hold what it copies against writes to both disks"
    ClaimedCountsAsEqual "what a write to both disks is about to make equal counts as equal before it is"
    ReadyBeforeFlush "ready is said before the target is durable"
    PivotBesideRequests "a pivot does not wait for requests that are under way on the source"
    UnannouncedWrites "writes under way do not count when another one asks whether the lag has room"
    ForgottenUnderWay "a sync bitmap forgets a change that is made, but not marked as behind yet"
    ComparedUnheld "a comparison does not hold what it compares against writes to both disks"
    DifferenceBelieved "a comparison believes a difference that a write under way is about to mark"
    CopyAfterEnd "a pivot that is under way goes on copying after the mirror was given up"
    NoLastLook "what fell behind before the guest was held is not copied"
    FinishUnchecked "a target whose last barrier failed is pivoted to"
    DoubtStays "guests go on with the sources although their decision to move may have been written"
    DiscardGivesUp "a discard gives blocks up, and what lies below shines through"
    IntentStaysHit "an intent that is being cleared still counts for writes that come meanwhile"
    KeptBeforeCopied "a granule counts as kept before the copy that a point in time needs is made"
    ReadersHoldNothing "who reads a point in time from the disk does not hold off the copy before a change"
    FillUnlocked "a fill does not exclude writes of the guest"
    FillTrustsOldLook "a fill does not look again, once it has the block, whether the guest wrote it meanwhile"
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

/// Whether a test asked this thread to make `mistake`.
#[inline]
#[allow(unused_variables)]
pub fn planted(mistake: Mistake) -> bool {
    #[cfg(feature = "testing")]
    return plan::PLANTED.with(|p| p.get() == Some(mistake));
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
        pub(super) static PLANTED: Cell<Option<Mistake>> = const { Cell::new(None) };
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

/// Runs `body` on this thread with `mistake` made. Threads of a checker that runs all of them on one count as it.
#[cfg(feature = "testing")]
pub fn with_mistake<T>(mistake: Mistake, body: impl FnOnce() -> T) -> T {
    let before = plan::PLANTED.replace(Some(mistake));
    let result = body();
    plan::PLANTED.set(before);
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
