//! All short sequences of what can happen to a disk, each a story of its own: its name says what happens.

use super::bitmaps;
use super::open_top;
use crate::error::Result;
use crate::testing::crash::Scenario;
use crate::testing::fuzz::life::{Event, Stretch, happen};
use crate::testing::world::World;

/// How the names of sequences begin.
const SEQUENCE: &str = "sequence ";

const fn sectors(start: u8, length: u8) -> Stretch {
    Stretch { start, length, odd: None }
}

/// What happens to an overlay of five blocks, eight sectors each, and an odd rest, with a bitmap.
const EVENTS: [(&str, Event); 16] = [
    ("write", Event::Write(sectors(8, 8))),
    ("write part", Event::Write(Stretch { start: 3, length: 2, odd: Some((100, 7)) })),
    ("write across", Event::Write(sectors(12, 16))),
    ("zero", Event::Zero(sectors(8, 12), true)),
    ("discard", Event::Discard(sectors(0, 20))),
    ("fill", Event::Fill(sectors(16, 8))),
    ("flush", Event::Flush),
    ("seal", Event::Seal),
    ("grow", Event::Resize(49)),
    ("shrink", Event::Resize(19)),
    ("stream", Event::Stream(7)),
    ("reopen", Event::Reopen),
    ("clear", Event::Clear),
    ("backup", Event::Backup(true, sectors(24, 3))),
    ("failed backup", Event::Backup(false, sectors(24, 3))),
    ("wait", Event::Wait),
];

/// A header that is torn by one crash, and by the next one, amid its mending, made whole: the disk had shrunk after all.
pub(super) const TORN_TWICE: Scenario = scenario("sequence shrink,failed backup");

const fn scenario(name: &'static str) -> Scenario {
    Scenario { name, setup: bitmaps::overlay, body: live, recover: live_on }
}

/// The sequences of `length` events.
///
/// They live as long as the process, as every scenario does.
pub fn sequences(length: usize) -> Vec<&'static Scenario> {
    let count = EVENTS.len().pow(length as u32);
    let name = |mut number: usize| {
        let mut names = Vec::with_capacity(length);
        for _ in 0..length {
            names.push(EVENTS[number % EVENTS.len()].0);
            number /= EVENTS.len();
        }
        names.reverse();
        format!("{SEQUENCE}{}", names.join(","))
    };
    let story =
        |number| -> &'static Scenario { Box::leak(Box::new(scenario(Box::leak(name(number).into_boxed_str())))) };
    (0..count).map(story).collect()
}

/// The sequences that are as this one without one of its events. None of what is no sequence, or has one event.
pub fn shorter(scenario: &Scenario) -> Vec<&'static Scenario> {
    let Some(names) = scenario.name.strip_prefix(SEQUENCE) else { return Vec::new() };
    let events: Vec<&str> = names.split(',').collect();
    let without = |at: usize| -> &'static Scenario {
        let name = SEQUENCE.to_string() + &[&events[..at], &events[at + 1..]].concat().join(",");
        Box::leak(Box::new(self::scenario(Box::leak(name.into_boxed_str()))))
    };
    (0..events.len()).filter(|_| events.len() > 1).map(without).collect()
}

fn live(world: &mut World) -> Result<()> {
    let events: Vec<Event> = world
        .story()
        .trim_start_matches(SEQUENCE)
        .split(',')
        .map(|name| EVENTS.iter().find(|(other, _)| *other == name).expect("the name of a sequence").1)
        .collect();
    let disk = open_top(world)?;
    events.into_iter().try_fold(disk, |disk, event| happen(world, disk, event)).map(drop)
}

fn live_on(world: &mut World) -> Result<()> {
    let disk = open_top(world)?;
    let after = [Event::Write(sectors(0, 9)), Event::Clear, Event::Write(sectors(9, 3)), Event::Flush, Event::Reopen];
    after.into_iter().try_fold(disk, |disk, event| happen(world, disk, event)).map(drop)
}
