//! Every vector of `testdata/` against the library, and the vectors against their own promises.

use lvd::switch::{self, Mistake, Step};
use lvd::testing::vectors::vector::{Case, Flag, Held, Operation, Outcome, Trusted, Verdict};
use lvd::testing::vectors::{Vector, all, run, text};
use lvd::violation::Violation;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

/// The vectors as they are in the repository, not as the generator would make them.
fn vectors() -> Vec<Vector> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    text::load(|path| fs::read(root.join(path)).map_err(|error| format!("{path}: {error}"))).unwrap()
}

/// The pages that have rules.
fn specification() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec");
    let page = |file| fs::read_to_string(root.join(file)).unwrap();
    ["format.md", "chain.md", "foreign.md", "ordering.md", "groups.md", "bitmaps.md"].map(page).concat()
}

/// The rules that `case` says are broken, by the file or by a record that is no bitmap.
fn broken_rules(case: &Case) -> impl Iterator<Item = &String> {
    case.broken.iter().chain(case.no_bitmaps.iter().map(|none| &none.broken))
}

fn opens(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Valid | Verdict::Damaged)
}

/// The first vector that does not agree with the library as it is now.
fn noticed_by<'a>(vectors: impl IntoIterator<Item = &'a Vector>) -> Option<&'a str> {
    // A library with a mistake may do anything.
    let agrees = |vector: &Vector| matches!(catch_unwind(AssertUnwindSafe(|| run::run(vector))), Ok(Ok(())));
    vectors.into_iter().find(|vector| !agrees(vector)).map(|vector| vector.name.as_str())
}

/// Runs `body`, in which panics are expected: their messages would be noise. Those of other threads are shown.
fn quietly<T>(body: impl FnOnce() -> T) -> T {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                hook(panic)
            }
        }));
    });
    QUIET.set(true);
    let result = body();
    QUIET.set(false);
    result
}

#[test]
fn the_library_agrees_with_every_vector() {
    let wrong: Vec<String> = vectors().iter().filter_map(|vector| run::run(vector).err()).collect();
    assert!(wrong.is_empty(), "{} vectors do not agree:\n{}", wrong.len(), wrong.join("\n"));
}

/// Change the generator or the order of writes, and the vectors are to be written again: see `testdata/README.md`.
#[test]
fn testdata_is_what_the_generator_makes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for (path, bytes) in text::render(&all()) {
        let found = fs::read(root.join(&path)).unwrap_or_default();
        assert!(found == bytes, "{path}: not what the generator makes");
    }
}

/// All vectors, those that break the rule before the others: these would take a minute to notice nothing.
fn about_first(vectors: &[Vector], rule: Violation) -> impl Iterator<Item = &Vector> {
    let breaks = move |vector: &&Vector| vector.cases.iter().flat_map(broken_rules).any(|broken| broken == rule.id());
    vectors.iter().filter(breaks).chain(vectors.iter().filter(move |vector| !breaks(vector)))
}

/// A check that could be left out without a vector that notices would be one that nobody else needs to make.
#[test]
fn every_check_is_needed_by_a_vector() {
    let vectors = vectors();
    let rows: Vec<(Violation, Option<&str>)> = quietly(|| {
        Violation::ALL
            .iter()
            .map(|&rule| (rule, switch::without_check(rule, || noticed_by(about_first(&vectors, rule)))))
            .collect()
    });
    for (rule, name) in &rows {
        println!("{:6} {}", rule.id(), name.unwrap_or("-"));
    }
    let unneeded: Vec<&str> = rows.iter().filter(|(_, name)| name.is_none()).map(|(rule, _)| rule.id()).collect();
    assert!(unneeded.is_empty(), "no vector needs the checks of {}", unneeded.join(", "));
}

#[test]
fn every_rule_that_a_file_can_break_has_vectors_on_both_sides() {
    let (mut broken, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for vector in vectors() {
        for case in &vector.cases {
            let wrong: BTreeSet<String> = broken_rules(case).cloned().collect();
            if opens(case.result) {
                kept.extend(vector.rules.iter().filter(|rule| !wrong.contains(*rule)).cloned());
            }
            broken.extend(wrong);
        }
    }
    let rules: BTreeSet<String> = Violation::ALL.iter().map(|rule| rule.id().to_string()).collect();
    let without = |side: &BTreeSet<String>| rules.difference(side).cloned().collect::<Vec<_>>();
    assert!(without(&broken).is_empty(), "no vector breaks {:?}", without(&broken));
    assert!(without(&kept).is_empty(), "no vector keeps, and is about, {:?}", without(&kept));
}

/// A vector of bitmaps that is not about files as they are left by a writer that knows bitmaps, and lives on.
fn shows_something_wrong(vector: &Vector) -> bool {
    let case = &vector.cases[0];
    let trusted = case.bitmaps.iter().all(|bitmap| bitmap.trust == Trusted::Valid);
    let flagged = [Flag::Crash, Flag::Lost].iter().any(|flag| vector.flags.contains(flag));
    case.result != Verdict::Valid || !case.no_bitmaps.is_empty() || !trusted || flagged
}

/// Most of what an implementation has to do is to refuse. Two vectors of one name would be one in `testdata/`.
#[test]
fn most_vectors_are_negative_and_each_has_a_name_of_its_own() {
    let vectors = vectors();
    let negative = vectors.iter().filter(|vector| vector.result == Outcome::Invalid).count();
    println!("{negative} of {} vectors are negative", vectors.len());
    assert!(negative * 100 >= vectors.len() * 60);
    let names: BTreeSet<&str> = vectors.iter().map(|vector| vector.name.as_str()).collect();
    assert_eq!(names.len(), vectors.len());
}

#[test]
fn the_numbers_that_were_promised() {
    let (jobs, files): (Vec<Vector>, _) = vectors().into_iter().partition(|vector| vector.flags.contains(&Flag::Jobs));
    let (bitmaps, files): (Vec<Vector>, _) =
        files.into_iter().partition(|vector| ["bmp", "int", "epo"].contains(&vector.area()));
    let negative = files.iter().filter(|vector| vector.cases[0].result != Verdict::Valid).count();
    let wrong = bitmaps.iter().filter(|vector| shows_something_wrong(vector)).count();
    println!("{} vectors, {negative} of them negative; {} of jobs", files.len(), jobs.len());
    println!("{} of bitmaps, in {wrong} of them something is wrong", bitmaps.len());
    assert!(files.len() >= 150);
    assert!(negative * 100 >= files.len() * 55, "{negative} of {}", files.len());
    assert!(jobs.len() >= 15);
    assert!(bitmaps.len() >= 40);
    assert!(wrong * 100 >= bitmaps.len() * 55, "{wrong} of {}", bitmaps.len());
}

/// Names of rules in vectors are rules of the specification.
#[test]
fn vectors_name_rules_that_exist() {
    let spec = specification();
    for vector in vectors() {
        let opened = vector.cases.iter().flat_map(|case| std::iter::once(case).chain(&case.finally));
        let broken = opened.flat_map(broken_rules);
        let jobs = vector.cases.iter().flat_map(|case| &case.then).flat_map(Operation::refused);
        for rule in vector.rules.iter().chain(broken).chain(jobs) {
            assert!(spec.contains(&format!("**{rule}** (")), "{}: the specification has no rule {rule}", vector.name);
        }
    }
}

/// The dump of a disk, its hash and its extents say the same.
#[test]
fn what_vectors_say_of_a_disk_is_consistent() {
    for vector in vectors() {
        for case in &vector.cases {
            let disks = case.disks();
            for disk in disks {
                if let Some(hash) = &disk.sha256 {
                    assert_eq!(*hash, disk.bytes.sha256(), "{}", vector.name);
                }
                let Some(extents) = &disk.extents else { continue };
                let mut end = 0;
                for extent in extents {
                    assert!(extent.offset == end && extent.length > 0, "{}: extents have gaps", vector.name);
                    end += extent.length;
                }
                assert_eq!(end, disk.size, "{}: the extents are not all of the disk", vector.name);
            }
        }
    }
}

/// Steps that a job may not leave out, as far as a process that is killed or ends can tell. What only a loss of power
/// tells, the simulator looks for.
const STEPS: &[Step] = &[
    Step::FillBlock,
    Step::ZerosWritten,
    Step::AllPresent,
    Step::FlushBeforeRelink,
    Step::MarkBase,
    Step::SealBase,
    Step::ZerosPastShort,
    Step::MarkBetween,
    Step::CopyMark,
    Step::CountsBeforePivot,
];

/// Mistakes that show with one request at a time.
const MISTAKES: &[Mistake] = &[Mistake::ShortZeroForgotten, Mistake::DiscardGivesUp];

/// The vectors of jobs.
fn jobs() -> Vec<Vector> {
    vectors().into_iter().filter(|vector| vector.flags.contains(&Flag::Jobs)).collect()
}

#[test]
fn vectors_of_jobs_notice_what_a_job_leaves_out() {
    let jobs = jobs();
    let steps = STEPS.iter().map(|&step| (step.id(), switch::without_step(step, || noticed_by(&jobs))));
    let mistakes = MISTAKES.iter().map(|&it| (it.what(), switch::with_mistake(it, || noticed_by(&jobs))));
    let unnoticed: Vec<&str> =
        quietly(|| steps.chain(mistakes).filter(|(_, name)| name.is_none()).map(|(what, _)| what).collect());
    assert!(unnoticed.is_empty(), "no vector of a job notices {unnoticed:?}");
}

/// `case`, an open of what a job left, with one thing changed that it says.
fn falsified(case: &Case) -> Vec<(&'static str, Case)> {
    let mut all = Vec::new();
    let mut change = |what, change: &dyn Fn(&mut Case) -> Option<()>| {
        let mut case = case.clone();
        if change(&mut case).is_some() {
            all.push((what, case));
        }
    };
    change("the result", &|case| {
        case.result = if opens(case.result) { Verdict::Refused } else { Verdict::Valid };
        Some(())
    });
    change("the rule", &|case| {
        case.broken.first_mut().map(|rule| *rule = "HDR-02".into()).filter(|()| case.broken.len() == 1)
    });
    for at in [0, 1, 2] {
        change("a byte", &|case| {
            let bytes = &mut case.disk.as_mut()?.bytes;
            let place = (bytes.len() - 1) * at / 2;
            let byte = bytes.read(place, 1)[0];
            bytes.write(place, &[byte ^ 1]);
            Some(())
        });
    }
    change("the size", &|case| case.disk.as_mut().map(|disk| disk.size += 1));
    change("who holds a stretch", &|case| {
        let held = &mut case.disk.as_mut()?.extents.as_mut()?.last_mut()?.held;
        *held = if *held == Held::Here { Held::Below } else { Held::Here };
        Some(())
    });
    change("the epoch", &|case| case.after.as_mut()?.new_epoch.as_mut().map(|new| *new = !*new));
    change("the state", &|case| case.after.as_mut()?.state.as_mut().map(|state| *state = "writing".into()));
    change("the visible length", &|case| case.after.as_mut()?.visible_length.as_mut().map(|length| *length -= 1));
    change("the mark's epoch", &|case| {
        let mark = case.after.as_mut()?.merge_mark.as_mut()?;
        mark.child_epoch.clone_from(&mark.child_uuid);
        Some(())
    });
    change("that there is no mark", &|case| case.after.as_mut()?.merge_mark.take().map(drop));
    all
}

#[test]
fn vectors_of_jobs_are_held_to_all_that_they_say() {
    let mut unnoticed = Vec::new();
    let mut changes = 0;
    for vector in jobs() {
        let mut differs = |what: &str, vector: &Vector| {
            changes += 1;
            if run::run(vector).is_ok() {
                unnoticed.push(format!("{}: {what}", vector.name));
            }
        };
        for (number, last) in vector.cases[0].finally.iter().enumerate() {
            for (what, case) in falsified(last) {
                let mut vector = vector.clone();
                vector.cases[0].finally[number] = case;
                differs(&format!("{what} of {}", last.open), &vector);
            }
        }
        for number in 0..vector.cases[0].then.len() {
            let mut vector = vector.clone();
            // A job that no rule forbids, if one did; one that a rule forbids, if none did.
            if let Some(rules) = vector.cases[0].then[number].refused_mut() {
                *rules = if rules.is_empty() { vec!["CHN-16".into()] } else { vec![] };
                differs("a refusal", &vector);
            }
        }
    }
    println!("{changes} things that {} vectors say", jobs().len());
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}
