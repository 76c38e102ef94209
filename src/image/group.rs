//! The file that decides for several disks at once whether they have moved (`spec/groups.md`).
//!
//! It is a header and nothing else, so it is written by the procedures of any header.

use super::create::write_new;
use super::open::read_slots;
use super::order::{Order, Session};
use crate::error::{Error, Result};
use crate::format::{CopyMark, Decision, GroupMark, Header, Kind, Uuid};
use crate::limits::SLOTS_END;
use crate::storage::{Host, LockMode, Storage};
use crate::switch::require;
use crate::sync::Arc;
use crate::violation::Violation;

/// A group of disks that move together, by its file.
#[derive(Debug)]
pub struct Group {
    file: Arc<dyn Storage>,
    order: Order,
    /// By this open.
    made: bool,
}

impl Group {
    /// Makes the empty `file` that of a new group, which has not decided; durable on return, and held against everybody
    /// else.
    ///
    /// # Errors
    /// `Invalid` if the file is not empty: somebody may rely on the decision in it. `Locked`, or the host's.
    pub fn create(file: Arc<dyn Storage>, host: Arc<dyn Host>) -> Result<Group> {
        file.lock(LockMode::Exclusive)?;
        if file.size()? > 0 {
            return Err(Error::Invalid(format!("{}: the file of a new group has to be empty", file.name())));
        }
        let mut header = Header::new(Kind::Group, Uuid(host.random()), Uuid(host.random()), 0, 0);
        header.decision = Some(Decision::Undecided);
        write_new(&*file, &header, SLOTS_END, SLOTS_END)?;
        let group = Group { made: true, ..Group::read(file, host)? };
        // So that the decision is one write and one barrier.
        group.secure_found()?;
        Ok(group)
    }

    /// Opens the file of a group, to open its disks by it. Others may do so too.
    ///
    /// # Errors
    /// `Denied` for a file of another kind (GRP-05); `Locked` while the group decides; as
    /// [`Image::open`](super::Image::open).
    pub fn open(file: Arc<dyn Storage>, host: Arc<dyn Host>) -> Result<Group> {
        file.lock(LockMode::Shared)?;
        Group::read(file, host)
    }

    fn read(file: Arc<dyn Storage>, host: Arc<dyn Host>) -> Result<Group> {
        let chosen = read_slots(&*file)?;
        if chosen.header.kind != Kind::Group {
            return Err(Error::Denied(format!("{}: not the file of a group", file.name())));
        }
        chosen.header.check_size(file.size()?).map_err(|flaw| flaw.into_error(file.name(), None))?;
        Ok(Group { order: Order::new(file.clone(), file.clone(), host, chosen, false, None), file, made: false })
    }

    /// The group's identity, which the marks of its disks name.
    pub fn uuid(&self) -> Uuid {
        self.order.header().uuid
    }

    /// What it has decided, as far as this open knows.
    pub fn decision(&self) -> Decision {
        self.order.header().decision.unwrap_or(Decision::Undecided)
    }

    /// Decides that the disks have moved; durable on return. Whoever calls it holds all of them still (GRP-13).
    ///
    /// # Errors
    /// `Denied` if the file was not made by this open; the host's. What the file says is in doubt after the latter: nobody
    /// may write to either side of the disks any more, until they are opened by it (GRP-14).
    pub fn decide(&self) -> Result<()> {
        if !self.made {
            return Err(Error::Denied(format!(
                "{}: whoever made the group has not decided, so nobody does",
                self.name()
            )));
        }
        self.order.change_header(Session::None, |header| header.decision = Some(Decision::Moved))
    }

    /// Makes the decision durable in the second slot as well: no more writes come that would do so by the way.
    ///
    /// # Errors
    /// The host's. The decision stands.
    pub fn settle(&self) -> Result<()> {
        self.order.settle()
    }

    /// How errors name the group.
    pub fn name(&self) -> &str {
        self.file.name()
    }

    /// What was found in the file is durable on return (GRP-08). The same bytes in the same places: others may do it at
    /// the same time.
    pub(super) fn secure_found(&self) -> Result<()> {
        self.order.secure_found()
    }

    /// Takes those marks off `header` that the decision has made void (GRP-07).
    pub(super) fn drop_void_marks(&self, header: &mut Header) {
        match self.decision() {
            Decision::Moved => drop(header.copy_mark.take_if(|mark| mark.group == self.uuid())),
            Decision::Undecided if header.group_mark.is_some_and(|mark| mark.group == self.uuid()) => {
                header.set_group_mark(None)
            }
            Decision::Undecided => {}
        }
    }
}

/// CHN-06 and GRP-06: a copy that is none yet does not open, and a disk that may have moved does not for writing.
pub(crate) fn check_place(name: &str, header: &Header, write: bool, given: Option<&Group>) -> Result<()> {
    let decided = |group: Uuid| given.filter(|given| given.uuid() == group).map(Group::decision);
    if let Some(CopyMark { group }) = header.copy_mark {
        let decision = decided(group);
        let why = match decision {
            _ if group.is_nil() => "it is not a copy yet: the job that fills it has not finished".to_string(),
            None => format!("it may not be a copy yet: give the file of group {group}, which says so"),
            Some(_) => format!("it is not a copy yet: group {group} has not moved"),
        };
        require(decision == Some(Decision::Moved), Violation::Copying, |rule| Error::refused(name, why, rule))?;
    }
    if let (Some(GroupMark { group }), true) = (header.group_mark, write) {
        let decision = decided(group);
        let why = match decision {
            None => format!("the disk may have moved: give the file of group {group}, which says so"),
            Some(_) => format!("the disk has moved, with group {group}, to the copy that was made of it"),
        };
        require(decision == Some(Decision::Undecided), Violation::Moved, |rule| Error::refused(name, why, rule))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
