//! The stories: guests write, a job runs, something ends, something fails.

use crate::rig::*;
use lvd::BlockDevice;
use lvd::Error;
use lvd::chain::Chain;
use lvd::format::Decision;
use lvd::image::{CreateOptions, Group, Image, NewBitmap, OpenOptions};
use lvd::jobs::Job;
use lvd::live::{BackupOptions, BackupPlan, LiveMirror, MirrorOptions, Move, Pace, pivot_together};
use lvd::storage::{Host, Storage};
use lvd::testing::host::SimHost;
use shuttle::thread::spawn;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Every story, with its name.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("ready_tells_of_a_whole_copy", ready_tells_of_a_whole_copy),
    ("snapshots", snapshots),
    ("streams", streams),
    ("merges_below", merges_below),
    ("copy_on_read_fetches_once", copy_on_read_fetches_once),
    ("mirrors_that_pivot", mirrors_that_pivot),
    ("mirrors_of_the_top", mirrors_of_the_top),
    ("mirrors_that_split", mirrors_that_split),
    ("mirrors_that_are_abandoned", mirrors_that_are_abandoned),
    ("mirrors_that_are_taken_up_again", mirrors_that_are_taken_up_again),
    ("ends_that_meet", ends_that_meet),
    ("mirrors_that_are_compared", mirrors_that_are_compared),
    ("mirrors_of_a_failing_disk", mirrors_of_a_failing_disk),
    ("mirrors_into_a_failing_disk", mirrors_into_a_failing_disk),
    ("a_bounded_lag_stays_within_its_bound", a_bounded_lag_stays_within_its_bound),
    ("mirrors_under_endless_load", mirrors_under_endless_load),
    ("merges_of_the_active_layer", merges_of_the_active_layer),
    ("groups_whose_decision_fails", groups_whose_decision_fails),
    ("bitmaps_miss_nothing", bitmaps_miss_nothing),
    ("backups_are_of_one_instant", backups_are_of_one_instant),
    ("what_is_pulled_is_of_one_instant", what_is_pulled_is_of_one_instant),
];

/// A base of data, one overlay on it or two, the lower one perhaps short.
fn layers(depth: u64) -> Vec<Plan> {
    let short = if once_in(3) { 14 } else { CELLS };
    let base = Plan { cells: CELLS, held: vec![0..7, 9..CELLS], value: 201, image: !once_in(4) };
    let middle = Plan { cells: short, held: vec![2..6, 12..13], value: 202, image: true };
    let top = Plan { cells: CELLS, held: vec![5..6], value: 203, image: true };
    match depth {
        1 => vec![Plan { image: true, ..base }],
        2 => vec![base, top],
        _ => vec![base, middle, top],
    }
}

/// A new overlay, at any moment: what lies below stays as it was then.
fn snapshot(rig: &Rig) -> impl FnOnce(&Rig) + use<> {
    let old = rig.disk.chain();
    let (made, window) = rig.timed(|| rig.disk.snapshot(Store::new("overlay"), "below".into(), 12));
    made.unwrap();
    let left = content(&*old);
    move |rig| {
        assert_eq!(content(&*old), left, "nobody writes to what a snapshot left");
        rig.history.check_instant(window, &left, "snapshot");
    }
}

/// Guests write while intents are cleared: whatever was issued is told of by what is durable, at every moment.
pub(crate) fn bitmaps_miss_nothing() {
    const REGION: u64 = 64 << 10;
    let host: Arc<dyn Host> = Arc::new(SimHost::new(7));
    let store = Store::new("disk");
    let options = CreateOptions { virtual_size: 3 * REGION, ..CreateOptions::default() };
    Image::create(&*store, &*host, &options).unwrap();
    let open = |file, write| {
        let options = OpenOptions { write, ..OpenOptions::default() };
        Arc::new(Image::open(file, host.clone(), &options).unwrap())
    };
    let image = open(store.clone(), true);
    let granularity_shift = 12;
    image.add_bitmap("daily", &NewBitmap { granularity_shift, ..NewBitmap::default() }).unwrap();
    let start = image.data_location().1;
    store.written.lock().unwrap().clear();
    let guests: Vec<_> = (0..2)
        .map(|_| {
            let image = image.clone();
            spawn(move || {
                for _ in 0..3 {
                    let at = below(3) * REGION + below(3) * BLOCK;
                    image.write_at(&[7; 512], at).unwrap();
                }
            })
        })
        .collect();
    let (folding, clock) = (image.clone(), host.clone());
    let folder = spawn(move || {
        for _ in 0..4 {
            clock.sleep(Duration::from_secs(60));
            folding.flush().unwrap();
        }
    });
    let check = || {
        // Issued first: what is durable later tells of it too.
        let issued = store.written.lock().unwrap().clone();
        let left = open(store.durable(), false);
        for range in issued.iter().filter(|range| (start..start + 3 * REGION).contains(&range.start)) {
            let at = range.start - start;
            assert!(left.bitmap_run("daily", at, at + 1).unwrap().0, "byte {at} was changed, and nothing tells of it");
        }
    };
    for _ in 0..4 {
        pause();
        check();
    }
    guests.into_iter().chain([folder]).for_each(|thread| thread.join().unwrap());
    check();
}

pub(crate) fn snapshots() {
    let mut rig = Rig::new(&layers(1 + below(2)), 1);
    rig.disk.set_copy_on_read(once_in(2));
    rig.start_guests(5);
    let first = snapshot(&rig);
    let second = snapshot(&rig);
    rig.finish();
    first(&rig);
    second(&rig);
}

pub(crate) fn streams() {
    let depth = 2 + below(2);
    let mut rig = Rig::new(&layers(depth), 1);
    rig.disk.set_copy_on_read(once_in(2));
    rig.start_guests(5);
    let before = once_in(4).then(|| snapshot(&rig));
    let layers = rig.disk.chain().layers.len();
    let base = if once_in(2) { None } else { Some(1 + below(layers as u64 - 1) as usize) };
    if drive(&rig, rig.disk.stream(base).unwrap()) {
        assert_eq!(rig.disk.chain().layers.len(), layers - base.unwrap_or(layers) + 1);
    }
    let after = once_in(4).then(|| snapshot(&rig));
    rig.finish();
    before.into_iter().chain(after).for_each(|judge| judge(&rig));
}

/// Granules of two blocks, or of one.
fn backup_options() -> BackupOptions<'static> {
    BackupOptions { granularity: GRANULE >> below(2), ..BackupOptions::default() }
}

/// The whole disk is copied as it was when the backup began.
pub(crate) fn backups_are_of_one_instant() {
    let mut rig = Rig::new(&layers(1 + below(2)), 1);
    rig.disk.set_copy_on_read(once_in(2));
    rig.start_guests(5);
    let (_, target) = rig.target(once_in(2));
    let plan = BackupPlan::Full { target: &target, fresh: false };
    let (job, window) = rig.timed(|| rig.disk.still().backup(&plan, &backup_options()));
    let copied = drive(&rig, job.unwrap()).then(|| content(&target));
    rig.finish();
    if let Some(copied) = copied {
        rig.history.check_instant(window, &copied, "backup");
    }
}

/// Others read what the disk was, from itself and from what is kept, as long as they need it.
pub(crate) fn what_is_pulled_is_of_one_instant() {
    let mut rig = Rig::new(&layers(1 + below(2)), 1);
    rig.start_guests(5);
    let (_, scratch) = rig.target(false);
    let (pull, window) = rig.timed(|| rig.disk.still().pull(&scratch, &backup_options()));
    let pull = pull.unwrap();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let device = pull.device();
            spawn(move || [content(&*device), content(&*device)])
        })
        .collect();
    let read: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
    pull.end().unwrap();
    let device = pull.device();
    drop(pull);
    assert!(device.read_at(&mut [0], 0).is_err(), "nobody keeps it any more");
    rig.finish();
    assert!(read.iter().all(|content| *content == read[0]), "all read the same: {read:?}");
    rig.history.check_instant(window, &read[0], "pull");
}

pub(crate) fn merges_below() {
    let mut rig = Rig::new(&layers(3), 3);
    rig.disk.set_copy_on_read(once_in(2));
    rig.start_guests(5);
    let job = rig.disk.merge(1, 2).unwrap();
    assert!(rig.disk.snapshot(Store::new("overlay"), "below".into(), 12).is_err(), "the layers are the job's");
    drive(&rig, job);
    rig.finish();
}

/// Steps a job from one thread or two, to its end or until it is cancelled. Whether it ended well.
fn drive(rig: &Rig, job: Job) -> bool {
    let (job, cancelled) = (Arc::new(job), once_in(4));
    job.set_share(if once_in(2) { 100 } else { 30 });
    let step = move |job: Arc<Job>| {
        let budget = BLOCK << below(3);
        loop {
            match job.step(budget) {
                Ok(progress) if progress.finished => return true,
                Ok(_) => pause(),
                Err(Error::Cancelled) if cancelled => return false,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let copiers = (0..1 + below(2)).map(|_| job.clone()).map(|job| spawn(move || step(job))).collect::<Vec<_>>();
    if cancelled {
        pause();
        job.cancel();
    }
    let finished = copiers.into_iter().fold(false, |any, copier| copier.join().unwrap() || any);
    assert!(finished || cancelled);
    drop(job);
    rig.disk.resize(SIZE).expect("the layers are free again");
    finished
}

pub(crate) fn copy_on_read_fetches_once() {
    let rig = Rig::new(&layers(2), 1);
    rig.disk.set_copy_on_read(true);
    let base = rig.stores[1].clone();
    base.reads.lock().unwrap().clear();
    let start = rig.disk.chain().layers[1].image().map_or(0, |image| image.data_location().1);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let disk = rig.disk.clone();
            spawn(move || {
                for _ in 0..3 {
                    let at = below(SIZE - 100);
                    disk.read_at(&mut vec![0; (1 + below(SIZE - at)) as usize], at).unwrap();
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let mut reads: Vec<Range<u64>> = base.reads.lock().unwrap().clone();
    reads.retain(|read| read.start >= start);
    reads.sort_by_key(|read| read.start);
    assert!(reads.windows(2).all(|pair| pair[0].end <= pair[1].start), "fetched twice: {reads:?}");
}

/// Steps a mirror from `how_many` threads until it ends, and counts errors, if there may be any.
fn copiers(mirror: &Arc<LiveMirror>, how_many: u64, errors: Option<Arc<AtomicU64>>) {
    mirror.set_share(if once_in(2) { 100 } else { 30 });
    for _ in 0..how_many {
        let (mirror, errors) = (mirror.clone(), errors.clone());
        spawn(move || {
            let budget = GRANULE << below(3);
            loop {
                match (mirror.step(budget), &errors) {
                    (Ok(_), _) => {}
                    (Err(Error::Cancelled), _) => return,
                    (Err(_), Some(errors)) => drop(errors.fetch_add(1, Ordering::Relaxed)),
                    (Err(error), None) => panic!("{error}"),
                }
                pause();
            }
        });
    }
}

fn until_ready(mirror: &LiveMirror) {
    while !mirror.progress().ready {
        pause();
    }
}

/// Changes the pace at any moment, a few times.
fn moody(mirror: &Arc<LiveMirror>) {
    let mirror = mirror.clone();
    spawn(move || {
        for _ in 0..below(4) {
            mirror.set_pace(pace());
            pause();
        }
    });
}

/// Where the disk begins in the file of a target.
fn data_offset(target: &Chain) -> u64 {
    target.image(0).map_or(0, |image| image.data_location().1)
}

fn carries_mark(chain: &Chain) -> bool {
    chain.image(0).is_ok_and(|image| image.header().copy_mark.is_some())
}

pub(crate) fn mirrors_that_pivot() {
    let mut rig = Rig::new(&layers(1 + below(3)), 1);
    rig.disk.set_copy_on_read(once_in(2));
    rig.start_guests(6);
    let before = once_in(4).then(|| snapshot(&rig));
    let (store, target) = rig.target(!once_in(3));
    let offset = data_offset(&target);
    let (mirror, attached) = rig.timed(|| rig.disk.mirror_with(target, &options(pace())).unwrap());
    copiers(&mirror, 1 + below(2), None);
    moody(&mirror);
    until_ready(&mirror);
    let (at_ready, until_ready) = (store.durable_cells(offset), attached.start..rig.history.now());
    let (old, pivot) = rig.timed(|| rig.disk.pivot(&mirror).unwrap());
    let (left, durable, now) = (content(&*old), store.durable_cells(offset), rig.history.now());
    assert!(rig.disk.chain().layers.len() == 1 && !carries_mark(&rig.disk.chain()));
    let after = once_in(4).then(|| snapshot(&rig));
    rig.finish();
    before.into_iter().chain(after).for_each(|judge| judge(&rig));
    assert_eq!(content(&*old), left, "after the pivot nobody writes to the source");
    rig.history.check_cells(until_ready, &at_ready, "durable at READY");
    rig.history.check_cells(pivot.start..now, &durable, "durable after the pivot");
    rig.history.check_instant(pivot, &left, "the source that was left");
}

/// The guest's layer alone moves.
pub(crate) fn mirrors_of_the_top() {
    let mut rig = Rig::new(&layers(2 + below(2)), 1);
    rig.disk.set_copy_on_read(once_in(2));
    rig.start_guests(6);
    let lower = rig.disk.chain().layers.len() - 1;
    let options = MirrorOptions { compare: once_in(2), ..options(pace()) };
    let mirror = rig.disk.mirror_top(&rig.target_beside(), &options).unwrap();
    copiers(&mirror, 1 + below(2), None);
    moody(&mirror);
    until_ready(&mirror);
    let (old, pivot) = rig.timed(|| rig.disk.pivot(&mirror).unwrap());
    let left = content(&*old);
    assert!(rig.disk.chain().layers.len() == 1 + lower && !carries_mark(&rig.disk.chain()));
    rig.finish();
    assert_eq!(content(&*old), left, "after the pivot nobody writes to the source");
    rig.history.check_instant(pivot, &left, "the source that was left");
}

pub(crate) fn mirrors_that_split() {
    let mut rig = Rig::new(&layers(1 + below(3)), 1);
    rig.start_guests(6);
    let (store, target) = rig.target(!once_in(3));
    let offset = data_offset(&target);
    let (mirror, attached) = rig.timed(|| rig.disk.mirror_with(target, &options(pace())).unwrap());
    copiers(&mirror, 1 + below(2), None);
    moody(&mirror);
    until_ready(&mirror);
    let (at_ready, until_ready) = (store.durable_cells(offset), attached.start..rig.history.now());
    let (target, window) = rig.timed(|| rig.disk.split(&mirror).unwrap());
    let copy = content(&*target);
    assert_eq!(copy, store.durable_cells(offset), "a split target is durable");
    assert!(!carries_mark(&target));
    let after = once_in(4).then(|| snapshot(&rig));
    rig.finish();
    after.into_iter().for_each(|judge| judge(&rig));
    assert_eq!(content(&*target), copy, "after the split nobody writes to the target");
    rig.history.check_cells(until_ready, &at_ready, "durable at READY");
    rig.history.check_instant(window, &copy, "the split target");
}

pub(crate) fn mirrors_that_are_abandoned() {
    let mut rig = Rig::new(&layers(1 + below(2)), 1);
    rig.start_guests(8);
    let (store, target) = rig.target(true);
    let mirror = rig.disk.mirror_with(target, &options(pace())).unwrap();
    copiers(&mirror, 1 + below(2), None);
    moody(&mirror);
    (0..below(10)).for_each(|_| pause());
    let target = rig.disk.abandon(&mirror).unwrap();
    let left = store.bytes();
    rig.finish();
    assert!(store.bytes() == left, "nobody writes to a target that was given up");
    assert!(carries_mark(&target), "and it is no copy");
}

/// Runs that are given up, and one that goes to its end: what the sync bitmap forgets on the way is in the target.
pub(crate) fn mirrors_that_are_taken_up_again() {
    let mut rig = Rig::new(&layers(1 + below(2)), 1);
    let image = !once_in(3);
    let (store, target) = rig.target(image);
    let begin = |rig: &Rig, target, pace| {
        rig.disk.mirror_resumable(target, "copy", GRANULE.ilog2() as u8, &options(pace)).unwrap()
    };
    let mut mirror = begin(&rig, target, if once_in(2) { Pace::Background } else { pace() });
    if !once_in(3) {
        step_until_ready(&mirror, SIZE);
    }
    rig.start_guests(4);
    for _ in 0..1 + below(2) {
        // Without a copier the next run has to know of all that the guests write.
        copiers(&mirror, below(2), None);
        let saver = mirror.clone();
        spawn(move || (0..8).for_each(|_| drop(saver.save())));
        (0..below(40)).for_each(|_| pause());
        rig.disk.abandon(&mirror).unwrap();
        mirror = begin(&rig, rig.target_in(&store, image), pace());
    }
    copiers(&mirror, 1 + below(2), None);
    moody(&mirror);
    until_ready(&mirror);
    let (target, window) = rig.timed(|| rig.disk.split(&mirror).unwrap());
    let copy = content(&*target);
    rig.finish();
    rig.history.check_instant(window, &copy, "the split target");
}

/// What is on its way in a guest's request lands only if that gets its turn.
fn step_until_ready(mirror: &LiveMirror, budget: u64) {
    while !mirror.step(budget).unwrap().ready {
        pause();
    }
}

/// At READY every cell of the target is, durably, what the guest's disk held there since the mirror began.
pub(crate) fn ready_tells_of_a_whole_copy() {
    let mut rig = Rig::new(&layers(1), 1);
    rig.whole = true;
    rig.start_guests(4);
    let (store, target) = rig.target(!once_in(3));
    let offset = data_offset(&target);
    let (mirror, attached) = rig.timed(|| rig.disk.mirror_with(target, &options(Pace::WriteThrough)).unwrap());
    step_until_ready(&mirror, GRANULE);
    let (durable, now) = (store.durable_cells(offset), rig.history.now());
    rig.disk.abandon(&mirror).unwrap();
    rig.finish();
    rig.history.check_cells(attached.start..now, &durable, "durable at READY");
}

/// A pivot, or a split, has much to catch up with when somebody gives the mirror up: one of the two comes too late.
pub(crate) fn ends_that_meet() {
    let mut rig = Rig::new(&layers(1), 1);
    let (store, target) = rig.target(true);
    let mirror = rig.disk.mirror_with(target, &options(Pace::Background)).unwrap();
    step_until_ready(&mirror, SIZE);
    rig.start_guests(5);
    pause();
    let (disk, other, split) = (rig.disk.clone(), mirror.clone(), once_in(2));
    let end = spawn(move || if split { disk.split(&other) } else { disk.pivot(&other) }.is_ok());
    (0..below(20)).for_each(|_| pause());
    let abandoned = rig.disk.abandon(&mirror);
    let left = store.bytes();
    rig.finish();
    assert!(end.join().unwrap() != abandoned.is_ok(), "a mirror ends once");
    if let Ok(target) = abandoned {
        assert!(store.bytes() == left, "nobody writes to a target that was given up");
        assert!(carries_mark(&target), "and it is no copy");
    }
}

/// A comparison beside guests finds no difference, since there is none; one that somebody else made it finds, unless a
/// guest has overwritten it. What it finds is copied again.
pub(crate) fn mirrors_that_are_compared() {
    let mut rig = Rig::new(&layers(1 + below(2)), 1);
    let (store, target) = rig.target(!once_in(3));
    let offset = data_offset(&target);
    let options = MirrorOptions { compare: once_in(2), ..options(pace()) };
    let mirror = match once_in(3) {
        true => rig.disk.mirror_resumable(target, "copy", GRANULE.ilog2() as u8, &options).unwrap(),
        false => rig.disk.mirror_with(target, &options).unwrap(),
    };
    let early = once_in(2);
    if early {
        rig.start_guests(6);
    }
    let spoilt = !early && once_in(2);
    if spoilt {
        step_until_ready(&mirror, SIZE);
        store.write_at(&[221; CELL as usize], offset + below(CELLS as u64) * CELL).unwrap();
        rig.start_guests(3);
        mirror.compare().unwrap();
    }
    let errors = Arc::new(AtomicU64::new(0));
    copiers(&mirror, 1 + below(2), spoilt.then_some(errors));
    moody(&mirror);
    until_ready(&mirror);
    if !early && !spoilt {
        rig.start_guests(6);
    }
    if once_in(2) {
        mirror.compare().unwrap();
    }
    let (old, pivot) = loop {
        match rig.timed(|| rig.disk.pivot(&mirror)) {
            (Ok(old), pivot) => break (old, pivot),
            (Err(Error::Denied(_)), _) => pause(),
            (Err(error), _) => panic!("{error}"),
        }
    };
    let left = content(&*old);
    rig.finish();
    rig.history.check_instant(pivot, &left, "the source that was left");
}

/// A write of the guest's disk fails, half done. The guest hears of it, and the copy has what the disk has.
pub(crate) fn mirrors_of_a_failing_disk() {
    let rig = Rig::new(&layers(1), 1);
    let (store, target) = rig.target(!once_in(2));
    rig.faulty.store(true, Ordering::Relaxed);
    // The first writes are those of the session's header.
    rig.stores[0].arm(Fault::Write(if once_in(4) { 1 } else { 4 } + below(8)));
    mirror_among_errors(rig, store, target, None);
}

/// A write or barrier of the copy fails. The guest does not hear of it, and the copy is right in the end, or is none.
pub(crate) fn mirrors_into_a_failing_disk() {
    let rig = Rig::new(&layers(1), 1);
    let (store, target) = rig.target(!once_in(2));
    let fault = if once_in(2) { Fault::Sync(1 + below(8)) } else { Fault::Write(1 + below(12)) };
    let at_pivot = once_in(3).then_some(fault);
    if at_pivot.is_none() {
        store.arm(fault);
    }
    mirror_among_errors(rig, store, target, at_pivot);
}

/// At the first pivot `at_pivot` befalls the target.
fn mirror_among_errors(mut rig: Rig, store: Arc<Store>, target: Chain, mut at_pivot: Option<Fault>) {
    let (offset, faulty) = (data_offset(&target), rig.faulty.load(Ordering::Relaxed));
    // When one of a batch fails, all of them are done again, each by itself: no register does that.
    rig.batches = false;
    rig.start_guests(5);
    let options = options(if once_in(2) { Pace::Background } else { pace() });
    let mirror = match once_in(3) {
        true => rig.disk.mirror_resumable(target, "copy", GRANULE.ilog2() as u8, &options),
        false => rig.disk.mirror_with(target, &options),
    };
    let Ok(mirror) = mirror else { return rig.finish() };
    let errors = Arc::new(AtomicU64::new(0));
    copiers(&mirror, 1 + below(2), Some(errors.clone()));
    moody(&mirror);
    let mut failures = 0;
    let (old, window) = loop {
        if errors.load(Ordering::Relaxed) + failures > 10 {
            let target = rig.disk.abandon(&mirror).unwrap();
            return drop((rig.finish(), target));
        }
        if !mirror.progress().ready {
            pause();
            continue;
        }
        // The target's errors are not the guest's before it is the guest's disk.
        rig.faulty.store(true, Ordering::Relaxed);
        at_pivot.take().into_iter().for_each(|fault| store.arm(fault));
        match rig.timed(|| rig.disk.pivot(&mirror)) {
            (Ok(old), window) => break (old, window),
            (Err(_), _) => failures += 1,
        }
        rig.faulty.store(faulty, Ordering::Relaxed);
    };
    let (left, durable, now) = (content(&*old), store.durable_cells(offset), rig.history.now());
    assert!(!carries_mark(&rig.disk.chain()));
    rig.finish();
    rig.history.check_cells(window.start..now, &durable, "durable after the pivot");
    rig.history.check_instant(window, &left, "the source that was left");
}

/// Whatever guests do at once, never more of what was copied is behind than may be.
pub(crate) fn a_bounded_lag_stays_within_its_bound() {
    let mut rig = Rig::new(&layers(1), 1);
    let (_, target) = rig.target(once_in(2));
    let mirror = rig.disk.mirror_with(target, &options(Pace::Bounded)).unwrap();
    if once_in(2) {
        while !mirror.step(SIZE).unwrap().ready {}
    }
    rig.start_guests(8);
    copiers(&mirror, 1 + below(2), None);
    for _ in 0..20 {
        assert!(mirror.progress().lag <= GRANULE);
        pause();
    }
    rig.disk.abandon(&mirror).unwrap();
    rig.finish();
}

/// Guests that never stop, in one granule and in all: READY comes all the same, and so does the end of a pivot.
pub(crate) fn mirrors_under_endless_load() {
    let rig = Rig::new(&layers(1), 1);
    let (_, target) = rig.target(true);
    let pace = [Pace::Bounded, Pace::WriteThrough][below(2) as usize];
    let mirror = rig.disk.mirror_with(target, &options(pace)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let guests: Vec<_> = (0..2)
        .map(|number| {
            let (disk, stop) = (rig.disk.clone(), stop.clone());
            spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let cells = if number == 0 { 0..1 + below(4) } else { below(20)..20 };
                    disk.write_zeroes(cells.start * CELL..cells.end * CELL, true).unwrap();
                    pause();
                }
            })
        })
        .collect();
    copiers(&mirror, 1, None);
    until_ready(&mirror);
    mirror.set_pace(Pace::Background);
    pause();
    rig.disk.pivot(&mirror).unwrap();
    stop.store(true, Ordering::Relaxed);
    guests.into_iter().for_each(|guest| guest.join().unwrap());
}

pub(crate) fn merges_of_the_active_layer() {
    let depth = 2 + below(2);
    let mut rig = Rig::new(&layers(depth), depth as usize);
    rig.disk.set_copy_on_read(once_in(2));
    rig.start_guests(6);
    let base = 1 + below(depth - 1) as usize;
    let mirror = rig.disk.merge_active_with(base, &options(pace())).unwrap();
    copiers(&mirror, 1 + below(2), None);
    moody(&mirror);
    if once_in(4) {
        rig.disk.abandon(&mirror).unwrap();
        return rig.finish();
    }
    until_ready(&mirror);
    let old = rig.disk.pivot(&mirror).unwrap();
    let left = rig.stores[0].bytes();
    assert_eq!((old.layers.len(), rig.disk.chain().layers.len()), (depth as usize, depth as usize - base));
    rig.finish();
    assert!(rig.stores[0].bytes() == left, "after the pivot nobody writes to the old top");
    let mark = rig.disk.chain().image(0).ok().and_then(|image| image.header().merge_mark);
    assert!(mark.is_none(), "the base is whole");
}

/// The file of a group fails. Whatever it may be found to say, what a guest was told to be written is on the side that
/// counts then.
pub(crate) fn groups_whose_decision_fails() {
    let mut rig = Rig::new(&layers(1), 1);
    let (source, (_, target)) = (rig.disk.chain(), rig.target(true));
    let copy = target.image(0).unwrap().clone();
    let mirror = rig.disk.mirror_with(target, &options(pace())).unwrap();
    while !mirror.step(SIZE).unwrap().ready {}
    let group = Store::new("group");
    group.arm(if once_in(2) { Fault::Sync(1 + below(7)) } else { Fault::Write(1 + below(5)) });
    // Guests are refused once nobody knows where the disk is.
    rig.faulty.store(true, Ordering::Relaxed);
    rig.batches = false;
    rig.start_guests(4);
    let moved = pivot_together(&[Move { disk: rig.disk.clone(), mirror }], group.clone());
    rig.finish();
    if rig.disk.write_at(&[199; CELL as usize], 0).is_err() {
        assert!(matches!(moved, Err(Error::NoSpace { .. })), "{moved:?}");
        return;
    }
    let says = |file: Arc<dyn Storage>| Group::open(file, rig.host.clone()).map(|group| group.decision());
    for found in [says(group.clone()), says(group.durable())] {
        let side: &dyn BlockDevice = if matches!(found, Ok(Decision::Moved)) { &*copy } else { &*source };
        assert_eq!(content(side)[0], 199, "the file says {found:?}");
    }
}

macro_rules! tests {
    ($($story:ident)*) => {
        $(#[test]
        fn $story() {
            crate::explore(stringify!($story), super::$story);
        })*
    };
}

mod run {
    tests! {
        bitmaps_miss_nothing
        backups_are_of_one_instant
        what_is_pulled_is_of_one_instant
        snapshots
        streams
        merges_below
        copy_on_read_fetches_once
        mirrors_that_pivot
        mirrors_of_the_top
        mirrors_that_split
        mirrors_that_are_abandoned
        mirrors_that_are_taken_up_again
        ready_tells_of_a_whole_copy
        ends_that_meet
        mirrors_that_are_compared
        mirrors_of_a_failing_disk
        mirrors_into_a_failing_disk
        a_bounded_lag_stays_within_its_bound
        mirrors_under_endless_load
        merges_of_the_active_layer
        groups_whose_decision_fails
    }
}
