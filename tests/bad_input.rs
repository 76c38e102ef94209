//! Whatever the command is given, it works or says in one line what is wrong; it never panics, hangs, loses
//! what was there, or asks for memory that the input made up.

mod common;

use common::{KIB, MIB, Place, Random, content, feed, lvd as command, patch, run, same};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every verb that takes one image, as a user would call it.
fn verbs(image: &Path, place: &Place) -> Vec<Vec<String>> {
    let image = image.display().to_string();
    let other = place.path("other").display().to_string();
    let call = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    vec![
        call(&["info", &image]),
        call(&["info", "--chain", &image]),
        call(&["map", &image]),
        call(&["check", &image]),
        call(&["read", &image, "0", "1"]),
        call(&["write", "-P", "1", &image, "0", "1"]),
        call(&["resize", &image, "+1M"]),
        call(&["stream", &image]),
        call(&["commit", &image]),
        call(&["rebase", "-b", "", &image]),
        call(&["convert", "-O", "raw", &image, &other]),
        call(&["mirror", &image, &other]),
        call(&["compare", &image, &image]),
        call(&["bench", "-c", "1", "-d", "1", &image]),
        call(&["create", "-b", &image, &other]),
    ]
}

/// Each verb fails on `image` with one line that says `part`, and leaves no new file behind.
fn all_fail(image: &Path, place: &Place, part: &str) {
    for words in verbs(image, place) {
        let code = match words[0].as_str() {
            "compare" => 2,
            "check" => 0,
            _ => 1,
        };
        let result = run(command().args(&words));
        if words[0] == "check" {
            assert!(matches!(result.code, Some(1 | 2 | 63)), "{result:?}");
            let code = result.code.expect("a code");
            result.fails(code, part);
        } else {
            result.fails(code, part);
        }
        assert!(!place.path("other").exists(), "{words:?} left a file behind");
    }
}

/// Runs under a limit on the memory that a process may write to.
fn bounded(mebibytes: u64, words: &[&str]) -> common::Run {
    let script = format!("ulimit -d {}; exec \"$@\"", mebibytes * 1024);
    run(Command::new("bash").args(["-c", &script, "bash", env!("CARGO_BIN_EXE_lvd")]).args(words))
}

#[test]
fn missing_file() {
    let place = Place::new();
    all_fail(&place.path("nowhere.lvd"), &place, "no such file");
}

#[test]
fn directory() {
    let place = Place::new();
    let path = place.path("directory");
    fs::create_dir(&path).expect("made");
    all_fail(&path, &place, "directory");
}

#[test]
fn fifo_does_not_hang() {
    let place = Place::new();
    let path = place.path("fifo");
    run(Command::new("mkfifo").arg(&path)).code(0);
    all_fail(&path, &place, "fifo");
}

#[test]
fn device_without_an_end() {
    let place = Place::new();
    for device in ["/dev/zero", "/dev/null"] {
        all_fail(Path::new(device), &place, "device");
    }
}

#[test]
fn symlink_loop() {
    let place = Place::new();
    let path = place.path("loop");
    symlink(&path, &path).expect("made");
    all_fail(&path, &place, "symbolic link");
}

#[test]
fn empty_random_and_foreign_files() {
    let place = Place::new();
    all_fail(&place.file("empty", b""), &place, "not an lvd image");
    all_fail(&place.file("short", b"\x89LVD\r"), &place, "not an lvd image");
    all_fail(&place.file("random", &Random::new(1).bytes(300_000)), &place, "not an lvd image");
    all_fail(&place.file("qcow2", b"QFI\xfb\0\0\0\x03"), &place, "not an lvd image");
}

#[test]
fn names_that_would_break_a_line() {
    let place = Place::new();
    let path = place.path("new\nline\x1b[31m.lvd");
    lvd!("info", &path).fails(1, "no such file");
}

#[test]
fn misuse_is_one_line() {
    for words in [
        &["frobnicate"][..],
        &["create"],
        &["create", "a", "b"],
        &["create", "a", "1GB"],
        &["create", "a", "-1"],
        &["create", "a", "99999999999G"],
        &["info", "--nonsense", "a"],
        &["map", "-f", "vhd", "a"],
        &["write", "--zero", "-P", "1", "a", "0", "1"],
        &["write", "-P", "256", "a", "0", "1"],
        &["info", "--json", "--output=human", "a"],
    ] {
        run(command().args(words)).fails(1, "");
    }
    run(command().args(["compare", "a"])).fails(2, "");
}

#[test]
fn truncated_at_every_length_that_matters() {
    let place = Place::new();
    let (image, disk) = sample(&place);
    let whole = fs::read(&image).expect("read");
    for length in [1, 8, 127, 128, 4095, 65_536, 65_544, 131_072, 135_168, whole.len() - 4096, whole.len() - 1] {
        let path = place.file("cut.lvd", &whole[..length]);
        for words in verbs(&path, &place) {
            let result = run(command().args(&words));
            assert!(result.code.is_some_and(|code| code != 0), "{length}: {result:?}");
            assert_eq!(result.err.lines().count(), 1, "{length}: {result:?}");
            let _ = fs::remove_file(place.path("other"));
        }
        assert_eq!(fs::read(&path).expect("read"), whole[..length], "a refused file was changed");
    }
    same(&content(&image), &disk, "the sample itself");
}

/// An overlay of a few blocks over a raw parent, closed; its content.
fn sample(place: &Place) -> (PathBuf, Vec<u8>) {
    let mut random = Random::new(7);
    let mut disk = random.disk(MIB as usize + 1000);
    place.file("base.raw", &disk);
    let image = place.path("sample.lvd");
    lvd!("create", "-b", "base.raw", "-F", "raw", &image).ok();
    for _ in 0..12 {
        let offset = random.below(disk.len() as u64 - 9000);
        let length = 1 + random.below(9000) as usize;
        let bytes = random.bytes(length);
        feed(["write", &image.display().to_string(), &offset.to_string()], &bytes).ok();
        disk[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
    }
    (image, disk)
}

/// A flipped bit of metadata is found or has no effect: no read gives other bytes than the disk's.
#[test]
fn flipped_bits_are_never_data() {
    let place = Place::new();
    let (image, disk) = sample(&place);
    let whole = fs::read(&image).expect("read");
    let data = lvd!("info", "--json", &image).ok().json()["data-offset"].as_u64().expect("an offset");
    let path = place.path("flipped.lvd");
    let mut random = Random::new(11);
    let size = disk.len().to_string();
    // The beginnings of both header slots and of the allocation section, then anywhere before the data.
    let places = (0..24u64).chain((0..24).map(|i| 65_536 + i)).chain((0..16).map(|i| 131_072 + i * 40));
    let places: Vec<u64> = places.chain((0..60).map(|_| random.below(data))).collect();
    for at in places {
        let bit = random.below(8);
        fs::write(&path, &whole).expect("written");
        patch(&path, at, &[whole[at as usize] ^ 1 << bit]);
        let read = lvd!("read", &path, "0", &size);
        match read.code {
            Some(0) => same(&read.out, &disk, &format!("bit {bit} of byte {at} flipped")),
            Some(1) => assert_eq!(read.err.lines().count(), 1, "byte {at}: {read:?}"),
            _ => panic!("byte {at}: {read:?}"),
        }
        let check = lvd!("check", &path);
        assert!(matches!(check.code, Some(0 | 2 | 63)), "byte {at}: {check:?}");
        // Zero bytes between the structures are nobody's, so a flip there may go unnoticed; a bad read may not.
        assert!(read.code == Some(0) || check.code != Some(0), "byte {at}: read failed but check is clean");
    }
}

#[test]
fn random_headers_with_the_magic() {
    let place = Place::new();
    let mut random = Random::new(3);
    for round in 0..40 {
        let mut bytes = random.bytes(200_000);
        bytes[..8].copy_from_slice(b"\x89LVD\r\n\x1a\n");
        if round % 2 == 0 {
            bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
            bytes[12..16].copy_from_slice(&(128 + 8 * random.below(9000) as u32).to_le_bytes());
        }
        let path = place.file("noise.lvd", &bytes);
        for words in [&["info"][..], &["map"], &["check"], &["stream"]] {
            let image = path.display().to_string();
            let result = bounded(64, &[words, &[&image]].concat());
            assert!(matches!(result.code, Some(1 | 2 | 63)), "{result:?}");
            assert_eq!(result.err.lines().count(), 1, "{result:?}");
        }
    }
}

#[test]
fn read_only_file() {
    let place = Place::new();
    let (image, disk) = sample(&place);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o444)).expect("set");
    same(&content(&image), &disk, "a read-only file");
    lvd!("check", &image).ok();
    // Root may write anything; everybody else gets a line.
    if fs::OpenOptions::new().write(true).open(&image).is_err() {
        lvd!("write", "-P", "1", &image, "0", "1").fails(1, "permission");
        lvd!("stream", &image).fails(1, "permission");
    }
}

#[test]
fn zero_length_disks() {
    let place = Place::new();
    let image = place.path("empty.lvd");
    lvd!("create", &image, "0").ok();
    lvd!("check", &image).ok();
    assert_eq!(content(&image), b"");
    assert_eq!(lvd!("map", "--json", &image).ok().json(), serde_json::json!([]));
    lvd!("write", "-P", "1", &image, "0", "1").fails(1, "");
    let overlay = place.path("overlay.lvd");
    lvd!("create", "-b", "empty.lvd", &overlay).ok();
    for words in [&["stream"][..], &["commit"]] {
        run(command().args(words).arg(&overlay)).code(if words[0] == "commit" { 1 } else { 0 });
    }
    let raw = place.path("empty.raw");
    lvd!("convert", "-O", "raw", &overlay, &raw).ok();
    assert_eq!(fs::metadata(&raw).expect("made").len(), 0);
    lvd!("compare", "-F", "raw", &image, &raw).ok();
    lvd!("resize", &overlay, "+5000").ok();
    assert_eq!(content(&overlay), vec![0; 5000]);
}

#[test]
fn odd_sizes() {
    for size in [1u64, 511, 513, 4095, 4097, 65_535, MIB + 1] {
        let place = Place::new();
        let mut disk = Random::new(size).bytes(size as usize);
        let raw = place.file("disk.raw", &disk);
        let (base, overlay) = (place.path("base.lvd"), place.path("overlay.lvd"));
        lvd!("convert", "-f", "raw", &raw, &base).ok();
        same(&content(&base), &disk, "converted");
        lvd!("create", "-b", "base.lvd", &overlay).ok();
        lvd!("write", "-P", "0x5a", &overlay, (size - 1).to_string(), "1").ok();
        disk[size as usize - 1] = 0x5a;
        same(&content(&overlay), &disk, "overlay");
        lvd!("write", "-P", "1", &overlay, size.to_string(), "1").fails(1, "");
        lvd!("commit", &overlay).ok();
        same(&content(&base), &disk, "committed");
        lvd!("stream", &overlay).ok();
        same(&content(&overlay), &disk, "streamed");
        lvd!("mirror", "-O", "raw", &overlay, place.path("mirror.raw")).code(0);
        same(&fs::read(place.path("mirror.raw")).expect("read"), &disk, "mirrored");
        for image in [&base, &overlay] {
            lvd!("check", image).ok();
        }
    }
}

/// Huge geometries cost nothing until they are used, in any verb that need not read them all.
#[test]
fn huge_disks() {
    let place = Place::new();
    for (name, size) in [("tib.lvd", 1u64 << 40), ("most.lvd", 1 << 60)] {
        let path = place.path(name);
        let image = path.display().to_string();
        let made = bounded(64, &["create", &image, &size.to_string()]);
        if made.code != Some(0) {
            // A file system may be too small for the length alone; then it says so.
            made.fails(1, "no space");
            continue;
        }
        let end = (size - 4096).to_string();
        bounded(64, &["info", &image]).ok();
        bounded(64, &["write", "-P", "7", &image, &end, "4096"]).ok();
        assert_eq!(bounded(64, &["read", &image, &end, "4096"]).ok().out, vec![7; 4096]);
        bounded(64, &["check", &image]).ok();
        bounded(64, &["map", &image]).ok();
    }
    lvd!("create", place.path("more.lvd"), ((1u64 << 60) + 1).to_string()).fails(1, "");
    lvd!("create", place.path("more.lvd"), u64::MAX.to_string()).fails(1, "");
    assert!(!place.path("more.lvd").exists(), "a refused create leaves nothing");
}

#[test]
fn huge_overlay() {
    let place = Place::new();
    place.sparse("base.raw", 1 << 40);
    let image = place.path("overlay.lvd").display().to_string();
    bounded(64, &["create", "-b", "base.raw", "-F", "raw", &image]).ok();
    for offset in ["0", "512G", "1023G"] {
        bounded(64, &["write", "-P", "3", &image, offset, "10000"]).ok();
    }
    let map = bounded(64, &["map", "--json", &image]).ok().json();
    let total: u64 = map.as_array().expect("a list").iter().map(|e| e["length"].as_u64().expect("a length")).sum();
    assert_eq!(total, 1 << 40);
    bounded(64, &["check", &image]).ok();
    bounded(64, &["commit", &image]).ok();
    assert_eq!(bounded(64, &["read", &image, "512G", "10000"]).ok().out, vec![3; 10000]);
}

/// A hint is nobody's command: what it names is judged like any file.
#[test]
fn parents_that_are_not() {
    let place = Place::new();
    let (image, _) = sample(&place);
    let base = place.path("base.raw");
    let kept = place.path("kept.raw");
    fs::rename(&base, &kept).expect("renamed");
    lvd!("read", &image, "0", "1").fails(1, "base.raw");
    lvd!("info", &image).ok();
    fs::create_dir(&base).expect("made");
    lvd!("read", &image, "0", "1").fails(1, "directory");
    fs::remove_dir(&base).expect("removed");
    symlink(&base, &base).expect("made");
    lvd!("read", &image, "0", "1").fails(1, "symbolic link");
    fs::remove_file(&base).expect("removed");
    fs::write(&base, b"short").expect("written");
    lvd!("read", &image, "0", "1").fails(1, "CHN-");
}

#[test]
fn chain_that_bites_its_tail() {
    let place = Place::new();
    let (a, b) = (place.path("a.lvd"), place.path("b.lvd"));
    lvd!("create", &a, "1M").ok();
    lvd!("create", "-b", "a.lvd", &b).ok();
    fs::remove_file(&a).expect("removed");
    symlink(&b, &a).expect("made");
    lvd!("read", &b, "0", "1").fails(1, "CHN-02");
    lvd!("info", "--chain", &b).fails(1, "CHN-02");
}

/// The host has no room: one line, and what was there before is still there.
#[test]
fn full_file_system() {
    let place = Place::new();
    let small = place.path("small");
    fs::create_dir(&small).expect("made");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a full file system, for want of the right to mount one");
        return;
    }
    let unmount = Unmount(small.clone());
    let mut random = Random::new(5);
    let disk = random.bytes(2 * MIB as usize);
    place.file("base.raw", &disk);
    let image = small.join("overlay.lvd");
    lvd!("create", "-b", "../base.raw", "-F", "raw", &image, "8M").ok();
    lvd!("write", "-P", "9", &image, "64K", "64K").ok();
    let mut wanted = disk.clone();
    wanted.resize(8 * MIB as usize, 0);
    wanted[64 * 1024..128 * 1024].fill(9);
    lvd!("write", "-P", "8", &image, "2M", "6M").fails(1, "no space");
    lvd!("check", &image).ok();
    let now = content(&image);
    same(&now[..2 * MIB as usize], &wanted[..2 * MIB as usize], "what was there before");
    assert!(now[2 * MIB as usize..].chunks(512).all(|s| s == [0; 512] || s == [8; 512]), "old or new");
    lvd!("write", "--zero", "--unmap", &image, "2M", "6M").ok();
    same(&content(&image), &wanted, "after room was made");
    // A stream that does not fit leaves the same disk, and goes through once there is room.
    fs::write(small.join("ballast"), vec![1; 2 * MIB as usize]).expect("written");
    lvd!("stream", &image).fails(1, "no space");
    same(&content(&image), &wanted, "after a stream without room");
    fs::remove_file(small.join("ballast")).expect("removed");
    lvd!("stream", &image).ok();
    same(&content(&image), &wanted, "streamed");
    lvd!("convert", "-f", "raw", place.path("base.raw"), small.join("copy.lvd")).fails(1, "no space");
    drop(unmount);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The same by a limit on the length of files, which needs no rights.
#[test]
fn file_size_limit() {
    let place = Place::new();
    let raw = place.file("disk.raw", &Random::new(9).bytes(2 * MIB as usize));
    let target = place.path("copy.lvd");
    let script = format!("trap '' XFSZ; ulimit -f 1024; exec \"$@\"; # {}", KIB);
    let mut limited = Command::new("bash");
    limited.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_lvd"), "convert", "-f", "raw"]).arg(&raw).arg(&target);
    run(&mut limited).fails(1, "no space");
    lvd!("convert", "-f", "raw", &raw, &target).ok();
    lvd!("compare", "-F", "raw", &target, &raw).ok();
}

/// A reader that goes away ends the command without a word.
#[test]
fn broken_pipe() {
    let place = Place::new();
    let image = place.path("disk.lvd");
    lvd!("create", &image, "64M").ok();
    let script = "\"$0\" read \"$1\" 0 64M | head -c 10 | wc -c; exit ${PIPESTATUS[0]}";
    let result = run(Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_lvd")]).arg(&image));
    assert_eq!(result.ok().text().trim(), "10");
}
