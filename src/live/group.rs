//! Several guests that move to the targets of their mirrors at once: after any crash all of them have, or none
//! (`spec/groups.md`, section 4).

use super::disk::Disk;
use super::mirror::LiveMirror;
use super::still::Still;
use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::format::Uuid;
use crate::image::Group;
use crate::storage::Storage;
use crate::switch::{Mistake, Step, planted, skipped};
use crate::sync::Arc;

/// A disk, and the mirror to whose target its guest is to move.
#[derive(Debug, Clone)]
pub struct Move {
    /// The disk.
    pub disk: Arc<Disk>,
    /// Its mirror.
    pub mirror: Arc<LiveMirror>,
}

/// What is left once all guests have moved.
#[derive(Debug)]
pub struct Moved {
    /// The old layers of each disk, in the order of the moves. Nobody writes to them any more.
    pub left: Vec<Arc<Chain>>,
    /// Whether all targets have lost their marks. If one has not, it opens by the group's file alone.
    pub marks: Result<()>,
}

/// Moves all guests to the targets of their mirrors, as one decision that is written to the empty `file`.
///
/// The guests wait only for the last of the lag and the barriers. Raw disks may be among the moves; nothing in them tells
/// that they are, so that `file` has to be looked at before they are used again. In the other ones it can go with the old
/// layers.
///
/// # Errors
/// `Invalid` for a merge, or no disk at all; `Denied` before all mirrors are ready, and for a disk that is in a group
/// already, as the second time that it is named; what [`Group::create`], the last copies and barriers meet. All guests then go on with their sources, and so do the mirrors.
///
/// If writing the decision itself fails nobody knows where the disks are (GRP-14): every disk then refuses writes and
/// flushes as `Poisoned`, and its mirror has ended. Who opens the disks by the group's file is told which side counts.
pub fn pivot_together(moves: &[Move], file: Arc<dyn Storage>) -> Result<Moved> {
    let Some(first) = moves.first() else { return Err(Error::Invalid("no disk is to move".into())) };
    let _claims = moves.iter().map(Move::claim).collect::<Result<Vec<_>>>()?;
    let group = Group::create(file, first.disk.chain().host().clone())?;
    let _completing: Vec<_> = moves.iter().map(|one| one.mirror.completing()).collect();
    match make_ready(moves, &group) {
        Ok(held) => decide(moves, held, &group),
        Err(error) => {
            // A mark that stays does no harm: the group has not moved, and nobody will have it move any more.
            moves.iter().for_each(|one| drop(one.mark(None)));
            Err(error)
        }
    }
}

/// Everything that comes before the decision. The disks are held still on return.
fn make_ready<'a>(moves: &'a [Move], group: &Group) -> Result<Vec<Still<'a>>> {
    moves.iter().try_for_each(|one| one.mark(Some(group.uuid())))?;
    if !skipped(Step::TargetsDurable) {
        moves.iter().try_for_each(|one| one.mirror.catch_up())?;
    }
    let held = Disk::all_still(moves.iter().map(|one| &one.disk));
    moves.iter().zip(&held).try_for_each(|(one, still)| still.serving.last_look(&one.mirror, true))?;
    held.iter().try_for_each(|still| still.serving.secure_target())?;
    Ok(held)
}

fn decide(moves: &[Move], mut held: Vec<Still<'_>>, group: &Group) -> Result<Moved> {
    let count = || {
        // Each as far as it comes: the others do without the group's file then.
        let counted: Vec<Result<()>> = moves.iter().map(|one| one.mirror.finish()).collect();
        counted.into_iter().collect::<Result<()>>()
    };
    if skipped(Step::DecisionFirst) {
        count()?;
    }
    let decided = group.decide();
    if let Err(error) = decided {
        if planted(Mistake::DoubtStays) {
            return Err(error);
        }
        moves.iter().for_each(|one| one.mirror.stop());
        held.iter_mut().for_each(|still| still.serving.doubt(format!("has {} moved? {error}", group.name())));
        return Err(error);
    }
    // From here on all have moved, whatever fails.
    let settled = group.settle();
    let marks = count().and(settled);
    moves.iter().for_each(|one| one.mirror.stop());
    let left = held.iter_mut().filter_map(|still| still.serving.move_to_target()).collect();
    Ok(Moved { left, marks })
}

/// A move that is this group's until it is dropped.
struct Claim<'a>(&'a Move);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.disk.end_move(&self.0.mirror);
    }
}

impl Move {
    /// Keeps other groups off, whose marks would take the place of this one's (GRP-13).
    fn claim(&self) -> Result<Claim<'_>> {
        if self.mirror.kind() != "mirror" {
            return Err(Error::Invalid(format!("a {} does not move together with others", self.mirror.kind())));
        }
        self.disk.begin_move(&self.mirror)?;
        Ok(Claim(self))
    }

    /// Has `group` decide where the disk is, as both sides then say (GRP-09, GRP-10), or takes it out of its group. What is
    /// no LVD file says nothing.
    fn mark(&self, group: Option<Uuid>) -> Result<()> {
        let (source, target) = self.disk.sides();
        if let (Some(source), false) = (source, skipped(Step::SourcesMarked)) {
            source.set_group_mark(group)?;
        }
        match (target, skipped(Step::TargetsMarked)) {
            (Some(target), false) => target.set_copy_group(group.unwrap_or(Uuid::NIL)),
            _ => Ok(()),
        }
    }
}
