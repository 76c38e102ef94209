//! The engine by itself, in memory and on files: `cargo bench --bench engine`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lvd::chain::{Chain, ChainOptions, GivenParents, RawDevice};
use lvd::format::{Identity, Parent, ParentFormat};
use lvd::jobs::{Job, Merge, Stream};
use lvd::storage::{Create, FileOptions, FileStorage, MemoryStorage, OsHost, Storage};
use lvd::{BlockDevice, CreateOptions, Image, OpenOptions};
use std::hint::black_box;
use std::sync::Arc;

const DISK: u64 = 64 << 20;
const BLOCK: u64 = 4096;

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
        storage.set_size(DISK).expect("space");
        let device = RawDevice::new(storage, true).expect("a raw device");
        if full {
            fill(&device);
        }
        device
    }

    /// An overlay that holds nothing, over a raw disk that holds all.
    fn overlay(&self) -> Image {
        let parent = self.storage("parent");
        parent.set_size(DISK).expect("space");
        let parent = RawDevice::new(parent, true).expect("a raw device");
        fill(&parent);
        let link = Parent { identity: None, format: ParentFormat::Raw, visible_length: DISK, hint: String::new() };
        let (_, image) = self.image("overlay", &CreateOptions { parent: Some(link), ..sized(DISK) });
        image.set_below(Some(Arc::new(parent)));
        image
    }

    /// A base that holds all, and a top that holds all or nothing.
    fn chain(&self, top_full: bool) -> Chain {
        let (base, image) = self.image("base", &sized(DISK));
        fill(&image);
        image.close().expect("closes");
        let identity = Identity { uuid: image.uuid(), epoch: image.epoch() };
        let link =
            Parent { identity: Some(identity), format: ParentFormat::Lvd, visible_length: DISK, hint: "base".into() };
        let (top, image) = self.image("top", &CreateOptions { parent: Some(link), ..sized(DISK) });
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
    (0..DISK).step_by(data.len()).for_each(|at| device.write_at(&data, at).expect("space"));
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
    let mut group = c.benchmark_group("1 TiB, 65536 blocks scattered");
    group.sample_size(10);
    for place in Place::all() {
        let (storage, image) = place.image("huge", &CreateOptions { allocation: true, ..sized(1 << 40) });
        let mut next = scattered((1 << 40) / BLOCK);
        (0..65536).for_each(|_| image.write_at(&[7; BLOCK as usize], next()).expect("space"));
        image.close().expect("closes");
        let host = Arc::new(OsHost::default());
        let open = || Image::open(storage.clone(), host.clone(), &OpenOptions::default()).expect("opens");
        group.bench_function(format!("open/{}", place.kind), |b| b.iter(open));
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

fn random_reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("4 KiB random read");
    group.throughput(Throughput::Bytes(BLOCK));
    for place in Place::all() {
        let (_, complete) = place.image("complete", &sized(DISK));
        fill(&complete);
        let present = place.overlay();
        let devices: [(&str, Box<dyn BlockDevice>); 4] = [
            ("bare", Box::new(place.bare(true))),
            ("complete", Box::new(complete)),
            ("overlay, absent", Box::new(place_absent(&place))),
            ("overlay, present", {
                fill(&present);
                Box::new(present)
            }),
        ];
        for (name, device) in devices {
            let (mut next, mut buffer) = (scattered(DISK / BLOCK), [0; BLOCK as usize]);
            group.bench_function(format!("{name}/{}", place.kind), |b| {
                b.iter(|| device.read_at(black_box(&mut buffer), next()).expect("a read"))
            });
        }
    }
}

/// An overlay of its own place, so that its files are not those of the one that is filled.
fn place_absent(place: &Place) -> Image {
    let directory = place.directory.as_ref().map(|_| tempfile::tempdir().expect("a directory to measure in"));
    // The files stay open; their names may go.
    Place { kind: place.kind, directory }.overlay()
}

fn random_writes(c: &mut Criterion) {
    let mut group = c.benchmark_group("256 allocating writes of 4 KiB, a flush after 32");
    group.sample_size(10);
    for place in Place::all() {
        let run = |device: &dyn BlockDevice| {
            let mut next = scattered(DISK / BLOCK);
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
    let mut group = c.benchmark_group("job, 64 MiB");
    group.sample_size(10).throughput(Throughput::Bytes(DISK));
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

criterion_group!(benches, huge, random_reads, random_writes, jobs);
criterion_main!(benches);
