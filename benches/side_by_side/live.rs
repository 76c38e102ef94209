//! A mirror under writers that write as fast as they can.

use crate::Bench;
use crate::files::{aligned, fill, median};
use crate::requests::Offsets;
use lvd::chain::{Chain, ChainOptions, NoParents};
use lvd::live::Disk;
use lvd::storage::{Create, FileStorage, OsHost};
use lvd::{BlockDevice, CreateOptions, Image};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Writing threads.
const WRITERS: u64 = 2;

/// What one mirror did.
struct Sample {
    /// Of the guest's throughput without a mirror, before READY and after it.
    before: f64,
    after: f64,
    /// Seconds.
    ready: f64,
    /// MiB.
    lag: f64,
    /// Milliseconds: the longest of the guest's writes while the pivot went on, and the pivot itself, which makes the
    /// target durable before it stops the guest.
    held: f64,
    pivot: f64,
}

/// What the writing threads tell of.
#[derive(Default)]
struct Watch {
    stop: AtomicBool,
    written: AtomicU64,
    /// Nanoseconds of the longest write since this was last set to zero.
    longest: AtomicU64,
}

impl Bench {
    /// The row.
    pub(crate) fn live(&self) {
        let name = "mirror under writers";
        if !self.wanted(name) {
            return;
        }
        let titles = ["kept till READY", "then", "READY s", "lag MiB", "held ms", "pivot ms"];
        print!("\n{:<30}", "live");
        titles.iter().for_each(|title| print!(" {title:>8}"));
        let samples: Vec<Sample> = (0..self.rounds).map(|_| self.mirror()).collect();
        let of = |part: fn(&Sample) -> f64| median(samples.iter().map(part).collect());
        let most = samples.iter().map(|sample| sample.lag).fold(0.0, f64::max);
        print!("\n{name:<30} {:>15.2} {:>8.2} {:>8.2}", of(|s| s.before), of(|s| s.after), of(|s| s.ready));
        println!(" {most:>8.1} {:>8.1} {:>8.1}", of(|s| s.held), of(|s| s.pivot));
    }

    fn chain_of_one(&self, name: &str, copy_mark: bool) -> Chain {
        let path = self.path(name);
        let _ = std::fs::remove_file(&path);
        let file = Arc::new(FileStorage::open(&path, &self.options(Create::New)).expect("a file"));
        let host = Arc::new(OsHost::default());
        let options = CreateOptions { virtual_size: self.disk, copy_mark, ..CreateOptions::default() };
        Image::create(&*file, &*host, &options).expect("an image");
        let options = ChainOptions { write: true, ignore_marks: copy_mark, ..ChainOptions::default() };
        Chain::open(file, host, &NoParents, &options).expect("a chain")
    }

    fn mirror(&self) -> Sample {
        let source = self.chain_of_one("live-source.lvd", false);
        fill(self.disk, |data, at| source.write_at(data, at));
        source.flush().expect("a barrier");
        let disk = Disk::new(source);
        let watch = Watch::default();
        let written = || watch.written.load(Ordering::Relaxed);
        let rate = |begun: (Instant, u64)| (written() - begun.1) as f64 / begun.0.elapsed().as_secs_f64();
        let now = || (Instant::now(), written());
        let alone_for = if self.quick { Duration::from_millis(100) } else { Duration::from_secs(2) };
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (disk, watch) = (&disk, &watch);
                scope.spawn(move || write_until(watch, writer, &**disk, self.disk));
            }
            std::thread::sleep(alone_for / 4);
            let begun = now();
            std::thread::sleep(alone_for);
            let alone = rate(begun);

            let target = self.chain_of_one("live-target.lvd", true);
            let begun = now();
            let mirror = disk.mirror(target).expect("a mirror");
            let mut lag = 0;
            let mut step = || {
                let progress = mirror.step(1 << 20).expect("a step");
                lag = lag.max(progress.lag);
                std::thread::sleep(progress.wait.unwrap_or_default());
                progress.ready
            };
            while !step() {}
            let ready = begun.0.elapsed().as_secs_f64();
            let before = rate(begun) / alone;
            let begun = now();
            while begun.0.elapsed() < alone_for {
                step();
            }
            let after = rate(begun) / alone;
            watch.longest.store(0, Ordering::Relaxed);
            let start = Instant::now();
            disk.pivot(&mirror).expect("a pivot");
            let pivot = start.elapsed().as_secs_f64() * 1000.0;
            let held = watch.longest.load(Ordering::Relaxed) as f64 / 1e6;
            watch.stop.store(true, Ordering::Relaxed);
            Sample { before, after, ready, lag: lag as f64 / (1 << 20) as f64, held, pivot }
        })
    }
}

fn write_until(watch: &Watch, writer: u64, disk: &dyn BlockDevice, size: u64) {
    let (mut offsets, buffer) = (Offsets(writer + 1), aligned(4096));
    while !watch.stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        disk.write_at(buffer.bytes(), offsets.next(size / 4096) * 4096).expect("a write");
        watch.longest.fetch_max(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if watch.written.fetch_add(1, Ordering::Relaxed) % 256 == 255 {
            disk.flush().expect("a flush");
        }
    }
}
