//! Exploring a scenario: at each of its points every state that a power loss can leave is held against the laws, and
//! from some of them the scenario goes on.
//!
//! A point is the start of a barrier, and the end of a guest's request. Between two barriers the states of the later
//! point contain those of the earlier ones. A state's name is its [path](super::path); [`Explorer::replay`] walks it again.

use super::choices::{every, sample};
use super::laws::{self, Epochs, View, judge, sampled};
use super::model::Breach;
use super::path::{Crash, StatePath};
use super::pending;
use super::rot::{self, Ledger, Past};
use super::sector::mix;
use super::sim::{Fault, SimDisk};
use super::world::World;
use crate::error::Result;
use crate::sync::{Mutex, lock};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A story of a disk: how it begins, what happens, and what its user does after a crash.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name, without a slash.
    pub name: &'static str,
    /// Makes the files. No crash comes here; what it leaves is durable.
    pub setup: fn(&mut World) -> Result<()>,
    /// What is explored.
    pub body: fn(&mut World) -> Result<()>,
    /// What follows a crash, or the death of the process: the same command again, or some more use.
    pub recover: fn(&mut World) -> Result<()>,
}

/// How much of a scenario is explored.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A point of the scenario with at most this many states is walked in full.
    pub exhaustive: u64,
    /// Of other points this many are taken.
    pub sample: u64,
    /// States taken at each point of what follows a crash.
    pub nested: u64,
    /// One state in so many goes on after the crash.
    pub recovery_period: u64,
    /// Crashes in a row.
    pub depth: u32,
    /// Faults of each kind at most.
    pub faults: u64,
    /// Of one state in so many all metadata is harmed; 0: of none.
    pub rotten: u64,
    /// Whether the first finding ends it.
    pub stop_at_first: bool,
}

impl Limits {
    /// A minute for all scenarios together.
    pub const USUAL: Limits = Limits {
        exhaustive: 1 << 12,
        sample: 500,
        nested: 24,
        recovery_period: 240,
        depth: 3,
        faults: 60,
        rotten: 0,
        stop_at_first: false,
    };

    /// As much, for a scenario in which much more happens: it goes on after fewer of its states.
    pub const LONG: Limits = Limits { sample: 200, recovery_period: 2400, faults: 30, ..Limits::USUAL };

    /// For one of thousands of short stories.
    pub const SHORT: Limits = Limits {
        exhaustive: 1 << 9,
        sample: 60,
        nested: 8,
        recovery_period: 60,
        depth: 1,
        faults: 2,
        rotten: 0,
        stop_at_first: false,
    };

    /// Ten million states and more, in minutes.
    pub const FULL: Limits = Limits {
        exhaustive: 1 << 16,
        sample: 4000,
        nested: 40,
        recovery_period: 60,
        depth: 3,
        faults: u64::MAX,
        rotten: 0,
        stop_at_first: false,
    };

    /// As much, for a scenario in which much more happens.
    pub const FULL_LONG: Limits = Limits { sample: 1000, recovery_period: 600, ..Limits::FULL };

    /// Few states, and what becomes of each if its metadata goes bad.
    pub const ROT: Limits =
        Limits { exhaustive: 3, sample: 3, recovery_period: 0, depth: 0, faults: 0, rotten: 1, ..Limits::USUAL };

    /// Enough to find what leaving out a step breaks.
    pub const SEARCH: Limits = Limits { stop_at_first: true, ..Limits::FULL };
}

/// A state that breaks a law.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Where it is: walks there again.
    pub path: String,
    /// What is wrong.
    pub breach: Breach,
    /// What happened up to it.
    pub trace: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n  {}", self.path, self.breach)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// What an exploration amounted to.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Points.
    pub points: u64,
    /// Points all of whose states were visited.
    pub exhaustive: u64,
    /// States visited: subsets of what was in flight.
    pub states: u64,
    /// Different disks among them, each opened and read.
    pub disks: u64,
    /// Disks on which the scenario went on.
    pub recoveries: u64,
    /// Runs with a fault.
    pub faults: u64,
    /// What became of harms to metadata.
    pub rot: Ledger,
    /// What broke a law.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Counts what `other` counts, too. What it found stays with it.
    pub fn add(&mut self, other: &Report) {
        self.points += other.points;
        self.exhaustive += other.exhaustive;
        self.states += other.states;
        self.disks += other.disks;
        self.recoveries += other.recoveries;
        self.faults += other.faults;
        self.rot.add(&other.rot);
    }
}

#[derive(Default)]
struct Tally {
    report: Report,
    judged: HashSet<u64>,
    epochs: Epochs,
    kept: HashMap<String, State>,
}

/// A state that a power loss left.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Where it is: [`Explorer::replay`] walks there.
    pub(super) path: String,
    /// The files.
    pub(super) disk: SimDisk,
}

/// What a state is kept as, by its path and its files; `None`: it is not kept.
type Keep = Box<dyn Fn(&str, &SimDisk) -> Option<String> + Send + Sync>;

/// Explores one scenario.
pub struct Explorer {
    scenario: &'static Scenario,
    limits: Limits,
    tally: Mutex<Tally>,
    /// What is left to walk of a path, if only that is to be seen.
    replay: Option<Vec<Crash>>,
    keep: Option<Keep>,
}

/// One line of events: the scenario itself, or what follows one of its crashes.
pub struct Branch {
    pub(super) explorer: Arc<Explorer>,
    pub(super) views: Mutex<Vec<View>>,
    pub(super) path: String,
    pub(super) watching: AtomicBool,
    /// What sectors held, if their metadata is to be harmed.
    past: Mutex<Past>,
    points: AtomicU64,
    depth: u32,
    /// What happened before, for a trace.
    before: Vec<String>,
}

impl Explorer {
    /// Explores `scenario` within `limits`.
    pub fn explore(scenario: &'static Scenario, limits: Limits) -> Report {
        Explorer::run(scenario, limits, None, None, None).0
    }

    /// The states of `scenario` that `keep` wants, the first of each kind.
    pub(super) fn states(scenario: &'static Scenario, limits: Limits, keep: Keep) -> Vec<(String, State)> {
        Explorer::run(scenario, limits, None, None, Some(keep)).1
    }

    /// The state that `path` names.
    pub(super) fn state(scenarios: &[&'static Scenario], path: &str) -> Option<State> {
        let wanted = path.to_string();
        let keep: Keep = Box::new(move |path, _| (path == wanted).then(String::new));
        Some(Explorer::walk(scenarios, path, Limits::FULL, Some(keep))?.1.pop()?.1)
    }

    /// Walks to the state that `path` names, and reports what is wrong there. Prints what happens.
    pub fn replay(scenarios: &[&'static Scenario], path: &str) -> Option<Report> {
        Some(Explorer::walk(scenarios, path, Limits { rotten: 1, ..Limits::FULL }, None)?.0)
    }

    fn walk(
        scenarios: &[&'static Scenario],
        path: &str,
        limits: Limits,
        keep: Option<Keep>,
    ) -> Option<(Report, Vec<(String, State)>)> {
        let StatePath { scenario, fault, crashes } = path.parse().ok()?;
        let scenario = scenarios.iter().find(|known| known.name == scenario)?;
        Some(Explorer::run(scenario, limits, Some(fault), Some(crashes), keep))
    }

    fn run(
        scenario: &'static Scenario,
        limits: Limits,
        only: Option<Fault>,
        replay: Option<Vec<Crash>>,
        keep: Option<Keep>,
    ) -> (Report, Vec<(String, State)>) {
        let explorer = Arc::new(Explorer { scenario, limits, tally: Mutex::default(), replay, keep });
        let mut first = World::new(SimDisk::new(), explorer.branch("setup", Vec::new()));
        match (scenario.setup)(&mut first) {
            Ok(()) => {
                first.disk.kill();
                first.disk.settle();
                match only {
                    Some(fault) => drop(explorer.run_with(&first, fault)),
                    None => explorer.run_all(&first),
                }
            }
            Err(error) => explorer.found(&first.branch, &first.disk, Breach::new('O', format!("setup: {error}"))),
        }
        let tally = std::mem::take(&mut *lock(&explorer.tally));
        (tally.report, tally.kept.into_iter().collect())
    }

    /// A branch of `scenario` in which nothing is explored: what happens there is what its owner lets happen.
    pub(super) fn lone_branch(scenario: &'static Scenario) -> Arc<Branch> {
        let explorer = Explorer { scenario, limits: Limits::SEARCH, tally: Mutex::default(), replay: None, keep: None };
        Arc::new(explorer).branch("alone", Vec::new())
    }

    /// What broke a law so far.
    pub(super) fn findings(&self) -> Vec<Finding> {
        lock(&self.tally).report.findings.clone()
    }

    fn run_all(self: &Arc<Explorer>, first: &World) {
        let (operations, syncs) = self.run_with(first, Fault::None);
        if self.limits.faults == 0 {
            return;
        }
        let spread = |n: u64| {
            let step = n.div_ceil(self.limits.faults).max(1);
            (1..=n).step_by(step as usize)
        };
        let kills = spread(operations + 1).map(Fault::Kill);
        let faults = kills
            .chain(spread(syncs).map(Fault::FailSync))
            .chain(spread(syncs).map(Fault::Revert))
            .chain(spread(operations).step_by(3).map(Fault::Late))
            .chain(spread(operations).map(Fault::NoSpace))
            .chain(spread(operations).map(Fault::Full))
            .chain(spread(operations).map(Fault::Gone));
        for fault in faults {
            if self.stopped() {
                return;
            }
            lock(&self.tally).report.faults += 1;
            self.run_with(first, fault);
        }
    }

    /// Runs the scenario with a fault; operations and barriers of its body.
    fn run_with(self: &Arc<Explorer>, first: &World, fault: Fault) -> (u64, u64) {
        let branch = self.branch(&fault.to_string(), lock(&first.branch.views).clone());
        *lock(&branch.past) = lock(&first.branch.past).clone();
        let mut world = World::new(first.disk.fork(), branch);
        world.disk.arm(fault);
        world.branch.watching.store(fault == Fault::None, Ordering::Relaxed);
        let result = (self.scenario.body)(&mut world);
        let counted = world.disk.counted();
        let fired = world.disk.fired();
        world.disk.arm(Fault::None);
        if world.disk.went_on() {
            let what = "a file was written to, or barriered, after a barrier of its own had failed";
            self.found(&world.branch, &world.disk, Breach::new('F', what));
        }
        if let Err(error) = result
            && !fired
        {
            self.found(&world.branch, &world.disk, Breach::new('O', format!("the scenario fails: {error}")));
        }
        if fault == Fault::None {
            world.point();
            return counted;
        }
        if fault.fails_barrier() && fired {
            world.doubt();
        }
        world.branch.watching.store(true, Ordering::Relaxed);
        world.point();
        world.disk.kill();
        world.disk.note("the process is dead; another begins", 0..0);
        self.go_on(&mut world, false);
        counted
    }

    /// What follows a crash or a death, from the state that `world` is in.
    pub(super) fn go_on(self: &Arc<Explorer>, world: &mut World, durable: bool) {
        let views = lock(&world.branch.views).clone();
        let seen = judge(&world.disk, &views, &mut lock(&self.tally).epochs);
        match seen {
            Ok(seen) => {
                let mut views = lock(&world.branch.views);
                for (view, seen) in views.iter_mut().zip(seen) {
                    if let Some(seen) = seen {
                        view.model.adopt(&seen, durable);
                    }
                }
            }
            Err(breach) => return self.found(&world.branch, &world.disk, breach),
        }
        let owed = world.disk.owes();
        if let Err(error) = (self.scenario.recover)(world) {
            if owed && !world.disk.owes() {
                // It was told of what could not be written back before it began. The next one is not.
                world.disk.kill();
                world.doubt();
                world.disk.note("the process gives up; another begins", 0..0);
                return self.go_on(world, durable);
            }
            let breach = Breach::new('R', format!("going on fails: {error}"));
            return self.found(&world.branch, &world.disk, breach);
        }
        world.point();
    }

    fn branch(self: &Arc<Explorer>, step: &str, views: Vec<View>) -> Arc<Branch> {
        Arc::new(Branch {
            explorer: Arc::clone(self),
            views: Mutex::new(views),
            path: format!("{}/{step}", self.scenario.name),
            watching: AtomicBool::new(false),
            past: Mutex::default(),
            points: AtomicU64::new(0),
            depth: 0,
            before: Vec::new(),
        })
    }

    fn stopped(&self) -> bool {
        self.limits.stop_at_first && !lock(&self.tally).report.findings.is_empty()
    }

    pub(super) fn found(&self, branch: &Branch, disk: &SimDisk, breach: Breach) {
        let trace = branch.trace(disk);
        lock(&self.tally).report.findings.push(Finding { path: branch.path.clone(), breach, trace });
    }

    /// Explores the states that a power loss would leave now.
    pub(super) fn point(self: &Arc<Explorer>, branch: &Branch, disk: &SimDisk) {
        if self.limits.rotten != 0 {
            lock(&branch.past).note(disk);
        }
        if !branch.watching.load(Ordering::Relaxed) || self.stopped() {
            return;
        }
        let number = branch.points.fetch_add(1, Ordering::Relaxed);
        let pending = disk.pending();
        let views = lock(&branch.views).clone();
        let point =
            Point { explorer: self, branch, disk, number, pending: &pending, views: &views, hash: laws::hash(&views) };
        let of = pending.choices();
        if let Some(crashes) = &self.replay {
            let here = crashes.get(branch.depth as usize).filter(|crash| crash.point == number);
            if let Some(crash) = here.filter(|crash| crash.choices.len() == of.len()) {
                point.visit(&crash.choices);
            }
            return;
        }
        let states = pending.states().unwrap_or(u64::MAX);
        let exhaustive =
            if branch.depth == 0 && branch.is_body() { self.limits.exhaustive } else { self.limits.nested };
        lock(&self.tally).report.points += 1;
        if states <= exhaustive {
            lock(&self.tally).report.exhaustive += 1;
            every(of, |choices| point.visit(choices));
        } else {
            let count = exhaustive.min(self.limits.sample);
            sample(of, count, mix(seed_of(&branch.path), number), |choices| point.visit(choices));
        }
    }
}

struct Point<'a> {
    explorer: &'a Arc<Explorer>,
    branch: &'a Branch,
    disk: &'a SimDisk,
    number: u64,
    pending: &'a pending::Pending,
    views: &'a [View],
    hash: u64,
}

impl Point<'_> {
    /// Judges one state. False ends the walk.
    fn visit(&self, choices: &[u8]) -> bool {
        let remains = self.pending.apply(choices);
        let key = mix(pending::hash(&remains), self.hash);
        {
            let mut tally = lock(&self.explorer.tally);
            tally.report.states += 1;
            if !tally.judged.insert(key) {
                return true;
            }
            tally.report.disks += 1;
        }
        let disk = SimDisk::after(&remains);
        if let Some(keep) = &self.explorer.keep {
            let path = self.path(choices);
            if let Some(kind) = keep(&path, &disk) {
                lock(&self.explorer.tally).kept.entry(kind).or_insert_with(|| State { path, disk: disk.fork() });
            }
        }
        let judged = judge(&disk, self.views, &mut lock(&self.explorer.tally).epochs);
        let judged = judged.and_then(|_| rot::judge_newest(&disk, self.views)).and_then(|()| self.harm(&disk, key));
        if let Err(breach) = judged {
            self.explorer.found(&self.crashed(choices), &SimDisk::new(), breach);
            return !self.explorer.limits.stop_at_first;
        }
        let limits = &self.explorer.limits;
        let deeper =
            self.branch.depth < limits.depth && sampled(key, limits.recovery_period << (2 * self.branch.depth));
        if deeper || self.explorer.replay.is_some() {
            lock(&self.explorer.tally).report.recoveries += 1;
            let branch = self.crashed(choices);
            branch.watching.store(true, Ordering::Relaxed);
            self.explorer.go_on(&mut World::new(disk, Arc::new(branch)), true);
        }
        !self.explorer.stopped()
    }

    /// Harms the metadata of a state, if that is asked for.
    fn harm(&self, disk: &SimDisk, key: u64) -> std::result::Result<(), Breach> {
        if !sampled(key, self.explorer.limits.rotten) {
            return Ok(());
        }
        let past = lock(&self.branch.past).clone();
        let mut ledger = Ledger::default();
        let judged = rot::judge_all(disk, self.views, &past, key, &mut ledger);
        lock(&self.explorer.tally).report.rot.add(&ledger);
        judged
    }

    /// The path of the state.
    fn path(&self, choices: &[u8]) -> String {
        format!("{}/{}", self.branch.path, Crash { point: self.number, choices: choices.to_vec() })
    }

    /// The branch that begins with the state.
    fn crashed(&self, choices: &[u8]) -> Branch {
        let mut before = self.branch.trace(self.disk);
        before.push("POWER LOSS".into());
        before.extend(self.pending.describe(choices).into_iter().map(|line| format!("  {line}")));
        Branch {
            explorer: Arc::clone(self.explorer),
            views: Mutex::new(self.views.to_vec()),
            path: self.path(choices),
            watching: AtomicBool::new(false),
            past: Mutex::new(lock(&self.branch.past).clone()),
            points: AtomicU64::new(0),
            depth: self.branch.depth + 1,
            before,
        }
    }
}

impl Branch {
    fn trace(&self, disk: &SimDisk) -> Vec<String> {
        self.before.iter().cloned().chain(disk.events().iter().map(ToString::to_string)).collect()
    }

    pub(super) fn barrier_failed(&self) -> bool {
        let mut steps = self.path.split('/').skip(1);
        steps.next().and_then(|fault| fault.parse().ok()).is_some_and(Fault::fails_barrier)
    }

    fn is_body(&self) -> bool {
        self.path.ends_with("/none")
    }

    /// Contents that the branch writes are numbered from here: the first digits tell the crash they came after.
    pub(super) fn first_number(&self) -> u64 {
        1 + 1000 * u64::from(self.depth)
    }

    /// What tells this branch's random bytes from those of others.
    pub(super) fn seed(&self) -> u64 {
        seed_of(&self.path)
    }
}

fn seed_of(path: &str) -> u64 {
    path.bytes().fold(0x11, |state, byte| mix(state, u64::from(byte)))
}
