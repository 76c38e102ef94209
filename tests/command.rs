//! The command as scripts use it: forms of calling, exit codes, JSON, what stays on disk when it is stopped.

mod common;

use common::{MIB, Place, Random, content, feed, lvd as command, run, same};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// base.lvd of 4 MiB and an overlay of it, the same so far.
fn pair(place: &Place) -> (PathBuf, PathBuf, Vec<u8>) {
    let disk = Random::new(77).disk(4 * MIB as usize);
    let raw = place.file("base.raw", &disk);
    let (base, top) = (place.path("base.lvd"), place.path("top.lvd"));
    lvd!("convert", "-f", "raw", &raw, &base).ok();
    lvd!("create", "-b", "base.lvd", &top).ok();
    (base, top, disk)
}

fn info(image: &Path) -> Value {
    lvd!("info", "--json", image).ok().json()
}

#[test]
fn help_and_version() {
    assert!(lvd!("--help").ok().text().contains("mirror"));
    assert!(lvd!("help", "create").ok().text().contains("--granularity"));
    assert!(lvd!("--version").ok().text().starts_with("lvd 0."));
    lvd!().fails(1, "--help");
    lvd!("brew").fails(1, "brew");
}

#[test]
fn create_forms() {
    let place = Place::new();
    let (base, top, _) = pair(&place);
    assert_eq!(info(&base)["complete"], true);
    let told = info(&top);
    assert_eq!((&told["complete"], &told["granularity"]), (&json!(false), &json!(4096)));
    assert_eq!((&told["backing-filename"], &told["backing-filename-format"]), (&json!("base.lvd"), &json!("lvd")));
    assert_eq!(told["parent"]["uuid"], info(&base)["uuid"]);
    assert_eq!(told["parent"]["epoch"], info(&base)["epoch"]);

    lvd!("create", place.path("big.lvd"), "1.5T").ok();
    assert_eq!(info(&place.path("big.lvd"))["virtual-size"], 3u64 << 39);
    lvd!("create", "-b", "base.lvd", "--granularity", "64K", place.path("coarse.lvd"), "1M").ok();
    let told = info(&place.path("coarse.lvd"));
    assert_eq!((&told["granularity"], &told["parent"]["visible-length"]), (&json!(65536), &json!(MIB)));

    lvd!("create", "-b", "base.raw", place.path("no.lvd")).fails(1, "-F raw");
    lvd!("create", "-b", "base.lvd", "--granularity", "5000", place.path("no.lvd")).fails(1, "power of two");
    lvd!("create", "-b", "gone.lvd", place.path("no.lvd")).fails(1, "no such file");
    lvd!("create", "-F", "raw", place.path("no.lvd"), "1M").fails(1, "parent");
    assert!(!place.path("no.lvd").exists());
    // Neither its own parent nor a layer below that may be written over.
    lvd!("create", "-b", "top.lvd", &top).fails(1, "");
    lvd!("create", "-b", "top.lvd", &base).fails(1, "");
    lvd!("check", &top).ok();
}

/// Hints are looked for from the directory of the file that holds them, wherever the command runs.
#[test]
fn hints_lead_from_the_child() {
    let place = Place::new();
    let (_, _, disk) = pair(&place);
    fs::create_dir(place.path("far")).expect("made");
    let far = place.path("far/top.lvd");
    lvd!("create", "-b", "../base.lvd", &far).ok();
    same(&content(&far), &disk, "from afar");
    let mut here = command();
    here.args(["read", "top.lvd", "0", "4M"]).current_dir(place.path("far"));
    same(&run(&mut here).ok().out, &disk, "from the directory itself");
    // A mirror of the top layer elsewhere finds the same parent.
    lvd!("mirror", "--sync", "top", &far, place.path("near.lvd")).ok();
    same(&content(&place.path("near.lvd")), &disk, "mirrored out of its directory");
}

#[test]
fn info_of_a_chain() {
    let place = Place::new();
    let (base, top, _) = pair(&place);
    let chain = lvd!("info", "--chain", "--json", &top).ok().json();
    let names: Vec<_> = chain.as_array().expect("a list").iter().map(|layer| layer["filename"].clone()).collect();
    assert_eq!(names, [json!(top), json!(base)]);
    let text = lvd!("info", &top).ok().text();
    assert!(text.contains("virtual size: 4 MiB (4194304 bytes)\n"), "{text}");
    assert!(text.contains("backing file: base.lvd\n"), "{text}");
    let raw = lvd!("info", "--json", "-f", "raw", place.path("base.raw")).ok().json();
    assert_eq!((&raw["format"], &raw["virtual-size"]), (&json!("raw"), &json!(4 * MIB)));
}

#[test]
fn compare_tells_by_exit_code() {
    let place = Place::new();
    let (base, top, _) = pair(&place);
    assert_eq!(lvd!("compare", &base, &top).ok().text(), "Images are identical.\n");
    assert_eq!(lvd!("compare", "-q", &base, &top).ok().text(), "");
    feed(["write", &top.display().to_string(), "1000001"], b"\xa5\x5a\xa5").ok();
    assert_eq!(lvd!("compare", &base, &top).code(1).text(), "Content mismatch at offset 1000001!\n");
    let told = lvd!("compare", "--json", &base, &top).code(1).json();
    assert_eq!((&told["identical"], &told["first-difference"]), (&json!(false), &json!(1_000_001)));
    lvd!("compare", &base, place.path("base.raw")).fails(2, "-f raw");
    lvd!("compare", "-F", "raw", &base, place.path("base.raw")).ok();
    // What one has more is zeros: the same, unless it is to be strict.
    lvd!("convert", &base, place.path("longer.lvd")).ok();
    lvd!("resize", place.path("longer.lvd"), "+1").ok();
    lvd!("compare", &base, place.path("longer.lvd")).ok();
    lvd!("compare", "-s", &base, place.path("longer.lvd")).code(1);
    lvd!("write", "-P", "1", place.path("longer.lvd"), "4M", "1").ok();
    lvd!("compare", &base, place.path("longer.lvd")).code(1);
}

#[test]
fn check_tells_by_exit_code() {
    let place = Place::new();
    let (_, top, _) = pair(&place);
    let told = lvd!("check", "--json", &top).ok().json();
    assert_eq!((&told["corruptions"], &told["allocated-clusters"]), (&json!(0), &json!(0)));
    lvd!("write", "-P", "1", &top, "0", "64K").ok();
    let sections = &info(&top)["sections"];
    let at = sections[0]["offset"].as_u64().expect("an offset");
    common::patch(&top, at + 3, b"\xff");
    let told = lvd!("check", "--json", &top).code(2).json();
    assert_eq!((&told["corruptions"], &told["findings"][0]["rule"]), (&json!(1), &json!("PAG-01")));
    lvd!("check", &top).code(2);
    lvd!("read", &top, "0", "1").fails(1, "PAG-01");
    lvd!("check", "-f", "raw", place.path("base.raw")).fails(63, "raw");
    lvd!("check", place.path("base.raw")).fails(63, "not an LVD image");
}

#[test]
fn reading_and_writing() {
    let place = Place::new();
    let (base, top, mut disk) = pair(&place);
    let image = top.display().to_string();
    feed(["write", &image, "70000"], b"to the end of the input").ok();
    disk[70000..70023].copy_from_slice(b"to the end of the input");
    feed(["write", &image, "80000", "3"], b"abcdef").ok();
    disk[80000..80003].copy_from_slice(b"abc");
    feed(["write", &image, "90000", "10"], b"short").fails(1, "after 5 of 10");
    disk[90000..90005].copy_from_slice(b"short");
    feed(["write", &image, "4194300"], b"too long").fails(1, "past the end");
    disk[4194300..].copy_from_slice(b"too ");
    lvd!("write", "--zero", &top, "0x100", "1K").ok();
    disk[0x100..0x500].fill(0);
    lvd!("write", "-z", "--unmap", &top, "1M", "1M").ok();
    disk[MIB as usize..2 * MIB as usize].fill(0);
    lvd!("write", "-P", "0xab", &top, "100", "3").ok();
    disk[100..103].fill(0xab);
    same(&content(&top), &disk, "as written");
    let told = feed(["write", "--acknowledge", "1000", &image, "5000"], &disk[5000..8500]).ok().text();
    assert_eq!(told, "6000\n7000\n8000\n");
    lvd!("write", "--discard", &top, "2M", "64K").ok();
    let now = content(&top);
    let discarded = &now[2 * MIB as usize..][..65536];
    assert!(discarded == &disk[2 * MIB as usize..][..65536] || discarded.iter().all(|&byte| byte == 0));
    lvd!("write", "-z", &top, "0").fails(1, "LEN");
    lvd!("read", &top, "4M", "1").fails(1, "outside");
    lvd!("read", &top, "7E", "7E").fails(1, "outside");
    assert_eq!(lvd!("read", &top, "4M", "0").ok().out, b"");
    same(&content(&base), &fs::read(place.path("base.raw")).expect("read"), "the parent is untouched");
}

#[test]
fn resizing() {
    let place = Place::new();
    let (_, top, mut disk) = pair(&place);
    let size = || info(&top)["virtual-size"].as_u64();
    lvd!("resize", &top, "+1M").ok();
    assert_eq!(size(), Some(5 * MIB));
    lvd!("resize", &top, "-1M").fails(1, "--shrink");
    lvd!("resize", "--shrink", &top, "-3M").ok();
    assert_eq!(size(), Some(2 * MIB));
    lvd!("resize", "--shrink", &top, "-3M").fails(1, "");
    lvd!("resize", &top, "4M").ok();
    disk[2 * MIB as usize..].fill(0);
    same(&content(&top), &disk, "what was cut off does not come back");
    let raw = place.path("base.raw");
    lvd!("resize", &raw, "5M").fails(1, "-f raw");
    lvd!("resize", "-f", "raw", &raw, "5M").ok();
    assert_eq!(fs::metadata(&raw).expect("there").len(), 5 * MIB);
}

#[test]
fn rebasing() {
    let place = Place::new();
    let (_, top, mut disk) = pair(&place);
    lvd!("write", "-P", "3", &top, "1M", "100000").ok();
    disk[MIB as usize..MIB as usize + 100_000].fill(3);
    let other = place.file("other.raw", &Random::new(5).disk(3 * MIB as usize));
    lvd!("rebase", "-b", "other.raw", &top).fails(1, "-F raw");
    lvd!("rebase", "-b", "other.raw", "-F", "raw", &top).ok();
    same(&content(&top), &disk, "on another parent");
    assert_eq!(info(&top)["backing-filename"], "other.raw");
    fs::rename(&other, place.path("moved.raw")).expect("renamed");
    lvd!("read", &top, "0", "1").fails(1, "other.raw");
    lvd!("rebase", "-u", "-b", "moved.raw", "-F", "raw", &top).ok();
    same(&content(&top), &disk, "where the parent went");
    lvd!("rebase", "-u", "-b", "", &top).fails(1, "parent");
    lvd!("rebase", "-b", "", &top).ok();
    assert_eq!(info(&top)["complete"], true);
    fs::remove_file(place.path("moved.raw")).expect("removed");
    same(&content(&top), &disk, "on nothing");
    lvd!("rebase", "-b", "base.lvd", &top).fails(1, "complete");
}

#[test]
fn a_changed_parent_is_refused() {
    let place = Place::new();
    let (base, top, mut disk) = pair(&place);
    lvd!("write", "-P", "9", &base, "0", "1").ok();
    lvd!("read", &top, "0", "1").fails(1, "CHN-03");
    disk[0] = 9;
    same(&lvd!("read", "--trust-links", &top, "0", "4M").ok().out, &disk, "overridden");
    lvd!("rebase", "-u", "-b", "base.lvd", &top).ok();
    same(&content(&top), &disk, "told that it is right");
}

#[test]
fn commits() {
    let place = Place::new();
    let (base, top, mut disk) = pair(&place);
    lvd!("commit", &base).fails(1, "no parent");
    lvd!("write", "-P", "3", &top, "5", "100000").ok();
    disk[5..100_005].fill(3);
    let told = lvd!("commit", "--json", &top).ok().json();
    assert_eq!((&told["job"], &told["total"]), (&json!("commit"), &json!(4 * MIB)));
    same(&content(&base), &disk, "merged");
    assert_eq!(lvd!("check", "--json", &top).ok().json()["allocated-clusters"], 0, "emptied");
    lvd!("write", "-P", "4", &top, "0", "4096").ok();
    disk[..4096].fill(4);
    lvd!("commit", "-d", &top).ok();
    assert_eq!(lvd!("check", "--json", &top).ok().json()["allocated-clusters"], 1, "kept");
    same(&content(&top), &disk, "still the same");
    lvd!("commit", "--into", place.path("base.raw"), &top).fails(1, "not a layer");
    lvd!("stream", "--base", &top, &top).fails(1, "");
    lvd!("stream", "--base", &base, &top).ok();
    same(&content(&top), &disk, "nothing lies between");
}

/// A raw parent can carry no mark, and a merge into it is right all the same.
#[test]
fn commit_into_raw() {
    let place = Place::new();
    let mut disk = Random::new(6).disk(MIB as usize + 77);
    let raw = place.file("base.raw", &disk);
    let top = place.path("top.lvd");
    lvd!("create", "-b", "base.raw", "-F", "raw", &top).ok();
    lvd!("write", "-P", "3", &top, "1M", "77").ok();
    disk[MIB as usize..].fill(3);
    lvd!("commit", &top).ok();
    same(&fs::read(&raw).expect("read"), &disk, "merged");
    same(&content(&top), &disk, "the top");
    assert_eq!(lvd!("info", "--json", &top).ok().json()["parent"]["unverified"], true);
}

#[test]
fn volume_with_a_sidecar() {
    let place = Place::new();
    let (_, _, mut disk) = pair(&place);
    let (volume, sidecar) = (place.path("volume.raw"), place.path("volume.lvb"));
    lvd!("create", "-b", "base.lvd", "--sidecar", &sidecar, &volume).ok();
    assert_eq!(fs::metadata(&volume).expect("made").len(), 4 * MIB);
    lvd!("write", "--sidecar", &sidecar, "-P", "8", &volume, "12345", "100000").ok();
    disk[12345..112_345].fill(8);
    same(&lvd!("read", "--sidecar", &sidecar, &volume, "0", "4M").ok().out, &disk, "copy-on-write");
    lvd!("check", "--sidecar", &sidecar, &volume).ok();
    let map = lvd!("map", "--json", "--sidecar", &sidecar, &volume).ok().json();
    let own = map.as_array().expect("a list").iter().find(|extent| extent["depth"] == 0).expect("held here");
    assert_eq!((&own["start"], &own["offset"]), (&json!(12288), &json!(12288)), "a volume has no header");
    let told = lvd!("info", "--json", "--sidecar", &sidecar, &volume).ok().json();
    assert_eq!((&told["kind"], &told["backing-filename"]), (&json!("sidecar"), &json!("base.lvd")));
    lvd!("read", &sidecar, "0", "1").fails(1, "sidecar");
    lvd!("read", "--sidecar", &volume, &volume, "0", "1").fails(1, "");
    lvd!("create", "--sidecar", &volume, &volume, "1M").fails(1, "");
    lvd!("stream", "--sidecar", &sidecar, &volume).ok();
    same(&fs::read(&volume).expect("read"), &disk, "the volume alone");
    lvd!("stream", "--sidecar", &sidecar, &volume).ok();
}

#[test]
fn converting() {
    let place = Place::new();
    let (base, top, mut disk) = pair(&place);
    lvd!("write", "-P", "2", &top, "3M", "1000").ok();
    disk[3 * MIB as usize..3 * MIB as usize + 1000].fill(2);
    lvd!("convert", &top, place.path("out.raw")).fails(1, "-O raw");
    for (cache, threads) in [("writeback", "1"), ("none", "3")] {
        let raw = place.path("out.raw");
        lvd!("convert", "-t", cache, "-m", threads, "-O", "raw", &top, &raw).ok();
        same(&fs::read(&raw).expect("read"), &disk, "raw");
        let copy = place.path("copy.lvd");
        lvd!("convert", "-t", cache, "-m", threads, &top, &copy).ok();
        same(&content(&copy), &disk, "lvd");
        lvd!("check", &copy).ok();
    }
    // What a file held before does not show through, as long as it is.
    let used = place.file("used.raw", &vec![0xff; 6 * MIB as usize]);
    lvd!("convert", "-O", "raw", &top, &used).ok();
    same(&fs::read(&used).expect("read"), &disk, "over an older file");
    lvd!("convert", &top, &top).fails(1, "");
    lvd!("convert", "-O", "raw", &top, &base).fails(1, "locked");
    same(&content(&top), &disk, "the source is whole");
}

#[test]
fn bench_prints_what_qemu_img_prints() {
    let place = Place::new();
    let (_, top, _) = pair(&place);
    for arguments in
        [&["-c", "100", "-d", "4"][..], &["-w", "-c", "100", "-d", "1", "--flush-interval", "10", "-t", "none"]]
    {
        let told = run(command().arg("bench").args(arguments).arg(&top)).ok().text();
        assert!(told.contains("Run completed in "), "{told}");
    }
    assert_eq!(lvd!("bench", "--json", "-c", "7", &top).ok().json()["requests"], 7);
    lvd!("bench", "-s", "8M", &top).fails(1, "fit");
    lvd!("bench", "-d", "0", &top).fails(1, "depth");
    lvd!("bench", "-s", "4M", "-d", "256", "-c", "1", &top).ok();
    lvd!("create", place.path("large.lvd"), "1G").ok();
    lvd!("bench", "-s", "512M", "-d", "3", place.path("large.lvd")).fails(1, "at most");
    lvd!("check", &top).ok();
}

#[test]
fn progress_as_qemu_img_prints_it() {
    let place = Place::new();
    let (_, top, _) = pair(&place);
    let told = lvd!("stream", "-p", &top).ok().text();
    assert!(told.ends_with("    (100.00/100%)\r\n"), "{told:?}");
}

/// Starts `lvd`, sends it a signal once it is well under way, and waits.
fn interrupted(words: &[&str], signal: &str, ready: impl Fn() -> bool) -> common::Run {
    let mut child: Child = command()
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not get under way");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    run(Command::new("kill").args([signal, &child.id().to_string()])).ok();
    let asked = Instant::now();
    // Standard input stays open: a signal must reach a command that waits for it.
    let input = child.stdin.take();
    let output = child.wait_with_output().expect("waited for");
    drop(input);
    assert!(asked.elapsed() < Duration::from_secs(5), "{words:?}: took {:?} to stop", asked.elapsed());
    common::Run::of(&words.join(" "), output)
}

/// A signal ends a job cleanly: the image is closed, the disk right, and the job goes on when it is run again.
#[test]
fn signals_cancel_cleanly() {
    let place = Place::new();
    let (_, top, mut disk) = pair(&place);
    let image = top.display().to_string();
    let sequence = |path: &Path| info(path)["sequence"].as_u64();
    // While the command holds the image nobody else can look: what it writes to the header tells.
    let begun = |path: PathBuf, before: Vec<u8>| move || fs::read(&path).is_ok_and(|bytes| bytes[..131_072] != before);
    let header = |path: &Path| fs::read(path).expect("read")[..131_072].to_vec();

    let before = sequence(&top);
    interrupted(&["stream", "--speed", "256K", &image], "-INT", begun(top.clone(), header(&top))).fails(1, "cancelled");
    let told = info(&top);
    assert_eq!((&told["dirty-flag"], &told["complete"]), (&json!(false), &json!(false)));
    assert!(sequence(&top) > before);
    same(&content(&top), &disk, "a cancelled stream");

    let input = vec!["write", &image, "0"];
    interrupted(&input, "-TERM", || true).fails(1, "cancelled");
    lvd!("write", "-P", "1", &top, "0", "10").ok();
    disk[..10].fill(1);

    let copy = place.path("copy.lvd");
    let (path, there) = (copy.display().to_string(), copy.clone());
    interrupted(&["mirror", "--speed", "256K", &image, &path], "-TERM", move || there.exists()).fails(1, "cancelled");
    assert!(!copy.exists(), "a copy that is none is taken away");
    lvd!("stream", &top).ok();
    same(&content(&top), &disk, "streamed to the end");
}

#[test]
fn demo_tells_its_story() {
    let place = Place::new();
    let told = lvd!("demo", "--size", "8M", "--directory", place.root()).ok().text();
    for word in [
        "converted",
        "streamed",
        "taken",
        "merged",
        "ready",
        "pivoted",
        "verified",
        "All that was read was what had been written.",
    ] {
        assert!(told.contains(word), "no '{word}' in {told}");
    }
    assert_eq!(fs::read_dir(place.root()).expect("listed").count(), 0, "nothing is left");
    lvd!("demo", "--size", "1").fails(1, "1M");
}

/// Backups by a bitmap in the image, or beside it; what does not fit is refused in a line.
#[test]
fn bitmaps_and_backups() {
    let place = Place::new();
    let content = Random::new(3).disk(4 * MIB as usize);
    let raw = place.file("disk.raw", &content);
    let (disk, full) = (place.path("disk.lvd"), place.path("full.lvd"));
    lvd!("convert", "-f", "raw", &raw, &disk).ok();
    lvd!("backup", "--bitmap", "daily", &disk, &full).ok();
    lvd!("write", "-P", "1", &disk, "1M", "70000").ok();
    let extents = lvd!("bitmap", "extents", "--json", &disk, "daily").ok().json();
    let dirty: Vec<_> = extents.as_array().unwrap().iter().filter(|row| row["description"] == "dirty").collect();
    assert_eq!(dirty.len(), 1);
    assert_eq!((dirty[0]["offset"].as_u64(), dirty[0]["length"].as_u64()), (Some(MIB), Some(131_072)));
    let differences = lvd!("diff", "--json", &disk, &full).ok().json();
    assert!(differences.as_array().unwrap().iter().any(|row| row["offset"] == MIB && row["description"] == "changed"));

    let next = place.path("next.lvd");
    lvd!("backup", "--bitmap", "daily", "-b", "full.lvd", &disk, &next).ok();
    lvd!("compare", &disk, &next).ok();
    let wrong = place.path("wrong.lvd");
    lvd!("backup", "--bitmap", "daily", "-b", "full.lvd", &disk, &wrong).fails(1, "full.lvd is the backup of");
    assert!(!wrong.exists());

    // A mirror is brought up to date.
    let mirror = place.path("mirror.raw");
    lvd!("convert", "-O", "raw", &disk, &mirror).ok();
    lvd!("write", "-P", "2", &disk, "2M", "10").ok();
    lvd!("mirror", "--bitmap", "daily", "-O", "raw", "-q", &disk, &mirror).ok();
    lvd!("compare", "-F", "raw", &disk, &mirror).ok();

    // Out of the image, and in again; beside it.
    let (out, beside) = (place.path("daily.lvb"), place.path("disk.lvb"));
    lvd!("bitmap", "export", &disk, "daily", &out).ok();
    lvd!("bitmap", "remove", &disk, "daily").ok();
    lvd!("bitmap", "import", &disk, "daily", &out).ok();
    lvd!("bitmap", "list", &disk).ok().text().contains("64 KiB dirty").then_some(()).expect("as it was");
    lvd!("bitmap", "disable", &disk, "daily").ok();
    lvd!("write", "-P", "3", &disk, "0", "10").ok();
    lvd!("bitmap", "enable", &disk, "daily").fails(1, "has missed writes");
    lvd!("bitmap", "remove", &disk, "daily").ok();
    lvd!("bitmap", "import", &disk, "daily", &out).fails(1, "does not fit");
    lvd!("bitmap", "attach", &disk, &beside).ok();
    lvd!("bitmap", "add", "--sidecar", &beside, &disk, "weekly").ok();
    lvd!("write", "-P", "4", "--sidecar", &beside, &disk, "0", "10").ok();
    lvd!("bitmap", "rebuild", "--sidecar", &beside, &disk, "since-full", &full).ok();
    let listed = lvd!("bitmap", "list", "--sidecar", &beside, &disk).ok().text();
    assert!(listed.contains("weekly") && listed.contains("since-full") && listed.contains("256 KiB dirty"), "{listed}");
    lvd!("bitmap", "merge", "--sidecar", &beside, &disk, "all", "weekly", "since-full").ok();
    lvd!("bitmap", "detach", &disk, &beside).ok();
    assert!(!beside.exists());
    let listed = lvd!("bitmap", "list", &disk).ok().text();
    assert!(listed.contains("weekly") && listed.contains("all"), "{listed}");
    lvd!("check", &disk).ok();
    lvd!("bitmap", "add", &disk, "weekly").fails(1, "already");
    lvd!("bitmap", "clear", &disk, "monthly").fails(1, "no bitmap \"monthly\"");
    lvd!("bitmap", "add", "-f", "raw", &raw, "x").fails(1, "--sidecar");
}

/// A run that was killed while it created its target left a file without a header: the next one creates it.
#[test]
fn a_mirror_whose_target_has_no_header_yet_makes_it() {
    let place = Place::new();
    let image = place.path("disk.lvd");
    lvd!("create", &image, "1M").ok();
    lvd!("write", "-P", "7", &image, "0", "1M").ok();
    for length in [0, 4096, 131_072, 1_179_648] {
        let copy = place.file(&format!("copy-{length}.lvd"), &vec![0; length]);
        lvd!("mirror", "--resume", "copying", &image, &copy).ok();
        lvd!("compare", &image, &copy).ok();
    }
    let noise = place.file("noise.lvd", &[3; 200_000]);
    lvd!("mirror", "--resume", "copying", &image, &noise).fails(1, "HDR-02");
}

#[test]
fn a_mirror_that_was_stopped_goes_on() {
    let place = Place::new();
    let (image, copy) = (place.path("disk.lvd").display().to_string(), place.path("copy.lvd").display().to_string());
    lvd!("create", &image, "16M").ok();
    lvd!("write", "-P", "7", &image, "0", "16M").ok();
    let words = ["mirror", "--resume", "copying", "--threads", "1", "--json", &image, &copy];
    let slow = [&["mirror", "--resume", "copying", "--threads", "1", "--speed", "20M"][..], &[&image, &copy]].concat();
    let there = place.path("copy.lvd");
    interrupted(&slow, "-TERM", move || there.metadata().is_ok_and(|facts| facts.blocks() > 4096))
        .fails(1, "cancelled");
    assert!(lvd!("info", &copy).ok().text().contains("not a copy yet"));
    assert!(lvd!("bitmap", "list", &image).ok().text().contains("sync, recording"));
    // While no mirror runs.
    lvd!("write", "-P", "8", &image, "0", "4K").ok();
    let copied = lvd!(words[0], words[1], words[2], words[3], words[4], words[5], words[6], words[7]).ok().json();
    let copied = copied["copied"].as_u64().unwrap();
    assert!(copied > 0 && copied < 15 << 20, "{copied} bytes were copied again");
    lvd!("compare", &image, &copy).ok();
    assert!(!lvd!("bitmap", "list", &image).ok().text().contains("copying"), "it goes with the mirror");
    lvd!("mirror", "--resume", "copying", &image, &copy).fails(1, "not created as the target of a copy");
    lvd!("bitmap", "add", &image, "daily").ok();
    lvd!("mirror", "--resume", "daily", &image, place.path("new.lvd")).fails(1, "tells of changes");
}
