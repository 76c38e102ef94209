//! Guests and jobs of one live disk, in orders of their steps that a seed chooses.
//!
//! ```sh
//! RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test --test interleavings
//! ```
//!
//! Every lock and atomic of the library is then shuttle's (`src/sync.rs`), and each use of one a point where another
//! thread may go on. `LVD_INTERLEAVINGS=N` runs every story N times with either scheduler (200). A failing run prints its
//! schedule; `LVD_REPLAY=SCHEDULE` with the test's name runs exactly that again. `LVD_INTERLEAVINGS_SEED=S` chooses other
//! orders. `LVD_MISTAKE=NAME` looks for one planted mistake alone.
#![cfg(shuttle)]

mod history;
mod mistakes;
#[path = "../records/mod.rs"]
mod records;
mod rig;
mod stories;

use records::record;
use serde_json::json;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, MaxSteps, Runner};
use std::time::Instant;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn config() -> Config {
    let mut config = Config::new();
    // A story takes a few thousand steps; what goes on for ever is found sooner.
    config.max_steps = MaxSteps::FailAfter(200_000);
    // Stacks hold pages of bitmaps.
    config.stack_size = 1 << 18;
    config
}

/// Runs `story` under both schedulers: one switches often, the other seldom and at unlikely moments.
fn explore(name: &str, story: fn()) {
    if let Ok(schedule) = std::env::var("LVD_REPLAY") {
        Runner::new(ReplayScheduler::new_from_encoded(&schedule), config()).run(story);
    } else {
        let (times, start) = (number("LVD_INTERLEAVINGS", 200), Instant::now());
        run(story, times as usize, config());
        let figures = json!({ "name": name, "runs": 2 * times, "seconds": start.elapsed().as_secs_f64() });
        record(&format!("story-{name}"), &figures);
    }
}

fn run(story: fn(), times: usize, config: Config) {
    let seed = number("LVD_INTERLEAVINGS_SEED", 1);
    Runner::new(RandomScheduler::new_from_seed(seed, times), config.clone()).run(story);
    Runner::new(PctScheduler::new_from_seed(seed, 4, times), config).run(story);
}
