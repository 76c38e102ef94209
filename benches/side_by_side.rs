//! Ours beside the raw file: the same requests, in turns, in one run; medians, ratios, barriers and bytes.
//!
//! `cargo bench --bench side_by_side -- [--quick] [--direct] [--only=WORD] [DIRECTORY]`, where `WORD` is part of the
//! names of the rows to run.

use lvd::chain::{Chain, ChainOptions, GivenParents};
use lvd::format::{Identity, Parent, ParentFormat};
use lvd::jobs::{Job, Merge, Stream};
use lvd::storage::{Create, FileId, FileOptions, FileStorage, LockMode, OsHost, Storage};
use lvd::{BlockDevice, CreateOptions, Image, OpenOptions, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts what passes through a storage.
#[derive(Debug)]
struct Counting {
    inner: FileStorage,
    barriers: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl Counting {
    fn open(path: &Path, options: &FileOptions) -> Arc<Counting> {
        let inner = FileStorage::open(path, options).expect("the bench's own file opens");
        Arc::new(Counting { inner, barriers: AtomicU64::new(0), read: AtomicU64::new(0), written: AtomicU64::new(0) })
    }

    fn counts(&self) -> [u64; 3] {
        [&self.barriers, &self.written, &self.read].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Storage for Counting {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn size(&self) -> Result<u64> {
        self.inner.size()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.inner.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.inner.write_at(data, offset)
    }
    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        self.written.fetch_add(pieces.iter().map(|(_, data)| data.len() as u64).sum(), Ordering::Relaxed);
        self.inner.write_batch(pieces)
    }
    fn sync(&self) -> Result<()> {
        self.barriers.fetch_add(1, Ordering::Relaxed);
        self.inner.sync()
    }
    fn sync_directory(&self) -> Result<()> {
        self.inner.sync_directory()
    }
    fn set_size(&self, size: u64) -> Result<()> {
        self.inner.set_size(size)
    }
    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.inner.punch(range)
    }
    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.inner.write_zeroes(range)
    }
    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.inner.next_data(range)
    }
    fn lock(&self, mode: LockMode) -> Result<()> {
        self.inner.lock(mode)
    }
    fn id(&self) -> Option<FileId> {
        self.inner.id()
    }
}

/// A repeatable sequence of offsets.
struct Offsets(u64);

impl Offsets {
    fn next(&mut self, blocks: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % blocks
    }
}

struct Bench {
    directory: PathBuf,
    rounds: usize,
    requests: u64,
    disk: u64,
    direct: bool,
    only: String,
}

/// What one run did.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    barriers: u64,
    written: u64,
    parent_read: u64,
}

/// A workload of single requests.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    write: bool,
    size: usize,
    flush_every: u64,
    threads: u64,
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
            image.set_below(Some(Arc::new(lvd::chain::RawDevice::new(parent.clone(), false).expect("a raw parent"))));
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
        let device = lvd::chain::RawDevice::new(file.clone(), true).expect("a raw device");
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
                scope.spawn(move || {
                    let mut offsets = Offsets(thread + 1);
                    let mut buffer = aligned(load.size);
                    for request in 1..=self.requests / load.threads {
                        let at = offsets.next(size / load.size.max(4096) as u64) * load.size.max(4096) as u64;
                        match load.write {
                            true => device.write_at(buffer.bytes(), at).expect("a write"),
                            false => device.read_at(buffer.bytes_mut(), at).expect("a read"),
                        }
                        if load.flush_every > 0 && request % load.flush_every == 0 {
                            device.flush().expect("a flush");
                        }
                    }
                });
            }
        });
        if load.flush_every == 0 && load.write {
            device.flush().expect("a flush");
        }
        self.requests as f64 / start.elapsed().as_secs_f64()
    }

    fn compare(&self, target: Target, load: Load) {
        if !load.name.contains(&self.only) {
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

    /// A job between files at rest, beside a copy of the same bytes with a barrier at its end.
    fn job(&self, name: &'static str, job: fn(&Bench) -> Duration) {
        if !name.contains(&self.only) {
            return;
        }
        let mut pairs = Vec::new();
        for _ in 0..self.rounds {
            let ours = job(self);
            let source = self.raw("source.raw", self.disk, true);
            let target = self.raw("copy.raw", self.disk, false);
            let start = Instant::now();
            let mut buffer = aligned(1 << 20);
            for at in (0..self.disk).step_by(1 << 20) {
                source.inner.read_at(buffer.bytes_mut(), at).expect("a read");
                target.inner.write_at(buffer.bytes(), at).expect("a write");
            }
            target.inner.sync().expect("a barrier");
            pairs.push((ours.as_secs_f64(), start.elapsed().as_secs_f64()));
        }
        let rate = |seconds: f64| self.disk as f64 / seconds / (1 << 20) as f64;
        let ours = rate(median(pairs.iter().map(|pair| pair.0).collect()));
        let copy = rate(median(pairs.iter().map(|pair| pair.1).collect()));
        let ratio = median(pairs.iter().map(|pair| pair.1 / pair.0).collect());
        println!("{name:<34} {ours:>10.0} {copy:>9.0} {ratio:>6.2}");
    }

    /// A top over a full base, both LVD; the top holds all (`merge`) or nothing (`stream`).
    fn chain(&self, top_full: bool) -> Chain {
        let host: Arc<OsHost> = Arc::new(OsHost::default());
        let make = |name: &str, link: Option<Parent>, full: bool| {
            let path = self.path(name);
            let _ = std::fs::remove_file(&path);
            let file = Arc::new(FileStorage::open(&path, &self.options(Create::New)).expect("a file"));
            let options = CreateOptions { virtual_size: self.disk, parent: link, ..CreateOptions::default() };
            Image::create(&*file, &*host, &options).expect("an image");
            let open = OpenOptions { write: true, ..OpenOptions::default() };
            let image = Image::open(file.clone(), host.clone(), &open).expect("opens");
            if full {
                fill(self.disk, |data, at| image.write_at(data, at));
            }
            image.close().expect("closes");
            (file, Identity { uuid: image.uuid(), epoch: image.epoch() })
        };
        let (base, identity) = make("base.lvd", None, true);
        let link = Parent {
            identity: Some(identity),
            format: ParentFormat::Lvd,
            visible_length: self.disk,
            hint: "base.lvd".into(),
        };
        let (top, _) = make("top.lvd", Some(link), top_full);
        let options = ChainOptions { write: true, write_also: Some(1), ..ChainOptions::default() };
        Chain::open(top, host, &GivenParents::new(vec![base as Arc<dyn Storage>]), &options).expect("a chain")
    }
}

fn stream(bench: &Bench) -> Duration {
    let chain = bench.chain(false);
    timed(Job::new(Stream::new(&chain, None).expect("a job"), chain.host().clone()))
}

fn merge(bench: &Bench) -> Duration {
    let chain = bench.chain(true);
    timed(Job::new(Merge::new(&chain, 0, 1, false).expect("a job"), chain.host().clone()))
}

fn timed(job: Job) -> Duration {
    let start = Instant::now();
    while !job.step(8 << 20).expect("a step").finished {}
    start.elapsed()
}

/// Aligned memory, so that direct I/O is not copied.
struct Memory {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

fn aligned(length: usize) -> Memory {
    let bytes = vec![0x5a; length + 4096];
    let start = bytes.as_ptr().align_offset(4096);
    Memory { bytes, start, length }
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..][..self.length]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.length]
    }
}

fn fill(size: u64, write: impl Fn(&[u8], u64) -> Result<()>) {
    let memory = aligned(1 << 20);
    for at in (0..size).step_by(1 << 20) {
        let length = (size - at).min(1 << 20) as usize;
        write(&memory.bytes()[..length], at).expect("space for the bench");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
        rounds: if quick { 1 } else { 7 },
        requests: if quick { 1024 } else { 16384 },
        disk: if quick { 16 << 20 } else { 256 << 20 },
        direct: flag("--direct"),
        only: arguments.iter().find_map(|argument| argument.strip_prefix("--only=")).unwrap_or_default().to_owned(),
    };
    let how = if bench.direct { "direct" } else { "through the page cache" };
    println!("{} rounds in turn, medians, {how}", bench.rounds);
    println!(
        "{:<34} {:>10} {:>9} {:>6} {:>9} {:>9} {:>10} {:>10}",
        "random requests", "ours/s", "raw/s", "ratio", "barriers", "raw", "KiB/write", "KiB parent"
    );
    let load = |name, write, size, flush_every, threads| Load { name, write, size, flush_every, threads };
    bench.compare(Target::Complete, load("read 4K, complete", false, 4096, 0, 1));
    bench.compare(Target::Present, load("read 4K, overlay, present", false, 4096, 0, 1));
    bench.compare(Target::Absent, load("read 4K, overlay, absent", false, 4096, 0, 1));
    bench.compare(Target::Complete, load("overwrite 4K, complete", true, 4096, 32, 1));
    bench.compare(Target::Present, load("overwrite 4K, overlay", true, 4096, 32, 1));
    bench.compare(Target::Absent, load("allocate 4K, overlay", true, 4096, 32, 1));
    bench.compare(Target::Absent, load("allocate 4K, overlay, 16 threads", true, 4096, 32, 16));
    bench.compare(Target::Absent, load("allocate 512 bytes, overlay", true, 512, 32, 1));
    bench.compare(Target::Huge, load("allocate 4K in 1 TiB, no flush", true, 4096, 0, 1));
    bench.compare(Target::Huge, load("allocate 4K in 1 TiB", true, 4096, 32, 1));
    println!("\n{:<34} {:>10} {:>9} {:>6}", "jobs", "MiB/s", "copy", "ratio");
    bench.job("stream", stream);
    bench.job("merge", merge);
}
