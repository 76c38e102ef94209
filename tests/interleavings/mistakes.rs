//! Mistakes that others have made, made here: the stories notice each of them.
//!
//! The mistakes in the order of writes and barriers are those of `tests/crash.rs`.

use crate::records::record;
use crate::stories::ALL;
use crate::{config, run};
use lvd::switch::{Mistake, with_mistake};
use serde_json::json;
use shuttle::FailurePersistence;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

/// The story that notices `mistake`, if any of them does, and in how many runs at most.
fn noticed(mistake: Mistake) -> Option<(&'static str, usize)> {
    [20, 100, 500, 2000]
        .into_iter()
        .find_map(|times| ALL.iter().find(|(_, story)| notices(*story, times, mistake)).map(|(name, _)| (*name, times)))
}

fn notices(story: fn(), times: usize, mistake: Mistake) -> bool {
    let mut config = config();
    config.failure_persistence = FailurePersistence::None;
    // Shuttle runs all threads of a story on this one.
    with_mistake(mistake, || catch_unwind(AssertUnwindSafe(|| run(story, times, config)))).is_err()
}

#[test]
fn every_mistake_is_noticed() {
    let only = std::env::var("LVD_MISTAKE").ok();
    let wanted = |mistake: &&Mistake| only.as_ref().is_none_or(|only| *only == format!("{mistake:?}"));
    let mistakes: Vec<Mistake> = Mistake::ALL.iter().filter(wanted).copied().collect();
    let (left, rows) = (Mutex::new(mistakes.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(mistake) = left.lock().unwrap().next() else { return };
                    let start = Instant::now();
                    let story = noticed(*mistake);
                    rows.lock().unwrap().push((*mistake, story, start.elapsed()));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort();
    for (mistake, story, time) in &rows {
        let (story, times) = story.unwrap_or(("NOT NOTICED", 0));
        println!("{:22} {story:30} {times:4} {time:.1?}", format!("{mistake:?}"));
    }
    let figures = rows.iter().map(|(mistake, story, _)| {
        json!({ "name": format!("{mistake:?}"), "text": mistake.what(), "story": story.map(|(name, _)| name) })
    });
    record("mistakes", &json!({ "rows": figures.collect::<Vec<_>>() }));
    assert!(rows.len() == mistakes.len() && !rows.is_empty());
    let missed: Vec<&str> = rows.iter().filter(|row| row.1.is_none()).map(|row| row.0.what()).collect();
    assert!(missed.is_empty(), "nobody notices that {missed:#?}");
}
