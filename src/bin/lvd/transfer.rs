//! `read` and `write`: bytes of the disk to standard output, and into the disk from standard input.

use crate::args::{Read, Write};
use crate::open::Disk;
use crate::{output, signals};
use lvd::{BlockDevice, Error, Result};
use std::io::{self, Read as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Bytes moved at once.
const PIECE: u64 = 1 << 20;
/// Bytes read from standard input at once: a pipe seldom has more.
const INPUT: usize = 128 << 10;

pub fn read(arguments: &Read) -> Result<()> {
    let disk = Disk::open(&arguments.image, &arguments.opening, false)?;
    let end = end_of(&disk, arguments.offset, arguments.length)?;
    let mut buffer = vec![0; arguments.length.min(PIECE) as usize];
    let mut at = arguments.offset;
    while at < end && !output::closed() {
        signals::go_on()?;
        let piece = &mut buffer[..(end - at).min(PIECE) as usize];
        disk.chain().read_at(piece, at)?;
        output::raw(piece)?;
        at += piece.len() as u64;
    }
    disk.close()
}

/// Past the end of the disk nothing is read, not even the part before it.
fn end_of(disk: &Disk, offset: u64, length: u64) -> Result<u64> {
    let size = disk.chain().size();
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(end),
        _ => Err(Error::Invalid(format!("{length} bytes at {offset} lie outside the disk of {size}"))),
    }
}

pub fn write(arguments: &Write) -> Result<()> {
    let disk = Disk::open(&arguments.image, &arguments.opening, true)?;
    let result = write_all(arguments, &disk);
    // Also after a failure: what was written and flushed is in a closed image.
    let closed = disk.close();
    result.and(closed)
}

fn write_all(arguments: &Write, disk: &Disk) -> Result<()> {
    let from_input = !arguments.zero && !arguments.discard && arguments.pattern.is_none();
    let length = match arguments.length {
        Some(length) => length,
        None if from_input => disk.chain().size().saturating_sub(arguments.offset),
        None => return Err(Error::Invalid("say how many bytes: without LEN only standard input is written".into())),
    };
    let end = end_of(disk, arguments.offset, length)?;
    let mut acknowledged = Acknowledged { every: arguments.acknowledge, last: arguments.offset };
    if from_input {
        return write_input(arguments, disk, end, &mut acknowledged);
    }
    let pattern = vec![arguments.pattern.unwrap_or(0); length.min(PIECE) as usize];
    let mut at = arguments.offset;
    while at < end {
        signals::go_on()?;
        let next = acknowledged.cut(at, (at + PIECE).min(end));
        match () {
            () if arguments.zero => disk.chain().write_zeroes(at..next, arguments.unmap)?,
            () if arguments.discard => disk.chain().discard(at..next)?,
            () => disk.chain().write_at(&pattern[..(next - at) as usize], at)?,
        }
        at = next;
        acknowledged.reached(at, disk)?;
    }
    disk.chain().flush()
}

/// Writes what comes in as it comes, until there is no more or `end` is reached.
fn write_input(arguments: &Write, disk: &Disk, end: u64, acknowledged: &mut Acknowledged) -> Result<()> {
    let input = read_input();
    let mut at = arguments.offset;
    while at < end {
        signals::go_on()?;
        let piece = match input.recv_timeout(Duration::from_millis(100)) {
            Ok(piece) => piece?,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut rest = &piece[..piece.len().min((end - at) as usize)];
        let over = rest.len() < piece.len();
        while !rest.is_empty() {
            let next = acknowledged.cut(at, at + rest.len() as u64);
            let (now, later) = rest.split_at((next - at) as usize);
            disk.chain().write_at(now, at)?;
            (at, rest) = (next, later);
            acknowledged.reached(at, disk)?;
        }
        if over && arguments.length.is_none() {
            disk.chain().flush()?;
            return Err(Error::Invalid(format!("the input goes on past the end of the disk at {end}")));
        }
    }
    disk.chain().flush()?;
    match arguments.length {
        Some(length) if at < end => {
            let got = at - arguments.offset;
            Err(Error::Invalid(format!("the input ended after {got} of {length} bytes")))
        }
        _ => Ok(()),
    }
}

/// Standard input, read by a thread of its own so that a signal ends a command that waits for more.
fn read_input() -> Receiver<Result<Vec<u8>>> {
    let (sender, receiver) = sync_channel(2);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut piece = vec![0; INPUT];
            let sent = match input.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => {
                    piece.truncate(length);
                    sender.send(Ok(piece))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => sender.send(Err(Error::io("standard input", "cannot read", error))),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Flushes at steady distances, and says so.
struct Acknowledged {
    every: Option<u64>,
    last: u64,
}

impl Acknowledged {
    /// A write that begins at `at` ends at `end`, or where the next flush is due.
    fn cut(&self, at: u64, end: u64) -> u64 {
        match self.every {
            Some(every) => end.min(self.last.saturating_add(every).max(at + 1)),
            None => end,
        }
    }

    fn reached(&mut self, at: u64, disk: &Disk) -> Result<()> {
        let Some(every) = self.every else { return Ok(()) };
        if at - self.last < every {
            return Ok(());
        }
        disk.chain().flush()?;
        self.last = at;
        output::line(at.to_string())
    }
}
