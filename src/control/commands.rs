//! All commands. Each is a structure of its arguments, which is also what a client may say.

use super::course::Course;
use super::files::{TargetFormat, TargetMode};
use super::job::{Job, OnError, Options};
use super::query;
use super::server::{Device, Server};
use super::wire::{self, Class, Failure};
use crate::chain::{Chain, Layer};
use crate::device::BlockDevice;
use crate::error::Error;
use crate::image::{Image, NewBitmap};
use crate::live::{MirrorOptions, Pace};
use crate::sync::{Arc, lock};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

type Answer = Result<Value, Failure>;

/// A command, and its arguments.
trait Command: DeserializeOwned {
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
    ("drive-mirror", perform::<DriveMirror>),
    ("job-cancel", perform::<JobCancel>),
    ("job-complete", perform::<JobComplete>),
    ("job-dismiss", perform::<JobDismiss>),
    ("job-finalize", perform::<JobFinalize>),
    ("job-pause", perform::<JobPause>),
    ("job-resume", perform::<JobResume>),
    ("query-block", perform::<QueryBlock>),
    ("query-block-jobs", perform::<QueryBlockJobs>),
    ("query-commands", perform::<QueryCommands>),
    ("query-jobs", perform::<QueryJobs>),
    ("query-version", perform::<QueryVersion>),
    ("quit", perform::<Quit>),
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
fn done() -> Answer {
    Ok(json!({}))
}

/// Declares the commands whose arguments follow.
macro_rules! commands {
    ($($(#[$about:meta])* $name:ident { $($body:tt)* } |$this:ident, $server:ident| $run:expr)*) => {$(
        $(#[$about])*
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        struct $name { $($body)* }

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

/// What all commands that begin a job may say of how it is run.
macro_rules! job_options {
    ($it:ident, $on_error:expr) => {
        Options {
            speed: $it.speed,
            on_error: $on_error,
            auto_finalize: $it.auto_finalize.unwrap_or(true),
            auto_dismiss: $it.auto_dismiss.unwrap_or(true),
        }
    };
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
        let options = job_options!(it, it.on_error);
        begin(server, &it.device, it.job_id, options, |device, chain| {
            let base = it.base.map(|name| server.files.layer(chain, &name)).transpose()?;
            Ok(Course::Once(Box::new(device.disk.stream(base)?)))
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
        let options = job_options!(it, it.on_error);
        begin(server, &it.device, it.job_id, options, |device, chain| {
            let layer = |name: &String| server.files.layer(chain, name);
            let top = it.top.as_ref().map_or(Ok(0), layer)?;
            let base = it.base.as_ref().map_or(Ok(chain.layers.len() - 1), layer)?;
            match top {
                0 => Ok(Course::Mirror { mirror: device.disk.merge_active(base)?, base: Some(base), far: false }),
                _ => Ok(Course::Once(Box::new(device.disk.merge(top, base)?))),
            }
        })
    }

    /// Copies the disk into `target`, a file or the URI of an NBD export, and keeps it equal until `job-complete` moves the
    /// guest there. With `resume` a bitmap of that name keeps what the target lacks: called again after the job was stopped,
    /// or the server was, the mirror goes on with the target from there.
    DriveMirror {
        job_id: Option<String>,
        device: String,
        target: String,
        #[serde(default = "lvd_format")] format: TargetFormat,
        #[serde(default)] mode: Mode,
        #[serde(rename = "sync")] _sync: MirrorSync,
        copy_mode: Option<CopyMode>,
        granularity: Option<u64>,
        resume: Option<String>,
        #[serde(default)] speed: u64,
        #[serde(default)] on_error: OnError,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
    } |it, server| {
        let options = job_options!(it, it.on_error);
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
        let wanted = MirrorOptions { granularity, pace, ..usual };
        let mode = match (&it.resume, it.mode) {
            (Some(_), _) if it.format == TargetFormat::Raw => {
                return Err(Failure::generic("a raw target cannot say what it is: only an LVD image is resumed"));
            }
            (Some(_), _) => TargetMode::Resumed,
            (None, Mode::Existing) => TargetMode::Existing,
            (None, Mode::AbsolutePaths) => TargetMode::New,
        };
        begin(server, &it.device, it.job_id, options, |device, chain| {
            let (mut mirror, mut far) = (None, false);
            server.files.target(&it.target, it.format, chain.size(), mode, &mut |target| {
                let disk = &device.disk;
                far = target.layers.iter().any(Layer::is_far);
                mirror = Some(match &it.resume {
                    Some(name) => disk.mirror_resumable(target, name, SYNC_GRANULE, &wanted)?,
                    None => disk.mirror_with(target, &wanted)?,
                });
                Ok(())
            })?;
            mirror.map(|mirror| Course::Mirror { mirror, base: None, far }).ok_or(Error::Cancelled)
        })
    }
}

/// Bytes that one bit of a sync bitmap speaks of, as a power of two: 64 KiB.
const SYNC_GRANULE: u8 = 16;

/// How a new file comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// It is made.
    #[default]
    AbsolutePaths,
    /// It is there, and its content counts for nothing.
    Existing,
}

/// How much of a disk is mirrored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MirrorSync {
    Full,
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
    let name = id.unwrap_or_else(|| device.name.clone());
    let job = server.jobs.add(&name, || {
        let _layers = lock(&device.layers);
        let course = make(device, &device.disk.chain())?;
        Ok(Job::new(&name, device.clone(), course, options))
    })?;
    job.start(server);
    done()
}

// Disks.
commands! {
    /// Puts a new overlay on top, which is durable when this returns.
    BlockdevSnapshotSync {
        device: String,
        snapshot_file: String,
        #[serde(default = "lvd_format")] format: TargetFormat,
    } |it, server| {
        if it.format != TargetFormat::Lvd {
            return Err(Failure::generic("an overlay is an LVD image"));
        }
        let device = server.device(&it.device)?;
        let _layers = lock(&device.layers);
        let chain = device.disk.chain();
        let top = chain.layer(0)?;
        if !top.writable() {
            return Err(Failure::generic(format!("{}: it is not open for writing", top.name())));
        }
        server.files.overlay(&it.snapshot_file, top, &mut |storage, hint| {
            device.disk.snapshot(storage, hint, OVERLAY_GRANULE)
        })?;
        done()
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
        node: String,
        name: String,
        granularity: Option<u32>,
        #[serde(default = "yes")] persistent: bool,
        #[serde(default)] disabled: bool,
    } |it, server| {
        let granularity = it.granularity.unwrap_or(1 << 16);
        if !granularity.is_power_of_two() {
            return Err(Failure::generic(format!("Granularity must be power of 2, not {granularity}")));
        }
        if !it.persistent {
            return Err(Failure::generic("all bitmaps are persistent"));
        }
        let granularity_shift = granularity.trailing_zeros() as u8;
        let new = NewBitmap { granularity_shift, recording: !it.disabled, ..NewBitmap::default() };
        on_top(server, &it.node, |image| image.add_bitmap(&it.name, &new).map(drop))
    }

    BitmapRemove { node: String, name: String } |it, server| {
        on_top(server, &it.node, |image| image.remove_bitmap(&it.name))
    }

    BitmapClear { node: String, name: String } |it, server| {
        on_top(server, &it.node, |image| image.clear_bitmap(&it.name, None).map(drop))
    }

    BitmapEnable { node: String, name: String } |it, server| {
        on_top(server, &it.node, |image| image.enable_bitmap(&it.name))
    }

    BitmapDisable { node: String, name: String } |it, server| {
        on_top(server, &it.node, |image| image.disable_bitmap(&it.name))
    }

    /// Makes dirty in `target` what is dirty in `bitmaps`.
    BitmapMerge { node: String, target: String, bitmaps: Vec<String> } |it, server| {
        on_top(server, &it.node, |image| {
            // All sources are looked at first: one that is missing changes nothing.
            let dirty = it.bitmaps.iter().map(|name| image.dirty_stretches(name)).collect::<Result<Vec<_>, _>>()?;
            dirty.iter().try_for_each(|dirty| image.merge_bitmap(&it.target, dirty))
        })
    }
}

fn yes() -> bool {
    true
}

/// Does `verb` with the layer that the guest writes to, which stays that layer meanwhile.
fn on_top(server: &Server, device: &str, verb: impl FnOnce(&Image) -> crate::Result<()>) -> Answer {
    let device = server.device(device)?;
    let _layers = lock(&device.layers);
    verb(device.disk.chain().image(0)?)?;
    done()
}
