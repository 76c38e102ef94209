//! The NBD client against servers in this process: what it reads and writes, and what
//! becomes of its requests when a server goes.

use crate::common::Random;
use lvd::device::{BlockDevice, Extent, ExtentKind};
use lvd::nbd::client::{Connector, NbdStorage, Options};
use lvd::nbd::server::{self, Export, ExportDevice, Exports, Server};
use lvd::storage::Storage;
use lvd::{Error, Result};
use proptest::prelude::*;
use std::io;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub const SIZE: usize = 256 << 10;
pub const UNIT: u64 = 4096;

/// A disk with a cache that a power cut empties.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<Bytes>>);

#[derive(Debug)]
struct Bytes {
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// What lies behind so many bytes has no room on the host.
    room: u64,
    /// How long a flush takes.
    flush: Duration,
    /// How many of the flushes to come fail.
    broken: u64,
}

impl Disk {
    pub fn new(bytes: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(Bytes {
            cache: bytes.clone(),
            durable: bytes,
            room: u64::MAX,
            flush: Duration::ZERO,
            broken: 0,
        })))
    }

    fn cut_power(&self) {
        let mut bytes = self.0.lock().unwrap();
        bytes.cache = bytes.durable.clone();
    }

    pub fn content(&self) -> Vec<u8> {
        self.0.lock().unwrap().cache.clone()
    }

    pub fn durable(&self) -> Vec<u8> {
        self.0.lock().unwrap().durable.clone()
    }

    fn with<T>(&self, range: Range<u64>, work: impl FnOnce(&mut [u8]) -> T) -> Result<T> {
        let mut bytes = self.0.lock().unwrap();
        let place = bytes.cache.get_mut(range.start as usize..range.end as usize);
        Ok(work(place.ok_or_else(|| Error::Invalid("outside".into()))?))
    }
}

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().cache.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.with(offset..offset + buffer.len() as u64, |bytes| buffer.copy_from_slice(bytes))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        if offset + data.len() as u64 > self.0.lock().unwrap().room {
            return Err(Error::NoSpace { file: "disk".into() });
        }
        self.with(offset..offset + data.len() as u64, |bytes| bytes.copy_from_slice(data))
    }

    fn write_zeroes(&self, range: Range<u64>, _: bool) -> Result<()> {
        self.with(range, |bytes| bytes.fill(0))
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.write_zeroes(range, true)
    }

    fn flush(&self) -> Result<()> {
        let time = self.0.lock().unwrap().flush;
        thread::sleep(time);
        let mut bytes = self.0.lock().unwrap();
        if bytes.broken > 0 {
            bytes.broken -= 1;
            return Err(Error::Denied("the flush fails".into()));
        }
        bytes.durable = bytes.cache.clone();
        Ok(())
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        let end = end.min((offset / UNIT + 1) * UNIT);
        let zero = self.with(offset..end, |bytes| bytes.iter().all(|byte| *byte == 0))?;
        let kind = if zero { ExtentKind::Zero } else { ExtentKind::Data };
        Ok(Extent { range: offset..end, kind, present: true, depth: 0, place: None })
    }
}

impl ExportDevice for Disk {
    fn bitmap_run(&self, _: &str, _: u64, end: u64) -> Result<(bool, u64)> {
        Ok((false, end))
    }

    fn zeroes_fast(&self) -> bool {
        true
    }
}

/// A server that can go and come again.
struct Rig {
    disk: Disk,
    read_only: bool,
    server: Mutex<Option<Arc<Server>>>,
}

impl Rig {
    fn new(disk: Disk, read_only: bool) -> Arc<Rig> {
        let rig = Arc::new(Rig { disk, read_only, server: Mutex::default() });
        rig.start();
        rig
    }

    fn start(&self) {
        let (read_only, device) = (self.read_only, Arc::new(self.disk.clone()));
        let (name, description) = ("disk".into(), String::new());
        let (write_through, bitmaps) = (false, Vec::new());
        let export = Export { name, description, read_only, write_through, bitmaps, device };
        let options = server::Options { grace: Duration::ZERO, ..server::Options::default() };
        let server = Server::new(Exports::new(vec![export]).unwrap(), options, Box::new(|_| {}));
        *self.server.lock().unwrap() = Some(server);
    }

    /// Nobody answers until [`start`](Self::start); requests under way may or may not have been carried out.
    fn stop(&self) {
        let server = self.server.lock().unwrap().take();
        server.expect("running").stop();
    }

    fn connector(self: &Arc<Rig>) -> Connector {
        let rig = self.clone();
        Box::new(move || {
            let server = rig.server.lock().unwrap().clone().ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = UnixStream::pair()?;
            server.serve(Arc::new(theirs))?;
            Ok(Arc::new(ours))
        })
    }

    fn client(self: &Arc<Rig>, options: Options) -> NbdStorage {
        NbdStorage::connect("remote".into(), "disk".into(), self.connector(), options).expect("connected")
    }
}

pub fn writing(connections: usize, reconnect: Duration) -> Options {
    Options { write: true, connections, reconnect, tls: None }
}

const PATIENT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum Step {
    Read(Vec<Range<u64>>),
    Write(Vec<Range<u64>>, u8),
    Punch(Range<u64>),
    Zeroes(Range<u64>),
    NextData(Range<u64>),
    Sync,
}

fn range() -> impl Strategy<Value = Range<u64>> {
    (0..SIZE as u64, 0u64..40_000).prop_map(|(start, length)| start..(start + length).min(SIZE as u64))
}

fn step() -> impl Strategy<Value = Step> {
    // Pieces of one batch are apart: those that are not may be written in either order.
    let apart = |mut ranges: Vec<Range<u64>>| {
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|later, earlier| later.start < earlier.end);
        ranges
    };
    prop_oneof![
        prop::collection::vec(range(), 0..5).prop_map(Step::Read),
        (prop::collection::vec(range(), 0..5).prop_map(apart), 1u8..)
            .prop_map(|(ranges, byte)| Step::Write(ranges, byte)),
        range().prop_map(Step::Punch),
        range().prop_map(Step::Zeroes),
        range().prop_map(Step::NextData),
        Just(Step::Sync),
    ]
}

fn place(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn play(client: &NbdStorage, model: &mut [u8], step: &Step) {
    match step {
        Step::Read(ranges) => {
            let mut buffers: Vec<Vec<u8>> = ranges.iter().map(|range| vec![0xee; place(range).len()]).collect();
            let starts = ranges.iter().map(|range| range.start);
            let mut pieces: Vec<_> = starts.zip(buffers.iter_mut().map(|buffer| &mut buffer[..])).collect();
            client.read_batch(&mut pieces).unwrap();
            for (range, buffer) in ranges.iter().zip(&buffers) {
                assert!(buffer == &model[place(range)], "{range:?}");
            }
        }
        Step::Write(ranges, byte) => {
            let data: Vec<Vec<u8>> = ranges.iter().map(|range| vec![*byte; place(range).len()]).collect();
            let pieces: Vec<_> = ranges.iter().zip(&data).map(|(range, data)| (range.start, &data[..])).collect();
            client.write_batch(&pieces).unwrap();
            ranges.iter().for_each(|range| model[place(range)].fill(*byte));
        }
        Step::Punch(range) => {
            client.punch(range.clone()).unwrap();
            model[place(range)].fill(0);
        }
        Step::Zeroes(range) => {
            client.write_zeroes(range.clone()).unwrap();
            model[place(range)].fill(0);
        }
        Step::NextData(range) => {
            let found = client.next_data(range.clone()).unwrap().unwrap_or(range.end..range.end);
            assert!(range.start <= found.start && found.end <= range.end, "{found:?} of {range:?}");
            let skipped = &model[place(&(range.start..found.start))];
            assert!(skipped.iter().all(|byte| *byte == 0), "{found:?} leaves out data of {range:?}");
        }
        Step::Sync => client.sync().unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn it_is_the_disk(steps in prop::collection::vec(step(), 1..30), connections in 1usize..4) {
        let mut model = vec![0; SIZE];
        Random::new(1).bytes(SIZE / 2).iter().zip(&mut model).for_each(|(byte, place)| *place = *byte);
        let rig = Rig::new(Disk::new(model.clone()), false);
        let client = rig.client(writing(connections, PATIENT));
        for step in &steps {
            play(&client, &mut model, step);
        }
        prop_assert!(rig.disk.content() == model);
        client.sync().unwrap();
        prop_assert!(rig.disk.durable() == model);
    }

    /// The server goes between the steps and loses what was not flushed; nobody notices.
    #[test]
    fn a_server_that_loses_its_cache_gets_it_again(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.2)), 1..20)
    ) {
        let mut model = vec![0; SIZE];
        let rig = Rig::new(Disk::new(model.clone()), false);
        let client = rig.client(writing(2, PATIENT));
        for (step, cut) in &steps {
            if *cut {
                rig.stop();
                rig.disk.cut_power();
                rig.start();
            }
            play(&client, &mut model, step);
        }
        client.sync().unwrap();
        prop_assert!(rig.disk.durable() == model);
    }
}

#[test]
fn past_the_end_there_are_zeros_and_nothing_can_be_written() {
    let rig = Rig::new(Disk::new(vec![7; 10_000]), false);
    let client = rig.client(writing(1, PATIENT));
    let mut buffer = [1; 6];
    client.read_at(&mut buffer, 9_996).unwrap();
    assert_eq!(buffer, [7, 7, 7, 7, 0, 0]);
    client.read_at(&mut buffer, u64::MAX - 2).unwrap();
    assert_eq!(buffer, [0; 6]);
    assert!(matches!(client.write_at(&[1; 6], 9_996), Err(Error::Invalid(_))));
    assert!(matches!(client.set_size(20_000), Err(Error::Denied(_))));
    client.set_size(10_000).unwrap();
}

#[test]
fn a_read_only_export_is_only_read() {
    let rig = Rig::new(Disk::new(vec![7; 10_000]), true);
    let error = NbdStorage::connect("remote".into(), "disk".into(), rig.connector(), writing(1, PATIENT));
    assert_eq!(error.unwrap_err().to_string(), "remote: the server lets nobody write to it");
    let client = rig.client(Options::default());
    assert!(client.read_only());
    assert!(matches!(client.write_at(&[1], 0), Err(Error::Denied(_))));
    client.sync().unwrap();
}

/// Many threads share one connection, on which megabytes go both ways: nobody waits for a server that waits for them.
#[test]
fn threads_share_a_connection() {
    const PART: u64 = 2 << 20;
    for connections in [1, 3] {
        let rig = Rig::new(Disk::new(vec![0; 8 * PART as usize]), false);
        let client = rig.client(writing(connections, PATIENT));
        thread::scope(|scope| {
            for thread in 0..8u64 {
                let client = &client;
                scope.spawn(move || {
                    let (mut random, start) = (Random::new(thread), thread * PART);
                    let mut model = vec![0; PART as usize];
                    for _ in 0..20 {
                        let pieces: Vec<(u64, Vec<u8>)> =
                            (0..4).map(|piece| (piece * (PART / 4), random.bytes(PART as usize / 5))).collect();
                        let writes: Vec<(u64, &[u8])> =
                            pieces.iter().map(|(at, data)| (start + at, &data[..])).collect();
                        client.write_batch(&writes).unwrap();
                        for (at, data) in &pieces {
                            model[*at as usize..][..data.len()].copy_from_slice(data);
                        }
                        let mut all = vec![0; PART as usize];
                        let mut reads: Vec<(u64, &mut [u8])> = all
                            .chunks_mut(10_000)
                            .enumerate()
                            .map(|(index, chunk)| (start + index as u64 * 10_000, chunk))
                            .collect();
                        client.read_batch(&mut reads).unwrap();
                        assert!(all == model, "thread {thread} reads something else");
                    }
                });
            }
        });
    }
}

/// The server goes again and again, and loses its cache each time, while four threads write and flush.
#[test]
fn nothing_that_was_acknowledged_is_lost() {
    const PART: u64 = 64 << 10;
    let rig = Rig::new(Disk::new(vec![0; 4 * PART as usize]), false);
    let client = rig.client(writing(3, PATIENT));
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4u64)
            .map(|thread| {
                let (client, done, stop) = (&client, &done, &stop);
                scope.spawn(move || {
                    let (mut random, start) = (Random::new(thread), thread * PART);
                    let mut model = vec![0; PART as usize];
                    while !stop.load(Ordering::Relaxed) {
                        let (at, length) = (random.below(PART - 8192), random.below(8192));
                        let data = random.bytes(length as usize);
                        client.write_at(&data, start + at).unwrap();
                        model[at as usize..][..data.len()].copy_from_slice(&data);
                        let mut read = vec![0; PART as usize];
                        client.read_at(&mut read, start).unwrap();
                        assert!(read == model, "something acknowledged is gone");
                        if random.below(8) == 0 {
                            client.sync().unwrap();
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    model
                })
            })
            .collect();
        for _ in 0..8 {
            let before = done.load(Ordering::Relaxed);
            while done.load(Ordering::Relaxed) < before + 20 {
                thread::sleep(Duration::from_millis(1));
            }
            rig.stop();
            rig.disk.cut_power();
            rig.start();
        }
        stop.store(true, Ordering::Relaxed);
        let model: Vec<u8> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        client.sync().unwrap();
        assert!(rig.disk.durable() == model);
    });
}

/// Flushes come first, but what takes long has its turn too: where somebody always flushed it was never begun.
#[test]
fn flushes_without_end_hold_up_nothing_for_ever() {
    let rig = Rig::new(Disk::new(vec![7; 8 << 20]), false);
    rig.disk.0.lock().unwrap().flush = Duration::from_millis(50);
    let client = rig.client(writing(1, PATIENT));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..8 {
            let (client, stop) = (&client, &stop);
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(number * 10));
                while !stop.load(Ordering::Relaxed) {
                    client.sync().unwrap();
                }
            });
        }
        thread::sleep(Duration::from_millis(300));
        let (sender, result) = std::sync::mpsc::channel();
        let client = &client;
        scope.spawn(move || sender.send(client.punch(0..8 << 20)));
        let ended = result.recv_timeout(Duration::from_secs(10));
        stop.store(true, Ordering::Relaxed);
        ended.expect("it has its turn").unwrap();
    });
}

/// A flush that the client asks for by itself fails. What was acknowledged before may be gone from the server's cache then,
/// and the flush after it succeeds: it used to be told that all is durable.
#[test]
fn a_flush_that_failed_is_not_made_good_by_the_next() {
    let rig = Rig::new(Disk::new(vec![0; SIZE]), false);
    let client = rig.client(writing(1, PATIENT));
    rig.disk.0.lock().unwrap().broken = 1;
    let written = (0..1000).map(|_| client.write_at(&[1; SIZE], 0)).find_map(Result::err).expect("a flush");
    assert!(written.to_string().starts_with("remote: cannot flush: "), "{written}");
    assert!(matches!(client.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(client.write_at(&[1], 0), Err(Error::Poisoned { .. })));
    client.read_at(&mut [0], 0).unwrap();
}

#[test]
fn without_patience_a_lost_server_is_an_error() {
    let rig = Rig::new(Disk::new(vec![7; 10_000]), false);
    let client = rig.client(writing(1, Duration::ZERO));
    client.write_at(&[1; 10], 0).unwrap();
    rig.stop();
    rig.disk.cut_power();
    rig.start();
    // A server that comes after it may lack what the first one acknowledged: nobody is told that all is well.
    for _ in 0..2 {
        let error = client.sync().unwrap_err().to_string();
        assert!(error.starts_with("remote: no connection: the server"), "{error}");
    }
}

#[test]
fn patience_ends_and_the_server_may_come_later() {
    let rig = Rig::new(Disk::new(vec![7; 10_000]), false);
    let client = rig.client(writing(1, Duration::from_millis(300)));
    client.write_at(&[1; 10], 0).unwrap();
    rig.stop();
    let error = client.read_at(&mut [0], 0).unwrap_err().to_string();
    assert!(error.starts_with("remote: no connection: "), "{error}");
    rig.disk.cut_power();
    rig.start();
    thread::sleep(Duration::from_millis(1100));
    client.sync().unwrap();
    assert_eq!(rig.disk.durable()[..11], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7]);
}

/// A write that is refused fails, and that is all. It used to be made again for the next server, which refused it as well:
/// nobody had a connection any more, not even to read.
#[test]
fn what_was_refused_is_not_made_again() {
    let rig = Rig::new(Disk::new(vec![7; 10_000]), false);
    rig.disk.0.lock().unwrap().room = 4096;
    let client = rig.client(writing(1, Duration::from_secs(1)));
    client.write_at(&[1; 10], 0).unwrap();
    assert!(matches!(client.write_at(&[2; 10], 5000), Err(Error::NoSpace { .. })));
    rig.stop();
    rig.disk.cut_power();
    rig.start();
    client.sync().unwrap();
    assert_eq!(rig.disk.durable()[..11], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7]);
}

#[test]
fn another_disk_in_its_place_is_refused() {
    let rig = Rig::new(Disk::new(vec![7; 10_000]), false);
    let client = rig.client(writing(1, PATIENT));
    rig.stop();
    rig.disk.0.lock().unwrap().cache.push(0);
    rig.start();
    let error = client.read_at(&mut [0], 0).unwrap_err().to_string();
    assert_eq!(error, "remote: no connection: another export is in its place");
}

/// A disk that grows is larger for who comes then; who was there keeps to what it was told.
#[test]
fn a_new_size_is_seen_by_who_comes_then() {
    let rig = Rig::new(Disk::new(vec![7; 10_000]), false);
    let before = rig.client(writing(1, PATIENT));
    rig.disk.0.lock().unwrap().cache.resize(20_000, 8);
    let after = rig.client(writing(1, PATIENT));
    assert_eq!((before.size().unwrap(), after.size().unwrap()), (10_000, 20_000));
    let mut read = [0; 2];
    after.read_at(&mut read, 19_998).unwrap();
    assert_eq!(read, [8, 8]);
    before.read_at(&mut read, 9_998).unwrap();
    assert_eq!(read, [7, 7]);
}
