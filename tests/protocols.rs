//! Every sequence of events of small protocols, on the real code, and what they find where a step is left out or a mistake
//! is made.
//!
//! `LVD_PROTOCOL_LONGER=N` (0) walks N events further. `LVD_PROTOCOL_REPLAY=PATH` lets happen what a finding says.

mod each;
mod records;

use each::each;
use lvd::switch::{Mistake, Step, with_mistake, without_step};
use lvd::testing::crash::Finding;
use lvd::testing::explore::{Protocol, Walk, replay, walk};
use lvd::testing::protocols::beside::Beside;
use lvd::testing::protocols::group::Group;
use lvd::testing::protocols::merge::Merge;
use lvd::testing::protocols::mirror::Mirror;
use records::record;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A protocol, and how many events in a row take some seconds.
struct Walked {
    name: &'static str,
    walk: fn(usize) -> Walk,
    replay: fn(&str) -> Option<Option<Finding>>,
    depth: usize,
}

const fn walked<P: Protocol>(depth: usize) -> Walked {
    Walked { name: P::NAME, walk: walk::<P>, replay: replay::<P>, depth }
}

const MIRROR: Walked = walked::<Mirror<0>>(5);
const READY: Walked = walked::<Mirror<1>>(3);
const RESUMED: Walked = walked::<Mirror<2>>(5);
const GROUP: Walked = walked::<Group>(3);
const SIDECARS: Walked = walked::<Beside>(4);
const MERGE: Walked = walked::<Merge>(5);

const ALL: [Walked; 6] = [MIRROR, READY, RESUMED, GROUP, SIDECARS, MERGE];

/// What is wrong with the code.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Without(Step),
    Making(Mistake),
}
use Wrong::{Making, Without};

/// What each protocol is known to find.
const FOUND: &[(Walked, &[Wrong])] = &[
    (
        READY,
        &[
            Without(Step::HeaderBarrier),
            Without(Step::IntentFirst),
            Without(Step::IntentBarrier),
            Without(Step::BitsBeforeClear),
            Without(Step::CopyMark),
            Without(Step::CountsBeforePivot),
        ],
    ),
    (
        GROUP,
        &[
            Without(Step::GroupSettled),
            Without(Step::SourcesMarked),
            Without(Step::TargetsMarked),
            Without(Step::TargetsDurable),
            Without(Step::DecisionFirst),
            Making(Mistake::DoubtStays),
        ],
    ),
    (
        SIDECARS,
        &[
            Without(Step::EpochAtStart),
            Without(Step::IntentFirst),
            Without(Step::FoldFound),
            Without(Step::IntentBarrier),
            Without(Step::BitsBeforeClear),
            Without(Step::CarryBitmaps),
            Without(Step::SidecarFirst),
        ],
    ),
    (
        MERGE,
        &[
            Without(Step::SessionSync),
            Without(Step::MarkBase),
            Without(Step::SealBase),
            Without(Step::ClearMarkLast),
            Without(Step::CountsBeforePivot),
        ],
    ),
];

/// Findings that led to a change of the code. What was wrong is told by the rule that is named.
const ONCE: &[(&str, &str)] = &[
    // A bitmap was cleared of which the image, closed by a process that was killed, was in the page cache alone.
    ("EPO-03", "sidecars: Open(false, false); Write; Close cut at 2; Open(true, false); Clear"),
    // A merge had copied into the base what the guest had not flushed. It was seen there after a kill, and lost after a flush.
    ("ORD-85", "merge: Begin(Active); Write(1); Step; Kill; Open; Flush"),
    // A source was rolled back, and fitted a target that had what was written later.
    ("SYN-06", "mirror, resumed: Keep; Open; Write(0); Begin; Step; Kill; RollBack(0)"),
    ("SYN-06", "mirror, resumed: Keep; Open; Write(0); Begin; Step; Save; Close; RollBack(0)"),
];

#[test]
fn no_sequence_of_any_protocol_breaks_a_law() {
    let longer = std::env::var("LVD_PROTOCOL_LONGER").map_or(0, |text| text.parse().expect("a number"));
    let walks = each(&ALL, |protocol| {
        let start = Instant::now();
        ((protocol.walk)(protocol.depth + longer), start.elapsed())
    });
    println!("{:16} {:>6} {:>9} {:>11}", "protocol", "events", "states", "transitions");
    let rows: Vec<Value> = ALL.iter().zip(&walks).map(|(protocol, (walk, time))| row(protocol, walk, *time)).collect();
    record("protocols", &json!({ "rows": rows }));
    let findings: Vec<&Finding> = walks.iter().filter_map(|(walk, _)| walk.finding.as_ref()).collect();
    findings.iter().for_each(|finding| println!("\n{finding}"));
    assert!(findings.is_empty(), "{} protocols break a law", findings.len());
}

/// Prints a row, and returns it for the record.
fn row(protocol: &Walked, walk: &Walk, time: Duration) -> Value {
    let (name, Walk { depth, states, transitions, .. }) = (protocol.name, walk);
    println!("{name:16} {depth:>6} {states:>9} {transitions:>11}   {time:.1?}");
    json!({
        "name": name, "depth": depth, "states": states, "transitions": transitions, "seconds": time.as_secs_f64(),
    })
}

#[test]
fn every_protocol_finds_what_it_is_known_to_find() {
    let wrongs: Vec<(&Walked, Wrong)> =
        FOUND.iter().flat_map(|(protocol, wrongs)| wrongs.iter().map(move |wrong| (protocol, *wrong))).collect();
    let found: Vec<Option<Finding>> = wrongs
        .iter()
        .map(|(protocol, wrong)| {
            let walk = || (protocol.walk)(protocol.depth);
            match wrong {
                Without(step) => without_step(*step, walk),
                Making(mistake) => with_mistake(*mistake, walk),
            }
            .finding
        })
        .collect();
    let text = |wrong: &Wrong| match wrong {
        Without(step) => step.to_string(),
        Making(mistake) => mistake.what().to_string(),
    };
    let mut rows = Vec::new();
    for ((protocol, wrong), finding) in wrongs.iter().zip(&found) {
        let sequence = finding.as_ref().and_then(|finding| finding.path.split_once(": ")).map(|(_, events)| events);
        println!("{:16} {wrong:?}: {}", protocol.name, sequence.unwrap_or("NOT FOUND"));
        rows.push(json!({ "name": protocol.name, "text": text(wrong), "sequence": sequence }));
    }
    record("protocol-steps", &json!({ "rows": rows }));
    let missing: Vec<_> =
        wrongs.iter().zip(&found).filter(|(_, finding)| finding.is_none()).map(|(it, _)| it.1).collect();
    assert!(missing.is_empty(), "not found any more: {missing:?}");
}

#[test]
fn what_broke_a_law_once_breaks_none_any_more() {
    for (rule, path) in ONCE {
        let finding = ALL.iter().find_map(|protocol| (protocol.replay)(path)).expect("a path of one of them");
        assert!(finding.is_none(), "{rule}: {}", finding.map(|it| it.to_string()).unwrap_or_default());
    }
}

#[test]
fn replay_one() {
    let Ok(path) = std::env::var("LVD_PROTOCOL_REPLAY") else { return };
    let finding = ALL.iter().find_map(|protocol| (protocol.replay)(&path)).expect("a path as a finding prints it");
    println!("{}", finding.expect("no law is broken there"));
}
