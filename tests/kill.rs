//! Every command is killed at random moments. Whatever it had acknowledged is there, the disk is right, and the
//! same command, run again, finishes.
//!
//! `LVD_KILLS` says how often each case is killed (20). A kill proves that nothing acknowledged lived in the
//! command's memory alone; loss of power is the crash simulator's to prove.

mod common;

use common::{MIB, Place, Random, content, lvd as command, run, same};
use std::cell::{Cell, RefCell};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SIZE: usize = 12 * MIB as usize;

fn kills() -> u64 {
    std::env::var("LVD_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// The disks of one case, as they were before the command.
#[derive(Default)]
struct Disks {
    /// The lowest layer.
    base: Vec<u8>,
    /// What the chain's middle shows.
    middle: Vec<u8>,
    /// What the chain's top shows.
    top: Vec<u8>,
}

/// base.lvd ← middle.lvd ← top.lvd, and another.lvd that middle.lvd might as well lie on.
fn chain(place: &Place) -> Disks {
    let mut random = Random::new(2026);
    let base = random.disk(SIZE);
    let raw = place.file("base.raw", &base);
    lvd!("convert", "-f", "raw", &raw, place.path("base.lvd")).ok();
    let mut disks = Disks { middle: base.clone(), top: base.clone(), base };
    layer(place, "middle.lvd", "base.lvd", &mut [&mut disks.middle, &mut disks.top], &mut random);
    layer(place, "top.lvd", "middle.lvd", &mut [&mut disks.top], &mut random);
    let another = random.disk(SIZE + 4096);
    let raw = place.file("another.raw", &another);
    lvd!("convert", "-f", "raw", &raw, place.path("another.lvd")).ok();
    disks
}

/// One more overlay, with stretches of all sizes in it.
fn layer(place: &Place, name: &str, parent: &str, disks: &mut [&mut Vec<u8>], random: &mut Random) {
    let path = place.path(name);
    lvd!("create", "-b", parent, &path).ok();
    for (place, length) in [(0u64, 100_000u64), (3 * MIB + 17, MIB), (7 * MIB, 300_001), (11 * MIB, 5)] {
        let at = place + random.below(1 << 18);
        let byte = random.next() as u8 | 1;
        lvd!("write", "-P", byte.to_string(), &path, at.to_string(), length.to_string()).ok();
        for disk in disks.iter_mut() {
            disk[at as usize..(at + length) as usize].fill(byte);
        }
    }
}

/// Copies the files of one place into a new one, holes and all.
fn copy_of(template: &Place) -> Place {
    let place = Place::new();
    let from = template.root().join(".");
    run(Command::new("cp").args(["-a", "--sparse=always", "--reflink=auto"]).arg(from).arg(place.root())).ok();
    place
}

/// What a killed run left.
struct Killed {
    out: Vec<u8>,
}

/// Runs `lvd` with `words` in `place` (names are relative to it) and kills it after `delay`.
fn run_and_kill(place: &Place, words: &[&str], input: &[u8], delay: Duration) -> (Killed, bool) {
    let mut child = command()
        .args(words)
        .current_dir(place.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    std::thread::sleep(delay);
    child.kill().expect("killed");
    let output = child.wait_with_output().expect("waited for");
    writer.join().expect("the writer ends");
    let killed = output.status.code().is_none();
    assert!(killed || output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    (Killed { out: output.stdout }, killed)
}

/// Kills `words` over and over, each time on a fresh copy of `template`. `after` looks at what each kill left,
/// `done` at what the same command made of it when it was left alone.
fn torture(template: &Place, words: &[&str], input: &[u8], after: impl Fn(&Place, &Killed), done: impl Fn(&Place)) {
    torture_each(|| copy_of(template), words, input, after, done);
}

/// The same, each time on files that `make` makes.
fn torture_each(
    make: impl Fn() -> Place,
    words: &[&str],
    input: &[u8],
    after: impl Fn(&Place, &Killed),
    done: impl Fn(&Place),
) {
    let finish = |place: &Place| {
        let mut again = command();
        again.args(words).current_dir(place.root()).stdin(Stdio::piped());
        let file = place.file("input", input);
        again.stdin(fs::File::open(file).expect("opened"));
        run(&mut again).ok();
    };
    let place = make();
    let begun = Instant::now();
    finish(&place);
    let time = begun.elapsed();
    done(&place);
    let mut random = Random::new(words.len() as u64);
    let during = Cell::new(0);
    for _ in 0..kills() {
        let place = make();
        let delay = time.mul_f64(random.below(1000) as f64 / 1000.0);
        let (left, killed) = run_and_kill(&place, words, input, delay);
        during.set(during.get() + u64::from(killed));
        after(&place, &left);
        finish(&place);
        done(&place);
    }
    println!("{}: {} kills, {} while it ran ({:.0?})", words.join(" "), kills(), during.get(), time);
}

/// The chain shows the same disk, and none of its layers is damaged.
fn unchanged(place: &Place, image: &str, disk: &[u8]) {
    same(&content(&place.path(image)), disk, image);
    sound(place);
}

fn sound(place: &Place) {
    for name in ["base.lvd", "middle.lvd", "top.lvd"] {
        if place.path(name).exists() {
            lvd!("check", place.path(name)).ok();
        }
    }
}

/// Every sector is old or new; those in which a request (at `edges`) ends are two halves.
fn old_or_new(now: &[u8], old: &[u8], new: &[u8], edges: impl Iterator<Item = usize>) {
    let mut cuts: Vec<usize> = (0..=now.len()).step_by(512).chain(edges).collect();
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        let part = pair[0]..pair[1];
        let got = &now[part.clone()];
        assert!(got == &old[part.clone()] || got == &new[part.clone()], "{part:?}: neither old nor new");
    }
}

/// A target that can be opened is the whole disk already; before that it is refused.
fn all_or_refused(target: &Path, disk: &[u8]) {
    if !target.exists() {
        return;
    }
    let read = lvd!("read", target, "0", disk.len().to_string());
    match read.code {
        Some(0) => same(&read.out, disk, "a copy that opens"),
        _ => drop(read.fails(1, "")),
    }
}

#[test]
fn create() {
    let template = Place::new();
    let disks = chain(&template);
    let target = |place: &Place| place.path("new.lvd");
    torture(
        &template,
        &["create", "new.lvd", "100G"],
        b"",
        |_, _| {},
        |place| {
            assert_eq!(lvd!("read", target(place), "99G", "5").ok().out, [0; 5]);
            lvd!("check", target(place)).ok();
        },
    );
    torture(
        &template,
        &["create", "-b", "top.lvd", "new.lvd"],
        b"",
        |place, _| unchanged(place, "top.lvd", &disks.top),
        |place| same(&content(&target(place)), &disks.top, "overlay"),
    );
}

#[test]
fn convert() {
    let template = Place::new();
    let disks = chain(&template);
    torture(
        &template,
        &["convert", "-f", "raw", "base.raw", "new.lvd"],
        b"",
        |place, _| all_or_refused(&place.path("new.lvd"), &disks.base),
        |place| unchanged(place, "new.lvd", &disks.base),
    );
    torture(
        &template,
        &["convert", "-O", "raw", "top.lvd", "new.raw"],
        b"",
        |place, _| unchanged(place, "top.lvd", &disks.top),
        |place| same(&fs::read(place.path("new.raw")).expect("read"), &disks.top, "raw copy"),
    );
}

#[test]
fn mirror() {
    let template = Place::new();
    let disks = chain(&template);
    for what in ["full", "top"] {
        torture(
            &template,
            &["mirror", "--sync", what, "top.lvd", "new.lvd"],
            b"",
            |place, _| {
                unchanged(place, "top.lvd", &disks.top);
                all_or_refused(&place.path("new.lvd"), &disks.top);
            },
            |place| unchanged(place, "new.lvd", &disks.top),
        );
    }
}

/// Between two runs the disk changes: the next run goes by what the bitmap says, not by what the target has.
#[test]
fn mirror_resumed() {
    // Now and then, after 64 MiB, the bitmap forgets what was copied.
    const LONG: u64 = 100 * MIB;
    let template = Place::new();
    let disk = template.path("disk.lvd");
    lvd!("create", &disk, LONG.to_string()).ok();
    lvd!("write", "-P", "1", &disk, "0", (LONG - MIB).to_string()).ok();
    let random = RefCell::new(Random::new(7));
    torture(
        &template,
        &["mirror", "--resume", "copy", "--speed", "600M", "disk.lvd", "new.lvd"],
        b"",
        |place, _| {
            let (disk, target) = (place.path("disk.lvd"), place.path("new.lvd"));
            all_or_refused(&target, &content(&disk));
            if target.exists() && lvd!("read", &target, "0", "1").code == Some(0) {
                // That run was through; the next one makes another copy.
                fs::remove_file(&target).expect("removed");
            }
            for byte in 2..12 {
                let at = random.borrow_mut().below(LONG - MIB);
                lvd!("write", "-P", byte.to_string(), &disk, at.to_string(), "10000").ok();
            }
        },
        |place| {
            unchanged(place, "new.lvd", &content(&place.path("disk.lvd")));
            let left = lvd!("bitmap", "list", place.path("disk.lvd")).ok().out;
            assert!(!String::from_utf8_lossy(&left).contains("copy"), "the sync bitmap has done its work");
        },
    );
}

#[test]
fn resize() {
    let template = Place::new();
    let disks = chain(&template);
    for size in [SIZE + 5 * MIB as usize + 1, SIZE / 2 - 1] {
        let text = size.to_string();
        torture(
            &template,
            &["resize", "--shrink", "top.lvd", &text],
            b"",
            |place, _| {
                let now = content(&place.path("top.lvd"));
                assert!(now.len() == SIZE || now.len() == size, "neither size: {}", now.len());
                let mut wanted = disks.top.clone();
                wanted.resize(now.len(), 0);
                same(&now, &wanted, "resized");
                sound(place);
            },
            |place| {
                let mut wanted = disks.top.clone();
                wanted.resize(size, 0);
                unchanged(place, "top.lvd", &wanted);
            },
        );
    }
}

#[test]
fn rebase() {
    let template = Place::new();
    let disks = chain(&template);
    for parent in ["another.lvd", ""] {
        torture(
            &template,
            &["rebase", "-b", parent, "top.lvd"],
            b"",
            |place, _| unchanged(place, "top.lvd", &disks.top),
            |place| unchanged(place, "top.lvd", &disks.top),
        );
    }
}

#[test]
fn write() {
    let template = Place::new();
    let disks = chain(&template);
    let input = Random::new(99).bytes(6 * MIB as usize);
    let at = 2 * MIB as usize + 777;
    let mut wanted = disks.top.clone();
    wanted[at..at + input.len()].copy_from_slice(&input);
    torture(
        &template,
        &["write", "--acknowledge", "64K", "top.lvd", &at.to_string()],
        &input,
        |place, left| {
            let told = String::from_utf8(left.out.clone()).expect("text");
            // A kill may cut the last line short.
            let whole = told.rfind('\n').map_or("", |end| &told[..end]);
            let acknowledged = whole.lines().last().map_or(at, |line| line.parse().expect("an offset"));
            let now = content(&place.path("top.lvd"));
            same(&now[at..acknowledged], &wanted[at..acknowledged], "acknowledged");
            same(&now[..at], &wanted[..at], "before");
            old_or_new(&now, &disks.top, &wanted, (at..SIZE).step_by(64 << 10));
            sound(place);
        },
        |place| unchanged(place, "top.lvd", &wanted),
    );
}

#[test]
fn write_zeros() {
    let template = Place::new();
    let disks = chain(&template);
    let mut wanted = disks.top.clone();
    wanted[1000..9 * MIB as usize].fill(0);
    let length = (9 * MIB - 1000).to_string();
    torture(
        &template,
        &["write", "--zero", "--unmap", "top.lvd", "1000", &length],
        b"",
        |place, _| {
            let now = content(&place.path("top.lvd"));
            old_or_new(&now, &disks.top, &wanted, (1000..SIZE).step_by(1 << 20));
            sound(place);
        },
        |place| unchanged(place, "top.lvd", &wanted),
    );
}

#[test]
fn stream() {
    let template = Place::new();
    let disks = chain(&template);
    for words in [&["stream", "top.lvd"][..], &["stream", "--base", "base.lvd", "top.lvd"]] {
        torture(
            &template,
            words,
            b"",
            |place, _| unchanged(place, "top.lvd", &disks.top),
            |place| {
                unchanged(place, "top.lvd", &disks.top);
                fs::remove_file(place.path("middle.lvd")).expect("removed");
                same(&content(&place.path("top.lvd")), &disks.top, "without the middle");
            },
        );
    }
}

#[test]
fn commit() {
    let template = Place::new();
    let disks = chain(&template);
    torture(
        &template,
        &["commit", "top.lvd"],
        b"",
        |place, _| unchanged(place, "top.lvd", &disks.top),
        |place| {
            unchanged(place, "top.lvd", &disks.top);
            unchanged(place, "middle.lvd", &disks.top);
        },
    );
    torture(
        &template,
        &["commit", "--into", "base.lvd", "top.lvd"],
        b"",
        |place, _| unchanged(place, "top.lvd", &disks.top),
        |place| {
            unchanged(place, "top.lvd", &disks.top);
            unchanged(place, "base.lvd", &disks.top);
        },
    );
    torture(
        &template,
        &["commit", "--top", "middle.lvd", "top.lvd"],
        b"",
        |place, _| unchanged(place, "top.lvd", &disks.top),
        |place| {
            unchanged(place, "top.lvd", &disks.top);
            unchanged(place, "base.lvd", &disks.middle);
        },
    );
}

#[test]
fn sidecar() {
    let template = Place::new();
    let disks = chain(&template);
    template.sparse("volume.raw", SIZE as u64);
    let volume = template.path("volume.raw");
    lvd!("create", "-b", "middle.lvd", "--sidecar", template.path("volume.lvb"), &volume).ok();
    let view = |place: &Place| {
        let (volume, sidecar) = (place.path("volume.raw"), place.path("volume.lvb"));
        lvd!("read", "--sidecar", sidecar, volume, "0", SIZE.to_string()).ok().out
    };
    same(&view(&template), &disks.middle, "through the sidecar");
    torture(
        &template,
        &["stream", "--sidecar", "volume.lvb", "volume.raw"],
        b"",
        |place, _| same(&view(place), &disks.middle, "through the sidecar"),
        |place| same(&fs::read(place.path("volume.raw")).expect("read"), &disks.middle, "the volume alone"),
    );
}

/// A disk with a bitmap, and its full backup: `disk` is `disk.lvd`, or `disk.raw` with its bitmaps in `disk.lvb`.
fn tracked(place: &Place, raw: bool) -> Vec<String> {
    let content = Random::new(7).disk(SIZE);
    let words: Vec<String> = match raw {
        true => {
            place.file("disk.raw", &content);
            lvd!("bitmap", "attach", "-f", "raw", place.path("disk.raw"), place.path("disk.lvb")).ok();
            ["-f", "raw", "--sidecar", "disk.lvb", "disk.raw"].map(String::from).to_vec()
        }
        false => {
            let raw = place.file("content.raw", &content);
            lvd!("convert", "-f", "raw", &raw, place.path("disk.lvd")).ok();
            vec!["disk.lvd".into()]
        }
    };
    in_place(place, &["backup", "--bitmap", "daily"], &words, &["full.lvd"]);
    words
}

fn in_place(place: &Place, before: &[&str], disk: &[String], after: &[&str]) {
    run(command().args(before).args(disk).args(after).current_dir(place.root())).ok();
}

/// The incremental backup that the bitmap calls for restores to the bytes of the disk.
fn restores(place: &Place, disk: &[String]) {
    let increment = place.path("increment.lvd");
    let _ = fs::remove_file(&increment);
    in_place(place, &["backup", "--keep-bitmap", "--bitmap", "daily", "-b", "full.lvd"], disk, &["increment.lvd"]);
    let raw = place.path("restored.raw");
    lvd!("convert", "-O", "raw", &increment, &raw).ok();
    let shown = place.path("shown.raw");
    in_place(place, &["convert", "-O", "raw"], disk, &["shown.raw"]);
    same(&fs::read(raw).expect("read"), &fs::read(shown).expect("read"), "what was restored");
}

/// A guest that writes here and there, or from one end to the other, is killed; the bitmap has missed nothing.
fn bitmap_survives(raw: bool) {
    let disk = tracked(&Place::new(), raw);
    // A copy of a raw volume is another file, of which its sidecar knows nothing: the files are made each time.
    let make = || {
        let place = Place::new();
        tracked(&place, raw);
        place
    };
    let restored = |place: &Place| restores(place, &disk);
    let here_and_there =
        ["bench", "-w", "-d", "4", "-c", "1500", "-S", "268K", "--flush-interval", "32", "--pattern", "9"];
    let words: Vec<&str> = here_and_there.into_iter().chain(disk.iter().map(String::as_str)).collect();
    torture_each(make, &words, &[], |place, _| restored(place), restored);
    let input = Random::new(8).disk(3 * MIB as usize);
    let words: Vec<&str> = ["write"].into_iter().chain(disk.iter().map(String::as_str)).chain(["1M"]).collect();
    torture_each(make, &words, &input, |place, _| restored(place), restored);
}

#[test]
fn a_bitmap_in_the_image_survives_its_writer() {
    bitmap_survives(false);
}

#[test]
fn a_bitmap_beside_a_volume_survives_its_writer() {
    bitmap_survives(true);
}

/// A backup that is killed leaves the bitmap as if it had never begun, or has begun the new count and is whole.
#[test]
fn a_backup_survives() {
    let template = Place::new();
    let disk = tracked(&template, false);
    lvd!("write", "-P", "3", template.path("disk.lvd"), "2M", "5000000").ok();
    let words = ["backup", "--bitmap", "daily", "-b", "full.lvd", "disk.lvd", "next.lvd"];
    let whole = |place: &Place| {
        lvd!("compare", place.path("disk.lvd"), place.path("next.lvd")).ok();
    };
    let after = |place: &Place, _: &Killed| {
        let compared = command().arg("compare").arg(place.path("disk.lvd")).arg(place.path("next.lvd")).output();
        let refused = !compared.expect("started").status.success();
        let listed = lvd!("bitmap", "list", place.path("disk.lvd")).ok().text();
        let begun_anew = listed.contains(" 0 B dirty");
        assert!(!(refused && begun_anew), "the new count has begun, and the backup is none: {listed}");
        match begun_anew {
            // The same command would be refused now, since the backup before is no longer full.lvd: begin afresh.
            true => drop(fs::copy(template.path("disk.lvd"), place.path("disk.lvd")).expect("copied")),
            false => restores(place, &disk),
        }
        let _ = fs::remove_file(place.path("next.lvd"));
    };
    torture(&template, &words, &[], after, whole);
}
