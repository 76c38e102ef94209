//! An overlay with a dirty bitmap that is used, filled, resized and streamed, whose process dies and whose machine loses
//! power: the crash simulator on the one way that an input leads it.

use super::super::scenarios::{self, LIFE};
use crate::chain::Chain;
use crate::error::Result;
use crate::format::BitmapState;
use crate::image::Image;
use crate::jobs::{Job, Stream};
use crate::storage::Host;
use crate::testing::sim::Fault;
use crate::testing::world::World;
use arbitrary::{Arbitrary, Unstructured};
use std::ops::Range;

/// Longer lives tell nothing new, and take long.
const MOST_EVENTS: usize = 40;
/// The largest disk, in sectors.
const MOST_SECTORS: u64 = 96;

/// What happens, one after the other.
#[derive(Debug)]
pub struct Life(Vec<Event>);

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
        Life(events)
    }

    /// Lives it. What broke a law on the way, with what had happened.
    ///
    /// # Panics
    /// If a request fails that should not.
    pub fn live(&self) -> Vec<String> {
        let mut world = World::alone(&LIFE);
        (LIFE.setup)(&mut world).expect("the story begins");
        world.disk.settle();
        let mut disk = scenarios::open_top(&world).expect("the disk opens");
        let mut fault = Fault::None;
        for event in &self.0 {
            let ended = match *event {
                Event::Fault(mishap) => {
                    fault = mishap.fault();
                    world.disk.arm(fault);
                    continue;
                }
                Event::PowerLoss(choices) => {
                    drop(disk);
                    let mut next = choices.iter().cycle();
                    world.lose_power(|_| next.next().copied().unwrap_or(0));
                    fault = Fault::None;
                    None
                }
                event => match happen(&mut world, disk, event) {
                    Ok(disk) => Some(disk),
                    Err(error) => {
                        assert!(world.disk.fired(), "{event:?}: {error}");
                        world.die(std::mem::replace(&mut fault, Fault::None));
                        None
                    }
                },
            };
            if !world.findings().is_empty() {
                break;
            }
            let reopened = ended.map_or_else(|| scenarios::open_top(&world), Ok);
            disk = reopened.unwrap_or_else(|error| panic!("{event:?}: {error}"));
        }
        world.findings().iter().map(ToString::to_string).collect()
    }
}

fn frozen(disk: &Chain) -> Result<bool> {
    Ok(disk.image(0)?.bitmap("daily")?.state == BitmapState::Frozen)
}

/// One event of a disk, which is then open, perhaps anew.
pub(in crate::testing) fn happen(world: &mut World, disk: Chain, event: Event) -> Result<Chain> {
    use crate::device::BlockDevice;
    let size = disk.size();
    match event {
        Event::Write(stretch) if !stretch.on(size).is_empty() => world.write("top", &disk, stretch.on(size))?,
        Event::Zero(stretch, unmap) if !stretch.on(size).is_empty() => {
            world.zero("top", &disk, stretch.on(size), unmap)?;
        }
        Event::Discard(stretch) if !stretch.on(size).is_empty() => world.discard("top", &disk, stretch.on(size))?,
        Event::Fill(stretch) => drop(disk.image(0)?.fill(stretch.on(size))?),
        Event::Flush => world.flush("top", &disk)?,
        Event::Clear | Event::Backup(..) if frozen(&disk)? => {
            // Of a process that died.
            world.durable("top", || disk.image(0)?.take_back_bitmap("daily"))?;
        }
        Event::Clear => {
            let since = world.bitmap_point("top");
            world.durable("top", || disk.image(0)?.clear_bitmap("daily", Some(since)).map(drop))?;
        }
        Event::Backup(ends_well, stretch) => {
            let since = world.bitmap_point("top");
            world.durable("top", || disk.image(0)?.freeze_bitmap("daily", Some(since)).map(drop))?;
            if !stretch.on(size).is_empty() {
                world.write("top", &disk, stretch.on(size))?;
            }
            let end = if ends_well { Image::hand_over_bitmap } else { Image::take_back_bitmap };
            world.durable("top", || end(disk.image(0)?, "daily"))?;
        }
        Event::Wait => {
            world.host.sleep(std::time::Duration::from_secs(60));
            world.flush("top", &disk)?;
        }
        Event::Seal => world.durable("top", || disk.image(0)?.seal())?,
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
