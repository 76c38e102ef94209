//! What the black-box tests share: the built command, peers, temporary files, numbers out of a seed.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// The command, not yet run.
pub fn lvd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvd"));
    command.stdin(Stdio::null());
    command
}

/// What a run left behind.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
    what: String,
}

impl Run {
    /// What `output` says of `what`.
    pub fn of(what: &str, output: Output) -> Run {
        Run {
            code: output.status.code(),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            what: what.to_owned(),
        }
    }

    /// Ended with this exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Run {
        let text = String::from_utf8_lossy(&self.out[..self.out.len().min(2000)]).into_owned();
        assert_eq!(self.code, Some(code), "{}\nstdout: {text}\nstderr: {}", self.what, self.err);
        self
    }

    /// Ended well, without a word on standard error.
    #[track_caller]
    pub fn ok(self) -> Run {
        let run = self.code(0);
        assert_eq!(run.err, "", "{}", run.what);
        run
    }

    /// Failed with exactly one line that says `part` (in any case).
    #[track_caller]
    pub fn fails(self, code: i32, part: &str) -> Run {
        let run = self.code(code);
        let lines: Vec<_> = run.err.lines().collect();
        assert_eq!(lines.len(), 1, "{}: not one line: {}", run.what, run.err);
        assert!(lines[0].starts_with("lvd: "), "{}: {}", run.what, run.err);
        assert!(run.err.to_lowercase().contains(&part.to_lowercase()), "{}: no '{part}' in: {}", run.what, run.err);
        run
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.out.clone()).expect("output is text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{}: {error}: {}", self.what, self.text()))
    }
}

/// Runs any command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Run {
    let what = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
    Run::of(&what, output)
}

/// Runs `lvd` with these arguments.
#[macro_export]
macro_rules! lvd {
    ($($argument:expr),* $(,)?) => {{
        let mut command = $crate::common::lvd();
        $(command.arg($argument);)*
        $crate::common::run(&mut command)
    }};
}

/// Runs another tool with these arguments.
#[macro_export]
macro_rules! tool {
    ($name:expr $(, $argument:expr)* $(,)?) => {{
        let mut command = std::process::Command::new($name);
        $(command.arg($argument);)*
        $crate::common::run(&mut command)
    }};
}

/// Runs `lvd` with bytes on standard input.
#[track_caller]
pub fn feed<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Run {
    use std::io::Write;
    let mut command = lvd();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let what = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // A command that fails early does not read all of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("waited for");
    writer.join().expect("the writer ends");
    Run::of(&what, output)
}

/// Whether the tools are installed. A test that goes without them says so once a tool; with
/// `LVD_REQUIRE_PEERS=1` it fails instead.
#[track_caller]
pub fn peers(tools: &[&str]) -> bool {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let path = std::env::var_os("PATH").unwrap_or_default();
    // e2fsprogs are where an ordinary user's PATH may not lead.
    let places: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let missing: Vec<_> = tools.iter().filter(|tool| !places.iter().any(|place| place.join(tool).exists())).collect();
    let required = std::env::var("LVD_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    for tool in &missing {
        assert!(!required, "{tool} is not installed, and LVD_REQUIRE_PEERS=1");
        if TOLD.lock().expect("no panic while held").insert(tool.to_string()) {
            eprintln!("skipped: some tests, for want of {tool}");
        }
    }
    missing.is_empty()
}

/// A temporary directory and the paths in it.
pub struct Place(tempfile::TempDir);

impl Default for Place {
    fn default() -> Place {
        Place::new()
    }
}

impl Place {
    pub fn new() -> Place {
        Place(tempfile::Builder::new().prefix("lvd-test.").tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// A file of these bytes.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    /// A sparse file of this length.
    pub fn sparse(&self, name: &str, length: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).and_then(|file| file.set_len(length)).expect("made");
        path
    }
}

/// Numbers out of a seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// A disk as disks are: stretches of data, of zeros, and of one byte over and over.
    pub fn disk(&mut self, length: usize) -> Vec<u8> {
        let mut disk = Vec::with_capacity(length);
        while disk.len() < length {
            let stretch = (self.below(64) as usize + 1) * 4096 - if self.below(4) == 0 { 512 } else { 0 };
            let stretch = stretch.min(length - disk.len());
            match self.below(5) {
                0 | 1 => disk.extend(self.bytes(stretch)),
                2 => disk.resize(disk.len() + stretch, self.next() as u8),
                _ => disk.resize(disk.len() + stretch, 0),
            }
        }
        disk
    }
}

/// The disk that an image (or a chain) holds, read by the command.
#[track_caller]
pub fn content(image: &Path) -> Vec<u8> {
    let size = lvd!("info", "--json", image).ok().json()["virtual-size"].as_u64().expect("a size");
    lvd!("read", image, "0", size.to_string()).ok().out
}

/// Where two disks differ first, for a message that can be read.
#[track_caller]
pub fn same(got: &[u8], wanted: &[u8], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}: size");
    if let Some(at) = (0..got.len()).find(|&at| got[at] != wanted[at]) {
        panic!("{what}: first difference at {at}: {} instead of {}", got[at], wanted[at]);
    }
}

/// Changes bytes of a file behind everybody's back.
pub fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).expect("opened");
    file.write_all_at(bytes, offset).expect("written");
}

/// A server in a process of its own, killed if a test fails.
pub struct Process {
    child: Option<std::process::Child>,
}

impl Process {
    /// Starts it; returns once somebody listens at `socket`.
    pub fn start(command: &mut Command, socket: &Path) -> Process {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        let mut process = Process { child: Some(child) };
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            let ended = process.child.as_mut().and_then(|child| child.try_wait().expect("known"));
            assert!(ended.is_none(), "{:?}", process.end());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        process
    }

    pub fn pid(&self) -> String {
        self.child.as_ref().expect("running").id().to_string()
    }

    pub fn signal(&self, signal: &str) {
        tool!("kill", format!("-{signal}"), self.pid()).ok();
    }

    /// Waits for its end.
    pub fn end(&mut self) -> Run {
        let output = self.child.take().expect("running").wait_with_output().expect("waited for");
        Run::of("lvd serve", output)
    }

    /// Asks it to stop, and waits.
    pub fn stop(mut self) -> Run {
        self.signal("TERM");
        self.end()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
