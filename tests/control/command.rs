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
    ask_with(&["job", "mirror", "disk", "--speed", "1G"], &place.path("copy.lvd")).ok();
    monitor.until("BLOCK_JOB_READY");
    ask(&server, ["job", "split", "disk"]).ok();
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
