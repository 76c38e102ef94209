//! Power loss at every point of every scenario, and the proof that each ordering step is needed.
//!
//! `LVD_CRASH_FULL=1` walks every point with up to 2^20 states in full. `LVD_CRASH_REPLAY=PATH` goes to the state that a
//! finding names, and prints what led there. `LVD_CRASH_LENGTH=N` (2) has all sequences of at most N events.
//! `LVD_CRASH_ONLY=NAME` explores one scenario, `LVD_CRASH_STEP=RULE` searches what one step is needed for.
//! `LVD_CRASH_CANARY=RULE` leaves out a step everywhere: what is explored then has to fail.

mod records;

use lvd::switch::{Step, without_step};
use lvd::testing::crash::{Explorer, Finding, Limits, Report, Scenario};
use lvd::testing::scenarios::{ALL, LONG, sequences};
use records::record;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Does `work` for every item, on as many threads as there are processors; the results in the items' order.
fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let result = work(item);
                    results.lock().unwrap().push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn full() -> bool {
    std::env::var_os("LVD_CRASH_FULL").is_some()
}

/// Explores, without the canary's step if there is one.
fn explore(scenario: &'static Scenario, limits: Limits) -> Report {
    let Ok(canary) = std::env::var("LVD_CRASH_CANARY") else { return Explorer::explore(scenario, limits) };
    let step = Step::ALL.iter().find(|step| step.id() == canary).expect("the rule of a step");
    without_step(*step, || Explorer::explore(scenario, limits))
}

fn chosen() -> Vec<(&'static Scenario, Limits)> {
    let only = std::env::var("LVD_CRASH_ONLY").ok();
    let (usual, long) = if full() { (Limits::FULL, Limits::FULL) } else { (Limits::USUAL, Limits::LONG) };
    let all = ALL.iter().map(|scenario| (*scenario, usual)).chain(LONG.iter().map(|scenario| (*scenario, long)));
    let chosen: Vec<_> = all.filter(|(scenario, _)| only.as_ref().is_none_or(|only| scenario.name == only)).collect();
    assert!(!chosen.is_empty(), "no scenario is called {only:?}");
    chosen
}

#[test]
fn no_state_of_any_scenario_breaks_a_law() {
    let start = Instant::now();
    let scenarios = chosen();
    let timed = |(scenario, limits): &(&'static Scenario, Limits)| {
        let start = Instant::now();
        (explore(scenario, *limits), start.elapsed())
    };
    let reports = each(&scenarios, timed);
    print_head();
    let (mut sum, mut rows) = (Report::default(), Vec::new());
    for ((scenario, _), (report, time)) in scenarios.iter().zip(&reports) {
        rows.push(row(scenario.name, report, *time));
        sum.add(report);
    }
    rows.push(row("all", &sum, start.elapsed()));
    record("crash", &json!({ "full": full(), "rows": rows }));
    let findings: Vec<&Finding> = reports.iter().flat_map(|(report, _)| &report.findings).collect();
    for finding in findings.iter().take(3) {
        println!("\n{finding}");
    }
    assert!(findings.is_empty(), "{} states break a law", findings.len());
}

/// All sequences of what can happen to a disk, up to a length.
#[test]
fn no_state_of_a_short_sequence_breaks_a_law() {
    let start = Instant::now();
    let longest = std::env::var("LVD_CRASH_LENGTH").map_or(2, |text| text.parse().expect("a length"));
    let (mut sum, mut rows, mut findings) = (Report::default(), Vec::new(), Vec::new());
    print_head();
    for length in 1..=longest {
        let start = Instant::now();
        let scenarios = sequences(length);
        let reports = each(&scenarios, |scenario| explore(scenario, Limits::SHORT));
        let mut these = Report::default();
        reports.iter().for_each(|report| these.add(report));
        rows.push(row(&format!("{} of {length}", scenarios.len()), &these, start.elapsed()));
        sum.add(&these);
        findings.extend(reports.into_iter().flat_map(|report| report.findings));
    }
    rows.push(row("all", &sum, start.elapsed()));
    record("sequences", &json!({ "rows": rows }));
    for finding in findings.iter().take(3) {
        println!("\n{finding}");
    }
    assert!(findings.is_empty(), "{} states break a law", findings.len());
}

fn print_head() {
    println!(
        "{:28} {:>7} {:>7} {:>9} {:>9} {:>8} {:>6}",
        "scenario", "points", "in full", "states", "disks", "go on", "faults"
    );
}

/// Prints a row, and returns it for the record.
fn row(name: &str, report: &Report, time: Duration) -> Value {
    let Report { points, exhaustive, states, disks, recoveries, faults, .. } = report;
    println!("{name:28} {points:>7} {exhaustive:>7} {states:>9} {disks:>9} {recoveries:>8} {faults:>6}   {time:.1?}");
    json!({
        "name": name, "points": points, "in_full": exhaustive, "states": states, "disks": disks, "go_on": recoveries,
        "faults": faults, "seconds": time.as_secs_f64(),
    })
}

#[test]
fn every_step_is_needed() {
    let only = std::env::var("LVD_CRASH_STEP").ok();
    let wanted = |step: &Step| only.as_ref().is_none_or(|only| step.id() == only);
    let steps: Vec<Step> = Step::ALL.iter().copied().filter(wanted).collect();
    let found = each(&steps, |step| without_step(*step, || first_finding(*step)));
    println!("{:8} {:28} first trace", "step", "scenario");
    for (step, found) in steps.iter().zip(&found) {
        match found {
            Some((scenario, what)) => println!("{:8} {scenario:28} {what}", step.id()),
            None => println!("{:8} NOT FOUND                    {}", step.id(), step.rule()),
        }
    }
    let rows = steps.iter().zip(&found).map(|(step, found)| {
        json!({ "rule": step.id(), "text": step.rule(), "scenario": found.as_ref().map(|(scenario, _)| scenario) })
    });
    record("steps", &json!({ "rows": rows.collect::<Vec<_>>() }));
    let missing: Vec<&Step> =
        steps.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(step, _)| step).collect();
    assert!(missing.is_empty(), "nothing breaks without {missing:?}");
}

/// Where a step is missed soonest. The other scenarios come after: most would take a minute to find nothing.
const MISSED_IN: &[(&str, &str)] = &[
    ("BAK", "live backup"),
    ("BMP-13", "frozen bitmap"),
    ("BMP-14", "live snapshot with a bitmap"),
    ("BMP-15", "bitmaps that begin with bits"),
    ("EPO", "bitmap beside an image"),
    ("GRP", "live pivot of a group"),
    ("INT", "bitmap"),
    ("ORD-21", "sessions"),
    ("ORD-22", "sessions"),
    ("ORD-23", "sessions"),
    ("ORD-24", "sequence shrink,failed backup"),
    ("ORD-3", "sessions"),
    ("ORD-42", "create over an older image"),
    ("ORD-45", "snapshot"),
    ("ORD-60", "resize a complete image"),
    ("ORD-61", "resize an overlay"),
    ("ORD-62", "grow over a section"),
    ("ORD-63", "resize an overlay"),
    ("ORD-7", "stream"),
    ("ORD-8", "merge"),
    ("ORD-83", "merge past a short layer"),
    ("ORD-84", "merge past a short layer"),
    ("ORD-90", "mirror"),
    ("ORD-97", "live mirror, pivot"),
    ("SYN", "mirror, resumed"),
];

/// The first law that breaks on this thread, with the step that it leaves out.
fn first_finding(step: Step) -> Option<(&'static str, String)> {
    let about = |scenario: &&Scenario| {
        MISSED_IN.iter().any(|(steps, name)| step.id().starts_with(steps) && scenario.name == *name)
    };
    let mut scenarios: Vec<&Scenario> = ALL.iter().chain(LONG).copied().collect();
    scenarios.sort_by_key(|scenario| !about(scenario));
    scenarios.into_iter().find_map(|scenario| {
        let report = catch_unwind(AssertUnwindSafe(|| Explorer::explore(scenario, Limits::SEARCH)));
        match report {
            Ok(report) => {
                report.findings.first().map(|finding| (scenario.name, format!("{}: {}", finding.path, finding.breach)))
            }
            Err(_) => Some((scenario.name, "a panic".into())),
        }
    })
}

#[test]
fn replay() {
    let Ok(path) = std::env::var("LVD_CRASH_REPLAY") else { return };
    let short = (1..=3).flat_map(sequences);
    let scenarios: Vec<_> = ALL.iter().chain(LONG).copied().chain(short).collect();
    let report = Explorer::replay(&scenarios, &path).expect("a path as a finding prints it");
    for finding in &report.findings {
        println!("{finding}");
    }
    assert!(!report.findings.is_empty(), "no law is broken there");
}
