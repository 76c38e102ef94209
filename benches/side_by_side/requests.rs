//! Single requests and batches of them, to images and to bare files.

use crate::Bench;
use crate::files::{Counting, Memory, aligned, fill, median};
use lvd::chain::RawDevice;
use lvd::format::{Parent, ParentFormat};
use lvd::storage::{Create, OsHost};
use lvd::{BlockDevice, CreateOptions, Image, OpenOptions, Request};
use std::sync::Arc;
use std::time::Instant;

/// A repeatable sequence of offsets.
pub(crate) struct Offsets(pub(crate) u64);

impl Offsets {
    pub(crate) fn next(&mut self, blocks: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % blocks
    }
}

/// What one run did.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    barriers: u64,
    written: u64,
    parent_read: u64,
}

/// A workload of scattered requests.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    write: bool,
    size: usize,
    flush_every: u64,
    threads: u64,
    /// Requests of one thread that are under way together.
    depth: u64,
}

/// What the requests go to.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Complete,
    /// An overlay over a full parent, which holds everything itself already.
    Present,
    /// An overlay over a full parent, which holds nothing yet.
    Absent,
    /// An empty 1 TiB image with an allocation bitmap.
    Huge,
}

impl Bench {
    /// The image to measure, its file and its parent's.
    fn image(&self, target: Target) -> (Image, Arc<Counting>, Option<Arc<Counting>>) {
        let host: Arc<OsHost> = Arc::new(OsHost::default());
        let path = self.path("ours.lvd");
        let _ = std::fs::remove_file(&path);
        let file = Counting::open(&path, &self.options(Create::New));
        let size = if target == Target::Huge { 1 << 40 } else { self.disk };
        let overlay = matches!(target, Target::Present | Target::Absent);
        let parent = overlay.then(|| self.raw("parent.raw", size, true));
        let link = Parent { identity: None, format: ParentFormat::Raw, visible_length: size, hint: String::new() };
        let options = CreateOptions {
            virtual_size: size,
            parent: overlay.then_some(link),
            allocation: target == Target::Huge,
            ..CreateOptions::default()
        };
        Image::create(&*file, &*host, &options).expect("an image");
        let image =
            Image::open(file.clone(), host, &OpenOptions { write: true, ..OpenOptions::default() }).expect("opens");
        if let Some(parent) = &parent {
            image.set_below(Some(Arc::new(RawDevice::new(parent.clone(), false).expect("a raw parent"))));
        }
        if matches!(target, Target::Complete | Target::Present) {
            fill(size, |data, at| image.write_at(data, at));
            image.flush().expect("a barrier");
        }
        (image, file, parent)
    }

    fn ours(&self, target: Target, load: Load) -> Sample {
        let (image, file, parent) = self.image(target);
        let (before, parent_before) = (file.counts(), parent.as_ref().map_or(0, |parent| parent.counts()[2]));
        let rate = self.run(load, image.size(), &image);
        let after = file.counts();
        let parent_read = parent.as_ref().map_or(0, |parent| parent.counts()[2]) - parent_before;
        Sample { rate, barriers: after[0] - before[0], written: after[1] - before[1], parent_read }
    }

    fn bare(&self, target: Target, load: Load) -> Sample {
        let size = if target == Target::Huge { 1 << 40 } else { self.disk };
        // What is read must be there: an absent block is read from a parent that is full.
        let full = matches!(target, Target::Complete | Target::Present) || !load.write;
        let file = self.raw("bare.raw", size, full);
        let device = RawDevice::new(file.clone(), true).expect("a raw device");
        let before = file.counts();
        let rate = self.run(load, size, &device);
        let after = file.counts();
        Sample { rate, barriers: after[0] - before[0], written: after[1] - before[1], parent_read: 0 }
    }

    /// Requests a second.
    fn run(&self, load: Load, size: u64, device: &dyn BlockDevice) -> f64 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..load.threads {
                scope.spawn(move || self.send(load, thread, size, device));
            }
        });
        if load.flush_every == 0 && load.write {
            device.flush().expect("a flush");
        }
        self.requests as f64 / start.elapsed().as_secs_f64()
    }

    fn send(&self, load: Load, thread: u64, size: u64, device: &dyn BlockDevice) {
        let unit = load.size.max(4096) as u64;
        let mut offsets = Offsets(thread + 1);
        let mut buffers: Vec<Memory> = (0..load.depth).map(|_| aligned(load.size)).collect();
        let (mut sent, all) = (0, self.requests / load.threads);
        while sent < all {
            let batch = buffers.iter_mut().take((all - sent) as usize).map(|buffer| {
                let offset = offsets.next(size / unit) * unit;
                match load.write {
                    true => Request::Write { data: buffer.bytes(), offset },
                    false => Request::Read { buffer: buffer.bytes_mut(), offset },
                }
            });
            let mut batch: Vec<Request<'_>> = batch.collect();
            let flushes = |sent: u64| sent.checked_div(load.flush_every).unwrap_or(0);
            let before = flushes(sent);
            sent += batch.len() as u64;
            device.submit(&mut batch).into_iter().for_each(|result| result.expect("a request"));
            if flushes(sent) > before {
                device.flush().expect("a flush");
            }
        }
    }

    fn compare(&self, target: Target, load: Load) {
        if !self.wanted(load.name) {
            return;
        }
        let mut samples = Vec::new();
        for _ in 0..self.rounds {
            samples.push((self.ours(target, load), self.bare(target, load)));
        }
        let ours = median(samples.iter().map(|(ours, _)| ours.rate).collect());
        let bare = median(samples.iter().map(|(_, bare)| bare.rate).collect());
        let ratio = median(samples.iter().map(|(ours, bare)| ours.rate / bare.rate).collect());
        print!("{:<34} {ours:>10.0} {bare:>9.0} {ratio:>6.2}", load.name);
        let (ours, bare) = samples[0];
        if load.write {
            let flushes = self.requests.checked_div(load.flush_every).unwrap_or(1) as f64;
            let per_write = |bytes: u64| bytes as f64 / 1024.0 / self.requests as f64;
            print!(" {:>9.2} {:>9.2}", ours.barriers as f64 / flushes, bare.barriers as f64 / flushes);
            print!(" {:>10.2} {:>10.2}", per_write(ours.written), per_write(ours.parent_read));
        }
        println!();
    }

    /// All rows.
    pub(crate) fn requests(&self) {
        println!(
            "{:<34} {:>10} {:>9} {:>6} {:>9} {:>9} {:>10} {:>10}",
            "random requests", "ours/s", "raw/s", "ratio", "barriers", "raw", "KiB/write", "KiB parent"
        );
        let load = |name, write, size, flush_every, threads| Load { name, write, size, flush_every, threads, depth: 1 };
        let batches = |name, write, size, flush_every| Load { name, write, size, flush_every, threads: 1, depth: 16 };
        self.compare(Target::Complete, load("read 4K, complete", false, 4096, 0, 1));
        self.compare(Target::Present, load("read 4K, overlay, present", false, 4096, 0, 1));
        self.compare(Target::Absent, load("read 4K, overlay, absent", false, 4096, 0, 1));
        self.compare(Target::Complete, load("overwrite 4K, complete", true, 4096, 32, 1));
        self.compare(Target::Present, load("overwrite 4K, overlay", true, 4096, 32, 1));
        self.compare(Target::Absent, load("allocate 4K, overlay", true, 4096, 32, 1));
        self.compare(Target::Absent, load("allocate 4K, overlay, 16 threads", true, 4096, 32, 16));
        self.compare(Target::Absent, load("allocate 512 bytes, overlay", true, 512, 32, 1));
        self.compare(Target::Huge, load("allocate 4K in 1 TiB, no flush", true, 4096, 0, 1));
        self.compare(Target::Huge, load("allocate 4K in 1 TiB", true, 4096, 32, 1));
        self.compare(Target::Complete, batches("read 4K, complete, batches of 16", false, 4096, 0));
        self.compare(Target::Present, batches("overwrite 4K, overlay, batches", true, 4096, 32));
        self.compare(Target::Absent, batches("allocate 4K, overlay, batches", true, 4096, 32));
    }
}
