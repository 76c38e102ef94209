//! `demo`: the whole story on temporary files. Jobs change the layers under a guest that never stops writing, and
//! everything that is written is read back and held against a model.

mod guest;
mod model;

use crate::args::{Access, Demo, Format, Opening, OutputFormat, Running};
use crate::create::ParentOf;
use crate::open::{Disk, Target, host};
use crate::run::{self, Done};
use crate::{output, signals};
use guest::{Guest, Moment, WRITERS};
use lvd::chain::{Chain, ChainOptions, RawDevice};
use lvd::image::CreateOptions;
use lvd::jobs::{self, Job};
use lvd::live::{self, LiveMirror};
use lvd::units::Size;
use lvd::{BlockDevice, Error, Result};
use model::{Model, Random, SECTOR};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Writes of the guest, at least, before a job and after it.
const WRITES: u64 = 500;
/// Bytes that a mirror copies at once.
const PIECE: u64 = 1 << 20;
/// Overlays note blocks of 4 KiB.
const GRANULARITY_SHIFT: u8 = 12;

pub fn demo(arguments: &Demo) -> Result<()> {
    if arguments.size < 1 << 20 || arguments.size > 1 << 36 {
        return Err(Error::Invalid("the demo's disk is from 1M to 64G".into()));
    }
    let begun = Instant::now();
    let place = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new()
        .prefix("lvd-demo.")
        .disable_cleanup(arguments.keep)
        .tempdir_in(&place)
        .map_err(|error| Error::io(&place.display().to_string(), "cannot make a directory in it", error))?;
    output::line(format!("LVD demo: a disk of {} in {}", Size(arguments.size), directory.path().display()))?;
    Story { directory: directory.path().to_owned(), size: arguments.size / SECTOR * SECTOR }.tell()?;
    let seconds = begun.elapsed().as_secs_f64();
    output::line(format!("All that was read was what had been written. {seconds:.1} s in all."))
}

struct Story {
    directory: PathBuf,
    size: u64,
}

impl Story {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn tell(&self) -> Result<()> {
        let model = self.base()?;
        let disk = self.overlay()?;
        chapter("guest", &format!("{WRITERS} threads write to it from here to the end, and read what they wrote"))?;
        let guest = Guest::new(disk, model);
        guest.beside(|| {
            self.chapter_beside(&guest, Story::stream)?;
            self.chapter_beside(&guest, Story::snapshot)?;
            self.chapter_beside(&guest, Story::merge)?;
            self.chapter_beside(&guest, Story::commit)?;
            self.chapter_beside(&guest, Story::move_away)?;
            self.chapter_beside(&guest, Story::copy_out)
        })?;
        self.end(&guest)
    }

    /// One chapter, and how the guest fared in it.
    fn chapter_beside(&self, guest: &Guest, tell: fn(&Story, &Guest) -> Result<()>) -> Result<()> {
        guest.longest();
        let (begun, before) = (Instant::now(), guest.requests());
        guest.let_write(WRITES)?;
        tell(self, guest)?;
        guest.let_write(WRITES)?;
        let (requests, seconds) = (guest.requests() - before, begun.elapsed().as_secs_f64());
        let longest = guest.longest().as_secs_f64() * 1000.0;
        let rate = requests as f64 / seconds;
        line("guest", &format!("{requests} writes meanwhile, {rate:.0} a second, the longest {longest:.0} ms"))
    }

    /// A raw disk, half of it holes, becomes a complete image.
    fn base(&self) -> Result<Model> {
        chapter("base.lvd", "a raw disk, half of it holes, is converted")?;
        let raw = Target::open(&self.path("base.raw"), &Access::default())?;
        raw.storage().set_size(self.size)?;
        let device = RawDevice::new(raw.storage().clone(), true)?;
        let (begun, model) = (Instant::now(), Model::new(self.size));
        let written = model.fill_half(&mut Random::new(0), &device)?;
        device.flush()?;
        fact("written", written, begun)?;
        drop((device, raw));
        let source = self.open("base.raw", Format::Raw)?;
        let target = self.copy_target("base.lvd", OutputFormat::Lvd)?;
        let top = target.layer(0)?;
        job_fact(
            "converted",
            run_job(&Job::new(jobs::Mirror::full(source.chain().top(), top.clone(), true)?, host()))?,
        )?;
        target.close()?;
        drop(target);
        self.verify("base.lvd", Format::Lvd, |name, read| model.verify(name, read))?;
        Ok(model)
    }

    fn overlay(&self) -> Result<Arc<live::Disk>> {
        let begun = Instant::now();
        let top = self.path("top.lvd");
        let parent = ParentOf::open(&top, "base.lvd", None, &Access::default())?;
        let options = CreateOptions {
            virtual_size: parent.size(),
            parent: Some(parent.link(parent.size())?),
            ..CreateOptions::default()
        };
        let target = Target::open(&top, &Access::default())?;
        target.create(&options)?;
        let used = Size(target.storage().allocated()?.unwrap_or(0));
        drop((parent, target));
        let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
        chapter("top.lvd", &format!("an overlay of base.lvd, made in {milliseconds:.1} ms, takes {used}"))?;
        Ok(live::Disk::new(Disk::open(&top, &Opening::default(), true)?.into_chain()))
    }

    fn stream(&self, guest: &Guest) -> Result<()> {
        chapter("stream", "top.lvd takes in what it lacks, and base.lvd is deleted")?;
        job_fact("streamed", run_job(&guest.disk().stream(None)?)?)?;
        let base = self.path("base.lvd");
        std::fs::remove_file(&base).map_err(|error| Error::io(&base.display().to_string(), "cannot delete", error))
    }

    fn snapshot(&self, guest: &Guest) -> Result<()> {
        chapter("snapshot", "the guest goes on in one.lvd, over top.lvd")?;
        let moment = self.put_on_top(guest, "top.lvd", "one.lvd")?;
        self.verify("top.lvd", Format::Lvd, |name, read| guest.verify_instant(name, &moment, read))
    }

    fn merge(&self, guest: &Guest) -> Result<()> {
        chapter("merge", "the guest goes on in two.lvd; one.lvd, below it, is merged into top.lvd")?;
        let moment = self.put_on_top(guest, "one.lvd", "two.lvd")?;
        self.verify("one.lvd", Format::Lvd, |name, read| guest.verify_instant(name, &moment, read))?;
        job_fact("merged", run_job(&guest.disk().merge(1, 2)?)?)?;
        self.verify("top.lvd", Format::Lvd, |name, read| guest.verify_instant(name, &moment, read))
    }

    /// A snapshot of what is in `below`, and its moment.
    fn put_on_top(&self, guest: &Guest, below: &str, name: &str) -> Result<Moment> {
        let begun = Instant::now();
        let overlay = Target::open(&self.path(name), &Access::default())?;
        let take = || guest.disk().snapshot(overlay.storage().clone(), below.to_owned(), GRANULARITY_SHIFT);
        let ((), moment) = guest.moment(take)?;
        line("taken", &format!("in {:.1} ms", begun.elapsed().as_secs_f64() * 1000.0))?;
        Ok(moment)
    }

    fn commit(&self, guest: &Guest) -> Result<()> {
        chapter(
            "commit",
            "two.lvd, that the guest writes to, and one.lvd are merged into top.lvd; the guest moves there",
        )?;
        let mirror = guest.disk().merge_active(2)?;
        self.pivot(guest, &mirror)?;
        Ok(())
    }

    fn move_away(&self, guest: &Guest) -> Result<()> {
        chapter("mirror", "top.lvd is mirrored to moved.lvd; the guest moves there")?;
        let mirror = guest.disk().mirror(self.copy_target("moved.lvd", OutputFormat::Lvd)?)?;
        let (old, moment) = self.pivot(guest, &mirror)?;
        old.close()?;
        // Both hold the file.
        drop((old, mirror));
        self.verify("top.lvd", Format::Lvd, |name, read| guest.verify_instant(name, &moment, read))
    }

    fn copy_out(&self, guest: &Guest) -> Result<()> {
        chapter("mirror", "moved.lvd is mirrored to copy.raw, which is let go of at an instant")?;
        let mirror = guest.disk().mirror(self.copy_target("copy.raw", OutputFormat::Raw)?)?;
        self.until_ready(&mirror)?;
        let (copy, moment) = guest.moment(|| guest.disk().split(&mirror))?;
        copy.close()?;
        drop((copy, mirror));
        self.verify("copy.raw", Format::Raw, |name, read| guest.verify_instant(name, &moment, read))
    }

    /// Copies until the mirror is ready, lets the guest write on, and moves it. The old layers, and the moment.
    fn pivot(&self, guest: &Guest, mirror: &Arc<LiveMirror>) -> Result<(Arc<Chain>, Moment)> {
        self.until_ready(mirror)?;
        guest.let_write(WRITES)?;
        guest.longest();
        let (old, moment) = guest.moment(|| guest.disk().pivot(mirror))?;
        line("pivoted", &format!("the guest waited for at most {:.1} ms", guest.longest().as_secs_f64() * 1000.0))?;
        Ok((old, moment))
    }

    fn until_ready(&self, mirror: &LiveMirror) -> Result<()> {
        let begun = Instant::now();
        loop {
            signals::go_on()?;
            let progress = mirror.step(PIECE)?;
            if progress.ready {
                let seconds = begun.elapsed().as_secs_f64();
                let copied = Size(progress.copied);
                return line("ready", &format!("{copied} copied in {seconds:.2} s, {} behind", Size(progress.lag)));
            }
            std::thread::sleep(progress.wait.unwrap_or_default());
        }
    }

    /// The guest has stopped. A complete image is raw behind its header: read by the host's plain file, it shows the disk.
    fn end(&self, guest: &Guest) -> Result<()> {
        chapter("moved.lvd", "is complete: a raw disk behind a header")?;
        guest.disk().close()?;
        let chain = guest.disk().chain();
        let image = chain.image(0)?;
        let report = image.check()?;
        if report.corruptions > 0 || report.unclean || !image.complete() {
            return Err(Error::Invalid(format!("{}: not sound, closed and complete: {report:?}", image.name())));
        }
        let (file, start) = image.data_location();
        let begun = Instant::now();
        guest.verify("the plain file", |buffer, offset| file.read_at(buffer, start + offset))?;
        fact("verified", self.size, begun)
    }

    fn open(&self, name: &str, format: Format) -> Result<Disk> {
        Disk::open(&self.path(name), &Opening { format: Some(format), ..Opening::default() }, false)
    }

    /// A new file that a disk is copied into.
    fn copy_target(&self, name: &str, format: OutputFormat) -> Result<Chain> {
        let target = Target::open(&self.path(name), &Access::default())?;
        match format {
            OutputFormat::Lvd => {
                let options = CreateOptions { virtual_size: self.size, copy_mark: true, ..CreateOptions::default() };
                target.create(&options)?;
                target.chain(&Access::default())
            }
            OutputFormat::Raw => {
                target.storage().set_size(self.size)?;
                Chain::open_raw(
                    target.storage().clone(),
                    host(),
                    &ChainOptions { write: true, ..ChainOptions::default() },
                )
            }
        }
    }

    /// Opens the disk anew and has all of it read.
    fn verify(
        &self,
        name: &str,
        format: Format,
        verify: impl FnOnce(&str, &(dyn Fn(&mut [u8], u64) -> Result<()> + Sync)) -> Result<()>,
    ) -> Result<()> {
        let disk = self.open(name, format)?;
        let begun = Instant::now();
        verify(name, &|buffer, offset| disk.chain().read_at(buffer, offset))?;
        fact("verified", self.size, begun)
    }
}

fn run_job(job: &Job) -> Result<Done> {
    run::run(job, job.kind(), &Running::default())
}

fn chapter(name: &str, text: &str) -> Result<()> {
    output::line(format!("{name:<9} {text}"))
}

fn line(what: &str, text: &str) -> Result<()> {
    output::line(format!("          {what:<10} {text}"))
}

fn fact(what: &str, bytes: u64, begun: Instant) -> Result<()> {
    let seconds = begun.elapsed().as_secs_f64();
    line(what, &format!("{} in {seconds:.2} s, {}", Size(bytes), output::rate(bytes, seconds)))
}

fn job_fact(what: &str, done: Done) -> Result<()> {
    let Done { total, copied, seconds } = done;
    let rate = output::rate(copied, seconds);
    line(what, &format!("{} copied of a disk of {} in {seconds:.2} s, {rate}", Size(copied), Size(total)))
}
