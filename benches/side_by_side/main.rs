//! Ours beside the raw file and a bare copy: the same work, in turns, in one run; medians, ratios, barriers and bytes.
//!
//! `cargo bench --bench side_by_side -- [--quick] [--direct] [--only=WORD] [DIRECTORY]`, where `WORD` is part of the
//! names of the rows to run. Run it on an idle machine.

mod bitmaps;
mod files;
mod jobs;
mod live;
mod remote;
mod requests;
mod scattered;

use files::{Counting, fill};
use lvd::storage::{Create, FileOptions, Storage};
use std::path::PathBuf;
use std::sync::Arc;

struct Bench {
    directory: PathBuf,
    quick: bool,
    rounds: usize,
    requests: u64,
    disk: u64,
    direct: bool,
    only: String,
}

impl Bench {
    fn wanted(&self, row: &str) -> bool {
        row.contains(&self.only)
    }

    fn options(&self, create: Create) -> FileOptions {
        FileOptions { write: true, create, direct: self.direct, lock: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn raw(&self, name: &str, size: u64, full: bool) -> Arc<Counting> {
        let path = self.path(name);
        let _ = std::fs::remove_file(&path);
        let file = Counting::open(&path, &self.options(Create::New));
        file.set_size(size).expect("space");
        if full {
            fill(size, |data, at| file.inner.write_at(data, at));
            file.inner.sync().expect("a barrier");
        }
        file
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let directory = arguments.iter().find(|argument| !argument.starts_with('-'));
    let parent = directory.map_or_else(std::env::temp_dir, PathBuf::from);
    let place = tempfile::tempdir_in(parent).expect("a directory to measure in");
    let quick = flag("--quick");
    let bench = Bench {
        directory: place.path().to_owned(),
        quick,
        rounds: if quick { 1 } else { 7 },
        requests: if quick { 1024 } else { 16384 },
        disk: if quick { 16 << 20 } else { 256 << 20 },
        direct: flag("--direct"),
        only: arguments.iter().find_map(|argument| argument.strip_prefix("--only=")).unwrap_or_default().to_owned(),
    };
    let how = if bench.direct { "direct" } else { "through the page cache" };
    println!("{} rounds in turn, medians, {how}", bench.rounds);
    bench.requests();
    bench.jobs();
    bench.scattered();
    bench.live();
    bench.bitmaps();
    bench.remote();
}
