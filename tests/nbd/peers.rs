//! Clients of others: libnbd's tools, QEMU's, fio.

use crate::common::{MIB, Place, Random, content, peers, same};
use crate::serve::Server;
use crate::{lvd, tool};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// A disk of 24 MiB in two layers, with a bitmap `b0` that has recorded what is in the upper one.
fn disk(place: &Place) -> PathBuf {
    let (base, top) = (place.path("base.lvd"), place.path("top.lvd"));
    lvd!("create", &base, "24M").ok();
    lvd!("write", "-P", "7", &base, "1M", "3M").ok();
    lvd!("write", "-P", "9", &base, "10M", "1M").ok();
    lvd!("create", "-b", "base.lvd", &top).ok();
    lvd!("bitmap", "add", &top, "b0").ok();
    lvd!("write", "-P", "5", &top, "2M", "64K").ok();
    lvd!("write", "--zero", &top, "10M", "64K").ok();
    top
}

fn rows(map: &Value, keys: [&str; 3]) -> Vec<(u64, u64, String)> {
    let row = |row: &Value| (row[keys[0]].as_u64().unwrap(), row[keys[1]].as_u64().unwrap(), row[keys[2]].to_string());
    let mut rows: Vec<(u64, u64, String)> = Vec::new();
    for (start, length, what) in map.as_array().expect("a list").iter().map(row) {
        match rows.last_mut() {
            Some(last) if last.2 == what => last.1 += length,
            _ => rows.push((start, length, what)),
        }
    }
    rows
}

#[test]
fn nbdinfo() {
    if !peers(&["nbdinfo"]) {
        return;
    }
    let place = Place::new();
    let top = disk(&place);
    let (map, bitmap) = (lvd!("map", "--json", &top), lvd!("bitmap", "extents", "--json", &top, "b0"));
    let (map, bitmap) = (map.ok().json(), bitmap.ok().json());
    let server = Server::start(&place, &["top.lvd", "-r", "-x", "a disk", "-D", "for people", "--bitmap", "b0"]);
    let info = tool!("nbdinfo", "--json", server.uri()).ok().json();
    assert_eq!((&info["protocol"], &info["structured"]), (&"newstyle-fixed".into(), &true.into()), "{info}");
    let export = &info["exports"][0];
    for (key, value) in [
        ("export-name", Value::from("a disk")),
        ("description", "for people".into()),
        ("export-size", (24 * MIB).into()),
        ("is_read_only", true.into()),
        ("can_multi_conn", true.into()),
        ("can_df", true.into()),
        ("can_flush", true.into()),
        ("can_trim", false.into()),
        ("can_zero", false.into()),
        ("block_minimum", 1.into()),
        ("block_preferred", 4096.into()),
        ("block_maximum", (32 * MIB).into()),
    ] {
        // The names of some keys differ between versions.
        assert!(export[key] == value || export[key].is_null(), "{key}: {export}");
    }
    let contexts = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"];
    assert_eq!(export["contexts"], Value::from(contexts.to_vec()));

    let told = |context: &str| tool!("nbdinfo", "--json", format!("--map={context}"), server.uri()).ok().json();
    let data = rows(&map, ["start", "length", "data"]).into_iter();
    let wanted = data.map(|(at, length, data)| (at, length, if data == "true" { "0" } else { "3" }.into()));
    assert_eq!(rows(&told(contexts[0]), ["offset", "length", "type"]), wanted.collect::<Vec<_>>());
    // Of both layers, the upper one holds what was written to it.
    let depth = rows(&told(contexts[1]), ["offset", "length", "type"]);
    let local: Vec<_> = depth.iter().filter(|row| row.2 == "1").map(|row| (row.0, row.1)).collect();
    assert_eq!(local, [(2 * MIB, 64 << 10), (10 * MIB, 64 << 10)], "{depth:?}");
    assert!(depth.iter().all(|row| row.2 == "1" || row.2 == "2"), "{depth:?}");
    let keys = ["offset", "length", "type"];
    assert_eq!(rows(&told(contexts[2]), keys), rows(&bitmap, keys));
    server.stop().ok();
    // Who may have one connection is not led to wait for a second one.
    let server = Server::start(&place, &["top.lvd", "-e", "1"]);
    assert_eq!(tool!("nbdinfo", "--json", server.uri()).ok().json()["exports"][0]["can_multi_conn"], false);
    server.stop().ok();
}

#[test]
fn several_exports() {
    if !peers(&["nbdinfo", "nbdcopy"]) {
        return;
    }
    let place = Place::new();
    for (name, byte) in [("one.lvd", "1"), ("two.lvd", "2")] {
        lvd!("create", place.path(name), "1M").ok();
        lvd!("write", "-P", byte, place.path(name), "0", "1M").ok();
    }
    let server = Server::start(&place, &["one.lvd", "two.lvd"]);
    let list = tool!("nbdinfo", "--list", "--json", server.uri()).ok().json();
    let names: Vec<_> = list["exports"].as_array().expect("a list").iter().map(|e| e["export-name"].clone()).collect();
    assert_eq!(names, ["one.lvd", "two.lvd"]);
    for (name, byte) in [("", 1), ("one.lvd", 1), ("two.lvd", 2)] {
        let uri = server.uri().replace("///", &format!("///{name}"));
        assert_eq!(tool!("nbdcopy", uri, "-").ok().out, vec![byte; MIB as usize], "{name}");
    }
    let unknown = tool!("nbdinfo", server.uri().replace("///", "///three"));
    assert!(unknown.code != Some(0) && unknown.err.contains("for export: three"), "{unknown:?}");
    server.stop().ok();
}

#[test]
fn nbdcopy() {
    if !peers(&["nbdcopy"]) {
        return;
    }
    let place = Place::new();
    let top = disk(&place);
    let before = content(&top);
    let data = Random::new(5).disk(before.len());
    let file = place.file("in.raw", &data);
    let server = Server::start(&place, &["top.lvd"]);
    same(&tool!("nbdcopy", server.uri(), "-").ok().out, &before, "copied out");
    tool!("nbdcopy", &file, server.uri()).ok();
    tool!("nbdcopy", server.uri(), place.path("out.raw")).ok();
    same(&fs::read(place.path("out.raw")).expect("read"), &data, "copied in and out");
    server.stop().ok();
    same(&content(&top), &data, "copied in");
    lvd!("check", &top).ok();
}

#[test]
fn qemu() {
    if !peers(&["qemu-img", "qemu-io"]) {
        return;
    }
    let place = Place::new();
    let top = disk(&place);
    let before = content(&top);
    let map = lvd!("map", "--json", &top).ok().json();
    let server = Server::start(&place, &["top.lvd"]);
    let uri = server.uri();
    let info = tool!("qemu-img", "info", "--output=json", &uri).ok().json();
    assert_eq!(info["virtual-size"], 24 * MIB);
    let theirs = tool!("qemu-img", "map", "--output=json", &uri).ok().json();
    let keys = ["start", "length", "data"];
    assert_eq!(rows(&theirs, keys), rows(&map, keys));
    tool!("qemu-img", "convert", "-f", "raw", "-O", "raw", &uri, place.path("out.raw")).ok();
    same(&fs::read(place.path("out.raw")).expect("read"), &before, "converted");
    tool!("qemu-img", "compare", "-f", "raw", "-F", "raw", &uri, place.path("out.raw")).ok();

    let mut io = std::process::Command::new("qemu-io");
    io.args(["-f", "raw"]);
    for command in [
        "write -P 1 0 64k",
        "write -f -P 2 64k 64k",
        "flush",
        "read -P 1 0 64k",
        "read -P 2 64k 64k",
        "write -P 3 4095 2",
        "write -z 8k 4k",
        "write -z -f 12k 4k",
        "write -z -u 8M 4M",
        "write -P 4 5M 5M",
        "discard 20M 2M",
        "aio_write -P 6 16M 1M",
        "aio_write -P 7 17M 1M",
        "aio_flush",
        "read -P 6 16M 1M",
        "read -P 7 17M 1M",
    ] {
        io.args(["-c", command]);
    }
    let run = crate::common::run(io.arg(&uri)).code(0);
    assert!(!run.text().contains("verification failed") && run.err.is_empty(), "{run:?}");
    server.stop().ok();
    let mut model = before;
    model[..64 << 10].fill(1);
    model[64 << 10..128 << 10].fill(2);
    model[4095..4097].fill(3);
    model[8 << 10..16 << 10].fill(0);
    let mib = MIB as usize;
    model[8 * mib..12 * mib].fill(0);
    model[5 * mib..10 * mib].fill(4);
    model[16 * mib..17 * mib].fill(6);
    model[17 * mib..18 * mib].fill(7);
    let after = content(&top);
    // Discarded bytes may be anything that they were, or zeros.
    same(&after[..20 * mib], &model[..20 * mib], "after qemu-io");
    same(&after[22 * mib..], &model[22 * mib..], "after qemu-io");
    lvd!("check", &top).ok();
}

/// A file system in user space that shows the disk as a file. It needs a device node that containers may lack.
#[test]
fn nbdfuse() {
    let node = std::path::Path::new("/dev/fuse").exists();
    if !peers(&["nbdfuse"]) || !node {
        assert!(node || std::env::var("LVD_REQUIRE_PEERS").is_err(), "/dev/fuse is missing, and LVD_REQUIRE_PEERS=1");
        return;
    }
    let place = Place::new();
    let top = disk(&place);
    let before = content(&top);
    let server = Server::start(&place, &["top.lvd"]);
    let mount = place.path("mount");
    fs::create_dir(&mount).expect("made");
    let file = mount.join("disk");
    let mut fuse = std::process::Command::new("nbdfuse").arg(&file).arg(server.uri()).spawn().expect("started");
    while !file.exists() {
        assert!(fuse.try_wait().expect("known").is_none(), "nbdfuse has ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    same(&fs::read(&file).expect("read"), &before, "through a file system");
    let data = Random::new(9).bytes(MIB as usize);
    let open = fs::OpenOptions::new().write(true).open(&file).expect("opened");
    std::os::unix::fs::FileExt::write_all_at(&open, &data, 3 * MIB + 5).expect("written");
    open.sync_all().expect("synced");
    drop(open);
    tool!("umount", &mount).ok();
    fuse.wait().expect("waited for");
    server.stop().ok();
    let mut model = before;
    model[3 * MIB as usize + 5..][..data.len()].copy_from_slice(&data);
    same(&content(&top), &model, "written through a file system");
}

/// Another server as a client, and this client behind it.
#[test]
fn qemu_nbd() {
    if !peers(&["qemu-nbd"]) {
        return;
    }
    let place = Place::new();
    let top = disk(&place);
    let before = content(&top);
    let server = Server::start(&place, &["top.lvd"]);
    let between = place.path("between");
    let mut relay = std::process::Command::new("qemu-nbd")
        .args(["-t", "-f", "raw", "-k"])
        .args([&between, std::path::Path::new(&server.uri())])
        .spawn()
        .expect("started");
    while !between.exists() {
        assert!(relay.try_wait().expect("known").is_none(), "qemu-nbd has ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let uri = format!("nbd+unix:///?socket={}", between.display());
    lvd!("write", "-f", "raw", "-P", "8", &uri, "5000", "100000").ok();
    let read = lvd!("read", "-f", "raw", &uri, "0", "24M").ok();
    relay.kill().expect("killed");
    relay.wait().expect("waited for");
    server.stop().ok();
    let mut model = before;
    model[5000..105_000].fill(8);
    same(&read.out, &model, "read through both");
    same(&content(&top), &model, "written through both");
}

/// Nobody writes to what is served read-only.
#[test]
fn read_only() {
    if !peers(&["qemu-io"]) {
        return;
    }
    let place = Place::new();
    let top = disk(&place);
    let before = content(&top);
    let server = Server::start(&place, &["-r", "top.lvd"]);
    let run = tool!("qemu-io", "-f", "raw", "-c", "write 0 4k", server.uri());
    assert!(run.code != Some(0), "{run:?}");
    // Others may read beside it.
    same(&content(&top), &before, "read beside the server");
    server.stop().ok();
}

#[test]
fn fio() {
    if !peers(&["fio"]) {
        return;
    }
    let place = Place::new();
    let top = disk(&place);
    let server = Server::start(&place, &["top.lvd"]);
    let job = ["--name=job", "--ioengine=nbd", "--rw=randrw", "--bs=4k", "--iodepth=16", "--size=24M", "--fsync=64"];
    let mut command = std::process::Command::new("fio");
    command.current_dir(place.root()).args(job).args(["--verify=crc32c", "--verify_state_save=0"]);
    crate::common::run(command.arg(format!("--uri={}", server.uri()))).code(0);
    server.stop().ok();
    lvd!("check", &top).ok();
}

/// Three contexts in one connection, chunks of a read, and what has an error of its own.
#[test]
fn libnbd() {
    if !peers(&["nbdsh"]) {
        return;
    }
    let place = Place::new();
    let top = disk(&place);
    let server = Server::start(&place, &["top.lvd", "--bitmap", "b0"]);
    let script = place.file(
        "script.py",
        br#"
import errno, nbd, sys
h = nbd.NBD()
contexts = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"]
for context in contexts:
    h.add_meta_context(context)
h.connect_uri(sys.argv[1])
assert h.can_fast_zero() and h.can_multi_conn() and h.get_structured_replies_negotiated()
assert all(h.can_meta_context(context) for context in contexts)
M = 1 << 20
status = {}
def extents(context, offset, entries, error):
    assert error.value == 0
    status.setdefault(context, []).append((offset, entries))
h.block_status(24 * M, 0, extents)
assert status["qemu:dirty-bitmap:b0"] == [(0, [2 * M, 0, M // 16, 1, 127 * M // 16, 0, M // 16, 1, 223 * M // 16, 0])], status
assert sum(status["base:allocation"][0][1][::2]) == 24 * M, status
assert sum(status["qemu:allocation-depth"][0][1][::2]) == 24 * M, status
status.clear()
h.block_status(M, 2 * M, extents, nbd.CMD_FLAG_REQ_ONE)
assert [len(entries) for [(_, entries)] in status.values()] == [2, 2, 2], status
def fails(number, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errnum == number, error
    else:
        assert False, "it did not fail"
h.set_strict_mode(0)
fails(errno.EINVAL, h.pread, 10, 24 * M)
fails(errno.ENOSPC, h.pwrite, b"x" * 10, 24 * M - 9)
fails(errno.ENOSPC, h.zero, 4096, 24 * M)
fails(errno.EINVAL, h.trim, 4096, 24 * M)
fails(errno.ENOTSUP, h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, M, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA)
h.cache(4 * M, 0)
h.trim(4 * M, 12 * M, nbd.CMD_FLAG_FUA)
h.flush()
chunks = []
def chunk(data, offset, kind, error):
    chunks.append((offset, len(data), kind))
h.pread_structured(2 * M, 0, chunk)
assert chunks == [(0, M, nbd.READ_HOLE), (M, M, nbd.READ_DATA)], chunks
h.shutdown()
"#,
    );
    // Debian's module is Debian's python's, whatever else is called so.
    tool!("/usr/bin/python3", script, server.uri()).ok();
    server.stop().ok();
    lvd!("check", &top).ok();
}
