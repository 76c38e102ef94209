//! An overlay with a dirty bitmap that is used, filled, resized and streamed, whose process dies and whose machine loses
//! power: the crash simulator on the one way that an input leads it.

use super::super::scenarios::{self, LIFE, Shape};
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{BitmapState, Kind};
use crate::image::Image;
use crate::jobs::{Job, Stream};
use crate::storage::Host;
use crate::testing::choices::Random;
use crate::testing::crash::Finding;
use crate::testing::sim::Fault;
use crate::testing::world::World;
use arbitrary::{Arbitrary, Unstructured};
use std::ops::Range;

/// Longer lives tell nothing new, and take long.
const MOST_EVENTS: usize = 40;
/// The largest disk, in sectors.
const MOST_SECTORS: u64 = 96;

/// Crashes of a long life, about.
const CRASHES: u64 = 20;

/// What happens, one after the other.
#[derive(Debug, Clone)]
pub struct Life {
    /// Of what disk; `None`: that of [`LIFE`].
    shape: Option<Shape>,
    events: Vec<Event>,
}

/// How a life went.
#[derive(Debug, Default)]
pub struct Lived {
    /// Events that came to pass.
    pub events: u64,
    /// Losses of power.
    pub crashes: u64,
    /// Deaths of the process, after something had gone wrong.
    pub deaths: u64,
    /// What broke a law, and ended it.
    pub findings: Vec<Finding>,
}

/// A stretch of the disk, in sectors, with an odd start and end now and then.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(in crate::testing) struct Stretch {
    pub(in crate::testing) start: u8,
    pub(in crate::testing) length: u8,
    pub(in crate::testing) odd: Option<(u8, u8)>,
}

/// What can happen to the disk of [`LIFE`].
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(in crate::testing) enum Event {
    Write(Stretch),
    Zero(Stretch, bool),
    Discard(Stretch),
    Fill(Stretch),
    Flush,
    Seal,
    /// To so many sectors.
    Resize(u8),
    /// So many steps of a stream, which is then forgotten if it has not ended.
    Stream(u8),
    /// A clean end, and another session.
    Reopen,
    /// A new count of the bitmap.
    Clear,
    /// A backup begins. True: and ends well; false: and fails, or dies with the process.
    Backup(bool, Stretch),
    /// So long that what no write relies on is no longer intended, and a flush.
    Wait,
    /// Something will go wrong.
    Fault(Mishap),
    /// Power is lost; each unit in flight takes the next of these choices.
    PowerLoss([u8; 12]),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(in crate::testing) enum Mishap {
    Kill(u8),
    FailBarrier(u8),
    NoSpace(u8),
    RevertBarrier(u8),
    LateBarrier(u8),
}

impl Stretch {
    fn on(self, size: u64) -> Range<u64> {
        let (before, after) = self.odd.map_or((0, 0), |(before, after)| (u64::from(before), u64::from(after)));
        let start = (u64::from(self.start) * 512 + before) % (size + 1);
        start..(start + u64::from(self.length % 24) * 512 + after).min(size)
    }
}

impl Mishap {
    fn fault(self) -> Fault {
        match self {
            Mishap::Kill(after) => Fault::Kill(1 + u64::from(after % 32)),
            Mishap::FailBarrier(after) => Fault::FailSync(1 + u64::from(after % 8)),
            Mishap::NoSpace(after) => Fault::NoSpace(1 + u64::from(after % 32)),
            Mishap::RevertBarrier(after) => Fault::Revert(1 + u64::from(after % 8)),
            Mishap::LateBarrier(after) => Fault::Late(1 + u64::from(after % 32)),
        }
    }
}

impl Life {
    /// The life that some bytes describe.
    pub fn of(input: &[u8]) -> Life {
        let mut input = Unstructured::new(input);
        let mut events = Vec::new();
        while !input.is_empty() && events.len() < MOST_EVENTS {
            events.extend(input.arbitrary::<Event>());
        }
        Life { shape: None, events }
    }

    /// A long life of some disk.
    pub fn long(seed: u64) -> Life {
        let mut random = Random(seed);
        let layers = random.below(5) as usize;
        let shape = Shape {
            layers,
            bitmaps: random.below(4) as usize,
            sidecar: layers > 0 && random.below(3) == 0,
            size: (2 + random.below(MOST_SECTORS - 2)) * 512 + random.below(2) * random.below(512),
        };
        let count = 200 + random.below(1801);
        let events = (0..count).map(|_| event(&mut random, count / CRASHES)).collect();
        Life { shape: Some(shape), events }
    }

    /// The same life without most of the events that its finding does not need: the same law breaks, or there is a panic
    /// as before.
    pub fn smallest(&self) -> Life {
        let end = |life: &Life| {
            let lived = std::panic::catch_unwind(|| life.live());
            lived.map_or(Some('!'), |lived| lived.findings.first().map(|finding| finding.breach.law))
        };
        let (mut best, law) = (self.clone(), end(self));
        let mut length = best.events.len();
        while length > 0 {
            let mut at = 0;
            while at < best.events.len() {
                let mut fewer = best.clone();
                fewer.events.drain(at..(at + length).min(best.events.len()));
                match end(&fewer) == law {
                    true => best = fewer,
                    false => at += length,
                }
            }
            length /= 2;
        }
        best
    }

    /// How many events it has.
    pub fn length(&self) -> usize {
        self.events.len()
    }

    /// Lives it, until something breaks a law.
    ///
    /// # Panics
    /// If a request fails that should not.
    pub fn live(&self) -> Lived {
        let mut lived = Lived::default();
        let mut world = World::alone(&LIFE);
        let begun = match &self.shape {
            None => (LIFE.setup)(&mut world),
            Some(shape) => scenarios::begin(&mut world, shape),
        };
        begun.expect("the story begins");
        world.disk.settle();
        let mut disk = scenarios::open_top(&world).expect("the disk opens");
        let mut fault = Fault::None;
        for event in &self.events {
            lived.events += 1;
            let ended = match *event {
                // One mishap at a time: what could not be written back is not told of yet.
                Event::Fault(_) if world.disk.owes() => continue,
                Event::Fault(mishap) => {
                    fault = mishap.fault();
                    world.disk.arm(fault);
                    continue;
                }
                Event::PowerLoss(choices) => {
                    drop(disk);
                    lived.crashes += 1;
                    let mut next = choices.iter().cycle();
                    world.lose_power(|_| next.next().copied().unwrap_or(0));
                    fault = Fault::None;
                    None
                }
                event => {
                    // Who opens the disk anew wants the old one closed.
                    let top = if matches!(event, Event::Reopen) { None } else { disk.image(0).ok().cloned() };
                    match happen(&mut world, disk, event) {
                        Ok(disk) => Some(disk),
                        Err(error) => {
                            assert!(world.disk.fired(), "{event:?}: {error}");
                            if world.disk.barrier_failed() {
                                top.iter().for_each(|top| assert_only_read(top));
                                assert!(!world.disk.went_on(), "{event:?}: written to after a barrier had failed");
                            }
                            lived.deaths += 1;
                            world.die(std::mem::replace(&mut fault, Fault::None));
                            None
                        }
                    }
                }
            };
            if !world.findings().is_empty() {
                break;
            }
            let reopened = ended.map_or_else(|| scenarios::open_top(&world), Ok);
            disk = reopened.unwrap_or_else(|error| panic!("{event:?}: {error}"));
        }
        lived.findings = world.findings();
        lived
    }
}

/// ORD-06: after a barrier has failed reads go on, and nothing else does.
fn assert_only_read(top: &Image) {
    let refused = |result: Result<()>| matches!(result, Err(Error::Poisoned { .. }));
    let mut sector = vec![0; top.size().min(512) as usize];
    top.read_at(&mut sector, 0).expect("reads go on");
    assert!(sector.is_empty() || refused(top.write_at(&sector, 0)), "a write");
    assert!(refused(top.flush()), "a flush");
    assert!(refused(top.close()), "a close");
}

/// What happens next; in one of `period` cases power is lost.
fn event(random: &mut Random, period: u64) -> Event {
    if random.below(period) == 0 {
        let most = 1 + random.below(5);
        return Event::PowerLoss(std::array::from_fn(|_| random.below(most) as u8));
    }
    let mut byte = || random.below(256) as u8;
    let stretch = Stretch { start: byte(), length: byte(), odd: (byte() < 80).then(|| (byte(), byte())) };
    let (kind, number) = (byte(), byte());
    match kind {
        0..70 => Event::Write(stretch),
        70..90 => Event::Zero(stretch, number % 2 == 0),
        90..105 => Event::Discard(stretch),
        105..115 => Event::Fill(stretch),
        115..170 => Event::Flush,
        170..180 => Event::Seal,
        180..190 => Event::Resize(number),
        190..195 => Event::Stream(number),
        195..205 => Event::Reopen,
        205..215 => Event::Clear,
        215..230 => Event::Backup(number % 2 == 0, stretch),
        230..245 => Event::Wait,
        245..248 => Event::Fault(Mishap::Kill(number)),
        248..250 => Event::Fault(Mishap::FailBarrier(number)),
        250..252 => Event::Fault(Mishap::NoSpace(number)),
        252..254 => Event::Fault(Mishap::RevertBarrier(number)),
        _ => Event::Fault(Mishap::LateBarrier(number)),
    }
}

/// The bitmaps of the disk, and one that is frozen.
fn bitmaps(disk: &Chain) -> Result<(Vec<String>, Option<String>)> {
    let infos = disk.image(0)?.bitmaps();
    let frozen = infos.iter().find(|info| info.state == BitmapState::Frozen).map(|info| info.name.clone());
    Ok((infos.into_iter().map(|info| info.name).collect(), frozen))
}

/// One event of a disk, which is then open, perhaps anew.
pub(in crate::testing) fn happen(world: &mut World, disk: Chain, event: Event) -> Result<Chain> {
    let size = disk.size();
    match event {
        Event::Write(stretch) if !stretch.on(size).is_empty() => world.write("top", &disk, stretch.on(size))?,
        Event::Zero(stretch, unmap) if !stretch.on(size).is_empty() => {
            world.zero("top", &disk, stretch.on(size), unmap)?;
        }
        Event::Discard(stretch) if !stretch.on(size).is_empty() => world.discard("top", &disk, stretch.on(size))?,
        Event::Fill(stretch) => drop(disk.image(0)?.fill(stretch.on(size))?),
        Event::Flush => world.flush("top", &disk)?,
        Event::Clear | Event::Backup(..) if let (_, Some(frozen)) = bitmaps(&disk)? => {
            // Of a process that died.
            world.durable("top", || disk.image(0)?.take_back_bitmap(&frozen))?;
        }
        Event::Clear => {
            for name in bitmaps(&disk)?.0 {
                let since = world.bitmap_point("top");
                world.durable("top", || disk.image(0)?.clear_bitmap(&name, Some(since)).map(drop))?;
            }
        }
        Event::Backup(ends_well, stretch) => {
            let (names, _) = bitmaps(&disk)?;
            let Some(name) = names.get(usize::from(stretch.start) % names.len().max(1)) else { return Ok(disk) };
            let since = world.bitmap_point("top");
            world.durable("top", || disk.image(0)?.freeze_bitmap(name, Some(since)).map(drop))?;
            if !stretch.on(size).is_empty() {
                world.write("top", &disk, stretch.on(size))?;
            }
            let end = if ends_well { Image::hand_over_bitmap } else { Image::take_back_bitmap };
            world.durable("top", || end(disk.image(0)?, name))?;
        }
        Event::Wait => {
            world.host.sleep(std::time::Duration::from_secs(60));
            world.flush("top", &disk)?;
        }
        Event::Seal => world.durable("top", || disk.image(0)?.seal())?,
        // A volume stays as long as it is.
        Event::Resize(_) if disk.image(0)?.header().kind == Kind::Sidecar => {}
        Event::Resize(sectors) => {
            let to = u64::from(sectors) % MOST_SECTORS * 512 + u64::from(sectors % 3);
            world.resize("top", to, || disk.image(0)?.resize(to))?;
            scenarios::resized(world, &disk);
        }
        Event::Stream(steps) => {
            let job = Job::new(Stream::new(&disk, None)?, world.host.clone());
            for _ in 0..steps % 8 {
                if job.step(2 * 4096)?.finished {
                    break;
                }
            }
        }
        Event::Reopen => {
            world.durable("top", || disk.close())?;
            drop(disk);
            return scenarios::open_top(world);
        }
        Event::Write(_) | Event::Zero(..) | Event::Discard(_) | Event::Fault(_) | Event::PowerLoss(_) => {}
    }
    world.read("top", &disk);
    Ok(disk)
}
