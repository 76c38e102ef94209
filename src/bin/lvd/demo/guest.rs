//! The guest: four threads that write all the time, each to sectors of its own, and what a disk may hold that was let go
//! of at some instant meanwhile.

use super::model::{Model, Random, SECTOR, bytes};
use lvd::live::Disk;
use lvd::{BlockDevice, Error, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const WRITERS: usize = 4;
/// Sectors that belong to one writer, then come the next one's. No whole number of blocks: two write parts of the same.
const STRIPE: u64 = 60;
/// Requests after which a writer reads, and after which it flushes.
const READ_EVERY: u64 = 8;
const FLUSH_EVERY: u64 = 32;

/// A disk with its writers.
pub struct Guest {
    disk: Arc<Disk>,
    /// What the disk held when the first of them began.
    begun: Model,
    /// What it holds now.
    now: Model,
    logs: [Mutex<Log>; WRITERS],
    stop: AtomicBool,
    requests: AtomicU64,
    /// Nanoseconds of the longest write since this was last asked.
    longest: AtomicU64,
}

/// All that one writer wrote.
#[derive(Default)]
struct Log {
    writes: Vec<Range<u64>>,
    /// So many of them have returned; one more may be under way.
    done: usize,
}

/// What happened happened after so many writes of each writer, at least and at most.
pub struct Moment([Range<usize>; WRITERS]);

impl Guest {
    /// Nothing writes yet; see [`beside`](Self::beside).
    pub fn new(disk: Arc<Disk>, model: Model) -> Guest {
        Guest {
            disk,
            now: model.copy(),
            begun: model,
            logs: Default::default(),
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }

    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Runs the writers while `work` goes on. Their errors come first: a wrong byte is worth more than what follows.
    pub fn beside(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || self.write(writer))).collect();
            let stop = StopAtEnd(&self.stop);
            let result = work();
            drop(stop);
            let ends = writers.into_iter().map(|writer| match writer.join() {
                Ok(end) => end,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ends.collect::<Result<()>>().and(result)
        })
    }

    /// One writer, until one stops.
    fn write(&self, writer: usize) -> Result<()> {
        let _stop = StopAtEnd(&self.stop);
        let mut random = Random::new(1 + writer as u64);
        let mut turn: u64 = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let sectors = self.somewhere(writer, &mut random);
            let number = self.begin(writer, sectors.clone());
            let data = bytes(sectors.clone(), number);
            let begun = Instant::now();
            self.disk.write_at(&data, sectors.start * SECTOR)?;
            self.longest.fetch_max(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
            self.now.set(sectors, number);
            self.log(writer).done += 1;
            turn += 1;
            if turn.is_multiple_of(READ_EVERY) {
                let sectors = self.somewhere(writer, &mut random);
                let mut got = vec![0; ((sectors.end - sectors.start) * SECTOR) as usize];
                self.disk.read_at(&mut got, sectors.start * SECTOR)?;
                self.now.compare("the guest's disk", &got, sectors.start * SECTOR)?;
            }
            if turn.is_multiple_of(FLUSH_EVERY) {
                self.disk.flush()?;
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Some sectors of a stripe of the writer's: whole blocks or odd ones.
    fn somewhere(&self, writer: usize, random: &mut Random) -> Range<u64> {
        let all = self.now.size() / SECTOR;
        let rows = all / (STRIPE * WRITERS as u64);
        let start = (random.below(rows) * WRITERS as u64 + writer as u64) * STRIPE;
        let at = random.below(STRIPE);
        let length = 1 + random.below(STRIPE - at);
        start + at..start + at + length
    }

    fn log(&self, writer: usize) -> MutexGuard<'_, Log> {
        self.logs[writer].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a write before it is made, and numbers it.
    fn begin(&self, writer: usize, sectors: Range<u64>) -> u32 {
        let mut log = self.log(writer);
        log.writes.push(sectors);
        number_of(writer, log.writes.len() - 1)
    }

    /// Does `work`, and tells between which writes it did it.
    pub fn moment<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Moment)> {
        let from = std::array::from_fn::<_, WRITERS, _>(|writer| self.log(writer).done);
        let result = work()?;
        let moment = std::array::from_fn(|writer| from[writer]..self.log(writer).writes.len());
        Ok((result, Moment(moment)))
    }

    /// Holds a disk that was let go of at `moment` against the model: it must be the guest's disk of one instant, with all
    /// that each writer had written by then and nothing that it wrote later.
    pub fn verify_instant(
        &self,
        name: &str,
        moment: &Moment,
        read: impl Fn(&mut [u8], u64) -> Result<()> + Sync,
    ) -> Result<()> {
        let then = self.begun.copy();
        for (writer, range) in moment.0.iter().enumerate() {
            let writes = self.log(writer).writes[..range.end].to_vec();
            // The last that it holds; who holds a write holds all that the same writer wrote before.
            let mut count = range.end;
            while count > range.start && !holds(&writes[count - 1], number_of(writer, count - 1), &read)? {
                count -= 1;
            }
            for (place, sectors) in writes.into_iter().take(count).enumerate() {
                then.set(sectors, number_of(writer, place));
            }
        }
        then.verify(name, read)
    }

    /// Holds the disk of a guest that has stopped against the model.
    pub fn verify(&self, name: &str, read: impl Fn(&mut [u8], u64) -> Result<()> + Sync) -> Result<()> {
        self.now.verify(name, read)
    }

    /// Requests of all writers so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The longest write since this was last asked.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.swap(0, Ordering::Relaxed))
    }

    /// Lets the writers make `count` more requests.
    pub fn let_write(&self, count: u64) -> Result<()> {
        let end = self.requests() + count;
        while self.requests() < end {
            crate::signals::go_on()?;
            if self.stop.load(Ordering::Relaxed) {
                // A writer met an error, which is the one to tell.
                return Err(Error::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// The writers stop when the work beside them is done, or one of them fails, or panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// 0 is zeros, and 1 what the disk began with.
fn number_of(writer: usize, place: usize) -> u32 {
    (2 + place * WRITERS + writer) as u32
}

/// Whether the first sector of a write is on a disk.
fn holds(sectors: &Range<u64>, number: u32, read: &impl Fn(&mut [u8], u64) -> Result<()>) -> Result<bool> {
    let mut got = vec![0; SECTOR as usize];
    read(&mut got, sectors.start * SECTOR)?;
    Ok(got == bytes(sectors.start..sectors.start + 1, number))
}
