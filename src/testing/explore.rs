//! Walking every sequence of events of a protocol, up to a length, on the real code.
//!
//! A [`Protocol`] is a small world in which events happen: a request, a step of a job, a crash. The walk is breadth first:
//! what breaks a law is found by one of the shortest sequences that do. Processes cannot be copied, so each state is
//! reached by its events from the beginning; one whose fingerprint was seen before is not gone on from.

use super::crash::Finding;
use super::model::Breach;
use crate::error::Result;
use std::collections::HashSet;
use std::fmt::{self, Debug, Display};

/// What happens in a small world, and what holds there.
pub trait Protocol: Sized {
    /// What can happen. Its `Debug` text is its name in sequences.
    type Event: Copy + Debug;
    /// Its name.
    const NAME: &'static str;

    /// The world at first.
    ///
    /// # Errors
    /// What making its files meets.
    fn begin() -> Result<Self>;

    /// What may happen next.
    fn events(&self) -> Vec<Self::Event>;

    /// Lets it happen. False: it cannot happen here after all, and what is left is of no interest.
    ///
    /// # Errors
    /// What a user would be told who expects no error: it breaks a law.
    fn happen(&mut self, event: Self::Event) -> Result<bool>;

    /// Whether the process may die amid it.
    fn can_be_cut(event: Self::Event) -> bool;

    /// The process will die in the operation of this number, counted from 1.
    fn arm(&mut self, operation: u64);

    /// Whether it has. Then the world is one without it.
    fn died(&mut self) -> bool;

    /// Holds what happened, and what there is, against the laws. Of a state that was seen before what happened is enough.
    ///
    /// # Errors
    /// The law that is broken.
    fn laws(&self, seen: bool) -> std::result::Result<(), Breach>;

    /// Equal for states from which the same can follow.
    fn fingerprint(&self) -> u64;

    /// What happened on its disk.
    fn trace(&self) -> Vec<String>;
}

/// An event, and the operation amid it in which the process dies.
struct Act<P: Protocol>(P::Event, Option<u64>);

impl<P: Protocol> Clone for Act<P> {
    fn clone(&self) -> Act<P> {
        Act(self.0, self.1)
    }
}

impl<P: Protocol> Display for Act<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)?;
        self.1.map_or(Ok(()), |operation| write!(f, " cut at {operation}"))
    }
}

/// What a walk amounted to.
#[derive(Debug, Default)]
pub struct Walk {
    /// Different states, the first one included.
    pub states: u64,
    /// Events that happened in one of them.
    pub transitions: u64,
    /// Events in a row: the longest sequence.
    pub depth: usize,
    /// Every state that can be reached was: none is left to go on from.
    pub whole: bool,
    /// What broke a law. It ends the walk.
    pub finding: Option<Finding>,
}

/// Walks every sequence of at most `longest` events of a protocol, until one breaks a law.
pub fn walk<P: Protocol>(longest: usize) -> Walk {
    let mut walk = Walk { states: 1, ..Walk::default() };
    if let Err(finding) = go::<P>(longest, &mut walk) {
        walk.finding = Some(finding);
    }
    walk
}

fn go<P: Protocol>(longest: usize, walk: &mut Walk) -> Found {
    let mut seen = HashSet::from([lead::<P>(&[])?.fingerprint()]);
    let mut states: Vec<Vec<Act<P>>> = vec![Vec::new()];
    while walk.depth < longest && !states.is_empty() {
        walk.depth += 1;
        let mut next = Vec::new();
        for state in &states {
            branches::<P>(state, &mut |path, world| {
                walk.transitions += 1;
                let new = seen.insert(world.fingerprint());
                world.laws(!new).map_err(|breach| finding(world, path, breach))?;
                if new {
                    walk.states += 1;
                    next.push(path.to_vec());
                }
                Ok(())
            })?;
        }
        states = next;
    }
    walk.whole = states.is_empty();
    Ok(())
}

type Found = std::result::Result<(), Finding>;

/// Lets everything happen that can happen next after `path`, each in a world of its own.
fn branches<P: Protocol>(path: &[Act<P>], visit: &mut impl FnMut(&[Act<P>], &P) -> Found) -> Found {
    let after = |act: Act<P>, visit: &mut dyn FnMut(&[Act<P>], &P) -> Found| {
        let mut world = lead(path)?;
        let path = [path, &[act]].concat();
        let happened = step(&mut world, &path)?;
        if happened {
            visit(&path, &world)?;
        }
        Ok(happened)
    };
    for event in lead(path)?.events() {
        let happens = after(Act(event, None), visit)?;
        let mut operations = 1..;
        while happens && P::can_be_cut(event) && after(Act(event, operations.next()), visit)? {}
    }
    Ok(())
}

/// The world after the events of `path`.
fn lead<P: Protocol>(path: &[Act<P>]) -> std::result::Result<P, Finding> {
    let begun = P::begin();
    let mut world = begun.map_err(|error| Finding {
        path: P::NAME.into(),
        breach: Breach::new('O', format!("it does not begin: {error}")),
        trace: Vec::new(),
    })?;
    for length in 1..=path.len() {
        step(&mut world, &path[..length])?;
    }
    Ok(world)
}

/// Lets the last act of `path` happen, if it can.
fn step<P: Protocol>(world: &mut P, path: &[Act<P>]) -> std::result::Result<bool, Finding> {
    let Some(Act(event, cut)) = path.last() else { return Ok(true) };
    cut.iter().for_each(|operation| world.arm(*operation));
    let happened = world.happen(*event);
    match cut {
        Some(_) if world.died() => Ok(true),
        Some(_) => Ok(false),
        None => happened.map_err(|error| finding(world, path, Breach::new('O', format!("it fails: {error}")))),
    }
}

fn finding<P: Protocol>(world: &P, path: &[Act<P>], breach: Breach) -> Finding {
    let acts: Vec<String> = path.iter().map(Act::to_string).collect();
    Finding { path: format!("{}: {}", P::NAME, acts.join("; ")), breach, trace: world.trace() }
}

/// Lets happen what the path of a finding says, if it is one of this protocol. What is wrong in the end, if anything is.
///
/// # Panics
/// If an event of that name is not possible where it stands.
pub fn replay<P: Protocol>(path: &str) -> Option<Option<Finding>> {
    let names = path.strip_prefix(P::NAME)?.strip_prefix(": ")?.split("; ");
    Some(names.map(str::to_string).collect::<Vec<_>>()).map(|names| again::<P>(&names).err())
}

fn again<P: Protocol>(names: &[String]) -> Found {
    let mut path = Vec::new();
    let mut world: P = lead(&path)?;
    for name in names {
        let (event, cut) = name.split_once(" cut at ").map_or((&**name, None), |(event, at)| (event, at.parse().ok()));
        let possible = world.events();
        let event = possible.iter().find(|other| format!("{other:?}") == event);
        path.push(Act(*event.unwrap_or_else(|| panic!("{name} is none of {possible:?}")), cut));
        assert!(step(&mut world, &path)?, "{name} does not happen there");
    }
    world.laws(false).map_err(|breach| finding(&world, &path, breach))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters that must not meet at three, and operations left until the process dies. The first counter is forgotten
    /// then.
    struct Counters(u64, u64, Option<u64>);

    #[derive(Debug, Clone, Copy)]
    enum Event {
        First,
        Second,
        Never,
    }

    impl Protocol for Counters {
        type Event = Event;
        const NAME: &'static str = "counters";

        fn begin() -> Result<Counters> {
            Ok(Counters(0, 0, None))
        }

        fn events(&self) -> Vec<Event> {
            vec![Event::First, Event::Second, Event::Never]
        }

        fn happen(&mut self, event: Event) -> Result<bool> {
            self.2 = self.2.map(|left| left - 1);
            match event {
                // It takes one operation, and so does the other.
                _ if self.2 == Some(0) => self.0 = 0,
                Event::First => self.0 = (self.0 + 1) % 5,
                Event::Second => self.1 = (self.1 + 1) % 5,
                Event::Never => return Ok(false),
            }
            Ok(true)
        }

        fn can_be_cut(event: Event) -> bool {
            matches!(event, Event::Second)
        }

        fn arm(&mut self, operation: u64) {
            self.2 = Some(operation);
        }

        fn died(&mut self) -> bool {
            self.2.take() == Some(0)
        }

        fn laws(&self, _: bool) -> std::result::Result<(), Breach> {
            if (self.0, self.1) == (3, 3) { Err(Breach::new('O', "they meet")) } else { Ok(()) }
        }

        fn fingerprint(&self) -> u64 {
            self.0 * 5 + self.1
        }

        fn trace(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn the_shortest_sequence_is_found_and_replays() {
        let short = walk::<Counters>(5);
        assert!(short.finding.is_none() && !short.whole);
        // Pairs with a sum of at most five, of numbers below five.
        assert_eq!((short.depth, short.states), (5, 19));
        let finding = walk::<Counters>(9).finding.expect("they meet");
        assert_eq!(finding.path.matches("First").count(), 3);
        assert_eq!(finding.path.split("; ").count(), 6);
        let again = replay::<Counters>(&finding.path).expect("its own").expect("it is wrong");
        assert_eq!(again.path, finding.path);
        assert!(replay::<Counters>("others: First").is_none());
        assert!(replay::<Counters>("counters: First; Second cut at 1; Second").expect("its own").is_none());
    }
}
