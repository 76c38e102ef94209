//! Many requests under way from one thread, by io_uring. The one file of the library with `unsafe`.
//!
//! The kernel reads from, or writes into, the callers' buffers while requests are under way. The argument that this is
//! sound:
//!
//! - A batch borrows its buffers and its file, and `Batch::finish` returns only after the kernel has reported every
//!   request that it took, and dropping a batch waits as well: until then the borrows live, the buffers stay where they
//!   are, and nobody else touches what is borrowed for writing.
//! - If the kernel can no longer be asked for its reports, there is no right way on: the process ends.
//! - Requests name the file by its descriptor, open as long as the file is borrowed. A ring is used by one batch at a
//!   time, and is empty before and after.

#![allow(unsafe_code)]

use super::calls::asked;
use crate::sync::{AtomicBool, Mutex, Ordering, lock};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Most requests under way in one ring.
const DEPTH: u32 = 64;
/// Rings that are kept for later batches: as many as there are batches at the same time, as a rule.
const KEPT: usize = 4;

/// The rings of one file.
#[derive(Default)]
pub(super) struct Rings {
    idle: Mutex<Vec<IoUring>>,
    /// The kernel has no rings, or not for us.
    refused: AtomicBool,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rings").field("idle", &lock(&self.idle).len()).finish()
    }
}

impl Rings {
    /// Writes each piece at its offset. Tells of each whether all of it was written: what was not, is to be written
    /// again by itself, which will say why. `None`: there are no rings, and nothing was done.
    pub(super) fn write(&self, file: &File, pieces: &[(u64, &[u8])]) -> Option<Vec<bool>> {
        let entry = |&(offset, data): &(u64, &[u8])| {
            let (length, fd) = (u32::try_from(asked(data.len())).ok()?, types::Fd(file.as_raw_fd()));
            Some(opcode::Write::new(fd, data.as_ptr(), length).offset(offset).build())
        };
        let entries = pieces.iter().map(entry).collect::<Option<Vec<_>>>()?;
        // SAFETY: the entries point into `pieces` and name `file`, both borrowed until `run` has returned.
        let done = unsafe { self.run(entries) }?;
        Some(done.into_iter().zip(pieces).map(|(done, (_, data))| done == i64::try_from(data.len()).ok()).collect())
    }

    /// Fills each buffer from its offset. Tells of each whether it was filled, as [`write`](Self::write) does.
    pub(super) fn read(&self, file: &File, pieces: &mut [(u64, &mut [u8])]) -> Option<Vec<bool>> {
        let entry = |(offset, buffer): &mut (u64, &mut [u8])| {
            let (length, fd) = (u32::try_from(asked(buffer.len())).ok()?, types::Fd(file.as_raw_fd()));
            Some(opcode::Read::new(fd, buffer.as_mut_ptr(), length).offset(*offset).build())
        };
        let entries = pieces.iter_mut().map(entry).collect::<Option<Vec<_>>>()?;
        // SAFETY: the entries point into buffers that `pieces` borrows alone, and name `file`, until `run` has returned.
        let done = unsafe { self.run(entries) }?;
        Some(done.into_iter().zip(pieces).map(|(done, (_, data))| done == i64::try_from(data.len()).ok()).collect())
    }

    /// Runs all entries; what the kernel reported of each, or `None` for one that it never took.
    ///
    /// # Safety
    /// What the entries point to is valid, and theirs alone where they write to it, until this returns.
    unsafe fn run(&self, entries: Vec<squeue::Entry>) -> Option<Vec<Option<i64>>> {
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        let idle = lock(&self.idle).pop();
        let mut ring = match idle.map_or_else(|| IoUring::new(DEPTH), Ok) {
            Ok(ring) => ring,
            Err(_) => {
                self.refused.store(true, Ordering::Relaxed);
                return None;
            }
        };
        let mut batch = Batch { ring: &mut ring, under_way: 0, results: vec![None; entries.len()] };
        for (number, entry) in entries.into_iter().enumerate() {
            if batch.under_way == DEPTH {
                batch.wait(1);
            }
            let entry = entry.user_data(number as u64);
            // SAFETY: the caller's promise; `finish` waits for every entry.
            if unsafe { batch.ring.submission().push(&entry) }.is_ok() {
                batch.under_way += 1;
            }
        }
        let results = batch.finish();
        let mut idle = lock(&self.idle);
        if idle.len() < KEPT {
            idle.push(ring);
        }
        Some(results)
    }
}

/// Entries on their way.
struct Batch<'a> {
    ring: &'a mut IoUring,
    /// Entries pushed and not reported.
    under_way: u32,
    results: Vec<Option<i64>>,
}

impl Batch<'_> {
    fn finish(mut self) -> Vec<Option<i64>> {
        self.wait_for_all();
        std::mem::take(&mut self.results)
    }

    fn wait_for_all(&mut self) {
        while self.under_way > 0 {
            self.wait(self.under_way);
        }
    }

    /// Submits what was pushed, waits for `count` reports at least, and takes all that are there.
    fn wait(&mut self, count: u32) {
        if let Err(error) = self.ring.submit_and_wait(count as usize) {
            let passing = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock, io::ErrorKind::ResourceBusy];
            if !passing.contains(&error.kind()) {
                // Buffers that the kernel may still write to cannot be given back.
                std::process::abort();
            }
        }
        let reports = self.ring.completion();
        for report in reports {
            self.under_way = self.under_way.saturating_sub(1);
            if let Some(result) = self.results.get_mut(report.user_data() as usize) {
                *result = Some(i64::from(cqueue::Entry::result(&report)));
            }
        }
    }
}

/// Also if something unwinds.
impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.wait_for_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 512;

    /// More pieces than the ring takes at once, some of them past the end of the file, on a host that has rings or none.
    #[test]
    fn what_was_done_whole_is_told_from_what_was_not() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let (file, rings) = (path.as_file(), Rings::default());
        let content: Vec<Vec<u8>> = (0..5 * DEPTH as usize).map(|number| vec![number as u8; PIECE]).collect();
        let place = |number: usize| (number * PIECE) as u64;
        let pieces: Vec<(u64, &[u8])> = content.iter().enumerate().map(|(n, data)| (place(n), &data[..])).collect();
        let Some(written) = rings.write(file, &pieces) else { return };
        assert_eq!(written, vec![true; pieces.len()]);
        // The last two begin before the end and end behind it, or begin behind it.
        let mut buffers = vec![vec![0; PIECE]; content.len() + 2];
        let offset = |number: usize| if number == content.len() { place(number) - 100 } else { place(number) };
        let mut pieces: Vec<(u64, &mut [u8])> =
            buffers.iter_mut().enumerate().map(|(number, buffer)| (offset(number), &mut buffer[..])).collect();
        let read = rings.read(file, &mut pieces).unwrap();
        assert_eq!(read, [vec![true; content.len()], vec![false; 2]].concat());
        assert_eq!(buffers[..content.len()], content);
        assert_eq!(lock(&rings.idle).len(), 1);
    }

    #[test]
    fn what_the_file_does_not_take_was_not_done() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let (file, rings) = (File::open(path.path()).unwrap(), Rings::default());
        let Some(written) = rings.write(&file, &[(0, &[1; PIECE]), (512, &[2; PIECE])]) else { return };
        assert_eq!(written, [false; 2]);
        assert_eq!(path.as_file().metadata().unwrap().len(), 0);
    }
}
