//! Files in memory whose requests a test can hold, fail and count.

use lvd::image::Image;
use lvd::storage::{FileId, LockMode, MemoryStorage, Storage};
use lvd::{Error, Result};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    /// Punched, or written zeros.
    Zero,
    Sync,
}

/// Lets so many changes of any file through, then none: the process was killed there.
#[derive(Debug)]
pub struct Fuse(AtomicU64);

impl Fuse {
    pub fn new(changes: u64) -> Arc<Fuse> {
        Arc::new(Fuse(AtomicU64::new(changes)))
    }

    pub fn endless() -> Arc<Fuse> {
        Fuse::new(u64::MAX)
    }

    pub fn burnt(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn burn(&self, file: &str) -> Result<()> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| Error::Denied(format!("{file}: killed here")))
    }
}

/// A file in memory, with a stage on which each of its requests appears before it is done.
#[derive(Debug)]
pub struct Staged {
    inner: MemoryStorage,
    fuse: Arc<Fuse>,
    stage: Mutex<Stage>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Stage {
    cues: Vec<Cue>,
    next: u64,
    seen: Vec<(Kind, Range<u64>)>,
}

/// A request that the test waits for.
#[derive(Debug)]
struct Cue {
    number: u64,
    kind: Kind,
    range: Range<u64>,
    act: Act,
    /// So many of them go on first.
    skip: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// The first one is held.
    Hold,
    /// It is there, and waits.
    Holding,
    /// All of them fail.
    Fail,
}

/// A request that is, or will be, held; dropping it lets the request go on.
#[must_use]
pub struct Held<'a> {
    file: &'a Staged,
    number: u64,
}

impl Staged {
    pub fn new(name: &str, fuse: Arc<Fuse>) -> Staged {
        Staged { inner: MemoryStorage::new(name), fuse, stage: Mutex::default(), moved: Condvar::new() }
    }

    pub fn copy(&self, fuse: Arc<Fuse>) -> Staged {
        Staged { inner: self.inner.copy(self.name()), ..Staged::new(self.name(), fuse) }
    }

    /// Holds the next request of `kind` that touches `range` of the guest's disk.
    pub fn hold(&self, kind: Kind, range: Range<u64>) -> Held<'_> {
        self.hold_after(kind, range, 0)
    }

    /// As [`hold`](Self::hold), once `skip` others have gone on.
    pub fn hold_after(&self, kind: Kind, range: Range<u64>, skip: usize) -> Held<'_> {
        self.cue(kind, range, Act::Hold, skip)
    }

    /// Fails every request of `kind` that touches `range` of the guest's disk, until what is returned is dropped.
    pub fn fail(&self, kind: Kind, range: Range<u64>) -> Held<'_> {
        self.cue(kind, range, Act::Fail, 0)
    }

    /// As [`fail`](Self::fail), once `skip` others have gone on.
    pub fn fail_after(&self, kind: Kind, range: Range<u64>, skip: usize) -> Held<'_> {
        self.cue(kind, range, Act::Fail, skip)
    }

    /// How often a request of `kind` has touched `range` of the guest's disk.
    pub fn count(&self, kind: Kind, range: Range<u64>) -> usize {
        let range = self.place(range);
        self.stage().seen.iter().filter(|(k, r)| *k == kind && meets(r, &range)).count()
    }

    fn cue(&self, kind: Kind, range: Range<u64>, act: Act, skip: usize) -> Held<'_> {
        let range = if kind == Kind::Sync { EVERYWHERE } else { self.place(range) };
        let mut stage = self.stage();
        let number = stage.next;
        stage.next += 1;
        stage.cues.push(Cue { number, kind, range, act, skip });
        Held { file: self, number }
    }

    /// Where guest bytes lie in the file; a file without header is all the guest's.
    fn place(&self, range: Range<u64>) -> Range<u64> {
        let offset = Image::read_header(&self.inner).map_or(0, |header| header.data_offset);
        offset + range.start..offset.saturating_add(range.end)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap()
    }

    /// A request comes: is held, fails, or goes on.
    fn enter(&self, kind: Kind, range: Range<u64>) -> Result<()> {
        let mut stage = self.stage();
        stage.seen.push((kind, range.clone()));
        let Some(cue) =
            stage.cues.iter_mut().find(|cue| cue.kind == kind && cue.act != Act::Holding && meets(&cue.range, &range))
        else {
            return Ok(());
        };
        if cue.skip > 0 {
            cue.skip -= 1;
            return Ok(());
        }
        if cue.act == Act::Fail {
            return Err(Error::io(self.name(), "cannot reach it", io::Error::other("the line is dead")));
        }
        cue.act = Act::Holding;
        let number = cue.number;
        self.moved.notify_all();
        while stage.cues.iter().any(|cue| cue.number == number) {
            stage = self.moved.wait(stage).unwrap();
        }
        Ok(())
    }
}

impl Held<'_> {
    /// Waits until the request is there and held.
    pub fn reached(&self) {
        let mut stage = self.file.stage();
        while !stage.cues.iter().any(|cue| cue.number == self.number && cue.act == Act::Holding) {
            let (next, timeout) = self.file.moved.wait_timeout(stage, Duration::from_secs(60)).unwrap();
            assert!(!timeout.timed_out(), "{}: the request that is to be held does not come", self.file.name());
            stage = next;
        }
    }

    /// Whether a request is held.
    pub fn is_reached(&self) -> bool {
        self.file.stage().cues.iter().any(|cue| cue.number == self.number && cue.act == Act::Holding)
    }

    /// Lets it go on.
    pub fn release(self) {}
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.file.stage().cues.retain(|cue| cue.number != self.number);
        self.file.moved.notify_all();
    }
}

const EVERYWHERE: Range<u64> = 0..u64::MAX;

fn meets(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Storage for Staged {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.enter(Kind::Read, offset..offset + buffer.len() as u64)?;
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.enter(Kind::Write, offset..offset + data.len() as u64)?;
        self.fuse.burn(self.name())?;
        self.inner.write_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        self.enter(Kind::Sync, EVERYWHERE)?;
        self.fuse.burn(self.name())?;
        self.inner.sync()
    }

    fn sync_directory(&self) -> Result<()> {
        self.inner.sync_directory()
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.fuse.burn(self.name())?;
        self.inner.set_size(size)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.enter(Kind::Zero, range.clone())?;
        self.fuse.burn(self.name())?;
        self.inner.punch(range)
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.enter(Kind::Zero, range.clone())?;
        self.fuse.burn(self.name())?;
        self.inner.write_zeroes(range)
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.inner.next_data(range)
    }

    fn lock(&self, mode: LockMode) -> Result<()> {
        self.inner.lock(mode)
    }

    fn id(&self) -> Option<FileId> {
        self.inner.id()
    }
}
