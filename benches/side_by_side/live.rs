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
    ready: f64,
    lag: f64,
    pivot: f64,
}

impl Bench {
    /// The row.
    pub(crate) fn live(&self) {
        let name = "mirror under writers";
        if !self.wanted(name) {
            return;
        }
        let title = ["kept till READY", "then", "READY s", "lag MiB", "pivot ms"];
        println!("\n{:<30} {:>15} {:>8} {:>8} {:>8} {:>8}", "live", title[0], title[1], title[2], title[3], title[4]);
        let samples: Vec<Sample> = (0..self.rounds).map(|_| self.mirror()).collect();
        let of = |part: fn(&Sample) -> f64| median(samples.iter().map(part).collect());
        let most = samples.iter().map(|sample| sample.lag).fold(0.0, f64::max);
        let (before, after, ready, pivot) = (of(|s| s.before), of(|s| s.after), of(|s| s.ready), of(|s| s.pivot));
        println!("{name:<30} {before:>15.2} {after:>8.2} {ready:>8.2} {most:>8.1} {pivot:>8.1}");
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
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let rate = |begun: (Instant, u64)| {
            (written.load(Ordering::Relaxed) - begun.1) as f64 / begun.0.elapsed().as_secs_f64()
        };
        let now = || (Instant::now(), written.load(Ordering::Relaxed));
        let alone_for = if self.quick { Duration::from_millis(100) } else { Duration::from_secs(2) };
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (disk, stop, written) = (&disk, &stop, &written);
                scope.spawn(move || write_until(stop, writer, &**disk, self.disk, written));
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
            let start = Instant::now();
            disk.pivot(&mirror).expect("a pivot");
            let pivot = start.elapsed().as_secs_f64() * 1000.0;
            stop.store(true, Ordering::Relaxed);
            Sample { before, after, ready, lag: lag as f64 / (1 << 20) as f64, pivot }
        })
    }
}

fn write_until(stop: &AtomicBool, writer: u64, disk: &dyn BlockDevice, size: u64, written: &AtomicU64) {
    let (mut offsets, buffer) = (Offsets(writer + 1), aligned(4096));
    while !stop.load(Ordering::Relaxed) {
        disk.write_at(buffer.bytes(), offsets.next(size / 4096) * 4096).expect("a write");
        if written.fetch_add(1, Ordering::Relaxed) % 256 == 255 {
            disk.flush().expect("a flush");
        }
    }
}
