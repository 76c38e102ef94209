//! Jobs under a guest that goes on: what it wrote is there afterwards, in the files that are the disk by then.

use crate::common::{Place, content, same};
use crate::lvd;
use crate::rig::{Guest, Monitor, SIZE, Server, holds, overlay};
use serde_json::json;
use std::os::unix::fs::FileExt;

/// Snapshot, stream, commit and mirror, one after the other.
#[test]
fn the_whole_story() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start(&place);
    let (mut monitor, guest) = (server.monitor(), Guest::start(&server, model));

    monitor.ok("block-stream", json!({ "device": "disk" }));
    let streamed = ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];
    assert_eq!(monitor.course("null"), streamed);
    assert_eq!(monitor.layers(), ["disk.lvd"]);
    guest.go_on();

    for (name, layers) in
        [("one.lvd", vec!["one.lvd", "disk.lvd"]), ("two.lvd", vec!["two.lvd", "one.lvd", "disk.lvd"])]
    {
        monitor.ok("blockdev-snapshot-sync", json!({ "device": "disk", "snapshot-file": name }));
        assert_eq!(monitor.layers(), layers);
        guest.go_on();
    }

    // The layer between, and then the guest's own.
    monitor.ok("block-commit", json!({ "device": "disk", "top": "one.lvd", "base": "disk.lvd" }));
    assert_eq!(monitor.course("null"), streamed);
    // It holds nothing more that disk.lvd does not, and stays between the two.
    assert_eq!(monitor.layers(), ["two.lvd", "one.lvd", "disk.lvd"]);
    guest.go_on();
    monitor.ok("block-commit", json!({ "device": "disk", "job-id": "down" }));
    assert_eq!(monitor.course("BLOCK_JOB_READY"), ["created", "running", "ready", "BLOCK_JOB_READY"]);
    guest.go_on();
    monitor.ok("job-complete", json!({ "id": "down" }));
    let pivoted = ["waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];
    assert_eq!(monitor.course("null"), pivoted);
    assert_eq!(monitor.layers(), ["disk.lvd"]);
    guest.go_on();

    let target = json!({ "device": "disk", "job-id": "away", "target": "moved.lvd", "sync": "full" });
    monitor.ok("drive-mirror", target);
    monitor.until("BLOCK_JOB_READY");
    guest.go_on();
    monitor.ok("block-job-complete", json!({ "device": "away" }));
    assert_eq!(monitor.course("null"), pivoted);
    assert_eq!(monitor.layers(), ["moved.lvd"]);
    // The guest has left it, and it is closed.
    assert_eq!(lvd!("info", "--json", place.path("disk.lvd")).ok().json()["state"], "closed");
    guest.go_on();

    let copy = json!({ "device": "disk", "target": "copy.raw", "format": "raw", "sync": "full" });
    monitor.ok("drive-mirror", copy);
    monitor.until("BLOCK_JOB_READY");
    guest.go_on();
    // Not forced: the target is the disk of that moment.
    monitor.ok("block-job-cancel", json!({ "device": "disk" }));
    assert_eq!(monitor.course("null"), pivoted);
    assert_eq!(monitor.layers(), ["moved.lvd"]);

    let model = guest.end();
    server.stop().ok();
    holds(&place, "moved.lvd", &model);
    assert_eq!(std::fs::metadata(place.path("copy.raw")).expect("there").len(), SIZE as u64);
}

/// A job that is reported as completed is durable: whoever kills the server in that moment finds what the job promised.
#[test]
fn completed_is_durable() {
    for round in 0..5 {
        let place = Place::new();
        let model = overlay(&place);
        let mut server = Server::start(&place);
        let mut monitor = server.monitor();
        monitor.ok("block-stream", json!({ "device": "disk" }));
        monitor.until("BLOCK_JOB_COMPLETED");
        server.signal("KILL");
        server.end();
        let facts = lvd!("info", "--json", place.path("disk.lvd")).ok().json();
        assert_eq!(facts["backing-filename"], json!(null), "round {round}: it still lies on its parent");
        std::fs::remove_file(place.path("base.lvd")).expect("removed");
        same(&content(&place.path("disk.lvd")), &model, "the disk without its parent");
    }
}

/// The same of a pivot: the target is the whole disk, and says so.
#[test]
fn a_pivot_is_durable() {
    for _ in 0..5 {
        let place = Place::new();
        let model = overlay(&place);
        let mut server = Server::start(&place);
        let mut monitor = server.monitor();
        monitor.ok("drive-mirror", json!({ "device": "disk", "target": "moved.lvd", "sync": "full" }));
        monitor.until("BLOCK_JOB_READY");
        monitor.ok("job-complete", json!({ "id": "disk" }));
        monitor.until("BLOCK_JOB_COMPLETED");
        server.signal("KILL");
        server.end();
        same(&content(&place.path("moved.lvd")), &model, "the target");
    }
}

/// A server that ends takes its jobs along; what they did is not done again, and nothing is in the way of doing the rest.
#[test]
fn the_end_of_the_server_ends_jobs() {
    let place = Place::new();
    let model = overlay(&place);
    for signal in ["TERM", "quit"] {
        let mut server = Server::start(&place);
        let mut monitor = server.monitor();
        monitor.ok("block-stream", json!({ "device": "disk", "speed": 1 << 20 }));
        while monitor.job()["current-progress"] == 0 {}
        match signal {
            "quit" => drop(monitor.ok("quit", json!({}))),
            signal => server.signal(signal),
        }
        monitor.until("BLOCK_JOB_CANCELLED");
        server.end().ok();
        assert!(!server.control.exists(), "the socket is left");
    }
    assert_eq!(lvd!("info", "--json", place.path("disk.lvd")).ok().json()["state"], "closed");
    let done = lvd!("stream", "--json", place.path("disk.lvd")).ok().json();
    assert!(done["copied"].as_u64().expect("a number") < SIZE as u64, "{done}");
    std::fs::remove_file(place.path("base.lvd")).expect("removed");
    holds(&place, "disk.lvd", &model);
}

/// A mirror that is ready when the server ends is no copy, and says so; the disk is where it was.
#[test]
fn the_end_of_the_server_ends_a_ready_mirror() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start(&place);
    let (mut monitor, guest) = (server.monitor(), Guest::start(&server, model));
    monitor.ok("drive-mirror", json!({ "device": "disk", "target": "moved.lvd", "sync": "full" }));
    monitor.until("BLOCK_JOB_READY");
    guest.go_on();
    let model = guest.end();
    server.stop().ok();
    lvd!("info", "--chain", place.path("moved.lvd")).ok();
    lvd!("read", place.path("moved.lvd"), "0", "1").fails(1, "not a copy yet");
    holds(&place, "disk.lvd", &model);
}

/// Layers below are opened so that a commit can write to them, and until there is one nothing is written.
#[test]
fn nothing_below_changes_without_a_commit() {
    let place = Place::new();
    let model = overlay(&place);
    let before = std::fs::read(place.path("base.lvd")).expect("read");
    let server = Server::start(&place);
    let guest = Guest::start(&server, model);
    guest.go_on();
    // Another disk may lie on the same base meanwhile.
    lvd!("create", "-b", "base.lvd", place.path("other.lvd")).ok();
    lvd!("write", "-P", "1", place.path("other.lvd"), "0", "4K").ok();
    guest.end();
    // A commit into a base that somebody else uses is refused; the disk is as it was.
    let other = Server::launch(&place, crate::common::lvd(), "other", &["-r", "other.lvd"]);
    let mut monitor = server.monitor();
    monitor.fails("block-commit", json!({ "device": "disk" }), "GenericError", "locked");
    assert_eq!(monitor.ok("query-jobs", json!({})), json!([]));
    other.stop().ok();
    server.stop().ok();
    assert!(std::fs::read(place.path("base.lvd")).expect("read") == before, "the base has changed");
}

/// A mirror that keeps what its target lacks goes on after the server has ended, and copies only that; what the guest
/// wrote meanwhile is among it.
#[test]
fn a_mirror_goes_on_in_the_next_server() {
    let place = Place::new();
    let mut model = overlay(&place);
    let mirror = |speed: u64| json!({ "device": "disk", "target": "moved.lvd", "sync": "full", "resume": "lacking", "speed": speed });
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    monitor.ok("drive-mirror", mirror(8 << 20));
    while monitor.job()["current-progress"].as_u64() < Some(8 << 20) {}
    let guest = Guest::start(&server, model);
    guest.go_on();
    model = guest.end();
    server.stop().ok();
    lvd!("read", place.path("moved.lvd"), "0", "1").fails(1, "not a copy yet");

    let server = Server::start(&place);
    let (mut monitor, guest) = (server.monitor(), Guest::start(&server, model));
    guest.go_on();
    let model = guest.end();
    monitor.ok("drive-mirror", mirror(0));
    let ready = monitor.until("BLOCK_JOB_READY");
    let copied = ready["offset"].as_u64().expect("a number");
    assert!(copied > 0 && copied < 15 << 20, "{copied} bytes are copied again");
    monitor.ok("job-complete", json!({ "id": "disk" }));
    monitor.until("BLOCK_JOB_COMPLETED");
    server.stop().ok();
    holds(&place, "moved.lvd", &model);
    let bitmaps = lvd!("bitmap", "list", "--json", place.path("moved.lvd")).ok().json();
    assert_eq!(bitmaps, json!([]), "the bitmap has gone with the job");
}

/// The same into a raw export of another server, when the first one was killed.
#[test]
fn a_mirror_into_an_export_goes_on_after_a_kill() {
    let place = Place::new();
    let model = overlay(&place);
    let raw = place.file("far.raw", &vec![0xee; SIZE]);
    let far = Server::launch(&place, crate::common::lvd(), "far", &["-f", "raw", "-x", "far", "far.raw"]);
    let uri = format!("nbd+unix:///far?socket={}", far.nbd.display());
    let mirror = json!({
        "device": "disk", "target": uri, "format": "raw", "sync": "full", "resume": "lacking", "copy-mode": "background",
    });
    let mut server = Server::start(&place);
    let mut monitor = server.monitor();
    monitor.ok("drive-mirror", mirror.clone());
    monitor.until("BLOCK_JOB_READY");
    // What it writes from here on stays behind.
    monitor.ok("block-job-set-speed", json!({ "device": "disk", "speed": 1 }));
    let guest = Guest::start(&server, model);
    guest.go_on();
    guest.end();
    server.signal("KILL");
    server.end();
    // What was written and not flushed may be gone.
    let model = content(&place.path("disk.lvd"));
    assert!(std::fs::read(&raw).expect("read") != model, "the target lacks something");
    let bitmaps = lvd!("bitmap", "list", "--json", place.path("disk.lvd")).ok().json();
    let lacking = bitmaps[0]["dirty-bytes"].as_u64().unwrap_or_else(|| panic!("{bitmaps}"));

    let server = Server::start(&place);
    let mut monitor = server.monitor();
    monitor.ok("drive-mirror", mirror);
    let ready = monitor.until("BLOCK_JOB_READY");
    // All was compared.
    let copied = ready["offset"].as_u64().expect("a number") - SIZE as u64;
    assert!(copied > 0 && copied <= lacking && lacking < SIZE as u64 / 2, "{copied} of {lacking} bytes were copied");
    monitor.ok("job-complete", json!({ "id": "disk" }));
    monitor.until("BLOCK_JOB_COMPLETED");
    server.stop().ok();
    far.stop().ok();
    same(&std::fs::read(&raw).expect("read"), &model, "the target");
    assert_eq!(lvd!("bitmap", "list", "--json", place.path("disk.lvd")).ok().json(), json!([]));
}

/// Changes a byte behind everybody's back.
fn spoil(place: &Place, name: &str, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(place.path(name)).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[!byte[0]], at).expect("written");
}

/// Waits until nothing is left to copy or to compare.
fn idle(monitor: &mut Monitor) {
    loop {
        let job = monitor.ok("query-block-jobs", json!({}))[0].clone();
        if job["offset"] == job["len"] {
            return;
        }
    }
}

/// A mirror is compared beside its guest. A byte that was changed behind its back is named, and nobody is moved: by the
/// policy the job fails, or it waits, and brings the byte when it is resumed.
#[test]
fn comparisons() {
    const AT: u64 = 5_000_001;
    let place = Place::new();
    let mut model = overlay(&place);
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    let id = || json!({ "id": "disk" });
    for policy in ["report", "stop"] {
        let guest = Guest::start(&server, model);
        let mirror = json!({
            "device": "disk", "target": "copy.raw", "format": "raw", "sync": "full", "compare": true,
            "on-target-error": policy,
        });
        monitor.ok("drive-mirror", mirror);
        let ready = monitor.until("BLOCK_JOB_READY");
        assert!(ready["offset"].as_u64() >= Some(2 * SIZE as u64), "copied and compared: {ready}");
        // All the same to a guest that goes on.
        monitor.ok("job-compare", id());
        guest.go_on();
        idle(&mut monitor);
        model = guest.end();
        spoil(&place, "copy.raw", AT);
        monitor.ok("block-job-set-speed", json!({ "device": "disk", "speed": 1 }));
        monitor.ok("job-compare", id());
        monitor.fails("job-complete", id(), "GenericError", "still being compared");
        monitor.fails("block-job-cancel", json!({ "device": "disk" }), "GenericError", "still being compared");
        let together = json!({ "ids": ["disk"], "group": "group.lvg" });
        monitor.fails("job-complete-together", together, "GenericError", "still being compared");
        monitor.ok("block-job-set-speed", json!({ "device": "disk", "speed": 0 }));
        let error = monitor.until("BLOCK_JOB_ERROR");
        let told = error["reason"].as_str().expect("a reason");
        assert!(["copy.raw", &AT.to_string(), "disk.lvd"].iter().all(|word| told.contains(word)), "{told}");
        assert_eq!(error["action"], policy);
        if policy == "report" {
            let end = monitor.until("BLOCK_JOB_COMPLETED");
            assert!(end["error"].as_str().is_some_and(|error| error.contains(&AT.to_string())), "{end}");
            assert_eq!(monitor.layers(), ["disk.lvd", "base.lvd"]);
        }
    }
    monitor.fails("job-compare", id(), "GenericError", "cannot accept command verb 'compare'");
    monitor.ok("job-resume", id());
    idle(&mut monitor);
    monitor.ok("job-complete", id());
    monitor.until("BLOCK_JOB_COMPLETED");
    assert_eq!(monitor.layers(), ["copy.raw"]);
    server.stop().ok();
    same(&std::fs::read(place.path("copy.raw")).expect("read"), &model, "the target");
}

/// The guest's layer alone moves, and lies on what it lay on, into which it can be merged.
#[test]
fn the_top_moves_alone() {
    let place = Place::new();
    let model = overlay(&place);
    std::fs::create_dir(place.path("other")).expect("made");
    let base = std::fs::read(place.path("base.lvd")).expect("read");
    let server = Server::start(&place);
    let (mut monitor, guest) = (server.monitor(), Guest::start(&server, model));
    guest.go_on();
    let target = place.path("other/top.lvd");
    lvd!("job", "mirror", "--sync", "top", "--control", &server.control, "disk", &target).ok();
    let ready = monitor.until("BLOCK_JOB_READY");
    assert!(ready["offset"].as_u64() < Some(SIZE as u64), "the parent's is not copied: {ready}");
    guest.go_on();
    monitor.ok("job-complete", json!({ "id": "disk" }));
    monitor.until("BLOCK_JOB_COMPLETED");
    assert_eq!(monitor.layers(), ["top.lvd", "base.lvd"]);
    guest.go_on();
    assert!(std::fs::read(place.path("base.lvd")).expect("read") == base, "the parent has changed");
    std::fs::remove_file(place.path("disk.lvd")).expect("removed");
    let model = guest.end();
    server.stop().ok();
    holds(&place, "other/top.lvd", &model);
    let server = Server::launch(&place, crate::common::lvd(), "moved", &["-x", "disk", "other/top.lvd"]);
    let (mut monitor, guest) = (server.monitor(), Guest::start(&server, model));
    monitor.ok("drive-mirror", json!({ "device": "disk", "target": "back.lvd", "sync": "top" }));
    monitor.until("BLOCK_JOB_READY");
    monitor.ok("job-complete", json!({ "id": "disk" }));
    monitor.until("BLOCK_JOB_COMPLETED");
    monitor.ok("block-commit", json!({ "device": "disk" }));
    monitor.until("BLOCK_JOB_READY");
    monitor.ok("job-complete", json!({ "id": "disk" }));
    monitor.until("BLOCK_JOB_COMPLETED");
    assert_eq!(monitor.layers(), ["base.lvd"]);
    guest.go_on();
    let model = guest.end();
    server.stop().ok();
    holds(&place, "base.lvd", &model);
}

/// The guest moves to an export of another server, and what it writes from then on is there.
#[test]
fn a_pivot_to_another_server() {
    let place = Place::new();
    let model = overlay(&place);
    lvd!("create", place.path("far.lvd"), SIZE.to_string()).ok();
    let far = Server::launch(&place, crate::common::lvd(), "far", &["-x", "far", "far.lvd"]);
    let server = Server::start(&place);
    let (mut monitor, guest) = (server.monitor(), Guest::start(&server, model));
    let uri = format!("nbd+unix:///far?socket={}", far.nbd.display());
    monitor.ok("drive-mirror", json!({ "device": "disk", "target": uri, "format": "raw", "sync": "full" }));
    monitor.until("BLOCK_JOB_READY");
    guest.go_on();
    monitor.ok("job-complete", json!({ "id": "disk" }));
    monitor.until("BLOCK_JOB_COMPLETED");
    guest.go_on();
    let model = guest.end();
    server.stop().ok();
    far.stop().ok();
    holds(&place, "far.lvd", &model);
}
