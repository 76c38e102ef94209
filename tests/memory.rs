//! How much memory files, peers and jobs can have taken: counted by the allocator.
#![allow(unsafe_code, reason = "an allocator that counts is one that passes on what it is asked for")]

use lvd::chain::{Chain, ChainOptions, GivenParents};
use lvd::control::{MAX_TEXT, Session};
use lvd::foreign::Qed;
use lvd::format::{
    Bitmap, BitmapState, Header, Identity, Kind, Parent, ParentFormat, RawRecord, Section, SectionKind, Uuid,
};
use lvd::image::{CreateOptions, Image, NewBitmap, OpenOptions};
use lvd::limits::{DEFAULT_DEPTH, MAX_SECTIONS, SLOT_SIZE, SLOTS_END};
use lvd::live::{Disk, Pace};
use lvd::nbd::client::{self, NbdStorage};
use lvd::nbd::proto::*;
use lvd::nbd::server::{self, Server};
use lvd::storage::{Host, LockMode, MemoryStorage, OsHost, Storage};
use lvd::testing::nbd::{exports, opening, request};
use lvd::{BlockDevice, Result};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Counts the bytes that are held, and the most that ever were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Where metadata ends and data begins that nobody keeps.
const KEPT: u64 = 4 << 20;

/// A file whose first bytes are kept; the rest reads as data, and what is written there is forgotten.
#[derive(Debug)]
struct Endless {
    name: &'static str,
    size: u64,
    kept: Mutex<Vec<u8>>,
}

impl Endless {
    fn new(name: &'static str, size: u64) -> Arc<Endless> {
        Arc::new(Endless { name, size, kept: Mutex::new(vec![0; KEPT as usize]) })
    }
}

impl Storage for Endless {
    fn name(&self) -> &str {
        self.name
    }

    fn size(&self) -> Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let kept = KEPT.saturating_sub(offset).min(buffer.len() as u64) as usize;
        buffer[..kept].copy_from_slice(&self.kept.lock().unwrap()[offset.min(KEPT) as usize..][..kept]);
        buffer[kept..].fill(0x5a);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let kept = KEPT.saturating_sub(offset).min(data.len() as u64) as usize;
        self.kept.lock().unwrap()[offset.min(KEPT) as usize..][..kept].copy_from_slice(&data[..kept]);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        let kept = range.start.min(KEPT) as usize..range.end.min(KEPT) as usize;
        self.kept.lock().unwrap()[kept].fill(0);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.punch(range)
    }

    fn lock(&self, _: LockMode) -> Result<()> {
        Ok(())
    }
}

const SIZE: u64 = 512 << 20;

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

/// An overlay of data on a raw file of data.
fn overlay() -> Arc<Disk> {
    let (top, base) = (Endless::new("top", SIZE + KEPT), Endless::new("base", SIZE));
    let options = ChainOptions { write: true, ..ChainOptions::default() };
    let below = Chain::open_raw(base.clone(), host(), &ChainOptions::default()).unwrap();
    let parent = Some(below.layers[0].link(SIZE, "base".into()).unwrap());
    let create = CreateOptions { virtual_size: SIZE, parent, ..CreateOptions::default() };
    Image::create(&*top, &*host(), &create).unwrap();
    Disk::new(Chain::open(top, host(), &GivenParents::new([base as Arc<dyn Storage>]), &options).unwrap())
}

/// Runs `job` from three threads beside three guests that write 64 KiB at a time all over the disk, and counts the most
/// memory that was held on top of what was held before.
fn most_memory(disk: &Disk, job: impl Fn() -> bool + Sync) -> usize {
    let done = AtomicBool::new(false);
    most(|| {
        std::thread::scope(|scope| {
            for number in 0..3u64 {
                let done = &done;
                scope.spawn(move || {
                    let mut state = number + 1;
                    while !done.load(Ordering::Relaxed) {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let at = ((state >> 20) % ((SIZE >> 16) - 1)) << 16;
                        disk.write_at(&[1; 64 << 10], at + 512).unwrap();
                    }
                });
            }
            let steppers: Vec<_> = (0..3).map(|_| scope.spawn(|| while !job() {})).collect();
            steppers.into_iter().for_each(|stepper| stepper.join().unwrap());
            done.store(true, Ordering::Relaxed);
        });
    })
    .1
}

/// What `work` returns, and the most memory that was held meanwhile on top of what was held before.
fn most<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = work();
    (result, MOST.load(Ordering::Relaxed) - before)
}

/// A piece in each copier's hands, a request in each guest's, and the pages of the bitmap: whatever the disk's size.
const ENOUGH: usize = 12 << 20;

/// The allocator counts for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const MIB: usize = 1 << 20;

/// A fuzzer's find: a few sectors of intents speak of all of a disk of 2^60 bytes, and each bitmap took a page of memory for
/// each of its 2^36 granules as soon as one of them was asked for.
#[test]
fn intents_that_a_crash_has_left_take_no_memory() {
    let _alone = alone();
    let (file, host) = (Arc::new(MemoryStorage::new("disk")), host());
    let options = CreateOptions { virtual_size: 1 << 60, ..CreateOptions::default() };
    Image::create(&*file, &*host, &options).unwrap();
    let image =
        Image::open(file.clone(), host.clone(), &OpenOptions { write: true, ..OpenOptions::default() }).unwrap();
    for name in ["daily", "weekly"] {
        image.add_bitmap(name, &NewBitmap { granularity_shift: 24, ..NewBitmap::default() }).unwrap();
    }
    for number in 0..2000 {
        let at = ((number * 0x1_0001) % (1 << 16)) << 44;
        image.write_at(&[1; 4096], at).unwrap();
    }
    let crashed = Arc::new(file.copy("crashed"));
    drop(image);
    let (dirty, taken) = most(|| {
        let image = Image::open(crashed, host, &OpenOptions::default()).unwrap();
        ["daily", "weekly"].map(|name| dirty_bytes(&image, name))
    });
    assert!(
        dirty.iter().all(|bytes| *bytes > 1 << 54),
        "two thousand intents of 2^44 bytes each speak of {dirty:?} bytes"
    );
    assert!(taken <= 16 * MIB, "two bitmaps took {taken} bytes");
}

/// Walks a bitmap from end to end.
fn dirty_bytes(image: &Image, name: &str) -> u64 {
    let (mut at, mut dirty) = (0, 0);
    while at < image.size() {
        let (set, end) = image.bitmap_run(name, at, image.size()).unwrap();
        dirty += if set { end - at } else { 0 };
        at = end;
    }
    dirty
}

/// A file with this header in both slots, as long as it has to be.
fn file(header: &Header) -> Arc<MemoryStorage> {
    let file = MemoryStorage::new("hostile");
    let bytes = header.encode().unwrap();
    for slot in [0, SLOT_SIZE] {
        file.write_at(&bytes, slot).unwrap();
    }
    file.set_size(header.data_end()).unwrap();
    Arc::new(file)
}

fn uuid(number: u64) -> Uuid {
    Uuid(std::array::from_fn(|at| (number + 1).to_le_bytes()[at % 8]))
}

/// As many records as a slot has room for, none of which anybody knows, and as many sections as there may be.
#[test]
fn a_header_takes_little_more_than_its_slots() {
    let _alone = alone();
    let mut header = Header::new(Kind::Image, uuid(1), uuid(2), 0, SLOTS_END);
    header.sections = (0..MAX_SECTIONS as u64)
        .map(|number| Section {
            id: uuid(10 + number),
            kind: SectionKind::Other(77),
            granularity_shift: 0,
            required: false,
            offset: SLOTS_END,
            length: 0,
            covered: u64::MAX,
        })
        .collect();
    let record = |payload: usize| RawRecord { record_type: 500, flags: 0, payload: vec![0; payload] };
    for payload in [0usize, 1, 60_000] {
        let room = SLOT_SIZE as usize - 128 - MAX_SECTIONS * 64;
        header.unknown = (0..room / (8 + payload.next_multiple_of(8))).map(|_| record(payload)).collect();
        let hostile = file(&header);
        let (image, taken) = most(|| Image::open(hostile, host(), &OpenOptions::default()).unwrap());
        assert_eq!(image.header().unknown.len(), header.unknown.len());
        assert!(taken <= 2 * MIB, "a header with records of {payload} bytes took {taken} bytes");
    }
}

/// As many layers as there may be, each with more of a bitmap than it may keep in memory.
#[test]
fn a_chain_takes_what_its_caches_may() {
    const PAGES: u64 = 96;
    const REACH: u64 = 31744 * 4096;
    const CACHE: u64 = 64 << 10;
    let _alone = alone();
    let mut files: Vec<Arc<MemoryStorage>> = Vec::new();
    for number in 0..DEFAULT_DEPTH {
        let file = Arc::new(MemoryStorage::new(format!("layer {number}")));
        let parent = files.last().map(|below| {
            let image = Image::open(below.clone(), host(), &OpenOptions::default()).unwrap();
            let header = image.header();
            let identity = Some(Identity { uuid: header.uuid, epoch: header.epoch });
            let (format, hint) = (ParentFormat::Lvd, "below".into());
            Parent { identity, format, visible_length: PAGES * REACH, hint }
        });
        let create =
            CreateOptions { virtual_size: PAGES * REACH, parent, allocation: true, ..CreateOptions::default() };
        Image::create(&*file, &*host(), &create).unwrap();
        let write = OpenOptions { write: true, ..OpenOptions::default() };
        let image = Image::open(file.clone(), host(), &write).unwrap();
        image.set_below(None);
        for page in 0..PAGES {
            image.write_at(&[1; 4096], page * REACH + number as u64 * 8192).unwrap();
        }
        image.close().unwrap();
        files.push(file);
    }
    let top = files.pop().unwrap();
    let parents = GivenParents::new(files.into_iter().rev().map(|file| file as Arc<dyn Storage>));
    let options = ChainOptions { cache_bytes: CACHE, ..ChainOptions::default() };
    let (chain, opened) = most(|| Chain::open(top, host(), &parents, &options).unwrap());
    assert_eq!(chain.layers.len(), DEFAULT_DEPTH);
    assert!(opened <= DEFAULT_DEPTH * MIB / 4, "{DEFAULT_DEPTH} layers took {opened} bytes to open");
    let (extents, taken) = most(|| {
        let (mut at, mut extents) = (0, 0);
        while at < chain.size() {
            at = chain.extent(at, chain.size()).unwrap().range.end;
            extents += 1;
        }
        extents
    });
    assert!(extents > DEFAULT_DEPTH as u64 * PAGES, "{extents} extents");
    assert!(taken <= DEFAULT_DEPTH * 3 * CACHE as usize, "{DEFAULT_DEPTH} layers took {taken} bytes to read");
}

/// As many bitmaps as there may be, of a disk as large as they may speak of. The file ends before most of them begin.
#[test]
fn bitmaps_take_what_is_stored_of_them() {
    let _alone = alone();
    let size = 1u64 << 48;
    let length = Section::needed_length(size, 12);
    let mut header = Header::new(Kind::Image, uuid(1), uuid(2), size, SLOTS_END);
    for number in 0..MAX_SECTIONS as u64 {
        let (id, kind, offset) = (uuid(10 + number), SectionKind::Dirty, SLOTS_END + size + number * length);
        let section = Section { id, kind, granularity_shift: 12, required: false, offset, length, covered: size };
        header.sections.push(section);
        let (since, epoch, state) = (uuid(3), uuid(2), BitmapState::Recording);
        header.bitmaps.push(Bitmap { section: id, since, epoch, state, name: format!("b{number}") });
    }
    let hostile = file(&header);
    // Half of them lie in the file, and have a few pages of noise.
    hostile.set_size(SLOTS_END + size + MAX_SECTIONS as u64 / 2 * length).unwrap();
    let stored = 100 * 4096;
    for number in 0..100u64 {
        let section = header.sections[number as usize % 30];
        hostile.write_at(&[0xa5; 4096], section.offset + number * (section.length / 4096 / 101) * 4096).unwrap();
    }
    let ((), taken) = most(|| {
        let image = Image::open(hostile, host(), &OpenOptions::default()).unwrap();
        assert_eq!(image.bitmaps().len(), MAX_SECTIONS);
        for number in 0..MAX_SECTIONS {
            let dirty = dirty_bytes(&image, &format!("b{number}"));
            assert!(if number < MAX_SECTIONS / 2 { dirty < size } else { dirty == size }, "b{number}: {dirty} bytes");
        }
    });
    assert!(taken <= 12 * MIB + 4 * stored, "{MAX_SECTIONS} bitmaps took {taken} bytes");
}

/// The largest tables that QED has, and more pages of them than may be kept.
#[test]
fn tables_of_a_foreign_image_take_what_the_cache_may() {
    const CACHE: u64 = 256 << 10;
    let _alone = alone();
    let (cluster, table) = (64u64 << 20, 16u64);
    let entries = cluster * table / 8;
    let mut header = vec![0; 72];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QED\0");
    put(4, &(cluster as u32).to_le_bytes());
    put(8, &(table as u32).to_le_bytes());
    put(12, &1u32.to_le_bytes());
    put(40, &cluster.to_le_bytes());
    put(48, &(1u64 << 60).to_le_bytes());
    let image = MemoryStorage::new("hostile");
    image.write_at(&header, 0).unwrap();
    // Every table that there may be is one and the same, and in it every page says something else than the one before.
    let (l1, l2) = (cluster, cluster * (1 + table));
    let tables = ((1u64 << 60) / cluster).div_ceil(entries);
    (0..tables).for_each(|at| image.write_at(&l2.to_le_bytes(), l1 + at * 8).unwrap());
    (0..4000u64).for_each(|page| image.write_at(&1u64.to_le_bytes(), l2 + page * 8192).unwrap());
    image.set_size(cluster * (2 + 2 * table)).unwrap();
    let (extents, taken) = most(|| {
        let qed = Qed::open(Arc::new(image), CACHE).unwrap();
        let (mut at, mut extents) = (0, 0);
        while extents < 20_000 {
            at = qed.extent(at, qed.size()).unwrap().range.end;
            extents += 1;
        }
        extents
    });
    assert_eq!(extents, 20_000);
    assert!(taken <= 2 * CACHE as usize, "tables took {taken} bytes");
}

/// Some bytes for each of a client's requests, and megabytes of extents for each of its answers: many such requests were
/// carried out together, and the answers to all of them kept until the client fetched the first.
#[test]
fn a_client_that_asks_for_much_takes_little() {
    let _alone = alone();
    // More extents than a reply tells of.
    let server = Server::new(exports(32 * MIB), server::Options::default(), Box::new(|_| {}));
    for (command, length, limit) in [
        (NBD_CMD_BLOCK_STATUS, 32 * MIB, 7 * MIB),
        (NBD_CMD_READ, MIB, 10 * MIB),
        (NBD_CMD_READ, 32 * MIB, 36 * MIB),
        (NBD_CMD_FLUSH, 0, 2 * MIB),
        (NBD_CMD_WRITE_ZEROES, 0, 2 * MIB),
    ] {
        let requests: Vec<u8> =
            (0..3000).flat_map(|cookie| request(command, 0, cookie, 0, length as u32, &[])).collect();
        let ((), taken) = most(|| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            server.serve(Arc::new(theirs)).unwrap();
            ours.write_all(&opening(true)).unwrap();
            ours.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            // Until nothing more is taken; then all that the server keeps for it is there.
            while ours.write_all(&requests).is_ok() {}
        });
        assert!(taken <= limit, "command {command} of {length} bytes: {taken} bytes");
    }
    server.stop();
}

/// Options as long and as many as there may be, and writes that are announced and never come.
#[test]
fn what_is_announced_takes_nothing() {
    let _alone = alone();
    let server = Server::new(exports(MIB), server::Options::default(), Box::new(|_| {}));
    let mut hello = vec![0, 0, 0, 3];
    OptionHead { magic: IHAVEOPT, option: NBD_OPT_INFO, length: 64 << 10 }.put(&mut hello);
    let mut option = hello.split_off(4);
    option.extend(4u32.to_be_bytes());
    option.extend(b"disk");
    option.extend(32_763u16.to_be_bytes());
    option.resize(OptionHead::LENGTH + (64 << 10), 0);
    let ((), taken) = most(|| {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        server.serve(Arc::new(theirs)).unwrap();
        let mut all = ours.try_clone().unwrap();
        let read = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while all.read(&mut buffer).is_ok_and(|count| count > 0) {}
        });
        ours.write_all(&hello).unwrap();
        // The last is one too many, and the server hangs up.
        while ours.write_all(&option).is_ok() {}
        read.join().unwrap();
    });
    assert!(taken <= MIB, "options took {taken} bytes");
    let waiting = 40;
    let announced = [opening(true), request(NBD_CMD_WRITE, 0, 1, 0, 32 << 20, &[1; 100])].concat();
    let (streams, taken) = most(|| {
        let connect = |_| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            server.serve(Arc::new(theirs)).unwrap();
            ours.write_all(&announced).unwrap();
            // All of the replies to the opening: the server has come to the write, or is about to.
            ours.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let mut buffer = [0; 4096];
            while ours.read(&mut buffer).is_ok() {}
            ours
        };
        (0..waiting).map(connect).collect::<Vec<_>>()
    });
    assert!(taken <= waiting * MIB, "{} writes that were announced took {taken} bytes", streams.len());
    drop(streams);
    server.stop();
}

/// The longest texts that a client of the control socket may send, whatever they say.
#[test]
fn a_text_of_the_control_socket_takes_a_multiple_of_its_length() {
    let _alone = alone();
    let fill = |start: &str, part: &str, end: &str| {
        let count = (MAX_TEXT - 1 - start.len() - end.len()) / part.len();
        [start, &part.repeat(count), end].concat().into_bytes()
    };
    let members: String = (0..60_000).map(|number| format!("\"{number}\":{{}},")).collect();
    for text in [
        fill("{\"execute\":[", "0,", "0]}"),
        fill("{\"id\":[", "[],", "0]}"),
        fill("{\"id\":[", "{\"a\":0},", "0]}"),
        fill("{\"execute\":\"", "\\u0001", "\"}"),
        fill(&format!("{{\"arguments\":{{{members}"), "\"b\":[{}],", "\"c\":0}}"),
        fill("{", "\"a\":1,", "\"b\":2}"),
    ] {
        let (answers, taken) = most(|| {
            let mut session = Session::default();
            let mut answers = 0;
            for piece in text.chunks(64 << 10) {
                session.push(piece);
                while session.answer(|_, _| unreachable!("nothing was negotiated")).unwrap().is_some() {
                    answers += 1;
                }
            }
            answers
        });
        assert_eq!(answers, 1);
        assert!(taken <= 96 * MIB, "a text took {taken} bytes: {}", String::from_utf8_lossy(&text[..40]));
    }
}

/// A server that says more of holes than anybody asked for, and announces more than there can be.
#[test]
fn a_server_that_says_much_takes_little() {
    let _alone = alone();
    let mut said = Vec::new();
    Greeting { magic: NBDMAGIC, newstyle: IHAVEOPT, flags: 3 }.put(&mut said);
    let reply = |said: &mut Vec<u8>, option, reply, data: &[u8]| {
        OptionReply { magic: NBD_REP_MAGIC, option, reply, length: data.len() as u32 }.put(said);
        said.extend_from_slice(data);
    };
    reply(&mut said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, &[]);
    reply(&mut said, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, b"\0\0\0\x01base:allocation");
    reply(&mut said, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, &[]);
    let mut info = Vec::new();
    InfoExport { info: NBD_INFO_EXPORT, size: MIB as u64, flags: 5 }.put(&mut info);
    reply(&mut said, NBD_OPT_GO, NBD_REP_INFO, &info);
    reply(&mut said, NBD_OPT_GO, NBD_REP_ACK, &[]);
    let chunk = |kind, length| {
        let mut chunk = Vec::new();
        let (magic, flags) = (NBD_STRUCTURED_REPLY_MAGIC, NBD_REPLY_FLAG_DONE);
        ChunkHead { magic, flags, kind, cookie: 0, length }.put(&mut chunk);
        chunk
    };
    let descriptors = 1usize << 20;
    let mut status = [chunk(NBD_REPLY_TYPE_BLOCK_STATUS, 4 + 8 * descriptors as u32), vec![0, 0, 0, 1]].concat();
    for number in 0..descriptors {
        Descriptor { length: 1, flags: number as u32 % 2 * 3 }.put(&mut status);
    }
    let connect = |tail: Vec<u8>| {
        let said = [said.clone(), tail].concat();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // It stays until the client has gone.
        std::thread::spawn(move || theirs.write_all(&said).and_then(|()| theirs.read_to_end(&mut Vec::new())));
        let ours = Arc::new(ours);
        let options = client::Options { reconnect: Duration::ZERO, connections: 1, ..Default::default() };
        let connector: client::Connector = Box::new(move || Ok(ours.clone()));
        NbdStorage::connect("remote".into(), "disk".into(), connector, options).unwrap()
    };
    let far = connect(status);
    let (found, taken) = most(|| far.next_data(0..MIB as u64).unwrap());
    assert_eq!(found, Some(0..1));
    assert!(taken <= 72 * MIB, "a million descriptors took {taken} bytes");
    for (kind, length) in [(NBD_REPLY_TYPE_OFFSET_DATA, u32::MAX), (NBD_REPLY_TYPE_ERROR, 1 << 20), (9, 1 << 30)] {
        let far = connect(chunk(kind, length));
        let (result, taken) = most(|| far.read_at(&mut [0; 512], 0));
        result.unwrap_err();
        assert!(taken <= MIB, "a chunk of kind {kind} took {taken} bytes");
    }
}

#[test]
fn jobs_under_load_take_a_few_pieces_of_memory() {
    let _alone = alone();
    let disk = overlay();
    for pace in [Pace::Background, Pace::Bounded, Pace::WriteThrough] {
        let options = ChainOptions { write: true, ..ChainOptions::default() };
        let target = Chain::open_raw(Endless::new("target", SIZE), host(), &options).unwrap();
        let mirror = disk.mirror(target).unwrap();
        mirror.set_pace(pace);
        // In the background READY may never come.
        let steps = AtomicUsize::new(0);
        let most =
            most_memory(&disk, || mirror.step(u64::MAX).unwrap().ready || steps.fetch_add(1, Ordering::Relaxed) > 1000);
        assert!(most <= ENOUGH, "a mirror took {most} bytes");
        disk.abandon(&mirror).unwrap();
    }
    let job = disk.stream(None).unwrap();
    let most = most_memory(&disk, || job.step(u64::MAX).unwrap().finished);
    assert!(most <= ENOUGH, "a stream took {most} bytes");
}
