//! Backups of a disk under its guest: of one instant, whole or incremental, pushed or pulled.
//!
//! Told as in `live_stream.rs`.
//!
//! | story | where it is told |
//! |---|---|
//! | 49, a full backup under overlapping writes | `a_backup_is_the_disk_of_its_instant`, `what_the_guest_changes_is_copied_once_and_first`; every order of threads: `interleavings`, `backups_are_of_one_instant` |
//! | 50, incremental rounds | `incremental_backups_follow_each_other`, `an_incremental_backup_moves_only_dirty_granules` |
//! | 51, what becomes of the bitmap | `a_backup_that_ends_otherwise_leaves_its_bitmap_alone`; there is no mode "always": a copy with a hole in it is no backup to build on |
//! | 52, several disks at one instant | `two_disks_are_backed_up_at_one_instant`; grouped jobs: `control` |
//! | 53, a pause for an error | `a_backup_whose_target_was_full_goes_on` |
//! | 56, fleecing | `what_is_pulled_stays_as_it_was`, `a_change_waits_for_who_reads_what_it_changes` |
//! | 57, the store is full | `a_store_that_is_full_costs_the_guest_nothing` |
//! | 58 and 71, killed | `a_backup_may_be_killed_anywhere` |

mod common;
mod live;

use common::Random;
use live::*;
use lvd::chain::Chain;
use lvd::format::BitmapState;
use lvd::image::NewBitmap;
use lvd::jobs::{Job, drive};
use lvd::live::{BackupOptions, BackupPlan, Disk};
use lvd::storage::Storage;
use lvd::{BlockDevice, Error, Result};
use std::ops::Range;
use std::sync::Arc;

const GRANULE: u64 = 64 * KIB;

/// `source.lvd` with data here and there, and the bitmap `daily`, served.
fn scene(size: u64) -> (Files, Arc<Disk>) {
    let files = Files::new();
    files.image("source.lvd", size);
    files.change("source.lvd", |guest| {
        guest.write(0..size / 3, 1);
        guest.write(size / 2..size / 2 + 10_000, 2);
    });
    let disk = files.serve("source.lvd", 0);
    add(&disk, "daily", 16);
    (files, disk)
}

fn add(disk: &Disk, name: &str, granularity_shift: u8) {
    let new = NewBitmap { granularity_shift, ..NewBitmap::default() };
    disk.chain().image(0).unwrap().add_bitmap(name, &new).unwrap();
}

fn dirty(disk: &Disk, name: &str) -> Vec<Range<u64>> {
    disk.chain().image(0).unwrap().dirty_stretches(name).unwrap()
}

fn with(bitmap: &str) -> BackupOptions<'_> {
    BackupOptions { bitmap: Some(bitmap), ..BackupOptions::default() }
}

fn full(disk: &Arc<Disk>, target: &Chain, options: &BackupOptions<'_>) -> Job {
    disk.still().backup(&BackupPlan::Full { target, fresh: true }, options).unwrap()
}

/// An incremental backup by `daily`, of which a new count begins.
fn incremental(disk: &Arc<Disk>, target: &Chain) -> Result<Job> {
    disk.still().backup(&BackupPlan::Incremental { target, dirty: "daily", since: None }, &with("daily"))
}

fn run(job: Job, chain: &Chain) {
    drive(&job, |_| {}).unwrap();
    chain.close().unwrap();
}

/// A raw file for what is kept.
fn scratch(files: &Files, size: u64) -> Chain {
    files.add("scratch.raw").set_size(size).unwrap();
    files.open("scratch.raw", 0).unwrap()
}

/// Story 49; ORD-98. Found: content of after the instant.
#[test]
fn a_backup_is_the_disk_of_its_instant() {
    for (seed, size) in [4 * MIB, 3 * MIB + 4711].into_iter().enumerate() {
        let (files, disk) = scene(size);
        let target = files.target("copy.lvd", size);
        let mut guest = Guest::new(&*disk);
        let mut random = Random::new(seed as u64);
        (0..20).for_each(|_| guest.act(&mut random));
        let instant = guest.model.clone();
        let job = full(&disk, &target, &with("daily"));
        // Also what reaches past what was copied, and before its beginning.
        while !job.step(GRANULE).unwrap().finished {
            (0..3).for_each(|_| guest.act(&mut random));
        }
        drop(job);
        target.close().unwrap();
        same(&files.view("copy.lvd").unwrap(), &instant, "the backup");
        guest.check_all();
    }
}

/// Four guests that never stop, three copiers.
#[test]
fn a_backup_beside_guests_on_threads() {
    let (files, disk) = scene(4 * MIB);
    let target = files.target("copy.lvd", disk.size());
    let guests = Guests { disk: &*disk, count: 4, size: disk.size() };
    let mut instant = Vec::new();
    guests.during(|| {
        let job = {
            let mut still = disk.still();
            let job = still.backup(&BackupPlan::Full { target: &target, fresh: true }, &with("daily")).unwrap();
            instant = content(&**still.chain());
            job
        };
        std::thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(|| drive(&job, |_| {}).unwrap())));
        });
    });
    target.close().unwrap();
    same(&files.view("copy.lvd").unwrap(), &instant, "the backup");
}

/// Story 49. Found: a second copy of a granule that the guest overwrites again; a write that is there before the copy.
#[test]
fn what_the_guest_changes_is_copied_once_and_first() {
    let (files, disk) = scene(MIB);
    let target = files.target("copy.lvd", disk.size());
    let job = full(&disk, &target, &BackupOptions::default());
    job.step(1).unwrap();
    let (source, copy) = (files.file("source.lvd"), files.file("copy.lvd"));
    let (read, written) = (source.count(Kind::Read, 0..GRANULE), copy.count(Kind::Write, 0..GRANULE));
    let held = copy.hold(Kind::Write, 0..GRANULE);
    std::thread::scope(|scope| {
        let write = scope.spawn(|| disk.write_at(&[9; 512], 4096).unwrap());
        held.reached();
        a_moment(&write);
        assert_eq!(bytes(&*disk.chain(), 4096..4097), [1], "the write waits for the copy");
        held.release();
    });
    (0..3).for_each(|_| disk.write_at(&[8; 512], 4096).unwrap());
    run(job, &target);
    assert_eq!(source.count(Kind::Read, 0..GRANULE) - read, 2, "one for the copy, one of this test");
    assert_eq!(copy.count(Kind::Write, 0..GRANULE) - written, 1, "copied once");
    assert_eq!(bytes(&files.read("copy.lvd").unwrap(), 4096..4097), [1]);
}

/// Story 50; BAK-01 to BAK-04. Found: a round that lacks what changed in the round before, or while that one ran.
#[test]
fn incremental_backups_follow_each_other() {
    let (files, disk) = scene(3 * MIB + 1000);
    let mut guest = Guest::new(&*disk);
    let mut random = Random::new(5);
    for round in 0..5 {
        (0..10).for_each(|_| guest.act(&mut random));
        let (name, before) = (format!("round{round}.lvd"), format!("round{}.lvd", round - 1));
        let instant = guest.model.clone();
        let (target, job);
        if round == 0 {
            target = files.target(&name, disk.size());
            job = full(&disk, &target, &with("daily"));
        } else {
            target = files.target_on(&name, &before, disk.size(), 12);
            job = incremental(&disk, &target).unwrap();
        }
        while !job.step(GRANULE).unwrap().finished {
            (0..3).for_each(|_| guest.act(&mut random));
        }
        drop(job);
        target.close().unwrap();
        same(&files.view(&name).unwrap(), &instant, &name);
    }
    // What follows another one does not fit.
    let wrong = files.target_on("wrong.lvd", "round1.lvd", disk.size(), 12);
    denied(incremental(&disk, &wrong), &["round1.lvd", "is the backup of"]);
    assert_eq!(disk.chain().image(0).unwrap().bitmap("daily").unwrap().state, BitmapState::Recording);
    guest.check_all();
}

/// Story 50. Found: granules that are clean on the target, read from the source, or copied when the guest changes them.
#[test]
fn an_incremental_backup_moves_only_dirty_granules() {
    let (files, disk) = scene(4 * MIB);
    let target = files.target("full.lvd", disk.size());
    run(full(&disk, &target, &with("daily")), &target);
    drop(target);
    disk.write_at(&[3; 512], 5 * GRANULE).unwrap();
    disk.write_at(&[4; 512], 40 * GRANULE - 256).unwrap();
    let target = files.target_on("next.lvd", "full.lvd", disk.size(), 12);
    let source = files.file("source.lvd");
    let reads = source.count(Kind::Read, 0..disk.size());
    let job = incremental(&disk, &target).unwrap();
    // Clean before the instant: the backup before has it.
    disk.write_at(&[5; 512], 20 * GRANULE).unwrap();
    run(job, &target);
    let written: u64 = (0..64)
        .filter(|&granule| {
            let granule = granule * GRANULE..(granule + 1) * GRANULE;
            files.file("next.lvd").count(Kind::Write, granule) > 0
        })
        .count() as u64;
    assert_eq!(written, 3, "granules 5, 39 and 40");
    assert!(source.count(Kind::Read, 0..disk.size()) - reads <= 3);
    assert_eq!(dirty(&disk, "daily"), [20 * GRANULE..21 * GRANULE]);
}

/// An incremental backup onto a raw copy, which cannot say of what it is one.
#[test]
fn a_raw_copy_is_brought_up_to_date() {
    let (files, disk) = scene(2 * MIB);
    files.add("copy.raw").set_size(2 * MIB).unwrap();
    let target = files.open("copy.raw", 0).unwrap();
    run(full(&disk, &target, &with("daily")), &target);
    disk.write_at(&[3; 5000], 100_000).unwrap();
    let instant = content(&*disk);
    let plan = BackupPlan::Onto { target: &target, dirty: "daily" };
    let job = disk.still().backup(&plan, &with("daily")).unwrap();
    disk.write_at(&[4; 5000], 102_000).unwrap();
    run(job, &target);
    same(&content(&target), &instant, "the raw copy");
    assert_eq!(dirty(&disk, "daily"), [GRANULE..2 * GRANULE]);
}

/// Story 51; BMP-13, BAK-04. Found: changes from before the backup, or from while it ran, that nothing tells of.
#[test]
fn a_backup_that_ends_otherwise_leaves_its_bitmap_alone() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum End {
        Cancelled,
        Dropped,
        Failed,
        Finished,
        Unfollowed,
    }
    for end in [End::Cancelled, End::Dropped, End::Failed, End::Finished, End::Unfollowed] {
        let (files, disk) = scene(2 * MIB);
        let target = files.target("full.lvd", disk.size());
        run(full(&disk, &target, &with("daily")), &target);
        drop(target);
        let since = |disk: &Disk| disk.chain().image(0).unwrap().bitmap("daily").unwrap().since;
        let before = since(&disk);
        disk.write_at(&[3; 512], 4 * GRANULE).unwrap();
        disk.write_at(&[3; 512], 8 * GRANULE).unwrap();
        let target = files.target_on("next.lvd", "full.lvd", disk.size(), 12);
        let (plan, copy) =
            (BackupPlan::Incremental { target: &target, dirty: "daily", since: None }, files.file("next.lvd"));
        let options = if end == End::Unfollowed { BackupOptions::default() } else { with("daily") };
        let failing = (end == End::Failed).then(|| copy.fail(Kind::Write, 8 * GRANULE..9 * GRANULE));
        let job = disk.still().backup(&plan, &options).unwrap();
        disk.write_at(&[4; 512], 12 * GRANULE).unwrap();
        match end {
            End::Cancelled => {
                job.step(GRANULE).unwrap();
                job.cancel();
                assert!(matches!(drive(&job, |_| {}), Err(Error::Cancelled)));
            }
            End::Dropped => drop(job.step(5 * GRANULE).unwrap()),
            End::Failed => drop(drive(&job, |_| {}).unwrap_err()),
            End::Finished | End::Unfollowed => drive(&job, |_| {}).unwrap(),
        }
        drop((job, failing));
        let granule = |number: u64| number * GRANULE..(number + 1) * GRANULE;
        match end {
            End::Finished => assert_eq!(dirty(&disk, "daily"), [granule(12)], "{end:?}"),
            _ => assert_eq!(dirty(&disk, "daily"), [4, 8, 12].map(granule), "{end:?}"),
        }
        assert_eq!(since(&disk) == before, end != End::Finished, "{end:?}");
        assert_eq!(disk.chain().image(0).unwrap().bitmap("daily").unwrap().state, BitmapState::Recording);
        // A bitmap that a backup makes for itself goes with it.
        let target = files.target("other.lvd", disk.size());
        drop(full(&disk, &target, &with("weekly")));
        assert!(disk.chain().image(0).unwrap().bitmap("weekly").is_err());
        run(full(&disk, &target, &with("weekly")), &target);
        assert!(dirty(&disk, "weekly").is_empty());
        disk.resize(2 * MIB).unwrap();
    }
}

/// Story 52. Found: two disks of two instants.
#[test]
fn two_disks_are_backed_up_at_one_instant() {
    let (files, one) = scene(MIB);
    files.image("other.lvd", MIB);
    let other = files.serve("other.lvd", 0);
    let targets = ["copy1.lvd", "copy2.lvd"].map(|name| files.target(name, MIB));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let write = |number: u8| {
        // The second disk never has what the first does not.
        one.write_at(&[number; 512], 0).unwrap();
        other.write_at(&[number; 512], 0).unwrap();
    };
    let jobs: Vec<Job> = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0u8;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) && number < 250 {
                number += 1;
                write(number);
            }
        });
        let jobs = {
            let disks = [other.clone(), one.clone(), other.clone()];
            let mut all = Disk::all_still(&disks);
            assert_eq!(all.len(), 2);
            all.iter_mut()
                .map(|still| {
                    let number = usize::from(Arc::ptr_eq(still.disk(), &other));
                    let plan = BackupPlan::Full { target: &targets[number], fresh: true };
                    still.backup(&plan, &BackupOptions::default()).unwrap()
                })
                .collect()
        };
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap();
        jobs
    });
    jobs.iter().for_each(|job| drive(job, |_| {}).unwrap());
    drop(jobs);
    targets.iter().for_each(|target| target.close().unwrap());
    let [first, second] = ["copy1.lvd", "copy2.lvd"].map(|name| files.view(name).unwrap()[0]);
    assert!(first == second || first == second + 1 || second == 0, "{first} and {second}");
}

/// Story 53. A target that had no room gets some, and the job goes on with what failed.
#[test]
fn a_backup_whose_target_was_full_goes_on() {
    let (files, disk) = scene(MIB);
    let target = files.target("copy.lvd", disk.size());
    let instant = content(&*disk);
    let job = full(&disk, &target, &with("daily"));
    let copy = files.file("copy.lvd");
    let failing = copy.fail(Kind::Write, 3 * GRANULE..4 * GRANULE);
    assert!(drive(&job, |_| {}).is_err());
    drop(failing);
    disk.write_at(&[7; 512], 0).unwrap();
    assert!(job.retry());
    run(job, &target);
    same(&files.view("copy.lvd").unwrap(), &instant, "the backup");
}

/// Story 56; ORD-98. Found: what the guest wrote after the instant; a read that fails while the point is there.
#[test]
fn what_is_pulled_stays_as_it_was() {
    let (files, disk) = scene(2 * MIB + 300);
    disk.write_at(&[6; 512], 9 * GRANULE).unwrap();
    let scratch = scratch(&files, disk.size());
    let (mut guest, mut random) = (Guest::new(&*disk), Random::new(8));
    let instant = guest.model.clone();
    let told = dirty(&disk, "daily");
    let pull = disk.still().pull(&scratch, &with("daily")).unwrap();
    let device = pull.device();
    for _ in 0..30 {
        guest.act(&mut random);
        same(&content(&*device), &instant, "what is pulled");
        let mut at = 0;
        while at < device.size() {
            let extent = device.extent(at, device.size()).unwrap();
            assert!(extent.place.is_none() && extent.range.start == at && extent.range.end > at);
            if extent.kind == lvd::ExtentKind::Zero {
                assert!(instant[at as usize..extent.range.end as usize].iter().all(|byte| *byte == 0));
            }
            at = extent.range.end;
        }
    }
    let mut found = Vec::new();
    let mut at = 0;
    while at < device.size() {
        let (set, end) = device.bitmap_run("daily", at, u64::MAX).unwrap();
        found.extend(set.then_some(at..end));
        at = end;
    }
    assert_eq!(found, told, "what the bitmap had dirty at the instant");
    assert!(device.bitmap_run("weekly", 0, 1).is_err());
    denied(device.write_at(&[0], 0), &["cannot be changed"]);
    assert!(device.read_at(&mut [0; 10], disk.size() - 5).is_err());
    pull.end().unwrap();
    drop(pull);
    assert!(device.read_at(&mut [0], 0).is_err(), "nobody keeps it any more");
    guest.check_all();
    // Whoever does not say that it has everything has nothing.
    let before = dirty(&disk, "daily");
    let pull = disk.still().pull(&scratch, &with("daily")).unwrap();
    guest.write(0..512, 200);
    drop(pull);
    let after = dirty(&disk, "daily");
    let told = |range: &Range<u64>| after.iter().any(|it| it.start <= range.start && range.end <= it.end);
    assert!(before.iter().chain([&(0..GRANULE)]).all(told), "{after:?} has not all of {before:?}");
    disk.resize(2 * MIB + 300).unwrap();
}

/// Story 56. Found: a reader that gets half of what the guest wrote meanwhile.
#[test]
fn a_change_waits_for_who_reads_what_it_changes() {
    let (files, disk) = scene(MIB);
    let scratch = scratch(&files, disk.size());
    let pull = disk.still().pull(&scratch, &BackupOptions::default()).unwrap();
    let source = files.file("source.lvd");
    let held = source.hold(Kind::Read, 0..GRANULE);
    std::thread::scope(|scope| {
        let device = pull.device();
        let reader = scope.spawn(move || bytes(&*device, 0..4096));
        held.reached();
        let writer = scope.spawn(|| disk.write_at(&[9; 4096], 0).unwrap());
        a_moment(&writer);
        assert!(!writer.is_finished(), "it waits for the reader, and for the copy");
        held.release();
        assert_eq!(reader.join().unwrap(), [1; 4096]);
    });
    assert_eq!(bytes(&*pull.device(), 0..4096), [1; 4096]);
    assert_eq!(bytes(&*disk, 0..4096), [9; 4096]);
}

/// Story 57; ORD-98. Found: a guest that hears of it; a reader that gets a mix.
#[test]
fn a_store_that_is_full_costs_the_guest_nothing() {
    let (files, disk) = scene(MIB);
    let scratch = scratch(&files, disk.size());
    let before = dirty(&disk, "daily");
    let pull = disk.still().pull(&scratch, &with("daily")).unwrap();
    let file = files.file("scratch.raw");
    let failing = file.fail(Kind::Write, 0..GRANULE);
    disk.write_at(&[9; 512], 0).unwrap();
    drop(failing);
    for at in [0, 5 * GRANULE] {
        assert!(pull.device().read_at(&mut [0; 512], at).is_err(), "lost for ever, everywhere");
    }
    assert!(pull.end().is_err());
    drop(pull);
    assert_eq!(bytes(&*disk, 0..512), [9; 512]);
    assert!(before.is_empty());
    assert_eq!(dirty(&disk, "daily"), [0..GRANULE]);
    // The same of a push: the backup fails, and the guest goes on.
    let target = files.target("copy.lvd", disk.size());
    let job = full(&disk, &target, &with("daily"));
    let copy = files.file("copy.lvd");
    let failing = copy.fail(Kind::Write, 2 * GRANULE..3 * GRANULE);
    disk.write_at(&[9; 512], 2 * GRANULE).unwrap();
    drop(failing);
    assert!(drive(&job, |_| {}).is_err());
    assert!(!job.retry() || drive(&job, |_| {}).is_err(), "what is lost stays lost");
    drop(job);
    assert_eq!(dirty(&disk, "daily"), [0..GRANULE, 2 * GRANULE..3 * GRANULE]);
}

/// Stories 58 and 71; BMP-13, BAK-03. The process is killed at each change of any file in turn. Found: a flushed write that
/// is lost; a target that opens and is not the disk of the instant; a bitmap that misses what no backup has.
#[test]
fn a_backup_may_be_killed_anywhere() {
    let scene = layers(&["-D----------", "-----EE-----"]);
    scene.change("layer0.lvd", |_| {});
    let disk = scene.serve("layer0.lvd", 0);
    add(&disk, "daily", 12);
    let target = scene.target("full.lvd", 12 * BLOCK);
    run(full(&disk, &target, &with("daily")), &target);
    disk.write_at(&[7; 512], 3 * BLOCK).unwrap();
    drop((scene.target_on("next.lvd", "full.lvd", 12 * BLOCK, 12), target));
    disk.close().unwrap();
    drop(disk);
    let whole = scene.view("layer0.lvd").unwrap();
    for changes in 0.. {
        let fuse = Fuse::new(changes);
        let files = scene.copy(&fuse);
        let mut guest = Mortal::new(whole.clone(), changes % 7);
        let (disk, target) = (files.serve("layer0.lvd", 0), files.open_marked("next.lvd"));
        let mut instant = Vec::new();
        let ran = backup_beside(&disk, &target, &mut guest, &mut instant);
        let finished = ran.is_ok() && !fuse.burnt();
        // Killed: nothing is closed.
        drop((disk, target));
        let files = files.copy(&Fuse::endless());
        let context = format!("killed after {changes} changes");
        let found = files.view("layer0.lvd").unwrap_or_else(|error| panic!("{context}: {error}"));
        guest.check(&found, &context);
        let disk = files.serve("layer0.lvd", 0);
        let copied = files.view("next.lvd");
        if let Ok(copied) = &copied {
            same(copied, &instant, &context);
        }
        // What the newest backup that counts lacks, the bitmap has dirty, when the next backup looks at it.
        let handed_over =
            disk.chain().image(0).unwrap().bitmap("daily").unwrap().state == BitmapState::Recording && copied.is_ok();
        let base = match (copied, handed_over) {
            (Ok(copied), true) => copied,
            _ => files.view("full.lvd").unwrap(),
        };
        let dirty = dirty(&disk, "daily");
        for (at, _) in found.iter().zip(&base).enumerate().filter(|(_, (now, then))| now != then) {
            assert!(dirty.iter().any(|range| range.contains(&(at as u64))), "{context}: nothing tells of byte {at}");
        }
        if finished {
            break;
        }
    }
}

/// An incremental backup, and a request of the guest at each of its steps.
fn backup_beside(disk: &Arc<Disk>, target: &Chain, guest: &mut Mortal, instant: &mut Vec<u8>) -> Result<()> {
    guest.act(&**disk)?;
    *instant = guest.now();
    let job = incremental(disk, target)?;
    loop {
        guest.act(&**disk)?;
        if job.step(BLOCK)?.finished {
            break;
        }
    }
    guest.act(&**disk)?;
    guest.act(&**disk)
}
