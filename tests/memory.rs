//! How much memory jobs take while guests keep them busy: counted by the allocator.
#![allow(unsafe_code, reason = "an allocator that counts is one that passes on what it is asked for")]

use lvd::chain::{Chain, ChainOptions, GivenParents};
use lvd::image::{CreateOptions, Image, NewBitmap, OpenOptions};
use lvd::live::{Disk, Pace};
use lvd::storage::{Host, LockMode, MemoryStorage, OsHost, Storage};
use lvd::{BlockDevice, Result};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Counts the bytes that are held, and the most that ever were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Where metadata ends and data begins that nobody keeps.
const KEPT: u64 = 4 << 20;

/// A file whose first bytes are kept; the rest reads as data, and what is written there is forgotten.
#[derive(Debug)]
struct Endless {
    name: &'static str,
    size: u64,
    kept: Mutex<Vec<u8>>,
}

impl Endless {
    fn new(name: &'static str, size: u64) -> Arc<Endless> {
        Arc::new(Endless { name, size, kept: Mutex::new(vec![0; KEPT as usize]) })
    }
}

impl Storage for Endless {
    fn name(&self) -> &str {
        self.name
    }

    fn size(&self) -> Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let kept = KEPT.saturating_sub(offset).min(buffer.len() as u64) as usize;
        buffer[..kept].copy_from_slice(&self.kept.lock().unwrap()[offset.min(KEPT) as usize..][..kept]);
        buffer[kept..].fill(0x5a);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let kept = KEPT.saturating_sub(offset).min(data.len() as u64) as usize;
        self.kept.lock().unwrap()[offset.min(KEPT) as usize..][..kept].copy_from_slice(&data[..kept]);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        let kept = range.start.min(KEPT) as usize..range.end.min(KEPT) as usize;
        self.kept.lock().unwrap()[kept].fill(0);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.punch(range)
    }

    fn lock(&self, _: LockMode) -> Result<()> {
        Ok(())
    }
}

const SIZE: u64 = 512 << 20;

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

/// An overlay of data on a raw file of data.
fn overlay() -> Arc<Disk> {
    let (top, base) = (Endless::new("top", SIZE + KEPT), Endless::new("base", SIZE));
    let options = ChainOptions { write: true, ..ChainOptions::default() };
    let below = Chain::open_raw(base.clone(), host(), &ChainOptions::default()).unwrap();
    let parent = Some(below.layers[0].link(SIZE, "base".into()).unwrap());
    let create = CreateOptions { virtual_size: SIZE, parent, ..CreateOptions::default() };
    Image::create(&*top, &*host(), &create).unwrap();
    Disk::new(Chain::open(top, host(), &GivenParents::new([base as Arc<dyn Storage>]), &options).unwrap())
}

/// Runs `job` from three threads beside three guests that write 64 KiB at a time all over the disk, and counts the most
/// memory that was held on top of what was held before.
fn most_memory(disk: &Disk, job: impl Fn() -> bool + Sync) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..3u64 {
            let done = &done;
            scope.spawn(move || {
                let mut state = number + 1;
                while !done.load(Ordering::Relaxed) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = ((state >> 20) % ((SIZE >> 16) - 1)) << 16;
                    disk.write_at(&[1; 64 << 10], at + 512).unwrap();
                }
            });
        }
        let steppers: Vec<_> = (0..3).map(|_| scope.spawn(|| while !job() {})).collect();
        steppers.into_iter().for_each(|stepper| stepper.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    MOST.load(Ordering::Relaxed) - before
}

/// A piece in each copier's hands, a request in each guest's, and the pages of the bitmap: whatever the disk's size.
const ENOUGH: usize = 12 << 20;

/// The allocator counts for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A fuzzer's find: a few sectors of intents speak of all of a disk of 2^60 bytes, and each bitmap took a page of memory for
/// each of its 2^36 granules as soon as one of them was asked for.
#[test]
fn intents_that_a_crash_has_left_take_no_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (file, host) = (Arc::new(MemoryStorage::new("disk")), host());
    let options = CreateOptions { virtual_size: 1 << 60, ..CreateOptions::default() };
    Image::create(&*file, &*host, &options).unwrap();
    let image =
        Image::open(file.clone(), host.clone(), &OpenOptions { write: true, ..OpenOptions::default() }).unwrap();
    for name in ["daily", "weekly"] {
        image.add_bitmap(name, &NewBitmap { granularity_shift: 24, ..NewBitmap::default() }).unwrap();
    }
    for number in 0..2000 {
        let at = ((number * 0x1_0001) % (1 << 16)) << 44;
        image.write_at(&[1; 4096], at).unwrap();
    }
    let crashed = Arc::new(file.copy("crashed"));
    drop(image);
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let image = Image::open(crashed, host, &OpenOptions::default()).unwrap();
    for name in ["daily", "weekly"] {
        let mut at = 0;
        let mut dirty = 0;
        while at < image.size() {
            let (set, end) = image.bitmap_run(name, at, image.size()).unwrap();
            dirty += if set { end - at } else { 0 };
            at = end;
        }
        assert!(dirty > 1 << 54, "two thousand intents of 2^44 bytes each speak of {dirty} bytes");
    }
    let most = MOST.load(Ordering::Relaxed) - before;
    assert!(most <= 16 << 20, "two bitmaps took {most} bytes");
}

#[test]
fn jobs_under_load_take_a_few_pieces_of_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let disk = overlay();
    for pace in [Pace::Background, Pace::Bounded, Pace::WriteThrough] {
        let options = ChainOptions { write: true, ..ChainOptions::default() };
        let target = Chain::open_raw(Endless::new("target", SIZE), host(), &options).unwrap();
        let mirror = disk.mirror(target).unwrap();
        mirror.set_pace(pace);
        // In the background READY may never come.
        let steps = AtomicUsize::new(0);
        let most =
            most_memory(&disk, || mirror.step(u64::MAX).unwrap().ready || steps.fetch_add(1, Ordering::Relaxed) > 1000);
        assert!(most <= ENOUGH, "a mirror took {most} bytes");
        disk.abandon(&mirror).unwrap();
    }
    let job = disk.stream(None).unwrap();
    let most = most_memory(&disk, || job.step(u64::MAX).unwrap().finished);
    assert!(most <= ENOUGH, "a stream took {most} bytes");
}
