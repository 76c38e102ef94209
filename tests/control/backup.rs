//! Backups under a guest that goes on, several disks at one instant, and who pulls.

use crate::common::{Place, Random, content, peers, run, same};
use crate::lvd;
use crate::rig::{Guest, Monitor, SIZE, Server, holds, overlay};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Serves `disk.lvd`, with the bitmap `daily`, and says what is on it.
fn serve(place: &Place) -> (Server, Monitor, Vec<u8>) {
    let model = overlay(place);
    let server = Server::start(place);
    let mut monitor = server.monitor();
    monitor.ok("block-dirty-bitmap-add", json!({ "node": "disk", "name": "daily" }));
    (server, monitor, model)
}

/// Lets a guest loose as soon as the job that `begin` begins has its instant, and returns what the disk is at the end.
fn beside(server: &Server, monitor: &mut Monitor, model: Vec<u8>, job: Value) -> Vec<u8> {
    // Slow enough for the guest to come before it.
    let mut job = job;
    job["speed"] = json!(1 << 20);
    let id = job["job-id"].as_str().expect("a name").to_owned();
    monitor.ok("drive-backup", job);
    let guest = Guest::start(server, model);
    guest.go_on();
    monitor.ok("block-job-set-speed", json!({ "device": id, "speed": 0 }));
    assert_eq!(monitor.until("BLOCK_JOB_COMPLETED")["error"], Value::Null);
    monitor.course("null");
    guest.end()
}

/// Stories 49 and 50: a full backup and two that follow it, each the disk of its instant.
#[test]
fn each_backup_is_the_disk_of_its_instant() {
    let place = Place::new();
    let (server, mut monitor, mut model) = serve(&place);
    let full = json!({ "device": "disk", "job-id": "b", "target": "0.lvd", "sync": "full", "bitmap": "daily" });
    let mut instant = model.clone();
    model = beside(&server, &mut monitor, model, full);
    holds(&place, "0.lvd", &instant);
    for round in 1..3 {
        instant = model.clone();
        let next = json!({
            "device": "disk", "job-id": "b", "target": format!("{round}.lvd"), "sync": "incremental", "bitmap": "daily",
            "previous": format!("{}.lvd", round - 1),
        });
        model = beside(&server, &mut monitor, model, next);
        holds(&place, &format!("{round}.lvd"), &instant);
    }
    // What follows another one does not fit, and what is made for it goes.
    let wrong = json!({
        "device": "disk", "target": "wrong.lvd", "sync": "incremental", "bitmap": "daily", "previous": "0.lvd",
    });
    monitor.fails("drive-backup", wrong, "GenericError", "is the backup of");
    assert!(!place.path("wrong.lvd").exists());
    server.stop().ok();
    holds(&place, "disk.lvd", &model);
    // At rest, the same bitmap goes on.
    lvd!("backup", "--bitmap", "daily", "-b", "2.lvd", place.path("disk.lvd"), place.path("3.lvd")).ok();
    holds(&place, "3.lvd", &model);
}

/// A raw copy is brought up to date, by name or over NBD.
#[test]
fn raw_copies_follow() {
    let place = Place::new();
    let (server, mut monitor, model) = serve(&place);
    let full = json!({
        "device": "disk", "job-id": "b", "target": "copy.raw", "format": "raw", "sync": "full", "bitmap": "daily",
    });
    let instant = model.clone();
    let model = beside(&server, &mut monitor, model, full);
    same(&std::fs::read(place.path("copy.raw")).expect("there"), &instant, "copy.raw");
    place.sparse("far.raw", SIZE as u64);
    std::fs::copy(place.path("copy.raw"), place.path("far.raw")).expect("copied");
    let far = Server::launch(&place, crate::common::lvd(), "far", &["-f", "raw", "-x", "far", "far.raw"]);
    let target = format!("nbd+unix:///far?socket={}", far.nbd.display());
    for (target, mode) in [("copy.raw", "never"), (target.as_str(), "on-success")] {
        let onto = json!({
            "device": "disk", "job-id": "b", "target": target, "format": "raw", "mode": "existing", "sync": "bitmap",
            "bitmap": "daily", "bitmap-mode": mode,
        });
        monitor.ok("drive-backup", onto);
        assert_eq!(monitor.until("BLOCK_JOB_COMPLETED")["error"], Value::Null);
        monitor.course("null");
    }
    far.stop().ok();
    for copy in ["copy.raw", "far.raw"] {
        same(&std::fs::read(place.path(copy)).expect("there"), &model, copy);
    }
    server.stop().ok();
}

/// Story 56: the disk of an instant, and what changed since the last one, for tools that know NBD and nothing of us.
#[test]
fn others_pull_what_changed() {
    let place = Place::new();
    let (server, mut monitor, model) = serve(&place);
    let mut client = server.guest();
    client.write(5 << 16, &[7; 512]);
    client.write(100 << 16, &[7; 70_000]);
    let mut instant = model;
    instant[5 << 16..][..512].fill(7);
    instant[100 << 16..][..70_000].fill(7);
    let pull =
        json!({ "device": "disk", "job-id": "pull", "target": "scratch.raw", "sync": "none", "bitmap": "daily" });
    monitor.ok("drive-backup", pull.clone());
    monitor.until("BLOCK_JOB_READY");
    let export = json!({ "type": "nbd", "id": "e", "node-name": "pull", "name": "instant", "bitmaps": ["daily"] });
    monitor.ok("block-export-add", export.clone());
    monitor.fails("block-export-add", export, "GenericError", "already in use");
    let other = json!({ "type": "nbd", "id": "f", "node-name": "pull", "name": "x", "bitmaps": ["weekly"] });
    monitor.fails("block-export-add", other, "GenericError", "no bitmap");
    assert_eq!(monitor.ok("query-block-exports", json!({}))[0]["node-name"], "pull");
    let guest = Guest::start(&server, instant.clone());
    guest.go_on();
    if peers(&["nbdcopy", "nbdinfo"]) {
        let uri = format!("nbd+unix:///instant?socket={}", server.nbd.display());
        let mut info = Command::new("nbdinfo");
        let map = run(info.args(["--json", "--map=qemu:dirty-bitmap:daily", &uri])).ok().json();
        let dirty: Vec<(u64, u64)> = map
            .as_array()
            .expect("extents")
            .iter()
            .filter(|extent| extent["type"] == 1)
            .map(|extent| (extent["offset"].as_u64().unwrap() >> 16, extent["length"].as_u64().unwrap() >> 16))
            .collect();
        assert_eq!(dirty, [(5, 1), (100, 2)], "what changed up to the instant, and nothing of after it");
        run(Command::new("nbdcopy").arg(&uri).arg(place.path("pulled.raw"))).ok();
        same(&std::fs::read(place.path("pulled.raw")).expect("there"), &instant, "what nbdcopy got");
        guest.go_on();
    }
    // Nobody has it yet: it is given up, and the bitmap is as if nobody had asked.
    monitor.ok("job-cancel", json!({ "id": "pull" }));
    monitor.course("null");
    assert_eq!(monitor.ok("query-block-exports", json!({})), json!([]));
    let model = guest.end();
    let dirty = |monitor: &mut Monitor| {
        let devices = monitor.ok("query-block", json!({}));
        devices[0]["inserted"]["dirty-bitmaps"][0]["count"].as_u64().expect("a count")
    };
    assert!(dirty(&mut monitor) >= 3 << 16);
    // The one who has it says so.
    monitor.ok("drive-backup", pull);
    monitor.until("BLOCK_JOB_READY");
    client.write(0, &[9; 512]);
    monitor.ok("job-complete", json!({ "id": "pull" }));
    assert_eq!(monitor.until("BLOCK_JOB_COMPLETED")["error"], Value::Null);
    monitor.course("null");
    assert_eq!(dirty(&mut monitor), 1 << 16, "what changed since the instant");
    server.stop().ok();
    let mut model = model;
    model[..512].fill(9);
    holds(&place, "disk.lvd", &model);
}

/// Two disks, `disk` and `two`, in `one.lvd` and `two.lvd`, each with the bitmap `daily`.
fn two(place: &Place) -> (Server, Monitor) {
    for name in ["one.lvd", "two.lvd"] {
        lvd!("create", place.path(name), "4M").ok();
    }
    let arguments = ["-x", "disk", "-x", "two", "one.lvd", "two.lvd"];
    let server = Server::launch(place, crate::common::lvd(), "both", &arguments);
    let mut monitor = server.monitor();
    for node in ["disk", "two"] {
        monitor.ok("block-dirty-bitmap-add", json!({ "node": node, "name": "daily" }));
    }
    (server, monitor)
}

fn action(kind: &str, data: Value) -> Value {
    json!({ "type": kind, "data": data })
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("both."))
        .collect();
    names.sort();
    names
}

/// Stories 52 and 60: all of it or nothing.
#[test]
fn a_transaction_is_all_or_nothing() {
    let place = Place::new();
    let (server, mut monitor) = two(&place);
    let mut client = server.guest();
    client.write(0, &[1; 512]);
    let snapshot =
        |node: &str, file: &str| action("blockdev-snapshot-sync", json!({ "device": node, "snapshot-file": file }));
    let bitmap = |verb: &str, node: &str| {
        action(&format!("block-dirty-bitmap-{verb}"), json!({ "node": node, "name": "daily" }))
    };
    let backup = |node: &str, target: &str| {
        let data = json!({ "device": node, "job-id": target, "target": target, "sync": "full", "bitmap": "daily" });
        action("drive-backup", data)
    };
    let add = action("block-dirty-bitmap-add", json!({ "node": "two", "name": "weekly" }));
    let before = (monitor.ok("query-block", json!({})), names(place.root()));
    let failing = [
        (vec![snapshot("disk", "s1.lvd"), snapshot("two", "one.lvd")], "it exists"),
        (vec![snapshot("disk", "s1.lvd"), snapshot("two", "s2.lvd"), action("abort", json!({}))], "aborts itself"),
        (vec![bitmap("clear", "disk"), bitmap("clear", "two"), add.clone(), add.clone()], "weekly"),
        (vec![bitmap("disable", "two"), bitmap("clear", "disk"), bitmap("clear", "two")], "does not record"),
        (vec![bitmap("clear", "disk"), backup("two", "b2.lvd"), backup("disk", "/nowhere/b1.lvd")], "/nowhere"),
        (vec![backup("disk", "b1.lvd"), backup("two", "b2.lvd"), backup("two", "b3.lvd")], "has to wait"),
        (vec![backup("disk", "b1.lvd"), backup("disk", "b1.lvd")], "already in use"),
    ];
    for (actions, why) in failing {
        monitor.fails("transaction", json!({ "actions": actions }), "GenericError", why);
        assert_eq!(monitor.ok("query-jobs", json!({})), json!([]), "{why}");
        assert_eq!((monitor.ok("query-block", json!({})), names(place.root())), before, "{why}");
    }
    monitor.fails("transaction", json!({ "actions": [{ "type": "dance", "data": {} }] }), "GenericError", "dance");
    // They go on as if nothing had been.
    client.write(1 << 16, &[2; 512]);
    let dirty = |monitor: &mut Monitor, device: usize| {
        let devices = monitor.ok("query-block", json!({}));
        devices[device]["inserted"]["dirty-bitmaps"][0]["count"].as_u64().expect("a count") >> 16
    };
    assert_eq!(dirty(&mut monitor, 0), 2);
    let all = vec![bitmap("clear", "disk"), snapshot("disk", "s1.lvd"), add, snapshot("two", "s2.lvd")];
    monitor.ok("transaction", json!({ "actions": all }));
    client.write(0, &[3; 512]);
    assert_eq!(dirty(&mut monitor, 0), 1);
    let devices = monitor.ok("query-block", json!({}));
    for (device, top) in [(0, "s1.lvd"), (1, "s2.lvd")] {
        assert!(devices[device]["inserted"]["file"].as_str().expect("a name").ends_with(top));
    }
    server.stop().ok();
    for (file, bytes) in [("one.lvd", [1, 2]), ("s1.lvd", [3, 2])] {
        let found = content(&place.path(file));
        assert_eq!([found[0], found[1 << 16]], bytes, "{file}");
    }
    lvd!("check", place.path("s2.lvd")).ok();
}

/// Story 52: grouped, a job that fails or is cancelled takes the others with it, also one that has copied everything.
#[test]
fn grouped_jobs_end_together() {
    let place = Place::new();
    let (server, mut monitor) = two(&place);
    let mut client = server.guest();
    client.write(0, &Random::new(3).bytes(3 << 20));
    let run = |monitor: &mut Monitor, round: u32, mode: &str, cancel: bool| {
        let backup = |node: &str, speed: u32| {
            let target = format!("{node}{round}.lvd");
            let data = json!({
                "device": node, "job-id": node, "target": target, "sync": "full", "bitmap": "daily", "speed": speed,
                "auto-dismiss": false,
            });
            action("drive-backup", data)
        };
        let slow = if cancel { 1 << 16 } else { 0 };
        let actions = [backup("disk", slow), backup("two", 0)];
        monitor.ok("transaction", json!({ "actions": actions, "properties": { "completion-mode": mode } }));
        if cancel {
            monitor.ok("job-cancel", json!({ "id": "disk" }));
        }
        let mut ends = Vec::new();
        for _ in 0..2 {
            let end = loop {
                let event = monitor.event();
                if event["event"] == "JOB_STATUS_CHANGE" && event["data"]["status"] == "concluded" {
                    break event["data"]["id"].as_str().expect("a name").to_owned();
                }
            };
            ends.push(end);
        }
        let jobs = monitor.ok("query-jobs", json!({}));
        let failed: Vec<bool> = jobs.as_array().expect("jobs").iter().map(|job| job["error"].is_string()).collect();
        for end in ends {
            monitor.ok("job-dismiss", json!({ "id": end }));
        }
        failed
    };
    assert_eq!(run(&mut monitor, 0, "grouped", false), [false, false]);
    client.write(0, &[5; 512]);
    assert_eq!(run(&mut monitor, 1, "grouped", true), [true, true]);
    assert_eq!(run(&mut monitor, 2, "individual", true), [true, false]);
    let devices = monitor.ok("query-block", json!({}));
    assert_eq!(devices[0]["inserted"]["dirty-bitmaps"][0]["count"], 1 << 16, "told of until a backup has it");
    server.stop().ok();
    lvd!("check", place.path("disk0.lvd")).ok();
    for copy in ["disk1.lvd", "two1.lvd"] {
        lvd!("read", place.path(copy), "0", "512").fails(1, "copy");
    }
    lvd!("read", place.path("two2.lvd"), "0", "512").ok();
}

/// Story 45: the guests of two mirrors move as one decision, or neither does.
#[test]
fn guests_move_together() {
    let place = Place::new();
    let (server, mut monitor) = two(&place);
    let mut client = server.guest();
    client.write(0, &[1; 4096]);
    let mirror = |monitor: &mut Monitor, device: &str, target: &str| {
        let speed = if target == "slow.lvd" { 1 } else { 0 };
        let data = json!({ "device": device, "job-id": device, "target": target, "sync": "full", "speed": speed });
        monitor.ok("drive-mirror", data);
    };
    let together = |ids: &[&str], group: &str| json!({ "ids": ids, "group": group });
    mirror(&mut monitor, "disk", "copy1.lvd");
    monitor.until("BLOCK_JOB_READY");
    let command = "job-complete-together";
    monitor.fails(command, together(&["disk", "two"], "g.lvg"), "DeviceNotActive", "two");
    client.write(8 << 16, &[1; 4096]);
    monitor.ok("drive-backup", json!({ "device": "two", "job-id": "two", "target": "x", "sync": "none" }));
    monitor.until("BLOCK_JOB_READY");
    monitor.fails(command, together(&["disk", "two"], "g.lvg"), "GenericError", "does not move together");
    monitor.ok("job-cancel", json!({ "id": "two" }));
    monitor.course("null");
    monitor.fails(command, together(&["disk", "disk"], "g.lvg"), "GenericError", "different jobs");
    monitor.fails(command, together(&["disk"], "one.lvd"), "GenericError", "a new file");
    assert!(!place.path("g.lvg").exists());
    mirror(&mut monitor, "two", "copy2.lvd");
    monitor.until("BLOCK_JOB_READY");
    client.write(4096, &[2; 4096]);
    monitor.ok(command, together(&["disk", "two"], "g.lvg"));
    for _ in 0..2 {
        assert_eq!(monitor.until("BLOCK_JOB_COMPLETED")["error"], Value::Null);
    }
    let mut server = server;
    server.signal("KILL");
    server.end();
    // Without the file of the group the old disks are not written to; by it they are known to have moved.
    lvd!("bitmap", "add", place.path("one.lvd"), "more").fails(1, "group");
    lvd!("bitmap", "add", "--group", place.path("g.lvg"), place.path("two.lvd"), "more").fails(1, "moved");
    for copy in ["copy1.lvd", "copy2.lvd"] {
        lvd!("check", place.path(copy)).ok();
    }
    let found = content(&place.path("copy1.lvd"));
    assert_eq!([found[0], found[4096], found[8 << 16]], [1, 2, 1]);
}

/// Stories 58 and 71: the server is killed while a backup runs; the same backup, asked for again, is right.
#[test]
fn a_backup_that_was_killed_is_asked_for_again() {
    let place = Place::new();
    let (server, mut monitor, model) = serve(&place);
    let full = json!({ "device": "disk", "job-id": "b", "target": "0.lvd", "sync": "full", "bitmap": "daily" });
    let model = beside(&server, &mut monitor, model, full);
    let mut server = server;
    let next = |target: &str, speed: u32| {
        json!({
            "device": "disk", "target": target, "sync": "incremental", "bitmap": "daily", "previous": "0.lvd",
            "speed": speed,
        })
    };
    monitor.ok("drive-backup", next("1.lvd", 1 << 16));
    server.signal("KILL");
    server.end();
    lvd!("read", place.path("1.lvd"), "0", "512").fails(1, "copy");
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    monitor.ok("drive-backup", next("1.lvd", 0));
    assert_eq!(monitor.until("BLOCK_JOB_COMPLETED")["error"], Value::Null);
    server.stop().ok();
    holds(&place, "1.lvd", &model);
}

/// A server that was killed amid a backup left the bitmap frozen. Until the next backup each verb said that it is frozen for
/// one, though none was under way, and a transaction could not clear it.
#[test]
fn what_a_killed_backup_has_left_frozen_is_in_nobodys_way() {
    let about = json!({ "node": "disk", "name": "daily" });
    let amid = |place: &Place| {
        let (server, mut monitor, model) = serve(place);
        let backup = |target: &str, job: &str| json!({ "device": "disk", "job-id": job, "target": target, "sync": "full", "bitmap": "daily" });
        beside(&server, &mut monitor, model, backup("0.lvd", "first"));
        let mut slow = backup("1.lvd", "second");
        slow["speed"] = json!(1 << 16);
        monitor.ok("drive-backup", slow);
        (server, monitor)
    };
    let place = Place::new();
    let (server, mut monitor) = amid(&place);
    monitor.fails("block-dirty-bitmap-clear", about.clone(), "GenericError", "frozen for a backup");
    server.stop().ok();
    let ways: [&[(&str, serde_json::Value)]; 3] = [
        &[("block-dirty-bitmap-clear", about.clone())],
        &[("block-dirty-bitmap-disable", about.clone()), ("block-dirty-bitmap-enable", about.clone())],
        &[(
            "transaction",
            json!({ "actions": [
                { "type": "block-dirty-bitmap-clear", "data": about },
                { "type": "blockdev-snapshot-sync", "data": { "device": "disk", "snapshot-file": "over.lvd" } },
            ] }),
        )],
    ];
    for way in ways {
        let place = Place::new();
        let (mut killed, _) = amid(&place);
        killed.signal("KILL");
        killed.end();
        let server = Server::start(&place);
        let mut monitor = server.monitor();
        for (command, arguments) in way {
            monitor.ok(command, arguments.clone());
        }
        let bitmaps = monitor.ok("query-block", json!({}))[0]["inserted"]["dirty-bitmaps"].clone();
        assert_eq!((bitmaps.as_array().map(Vec::len), &bitmaps[0]["name"]), (Some(1), &json!("daily")), "{bitmaps}");
        assert_eq!(bitmaps[0]["recording"], true, "{way:?}: {bitmaps}");
        server.stop().ok();
    }
}

/// What makes no sense is said before a file is made.
#[test]
fn wrong_backups_are_refused() {
    let place = Place::new();
    let (server, mut monitor) = two(&place);
    lvd!("create", place.path("prev.lvd"), "4M").ok();
    let before = names(place.root());
    let wrong = [
        (json!({ "sync": "incremental" }), "goes by a 'bitmap'"),
        (json!({ "sync": "full", "bitmap-mode": "never" }), "is about a 'bitmap'"),
        (json!({ "sync": "bitmap", "bitmap": "daily", "previous": "two.lvd" }), "what becomes of the bitmap"),
        (json!({ "sync": "incremental", "bitmap": "daily", "bitmap-mode": "never" }), "begins a new count"),
        (json!({ "sync": "incremental", "bitmap": "daily" }), "lies on the 'previous' one"),
        (json!({ "sync": "full", "previous": "two.lvd" }), "and no other, lies on"),
        (json!({ "sync": "incremental", "bitmap": "daily", "format": "raw" }), "'mode' is 'existing'"),
        (json!({ "sync": "full", "granularity": 5000 }), "'granularity'"),
        (json!({ "sync": "full", "bitmap": "daily", "bitmap-mode": "always" }), "always"),
        (json!({ "sync": "top" }), "top"),
        (json!({ "sync": "incremental", "bitmap": "weekly", "previous": "prev.lvd" }), "weekly"),
        (json!({ "sync": "incremental", "bitmap": "daily", "previous": "none.lvd" }), "none.lvd"),
    ];
    for (mut arguments, why) in wrong {
        arguments["device"] = json!("disk");
        arguments["target"] = json!("t.lvd");
        monitor.fails("drive-backup", arguments, "GenericError", why);
        assert_eq!(names(place.root()), before, "{why}");
    }
    let onto_itself = json!({ "device": "disk", "target": "one.lvd", "sync": "full" });
    monitor.fails("drive-backup", onto_itself, "GenericError", "one.lvd");
    monitor.fails("block-export-del", json!({ "id": "e" }), "GenericError", "not found");
    let whole = json!({ "type": "nbd", "id": "e", "node-name": "two", "name": "again" });
    monitor.ok("block-export-add", whole);
    monitor.ok("block-export-del", json!({ "id": "e" }));
    server.stop().ok();
}
