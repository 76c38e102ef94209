//! Changes of disks at one instant: all of them, or none.
//!
//! First everything is opened that they need, one inside the other, so that what was made for one goes when another fails.
//! Then all disks are held still, and each change is made; if one fails those before it are taken back, and no guest has
//! seen any.

use super::backup::DriveBackup;
use super::commands::{BitmapAdd, BitmapClear, BitmapDisable, BitmapEnable, BitmapRemove, BlockdevSnapshotSync};
use super::course::Course;
use super::job::Group;
use super::merge::{BitmapMerge, Fetched};
use super::server::{Device, Server};
use super::wire::Failure;
use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::format::BitmapState;
use crate::image::{Image, UnbegunBitmap};
use crate::live::{Disk, Still};
use crate::storage::Storage;
use crate::sync::{Arc, lock};
use serde::Deserialize;
use serde_json::{Value, json};
use std::ops::Range;

/// One change.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub(super) enum Action {
    BlockdevSnapshotSync(BlockdevSnapshotSync),
    DriveBackup(DriveBackup),
    BlockDirtyBitmapAdd(BitmapAdd),
    BlockDirtyBitmapClear(BitmapClear),
    BlockDirtyBitmapEnable(BitmapEnable),
    BlockDirtyBitmapDisable(BitmapDisable),
    BlockDirtyBitmapMerge(BitmapMerge),
    BlockDirtyBitmapRemove(BitmapRemove),
    /// Fails: for whoever wants to know whether the others would not.
    Abort {},
}

/// What was opened for a change.
pub(super) enum Opened {
    Nothing,
    Overlay { file: Arc<dyn Storage>, hint: String },
    Target(Chain),
}

/// A change that was made, and can be taken back while the disks are held.
enum Made {
    Snapshot,
    Backup(Course),
    Added,
    /// Others are merged into it: nobody trusts it before the last of them was (BMP-15).
    Unbegun(UnbegunBitmap),
    /// Its bits are kept until the others are made, too.
    Cleared,
    Enabled,
    Disabled,
    /// It was so before.
    Nothing,
    /// What was dirty before.
    Merged(Vec<Range<u64>>),
    /// It is there until the others are made, too.
    Removed,
}

impl Action {
    /// The disk that it changes.
    fn device(&self) -> Option<&str> {
        match self {
            Action::BlockdevSnapshotSync(it) => Some(&it.device),
            Action::DriveBackup(it) => Some(&it.device),
            Action::BlockDirtyBitmapAdd(it) => Some(&it.node),
            Action::BlockDirtyBitmapClear(it) => Some(&it.node),
            Action::BlockDirtyBitmapEnable(it) => Some(&it.node),
            Action::BlockDirtyBitmapDisable(it) => Some(&it.node),
            Action::BlockDirtyBitmapMerge(it) => Some(&it.node),
            Action::BlockDirtyBitmapRemove(it) => Some(&it.node),
            Action::Abort {} => None,
        }
    }

    /// The disks that it changes or looks at.
    fn devices(&self) -> Vec<&str> {
        match self {
            Action::BlockDirtyBitmapMerge(it) => it.nodes().collect(),
            _ => self.device().into_iter().collect(),
        }
    }

    /// The name of the bitmap that it is about.
    fn bitmap(&self) -> &str {
        match self {
            Action::BlockDirtyBitmapAdd(it) => &it.name,
            Action::BlockDirtyBitmapClear(it) => &it.name,
            Action::BlockDirtyBitmapEnable(it) => &it.name,
            Action::BlockDirtyBitmapDisable(it) => &it.name,
            Action::BlockDirtyBitmapMerge(it) => &it.target,
            Action::BlockDirtyBitmapRemove(it) => &it.name,
            Action::BlockdevSnapshotSync(_) | Action::DriveBackup(_) | Action::Abort {} => "",
        }
    }

    /// Opens what it needs for a disk of these layers.
    fn open(&self, server: &Server, chain: Option<&Chain>, then: &mut dyn FnMut(Opened) -> Result<()>) -> Result<()> {
        match (self, chain) {
            (Action::BlockdevSnapshotSync(it), Some(chain)) => it.open(server, chain, then),
            (Action::DriveBackup(it), Some(chain)) => it.open(server, chain, then),
            _ => then(Opened::Nothing),
        }
    }

    /// Makes the change of a disk that is held still, but for a merge. `merges` says whether something is merged later into
    /// the bitmap that it adds.
    fn make(&self, still: Option<&mut Still<'_>>, opened: Opened, merges: bool) -> Result<Made> {
        let Some(still) = still else { return Err(Error::Denied("the transaction aborts itself".into())) };
        match (self, opened) {
            (Action::BlockdevSnapshotSync(it), Opened::Overlay { file, hint }) => {
                it.make(still, file, hint).map(|()| Made::Snapshot)
            }
            (Action::DriveBackup(it), Opened::Target(target)) => it.make(still, target).map(Made::Backup),
            (Action::BlockDirtyBitmapAdd(it), _) if merges => {
                top(still)?.add_bitmap_unbegun(&it.name, &it.wanted()?).map(Made::Unbegun)
            }
            (Action::BlockDirtyBitmapAdd(it), _) => {
                top(still)?.add_bitmap(&it.name, &it.wanted()?).map(|_| Made::Added)
            }
            (Action::BlockDirtyBitmapClear(it), _) => top(still)?.freeze_bitmap(&it.name, None).map(|_| Made::Cleared),
            (Action::BlockDirtyBitmapEnable(it), _) => {
                let before = top(still)?.bitmap(&it.name)?.state;
                top(still)?.enable_bitmap(&it.name)?;
                Ok(if before == BitmapState::Recording { Made::Nothing } else { Made::Enabled })
            }
            (Action::BlockDirtyBitmapDisable(it), _) => {
                let before = top(still)?.bitmap(&it.name)?.state;
                top(still)?.disable_bitmap(&it.name)?;
                Ok(if before == BitmapState::Disabled { Made::Nothing } else { Made::Disabled })
            }
            (Action::BlockDirtyBitmapRemove(it), _) => {
                let image = top(still)?;
                // A record that is no bitmap goes by its name, too.
                let there = image.bitmaps().iter().any(|info| info.name == it.name);
                if there { Ok(Made::Removed) } else { image.bitmap(&it.name).map(|_| Made::Removed) }
            }
            (
                Action::BlockdevSnapshotSync(_)
                | Action::DriveBackup(_)
                | Action::BlockDirtyBitmapMerge(_)
                | Action::Abort {},
                _,
            ) => Err(Error::Denied("the transaction aborts itself".into())),
        }
    }

    /// All are made.
    fn keep(&self, still: Option<&mut Still<'_>>, made: &Made) -> Result<()> {
        let (Some(still), name) = (still, self.bitmap()) else { return Ok(()) };
        match (made, self) {
            (Made::Cleared, _) => top(still)?.hand_over_bitmap(name),
            (Made::Unbegun(unbegun), Action::BlockDirtyBitmapAdd(it)) => {
                top(still)?.begin_bitmap(unbegun)?;
                if it.wanted()?.recording { Ok(()) } else { top(still)?.disable_bitmap(name) }
            }
            (Made::Removed, _) => top(still)?.remove_bitmap(name),
            _ => Ok(()),
        }
    }

    /// As if it had never been made. A backup goes when its course is dropped.
    fn take_back(&self, still: Option<&mut Still<'_>>, made: &Made) -> Result<()> {
        let (Some(still), name) = (still, self.bitmap()) else { return Ok(()) };
        match made {
            Made::Snapshot => still.take_back_snapshot(),
            Made::Backup(_) | Made::Removed | Made::Nothing => Ok(()),
            Made::Added | Made::Unbegun(_) => top(still)?.remove_bitmap(name),
            Made::Cleared => top(still)?.take_back_bitmap(name),
            Made::Enabled => top(still)?.disable_bitmap(name),
            Made::Disabled => top(still)?.enable_bitmap(name),
            Made::Merged(before) => top(still)?.restore_bitmap(name, before),
        }
    }
}

fn top<'a>(still: &'a Still<'_>) -> Result<&'a Arc<Image>> {
    still.chain().image(0)
}

/// Carries out `actions`. The jobs that they begin end together, or none of them well, if they are `grouped`.
///
/// They share one instant, so their order means little; but bitmaps are those of the layer on top, so snapshots come first.
pub(super) fn carry_out(
    server: &Arc<Server>,
    mut actions: Vec<Action>,
    grouped: bool,
) -> std::result::Result<Value, Failure> {
    actions.sort_by_key(|action| !matches!(action, Action::BlockdevSnapshotSync(_)));
    let names = actions.iter().flat_map(Action::devices);
    let mut devices = names.map(|name| server.device(name).cloned()).collect::<std::result::Result<Vec<_>, _>>()?;
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    devices.dedup_by(|one, other| one.name == other.name);
    // Whoever is far may take their time: nobody waits for them yet.
    let fetched = actions.iter().map(|action| match action {
        Action::BlockDirtyBitmapMerge(it) => it.fetch(server),
        _ => Ok(Vec::new()),
    });
    let fetched = fetched.collect::<Result<Vec<_>>>()?;
    let mut seats = Vec::new();
    for action in &actions {
        seats.push(match action {
            Action::DriveBackup(it) => Some((it, server.jobs.reserve(it.job())?)),
            _ => None,
        });
    }
    // Layers are named by their numbers meanwhile.
    let _layers: Vec<_> = devices.iter().map(|device| lock(&device.layers)).collect();
    let (opened, made) = (Vec::new(), Vec::new());
    let mut all = All { server, devices: &devices, actions: &actions, fetched: &fetched, opened, made };
    let result = all.open(0);
    // Also those that are dropped take back what they began, and wait for the disks: these are no longer held.
    let made = std::mem::take(&mut all.made);
    result?;
    let group = grouped.then(Group::new);
    let mut jobs = Vec::new();
    for (made, seat) in made.into_iter().zip(seats) {
        if let (Made::Backup(course), Some((it, seat))) = (made, seat) {
            let device = server.device(&it.device)?.clone();
            jobs.push(seat.fill(device, course, it.options(), group.as_ref()));
        }
    }
    jobs.iter().for_each(|job| job.start(server));
    Ok(json!({}))
}

struct All<'a> {
    server: &'a Arc<Server>,
    devices: &'a [Arc<Device>],
    actions: &'a [Action],
    /// What each of them needs of other servers.
    fetched: &'a [Vec<Fetched>],
    opened: Vec<Opened>,
    made: Vec<Made>,
}

impl All<'_> {
    /// Opens what the actions from number `next` on need, and makes all.
    fn open(&mut self, next: usize) -> Result<()> {
        let Some(action) = self.actions.get(next) else { return self.make() };
        let chain = self.device_of(action).map(|device| device.disk.chain());
        action.open(self.server, chain.as_deref(), &mut |opened| {
            self.opened.push(opened);
            self.open(next + 1)
        })
    }

    fn make(&mut self) -> Result<()> {
        let mut still = Disk::all_still(self.devices.iter().map(|device| &device.disk));
        still.iter_mut().try_for_each(Still::thaw_left)?;
        for (number, opened) in std::mem::take(&mut self.opened).into_iter().enumerate() {
            match self.make_one(&mut still, number, opened) {
                Ok(made) => self.made.push(made),
                Err(error) => {
                    for (action, made) in self.actions.iter().zip(&self.made).rev() {
                        if let Err(error) = action.take_back(self.disk_of(&mut still, action), made) {
                            self.server.report(&error.to_string());
                        }
                    }
                    return Err(error);
                }
            }
        }
        // What goes may be all that knows what the others do, until these are on disk.
        let (last, first): (Vec<_>, Vec<_>) =
            self.actions.iter().zip(&self.made).partition(|(_, made)| matches!(made, Made::Removed));
        let mut made = first.into_iter().chain(last);
        made.try_for_each(|(action, made)| action.keep(self.disk_of(&mut still, action), made))
    }

    fn make_one(&self, still: &mut [Still<'_>], number: usize, opened: Opened) -> Result<Made> {
        let (action, later) = (&self.actions[number], &self.actions[number + 1..]);
        let same = |other: &Action| other.device() == action.device() && other.bitmap() == action.bitmap();
        let before = self.actions.iter().zip(&self.made).filter(|(other, _)| same(other));
        let merge_or_remove = matches!(action, Action::BlockDirtyBitmapMerge(_) | Action::BlockDirtyBitmapRemove(_));
        for (_, made) in before.filter(|_| !action.bitmap().is_empty()) {
            let does = match made {
                Made::Removed => "removes",
                Made::Unbegun(_) if !merge_or_remove => "adds, and merges into,",
                _ => continue,
            };
            let text =
                format!("the transaction {does} the bitmap {:?}: nothing more can be done with it", action.bitmap());
            return Err(Error::Invalid(text));
        }
        if let Action::BlockDirtyBitmapMerge(it) = action {
            let still: &[Still<'_>] = still;
            let still = |name: &str| {
                let device = self.devices.iter().find(|device| device.name == name)?;
                still.iter().find(|still| Arc::ptr_eq(still.disk(), &device.disk))
            };
            return it.make(&still, &self.fetched[number]).map(Made::Merged);
        }
        let merges = later.iter().any(|later| matches!(later, Action::BlockDirtyBitmapMerge(_)) && same(later));
        action.make(self.disk_of(still, action), opened, merges)
    }

    fn device_of(&self, action: &Action) -> Option<&Arc<Device>> {
        self.devices.iter().find(|device| Some(&*device.name) == action.device())
    }

    fn disk_of<'a, 'b>(&self, still: &'a mut [Still<'b>], action: &Action) -> Option<&'a mut Still<'b>> {
        let device = self.device_of(action)?;
        still.iter_mut().find(|still| Arc::ptr_eq(still.disk(), &device.disk))
    }
}
