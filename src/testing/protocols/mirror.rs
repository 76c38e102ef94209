//! A guest that moves to a copy: mirror, READY, pivot, split or abandon; killed, resumed, and while others open the files.
//!
//! There are three worlds of it: with a guest alone, with a mirror that is ready, and with one that had copied all when its
//! process ended ([`FROM`]).
//!
//! Until the copy counts nobody but the mirror opens it; from then on it holds all that the guest saw when it did. At no
//! moment does anybody else open for writing what the guest, or the mirror, writes to. What is flushed is never lost, of
//! the disk that the guest is on. And wherever source and target differ, a sync bitmap that fits the target is dirty (law S of
//! `spec/bitmaps.md`, section 9).

use super::{beginning, begun, fingerprint, judged, losses, on_a_world};
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{BitmapState, Point};
use crate::image::{CreateOptions, Image, OpenOptions, Trust};
use crate::limits::SLOTS_END;
use crate::live::{Disk, LiveMirror, Pace};
use crate::switch::{Step, without_step};
use crate::testing::crash::Scenario;
use crate::testing::explore::Protocol;
use crate::testing::file::Content;
use crate::testing::host::SimHost;
use crate::testing::model::{Breach, Model};
use crate::testing::pending::Loss;
use crate::testing::scenarios::files::{BLOCK, chain, copy, top};
use crate::testing::scenarios::live::OPTIONS;
use crate::testing::sim::{Fault, SimDisk};
use crate::testing::world::World;
use std::ops::Range;
use std::sync::Arc;

/// A block and an odd rest.
const SIZE: u64 = BLOCK + 1000;
/// Part of the first block; the second one.
const PLACES: [Range<u64>; 2] = [512..1024, BLOCK..SIZE];
/// Source and target.
const FILES: [&str; 2] = ["top.lvd", "copy.lvd"];
/// Where data lies in them.
const DATA: Range<u64> = SLOTS_END..SLOTS_END + SIZE;

const BEGINNING: Scenario = beginning("mirror", |w| {
    w.create("top.lvd", SIZE)?;
    w.view("top", top, Model::zeros(SIZE), true);
    let disk = w.open("top.lvd")?;
    w.write("top", &disk, 0..SIZE)?;
    w.durable("top", || disk.close())
});

/// The world of a mirror that begins with number `BEGUN` of [`FROM`].
pub struct Mirror<const BEGUN: usize> {
    w: World,
    process: Option<Process>,
    /// The view that the guest is on, or goes on with: `top` or `copy`.
    side: &'static str,
    /// Source and target as they were once, and what the guest then saw.
    kept: Option<([Arc<Content>; 2], Model)>,
}

/// A source, and the target that its sync bitmap fits (SYN-01).
struct Sides([Image; 2]);

impl Sides {
    fn of(disk: &SimDisk) -> Result<Option<Sides>> {
        let options = OpenOptions { ignore_marks: true, ..OpenOptions::default() };
        let open = |name| Image::open(disk.open(name, false)?, Arc::new(SimHost::new(0)), &options);
        let [source, target] = [open("top.lvd")?, open("copy.lvd")?];
        let (bitmap, header) = (source.bitmap("mirror")?, target.header());
        let named = |point: &Point| (point.source, point.point) == (source.uuid(), bitmap.since);
        let valid = bitmap.trust == Trust::Valid && bitmap.state != BitmapState::Disabled;
        let fits = valid && header.copy_mark.is_some() && header.points.iter().any(named);
        Ok(fits.then_some(Sides([source, target])))
    }

    fn differ_unseen(&self) -> bool {
        let Sides([source, target]) = self;
        let read = |image: &Image, range: &Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            image.read_at(&mut bytes, range.start).map(|()| bytes)
        };
        let clean = |at: u64| source.bitmap_run("mirror", at, SIZE).is_ok_and(|(dirty, _)| !dirty);
        let differ = |range: &Range<u64>| read(source, range).ok() != read(target, range).ok();
        [0..BLOCK, BLOCK..SIZE].iter().any(|granule| clean(granule.start) && differ(granule))
    }
}

/// A process that serves the disk.
struct Process {
    disk: Arc<Disk>,
    mirror: Option<Arc<LiveMirror>>,
    /// What the guest wrote since its last flush, by place.
    written: [bool; 2],
    /// The target has failed, and takes nothing more in this session.
    failed: bool,
    /// What it did so far: [`Event::kind`].
    did: u64,
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
    /// A mirror begins, with a target that is there and was not finished, or a new one.
    Begin,
    /// The mirror copies a block, or says that it is ready.
    Step,
    /// The same, and the target fails.
    StepFails,
    /// The mirror makes durable what it has.
    Save,
    /// From here on writes go to both.
    Through,
    /// The guest moves to the target.
    Pivot,
    /// The target is the disk of this moment; the guest stays.
    Split,
    /// The mirror is given up.
    Abandon,
    /// Whoever finds that the copy counts goes on with it.
    Move,
    /// The process closes the disk and ends.
    Close,
    /// The process dies.
    Kill,
    /// Power is lost.
    Lose(Loss),
    /// Somebody who knows nothing of bitmaps writes to the source.
    PastBitmaps,
    /// The files are copied.
    Keep,
    /// The copy of one takes its place: 0 is the source, 1 the target.
    RollBack(u8),
}

/// How worlds are called, and what has happened when they begin.
pub const FROM: [(&str, &[Event]); 3] = [
    ("mirror", &[Event::Open]),
    ("mirror, ready", &[Event::Open, Event::Begin, Event::Step, Event::Step, Event::Step]),
    ("mirror, resumed", &[Event::Open, Event::Begin, Event::Step, Event::Step, Event::Save, Event::Close]),
];

impl Event {
    fn kind(self) -> u64 {
        match self {
            Event::Open | Event::Move | Event::Close | Event::Kill | Event::Lose(_) | Event::PastBitmaps => 0,
            Event::Write(_) => 1,
            Event::Flush => 2,
            Event::Begin => 4,
            Event::Step => 8,
            Event::StepFails => 16,
            Event::Save => 32,
            Event::Through => 64,
            Event::Pivot => 128,
            Event::Split => 256,
            Event::Abandon => 512,
            Event::Keep | Event::RollBack(_) => 0,
        }
    }
}

impl<const BEGUN: usize> Mirror<BEGUN> {
    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("events of a process are offered where there is one")
    }

    fn file(&self) -> &'static str {
        if self.side == "top" { "top.lvd" } else { "copy.lvd" }
    }

    fn marked(&self) -> bool {
        self.w.header("copy.lvd").is_some_and(|header| header.copy_mark.is_some())
    }

    fn begin_mirror(&mut self) -> Result<()> {
        let marked = self.marked();
        let w = &mut self.w;
        if !marked {
            let options = CreateOptions { virtual_size: SIZE, copy_mark: true, ..CreateOptions::default() };
            Image::create(&*w.file("copy.lvd")?, &*w.host, &options)?;
        }
        // A disk of no such size: it is refused, or it is wrong.
        w.view("copy", copy, Model::zeros(SIZE + 1), false);
        let target = w.open_marked("copy.lvd")?;
        let process = self.process();
        process.mirror = Some(process.disk.mirror_resumable(target, "mirror", 12, &OPTIONS)?);
        Ok(())
    }

    /// Ends the mirror; the target counts from some moment of it on.
    fn complete(&mut self, pivots: bool) -> Result<()> {
        let (disk, mirror) = (self.process().disk.clone(), self.process().mirror.clone());
        let Some(mirror) = mirror else { return Ok(()) };
        let model = self.w.model("top").expect("the source has a view").durable();
        self.w.view("copy", copy, model, false);
        let left = if pivots { disk.pivot(&mirror)? } else { disk.split(&mirror)? };
        self.process().mirror = None;
        self.w.promise("copy");
        if pivots {
            self.side = "copy";
            self.process().written = [false; 2];
            Ok(())
        } else {
            self.w.durable("copy", || left.close())
        }
    }

    /// Nobody else opens for writing what is being written, nor a copy that is none.
    fn others(&self) -> std::result::Result<(), Breach> {
        let opens = |name: &str| self.w.disk.exists(name).then(|| self.open(name));
        let locked = |name: &str| matches!(opens(name), Some(Err(Error::Locked { .. })));
        let mirrors = self.process.as_ref().is_some_and(|process| process.mirror.is_some());
        let kept_off = match self.process.is_some() {
            true => locked(self.file()) && (!mirrors || locked("copy.lvd")),
            false => !self.marked() || opens("copy.lvd").is_some_and(|opened| opened.is_err()),
        };
        if kept_off { Ok(()) } else { Err(Breach::new('X', "somebody else opens it for writing")) }
    }

    /// Law S: a granule in which the two differ is dirty in the sync bitmap, if that fits.
    fn superset(&self) -> std::result::Result<(), Breach> {
        for loss in Loss::EACH {
            let sides = Sides::of(&self.w.disk.after_loss(loss));
            if sides.is_ok_and(|sides| sides.is_some_and(|sides| sides.differ_unseen())) {
                return Err(Breach::new(
                    'S',
                    format!("the sync bitmap knows of no difference after a loss ({loss:?})"),
                ));
            }
        }
        Ok(())
    }

    fn open(&self, name: &str) -> Result<Chain> {
        chain(&self.w.disk, Arc::new(SimHost::new(0)), name, true, None)
    }
}

impl<const BEGUN: usize> Protocol for Mirror<BEGUN> {
    type Event = Event;
    const NAME: &'static str = FROM[BEGUN].0;

    fn begin() -> Result<Mirror<BEGUN>> {
        let mut mirror = Mirror { w: begun(&BEGINNING)?, process: None, side: "top", kept: None };
        FROM[BEGUN].1.iter().try_for_each(|event| mirror.happen(*event).map(drop))?;
        mirror.w.disk.settle();
        Ok(mirror)
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        match &self.process {
            None => {
                events.push(Event::Open);
                if self.side == "top" && self.marked() {
                    events.push(Event::PastBitmaps);
                    match &self.kept {
                        None if losses(&self.w).is_empty() => events.push(Event::Keep),
                        None => {}
                        Some(_) => events.extend([0, 1].map(Event::RollBack)),
                    }
                }
                if self.side == "top" && !self.w.promised("copy") && self.w.disk.exists("copy.lvd") && !self.marked() {
                    events.push(Event::Move);
                }
            }
            Some(process) => {
                events.extend((0u8..2).filter(|place| !process.written[usize::from(*place)]).map(Event::Write));
                events.extend([Event::Flush, Event::Close, Event::Kill]);
                match &process.mirror {
                    None if self.side == "top" && !self.w.promised("copy") => events.push(Event::Begin),
                    None => {}
                    Some(_) if process.failed => events.extend([Event::Pivot, Event::Abandon]),
                    Some(mirror) => {
                        events.extend([Event::Step, Event::StepFails, Event::Save, Event::Through, Event::Abandon]);
                        if mirror.progress().ready {
                            events.extend([Event::Pivot, Event::Split]);
                        }
                    }
                }
            }
        }
        events.extend(losses(&self.w).iter().map(|loss| Event::Lose(*loss)));
        events
    }

    fn happen(&mut self, event: Event) -> Result<bool> {
        let side = self.side;
        if let Some(process) = &mut self.process {
            process.did |= event.kind();
        }
        match event {
            Event::Open => {
                let disk = Disk::new(self.w.open(self.file())?);
                self.w.read(side, &*disk);
                self.process = Some(Process { disk, mirror: None, written: [false; 2], failed: false, did: 0 });
            }
            Event::Write(place) => {
                let disk = self.process().disk.clone();
                self.w.write(side, &*disk, PLACES[usize::from(place)].clone())?;
                self.process().written[usize::from(place)] = true;
            }
            Event::Flush => {
                let disk = self.process().disk.clone();
                self.w.flush(side, &*disk)?;
                self.process().written = [false; 2];
            }
            Event::Begin => self.begin_mirror()?,
            Event::Step | Event::StepFails => {
                let Some(mirror) = self.process().mirror.clone() else { return Ok(false) };
                let before = mirror.progress();
                self.w.disk.break_file(matches!(event, Event::StepFails).then_some("copy.lvd"));
                let stepped = mirror.step(BLOCK);
                self.w.disk.break_file(None);
                match (event, stepped) {
                    (Event::Step, stepped) => return Ok(stepped?.wait.is_none()),
                    (_, Err(_)) => self.process().failed = true,
                    (_, Ok(_)) => return Ok(mirror.progress() != before),
                }
            }
            Event::Save => self.process().mirror.clone().map_or(Ok(()), |mirror| mirror.save())?,
            Event::Through => {
                let mirror = self.process().mirror.clone();
                mirror.inspect(|mirror| mirror.set_pace(Pace::WriteThrough));
            }
            // The guest goes on with the source, and nobody with the target.
            Event::Pivot if self.process().failed => return Ok(self.complete(true).is_err()),
            Event::Pivot => self.complete(true)?,
            Event::Split => self.complete(false)?,
            Event::Move => match self.open("copy.lvd") {
                Ok(_) => self.side = "copy",
                Err(_) => return Ok(false),
            },
            Event::Abandon => {
                let process = self.process();
                if let Some(mirror) = process.mirror.take() {
                    process.disk.abandon(&mirror)?;
                }
            }
            Event::Close => {
                let process = self.process.take().expect("events of a process are offered where there is one");
                if let Some(mirror) = &process.mirror {
                    process.disk.abandon(mirror)?;
                }
                self.w.durable(side, || process.disk.close())?;
            }
            Event::Kill => {
                self.process = None;
                self.w.die(Fault::None);
            }
            Event::Lose(loss) => {
                self.process = None;
                self.w.lose(loss);
                if !self.w.promised("copy") {
                    self.side = "top";
                }
            }
            Event::PastBitmaps => {
                without_step(Step::CarryBitmaps, || {
                    let disk = self.w.open("top.lvd")?;
                    self.w.write("top", &disk, PLACES[0].clone())?;
                    self.w.durable("top", || disk.close())
                })?;
            }
            Event::Keep => {
                let files = FILES.map(|name| self.w.disk.cached(name).expect("there is a mirror to resume"));
                let model = self.w.model("top").expect("the source has a view").durable();
                self.kept = Some((files, model));
            }
            Event::RollBack(file) => {
                let (files, model) = self.kept.take().expect("what was kept is rolled back");
                self.w.disk.put(FILES[usize::from(file)], &files[usize::from(file)]);
                if file == 0 {
                    self.w.rolled_back("top", model);
                }
            }
        }
        // Whoever has written or flushed there has made durable what it found.
        if self.side == "copy" && matches!(event, Event::Write(_) | Event::Flush) {
            self.w.promise("copy");
        }
        Ok(true)
    }

    fn can_be_cut(event: Event) -> bool {
        matches!(event, Event::Pivot | Event::Split | Event::Save | Event::Begin)
    }

    fn laws(&self, seen: bool) -> std::result::Result<(), Breach> {
        judged(&self.w, seen)?;
        self.others()?;
        if seen { Ok(()) } else { self.superset() }
    }

    fn fingerprint(&self) -> u64 {
        let mut print = fingerprint(&self.w);
        print.number(u64::from(self.side == "top"));
        if let Some((files, _)) = &self.kept {
            files.iter().for_each(|file| print.file(file, &DATA));
        }
        if let Some(process) = &self.process {
            print.number(process.did << 2 | u64::from(process.written[0]) << 1 | u64::from(process.written[1]));
            print.chain(&process.disk.chain());
            if let Some(mirror) = &process.mirror {
                let progress = mirror.progress();
                print.number(progress.behind << 1 | u64::from(progress.ready));
                print.number(progress.lag);
            }
        }
        print.end()
    }

    on_a_world!(process = None);
}
