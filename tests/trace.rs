//! The trace from each rule of the specification to what proves it: vectors on both sides, a step that a simulator finds
//! missing, a test, or a reason. `spec/trace.md` is the report; `LVD_WRITE_TRACE=1` writes it again.

mod pages;

use lvd::switch::Step;
use lvd::testing::vectors::vector::{Case, Flag, Verdict};
use lvd::testing::vectors::{Vector, text};
use lvd::violation::Violation;
use pages::{Rule, files, rules};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

/// What stands for the vectors that a rule cannot have on both sides.
#[derive(Debug, Clone, Copy)]
enum Instead {
    /// What is read follows from it: a file cannot break it, and a reader that does reads something else.
    Reading,
    /// It says which of several answers is given; no file that it is about opens.
    Refusing,
    /// A test of that name.
    Test(&'static str),
    /// Why no test can be made of it.
    Reason(&'static str),
}
use Instead::{Reading, Reason, Refusing, Test};

/// The laws of crashes hold for every scenario of the simulator, with every subset of writes.
const CRASHES: Instead = Test("no_state_of_any_scenario_breaks_a_law");

/// Rules that are not proven by vectors on both sides, nor by a step that is found missing.
const OTHERWISE: &[(&str, Instead)] = &[
    ("ALC-01", Reading),
    ("ALC-02", Reading),
    ("ALC-03", Reading),
    ("ALC-04", Reading),
    ("ALC-05", Reading),
    ("ALC-06", Reading),
    ("ALC-07", Reading),
    ("ALC-08", Reading),
    ("ALC-11", Reading),
    ("BAK-04", Test("a_backup_that_ends_otherwise_leaves_its_bitmap_alone")),
    ("BMP-01", Reading),
    ("BMP-05", Reading),
    ("BMP-06", Reading),
    ("BMP-07", Reading),
    ("BMP-08", Reading),
    ("BMP-10", Test("bitmaps_are_their_model")),
    ("BMP-12", Test("a_rolled_back_image_has_the_point_of_then")),
    ("CHN-08", Reading),
    ("CHN-09", Reading),
    ("CHN-11", Test("qemu_is_kept_out")),
    ("CHN-12", Test("qemu_keeps_us_out")),
    ("CHN-17", Reason("a host without locks is not at hand; the error of such a call is passed on like any other")),
    ("CTL-01", Test("the_socket_is_the_users_alone")),
    ("CTL-02", Test("a_text_of_the_control_socket_takes_a_multiple_of_its_length")),
    ("EPO-03", CRASHES),
    ("EPO-07", Reading),
    ("FIL-01", Test("a_file_that_is_swapped_is_the_file_or_none")),
    ("FIL-02", Test("what_the_kernel_makes_up_is_no_disk")),
    ("FIL-03", Test("a_directory_that_is_swapped_leads_nowhere_else")),
    ("FIL-04", Test("a_file_that_was_replaced_before_it_was_locked_is_refused")),
    ("FIL-05", Test("a_command_that_fails_takes_away_only_its_own_file")),
    ("FIL-06", Test("files_and_memory_do_what_a_vector_does")),
    ("GRP-05", Refusing),
    ("GRP-13", Test("only_who_made_a_group_decides")),
    ("GRP-14", Test("a_decision_in_doubt_stops_all_guests")),
    ("HDR-17", Reading),
    ("HDR-18", Refusing),
    ("HDR-19", Reading),
    ("HDR-20", Refusing),
    ("HDR-22", Test("what_the_host_cannot_read_is_its_error_and_no_conclusion")),
    ("INT-02", Reading),
    ("LIM-01", Refusing),
    ("LIM-02", Test("a_header_takes_little_more_than_its_slots")),
    ("LIM-03", Reading),
    ("LIM-04", Test("what_a_file_costs_is_bounded_by_what_it_stores")),
    ("NET-01", Test("what_is_announced_takes_nothing")),
    ("NET-02", Test("half_messages")),
    ("NET-03", Test("a_client_that_asks_for_much_takes_little")),
    ("NET-04", Test("extents_end_with_their_request")),
    ("NET-05", Test("what_came_before_tls_is_forgotten")),
    ("NET-06", Test("replies_that_are_none")),
    ("NET-07", Test("handshakes_that_lead_nowhere")),
    ("NET-08", Test("whom_a_client_trusts")),
    ("NET-09", Test("errors_of_the_server_are_told_in_one_line")),
    ("NET-10", Test("names_of_every_length")),
    ("ORD-04", CRASHES),
    ("ORD-05", CRASHES),
    ("ORD-06", Test("a_raw_device_stays_failed")),
    ("ORD-07", CRASHES),
    ("ORD-98", Test("what_is_pulled_stays_as_it_was")),
    ("ORD-99", Test("a_comparison_beside_a_guest_finds_what_is_there_and_nothing_else")),
    ("PAG-02", Reading),
    ("PAG-03", Reading),
    ("PAG-04", Reading),
    ("PAG-06", Test("a_sector_is_zeros_until_it_holds_a_bit")),
    ("PAG-07", Reading),
    ("PAG-08", Test("what_the_host_cannot_read_is_its_error_and_no_conclusion")),
    ("QED-08", Reading),
    ("QED-09", Reading),
    ("QED-10", Reading),
    ("QED-11", Reading),
    ("SID-06", CRASHES),
    ("SID-07", Refusing),
    ("SYN-01", CRASHES),
    ("SYN-05", CRASHES),
    ("SYN-06", Test("what_broke_a_law_once_breaks_none_any_more")),
    ("ORD-85", Test("what_broke_a_law_once_breaks_none_any_more")),
];

/// Vectors about a rule: those that open and keep it, and those that do not, or in which a record or a sector breaks it.
#[derive(Debug, Default, Clone, Copy)]
struct Sides {
    keep: usize,
    breaks: usize,
    refused: usize,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn vectors() -> Vec<Vector> {
    let testdata = root().join("testdata");
    text::load(|path| fs::read(testdata.join(path)).map_err(|error| format!("{path}: {error}"))).unwrap()
}

fn sides(vectors: &[Vector]) -> BTreeMap<String, Sides> {
    let mut sides: BTreeMap<String, Sides> = BTreeMap::new();
    for vector in vectors {
        let (mut broken, mut opens) = (BTreeSet::new(), false);
        for case in &vector.cases {
            let none = case.no_bitmaps.iter().map(|none| &none.broken);
            let jobs = case.then.iter().flat_map(|operation| operation.refused());
            broken.extend(case.broken.iter().chain(none).chain(jobs).cloned());
            opens |= matches!(case.result, Verdict::Valid | Verdict::Damaged);
        }
        for rule in &broken {
            sides.entry(rule.clone()).or_default().breaks += 1;
        }
        for rule in vector.rules.iter().filter(|rule| !broken.contains(*rule)) {
            let sides = sides.entry(rule.clone()).or_default();
            *(if opens { &mut sides.keep } else { &mut sides.refused }) += 1;
        }
    }
    sides
}

/// What proves `rule`, or what it lacks.
fn proof(rule: &Rule, sides: Sides) -> Result<String, String> {
    let otherwise = OTHERWISE.iter().find(|(id, _)| *id == rule.id).map(|(_, instead)| *instead);
    let step = Step::ALL.iter().any(|step| step.id() == rule.id);
    let checked = Violation::ALL.iter().any(|violation| violation.id() == rule.id);
    match (rule.role.as_str(), otherwise) {
        (_, Some(_)) if step || checked && sides.keep > 0 && sides.breaks > 0 => {
            Err("proven, and excused as well".into())
        }
        (_, Some(Reading)) if sides.keep > 0 => Ok("what is read".into()),
        (_, Some(Refusing)) if sides.breaks + sides.refused > 0 => Ok("which answer is given".into()),
        (_, Some(Test(name))) => Ok(format!("`{name}`")),
        (_, Some(Reason(why))) => Ok(why.into()),
        (_, Some(Reading | Refusing)) => Err("no vector is about it".into()),
        ("reader" | "checker", None) if sides.keep > 0 && sides.breaks > 0 => Ok("vectors on both sides".into()),
        ("reader" | "checker", None) => Err(format!("{} vectors keep it, {} break it", sides.keep, sides.breaks)),
        (_, None) if step => Ok("found when left out".into()),
        (_, None) if sides.keep + sides.breaks > 0 => Ok("what writers leave".into()),
        (_, None) => Err("neither a vector, nor a step, nor a test".into()),
    }
}

fn report(rules: &BTreeMap<String, Rule>, sides: &BTreeMap<String, Sides>, vectors: &[Vector]) -> String {
    let mut text = String::from(
        "# Trace\n\nWhat proves each rule. This page is made by `tests/trace.rs` from the rules, the conformance vectors and the\n\
         code; a rule without proof, or a proof without rule, fails the tests.\n\n\
         *Keep* are the vectors about a rule that open and keep it, *break* those in which something breaks it. *Vectors on\n\
         both sides*: and the check that refuses it, when it is switched off, makes vectors fail. *What is read*: no file can\n\
         break it; a reader that does reads other bytes than the vectors say. *Which answer is given*: the vectors about it\n\
         say so. *Found when left out*: the crash simulator finds a state that breaks a law when a writer leaves this step\n\
         out. *What writers leave*: vectors say what is left by a writer or a job. Names are those of tests.\n\n",
    );
    let musts = rules.values().filter(|rule| rule.level == "MUST").count();
    writeln!(text, "{} rules, {musts} of them MUST, {} vectors.\n", rules.len(), vectors.len()).unwrap();
    text += "| rule | role | keep | break | proof |\n|---|---|---|---|---|\n";
    for rule in rules.values() {
        let found = sides.get(&rule.id).copied().unwrap_or_default();
        let proof = proof(rule, found).unwrap_or_else(|lack| format!("**none**: {lack}"));
        let (keep, breaks) = (found.keep, found.breaks);
        writeln!(text, "| {} | {} | {keep} | {breaks} | {proof} |", rule.id, rule.role).unwrap();
    }
    text
}

#[test]
fn every_rule_is_proven() {
    let (rules, vectors) = (rules(), vectors());
    let sides = sides(&vectors);
    let none = |rule: &Rule| sides.get(&rule.id).copied().unwrap_or_default();
    let lacking: Vec<String> = rules
        .values()
        .filter_map(|rule| proof(rule, none(rule)).err().map(|lack| format!("{}: {lack}: {}", rule.id, rule.text)))
        .collect();
    assert!(lacking.is_empty(), "{} rules are not proven:\n{}", lacking.len(), lacking.join("\n"));
    let unknown: Vec<_> = OTHERWISE.iter().filter(|(id, _)| !rules.contains_key(*id)).collect();
    assert!(unknown.is_empty(), "no such rules: {unknown:?}");
    let written = report(&rules, &sides, &vectors);
    let page = root().join("spec/trace.md");
    if std::env::var_os("LVD_WRITE_TRACE").is_some() {
        fs::write(&page, &written).unwrap();
    }
    let found = fs::read_to_string(&page).unwrap_or_default();
    assert!(found == written, "spec/trace.md is not what the rules and vectors say: LVD_WRITE_TRACE=1 writes it again");
    println!("{} rules, all of them proven", rules.len());
}

#[test]
fn the_tests_that_rules_name_are_there() {
    let code: Vec<String> = ["tests", "src"].into_iter().flat_map(|d| files(d, "rs")).map(|file| file.1).collect();
    for (rule, instead) in OTHERWISE {
        if let Test(name) = instead {
            assert!(code.iter().any(|text| text.contains(&format!("fn {name}("))), "{rule}: no test {name}");
        }
    }
}

/// The flags that the page on vectors declares are those that there are, and each of them is used.
#[test]
fn flags_are_declared_and_used() {
    let used: BTreeSet<String> = vectors().iter().flat_map(|vector| &vector.flags).map(word).collect();
    let readme = fs::read_to_string(root().join("testdata/README.md")).unwrap();
    let table = readme.split("\n## Flags\n").nth(1).expect("a table of flags").split("\n## ").next().unwrap();
    let declared: BTreeSet<String> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned)).collect();
    assert_eq!(used, declared);
}

fn word(flag: &Flag) -> String {
    serde_json::to_value(flag).unwrap().as_str().unwrap().to_owned()
}

/// A case that is refused says by which rules, and one that opens what is read.
#[test]
fn cases_say_what_they_are_for() {
    let complete = |case: &Case| match case.result {
        Verdict::Valid => case.broken.is_empty() && case.disk.is_some(),
        Verdict::Damaged => !case.broken.is_empty() && case.disk.is_some(),
        _ => !case.broken.is_empty() && case.disk.is_none(),
    };
    let vectors = vectors();
    let wrong = vectors.iter().filter(|vector| !vector.cases.iter().all(complete)).map(|vector| &vector.name);
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&String>::new());
}
