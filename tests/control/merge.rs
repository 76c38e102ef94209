//! Merges of bitmaps: within a disk, across disks, from exports of other servers, alone and in a transaction.
//!
//! | of the field's lists of what breaks | here |
//! |---|---|
//! | 54, merge: empty, self, overlapping, other granularity, other node, wrong size, busy, aborted | all tests |

use crate::common::{Place, lvd as command};
use crate::lvd;
use crate::rig::{Monitor, Server};
use lvd::nbd::Uri;
use lvd::nbd::client::{NbdBitmap, NbdStorage, Options};
use lvd::storage::Storage;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

/// Bytes of the smallest granules, in which dirt is told here.
pub const UNIT: u64 = 4096;
/// Of those in the larger ones.
const LARGE: u64 = 16;

pub fn uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

/// What an export tells of its bitmap, in units.
pub fn told(uri: &str, name: &str) -> BTreeSet<u64> {
    let bitmap = NbdBitmap::open(&Uri::parse(uri).expect("a URI"), name, Options::default()).expect("opened");
    bitmap.dirty().expect("told").into_iter().flat_map(|range| range.start / UNIT..range.end.div_ceil(UNIT)).collect()
}

/// What a bitmap of a served disk has dirty, in units.
pub fn dirty(server: &Server, monitor: &mut Monitor, node: &str, name: &str) -> BTreeSet<u64> {
    let look = json!({ "type": "nbd", "id": "look", "node-name": node, "name": "look", "bitmaps": [name] });
    monitor.ok("block-export-add", look);
    let told = told(&uri(&server.nbd, "look"), name);
    monitor.ok("block-export-del", json!({ "id": "look" }));
    told
}

/// The bitmaps of the device of that number.
pub fn bitmaps(monitor: &mut Monitor, device: usize) -> Value {
    monitor.ok("query-block", json!({}))[device]["inserted"]["dirty-bitmaps"].take()
}

fn write(server: &Server, export: &str, unit: u64) {
    let options = Options { write: true, ..Options::default() };
    let disk = NbdStorage::open(&Uri::parse(&uri(&server.nbd, export)).expect("a URI"), options).expect("opened");
    disk.write_at(&[7; 512], unit * UNIT).expect("written");
}

fn add(monitor: &mut Monitor, node: &str, name: &str, granularity: u64) {
    monitor.ok("block-dirty-bitmap-add", json!({ "node": node, "name": name, "granularity": granularity }));
}

fn merge(target: &str, bitmaps: Value) -> Value {
    json!({ "node": "disk", "target": target, "bitmaps": bitmaps })
}

fn action(verb: &str, data: Value) -> Value {
    json!({ "type": format!("block-dirty-bitmap-{verb}"), "data": data })
}

fn all(monitor: &mut Monitor, actions: &[Value]) -> Value {
    monitor.ok("transaction", json!({ "actions": actions }))
}

fn set<const N: usize>(units: [u64; N]) -> BTreeSet<u64> {
    units.into()
}

/// The larger granules around `units`.
fn wide(units: &BTreeSet<u64>) -> BTreeSet<u64> {
    units.iter().flat_map(|unit| unit / LARGE * LARGE..(unit / LARGE + 1) * LARGE).collect()
}

fn union(one: &BTreeSet<u64>, other: &BTreeSet<u64>) -> BTreeSet<u64> {
    one | other
}

/// `disk` and `two`, of one size, and `small`. Of `disk`, the bitmap `old` has units 80 and 160, in large granules, and `new`
/// 160 alone; of `two`, `b` has units 3, 161 and 900.
fn disks(place: &Place) -> (Server, Monitor) {
    for (name, size) in [("disk.lvd", "4M"), ("two.lvd", "4M"), ("small.lvd", "1M")] {
        lvd!("create", place.path(name), size).ok();
    }
    let arguments = ["-x", "disk", "-x", "two", "-x", "small", "disk.lvd", "two.lvd", "small.lvd"];
    let server = Server::launch(place, command(), "all", &arguments);
    let mut monitor = server.monitor();
    add(&mut monitor, "disk", "old", LARGE * UNIT);
    add(&mut monitor, "two", "b", UNIT);
    add(&mut monitor, "small", "s", UNIT);
    write(&server, "disk", 80);
    add(&mut monitor, "disk", "new", UNIT);
    write(&server, "disk", 160);
    [3, 161, 900].into_iter().for_each(|unit| write(&server, "two", unit));
    (server, monitor)
}

#[test]
fn a_merge_is_the_union() {
    let place = Place::new();
    let (server, mut monitor) = disks(&place);
    let (old, new, b) = (wide(&set([80, 160])), set([160]), set([3, 161, 900]));
    let look = |monitor: &mut Monitor, name: &str| dirty(&server, monitor, "disk", name);
    assert_eq!((look(&mut monitor, "old"), look(&mut monitor, "new")), (old.clone(), new.clone()));
    for nothing in [json!([]), json!(["new"])] {
        monitor.ok("block-dirty-bitmap-merge", merge("new", nothing));
        assert_eq!(look(&mut monitor, "new"), new);
    }
    // Of another disk, coarser than it was; then finer than it was, and overlapping.
    monitor.ok("block-dirty-bitmap-merge", merge("old", json!([{ "node": "two", "name": "b" }])));
    let old = union(&old, &wide(&b));
    assert_eq!(look(&mut monitor, "old"), old);
    monitor.ok("block-dirty-bitmap-merge", merge("new", json!(["old", "new", { "node": "two", "name": "b" }])));
    assert_eq!(look(&mut monitor, "new"), old);
    assert_eq!(dirty(&server, &mut monitor, "two", "b"), b, "what is merged stays as it is");
    // By the name of an export, also of this very server.
    let export = json!({ "type": "nbd", "id": "e", "node-name": "two", "name": "e", "bitmaps": ["b"] });
    monitor.ok("block-export-add", export);
    add(&mut monitor, "disk", "far", UNIT);
    let far = json!([{ "export": uri(&server.nbd, "e"), "name": "b" }]);
    monitor.ok("block-dirty-bitmap-merge", merge("far", far));
    assert_eq!(look(&mut monitor, "far"), b);
    // It goes on recording.
    write(&server, "disk", 7);
    assert_eq!(look(&mut monitor, "far"), union(&b, &set([7])));
    server.stop().ok();
    let extents = lvd!("bitmap", "extents", "--json", place.path("disk.lvd"), "far").ok().json();
    let found = extents.as_array().expect("extents").iter().filter(|extent| extent["type"] == 1).count();
    assert_eq!(found, 4, "{extents}");
}

/// The same of images at rest.
#[test]
fn bitmaps_of_other_images_are_merged() {
    let place = Place::new();
    let (server, mut monitor) = disks(&place);
    let control = server.control.clone();
    lvd!("bitmap", "merge", "--control", &control, "--from", "two", "disk", "new", "b").ok();
    assert_eq!(dirty(&server, &mut monitor, "disk", "new"), set([3, 160, 161, 900]));
    server.stop().ok();
    let merge = |arguments: &[&str]| {
        let mut command = command();
        command.current_dir(place.root()).args(["bitmap", "merge"]).args(arguments);
        crate::common::run(&mut command)
    };
    merge(&["--from", "two.lvd", "disk.lvd", "sum", "b"]).ok();
    let far = Server::launch(&place, command(), "far", &["-r", "-x", "t", "--bitmap", "b", "two.lvd"]);
    let export = uri(&far.nbd, "t");
    merge(&["--from", &export, "disk.lvd", "more", "b"]).ok();
    merge(&["--from", &export, "disk.lvd", "more", "c"]).fails(1, "tells of no bitmap \"c\"");
    merge(&["--from", "small.lvd", "disk.lvd", "more", "s"]).fails(1, "it has 4194304 bytes");
    far.stop().ok();
    let list = lvd!("bitmap", "list", "--json", place.path("disk.lvd")).ok().json();
    let bytes = |name: &str| {
        let found = list.as_array().expect("bitmaps").iter().find(|bitmap| bitmap["name"] == name);
        found.expect("there")["dirty-bytes"].as_u64().expect("a number")
    };
    assert_eq!((bytes("sum"), bytes("more")), (3 * UNIT, 3 * LARGE * UNIT));
}

/// In a transaction each merge sees what those before it did; and what nobody is to trust before it is whole, nobody does.
#[test]
fn merges_in_a_transaction_follow_each_other() {
    let place = Place::new();
    let (server, mut monitor) = disks(&place);
    let sum = |disabled: bool| {
        action("add", json!({ "node": "disk", "name": "sum", "granularity": UNIT, "disabled": disabled }))
    };
    let remove = |name: &str| action("remove", json!({ "node": "disk", "name": name }));
    let both = action("merge", merge("sum", json!(["new", { "node": "two", "name": "b" }])));
    let chain = action("merge", merge("old", json!(["sum"])));
    all(&mut monitor, &[sum(false), both.clone(), chain, remove("new")]);
    let expected = set([3, 160, 161, 900]);
    assert_eq!(dirty(&server, &mut monitor, "disk", "sum"), expected);
    assert_eq!(dirty(&server, &mut monitor, "disk", "old"), wide(&union(&expected, &set([80]))));
    let names =
        |found: &Value| found.as_array().expect("bitmaps").iter().map(|b| b["name"].clone()).collect::<Vec<_>>();
    let found = bitmaps(&mut monitor, 0);
    assert_eq!(names(&found), ["old", "sum"]);
    assert!(found.as_array().unwrap().iter().all(|b| b["recording"] == true && b["inconsistent"] == false), "{found}");
    write(&server, "disk", 5);
    assert!(dirty(&server, &mut monitor, "disk", "sum").contains(&5), "it records");
    // One that is to be disabled is.
    all(&mut monitor, &[remove("sum")]);
    let one = action("merge", merge("sum", json!(["old"])));
    all(&mut monitor, &[sum(true), one]);
    let found = bitmaps(&mut monitor, 0);
    assert_eq!((&found[1]["recording"], &found[1]["inconsistent"]), (&json!(false), &json!(false)));
    server.stop().ok();
    lvd!("check", place.path("disk.lvd")).ok();
}

/// All that the bitmaps of `disk` are.
fn state(server: &Server, monitor: &mut Monitor) -> (Value, Vec<BTreeSet<u64>>) {
    let dirt = ["old", "new"].map(|name| dirty(server, monitor, "disk", name));
    (bitmaps(monitor, 0), dirt.into())
}

#[test]
fn a_transaction_that_fails_takes_its_merges_back() {
    let place = Place::new();
    let (mut server, mut monitor) = disks(&place);
    add(&mut monitor, "disk", "off", UNIT);
    monitor.ok("block-dirty-bitmap-disable", json!({ "node": "disk", "name": "off" }));
    let before = state(&server, &mut monitor);
    let merges = [("new", json!(["old"])), ("old", json!([{ "node": "two", "name": "b" }])), ("off", json!(["old"]))];
    let merges = merges.map(|(target, sources)| action("merge", merge(target, sources)));
    let sum = action("add", json!({ "node": "disk", "name": "sum" }));
    let (remove, missing) =
        (action("remove", json!({ "node": "disk", "name": "old" })), action("merge", merge("no", json!(["old"]))));
    let failing = [
        (json!({ "type": "abort", "data": {} }), "aborts itself"),
        (missing, "no bitmap \"no\""),
        (action("clear", json!({ "node": "disk", "name": "old" })), "removes the bitmap \"old\": nothing more"),
        (remove.clone(), "removes the bitmap \"old\": nothing more"),
        (action("add", json!({ "node": "disk", "name": "new" })), "already"),
        (action("remove", json!({ "node": "disk", "name": "no" })), "no bitmap"),
        (action("disable", json!({ "node": "disk", "name": "sum" })), "merges into, the bitmap \"sum\": nothing more"),
    ];
    for (last, why) in failing {
        let mut actions = vec![sum.clone(), action("merge", merge("sum", json!(["old"])))];
        actions.extend(merges.iter().cloned());
        // What is so already is not turned when it is taken back.
        actions.extend(["disable", "enable"].map(|verb| {
            action(verb, json!({ "node": "disk", "name": if verb == "disable" { "off" } else { "new" } }))
        }));
        actions.extend([remove.clone(), last]);
        monitor.fails("transaction", json!({ "actions": actions }), "GenericError", why);
        assert_eq!(state(&server, &mut monitor), before, "{why}");
    }
    // On disk as well.
    server.signal("KILL");
    server.end();
    let list = lvd!("bitmap", "list", "--json", place.path("disk.lvd")).ok().json();
    let bytes: Vec<_> =
        list.as_array().expect("bitmaps").iter().map(|b| (&b["name"], b["dirty-bytes"].as_u64())).collect();
    let expected =
        [("old", 2 * LARGE * UNIT), ("new", UNIT), ("off", 0)].map(|(name, bytes)| (json!(name), Some(bytes)));
    assert_eq!(bytes, expected.each_ref().map(|(name, bytes)| (name, *bytes)), "{list}");
}

/// A server in front of another one, that goes once that one has said so many bytes.
pub fn cut_off(place: &Place, behind: &Path, after: usize) -> PathBuf {
    let path = place.path("cut");
    let _ = std::fs::remove_file(&path);
    let (listener, behind) = (UnixListener::bind(&path).expect("bound"), behind.to_owned());
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut server = UnixStream::connect(behind).expect("somebody listens");
        let (mut from, mut to) = (client.try_clone().expect("cloned"), server.try_clone().expect("cloned"));
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let (mut left, mut buffer) = (after, [0; 64]);
        while left > 0 {
            let most = left.min(buffer.len());
            let Ok(count @ 1..) = server.read(&mut buffer[..most]) else { break };
            let _ = client.write_all(&buffer[..count]);
            left -= count;
        }
        let _ = client.shutdown(std::net::Shutdown::Both);
        let _ = server.shutdown(std::net::Shutdown::Both);
    });
    path
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let place = Place::new();
    let (server, mut monitor) = disks(&place);
    for (id, node, bitmap) in [("two", "two", "b"), ("small", "small", "s")] {
        let export =
            json!({ "type": "nbd", "id": id, "node-name": node, "name": format!("e-{id}"), "bitmaps": [bitmap] });
        monitor.ok("block-export-add", export);
    }
    let before = state(&server, &mut monitor);
    let far = |export: &str, name: &str| json!(["old", { "export": uri(&server.nbd, export), "name": name }]);
    let nowhere = json!([{ "export": uri(&place.path("nobody"), "x"), "name": "b" }]);
    let cases = [
        (merge("new", json!(["old", "no"])), "no bitmap \"no\""),
        (merge("no", json!(["old"])), "no bitmap \"no\""),
        (merge("new", json!(["old", { "node": "small", "name": "s" }])), "a disk of 1048576 bytes, and"),
        (merge("new", far("e-small", "s")), "a disk of 1048576 bytes, and"),
        (merge("new", far("e-two", "no")), "tells of no bitmap \"no\""),
        (merge("new", far("e-no", "b")), "no such export"),
        (merge("new", nowhere), "nobody"),
        (merge("new", json!([{ "export": "two.lvd", "name": "b" }])), "not the URI of an export"),
        (merge("new", json!([{ "node": "two", "export": "x", "name": "b" }])), "one of a 'node' or of an 'export'"),
        (merge("new", json!([{ "name": "b" }])), "one of a 'node' or of an 'export'"),
        (merge("new", json!([{ "node": "two", "name": "b", "size": 1 }])), "unknown field `size`"),
        (merge("new", json!([7])), "invalid type"),
    ];
    for (arguments, why) in cases {
        monitor.fails("block-dirty-bitmap-merge", arguments.clone(), "GenericError", why);
        let in_all = json!({ "actions": [action("merge", arguments)] });
        monitor.fails("transaction", in_all, "GenericError", why);
        assert_eq!(state(&server, &mut monitor), before, "{why}");
    }
    let nobody = merge("new", json!([{ "node": "no", "name": "b" }]));
    monitor.fails("block-dirty-bitmap-merge", nobody, "DeviceNotFound", "no");
    // A server that goes at any moment, up to the last byte but those that end the reply.
    let whole = 900;
    for after in (0..whole).step_by(7) {
        let export = uri(&cut_off(&place, &server.nbd, after), "e-two");
        let cut = merge("new", json!(["old", { "export": export, "name": "b" }]));
        let answer = monitor.ask("block-dirty-bitmap-merge", cut);
        if answer.get("return").is_some() {
            assert!(after > 200, "it was whole after {after} bytes");
            server.stop().ok();
            return;
        }
        assert!(answer["error"]["desc"].as_str().is_some_and(|text| text.contains("cut") && !text.contains('\n')));
        assert_eq!(state(&server, &mut monitor), before, "{after}");
    }
    panic!("the bitmap is not told of in {whole} bytes");
}

/// A stale bitmap tells nothing, so nothing is made of it.
#[test]
fn what_is_stale_is_refused() {
    let place = Place::new();
    let volume = place.sparse("volume", 4 << 20);
    lvd!("bitmap", "attach", "-f", "raw", &volume, place.path("volume.lvb")).ok();
    lvd!("bitmap", "add", "-f", "raw", "--sidecar", place.path("volume.lvb"), &volume, "old").ok();
    std::fs::write(&volume, vec![1; 4 << 20]).expect("changed behind its back");
    let arguments = ["-f", "raw", "--sidecar", "volume.lvb", "-x", "disk", "volume"];
    let server = Server::launch(&place, command(), "volume", &arguments);
    let mut monitor = server.monitor();
    // Those that are added before a write are not trusted either.
    write(&server, "disk", 1);
    add(&mut monitor, "disk", "new", UNIT);
    for (target, source) in [("new", "old"), ("old", "new")] {
        let merge = merge(target, json!([source]));
        monitor.fails("block-dirty-bitmap-merge", merge, "GenericError", "\"old\" is stale: clear or remove it");
    }
    assert_eq!(dirty(&server, &mut monitor, "disk", "new"), set([]));
    server.stop().ok();
}

/// The verbs of the command reach the bitmaps of a disk that is served.
#[test]
fn bitmaps_by_hand() {
    let place = Place::new();
    let (server, mut monitor) = disks(&place);
    let bitmap = |verb: &[&str], words: &[&str]| {
        let mut command = command();
        command.arg("bitmap").args(verb).arg("--control").arg(&server.control).args(words);
        crate::common::run(&mut command)
    };
    bitmap(&["add", "-g", "4K", "--disabled"], &["disk", "mine"]).ok();
    bitmap(&["add"], &["disk", "mine"]).fails(1, "already");
    bitmap(&["merge"], &["disk", "mine", "old", "new"]).ok();
    assert_eq!(dirty(&server, &mut monitor, "disk", "mine"), wide(&set([80, 160])));
    bitmap(&["enable"], &["disk", "mine"]).ok();
    bitmap(&["clear"], &["disk", "mine"]).ok();
    write(&server, "disk", 9);
    assert_eq!(dirty(&server, &mut monitor, "disk", "mine"), set([9]));
    bitmap(&["disable"], &["disk", "mine"]).ok();
    assert_eq!(bitmaps(&mut monitor, 0)[2]["recording"], false);
    bitmap(&["remove"], &["disk", "mine"]).ok();
    bitmap(&["remove"], &["disk", "mine"]).fails(1, "no bitmap \"mine\"");
    bitmap(&["remove"], &["no", "mine"]).fails(1, "Cannot find device 'no'");
    assert_ne!(bitmap(&["add", "-f", "raw"], &["disk", "mine"]).code, Some(0), "a disk that is served has its format");
    server.stop().ok();
}

/// A bitmap that a backup has frozen is nobody's to merge into.
#[test]
fn what_is_frozen_is_busy() {
    let place = Place::new();
    let (server, mut monitor) = disks(&place);
    let pull = json!({ "device": "disk", "job-id": "p", "target": "scratch", "sync": "none", "bitmap": "new" });
    monitor.ok("drive-backup", pull);
    monitor.until("BLOCK_JOB_READY");
    monitor.fails("block-dirty-bitmap-merge", merge("new", json!(["old"])), "GenericError", "is frozen for a backup");
    monitor.ok("job-cancel", json!({ "id": "p" }));
    monitor.course("null");
    assert_eq!(dirty(&server, &mut monitor, "disk", "new"), set([160]));
    server.stop().ok();
}
