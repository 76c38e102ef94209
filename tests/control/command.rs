//! `lvd job` and `lvd snapshot`.

use crate::common::{Place, Run, lvd as command, run};
use crate::lvd;
use crate::rig::{Guest, Server, holds, overlay};
use serde_json::json;
use std::ffi::OsStr;
use std::thread::sleep;
use std::time::Duration;

/// `lvd` with these arguments and the server's control socket.
fn ask<S: AsRef<OsStr>>(server: &Server, arguments: impl IntoIterator<Item = S>) -> Run {
    run(command().args(arguments).arg("--control").arg(&server.control))
}

/// Backups pushed and pulled, and a snapshot of two disks, by the command.
#[test]
fn backups_by_hand() {
    let place = Place::new();
    let model = overlay(&place);
    lvd!("create", place.path("other.lvd"), "1M").ok();
    let server = Server::launch(&place, command(), "both", &["-x", "disk", "-x", "two", "disk.lvd", "other.lvd"]);
    let mut monitor = server.monitor();
    monitor.ok("block-dirty-bitmap-add", json!({ "node": "disk", "name": "daily" }));
    let path = |name: &str| place.path(name).display().to_string();
    let end = |monitor: &mut crate::rig::Monitor| {
        assert_eq!(monitor.until("BLOCK_JOB_COMPLETED")["error"], serde_json::Value::Null);
        monitor.course("null");
    };
    ask(&server, ["job", "backup", "--bitmap", "daily", "disk", &path("0.lvd")]).ok();
    end(&mut monitor);
    server.guest().write(4096, &[7; 512]);
    let mut model = model;
    model[4096..4608].fill(7);
    let previous = path("0.lvd");
    ask(&server, ["job", "backup", "--bitmap", "daily", "-b", &previous, "--keep-bitmap", "disk", &path("1.lvd")]).ok();
    end(&mut monitor);
    ask(&server, ["job", "backup", "--bitmap", "daily", "-b", &previous, "disk", &path("2.lvd")]).ok();
    end(&mut monitor);
    holds(&place, "1.lvd", &model);
    holds(&place, "2.lvd", &model);
    ask(&server, ["job", "backup", "-O", "raw", "--bitmap", "daily", "disk", &path("raw")]).ok();
    end(&mut monitor);
    server.guest().write(8192, &[8; 512]);
    model[8192..8704].fill(8);
    ask(&server, ["job", "backup", "--bitmap", "daily", "--onto", "disk", &path("raw")]).ok();
    end(&mut monitor);
    crate::common::same(&std::fs::read(place.path("raw")).expect("there"), &model, "the raw copy");

    ask(&server, ["job", "pull", "--bitmap", "daily", "-x", "two", "disk", &path("scratch")]).fails(1, "two exports");
    monitor.course("null");
    ask(&server, ["job", "pull", "--bitmap", "daily", "-x", "instant", "disk", &path("scratch")]).ok();
    let uri = format!("nbd+unix:///instant?socket={}", server.nbd.display());
    lvd!("convert", "-f", "raw", "-O", "raw", &uri, place.path("pulled")).ok();
    crate::common::same(&std::fs::read(place.path("pulled")).expect("there"), &model, "what was pulled");
    ask(&server, ["job", "complete", "disk"]).ok();
    end(&mut monitor);

    ask(&server, ["snapshot", "disk", &path("s1.lvd"), "two"]).fails(1, "comes with a FILE");
    ask(&server, ["snapshot", "disk", &path("s1.lvd"), "two", &path("0.lvd")]).fails(1, "it exists");
    assert!(!place.path("s1.lvd").exists());
    ask(&server, ["snapshot", "disk", &path("s1.lvd"), "two", &path("s2.lvd")]).ok();
    server.stop().ok();
    holds(&place, "s1.lvd", &model);
}

#[test]
fn jobs_by_hand() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start(&place);
    let (mut monitor, guest) = (server.monitor(), Guest::start(&server, model));
    assert_eq!(ask(&server, ["job", "list"]).ok().text(), "");
    let top = place.path("top.lvd");
    run(command().arg("snapshot").arg("--control").arg(&server.control).arg("disk").arg(&top)).ok();
    run(command().arg("snapshot").arg("--control").arg(&server.control).arg("disk").arg(&top)).fails(1, "it exists");
    guest.go_on();
    // Files are the caller's, wherever the server is.
    let base = place.path("base.lvd");
    let ask_with = |arguments: &[&str], file: &std::path::Path| {
        ask(&server, arguments.iter().map(OsStr::new).chain([file.as_os_str()]))
    };
    ask_with(&["job", "stream", "disk", "--id", "up", "--base"], &base).ok();
    monitor.until("BLOCK_JOB_COMPLETED");
    assert_eq!(monitor.layers(), ["top.lvd", "base.lvd"]);
    monitor.ok("block-stream", json!({ "device": "disk", "job-id": "s", "speed": 1 << 20, "auto-dismiss": false }));
    ask(&server, ["job", "pause", "s"]).ok();
    while ask(&server, ["job", "list", "--json"]).ok().json()[0]["status"] != "paused" {
        sleep(Duration::from_millis(10));
    }
    let table = ask(&server, ["job", "list"]).ok().text();
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(
        (&words[..3], words[5..].join(" ").as_str()),
        (&["s", "stream", "paused"][..], "of 16 MiB, at most 1 MiB/s"),
        "{table}"
    );
    ask(&server, ["job", "set-speed", "s", "1G"]).ok();
    ask(&server, ["job", "resume", "s"]).ok();
    monitor.until("BLOCK_JOB_COMPLETED");
    ask(&server, ["job", "cancel", "s"]).fails(1, "state 'concluded' cannot accept command verb 'cancel'");
    ask(&server, ["job", "dismiss", "s"]).ok();
    ask(&server, ["job", "dismiss", "s"]).fails(1, "Job 's' not found");
    run(command().arg("snapshot").arg("--control").arg(&server.control).arg("disk").arg(place.path("more.lvd"))).ok();
    ask_with(&["job", "commit", "disk", "--into"], &top).ok();
    monitor.until("BLOCK_JOB_READY");
    ask(&server, ["job", "complete", "disk"]).ok();
    monitor.until("BLOCK_JOB_COMPLETED");
    assert_eq!(monitor.layers(), ["top.lvd"]);
    ask_with(&["job", "mirror", "disk", "--compare", "--speed", "1G"], &place.path("copy.lvd")).ok();
    monitor.until("BLOCK_JOB_READY");
    ask(&server, ["job", "compare", "disk"]).ok();
    while ask(&server, ["job", "split", "disk"]).code != Some(0) {}
    monitor.until("BLOCK_JOB_COMPLETED");
    monitor.ok("drive-mirror", json!({ "device": "disk", "target": "moved.lvd", "sync": "full" }));
    monitor.until("BLOCK_JOB_READY");
    ask(&server, ["job", "complete", "disk"]).ok();
    monitor.until("BLOCK_JOB_COMPLETED");
    let model = guest.end();
    server.stop().ok();
    lvd!("check", place.path("copy.lvd")).ok();
    holds(&place, "moved.lvd", &model);
}

#[test]
fn no_server() {
    let place = Place::new();
    lvd!("job", "list", "--control", place.path("none")).fails(1, "none: cannot connect");
    lvd!("job", "list").fails(1, "--control");
    lvd!("job", "set-speed", "--control", "x", "s", "much").fails(1, "much");
    // Somebody else listens there.
    let listener = std::os::unix::net::UnixListener::bind(place.path("other")).expect("bound");
    let answer = std::thread::spawn(move || {
        use std::io::Write;
        listener.accept().expect("a client").0.write_all(b"220 mail.example\r\n").expect("sent");
    });
    lvd!("job", "list", "--control", place.path("other")).fails(1, "cannot receive");
    answer.join().expect("answered");
}
