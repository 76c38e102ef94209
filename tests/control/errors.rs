//! What goes wrong is said in one line, under QEMU's class, and changes nothing.

use crate::common::Place;
use crate::lvd;
use crate::rig::{SIZE, Server, overlay};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

#[test]
fn errors_are_one_clear_line() {
    let place = Place::new();
    overlay(&place);
    place.file("there", b"x");
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    let generic = "GenericError";
    let cases: Vec<(&str, Value, &str, &str)> = vec![
        ("blockdev-backup", json!({}), "CommandNotFound", "blockdev-backup"),
        ("blockdev-mirror", json!({}), "CommandNotFound", "blockdev-mirror"),
        ("query-version", json!({ "x": 1 }), generic, "unknown field `x`"),
        ("block-stream", json!({}), generic, "missing field `device`"),
        ("block-stream", json!({ "device": 1 }), generic, "expected a string"),
        ("block-stream", json!({ "device": "no" }), "DeviceNotFound", "Cannot find device 'no'"),
        ("block-stream", json!({ "device": "disk", "base": "no.lvd" }), generic, "no.lvd: cannot open"),
        ("block-stream", json!({ "device": "disk", "base": "there" }), generic, "there: not a layer of the chain"),
        ("block-stream", json!({ "device": "disk", "base": "disk.lvd" }), generic, "is the top itself"),
        ("block-stream", json!({ "device": "disk", "speed": -1 }), generic, "integer `-1`"),
        ("block-stream", json!({ "device": "disk", "on-error": "ignore" }), generic, "unknown variant `ignore`"),
        ("block-stream", json!({ "device": "disk", "job-id": "" }), generic, "Invalid job ID"),
        ("block-commit", json!({ "device": "disk", "top": "base.lvd" }), generic, "layer 1 does not lie above layer 1"),
        (
            "block-commit",
            json!({ "device": "disk", "base": "disk.lvd" }),
            generic,
            "layer 0 does not lie above layer 0",
        ),
        ("drive-mirror", json!({ "device": "disk", "target": "t" }), generic, "missing field `sync`"),
        ("drive-mirror", json!({ "device": "disk", "target": "t", "sync": "none" }), generic, "unknown variant `none`"),
        (
            "drive-mirror",
            json!({ "device": "disk", "target": "t", "sync": "top", "format": "raw" }),
            generic,
            "a new LVD image",
        ),
        (
            "drive-mirror",
            json!({ "device": "disk", "target": "there", "sync": "top", "mode": "existing" }),
            generic,
            "a new LVD image",
        ),
        (
            "drive-mirror",
            json!({ "device": "disk", "target": "t", "sync": "full", "mode": "existing" }),
            generic,
            "t: there is no such file",
        ),
        ("drive-mirror", json!({ "device": "disk", "target": "disk.lvd", "sync": "full" }), generic, "locked"),
        ("drive-mirror", json!({ "device": "disk", "target": "base.lvd", "sync": "full" }), generic, "locked"),
        ("drive-mirror", json!({ "device": "disk", "target": "no/t", "sync": "full" }), generic, "no/t"),
        (
            "drive-mirror",
            json!({ "device": "disk", "target": "t", "sync": "full", "granularity": 1000 }),
            generic,
            "power of 2",
        ),
        (
            "drive-mirror",
            json!({ "device": "disk", "target": "there", "sync": "full", "resume": "b" }),
            generic,
            "there",
        ),
        ("blockdev-snapshot-sync", json!({ "device": "disk", "snapshot-file": "there" }), generic, "there: it exists"),
        ("blockdev-snapshot-sync", json!({ "device": "disk", "snapshot-file": "no/x" }), generic, "no/x"),
        (
            "blockdev-snapshot-sync",
            json!({ "device": "disk", "snapshot-file": "t", "format": "raw" }),
            generic,
            "an overlay is an LVD image",
        ),
        (
            "blockdev-snapshot-sync",
            json!({ "device": "disk", "snapshot-file": "t", "format": "qcow2" }),
            generic,
            "qcow2",
        ),
        ("job-pause", json!({ "id": "no" }), "DeviceNotActive", "Job 'no' not found"),
        ("block-job-cancel", json!({ "device": "no" }), "DeviceNotActive", "Job 'no' not found"),
        ("block_resize", json!({ "device": "disk", "size": 1u64 << 62 }), generic, "disk.lvd"),
        ("block-dirty-bitmap-remove", json!({ "node": "disk", "name": "b" }), generic, "has no bitmap \"b\""),
        ("block-dirty-bitmap-add", json!({ "node": "disk", "name": "" }), generic, "name"),
        (
            "block-dirty-bitmap-add",
            json!({ "node": "disk", "name": "b", "granularity": 3 }),
            generic,
            "must be power of 2",
        ),
        (
            "block-dirty-bitmap-add",
            json!({ "node": "disk", "name": "b", "persistent": false }),
            generic,
            "all bitmaps are persistent",
        ),
    ];
    let before = monitor.ok("query-block", json!({}));
    for (name, arguments, class, part) in cases {
        monitor.fails(name, arguments, class, part);
    }
    assert_eq!(monitor.ok("query-block", json!({})), before);
    assert_eq!(monitor.ok("query-jobs", json!({})), json!([]));
    assert_eq!(std::fs::read(place.path("there")).expect("read"), b"x");
    assert!(!place.path("t").exists(), "a file that nobody uses is left");
    server.stop().ok();
    // Nothing has begun a session, even.
    lvd!("check", place.path("disk.lvd")).ok();
}

/// A disk that is served read-only stays as it is.
#[test]
fn read_only() {
    let place = Place::new();
    overlay(&place);
    let server = Server::launch(&place, crate::common::lvd(), "read-only", &["-r", "-x", "disk", "disk.lvd"]);
    let mut monitor = server.monitor();
    for (name, arguments) in [
        ("block-stream", json!({ "device": "disk" })),
        ("block-commit", json!({ "device": "disk" })),
        ("block_resize", json!({ "device": "disk", "size": 4096 })),
        ("block-dirty-bitmap-add", json!({ "node": "disk", "name": "b" })),
        ("blockdev-snapshot-sync", json!({ "device": "disk", "snapshot-file": place.path("t") })),
    ] {
        monitor.fails(name, arguments, "GenericError", "disk.lvd");
    }
    assert_eq!(monitor.ok("query-block", json!({}))[0]["inserted"]["ro"], true);
    assert!(!place.path("t").exists(), "a file that nobody uses is left");
    server.stop().ok();
}

/// Only the user who started the server reaches its control socket.
#[test]
fn the_socket_is_the_users_alone() {
    let place = Place::new();
    overlay(&place);
    let server = Server::start(&place);
    let mode = std::fs::metadata(&server.control).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let control = server.control.clone();
    lvd!("serve", "--unix", place.path("more"), "--control", &control, "-r", place.path("base.lvd"))
        .fails(1, "cannot listen");
    server.stop().ok();
    assert!(!control.exists(), "the socket is left");
}

/// What is there is told, and told the same: the table of commands is what answers.
#[test]
fn queries() {
    let place = Place::new();
    overlay(&place);
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    let commands = monitor.ok("query-commands", json!({}));
    let names: Vec<&str> = commands.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(names.is_sorted() && names.contains(&"block-stream"), "{names:?}");
    for name in names.iter().filter(|name| **name != "quit") {
        let answer = monitor.ask(name, json!({ "no-such-member": 1 }));
        assert!(answer["error"]["desc"].as_str().unwrap().contains("no-such-member"), "{answer}");
    }
    monitor.ok("block-dirty-bitmap-add", json!({ "node": "disk", "name": "b", "granularity": 4096 }));
    server.guest().write(8192, &[1; 4096]);
    let wanted = json!([{
        "device": "disk", "type": "unknown", "removable": false, "locked": false,
        "inserted": {
            "file": "disk.lvd", "drv": "lvd", "ro": false, "encrypted": false,
            "backing_file": "base.lvd", "backing_file_depth": 1,
            "image": {
                "filename": "disk.lvd", "format": "lvd", "virtual-size": SIZE, "backing-filename": "base.lvd",
                "backing-image": { "filename": "base.lvd", "format": "lvd", "virtual-size": SIZE },
            },
            "dirty-bitmaps": [{
                "name": "b", "granularity": 4096, "count": 4096, "persistent": true, "busy": false,
                "recording": true, "inconsistent": false,
            }],
        },
    }]);
    assert_eq!(monitor.ok("query-block", json!({})), wanted);
    monitor.ok("block_resize", json!({ "device": "disk", "size": SIZE + 512 }));
    assert_eq!(monitor.ok("query-block", json!({}))[0]["inserted"]["image"]["virtual-size"], SIZE + 512);
    server.stop().ok();
    assert_eq!(lvd!("info", "--json", place.path("disk.lvd")).ok().json()["virtual-size"], SIZE + 512);
}

/// Bitmaps do what they do in QEMU, and go with the guest into a new overlay.
#[test]
fn bitmaps() {
    let place = Place::new();
    overlay(&place);
    let server = Server::start(&place);
    let (mut monitor, mut guest) = (server.monitor(), server.guest());
    let of = |name: &str| json!({ "node": "disk", "name": name });
    let state = |monitor: &mut crate::rig::Monitor| -> Vec<(String, u64, bool)> {
        let devices = monitor.ok("query-block", json!({}));
        let bitmaps = devices[0]["inserted"]["dirty-bitmaps"].as_array().expect("a list").clone();
        let one = |bitmap: &Value| {
            let name = bitmap["name"].as_str().unwrap().to_owned();
            (name, bitmap["count"].as_u64().unwrap() >> 16, bitmap["recording"].as_bool().unwrap())
        };
        let mut all: Vec<_> = bitmaps.iter().map(one).collect();
        all.sort();
        all
    };
    monitor.ok("block-dirty-bitmap-add", of("a"));
    monitor.ok("block-dirty-bitmap-add", json!({ "node": "disk", "name": "b", "disabled": true }));
    monitor.fails("block-dirty-bitmap-add", of("a"), "GenericError", "already");
    guest.write(0, &[1; 4096]);
    assert_eq!(state(&mut monitor), [("a".into(), 1, true), ("b".into(), 0, false)]);
    let merge = |from: &str| json!({ "node": "disk", "target": "b", "bitmaps": ["a", from] });
    monitor.fails("block-dirty-bitmap-merge", merge("no"), "GenericError", "has no bitmap \"no\"");
    assert_eq!(state(&mut monitor)[1].1, 0);
    monitor.ok("block-dirty-bitmap-merge", merge("a"));
    monitor.ok("block-dirty-bitmap-clear", of("a"));
    assert_eq!(state(&mut monitor), [("a".into(), 0, true), ("b".into(), 1, false)]);
    monitor.ok("block-dirty-bitmap-disable", of("a"));
    monitor.ok("block-dirty-bitmap-enable", of("a"));
    monitor.ok("block-dirty-bitmap-remove", of("b"));
    monitor.ok("blockdev-snapshot-sync", json!({ "device": "disk", "snapshot-file": "top.lvd" }));
    guest.write(1 << 20, &[1; 4096]);
    assert_eq!(state(&mut monitor), [("a".into(), 1, true)]);
    server.stop().ok();
    lvd!("check", place.path("top.lvd")).ok();
}
