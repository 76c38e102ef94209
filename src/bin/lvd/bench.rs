//! `bench`: the requests of `qemu-img bench`, in the same order, in batches of as many as may be under way.

use crate::args::Bench;
use crate::open::Disk;
use crate::{output, signals};
use lvd::{BlockDevice, Error, Request, Result};
use serde_json::json;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// More requests than this only queue.
const MOST_DEPTH: usize = 256;
/// What direct I/O asks of addresses at most.
const ALIGNMENT: usize = 4096;
/// Most bytes under way at the same time.
const MOST_BYTES: u64 = 1 << 30;

pub fn bench(arguments: &Bench) -> Result<()> {
    let disk = Disk::open(&arguments.image, &arguments.opening, arguments.write)?;
    let result = measure(arguments, &disk);
    let closed = disk.close();
    let seconds = result?;
    closed?;
    let bytes = arguments.count.saturating_mul(arguments.buffer_size);
    if arguments.output.json() {
        return output::json(&json!({ "requests": arguments.count, "bytes": bytes, "seconds": seconds }));
    }
    output::line(format!("Run completed in {seconds:.3} seconds."))?;
    if arguments.quiet {
        return Ok(());
    }
    output::line(format!("{:.0} requests/s, {}", arguments.count as f64 / seconds, output::rate(bytes, seconds)))
}

fn measure(arguments: &Bench, disk: &Disk) -> Result<f64> {
    let size = disk.chain().size();
    let length = arguments.buffer_size;
    if length == 0 || length > size {
        return Err(Error::Invalid(format!("requests of {length} bytes do not fit a disk of {size}")));
    }
    if arguments.depth == 0 || arguments.depth > MOST_DEPTH {
        return Err(Error::Invalid(format!("the depth is from 1 to {MOST_DEPTH}")));
    }
    if length.saturating_mul(arguments.depth as u64) > MOST_BYTES {
        return Err(Error::Invalid(format!("requests under way at the same time have at most {MOST_BYTES} bytes")));
    }
    if !arguments.quiet && !arguments.output.json() {
        let what = if arguments.write { "write" } else { "read" };
        let (count, depth, offset) = (arguments.count, arguments.depth, arguments.offset);
        let step = arguments.step_size.unwrap_or(length);
        output::line(format!(
            "Sending {count} {what} requests, {length} bytes each, {depth} in parallel (starting at offset {offset}, step size {step})"
        ))?;
    }
    let requests =
        Requests { arguments, device: disk.chain(), size, next: AtomicU64::new(0), failure: Mutex::new(None) };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for depth in lanes(arguments.depth) {
            let requests = &requests;
            scope.spawn(move || requests.serve(depth));
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let failure = requests.failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    failure.map_or(Ok(seconds), Err)
}

/// How many requests each thread has under way, `depth` in all: one thread for each processor.
fn lanes(depth: usize) -> impl Iterator<Item = usize> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(depth);
    (0..threads).map(move |thread| (depth + thread) / threads)
}

/// What the threads take their work from.
struct Requests<'a> {
    arguments: &'a Bench,
    device: &'a dyn BlockDevice,
    size: u64,
    next: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl Requests<'_> {
    /// Sends one batch after the other until there are no more requests, or one failed.
    fn serve(&self, depth: usize) {
        let length = self.arguments.buffer_size as usize;
        // Memory that direct I/O takes as it is.
        let mut memory = vec![self.arguments.pattern; length * depth + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let buffers = &mut memory[start..][..length * depth];
        loop {
            let claimed = self.claim(depth as u64);
            if claimed.is_empty() {
                return;
            }
            if let Err(error) = self.send(claimed, buffers) {
                self.next.store(self.arguments.count, Ordering::Relaxed);
                let mut failure = self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                failure.get_or_insert(error);
                return;
            }
        }
    }

    /// The next requests, at most `most`, up to the next flush.
    fn claim(&self, most: u64) -> Range<u64> {
        let end = |first: u64| {
            let flush = self.flush_interval().map_or(u64::MAX, |every| (first / every + 1).saturating_mul(every));
            first.saturating_add(most).min(flush).min(self.arguments.count)
        };
        let more = |first| (first < self.arguments.count).then(|| end(first));
        match self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(first) => first..end(first),
            Err(_) => 0..0,
        }
    }

    fn flush_interval(&self) -> Option<u64> {
        self.arguments.flush_interval.filter(|every| *every > 0)
    }

    fn send(&self, numbers: Range<u64>, buffers: &mut [u8]) -> Result<()> {
        signals::go_on()?;
        let flush = self.flush_interval().is_some_and(|every| numbers.end.is_multiple_of(every));
        let places = numbers.map(|number| self.place(number));
        let buffers = buffers.chunks_mut(self.arguments.buffer_size as usize);
        let requests = places.zip(buffers).map(|(offset, buffer)| match self.arguments.write {
            true => Request::Write { data: buffer, offset },
            false => Request::Read { buffer, offset },
        });
        let mut batch: Vec<Request<'_>> = requests.collect();
        self.device.submit(&mut batch).into_iter().collect::<Result<()>>()?;
        if flush { self.device.flush() } else { Ok(()) }
    }

    /// Steps through the disk modulo its size, as qemu-img does; a request that would not fit ends with the disk.
    fn place(&self, number: u64) -> u64 {
        let step = self.arguments.step_size.unwrap_or(self.arguments.buffer_size);
        let far = u128::from(self.arguments.offset) + u128::from(number) * u128::from(step);
        ((far % u128::from(self.size)) as u64).min(self.size - self.arguments.buffer_size)
    }
}
