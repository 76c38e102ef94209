//! Mirrors of a disk under its guest: READY, pivot, split, abandon.
//!
//! Told as in `live_stream.rs`.
//!
//! | story | where it is told |
//! |---|---|
//! | 30, a full mirror and the pivot | `the_target_is_the_source_at_the_swap_and_the_source_is_left_alone`; `live::tests::mirrors_converge_under_every_pace_and_the_guest_moves` |
//! | 31, giving up, and ending without a pivot | `a_mirror_is_abandoned_or_split_at_any_time`, `an_abandoned_target_is_written_no_more` |
//! | 32, hand-over | `a_request_under_way_at_the_start_reaches_the_target`, `a_request_that_lands_behind_the_copier_is_copied_again`, `a_request_that_overtakes_the_copier_is_copied_again` |
//! | 33, no race at the end | `no_write_is_lost_at_the_pivot`, `a_write_at_each_barrier_of_the_pivot_is_on_one_side_alone`; every order of two threads: `live::` under a concurrency checker |
//! | 34, write-through stays equal | `a_write_through_mirror_stays_equal` |
//! | 35, a part of a granule that is behind | `the_copier_brings_what_a_part_write_leaves_out` |
//! | 36, intersecting writes | `writes_that_intersect_do_not_wait_for_each_other_for_ever` |
//! | 37, convergence | `every_load_converges_but_in_the_background` |
//! | 38, the pace is changed | `the_pace_is_changed_while_the_guest_writes` |
//! | 39, small zeros | `zeros_smaller_than_a_granule_are_mirrored` |
//! | 40, targets | `targets_of_another_size_are_refused`, `old_bytes_of_the_target_do_not_survive`; the top alone: `the_top_alone_is_mirrored`, `a_mirror_of_the_top_needs_the_same_parent`; at rest, `jobs::tests::jobs::mirror_copies_everything_or_the_top` |
//! | 41, odd lengths | `disks_of_odd_lengths_are_mirrored` |
//! | 42, a resize, a pivot that fails | `while_a_mirror_runs_nothing_else_touches_the_layers`, `a_target_that_fails_costs_the_guest_nothing`, `a_mirror_whose_barrier_fails_is_never_ready` |
//! | 43, a mirror onto itself | `a_disk_is_not_mirrored_onto_itself` |
//! | 44, the guest's bitmaps | `bitmaps.rs`, `bitmaps_go_with_the_guest` |
//! | 45, several disks at once | `live_group.rs`; the crash scenario `live pivot of a group`; `control`, `guests_move_together` |
//! | 46, another host | `control`, `a_pivot_to_another_server`; `nbd`, `remote` |
//! | 47, a power cut of the target | `a_live_mirror_may_be_killed_anywhere`: until the pivot the target says that it is no copy |
//! | 71 and 72, a restart | into a raw file `a_raw_target_is_taken_up_again`; `control`, `a_mirror_into_an_export_goes_on_after_a_kill`; `interleavings`, `mirrors_that_are_taken_up_again`; `kill.rs`, `mirror_resumed`; the crash scenarios `mirror, resumed` |
//! | 48, compare at READY | `a_target_is_compared_with_its_source_before_the_pivot`; beside writes `a_comparison_beside_a_guest_finds_what_is_there_and_nothing_else`, `a_comparison_holds_a_gentle_piece_and_no_more`, `a_comparison_keeps_to_the_speed`, `what_a_comparison_found_is_copied_by_the_next_run`; `interleavings`, `mirrors_that_are_compared`; `control`, `comparisons` |

mod common;
mod live;

use common::Random;
use live::*;
use lvd::image::Image;
use lvd::jobs::compare;
use lvd::live::{Disk, LiveMirror, MirrorOptions, Pace};
use lvd::storage::{FileId, Host, LockMode, MemoryStorage, Storage};
use lvd::{BlockDevice, Error, Violation};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that a mirror copies together.
const GRANULE: u64 = 64 * KIB;
const PACES: [Pace; 3] = [Pace::Background, Pace::Bounded, Pace::WriteThrough];

/// `source.lvd`, half of it written, and what is to become its copy.
fn scene(size: u64) -> (Files, Arc<Disk>) {
    let files = Files::new();
    files.image("source.lvd", size);
    files.change("source.lvd", |guest| guest.write(0..size / 2, 1));
    let disk = files.serve("source.lvd", 0);
    (files, disk)
}

/// A mirror into `target.lvd` at some pace.
fn mirror(files: &Files, disk: &Disk, pace: Pace) -> Arc<LiveMirror> {
    let mirror = disk.mirror(files.target("target.lvd", disk.size())).unwrap();
    mirror.set_pace(pace);
    mirror
}

/// What the target holds now, whatever it says of itself.
fn peek(files: &Files, name: &str) -> Vec<u8> {
    let copy = Files::new();
    copy.take(&files.file(name));
    content(&copy.open_marked(name))
}

/// Story 30; ORD-90. Found: a target that lacks what was written after READY; a source that is written after the swap.
#[test]
fn the_target_is_the_source_at_the_swap_and_the_source_is_left_alone() {
    const SIZE: u64 = 2 * MIB + 700;
    for pace in PACES {
        let (files, disk) = scene(SIZE);
        let guests = Guests { disk: &*disk, count: 2, size: SIZE };
        let mirror = mirror(&files, &disk, pace);
        guests.during(|| {
            for _ in 0..10 {
                mirror.step(MIB / 4).unwrap();
            }
        });
        until_ready(&mirror);
        let at_swap = guests.during(std::thread::yield_now);
        let old = disk.pivot(&mirror).unwrap();
        let (source, target) = (files.file("source.lvd"), files.file("target.lvd"));
        let (written, copied) = (source.count(Kind::Write, 0..SIZE), target.count(Kind::Write, 0..SIZE));
        old.close().unwrap();
        drop(old);
        same(&files.view("source.lvd").unwrap(), &at_swap, "the source at the swap");
        let after = guests.during(std::thread::yield_now);
        assert_eq!(source.count(Kind::Write, 0..SIZE), written, "the guest still writes to the source");
        assert!(target.count(Kind::Write, 0..SIZE) > copied);
        disk.close().unwrap();
        same(&files.view("target.lvd").unwrap(), &after, "the target");
    }
}

/// Story 31; CHN-06. Found: a target that passes for a copy and is none; a guest that is moved, or stopped, by giving up;
/// a mirror that cannot be given up once its target fails.
#[test]
fn a_mirror_is_abandoned_or_split_at_any_time() {
    const SIZE: u64 = 4 * MIB;
    let stays = |files: &Files, disk: &Disk| {
        assert_eq!(disk.chain().name(), "source.lvd");
        let end = Guests { disk, count: 2, size: SIZE }.during(std::thread::yield_now);
        disk.close().unwrap();
        same(&files.view("source.lvd").unwrap(), &end, "the source");
    };
    for steps in [0, 1, 3, u64::MAX] {
        let (files, disk) = scene(SIZE);
        let mirror = mirror(&files, &disk, Pace::default());
        match steps {
            u64::MAX => until_ready(&mirror),
            steps => (0..steps).for_each(|_| assert!(!mirror.step(MIB).unwrap().ready)),
        }
        if steps != u64::MAX {
            denied(disk.split(&mirror), &["not ready"]);
            denied(disk.pivot(&mirror), &["not ready"]);
        }
        disk.abandon(&mirror).unwrap().close().unwrap();
        assert!(matches!(mirror.step(MIB), Err(Error::Cancelled)));
        denied(disk.abandon(&mirror), &["no longer"]);
        assert_eq!(files.read("target.lvd").unwrap_err().violation(), Some(Violation::Copying));
        stays(&files, &disk);
    }
    // With the target out of reach, before READY and after.
    for ready in [false, true] {
        let (files, disk) = scene(SIZE);
        let mirror = mirror(&files, &disk, Pace::default());
        if ready {
            until_ready(&mirror);
        }
        let target = files.file("target.lvd");
        let _dead = [Kind::Write, Kind::Zero, Kind::Sync].map(|kind| target.fail(kind, 0..SIZE));
        disk.write_at(&[9; 512], 0).unwrap();
        if ready {
            assert!(matches!(disk.pivot(&mirror), Err(Error::Io { .. } | Error::Poisoned { .. })));
            assert!(disk.split(&mirror).is_err());
        } else {
            assert!(mirror.step(MIB).is_err());
        }
        drop(disk.abandon(&mirror).unwrap());
        assert_eq!(files.read("target.lvd").unwrap_err().violation(), Some(Violation::Copying));
        stays(&files, &disk);
    }
    // Ended without a pivot: the copy of one instant, for good.
    let (files, disk) = scene(SIZE);
    let mirror = mirror(&files, &disk, Pace::default());
    until_ready(&mirror);
    let before = Guests { disk: &*disk, count: 2, size: SIZE }.during(std::thread::yield_now);
    let target = disk.split(&mirror).unwrap();
    stays(&files, &disk);
    target.close().unwrap();
    same(&files.view("target.lvd").unwrap(), &before, "the copy");
}

/// Story 31. Found: a target that is written by a copier that nobody waited for, after it was given back.
#[test]
fn an_abandoned_target_is_written_no_more() {
    let (files, disk) = scene(MIB);
    let mirror = mirror(&files, &disk, Pace::default());
    let target = files.file("target.lvd");
    let held = target.hold(Kind::Write, 0..MIB);
    std::thread::scope(|scope| {
        let copier = scope.spawn(|| mirror.step(MIB));
        held.reached();
        let abandoned = scope.spawn(|| disk.abandon(&mirror).map(drop));
        a_moment(&abandoned);
        assert!(!abandoned.is_finished(), "the copier is still at it");
        held.release();
        abandoned.join().unwrap().unwrap();
        let writes = target.count(Kind::Write, 0..MIB);
        let _ = copier.join().unwrap();
        disk.write_at(&[1; 512], 0).unwrap();
        assert!(mirror.step(MIB).is_err());
        assert_eq!(target.count(Kind::Write, 0..MIB), writes);
    });
}

/// What a guest does to a range, and how the file is asked for it.
type Change = (&'static str, Kind, fn(&mut Guest<'_>, Range<u64>));

const CHANGES: [Change; 3] = [
    ("a write", Kind::Write, |guest, range| guest.write(range, 9)),
    ("zeros", Kind::Zero, |guest, range| guest.zero(range)),
    ("a discard", Kind::Zero, |guest, range| guest.discard(range)),
];

/// Story 32: a request is under way while the mirror starts, and lands when the copier has passed its place. Found: a
/// change that neither the copier nor the marks know of (QEMU had it for three years).
#[test]
fn a_request_under_way_at_the_start_reaches_the_target() {
    for (what, kind, change) in CHANGES {
        for pace in PACES {
            let (files, disk) = scene(MIB);
            let target = files.target("target.lvd", MIB);
            let mut guest = Guest::new(&*disk);
            let source = files.file("source.lvd");
            let held = source.hold(kind, 0..BLOCK);
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| change(&mut guest, 0..BLOCK));
                held.reached();
                let copier = scope.spawn(|| {
                    let mirror = disk.mirror(target).unwrap();
                    mirror.set_pace(pace);
                    until_ready(&mirror);
                    mirror
                });
                a_moment(&copier);
                held.release();
                writer.join().unwrap();
                disk.pivot(&copier.join().unwrap()).unwrap();
            });
            assert_eq!(disk.chain().name(), "target.lvd");
            guest.check_all();
            disk.close().unwrap();
            same(&files.view("target.lvd").unwrap(), &guest.model, what);
        }
    }
}

/// The same, of a mirror that has long begun: the copier passes a place while a request for it is under way. Found: a
/// change that is marked before it is made, and so is marked no more when it comes.
#[test]
fn a_request_that_lands_behind_the_copier_is_copied_again() {
    for (what, kind, change) in CHANGES {
        for pace in PACES {
            let (files, disk) = scene(MIB);
            let mirror = mirror(&files, &disk, pace);
            let mut guest = Guest::new(&*disk);
            let source = files.file("source.lvd");
            let held = source.hold(kind, 0..BLOCK);
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| change(&mut guest, 0..BLOCK));
                held.reached();
                let copier = scope.spawn(|| until_ready(&mirror));
                a_moment(&copier);
                held.release();
                writer.join().unwrap();
                copier.join().unwrap();
            });
            let target = disk.split(&mirror).unwrap();
            same(&content(&*target), &guest.model, &format!("{what}, {pace:?}"));
        }
    }
}

/// The other way round: the guest changes a place that the copier has read and not yet written. Found: a mark that goes
/// when the copy lands, though it is younger than what was read.
#[test]
fn a_request_that_overtakes_the_copier_is_copied_again() {
    for (what, kind, change) in CHANGES {
        for pace in PACES {
            let (files, disk) = scene(MIB);
            let mut guest = Guest::new(&*disk);
            guest.write(0..MIB, 1);
            let mirror = mirror(&files, &disk, pace);
            let target = files.file("target.lvd");
            let held = target.hold(Kind::Write, 0..BLOCK);
            std::thread::scope(|scope| {
                let copier = scope.spawn(|| mirror.step(GRANULE).unwrap());
                held.reached();
                let writer = scope.spawn(|| change(&mut guest, 0..BLOCK));
                a_moment(&writer);
                held.release();
                copier.join().unwrap();
                writer.join().unwrap();
            });
            until_ready(&mirror);
            let target = disk.split(&mirror).unwrap();
            same(&content(&*target), &guest.model, &format!("{what} ({kind:?}), {pace:?}"));
        }
    }
}

/// Story 33, with threads as they come: guests that never stop, a pivot at any moment. Found: a write between the last
/// look at the marks and the swap.
#[test]
fn no_write_is_lost_at_the_pivot() {
    const SIZE: u64 = 256 * KIB;
    for round in 0..150 {
        let (files, disk) = scene(SIZE);
        let mirror = mirror(&files, &disk, PACES[round % 3]);
        let end = Guests { disk: &*disk, count: 3, size: SIZE }.during(|| {
            std::thread::scope(|scope| {
                // A second copier steps on through the pivot, which stops it.
                let copier = scope.spawn(|| while mirror.step(GRANULE).is_ok() {});
                if round % 3 == 0 {
                    // In the background alone READY may not come.
                    std::thread::yield_now();
                    mirror.set_pace(Pace::Bounded);
                }
                until_ready(&mirror);
                disk.pivot(&mirror).unwrap();
                copier.join().unwrap();
            });
        });
        disk.close().unwrap();
        same(&files.view("target.lvd").unwrap(), &end, &format!("the target of round {round}"));
    }
}

/// Story 33, move by move: a write comes while each of the pivot's barriers is under way. Found: a write that is
/// acknowledged on the source after the target was called complete.
#[test]
fn a_write_at_each_barrier_of_the_pivot_is_on_one_side_alone() {
    let mut barriers = 0;
    loop {
        let (files, disk) = scene(MIB);
        let mirror = mirror(&files, &disk, Pace::default());
        until_ready(&mirror);
        let mut guest = Guest::new(&*disk);
        guest.write(0..512, 7);
        let target = files.file("target.lvd");
        let held = target.hold_after(Kind::Sync, 0..0, barriers);
        let reached = std::thread::scope(|scope| {
            let pivot = scope.spawn(|| disk.pivot(&mirror).unwrap());
            while !held.is_reached() && !pivot.is_finished() {
                std::thread::yield_now();
            }
            let reached = held.is_reached();
            let writer = scope.spawn(|| {
                guest.write(3 * GRANULE - 512..5 * GRANULE + 512, 8);
                guest.zero(1024..GRANULE);
            });
            a_moment(&writer);
            held.release();
            writer.join().unwrap();
            let old = pivot.join().unwrap();
            old.close().unwrap();
            reached
        });
        guest.check_all();
        disk.close().unwrap();
        same(&files.view("target.lvd").unwrap(), &guest.model, &format!("a write at barrier {barriers}"));
        if !reached {
            break;
        }
        barriers += 1;
    }
    assert!(barriers >= 2, "the pivot waits for the target's data and for its header");
}

/// Story 34. Found: a request that reaches the source alone, one that is cut at the wrong place.
#[test]
fn a_write_through_mirror_stays_equal() {
    const SIZE: u64 = 4 * MIB + 300;
    let (files, disk) = scene(SIZE);
    let mirror = mirror(&files, &disk, Pace::WriteThrough);
    until_ready(&mirror);
    let (mut guest, mut random) = (Guest::new(&*disk), Random::new(34));
    for round in 0..200 {
        guest.act(&mut random);
        if round % 20 == 0 {
            let start = random.below(SIZE - MIB);
            guest.write(start..start + 512 + random.below(MIB - 512), round as u8);
        }
        let progress = mirror.progress();
        assert!(progress.behind == 0 && progress.ready, "round {round}: {progress:?}");
    }
    same(&peek(&files, "target.lvd"), &guest.model, "the target, without a copy");
}

/// Story 35. Found: a granule that counts as equal though a write brought only its middle; a copier that overwrites the
/// middle with what it read before.
#[test]
fn the_copier_brings_what_a_part_write_leaves_out() {
    for pace in PACES {
        let (files, disk) = scene(MIB);
        let mirror = mirror(&files, &disk, pace);
        let mut guest = Guest::new(&*disk);
        let target = files.file("target.lvd");
        // The copier is in the middle of the first granules; what it writes was read before the guest's writes.
        let held = target.hold(Kind::Write, 0..GRANULE);
        std::thread::scope(|scope| {
            let copier = scope.spawn(|| mirror.step(2 * GRANULE).unwrap());
            held.reached();
            let writer = scope.spawn(|| {
                // Behind, and nobody is at it; then over the edge into what is being copied.
                guest.write(5 * GRANULE + 700..5 * GRANULE + 1300, 7);
                guest.write(2 * GRANULE - 100..3 * GRANULE + 100, 8);
            });
            a_moment(&writer);
            held.release();
            copier.join().unwrap();
            writer.join().unwrap();
        });
        assert!(mirror.progress().behind >= 12 * GRANULE, "what was not copied is behind: {:?}", mirror.progress());
        until_ready(&mirror);
        disk.pivot(&mirror).unwrap();
        guest.check_all();
        disk.close().unwrap();
        same(&files.view("target.lvd").unwrap(), &guest.model, "the target");
    }
}

/// Story 36. Found: requests that each hold a part of what the other waits for.
#[test]
fn writes_that_intersect_do_not_wait_for_each_other_for_ever() {
    const SIZE: u64 = 3 * MIB;
    for file in ["source.lvd", "target.lvd"] {
        let (files, disk) = scene(SIZE);
        let mirror = mirror(&files, &disk, Pace::WriteThrough);
        until_ready(&mirror);
        let file = files.file(file);
        let held = [file.hold(Kind::Write, 0..1), file.hold(Kind::Write, SIZE - 1..SIZE)];
        let write = |range: Range<u64>, byte| {
            let data = vec![byte; (range.end - range.start) as usize];
            disk.write_at(&data, range.start).unwrap();
        };
        std::thread::scope(|scope| {
            let first = scope.spawn(|| write(0..MIB, 2));
            let last = scope.spawn(|| write(MIB..SIZE, 5));
            held.iter().for_each(|held| held.reached());
            let between = [3, 4].map(|byte| scope.spawn(move || write(0..2 * MIB, byte)));
            between.iter().for_each(a_moment);
            let [low, high] = held;
            high.release();
            last.join().unwrap();
            low.release();
            first.join().unwrap();
            between.into_iter().for_each(|thread| thread.join().unwrap());
        });
        assert_eq!(mirror.progress().behind, 0);
        same(&peek(&files, "target.lvd"), &content(&*disk), "the target");
    }
}

/// Story 37; what the design promises of every mirror: it converges. A guest that is faster than the copier, on one
/// thread so that it is so. Found: a copier that runs after the guest for ever, one that never sees all of the disk.
#[test]
fn every_load_converges_but_in_the_background() {
    const SIZE: u64 = 64 * MIB;
    for pace in PACES {
        let (files, disk) = scene(SIZE);
        let mirror = mirror(&files, &disk, pace);
        let (mut random, mut steps, mut untouched) = (Random::new(37), 0, SIZE);
        while !mirror.step(MIB).unwrap().ready && steps < 1000 {
            steps += 1;
            // Far more granules than a step copies, on half of the disk.
            for _ in 0..300 {
                let at = random.below(SIZE / 2 / 512) * 512;
                disk.write_at(&[steps as u8; 512], at).unwrap();
            }
            let progress = mirror.progress();
            let never_copied = progress.behind - progress.lag;
            assert!(never_copied <= untouched, "a granule that was copied counts as one that never was");
            untouched = never_copied;
        }
        match pace {
            Pace::Background => assert_eq!(steps, 1000, "such a guest is not caught up with"),
            _ => assert!(steps < 400, "{pace:?}: {steps} steps"),
        }
        if pace == Pace::Background {
            // Until the pace is another.
            assert_eq!(untouched, 0, "but all of the disk was copied once");
            mirror.set_pace(Pace::Bounded);
            until_ready(&mirror);
        }
        let end = content(&*disk);
        disk.pivot(&mirror).unwrap();
        disk.close().unwrap();
        same(&files.view("target.lvd").unwrap(), &end, "the target");
    }
}

/// Story 38. Found: a write that under neither the old pace nor the new one is marked or copied; a mirror that calls
/// itself equal and is not.
#[test]
fn the_pace_is_changed_while_the_guest_writes() {
    const SIZE: u64 = 2 * MIB;
    let (files, disk) = scene(SIZE);
    let mirror = mirror(&files, &disk, Pace::Background);
    let guests = Guests { disk: &*disk, count: 3, size: SIZE };
    for round in 0..40 {
        guests.during(|| {
            for step in 0..12 {
                mirror.set_pace(PACES[(round + step) % 3]);
                mirror.step(GRANULE).unwrap();
            }
            mirror.set_pace(PACES[round % 3]);
        });
        // The guests stand still: what counts as equal is.
        if round % 4 == 0 {
            while mirror.progress().behind > 0 {
                mirror.step(MIB).unwrap();
            }
            same(&peek(&files, "target.lvd"), &content(&*disk), &format!("the target after round {round}"));
        }
    }
    until_ready(&mirror);
    let end = content(&*disk);
    disk.pivot(&mirror).unwrap();
    disk.close().unwrap();
    same(&files.view("target.lvd").unwrap(), &end, "the target");
}

/// Story 39. Found: zeros of less than a granule that clear the mark of all of it, or none.
#[test]
fn zeros_smaller_than_a_granule_are_mirrored() {
    for pace in PACES {
        for ready in [false, true] {
            let (files, disk) = scene(MIB);
            let mut guest = Guest::new(&*disk);
            guest.write(0..MIB, 1);
            let mirror = mirror(&files, &disk, pace);
            match ready {
                true => until_ready(&mirror),
                false => drop(mirror.step(4 * GRANULE).unwrap()),
            }
            for length in [1, 512, BLOCK, GRANULE - 1, GRANULE, GRANULE + 1] {
                for start in [0, 512, 3 * GRANULE, 4 * GRANULE - 256, 9 * GRANULE + 1000, MIB - length] {
                    guest.zero(start..start + length);
                    guest.write(start..start + 1, 2);
                    guest.discard(start + length / 2..start + length);
                }
            }
            until_ready(&mirror);
            let target = disk.split(&mirror).unwrap();
            guest.check_all();
            same(&content(&*target), &guest.model, &format!("{pace:?}, ready: {ready}"));
        }
    }
}

/// A block device in memory: its length is what it is, and new space is not zeros.
#[derive(Debug)]
struct Device(MemoryStorage);

impl Storage for Device {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn size(&self) -> lvd::Result<u64> {
        self.0.size()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> lvd::Result<()> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> lvd::Result<()> {
        self.0.write_at(data, offset)
    }
    fn sync(&self) -> lvd::Result<()> {
        self.0.sync()
    }
    fn sync_directory(&self) -> lvd::Result<()> {
        Ok(())
    }
    fn set_size(&self, size: u64) -> lvd::Result<()> {
        assert!(size <= self.0.size()?, "a device does not grow");
        Ok(())
    }
    fn punch(&self, range: Range<u64>) -> lvd::Result<()> {
        self.0.punch(range)
    }
    fn write_zeroes(&self, range: Range<u64>) -> lvd::Result<()> {
        self.0.write_zeroes(range)
    }
    fn lock(&self, _mode: LockMode) -> lvd::Result<()> {
        Ok(())
    }
    fn id(&self) -> Option<FileId> {
        self.0.id()
    }
    fn zeros_when_new(&self) -> bool {
        false
    }
}

/// Story 40. Found: a guest whose disk has another size after the pivot.
#[test]
fn targets_of_another_size_are_refused() {
    let (files, disk) = scene(MIB);
    for size in [0, MIB - 1, MIB + 1, 2 * MIB] {
        let name = format!("{size}.lvd");
        denied(disk.mirror(files.target(&name, size)), &[&name, &size.to_string(), &MIB.to_string()]);
    }
    // Nor onto what is no copy in the making.
    files.image("whole.lvd", MIB);
    denied(disk.mirror(files.open("whole.lvd", 0).unwrap()), &["whole.lvd", "target of a copy"]);
    let options = lvd::chain::ChainOptions { write: true, ..Default::default() };
    for size in [MIB - 512, MIB, MIB + 512] {
        let device = Arc::new(Device(MemoryStorage::with_bytes("device", &vec![0xee; size as usize])));
        let target = lvd::chain::Chain::open_raw(device, files.clock.clone(), &options).unwrap();
        match (size, disk.mirror(target)) {
            (MIB, mirror) => {
                let mirror = mirror.unwrap();
                until_ready(&mirror);
                let end = content(&*disk);
                disk.pivot(&mirror).unwrap();
                same(&content(&*disk), &end, "the device");
                return;
            }
            (_, Err(Error::NoSpace { .. } | Error::Invalid(_))) => {}
            (_, result) => panic!("a device of {size} bytes: {result:?}"),
        }
    }
}

/// Story 40; ORD-90. Found: what the target held before, where the source holds nothing.
#[test]
fn old_bytes_of_the_target_do_not_survive() {
    const SIZE: u64 = MIB + 5000;
    let mut random = Random::new(40);
    for round in 0..12 {
        let (files, disk) = scene(SIZE);
        files.snapshot(&disk, "top.lvd", "source.lvd");
        let mut guest = Guest::new(&*disk);
        let target = match round % 4 {
            0 => {
                // A raw file, shorter or longer, full of something.
                let raw = files.add("target.raw");
                raw.write_at(&vec![0xee; (SIZE / 2 + random.below(SIZE)) as usize], 0).unwrap();
                files.open("target.raw", 0).unwrap()
            }
            1 => {
                // A run before this one has filled it.
                let target = files.target("target.lvd", SIZE);
                target.write_at(&vec![0xee; SIZE as usize], 0).unwrap();
                target
            }
            shift => {
                // It has a parent of its own, and large blocks.
                files.image("other.lvd", SIZE);
                files.change("other.lvd", |guest| guest.write(0..SIZE, 0xee));
                files.target_on("target.lvd", "other.lvd", SIZE, 12 + 4 * (shift as u8 - 2))
            }
        };
        let mirror = disk.mirror(target).unwrap();
        while !mirror.step(MIB / 4).unwrap().ready {
            guest.act(&mut random);
        }
        guest.act(&mut random);
        disk.pivot(&mirror).unwrap();
        guest.check_all();
        guest.act(&mut random);
        disk.close().unwrap();
        let name = if round % 4 == 0 { "target.raw" } else { "target.lvd" };
        same(&files.view(name).unwrap(), &guest.model, &format!("round {round}"));
    }
}

/// Story 40, `sync: top`. Found: a target that lacks what the guest wrote meanwhile, that holds what the parent has, or that
/// lies on something else; a guest that cannot merge down afterwards.
#[test]
fn the_top_alone_is_mirrored() {
    const BLOCKS: u64 = 64;
    for (number, pace) in PACES.into_iter().cycle().take(9).enumerate() {
        let base: String = "A".repeat(BLOCKS as usize);
        let top = "-C".to_owned() + &"-".repeat(BLOCKS as usize - 2);
        let files = layers(&[&top, &base]);
        let disk = files.serve("layer0.lvd", 1);
        let (mut guest, mut random) = (Guest::new(&*disk), Random::new(number as u64));
        let target = files.target_on("target.lvd", "layer1.lvd", BLOCKS * BLOCK, 12);
        if number % 2 == 1 {
            // What an earlier run left there.
            target.write_at(&[0xee; 3 * BLOCK as usize], 30 * BLOCK).unwrap();
        }
        let options = MirrorOptions { granularity: BLOCK, pace, compare: true, ..MirrorOptions::default() };
        let mirror = disk.mirror_top(&target, &options).unwrap();
        drop(target);
        let held = |at| disk.extent(at, at + BLOCK).unwrap().depth == 0;
        while mirror.progress().behind > 0 {
            mirror.step(4 * BLOCK).unwrap();
            if random.below(4) == 0 {
                let at = random.below(BLOCKS / 2) * BLOCK + random.below(BLOCK);
                guest.write(at..at + 1 + random.below(2 * BLOCK), number as u8);
                guest.zero(at + 700..at + 900);
            }
        }
        until_ready(&mirror);
        guest.write(40 * BLOCK + 5..41 * BLOCK + 5, 9);
        let before: Vec<bool> = (0..BLOCKS).map(|block| held(block * BLOCK)).collect();
        match number % 3 {
            0 => {
                let split = disk.split(&mirror).unwrap();
                assert_eq!(disk.chain().name(), "layer0.lvd");
                same(&content(&*split), &guest.model, "the copy");
                continue;
            }
            _ => drop(disk.pivot(&mirror).unwrap()),
        }
        assert_eq!(
            disk.chain().layers.iter().map(|layer| layer.name()).collect::<Vec<_>>(),
            ["target.lvd", "layer1.lvd"]
        );
        let after: Vec<bool> = (0..BLOCKS).map(|block| held(block * BLOCK)).collect();
        // A block that an earlier run left has to be held, too.
        let more = |block: usize| number % 2 == 1 && (30..33).contains(&block);
        assert!(
            (0..BLOCKS as usize).all(|block| after[block] == before[block] || more(block)),
            "{pace:?}: {before:?}, {after:?}"
        );
        assert!(before.iter().any(|held| *held) && before.iter().any(|held| !held));
        guest.check_all();
        if number % 3 == 1 {
            guest.write(50 * BLOCK..51 * BLOCK, 10);
            let merge = disk.merge_active(1).unwrap();
            until_ready(&merge);
            disk.pivot(&merge).unwrap();
            guest.check_all();
        }
        disk.close().unwrap();
        let name = if number % 3 == 1 { "layer1.lvd" } else { "target.lvd" };
        same(&files.view(name).unwrap(), &guest.model, name);
    }
}

/// Story 40. Found: a copy of the top on what is not the top's parent.
#[test]
fn a_mirror_of_the_top_needs_the_same_parent() {
    let files = layers(&["-C--", "AAAA"]);
    files.image("other.lvd", 4 * BLOCK);
    let disk = files.serve("layer0.lvd", 0);
    let options = MirrorOptions::default();
    let strange = files.target_on("strange.lvd", "other.lvd", 4 * BLOCK, 12);
    denied(disk.mirror_top(&strange, &options), &["strange.lvd", "the source's parent"]);
    denied(disk.mirror_top(&files.target("alone.lvd", 4 * BLOCK), &options), &["alone.lvd", "the source's parent"]);
    let on_itself = files.target_on("on.lvd", "layer0.lvd", 4 * BLOCK, 12);
    denied(disk.mirror_top(&on_itself, &options), &["on.lvd", "lies on the disk itself"]);
    files.add("raw.raw");
    denied(disk.mirror_top(&files.open("raw.raw", 0).unwrap(), &options), &["raw.raw", "not an LVD image"]);
    files.image("whole.lvd", 4 * BLOCK);
    let whole = files.serve("whole.lvd", 0);
    denied(whole.mirror_top(&files.target("copy.lvd", 4 * BLOCK), &options), &["the source's parent"]);
    disk.close().unwrap();
}

/// Story 41. Found: a disk smaller than a granule, a last part that is lost or makes the target longer; a mirror of
/// nothing that is never ready.
#[test]
fn disks_of_odd_lengths_are_mirrored() {
    let around = |at: u64| [at - 1, at, at + 1];
    for size in [0, 1].into_iter().chain([512, BLOCK, GRANULE, MIB].into_iter().flat_map(around)) {
        for raw in [false, true] {
            let (files, disk) = scene(size);
            let (mut guest, mut random) = (Guest::new(&*disk), Random::new(size));
            let (name, target) = match raw {
                true => {
                    files.add("target.raw");
                    ("target.raw", files.open("target.raw", 0).unwrap())
                }
                false => ("target.lvd", files.target("target.lvd", size)),
            };
            let mirror = disk.mirror(target).unwrap();
            guest.act(&mut random);
            while !mirror.step(1).unwrap().ready {
                guest.act(&mut random);
            }
            assert_eq!(mirror.progress().behind, 0);
            guest.act(&mut random);
            disk.pivot(&mirror).unwrap();
            guest.check_all();
            disk.close().unwrap();
            same(&files.view(name).unwrap(), &guest.model, &format!("{size} bytes, {name}"));
        }
    }
}

/// Story 42. Found: a source that is resized, streamed, snapshotted or closed under a mirror.
#[test]
fn while_a_mirror_runs_nothing_else_touches_the_layers() {
    let files = layers(&["-C--", "AAAA"]);
    let disk = files.serve("layer0.lvd", 1);
    let mirror = mirror(&files, &disk, Pace::default());
    let busy = ["mirror", "layer0.lvd"];
    let all_refused = |number: u32| {
        denied(disk.stream(None), &busy);
        denied(disk.merge_active(1), &busy);
        denied(disk.mirror(files.target(&format!("copy{number}.lvd"), 4 * BLOCK)), &busy);
        denied(disk.snapshot(files.add(&format!("snap{number}.lvd")), "layer0.lvd".into(), 12), &busy);
        denied(disk.resize(BLOCK), &busy);
        denied(disk.close(), &busy);
    };
    all_refused(0);
    until_ready(&mirror);
    all_refused(1);
    disk.split(&mirror).unwrap().close().unwrap();
    disk.resize(5 * BLOCK).unwrap();
    disk.close().unwrap();
    assert_eq!(letters(&files.view("target.lvd").unwrap()), "ACAA");
    assert_eq!(letters(&files.view("layer0.lvd").unwrap()), "ACAA0");
}

/// Story 42, and the errors of a target: they are the mirror's, not the guest's. Found: a guest's write that fails, or
/// is lost, because the target could not take it; a pivot that fails and leaves the guest nowhere; a target that is
/// equal but for what it could not take, and says READY.
#[test]
fn a_target_that_fails_costs_the_guest_nothing() {
    for pace in PACES {
        let (files, disk) = scene(MIB);
        let mirror = mirror(&files, &disk, pace);
        let (mut guest, mut random) = (Guest::new(&*disk), Random::new(42));
        let target = files.file("target.lvd");
        let dead = [Kind::Write, Kind::Zero].map(|kind| target.fail(kind, 3 * GRANULE..5 * GRANULE));
        let mut failed = 0;
        for _ in 0..40 {
            guest.act(&mut random);
            failed += usize::from(mirror.step(MIB).is_err());
        }
        assert!(failed > 0 && !mirror.progress().ready && mirror.progress().behind >= 2 * GRANULE);
        // Within reach again.
        dead.into_iter().for_each(|dead| dead.release());
        until_ready(&mirror);
        let dead = target.fail(Kind::Write, 0..MIB);
        guest.write(GRANULE..2 * GRANULE, 8);
        assert!(matches!(disk.pivot(&mirror), Err(Error::Io { .. })));
        assert_eq!(disk.chain().name(), "source.lvd");
        guest.write(7 * GRANULE..8 * GRANULE, 9);
        guest.check_all();
        dead.release();
        disk.pivot(&mirror).unwrap();
        guest.check_all();
        disk.close().unwrap();
        same(&files.view("target.lvd").unwrap(), &guest.model, &format!("{pace:?}"));
    }
}

/// READY says that the target is equal *and* durable. Found: a mirror that is ready though its barrier failed.
#[test]
fn a_mirror_whose_barrier_fails_is_never_ready() {
    let (files, disk) = scene(MIB);
    let mirror = mirror(&files, &disk, Pace::default());
    while mirror.progress().behind > 0 {
        mirror.step(MIB).unwrap();
    }
    let target = files.file("target.lvd");
    let dead = target.fail(Kind::Sync, 0..0);
    assert!(mirror.step(MIB).is_err() && !mirror.progress().ready);
    // A barrier that failed is not tried into success: the target takes nothing more.
    dead.release();
    assert!(mirror.step(MIB).is_err() && !mirror.progress().ready);
    denied(disk.pivot(&mirror), &["not ready"]);
    disk.write_at(&[9; 512], 0).unwrap();
    drop(disk.abandon(&mirror).unwrap());
    disk.close().unwrap();
}

/// Story 43. Found: a disk that is overwritten with itself; a parent that is overwritten under its children.
#[test]
fn a_disk_is_not_mirrored_onto_itself() {
    let files = layers(&["-C--", "-B--"]);
    let raw = files.add("raw.raw");
    raw.write_at(&[b'A'; 4 * BLOCK as usize], 0).unwrap();
    let on_raw = Files::new();
    on_raw.take(&raw);
    on_raw.overlay("top.lvd", "raw.raw", 4 * BLOCK);
    let disk = on_raw.serve("top.lvd", 0);
    denied(disk.mirror(on_raw.open("raw.raw", 0).unwrap()), &["raw.raw", "layer 1 of this disk"]);
    denied(disk.mirror(on_raw.open_marked("top.lvd")), &["top.lvd", "layer 0 of this disk"]);
    assert_eq!(letters(&content(&*disk)), "AAAA");
    // A copy in the making that lies on the very disk.
    let disk = files.serve("layer0.lvd", 0);
    let target = files.target_on("target.lvd", "layer0.lvd", 4 * BLOCK, 12);
    denied(disk.mirror(target), &["target.lvd", "lies on the disk itself"]);
    // On the disk's parent it may lie.
    let target = files.target_on("beside.lvd", "layer1.lvd", 4 * BLOCK, 12);
    let mirror = disk.mirror(target).unwrap();
    until_ready(&mirror);
    disk.pivot(&mirror).unwrap();
    disk.close().unwrap();
    assert_eq!(letters(&files.view("beside.lvd").unwrap()), "0C00");
}

/// Story 48, with the guest standing still. Found: a target that is READY and is not equal; a compare that does not see it.
#[test]
fn a_target_is_compared_with_its_source_before_the_pivot() {
    const SIZE: u64 = 3 * MIB + 700;
    let (files, disk) = scene(SIZE);
    let target = files.target("target.lvd", SIZE);
    let copy = target.top();
    let mirror = disk.mirror(target).unwrap();
    assert_eq!(compare(disk.clone(), copy.clone(), true).unwrap(), Some(0));
    until_ready(&mirror);
    Guests { disk: &*disk, count: 2, size: SIZE }.during(|| {
        for _ in 0..20 {
            mirror.step(MIB).unwrap();
        }
    });
    while mirror.progress().behind > 0 {
        mirror.step(MIB).unwrap();
    }
    assert_eq!(compare(disk.clone(), copy.clone(), true).unwrap(), None);
    let at = 2 * MIB + 12_345;
    let byte = bytes(&*copy, at..at + 1)[0];
    copy.write_at(&[!byte], at).unwrap();
    assert_eq!(compare(disk.clone(), copy.clone(), true).unwrap(), Some(at));
    copy.write_at(&[byte], at).unwrap();
    disk.pivot(&mirror).unwrap();
}

/// Compares until that is over.
fn until_compared(mirror: &LiveMirror) {
    while mirror.progress().to_compare > 0 {
        mirror.step(MIB).unwrap();
    }
}

/// Changes one byte of the disk in `file`, as a failing host does: nobody is told.
fn spoil(file: &Staged, at: u64) {
    let at = Image::read_header(file).unwrap().data_offset + at;
    let mut byte = [0];
    file.read_at(&mut byte, at).unwrap();
    file.write_at(&[!byte[0]], at).unwrap();
}

/// Compares until something is found.
fn find(mirror: &LiveMirror) -> Error {
    loop {
        match mirror.step(MIB) {
            Ok(progress) => assert!(progress.to_compare > 0, "nothing is found"),
            Err(error) => return error,
        }
    }
}

/// Story 48; ORD-99. Found: a difference that is none, one that is not found, one that is called by a wrong name; a pivot
/// before all was compared; a granule that is compared and not repaired.
#[test]
fn a_comparison_beside_a_guest_finds_what_is_there_and_nothing_else() {
    const SIZE: u64 = 3 * MIB + 700;
    for pace in PACES {
        let (files, disk) = scene(SIZE);
        let mirror = mirror(&files, &disk, pace);
        until_ready(&mirror);
        for round in 1..=3 {
            Guests { disk: &*disk, count: 3, size: SIZE }.during(|| {
                mirror.compare().unwrap();
                for _ in 0..3 {
                    denied(disk.pivot(&mirror), &["mirror", "compared"]);
                    denied(disk.split(&mirror), &["mirror", "compared"]);
                    mirror.step(MIB).unwrap();
                }
                until_compared(&mirror);
            });
            assert_eq!(mirror.progress().compared, round * SIZE);
        }
        while mirror.progress().behind > 0 {
            mirror.step(MIB).unwrap();
        }
        for at in [0, 2 * MIB + 12_345, SIZE - 1] {
            spoil(&files.file("target.lvd"), at);
            mirror.compare().unwrap();
            let error = find(&mirror);
            assert!(matches!(error, Error::Differs { at: found, .. } if found == at), "{error}");
            let told = error.to_string();
            assert!(["target.lvd", "source.lvd", &at.to_string()].iter().all(|word| told.contains(word)), "{told}");
            denied(disk.pivot(&mirror), &["compared"]);
            // Asked to go on it brings the place again.
            until_compared(&mirror);
        }
        let end = content(&*disk);
        disk.pivot(&mirror).unwrap();
        disk.close().unwrap();
        same(&files.view("target.lvd").unwrap(), &end, &format!("{pace:?}"));
    }
}

/// Story 48, asked for at the start: READY comes after it. Found: a mirror that is ready and was not compared; a byte that
/// was lost after its copy.
#[test]
fn a_mirror_that_is_to_be_compared_is_ready_afterwards() {
    const SIZE: u64 = 2 * MIB;
    for spoilt in [false, true] {
        let (files, disk) = scene(SIZE);
        let options = MirrorOptions { compare: true, ..MirrorOptions::default() };
        let mirror = disk.mirror_with(files.target("target.lvd", SIZE), &options).unwrap();
        while mirror.progress().behind > 0 {
            mirror.step(MIB).unwrap();
        }
        if spoilt {
            spoil(&files.file("target.lvd"), SIZE - 1);
            assert!(matches!(find(&mirror), Error::Differs { at, .. } if at == SIZE - 1));
        }
        let progress = mirror.progress();
        assert!(!progress.ready && progress.to_compare > 0, "{progress:?}");
        denied(disk.pivot(&mirror), &["not ready"]);
        until_ready(&mirror);
        let progress = mirror.progress();
        assert!(progress.to_compare == 0 && progress.compared == SIZE, "{progress:?}");
        disk.pivot(&mirror).unwrap();
        assert!(matches!(mirror.compare(), Err(Error::Cancelled)));
    }
}

/// Story 48. Found: a comparison that keeps a guest off more than it reads at once, or off nothing.
#[test]
fn a_comparison_holds_a_gentle_piece_and_no_more() {
    const PIECE: u64 = 256 * KIB;
    let (files, disk) = scene(2 * MIB);
    let mirror = mirror(&files, &disk, Pace::default());
    until_ready(&mirror);
    mirror.compare().unwrap();
    let target = files.file("target.lvd");
    disk.write_at(&[1; 512], MIB).unwrap();
    let held = target.hold(Kind::Read, 0..GRANULE);
    std::thread::scope(|scope| {
        let step = scope.spawn(|| mirror.step(MIB).unwrap());
        held.reached();
        disk.write_at(&[2; 512], PIECE).unwrap();
        let writer = scope.spawn(|| disk.write_at(&[3; 512], PIECE - 512).unwrap());
        a_moment(&writer);
        assert!(!writer.is_finished(), "what is compared changes meanwhile");
        held.release();
        writer.join().unwrap();
        assert_eq!(step.join().unwrap().compared, PIECE);
    });
    until_compared(&mirror);
    disk.pivot(&mirror).unwrap();
}

/// Story 48. Found: a comparison that reads as fast as it can, whatever the user says.
#[test]
fn a_comparison_keeps_to_the_speed() {
    let (files, disk) = scene(4 * MIB);
    let mirror = mirror(&files, &disk, Pace::default());
    mirror.set_share(100);
    until_ready(&mirror);
    mirror.compare().unwrap();
    mirror.set_speed(MIB);
    assert_eq!(mirror.step(MIB).unwrap().compared, MIB);
    let progress = mirror.step(MIB).unwrap();
    assert!(progress.compared == MIB && progress.wait.is_some(), "{progress:?}");
    files.clock.sleep(Duration::from_secs(1));
    assert_eq!(mirror.step(MIB).unwrap().compared, 2 * MIB);
}

/// Story 48, of a mirror that goes on after a restart; SYN-01. Found: a difference that was found, and that the bitmap
/// does not tell the next run of.
#[test]
fn what_a_comparison_found_is_copied_by_the_next_run() {
    const SIZE: u64 = 2 * MIB;
    for restart in [false, true] {
        let (files, disk) = scene(SIZE);
        let begin = |target| disk.mirror_resumable(target, "copy", 16, &MirrorOptions::default()).unwrap();
        let mut mirror = begin(files.target("target.lvd", SIZE));
        until_ready(&mirror);
        spoil(&files.file("target.lvd"), 5 * GRANULE + 1);
        mirror.compare().unwrap();
        assert!(matches!(find(&mirror), Error::Differs { at, .. } if at == 5 * GRANULE + 1));
        if restart {
            disk.abandon(&mirror).unwrap().close().unwrap();
            mirror = begin(files.open_marked("target.lvd"));
        }
        let before = mirror.progress().copied;
        until_ready(&mirror);
        until_compared(&mirror);
        assert_eq!(mirror.progress().copied - before, GRANULE, "restart: {restart}");
        let end = content(&*disk);
        disk.pivot(&mirror).unwrap();
        disk.close().unwrap();
        same(&files.view("target.lvd").unwrap(), &end, "the target");
    }
}

/// Story 71; SYN-01. Found: a raw target that is copied whole again, or not whole though it is another one.
#[test]
fn a_raw_target_is_taken_up_again() {
    const SIZE: u64 = 2 * MIB + 700;
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Left {
        AsItWas,
        OfAnotherSize,
        Replaced,
    }
    for left in [Left::AsItWas, Left::OfAnotherSize, Left::Replaced] {
        let (files, disk) = scene(SIZE);
        let mut guest = Guest::new(&*disk);
        guest.write(0..SIZE, 1);
        let options = MirrorOptions { compare: true, ..MirrorOptions::default() };
        let begin = || disk.mirror_resumable(files.open("target.raw", 0).unwrap(), "copy", 16, &options).unwrap();
        let raw = files.add("target.raw");
        let mirror = begin();
        while mirror.progress().copied < MIB {
            mirror.step(GRANULE).unwrap();
        }
        mirror.save().unwrap();
        drop(disk.abandon(&mirror).unwrap());
        guest.write(GRANULE - 1..GRANULE + 1, 2);
        match left {
            Left::AsItWas => {}
            Left::OfAnotherSize => raw.set_size(SIZE - 1).unwrap(),
            Left::Replaced => raw.write_at(&[0; SIZE as usize], 0).unwrap(),
        }
        let mirror = begin();
        if left == Left::Replaced {
            assert!(matches!(find(&mirror), Error::Differs { at: found, .. } if found == 2 * GRANULE));
            denied(disk.pivot(&mirror), &["not ready"]);
            drop(disk.abandon(&mirror).unwrap());
            continue;
        }
        until_ready(&mirror);
        let lacked = if left == Left::AsItWas { SIZE - MIB + 2 * GRANULE } else { SIZE };
        assert_eq!(mirror.progress().copied, lacked, "{left:?}");
        disk.pivot(&mirror).unwrap();
        guest.check_all();
        disk.close().unwrap();
        same(&files.view("target.raw").unwrap(), &guest.model, &format!("{left:?}"));
    }
}

/// Stories 31 and 47; ORD-90, CHN-06. The process is killed at each change of any file in turn. Found: a target that
/// opens and is not the disk, a source that lost a flushed write, a moment at which neither is the disk.
#[test]
fn a_live_mirror_may_be_killed_anywhere() {
    let paces = PACES.into_iter().enumerate();
    for ((number, pace), top) in paces.flat_map(|pace| [(pace, false), (pace, true)]) {
        let scene = layers(&["-D----------", "-----EE-----"]);
        let before = scene.view("layer0.lvd").unwrap();
        for changes in 0.. {
            let fuse = Fuse::new(changes);
            let files = scene.copy(&Fuse::endless());
            match top {
                true => drop(files.target_on("target.lvd", "layer1.lvd", 12 * BLOCK, 12)),
                false => drop(files.target("target.lvd", 12 * BLOCK)),
            }
            let files = files.copy(&fuse);
            let mut guest = Mortal::new(before.clone(), changes % 7);
            let (disk, target) = (files.serve("layer0.lvd", 0), files.open_marked("target.lvd"));
            let mut over = false;
            let ran = mirror_beside(&disk, target, top, &mut guest, pace, number == 0, &mut over);
            let finished = ran.is_ok() && !fuse.burnt();
            let (pivoted, split) = (over && number > 0, over && number == 0);
            let files = files.copy(&Fuse::endless());
            let context = format!("{pace:?}, killed after {changes} changes");
            let source = files.view("layer0.lvd").unwrap_or_else(|error| panic!("{context}: {error}"));
            match files.view("target.lvd") {
                Err(error) if !over => assert_eq!(error.violation(), Some(Violation::Copying), "{context}"),
                Err(error) => panic!("{context}: {error}"),
                Ok(target) if pivoted => guest.check(&target, &context),
                // All of the disk was on the target before it called itself one.
                Ok(target) if !split => same(&target, &guest.now(), &context),
                Ok(_) => {}
            }
            if !pivoted {
                guest.check(&source, &context);
            }
            if finished {
                break;
            }
        }
    }
}

/// A mirror, and two requests of the guest at each of its steps; `over` is set once the target counts.
fn mirror_beside(
    disk: &Disk,
    target: lvd::chain::Chain,
    top: bool,
    guest: &mut Mortal,
    pace: Pace,
    split: bool,
    over: &mut bool,
) -> lvd::Result<()> {
    let mirror = match top {
        true => disk.mirror_top(&target, &MirrorOptions::default())?,
        false => disk.mirror(target)?,
    };
    mirror.set_pace(pace);
    loop {
        guest.act(disk)?;
        if mirror.step(GRANULE)?.ready {
            break;
        }
    }
    guest.act(disk)?;
    match split {
        true => drop(disk.split(&mirror)?),
        false => drop(disk.pivot(&mirror)?),
    }
    *over = true;
    guest.act(disk)?;
    guest.act(disk)
}
