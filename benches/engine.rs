//! The engine by itself, in memory and on files: `cargo bench --bench engine`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lvd::chain::{Chain, ChainOptions, GivenParents, RawDevice};
use lvd::format::{Identity, Parent, ParentFormat};
use lvd::jobs::{Job, Merge, Stream};
use lvd::storage::{Create, FileOptions, FileStorage, MemoryStorage, OsHost, Storage};
use lvd::units::Size;
use lvd::{BlockDevice, CreateOptions, Image, OpenOptions};
use std::cell::LazyCell;
use std::hint::black_box;
use std::sync::{Arc, LazyLock};

const BLOCK: u64 = 4096;

/// `--test` asks whether the benches run, not how fast: less is enough.
static TEST: LazyLock<bool> = LazyLock::new(|| std::env::args().any(|argument| argument == "--test"));
static DISK: LazyLock<u64> = LazyLock::new(|| if *TEST { 4 << 20 } else { 64 << 20 });
/// Blocks of the 1 TiB disk that are written.
static SCATTERED: LazyLock<u64> = LazyLock::new(|| if *TEST { 1 << 9 } else { 1 << 16 });

/// Makes storages of one kind.
struct Place {
    kind: &'static str,
    directory: Option<tempfile::TempDir>,
}

impl Place {
    fn all() -> [Place; 2] {
        let directory = tempfile::tempdir().expect("a directory to measure in");
        [Place { kind: "memory", directory: None }, Place { kind: "file", directory: Some(directory) }]
    }

    fn storage(&self, name: &str) -> Arc<dyn Storage> {
        let Some(directory) = &self.directory else { return Arc::new(MemoryStorage::new(name)) };
        let path = directory.path().join(name);
        let _ = std::fs::remove_file(&path);
        let options = FileOptions { write: true, create: Create::New, ..FileOptions::default() };
        Arc::new(FileStorage::open(path, &options).expect("a new file"))
    }

    fn image(&self, name: &str, options: &CreateOptions) -> (Arc<dyn Storage>, Image) {
        let (storage, host) = (self.storage(name), Arc::new(OsHost::default()));
        Image::create(&*storage, &*host, options).expect("an image");
        let image = Image::open(storage.clone(), host, &writable()).expect("opens");
        (storage, image)
    }

    fn bare(&self, full: bool) -> RawDevice {
        let storage = self.storage("bare");
        storage.set_size(*DISK).expect("space");
        let device = RawDevice::new(storage, true).expect("a raw device");
        if full {
            fill(&device);
        }
        device
    }

    /// An overlay that holds nothing, over a raw disk that holds all.
    fn overlay(&self) -> Image {
        let parent = self.storage("parent");
        parent.set_size(*DISK).expect("space");
        let parent = RawDevice::new(parent, true).expect("a raw device");
        fill(&parent);
        let link = Parent { identity: None, format: ParentFormat::Raw, visible_length: *DISK, hint: String::new() };
        let (_, image) = self.image("overlay", &CreateOptions { parent: Some(link), ..sized(*DISK) });
        image.set_below(Some(Arc::new(parent)));
        image
    }

    /// A base that holds all, and a top that holds all or nothing.
    fn chain(&self, top_full: bool) -> Chain {
        let (base, image) = self.image("base", &sized(*DISK));
        fill(&image);
        image.close().expect("closes");
        let identity = Identity { uuid: image.uuid(), epoch: image.epoch() };
        let link =
            Parent { identity: Some(identity), format: ParentFormat::Lvd, visible_length: *DISK, hint: "base".into() };
        let (top, image) = self.image("top", &CreateOptions { parent: Some(link), ..sized(*DISK) });
        if top_full {
            fill(&image);
            image.close().expect("closes");
        }
        let options = ChainOptions { write: true, write_also: Some(1), ..ChainOptions::default() };
        Chain::open(top, Arc::new(OsHost::default()), &GivenParents::new([base]), &options).expect("a chain")
    }
}

fn sized(virtual_size: u64) -> CreateOptions {
    CreateOptions { virtual_size, ..CreateOptions::default() }
}

fn writable() -> OpenOptions {
    OpenOptions { write: true, ..OpenOptions::default() }
}

fn fill(device: &dyn BlockDevice) {
    let data = vec![0x5a; 1 << 20];
    (0..*DISK).step_by(data.len()).for_each(|at| device.write_at(&data, at).expect("space"));
}

/// A repeatable sequence of blocks.
fn scattered(blocks: u64) -> impl FnMut() -> u64 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % blocks * BLOCK
    }
}

fn huge(c: &mut Criterion) {
    const BLOCKS: u64 = (1 << 40) / BLOCK;
    let mut group = c.benchmark_group(format!("1 TiB, {} blocks scattered", *SCATTERED));
    group.sample_size(10);
    for place in Place::all() {
        // Made when the first bench that is not filtered out asks for it.
        let storage = LazyCell::new(|| {
            let (storage, image) = place.image("huge", &CreateOptions { allocation: true, ..sized(1 << 40) });
            let mut next = scattered(BLOCKS);
            (0..*SCATTERED).for_each(|_| image.write_at(&[7; BLOCK as usize], next()).expect("space"));
            image.close().expect("closes");
            storage
        });
        let host = Arc::new(OsHost::default());
        let open = || Image::open(storage.clone(), host.clone(), &OpenOptions::default()).expect("opens");
        group.bench_function(format!("open/{}", place.kind), |b| b.iter(open));
        group.bench_function(format!("read 4 KiB/{}", place.kind), |b| {
            let (image, mut buffer) = (open(), [0; BLOCK as usize]);
            let (mut next, mut left) = (scattered(BLOCKS), *SCATTERED);
            b.iter(|| {
                if left == 0 {
                    (next, left) = (scattered(BLOCKS), *SCATTERED);
                }
                left -= 1;
                image.read_at(black_box(&mut buffer), next()).expect("a read");
            })
        });
        group.bench_function(format!("map/{}", place.kind), |b| b.iter(|| extents(&open())));
    }
}

fn extents(image: &Image) -> u64 {
    let (mut at, mut count) = (0, 0);
    while at < image.size() {
        at = image.extent(at, image.size()).expect("an extent").range.end;
        count += 1;
    }
    count
}

/// What single requests go to: a name, and how it is made once a bench asks for it.
type Target = (&'static str, fn(&Place) -> Box<dyn BlockDevice>);

const BARE: Target = ("bare", |place| Box::new(place.bare(true)));
const COMPLETE: Target = ("complete", |place| {
    let (_, image) = place.image("complete", &sized(*DISK));
    fill(&image);
    Box::new(image)
});
const ABSENT: Target = ("overlay, absent", |place| Box::new(place.overlay()));
const PRESENT: Target = ("overlay, present", |place| {
    let image = place.overlay();
    fill(&image);
    Box::new(image)
});

fn random_reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("4 KiB random read");
    group.throughput(Throughput::Bytes(BLOCK));
    for place in Place::all() {
        for (name, make) in [BARE, COMPLETE, ABSENT, PRESENT] {
            group.bench_function(format!("{name}/{}", place.kind), |b| {
                let device = make(&place);
                let (mut next, mut buffer) = (scattered(*DISK / BLOCK), [0; BLOCK as usize]);
                b.iter(|| device.read_at(black_box(&mut buffer), next()).expect("a read"))
            });
        }
    }
}

fn overwrites(c: &mut Criterion) {
    let mut group = c.benchmark_group("4 KiB random overwrite, no flush");
    group.throughput(Throughput::Bytes(BLOCK));
    for place in Place::all() {
        for (name, make) in [BARE, COMPLETE, PRESENT] {
            group.bench_function(format!("{name}/{}", place.kind), |b| {
                let device = make(&place);
                let mut next = scattered(*DISK / BLOCK);
                b.iter(|| device.write_at(black_box(&[7; BLOCK as usize]), next()).expect("a write"))
            });
        }
    }
}

fn random_writes(c: &mut Criterion) {
    let mut group = c.benchmark_group("256 allocating writes of 4 KiB, a flush after 32");
    group.sample_size(10);
    for place in Place::all() {
        let run = |device: &dyn BlockDevice| {
            let mut next = scattered(*DISK / BLOCK);
            for request in 1..=256 {
                device.write_at(&[7; BLOCK as usize], next()).expect("a write");
                if request % 32 == 0 {
                    device.flush().expect("a flush");
                }
            }
        };
        let setup = BatchSize::PerIteration;
        group.bench_function(format!("bare/{}", place.kind), |b| {
            b.iter_batched(|| place.bare(false), |device| run(&device), setup)
        });
        group.bench_function(format!("overlay/{}", place.kind), |b| {
            b.iter_batched(|| place.overlay(), |device| run(&device), setup)
        });
    }
}

fn jobs(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("job, {}", Size(*DISK)));
    group.sample_size(10).throughput(Throughput::Bytes(*DISK));
    let finish = |job: Job| while !job.step(8 << 20).expect("a step").finished {};
    for place in Place::all() {
        group.bench_function(format!("stream/{}", place.kind), |b| {
            let job = |chain: Chain| finish(Job::new(Stream::new(&chain, None).expect("a job"), chain.host().clone()));
            b.iter_batched(|| place.chain(false), job, BatchSize::PerIteration)
        });
        group.bench_function(format!("merge/{}", place.kind), |b| {
            let job = |chain: Chain| {
                finish(Job::new(Merge::new(&chain, 0, 1, false).expect("a job"), chain.host().clone()));
            };
            b.iter_batched(|| place.chain(true), job, BatchSize::PerIteration)
        });
    }
}

criterion_group!(benches, huge, random_reads, overwrites, random_writes, jobs);
criterion_main!(benches);
