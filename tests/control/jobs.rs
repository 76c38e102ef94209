//! The verbs of jobs, and what each does in which state.

use crate::common::{Place, lvd as command, same};
use crate::rig::{Guest, Monitor, SIZE, Server, holds, overlay};
use crate::tool;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A stream that would take long, and has begun.
fn slow_stream(monitor: &mut Monitor, more: serde_json::Value) {
    let mut arguments = json!({ "device": "disk", "job-id": "s", "speed": 2 << 20 });
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    monitor.ok("block-stream", arguments);
    while monitor.job()["current-progress"] == 0 {}
}

/// While it is paused it does nothing; resumed it goes on, at another speed if that is wanted, and ends.
#[test]
fn pause_resume_and_speed() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    slow_stream(&mut monitor, json!({}));
    monitor.ok("job-pause", json!({ "id": "s" }));
    assert_eq!(monitor.course("paused"), ["created", "running", "paused"]);
    let before = monitor.job();
    assert_eq!(before["status"], "paused");
    sleep(Duration::from_millis(300));
    assert_eq!(monitor.job(), before);
    monitor.fails("job-pause", json!({ "id": "s" }), "GenericError", "already paused");
    monitor.fails("job-complete", json!({ "id": "s" }), "GenericError", "state 'paused' cannot accept command verb");
    monitor.ok("block-job-set-speed", json!({ "device": "s", "speed": 0 }));
    assert_eq!(monitor.ok("query-block-jobs", json!({}))[0]["speed"], 0);
    monitor.ok("job-resume", json!({ "id": "s" }));
    let rest = ["running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];
    assert_eq!(monitor.course("null"), rest);
    monitor.fails("job-resume", json!({ "id": "s" }), "DeviceNotActive", "'s' not found");
    server.stop().ok();
    std::fs::remove_file(place.path("base.lvd")).expect("removed");
    holds(&place, "disk.lvd", &model);
}

/// What a cancelled job did stays. The disk is free for the next job, of the same name, once the end is told.
#[test]
fn cancel_and_begin_again() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    for verb in ["job-cancel", "block-job-cancel"] {
        slow_stream(&mut monitor, json!({}));
        monitor.ok(verb, if verb == "job-cancel" { json!({ "id": "s" }) } else { json!({ "device": "s" }) });
        let event = monitor.until("BLOCK_JOB_CANCELLED");
        assert!(event["offset"].as_u64() < event["len"].as_u64(), "{event}");
    }
    monitor.ok("block-stream", json!({ "device": "disk", "job-id": "s" }));
    let event = monitor.until("BLOCK_JOB_COMPLETED");
    assert_eq!(event, json!({ "type": "stream", "device": "s", "len": SIZE, "offset": SIZE, "speed": 0 }));
    server.stop().ok();
    std::fs::remove_file(place.path("base.lvd")).expect("removed");
    holds(&place, "disk.lvd", &model);
}

/// The disk keeps its parent until the job is finalized, and the job is listed until it is dismissed.
#[test]
fn finalize_and_dismiss() {
    let place = Place::new();
    overlay(&place);
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    let manual = json!({ "device": "disk", "job-id": "s", "auto-finalize": false, "auto-dismiss": false });
    monitor.ok("block-stream", manual);
    let course = monitor.course("BLOCK_JOB_PENDING");
    assert_eq!(course, ["created", "running", "waiting", "pending", "BLOCK_JOB_PENDING"]);
    sleep(Duration::from_millis(100));
    assert_eq!(monitor.layers(), ["disk.lvd", "base.lvd"]);
    monitor.fails("job-dismiss", json!({ "id": "s" }), "GenericError", "state 'pending'");
    monitor.fails("job-pause", json!({ "id": "s" }), "GenericError", "state 'pending'");
    monitor.ok("job-finalize", json!({ "id": "s" }));
    assert_eq!(monitor.course("concluded"), ["BLOCK_JOB_COMPLETED", "concluded"]);
    assert_eq!(monitor.layers(), ["disk.lvd"]);
    let concluded = json!({
        "id": "s", "type": "stream", "status": "concluded", "current-progress": SIZE, "total-progress": SIZE,
    });
    assert_eq!(monitor.job(), concluded);
    for verb in ["job-cancel", "job-pause", "job-resume", "job-complete", "job-finalize"] {
        monitor.fails(verb, json!({ "id": "s" }), "GenericError", "state 'concluded'");
    }
    let again = json!({ "device": "disk", "job-id": "s" });
    monitor.fails("block-stream", again, "GenericError", "already in use");
    monitor.ok("job-dismiss", json!({ "id": "s" }));
    assert_eq!(monitor.course("null"), ["null"]);
    assert_eq!(monitor.ok("query-jobs", json!({})), json!([]));
    server.stop().ok();
}

/// One that waits to be finalized can still be cancelled.
#[test]
fn cancelled_before_it_is_finalized() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    monitor.ok("block-stream", json!({ "device": "disk", "auto-finalize": false }));
    monitor.until("BLOCK_JOB_PENDING");
    monitor.ok("job-cancel", json!({ "id": "disk" }));
    assert_eq!(monitor.course("null"), ["aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"]);
    assert_eq!(monitor.layers(), ["disk.lvd", "base.lvd"]);
    server.stop().ok();
    holds(&place, "disk.lvd", &model);
}

/// A mirror that is ready: paused it is `standby`, its speed counts for nothing at the end, cancelled it moves nobody.
#[test]
fn verbs_of_a_ready_mirror() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start(&place);
    let (mut monitor, guest) = (server.monitor(), Guest::start(&server, model));
    let mirror =
        json!({ "device": "disk", "job-id": "m", "target": "m.lvd", "sync": "full", "copy-mode": "write-blocking" });
    monitor.ok("drive-mirror", mirror);
    monitor.fails("block-stream", json!({ "device": "disk" }), "GenericError", "a mirror job has the layers");
    let overlaid = json!({ "device": "disk", "snapshot-file": "no.lvd" });
    monitor.fails("blockdev-snapshot-sync", overlaid, "GenericError", "a mirror job has the layers");
    assert!(!place.path("no.lvd").exists(), "a file that nobody uses is left");
    monitor.until("BLOCK_JOB_READY");
    let info = monitor.ok("query-block-jobs", json!({}))[0].clone();
    assert!(info["ready"] == true && info["status"] == "ready" && info["type"] == "mirror", "{info}");
    monitor.ok("job-pause", json!({ "id": "m" }));
    assert_eq!(monitor.course("standby"), ["standby"]);
    guest.go_on();
    monitor.fails("job-complete", json!({ "id": "m" }), "GenericError", "state 'standby'");
    monitor.ok("job-resume", json!({ "id": "m" }));
    assert_eq!(monitor.course("ready"), ["ready"]);
    monitor.ok("job-cancel", json!({ "id": "m" }));
    assert_eq!(monitor.course("null"), ["aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"]);
    assert_eq!(monitor.layers(), ["disk.lvd", "base.lvd"]);
    // A commit has no target that could be let go of.
    monitor.ok("block-commit", json!({ "device": "disk", "job-id": "c" }));
    monitor.until("BLOCK_JOB_READY");
    monitor.fails("block-job-cancel", json!({ "device": "c" }), "GenericError", "job-complete");
    monitor.ok("block-job-cancel", json!({ "device": "c", "force": true }));
    monitor.until("BLOCK_JOB_CANCELLED");
    // Begun again it ends as if nothing had been.
    monitor.ok("block-commit", json!({ "device": "disk", "job-id": "c", "auto-finalize": false }));
    monitor.until("BLOCK_JOB_READY");
    monitor.ok("job-complete", json!({ "id": "c" }));
    monitor.until("BLOCK_JOB_PENDING");
    guest.go_on();
    assert_eq!(monitor.layers(), ["disk.lvd", "base.lvd"]);
    monitor.ok("block-job-finalize", json!({ "id": "c" }));
    monitor.until("BLOCK_JOB_COMPLETED");
    assert_eq!(monitor.layers(), ["base.lvd"]);
    guest.go_on();
    let model = guest.end();
    server.stop().ok();
    holds(&place, "base.lvd", &model);
}

/// Has the server's files stay shorter than `limit` from now on, as a full disk would.
fn limit_files(server: &Server, limit: &str) {
    tool!("prlimit", "--pid", server.pid(), format!("--fsize={limit}:unlimited")).ok();
}

/// A host without room: by the job's policy it fails, or waits until there is some.
#[test]
fn no_space() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start_by(&place, unkilled_by_limits());
    let mut monitor = server.monitor();
    limit_files(&server, "4194304");

    monitor.ok("block-stream", json!({ "device": "disk", "job-id": "s", "auto-dismiss": false }));
    let event = monitor.until("BLOCK_JOB_ERROR");
    let told = (&event["device"], &event["operation"], &event["action"], &event["nospace"]);
    assert_eq!(told, (&json!("s"), &json!("write"), &json!("report"), &json!(true)), "{event}");
    let event = monitor.until("BLOCK_JOB_COMPLETED");
    assert!(event["error"].as_str().is_some_and(|error| error.contains("no space left")), "{event}");
    monitor.until("JOB_STATUS_CHANGE");
    assert!(monitor.job()["error"].as_str().is_some_and(|error| error.contains("no space left")));
    monitor.ok("job-dismiss", json!({ "id": "s" }));

    for policy in ["stop", "enospc"] {
        monitor.ok("block-stream", json!({ "device": "disk", "job-id": "s", "on-error": policy }));
        assert_eq!(monitor.until("BLOCK_JOB_ERROR")["action"], "stop");
        assert_eq!(monitor.course("paused"), ["paused"]);
        let info = monitor.ok("query-block-jobs", json!({}))[0].clone();
        assert_eq!((&info["io-status"], &info["paused"]), (&json!("nospace"), &json!(true)), "{info}");
        // Still none: it stops again.
        monitor.ok("job-resume", json!({ "id": "s" }));
        assert_eq!(monitor.until("BLOCK_JOB_ERROR")["action"], "stop");
        assert_eq!(monitor.course("paused"), ["paused"]);
        if policy == "stop" {
            monitor.ok("job-cancel", json!({ "id": "s" }));
            assert_eq!(monitor.course("null"), ["aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"]);
        }
    }
    limit_files(&server, "unlimited");
    monitor.ok("job-resume", json!({ "id": "s" }));
    let rest = ["running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];
    assert_eq!(monitor.course("null"), rest);
    server.stop();
    std::fs::remove_file(place.path("base.lvd")).expect("removed");
    holds(&place, "disk.lvd", &model);
}

/// Story 64: source and target each have their policy.
#[test]
fn an_error_of_the_target_goes_by_its_own_policy() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start_by(&place, unkilled_by_limits());
    let mut monitor = server.monitor();
    for command in ["drive-mirror", "drive-backup"] {
        for (at_source, at_target, action) in [("stop", "report", "report"), ("report", "enospc", "stop")] {
            let arguments = json!({
                "device": "disk", "job-id": "m", "target": format!("{command}.lvd"), "sync": "full", "speed": 1 << 20,
                "on-source-error": at_source, "on-target-error": at_target,
            });
            monitor.ok(command, arguments);
            limit_files(&server, "1048576");
            monitor.ok("block-job-set-speed", json!({ "device": "m", "speed": 0 }));
            let event = monitor.until("BLOCK_JOB_ERROR");
            assert_eq!((&event["action"], &event["operation"]), (&json!(action), &json!("write")), "{event}");
            if action == "stop" {
                monitor.course("paused");
                monitor.ok("job-cancel", json!({ "id": "m" }));
            }
            monitor.course("null");
            limit_files(&server, "unlimited");
        }
    }
    server.stop().ok();
    holds(&place, "disk.lvd", &model);
}

/// Begins a command whose writes past a limit fail, and do not kill.
fn unkilled_by_limits() -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(command().get_program());
    shell
}

/// All clients hear of everything, in the same order, whoever gave the command.
#[test]
fn every_client_gets_every_event() {
    let place = Place::new();
    overlay(&place);
    let server = Server::start(&place);
    let mut monitors: Vec<Monitor> = (0..3).map(|_| server.monitor()).collect();
    let mut silent = BufReader::new(UnixStream::connect(&server.control).expect("somebody listens"));
    let mut line_for = |text: &[u8]| {
        silent.get_mut().write_all(text).expect("sent");
        let mut line = String::new();
        silent.read_line(&mut line).expect("a line");
        line
    };
    assert!(line_for(b"").starts_with("{\"QMP\""));
    assert!(line_for(b"{\"execute\":\"query-jobs\"}").contains("CommandNotFound"));
    monitors[1].ok("block-stream", json!({ "device": "disk" }));
    let courses: Vec<Vec<String>> = monitors.iter_mut().map(|monitor| monitor.course("null")).collect();
    assert_eq!(courses[0].len(), 7, "{courses:?}");
    assert!(courses.iter().all(|course| *course == courses[0]), "{courses:?}");
    // One that has not begun to give commands hears nothing.
    assert_eq!(line_for(b"{\"execute\":\"qmp_capabilities\"}"), "{\"return\":{}}\r\n");
    server.stop().ok();
}

/// Reads are kept once that is switched on.
#[test]
fn copy_on_read() {
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    monitor.ok("block-set-copy-on-read", json!({ "device": "disk", "enable": true }));
    same(&server.guest().read(1 << 20, 4096), &model[1 << 20..][..4096], "read");
    monitor.ok("block-set-copy-on-read", json!({ "device": "disk", "enable": false }));
    server.guest().read(2 << 20, 4096);
    server.stop().ok();
    let map = crate::lvd!("map", "--json", place.path("disk.lvd")).ok().json();
    let own: Vec<_> = map.as_array().unwrap().iter().filter(|row| row["depth"] == 0).collect();
    assert!(own.len() == 1 && own[0]["start"] == 1 << 20 && own[0]["length"] == 4096, "{map}");
}

/// A mirror keeps to its speed, and an idle server rests: nothing spins while a job waits.
#[test]
fn a_job_that_waits_takes_no_time() {
    let place = Place::new();
    overlay(&place);
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    let seconds = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("read");
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // User and system time, in hundredths of a second.
        fields[11] + fields[12]
    };
    slow_stream(&mut monitor, json!({ "speed": 1 << 18 }));
    let (before, begun) = (seconds(), Instant::now());
    sleep(Duration::from_secs(1));
    let used = seconds() - before;
    assert!(used * 10_000_000 < begun.elapsed().as_nanos() as u64 / 4, "{used} hundredths of a second");
    server.stop().ok();
}
