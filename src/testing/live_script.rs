//! A disk under its guest while jobs change the layers, act by act on one thread, beside naive disks of bytes.
//!
//! An input is a list of acts, valid by construction; what an act cannot mean at its moment is asked for all the same,
//! and must be refused. After every act the guest's disk is what the naive one is; after every change of the layers so
//! is each layer below, and each file that a job has let go of.

use super::fuzz::bytes::Bytes;
use super::fuzz::files::Files;
use super::fuzz::span::{Granule, Size, Span};
use super::host::SimHost;
use crate::chain::{Chain, ChainOptions};
use crate::device::{BlockDevice, ExtentKind, Request};
use crate::error::{Error, Result};
use crate::format::MergeMark;
use crate::image::{CreateOptions, Image};
use crate::jobs::Job;
use crate::live::{Disk, LiveMirror, Pace};
use crate::storage::Host;
use crate::violation::Violation;
use arbitrary::{Arbitrary, Unstructured};
use std::ops::Range;
use std::sync::Arc;

/// Bytes that a mirror copies together.
const GRANULE: u64 = 64 << 10;
/// Layers of a disk at most.
const DEEPEST: usize = 7;
/// Acts of a script at most.
const LONGEST: usize = 120;

/// The size of a disk: a few granules of a mirror, and a rest.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Length {
    granules: u8,
    rest: Size,
}

impl Length {
    fn bytes(self) -> u64 {
        u64::from(self.granules % 6) * GRANULE + self.rest.few_bytes()
    }
}

/// A stretch of a disk; one in four is longer than a granule.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Stretch {
    span: Span,
    granules: u8,
}

impl Stretch {
    fn on(self, size: u64) -> Range<u64> {
        let edges: Vec<u64> = (1..6).map(|granule| granule * GRANULE).collect();
        let range = self.span.on(size, &edges);
        let longer = if self.granules.is_multiple_of(4) { u64::from(self.granules / 4 % 4) * GRANULE } else { 0 };
        range.start..(range.end + longer).min(size)
    }
}

/// What a disk is mirrored into.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Target {
    /// A raw file that holds so many bytes of something.
    Raw(Length),
    /// An image, empty or full of something.
    Image {
        /// Full.
        full: bool,
    },
    /// An overlay of another image, full of something.
    Overlay(Granule),
    /// An image of another size.
    Other(Length),
    /// A layer of the disk itself.
    Layer(u8),
}

/// What happens next.
#[derive(Debug, Clone, Copy, Arbitrary)]
#[allow(missing_docs, reason = "they are the verbs of `Disk`, `Job` and `LiveMirror`")]
pub enum Act {
    Write(Stretch, u8),
    WriteAgain(Stretch, u8),
    Zero(Stretch, bool),
    /// Two writes, and zeros, in one batch.
    Batch([Stretch; 3], u8),
    Discard(Stretch),
    Read(Stretch),
    Flush,
    Resize(Length),
    CopyOnRead(bool),
    Snapshot(Granule),
    Stream(Option<u8>),
    Merge(u8, u8),
    MergeActive(u8),
    Mirror(Target),
    Pace(u8),
    Pause(bool),
    Step(u8),
    StepAgain(u8),
    /// Steps until the job has finished, or the mirror is ready.
    Finish,
    Pivot,
    Split,
    /// Abandons the mirror, or cancels the job.
    Abandon,
    /// Opens everything anew, after closing it, or after a flush and the death of the process.
    Reopen(bool),
}

/// What an input describes.
#[derive(Debug, Clone, Arbitrary)]
pub struct Script {
    raw: bool,
    size: Length,
    acts: Vec<Act>,
}

impl Script {
    /// The script that `input` describes; `None` if it is too short to describe one.
    pub fn of(input: &[u8]) -> Option<Script> {
        let mut script = Script::arbitrary_take_rest(Unstructured::new(input)).ok()?;
        script.acts.truncate(LONGEST);
        Some(script)
    }

    /// Plays it.
    ///
    /// # Panics
    /// If anything is not as it should be.
    pub fn play(&self) {
        let mut scene = Scene::new(self.raw, self.size.bytes());
        for (number, act) in self.acts.iter().enumerate() {
            scene.now = format!("act {number}, {act:?}");
            scene.act(*act);
        }
        scene.now = "the end".into();
        scene.abandon();
        scene.reopen(true);
    }
}

/// The job that has the layers.
#[derive(Debug)]
enum Running {
    Nothing,
    Stream { job: Job, base: Option<usize> },
    Merge { job: Job, top: usize, base: usize },
    Mirror { mirror: Arc<LiveMirror>, below: Vec<Option<Bytes>> },
    MergeActive { mirror: Arc<LiveMirror>, base: usize },
}

struct Scene {
    files: Files,
    host: Arc<dyn Host>,
    disk: Arc<Disk>,
    /// What the guest's disk holds.
    model: Bytes,
    /// What the layers below the top show; `None` where an unfinished merge has made that nobody's business.
    below: Vec<Option<Bytes>>,
    running: Running,
    named: u32,
    now: String,
}

impl Scene {
    fn new(raw: bool, size: u64) -> Scene {
        let (mut files, host) = (Files::default(), Arc::new(SimHost::new(1)) as Arc<dyn Host>);
        let name = if raw { "0.raw" } else { "0.lvd" };
        let file = files.create(name);
        match raw {
            true => file.set_size(size).expect("memory has any size"),
            false => {
                let options = CreateOptions { virtual_size: size, ..CreateOptions::default() };
                Image::create(&*file, &*host, &options).expect("memory takes an image");
            }
        }
        let disk = Disk::new(files.chain(name, host.clone(), &writing(false)).expect("it was just made"));
        let (model, running) = (Bytes::zeros(size), Running::Nothing);
        Scene { files, host, disk, model, below: Vec::new(), running, named: 0, now: String::new() }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Write(stretch, byte) | Act::WriteAgain(stretch, byte) => self.write(stretch, byte),
            Act::Zero(stretch, unmap) => self.zero(stretch, unmap),
            Act::Batch(stretches, byte) => self.batch(stretches, byte),
            Act::Discard(stretch) => self.discard(stretch),
            Act::Read(stretch) => self.read(stretch),
            Act::Flush => self.guest("flush", self.disk.flush()),
            Act::Resize(length) => self.resize(length.bytes()),
            Act::CopyOnRead(on) => self.disk.set_copy_on_read(on),
            Act::Snapshot(granule) => self.snapshot(granule),
            Act::Stream(base) => self.stream(base.map(|base| usize::from(base) % (DEEPEST + 1))),
            Act::Merge(top, base) => self.merge(usize::from(top) % DEEPEST, usize::from(base) % (DEEPEST + 1)),
            Act::MergeActive(base) => self.merge_active(usize::from(base) % (DEEPEST + 1)),
            Act::Mirror(target) => self.mirror(target),
            Act::Pace(pace) => self.pace([Pace::Background, Pace::Bounded, Pace::WriteThrough][usize::from(pace) % 3]),
            Act::Pause(on) => self.pause(on),
            Act::Step(granules) | Act::StepAgain(granules) => drop(self.step(1 + u64::from(granules) * 4096)),
            Act::Finish => self.finish(),
            Act::Pivot => self.pivot(),
            Act::Split => self.split(),
            Act::Abandon => self.abandon(),
            Act::Reopen(clean) => self.reopen(clean),
        }
        assert_eq!(self.disk.size(), self.model.size(), "{}: the size", self.now);
    }

    fn name(&mut self, extension: &str) -> String {
        self.named += 1;
        format!("{}.{extension}", self.named)
    }

    fn chain(&self) -> Arc<Chain> {
        self.disk.chain()
    }

    fn busy(&self) -> bool {
        !matches!(self.running, Running::Nothing)
    }

    // The guest.

    fn guest(&self, what: &str, result: Result<()>) {
        result.unwrap_or_else(|error| panic!("{}: the guest's {what} fails: {error}", self.now));
    }

    fn write(&mut self, stretch: Stretch, byte: u8) {
        let range = stretch.on(self.model.size());
        let data: Vec<u8> = range.clone().map(|at| byte ^ (at / 512) as u8).collect();
        self.guest("write", self.disk.write_at(&data, range.start));
        self.model.write(&data, range.start);
        self.check(range);
    }

    fn zero(&mut self, stretch: Stretch, unmap: bool) {
        let range = stretch.on(self.model.size());
        self.guest("zeros", self.disk.write_zeroes(range.clone(), unmap));
        self.model.zero(range.clone());
        self.check(range);
    }

    /// Of stretches that overlap only the first takes part: which one comes last is nobody's promise.
    fn batch(&mut self, stretches: [Stretch; 3], byte: u8) {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for range in stretches.map(|stretch| stretch.on(self.model.size())) {
            if ranges.iter().all(|other| range.end <= other.start || other.end <= range.start) {
                ranges.push(range);
            }
        }
        let data: Vec<Vec<u8>> =
            ranges.iter().map(|range| vec![byte | 1; (range.end - range.start) as usize]).collect();
        let request = |(number, range): (usize, &Range<u64>)| match number {
            2 => Request::WriteZeroes { range: range.clone(), unmap: byte.is_multiple_of(2) },
            _ => Request::Write { data: &data[number], offset: range.start },
        };
        let mut batch: Vec<Request<'_>> = ranges.iter().enumerate().map(request).collect();
        for result in self.disk.submit(&mut batch) {
            self.guest("batch", result);
        }
        for (number, range) in ranges.into_iter().enumerate() {
            match number {
                2 => self.model.zero(range.clone()),
                _ => self.model.write(&data[number], range.start),
            }
            self.check(range);
        }
    }

    /// Each byte is zero afterwards or as it was, and stays what it is then.
    fn discard(&mut self, stretch: Stretch) {
        let range = stretch.on(self.model.size());
        self.guest("discard", self.disk.discard(range.clone()));
        let (before, after) = (self.model.read(range.clone()), bytes(&*self.disk, range.clone()));
        let fits = before.iter().zip(&after).all(|(before, after)| *after == 0 || after == before);
        assert!(fits, "{}: what a discard leaves", self.now);
        self.model.write(&after, range.start);
    }

    /// The bytes, and what the disk says of its zeros.
    fn read(&self, stretch: Stretch) {
        let range = stretch.on(self.model.size());
        self.check(range.clone());
        let mut at = range.start;
        while at < range.end {
            let extent = self.disk.extent(at, range.end).expect("memory is read");
            assert!(extent.range.start == at && extent.range.end > at && extent.range.end <= range.end, "{}", self.now);
            let zeros = extent.kind == ExtentKind::Data || self.model.is_zero(extent.range.clone());
            assert!(zeros, "{}: {:?} are no zeros", self.now, extent.range);
            at = extent.range.end;
        }
    }

    fn check(&self, range: Range<u64>) {
        self.same(&*self.disk, range.clone(), &self.model.read(range), "the guest's disk");
    }

    fn same(&self, device: &dyn BlockDevice, range: Range<u64>, wanted: &[u8], what: &str) {
        let found = bytes(device, range.clone());
        if let Some(at) = (0..wanted.len()).find(|&at| found[at] != wanted[at]) {
            let place = range.start + at as u64;
            panic!("{}: {what}: byte {place} is {:#x} instead of {:#x}", self.now, found[at], wanted[at]);
        }
    }

    fn check_disk(&self, device: &dyn BlockDevice, wanted: &Bytes, what: &str) {
        assert_eq!(device.size(), wanted.size(), "{}: {what}: the size", self.now);
        self.same(device, 0..wanted.size(), &wanted.read(0..wanted.size()), what);
    }

    /// The disk, and every layer of it.
    fn check_all(&self) {
        self.check_disk(&*self.disk, &self.model, "the guest's disk");
        let chain = self.chain();
        assert_eq!(chain.layers.len(), 1 + self.below.len(), "{}: the layers", self.now);
        for (layer, view) in chain.layers[1..].iter().zip(&self.below) {
            if let Some(view) = view {
                self.check_disk(&*layer.device(), view, layer.name());
            }
        }
    }

    // What may be refused.

    /// A verb that makes sense is refused while another job has the layers, or for a mark that an unfinished merge has
    /// left; one that makes none is refused.
    fn allowed<T>(&self, result: Result<T>, sense: bool) -> Option<T> {
        let marked = self.chain().layers.iter().any(|layer| mark_of(layer).is_some());
        match result {
            Ok(done) if sense && !self.busy() => Some(done),
            Ok(_) => panic!("{}: not refused", self.now),
            Err(Error::Denied(_)) if self.busy() => None,
            Err(Error::Invalid(_) | Error::Denied(_)) if !sense => None,
            Err(error) if marked && error.violation() == Some(Violation::Marked) => None,
            Err(error) => panic!("{}: refused: {error}", self.now),
        }
    }

    fn resize(&mut self, size: u64) {
        let sense = self.chain().image(0).is_ok();
        if self.allowed(self.disk.resize(size), sense).is_some() {
            self.model.resize(size);
            self.check_all();
        }
    }

    fn snapshot(&mut self, granule: Granule) {
        if self.below.len() + 1 == DEEPEST {
            return;
        }
        let (name, hint) = (self.name("lvd"), self.chain().name().to_string());
        let file = self.files.create(&name);
        if self.allowed(self.disk.snapshot(file, hint, granule.shift()), true).is_some() {
            self.below.insert(0, Some(self.model.clone()));
            self.check_all();
        }
    }

    // Jobs begin.

    fn stream(&mut self, base: Option<usize>) {
        let sense = self.chain().image(0).is_ok() && base.is_none_or(|base| (1..=self.below.len()).contains(&base));
        if let Some(job) = self.allowed(self.disk.stream(base), sense) {
            self.running = Running::Stream { job, base };
        }
    }

    fn writable(&self, layers: Range<usize>) -> bool {
        self.chain().layers[layers].iter().all(|layer| layer.writable())
    }

    fn merge(&mut self, top: usize, base: usize) {
        let within = 0 < top && top < base && base <= self.below.len();
        let sense = within && self.writable(top..base + 1);
        if let Some(job) = self.allowed(self.disk.merge(top, base), sense) {
            self.below[top..base].fill(None);
            self.running = Running::Merge { job, top, base };
        }
    }

    fn merge_active(&mut self, base: usize) {
        let within = 0 < base && base <= self.below.len();
        let sense = within && self.writable(0..base + 1) && self.chain().layers[base].size() <= self.model.size();
        if let Some(mirror) = self.allowed(self.disk.merge_active(base), sense) {
            self.below[..base].fill(None);
            self.running = Running::MergeActive { mirror, base };
        }
    }

    fn mirror(&mut self, target: Target) {
        let (chain, size) = (self.chain(), self.model.size());
        let image = CreateOptions { virtual_size: size, copy_mark: true, ..CreateOptions::default() };
        let (mut below, mut sense) = (Vec::new(), true);
        let target = match target {
            Target::Raw(length) => {
                let name = self.name("raw");
                self.fill(&name, length.bytes());
                self.open(&name, true)
            }
            Target::Image { full } => {
                let target = self.create(image);
                if full {
                    target.write_at(&vec![0xee; size as usize], 0).expect("memory is written");
                }
                target
            }
            Target::Overlay(granule) => {
                let name = self.name("raw");
                let file = self.fill(&name, size);
                below.push(Some(file.clone()));
                let link = self.open(&name, false).layers[0].link(size, name).expect("a raw file is a parent");
                self.create(CreateOptions { parent: Some(link), granularity_shift: granule.shift(), ..image })
            }
            Target::Other(length) => {
                sense = length.bytes() == size;
                self.create(CreateOptions { virtual_size: length.bytes(), ..image })
            }
            Target::Layer(number) => {
                sense = false;
                let layer = &chain.layers[usize::from(number) % chain.layers.len()];
                self.open(layer.name(), true)
            }
        };
        if let Some(mirror) = self.allowed(self.disk.mirror(target), sense) {
            self.running = Running::Mirror { mirror, below };
        }
    }

    /// A new image, opened to become a copy.
    fn create(&mut self, options: CreateOptions) -> Chain {
        let name = self.name("lvd");
        Image::create(&*self.files.create(&name), &*self.host, &options).expect("memory takes an image");
        self.open(&name, true)
    }

    /// A new raw file, full of something.
    fn fill(&mut self, name: &str, size: u64) -> Bytes {
        let mut bytes = Bytes::zeros(size);
        bytes.write(&vec![0xee; size as usize], 0);
        self.files.create(name).write_at(&vec![0xee; size as usize], 0).expect("memory is written");
        bytes
    }

    fn open(&self, name: &str, write: bool) -> Chain {
        let options = ChainOptions { write, ignore_marks: true, ..ChainOptions::default() };
        self.files.chain(name, self.host.clone(), &options).unwrap_or_else(|error| panic!("{}: {error}", self.now))
    }

    // Jobs go on.

    fn pace(&self, pace: Pace) {
        if let Running::Mirror { mirror, .. } | Running::MergeActive { mirror, .. } = &self.running {
            mirror.set_pace(pace);
        }
    }

    fn pause(&self, on: bool) {
        if let Running::Stream { job, .. } | Running::Merge { job, .. } = &self.running {
            if on { job.pause() } else { job.resume() }
        }
    }

    /// One step; false once there is nothing to do but to end it.
    fn step(&mut self, budget: u64) -> bool {
        let going_on = match &self.running {
            Running::Nothing => false,
            Running::Stream { job, .. } | Running::Merge { job, .. } => {
                let before = job.progress();
                let after = job.step(budget).unwrap_or_else(|error| panic!("{}: {error}", self.now));
                let idle = after.wait.is_none() || after.done == before.done;
                assert!(idle && before.done <= after.done && after.done <= after.total, "{}: {after:?}", self.now);
                !after.finished
            }
            Running::Mirror { mirror, .. } | Running::MergeActive { mirror, .. } => {
                !mirror.step(budget).unwrap_or_else(|error| panic!("{}: {error}", self.now)).ready
            }
        };
        if !going_on {
            self.finished();
        }
        going_on
    }

    /// With nobody who writes, every job and every mirror ends.
    fn finish(&mut self) {
        self.pause(false);
        let mut steps = 0;
        while self.step(1 << 20) {
            steps += 1;
            assert!(steps < 1000, "{}: it never ends", self.now);
        }
    }

    /// A stream or a merge that has finished is over; a mirror waits for its end.
    fn finished(&mut self) {
        let running = std::mem::replace(&mut self.running, Running::Nothing);
        match running {
            Running::Stream { base, .. } => {
                let gone = 0..base.map_or(self.below.len(), |base| base - 1);
                self.below.drain(gone);
                let chain = self.chain();
                assert!(base.is_some() || chain.image(0).is_ok_and(|image| image.complete()), "{}", self.now);
            }
            Running::Merge { top, base, .. } => {
                let merged = self.below[top - 1].clone();
                self.merged(top - 1, base - 1, merged);
            }
            running => self.running = running,
        }
        self.check_all();
    }

    /// What layers `top` and `base` of those below, and those between, have come to.
    fn merged(&mut self, top: usize, base: usize, view: Option<Bytes>) {
        let size = self.chain().layers[top + 2].size();
        self.below[base] = view.filter(|view| view.size() == size);
        self.below.drain(top + 1..base);
    }

    // Mirrors end.

    fn ready(&self) -> bool {
        match &self.running {
            Running::Mirror { mirror, .. } | Running::MergeActive { mirror, .. } => mirror.progress().ready,
            _ => false,
        }
    }

    fn pivot(&mut self) {
        let (Running::Mirror { mirror, .. } | Running::MergeActive { mirror, .. }) = &self.running else { return };
        let result = self.disk.pivot(mirror);
        if !self.ready() {
            assert!(matches!(result, Err(Error::Denied(_))), "{}: {result:?}", self.now);
            return;
        }
        let old = result.unwrap_or_else(|error| panic!("{}: {error}", self.now));
        match std::mem::replace(&mut self.running, Running::Nothing) {
            Running::Mirror { below, .. } => {
                self.check_disk(&*old, &self.model, "the source at the pivot");
                old.close().expect("memory is closed");
                self.below = below;
            }
            Running::MergeActive { base, .. } => drop(self.below.drain(..base)),
            running => panic!("{}: a pivot of {running:?}", self.now),
        }
        self.check_all();
    }

    fn split(&mut self) {
        let (Running::Mirror { mirror, .. } | Running::MergeActive { mirror, .. }) = &self.running else { return };
        let (result, merge) = (self.disk.split(mirror), matches!(self.running, Running::MergeActive { .. }));
        if merge || !self.ready() {
            assert!(matches!(result, Err(Error::Denied(_) | Error::Invalid(_))), "{}: {result:?}", self.now);
            return;
        }
        let target = result.unwrap_or_else(|error| panic!("{}: {error}", self.now));
        self.running = Running::Nothing;
        self.check_disk(&*target, &self.model, "the target");
        target.close().expect("memory is closed");
        let again = self.files.chain(target.name(), self.host.clone(), &ChainOptions::default());
        self.check_disk(&again.unwrap_or_else(|error| panic!("{}: {error}", self.now)), &self.model, "the copy");
        self.check_all();
    }

    fn abandon(&mut self) {
        match std::mem::replace(&mut self.running, Running::Nothing) {
            Running::Nothing => {}
            Running::Stream { job, .. } | Running::Merge { job, .. } => {
                job.cancel();
                assert!(matches!(job.step(1), Err(Error::Cancelled)), "{}", self.now);
            }
            Running::Mirror { mirror, .. } => {
                let target = self.disk.abandon(&mirror).unwrap_or_else(|error| panic!("{}: {error}", self.now));
                assert!(matches!(mirror.step(1), Err(Error::Cancelled)), "{}", self.now);
                if target.image(0).is_ok() {
                    let opened = self.files.chain(target.name(), self.host.clone(), &ChainOptions::default());
                    let refused = opened.map(drop).unwrap_err();
                    assert_eq!(refused.violation(), Some(Violation::Copying), "{}: {refused}", self.now);
                }
            }
            Running::MergeActive { mirror, base } => {
                drop(self.disk.abandon(&mirror).unwrap_or_else(|error| panic!("{}: {error}", self.now)));
                let layer = &self.chain().layers[base];
                assert!(
                    layer.image().is_none() || mark_of(layer).is_some(),
                    "{}: the base has lost its mark",
                    self.now
                );
            }
        }
        self.check_all();
    }

    /// The process ends, and another one comes.
    fn reopen(&mut self, clean: bool) {
        if clean {
            if self.busy() {
                assert!(matches!(self.disk.close(), Err(Error::Denied(_))), "{}: closed under a job", self.now);
                self.abandon();
            }
            self.disk.close().unwrap_or_else(|error| panic!("{}: {error}", self.now));
        } else {
            self.guest("flush", self.disk.flush());
            self.running = Running::Nothing;
        }
        let name = self.chain().name().to_string();
        let options = writing(true);
        let chain = self.files.chain(&name, self.host.clone(), &options);
        self.disk = Disk::new(chain.unwrap_or_else(|error| panic!("{}: {error}", self.now)));
        self.check_all();
    }
}

/// The top for writing, and with `all` every layer.
fn writing(all: bool) -> ChainOptions {
    ChainOptions { write: true, write_also: all.then_some(usize::MAX), ..ChainOptions::default() }
}

fn mark_of(layer: &crate::chain::Layer) -> Option<MergeMark> {
    layer.image().and_then(|image| image.header().merge_mark)
}

fn bytes(device: &dyn BlockDevice, range: Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0xaa; (range.end - range.start) as usize];
    device.read_at(&mut bytes, range.start).expect("memory is read");
    bytes
}
