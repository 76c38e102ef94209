//! Clients that mean harm, or go at the worst moment, beside one that goes on unharmed.

use crate::client::Client;
use crate::common::{Place, Random};
use crate::lvd;
use crate::serve::Server as Process;
use lvd::nbd::proto::*;
use lvd::nbd::server::{Export, ExportDevice, Exports, Options, Server};
use lvd::testing::nbd::{exports, opening, request};
use lvd::{BlockDevice, Extent, ExtentKind, Result};
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SIZE: usize = 1 << 20;

/// A server in this process, and what it has reported.
pub struct Rig {
    pub server: Arc<Server>,
    pub told: Arc<Mutex<Vec<String>>>,
}

impl Rig {
    pub fn new(options: Options) -> Rig {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = told.clone();
        let report = Box::new(move |text: &str| heard.lock().unwrap().push(text.to_owned()));
        Rig { server: Server::new(exports(SIZE), options, report), told }
    }

    pub fn connect(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        self.server.serve(Arc::new(theirs)).expect("a thread");
        ours
    }
}

/// Reads until the server hangs up.
pub fn until_end(stream: &mut UnixStream) -> usize {
    let (mut buffer, mut count) = (vec![0; 64 << 10], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return count,
            Ok(more) => count += more,
            // What was sent and never read is cut off.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes and reads its part of the disk until told to stop, and finds what it wrote.
fn bystander(stream: UnixStream, stop: &AtomicBool) -> u64 {
    let (mut client, mut random, mut rounds) = (Client::new(stream), Random::new(1), 0);
    let mut model = client.read(0, 64 << 10);
    while !stop.load(Ordering::Relaxed) || rounds < 10 {
        let (at, length) = (random.below(60 << 10), random.below(4 << 10) + 1);
        let data = random.bytes(length as usize);
        client.write(at, &data);
        model[at as usize..][..length as usize].copy_from_slice(&data);
        client.ask(NBD_CMD_FLUSH, 0, 0, &[]).expect("flushed");
        assert!(client.read(0, 64 << 10) == model, "somebody else's bytes");
        rounds += 1;
    }
    rounds
}

/// Does harm while somebody else goes on.
fn beside_a_bystander(connect: impl Fn() -> UnixStream, harm: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stream = connect();
        let bystander = scope.spawn(|| bystander(stream, &stop));
        harm();
        stop.store(true, Ordering::Relaxed);
        assert!(bystander.join().expect("unharmed") >= 10);
    });
}

#[test]
fn garbage() {
    let rig = Rig::new(Options::default());
    beside_a_bystander(
        || rig.connect(),
        || {
            let mut random = Random::new(2);
            for round in 0..60 {
                let mut stream = rig.connect();
                if round % 3 > 0 {
                    stream.write_all(&opening(round % 3 == 1)).expect("sent");
                }
                let length = random.below(5000) as usize + 64;
                // The server may hang up before all of it is sent.
                let _ = stream.write_all(&random.bytes(length));
                until_end(&mut stream);
            }
        },
    );
    let told = rig.told.lock().unwrap();
    assert_eq!(told.len(), 60, "a line for each");
    assert!(told.iter().all(|line| line.starts_with("a client was sent away: ")), "{told:?}");
}

/// A client that goes in the middle of a message, wherever that is.
#[test]
fn half_messages() {
    let rig = Rig::new(Options::default());
    beside_a_bystander(
        || rig.connect(),
        || {
            let data = vec![7; 3000];
            let whole = [opening(true), request(NBD_CMD_WRITE, 0, 1, SIZE as u64 / 2, 3000, &data)].concat();
            for length in (0..whole.len()).step_by(13) {
                let mut stream = rig.connect();
                stream.write_all(&whole[..length]).expect("sent");
            }
            // Half a payload is not written.
            let untouched = Client::new(rig.connect()).read(SIZE as u64 / 2, 3000);
            assert!(untouched != data);
        },
    );
    assert_eq!(*rig.told.lock().unwrap(), Vec::<String>::new());
    rig.server.stop();
}

/// Lengths that only announce cost nothing: what is kept is what has arrived.
#[test]
fn lengths_that_lie() {
    let place = Place::new();
    lvd!("create", place.path("disk"), "1M").ok();
    lvd!("bitmap", "add", place.path("disk"), "b0").ok();
    let server = Process::start(&place, &["disk", "-B", "b0", "-x", "disk"]);
    let before = memory(&server);
    beside_a_bystander(
        || server.connect(),
        || {
            let mut waiting = Vec::new();
            for _ in 0..20 {
                let mut stream = server.connect();
                let head = request(NBD_CMD_WRITE, 0, 1, 0, 32 << 20, &[1; 100]);
                stream.write_all(&[opening(true), head].concat()).expect("sent");
                waiting.push(stream);
            }
            for (option, length) in [(NBD_OPT_GO, u32::MAX), (NBD_OPT_EXPORT_NAME, u32::MAX), (99, 1 << 31)] {
                let mut stream = server.connect();
                let mut bytes = vec![0, 0, 0, 3];
                OptionHead { magic: IHAVEOPT, option, length }.put(&mut bytes);
                stream.write_all(&bytes).expect("sent");
                until_end(&mut stream);
            }
            let mut stream = server.connect();
            stream.write_all(&[opening(false), request(NBD_CMD_WRITE, 0, 1, 0, u32::MAX, &[])].concat()).expect("sent");
            until_end(&mut stream);
            // Requests of 4 GiB without a payload are answered.
            let mut client = Client::new(server.connect());
            for command in [NBD_CMD_READ, NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES, NBD_CMD_BLOCK_STATUS] {
                client.ask(command, 0, u32::MAX, &[]).expect_err("outside the disk");
            }
        },
    );
    let grown = memory(&server) - before;
    assert!(grown < 64 << 10, "{grown} KiB more");
    let said = server.stop().code(0).err;
    assert_eq!(said.lines().count(), 4, "{said}");
}

/// The most memory that the server had, in KiB.
fn memory(server: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("running");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("known");
    line.trim().strip_suffix(" kB").and_then(|number| number.parse().ok()).expect("a number")
}

/// Whoever does not choose an export in time makes room, however busy it is.
#[test]
fn slow_clients() {
    let rig = Rig::new(Options { clients: 4, handshake: Duration::from_millis(1500), ..Options::default() });
    let idle: Vec<UnixStream> = (0..3).map(|_| rig.connect()).collect();
    let mut slow = rig.connect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for byte in opening(true).iter().cycle() {
                std::thread::sleep(Duration::from_millis(20));
                if (&slow).write_all(&[*byte]).is_err() {
                    return;
                }
            }
        });
        // Waits until one of them is gone.
        let mut client = Client::new(rig.connect());
        assert_eq!(client.read(5, 3).len(), 3);
    });
    until_end(&mut slow);
    idle.into_iter().for_each(|mut stream| assert_eq!(until_end(&mut stream), 18));
    assert_eq!(*rig.told.lock().unwrap(), Vec::<String>::new());
}

/// A client that asks and asks and never fetches a reply stops itself, and a server that stops does not wait for ever.
#[test]
fn replies_that_nobody_fetches() {
    let rig = Rig::new(Options { grace: Duration::from_millis(200), ..Options::default() });
    let mut stuck = None;
    beside_a_bystander(
        || rig.connect(),
        || {
            let client = Client::new(rig.connect());
            client.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("set");
            let ask =
                [request(NBD_CMD_READ, 0, 1, 0, SIZE as u32, &[]), request(NBD_CMD_FLUSH, 0, 2, 0, 0, &[])].concat();
            while (&client.stream).write_all(&ask).is_ok() {}
            stuck = Some(client);
        },
    );
    rig.server.stop();
    assert!(stuck.is_some(), "it was still there");
}

/// What is under way when the server stops is answered, and what comes later is not begun.
#[test]
fn stopping() {
    let rig = Rig::new(Options::default());
    let mut clients: Vec<Client> = (0..3).map(|_| Client::new(rig.connect())).collect();
    for client in &mut clients {
        client.write(4096, b"kept");
        client.ask(NBD_CMD_FLUSH, 0, 0, &[]).expect("flushed");
    }
    rig.server.stop();
    for client in &mut clients {
        let _ = client.stream.write_all(&request(NBD_CMD_READ, 0, 9, 0, 1, &[]));
        assert_eq!(until_end(&mut client.stream), 0);
    }
    let mut late = rig.connect();
    assert_eq!(until_end(&mut late), 0);
    assert_eq!(*rig.told.lock().unwrap(), Vec::<String>::new());
}

/// What comes before a request that is none is done and answered.
#[test]
fn the_last_words_of_a_client() {
    let rig = Rig::new(Options::default());
    let mut client = Client::new(rig.connect());
    let write = request(NBD_CMD_WRITE, 0, 7, 4096, 4, b"kept");
    client.stream.write_all(&[write, b"this is no request, and long enough".to_vec()].concat()).expect("sent");
    assert_eq!(client.reply(), (7, Ok(Vec::new())));
    assert_eq!(until_end(&mut client.stream), 0);
    assert_eq!(Client::new(rig.connect()).read(4096, 4), b"kept");
}

/// Many requests in one go are all answered, each with its cookie, whatever order that is.
#[test]
fn many_requests_at_once() {
    let rig = Rig::new(Options::default());
    let mut client = Client::new(rig.connect());
    let mut random = Random::new(3);
    for _ in 0..20 {
        let (mut bytes, mut cookies) = (Vec::new(), Vec::new());
        for cookie in 1000..1000 + random.below(600) {
            let (command, at) = (random.below(9) as u16, random.below(SIZE as u64 - 5000));
            let length = random.below(5000) as u32;
            let data = vec![1; if command == NBD_CMD_WRITE { length as usize } else { 0 }];
            if command == NBD_CMD_DISC {
                continue;
            }
            let flags = if random.below(3) == 0 { NBD_CMD_FLAG_FUA } else { 0 };
            bytes.extend(request(command, flags, cookie, at, length, &data));
            cookies.push(cookie);
        }
        let mut sender = client.stream.try_clone().expect("cloned");
        std::thread::scope(|scope| {
            scope.spawn(move || sender.write_all(&bytes).expect("sent"));
            let mut answered: Vec<u64> = cookies.iter().map(|_| client.reply().0).collect();
            answered.sort_unstable();
            assert_eq!(answered, cookies);
        });
    }
    client.stream.write_all(&request(NBD_CMD_DISC, 0, 0, 0, 0, &[])).expect("sent");
    assert_eq!(until_end(&mut client.stream), 0);
}

/// A disk of 8 GiB that, asked for a part, tells of all of it and more.
#[derive(Debug)]
struct Boastful;

impl BlockDevice for Boastful {
    fn size(&self) -> u64 {
        8 << 30
    }

    fn read_at(&self, buffer: &mut [u8], _: u64) -> Result<()> {
        buffer.fill(0);
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _: Range<u64>, _: bool) -> Result<()> {
        Ok(())
    }

    fn discard(&self, _: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent(&self, offset: u64, _: u64) -> Result<Extent> {
        Ok(Extent { range: offset..16 << 30, kind: ExtentKind::Zero, present: true, depth: 0, place: None })
    }
}

impl ExportDevice for Boastful {
    fn bitmap_run(&self, _: &str, _: u64, _: u64) -> Result<(bool, u64)> {
        Ok((true, 16 << 30))
    }

    fn zeroes_fast(&self) -> bool {
        true
    }
}

/// The longest request that there is, one of a byte, and one up to the end: an answer tells of no more than was asked for.
#[test]
fn extents_end_with_their_request() {
    let export = Export {
        name: "disk".into(),
        description: String::new(),
        read_only: false,
        write_through: false,
        bitmaps: vec!["b0".into()],
        device: Arc::new(Boastful),
    };
    let server = Server::new(Exports::new(vec![export]).expect("one"), Options::default(), Box::new(|_| {}));
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    server.serve(Arc::new(theirs)).expect("a thread");
    let mut client = Client::new(ours);
    for (offset, length) in [(0, u32::MAX), (0, 1), (4 << 30, u32::MAX), ((8 << 30) - 1, 1)] {
        let told = client.ask(NBD_CMD_BLOCK_STATUS, offset, length, &[]).expect("told");
        let contexts = told.as_chunks::<12>();
        assert!(contexts.0.len() >= 2 && contexts.1.is_empty(), "one extent in each context: {told:?}");
        for context in contexts.0 {
            assert_eq!(context[4..8], length.to_be_bytes(), "{length} bytes from {offset}");
        }
    }
    client.ask(NBD_CMD_BLOCK_STATUS, (8 << 30) - 1, 2, &[]).expect_err("past the end");
    client.ask(NBD_CMD_BLOCK_STATUS, u64::MAX, 2, &[]).expect_err("wraps around");
}
