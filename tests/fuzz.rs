//! What the fuzz targets do, from fixed seeds.

mod records;

use lvd::switch::{Step, without_step};
use lvd::testing::choices::Random;
use lvd::testing::fuzz::{Course, Labour, Life, Links, Pair, Story};
use records::record;
use serde_json::json;
use std::time::Instant;

fn input(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let length = 100 + random.below(900);
    (0..length).map(|_| random.below(256) as u8).collect()
}

#[test]
fn chains_at_work_agree_with_naive_disks() {
    for seed in 0..600 {
        let story = Story::of(&input(seed)).expect("long enough");
        if std::panic::catch_unwind(|| story.tell()).is_err() {
            panic!("seed {seed}: {story:?}");
        }
    }
}

/// Whatever `play` does with inputs from `seeds` holds.
fn holds(seeds: u64, play: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    for seed in 0..seeds {
        if std::panic::catch_unwind(|| play(&input(seed))).is_err() {
            panic!("seed {seed}");
        }
    }
}

#[test]
fn a_judge_of_the_specification_and_the_library_agree_on_headers() {
    holds(20_000, lvd::testing::hostile::header::play);
}

#[test]
fn pages_of_bitmaps_are_their_bits() {
    holds(300, |input| Course::of(input).expect("long enough").run());
}

#[test]
fn what_opens_is_what_links_and_marks_allow() {
    holds(3000, |input| Links::of(input).expect("long enough").follow());
}

#[test]
fn a_sidecar_tells_of_every_change_or_says_that_it_cannot() {
    holds(2000, |input| Pair::of(input).expect("long enough").live());
}

/// The oracle was wrong: it held a bitmap that was rolled back, with its sidecar, against what it had told later.
#[test]
fn a_bitmap_that_is_rolled_back_tells_up_to_the_time_of_the_copy() {
    let added_kept_enabled_written_rolled_back = b"\xa6\x95\xc1\xff\xc6\x8d\x83\x22\x83\x53\x9e\xfc\x22\x6d\x4a\xeb\
        \x36\x2d\x1b\xd0\x3e\x08\x11\x07\xaf\xe7\xec\xa4\x75\x65\x79\x6e\x57\x68\xf9\xdd\x62\x1f\x64\x61\x69\x6c\
        \x79\x08\x9c\0\0\0\x44\x39\xd3\x32\xce\x21";
    Pair::of(added_kept_enabled_written_rolled_back).expect("long enough").live();
}

#[test]
fn jobs_fail_and_are_begun_again() {
    holds(2000, |input| Labour::of(input).expect("long enough").toil());
}

#[test]
fn qed_images_are_read_as_they_are() {
    holds(1000, lvd::testing::qed::play);
}

#[test]
fn clients_of_a_control_socket_say_anything() {
    holds(2000, lvd::testing::control::play);
}

#[test]
fn clients_of_an_nbd_server_say_anything() {
    holds(2000, lvd::testing::nbd::play);
}

#[test]
fn servers_of_an_nbd_client_say_anything() {
    holds(2000, lvd::testing::nbd_client::play);
}

/// The first seed below `end` whose life breaks a law, and how. A panic counts.
fn first_broken(end: u64) -> Option<(u64, String)> {
    (0..end).find_map(|seed| {
        let lived = std::panic::catch_unwind(|| Life::of(&input(seed)).live());
        let broken = lived.map_or(Some("a panic".into()), |lived| lived.findings.first().map(ToString::to_string));
        broken.map(|broken| (seed, broken))
    })
}

#[test]
fn no_life_breaks_a_law() {
    let broken = first_broken(1500);
    assert!(broken.is_none(), "seed {}: {}", broken.clone().unwrap_or_default().0, broken.unwrap_or_default().1);
}

/// Disks of all shapes, each used, crashed and used again some twenty times. `LVD_LIVES` says how many.
#[test]
fn no_long_life_breaks_a_law() {
    let start = Instant::now();
    let lives: u64 = std::env::var("LVD_LIVES").map_or(12, |text| text.parse().expect("a number of lives"));
    let (mut events, mut crashes, mut deaths) = (0, 0, 0);
    for seed in 0..lives {
        let life = Life::long(seed);
        match std::panic::catch_unwind(|| life.live()) {
            Ok(lived) if lived.findings.is_empty() => {
                (events, crashes, deaths) = (events + lived.events, crashes + lived.crashes, deaths + lived.deaths);
            }
            _ => panic!("seed {seed}: {:?}", life.smallest().live().findings),
        }
    }
    println!("{lives} lives, {events} events, {crashes} losses of power, {deaths} deaths");
    assert!(crashes > 10 * lives && deaths > lives);
    record(
        "lives",
        &json!({
            "lives": lives, "events": events, "crashes": crashes, "deaths": deaths, "seconds": start.elapsed().as_secs_f64(),
        }),
    );
}

/// A write, a flush, and a loss of power: a bit is there without its data.
#[test]
fn of_a_long_life_little_is_left_that_breaks_a_law() {
    without_step(Step::DataBarrier, || {
        let broken = (0..20).map(Life::long).find(|life| !life.live().findings.is_empty()).expect("the step is needed");
        let small = broken.smallest();
        assert!(broken.length() > 100 && small.length() <= 3, "{small:?}");
    });
}

/// The target is no stronger than what it finds: ordering steps that are left out, each in some life.
#[test]
fn lives_find_what_is_left_out() {
    for step in [
        Step::DataBarrier,
        Step::BitsBarrier,
        Step::FlushPresent,
        Step::FillBlock,
        Step::ZerosWritten,
        Step::SessionSync,
        Step::EpochAtStart,
        Step::ZeroGrown,
        Step::AllPresent,
        Step::FlushBeforeRelink,
    ] {
        assert!(without_step(step, || first_broken(4000)).is_some(), "nothing breaks without {step}");
    }
}
