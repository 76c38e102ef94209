//! `convert`, `mirror` and `compare`: one disk into another file, or held against it.

use crate::args::{Access, Compare, Convert, Format, Mirror, Opening, OutputFormat, Running, Sync};
use crate::open::{self, Disk, Target, beside};
use crate::run::{self, Done};
use crate::{Outcome, output};
use lvd::chain::{Chain, Layer};
use lvd::format::Parent;
use lvd::image::CreateOptions;
use lvd::jobs::{self, Job, Work};
use lvd::limits::SLOTS_END;
use lvd::nbd::Uri;
use lvd::zeros::is_zero;
use lvd::{BlockDevice, Error, Result};
use serde_json::json;
use std::ops::Range;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

/// Granules of a sync bitmap, as a power of two: 64 KiB.
const SYNC_GRANULE: u8 = 16;

pub fn convert(arguments: &Convert) -> Result<()> {
    let format = match arguments.output_format {
        Some(format) => format,
        None => usual_format(&arguments.target)?,
    };
    let (source, opening) = (&arguments.source, &arguments.opening);
    copy("convert", source, opening, &arguments.target, format, &arguments.running)
}

/// Where the name says raw, or is that of an export, and the user does not, either guess would be wrong for somebody.
fn usual_format(target: &Path) -> Result<OutputFormat> {
    match target.extension().and_then(|extension| extension.to_str()) {
        extension if matches!(extension, Some("raw" | "img")) || open::uri(target)?.is_some() => {
            let name = target.display();
            Err(Error::Invalid(format!("{name}: say what it is to be: -O raw or -O lvd")))
        }
        _ => Ok(OutputFormat::Lvd),
    }
}

pub fn mirror(arguments: &Mirror) -> Result<()> {
    let (format, running) = (arguments.output_format, &arguments.running);
    if let Some(name) = &arguments.bitmap {
        return bring_up(arguments, name);
    }
    if let Some(name) = &arguments.resume {
        return go_on(arguments, name);
    }
    match (arguments.sync, format) {
        (Sync::Top, OutputFormat::Raw) => {
            Err(Error::Invalid("a raw disk has no parent: --sync top needs -O lvd".into()))
        }
        (Sync::Top, OutputFormat::Lvd) => copy_top(arguments),
        (Sync::Full, _) => {
            if format == OutputFormat::Raw && !running.quiet {
                let name = arguments.target.display();
                output::complain(&format!("warning: {name}: a raw disk cannot say whether it is a whole copy"));
            }
            copy("mirror", &arguments.image, &arguments.opening, &arguments.target, format, running)
        }
    }
}

/// Copies the whole disk into a new file.
fn copy(
    verb: &str,
    source: &Path,
    opening: &Opening,
    target: &Path,
    format: OutputFormat,
    running: &Running,
) -> Result<()> {
    let source = Disk::open(source, opening, false)?;
    let target = Target::open(target, &opening.access)?;
    target.refuse_source(&source)?;
    target.keep_if(|| {
        let (layer, fresh) = target.layer(format, source.chain().size())?;
        let job =
            Job::new(jobs::Mirror::full(source.chain().top(), layer.clone(), fresh)?, source.chain().host().clone());
        finish(&job, verb, running, || layer.close())
    })
}

/// Copies what a bitmap has dirty onto an older copy of the disk.
fn bring_up(arguments: &Mirror, name: &str) -> Result<()> {
    let source = Disk::open(&arguments.image, &arguments.opening, false)?;
    let target = unfinished(arguments)?;
    let layer = target.top()?.clone();
    let work = jobs::Backup::onto(source.chain(), layer, name, None)?;
    let job = Job::new(work, source.chain().host().clone());
    finish(&job, "mirror", &arguments.running, || target.close())
}

/// Opens a target that is there. One that was stopped says that it is no copy: the caller makes it one.
fn unfinished(arguments: &Mirror) -> Result<Disk> {
    let format = match arguments.output_format {
        OutputFormat::Lvd => Format::Lvd,
        OutputFormat::Raw => Format::Raw,
    };
    let opening = Opening { format: Some(format), access: arguments.opening.access.clone(), ..Opening::default() };
    Disk::open(&arguments.target, &Opening { ignore_marks: true, ..opening }, true)
}

/// Whether the target is an image to be, whose creation was interrupted before it had a header: another run creates it.
pub fn is_blank(target: &Path, format: OutputFormat) -> Result<bool> {
    if format == OutputFormat::Raw {
        return Ok(false);
    }
    let mut slots = vec![0; SLOTS_END as usize];
    open::storage(target, false, &Access::default(), None)?.read_at(&mut slots, 0)?;
    Ok(is_zero(&slots))
}

/// Copies the whole disk, or what the target of a run before still lacks of it.
fn go_on(arguments: &Mirror, name: &str) -> Result<()> {
    let source = Disk::open(&arguments.image, &arguments.opening, true)?;
    crate::bitmap::image(&source)?;
    let (size, running) = (source.chain().size(), &arguments.running);
    let resume = |layer: Layer, fresh: bool, close: &dyn Fn() -> Result<()>| {
        let work = Arc::new(jobs::ResumableMirror::new(source.chain(), layer, name, SYNC_GRANULE, fresh)?);
        let job = Job::new(work.clone(), source.chain().host().clone());
        finish(&job, "mirror", running, || {
            let progress = job.progress();
            // Stopped, or failed: what was copied need not be copied again. The failure is told anyway.
            let stopped = !progress.finished && progress.done > 0;
            let saved = if stopped { work.checkpoint() } else { Ok(()) };
            close().and(saved)
        })
    };
    let done = if open::exists(&arguments.target) && !is_blank(&arguments.target, arguments.output_format)? {
        let target = unfinished(arguments)?;
        resume(target.top()?.clone(), false, &|| target.close())
    } else {
        // Whatever comes of it, what was copied stays.
        let target = Target::open(&arguments.target, &arguments.opening.access)?;
        let (layer, fresh) = target.layer(arguments.output_format, size)?;
        resume(layer.clone(), fresh, &|| layer.close())
    };
    let closed = source.close();
    done.and(closed)
}

/// A new overlay at `target` of what the top of `source` lies on, to be the copy of that top.
pub fn overlay_beside(source: &Chain, target: &Path) -> Result<CreateOptions> {
    let image = source.image(0)?;
    let header = image.header();
    let (Some(link), Some(section)) = (&header.parent, header.allocation()) else {
        return Err(Error::Invalid(format!("{}: it has no parent, so its top is all of it", image.name())));
    };
    Ok(CreateOptions {
        virtual_size: header.virtual_size,
        granularity_shift: section.granularity_shift,
        parent: Some(Parent { hint: moved_hint(Path::new(image.name()), &link.hint, target)?, ..link.clone() }),
        allocation: true,
        copy_mark: true,
    })
}

/// Copies what the top layer holds into a new overlay of the same parent.
fn copy_top(arguments: &Mirror) -> Result<()> {
    let source = Disk::open(&arguments.image, &arguments.opening, false)?;
    let options = overlay_beside(source.chain(), &arguments.target)?;
    let target = Target::open(&arguments.target, &arguments.opening.access)?;
    target.refuse_source(&source)?;
    target.keep_if(|| {
        target.create(&options)?;
        let chain = target.chain(&arguments.opening.access)?;
        let job = Job::new(jobs::Mirror::top(source.chain(), &chain)?, source.chain().host().clone());
        finish(&job, "mirror", &arguments.running, || chain.close())
    })
}

/// The hint of `child`, as it has to read in a file at `target` to lead to the same parent.
fn moved_hint(child: &Path, hint: &str, target: &Path) -> Result<String> {
    let far = |path: &Path| path.to_str().is_some_and(Uri::is_one);
    match () {
        () if far(child) => from_utf8(beside(child, hint)),
        () if Path::new(hint).is_absolute() || Uri::is_one(hint) => Ok(hint.to_owned()),
        () if !far(target) && directory(child)? == directory(target)? => Ok(hint.to_owned()),
        () => from_root(&beside(child, hint)),
    }
}

/// The hint by which a new file at `child` finds its parent, which is open under the name `parent`.
pub fn hint_from(child: &Path, parent: &str) -> Result<String> {
    let path = Path::new(parent);
    match path.file_name() {
        _ if Uri::is_one(parent) => Ok(parent.to_owned()),
        Some(name) if directory(child)? == directory(path)? => from_utf8(name.into()),
        _ => from_root(path),
    }
}

fn directory(path: &Path) -> Result<PathBuf> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    parent.canonicalize().map_err(|error| Error::io(&path.display().to_string(), "cannot find its directory", error))
}

fn from_root(path: &Path) -> Result<String> {
    from_utf8(absolute(path).map_err(|error| Error::io(&path.display().to_string(), "cannot find it", error))?)
}

fn from_utf8(path: PathBuf) -> Result<String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| Error::Invalid(format!("{}: a parent's path is kept in UTF-8", Path::new(&path).display())))
}

/// Runs the job and closes the target, whatever came of it.
fn finish(job: &Job, verb: &str, running: &Running, close: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = run::run_and_close(job, verb, running, close)?;
    run::tell(verb, running, done)
}

pub fn compare(arguments: &Compare) -> Result<Outcome> {
    let (opening, running) = (&arguments.opening, &arguments.running);
    let first = Disk::open(&arguments.first, opening, false)?;
    let second_opening = Opening { format: arguments.second_format, sidecar: None, ..opening.clone() };
    let second = Disk::open(&arguments.second, &second_opening, false)?;
    let work = Arc::new(jobs::Compare::new(first.chain().top(), second.chain().top(), arguments.strict));
    let job = Job::new(Shared(work.clone()), first.chain().host().clone());
    let done = run::run(&job, "compare", running)?;
    tell_difference(arguments, (first.chain().size(), second.chain().size()), work.first_difference(), done)?;
    Ok(if work.first_difference().is_none() { Outcome::Done } else { Outcome::Differ })
}

/// A comparison that is asked for its finding once the job has ended.
#[derive(Debug)]
struct Shared(Arc<jobs::Compare>);

impl Work for Shared {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn total(&self) -> u64 {
        self.0.total()
    }

    fn alignment(&self) -> u64 {
        self.0.alignment()
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        self.0.piece(range)
    }

    fn finish(&self) -> Result<()> {
        self.0.finish()
    }
}

fn tell_difference(arguments: &Compare, sizes: (u64, u64), at: Option<u64>, done: Done) -> Result<()> {
    if arguments.running.output.json() {
        return output::json(&json!({
            "identical": at.is_none(), "first-difference": at, "sizes": [sizes.0, sizes.1], "seconds": done.seconds,
        }));
    }
    if arguments.running.quiet {
        return Ok(());
    }
    let shorter = sizes.0.min(sizes.1);
    match at {
        None if sizes.0 == sizes.1 => output::line("Images are identical."),
        None => output::line("Images are identical but for their sizes: what one has more is zeros."),
        Some(at) if arguments.strict && sizes.0 != sizes.1 && at == shorter => {
            output::line(format!("Images differ in size: {} and {} bytes.", sizes.0, sizes.1))
        }
        Some(at) => output::line(format!("Content mismatch at offset {at}!")),
    }
}
