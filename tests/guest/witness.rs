//! Stands between a guest and its server, passes on every byte, and knows what the disk must hold: what was flushed, or
//! written with FUA. Of all else each sector may be as before, or as any request since has it.

use crate::common::MIB;
use lvd::BlockDevice;
use lvd::nbd::proto::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

const SECTOR: usize = 512;
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Witness {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The disk as it is durable.
    disk: Vec<u8>,
    /// The sectors that were discarded since they were written: they may hold zeros, too.
    discarded: BTreeSet<usize>,
    /// Requests without an answer, by their cookies.
    under_way: BTreeMap<u64, Request>,
    /// What was acknowledged since, in this order, and no flush has covered.
    acknowledged: Vec<Change>,
    /// What never got an answer: its server is dead.
    doubtful: Vec<Change>,
    /// Changes and flushes that were acknowledged so far.
    answers: u64,
    /// Connections that are open.
    connections: usize,
    /// Servers that died so far while changes or flushes were under way.
    interrupted: u64,
}

/// Bytes, and where. Those of a discard are zeros.
struct Change {
    offset: u64,
    data: Vec<u8>,
    discards: bool,
}

impl Change {
    /// Whether it gives sector `number` the content `found`.
    fn explains(&self, number: usize, found: &[u8]) -> bool {
        let from = (number * SECTOR).checked_sub(self.offset as usize);
        from.is_some_and(|from| self.data.get(from..from + SECTOR) == Some(found))
    }
}

enum Request {
    Change {
        change: Change,
        fua: bool,
    },
    /// Covers so many of those that were acknowledged.
    Flush(usize),
    /// Of no consequence to what the disk holds.
    Other,
}

impl State {
    /// The change is durable.
    fn settle(&mut self, change: Change) {
        let (start, end) = (change.offset as usize, change.offset as usize + change.data.len());
        let sectors = start / SECTOR..end / SECTOR;
        if change.discards {
            self.discarded.extend(sectors);
        } else {
            self.disk[start..end].copy_from_slice(&change.data);
            self.discarded.retain(|sector| !sectors.contains(sector));
        }
    }

    /// Whether sector `number` may hold `found`.
    fn allows(&self, number: usize, found: &[u8]) -> bool {
        let mut since = self.acknowledged.iter().chain(&self.doubtful);
        found == &self.disk[number * SECTOR..][..SECTOR]
            || self.discarded.contains(&number) && found.iter().all(|byte| *byte == 0)
            || since.any(|change| change.explains(number, found))
    }
}

impl Witness {
    /// Knows a disk that holds `disk`. The guest is at `guest`, the server, now or later, at `server`.
    pub fn new(disk: Vec<u8>, guest: &Path, server: &Path) -> Arc<Witness> {
        let state = State { disk, ..State::default() };
        let witness = Arc::new(Witness { state: Mutex::new(state), changed: Condvar::new() });
        let listener = UnixListener::bind(guest).expect("bound");
        let (watching, server) = (witness.clone(), server.to_owned());
        std::thread::spawn(move || {
            for guest in listener.incoming().flatten() {
                let (watching, server) = (watching.clone(), server.clone());
                std::thread::spawn(move || watching.connection(&guest, &server));
            }
        });
        witness
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Waits until `holds`.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !holds(&state) {
            let rest = end.saturating_duration_since(Instant::now());
            assert!(!rest.is_zero(), "{what}: waited in vain");
            state = self.changed.wait_timeout(state, rest).expect("no panic while held").0;
        }
    }

    /// Waits until the guest has asked for a change that is not answered yet.
    #[track_caller]
    pub fn until_busy(&self) {
        self.until("a write", |state| {
            state.under_way.values().any(|request| matches!(request, Request::Change { .. }))
        });
    }

    /// Waits until the server has acknowledged one more change.
    #[track_caller]
    pub fn until_answered(&self) {
        let before = self.state().answers;
        self.until("an answer", |state| state.answers > before);
    }

    /// Waits until the last words of a dead server have been heard.
    #[track_caller]
    pub fn until_silent(&self) {
        self.until("silence", |state| state.connections == 0);
    }

    /// All that the server has acknowledged it has made durable: it has ended well, or writes through.
    pub fn all_is_durable(&self) {
        let mut state = self.state();
        std::mem::take(&mut state.acknowledged).into_iter().for_each(|change| state.settle(change));
    }

    pub fn interrupted(&self) -> u64 {
        self.state().interrupted
    }

    /// Holds what `disk` shows against what it must, and takes it from there.
    #[track_caller]
    pub fn check(&self, disk: &dyn BlockDevice) -> Vec<u8> {
        let mut state = self.state();
        let state = &mut *state;
        let mut now = vec![0; state.disk.len()];
        for (chunk, at) in now.chunks_mut(MIB as usize).zip((0..).step_by(MIB as usize)) {
            disk.read_at(chunk, at).expect("read");
        }
        for (number, found) in now.chunks(SECTOR).enumerate() {
            let right = state.allows(number, found);
            assert!(right, "sector {number} holds neither what was flushed nor what was written since");
        }
        state.discarded.clear();
        state.acknowledged.clear();
        state.doubtful.clear();
        state.disk.clone_from(&now);
        now
    }

    fn connection(self: &Arc<Self>, guest: &UnixStream, server: &PathBuf) {
        let end = Instant::now() + PATIENCE;
        let server = loop {
            match UnixStream::connect(server) {
                Ok(server) => break server,
                Err(_) if Instant::now() > end => return,
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        self.state().connections += 1;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = self.requests(guest, &server);
                let _ = server.shutdown(Shutdown::Write);
            });
            let _ = self.replies(&server, guest);
            let _ = guest.shutdown(Shutdown::Both);
        });
        let mut state = self.state();
        state.connections -= 1;
        let lost = std::mem::take(&mut state.under_way);
        state.interrupted += u64::from(lost.values().any(|request| !matches!(request, Request::Other)));
        state.doubtful.extend(lost.into_values().filter_map(|request| match request {
            Request::Change { change, .. } => Some(change),
            _ => None,
        }));
        self.changed.notify_all();
    }

    /// What the guest says, one message at a time. A request is known before the server sees it.
    fn requests(&self, mut guest: &UnixStream, mut server: &UnixStream) -> io::Result<()> {
        let mut message = fetch(&mut guest, ClientFlags::LENGTH)?;
        loop {
            server.write_all(&message)?;
            message = fetch(&mut guest, 4)?;
            if message != NBD_REQUEST_MAGIC.to_be_bytes() {
                message.extend(fetch(&mut guest, OptionHead::LENGTH - 4)?);
                let length = OptionHead::parse(&message).expect("all of it").length;
                message.extend(fetch(&mut guest, length as usize)?);
                continue;
            }
            message.extend(fetch(&mut guest, RequestHead::LENGTH - 4)?);
            let head = RequestHead::parse(&message).expect("all of it");
            let fua = head.flags & NBD_CMD_FLAG_FUA != 0;
            let discards = head.command == NBD_CMD_TRIM;
            let change = |data| Request::Change { change: Change { offset: head.offset, data, discards }, fua };
            if head.command == NBD_CMD_WRITE {
                message.extend(fetch(&mut guest, head.length as usize)?);
            }
            let mut state = self.state();
            let request = match head.command {
                NBD_CMD_WRITE => change(message[RequestHead::LENGTH..].to_vec()),
                NBD_CMD_WRITE_ZEROES | NBD_CMD_TRIM => change(vec![0; head.length as usize]),
                NBD_CMD_FLUSH => Request::Flush(state.acknowledged.len()),
                _ => Request::Other,
            };
            state.under_way.insert(head.cookie, request);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// What the server says. An answer counts before the guest sees it.
    fn replies(&self, mut server: &UnixStream, mut guest: &UnixStream) -> io::Result<()> {
        let mut message = fetch(&mut server, Greeting::LENGTH)?;
        loop {
            guest.write_all(&message)?;
            message = fetch(&mut server, 4)?;
            let magic = u32::from_be_bytes(message[..4].try_into().expect("four"));
            if magic == NBD_SIMPLE_REPLY_MAGIC {
                message.extend(fetch(&mut server, SimpleReply::LENGTH - 4)?);
                let reply = SimpleReply::parse(&message).expect("all of it");
                assert_eq!(reply.error, 0, "the server fails");
                self.answered(reply.cookie);
            } else if magic == NBD_STRUCTURED_REPLY_MAGIC {
                message.extend(fetch(&mut server, ChunkHead::LENGTH - 4)?);
                let head = ChunkHead::parse(&message).expect("all of it");
                message.extend(fetch(&mut server, head.length as usize)?);
                assert_eq!(head.kind >> 15, 0, "the server fails");
                if head.flags & NBD_REPLY_FLAG_DONE != 0 {
                    self.answered(head.cookie);
                }
            } else {
                message.extend(fetch(&mut server, OptionReply::LENGTH - 4)?);
                let length = OptionReply::parse(&message).expect("all of it").length;
                message.extend(fetch(&mut server, length as usize)?);
            }
        }
    }

    fn answered(&self, cookie: u64) {
        let mut state = self.state();
        let state = &mut *state;
        let request = state.under_way.remove(&cookie);
        if !matches!(request, None | Some(Request::Other)) {
            state.answers += 1;
            self.changed.notify_all();
        }
        match request {
            Some(Request::Change { change, fua: false }) => state.acknowledged.push(change),
            Some(Request::Change { change, fua: true }) => {
                assert!(state.acknowledged.is_empty(), "a guest writes all with FUA, or nothing");
                state.settle(change);
            }
            Some(Request::Flush(count)) => {
                let settled: Vec<Change> = state.acknowledged.drain(..count).collect();
                settled.into_iter().for_each(|change| state.settle(change));
                // Flushes that were sent later, or are answered later, speak of what is left.
                for request in state.under_way.values_mut() {
                    if let Request::Flush(other) = request {
                        *other = other.saturating_sub(count);
                    }
                }
            }
            _ => {}
        }
    }
}

fn fetch(from: &mut &UnixStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
