//! A guest of an overlay whose parent is on a server a millisecond or more away: what it reads, with and without a stream
//! underneath.

use crate::Bench;
use crate::files::median;
use crate::requests::Offsets;
use lvd::chain::{Chain, ChainOptions, Layer, ParentPolicy, RawDevice};
use lvd::format::Parent;
use lvd::jobs::drive;
use lvd::live::Disk;
use lvd::nbd::Uri;
use lvd::nbd::client::{NbdStorage, Options};
use lvd::storage::{Create, FileStorage, OsHost, Storage};
use lvd::{BlockDevice, CreateOptions, Image, Result};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Threads of the stream: those of the command for what is on another machine.
const THREADS: usize = 16;

impl Bench {
    /// The rows.
    pub(crate) fn remote(&self) {
        let name = "reads of a remote parent";
        if !self.wanted(name) {
            return;
        }
        print!("\n{:<30}", "remote");
        ["stream s", "reads/s", "alone", "ratio"].iter().for_each(|title| print!(" {title:>8}"));
        for delay in [1, 5] {
            let name = format!("{name}, {delay} ms");
            let Some(server) = Server::start(self, delay) else {
                println!("\n{name}: skipped for want of nbdkit");
                return;
            };
            let rounds: Vec<[f64; 3]> = (0..self.rounds).map(|_| self.remote_round(&server)).collect();
            let of = |part: fn(&[f64; 3]) -> f64| median(rounds.iter().map(part).collect());
            let (stream, reads, alone) = (of(|round| round[0]), of(|round| round[1]), of(|round| round[2]));
            print!("\n{name:<30} {stream:>8.2} {reads:>8.0} {alone:>8.0} {:>8.2}", of(|round| round[1] / round[2]));
        }
        println!();
    }

    /// Seconds of a stream, reads a second meanwhile, and without it.
    fn remote_round(&self, server: &Server) -> [f64; 3] {
        let disk = self.overlay_of(server);
        let begun = Instant::now();
        let job = disk.stream(None).expect("a stream");
        let reads = std::thread::scope(|scope| {
            (0..THREADS).for_each(|_| drop(scope.spawn(|| drive(&job, |_| {}).expect("streamed"))));
            // Until the stream comes where the guest reads, and its reads need no server.
            self.reads_until(&disk, || job.progress().done > self.disk / 4 * 3)
        });
        let time = begun.elapsed();
        disk.close().expect("closed");
        let end = Instant::now() + time;
        let alone = self.reads_until(&self.overlay_of(server), || Instant::now() > end);
        [time.as_secs_f64(), reads, alone]
    }

    /// Reads a second of a guest that reads from the last quarter of the disk until it is told to stop.
    fn reads_until(&self, disk: &Disk, over: impl Fn() -> bool) -> f64 {
        let (mut offsets, mut buffer, mut count) = (Offsets(7), [0; 4096], 0);
        let begun = Instant::now();
        while !over() {
            let block = self.disk / 4096 / 4 * 3 + offsets.next(self.disk / 4096 / 4);
            disk.read_at(&mut buffer, block * 4096).expect("read");
            count += 1;
        }
        f64::from(count) / begun.elapsed().as_secs_f64()
    }

    /// A new overlay of what the server has.
    fn overlay_of(&self, server: &Server) -> Arc<Disk> {
        let path = self.path("remote-top.lvd");
        let _ = std::fs::remove_file(&path);
        let file = Arc::new(FileStorage::open(&path, &self.options(Create::New)).expect("a file"));
        let host = Arc::new(OsHost::default());
        let parent = server.connect().expect("connected");
        let parent = Layer::Raw(Arc::new(RawDevice::new(parent, false).expect("a disk")));
        let link = parent.link(self.disk, "remote".into()).expect("a link");
        let options = CreateOptions { virtual_size: self.disk, parent: Some(link), ..CreateOptions::default() };
        Image::create(&*file, &*host, &options).expect("an image");
        let options = ChainOptions { write: true, ..ChainOptions::default() };
        Disk::new(Chain::open(file, host, server, &options).expect("a chain"))
    }
}

/// nbdkit with a full disk, that takes its time for every read.
#[derive(Debug)]
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    fn connect(&self) -> Result<Arc<dyn Storage>> {
        let uri = Uri::parse(&format!("nbd+unix:///?socket={}", self.socket.display()))?;
        Ok(Arc::new(NbdStorage::open(&uri, Options::default())?))
    }

    fn start(bench: &Bench, delay: u32) -> Option<Server> {
        let (socket, raw) = (bench.path(&format!("remote-{delay}.sock")), bench.raw("remote.raw", bench.disk, true));
        let child = Command::new("nbdkit")
            .args(["-f", "-r", "-U"])
            .arg(&socket)
            .args(["--filter=delay", "file"])
            .arg(raw.name())
            .arg(format!("rdelay={delay}ms"))
            .spawn()
            .ok()?;
        let server = Server { child, socket };
        while server.connect().is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ParentPolicy for Server {
    fn open(&self, _: &Parent, _: &str, _: bool) -> Result<Arc<dyn Storage>> {
        self.connect()
    }
}
