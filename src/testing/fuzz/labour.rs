//! Jobs on a disk at rest whose files fail: begun, paused, held, cancelled, retried, killed, and begun again.
//!
//! After every event whoever opens the disk reads what it always held, as a process that was killed there would have left
//! it; no target is taken for a copy before it is one; in the end the job, begun once more, does what it was to do.

use super::files::Files;
use super::scene::options;
use super::span::Span;
use super::story::Shape;
use crate::chain::{Chain, ChainOptions};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::Uuid;
use crate::image::{CreateOptions, Image};
use crate::jobs::{Backup, Count, Job, Merge, Mirror, Rebase, ResumableMirror, Stream};
use crate::limits::PAGE_SIZE;
use crate::storage::Host;
use crate::testing::host::SimHost;
use crate::testing::sector::mix;
use crate::violation::Violation;
use arbitrary::{Arbitrary, Unstructured};
use std::sync::Arc;

/// Longer lists tell nothing new.
const MOST_EVENTS: usize = 40;
const BITMAP: &str = "daily";
const SYNC: &str = "lacking";
const RESUMED: &str = "resumed.lvd";

/// A chain, and what happens to it.
#[derive(Debug)]
pub struct Labour {
    raw: bool,
    layers: Vec<Shape>,
    events: Vec<Event>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Event {
    Begin(Verb),
    Step {
        steps: u8,
        pages: u8,
    },
    Pause(bool),
    Hold(bool),
    Cancel,
    /// A job that failed goes on with what failed.
    Retry,
    /// After so many changes one fails, or all do.
    Fail {
        after: u8,
        once: bool,
    },
    Mend,
    /// The process dies.
    Kill,
    /// The job that did not end is begun again.
    Again,
    /// The guest's, while there is no job.
    Write(Span),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Verb {
    Stream(u8),
    Merge {
        top: u8,
        base: u8,
        empty: bool,
    },
    Mirror {
        raw: bool,
    },
    /// A mirror that goes on where it was.
    Resume,
    RebaseDeeper(u8),
    /// Of everything.
    Backup,
    /// Of what has changed, onto the one before.
    BackupChanges,
}

struct Running {
    job: Job,
    target: Option<Chain>,
    paused: bool,
    held: bool,
    cancelled: bool,
    failed: bool,
    /// A write of it has failed: a file whose metadata that was takes no more in this process (ORD-06).
    harmed: bool,
    done: u64,
}

struct Scene {
    files: Files,
    host: Arc<SimHost>,
    top: String,
    chain: Option<Chain>,
    view: Vec<u8>,
    running: Option<Running>,
    /// The job that was begun last, if it has not ended.
    owed: Option<Verb>,
    /// The file of the backup that `BITMAP` tells of changes since, or may.
    backup: Option<String>,
    /// Targets that may not be taken for copies yet.
    unfinished: Vec<String>,
    /// There is a target of a mirror that goes on where it was.
    resumable: bool,
    named: u32,
    written: u64,
    now: String,
}

impl Labour {
    /// What some bytes describe.
    pub fn of(input: &[u8]) -> Option<Labour> {
        let mut input = Unstructured::new(input);
        let raw = input.arbitrary().ok()?;
        let depth = input.int_in_range(1..=3).ok()?;
        let layers = (0..depth).map(|_| input.arbitrary()).collect::<std::result::Result<_, _>>().ok()?;
        let mut events = Vec::new();
        while !input.is_empty() && events.len() < MOST_EVENTS {
            events.extend(input.arbitrary::<Event>());
        }
        Some(Labour { raw, layers, events })
    }

    /// Lets it happen.
    ///
    /// # Panics
    /// If the disk reads otherwise, an unfinished target is taken for a copy, a finished one is none, or a job fails for no
    /// reason.
    pub fn toil(&self) {
        let mut scene = Scene::new(self.raw, &self.layers);
        for event in &self.events {
            scene.now = format!("{event:?}");
            scene.happen(*event);
            scene.check();
        }
        scene.now = "the end".into();
        scene.kill();
        scene.again();
        scene.finish();
        scene.check();
    }
}

impl Scene {
    fn new(raw: bool, shapes: &[Shape]) -> Scene {
        let mut scene = Scene {
            files: Files::default(),
            host: Arc::new(SimHost::new(1)),
            top: String::new(),
            chain: None,
            view: Vec::new(),
            running: None,
            owed: None,
            backup: None,
            unfinished: Vec::new(),
            resumable: false,
            named: 0,
            written: 0,
            now: "the beginning".into(),
        };
        for (number, shape) in shapes.iter().enumerate() {
            scene.add(shape, raw && number == 0 && shapes.len() > 1);
        }
        scene.open();
        scene
    }

    fn name(&mut self, extension: &str) -> String {
        self.named += 1;
        format!("{}.{extension}", self.named)
    }

    /// Puts a layer on top, and writes to it.
    fn add(&mut self, shape: &Shape, raw: bool) {
        let (below, size) = (std::mem::take(&mut self.top), shape.size.few_bytes());
        self.top = self.name(if raw { "raw" } else { "lvd" });
        let file = self.files.create(&self.top);
        if raw {
            self.done(file.set_size(size));
        } else {
            let visible = shape.visible.map_or(u64::MAX, |visible| visible.few_bytes());
            let visible = visible.min(size).min(self.view.len() as u64);
            let parent = (!below.is_empty()).then(|| {
                self.view.truncate(visible as usize);
                let chain = self.done(self.look(&below));
                self.done(chain.layers[0].link(visible, below))
            });
            self.done(Image::create(&*file, &*self.host, &options(shape, parent, size)));
        }
        self.view.resize(size as usize, 0);
        self.open();
        shape.written.into_iter().for_each(|span| self.write(span));
        self.done(self.chain().close());
        self.chain = None;
    }

    fn done<T>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| panic!("{}: {error}", self.now))
    }

    fn chain(&self) -> &Chain {
        self.chain.as_ref().expect("it is open")
    }

    fn open(&mut self) {
        let options = ChainOptions { write: true, write_also: Some(usize::MAX), ..ChainOptions::default() };
        let chain = self.done(self.files.chain(&self.top, self.host.clone(), &options));
        self.chain = Some(chain);
    }

    /// As a reader who comes now.
    fn look(&self, name: &str) -> Result<Chain> {
        self.files.chain(name, self.host.clone(), &ChainOptions::default())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin(verb) => self.begin(verb),
            Event::Step { steps, pages } => drop(self.steps(steps % 16, 1 + u64::from(pages % 8))),
            Event::Pause(on) => {
                if let Some(running) = &mut self.running {
                    running.paused = on;
                    if on { running.job.pause() } else { running.job.resume() }
                }
            }
            Event::Hold(on) => {
                if let Some(running) = &mut self.running {
                    running.held = on;
                    if on { running.job.hold() } else { running.job.release() }
                }
            }
            Event::Cancel => {
                if let Some(running) = &mut self.running {
                    running.job.cancel();
                    running.cancelled = true;
                }
            }
            Event::Retry => {
                if let Some(running) = &mut self.running {
                    let again = running.job.retry();
                    assert!(running.failed || !again, "{}: nothing had failed", self.now);
                    running.failed &= !again;
                }
            }
            Event::Fail { after, once } => self.files.fault.arm(after.into(), once),
            Event::Mend => self.files.fault.mend(),
            Event::Kill => self.kill(),
            Event::Again => self.again(),
            Event::Write(span) => self.write(span),
        }
    }

    /// Nothing of the process is left, and nothing fails any more.
    fn kill(&mut self) {
        (self.running, self.chain) = (None, None);
        self.files.fault.mend();
        self.open();
    }

    fn write(&mut self, span: Span) {
        if self.running.is_some() {
            return;
        }
        let range = span.on(self.view.len() as u64, &[PAGE_SIZE]);
        self.written += 1;
        let data: Vec<u8> = range.clone().map(|at| mix(self.written, at) as u8).collect();
        // Who opens the disk while it is open sees what was flushed.
        let result = self.chain().write_at(&data, range.start).and_then(|()| self.chain().flush());
        let place = range.start as usize..range.end as usize;
        if let Err(error) = result {
            assert!(self.files.fault.fired(), "{}: {error}", self.now);
            self.kill();
            let now = self.read(self.chain());
            // Each byte is old or new.
            let torn = place.clone().all(|at| [self.view[at], data[at - place.start]].contains(&now[at]));
            assert!(torn, "{}: bytes that nobody wrote", self.now);
            self.view[place.clone()].copy_from_slice(&now[place]);
        } else {
            self.view[place].copy_from_slice(&data);
        }
    }

    fn begin(&mut self, verb: Verb) {
        if self.running.is_some() {
            return;
        }
        match self.job(verb) {
            Ok((job, target)) => {
                let done = job.progress().done;
                let (paused, held, cancelled, failed, harmed) = (false, false, false, false, false);
                self.running = Some(Running { job, target, paused, held, cancelled, failed, harmed, done });
                self.owed = Some(verb);
            }
            Err(Error::Invalid(_) | Error::Denied(_) | Error::Refused { .. }) => {}
            Err(error) => {
                assert!(self.files.fault.fired(), "{}: {error}", self.now);
                self.kill();
            }
        }
    }

    fn job(&mut self, verb: Verb) -> Result<(Job, Option<Chain>)> {
        let (depth, host) = (self.chain().layers.len(), self.host.clone() as Arc<dyn Host>);
        Ok(match verb {
            Verb::Stream(base) => {
                let base = Some(usize::from(base) % (depth + 1)).filter(|base| *base > 0);
                (Job::new(Stream::new(self.chain(), base)?, host), None)
            }
            Verb::Merge { top, base, empty } => {
                let (top, base) = (usize::from(top) % depth, usize::from(base) % depth);
                (Job::new(Merge::new(self.chain(), top, base, empty)?, host), None)
            }
            Verb::RebaseDeeper(to) => {
                let name = self.chain().layer(1 + usize::from(to) % depth)?.name().to_string();
                let parent = self.look(&name)?;
                (Job::new(Rebase::new(self.chain(), &parent, name)?, host), None)
            }
            Verb::Mirror { raw } => {
                let name = self.name(if raw { "raw" } else { "lvd" });
                let target = self.target(&name, true)?;
                (Job::new(Mirror::full(self.chain().top(), target.layers[0].clone(), true)?, host), Some(target))
            }
            Verb::Resume => {
                let (name, fresh) = (RESUMED.to_string(), !self.resumable);
                let target = self.target(&name, fresh)?;
                self.resumable = true;
                let work = ResumableMirror::new(self.chain(), target.layers[0].clone(), SYNC, 12, fresh)?;
                (Job::new(work, host), Some(target))
            }
            Verb::Backup => {
                self.backup = None;
                let name = self.name("raw");
                let target = self.target(&name, true)?;
                let work = Backup::full(self.chain(), target.layers[0].clone(), true, Some(self.count()?))?;
                (Job::new(work, host), Some(target))
            }
            Verb::BackupChanges => {
                let Some(name) = self.backup.clone() else {
                    return Err(Error::Denied("there is none to go on from".into()));
                };
                let target = self.target(&name, false)?;
                let work = Backup::onto(self.chain(), target.layers[0].clone(), BITMAP, Some(self.count()?))?;
                (Job::new(work, host), Some(target))
            }
        })
    }

    fn count(&self) -> Result<Count> {
        Ok(Count::new(self.chain().image(0)?.clone(), BITMAP, Uuid(self.host.random())))
    }

    /// A file of the disk's size that becomes a copy of it.
    fn target(&mut self, name: &str, fresh: bool) -> Result<Chain> {
        if fresh {
            let (file, virtual_size) = (self.files.create(name), self.view.len() as u64);
            match name.ends_with(".raw") {
                true => file.set_size(virtual_size)?,
                false => {
                    let options = CreateOptions { virtual_size, copy_mark: true, ..CreateOptions::default() };
                    Image::create(&*file, &*self.host, &options)?;
                    self.unfinished.push(name.into());
                }
            }
        }
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        self.files.chain(name, self.host.clone(), &options)
    }

    /// Some steps. True if the job has ended.
    fn steps(&mut self, steps: u8, pages: u64) -> bool {
        for _ in 0..steps {
            let Some(running) = &mut self.running else { return true };
            match running.job.step(pages * PAGE_SIZE) {
                Ok(progress) => {
                    let over = running.cancelled || running.failed && !running.paused;
                    assert!(!over, "{}: a job that is over goes on", self.now);
                    let known = running.done <= progress.done && progress.done <= progress.total;
                    assert!(known && (!running.paused || progress.done == running.done), "{}: {progress:?}", self.now);
                    assert!(!(progress.finished && running.held), "{}: it was to be held", self.now);
                    running.done = progress.done;
                    if progress.finished {
                        self.ended();
                        return true;
                    }
                }
                Err(Error::Cancelled) => assert!(running.cancelled, "{}: nobody cancelled it", self.now),
                Err(error) => {
                    assert!(self.files.fault.fired() || running.harmed, "{}: {error}", self.now);
                    (running.failed, running.harmed) = (true, true);
                }
            }
        }
        false
    }

    fn again(&mut self) {
        if let (None, Some(verb)) = (&self.running, self.owed) {
            self.begin(verb);
        }
    }

    /// The job ends well: nothing is in its way.
    fn finish(&mut self) {
        if self.running.is_some() {
            assert!(self.steps(255, 64), "{}: it never ends", self.now);
        }
    }

    fn ended(&mut self) {
        let target = self.running.take().and_then(|running| running.target);
        let verb = self.owed.take().expect("one was begun");
        let closed = target.as_ref().map_or(Ok(()), Chain::close);
        match (verb, target) {
            (Verb::Stream(_), _) => {
                let depth = self.done(self.look(&self.top)).layers.len();
                assert!(depth <= self.chain().layers.len(), "{}: {depth} layers are left", self.now);
            }
            (Verb::Merge { top, base, .. }, _) => {
                let depth = self.chain().layers.len();
                let (top, base) = (usize::from(top) % depth, usize::from(base) % depth);
                if top == 0 {
                    let name = self.chain().layers[base].name().to_string();
                    let merged = self.read(&self.done(self.look(&name)));
                    assert!(merged.starts_with(&self.view), "{}: the base holds something else", self.now);
                }
            }
            (verb, Some(target)) => {
                let name = target.name().to_string();
                self.unfinished.retain(|other| *other != name);
                self.resumable &= name != RESUMED;
                let copy = self.read(&self.done(self.look(&name)));
                assert!(copy == self.view, "{}: {name} is no copy", self.now);
                if matches!(verb, Verb::Backup | Verb::BackupChanges) {
                    self.backup = Some(name);
                }
            }
            _ => {}
        }
        assert!(closed.is_ok() || self.files.fault.fired(), "{}: {closed:?}", self.now);
        self.kill();
    }

    fn read(&self, disk: &Chain) -> Vec<u8> {
        let mut bytes = vec![0xaa; disk.size() as usize];
        self.done(disk.read_at(&mut bytes, 0));
        bytes
    }

    fn same(&self, disk: &Chain, who: &str) {
        let found = self.read(disk);
        let wrong = (0..self.view.len()).find(|&at| found.get(at) != self.view.get(at));
        assert!(found.len() == self.view.len() && wrong.is_none(), "{}: {who} reads wrong at {wrong:?}", self.now);
    }

    fn check(&mut self) {
        self.same(self.chain(), "who has it open");
        self.same(&self.done(self.look(&self.top)), "who opens it");
        let (unfinished, view) = (std::mem::take(&mut self.unfinished), self.view.clone());
        self.unfinished = unfinished.into_iter().filter(|name| !self.is_copy(name, &view)).collect();
    }

    /// Whether a target says that it is a copy, as it does a moment before its job ends; then it is one.
    fn is_copy(&self, name: &str, view: &[u8]) -> bool {
        match self.look(name) {
            Ok(copy) => {
                assert!(self.read(&copy) == view, "{}: {name} is taken for a copy", self.now);
                true
            }
            Err(error) => {
                let marked = [Violation::Copying, Violation::Magic].map(Some).contains(&error.violation());
                assert!(marked, "{}: {name}: {error}", self.now);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_has_failed_takes_no_more_though_the_host_has_mended() {
        let step = Event::Step { steps: 15, pages: 1 };
        let layer: Shape = Unstructured::new(&[97; 64]).arbitrary().expect("long enough");
        for after in 0..20 {
            let fail = Event::Fail { after, once: false };
            let events = [fail, Event::Begin(Verb::Mirror { raw: false }), step, Event::Mend, Event::Retry, step];
            Labour { raw: false, layers: vec![layer], events: events.into() }.toil();
        }
    }
}
