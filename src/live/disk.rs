//! What a guest holds on to, while layers come and go beneath it.

use super::comparison::Sides;
use super::mirror::{Change, LiveMirror, MirrorOptions, SHARE};
use super::point::PointInTime;
use super::still::Still;
use crate::chain::{Chain, Layer};
use crate::device::{BlockDevice, Extent, Request};
use crate::error::{Error, Result};
use crate::format::{BitmapState, SectionKind};
use crate::image::{BitmapInfo, Image};
use crate::jobs::{Job, Lacking, Merge, Mirror, ResumableMirror, Stream, Work};
use crate::storage::{Host, LockMode, Storage};
use crate::switch::{Mistake, Step, planted, skipped};
use crate::sync::{Arc, AtomicU64, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard, read, write};
use std::ops::{Range, RangeInclusive};

/// A disk that a guest uses from any number of threads, and whose layers jobs change meanwhile.
///
/// Every request holds the disk for reading while it runs. What replaces a layer holds it for writing: no request is
/// under way then, and the next one sees the new layers (ORD-91). One job that changes layers runs at a time. Jobs yield:
/// while the guest makes requests they work for 30 % of the time, or move as much as it does, unless told otherwise
/// ([`Job::set_share`], [`LiveMirror::set_share`]).
#[derive(Debug)]
pub struct Disk {
    serving: RwLock<Serving>,
    /// See [`Work::load`]: jobs yield to it.
    load: Arc<AtomicU64>,
    pub(super) host: Arc<dyn Host>,
}

#[derive(Debug)]
pub(super) struct Serving {
    pub(super) chain: Arc<Chain>,
    copy_on_read: bool,
    /// The job that has the layers to itself, and its number.
    job: Option<(&'static str, u64)>,
    /// Jobs so far.
    jobs: u64,
    mirror: Option<Mirroring>,
    /// What the guest changes is copied for it first.
    pub(super) point: Option<Arc<PointInTime>>,
    /// Why nobody knows whether this is the disk still (GRP-14).
    in_doubt: Option<String>,
}

#[derive(Debug)]
struct Mirroring {
    mirror: Arc<LiveMirror>,
    /// What the guest is moved to at a pivot.
    target: Arc<Chain>,
    /// A group has the pivot.
    in_group: bool,
}

impl Disk {
    /// Serves `chain`.
    pub fn new(chain: Chain) -> Arc<Disk> {
        let host = chain.host().clone();
        let serving = Serving {
            chain: Arc::new(chain),
            copy_on_read: false,
            job: None,
            jobs: 0,
            mirror: None,
            point: None,
            in_doubt: None,
        };
        Arc::new(Disk { serving: RwLock::new(serving), load: Arc::default(), host })
    }

    /// The layers as they are now.
    pub fn chain(&self) -> Arc<Chain> {
        read(&self.serving).chain.clone()
    }

    /// Whether a change of `range` has to reach another machine before it is answered: a mirror's target, or a backup that
    /// gets first what was there.
    pub fn follows_far(&self, range: &Range<u64>) -> bool {
        let serving = read(&self.serving);
        let mirrored = |it: &Mirroring| it.target.layers.iter().any(Layer::is_far) && it.mirror.goes_through();
        serving.mirror.as_ref().is_some_and(mirrored)
            || serving.point.as_ref().is_some_and(|point| point.asks_far(range))
    }

    /// Lets others read the layers below the top, which may be open for writing: a merge locks them against others before
    /// it writes to them.
    ///
    /// # Errors
    /// The host's.
    pub fn share_below(&self) -> Result<()> {
        free(&read(&self.serving).chain.layers[1..])
    }

    /// Whether what the guest reads from below is kept in the top layer. It is then fetched once.
    ///
    /// A read succeeds even where the copy does not (no space): keeping is a favour, reading is not.
    pub fn set_copy_on_read(&self, on: bool) {
        write(&self.serving).copy_on_read = on;
    }

    /// As [`Still::snapshot`].
    ///
    /// # Errors
    /// As [`Still::snapshot`].
    pub fn snapshot(self: &Arc<Self>, storage: Arc<dyn Storage>, hint: String, granularity_shift: u8) -> Result<()> {
        self.still().snapshot(storage, hint, granularity_shift)
    }

    /// Holds the disk still: on return no request is under way, and the next one waits until what is returned is dropped.
    pub fn still(self: &Arc<Self>) -> Still<'_> {
        Still::new(self, write(&self.serving))
    }

    /// Holds several disks still at one instant; returns each once, in the order in which they are given. Two callers that
    /// want the same ones never wait for each other.
    pub fn all_still<'a>(disks: impl IntoIterator<Item = &'a Arc<Disk>>) -> Vec<Still<'a>> {
        let mut disks: Vec<(usize, &Arc<Disk>)> = disks.into_iter().enumerate().collect();
        disks.sort_by_key(|(_, disk)| Arc::as_ptr(disk));
        disks.dedup_by(|(_, one), (_, other)| Arc::ptr_eq(one, other));
        let mut still: Vec<_> = disks.into_iter().map(|(number, disk)| (number, disk.still())).collect();
        still.sort_by_key(|(number, _)| *number);
        still.into_iter().map(|(_, still)| still).collect()
    }

    /// A job that takes over what the layers above number `base` hold (`None`: all layers) into the top.
    ///
    /// # Errors
    /// `Denied` while another job runs; as [`Stream::new`].
    pub fn stream(self: &Arc<Self>, base: Option<usize>) -> Result<Job> {
        let mut serving = write(&self.serving);
        serving.check_idle("a stream")?;
        let work = Stream::new(&serving.chain, base)?;
        let gone = 1..base.unwrap_or(serving.chain.layers.len());
        // What is written is the top alone, which the guest goes on writing to.
        self.job(&mut serving, Box::new(work), gone, 0..0)
    }

    /// A job that merges layer `top`, which is not the one that the guest writes to, and those between into layer `base`.
    /// The layers below `top` down to `base` must be open for writing. They are locked against others (CHN-11) until the
    /// merge is finished; those of one that is not are locked until the disk is closed: their marks keep others out anyway.
    ///
    /// # Errors
    /// `Invalid` for the top of the disk (see [`merge_active`](Self::merge_active)), `Denied` while another job runs,
    /// `Locked` if somebody else reads one of the layers; as [`Merge::new`].
    pub fn merge(self: &Arc<Self>, top: usize, base: usize) -> Result<Job> {
        if top == 0 {
            return Err(Error::Invalid("the guest writes to layer 0: merging it is a mirror into its base".into()));
        }
        let mut serving = write(&self.serving);
        serving.check_idle("a merge")?;
        let work = Merge::new(&serving.chain, top, base, false)?;
        serving.claim(top..=base)?;
        self.job(&mut serving, Box::new(work), top + 1..base, top..top + 2)
    }

    fn job(
        self: &Arc<Self>,
        serving: &mut Serving,
        work: Box<dyn Work>,
        gone: Range<usize>,
        written: Range<usize>,
    ) -> Result<Job> {
        let number = serving.begin(work.kind())?;
        let job = Job::new(Reshaping { work, disk: self.clone(), number, gone, written }, self.host.clone());
        job.set_share(SHARE);
        Ok(job)
    }

    /// Copies the disk into `target`, a chain whose top was created with a copy mark or is raw, and keeps it equal.
    ///
    /// # Errors
    /// `Denied` while another job runs, or if the target is a layer of this disk; `Invalid` if it is longer than the disk,
    /// which would grow by a pivot; as [`Mirror::full`].
    pub fn mirror(&self, target: Chain) -> Result<Arc<LiveMirror>> {
        self.mirror_with(target, &MirrorOptions::default())
    }

    /// As [`mirror`](Self::mirror), in the way that `options` say.
    ///
    /// # Errors
    /// As [`mirror`](Self::mirror).
    pub fn mirror_with(&self, target: Chain, options: &MirrorOptions) -> Result<Arc<LiveMirror>> {
        self.mirror_into(target, |chain, top| {
            let work = Mirror::full(chain.top(), top.clone(), false)?;
            Ok(self.live(work, None, Sides { source: chain.layer(0)?.clone(), target: top.clone() }, options))
        })
    }

    /// As [`mirror_with`](Self::mirror_with), and goes on after a restart: the sync bitmap `name` of the guest's layer, of
    /// granules of `2^granularity_shift` bytes, says what the target lacks. It goes with a pivot or split, and stays
    /// otherwise, so that the same call takes up the same target again.
    ///
    /// # Errors
    /// As [`mirror`](Self::mirror) and [`ResumableMirror::new`].
    pub fn mirror_resumable(
        &self,
        target: Chain,
        name: &str,
        granularity_shift: u8,
        options: &MirrorOptions,
    ) -> Result<Arc<LiveMirror>> {
        self.mirror_into(target, |chain, top| {
            let work = ResumableMirror::new(chain, top.clone(), name, granularity_shift, false)?;
            let lacking = Some(work.lacking().clone());
            Ok(self.live(work, lacking, Sides { source: chain.layer(0)?.clone(), target: top.clone() }, options))
        })
    }

    /// As [`mirror_with`](Self::mirror_with), of the guest's layer alone: the top of `target` is an image on what that layer
    /// lies on. A pivot leaves the guest on it, with the layers below that it has.
    ///
    /// # Errors
    /// As [`mirror`](Self::mirror) and [`Mirror::top`]; `Invalid` if the guest's layer lies on nothing.
    pub fn mirror_top(&self, target: &Chain, options: &MirrorOptions) -> Result<Arc<LiveMirror>> {
        self.attach("a mirror", |serving| {
            let (source, top) = (&serving.chain, target.layer(0)?.clone());
            serving.check_target(target)?;
            let layers = std::iter::once(&top).chain(&source.layers[1..]).cloned().collect();
            let target = Chain::from_layers(layers, self.host.clone());
            let work = Mirror::top(source, &target)?;
            top.set_below(target.layer(1)?.device());
            Ok((self.live(work, None, Sides { source: source.layer(0)?.clone(), target: top }, options), target))
        })
    }

    /// `make` makes the mirror of the disk into the top of `target`.
    fn mirror_into(
        &self,
        target: Chain,
        make: impl FnOnce(&Chain, &Layer) -> Result<LiveMirror>,
    ) -> Result<Arc<LiveMirror>> {
        self.attach("a mirror", |serving| {
            serving.check_target(&target)?;
            Ok((make(&serving.chain, target.layer(0)?)?, target))
        })
    }

    /// Merges the layer that the guest writes to, and those between, into layer `base`, and keeps that equal; a pivot
    /// then makes `base` the guest's disk. All layers down to `base` must be open for writing. They are locked as for
    /// [`merge`](Self::merge).
    ///
    /// # Errors
    /// `Denied` while another job runs; `Invalid` if `base` is longer than the disk, which would grow by the pivot;
    /// `Locked`; as [`Merge::new`].
    pub fn merge_active(&self, base: usize) -> Result<Arc<LiveMirror>> {
        self.merge_active_with(base, &MirrorOptions::default())
    }

    /// As [`merge_active`](Self::merge_active), in the way that `options` say.
    ///
    /// # Errors
    /// As [`merge_active`](Self::merge_active).
    pub fn merge_active_with(&self, base: usize, options: &MirrorOptions) -> Result<Arc<LiveMirror>> {
        self.attach("a merge", |serving| {
            let work = Merge::new(&serving.chain, 0, base, false)?;
            let rest: Vec<Layer> = serving.chain.layers[base..].to_vec();
            let target = Chain::from_layers(rest, self.host.clone());
            serving.check_size(&target)?;
            serving.claim(0..=base)?;
            let sides = Sides { source: serving.chain.layer(0)?.clone(), target: target.layer(0)?.clone() };
            Ok((self.live(work, None, sides, options), target))
        })
    }

    fn live(
        &self,
        work: impl Work + 'static,
        lacking: Option<Arc<Lacking>>,
        sides: Sides,
        options: &MirrorOptions,
    ) -> LiveMirror {
        LiveMirror::new(work, lacking, sides, self.host.clone(), self.load.clone(), options)
    }

    /// Makes a mirror and lets it see what the guest changes from now on (ORD-95): no request is under way when that
    /// begins, so every later change is seen by the mirror, and every earlier one by the copier. What must be durable first
    /// becomes so while the guest goes on.
    fn attach(
        &self,
        wanted: &str,
        make: impl FnOnce(&Serving) -> Result<(LiveMirror, Chain)>,
    ) -> Result<Arc<LiveMirror>> {
        let (mirror, target, number) = {
            let mut serving = write(&self.serving);
            serving.check_idle(wanted)?;
            let (mirror, target) = make(&serving)?;
            let number = serving.begin(mirror.kind())?;
            (Arc::new(mirror), Arc::new(target), number)
        };
        let prepared = mirror.prepare();
        let mut serving = write(&self.serving);
        serving.end(number);
        prepared?;
        serving.mirror = Some(Mirroring { mirror: mirror.clone(), target, in_group: false });
        Ok(mirror)
    }

    /// Moves the guest to the mirror's target, which is durably the whole disk by then, and returns the old layers.
    ///
    /// The guest waits only for the last of the lag and the barriers. Before the return it wrote to the source alone,
    /// after it to the target alone.
    ///
    /// # Errors
    /// `Denied` before the mirror is ready, and while a comparison is not over. What the last copies and barriers meet: the
    /// guest goes on with the source, and so does the mirror.
    pub fn pivot(&self, mirror: &Arc<LiveMirror>) -> Result<Arc<Chain>> {
        self.complete(mirror, true)?.move_to_target().ok_or_else(not_attached)
    }

    /// Ends the mirror with a target that is, durably, the disk of this instant; the guest stays where it is.
    /// Returns the target.
    ///
    /// # Errors
    /// As [`pivot`](Self::pivot); `Invalid` for a merge, whose target is a layer of this disk.
    pub fn split(&self, mirror: &Arc<LiveMirror>) -> Result<Arc<Chain>> {
        if mirror.kind() != "mirror" {
            return Err(Error::Invalid(format!("a {} ends in a pivot, or is abandoned", mirror.kind())));
        }
        let mut serving = self.complete(mirror, false)?;
        serving.mirror.take().map(|mirroring| mirroring.target).ok_or_else(not_attached)
    }

    /// Ends the mirror at once. The target is no copy, and goes on saying so; of a merge, the base keeps its mark until
    /// a merge is finished. Returns the target.
    ///
    /// # Errors
    /// `Invalid` if it is not this disk's mirror.
    pub fn abandon(&self, mirror: &Arc<LiveMirror>) -> Result<Arc<Chain>> {
        let mut serving = write(&self.serving);
        serving.check_attached(mirror)?;
        mirror.stop();
        serving.mirror.take().map(|mirroring| mirroring.target).ok_or_else(not_attached)
    }

    /// Makes the mirror's target count (ORD-97); with `moves` the bitmaps are in it. The disk is held still on return.
    fn complete(&self, mirror: &Arc<LiveMirror>, moves: bool) -> Result<RwLockWriteGuard<'_, Serving>> {
        self.check_ready(mirror)?;
        let _completing = mirror.completing();
        mirror.catch_up()?;
        let serving = self.held();
        serving.last_look(mirror, moves)?;
        match mirror.finish() {
            Err(error) if !planted(Mistake::FinishUnchecked) => return Err(error),
            _ => mirror.stop(),
        }
        Ok(serving)
    }

    /// Whether the mirror is this disk's, and its target was equal once, and was found so if that was asked.
    pub(super) fn check_ready(&self, mirror: &Arc<LiveMirror>) -> Result<()> {
        let serving = read(&self.serving);
        serving.check_doubt()?;
        serving.check_attached(mirror)?;
        match mirror.progress().ready {
            true => mirror.check_compared(),
            false => Err(Error::Denied(format!("the {} is not ready yet", mirror.kind()))),
        }
    }

    /// Gives the pivot to the mirror's target to a group, if no other one has it.
    pub(super) fn begin_move(&self, mirror: &Arc<LiveMirror>) -> Result<()> {
        self.check_ready(mirror)?;
        let mut serving = write(&self.serving);
        let name = serving.chain.name().to_string();
        match serving.attached(mirror)? {
            Mirroring { in_group: true, .. } => Err(Error::Denied(format!("{name}: it is in another group"))),
            mirroring => {
                mirroring.in_group = true;
                Ok(())
            }
        }
    }

    /// The group has it no more.
    pub(super) fn end_move(&self, mirror: &Arc<LiveMirror>) {
        if let Ok(mirroring) = write(&self.serving).attached(mirror) {
            mirroring.in_group = false;
        }
    }

    /// Holds the disk still: no request is under way until the result is dropped.
    pub(super) fn held(&self) -> RwLockWriteGuard<'_, Serving> {
        write(&self.serving)
    }

    /// The images that the guest writes to and is mirrored to, if they are of LVD.
    pub(super) fn sides(&self) -> (Option<Arc<Image>>, Option<Arc<Image>>) {
        let serving = read(&self.serving);
        let top = |chain: &Arc<Chain>| chain.image(0).ok().cloned();
        (top(&serving.chain), serving.mirror.as_ref().and_then(|mirroring| top(&mirroring.target)))
    }

    /// Sets the size of the disk in bytes.
    ///
    /// # Errors
    /// `Denied` while a job runs, or if the top is raw; as [`Image::resize`].
    pub fn resize(&self, size: u64) -> Result<()> {
        let serving = write(&self.serving);
        serving.check_idle("a resize")?;
        serving.chain.image(0)?.resize(size)
    }

    /// Closes all layers. The guest is gone.
    ///
    /// # Errors
    /// `Denied` while a job runs: it would go on writing; as [`Chain::close`].
    pub fn close(&self) -> Result<()> {
        let serving = write(&self.serving);
        serving.check_idle("closing the disk")?;
        serving.chain.close()
    }

    /// The layers are free, and nothing is copied any more before it changes, if job `number` still has them.
    pub(super) fn detach(&self, number: u64) {
        let mut serving = write(&self.serving);
        serving.end(number);
        if serving.job.is_none() {
            serving.point = None;
        }
    }

    /// See [`Work::load`].
    pub(super) fn load(&self) -> u64 {
        self.load.load(Ordering::Relaxed)
    }

    fn change(&self, change: Change<'_>) -> Result<()> {
        let serving = self.request(change.request().payload());
        if let (Some(mirroring), true) = (&serving.mirror, planted(Mistake::PivotBesideRequests)) {
            let (mirror, chain) = (mirroring.mirror.clone(), serving.chain.clone());
            drop(serving);
            return mirror.change(change, &*chain);
        }
        serving.change(change)
    }

    /// What a request of the guest that moves so many bytes runs on, and is counted for, until it is dropped.
    fn request(&self, bytes: usize) -> RwLockReadGuard<'_, Serving> {
        self.load.fetch_add(1 + bytes as u64, Ordering::Relaxed);
        read(&self.serving)
    }
}

impl Serving {
    pub(super) fn check_idle(&self, wanted: &str) -> Result<()> {
        self.check_doubt()?;
        let mirror = self.mirror.as_ref().map(|mirroring| mirroring.mirror.kind());
        match self.job.map(|(kind, _)| kind).or(mirror) {
            Some(job) => {
                let name = self.chain.name();
                Err(Error::Denied(format!("{wanted} has to wait: a {job} job has the layers of {name}")))
            }
            None => Ok(()),
        }
    }

    fn check_doubt(&self) -> Result<()> {
        match &self.in_doubt {
            Some(cause) => Err(Error::Poisoned { file: self.chain.name().into(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// From here on nothing is written: the disk may have moved elsewhere, or not (GRP-14).
    pub(super) fn doubt(&mut self, cause: String) {
        self.in_doubt = Some(cause);
    }

    /// Copies what is behind still, while the disk is held; with `moves` the bitmaps are in the target, too.
    pub(super) fn last_look(&self, mirror: &Arc<LiveMirror>, moves: bool) -> Result<()> {
        self.check_doubt()?;
        self.check_attached(mirror)?;
        if !planted(Mistake::NoLastLook) {
            mirror.drain()?;
        }
        if moves { self.carry_bitmaps() } else { Ok(()) }
    }

    /// Makes the target durable, and its name.
    pub(super) fn secure_target(&self) -> Result<()> {
        let Some(mirroring) = &self.mirror else { return Err(not_attached()) };
        if skipped(Step::TargetsDurable) {
            return Ok(());
        }
        mirroring.target.flush()?;
        mirroring.target.layer(0)?.files().iter().try_for_each(|file| file.sync_directory())
    }

    /// The guest goes on with the mirror's target. Returns what it wrote to before.
    pub(super) fn move_to_target(&mut self) -> Option<Arc<Chain>> {
        let target = self.mirror.take()?.target;
        Some(std::mem::replace(&mut self.chain, target))
    }

    /// Gives the layers to a job of its own, whose number it returns.
    pub(super) fn begin(&mut self, kind: &'static str) -> Result<u64> {
        self.check_idle(kind)?;
        self.jobs += 1;
        self.job = Some((kind, self.jobs));
        Ok(self.jobs)
    }

    /// The layers are free, if that job still has them.
    fn end(&mut self, number: u64) {
        self.job.take_if(|(_, other)| *other == number);
    }

    fn check_attached(&self, mirror: &Arc<LiveMirror>) -> Result<()> {
        let attached = self.mirror.as_ref().is_some_and(|mirroring| Arc::ptr_eq(&mirroring.mirror, mirror));
        if attached { Ok(()) } else { Err(not_attached()) }
    }

    fn attached(&mut self, mirror: &Arc<LiveMirror>) -> Result<&mut Mirroring> {
        self.mirror.as_mut().filter(|mirroring| Arc::ptr_eq(&mirroring.mirror, mirror)).ok_or_else(not_attached)
    }

    /// What is to be overwritten must not be a file of this disk.
    pub(super) fn check_strange(&self, storage: &dyn Storage) -> Result<()> {
        match self.chain.layers.iter().position(|layer| layer.is_in(storage)) {
            None => Ok(()),
            Some(index) => Err(Error::Denied(format!("{}: it is layer {index} of this disk", storage.name()))),
        }
    }

    /// A mirror's target shares no file with the disk but parents, and can get the disk's size.
    pub(super) fn check_target(&self, target: &Chain) -> Result<()> {
        let top = target.layer(0)?;
        top.files().iter().try_for_each(|file| self.check_strange(&**file))?;
        let below = |file: &Arc<dyn Storage>| target.layers.iter().any(|layer| layer.is_in(&**file));
        if self.chain.layer(0)?.files().iter().any(below) {
            return Err(Error::Denied(format!("{}: it lies on the disk itself", target.name())));
        }
        // A raw file is cut.
        match top {
            Layer::Raw(raw) if raw.storage().zeros_when_new() => Ok(()),
            _ => self.check_size(target),
        }
    }

    /// Keeps others out of layers that are about to change, or gives back what it got.
    fn claim(&self, layers: RangeInclusive<usize>) -> Result<()> {
        let first = *layers.start();
        for index in layers {
            if let Err(error) = self.chain.layer(index)?.lock(LockMode::Exclusive) {
                // Layer 0 is the guest's, and held anyway.
                let kept = first.max(1);
                let _ = free(&self.chain.layers[kept..index.max(kept)]);
                return Err(error);
            }
        }
        Ok(())
    }

    /// A pivot to `target` must leave the guest a disk of the same size.
    fn check_size(&self, target: &Chain) -> Result<()> {
        let (name, found, size) = (target.name(), target.size(), self.chain.size());
        if found <= size {
            return Ok(());
        }
        Err(Error::Invalid(format!("{name}: it has {found} bytes, more than the {size} of the disk, which would grow")))
    }

    fn change(&self, change: Change<'_>) -> Result<()> {
        self.check_doubt()?;
        if let Some(point) = &self.point {
            point.before(&change.range());
        }
        match &self.mirror {
            Some(mirroring) if planted(Mistake::TrackedLate) && mirroring.mirror.progress().copied == 0 => {
                change.apply(&*self.chain)
            }
            Some(mirroring) => mirroring.mirror.change(change, &*self.chain),
            None => change.apply(&*self.chain),
        }
    }

    /// The bitmaps go with the guest. The target holds what the source does, and nobody writes.
    fn carry_bitmaps(&self) -> Result<()> {
        let Some(mirroring) = &self.mirror else { return Ok(()) };
        match (self.chain.image(0), mirroring.target.image(0)) {
            (Ok(source), Ok(target)) => {
                self.thaw_left()?;
                let bitmaps: Vec<BitmapInfo> = source.bitmaps().into_iter().filter(BitmapInfo::records).collect();
                target.take_over_bitmaps(source, &bitmaps)
            }
            _ => Ok(()),
        }
    }

    /// Takes back what backups left frozen whose process died: these bitmaps record, and go on with the guest (BMP-08). No
    /// backup is under way.
    pub(super) fn thaw_left(&self) -> Result<()> {
        let Ok(image) = self.chain.image(0) else { return Ok(()) };
        let left = |info: &BitmapInfo| info.kind == SectionKind::Dirty && info.state == BitmapState::Frozen;
        let frozen = image.bitmaps().into_iter().filter(left);
        frozen.map(|info| info.name).try_for_each(|name| image.take_back_bitmap(&name))
    }

    fn submit(&self, batch: &mut [Request<'_>]) -> Vec<Result<()>> {
        if let Some(point) = &self.point {
            batch.iter().filter_map(Change::of).for_each(|change| point.before(&change.range()));
        }
        match &self.mirror {
            _ if self.in_doubt.is_some() => batch.iter_mut().map(|request| self.only_read(request)).collect(),
            Some(mirroring) => mirroring.mirror.submit(batch, &*self.chain),
            None => self.chain.submit(batch),
        }
    }

    /// One request of a disk that is in doubt.
    fn only_read(&self, request: &mut Request<'_>) -> Result<()> {
        match request {
            Request::Read { buffer, offset } => self.chain.read_at(buffer, *offset),
            _ => self.check_doubt(),
        }
    }

    /// Keeps what the guest is about to read from below in the top layer, if it is to. The reading itself fails, or
    /// succeeds, without it.
    fn keep(&self, range: Range<u64>) {
        let keeps = self.copy_on_read && self.in_doubt.is_none();
        if let Some(image) = self.chain.image(0).ok().filter(|image| keeps && image.writable()) {
            let _ = image.fill(range);
        }
    }
}

/// Lets others read layers again that are written no more.
fn free(layers: &[Layer]) -> Result<()> {
    layers.iter().rev().try_for_each(|layer| {
        // First: a header is never written beside readers.
        layer.close()?;
        layer.lock(LockMode::Shared)
    })
}

fn not_attached() -> Error {
    Error::Invalid("the mirror is not, or no longer, one of this disk".into())
}

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        read(&self.serving).chain.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let serving = self.request(buffer.len());
        serving.keep(offset..offset.saturating_add(buffer.len() as u64));
        serving.chain.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.change(Change::Write(data, offset))
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> Result<()> {
        self.change(Change::Zero { start: range.start, end: range.end, unmap })
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.change(Change::Discard { start: range.start, end: range.end })
    }

    /// The guest's disk alone: what a mirror's target has becomes durable at READY, and at the end.
    fn flush(&self) -> Result<()> {
        let serving = self.request(0);
        serving.check_doubt()?;
        serving.chain.flush()
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        read(&self.serving).chain.extent(offset, end)
    }

    /// All on the same layers: a batch is one request.
    fn submit(&self, batch: &mut [Request<'_>]) -> Vec<Result<()>> {
        let serving = self.request(batch.iter().map(Request::payload).sum());
        for request in batch.iter() {
            if let Request::Read { buffer, offset } = request {
                serving.keep(*offset..offset.saturating_add(buffer.len() as u64));
            }
        }
        serving.submit(batch)
    }
}

/// Work at the end of which some layers are no longer the disk's.
#[derive(Debug)]
struct Reshaping {
    work: Box<dyn Work>,
    disk: Arc<Disk>,
    /// The job's.
    number: u64,
    /// The layers that go.
    gone: Range<usize>,
    /// The layers, by their numbers afterwards, that were written and are so no more.
    written: Range<usize>,
}

impl Work for Reshaping {
    fn kind(&self) -> &'static str {
        self.work.kind()
    }

    fn total(&self) -> u64 {
        self.work.total()
    }

    fn alignment(&self) -> u64 {
        self.work.alignment()
    }

    fn prepare(&self) -> Result<()> {
        self.work.prepare()
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        self.work.piece(range)
    }

    fn checkpoint(&self) -> Result<()> {
        self.work.checkpoint()
    }

    fn finish(&self) -> Result<()> {
        self.work.finish()?;
        let chain = {
            let mut serving = write(&self.disk.serving);
            let mut layers = serving.chain.layers.clone();
            layers.drain(self.gone.clone());
            serving.chain = Arc::new(Chain::from_layers(layers, self.disk.host.clone()));
            serving.chain.clone()
        };
        // The guest goes on: it does not write to these.
        let freed = free(&chain.layers[self.written.clone()]);
        write(&self.disk.serving).end(self.number);
        freed
    }

    fn load(&self) -> u64 {
        self.disk.load()
    }
}

impl Drop for Reshaping {
    fn drop(&mut self) {
        write(&self.disk.serving).end(self.number);
    }
}
