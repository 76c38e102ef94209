//! A disk that moves to another server with its bitmap: nothing that was dirty, and nothing that the guest writes meanwhile,
//! is missing from it.
//!
//! | of the field's lists of what breaks | here |
//! |---|---|
//! | 63, bitmaps in migration: the destination fails half-way, the source keeps them | all tests |
//! | 63, another name, disabled | `merge` |

use crate::common::{MIB, Place, Process, Random, Run, lvd as command, run};
use crate::lvd;
use crate::merge::{UNIT, bitmaps, dirty, told, uri};
use crate::rig::{Monitor, Server};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const SIZE: u64 = 32 * MIB;
/// Units that are written before the bitmap begins.
const EARLY: u64 = 64;

/// A guest that writes to each unit of the disk once, in no order, so that each write is one that could be missed.
struct Writer {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<BTreeSet<u64>>>,
}

impl Writer {
    fn start(server: &Server, seed: u64) -> Writer {
        let mut client = server.guest();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
        let (stopping, log) = (stop.clone(), written.clone());
        let thread = thread::spawn(move || {
            let mut random = Random::new(seed);
            while !stopping.load(Ordering::Relaxed) {
                let unit = EARLY + random.below(SIZE / UNIT - EARLY);
                if log.lock().unwrap().insert(unit) {
                    client.write(unit * UNIT + 512, &[unit as u8 | 1; 512]);
                }
                thread::sleep(Duration::from_micros(300));
            }
        });
        Writer { thread, stop, written }
    }

    /// Lets it write to some more units.
    fn go_on(&self) {
        let count = || self.written.lock().unwrap().len();
        let before = count();
        while count() < before + 40 {
            assert!(!self.thread.is_finished(), "the guest has failed");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it. The units that it has written to.
    fn end(self) -> BTreeSet<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a guest that was served");
        Arc::into_inner(self.written).expect("nobody else has it").into_inner().expect("sound")
    }
}

/// Two servers: the disk is `disk.lvd` at the one, and goes to `away.lvd` at the other.
struct Move {
    place: Place,
    here: Server,
    there: Server,
    at_home: Monitor,
    away: Monitor,
}

impl Move {
    fn new() -> Move {
        let place = Place::new();
        for name in ["disk.lvd", "away.lvd"] {
            lvd!("create", place.path(name), SIZE.to_string()).ok();
        }
        let here = Server::start(&place);
        let there = Server::launch(&place, command(), "there", &["-x", "disk", "away.lvd"]);
        let (mut at_home, away) = (here.monitor(), there.monitor());
        let mut client = here.guest();
        (0..EARLY).for_each(|unit| client.write(unit * UNIT, &[1; 512]));
        at_home.ok("block-dirty-bitmap-add", json!({ "node": "disk", "name": "daily", "granularity": UNIT }));
        Move { place, here, there, at_home, away }
    }

    /// Mirrors the disk until the two are equal. From then on the other server records.
    fn mirror(&mut self) {
        let target = uri(&self.there.nbd, "disk");
        let mirror = json!({
            "device": "disk", "target": target, "format": "raw", "sync": "full", "granularity": UNIT,
        });
        self.at_home.ok("drive-mirror", mirror);
        self.at_home.until("BLOCK_JOB_READY");
        lvd!("bitmap", "add", "--control", &self.there.control, "-g", "4K", "disk", "moving").ok();
    }

    /// Has the guest go there.
    fn complete(&mut self) {
        self.at_home.ok("job-complete", json!({ "id": "disk" }));
        assert_eq!(self.at_home.until("BLOCK_JOB_COMPLETED")["error"], json!(null));
    }

    /// What the guest has left, with its bitmap, for whoever reads.
    fn left(&self) -> (Process, PathBuf) {
        let socket = self.place.path("left");
        let mut server = command();
        server.args(["serve", "-r", "-x", "old", "--bitmap", "daily", "--unix"]).arg(&socket);
        (Process::start(server.arg(self.place.path("disk.lvd")), &socket), socket)
    }

    fn fetch(&self, export: &str) -> Run {
        let mut fetch = command();
        fetch.args(["bitmap", "fetch", "--recorded", "moving", "-g", "4K", "--control"]).arg(&self.there.control);
        run(fetch.args(["disk", "daily", export]))
    }
}

#[test]
fn a_bitmap_moves_with_its_disk() {
    for seed in 0..3 {
        let mut all = Move::new();
        let guest = Writer::start(&all.here, seed);
        guest.go_on();
        all.mirror();
        guest.go_on();
        all.complete();
        guest.go_on();
        let (left, socket) = all.left();
        guest.go_on();
        all.fetch(&uri(&socket, "old")).ok();
        guest.go_on();
        left.stop().ok();
        let written = guest.end();
        let found = dirty(&all.there, &mut all.away, "disk", "daily");
        let missing: Vec<_> = written.difference(&found).collect();
        assert!(missing.is_empty(), "{missing:?} of {} are missing", written.len());
        // What is not written is not dirty, but where a copy was on its way.
        assert!(found.len() <= written.len() + 4, "{} are dirty, of {} written", found.len(), written.len());
        let bitmaps = bitmaps(&mut all.away, 0);
        assert_eq!(bitmaps.as_array().map(Vec::len), Some(1), "{bitmaps}");
        assert_eq!((&bitmaps[0]["recording"], &bitmaps[0]["inconsistent"]), (&json!(true), &json!(false)));
        all.here.stop().ok();
        all.there.stop().ok();
        lvd!("check", all.place.path("away.lvd")).ok();
    }
}

/// What goes wrong on the way leaves the new server's recording and the old server's bitmap, so it is done again.
#[test]
fn what_was_not_fetched_is_fetched_again() {
    let mut all = Move::new();
    let guest = Writer::start(&all.here, 7);
    guest.go_on();
    all.mirror();
    all.complete();
    let (left, socket) = all.left();
    let before = bitmaps(&mut all.away, 0);
    assert_eq!(before[0]["name"], "moving");
    let cut = crate::merge::cut_off(&all.place, &socket, 300);
    for (export, why) in [
        (uri(&cut, "old"), "cut"),
        (uri(&socket, "no"), "no such export"),
        (uri(&all.here.nbd, "disk"), "tells of no bitmap"),
        (all.place.path("disk.lvd").display().to_string(), "not the URI of an export"),
    ] {
        all.fetch(&export).fails(1, why);
        let now = bitmaps(&mut all.away, 0);
        let names = |all: &serde_json::Value| {
            all.as_array().map(|all| all.iter().map(|b| b["name"].clone()).collect::<Vec<_>>())
        };
        assert_eq!(names(&now), names(&before), "{why}");
    }
    guest.go_on();
    all.fetch(&uri(&socket, "old")).ok();
    let written = guest.end();
    assert!(written.is_subset(&dirty(&all.there, &mut all.away, "disk", "daily")));
    // The old one has what it had.
    assert!(!told(&uri(&socket, "old"), "daily").is_empty());
    left.stop().ok();
    all.here.stop().ok();
    all.there.stop().ok();
}

/// The new server is killed while it takes the bitmap over: what is called `daily` then is whole, or trusted by nobody; and
/// what is needed to do it again is there.
#[test]
fn a_server_that_is_killed_has_no_bitmap_that_lies() {
    let mut all = Move::new();
    let guest = Writer::start(&all.here, 11);
    guest.go_on();
    all.mirror();
    guest.go_on();
    all.complete();
    guest.go_on();
    let written = guest.end();
    let (left, socket) = all.left();
    let Move { place, here, mut there, .. } = all;
    // Its requests would be made again.
    here.stop().ok();
    let mut random = Random::new(3);
    let mut ends = [0, 0];
    let rounds = std::env::var("LVD_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(40);
    for round in 0..rounds {
        let mut fetch = command();
        fetch.args(["bitmap", "fetch", "--recorded", "moving", "-g", "4K", "--control"]).arg(&there.control);
        let mut fetch = fetch
            .args(["disk", "daily", &uri(&socket, "old")])
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("started");
        thread::sleep(Duration::from_micros(random.below(30_000)));
        there.signal("KILL");
        there.end();
        fetch.wait().expect("ended");
        let list = lvd!("bitmap", "list", "--json", place.path("away.lvd")).ok().json();
        let find = |name: &str| {
            let found = list.as_array().expect("bitmaps").iter().find(|bitmap| bitmap["name"] == name);
            found.filter(|bitmap| bitmap["stale"] == false && bitmap["missed-writes"] == false)
        };
        there = Server::launch(&place, command(), "there", &["-x", "disk", "away.lvd"]);
        let mut monitor = there.monitor();
        match find("daily") {
            Some(_) => {
                ends[1] += 1;
                assert!(written.is_subset(&dirty(&there, &mut monitor, "disk", "daily")), "round {round}: {list}");
            }
            None => {
                ends[0] += 1;
                assert!(find("moving").is_some(), "round {round}: {list}");
            }
        }
        // As it was before, and once more.
        if find("daily").is_some() {
            if find("moving").is_none() {
                monitor.ok("block-dirty-bitmap-add", json!({ "node": "disk", "name": "moving", "granularity": UNIT }));
            }
            let back = json!({ "node": "disk", "target": "moving", "bitmaps": ["daily"] });
            monitor.ok("block-dirty-bitmap-merge", back);
        }
        if list.as_array().expect("bitmaps").iter().any(|bitmap| bitmap["name"] == "daily") {
            monitor.ok("block-dirty-bitmap-remove", json!({ "node": "disk", "name": "daily" }));
        }
    }
    eprintln!("killed {} times before, {} times after", ends[0], ends[1]);
    there.stop().ok();
    left.stop().ok();
}
