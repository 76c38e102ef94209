//! `drive-backup`: what it says, and the backup of a disk that is held still.

use super::commands::{Command, Mode};
use super::course::Course;
use super::files::{TargetFormat, TargetMode};
use super::job::{OnError, Options};
use super::server::Server;
use super::transaction::{self, Action, Opened};
use super::wire::Failure;
use crate::chain::{Chain, Layer};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::live::{BackupOptions, BackupPlan, Still};
use crate::sync::Arc;
use serde::Deserialize;
use serde_json::Value;

/// Copies the disk, as it is at this instant, into `target`, while its guest goes on.
///
/// `sync` says what: all (`full`); what `bitmap` has dirty (`incremental`, or `bitmap`), into an overlay of `previous`, or
/// onto a raw copy that there is; or nothing (`none`): `target` is then a scratch file in which what the guest overwrites is
/// kept, and the disk of this instant can be exported under the job's name until the job ends: with `job-complete` if
/// whoever pulled it has everything, else with `job-cancel`.
///
/// With `bitmap` and the `bitmap-mode` `on-success` a new count of the bitmap begins at this instant. It counts once the
/// backup is durable; if the job ends otherwise the bitmap is as if the backup had never begun.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct DriveBackup {
    job_id: Option<String>,
    pub(super) device: String,
    target: String,
    sync: Sync,
    format: Option<TargetFormat>,
    #[serde(default)]
    mode: Mode,
    bitmap: Option<String>,
    bitmap_mode: Option<BitmapMode>,
    previous: Option<String>,
    granularity: Option<u64>,
    #[serde(default)]
    speed: u64,
    #[serde(default)]
    on_source_error: OnError,
    #[serde(default)]
    on_target_error: OnError,
    auto_finalize: Option<bool>,
    auto_dismiss: Option<bool>,
}

/// What of a disk is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sync {
    Full,
    Incremental,
    Bitmap,
    None,
}

/// What becomes of the bitmap. There is no "always": a backup with a hole in it is none that another could follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BitmapMode {
    OnSuccess,
    Never,
}

impl Command for DriveBackup {
    fn run(self, server: &Arc<Server>) -> std::result::Result<Value, Failure> {
        transaction::carry_out(server, vec![Action::DriveBackup(self)], false)
    }
}

impl DriveBackup {
    /// The name of the job.
    pub(super) fn job(&self) -> &str {
        self.job_id.as_ref().unwrap_or(&self.device)
    }

    pub(super) fn options(&self) -> Options {
        let (speed, at_source, at_target) = (self.speed, self.on_source_error, self.on_target_error);
        Options::new(speed, at_source, at_target, self.auto_finalize, self.auto_dismiss)
    }

    /// A scratch file has no need to say what it is.
    fn format(&self) -> TargetFormat {
        let usual = if self.sync == Sync::None { TargetFormat::Raw } else { TargetFormat::Lvd };
        self.format.unwrap_or(usual)
    }

    fn by_bitmap(&self) -> bool {
        matches!(self.sync, Sync::Incremental | Sync::Bitmap)
    }

    /// What makes no sense is said before anything is opened.
    fn check(&self) -> Result<()> {
        let wrong = |text: &str| Err(Error::Invalid(text.into()));
        let granularity = self.granularity.unwrap_or(4096);
        match (self.format(), self.mode) {
            _ if self.by_bitmap() && self.bitmap.is_none() => wrong("an incremental backup goes by a 'bitmap'"),
            _ if self.bitmap.is_none() && self.bitmap_mode.is_some() => wrong("'bitmap-mode' is about a 'bitmap'"),
            _ if self.sync == Sync::Incremental && self.bitmap_mode == Some(BitmapMode::Never) => {
                wrong("'incremental' begins a new count: 'bitmap' is the one that need not")
            }
            _ if self.sync == Sync::Bitmap && self.bitmap_mode.is_none() => {
                wrong("say by 'bitmap-mode' what becomes of the bitmap")
            }
            _ if !granularity.is_power_of_two() || !(4096..=64 << 20).contains(&granularity) => {
                wrong("'granularity' must be a power of 2 in range [4K, 64M]")
            }
            (TargetFormat::Lvd, _) if self.by_bitmap() != self.previous.is_some() => {
                wrong("an incremental backup into an LVD image, and no other, lies on the 'previous' one")
            }
            (TargetFormat::Raw, _) if self.previous.is_some() => wrong("a raw file has no 'previous' backup below it"),
            (TargetFormat::Raw, Mode::AbsolutePaths) if self.by_bitmap() => {
                wrong("an incremental backup into a raw file changes one that is there: 'mode' is 'existing'")
            }
            _ => Ok(()),
        }
    }

    /// Opens what a disk of these layers is copied into.
    pub(super) fn open(
        &self,
        server: &Server,
        chain: &Chain,
        then: &mut dyn FnMut(Opened) -> Result<()>,
    ) -> Result<()> {
        self.check()?;
        let size = chain.size();
        let mut opened = |chain| then(Opened::Target(chain));
        match (&self.previous, self.mode) {
            (Some(previous), _) => server.files.increment(&self.target, previous, size, &mut opened),
            (None, _) if self.by_bitmap() => {
                server.files.target(&self.target, self.format(), size, TargetMode::Kept, &mut opened)
            }
            (None, Mode::Existing) => {
                server.files.target(&self.target, self.format(), size, TargetMode::Existing, &mut opened)
            }
            (None, Mode::AbsolutePaths) => {
                server.files.target(&self.target, self.format(), size, TargetMode::New, &mut opened)
            }
        }
    }

    pub(super) fn make(&self, still: &mut Still<'_>, target: Chain) -> Result<Course> {
        let begins = self.bitmap_mode != Some(BitmapMode::Never);
        let bitmap = self.bitmap.as_deref();
        let usual = BackupOptions::default();
        let granularity = self.granularity.unwrap_or(usual.granularity);
        let options = BackupOptions { bitmap: bitmap.filter(|_| begins), granularity };
        if self.sync == Sync::None {
            return still.pull(&target, &options).map(Course::Pull);
        }
        let plan = match bitmap.filter(|_| self.by_bitmap()) {
            None => BackupPlan::Full { target: &target, fresh: is_fresh(target.layer(0)?) },
            Some(dirty) if self.previous.is_some() => BackupPlan::Incremental { target: &target, dirty, since: None },
            Some(dirty) => BackupPlan::Onto { target: &target, dirty },
        };
        let job = Box::new(still.backup(&plan, &options)?);
        Ok(Course::Once { job, target: Some(target) })
    }
}

/// Whether a target that was just made reads as zeros.
fn is_fresh(target: &Layer) -> bool {
    match target {
        Layer::Raw(raw) => raw.storage().zeros_when_new(),
        Layer::Lvd(_) | Layer::Foreign(_) => true,
    }
}
