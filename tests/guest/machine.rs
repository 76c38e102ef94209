//! The guest: a machine that is told what to do, line by line, over a serial line.

use crate::common::{Place, peers, run};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Nothing that is asked of a guest takes longer, also where the machine has other things to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// The directory with `vmlinuz` and `initrd.gz`. None, which is said once, where they cannot be had: the test is skipped.
/// With `LVD_REQUIRE_PEERS=1` it fails.
pub fn kit() -> Option<&'static Path> {
    static KIT: OnceLock<Option<PathBuf>> = OnceLock::new();
    KIT.get_or_init(make_kit).as_deref()
}

fn make_kit() -> Option<PathBuf> {
    let tools = ["qemu-system-x86_64", "mke2fs", "e2fsck", "debugfs", "apt-get", "dpkg", "ldd", "gzip"];
    if !peers(&tools) {
        return None;
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/kit.sh");
    let made = run(Command::new(script).arg(&directory));
    if made.code == Some(0) {
        return Some(directory);
    }
    let required = std::env::var("LVD_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    assert!(!required, "no guest can be made, and LVD_REQUIRE_PEERS=1: {made:?}");
    eprintln!(
        "skipped: the tests with a guest, for want of its kernel: {}",
        made.err.lines().last().unwrap_or_default()
    );
    None
}

/// An export as a block node. While there is no server the guest waits; nothing fails.
pub fn nbd(socket: &Path, export: &str) -> String {
    let socket = socket.display();
    format!("driver=nbd,server.type=unix,server.path={socket},export={export},reconnect-delay=60")
}

/// A guest that runs, killed if a test fails.
pub struct Guest {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    synced: Arc<AtomicU64>,
    console: PathBuf,
}

impl Guest {
    /// Boots with the disk that is served at `socket`, and with more `disks`, which are files of bytes.
    pub fn boot(kit: &Path, place: &Place, socket: &Path, disks: &[&Path]) -> Guest {
        let raw = |disk: &&Path| format!("driver=file,filename={}", disk.display());
        let nodes: Vec<String> = [nbd(socket, "")].into_iter().chain(disks.iter().map(raw)).collect();
        Guest::boot_with(kit, place, &nodes)
    }

    /// Boots with the disks that QEMU's block `nodes` are.
    pub fn boot_with(kit: &Path, place: &Place, nodes: &[String]) -> Guest {
        let console = place.path("console");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args("-accel tcg -cpu max -machine q35 -m 256 -smp 1 -no-reboot".split(' '));
        qemu.args("-nodefaults -no-user-config -display none".split(' '));
        // What the kernel has to say must not come between the lines of the other one.
        qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        qemu.arg("-kernel").arg(kit.join("vmlinuz")).arg("-initrd").arg(kit.join("initrd.gz"));
        qemu.args(["-append", "console=ttyS0 quiet panic=-1"]);
        for (number, node) in nodes.iter().enumerate() {
            qemu.arg("-blockdev").arg(format!("{node},node-name=d{number},discard=unmap"));
            qemu.arg("-device").arg(format!("virtio-blk-pci,drive=d{number}"));
        }
        qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = qemu.spawn().expect("started");
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        let synced = Arc::new(AtomicU64::new(0));
        let counted = synced.clone();
        std::thread::spawn(move || read_lines(stdout, &sender, &counted));
        let mut guest = Guest { child, stdin, lines, synced, console };
        guest.answer("boot");
        guest
    }

    /// Has the guest carry out `command`, which must succeed without a word.
    #[track_caller]
    pub fn run(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("the guest listens");
        self.answer(command);
    }

    #[track_caller]
    fn answer(&mut self, command: &str) {
        let (end, mut said) = (Instant::now() + PATIENCE, Vec::new());
        let status = loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.strip_prefix("= ") {
                    Some(status) => break status.to_owned(),
                    None => said.push(line),
                },
                Err(RecvTimeoutError::Timeout) => break "no answer".into(),
                Err(RecvTimeoutError::Disconnected) => break "the guest is gone".into(),
            }
        };
        let told = || std::fs::read_to_string(&self.console).unwrap_or_default();
        assert!(status == "0" && said.is_empty(), "{command}: {status}: {said:?}\nconsole: {}", told());
    }

    /// The last of the files that the guest was told are durable; it makes them in order, from 1.
    pub fn synced(&self) -> u64 {
        self.synced.load(Ordering::SeqCst)
    }

    /// Waits until the guest has made `count` more files durable.
    #[track_caller]
    pub fn go_on(&mut self, count: u64) {
        let (goal, end) = (self.synced() + count, Instant::now() + PATIENCE);
        while self.synced() < goal {
            let word = self.lines.try_recv().ok();
            assert!(word.is_none() && Instant::now() < end, "{} of {goal}: {word:?}", self.synced());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends what the guest does beside what it is told.
    pub fn rest(&mut self) {
        self.run("touch /tmp/stop; wait; rm /tmp/stop");
    }

    /// Turns it off.
    pub fn end(mut self) {
        writeln!(self.stdin, "poweroff -f").expect("the guest listens");
        assert!(self.child.wait().expect("waited for").success());
    }

    /// Pulls the plug.
    pub fn kill(mut self) -> u64 {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
        // What it had said before comes to an end now.
        while self.lines.recv().is_ok() {}
        self.synced()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(stdout: ChildStdout, lines: &Sender<String>, synced: &AtomicU64) {
    for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        match line.strip_prefix("synced ").and_then(|number| number.parse().ok()) {
            Some(number) => synced.store(number, Ordering::SeqCst),
            None if line.is_empty() => {}
            None => drop(lines.send(line)),
        }
    }
}
