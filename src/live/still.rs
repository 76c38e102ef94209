//! A disk while no request is under way: what is done at one instant.

use super::disk::{Disk, Serving};
use super::mirror::SHARE;
use super::point::{Attached, LiveBackup, PointInTime, Pull};
use crate::chain::{Chain, Layer};
use crate::error::{Error, Result};
use crate::format::Uuid;
use crate::image::{BitmapInfo, CreateOptions, Image, OpenOptions};
use crate::jobs::{Backup, Count, Job, Work};
use crate::storage::{LockMode, Storage};
use crate::switch::{Step, skipped};
use crate::sync::{Arc, RwLockWriteGuard};

/// A disk that is held still.
#[derive(Debug)]
pub struct Still<'a> {
    disk: &'a Arc<Disk>,
    pub(super) serving: RwLockWriteGuard<'a, Serving>,
    /// What is below a new overlay: others may read it when this is dropped.
    left: Option<Layer>,
    /// What earlier backups left frozen was taken back.
    thawed: bool,
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        // Else they may not, which costs nobody anything.
        let _ = self.left.as_ref().map(|left| left.lock(LockMode::Shared));
    }
}

/// How a backup goes on beside its guest.
#[derive(Debug, Clone, Copy)]
pub struct BackupOptions<'a> {
    /// The bitmap of which a new count begins at the instant of the backup; a full one makes it, if it is not there. The new
    /// count is taken back if the backup does not end well.
    pub bitmap: Option<&'a str>,
    /// Bytes that are copied together before the guest changes any of them, a power of two. Of a plan that goes by a bitmap
    /// they are the bitmap's.
    pub granularity: u64,
}

impl Default for BackupOptions<'_> {
    fn default() -> Self {
        BackupOptions { bitmap: None, granularity: 64 << 10 }
    }
}

/// What a backup copies of a disk, and into what.
#[derive(Debug)]
pub enum BackupPlan<'a> {
    /// All of it, into a target that was created with a copy mark, or is raw; `fresh` if that is known to read as zeros.
    Full {
        /// Its top is written.
        target: &'a Chain,
        /// See [`Mirror::full`](crate::jobs::Mirror::full).
        fresh: bool,
    },
    /// What the bitmap has dirty, into an overlay of the backup before, created with a copy mark. See
    /// [`Backup::incremental`].
    Incremental {
        /// Its top is written, the layer below is the backup before.
        target: &'a Chain,
        /// The bitmap.
        dirty: &'a str,
        /// What to expect of a backup before that cannot say so.
        since: Option<Uuid>,
    },
    /// What the bitmap has dirty, onto a copy of the disk as it was at the bitmap's start. See [`Backup::onto`].
    Onto {
        /// Its top is written.
        target: &'a Chain,
        /// The bitmap.
        dirty: &'a str,
    },
}

impl<'a> Still<'a> {
    pub(super) fn new(disk: &'a Arc<Disk>, serving: RwLockWriteGuard<'a, Serving>) -> Still<'a> {
        Still { disk, serving, left: None, thawed: false }
    }

    /// Which disk it is. Whatever asks it for its layers waits until it is no longer held.
    #[must_use]
    pub fn disk(&self) -> &Arc<Disk> {
        self.disk
    }

    /// Its layers as they are now.
    #[must_use]
    pub fn chain(&self) -> &Arc<Chain> {
        &self.serving.chain
    }

    /// Puts a new overlay, made in the empty `storage`, on top: what the guest writes from now on goes there, and what
    /// was the top holds this instant's content under a sealed epoch. `hint` is how the overlay finds it.
    ///
    /// # Errors
    /// `Denied` while a job runs, or if `storage` is a file of this disk; what sealing and creating meet. The guest then goes
    /// on with the old top.
    pub fn snapshot(&mut self, storage: Arc<dyn Storage>, hint: String, granularity_shift: u8) -> Result<()> {
        self.serving.check_idle("a snapshot")?;
        self.serving.check_strange(&*storage)?;
        if self.left.is_some() {
            return Err(Error::Invalid("one instant has one snapshot of a disk".into()));
        }
        let old = self.serving.chain.layer(0)?.clone();
        storage.lock(LockMode::Exclusive)?;
        self.thaw_left()?;
        // Durable and sealed before anything names it; the new file durable before the guest writes to it.
        old.close()?;
        let bitmaps: Vec<BitmapInfo> = match old.image() {
            Some(image) => image.bitmaps().into_iter().filter(BitmapInfo::records).collect(),
            None => Vec::new(),
        };
        let made = self.overlay(&old, storage, hint, granularity_shift, &bitmaps);
        // Whoever finds no overlay goes on with the old top, in which they record until then.
        let rests = |image| old.image().map_or(Ok(()), |old| old.rest_below_overlay(&bitmaps)).map(|()| image);
        match made.and_then(rests) {
            Ok(image) => {
                let layers =
                    std::iter::once(Layer::Lvd(Arc::new(image))).chain(self.serving.chain.layers.iter().cloned());
                self.serving.chain = Arc::new(Chain::from_layers(layers.collect(), self.disk.host.clone()));
                self.left = Some(old);
                Ok(())
            }
            Err(error) => {
                go_on(&old, &bitmaps);
                Err(error)
            }
        }
    }

    /// An overlay of `old` in `storage`, with the bitmaps that recorded until now.
    fn overlay(
        &self,
        old: &Layer,
        storage: Arc<dyn Storage>,
        hint: String,
        granularity_shift: u8,
        bitmaps: &[BitmapInfo],
    ) -> Result<Image> {
        let parent = Some(old.link(old.size(), hint)?);
        // Without its bitmaps it must not be found and taken for the disk.
        let copy_mark = !bitmaps.is_empty() && !skipped(Step::BitmapsGoOn);
        let options = CreateOptions {
            virtual_size: old.size(),
            granularity_shift,
            parent,
            copy_mark,
            ..CreateOptions::default()
        };
        Image::create(&*storage, &*self.disk.host, &options)?;
        let options = OpenOptions { write: true, ignore_marks: copy_mark, ..OpenOptions::default() };
        let image = Image::open(storage, self.disk.host.clone(), &options)?;
        image.set_below(Some(old.device()));
        if let Some(old) = old.image() {
            image.take_over_bitmaps(old, bitmaps)?;
        }
        if copy_mark {
            image.clear_copy_mark()?;
        }
        Ok(image)
    }
    /// Takes back a [`snapshot`](Self::snapshot) that was taken under this hold: the overlay, to which nobody has written,
    /// is no layer of the disk any more.
    ///
    /// # Errors
    /// `Invalid` if there was none.
    pub fn take_back_snapshot(&mut self) -> Result<()> {
        let none = || Error::Invalid("no snapshot was taken that could be taken back".into());
        let old = self.left.take().ok_or_else(none)?;
        let overlay = self.serving.chain.image(0)?.clone();
        let layers = self.serving.chain.layers[1..].to_vec();
        self.serving.chain = Arc::new(Chain::from_layers(layers, self.disk.host.clone()));
        go_on(&old, &overlay.bitmaps());
        Ok(())
    }

    /// A job that copies the disk as it is now; what the guest is about to change is copied first. Whatever a copy meets
    /// that is made for a write of the guest is the job's failure, never the guest's.
    ///
    /// # Errors
    /// `Denied` while another job runs, or if the target is a layer of this disk; as [`Backup::full`],
    /// [`Backup::incremental`] and [`Backup::onto`]; what freezing the bitmap meets.
    pub fn backup(&mut self, plan: &BackupPlan<'_>, options: &BackupOptions<'_>) -> Result<Job> {
        self.serving.check_idle("a backup")?;
        let chain = self.serving.chain.clone();
        let (target, dirty) = match *plan {
            BackupPlan::Full { target, .. } => (target, None),
            BackupPlan::Incremental { target, dirty, .. } | BackupPlan::Onto { target, dirty } => (target, Some(dirty)),
        };
        self.serving.check_target(target)?;
        let top = target.layer(0)?.clone();
        self.thaw_left()?;
        let count = self.count(options.bitmap)?;
        let backup = match *plan {
            BackupPlan::Full { fresh, .. } => Backup::full(&chain, top.clone(), fresh, count)?,
            BackupPlan::Incremental { since, dirty, .. } => Backup::incremental(&chain, target, dirty, since, count)?,
            BackupPlan::Onto { dirty, .. } => Backup::onto(&chain, top.clone(), dirty, count)?,
        };
        let granularity = if dirty.is_some() { 0 } else { options.granularity };
        let attached = self.attach(backup, &top, granularity, true, None)?;
        let job = Job::new(LiveBackup { point: attached }, self.disk.host.clone());
        job.set_share(SHARE);
        Ok(job)
    }

    /// The disk as it is now, for others to read while the guest goes on; what it is about to change is kept in `scratch`,
    /// a new file or volume. Of the bitmap in `options` they may ask what it has dirty.
    ///
    /// # Errors
    /// As [`backup`](Self::backup).
    pub fn pull(&mut self, scratch: &Chain, options: &BackupOptions<'_>) -> Result<Pull> {
        self.serving.check_idle("a backup")?;
        self.serving.check_target(scratch)?;
        self.thaw_left()?;
        let (chain, store) = (self.serving.chain.clone(), scratch.layer(0)?.clone());
        let count = self.count(options.bitmap)?;
        let known = options.bitmap.filter(|name| chain.image(0).is_ok_and(|image| image.bitmap(name).is_ok()));
        let (backup, granularity) = match known {
            Some(name) => (Backup::onto(&chain, store.clone(), name, count)?, 0),
            None => (Backup::full(&chain, store.clone(), false, count)?, options.granularity),
        };
        self.attach(backup, &store, granularity, false, known.map(str::to_owned)).map(Pull::new)
    }

    /// A new count of `bitmap`.
    fn count(&self, bitmap: Option<&str>) -> Result<Option<Count>> {
        let Some(name) = bitmap else { return Ok(None) };
        let image = self.serving.chain.image(0)?.clone();
        Ok(Some(Count::new(image, name, Uuid(self.disk.host.random()))))
    }

    /// Takes back what backups left frozen whose process died, unless a job runs, which may have frozen it: these bitmaps
    /// record, and go on with the guest (BMP-08). What is frozen under this hold stays so.
    ///
    /// # Errors
    /// What the host meets.
    pub fn thaw_left(&mut self) -> Result<()> {
        if self.thawed || self.serving.check_idle("it").is_err() {
            return Ok(());
        }
        self.serving.thaw_left()?;
        self.thawed = true;
        Ok(())
    }

    fn attach(
        &mut self,
        backup: Backup,
        store: &Layer,
        granularity: u64,
        complete: bool,
        dirty: Option<String>,
    ) -> Result<Attached> {
        backup.prepare()?;
        let source = self.serving.chain.top();
        let point = Arc::new(PointInTime::new(backup, source, store, granularity, complete, dirty)?);
        point.backup().begin_count()?;
        let number = self.serving.begin("backup")?;
        self.serving.point = Some(point.clone());
        Ok(Attached { point, disk: self.disk.clone(), number })
    }
}

/// The guest goes on with `old`, and so do those `bitmaps` that recorded until now: they have missed nothing.
fn go_on(old: &Layer, bitmaps: &[BitmapInfo]) {
    if let Some(old) = old.image() {
        bitmaps.iter().for_each(|info| drop(old.enable_bitmap(&info.name)));
    }
}
