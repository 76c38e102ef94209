//! Power loss at every point of every scenario, the proof that each ordering step is needed, and metadata that goes bad.
//!
//! `LVD_CRASH_FULL=1` walks every point with up to 2^16 states in full, and goes on after more of them; `LVD_CRASH_BRIEF=1`
//! takes few of them, and ends a scenario with what it finds first.
//! `LVD_CRASH_REPLAY=PATH` goes to the state that a finding names, and prints what led there; `LVD_CRASH_VECTOR=DIR` then
//! writes its files as a conformance vector below DIR. `LVD_CRASH_LENGTH=N` (2) has all sequences of at most N events.
//! `LVD_CRASH_ONLY=NAME` explores one scenario, `LVD_CRASH_STEP=RULE` searches what one step is needed for.
//! `LVD_CRASH_CANARY=RULE` leaves out a step everywhere: what is explored then has to fail.

mod each;
mod records;

use each::each;
use lvd::switch::{Step, without_check, without_step};
use lvd::testing::crash::{Explorer, Finding, Limits, Report, Scenario};
use lvd::testing::rot::Outcomes;
use lvd::testing::scenarios::{ALL, LONG, sequences};
use lvd::testing::shrink::{arrivals, crashes, smallest};
use lvd::testing::vectors;
use lvd::violation::Violation;
use records::record;
use serde_json::{Value, json};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

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
    let brief = Limits { stop_at_first: true, ..Limits::SHORT };
    let (usual, long) = match std::env::var_os("LVD_CRASH_BRIEF") {
        Some(_) => (brief, brief),
        None if full() => (Limits::FULL, Limits::FULL_LONG),
        None => (Limits::USUAL, Limits::LONG),
    };
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
    let findings = findings(scenarios.iter().zip(&reports).map(|((scenario, _), (report, _))| (*scenario, report)));
    print_some(&findings);
    assert!(findings.is_empty(), "{} states break a law", findings.len());
}

/// Sectors of metadata that a device has lost, changed or put elsewhere, on states of every scenario.
#[test]
fn metadata_that_goes_bad_is_found_or_is_an_older_version_of_itself() {
    let start = Instant::now();
    let scenarios = chosen();
    let limits = if full() { Limits { exhaustive: 64, sample: 64, ..Limits::ROT } } else { Limits::ROT };
    let reports = each(&scenarios, |(scenario, _)| Explorer::explore(scenario, limits));
    let findings = findings(scenarios.iter().zip(&reports).map(|((scenario, _), report)| (*scenario, report)));
    let mut sum = Report::default();
    reports.iter().for_each(|report| sum.add(report));
    println!("{:20} {:12} {:>8} {:>8} {:>8} {:>8}", "what", "where", "harms", "right", "told", "untold");
    let rows: Vec<Value> = sum
        .rot
        .0
        .iter()
        .map(|((what, part), outcomes)| {
            let Outcomes { harms, right, told, untold } = outcomes;
            println!("{what:20} {part:12} {harms:>8} {right:>8} {told:>8} {untold:>8}");
            json!({ "what": what, "where": part, "harms": harms, "right": right, "told": told, "untold": untold })
        })
        .collect();
    println!("{} states, {:.1?}", sum.disks, start.elapsed());
    record("rot", &json!({ "states": sum.disks, "seconds": start.elapsed().as_secs_f64(), "rows": rows }));
    print_some(&findings);
    assert!(findings.is_empty(), "{} states break a law", findings.len());
}

/// The harms are worth something only if the checks are what finds them.
#[test]
fn without_a_check_metadata_that_goes_bad_is_believed() {
    let limits = Limits { stop_at_first: true, ..Limits::ROT };
    for check in [Violation::SealedSector, Violation::HeaderChecksum, Violation::OneFile] {
        let breaks = |scenario: &&'static Scenario| {
            let explored = catch_unwind(AssertUnwindSafe(|| Explorer::explore(scenario, limits)));
            explored.map_or(true, |report| !report.findings.is_empty())
        };
        assert!(without_check(check, || ALL.iter().any(breaks)), "nobody notices without {check:?}");
    }
}

/// All sequences of what can happen to a disk, up to a length.
#[test]
fn no_state_of_a_short_sequence_breaks_a_law() {
    let start = Instant::now();
    let longest = std::env::var("LVD_CRASH_LENGTH").map_or(2, |text| text.parse().expect("a length"));
    let (mut sum, mut rows, mut found) = (Report::default(), Vec::new(), Vec::new());
    print_head();
    for length in 1..=longest {
        let start = Instant::now();
        let scenarios = sequences(length);
        let reports = each(&scenarios, |scenario| explore(scenario, Limits::SHORT));
        let mut these = Report::default();
        reports.iter().for_each(|report| these.add(report));
        rows.push(row(&format!("{} of {length}", scenarios.len()), &these, start.elapsed()));
        sum.add(&these);
        found.extend(findings(scenarios.iter().copied().zip(&reports)));
    }
    rows.push(row("all", &sum, start.elapsed()));
    record("sequences", &json!({ "rows": rows }));
    print_some(&found);
    assert!(found.is_empty(), "{} states break a law", found.len());
}

type Found = (&'static Scenario, Finding);

fn findings<'a>(reports: impl Iterator<Item = (&'static Scenario, &'a Report)>) -> Vec<Found> {
    reports.flat_map(|(scenario, report)| report.findings.iter().map(move |found| (scenario, found.clone()))).collect()
}

/// Prints the first findings, made small.
fn print_some(findings: &[Found]) {
    for (scenario, finding) in findings.iter().take(3) {
        let small = smallest(scenario, finding);
        println!("\n{small}  (smaller than {})", finding.path);
        println!("LVD_CRASH_REPLAY='{}' cargo test --test crash replay -- --nocapture", small.path);
    }
}

/// Law O breaks if a bit of the allocation section is there without its data: one write that arrived, in one crash.
#[test]
fn a_finding_is_made_as_small_as_it_can_be() {
    let overlay = *ALL.iter().find(|scenario| scenario.name == "overlay").expect("a scenario");
    let sequence = sequences(3).into_iter().find(|scenario| scenario.name == "sequence seal,write across,flush");
    let often = Limits { faults: 0, recovery_period: 1, depth: 1, ..Limits::USUAL };
    let cases = [
        (overlay, Limits { faults: 0, ..Limits::USUAL }, 1, "overlay"),
        (sequence.expect("a sequence"), often, 2, "sequence write across,flush"),
    ];
    without_step(Step::DataBarrier, || {
        for (scenario, limits, most, name) in cases {
            let report = Explorer::explore(scenario, limits);
            let largest = report.findings.iter().max_by_key(|found| (crashes(found), arrivals(found)));
            let largest = largest.expect("the step is needed");
            assert!(crashes(largest) == most && arrivals(largest) > 2, "{largest}");
            let small = smallest(scenario, largest);
            assert_eq!((crashes(&small), arrivals(&small)), (1, 1), "{small}");
            assert!(small.path.starts_with(&format!("{name}/none/")), "{small}");
            assert_eq!(small.breach.law, largest.breach.law);
            let vector = vectors::lost::of_path("crash-left", &every_scenario(), &small.path).expect("a state");
            assert_eq!(vectors::run::run(&vector), Ok(()), "what is wrong is what the guest reads, and that is in it");
        }
    });
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
    ("EPO-02", "bitmap beside an image that is rolled back"),
    ("EPO-01", "bitmap beside an image"),
    ("EPO-05", "bitmap beside an image"),
    ("EPO-06", "bitmap beside an image"),
    ("GRP", "live pivot of a group"),
    ("INT", "bitmap"),
    ("ORD-21", "bitmaps that begin with bits"),
    ("ORD-22", "overlay"),
    ("ORD-23", "rebase after a torn header"),
    ("ORD-24", "sequence shrink,failed backup"),
    ("ORD-30", "mirror the top"),
    ("ORD-31", "sessions"),
    ("ORD-32", "stream"),
    ("ORD-42", "flush beside a write"),
    ("ORD-45", "complete image"),
    ("ORD-60", "resize a complete image"),
    ("ORD-61", "resize an overlay"),
    ("ORD-62", "grow over a section"),
    ("ORD-63", "resize an overlay"),
    ("ORD-7", "stream"),
    ("ORD-80", "merge"),
    ("ORD-81", "merge"),
    ("ORD-82", "merge"),
    ("ORD-83", "merge past a short layer"),
    ("ORD-84", "merge into a raw file"),
    ("ORD-90", "mirror"),
    ("ORD-97", "live mirror, pivot"),
    ("SYN-03", "mirror into a raw file, resumed"),
    ("SYN-04", "mirror, resumed"),
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

fn every_scenario() -> Vec<&'static Scenario> {
    ALL.iter().chain(LONG).copied().chain((1..=3).flat_map(sequences)).collect()
}

#[test]
fn replay() {
    let Ok(path) = std::env::var("LVD_CRASH_REPLAY") else { return };
    let scenarios = every_scenario();
    if let Some(directory) = std::env::var_os("LVD_CRASH_VECTOR").map(PathBuf::from) {
        let vector =
            vectors::lost::of_path("crash-left-here", &scenarios, &path).expect("a path as a finding prints it");
        for (name, bytes) in vectors::text::render(&[vector]) {
            let file = directory.join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(&file, bytes).expect("a file");
        }
    }
    let report = Explorer::replay(&scenarios, &path).expect("a path as a finding prints it");
    for finding in &report.findings {
        println!("{finding}");
    }
    assert!(!report.findings.is_empty(), "no law is broken there");
}
