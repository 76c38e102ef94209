//! A server, a client of its control socket, and a guest.

use crate::client::Client;
use crate::common::{Place, Process, Random, Run, content, lvd as command, same};
use lvd::nbd::proto::NBD_CMD_FLUSH;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// `lvd serve`, killed if a test fails.
pub struct Server {
    process: Process,
    pub nbd: PathBuf,
    pub control: PathBuf,
}

impl Server {
    /// Serves `disk.lvd` of `place`, which commands call `disk`.
    pub fn start(place: &Place) -> Server {
        Server::start_by(place, command())
    }

    /// The same, by a command that begins so.
    pub fn start_by(place: &Place, command: Command) -> Server {
        Server::launch(place, command, "disk", &["-x", "disk", "disk.lvd"])
    }

    /// Serves what `arguments` say, at sockets that begin with `name`.
    pub fn launch(place: &Place, mut command: Command, name: &str, arguments: &[&str]) -> Server {
        let (nbd, control) = (place.path(&format!("{name}.nbd")), place.path(&format!("{name}.control")));
        command.current_dir(place.root()).arg("serve").arg("--unix").arg(&nbd).arg("--control").arg(&control);
        let process = Process::start(command.args(arguments), &control);
        Server { process, nbd, control }
    }

    pub fn monitor(&self) -> Monitor {
        Monitor::new(&self.control)
    }

    pub fn guest(&self) -> Client {
        Client::new(self.connect())
    }

    /// A client of another export than `disk`.
    pub fn guest_of(&self, export: &str) -> Client {
        Client::of(self.connect(), export)
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.nbd).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        stream
    }

    pub fn pid(&self) -> String {
        self.process.pid()
    }

    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub fn end(&mut self) -> Run {
        self.process.end()
    }

    /// Asks it to stop, and waits.
    pub fn stop(self) -> Run {
        self.process.stop()
    }
}

/// A client that gives commands and hears events.
pub struct Monitor {
    stream: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Monitor {
    pub fn new(path: &std::path::Path) -> Monitor {
        let stream = UnixStream::connect(path).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        let mut monitor = Monitor { stream: BufReader::new(stream), events: VecDeque::new() };
        assert!(monitor.receive()["QMP"].is_object());
        monitor.ok("qmp_capabilities", json!({}));
        monitor
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// A command whose answer is not looked at.
    pub fn send(&mut self, name: &str, arguments: Value) {
        let text = format!("{}\n", json!({ "execute": name, "arguments": arguments, "id": name }));
        self.stream.get_mut().write_all(text.as_bytes()).expect("sent");
    }

    /// A command and its answer.
    pub fn ask(&mut self, name: &str, arguments: Value) -> Value {
        self.send(name, arguments);
        loop {
            let message = self.receive();
            if message.get("event").is_some() {
                self.events.push_back(message);
                continue;
            }
            assert_eq!(message["id"], name, "{message}");
            return message;
        }
    }

    /// A command that succeeds.
    #[track_caller]
    pub fn ok(&mut self, name: &str, arguments: Value) -> Value {
        let mut answer = self.ask(name, arguments);
        assert!(answer.get("return").is_some(), "{name}: {answer}");
        answer["return"].take()
    }

    /// A command that fails with one clear line.
    #[track_caller]
    pub fn fails(&mut self, name: &str, arguments: Value, class: &str, part: &str) {
        let answer = self.ask(name, arguments);
        let description = answer["error"]["desc"].as_str().unwrap_or_else(|| panic!("{name}: {answer}"));
        assert_eq!(answer["error"]["class"], class, "{answer}");
        assert!(description.contains(part), "{name}: no {part:?} in {description:?}");
        assert!(!description.contains('\n') && !description.is_empty(), "{description:?}");
    }

    /// The next event.
    pub fn event(&mut self) -> Value {
        let mut next = self.events.pop_front().unwrap_or_else(|| self.receive());
        while next.get("event").is_none() {
            next = self.receive();
        }
        next
    }

    /// The next event of that name; those before it are dropped.
    pub fn until(&mut self, name: &str) -> Value {
        loop {
            let event = self.event();
            if event["event"] == name {
                return event["data"].clone();
            }
        }
    }

    /// All events up to the one that says that the job is in that state: states, and names of others.
    pub fn course(&mut self, last: &str) -> Vec<String> {
        let mut course = Vec::new();
        while course.last().is_none_or(|word| word != last) {
            let event = self.event();
            course.push(match event["data"]["status"].as_str() {
                Some(status) => status.to_owned(),
                None => event["event"].as_str().expect("a name").to_owned(),
            });
        }
        course
    }

    /// What `query-jobs` says of the only job.
    pub fn job(&mut self) -> Value {
        let jobs = self.ok("query-jobs", json!({}));
        assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs}");
        jobs[0].clone()
    }

    /// The layers of the disk, by the names of their files.
    pub fn layers(&mut self) -> Vec<String> {
        let devices = self.ok("query-block", json!({}));
        let (mut image, mut layers) = (&devices[0]["inserted"]["image"], Vec::new());
        while let Some(name) = image["filename"].as_str() {
            layers.push(name.rsplit('/').next().expect("a name").to_owned());
            image = &image["backing-image"];
        }
        layers
    }
}

/// Writes and reads all the time, and finds what it wrote.
pub struct Guest {
    thread: JoinHandle<Vec<u8>>,
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
}

impl Guest {
    /// Begins on a disk that holds `model`.
    pub fn start(server: &Server, mut model: Vec<u8>) -> Guest {
        let mut client = server.guest();
        let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, count) = (stop.clone(), writes.clone());
        let thread = thread::spawn(move || {
            let mut random = Random::new(5);
            while !stopping.load(Ordering::Relaxed) {
                let length = (random.below(64) as usize + 1) * if random.below(2) == 0 { 512 } else { 4096 };
                let at = random.below((model.len() - length) as u64 / 512) as usize * 512;
                let data = random.bytes(length);
                client.write(at as u64, &data);
                model[at..at + length].copy_from_slice(&data);
                let look = random.below((model.len() - 65536) as u64) as usize;
                same(&client.read(look as u64, 65536), &model[look..look + 65536], "the guest");
                if count.fetch_add(1, Ordering::Relaxed) % 16 == 0 {
                    client.ask(NBD_CMD_FLUSH, 0, 0, &[]).expect("flushed");
                }
            }
            let whole: Vec<u8> =
                (0..model.len()).step_by(1 << 20).flat_map(|at| client.read(at as u64, 1 << 20)).collect();
            same(&whole, &model, "the guest at its end");
            model
        });
        Guest { thread, stop, writes }
    }

    /// Lets it make some more requests.
    pub fn go_on(&self) {
        let before = self.writes.load(Ordering::Relaxed);
        while self.writes.load(Ordering::Relaxed) < before + 40 {
            assert!(!self.thread.is_finished(), "the guest has failed");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it. What it has on its disk.
    pub fn end(self) -> Vec<u8> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a guest that found what it wrote")
    }
}

/// Bytes of the disks.
pub const SIZE: usize = 16 << 20;

/// `disk.lvd` on `base.lvd`, which is full; and what they hold.
pub fn overlay(place: &Place) -> Vec<u8> {
    let disk = Random::new(9).bytes(SIZE);
    let raw = place.file("disk.raw", &disk);
    crate::lvd!("convert", "-f", "raw", &raw, place.path("base.lvd")).ok();
    crate::lvd!("create", "-b", "base.lvd", place.path("disk.lvd")).ok();
    std::fs::remove_file(raw).expect("removed");
    disk
}

/// The server has ended, and `file` is sound and holds `model`.
#[track_caller]
pub fn holds(place: &Place, file: &str, model: &[u8]) {
    crate::lvd!("check", place.path(file)).ok();
    same(&content(&place.path(file)), model, file);
}
