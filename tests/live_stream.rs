//! Streams and copy-on-read under a guest.
//!
//! What users of live block operations have seen go wrong elsewhere, story by story. Each test's head names the rule of
//! the specification, or the promise of a job, that it holds, and the mistake that it would find.
//!
//! | story | where it is told |
//! |---|---|
//! | 1, a chain becomes one image | `a_stream_of_three_layers_leaves_one_image_that_stands_alone`; `jobs::tests::jobs::stream_keeps_the_view_and_needs_only_the_base` |
//! | 2, a stream to a base; what it drops keeps its instant | `live::tests::snapshots_keep_their_instant_and_streams_do_not_change_the_disk`. Into a layer below the top: at rest alone, by opening that layer |
//! | 3, nothing to copy | `a_stream_down_to_the_parent_has_nothing_to_do` |
//! | 4, pause and speed | `a_paused_stream_stands_still_while_the_guest_writes`; `jobs::tests::course` |
//! | 5, several streams at once | `four_disks_on_one_base_stream_at_once`; of one disk one job changes the layers at a time |
//! | 6, a second job | `while_a_stream_runs_nothing_else_touches_the_layers` |
//! | 7, stream and merge of one chain, in both orders | `a_stream_and_a_merge_come_one_after_the_other` |
//! | 8, short layers | `what_a_short_layer_hides_stays_hidden_through_a_stream` |
//! | 9, the guest changes what is being copied | `the_guest_changes_a_block_while_it_is_copied` |
//! | 10, odd lengths | `disks_of_odd_lengths_are_read_in_and_streamed` |
//! | 11, readers and a writer meet in one block | `a_block_that_two_read_and_one_writes_is_fetched_once` |
//! | 12, copy-on-read above copy-before-write | every order of threads: `interleavings`, `backups_are_of_one_instant` |
//! | 13, the parent is out of reach for a while | `a_parent_out_of_reach_costs_only_what_it_alone_holds` |
//! | 14, a remote parent changes | an export has no identity that could tell: such a parent is shown as unverified |
//! | 15, a throttle below the job | there are no filters: a job has its own speed |
//! | 16, crashes | `a_live_stream_may_be_killed_anywhere`; `jobs::tests::stopped::a_stream_may_stop_anywhere`, `tests/kill.rs`, `testing::scenarios` (`stream`, `stream to a base`) |

mod common;
mod live;

use common::Random;
use live::*;
use lvd::jobs::{Job, drive};
use lvd::live::Disk;
use lvd::{BlockDevice, ExtentKind};
use std::sync::Arc;
use std::time::Duration;

fn run(job: &Job) {
    drive(job, |_| {}).unwrap();
}

/// Story 1; ORD-70. Found: an image that still needs a parent; a block that no layer held and that now holds something.
#[test]
fn a_stream_of_three_layers_leaves_one_image_that_stands_alone() {
    let files = layers(&["-C-----C", "-BB-----", "AA--AA--"]);
    let disk = files.serve("layer0.lvd", 0);
    run(&disk.stream(None).unwrap());
    disk.close().unwrap();
    files.delete("layer1.lvd");
    files.delete("layer2.lvd");
    assert_eq!(letters(&files.view("layer0.lvd").unwrap()), "ACB0AA0C");
    let chain = files.read("layer0.lvd").unwrap();
    let image = chain.image(0).unwrap();
    assert!(image.complete() && image.header().parent.is_none());
    assert!(image.check().unwrap().findings.is_empty());
    let held = |block: u64| chain.extent(block * BLOCK, (block + 1) * BLOCK).unwrap().kind == ExtentKind::Data;
    let map: String = (0..8).map(|block| if held(block) { 'x' } else { '-' }).collect();
    assert_eq!(map, "xxx-xx-x", "what is held is what the layers held together");
}

/// Story 3. Found: a stream that copies what the parent goes on to hold, or that writes the link anew.
#[test]
fn a_stream_down_to_the_parent_has_nothing_to_do() {
    let files = layers(&["-C--", "AAAA"]);
    let disk = files.serve("layer0.lvd", 0);
    let before = disk.chain().image(0).unwrap().header();
    let job = disk.stream(Some(1)).unwrap();
    run(&job);
    assert_eq!(job.progress().copied, 0);
    assert_eq!(*disk.chain().image(0).unwrap().header(), *before, "not a byte of the header");
    assert_eq!(disk.chain().layers.len(), 2);
}

/// Story 4. Found: a job that goes on by itself while it is paused, that ends while paused, or that keeps to a speed
/// which was taken back.
#[test]
fn a_paused_stream_stands_still_while_the_guest_writes() {
    const SIZE: u64 = 10 * MIB;
    let files = Files::new();
    files.image("base.lvd", SIZE);
    files.change("base.lvd", |guest| guest.write(0..SIZE, 7));
    files.overlay("top.lvd", "base.lvd", SIZE);
    let disk = files.serve("top.lvd", 0);
    let mut guest = Guest::new(&*disk);
    let mut random = Random::new(4);
    let job = disk.stream(None).unwrap();
    while job.progress().done < SIZE * 3 / 10 {
        job.step(MIB / 2).unwrap();
    }
    job.pause();
    let before = job.progress();
    for _ in 0..50 {
        guest.act(&mut random);
        let progress = job.step(MIB).unwrap();
        assert!(progress.wait.is_some() && (progress.done, progress.copied) == (before.done, before.copied));
    }
    job.resume();
    job.set_speed(MIB);
    let begun = lvd::storage::Host::now(&*files.clock);
    let elapsed = || lvd::storage::Host::now(&*files.clock) - begun;
    while job.progress().done < SIZE * 6 / 10 {
        let progress = job.step(MIB).unwrap();
        lvd::storage::Host::sleep(&*files.clock, progress.wait.unwrap_or(Duration::ZERO));
        guest.act(&mut random);
    }
    let seconds = elapsed().as_secs_f64();
    assert!((1.5..=4.0).contains(&seconds), "3 MiB at 1 MiB/s took {seconds} s");
    job.set_speed(0);
    run(&job);
    assert!(elapsed().as_secs_f64() < seconds + 0.1, "no limit is a limit");
    guest.check_all();
}

/// Story 5. Found: jobs of different disks that get in each other's way over a base that all of them read.
#[test]
fn four_disks_on_one_base_stream_at_once() {
    const SIZE: u64 = 3 * MIB + 700;
    let files = Files::new();
    files.image("base.lvd", SIZE);
    files.change("base.lvd", |guest| guest.write(1000..2 * MIB, 7));
    let names = ["a.lvd", "b.lvd", "c.lvd", "d.lvd"];
    names.iter().for_each(|name| drop(files.overlay(name, "base.lvd", SIZE)));
    let disks = names.map(|name| files.serve(name, 0));
    let ends = std::thread::scope(|scope| {
        let stories = disks.each_ref().map(|disk| {
            scope.spawn(move || {
                let guests = Guests { disk: &**disk, count: 1, size: SIZE };
                guests.during(|| run(&disk.stream(None).unwrap()))
            })
        });
        stories.map(|story| story.join().unwrap())
    });
    for ((name, disk), end) in names.iter().zip(&disks).zip(&ends) {
        disk.close().unwrap();
        same(&files.view(name).unwrap(), end, name);
        assert!(files.read(name).unwrap().image(0).unwrap().complete());
    }
}

/// Story 6. Found: a second job, a snapshot, a resize or a close that pulls the layers from under a job; a refusal that
/// does not say what is in the way.
#[test]
fn while_a_stream_runs_nothing_else_touches_the_layers() {
    let files = layers(&["----", "-B--", "--C-", "AAAA"]);
    let disk = files.serve("layer0.lvd", 3);
    let job = disk.stream(Some(2)).unwrap();
    job.step(BLOCK).unwrap();
    let busy = ["stream", "layer0.lvd"];
    denied(disk.stream(None), &busy);
    denied(disk.merge(1, 3), &busy);
    denied(disk.merge_active(3), &busy);
    denied(disk.mirror(files.target("copy.lvd", 4 * BLOCK)), &busy);
    denied(disk.snapshot(files.add("snap.lvd"), "layer0.lvd".into(), 12), &busy);
    denied(disk.resize(8 * BLOCK), &busy);
    denied(disk.close(), &busy);
    run(&job);
    assert_eq!(letters(&content(&*disk)), "ABCA");
    assert_eq!(disk.chain().layers.len(), 3);
    // It is done, whoever still holds on to it; and letting go of it is none of the next job's business.
    let next = disk.merge(1, 2).unwrap();
    drop(job);
    denied(disk.resize(8 * BLOCK), &["commit", "layer0.lvd"]);
    run(&next);
    disk.resize(5 * BLOCK).unwrap();
    disk.close().unwrap();
    assert_eq!(letters(&files.view("layer0.lvd").unwrap()), "ABCA0");
}

/// Story 7. Found: a layer that comes back, or one that is left out twice, when two jobs shorten one chain.
#[test]
fn a_stream_and_a_merge_come_one_after_the_other() {
    let names = |files: &Files| {
        let chain = files.read("layer0.lvd").unwrap();
        chain.layers.iter().map(|layer| layer.name().to_string()).collect::<Vec<_>>()
    };
    for merge_first in [true, false] {
        let files = layers(&["D-----", "-C----", "-BB---", "AAAAA-"]);
        let disk = files.serve("layer0.lvd", 3);
        let guests = Guests { disk: &*disk, count: 2, size: 6 * BLOCK };
        let end = guests.during(|| {
            if merge_first {
                let merge = disk.merge(1, 3).unwrap();
                merge.step(BLOCK).unwrap();
                denied(disk.stream(Some(1)), &["commit", "layer0.lvd"]);
                run(&merge);
                run(&disk.stream(Some(2)).unwrap());
            } else {
                let stream = disk.stream(Some(2)).unwrap();
                stream.step(BLOCK).unwrap();
                denied(disk.merge(1, 3), &["stream", "layer0.lvd"]);
                run(&stream);
                run(&disk.merge(1, 2).unwrap());
                run(&disk.stream(Some(2)).unwrap());
            }
            assert_eq!(disk.chain().layers.len(), 2);
        });
        disk.close().unwrap();
        assert_eq!(names(&files), ["layer0.lvd", "layer3.lvd"]);
        files.delete("layer1.lvd");
        files.delete("layer2.lvd");
        same(&files.view("layer0.lvd").unwrap(), &end, "the chain of two");
    }
}

/// Story 8; CHN-10. Found: bytes of the base that a shorter layer hid come to light when that layer goes; a loop that
/// never gets past the end of a short layer.
#[test]
fn what_a_short_layer_hides_stays_hidden_through_a_stream() {
    let chains: [(&[&str], &str); 4] = [
        (&["-------C", "B---", "AAAAAAAA"], "BAAA000C"),
        (&["--C-----", "BB-B", "A-A-AAAA"], "BBCB0000"),
        (&["C---", "A-"], "C000"),
        (&["------", "----", "BB", "AAAAAA"], "BB0000"),
    ];
    for (texts, view) in chains {
        for base in (1..texts.len()).map(Some).chain([None]) {
            let files = layers(texts);
            let disk = files.serve("layer0.lvd", 0);
            assert_eq!(letters(&content(&*disk)), view);
            run(&disk.stream(base).unwrap());
            assert_eq!(letters(&content(&*disk)), view, "{texts:?} to {base:?}");
            disk.close().unwrap();
            (1..base.unwrap_or(texts.len())).for_each(|index| files.delete(&format!("layer{index}.lvd")));
            assert_eq!(letters(&files.view("layer0.lvd").unwrap()), view, "{texts:?} to {base:?}, opened anew");
        }
    }
}

/// What a guest does to a block, and what a test calls it.
type Change = (&'static str, fn(&mut Guest<'_>));

/// Story 9; ORD-44, ALC-10. Found: the copy of a block overwrites what the guest wrote meanwhile; a part of a block that
/// the guest wrote takes the rest with it; what a discard left turns into the parent's bytes again.
#[test]
fn the_guest_changes_a_block_while_it_is_copied() {
    const AT: u64 = 2 * BLOCK;
    let changes: [Change; 5] = [
        ("a write of the block", |guest| guest.write(AT..AT + BLOCK, 9)),
        ("a write of a part of it", |guest| guest.write(AT + 1000..AT + 1512, 9)),
        ("a write over its edge", |guest| guest.write(AT - 512..AT + 512, 9)),
        ("zeros", |guest| guest.zero(AT..AT + BLOCK)),
        ("a discard", |guest| guest.discard(AT..AT + BLOCK)),
    ];
    for (what, change) in changes {
        // Held before the parent is read, and after, when the old bytes are about to be written.
        for (held, kind) in [("layer1.lvd", Kind::Read), ("layer0.lvd", Kind::Write)] {
            let files = layers(&["----", "AAAA"]);
            let disk = files.serve("layer0.lvd", 0);
            let job = disk.stream(None).unwrap();
            // What is to be done before the first piece.
            job.step(BLOCK).unwrap();
            let mut guest = Guest::new(&*disk);
            let held = files.file(held);
            let held = held.hold(kind, AT..AT + BLOCK);
            std::thread::scope(|scope| {
                let copier = scope.spawn(|| run(&job));
                held.reached();
                let writer = scope.spawn(|| change(&mut guest));
                a_moment(&writer);
                held.release();
                copier.join().unwrap();
            });
            guest.check_all();
            disk.close().unwrap();
            same(&files.view("layer0.lvd").unwrap(), &guest.model, what);
        }
    }
}

/// Story 10. Found: the last, short block is lost, or is read past its end, or makes the file longer.
#[test]
fn disks_of_odd_lengths_are_read_in_and_streamed() {
    let around = |at: u64| [at - 1, at, at + 1];
    let sizes = [0, 1].into_iter().chain([512, BLOCK, 64 * KIB, 512 * KIB, MIB].into_iter().flat_map(around));
    for (number, size) in sizes.enumerate() {
        for shift in [12, 16, 20] {
            for copy_on_read in [false, true] {
                let files = Files::new();
                files.image("base.lvd", size);
                files.change("base.lvd", |guest| guest.write(0..size, 5));
                files.overlay_in_blocks("top.lvd", "base.lvd", size, shift);
                let disk = files.serve("top.lvd", 0);
                disk.set_copy_on_read(copy_on_read);
                let mut guest = Guest::new(&*disk);
                if size > 0 && number % 2 == 0 {
                    guest.write(size - 1..size, 6);
                }
                guest.check(size.saturating_sub(100)..size);
                run(&disk.stream(None).unwrap());
                disk.close().unwrap();
                same(&files.view("top.lvd").unwrap(), &guest.model, &format!("{size} bytes"));
                let chain = files.read("top.lvd").unwrap();
                let (file, offset) = chain.image(0).unwrap().data_location();
                assert_eq!(file.size().unwrap(), offset + size, "{size} bytes, blocks of 2^{shift}");
            }
        }
    }
}

/// Story 11; what copy-on-read promises: fetched once, never fetched again. Found: two readers that fetch the same
/// block, a fetch that overwrites what a guest wrote while it was under way.
#[test]
fn a_block_that_two_read_and_one_writes_is_fetched_once() {
    let files = layers(&["----", "AAAA"]);
    let disk = files.serve("layer0.lvd", 0);
    disk.set_copy_on_read(true);
    let base = files.file("layer1.lvd");
    let block = BLOCK..2 * BLOCK;
    let before = base.count(Kind::Read, block.clone());
    let held = base.hold(Kind::Read, block.clone());
    std::thread::scope(|scope| {
        let read = || bytes(&*disk, BLOCK..2 * BLOCK);
        let first = scope.spawn(read);
        held.reached();
        let second = scope.spawn(read);
        let writer = scope.spawn(|| disk.write_at(&[b'W'; 512], BLOCK + 512).unwrap());
        a_moment(&second);
        a_moment(&writer);
        held.release();
        for found in [first.join().unwrap(), second.join().unwrap()] {
            let (written, rest): (Vec<_>, Vec<_>) = (512..1024).map(|at| found[at]).partition(|byte| *byte == b'W');
            assert!(written.is_empty() || rest.is_empty(), "half of a write");
            assert!(found[..512].iter().chain(&found[1024..]).all(|byte| *byte == b'A'));
        }
    });
    let after = bytes(&*disk, block.clone());
    assert!(after[512..1024] == [b'W'; 512] && after[..512] == [b'A'; 512] && after[1024..] == [b'A'; 3072]);
    assert_eq!(base.count(Kind::Read, block) - before, 1, "one fetch");
}

/// Story 13; law P. Found: a block that counts as present though its bytes never came; a guest that cannot read what its
/// own layer holds; a stream that goes on past what it could not copy.
#[test]
fn a_parent_out_of_reach_costs_only_what_it_alone_holds() {
    for copy_on_read in [false, true] {
        let files = layers(&["C---", "AAAA"]);
        let disk = files.serve("layer0.lvd", 0);
        disk.set_copy_on_read(copy_on_read);
        let base = files.file("layer1.lvd");
        let dead = base.fail(Kind::Read, 2 * BLOCK..4 * BLOCK);
        let mut block = [0; BLOCK as usize];
        disk.read_at(&mut block, 0).unwrap();
        assert_eq!(block, [b'C'; BLOCK as usize]);
        disk.read_at(&mut block, BLOCK).unwrap();
        assert!(disk.read_at(&mut block, 2 * BLOCK).is_err());
        assert!(disk.write_at(&[b'P'; 10], 2 * BLOCK).is_err(), "the rest of the block is not to be had");
        disk.write_at(&[b'W'; BLOCK as usize], 3 * BLOCK).unwrap();
        let job = disk.stream(None).unwrap();
        let error = drive(&job, |_| {}).unwrap_err();
        assert!(error.to_string().contains("layer1.lvd"), "{error}");
        let here = |block: u64| disk.chain().image(0).unwrap().local_run(block * BLOCK, 4 * BLOCK).unwrap().0;
        assert!(here(0) && !here(2) && here(3));
        drop(job);
        dead.release();
        assert_eq!(letters(&content(&*disk)), "CAAW");
        run(&disk.stream(None).unwrap());
        disk.close().unwrap();
        files.delete("layer1.lvd");
        assert_eq!(letters(&files.view("layer0.lvd").unwrap()), "CAAW");
    }
}

/// Story 16; laws O and P, ORD-71. The process is killed at each change of any file in turn, then the job is begun again.
/// Found: a link that goes before the blocks that it stood for, a flushed write that is gone.
#[test]
fn a_live_stream_may_be_killed_anywhere() {
    for base in [None, Some(2)] {
        let scene = layers(&["-D--------", "-----EE---", "AA-AA-AAAA"]);
        let before = scene.view("layer0.lvd").unwrap();
        for changes in 0.. {
            let fuse = Fuse::new(changes);
            let files = scene.copy(&fuse);
            let mut guest = Mortal::new(before.clone(), changes % 7);
            let whole = stream_beside(&files.serve("layer0.lvd", 0), &mut guest, base);
            let finished = whole.is_ok() && !fuse.burnt();
            let files = files.copy(&Fuse::endless());
            let found = files.view("layer0.lvd").unwrap();
            guest.check(&found, &format!("killed after {changes} changes"));
            let disk = files.serve("layer0.lvd", 0);
            let again = base.filter(|_| disk.chain().layers.len() > 2);
            run(&disk.stream(again).unwrap());
            same(&content(&*disk), &found, "after the stream that was begun again");
            disk.close().unwrap();
            files.delete("layer1.lvd");
            same(&files.view("layer0.lvd").unwrap(), &found, "and without the layer that it took in");
            if finished {
                break;
            }
        }
    }
}

/// A stream, and two requests of the guest at each of its steps.
fn stream_beside(disk: &Arc<Disk>, guest: &mut Mortal, base: Option<usize>) -> lvd::Result<()> {
    disk.set_copy_on_read(base.is_some());
    let job = disk.stream(base)?;
    loop {
        guest.act(&**disk)?;
        guest.act(&**disk)?;
        if job.step(2 * BLOCK)?.finished {
            guest.act(&**disk)?;
            return guest.act(&**disk);
        }
    }
}
