//! All commands. Each is a structure of its arguments, which is also what a client may say.

use super::backup::DriveBackup;
use super::course::{Course, Files};
use super::exports::{ExportAdd, ExportDel, QueryExports};
use super::files::{TargetFormat, TargetMode};
use super::job::{OnError, Options};
use super::merge::BitmapMerge;
use super::query;
use super::server::{Device, Server};
use super::together::Together;
use super::transaction::{self, Action, Opened};
use super::wire::{self, Class, Failure};
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::error::Error;
use crate::image::{Image, NewBitmap};
use crate::live::{MirrorOptions, Pace, Still};
use crate::storage::Storage;
use crate::sync::{Arc, lock};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

pub(super) type Answer = Result<Value, Failure>;

/// A command, and its arguments.
pub(super) trait Command: DeserializeOwned {
    /// Carries it out.
    fn run(self, server: &Arc<Server>) -> Answer;
}

/// The name of a command, and what carries it out.
type Entry = (&'static str, fn(&Arc<Server>, Value) -> Answer);

/// The commands.
const COMMANDS: &[Entry] = &[
    ("block-commit", perform::<BlockCommit>),
    ("block-dirty-bitmap-add", perform::<BitmapAdd>),
    ("block-dirty-bitmap-clear", perform::<BitmapClear>),
    ("block-dirty-bitmap-disable", perform::<BitmapDisable>),
    ("block-dirty-bitmap-enable", perform::<BitmapEnable>),
    ("block-dirty-bitmap-merge", perform::<BitmapMerge>),
    ("block-dirty-bitmap-remove", perform::<BitmapRemove>),
    ("block-export-add", perform::<ExportAdd>),
    ("block-export-del", perform::<ExportDel>),
    ("block-job-cancel", perform::<BlockJobCancel>),
    ("block-job-complete", perform::<BlockJobComplete>),
    ("block-job-dismiss", perform::<JobDismiss>),
    ("block-job-finalize", perform::<JobFinalize>),
    ("block-job-pause", perform::<BlockJobPause>),
    ("block-job-resume", perform::<BlockJobResume>),
    ("block-job-set-speed", perform::<BlockJobSetSpeed>),
    ("block-set-copy-on-read", perform::<BlockSetCopyOnRead>),
    ("block-stream", perform::<BlockStream>),
    ("block_resize", perform::<BlockResize>),
    ("blockdev-snapshot-sync", perform::<BlockdevSnapshotSync>),
    ("drive-backup", perform::<DriveBackup>),
    ("drive-mirror", perform::<DriveMirror>),
    ("job-cancel", perform::<JobCancel>),
    ("job-compare", perform::<JobCompare>),
    ("job-complete", perform::<JobComplete>),
    ("job-complete-together", perform::<JobCompleteTogether>),
    ("job-dismiss", perform::<JobDismiss>),
    ("job-finalize", perform::<JobFinalize>),
    ("job-pause", perform::<JobPause>),
    ("job-resume", perform::<JobResume>),
    ("query-block", perform::<QueryBlock>),
    ("query-block-exports", perform::<QueryExports>),
    ("query-block-jobs", perform::<QueryBlockJobs>),
    ("query-commands", perform::<QueryCommands>),
    ("query-jobs", perform::<QueryJobs>),
    ("query-version", perform::<QueryVersion>),
    ("quit", perform::<Quit>),
    ("transaction", perform::<Transaction>),
];

/// Carries out the command `name`.
pub(super) fn execute(server: &Arc<Server>, name: &str, arguments: Map<String, Value>) -> Answer {
    match COMMANDS.iter().find(|(known, _)| *known == name) {
        Some((_, perform)) => perform(server, Value::Object(arguments)),
        None => Err(Failure::new(Class::CommandNotFound, format!("The command {name} has not been found"))),
    }
}

fn perform<C: Command>(server: &Arc<Server>, arguments: Value) -> Answer {
    let command: C = serde_json::from_value(arguments).map_err(|error| Failure::generic(error.to_string()))?;
    command.run(server)
}

/// The answer of commands that have nothing to tell.
pub(super) fn done() -> Answer {
    Ok(json!({}))
}

/// Declares the commands whose arguments follow.
macro_rules! commands {
    ($($(#[$about:meta])* $name:ident { $($body:tt)* } |$this:ident, $server:ident| $run:expr)*) => {$(
        $(#[$about])*
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(super) struct $name { $($body)* }

        impl Command for $name {
            fn run(self, $server: &Arc<Server>) -> Answer {
                let $this = self;
                $run
            }
        }
    )*};
}

// Queries.
commands! {
    QueryVersion {} |_it, _server| Ok(wire::version())

    QueryCommands {} |_it, _server| {
        Ok(COMMANDS.iter().map(|(name, _)| json!({ "name": name })).collect())
    }

    QueryBlock {} |_it, server| {
        Ok(server.devices().iter().map(|device| query::block(device)).collect::<Result<Vec<_>, _>>()?.into())
    }

    QueryJobs {} |_it, server| Ok(server.jobs.all().iter().map(|job| job.info()).collect())

    QueryBlockJobs {} |_it, server| Ok(server.jobs.all().iter().map(|job| job.block_info()).collect())
}

// Jobs that are there. The older names call a job a device.
commands! {
    JobPause { id: String } |it, server| pause(server, &it.id)

    BlockJobPause { device: String } |it, server| pause(server, &it.device)

    JobResume { id: String } |it, server| resume(server, &it.id)

    BlockJobResume { device: String } |it, server| resume(server, &it.device)

    JobCancel { id: String } |it, server| cancel(server, &it.id, true)

    /// Without force a mirror that is ready leaves its target as the disk of this instant.
    BlockJobCancel { device: String, #[serde(default)] force: bool } |it, server| {
        cancel(server, &it.device, it.force)
    }

    JobComplete { id: String } |it, server| complete(server, &it.id)

    BlockJobComplete { device: String } |it, server| complete(server, &it.device)

    /// Compares the target of a ready mirror with its source, beside the guest. Until all was found equal the job does not
    /// end in one; a difference is an error of the target's.
    JobCompare { id: String } |it, server| {
        server.jobs.find(&it.id)?.compare()?;
        done()
    }

    /// Moves the guests of several ready mirrors as one decision, which is written to the new file `group`: after a crash all
    /// have moved, or none.
    JobCompleteTogether { ids: Vec<String>, group: String } |it, server| {
        let mut ids = it.ids;
        ids.sort();
        if ids.is_empty() || ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Failure::generic("'ids' are different jobs, one at least"));
        }
        let jobs = ids.iter().map(|id| server.jobs.find(id)).collect::<Result<Vec<_>, _>>()?;
        jobs.iter().try_for_each(|job| job.check_together())?;
        let together = Together::new(server.files.group(&it.group)?, jobs.len());
        for job in &jobs {
            if let Err(failure) = job.complete_together(together.clone()) {
                // It is about to end otherwise. Those before it find that they do not move.
                together.fail();
                return Err(failure);
            }
        }
        done()
    }

    JobFinalize { id: String } |it, server| {
        server.jobs.find(&it.id)?.finalize()?;
        done()
    }

    JobDismiss { id: String } |it, server| {
        server.jobs.find(&it.id)?.dismiss(server)?;
        done()
    }

    /// Bytes a second; 0 for no limit.
    BlockJobSetSpeed { device: String, speed: u64 } |it, server| {
        server.jobs.find(&it.device)?.set_speed(it.speed)?;
        done()
    }
}

fn pause(server: &Server, id: &str) -> Answer {
    server.jobs.find(id)?.pause()?;
    done()
}

fn resume(server: &Server, id: &str) -> Answer {
    server.jobs.find(id)?.resume(server)?;
    done()
}

fn cancel(server: &Server, id: &str, force: bool) -> Answer {
    server.jobs.find(id)?.cancel(force)?;
    done()
}

fn complete(server: &Server, id: &str) -> Answer {
    server.jobs.find(id)?.complete()?;
    done()
}

// New jobs. Layers are named by their files.
commands! {
    /// Copies into the device's top layer what the layers above `base` hold (without it: all layers).
    BlockStream {
        job_id: Option<String>,
        device: String,
        base: Option<String>,
        #[serde(default)] speed: u64,
        #[serde(default)] on_error: OnError,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
    } |it, server| {
        let options =
            Options::new(it.speed, it.on_error, it.on_error, it.auto_finalize, it.auto_dismiss);
        begin(server, &it.device, it.job_id, options, |device, chain| {
            let base = it.base.map(|name| server.files.layer(chain, &name)).transpose()?;
            Ok(Course::Once { job: Box::new(device.disk.stream(base)?), target: None })
        })
    }

    /// Merges `top` (without it: the layer that the guest writes to) and the layers between into `base` (the lowest). That
    /// of the guest's layer is a mirror into the base, and ends with `job-complete`.
    BlockCommit {
        job_id: Option<String>,
        device: String,
        base: Option<String>,
        top: Option<String>,
        #[serde(default)] speed: u64,
        #[serde(default)] on_error: OnError,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
    } |it, server| {
        let options =
            Options::new(it.speed, it.on_error, it.on_error, it.auto_finalize, it.auto_dismiss);
        begin(server, &it.device, it.job_id, options, |device, chain| {
            let layer = |name: &String| server.files.layer(chain, name);
            let top = it.top.as_ref().map_or(Ok(0), layer)?;
            let base = it.base.as_ref().map_or(Ok(chain.layers.len() - 1), layer)?;
            match top {
                0 => Ok(Course::Mirror {
                    mirror: device.disk.merge_active(base)?,
                    base: Some(base),
                    target: Files::of(&chain.layers[base..=base]),
                }),
                _ => Ok(Course::Once { job: Box::new(device.disk.merge(top, base)?), target: None }),
            }
        })
    }

    /// Copies the disk into `target`, a file or the URI of an NBD export, and keeps it equal until `job-complete` moves the
    /// guest there. Of the `top` alone `target` becomes an overlay of what the guest's layer lies on.
    ///
    /// With `resume` a bitmap of that name keeps what the target lacks: called again after the job was stopped, or the server
    /// was, the mirror goes on with the target from there. With `compare` it is ready once all of the target was compared with
    /// the disk; where `resume` meets a raw target it is so unless `compare` is false.
    DriveMirror {
        job_id: Option<String>,
        device: String,
        target: String,
        #[serde(default = "lvd_format")] format: TargetFormat,
        #[serde(default)] mode: Mode,
        sync: MirrorSync,
        copy_mode: Option<CopyMode>,
        granularity: Option<u64>,
        resume: Option<String>,
        compare: Option<bool>,
        #[serde(default)] speed: u64,
        #[serde(default)] on_source_error: OnError,
        #[serde(default)] on_target_error: OnError,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
    } |it, server| {
        let options =
            Options::new(it.speed, it.on_source_error, it.on_target_error, it.auto_finalize, it.auto_dismiss);
        let pace = match it.copy_mode {
            None => Pace::Bounded,
            Some(CopyMode::Background) => Pace::Background,
            Some(CopyMode::WriteBlocking) => Pace::WriteThrough,
        };
        let usual = MirrorOptions::default();
        let granularity = it.granularity.unwrap_or(usual.granularity);
        if !granularity.is_power_of_two() || !(512..=64 << 20).contains(&granularity) {
            return Err(Failure::generic("'granularity' must be a power of 2 in range [512, 64M]"));
        }
        // A raw target cannot say that it is the one that was left.
        let compare = it.compare.unwrap_or(it.resume.is_some() && it.format == TargetFormat::Raw);
        let wanted = MirrorOptions { granularity, pace, compare, ..usual };
        let mode = match (&it.resume, it.mode) {
            (Some(_), _) => TargetMode::Resumed,
            (None, Mode::Existing) => TargetMode::Existing,
            (None, Mode::AbsolutePaths) => TargetMode::New,
        };
        if it.sync == MirrorSync::Top && (it.format == TargetFormat::Raw || mode != TargetMode::New) {
            return Err(Failure::generic("the target of a mirror of the top is a new LVD image"));
        }
        begin(server, &it.device, it.job_id, options, |device, chain| {
            let (mut mirror, mut files) = (None, Files::default());
            let mut mirrored = |target: Chain| {
                let disk = &device.disk;
                files = Files::of(&target.layers[..1]);
                mirror = Some(match (it.sync, &it.resume) {
                    (MirrorSync::Top, _) => disk.mirror_top(&target, &wanted)?,
                    (MirrorSync::Full, Some(name)) => disk.mirror_resumable(target, name, SYNC_GRANULE, &wanted)?,
                    (MirrorSync::Full, None) => disk.mirror_with(target, &wanted)?,
                });
                Ok(())
            };
            match it.sync {
                MirrorSync::Full => server.files.target(&it.target, it.format, chain.size(), mode, &mut mirrored)?,
                MirrorSync::Top => server.files.beside(&it.target, chain, &mut mirrored)?,
            }
            mirror.map(|mirror| Course::Mirror { mirror, base: None, target: files }).ok_or(Error::Cancelled)
        })
    }
}

/// Bytes that one bit of a sync bitmap speaks of, as a power of two: 64 KiB.
const SYNC_GRANULE: u8 = 16;

/// How a new file comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// It is made.
    #[default]
    AbsolutePaths,
    /// It is there, and its content counts for nothing.
    Existing,
}

/// How much of a disk is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MirrorSync {
    /// All of it.
    Full,
    /// The guest's layer.
    Top,
}

/// What writes of the guest do that meet what was copied already. Without it a mirror does what converges.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CopyMode {
    Background,
    WriteBlocking,
}

fn lvd_format() -> TargetFormat {
    TargetFormat::Lvd
}

/// Begins the job that `make` makes of a device and its layers.
fn begin(
    server: &Arc<Server>,
    device: &str,
    id: Option<String>,
    options: Options,
    make: impl FnOnce(&Device, &Chain) -> crate::Result<Course>,
) -> Answer {
    let device = server.device(device)?;
    let seat = server.jobs.reserve(id.as_deref().unwrap_or(&device.name))?;
    let course = {
        let _layers = lock(&device.layers);
        make(device, &device.disk.chain())?
    };
    seat.fill(device.clone(), course, options, None).start(server);
    done()
}

// Disks.
commands! {
    /// Puts a new overlay on top, which is durable when this returns.
    BlockdevSnapshotSync {
        pub(super) device: String,
        snapshot_file: String,
        #[serde(default = "lvd_format")] format: TargetFormat,
    } |it, server| transaction::carry_out(server, vec![Action::BlockdevSnapshotSync(it)], false)

    /// All of the actions, at one instant of all disks that they are about, or none.
    Transaction { actions: Vec<Action>, properties: Option<Properties> } |it, server| {
        let grouped = it.properties.is_some_and(|properties| properties.completion_mode == CompletionMode::Grouped);
        transaction::carry_out(server, it.actions, grouped)
    }

    BlockSetCopyOnRead { device: String, enable: bool } |it, server| {
        server.device(&it.device)?.disk.set_copy_on_read(it.enable);
        done()
    }

    Quit {} |_it, server| {
        server.quit();
        done()
    }
}

/// How the jobs of a transaction end.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Properties {
    #[serde(default)]
    completion_mode: CompletionMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CompletionMode {
    /// Each by itself.
    #[default]
    Individual,
    /// None before all have copied everything; one that fails or is cancelled cancels the others.
    Grouped,
}

impl BlockdevSnapshotSync {
    pub(super) fn open(
        &self,
        server: &Server,
        chain: &Chain,
        then: &mut dyn FnMut(Opened) -> crate::Result<()>,
    ) -> crate::Result<()> {
        if self.format != TargetFormat::Lvd {
            return Err(Error::Invalid("an overlay is an LVD image".into()));
        }
        let top = chain.layer(0)?;
        if !top.writable() {
            return Err(Error::Denied(format!("{}: it is not open for writing", top.name())));
        }
        server.files.overlay(&self.snapshot_file, top, &mut |file, hint| then(Opened::Overlay { file, hint }))
    }

    pub(super) fn make(&self, still: &mut Still<'_>, file: Arc<dyn Storage>, hint: String) -> crate::Result<()> {
        still.snapshot(file, hint, OVERLAY_GRANULE)
    }
}

/// Bytes that one allocation bit of an overlay speaks of, as a power of two: 4 KiB.
const OVERLAY_GRANULE: u8 = 12;

/// The one command whose members are written like its name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockResize {
    device: String,
    size: u64,
}

impl Command for BlockResize {
    fn run(self, server: &Arc<Server>) -> Answer {
        let device = server.device(&self.device)?;
        let _layers = lock(&device.layers);
        device.disk.resize(self.size)?;
        done()
    }
}

// Dirty bitmaps of the layer that the guest writes to.
commands! {
    /// They all survive: one that is to be forgotten when the server ends is not to be had.
    BitmapAdd {
        pub(super) node: String,
        pub(super) name: String,
        granularity: Option<u32>,
        #[serde(default = "yes")] persistent: bool,
        #[serde(default)] disabled: bool,
    } |it, server| {
        on_top(server, &it.node, |image| image.add_bitmap(&it.name, &it.wanted()?).map(drop))
    }

    BitmapRemove { pub(super) node: String, pub(super) name: String } |it, server| {
        on_top(server, &it.node, |image| image.remove_bitmap(&it.name))
    }

    BitmapClear { pub(super) node: String, pub(super) name: String } |it, server| {
        on_top(server, &it.node, |image| image.clear_bitmap(&it.name, None).map(drop))
    }

    BitmapEnable { pub(super) node: String, pub(super) name: String } |it, server| {
        on_top(server, &it.node, |image| image.enable_bitmap(&it.name))
    }

    BitmapDisable { pub(super) node: String, pub(super) name: String } |it, server| {
        on_top(server, &it.node, |image| image.disable_bitmap(&it.name))
    }
}

impl BitmapAdd {
    pub(super) fn wanted(&self) -> crate::Result<NewBitmap> {
        let granularity = self.granularity.unwrap_or(1 << 16);
        if !granularity.is_power_of_two() {
            return Err(Error::Invalid(format!("Granularity must be power of 2, not {granularity}")));
        }
        if !self.persistent {
            return Err(Error::Invalid("all bitmaps are persistent".into()));
        }
        let granularity_shift = granularity.trailing_zeros() as u8;
        Ok(NewBitmap { granularity_shift, recording: !self.disabled, ..NewBitmap::default() })
    }
}

fn yes() -> bool {
    true
}

/// Does `verb` with the layer that the guest writes to, which stays that layer meanwhile.
fn on_top(server: &Server, device: &str, verb: impl FnOnce(&Image) -> crate::Result<()>) -> Answer {
    let device = server.device(device)?;
    let _layers = lock(&device.layers);
    device.disk.still().thaw_left()?;
    verb(device.disk.chain().image(0)?)?;
    done()
}
