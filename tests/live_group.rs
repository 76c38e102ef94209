//! Disks that move to their copies as one.
//!
//! What may fail does, at each of its calls: either every guest goes on with its source, or every one has moved, or
//! nobody writes any more until the group's file has been asked.

mod common;
mod live;

use live::*;
use lvd::chain::{Chain, ChainOptions, NoParents};
use lvd::format::Decision;
use lvd::image::{CreateOptions, Group, Image};
use lvd::live::{Disk, MirrorOptions, Move, Moved, pivot_together};
use lvd::storage::{Host, OsHost, Storage};
use lvd::switch::{Mistake, with_mistake};
use lvd::testing::sim::{Fault, SimDisk};
use lvd::{BlockDevice, Error, Result};
use std::panic::catch_unwind;
use std::sync::Arc;

const SIZE: u64 = 2 * BLOCK + 700;
const SIDES: [[&str; 2]; 2] = [["one.lvd", "one.copy.lvd"], ["two.lvd", "two.copy.lvd"]];
/// What may be in a group beside an image that moves to another one.
const KINDS: [[&str; 2]; 4] =
    [SIDES[1], ["two.lvd", "two.copy.raw"], ["two.raw", "two.copy.lvd"], ["two.lvd", "two.resumed.lvd"]];
const GROUP: &str = "group.lvg";

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

/// Opens a file for writing, by the group's file if there is one.
fn open(files: &SimDisk, name: &str, ignore_marks: bool) -> Result<Chain> {
    let group = files.exists(GROUP).then(|| Group::open(files.open(GROUP, true)?, host()));
    let group = group.and_then(Result::ok).map(Arc::new);
    let options = ChainOptions { write: true, ignore_marks, group, ..ChainOptions::default() };
    if name.ends_with(".raw") {
        return Chain::open_raw(files.open(name, true)?, host(), &options);
    }
    Chain::open(files.open(name, true)?, host(), &NoParents, &options)
}

/// Begins to mirror a disk, and has the mirror ready.
fn mirror(files: &SimDisk, [source, target]: [&str; 2]) -> Move {
    let disk = Disk::new(open(files, source, false).unwrap());
    let target_chain = open(files, target, true).unwrap();
    let mirror = match target.contains("resumed") {
        true => disk.mirror_resumable(target_chain, "lacking", 12, &MirrorOptions::default()).unwrap(),
        false => disk.mirror(target_chain).unwrap(),
    };
    until_ready(&mirror);
    Move { disk, mirror }
}

/// Two disks with ready mirrors; the first block of each is its letter, of which the mirror lags a part behind.
fn ready(files: &SimDisk, sides: [[&str; 2]; 2]) -> Vec<Move> {
    let one = |[source, target]: [&str; 2]| {
        for (name, copy_mark) in [(source, false), (target, true)] {
            let file = files.create(name).unwrap();
            let options = CreateOptions { virtual_size: SIZE, copy_mark, ..CreateOptions::default() };
            match name.ends_with(".raw") {
                true => file.set_size(SIZE).unwrap(),
                false => Image::create(&*file, &*host(), &options).unwrap(),
            }
        }
        let Move { disk, mirror } = mirror(files, [source, target]);
        disk.write_at(&[source.as_bytes()[0]; BLOCK as usize], 0).unwrap();
        Move { disk, mirror }
    };
    sides.map(one).into()
}

/// What both disks hold then.
fn right(device: &dyn BlockDevice, [source, _]: [&str; 2]) {
    let mut wanted = vec![0; SIZE as usize];
    wanted[..BLOCK as usize].fill(source.as_bytes()[0]);
    same(&content(device), &wanted, source);
}

/// Which side of both disks opens for writing: of each one, and the same. Of a raw file the other side and the group tell.
fn moved(files: &SimDisk, sides: [[&str; 2]; 2]) -> bool {
    let tell = |[source, target]: [&str; 2]| {
        [(source, false), (target, true)]
            .map(|(name, if_opens)| (!name.ends_with(".raw")).then(|| open(files, name, false).is_ok() == if_opens))
    };
    let told: Vec<bool> = sides.into_iter().flat_map(tell).flatten().collect();
    assert!(told.iter().all(|moved| *moved == told[0]), "{sides:?}: {told:?}");
    told[0]
}

#[test]
fn all_guests_move() {
    let files = SimDisk::new();
    let moves = ready(&files, SIDES);
    let Moved { left, marks } = pivot_together(&moves, files.create(GROUP).unwrap()).unwrap();
    marks.unwrap();
    for ((Move { disk, .. }, left), sides) in moves.iter().zip(&left).zip(SIDES) {
        assert_eq!((left.name(), disk.chain().name()), (sides[0], sides[1]));
        right(&**disk, sides);
        disk.write_at(&[7], 5).unwrap();
        disk.close().unwrap();
        left.close().unwrap();
    }
    drop((moves, left));
    assert!(moved(&files, SIDES));
    // The copies are disks by themselves now; the sources are not, whatever becomes of the group's file.
    files.remove(GROUP);
    assert!(moved(&files, SIDES));
    let looked_at = |name| Chain::open(files.open(name, false).unwrap(), host(), &NoParents, &ChainOptions::default());
    assert!(SIDES.iter().flatten().all(|name| looked_at(name).is_ok()), "all can be read");
}

/// One disk with a full host under its copy; a barrier of the group's file that fails. Had each guest been moved by
/// itself, some would have moved.
#[test]
fn whatever_fails_all_guests_are_on_one_side() {
    KINDS.into_iter().for_each(whatever_fails);
}

fn whatever_fails(second: [&'static str; 2]) {
    let sides = [SIDES[0], second];
    let (mut sources, mut targets, mut doubts) = (0, 0, 0);
    for fault in (1..).map(Fault::NoSpace).take(200).chain((1..).map(Fault::FailSync).take(80)) {
        let files = SimDisk::new();
        let moves = ready(&files, sides);
        let group = files.create(GROUP).unwrap();
        files.arm(fault);
        let result = pivot_together(&moves, group);
        let fired = files.fired();
        files.arm(Fault::None);
        let what = format!("{sides:?} {fault:?}");
        assert!(fired || result.as_ref().is_ok_and(|moved| moved.marks.is_ok()), "{what}: {result:?}");
        let side = if result.is_ok() { 1 } else { 0 };
        let names: Vec<String> = moves.iter().map(|one| one.disk.chain().name().to_string()).collect();
        assert_eq!(names, sides.map(|sides| sides[side]), "{what}");
        let written: Vec<Result<()>> = moves.iter().map(|one| one.disk.write_at(b"?", SIZE - 1)).collect();
        moves.iter().zip(sides).for_each(|(one, sides)| assert_eq!(bytes(&*one.disk, 0..1), sides[0].as_bytes()[..1]));
        let in_doubt = written.iter().all(|result| matches!(result, Err(Error::Poisoned { .. })));
        let has_moved = result.is_ok();
        drop((moves, result));
        files.kill();
        // What the guests wrote in the end is on the side that counts.
        let now = moved(&files, sides);
        match (has_moved, in_doubt) {
            (true, _) => targets += usize::from(now),
            (false, true) => doubts += 1,
            (false, false) => sources += usize::from(!now),
        }
        assert!(in_doubt || has_moved == now, "{what}");
        for (sides, written) in sides.into_iter().zip(written) {
            let chain = open(&files, sides[usize::from(now)], false).unwrap();
            assert_eq!(bytes(&chain, 0..BLOCK), [sides[0].as_bytes()[0]; BLOCK as usize], "{what}");
            assert!(written.is_err() || bytes(&chain, SIZE - 1..SIZE) == b"?", "{what}");
        }
        if !now {
            go_on(&files, sides);
        }
    }
    assert!(sources > 10 && targets > 10 && doubts > 0, "{second:?}: {sources} {targets} {doubts}");
}

/// The same is asked for again, with another group, onto the same targets.
fn go_on(files: &SimDisk, sides: [[&str; 2]; 2]) {
    for (source, target) in sides.map(|[source, target]| (source, target)) {
        let Move { disk, mirror } = mirror(files, [source, target]);
        disk.pivot(&mirror).unwrap();
        assert_eq!(bytes(&*disk, 0..1), source.as_bytes()[..1]);
        disk.close().unwrap();
    }
}

/// The decision is written, and the host says that it is not. To go on with the sources would lose what the guests write
/// there as soon as somebody asks the group's file.
#[test]
fn a_decision_in_doubt_stops_all_guests() {
    let files = Files::new();
    let group = files.add(GROUP);
    let moves: Vec<Move> = SIDES
        .map(|[source, target]| {
            files.image(source, SIZE);
            let disk = files.serve(source, 0);
            let mirror = disk.mirror(files.target(target, SIZE)).unwrap();
            until_ready(&mirror);
            Move { disk, mirror }
        })
        .into();
    // Two barriers make the file, one begins with it, and the next one is that of the decision.
    let failing = group.fail_after(Kind::Sync, 0..1, 3);
    let failed = pivot_together(&moves, group.clone());
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    drop(failing);
    assert_eq!(Group::open(group.clone(), host()).unwrap().decision(), Decision::Moved);
    for Move { disk, mirror } in &moves {
        let poisoned = |result: Result<()>| match result {
            Err(Error::Poisoned { cause, .. }) => assert!(cause.contains(GROUP), "{cause}"),
            other => panic!("{other:?}"),
        };
        poisoned(disk.write_at(&[1], 0));
        poisoned(disk.write_zeroes(0..BLOCK, true));
        poisoned(disk.discard(0..BLOCK));
        poisoned(disk.flush());
        poisoned(disk.resize(SIZE + 1));
        poisoned(disk.close());
        poisoned(disk.pivot(mirror).map(drop));
        content(&**disk);
        assert!(matches!(mirror.step(BLOCK), Err(Error::Cancelled)));
        disk.abandon(mirror).unwrap();
    }
}

/// To go on with the sources after all is found out, by a fault of the decision.
#[test]
fn to_go_on_in_doubt_is_noticed() {
    let noticed = catch_unwind(|| with_mistake(Mistake::DoubtStays, || whatever_fails(KINDS[0])));
    let found = noticed.expect_err("it is a mistake");
    let found = found.downcast_ref::<String>().expect("a message");
    assert!(["NoSpace", "FailSync"].iter().any(|fault| found.contains(fault)), "{found}");
}

/// Two callers wanted the same disks in a group. The marks of the second took the place of the first one's, which then
/// decided: whoever opened the disks after a crash found the other group undecided, on both sides.
#[test]
fn no_disk_is_in_two_groups() {
    let files = Files::new();
    let [first, second] = ["first.lvg", "second.lvg"].map(|name| files.add(name));
    files.image("one.lvd", SIZE);
    let disk = files.serve("one.lvd", 0);
    let mirror = disk.mirror(files.target("one.copy.lvd", SIZE)).unwrap();
    until_ready(&mirror);
    let moves = [Move { disk: disk.clone(), mirror }];
    std::thread::scope(|scope| {
        let held = first.hold(Kind::Sync, 0..1);
        let moving = scope.spawn(|| pivot_together(&moves, first.clone()).unwrap());
        held.reached();
        denied(pivot_together(&moves, second.clone()), &["one.lvd", "another group"]);
        held.release();
        moving.join().unwrap().marks.unwrap();
    });
    assert_eq!(second.size().unwrap(), 0);
    assert_eq!(disk.chain().name(), "one.copy.lvd");
}

#[test]
fn what_cannot_move_together_does_not() {
    let files = Files::new();
    let (one, two) = (files.image("one.lvd", SIZE), files.image("two.lvd", SIZE));
    drop((one, two));
    let disk = files.serve("one.lvd", 0);
    let mirror = disk.mirror(files.target("copy.lvd", SIZE)).unwrap();
    let both = Move { disk: disk.clone(), mirror: mirror.clone() };
    denied(pivot_together(&[], files.add("none.lvg")), &["no disk"]);
    denied(pivot_together(std::slice::from_ref(&both), files.add("early.lvg")), &["not ready"]);
    until_ready(&mirror);
    denied(pivot_together(&[both.clone(), both.clone()], files.add("twice.lvg")), &["one.lvd", "another group"]);
    let other = Move { disk: files.serve("two.lvd", 0), mirror };
    denied(pivot_together(&[other], files.add("other.lvg")), &["mirror"]);
    let used = files.add("used.lvg");
    used.write_at(b"somebody's decision", 0).unwrap();
    denied(pivot_together(&[both], used), &["used.lvg", "empty"]);
    assert_eq!(disk.chain().image(0).unwrap().header().group_mark, None);
}

/// Found: a request that runs on one side while others have moved, or one that is lost between the two.
#[test]
fn groups_move_under_their_guests() {
    const SIZE: u64 = MIB + 700;
    for round in 0..5 {
        let files = Files::new();
        let moves = SIDES.map(|[source, target]| {
            files.image(source, SIZE);
            let disk = files.serve(source, 0);
            let mirror = disk.mirror(files.target(target, SIZE)).unwrap();
            Move { disk, mirror }
        });
        let guests = |disk| Guests { disk, count: 2, size: SIZE };
        let mut ends = Vec::new();
        let first = guests(&*moves[0].disk).during(|| {
            ends.push(guests(&*moves[1].disk).during(|| {
                moves.iter().for_each(|one| until_ready(&one.mirror));
                pivot_together(&moves, files.add(GROUP)).unwrap().marks.unwrap();
            }));
        });
        ends.insert(0, first);
        for ((one, [_, target]), end) in moves.iter().zip(SIDES).zip(ends) {
            one.disk.close().unwrap();
            same(&files.view(target).unwrap(), &end, &format!("{target}, round {round}"));
        }
    }
}
