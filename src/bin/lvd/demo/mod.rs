//! `demo`: the whole story on temporary files. Everything that is written is read back and held against a model.

mod model;

use crate::args::{Cache, Demo, Format, Opening, Running};
use crate::create::ParentOf;
use crate::open::{self, Disk, Target};
use crate::run::{self, Done};
use crate::{output, signals};
use lvd::chain::{Layer, RawDevice};
use lvd::image::CreateOptions;
use lvd::jobs::{self, Job, Work};
use lvd::storage::Storage;
use lvd::units::Size;
use lvd::{BlockDevice, Error, Result};
use model::Model;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Writes between two jobs, and after how many of them the guest flushes.
const WRITES: u64 = 2000;
const FLUSH_EVERY: u64 = 32;

pub fn demo(arguments: &Demo) -> Result<()> {
    if arguments.size < 1 << 20 || arguments.size > 1 << 40 {
        return Err(Error::Invalid("the demo's disk is from 1M to 1T".into()));
    }
    let begun = Instant::now();
    let place = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new()
        .prefix("lvd-demo.")
        .disable_cleanup(arguments.keep)
        .tempdir_in(&place)
        .map_err(|error| Error::io(&place.display().to_string(), "cannot make a directory in it", error))?;
    output::line(format!("LVD demo: a disk of {} in {}", Size(arguments.size), directory.path().display()))?;
    let mut story = Story { directory: directory.path().to_owned(), model: Model::new(arguments.size) };
    story.tell()?;
    let seconds = begun.elapsed().as_secs_f64();
    output::line(format!("All that was read was what had been written. {seconds:.1} s in all."))
}

struct Story {
    directory: PathBuf,
    model: Model,
}

impl Story {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn tell(&mut self) -> Result<()> {
        self.base()?;
        self.overlay()?;
        self.guest_writes("the guest writes")?;
        self.commit()?;
        self.guest_writes("and writes again")?;
        self.stream()?;
        self.guest_writes("and again")?;
        self.mirror()?;
        self.check()
    }

    /// A raw disk, half of it holes, becomes a complete image.
    fn base(&mut self) -> Result<()> {
        chapter("base.lvd", "a raw disk, half of it holes, is converted")?;
        let raw = Target::open(&self.path("base.raw"), Cache::Writeback)?;
        raw.storage().set_size(self.model.size())?;
        let device = RawDevice::new(raw.storage().clone(), true)?;
        let begun = Instant::now();
        let written = self.model.fill_half(&device)?;
        device.flush()?;
        fact("written", written, begun)?;
        drop((device, raw));
        let done = self.copy("base.raw", Format::Raw, "base.lvd", Format::Lvd)?;
        job_fact("converted", done)?;
        self.verify("base.lvd", Format::Lvd)
    }

    fn overlay(&mut self) -> Result<()> {
        let begun = Instant::now();
        let top = self.path("top.lvd");
        let parent = ParentOf::open(&top, "base.lvd", None, Cache::Writeback)?;
        let options = CreateOptions {
            virtual_size: parent.size(),
            parent: Some(parent.link(parent.size())?),
            ..CreateOptions::default()
        };
        let target = Target::open(&top, Cache::Writeback)?;
        target.create(&options)?;
        let used = Size(target.storage().allocated()?.unwrap_or(0));
        let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
        chapter("top.lvd", &format!("an overlay of base.lvd, made in {milliseconds:.1} ms, takes {used}"))
    }

    /// Requests of all sizes on any sectors, flushed as a guest does; then the whole disk is read.
    fn guest_writes(&mut self, title: &str) -> Result<()> {
        chapter("top.lvd", &format!("{title}: {WRITES} requests on any sectors, a flush after each {FLUSH_EVERY}"))?;
        let disk = Disk::open(&self.path("top.lvd"), &Opening::default(), true)?;
        let begun = Instant::now();
        let mut written = 0;
        for number in 1..=WRITES {
            signals::go_on()?;
            written += self.model.write_somewhere(disk.chain())?;
            if number % FLUSH_EVERY == 0 {
                disk.chain().flush()?;
            }
        }
        disk.close()?;
        drop(disk);
        let seconds = begun.elapsed().as_secs_f64();
        line("written", &format!("{} in {seconds:.2} s, {:.0} requests/s", Size(written), WRITES as f64 / seconds))?;
        self.verify("top.lvd", Format::Lvd)
    }

    fn commit(&mut self) -> Result<()> {
        chapter("commit", "what top.lvd holds is merged into base.lvd")?;
        let disk = Disk::open_down_to(&self.path("top.lvd"), &Opening::default(), true, Some(1))?;
        let work = jobs::Merge::new(disk.chain(), 0, 1, true)?;
        job_fact("merged", run_at_rest(disk, work)?)?;
        self.verify("base.lvd", Format::Lvd)?;
        self.verify("top.lvd", Format::Lvd)
    }

    fn stream(&mut self) -> Result<()> {
        chapter("stream", "top.lvd takes in what it lacks, and base.lvd is deleted")?;
        let disk = Disk::open(&self.path("top.lvd"), &Opening::default(), true)?;
        let work = jobs::Stream::new(disk.chain(), None)?;
        job_fact("streamed", run_at_rest(disk, work)?)?;
        let base = self.path("base.lvd");
        std::fs::remove_file(&base).map_err(|error| Error::io(&base.display().to_string(), "cannot delete", error))?;
        self.verify("top.lvd", Format::Lvd)
    }

    fn mirror(&mut self) -> Result<()> {
        chapter("mirror", "top.lvd is copied to mirror.lvd and to mirror.raw")?;
        for (name, format) in [("mirror.lvd", Format::Lvd), ("mirror.raw", Format::Raw)] {
            job_fact("mirrored", self.copy("top.lvd", Format::Lvd, name, format)?)?;
            self.verify(name, format)?;
        }
        Ok(())
    }

    /// A complete image is raw behind its header: read by the host's plain file, it shows the same disk.
    fn check(&mut self) -> Result<()> {
        chapter("top.lvd", "is complete now: a raw disk behind a header")?;
        let disk = Disk::open(&self.path("top.lvd"), &Opening::default(), false)?;
        let image = disk.chain().image(0)?;
        let report = image.check()?;
        if report.corruptions > 0 || report.unclean || !image.complete() {
            return Err(Error::Invalid(format!("{}: not sound, closed and complete: {report:?}", image.name())));
        }
        let (file, start) = image.data_location();
        let begun = Instant::now();
        self.model.verify("the plain file", |buffer, offset| file.read_at(buffer, start + offset))?;
        fact("verified", self.model.size(), begun)
    }

    fn copy(&self, source: &str, source_format: Format, target: &str, format: Format) -> Result<Done> {
        let opening = Opening { format: Some(source_format), ..Opening::default() };
        let source = Disk::open(&self.path(source), &opening, false)?;
        let target = Target::open(&self.path(target), Cache::Writeback)?;
        let layer = match format {
            Format::Lvd => {
                let virtual_size = source.chain().size();
                target.create(&CreateOptions { virtual_size, copy_mark: true, ..CreateOptions::default() })?;
                Layer::Lvd(target.image()?)
            }
            Format::Raw => Layer::Raw(Arc::new(RawDevice::new(target.storage().clone(), true)?)),
        };
        let job = Job::new(jobs::Mirror::full(source.chain().top(), layer.clone(), true)?, open::host());
        let done = run::run(&job, job.kind(), &Running::default())?;
        layer.close()?;
        Ok(done)
    }

    /// Opens the disk anew, reads all of it and holds it against the model.
    fn verify(&self, name: &str, format: Format) -> Result<()> {
        let opening = Opening { format: Some(format), ..Opening::default() };
        let disk = Disk::open(&self.path(name), &opening, false)?;
        let begun = Instant::now();
        self.model.verify(name, |buffer, offset| disk.chain().read_at(buffer, offset))?;
        fact("verified", self.model.size(), begun)
    }
}

/// Runs a job within a disk and lets go of the disk.
fn run_at_rest(disk: Disk, work: impl Work + 'static) -> Result<Done> {
    let job = Job::new(work, disk.chain().host().clone());
    let done = run::run(&job, job.kind(), &Running::default())?;
    disk.close()?;
    Ok(done)
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
