//! LVD beside programs of others: a real file system filled by `mke2fs` and judged by `e2fsck`, QEMU as a reader
//! of complete images and as a neighbour that locks, `strace` as the counter of what is really done.
//!
//! `LVD_DISK_MIB` is the size of the file system in MiB (256).

mod common;

use common::{KIB, MIB, Place, Random, content, feed, lvd as command, peers, run, same};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn disk_size() -> u64 {
    std::env::var("LVD_DISK_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(256) * MIB
}

/// How QEMU is told to read a complete image.
fn for_qemu(image: &Path) -> String {
    let info = lvd!("info", "--json", image).ok().json();
    assert_eq!(info["complete"], true, "{info}");
    let file = json!({ "driver": "file", "filename": image });
    let node = json!({ "driver": "raw", "offset": info["data-offset"], "size": info["virtual-size"], "file": file });
    format!("json:{node}")
}

/// Of one size and content to QEMU, whatever is holes. (`-s` would hold holes against each other too.)
fn identical(one: &str, raw: &Path) {
    let run = tool!("qemu-img", "compare", "-f", "raw", "-F", "raw", one, raw).ok();
    assert_eq!(run.text(), "Images are identical.\n");
}

/// A complete image and a raw file are the same to QEMU and to LVD.
fn qemu_agrees(image: &Path, raw: &Path) {
    identical(&for_qemu(image), raw);
    lvd!("compare", "-F", "raw", image, raw).ok();
    lvd!("check", image).ok();
}

fn fsck(raw: &Path) {
    tool!("e2fsck", "-f", "-n", raw).code(0);
}

/// A file system of the host's own files, about half full.
fn file_system(place: &Place) -> PathBuf {
    let tree = place.path("tree");
    fs::create_dir(&tree).expect("made");
    let mut room = disk_size() / 2;
    let mut pending = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/share"), PathBuf::from("/usr/bin")];
    let mut number = 0;
    while let Some(path) = pending.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if metadata.is_file() && metadata.len() <= room && number < 20_000 {
            let into = tree.join(format!("{:03}", number / 100));
            fs::create_dir_all(&into).expect("made");
            if fs::copy(&path, into.join(number.to_string())).is_ok() {
                room -= metadata.len();
                number += 1;
            }
        }
    }
    let raw = place.sparse("fs.raw", disk_size());
    tool!("mke2fs", "-q", "-F", "-t", "ext4", "-d", &tree, &raw).code(0);
    fs::remove_dir_all(&tree).expect("removed");
    fsck(&raw);
    raw
}

/// Changes the file system in `raw` with `debugfs`, and does to `image` by `lvd write` what that did to `raw`.
fn change(place: &Place, raw: &Path, image: &Path, seed: u64) {
    let before = place.path("before.raw");
    run(Command::new("cp").args(["--sparse=always"]).arg(raw).arg(&before)).ok();
    let mut random = Random::new(seed);
    let mut script = format!("mkdir new{seed}\ncd new{seed}\n");
    for number in 0..6 {
        let length = random.below(disk_size() / 100) as usize;
        let file = place.file(&format!("f{number}"), &random.bytes(length));
        script += &format!("write {} file{number}\n", file.display());
    }
    script += "cd /000\nrm 1\nrm 7\nrm 20\n";
    let commands = place.file("commands", script.as_bytes());
    tool!("debugfs", "-w", "-f", commands, raw).code(0);
    fsck(raw);
    for (offset, bytes) in differences(&before, raw) {
        feed(["write", &image.display().to_string(), &offset.to_string()], &bytes).ok();
    }
}

/// The stretches of `new` that differ from `old`, by 4 KiB.
fn differences(old: &Path, new: &Path) -> Vec<(u64, Vec<u8>)> {
    let (old, new) = (File::open(old).expect("opened"), File::open(new).expect("opened"));
    let size = new.metadata().expect("known").len();
    let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
    let (mut a, mut b) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    for start in (0..size).step_by(MIB as usize) {
        let length = (size - start).min(MIB) as usize;
        old.read_exact_at(&mut a[..length], start).expect("read");
        new.read_exact_at(&mut b[..length], start).expect("read");
        for at in (0..length).step_by(4096) {
            let range = at..(at + 4096).min(length);
            if a[range.clone()] == b[range.clone()] {
                continue;
            }
            let offset = start + at as u64;
            match found.last_mut() {
                Some((from, bytes)) if *from + bytes.len() as u64 == offset => bytes.extend_from_slice(&b[range]),
                _ => found.push((offset, b[range].to_vec())),
            }
        }
    }
    found
}

/// The chain's disk as a raw file.
fn as_raw(place: &Place, image: &Path) -> PathBuf {
    let raw = place.path("as.raw");
    lvd!("convert", "-O", "raw", image, &raw).ok();
    raw
}

/// A file system's life: converted, overlaid, changed, committed, changed, streamed, changed, mirrored.
#[test]
fn a_file_system_through_every_job() {
    if !peers(&["qemu-img", "mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    let place = Place::new();
    let raw = file_system(&place);
    let (base, top) = (place.path("base.lvd"), place.path("top.lvd"));
    lvd!("convert", "-f", "raw", "-O", "lvd", &raw, &base).ok();
    qemu_agrees(&base, &raw);

    lvd!("create", "-b", "base.lvd", &top).ok();
    change(&place, &raw, &top, 1);
    lvd!("compare", "-F", "raw", &top, &raw).ok();
    fsck(&as_raw(&place, &top));

    lvd!("commit", &top).ok();
    qemu_agrees(&base, &raw);
    fsck(&as_raw(&place, &base));
    lvd!("compare", &top, &base).ok();

    change(&place, &raw, &top, 2);
    lvd!("stream", &top).ok();
    qemu_agrees(&top, &raw);
    fs::remove_file(&base).expect("no longer needed");
    qemu_agrees(&top, &raw);

    change(&place, &raw, &top, 3);
    let (lvd, copy) = (place.path("mirror.lvd"), place.path("mirror.raw"));
    lvd!("mirror", &top, &lvd).ok();
    qemu_agrees(&lvd, &raw);
    lvd!("mirror", "-O", "raw", &top, &copy).code(0);
    qemu_agrees(&lvd, &copy);
    identical(&copy.display().to_string(), &raw);
    fsck(&copy);
}

/// One extent of `map --json`, as far as the model knows it.
fn expected_map(layers: &[Vec<bool>], size: u64) -> Vec<(u64, u64, usize, bool)> {
    let mut map: Vec<(u64, u64, usize, bool)> = Vec::new();
    for block in 0..size.div_ceil(4096) {
        let (start, end) = (block * 4096, size.min(block * 4096 + 4096));
        let depth = layers.iter().position(|layer| layer[block as usize]);
        let (depth, present) = (depth.unwrap_or(layers.len() - 1), depth.is_some());
        match map.last_mut() {
            Some(last) if (last.2, last.3) == (depth, present) => last.1 += end - start,
            _ => map.push((start, end - start, depth, present)),
        }
    }
    map
}

#[test]
fn map_is_right() {
    let place = Place::new();
    let mut random = Random::new(21);
    let size = 40 * MIB + 1234;
    let blocks = size.div_ceil(4096) as usize;
    let names = ["bottom.lvd", "middle.lvd", "top.lvd"];
    let mut layers = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let mut held = vec![number == 0; blocks];
        match number {
            0 => {
                let raw = place.file("bottom.raw", &random.bytes(size as usize));
                lvd!("convert", "-f", "raw", &raw, place.path(name)).ok();
            }
            _ => drop(lvd!("create", "-b", names[number - 1], place.path(name)).ok()),
        }
        for _ in 0..if number == 0 { 0 } else { 25 } {
            let offset = random.below(size - 1);
            let length = (1 + random.below(300 * KIB)).min(size - offset);
            lvd!("write", "-P", "0xee", place.path(name), offset.to_string(), length.to_string()).ok();
            held[offset as usize / 4096..=(offset + length - 1) as usize / 4096].fill(true);
        }
        layers.insert(0, held);
    }
    let map = lvd!("map", "--json", place.path("top.lvd")).ok().json();
    let mut told: Vec<(u64, u64, usize, bool)> = Vec::new();
    for extent in map.as_array().expect("a list") {
        let number = |key: &str| extent[key].as_u64().unwrap_or_else(|| panic!("{key}: {extent}"));
        let (start, length, depth) = (number("start"), number("length"), number("depth") as usize);
        let present = extent["present"].as_bool().expect("present");
        assert_eq!(extent["data"].as_bool(), Some(true), "{extent}");
        assert_eq!(extent["zero"].as_bool(), Some(false), "{extent}");
        assert_eq!(extent["compressed"].as_bool(), Some(false), "{extent}");
        let offset = number("offset");
        let layer = place.path(names[names.len() - 1 - depth]);
        let info = lvd!("info", "--json", layer).ok().json();
        assert_eq!(offset, info["data-offset"].as_u64().expect("an offset") + start, "in place");
        match told.last_mut() {
            Some(last) if last.0 + last.1 == start && (last.2, last.3) == (depth, present) => last.1 += length,
            _ => told.push((start, length, depth, present)),
        }
    }
    assert_eq!(told, expected_map(&layers, size));
}

/// A complete image and the same raw file have the same map for `qemu-img`.
#[test]
fn map_speaks_as_qemu_does() {
    if !peers(&["qemu-img"]) {
        return;
    }
    let place = Place::new();
    let raw = place.sparse("disk.raw", 8 * MIB);
    File::options()
        .write(true)
        .open(&raw)
        .and_then(|file| file.write_all_at(&[1; 65536], MIB).and(file.write_all_at(&[2; 65536], 5 * MIB)))
        .expect("written");
    let image = place.path("disk.lvd");
    lvd!("convert", "-f", "raw", &raw, &image).ok();
    let kinds = |map: &Value| -> Vec<(u64, u64, bool, bool)> {
        let number = |extent: &Value, key: &str| extent[key].as_u64().expect("a number");
        let flag = |extent: &Value, key: &str| extent[key].as_bool().expect("a flag");
        let list = map.as_array().expect("a list").iter();
        list.map(|e| (number(e, "start"), number(e, "length"), flag(e, "zero"), flag(e, "data"))).collect()
    };
    let ours = lvd!("map", "--output=json", &image).ok().json();
    let theirs = tool!("qemu-img", "map", "--output=json", for_qemu(&image)).ok().json();
    assert_eq!(kinds(&ours), kinds(&theirs));
    let keys = |map: &Value| -> Vec<String> { map[1].as_object().expect("extents").keys().cloned().collect() };
    let (ours, mut theirs) = (keys(&ours), keys(&theirs));
    theirs.retain(|key| !ours.contains(key));
    assert_eq!(theirs, Vec::<String>::new(), "keys of qemu-img that are missing");
}

#[test]
fn info_has_the_keys_of_qemu() {
    if !peers(&["qemu-img"]) {
        return;
    }
    let place = Place::new();
    lvd!("create", place.path("base.lvd"), "64M").ok();
    lvd!("create", "-b", "base.lvd", place.path("top.lvd")).ok();
    tool!("qemu-img", "create", "-q", "-f", "qcow2", place.path("base.qcow2"), "64M").ok();
    let mut qcow2 = Command::new("qemu-img");
    qcow2.args(["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2"]).arg(place.path("top.qcow2"));
    run(&mut qcow2).ok();
    let theirs = tool!("qemu-img", "info", "--output=json", place.path("top.qcow2")).ok().json();
    let ours = lvd!("info", "--output=json", place.path("top.lvd")).ok().json();
    for key in theirs.as_object().expect("an object").keys() {
        // These speak of qcow2's clusters and of QEMU's block nodes.
        if !["cluster-size", "format-specific", "children"].contains(&key.as_str()) {
            assert!(ours.get(key).is_some(), "no {key} in {ours}");
        }
    }
    let chain = lvd!("info", "--backing-chain", "--output=json", place.path("top.lvd")).ok().json();
    assert_eq!(chain.as_array().expect("a list").len(), 2);
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `qemu-io` that has opened `image` and waits.
fn qemu_io(image: &Path, read_only: bool) -> Running {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]).args(read_only.then_some("-r")).arg(image);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    child.stdin.as_mut().expect("piped").write_all(b"length\n").expect("written");
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"iB\n") && !seen.ends_with(b"bytes\n") {
        assert_eq!(child.stdout.as_mut().expect("piped").read(&mut byte).expect("read"), 1, "qemu-io went away");
        seen.push(byte[0]);
    }
    Running(child)
}

/// `lvd write` that has opened `image` and waits for its input.
fn waiting_writer(image: &Path) -> Running {
    let mut command = command();
    command.args(["write", "--acknowledge", "512"]).arg(image).arg("0");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    child.stdin.as_mut().expect("piped").write_all(&[7; 512]).expect("written");
    let mut line = [0; 4];
    child.stdout.as_mut().expect("piped").read_exact(&mut line).expect("read");
    assert_eq!(&line, b"512\n");
    Running(child)
}

#[test]
fn qemu_and_lvd_keep_each_other_out() {
    if !peers(&["qemu-img", "qemu-io"]) {
        return;
    }
    let place = Place::new();
    let (base, top) = (place.path("base.lvd"), place.path("top.lvd"));
    lvd!("create", &base, "1M").ok();
    lvd!("create", "-b", "base.lvd", &top).ok();

    let writer = qemu_io(&base, false);
    lvd!("read", &base, "0", "1").fails(1, "locked");
    lvd!("write", "-P", "1", &base, "0", "1").fails(1, "locked");
    lvd!("read", &top, "0", "1").fails(1, "locked");
    drop(writer);
    let reader = qemu_io(&base, true);
    lvd!("read", &top, "0", "1").ok();
    lvd!("write", "-P", "1", &base, "0", "1").fails(1, "locked");
    lvd!("commit", &top).fails(1, "locked");
    drop(reader);

    let writer = waiting_writer(&top);
    for image in [&top, &base] {
        tool!("qemu-io", "-f", "raw", "-c", "write 512k 512", image).code(1);
    }
    tool!("qemu-io", "-r", "-f", "raw", "-c", "read 512k 512", &top).code(1);
    tool!("qemu-io", "-r", "-f", "raw", "-c", "read 512k 512", &base).code(0);
    lvd!("read", &top, "0", "1").fails(1, "locked");
    lvd!("read", &base, "0", "1").ok();
    drop(writer);
    lvd!("write", "-P", "1", &top, "0", "1").ok();
    assert_eq!(content(&base), vec![0; MIB as usize]);
}

/// What `strace` saw: system calls by name and path, with the bytes that they moved.
struct Trace(Vec<(String, String, u64)>);

impl Trace {
    fn of(place: &Place, words: &[&str]) -> Trace {
        let file = place.path("trace");
        let calls = "trace=pread64,preadv,preadv2,read,pwrite64,pwritev,pwritev2,write,copy_file_range,fdatasync,fsync";
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-q", "-e", calls, "-o"]).arg(&file).arg(env!("CARGO_BIN_EXE_lvd")).args(words);
        run(strace.current_dir(place.root())).code(0);
        let text = fs::read_to_string(file).expect("read");
        Trace(text.lines().filter_map(parse_call).collect())
    }

    fn count(&self, calls: &[&str], file: &str) -> (u64, u64) {
        let hits = self.0.iter().filter(|(call, path, _)| calls.contains(&call.as_str()) && path.ends_with(file));
        hits.fold((0, 0), |(count, bytes), hit| (count + 1, bytes + hit.2))
    }
}

const READS: &[&str] = &["pread64", "preadv", "preadv2", "read", "copy_file_range"];
const WRITES: &[&str] = &["pwrite64", "pwritev", "pwritev2", "write"];
const BARRIERS: &[&str] = &["fdatasync", "fsync"];

/// `123 pwrite64(4</tmp/x>, "…", 4096, 0) = 4096`.
fn parse_call(line: &str) -> Option<(String, String, u64)> {
    let call = line.split_once(' ')?.1.trim_start();
    let (name, rest) = call.split_once('(')?;
    let path = rest.split_once('<')?.1.split_once('>')?.0;
    let moved = line.rsplit_once("= ").and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
    Some((name.into(), path.into(), moved))
}

/// An overlay's 4 KiB writes leave the parent alone, and a flush costs what it must.
#[test]
fn overlay_writes_copy_nothing() {
    if !peers(&["strace"]) {
        return;
    }
    let place = Place::new();
    place.file("base.raw", &Random::new(4).bytes(32 * MIB as usize));
    lvd!("create", "-b", "base.raw", "-F", "raw", place.path("top.lvd")).ok();
    let bench =
        ["bench", "-q", "-w", "-c", "320", "-d", "1", "-s", "4K", "-S", "100K", "--flush-interval", "32", "top.lvd"];
    let trace = Trace::of(&place, &bench);
    assert_eq!(trace.count(READS, "/base.raw"), (0, 0), "reads of the parent");
    let (barriers, _) = trace.count(BARRIERS, "/top.lvd");
    // Ten flushes of at most two; a session's start and its close are eight more at most.
    println!(
        "320 writes, 10 flushes, one session: {barriers} barriers, {} bytes a write",
        trace.count(WRITES, "/top.lvd").1 / 320
    );
    assert!(barriers <= 10 * 2 + 8, "{barriers} barriers");
    let (writes, bytes) = trace.count(WRITES, "/top.lvd");
    assert!(writes >= 320 && bytes >= 320 * 4 * KIB, "{writes} writes of {bytes} bytes: not all was seen");
    // A session's headers are written whatever the number of writes.
    let headers = 6 * 4 * KIB;
    assert!(bytes <= 320 * 5632 + headers, "{bytes} bytes written for 320 blocks of 4 KiB");
}

/// QEMU lays its own overlay over a complete image.
#[test]
fn qcow2_overlay_above() {
    if !peers(&["qemu-img", "qemu-io"]) {
        return;
    }
    let place = Place::new();
    let disk = Random::new(8).disk(4 * MIB as usize);
    let raw = place.file("disk.raw", &disk);
    let image = place.path("disk.lvd");
    lvd!("convert", "-f", "raw", &raw, &image).ok();
    let (overlay, back) = (place.path("over.qcow2"), place.path("back.raw"));
    tool!("qemu-img", "create", "-q", "-f", "qcow2", "-b", for_qemu(&image), "-F", "raw", &overlay).ok();
    tool!("qemu-io", "-f", "qcow2", "-c", "write -P 3 1M 64k", &overlay).code(0);
    tool!("qemu-img", "convert", "-f", "qcow2", "-O", "raw", &overlay, &back).ok();
    let mut wanted = disk.clone();
    wanted[MIB as usize..MIB as usize + 65536].fill(3);
    same(&fs::read(&back).expect("read"), &wanted, "through QEMU");
    same(&content(&image), &disk, "untouched below");
}

/// A QED image that QEMU made and wrote to here and there, and its disk as QEMU reads it.
fn qed(place: &Place, cluster: u64, table: u64, backing: Option<&str>, random: &mut Random) -> (PathBuf, PathBuf) {
    let size = 24 * MIB + 512;
    let (image, raw) = (place.path("disk.qed"), place.path("disk.raw"));
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qed", "-o", &format!("cluster_size={cluster},table_size={table}")]);
    create.args(backing.into_iter().flat_map(|name| ["-b", name, "-F", "raw"])).arg(&image).arg(size.to_string());
    run(&mut create).ok();
    let mut io = Command::new("qemu-io");
    io.args(["-f", "qed"]);
    for number in 1..40 {
        let offset = random.below(size / 512) * 512;
        let length = ((1 + random.below(600)) * 512).min(size - offset);
        // Zeros of whole clusters take no cluster.
        let (start, whole) = (offset / cluster * cluster, (1 + random.below(4)) * cluster);
        io.arg("-c").arg(match number % 3 {
            0 => format!("write -z {start} {}", whole.min(size - start)),
            _ => format!("write -P {number} {offset} {length}"),
        });
    }
    run(io.arg(&image)).code(0);
    let _ = fs::remove_file(&raw);
    tool!("qemu-img", "convert", "-f", "qed", "-O", "raw", &image, &raw).ok();
    (image, raw)
}

/// Which stretches hold data and which are zeros, however they are cut.
fn stretches(map: &Value) -> Vec<(u64, u64, bool)> {
    let mut found: Vec<(u64, u64, bool)> = Vec::new();
    for extent in map.as_array().expect("a list") {
        let number = |key: &str| extent[key].as_u64().unwrap_or_else(|| panic!("{key}: {extent}"));
        let (start, end, data) = (number("start"), number("start") + number("length"), extent["data"] == true);
        assert_eq!(extent["zero"] == true, !data, "{extent}");
        match found.last_mut() {
            Some(last) if last.2 == data => last.1 = end,
            _ => found.push((start, end, data)),
        }
    }
    found
}

#[test]
fn qed_images_are_sources_and_parents() {
    if !peers(&["qemu-img", "qemu-io"]) {
        return;
    }
    let mut random = Random::new(61);
    for (cluster, table) in [(4 * KIB, 4), (4 * KIB, 16), (64 * KIB, 2), (64 * KIB, 4), (MIB, 2)] {
        for backing in [None, Some(5 * MIB), Some(40 * MIB)] {
            let place = Place::new();
            let what = format!("clusters of {cluster}, tables of {table}, over {backing:?}");
            if let Some(length) = backing {
                place.file("base.raw", &random.disk(length as usize));
            }
            let (image, raw) = qed(&place, cluster, table, backing.map(|_| "base.raw"), &mut random);
            let disk = fs::read(&raw).expect("read");

            let (copy, top) = (place.path("copy.raw"), place.path("top.lvd"));
            lvd!("convert", "-f", "qed", "-O", "raw", &image, &copy).ok();
            same(&fs::read(&copy).expect("read"), &disk, &what);
            lvd!("compare", "-f", "qed", "-F", "raw", &image, &raw).ok();
            lvd!("convert", "-f", "qed", "-t", "none", &image, place.path("copy.lvd")).ok();
            lvd!("compare", "-F", "raw", place.path("copy.lvd"), &raw).ok();
            let ours = lvd!("map", "-f", "qed", "--json", &image).ok().json();
            let theirs = tool!("qemu-img", "map", "-f", "qed", "--output=json", &image).ok().json();
            assert_eq!(stretches(&ours), stretches(&theirs), "{what}");

            lvd!("create", "-b", "disk.qed", "-F", "qed", &top).ok();
            same(&content(&top), &disk, &what);
            let info = lvd!("info", "--json", &top).ok().json();
            assert_eq!(
                (&info["backing-filename-format"], &info["parent"]["unverified"]),
                (&json!("qed"), &json!(true))
            );
            let mut wanted = disk;
            lvd!("write", "-P", "0xee", &top, "1000001", "777777").ok();
            wanted[1_000_001..1_777_778].fill(0xee);
            same(&content(&top), &wanted, &what);
            lvd!("commit", &top).fails(1, "only read");
            lvd!("stream", &top).ok();
            fs::remove_file(&image).expect("no longer needed");
            same(&content(&top), &wanted, &what);
        }
    }
}

#[test]
fn qed_images_are_neither_guessed_nor_followed_nor_written() {
    if !peers(&["qemu-img", "qemu-io"]) {
        return;
    }
    let place = Place::new();
    let (image, raw) = qed(&place, 64 * KIB, 4, None, &mut Random::new(62));
    for words in [&["map"][..], &["convert", "-O", "raw"], &["info"]] {
        let mut command = command();
        command.args(words).arg(&image).args(words.get(1).map(|_| place.path("copy.raw")));
        run(&mut command).fails(1, "say so with -f qed");
    }
    lvd!("create", "-b", "disk.qed", place.path("top.lvd")).fails(1, "say so with -F qed");
    lvd!("write", "-f", "qed", "-P", "1", &image, "0", "1").fails(1, "only read");
    lvd!("check", "-f", "qed", &image).fails(63, "qemu-img");
    lvd!("map", "-f", "qed", &raw).fails(1, "QED-01");

    // QEMU keeps a backing format only if it is raw, and would guess any other.
    let over = place.path("over.qed");
    tool!("qemu-img", "create", "-q", "-f", "qed", "-b", "disk.qed", "-F", "qed", &over).ok();
    lvd!("read", "-f", "qed", &over, "0", "1").fails(1, "does not say in which format its backing file");
    lvd!("create", "-b", "over.qed", "-F", "qed", place.path("top.lvd")).fails(1, "QED-07");
    let info = lvd!("info", "-f", "qed", "--json", &over).ok().json();
    assert_eq!((&info["backing-filename"], &info["backing-filename-format"]), (&json!("disk.qed"), &Value::Null));

    // What is left when QEMU is killed.
    let before = fs::read(&raw).expect("read");
    common::patch(&image, 16, &[2]);
    assert_eq!(lvd!("info", "-f", "qed", "--json", &image).ok().json()["dirty-flag"], true);
    let (size, copy) = (before.len().to_string(), fs::read(&image).expect("read"));
    same(&lvd!("read", "-f", "qed", &image, "0", size).ok().out, &before, "unclean");
    same(&fs::read(&image).expect("read"), &copy, "repaired nothing");
}
