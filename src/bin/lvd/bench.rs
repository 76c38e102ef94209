//! `bench`: the requests of `qemu-img bench`, in the same order, from as many threads as requests may be under way.

use crate::args::Bench;
use crate::open::Disk;
use crate::{output, signals};
use lvd::{BlockDevice, Error, Result};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// More threads than this only queue.
const MOST_THREADS: usize = 256;
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
    if arguments.depth == 0 || arguments.depth > MOST_THREADS {
        return Err(Error::Invalid(format!("the depth is from 1 to {MOST_THREADS}")));
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
        for _ in 0..arguments.depth {
            scope.spawn(|| requests.serve());
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let failure = requests.failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    failure.map_or(Ok(seconds), Err)
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
    /// Sends one request after the other until there are no more, or one failed.
    fn serve(&self) {
        let mut buffer = vec![self.arguments.pattern; self.arguments.buffer_size as usize];
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.arguments.count {
                return;
            }
            if let Err(error) = self.send(number, &mut buffer) {
                self.next.store(self.arguments.count, Ordering::Relaxed);
                let mut failure = self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                failure.get_or_insert(error);
                return;
            }
        }
    }

    fn send(&self, number: u64, buffer: &mut [u8]) -> Result<()> {
        signals::go_on()?;
        let offset = self.place(number);
        if !self.arguments.write {
            return self.device.read_at(buffer, offset);
        }
        self.device.write_at(buffer, offset)?;
        match self.arguments.flush_interval {
            Some(every) if every > 0 && (number + 1).is_multiple_of(every) => self.device.flush(),
            _ => Ok(()),
        }
    }

    /// Steps through the disk modulo its size, as qemu-img does; a request that would not fit ends with the disk.
    fn place(&self, number: u64) -> u64 {
        let step = self.arguments.step_size.unwrap_or(self.arguments.buffer_size);
        let far = u128::from(self.arguments.offset) + u128::from(number) * u128::from(step);
        ((far % u128::from(self.size)) as u64).min(self.size - self.arguments.buffer_size)
    }
}
