//! Jobs under four writers that never stop; every sector is checked at the end.

use super::*;
use crate::chain::{Chain, ChainOptions, NoParents};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::image::{CreateOptions, Image};
use crate::jobs::drive;
use crate::storage::{Host, LockMode, MemoryStorage, OsHost, Storage};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, lock};
use std::ops::Range;
use std::time::Duration;

const SIZE: u64 = (4 << 20) + 1000;
const SECTORS: u64 = SIZE / 512;
const WRITERS: u64 = 4;

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

/// A new image, and a chain of it alone.
fn image(name: &str, copy_mark: bool) -> Chain {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(name));
    let options = CreateOptions { virtual_size: SIZE, copy_mark, ..CreateOptions::default() };
    Image::create(&*storage, &*host(), &options).unwrap();
    let options = ChainOptions { write: true, ignore_marks: copy_mark, ..ChainOptions::default() };
    Chain::open(storage, host(), &NoParents, &options).unwrap()
}

/// What a writer put into its sectors: every `WRITERS`th of the disk.
struct Writer {
    number: u64,
    state: u64,
    written: Vec<u8>,
}

impl Writer {
    fn new(number: u64) -> Writer {
        let own = SECTORS.div_ceil(WRITERS) as usize;
        Writer { number, state: number + 1, written: vec![0; own] }
    }

    fn next(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.state >> 33) % below
    }

    /// One request into a sector of its own: the neighbours in its block are the other writers'.
    fn step(&mut self, disk: &dyn BlockDevice) {
        let own = self.next(SECTORS / WRITERS);
        let at = (own * WRITERS + self.number) * 512;
        match self.next(16) {
            0 => disk.flush().unwrap(),
            1..=3 => {
                disk.write_zeroes(at..at + 512, self.number.is_multiple_of(2)).unwrap();
                self.written[own as usize] = 0;
            }
            kind => {
                let byte = (kind * WRITERS + self.number + 1) as u8;
                disk.write_at(&[byte; 512], at).unwrap();
                self.written[own as usize] = byte;
            }
        }
        let mut back = [1; 512];
        disk.read_at(&mut back, at).unwrap();
        assert_eq!(back, [self.written[own as usize]; 512], "at {at}");
    }

    fn verify(&self, disk: &dyn BlockDevice) {
        for (own, &byte) in self.written.iter().enumerate() {
            let sector = own as u64 * WRITERS + self.number;
            if sector < SECTORS {
                let mut back = [1; 512];
                disk.read_at(&mut back, sector * 512).unwrap();
                assert_eq!(back, [byte; 512], "sector {sector}");
            }
        }
    }
}

/// Runs `story` while the writers write, then checks what the disk holds.
fn under_writers(disk: &Arc<Disk>, story: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let writers: Vec<Writer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (disk, stop) = (&**disk, &stop);
                scope.spawn(move || {
                    let mut writer = Writer::new(number);
                    while !stop.load(Ordering::Relaxed) {
                        writer.step(disk);
                    }
                    writer
                })
            })
            .collect();
        story();
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    writers.iter().for_each(|writer| writer.verify(&**disk));
}

fn until_ready(mirror: &LiveMirror) {
    while !mirror.step(1 << 20).unwrap().ready {}
}

fn content(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn overlay(disk: &Arc<Disk>, name: &str) {
    disk.snapshot(Arc::new(MemoryStorage::new(name)), "below".into(), 12).unwrap();
}

#[test]
fn snapshots_keep_their_instant_and_streams_do_not_change_the_disk() {
    let disk = Disk::new(image("base", false));
    under_writers(&disk, || {
        overlay(&disk, "one");
        overlay(&disk, "two");
        let chain = disk.chain();
        let (base, one) = (content(&*chain.layers[2].device()), content(&*chain.layers[1].device()));
        disk.set_copy_on_read(true);
        drive(&disk.stream(Some(2)).unwrap(), |_| {}).unwrap();
        assert_eq!(disk.chain().layers.len(), 2);
        drive(&disk.stream(None).unwrap(), |_| {}).unwrap();
        assert!(disk.chain().image(0).unwrap().complete());
        assert!(content(&*chain.layers[2].device()) == base && content(&*chain.layers[1].device()) == one);
    });
}

#[test]
fn mirrors_converge_under_every_pace_and_the_guest_moves() {
    for pace in [Pace::Bounded, Pace::WriteThrough] {
        let disk = Disk::new(image("source", false));
        under_writers(&disk, || {
            overlay(&disk, "top");
            let mirror = disk.mirror(image("target", true)).unwrap();
            mirror.set_pace(pace);
            assert!(disk.pivot(&mirror).is_err(), "not ready");
            until_ready(&mirror);
            mirror.set_pace(Pace::Background);
            for _ in 0..20 {
                mirror.step(1 << 20).unwrap();
            }
            let old = disk.pivot(&mirror).unwrap();
            old.close().unwrap();
            assert!(disk.chain().image(0).unwrap().header().copy_mark.is_none());
            assert!(mirror.step(1 << 20).is_err());
        });
    }
}

#[test]
fn a_split_target_is_the_disk_of_one_instant() {
    let disk = Disk::new(image("source", false));
    under_writers(&disk, || {
        let mirror = disk.mirror(image("target", true)).unwrap();
        std::thread::scope(|scope| {
            (0..2).for_each(|_| drop(scope.spawn(|| until_ready(&mirror))));
        });
        let target = disk.split(&mirror).unwrap();
        let bytes = content(&*target);
        std::thread::yield_now();
        assert!(content(&*target) == bytes, "nothing of the guest's reaches it any more");
        target.close().unwrap();
    });
}

#[test]
fn an_abandoned_target_says_that_it_is_no_copy() {
    let disk = Disk::new(image("source", false));
    under_writers(&disk, || {
        let mirror = disk.mirror(image("target", true)).unwrap();
        mirror.step(1 << 20).unwrap();
        let target = disk.abandon(&mirror).unwrap();
        assert!(target.image(0).unwrap().header().copy_mark.is_some());
        overlay(&disk, "the layers are free again");
    });
}

#[test]
fn the_layer_that_the_guest_writes_to_is_merged_below_it() {
    let disk = Disk::new(image("base", false));
    under_writers(&disk, || {
        overlay(&disk, "between");
        overlay(&disk, "top");
        let mirror = disk.merge_active(2).unwrap();
        assert!(disk.stream(None).is_err() && disk.resize(0).is_err(), "one job at a time");
        assert!(disk.chain().image(2).unwrap().header().merge_mark.is_some());
        until_ready(&mirror);
        let old = disk.pivot(&mirror).unwrap();
        assert_eq!(disk.chain().layers.len(), 1);
        assert!(disk.chain().image(0).unwrap().header().merge_mark.is_none());
        drop(old);
    });
}

#[test]
fn layers_below_the_guest_are_merged() {
    let disk = Disk::new(image("base", false));
    under_writers(&disk, || {
        overlay(&disk, "one");
        overlay(&disk, "two");
        overlay(&disk, "top");
        drive(&disk.merge(1, 3).unwrap(), |_| {}).unwrap();
        let chain = disk.chain();
        assert_eq!(chain.layers.len(), 3, "what lay between is gone");
        assert_eq!(
            chain.image(1).unwrap().header().parent.as_ref().unwrap().identity.unwrap().uuid,
            chain.image(2).unwrap().uuid()
        );
    });
}

/// A clock that moves when somebody sleeps, and when a [`Slow`] file is written.
#[derive(Debug, Default)]
struct Clock(Mutex<Duration>);

impl Host for Clock {
    fn random(&self) -> [u8; 16] {
        host().random()
    }

    fn now(&self) -> Duration {
        *lock(&self.0)
    }

    fn sleep(&self, time: Duration) {
        *lock(&self.0) += time;
    }
}

/// A file that takes a second for each MiB.
#[derive(Debug)]
struct Slow {
    inner: MemoryStorage,
    clock: Arc<Clock>,
}

impl Storage for Slow {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.clock.sleep(Duration::from_secs(1) * (data.len() >> 10) as u32 / 1024);
        self.inner.write_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> Result<()> {
        Ok(())
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

    fn lock(&self, _: LockMode) -> Result<()> {
        Ok(())
    }
}

/// A disk of 8 MiB of data on a raw file, and a mirror of it into a slow one, on a clock of their own.
fn slow_mirror() -> (Arc<Disk>, Arc<LiveMirror>, Arc<Clock>) {
    const LENGTH: u64 = 8 << 20;
    let clock = Arc::new(Clock::default());
    let raw = |storage: Arc<dyn Storage>| {
        storage.set_size(LENGTH).unwrap();
        let options = ChainOptions { write: true, ..ChainOptions::default() };
        Chain::open_raw(storage, clock.clone(), &options).unwrap()
    };
    let disk = Disk::new(raw(Arc::new(MemoryStorage::new("source"))));
    disk.write_at(&vec![7; LENGTH as usize], 0).unwrap();
    let inner = MemoryStorage::new("target");
    let mirror = disk.mirror(raw(Arc::new(Slow { inner, clock: clock.clone() }))).unwrap();
    mirror.set_pace(Pace::Background);
    (disk, mirror, clock)
}

/// Steps until READY, sleeping when told to; `beside` is called before each step. Seconds that it took.
fn seconds_until_ready(mirror: &LiveMirror, clock: &Clock, mut beside: impl FnMut()) -> f64 {
    loop {
        beside();
        let progress = mirror.step(1 << 20).unwrap();
        if progress.ready {
            return clock.now().as_secs_f64();
        }
        clock.sleep(progress.wait.unwrap_or_default());
    }
}

/// A mirror took the target's whole bandwidth whatever its guest needed. With a share it works for that part of the time
/// while the guest makes requests, in short pieces, and all of the time while the guest sleeps.
#[test]
fn a_mirror_yields_to_a_guest_that_is_awake() {
    for (share, awake, seconds) in [(100, true, 8.0), (25, true, 32.0), (50, true, 16.0), (50, false, 8.0)] {
        let (disk, mirror, clock) = slow_mirror();
        mirror.set_share(share);
        let mut steps = 0;
        let took = seconds_until_ready(&mirror, &clock, || {
            steps += 1;
            if awake {
                disk.read_at(&mut [0; 512], 0).unwrap();
            }
        });
        assert!((took - seconds).abs() <= 1.0, "{took} s instead of {seconds} with a share of {share} %");
        let pieces = if awake && share < 100 { 8 << 2 } else { 8 };
        assert!(steps >= pieces, "{steps} steps, in pieces that a request may have to wait for");
    }
}

#[test]
fn a_mirror_keeps_to_its_speed_and_a_pivot_does_not() {
    let (disk, mirror, clock) = slow_mirror();
    mirror.set_speed(256 << 10);
    let took = seconds_until_ready(&mirror, &clock, || ());
    assert!((29.0..=34.0).contains(&took), "{took} s for 8 MiB at 256 KiB a second");
    assert!(mirror.step(1 << 20).unwrap().wait.is_some(), "nothing to do: no reason to ask again at once");
    mirror.set_speed(1);
    disk.write_at(&[8; 512], 0).unwrap();
    mirror.step(1 << 20).unwrap();
    disk.write_at(&[9; 512], 0).unwrap();
    assert!(mirror.step(1 << 20).unwrap().behind > 0, "it is far ahead of its speed");
    disk.pivot(&mirror).unwrap();
    assert_eq!(content_of(&*disk, 512), [9; 512]);
}

fn content_of(device: &dyn BlockDevice, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}
