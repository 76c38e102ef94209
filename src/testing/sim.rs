//! A simulated disk of several files, and the faults it can be told to have.
//!
//! [`SimDisk`] is the page cache and the platters together. A handle of one of its files is a
//! [`SimStorage`]. A barrier makes one file durable; what no barrier covers is the matter of
//! [`pending`](super::pending). [`SimDisk::kill`] is the death of the process alone: its handles are dead, what it
//! wrote is in the page cache, a later session reads it, and a power loss may still take it.

use super::file::{Content, SimFile};
use super::pending::{Loss, Pending, Remains};
use super::sector::Sector;
use crate::error::{Error, Result};
use crate::limits::SECTOR_SIZE;
use crate::storage::{FileId, LockMode, Storage};
use crate::sync::{Mutex, MutexGuard, lock};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What goes wrong, once. Operations are counted from when the fault was set, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing.
    None,
    /// The process dies in this operation (a write has then put half of its sectors into the page cache).
    Kill(u64),
    /// This barrier fails with EIO, as on Linux: the pages count as clean, no later barrier covers them.
    FailSync(u64),
    /// This barrier fails with EIO, and what it covered is gone at once: reads show what is durable.
    Revert(u64),
    /// After this operation nothing in flight on its file can be written back. Its next barrier, whoever issues it, fails with
    /// EIO although what was written since is durable; the one after it does not.
    Late(u64),
    /// This operation finds no space: a write has then put half of its sectors into the page cache.
    NoSpace(u64),
    /// As [`NoSpace`](Fault::NoSpace), and so do all that come after it.
    Full(u64),
    /// The host is gone: this operation fails with EIO, as do all that come after it, and reads. What is in the page cache
    /// is there for the next process.
    Gone(u64),
}

impl Fault {
    /// Whether a barrier tells of it, so that nobody knows what is durable.
    pub fn fails_barrier(self) -> bool {
        matches!(self, Fault::FailSync(_) | Fault::Revert(_) | Fault::Late(_))
    }
}

/// An operation as a trace shows it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The file, empty for what is no operation of a file.
    pub file: Arc<str>,
    /// What was done.
    pub what: &'static str,
    /// Where.
    pub range: Range<u64>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.file, if self.file.is_empty() { "" } else { ": " }, self.what)?;
        if !self.range.is_empty() {
            write!(f, " {}+{}", self.range.start, self.range.end - self.range.start)?;
        }
        Ok(())
    }
}

type Observer = Arc<dyn Fn(&SimDisk) + Send + Sync>;
type Guest = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inner {
    files: Vec<SimFile>,
    locks: Vec<(usize, u64, LockMode)>,
    handles: u64,
    /// Handles numbered below this are dead.
    dead_below: u64,
    number: u64,
    fault: Option<Fault>,
    operations: u64,
    syncs: u64,
    fired: bool,
    /// Handles whose barrier has failed, and whether one of them went on.
    failed: Vec<u64>,
    went_on: bool,
    broken: Option<&'static str>,
    read_only_write: bool,
    events: Vec<Event>,
    observer: Option<Observer>,
    /// Runs inside the barrier of that number.
    inside: Option<(u64, Guest)>,
}

/// Several files and what is durable of each. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Inner>>);

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        f.debug_list().entries(inner.files.iter().map(|file| &file.name)).finish()
    }
}

impl SimDisk {
    /// A disk without files.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// The disk as a power loss left it.
    pub fn after(remains: &[Remains]) -> SimDisk {
        let files = remains.iter().filter_map(|file| {
            let content = file.content.as_ref()?;
            Some(SimFile {
                name: Arc::clone(&file.name),
                durable: Arc::clone(content),
                cache: Arc::clone(content),
                pending: Vec::new(),
                entry: true,
                payload: file.payload.clone(),
                device: file.device,
                owes: false,
            })
        });
        let files = files.collect();
        SimDisk(Arc::new(Mutex::new(Inner { files, ..Inner::default() })))
    }

    /// Another disk with the same files, durable and cached, without handles, faults and observers.
    pub fn fork(&self) -> SimDisk {
        let inner = self.inner();
        let files = inner.files.clone();
        SimDisk(Arc::new(Mutex::new(Inner { files, number: inner.number, ..Inner::default() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }

    /// Creates an empty file, its directory entry not yet durable, and opens it for writing.
    pub fn create(&self, name: &str) -> Result<Arc<SimStorage>> {
        let mut inner = self.inner();
        if inner.files.iter().any(|file| &*file.name == name) {
            return Err(Error::io(name, "cannot create", io::ErrorKind::AlreadyExists.into()));
        }
        inner.number += 1;
        let number = inner.number;
        inner.files.push(SimFile::create(name, number));
        drop(inner);
        self.open(name, true)
    }

    /// Adds a block device of `size` bytes whose unwritten bytes are poison.
    pub fn add_device(&self, name: &str, size: u64) {
        self.inner().files.push(SimFile::device(name, size));
    }

    /// Opens a file.
    pub fn open(&self, name: &str, write: bool) -> Result<Arc<SimStorage>> {
        let mut inner = self.inner();
        let file = inner.find(name)?;
        inner.handles += 1;
        let handle = SimStorage { disk: self.clone(), file, name: name.into(), handle: inner.handles, write };
        Ok(Arc::new(handle))
    }

    /// Whether the page cache shows a file of that name.
    pub fn exists(&self, name: &str) -> bool {
        self.inner().find(name).is_ok()
    }

    /// Removes a file, durably.
    pub fn remove(&self, name: &str) {
        let mut inner = self.inner();
        if let Ok(at) = inner.find(name) {
            // The place stays, so that handles of other files keep naming theirs.
            inner.files[at] = SimFile::create("", 0);
            inner.files[at].settle_entry();
        }
    }

    /// Says which bytes of a file hold guest data.
    pub fn set_payload(&self, name: &str, range: Range<u64>) {
        let mut inner = self.inner();
        if let Ok(at) = inner.find(name) {
            inner.files[at].payload = range;
        }
    }

    /// The bytes of a file as the page cache shows them.
    pub fn cached(&self, name: &str) -> Option<Arc<Content>> {
        let inner = self.inner();
        let at = inner.find(name).ok()?;
        Some(Arc::clone(&inner.files[at].cache))
    }

    /// All files.
    pub(super) fn files(&self) -> Vec<SimFile> {
        self.inner().files.clone()
    }

    /// The disk as it would be after a loss of power now.
    pub fn after_loss(&self, loss: Loss) -> SimDisk {
        let pending = self.pending();
        match loss.choices(pending.choices()) {
            Some(choices) => SimDisk::after(&pending.apply(&choices)),
            None => {
                let disk = self.fork();
                disk.settle();
                disk
            }
        }
    }

    /// Puts a copy of a file in its place, durably.
    pub fn put(&self, name: &str, content: &Arc<Content>) {
        let mut inner = self.inner();
        if let Ok(at) = inner.find(name) {
            let file = &mut inner.files[at];
            (file.cache, file.durable) = (Arc::clone(content), Arc::clone(content));
            file.pending.clear();
        }
    }

    /// Every change of a file of this name fails with EIO from now on, and every barrier on it; `None`: none.
    pub fn break_file(&self, name: Option<&'static str>) {
        self.inner().broken = name;
    }

    /// The names of all files.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.inner().files.iter().map(|file| Arc::clone(&file.name)).collect()
    }

    /// The names of all files, and which of their bytes hold guest data.
    pub fn payloads(&self) -> Vec<(Arc<str>, Range<u64>)> {
        self.inner().files.iter().map(|file| (Arc::clone(&file.name), file.payload.clone())).collect()
    }

    /// Gives a sector another content, on the platter and in the cache.
    pub fn spoil(&self, name: &str, number: u64, sector: Sector) {
        let mut inner = self.inner();
        if let Ok(at) = inner.find(name) {
            let file = &mut inner.files[at];
            for content in [&mut file.durable, &mut file.cache] {
                Arc::make_mut(content).sectors.insert(number, sector.clone());
            }
        }
    }

    /// Makes everything durable, directory entries included: what a quiet minute does.
    pub fn settle(&self) {
        let mut inner = self.inner();
        let number = inner.number;
        for file in &mut inner.files {
            file.settle(number);
            file.settle_entry();
        }
    }

    /// The process dies: every handle is dead and holds no lock. The page cache stays.
    pub fn kill(&self) {
        self.inner().kill();
    }

    /// What no barrier has covered.
    pub fn pending(&self) -> Pending {
        Pending::of(&self.inner().files)
    }

    /// Sets the fault to come, and counts operations and barriers from here.
    pub fn arm(&self, fault: Fault) {
        let mut inner = self.inner();
        (inner.fault, inner.operations, inner.syncs, inner.fired) = (Some(fault), 0, 0, false);
    }

    /// Operations (barriers included) and barriers since [`arm`](Self::arm).
    pub fn counted(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.operations, inner.syncs)
    }

    /// Whether the fault has happened.
    pub fn fired(&self) -> bool {
        self.inner().fired
    }

    /// Calls `observer` at the start of every barrier, before anything becomes durable.
    pub fn observe(&self, observer: Option<Observer>) {
        self.inner().observer = observer;
    }

    /// Runs `guest` inside the `nth` barrier from now, after it has started: what it does is not covered.
    pub fn inside_sync(&self, nth: u64, guest: Guest) {
        let mut inner = self.inner();
        let at = inner.syncs + nth;
        let before = inner.inside.replace((at, guest));
        drop(inner);
        // A guest that was never called may hold the last handle of a file, which gives up its lock on this disk.
        drop(before);
    }

    /// Whether a process that lives was told that a barrier failed.
    pub fn barrier_failed(&self) -> bool {
        !self.inner().failed.is_empty()
    }

    /// Whether a handle was written to, or barriered, after its barrier had failed.
    pub fn went_on(&self) -> bool {
        self.inner().went_on
    }

    /// Whether a file has something to tell that could not be written back.
    pub fn owes(&self) -> bool {
        self.inner().files.iter().any(|file| file.owes)
    }

    /// Whether a handle opened for reading was asked to write.
    pub fn written_read_only(&self) -> bool {
        self.inner().read_only_write
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: &'static str, range: Range<u64>) {
        self.inner().events.push(Event { file: "".into(), what, range });
    }

    /// What happened to `other` before happened to this disk too.
    pub fn remember(&self, other: &SimDisk) {
        let before = other.events();
        self.inner().events.splice(0..0, before);
    }

    /// What happened so far.
    pub fn events(&self) -> Vec<Event> {
        self.inner().events.clone()
    }
}

impl Inner {
    fn find(&self, name: &str) -> Result<usize> {
        let at = self.files.iter().position(|file| &*file.name == name);
        at.ok_or_else(|| Error::io(name, "cannot open", io::ErrorKind::NotFound.into()))
    }

    fn note(&mut self, file: usize, what: &'static str, range: Range<u64>) {
        let file = Arc::clone(&self.files[file].name);
        self.events.push(Event { file, what, range });
    }

    fn kill(&mut self) {
        self.dead_below = self.handles + 1;
        self.locks.clear();
        self.failed.clear();
    }
}

/// A handle of a simulated file. Dropping it gives up its lock.
pub struct SimStorage {
    disk: SimDisk,
    file: usize,
    name: String,
    handle: u64,
    write: bool,
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStorage({} #{})", self.name, self.handle)
    }
}

impl Drop for SimStorage {
    fn drop(&mut self) {
        let handle = self.handle;
        self.disk.inner().locks.retain(|(_, holder, _)| *holder != handle);
    }
}

/// How far an operation gets.
#[derive(PartialEq)]
enum Reach {
    Whole,
    Half,
}

/// Where an operation that gets half way stops: between two sectors, since none is written in part.
fn half(range: &Range<u64>) -> u64 {
    let middle = range.start + (range.end - range.start) / 2;
    (middle / SECTOR_SIZE * SECTOR_SIZE).max(range.start)
}

impl SimStorage {
    fn alive(&self) -> Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.inner();
        if self.handle < inner.dead_below {
            return Err(self.failed("the process is dead", io::Error::other("killed")));
        }
        if inner.fired && matches!(inner.fault, Some(Fault::Gone(_))) {
            return Err(self.failed("the host is gone", io::Error::from_raw_os_error(5)));
        }
        Ok(inner)
    }

    fn failed(&self, action: &str, source: io::Error) -> Error {
        Error::io(&self.name, action, source)
    }

    /// Counts an operation that changes the file, then lets `act` do it, or half of it before its fault.
    fn change(&self, what: &'static str, range: Range<u64>, act: impl FnOnce(&mut SimFile, u64, Reach)) -> Result<()> {
        let mut inner = self.alive()?;
        if !self.write {
            inner.read_only_write = true;
            return Err(Error::Denied(format!("{}: opened for reading", self.name)));
        }
        if inner.broken == Some(&*self.name) {
            return Err(self.failed(what, io::Error::from_raw_os_error(5)));
        }
        inner.operations += 1;
        inner.number += 1;
        let number = inner.number;
        inner.note(self.file, what, range);
        inner.went_on |= inner.failed.contains(&self.handle);
        let now = inner.operations;
        match inner.fault {
            Some(Fault::Kill(at)) if at == now => {
                act(&mut inner.files[self.file], number, Reach::Half);
                inner.fired = true;
                inner.kill();
                Err(self.failed("the process is dead", io::Error::other("killed")))
            }
            Some(Fault::NoSpace(at) | Fault::Full(at)) if at == now => {
                act(&mut inner.files[self.file], number, Reach::Half);
                inner.fired = true;
                Err(Error::NoSpace { file: self.name.clone() })
            }
            Some(Fault::Full(_)) if inner.fired => Err(Error::NoSpace { file: self.name.clone() }),
            Some(Fault::Gone(at)) if at == now => {
                inner.fired = true;
                Err(self.failed(what, io::Error::from_raw_os_error(5)))
            }
            Some(Fault::Late(at)) if at == now => {
                let file = &mut inner.files[self.file];
                act(file, number, Reach::Whole);
                file.abandon(number);
                file.owes = true;
                inner.fired = true;
                inner.events.push(Event { file: "".into(), what: "  … cannot be written back", range: 0..0 });
                Ok(())
            }
            _ => {
                act(&mut inner.files[self.file], number, Reach::Whole);
                Ok(())
            }
        }
    }

    /// Starts a barrier, on the file or on its directory: lets the observer see, counts, and lets a guest in. The number of the
    /// last operation it covers.
    fn start_sync(&self, of_file: bool) -> Result<u64> {
        let observer = self.alive()?.observer.clone();
        if let Some(observer) = observer {
            observer(&self.disk);
        }
        let mut inner = self.alive()?;
        inner.operations += 1;
        inner.syncs += 1;
        let covered = inner.number;
        let (operations, syncs, fault) = (inner.operations, inner.syncs, inner.fault);
        inner.note(self.file, "barrier", 0..0);
        inner.went_on |= of_file && inner.failed.contains(&self.handle);
        if inner.fault == Some(Fault::Kill(operations)) {
            inner.fired = true;
            inner.kill();
            return Err(self.failed("the process is dead", io::Error::other("killed")));
        }
        if inner.fault == Some(Fault::Gone(operations)) {
            inner.fired = true;
            return Err(self.failed("barrier", io::Error::from_raw_os_error(5)));
        }
        if inner.broken == Some(&*self.name) {
            inner.files[self.file].abandon(covered);
            return Err(self.sync_fails(&mut inner));
        }
        let file = &mut inner.files[self.file];
        match fault {
            // It says nothing of the file.
            Some(Fault::FailSync(at) | Fault::Revert(at)) if at == syncs && !of_file => {
                return Err(self.fail_sync(&mut inner));
            }
            Some(Fault::FailSync(at)) if at == syncs => {
                file.abandon(covered);
                inner.failed.push(self.handle);
                return Err(self.fail_sync(&mut inner));
            }
            Some(Fault::Revert(at)) if at == syncs => {
                file.revert(covered);
                inner.failed.push(self.handle);
                return Err(self.fail_sync(&mut inner));
            }
            _ => {}
        }
        if let Some((_, guest)) = inner.inside.take_if(|(at, _)| *at == syncs) {
            drop(inner);
            guest();
            inner = self.alive()?;
        }
        let file = &mut inner.files[self.file];
        if file.owes && of_file {
            file.settle(covered);
            file.owes = false;
            inner.failed.push(self.handle);
            return Err(self.fail_sync(&mut inner));
        }
        Ok(covered)
    }

    fn fail_sync(&self, inner: &mut Inner) -> Error {
        inner.fired = true;
        self.sync_fails(inner)
    }

    fn sync_fails(&self, inner: &mut Inner) -> Error {
        inner.events.push(Event { file: "".into(), what: "  … fails", range: 0..0 });
        self.failed("barrier", io::Error::from_raw_os_error(5))
    }
}

impl Storage for SimStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> Result<u64> {
        Ok(self.alive()?.files[self.file].cache.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let cache = Arc::clone(&self.alive()?.files[self.file].cache);
        cache.read(buffer, offset);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let end = offset + data.len() as u64;
        if self.alive()?.files[self.file].past_device(end) {
            return Err(Error::NoSpace { file: self.name.clone() });
        }
        self.change("write", offset..end, |file, number, reach| {
            let length = if reach == Reach::Whole { data.len() as u64 } else { half(&(offset..end)) - offset };
            file.write(&data[..length as usize], offset, number);
        })
    }

    fn sync(&self) -> Result<()> {
        let covered = self.start_sync(true)?;
        self.alive()?.files[self.file].settle(covered);
        Ok(())
    }

    fn sync_directory(&self) -> Result<()> {
        self.start_sync(false)?;
        self.alive()?.files[self.file].settle_entry();
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.change("set length", size..size, |file, number, reach| {
            if reach == Reach::Whole && !file.device {
                file.set_size(size, number);
            }
        })
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.change("punch", range.clone(), |file, number, reach| {
            file.zero(range.start..if reach == Reach::Whole { range.end } else { half(&range) }, number);
        })
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.punch(range)
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let inner = self.alive()?;
        let file = &inner.files[self.file];
        if file.device {
            return Ok((!range.is_empty()).then_some(range));
        }
        // Holes are found by page, as file systems do.
        let held = file.cache.sectors.iter().filter(|(_, sector)| !sector.is_zero());
        let pages = held.map(|(number, _)| number / 8 * 4096).filter(|at| at + 4096 > range.start && *at < range.end);
        let mut found: Option<Range<u64>> = None;
        for at in pages {
            match &mut found {
                Some(run) if run.end >= at => run.end = (at + 4096).min(range.end),
                Some(_) => break,
                None => found = Some(at.max(range.start)..(at + 4096).min(range.end)),
            }
        }
        Ok(found.filter(|run| !run.is_empty()))
    }

    fn lock(&self, mode: LockMode) -> Result<()> {
        let mut inner = self.alive()?;
        let clash = |other: LockMode| mode == LockMode::Exclusive || other == LockMode::Exclusive;
        let taken = |(file, holder, other): &(usize, u64, LockMode)| {
            *file == self.file && *holder != self.handle && clash(*other)
        };
        if inner.locks.iter().any(taken) {
            return Err(Error::Locked { file: self.name.clone(), by: "another handle".into() });
        }
        inner.locks.retain(|(_, holder, _)| *holder != self.handle);
        inner.locks.push((self.file, self.handle, mode));
        Ok(())
    }

    fn id(&self) -> Option<FileId> {
        Some((1, self.file as u64 + 1))
    }

    fn read_only(&self) -> bool {
        !self.write
    }

    fn zeros_when_new(&self) -> bool {
        self.disk.inner().files[self.file].device.eq(&false)
    }
}
