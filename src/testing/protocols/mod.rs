//! Protocols that are walked whole: few files, few events, every order of them.
//!
//! Each event is a request of a guest, a step of a job, a session, a crash, or what some other program does to the files.
//! Some can be cut: the process dies in any operation of it. How power may be lost then and later is told by [`Loss`]. What
//! may be expected of the disks is told by the views of a [`World`]: in every state, what each loss would leave is held
//! against them, and against the laws.

pub mod beside;
pub mod group;
pub mod merge;
pub mod mirror;

use super::crash::Scenario;
use super::fingerprint::Fingerprint;
use super::model::Breach;
use super::pending::Loss;
use super::world::World;
use crate::error::Result;
use crate::storage::Host;

/// What a protocol on a [`World`] does as all others do. `$processes` is forgotten when they die.
macro_rules! on_a_world {
    ($processes:ident = $none:expr) => {
        fn arm(&mut self, operation: u64) {
            self.w.disk.arm(Fault::Kill(operation));
        }

        fn died(&mut self) -> bool {
            let died = self.w.disk.fired();
            if died {
                self.$processes = $none;
                self.w.die(Fault::None);
            }
            died
        }

        fn trace(&self) -> Vec<String> {
            self.w.disk.events().iter().map(ToString::to_string).collect()
        }
    };
}
use on_a_world;

/// A scenario that only begins: its protocol leads on.
const fn beginning(name: &'static str, setup: fn(&mut World) -> Result<()>) -> Scenario {
    Scenario { name, setup, body: |_| Ok(()), recover: |_| Ok(()) }
}

/// The world in which a scenario has begun, durably.
fn begun(scenario: &'static Scenario) -> Result<World> {
    let mut world = World::alone(scenario);
    (scenario.setup)(&mut world)?;
    world.disk.settle();
    Ok(world)
}

/// Losses of power that leave different disks.
fn losses(world: &World) -> &'static [Loss] {
    if world.disk.pending().choices().is_empty() { &[] } else { &Loss::EACH }
}

/// What broke a law on the way, and, of a state that is `seen` for the first time, what would after a loss of power.
fn judged(world: &World, seen: bool) -> std::result::Result<(), Breach> {
    match world.findings().pop() {
        Some(finding) => Err(finding.breach),
        None if seen => Ok(()),
        None => world.judge_losses(),
    }
}

/// All files, and what is expected of them.
fn fingerprint(world: &World) -> Fingerprint {
    let mut fingerprint = Fingerprint::new(world.host.random());
    fingerprint.disk(&world.disk);
    fingerprint.views(&world.views());
    fingerprint
}
