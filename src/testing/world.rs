//! What a scenario is written in: a guest whose requests the models follow.

use super::crash::{Branch, Explorer, Finding, Scenario};
use super::host::SimHost;
use super::laws::{Epochs, Open, View, judge};
use super::model::{Breach, Model, Ticket};
use super::pending::Loss;
use super::sector::Sector;
use super::sim::{Fault, SimDisk};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::Uuid;
use crate::limits::SECTOR_SIZE;
use crate::storage::Host;
use crate::sync::lock;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One line of events: a disk, and what its users may expect of it.
pub struct World {
    /// The files.
    pub disk: SimDisk,
    /// Time and random bytes.
    pub host: Arc<SimHost>,
    pub(super) branch: Arc<Branch>,
    written: Arc<AtomicU64>,
}

impl World {
    pub(super) fn new(disk: SimDisk, branch: Arc<Branch>) -> World {
        let host = Arc::new(SimHost::new(branch.seed()));
        let observed = Arc::downgrade(&branch);
        disk.observe(Some(Arc::new(move |disk: &SimDisk| {
            if let Some(branch) = observed.upgrade() {
                branch.explorer.point(&branch, disk);
            }
        })));
        let written = Arc::new(AtomicU64::new(branch.first_number()));
        World { disk, host, branch, written }
    }

    /// A world in which nothing is explored: it goes the one way that its owner leads it.
    pub fn alone(scenario: &'static Scenario) -> World {
        World::new(SimDisk::new(), Explorer::lone_branch(scenario))
    }

    /// Power is lost, and `choose` says of each unit in flight which of so many choices comes true. What is left is held
    /// against the laws, and is the world from now on.
    pub fn lose_power(&mut self, mut choose: impl FnMut(u8) -> u8) {
        let pending = self.disk.pending();
        let choices: Vec<u8> = pending.choices().iter().map(|of| choose(*of) % of).collect();
        self.go_on_with(SimDisk::after(&pending.apply(&choices)));
    }

    /// As [`lose_power`](Self::lose_power), by one of the losses that have a name.
    pub fn lose(&mut self, loss: Loss) {
        self.go_on_with(self.disk.after_loss(loss));
    }

    /// Holds what each of the losses that have a name would leave now against the laws.
    pub fn judge_losses(&self) -> std::result::Result<(), Breach> {
        let views = self.views();
        let losses = if self.disk.pending().choices().is_empty() { &Loss::EACH[..1] } else { &Loss::EACH };
        losses.iter().try_for_each(|loss| {
            let judged = judge(&self.disk.after_loss(*loss), &views, &mut Epochs::default());
            judged
                .map(drop)
                .map_err(|breach| Breach::new(breach.law, format!("after a loss ({loss:?}): {}", breach.what)))
        })
    }

    /// What is expected of all disks.
    pub(super) fn views(&self) -> Vec<View> {
        lock(&self.branch.views).clone()
    }

    fn go_on_with(&mut self, disk: SimDisk) {
        disk.remember(&self.disk);
        disk.note("power is lost", 0..0);
        self.disk = disk;
        Arc::clone(&self.branch.explorer).go_on(self, true);
    }

    /// The process dies of `fault`. What the next one finds is held against the laws.
    pub fn die(&mut self, fault: Fault) {
        self.disk.arm(Fault::None);
        if fault.fails_barrier() {
            self.doubt();
        }
        self.disk.note("the process dies", 0..0);
        self.disk.kill();
        Arc::clone(&self.branch.explorer).go_on(self, false);
    }

    /// A barrier has failed: what was not flushed stays in doubt.
    pub(super) fn doubt(&self) {
        lock(&self.branch.views).iter_mut().for_each(|view| view.model.doubt());
    }

    /// The name of its scenario.
    pub fn story(&self) -> &str {
        self.branch.path.split('/').next().unwrap_or_default()
    }

    /// What broke a law so far.
    pub fn findings(&self) -> Vec<Finding> {
        self.branch.explorer.findings()
    }

    /// A disk that may be opened from now on. With `required` it must open.
    pub fn view(&mut self, name: &'static str, open: Open, model: Model, required: bool) {
        let mut views = lock(&self.branch.views);
        views.retain(|view| view.name != name);
        views.push(View { name, open, model, required, points: Vec::new(), bitmaps: Vec::new() });
    }

    /// A bitmap of `view` may tell, from now on, of the changes since this moment, under a new `since`.
    pub fn bitmap_point(&mut self, view: &str) -> Uuid {
        let since = Uuid(self.host.random());
        self.with(view, |view| view.points.push((since, Arc::new(view.model.content()))));
        since
    }

    /// Promises that `view` has a valid bitmap of this name.
    pub fn promise_bitmap(&mut self, view: &str, name: &'static str) {
        self.with(view, |view| view.bitmaps.push(name));
    }

    /// The bitmaps of `other` go on in `view`: whenever that opens it has them.
    pub fn carry_bitmaps(&mut self, view: &str, other: &str) {
        let (points, bitmaps) = self.with(other, |other| (other.points.clone(), other.bitmaps.clone()));
        self.with(view, |view| (view.points, view.bitmaps) = (points, bitmaps));
    }

    /// Whether `view` must have a valid bitmap of this name.
    pub fn promised_bitmap(&self, view: &str, name: &str) -> bool {
        self.with(view, |view| view.bitmaps.contains(&name))
    }

    /// The bitmap may be gone.
    pub fn forget_bitmap(&mut self, view: &str, name: &str) {
        self.with(view, |view| view.bitmaps.retain(|kept| *kept != name));
    }

    /// The files of `view` are older ones again, of which `model` tells. Its bitmaps go on.
    pub fn rolled_back(&mut self, view: &str, model: Model) {
        self.with(view, |view| view.model = model);
    }

    /// Promises that the view opens from now on.
    pub fn promise(&mut self, name: &str) {
        self.with(name, |view| view.required = true);
    }

    /// From now on the view may be refused.
    pub fn refusable(&mut self, name: &str) {
        let mut views = lock(&self.branch.views);
        views.iter_mut().filter(|view| view.name == name).for_each(|view| view.required = false);
    }

    /// Whether the view must open.
    pub fn promised(&self, name: &str) -> bool {
        lock(&self.branch.views).iter().any(|view| view.name == name && view.required)
    }

    /// From now on `view` may hold what `other` holds.
    pub fn becoming(&mut self, view: &str, other: &str) {
        if let Some(other) = self.model(other) {
            self.with(view, |view| view.model.becoming(&other));
        }
    }

    /// `view` has become what it was to be, durably.
    pub fn became(&mut self, view: &str) {
        self.with(view, |view| view.model.became());
    }

    /// Nobody opens the view any more.
    pub fn forget(&mut self, name: &str) {
        lock(&self.branch.views).retain(|view| view.name != name);
    }

    /// What is expected of a view.
    pub fn model(&self, name: &str) -> Option<Model> {
        lock(&self.branch.views).iter().find(|view| view.name == name).map(|view| view.model.clone())
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut View) -> T) -> T {
        let mut views = lock(&self.branch.views);
        act(views.iter_mut().find(|view| view.name == name).unwrap_or_else(|| panic!("no view {name}")))
    }

    /// Whether an earlier process was told that a barrier failed.
    pub fn barrier_failed(&self) -> bool {
        self.branch.barrier_failed()
    }

    /// A point of the exploration.
    pub fn point(&self) {
        self.branch.explorer.point(&self.branch, &self.disk);
    }

    /// Bytes that were never written before.
    fn fresh(written: &AtomicU64, range: &Range<u64>) -> Vec<u8> {
        let sectors = range.start / SECTOR_SIZE..range.end.div_ceil(SECTOR_SIZE);
        let mut bytes = Vec::new();
        for _ in sectors.clone() {
            bytes.extend_from_slice(Sector::numbered(written.fetch_add(1, Ordering::Relaxed)).bytes());
        }
        let skip = (range.start - sectors.start * SECTOR_SIZE) as usize;
        bytes[skip..skip + (range.end - range.start) as usize].to_vec()
    }

    /// The guest of `view` writes.
    pub fn write(&mut self, view: &str, device: &dyn BlockDevice, range: Range<u64>) -> Result<()> {
        self.disk.note("guest writes", range.clone());
        let data = World::fresh(&self.written, &range);
        let ticket = self.with(view, |view| view.model.begin_write(&data, range.start));
        device.write_at(&data, range.start)?;
        self.with(view, |view| view.model.end_write(ticket));
        self.point();
        Ok(())
    }

    /// The guest will write inside the `nth` barrier from now: it is not covered by that barrier. Its disk is each of
    /// `views`.
    pub fn write_inside(&mut self, nth: u64, views: &[&'static str], device: &Arc<dyn BlockDevice>, range: Range<u64>) {
        let (branch, written, disk) = (Arc::clone(&self.branch), Arc::clone(&self.written), self.disk.clone());
        let (device, views) = (Arc::clone(device), views.to_vec());
        self.disk.inside_sync(
            nth,
            Box::new(move || {
                disk.note("guest writes inside the barrier", range.clone());
                let mut world = World { disk: disk.clone(), host: Arc::new(SimHost::new(0)), branch, written };
                let data = World::fresh(&world.written, &range);
                let begin = |view: &&str| world.with(view, |view| view.model.begin_write(&data, range.start));
                let tickets: Vec<Ticket> = views.iter().map(begin).collect();
                let written = device.write_at(&data, range.start).is_ok();
                for (view, ticket) in views.iter().zip(tickets) {
                    if written {
                        world.with(view, |view| view.model.end_write(ticket));
                    } else if let Ok(settled) = world.with(view, |view| view.model.read_back(&*device, ticket)) {
                        // No space, but the guest goes on. From here on it is as it reads.
                        world.report(settled);
                    }
                }
            }),
        );
    }

    /// The guest of `view` zeroes.
    pub fn zero(&mut self, view: &str, device: &dyn BlockDevice, range: Range<u64>, unmap: bool) -> Result<()> {
        self.disk.note("guest zeroes", range.clone());
        let zeros = vec![0; (range.end - range.start) as usize];
        let ticket = self.with(view, |view| view.model.begin_write(&zeros, range.start));
        device.write_zeroes(range, unmap)?;
        self.with(view, |view| view.model.end_write(ticket));
        self.point();
        Ok(())
    }

    /// The guest of `view` discards.
    pub fn discard(&mut self, view: &str, device: &dyn BlockDevice, range: Range<u64>) -> Result<()> {
        self.disk.note("guest discards", range.clone());
        let zeros = vec![0; (range.end - range.start) as usize];
        let ticket = self.with(view, |view| view.model.begin_write(&zeros, range.start));
        device.discard(range)?;
        let settled = self.with(view, |view| view.model.read_back(device, ticket))?;
        self.report(settled);
        self.point();
        Ok(())
    }

    /// The guest of `view` flushes.
    pub fn flush(&mut self, view: &str, device: &dyn BlockDevice) -> Result<()> {
        self.disk.note("guest flushes", 0..0);
        let ticket = self.with(view, |view| view.model.begin_flush());
        device.flush()?;
        self.with(view, |view| view.model.end_flush(ticket));
        self.disk.note("flushed", 0..0);
        self.point();
        Ok(())
    }

    /// The guest's disk is resized by `act`.
    pub fn resize(&mut self, view: &str, size: u64, act: impl FnOnce() -> Result<()>) -> Result<()> {
        self.disk.note("resize", size..size + 1);
        self.with(view, |view| view.model.begin_resize(size));
        act()?;
        self.with(view, |view| view.model.end_resize());
        self.point();
        Ok(())
    }

    /// Something ends after which all that was written is durable, as after a flush.
    pub fn durable<T>(&mut self, view: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let ticket = self.with(view, |view| view.model.begin_flush());
        let result = act()?;
        self.with(view, |view| view.model.end_flush(ticket));
        self.point();
        Ok(result)
    }

    /// The guest of `view` reads all of its disk, which must be as the model says now.
    pub fn read(&mut self, view: &str, device: &dyn BlockDevice) {
        let checked = self.with(view, |view| view.model.check(device));
        self.report(checked.map(drop));
    }

    /// Takes note of a breach.
    pub fn report(&mut self, result: std::result::Result<(), Breach>) {
        if let Err(breach) = result {
            self.branch.explorer.found(&self.branch, &self.disk, breach);
        }
    }
}
