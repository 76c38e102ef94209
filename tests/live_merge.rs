//! Merges (commits) under a guest: of layers below it, and of the layer that it writes to.
//!
//! Told as in `live_stream.rs`.
//!
//! | story | where it is told |
//! |---|---|
//! | 17, layers below the guest | `a_merge_below_the_guest_never_changes_what_it_reads`; `live::tests::layers_below_the_guest_are_merged` |
//! | 18, the layer that the guest writes to | `the_guest_moves_to_the_base_or_stays_where_it_was`; `live::tests::the_layer_that_the_guest_writes_to_is_merged_below_it` |
//! | 19, what makes no sense | `merges_that_make_no_sense_are_refused_and_leave_no_trace` |
//! | 20, bases of another size | `a_base_grows_to_the_disk_and_is_never_cut`, `a_disk_does_not_grow_by_a_pivot` |
//! | 21, a short layer | `what_a_short_layer_hides_stays_hidden_through_every_merge`; `jobs::tests::jobs::a_short_middle_layer_hides_the_base` |
//! | 22, odd lengths | `disks_of_odd_lengths_are_merged` |
//! | 23, requests under way at the end | `a_read_under_way_outlasts_the_layers_it_reads_from`, `a_merge_is_cancelled_in_the_middle_of_a_copy` |
//! | 24, filters; parents given by the caller | there are no filters; `a_merge_goes_into_the_file_that_the_caller_gave` |
//! | 25, another overlay of the base | `another_child_of_the_base_is_refused_from_the_first_change_on` |
//! | 26, the top is emptied | at rest alone: `jobs::tests::jobs::merge_keeps_the_view_and_gives_it_to_the_base` |
//! | 27, bitmaps | `bitmaps.rs`, `bitmaps_go_with_the_guest` |
//! | 28, the disk goes away meanwhile | `while_a_merge_runs_nothing_else_touches_the_layers` |
//! | 29, crashes | `a_live_merge_may_be_killed_anywhere`; `jobs::tests::stopped::a_merge_may_stop_anywhere`, `tests/kill.rs`, `testing::scenarios` (`merge`, …) |

mod common;
mod live;

use common::{Place, Random};
use live::*;
use lvd::chain::{Chain, ChainOptions, GivenParents, ParentsInDirectories};
use lvd::image::{CreateOptions, Image};
use lvd::jobs::{Job, Merge, drive};
use lvd::live::Disk;
use lvd::storage::{Create, FileOptions, FileStorage, OsHost, Storage};
use lvd::{BlockDevice, Error, Violation};
use std::sync::Arc;

fn run(job: &Job) {
    drive(job, |_| {}).unwrap();
}

/// Merges the layer that the guest writes to into `base`, and moves the guest there.
fn merge_active(disk: &Disk, base: usize) {
    let mirror = disk.merge_active(base).unwrap();
    until_ready(&mirror);
    disk.pivot(&mirror).unwrap();
}

/// Story 17; ORD-80, ORD-84. Found: bytes of the merge that shine through before, or after, the layers above hide them.
#[test]
fn a_merge_below_the_guest_never_changes_what_it_reads() {
    let files = layers(&["-E------", "-D-D----", "--CC---C", "BB--B---", "A-A-AA-A"]);
    let disk = files.serve("layer0.lvd", 4);
    let mut guest = Guest::new(&*disk);
    let mut random = Random::new(17);
    for (top, base) in [(1, 3), (1, 3)] {
        let job = disk.merge(top, base).unwrap();
        while !job.step(BLOCK).unwrap().finished {
            guest.check_all();
            guest.act(&mut random);
        }
        guest.check_all();
    }
    let chain = disk.chain();
    let names: Vec<&str> = chain.layers.iter().map(|layer| layer.name()).collect();
    assert_eq!(names, ["layer0.lvd", "layer1.lvd", "layer4.lvd"]);
    disk.close().unwrap();
    files.delete("layer2.lvd");
    files.delete("layer3.lvd");
    same(&files.view("layer0.lvd").unwrap(), &guest.model, "the chain that is left");
    assert_eq!(letters(&files.view("layer4.lvd").unwrap()), "BDCDBA0C");
}

/// Story 18; ORD-81, ORD-82. Found: writes between READY and the pivot that are lost; a guest that goes on writing to a
/// base that was given up.
#[test]
fn the_guest_moves_to_the_base_or_stays_where_it_was() {
    const SIZE: u64 = MIB;
    let make = || {
        let files = Files::new();
        files.image("base.lvd", SIZE);
        files.change("base.lvd", |guest| guest.write(0..SIZE / 2, 1));
        files.overlay("top.lvd", "base.lvd", SIZE);
        let disk = files.serve("top.lvd", 1);
        (files, disk)
    };
    let busy = |disk: &Disk| Guests { disk, count: 2, size: SIZE }.during(std::thread::yield_now);

    let (files, disk) = make();
    let mirror = disk.merge_active(1).unwrap();
    until_ready(&mirror);
    let end = busy(&disk);
    disk.pivot(&mirror).unwrap();
    assert_eq!(disk.chain().name(), "base.lvd");
    let writes = files.file("top.lvd").count(Kind::Write, 0..SIZE);
    let after = busy(&disk);
    assert_eq!(files.file("top.lvd").count(Kind::Write, 0..SIZE), writes, "the guest still writes to the old top");
    disk.close().unwrap();
    assert!(after != end);
    same(&files.view("base.lvd").unwrap(), &after, "the base is the disk now");
    let old = files.read("top.lvd").unwrap_err();
    assert_eq!(old.violation(), Some(Violation::ParentMatches), "the old top lies on what is no more: {old}");

    let (files, disk) = make();
    let mirror = disk.merge_active(1).unwrap();
    until_ready(&mirror);
    busy(&disk);
    drop(disk.abandon(&mirror).unwrap());
    assert!(matches!(mirror.step(MIB), Err(Error::Cancelled)));
    denied(disk.pivot(&mirror), &["mirror"]);
    let writes = files.file("base.lvd").count(Kind::Write, 0..SIZE);
    let end = busy(&disk);
    assert_eq!(files.file("base.lvd").count(Kind::Write, 0..SIZE), writes, "the base was given up");
    disk.close().unwrap();
    same(&files.view("top.lvd").unwrap(), &end, "the guest has stayed on the top");
    assert_eq!(files.read("base.lvd").unwrap_err().violation(), Some(Violation::Marked));
    // Begun again it ends well, and the base is free.
    let disk = files.serve("top.lvd", 1);
    merge_active(&disk, 1);
    disk.close().unwrap();
    same(&files.view("base.lvd").unwrap(), &end, "the base");
}

/// Story 19. Found: a refusal that comes after the first mark is set.
#[test]
fn merges_that_make_no_sense_are_refused_and_leave_no_trace() {
    let files = layers(&["-C--", "B---", "AAAA"]);
    let disk = files.serve("layer0.lvd", 2);
    let headers = || (0..3).map(|index| disk.chain().image(index).unwrap().header()).collect::<Vec<_>>();
    let before = headers();
    denied(disk.merge(0, 2), &["guest writes to layer 0"]);
    denied(disk.merge(1, 1), &["layer 1 does not lie above layer 1"]);
    denied(disk.merge(2, 1), &["layer 2 does not lie above layer 1"]);
    denied(disk.merge(1, 3), &["none is number 3"]);
    denied(disk.merge_active(0), &["layer 0 does not lie above layer 0"]);
    denied(disk.merge_active(3), &["none is number 3"]);
    let other = layers(&["----", "AAAA"]).serve("layer0.lvd", 1);
    let foreign = other.merge_active(1).unwrap();
    denied(disk.pivot(&foreign), &["not, or no longer, one of this disk"]);
    denied(disk.abandon(&foreign), &["not, or no longer, one of this disk"]);
    assert_eq!(headers(), before);
    disk.close().unwrap();
    let reading = files.serve("layer0.lvd", 1);
    denied(reading.merge(1, 2), &["layer2.lvd", "not open for writing"]);
    denied(reading.merge_active(2), &["layer2.lvd", "not open for writing"]);
    assert_eq!(letters(&content(&*reading)), "BCAA");
}

/// Story 20; CHN-10, ORD-83. Found: a base that is cut, a base that stays short, a tail of the base that comes to light.
#[test]
fn a_base_grows_to_the_disk_and_is_never_cut() {
    // The base is shorter than what is merged into it.
    let files = layers(&["------", "-B---B", "AA"]);
    let disk = files.serve("layer0.lvd", 2);
    run(&disk.merge(1, 2).unwrap());
    assert_eq!(letters(&content(&*disk)), "AB000B");
    merge_active(&disk, 2);
    disk.close().unwrap();
    assert_eq!(letters(&files.view("layer2.lvd").unwrap()), "AB000B");
    // It is longer: what lies behind the end of the layers above is nobody's, and stays.
    let files = layers(&["------", "-B-", "AAAAAA"]);
    let disk = files.serve("layer0.lvd", 2);
    run(&disk.merge(1, 2).unwrap());
    assert_eq!(letters(&content(&*disk)), "ABA000");
    disk.close().unwrap();
    assert_eq!(letters(&files.view("layer0.lvd").unwrap()), "ABA000");
    assert_eq!(letters(&files.view("layer2.lvd").unwrap()), "ABAAAA");
}

/// Story 20, of the layer that the guest writes to. Found: a guest whose disk is longer after the pivot, and shows what
/// was hidden from it.
#[test]
fn a_disk_does_not_grow_by_a_pivot() {
    let files = layers(&["-C-", "AAAAAA"]);
    let disk = files.serve("layer0.lvd", 1);
    denied(disk.merge_active(1), &["layer1.lvd", "24576 bytes", "12288"]);
    assert!(disk.chain().image(1).unwrap().header().merge_mark.is_none());
    disk.resize(6 * BLOCK).unwrap();
    merge_active(&disk, 1);
    assert_eq!(letters(&content(&*disk)), "ACA000");
    disk.close().unwrap();
    assert_eq!(letters(&files.view("layer1.lvd").unwrap()), "ACA000");
}

/// Story 21; ORD-83, with the layers that QEMU's commit once got wrong. Found: `CBAC-AC-`, bytes of the base behind the
/// end of the short layer.
#[test]
fn what_a_short_layer_hides_stays_hidden_through_every_merge() {
    let (vector, view) = (["C--C--C-", "BB-B", "A-A-AAAA"], "CBAC00C0");
    for base in [1, 2] {
        let files = layers(&vector);
        let chain = files.open("layer0.lvd", base).unwrap();
        run(&Job::new(Merge::new(&chain, 0, base, false).unwrap(), files.clock.clone()));
        chain.close().unwrap();
        assert_eq!(letters(&files.view("layer0.lvd").unwrap()), view, "at rest");
        assert_eq!(letters(&files.view(&format!("layer{base}.lvd")).unwrap()), view, "at rest, the base");

        let files = layers(&vector);
        let disk = files.serve("layer0.lvd", base);
        merge_active(&disk, base);
        assert_eq!(letters(&content(&*disk)), view, "the layer that the guest writes to");
        disk.close().unwrap();
        assert_eq!(letters(&files.view(&format!("layer{base}.lvd")).unwrap()), view, "its base");

        let files = layers(&["--------", vector[0], vector[1], vector[2]]);
        let disk = files.serve("layer0.lvd", base + 1);
        run(&disk.merge(1, base + 1).unwrap());
        assert_eq!(letters(&content(&*disk)), view, "below the guest");
        disk.close().unwrap();
        for name in ["layer0.lvd".into(), "layer1.lvd".into(), format!("layer{}.lvd", base + 1)] {
            assert_eq!(letters(&files.view(&name).unwrap()), view, "below the guest, {name}");
        }
    }
}

/// Story 22. Found: a merge of nothing that never ends, a last byte that is lost.
#[test]
fn disks_of_odd_lengths_are_merged() {
    for size in [0, 1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 64 * KIB + 1, MIB + 1] {
        for active in [false, true] {
            let files = Files::new();
            files.image("base.lvd", size);
            files.change("base.lvd", |guest| guest.write(0..size / 2, 1));
            files.overlay("mid.lvd", "base.lvd", size);
            files.change("mid.lvd", |guest| guest.write(size - size.min(1)..size, 2));
            files.overlay("top.lvd", "mid.lvd", size);
            let disk = files.serve("top.lvd", 2);
            let mut guest = Guest::new(&*disk);
            guest.act(&mut Random::new(size));
            match active {
                true => merge_active(&disk, 2),
                false => run(&disk.merge(1, 2).unwrap()),
            }
            guest.check_all();
            disk.close().unwrap();
            let name = if active { "base.lvd" } else { "top.lvd" };
            same(&files.view(name).unwrap(), &guest.model, &format!("{size} bytes, {name}"));
        }
    }
}

/// Story 23. Found: a layer that is let go of, or that changes, under a read that is still at it.
#[test]
fn a_read_under_way_outlasts_the_layers_it_reads_from() {
    let files = layers(&["----", "-C--", "BB--", "AAAA"]);
    let disk = files.serve("layer0.lvd", 3);
    let job = disk.merge(1, 3).unwrap();
    while job.progress().done < job.progress().total {
        job.step(BLOCK).unwrap();
    }
    let between = files.file("layer2.lvd");
    let held = between.hold(Kind::Read, 0..BLOCK);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| bytes(&*disk, 0..BLOCK));
        held.reached();
        let merger = scope.spawn(|| run(&job));
        a_moment(&merger);
        assert!(disk.chain().layers.len() == 4, "the layer is still read from");
        held.release();
        assert_eq!(reader.join().unwrap(), [b'B'; BLOCK as usize]);
        merger.join().unwrap();
    });
    assert_eq!(disk.chain().layers.len(), 3);
    assert_eq!(letters(&content(&*disk)), "BCAA");
}

/// Story 23. Found: a cancel that waits for ever, or that lets a copy go on once the layers are free.
#[test]
fn a_merge_is_cancelled_in_the_middle_of_a_copy() {
    let files = layers(&["----", "-C--", "AAAA"]);
    let disk = files.serve("layer0.lvd", 2);
    let job = disk.merge(1, 2).unwrap();
    job.step(BLOCK).unwrap();
    let base = files.file("layer2.lvd");
    let held = base.hold(Kind::Write, BLOCK..2 * BLOCK);
    std::thread::scope(|scope| {
        let copier = scope.spawn(|| drive(&job, |_| {}));
        held.reached();
        job.cancel();
        assert!(matches!(job.step(BLOCK), Err(Error::Cancelled)));
        denied(disk.stream(None), &["commit"]);
        held.release();
        assert!(matches!(copier.join().unwrap(), Err(Error::Cancelled)));
    });
    drop(job);
    assert_eq!(letters(&content(&*disk)), "ACAA");
    run(&disk.merge(1, 2).unwrap());
    run(&disk.stream(None).unwrap());
    disk.close().unwrap();
    assert_eq!(letters(&files.view("layer0.lvd").unwrap()), "ACAA");
}

/// Story 24; law N. Found: a job that goes by the names in the files.
#[test]
fn a_merge_goes_into_the_file_that_the_caller_gave() {
    let files = layers(&["-C--", "AAAA"]);
    let elsewhere = Arc::new(files.file("layer1.lvd").copy(Fuse::endless()));
    let untouched = files.view("layer1.lvd").unwrap();
    let parents = GivenParents::new([elsewhere.clone() as Arc<dyn Storage>]);
    let options = ChainOptions { write: true, write_also: Some(1), ..ChainOptions::default() };
    let disk = Disk::new(Chain::open(files.file("layer0.lvd"), files.clock.clone(), &parents, &options).unwrap());
    merge_active(&disk, 1);
    disk.close().unwrap();
    let merged = Chain::open(elsewhere, files.clock.clone(), &GivenParents::default(), &ChainOptions::default());
    assert_eq!(letters(&content(&merged.unwrap())), "ACAA");
    same(&files.view("layer1.lvd").unwrap(), &untouched, "the file that the hint names");
}

/// Story 25; CHN-03, CHN-04. Found: another overlay that goes on showing a base of which half is somebody else's.
#[test]
fn another_child_of_the_base_is_refused_from_the_first_change_on() {
    for active in [false, true] {
        let files = layers(&["----", "-C--", "AAAA"]);
        files.overlay("sibling.lvd", "layer2.lvd", 4 * BLOCK);
        let refused = |rules: &[Violation]| {
            let error = files.read("sibling.lvd").unwrap_err();
            assert!(error.violation().is_some_and(|rule| rules.contains(&rule)), "{error}");
        };
        assert_eq!(letters(&files.view("sibling.lvd").unwrap()), "AAAA");
        let disk = files.serve("layer0.lvd", 2);
        if active {
            let mirror = disk.merge_active(2).unwrap();
            refused(&[Violation::Marked, Violation::ParentMatches]);
            until_ready(&mirror);
            refused(&[Violation::Marked, Violation::ParentMatches]);
            disk.pivot(&mirror).unwrap();
        } else {
            let job = disk.merge(1, 2).unwrap();
            assert_eq!(letters(&files.view("sibling.lvd").unwrap()), "AAAA", "nothing has changed yet");
            job.step(BLOCK).unwrap();
            refused(&[Violation::Marked, Violation::ParentMatches]);
            run(&job);
        }
        disk.close().unwrap();
        refused(&[Violation::ParentMatches]);
        assert_eq!(letters(&files.view("layer2.lvd").unwrap()), "ACAA");
    }
}

/// Story 28. Found: a disk that is closed, resized or put under a snapshot while its layers are being merged.
#[test]
fn while_a_merge_runs_nothing_else_touches_the_layers() {
    let files = layers(&["----", "-C--", "B---", "AAAA"]);
    let disk = files.serve("layer0.lvd", 3);
    let busy = ["commit", "layer0.lvd"];
    let all_refused = |number: u32| {
        denied(disk.stream(Some(1)), &busy);
        denied(disk.merge(1, 2), &busy);
        denied(disk.merge_active(1), &busy);
        denied(disk.mirror(files.target(&format!("copy{number}.lvd"), 4 * BLOCK)), &busy);
        denied(disk.snapshot(files.add(&format!("snap{number}.lvd")), "layer0.lvd".into(), 12), &busy);
        denied(disk.resize(BLOCK), &busy);
        denied(disk.close(), &busy);
    };
    let job = disk.merge(1, 2).unwrap();
    all_refused(0);
    job.step(BLOCK).unwrap();
    all_refused(1);
    run(&job);
    let mirror = disk.merge_active(2).unwrap();
    all_refused(2);
    denied(disk.pivot(&mirror), &["not ready"]);
    until_ready(&mirror);
    all_refused(3);
    denied(disk.split(&mirror), &["pivot"]);
    disk.pivot(&mirror).unwrap();
    assert_eq!(letters(&content(&*disk)), "BCAA");
    disk.close().unwrap();
    assert_eq!(letters(&files.view("layer2.lvd").unwrap()), "BCAA");
}

/// CHN-11. Found: a base that is written to while other programs may read it, since the snapshot above it had let them;
/// a base that nobody may read afterwards.
#[test]
fn what_is_merged_into_is_held_alone_and_free_again_afterwards() {
    let place = Place::new();
    let host = || Arc::new(OsHost::default());
    let file = |name: &str, write: bool, create: Create| {
        let options = FileOptions { write, create, ..FileOptions::default() };
        Arc::new(FileStorage::open(place.path(name), &options).unwrap())
    };
    let open = |name: &str, write: bool| {
        let policy = ParentsInDirectories::new(place.root(), [place.root()]);
        let options = ChainOptions { write, ..ChainOptions::default() };
        Chain::open(file(name, write, Create::No), host(), &policy, &options)
    };
    let options = CreateOptions { virtual_size: 4 * BLOCK, ..CreateOptions::default() };
    Image::create(&*file("base.lvd", true, Create::New), &*host(), &options).unwrap();
    let disk = Disk::new(open("base.lvd", true).unwrap());
    for (name, below) in [("one.lvd", "base.lvd"), ("two.lvd", "one.lvd"), ("top.lvd", "two.lvd")] {
        let block = disk.chain().layers.len() as u64;
        disk.write_at(&[block as u8; BLOCK as usize], (block - 1) * BLOCK).unwrap();
        disk.snapshot(file(name, true, Create::New), below.into(), 12).unwrap();
    }
    let readable = |name: &str| match open(name, false) {
        Ok(_) => true,
        Err(Error::Locked { .. }) => false,
        Err(error) => panic!("{name}: {error}"),
    };
    let names = ["top.lvd", "two.lvd", "one.lvd", "base.lvd"];
    assert_eq!(names.map(readable), [false, true, true, true]);
    let reader = open("base.lvd", false).unwrap();
    assert!(matches!(disk.merge(1, 3), Err(Error::Locked { .. })), "somebody reads the base");
    assert!(matches!(disk.merge_active(3), Err(Error::Locked { .. })), "somebody reads the base");
    assert_eq!(names.map(readable), [false, true, true, true], "what was taken is given back");
    drop(reader);
    let job = disk.merge(1, 3).unwrap();
    assert_eq!(names.map(readable), [false; 4]);
    run(&job);
    assert_eq!(names.map(readable), [false, true, false, true], "the layer between is dead");
    let mirror = disk.merge_active(2).unwrap();
    assert_eq!(names.map(readable), [false; 4]);
    until_ready(&mirror);
    let old = disk.pivot(&mirror).unwrap();
    assert!(!readable("base.lvd"), "it is the guest's disk now");
    assert!((0..3).all(|block| bytes(&*disk, block * BLOCK..block * BLOCK + 1) == [block as u8 + 1]));
    drop((old, mirror));
    disk.close().unwrap();
}

/// Story 29; ORD-80 to ORD-84. The process is killed at each change of any file in turn, then the merge is begun again.
/// Found: a chain that does not open, a flushed write that is gone, a base that counts as whole and is not.
#[test]
fn a_live_merge_may_be_killed_anywhere() {
    for active in [false, true] {
        let scene = layers(&["-E------", "-D--D---", "--CC----", "AA-AAA-A"]);
        let before = scene.view("layer0.lvd").unwrap();
        for changes in 0.. {
            let fuse = Fuse::new(changes);
            let files = scene.copy(&fuse);
            let mut guest = Mortal::new(before.clone(), changes % 7);
            let ran = files.open("layer0.lvd", 3).and_then(|chain| merge_beside(&Disk::new(chain), &mut guest, active));
            let (pivoted, finished) = (ran.as_ref().is_ok_and(|()| active), ran.is_ok() && !fuse.burnt());
            let files = files.copy(&Fuse::endless());
            let context = format!("killed after {changes} changes");
            // After the pivot the base is the disk; before it the old top is, and whoever opens the base alone is told.
            let base = files.view("layer3.lvd");
            let found = match base {
                Ok(view) if pivoted => view,
                Err(error) if pivoted => panic!("{context}: {error}"),
                _ => files.view("layer0.lvd").unwrap_or_else(|error| panic!("{context}: {error}")),
            };
            guest.check(&found, &context);
            if !pivoted {
                let disk = files.serve("layer0.lvd", 3);
                let last = disk.chain().layers.len() - 1;
                match active {
                    true => merge_active(&disk, last),
                    false => run(&disk.merge(1, last).unwrap()),
                }
                same(&content(&*disk), &found, "after the merge that was begun again");
                disk.close().unwrap();
                files.delete("layer2.lvd");
                let name = if active { "layer3.lvd" } else { "layer0.lvd" };
                same(&files.view(name).unwrap(), &found, "and without the layer between");
            }
            if finished {
                break;
            }
        }
    }
}

/// A merge of three layers, and two requests of the guest at each of its steps.
fn merge_beside(disk: &Arc<Disk>, guest: &mut Mortal, active: bool) -> lvd::Result<()> {
    if active {
        let mirror = disk.merge_active(3)?;
        loop {
            guest.act(&**disk)?;
            guest.act(&**disk)?;
            if mirror.step(2 * BLOCK)?.ready {
                break;
            }
        }
        guest.act(&**disk)?;
        return disk.pivot(&mirror).map(drop);
    }
    let job = disk.merge(1, 3)?;
    loop {
        guest.act(&**disk)?;
        guest.act(&**disk)?;
        if job.step(2 * BLOCK)?.finished {
            return Ok(());
        }
    }
}
