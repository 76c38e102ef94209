//! The server is killed at every event of every job, or a little later, while its guest writes: what the guest was told to
//! be written is there, and the same job, asked for again, does its work.
//!
//! `LVD_KILLS` says how often each job is killed (20).

use crate::client::Client;
use crate::common::{Place, Random, content, lvd as command};
use crate::lvd;
use crate::rig::{Monitor, Server};
use lvd::nbd::proto::NBD_CMD_WRITE;
use serde_json::{Value, json};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const SIZE: usize = 4 << 20;

fn kills() -> u64 {
    std::env::var("LVD_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// A job, and what may be known of it from outside.
struct Case {
    command: &'static str,
    arguments: Value,
    /// It is completed by command once it is ready.
    completes: bool,
    /// Events at which it is killed: states, and names of others.
    events: &'static [&'static str],
    /// Where the guest's disk is after a kill, and whether the job has been done.
    left: fn(&Place) -> (&'static str, bool),
}

/// What the guest knows: what was acknowledged, and the request that was not.
struct Known {
    model: Vec<u8>,
    pending: Option<(Range<usize>, Vec<u8>)>,
    /// Requests that were acknowledged.
    acknowledged: u64,
}

impl Known {
    /// Each byte is as it was acknowledged, or as the last request would have it.
    #[track_caller]
    fn check(&self, found: &[u8], what: &str) {
        assert_eq!(found.len(), self.model.len(), "{what}: the size");
        for (at, byte) in found.iter().enumerate().filter(|(at, byte)| **byte != self.model[*at]) {
            let asked = self.pending.as_ref().filter(|(range, _)| range.contains(&at));
            assert!(asked.is_some_and(|(range, data)| data[at - range.start] == *byte), "{what}: byte {at} is lost");
        }
    }
}

/// Writes until the server is gone.
fn write_on(mut client: Client, known: &Mutex<Known>, seed: u64) {
    let mut random = Random::new(seed);
    loop {
        let length = (random.below(32) as usize + 1) * 512;
        let at = random.below((SIZE - length) as u64 / 512) as usize * 512;
        let data = random.bytes(length);
        known.lock().unwrap().pending = Some((at..at + length, data.clone()));
        let answer = catch_unwind(AssertUnwindSafe(|| client.ask(NBD_CMD_WRITE, at as u64, length as u32, &data)));
        let Ok(answer) = answer else { return };
        answer.expect("the disk takes it");
        let mut known = known.lock().unwrap();
        known.model[at..at + length].copy_from_slice(&data);
        known.pending = None;
        known.acknowledged += 1;
    }
}

fn start(place: &Place, disk: &str) -> Server {
    Server::launch(place, command(), "disk", &["--write-through", "-x", "disk", disk])
}

/// Begins the job, and completes it when it is ready.
fn run(monitor: &mut Monitor, case: &Case) -> Value {
    monitor.ok(case.command, case.arguments.clone());
    if case.completes {
        monitor.until("BLOCK_JOB_READY");
        monitor.ok("job-complete", json!({ "id": "j" }));
    }
    let end = monitor.until("BLOCK_JOB_COMPLETED");
    monitor.course("null");
    end["error"].clone()
}

fn killed(case: &Case) {
    for round in 0..kills() {
        let place = Place::new();
        let mut random = Random::new(round);
        let model = random.bytes(SIZE);
        let raw = place.file("raw", &model);
        lvd!("convert", "-f", "raw", raw, place.path("base.lvd")).ok();
        lvd!("create", "-b", "base.lvd", place.path("disk.lvd")).ok();
        lvd!("bitmap", "add", place.path("disk.lvd"), "daily").ok();
        let mut server = start(&place, "disk.lvd");
        let mut monitor = server.monitor();
        let known = Arc::new(Mutex::new(Known { model, pending: None, acknowledged: 0 }));
        let (writer, client) = (known.clone(), server.guest());
        let guest = thread::spawn(move || write_on(client, &writer, round));
        while known.lock().unwrap().acknowledged < 3 {
            thread::sleep(Duration::from_millis(1));
        }
        let last = case.events[round as usize % case.events.len()];
        monitor.ok(case.command, case.arguments.clone());
        let mut done = false;
        loop {
            let event = monitor.event();
            let name = event["data"]["status"].as_str().or(event["event"].as_str()).expect("a name").to_owned();
            done |= event["event"] == "BLOCK_JOB_COMPLETED" && event["data"]["error"].is_null();
            if name == last {
                break;
            }
            if name == "BLOCK_JOB_READY" && case.completes {
                monitor.ok("job-complete", json!({ "id": "j" }));
            }
        }
        thread::sleep(Duration::from_micros(random.below(4) * random.below(3000)));
        server.signal("KILL");
        server.end();
        guest.join().expect("a guest whose requests were answered while there was a server");

        let what = format!("{} killed at {last}, round {round}", case.command);
        let (disk, over) = (case.left)(&place);
        assert!(over || !done, "{what}: it was reported as done");
        known.lock().unwrap().check(&content(&place.path(disk)), &what);
        let server = start(&place, disk);
        if !over {
            assert_eq!(run(&mut server.monitor(), case), Value::Null, "{what}: asked for again");
        }
        server.stop().ok();
        let (disk, over) = (case.left)(&place);
        assert!(over, "{what}: asked for again it is not done");
        lvd!("check", place.path(disk)).ok();
        known.lock().unwrap().check(&content(&place.path(disk)), &what);
    }
}

fn info(place: &Place, name: &str) -> Option<Value> {
    let said = lvd!("info", "--json", place.path(name));
    (said.code == Some(0)).then(|| said.json())
}

const ONCE: &[&str] = &["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];
const READY: &[&str] = &[
    "created",
    "running",
    "ready",
    "BLOCK_JOB_READY",
    "waiting",
    "pending",
    "BLOCK_JOB_COMPLETED",
    "concluded",
    "null",
];

#[test]
fn a_stream_is_killed() {
    killed(&Case {
        command: "block-stream",
        arguments: json!({ "device": "disk", "job-id": "j", "speed": 64 << 20 }),
        completes: false,
        events: ONCE,
        left: |place| ("disk.lvd", info(place, "disk.lvd").is_some_and(|info| info["complete"] == true)),
    });
}

/// As soon as the base has changed, the old top is refused: then the base is the disk.
#[test]
fn a_commit_is_killed() {
    killed(&Case {
        command: "block-commit",
        arguments: json!({ "device": "disk", "job-id": "j", "speed": 64 << 20 }),
        completes: true,
        events: READY,
        left: |place| {
            let opens = |name: &str| lvd!("read", place.path(name), "0", "1").code == Some(0);
            // Both open before the first change of the base, and after the end until the guest writes to it.
            let (top, base) = (opens("disk.lvd"), opens("base.lvd"));
            let over = base && (!top || content(&place.path("disk.lvd")) == content(&place.path("base.lvd")));
            if over { ("base.lvd", true) } else { ("disk.lvd", false) }
        },
    });
}

/// The target is the disk from the moment at which it no longer says that it is no copy.
#[test]
fn a_mirror_is_killed() {
    killed(&Case {
        command: "drive-mirror",
        arguments: json!({ "device": "disk", "job-id": "j", "speed": 64 << 20, "target": "copy.lvd", "sync": "full" }),
        completes: true,
        events: READY,
        left: |place| match lvd!("read", place.path("copy.lvd"), "0", "1").code {
            Some(0) => ("copy.lvd", true),
            _ => ("disk.lvd", false),
        },
    });
}

/// A backup never moves anybody; its target says whether it is one, and its bitmap tells of what it lacks.
#[test]
fn a_backup_is_killed() {
    killed(&Case {
        command: "drive-backup",
        arguments: json!({
            "device": "disk", "job-id": "j", "speed": 64 << 20, "target": "copy.lvd", "sync": "full", "bitmap": "daily",
        }),
        completes: false,
        events: ONCE,
        left: |place| {
            let counts = || {
                let target = info(place, "copy.lvd")?["points"][0].as_str()?.to_owned();
                let bitmaps = info(place, "disk.lvd")?["bitmaps"].clone();
                Some(bitmaps.as_array()?.iter().any(|bitmap| bitmap["since"] == target.as_str()))
            };
            let copied = lvd!("read", place.path("copy.lvd"), "0", "1").code == Some(0);
            ("disk.lvd", copied && counts() == Some(true))
        },
    });
}
