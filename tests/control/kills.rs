//! The server is killed at every event of every job, of a transaction and of a group that moves, or a little later, while
//! its guests write: what these were told to be written is there, bitmaps tell of it, and the same, asked for again, is done.
//!
//! `LVD_KILLS` says how often each job is killed (20).

use crate::client::Client;
use crate::common::{self, MIB, Place, Random, Run, content, feed, lvd as command};
use crate::lvd;
use crate::records::record;
use crate::rig::{Monitor, Server};
use lvd::nbd::proto::NBD_CMD_WRITE;
use serde_json::{Value, json};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const SIZE: usize = 4 << 20;

fn kills() -> u64 {
    std::env::var("LVD_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// All kills of this test are over.
fn survived() {
    let test = thread::current().name().unwrap_or_default().replace("kills::", "");
    record(&format!("kills-{test}"), &json!({ "name": test, "kills": kills() }));
}

/// A job, and what may be known of it from outside.
struct Case {
    command: &'static str,
    arguments: Value,
    /// How it is completed once it is ready.
    complete: Option<Complete>,
    /// Events at which it is killed: states, and names of others.
    events: &'static [&'static str],
    /// A layer lies between the guest's and the base.
    between: bool,
    /// Where the guest's disk is after a kill, and whether the job has been done.
    left: fn(&Place, &Since) -> (&'static str, bool),
}

/// Completes a job, and says what others have pulled of it by then, if they have.
type Complete = fn(&Server, &mut Monitor) -> Option<Vec<u8>>;

/// The point of a bitmap that was there before the job.
type Since = String;

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

/// A guest of an export, and what it knows.
struct Guest {
    known: Arc<Mutex<Known>>,
    thread: JoinHandle<()>,
}

impl Guest {
    /// Begins on a disk that holds `model`, and returns once it has written.
    fn start(client: Client, model: Vec<u8>, seed: u64) -> Guest {
        let known = Arc::new(Mutex::new(Known { model, pending: None, acknowledged: 0 }));
        let writer = known.clone();
        let thread = thread::spawn(move || write_on(client, &writer, seed));
        while known.lock().unwrap().acknowledged < 3 {
            thread::sleep(Duration::from_millis(1));
        }
        Guest { known, thread }
    }

    /// What it knows when its server is gone.
    fn end(self) -> Known {
        self.thread.join().expect("a guest whose requests were answered while there was a server");
        Arc::into_inner(self.known).expect("nobody else knows").into_inner().unwrap()
    }
}

/// Hears the events of `jobs` jobs up to one of those called `last`, the first or another job's. `complete` is called when
/// all are ready; `asked` is that moment. Says which jobs have been reported as done.
fn hear(
    monitor: &mut Monitor,
    last: &str,
    jobs: usize,
    random: &mut Random,
    mut complete: impl FnMut(&mut Monitor),
) -> Vec<String> {
    let (mut still, mut ready, mut done) = (random.below(jobs as u64), 0, Vec::new());
    loop {
        let event = monitor.event();
        let name = event["data"]["status"].as_str().or(event["event"].as_str()).expect("a name").to_owned();
        if name == "BLOCK_JOB_COMPLETED" && event["data"]["error"].is_null() {
            done.push(event["data"]["device"].as_str().expect("a name").to_owned());
        }
        if name == last {
            if still == 0 {
                return done;
            }
            still -= 1;
        }
        ready += usize::from(name == "BLOCK_JOB_READY");
        if name == "BLOCK_JOB_READY" && ready == jobs {
            complete(monitor);
            if last == "asked" {
                return done;
            }
        }
    }
}

/// Waits for some microseconds, or some milliseconds.
fn soon(random: &mut Random) {
    let most = 256 << random.below(8);
    thread::sleep(Duration::from_micros(random.below(most)));
}

/// Begins the job, and completes it when it is ready.
fn run(server: &Server, case: &Case) -> Value {
    let mut monitor = server.monitor();
    monitor.ok(case.command, case.arguments.clone());
    if let Some(complete) = case.complete {
        monitor.until("BLOCK_JOB_READY");
        complete(server, &mut monitor);
    }
    let end = monitor.until("BLOCK_JOB_COMPLETED");
    monitor.course("null");
    end["error"].clone()
}

/// Options, and the command's words before them.
fn by<'a>(words: &[&'a str], group: Option<&'a str>) -> Vec<&'a str> {
    words.iter().copied().chain(group.into_iter().flat_map(|file| ["--group", file])).collect()
}

/// Runs the command in `place` with these words.
fn lvd_in(place: &Place, words: &[&str]) -> Run {
    common::run(command().current_dir(place.root()).args(words))
}

/// What the bitmap says of itself, if it is there.
fn bitmap(place: &Place, disk: &str, name: &str, group: Option<&str>) -> Option<Value> {
    let all = lvd_in(place, &by(&["bitmap", "list", "--json", disk], group)).ok().json();
    all.as_array().expect("bitmaps").iter().find(|bitmap| bitmap["name"] == name).cloned()
}

fn since(place: &Place, disk: &str, name: &str) -> Since {
    let found = bitmap(place, disk, name, None).unwrap_or_else(|| panic!("{disk}: no bitmap {name}"));
    found["since"].as_str().expect("a point").to_owned()
}

/// The bitmap records, and tells of all in which the disk differs from what it was at the bitmap's start.
#[track_caller]
fn tells(place: &Place, disk: &str, name: &str, group: Option<&str>, before: &[u8], now: &[u8], what: &str) {
    let found = bitmap(place, disk, name, group).unwrap_or_else(|| panic!("{what}: {disk} has no bitmap {name}"));
    let recorded = found["stale"] == false && found["missed-writes"] == false && found["state"] != "disabled";
    assert!(recorded, "{what}: the bitmap of {disk}: {found}");
    let extents = lvd_in(place, &by(&["bitmap", "extents", "--json", disk, name], group)).ok().json();
    let number = |value: &Value| value.as_u64().expect("a number") as usize;
    for extent in extents.as_array().expect("extents").iter().filter(|extent| extent["type"] == 0) {
        let range = number(&extent["offset"])..number(&extent["offset"]) + number(&extent["length"]);
        let changed = range.clone().find(|at| before[*at] != now[*at]);
        assert!(
            changed.is_none(),
            "{what}: the bitmap {name} of {disk} does not tell of byte {changed:?} in {range:?}"
        );
    }
}

fn killed(case: &Case) {
    for round in 0..kills() {
        let place = Place::new();
        let mut random = Random::new(round);
        let mut model = random.bytes(SIZE);
        let raw = place.file("raw", &model);
        lvd!("convert", "-f", "raw", raw, place.path("base.lvd")).ok();
        let mut below = "base.lvd";
        if case.between {
            lvd!("create", "-b", below, place.path("mid.lvd")).ok();
            let held = MIB as usize..2 * MIB as usize + 512;
            model[held.clone()].copy_from_slice(&random.bytes(held.len()));
            let (at, length) = (held.start.to_string(), held.len().to_string());
            let mid = place.path("mid.lvd").to_string_lossy().into_owned();
            feed(["write", &mid, &at, &length], &model[held]).ok();
            below = "mid.lvd";
        }
        lvd!("create", "-b", below, place.path("disk.lvd")).ok();
        lvd!("bitmap", "add", place.path("disk.lvd"), "daily").ok();
        let before = since(&place, "disk.lvd", "daily");
        let mut server = start(&place, "disk.lvd");
        let mut monitor = server.monitor();
        let guest = Guest::start(server.guest(), model.clone(), round);
        let last = case.events[round as usize % case.events.len()];
        let mut pulled = None;
        monitor.ok(case.command, case.arguments.clone());
        let done = hear(&mut monitor, last, 1, &mut random, |monitor| {
            pulled = case.complete.and_then(|complete| complete(&server, monitor));
        });
        soon(&mut random);
        server.signal("KILL");
        server.end();
        let known = guest.end();

        let what = format!("{} killed at {last}, round {round}", case.command);
        let (disk, over) = (case.left)(&place, &before);
        assert!(over || done.is_empty(), "{what}: it was reported as done");
        let found = content(&place.path(disk));
        known.check(&found, &what);
        // A backup that was not done is as if it had never begun.
        let counted = over && case.command == "drive-backup";
        let at_start = if counted { pulled.unwrap_or_else(|| content(&place.path("copy.lvd"))) } else { model };
        assert!(counted || since(&place, disk, "daily") == before, "{what}: the bitmap tells of another time");
        tells(&place, disk, "daily", None, &at_start, &found, &what);

        let server = start(&place, disk);
        if !over {
            assert_eq!(run(&server, case), Value::Null, "{what}: asked for again");
        }
        server.stop().ok();
        let (disk, over) = (case.left)(&place, &before);
        assert!(over, "{what}: asked for again it is not done");
        lvd!("check", place.path(disk)).ok();
        known.check(&content(&place.path(disk)), &what);
    }
    survived();
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

fn by_name(_: &Server, monitor: &mut Monitor) -> Option<Vec<u8>> {
    monitor.ok("job-complete", json!({ "id": "j" }));
    None
}

#[test]
fn a_stream_is_killed() {
    killed(&Case {
        command: "block-stream",
        arguments: json!({ "device": "disk", "job-id": "j", "speed": 64 << 20 }),
        complete: None,
        events: ONCE,
        between: false,
        left: |place, _| ("disk.lvd", info(place, "disk.lvd").is_some_and(|info| info["complete"] == true)),
    });
}

/// As soon as the base has changed, the old top is refused: then the base is the disk.
#[test]
fn a_commit_is_killed() {
    killed(&Case {
        command: "block-commit",
        arguments: json!({ "device": "disk", "job-id": "j", "speed": 64 << 20 }),
        complete: Some(by_name),
        events: READY,
        between: false,
        left: |place, _| {
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
        complete: Some(by_name),
        events: READY,
        between: false,
        left: |place, _| match lvd!("read", place.path("copy.lvd"), "0", "1").code {
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
        complete: None,
        events: ONCE,
        between: false,
        left: |place, before| ("disk.lvd", since(place, "disk.lvd", "daily") != *before),
    });
}

/// The same of a backup that others pull: only when they have said that they have it a new count has begun.
#[test]
fn a_pull_is_killed() {
    killed(&Case {
        command: "drive-backup",
        arguments: json!({ "device": "disk", "job-id": "j", "target": "scratch.raw", "sync": "none", "bitmap": "daily" }),
        complete: Some(|server, monitor| {
            monitor.ok("block-export-add", json!({ "type": "nbd", "id": "e", "node-name": "j", "name": "instant" }));
            let mut client = server.guest_of("instant");
            let pulled = (0..SIZE).step_by(1 << 20).flat_map(|at| client.read(at as u64, 1 << 20)).collect();
            by_name(server, monitor);
            Some(pulled)
        }),
        events: READY,
        between: false,
        left: |place, before| ("disk.lvd", since(place, "disk.lvd", "daily") != *before),
    });
}

/// The guest goes on in the layer above, whatever comes of the two below.
#[test]
fn a_commit_below_the_guest_is_killed() {
    killed(&Case {
        command: "block-commit",
        arguments: json!({ "device": "disk", "job-id": "j", "speed": 64 << 20, "top": "mid.lvd", "base": "base.lvd" }),
        complete: None,
        events: ONCE,
        between: true,
        left: |place, _| {
            let opens = lvd!("read", place.path("base.lvd"), "0", "1").code == Some(0);
            ("disk.lvd", opens && content(&place.path("mid.lvd")) == content(&place.path("base.lvd")))
        },
    });
}

/// The two disks of a group, by their exports: their files, and those of their copies.
const PAIR: [[&str; 3]; 2] = [["disk", "one.lvd", "one.copy.lvd"], ["two", "two.lvd", "two.copy.lvd"]];

/// The disks, each with bitmaps of these names, and what is on them.
fn pair(place: &Place, random: &mut Random, bitmaps: &[&str]) -> [Vec<u8>; 2] {
    PAIR.map(|[_, disk, _]| {
        let model = random.bytes(SIZE);
        let raw = place.file("raw", &model);
        lvd!("convert", "-f", "raw", raw, place.path(disk)).ok();
        for name in bitmaps {
            lvd!("bitmap", "add", place.path(disk), *name).ok();
        }
        model
    })
}

/// Serves both disks, from these files.
fn start_pair(place: &Place, files: [&str; 2], group: Option<&str>) -> Server {
    let exports = ["--write-through", "-x", "disk", "-x", "two"];
    Server::launch(place, command(), "both", &by(&[&exports[..], &files[..]].concat(), group))
}

fn guests(server: &Server, models: &[Vec<u8>; 2], seed: u64) -> [Guest; 2] {
    [
        Guest::start(server.guest(), models[0].clone(), 2 * seed),
        Guest::start(server.guest_of("two"), models[1].clone(), 2 * seed + 1),
    ]
}

fn read(place: &Place, disk: &str, group: Option<&str>) -> Vec<u8> {
    lvd_in(place, &by(&["read", disk, "0", &SIZE.to_string()], group)).ok().out
}

/// Whether the guests can go on in it.
fn opens(place: &Place, disk: &str, group: Option<&str>) -> bool {
    // The bitmap records already; but what changes bitmaps opens for writing.
    lvd_in(place, &by(&["bitmap", "enable", disk, "daily"], group)).code == Some(0)
}

/// What a mark says that names no group.
const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// What the disks of a group are copied into: the first to an image, the second to one of `KINDS`.
struct Copies {
    kind: &'static str,
    /// The server of a copy that is on one.
    far: Option<Server>,
}

/// An image; one that is filled by a mirror that can be taken up again; a raw file; an export of another server.
const KINDS: [&str; 4] = ["image", "resumed", "raw", "far"];

impl Copies {
    fn new(place: &Place, kind: &'static str) -> Copies {
        let serve = || {
            lvd!("create", place.path("far.lvd"), SIZE.to_string()).ok();
            Server::launch(place, command(), "far", &["-x", "far", "far.lvd"])
        };
        Copies { kind, far: (kind == "far").then(serve) }
    }

    /// Their files, as far as these open or not when the group has moved or has not.
    fn images(&self) -> &[&'static str] {
        let tells = matches!(self.kind, "image" | "resumed");
        &["one.copy.lvd", "two.copy.lvd"][..1 + usize::from(tells)]
    }

    fn mirror(&self, monitor: &mut Monitor) {
        let first =
            json!({ "device": "disk", "job-id": "disk", "target": "one.copy.lvd", "sync": "full", "speed": 64 << 20 });
        let mut second = first.clone();
        (second["device"], second["job-id"], second["target"]) = (json!("two"), json!("two"), json!("two.copy.lvd"));
        match (self.kind, &self.far) {
            ("resumed", _) => second["resume"] = json!("lacking"),
            (_, Some(far)) => {
                let uri = format!("nbd+unix:///far?socket={}", far.nbd.display());
                (second["target"], second["format"], second["mode"]) = (json!(uri), json!("raw"), json!("existing"));
            }
            ("raw", _) => (second["target"], second["format"]) = (json!("two.copy.raw"), json!("raw")),
            _ => {}
        }
        monitor.ok("drive-mirror", first);
        monitor.ok("drive-mirror", second);
    }

    /// What they hold. Nobody writes to them any more.
    fn content(&mut self, place: &Place) -> [Vec<u8>; 2] {
        let second = match (self.kind, self.far.take()) {
            (_, Some(far)) => {
                far.stop().ok();
                content(&place.path("far.lvd"))
            }
            ("raw", _) => std::fs::read(place.path("two.copy.raw")).expect("there"),
            _ => content(&place.path("two.copy.lvd")),
        };
        [content(&place.path("one.copy.lvd")), second]
    }
}

fn together(monitor: &mut Monitor, group: &str) {
    monitor.send("job-complete-together", json!({ "ids": ["disk", "two"], "group": group }));
}

/// By the file of the group both disks open on one side, and on no other. Without the file what is in the group is refused.
#[test]
fn a_pivot_of_a_group_is_killed() {
    for round in 0..kills() {
        let (place, mut random) = (Place::new(), Random::new(round));
        let models = pair(&place, &mut random, &["daily"]);
        let mut copies = Copies::new(&place, KINDS[(round + round / 8) as usize % KINDS.len()]);
        let mut server = start_pair(&place, PAIR.map(|[_, disk, _]| disk), None);
        let (mut monitor, guests) = (server.monitor(), guests(&server, &models, round));
        // Most of it happens before there is an answer.
        let events =
            ["asked", "asked", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null", "BLOCK_JOB_READY"];
        let last = events[round as usize % events.len()];
        copies.mirror(&mut monitor);
        let done = hear(&mut monitor, last, 2, &mut random, |monitor| together(monitor, "first.lvg"));
        soon(&mut random);
        server.signal("KILL");
        server.end();
        let known = guests.map(Guest::end);

        let what = format!("{} killed at {last}, round {round}", copies.kind);
        // A file that is not whole yet decides nothing: nothing has been marked.
        let group = info(&place, "first.lvg").map(|_| "first.lvg");
        let sources = PAIR.map(|[_, disk, _]| disk);
        let marks = sources.iter().map(|file| (*file, "group-mark"));
        for (file, mark) in marks.chain(copies.images().iter().map(|file| (*file, "copy-mark"))) {
            let named = info(&place, file).map(|info| info[mark]["group"].as_str().unwrap_or(NIL).to_owned());
            if named.is_some_and(|group| group != NIL) {
                lvd_in(&place, &["bitmap", "enable", file, "daily"]).fails(1, "group");
            }
        }
        let stay: Vec<bool> = sources.iter().map(|file| opens(&place, file, group)).collect();
        let moved: Vec<bool> = copies.images().iter().map(|file| opens(&place, file, group)).collect();
        assert!(stay[0] == stay[1] && moved.iter().all(|moved| *moved != stay[0]), "{what}: {stay:?} {moved:?}");
        let says = group.map(|group| info(&place, group).expect("read before")["decision"].clone());
        assert_eq!(says.is_some_and(|says| says == "moved"), moved[0], "{what}: the file is what a raw copy goes by");
        let moved = moved[0];
        assert!(moved || done.is_empty(), "{what}: they were reported to have moved");
        let files: Vec<&str> = if moved { copies.images().to_vec() } else { sources.to_vec() };
        for ((file, known), model) in files.iter().zip(&known).zip(&models) {
            let found = read(&place, file, group);
            known.check(&found, &what);
            tells(&place, file, "daily", group, model, &found, &what);
        }
        // Asked for again; or the guests go on with their copies. These have been opened, and do without the group's file.
        if let [one, two] = files[..] {
            let server = start_pair(&place, [one, two], group);
            if !moved {
                let mut monitor = server.monitor();
                copies.mirror(&mut monitor);
                (0..2).for_each(|_| drop(monitor.until("BLOCK_JOB_READY")));
                together(&mut monitor, "second.lvg");
                for _ in 0..2 {
                    assert_eq!(monitor.until("BLOCK_JOB_COMPLETED")["error"], Value::Null, "{what}: asked for again");
                }
            }
            server.stop().ok();
        }
        copies.images().iter().for_each(|file| drop(lvd!("check", place.path(file)).ok()));
        copies.content(&place).iter().zip(&known).for_each(|(found, known)| known.check(found, &what));
    }
    survived();
}

/// Of a transaction all, a part, or nothing may be left; but each disk goes on in the new overlay if that opens, and else in
/// the old file, with the bitmaps that it then has. The transaction is asked for again.
#[test]
fn a_transaction_is_killed() {
    for round in 0..kills() {
        let (place, mut random) = (Place::new(), Random::new(round));
        let models = pair(&place, &mut random, &["daily", "hourly"]);
        let old = PAIR.map(|[_, disk, _]| ["daily", "hourly"].map(|name| since(&place, disk, name)));
        let mut server = start_pair(&place, PAIR.map(|[_, disk, _]| disk), None);
        let (mut monitor, guests) = (server.monitor(), guests(&server, &models, round));
        let events =
            ["asked", "asked", "asked", "created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "null"];
        let last = events[round as usize % events.len()];
        let grouped = round % 2 == 1;
        monitor.send("transaction", transaction("over", grouped, [true; 2]));
        let done = if last == "asked" { Vec::new() } else { hear(&mut monitor, last, 2, &mut random, |_| {}) };
        soon(&mut random);
        server.signal("KILL");
        server.end();
        let known = guests.map(Guest::end);

        let what = format!("killed at {last}, round {round}");
        let mut over = [false; 2];
        let mut tops = PAIR.map(|[_, disk, _]| disk.to_owned());
        for (number, [device, disk, copy]) in PAIR.into_iter().enumerate() {
            let overlay = format!("over.{disk}");
            let snapped = lvd!("read", place.path(&overlay), "0", "1").code == Some(0);
            assert!(snapped || last == "asked", "{what}: {overlay} is not the disk");
            if snapped {
                tops[number] = overlay;
            }
            let top = tops[number].as_str();
            let found = content(&place.path(top));
            known[number].check(&found, &what);
            // What was on the disk when it was held still.
            let instant = if snapped { content(&place.path(disk)) } else { models[number].clone() };
            let counted = ["daily", "hourly"]
                .map(|name| since(&place, top, name))
                .iter()
                .zip(&old[number])
                .map(|(now, old)| now != old)
                .collect::<Vec<_>>();
            for (name, counted) in ["daily", "hourly"].iter().zip(&counted) {
                assert!(snapped || !counted, "{what}: {name} of {disk} has begun again");
                tells(&place, top, name, None, if *counted { &instant } else { &models[number] }, &found, &what);
            }
            over[number] = counted[0];
            assert!(over[number] || !done.iter().any(|job| job == device), "{what}: {device} was reported as done");
            if over[number] {
                common::same(&content(&place.path(copy)), &instant, &what);
            }
            if bitmap(&place, top, "weekly", None).is_some() {
                tells(&place, top, "weekly", None, &instant, &found, &what);
            }
        }

        let fresh = [0, 1].map(|number| bitmap(&place, &tops[number], "weekly", None).is_none());
        let server = start_pair(&place, [&tops[0], &tops[1]], None);
        let mut monitor = server.monitor();
        monitor.ok("transaction", transaction("again", grouped, fresh));
        for _ in 0..2 {
            assert_eq!(monitor.until("BLOCK_JOB_COMPLETED")["error"], Value::Null, "{what}: asked for again");
        }
        server.stop().ok();
        for ([_, disk, copy], known) in PAIR.into_iter().zip(&known) {
            lvd!("check", place.path(&format!("again.{disk}"))).ok();
            known.check(&content(&place.path(&format!("again.{disk}"))), &what);
            known.check(&content(&place.path(copy)), &what);
        }
    }
    survived();
}

/// New overlays that begin with `name`, full backups, a new count of `hourly`, and `weekly` where it is `fresh`.
fn transaction(name: &str, grouped: bool, fresh: [bool; 2]) -> Value {
    let mut actions = Vec::new();
    let mut act = |kind: &str, data: Value| actions.push(json!({ "type": kind, "data": data }));
    for ([device, disk, copy], fresh) in PAIR.into_iter().zip(fresh) {
        if fresh {
            act("block-dirty-bitmap-add", json!({ "node": device, "name": "weekly" }));
        }
        act("block-dirty-bitmap-clear", json!({ "node": device, "name": "hourly" }));
        let file = format!("{name}.{disk}");
        act("blockdev-snapshot-sync", json!({ "device": device, "snapshot-file": file }));
        let backup = json!({
            "device": device, "job-id": device, "target": copy, "sync": "full", "bitmap": "daily", "speed": 64 << 20,
        });
        act("drive-backup", backup);
    }
    let mode = if grouped { "grouped" } else { "individual" };
    json!({ "actions": actions, "properties": { "completion-mode": mode } })
}
