//! Files, direct and through the page cache, beside storage in memory and a vector of bytes; locks; what is refused.

use super::calls::tests::reluctant;
use super::*;
use crate::error::Error;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Write(u64, usize, u8),
    /// Three pieces: the second follows the first, the third may not.
    Batch(u64, usize, u8),
    Punch(u64, u64),
    Zero(u64, u64),
    Size(u64),
    Read(u64, usize),
    /// The pieces of a batch.
    ReadBatch(u64, usize, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let unit = prop_oneof![Just(4096u64), Just(512), Just(1)];
    let at =
        unit.prop_flat_map(|unit| (0..65536 / unit, 0..20000 / unit).prop_map(move |(at, n)| (at * unit, n * unit)));
    (0..7u8, at, 1..=255u8).prop_map(|(kind, (at, length), fill)| match kind {
        0 => Op::Write(at, length as usize, fill),
        1 => Op::Punch(at, length),
        2 => Op::Zero(at, length),
        3 => Op::Size(at),
        4 => Op::Batch(at, length as usize, fill),
        5 => Op::ReadBatch(at, length as usize, fill),
        _ => Op::Read(at, length as usize),
    })
}

fn pieces(at: u64, length: usize, fill: u8) -> [(u64, Vec<u8>); 3] {
    let end = at + length as u64;
    [
        (at, vec![fill; length / 2]),
        (at + length as u64 / 2, vec![!fill; length.div_ceil(2)]),
        (end + fill as u64 / 128 * 4096, vec![7; 4096]),
    ]
}

fn apply(storage: &dyn Storage, op: &Op) -> Vec<u8> {
    match *op {
        Op::Write(at, length, fill) => storage.write_at(&vec![fill; length], at).unwrap(),
        Op::Batch(at, length, fill) => {
            let pieces = pieces(at, length, fill);
            storage.write_batch(&pieces.each_ref().map(|(at, data)| (*at, &data[..]))).unwrap();
        }
        Op::Punch(at, length) => storage.punch(at..at + length).unwrap(),
        Op::Zero(at, length) => storage.write_zeroes(at..at + length).unwrap(),
        Op::Size(size) => storage.set_size(size).unwrap(),
        Op::Read(at, length) => {
            let mut bytes = vec![9; length];
            storage.read_at(&mut bytes, at).unwrap();
            return bytes;
        }
        Op::ReadBatch(at, length, fill) => {
            let mut pieces = pieces(at, length, fill);
            storage.read_batch(&mut pieces.each_mut().map(|(at, data)| (*at, &mut data[..]))).unwrap();
            return pieces.map(|(_, data)| data).concat();
        }
    }
    Vec::new()
}

fn put(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    if !data.is_empty() {
        bytes.resize(bytes.len().max(at as usize + data.len()), 0);
        bytes[at as usize..][..data.len()].copy_from_slice(data);
    }
}

fn seen(bytes: &[u8], at: u64, length: usize) -> Vec<u8> {
    let mut seen = bytes.get(at as usize..).unwrap_or_default().to_vec();
    seen.resize(length, 0);
    seen
}

fn model(bytes: &mut Vec<u8>, op: &Op) -> Vec<u8> {
    match *op {
        Op::Write(at, length, fill) => put(bytes, at, &vec![fill; length]),
        Op::Batch(at, length, fill) => {
            pieces(at, length, fill).iter().for_each(|(at, data)| put(bytes, *at, data));
        }
        Op::Punch(at, length) | Op::Zero(at, length) => {
            let end = bytes.len().min((at + length) as usize);
            bytes.get_mut(at as usize..end).into_iter().for_each(|range| range.fill(0));
        }
        Op::Size(size) => bytes.resize(size as usize, 0),
        Op::Read(at, length) => return seen(bytes, at, length),
        Op::ReadBatch(at, length, fill) => {
            return pieces(at, length, fill).map(|(at, data)| seen(bytes, at, data.len())).concat();
        }
    }
    Vec::new()
}

fn contents(storage: &dyn Storage) -> Vec<u8> {
    let mut bytes = vec![0; storage.size().unwrap() as usize];
    storage.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Whatever is not in a stretch that `next_data` tells of is zero.
fn check_holes(storage: &dyn Storage, bytes: &[u8]) {
    let (mut at, end) = (0, bytes.len() as u64);
    while at < end {
        let data = storage.next_data(at..end).unwrap().unwrap_or(end..end);
        assert!(at <= data.start && (data.start < data.end || data.start == end) && data.end <= end);
        assert!(bytes[at as usize..data.start as usize].iter().all(|&byte| byte == 0));
        at = data.end.max(data.start);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn files_and_memory_do_what_a_vector_does(ops in prop::collection::vec(op(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let options = FileOptions { write: true, create: Create::New, ..FileOptions::default() };
        let cached = FileStorage::open(directory.path().join("cached"), &options).unwrap();
        // Not every file system has direct I/O (a tmpfs of an older kernel does not).
        let direct = FileStorage::open(directory.path().join("direct"), &FileOptions { direct: true, ..options });
        let options = FileOptions { write: true, create: Create::New, ..FileOptions::default() };
        let portable = portable::FileStorage::open(directory.path().join("portable"), &options).unwrap();
        let memory = MemoryStorage::new("memory");
        let mut storages: Vec<&dyn Storage> = vec![&cached, &portable, &memory];
        storages.extend(direct.as_ref().ok().map(|direct| direct as &dyn Storage));
        let mut bytes = Vec::new();
        for op in &ops {
            let seen = model(&mut bytes, op);
            for storage in &storages {
                prop_assert_eq!(&apply(*storage, op), &seen);
            }
        }
        for storage in storages {
            prop_assert_eq!(&contents(storage), &bytes);
            check_holes(storage, &bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn calls_that_stop_short_or_are_interrupted_are_gone_on_with(ops in prop::collection::vec(op(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let options = |direct| FileOptions { write: true, create: Create::New, direct, ..FileOptions::default() };
        let cached = FileStorage::open(directory.path().join("cached"), &options(false)).unwrap();
        let direct = FileStorage::open(directory.path().join("direct"), &options(true));
        // A device stops between its own units, a page cache anywhere.
        let mut storages: Vec<(&dyn Storage, usize)> = vec![(&cached, 777)];
        storages.extend(direct.as_ref().ok().map(|direct| (direct as &dyn Storage, 4096)));
        let mut bytes = Vec::new();
        for op in &ops {
            let seen = model(&mut bytes, op);
            for (storage, most) in &storages {
                prop_assert_eq!(&reluctant(*most, || apply(*storage, op)), &seen);
            }
        }
        for (storage, most) in storages {
            prop_assert_eq!(&contents(storage), &bytes);
            prop_assert_eq!(&reluctant(most, || contents(storage)), &bytes);
        }
    }
}

#[test]
fn a_share_that_stops_short_or_is_interrupted_is_gone_on_with() {
    let [source, target] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    let bytes: Vec<u8> = (0..40_000u32).map(|at| (at / 100) as u8).collect();
    std::io::Write::write_all(&mut &source, &bytes).unwrap();
    assert!(reluctant(4096, || share::share(&target, 8192, &source, 4096..36_864).unwrap()));
    let mut copy = vec![0; 32_768];
    std::os::unix::fs::FileExt::read_exact_at(&target, &mut copy, 8192).unwrap();
    assert_eq!(copy, bytes[4096..36_864]);
}

/// Any two of the three: a writer and another writer, a writer and a reader, two readers.
fn check_locks<S: Storage>(open: impl Fn(LockMode) -> crate::Result<S>) {
    let writer = open(LockMode::Exclusive).unwrap();
    assert!(matches!(open(LockMode::Exclusive), Err(Error::Locked { .. })));
    assert!(matches!(open(LockMode::Shared), Err(Error::Locked { .. })));
    drop(writer);
    let _reader = open(LockMode::Shared).unwrap();
    open(LockMode::Shared).unwrap();
    assert!(matches!(open(LockMode::Exclusive), Err(Error::Locked { .. })));
}

#[test]
fn writers_exclude_everybody_and_readers_share() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let options = |lock| FileOptions { write: true, create: Create::IfMissing, lock: Some(lock), ..Default::default() };
    check_locks(|mode| FileStorage::open(&path, &options(mode)));
    check_locks(|mode| portable::FileStorage::open(&path, &options(mode)));
}

#[test]
fn a_lock_that_cannot_be_raised_is_kept_and_one_that_is_lowered_lets_readers_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, b"x").unwrap();
    let open = || FileStorage::open(&path, &FileOptions { write: true, ..Default::default() }).unwrap();
    let (one, other, writer) = (open(), open(), open());
    one.lock(LockMode::Shared).unwrap();
    other.lock(LockMode::Shared).unwrap();
    assert!(matches!(one.lock(LockMode::Exclusive), Err(Error::Locked { .. })));
    drop(other);
    assert!(matches!(writer.lock(LockMode::Exclusive), Err(Error::Locked { .. })));
    one.lock(LockMode::Exclusive).unwrap();
    assert!(matches!(writer.lock(LockMode::Shared), Err(Error::Locked { .. })));
    one.lock(LockMode::Shared).unwrap();
    writer.lock(LockMode::Shared).unwrap();
}

#[test]
fn the_fingerprint_of_a_file_from_before_1970_is_not_known() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, b"x").unwrap();
    let fingerprint = |time| {
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        FileStorage::open(&path, &FileOptions::default()).unwrap().fingerprint().unwrap()
    };
    let second = std::time::Duration::from_secs(1);
    assert_eq!(fingerprint(std::time::UNIX_EPOCH - second), [0; 16]);
    assert_eq!(fingerprint(std::time::UNIX_EPOCH + second)[..8], 1_000_000_000u64.to_le_bytes());
}

#[test]
fn a_file_that_was_replaced_before_it_was_locked_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, b"old").unwrap();
    let storage = FileStorage::open(&path, &FileOptions::default()).unwrap();
    std::fs::write(directory.path().join("new"), b"new").unwrap();
    std::fs::rename(directory.path().join("new"), &path).unwrap();
    assert!(matches!(storage.lock(LockMode::Shared), Err(Error::Locked { .. })));
}

#[test]
fn nothing_is_made_in_place_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let options = FileOptions { write: true, create: Create::New, ..Default::default() };
    FileStorage::open(&path, &options).unwrap().sync_directory().unwrap();
    let line = FileStorage::open(&path, &options).unwrap_err().to_string();
    assert!(line.contains("cannot create") && line.contains("exists"), "{line}");
}

/// What one of four threads writes in a block: all of it, sectors (direct both), odd bytes (through the page cache).
fn part(block: u64, thread: u64) -> Option<(u64, usize)> {
    let (at, odd) = (block * 4096 + thread * 1024, thread % 2 == 1);
    match block % 4 {
        0 => (block / 4 % 4 == thread).then_some((block * 4096, 4096)),
        1 => Some((at, 1024)),
        2 => Some((at + 12, 1000)),
        _ => Some(if odd { (at + 12, 1000) } else { (at, 1024) }),
    }
}

#[test]
fn direct_and_cached_writes_of_neighbours_do_not_undo_each_other() {
    const BLOCKS: u64 = 16;
    const ROUNDS: u8 = 50;
    let directory = tempfile::tempdir().unwrap();
    let options = FileOptions { write: true, create: Create::New, direct: true, ..Default::default() };
    let Ok(storage) = FileStorage::open(directory.path().join("file"), &options) else { return };
    storage.set_size(BLOCKS * 4096).unwrap();
    let check = |block, thread, value| {
        let Some((at, length)) = part(block, thread) else { return };
        let mut seen = vec![0; length];
        storage.read_at(&mut seen, at).unwrap();
        assert_eq!(seen, vec![value; length], "block {block}, thread {thread}");
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (storage, check) = (&storage, &check);
            scope.spawn(move || {
                for (round, block) in (1..=ROUNDS).flat_map(|round| (0..BLOCKS).map(move |block| (round, block))) {
                    if let Some((at, length)) = part(block, thread) {
                        storage.write_at(&vec![round; length], at).unwrap();
                        check(block, thread, round);
                    }
                }
            });
        }
    });
    (0..BLOCKS).for_each(|block| (0..4).for_each(|thread| check(block, thread, ROUNDS)));
}

#[test]
fn what_is_no_disk_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    for name in [".", "loop", "fifo", "socket", "missing", "/dev/null"] {
        for write in [false, true] {
            let error = FileStorage::open(root.join(name), &FileOptions { write, ..Default::default() }).unwrap_err();
            let line = error.to_string();
            assert!(line.contains(name) && !line.contains('\n'), "{line}");
            if !["loop", "missing"].contains(&name) {
                assert!(line.ends_with(", not a disk"), "{line}");
            }
        }
    }
}

#[test]
fn nothing_leads_out_of_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("images");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(directory.path().join("secret"), b"secret").unwrap();
    std::fs::write(root.join("base"), b"base").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    let absolute = directory.path().join("secret");
    let open = |name: &std::path::Path| open_beneath(&root, name, &FileOptions::default());
    let portable = |name: &std::path::Path| portable::open_beneath(&root, name, &FileOptions::default());
    assert_eq!(open("base".as_ref()).unwrap().size().unwrap(), 4);
    assert_eq!(portable("base".as_ref()).unwrap().size().unwrap(), 4);
    for name in ["../secret".as_ref(), "link".as_ref(), absolute.as_path()] {
        assert!(matches!(open(name), Err(Error::Denied(_))), "{name:?}");
        assert!(matches!(portable(name), Err(Error::Denied(_))), "{name:?}");
    }
}
