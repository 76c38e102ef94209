//! Layers that are merged under a guest: those between (commit) and the one that it writes to (active commit), given up,
//! killed and begun again, while others lie on the same files.
//!
//! What the guest sees never changes by it. Every other disk on these layers reads as before or is refused; the base itself
//! reads as before, or as what was merged into it, or is refused.

use super::{beginning, begun, fingerprint, judged, losses, on_a_world};
use crate::error::Result;
use crate::jobs::Job;
use crate::live::{Disk, LiveMirror, MirrorOptions};
use crate::sync::Arc;
use crate::testing::crash::Scenario;
use crate::testing::explore::Protocol;
use crate::testing::model::{Breach, Model};
use crate::testing::pending::Loss;
use crate::testing::scenarios::files::{BLOCK, base, mid, sibling, top};
use crate::testing::scenarios::live::OPTIONS;
use crate::testing::sim::Fault;
use crate::testing::world::World;
use std::ops::Range;

/// Two blocks and an odd rest.
const SIZE: u64 = 2 * BLOCK + 1000;
/// All blocks of it.
const WHOLE: u64 = 3 * BLOCK;
/// Part of the first block; the last one.
const PLACES: [Range<u64>; 2] = [512..1024, 2 * BLOCK..SIZE];

const BEGINNING: Scenario = beginning("merge", |w| {
    w.with_base(SIZE)?;
    w.with_overlay("sibling", sibling, ("base.lvd", "base"), SIZE)?;
    w.with_overlay("mid", mid, ("base.lvd", "base"), SIZE)?;
    written(w, "mid", "mid.lvd", BLOCK..BLOCK + 512)?;
    w.with_overlay("top", top, ("mid.lvd", "mid"), SIZE)?;
    written(w, "top", "top.lvd", 0..512)
});

fn written(w: &mut World, view: &str, name: &str, range: Range<u64>) -> Result<()> {
    let disk = w.open(name)?;
    w.write(view, &disk, range)?;
    w.durable(view, || disk.close())
}

/// The world of a merge.
pub struct Merge {
    w: World,
    process: Option<Process>,
    /// What was begun last, and is begun again.
    begun: Option<Sort>,
    /// What the base may have held before a merge that was not finished.
    before: Vec<Model>,
    /// The guest is on the base now.
    moved: bool,
}

struct Process {
    disk: Arc<Disk>,
    work: Option<Work>,
    written: [bool; 2],
    did: u64,
}

#[derive(Clone)]
enum Work {
    Job(Arc<Job>),
    Mirror(Arc<LiveMirror>),
}

/// Which layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sort {
    /// The one between into the base.
    Middle,
    /// The guest's and the one between.
    Active,
}

/// What can happen.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A process opens the disk.
    Open,
    /// The guest writes to a place.
    Write(u8),
    /// The guest flushes.
    Flush,
    /// A merge begins.
    Begin(Sort),
    /// It goes a step.
    Step,
    /// The guest moves to the base.
    Pivot,
    /// The merge is given up.
    Abandon,
    /// Whoever finds that all was merged into the base goes on there.
    Move,
    /// The process closes the disk and ends.
    Close,
    /// The process dies.
    Kill,
    /// Power is lost.
    Lose(Loss),
}

impl Merge {
    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("events of a process are offered where there is one")
    }

    fn guest(&self) -> &'static str {
        if self.moved { "base" } else { "top" }
    }

    fn begin_merge(&mut self, sort: Sort) -> Result<()> {
        self.begun = Some(sort);
        let options = MirrorOptions { piece: WHOLE, ..OPTIONS };
        // From here on what lies on these layers may be refused.
        self.w.refusable("base");
        self.w.refusable("sibling");
        if sort == Sort::Active {
            self.w.refusable("mid");
        }
        self.before.extend(self.w.model("base"));
        self.w.forget("base");
        let disk = self.process().disk.clone();
        let layers = disk.chain().layers.len();
        self.process().work = Some(match sort {
            Sort::Middle => Work::Job(Arc::new(disk.merge(1, layers - 1)?)),
            Sort::Active => Work::Mirror(disk.merge_active_with(layers - 1, &options)?),
        });
        Ok(())
    }

    /// Whether anything was done.
    fn step(&mut self) -> Result<bool> {
        match self.process().work.clone() {
            Some(Work::Job(job)) => {
                if job.step(WHOLE)?.finished {
                    self.process().work = None;
                    self.begun = None;
                }
                Ok(true)
            }
            Some(Work::Mirror(mirror)) => Ok(mirror.step(WHOLE)?.wait.is_none()),
            None => Ok(false),
        }
    }

    fn pivot(&mut self) -> Result<()> {
        let (disk, work) = (self.process().disk.clone(), self.process().work.clone());
        let Some(Work::Mirror(mirror)) = work else { return Ok(()) };
        let model = self.w.model("top").expect("the disk has a view").durable();
        self.w.view("base", base, model, false);
        disk.pivot(&mirror)?;
        (self.process().work, self.process().written) = (None, [false; 2]);
        self.w.refusable("top");
        self.go_to_base();
        Ok(())
    }

    /// From here on, durably, the base is the guest's disk.
    fn go_to_base(&mut self) {
        self.w.promise("base");
        (self.moved, self.begun) = (true, None);
    }

    /// A base that opens amid a merge reads as before, or as one of the layers that are merged into it, and is no mixture.
    fn whole(&self) -> std::result::Result<(), Breach> {
        if self.w.model("base").is_some() {
            return Ok(());
        }
        for loss in Loss::EACH {
            let Ok(opened) = base(&self.w.disk.after_loss(loss)) else { continue };
            let merged = ["mid", "top"].into_iter().filter_map(|view| self.w.model(view));
            if !merged.chain(self.before.clone()).any(|model| model.check(&*opened.device).is_ok()) {
                return Err(Breach::new('O', format!("the base is neither old nor new after a loss ({loss:?})")));
            }
        }
        Ok(())
    }
}

impl Protocol for Merge {
    type Event = Event;
    const NAME: &'static str = "merge";

    fn begin() -> Result<Merge> {
        let w = begun(&BEGINNING)?;
        let mut merge = Merge { w, process: None, begun: None, before: Vec::new(), moved: false };
        merge.happen(Event::Open)?;
        Ok(merge)
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        match &self.process {
            None => {
                events.push(Event::Open);
                if self.begun == Some(Sort::Active) && self.w.model("base").is_some() {
                    events.push(Event::Move);
                }
            }
            Some(process) => {
                events.extend((0u8..2).filter(|place| !process.written[usize::from(*place)]).map(Event::Write));
                events.extend([Event::Flush, Event::Kill]);
                match &process.work {
                    None => {
                        events.push(Event::Close);
                        let layers = process.disk.chain().layers.len();
                        let sorts = [(Sort::Middle, 2), (Sort::Active, 1)];
                        // One that was begun and is not over is begun again: another would be refused.
                        let wanted = sorts
                            .into_iter()
                            .filter(|(sort, above)| layers > *above && self.begun.is_none_or(|begun| begun == *sort));
                        events.extend(wanted.map(|(sort, _)| Event::Begin(sort)));
                    }
                    Some(work) => {
                        events.extend([Event::Step, Event::Abandon]);
                        if matches!(work, Work::Mirror(mirror) if mirror.progress().ready) {
                            events.push(Event::Pivot);
                        }
                    }
                }
            }
        }
        events.extend(losses(&self.w).iter().map(|loss| Event::Lose(*loss)));
        events
    }

    fn happen(&mut self, event: Event) -> Result<bool> {
        let guest = self.guest();
        match event {
            Event::Open => {
                let disk = if self.moved { self.w.open("base.lvd")? } else { self.w.open_also("top.lvd", Some(2))? };
                self.w.read(guest, &disk);
                self.process = Some(Process { disk: Disk::new(disk), work: None, written: [false; 2], did: 0 });
            }
            Event::Write(place) => {
                let disk = self.process().disk.clone();
                if self.moved {
                    // As soon as the base changes it is no parent of the old top any more.
                    self.w.refusable("top");
                }
                self.w.write(guest, &*disk, PLACES[usize::from(place)].clone())?;
                self.process().written[usize::from(place)] = true;
                self.process().did |= 1;
            }
            Event::Flush => {
                let disk = self.process().disk.clone();
                self.w.flush(guest, &*disk)?;
                self.process().written = [false; 2];
                self.process().did |= 2;
            }
            Event::Begin(sort) => {
                self.begin_merge(sort)?;
                self.process().did |= 4;
            }
            Event::Step => return self.step(),
            Event::Pivot => self.pivot()?,
            Event::Move => {
                if base(&self.w.disk).is_err() {
                    return Ok(false);
                }
                self.moved = true;
            }
            Event::Abandon => {
                let process = self.process();
                if let Some(Work::Mirror(mirror)) = process.work.take() {
                    process.disk.abandon(&mirror)?;
                }
            }
            Event::Close => {
                let process = self.process.take().expect("events of a process are offered where there is one");
                self.w.durable(guest, || process.disk.close())?;
            }
            Event::Kill => {
                self.process = None;
                self.w.die(Fault::None);
            }
            Event::Lose(loss) => {
                self.process = None;
                self.w.lose(loss);
                self.moved &= self.w.promised("base");
            }
        }
        // Whoever has written or flushed there has made durable what it found.
        if self.moved && matches!(event, Event::Write(_) | Event::Flush) {
            self.go_to_base();
        }
        Ok(true)
    }

    fn can_be_cut(event: Event) -> bool {
        matches!(event, Event::Begin(_) | Event::Step | Event::Pivot)
    }

    fn laws(&self, seen: bool) -> std::result::Result<(), Breach> {
        judged(&self.w, seen)?;
        if seen { Ok(()) } else { self.whole() }
    }

    fn fingerprint(&self) -> u64 {
        let mut print = fingerprint(&self.w);
        print.number(u64::from(self.moved) | self.begun.map_or(0, |sort| 2 + sort as u64) << 1);
        if let Some(process) = &self.process {
            print.number(process.did << 2 | u64::from(process.written[0]) << 1 | u64::from(process.written[1]));
            print.chain(&process.disk.chain());
            match &process.work {
                None => print.number(0),
                Some(Work::Job(job)) => print.number(1 + job.progress().done),
                Some(Work::Mirror(mirror)) => {
                    let progress = mirror.progress();
                    print.number(progress.behind << 2 | u64::from(progress.ready) << 1 | 1);
                }
            }
        }
        print.end()
    }

    on_a_world!(process = None);
}
