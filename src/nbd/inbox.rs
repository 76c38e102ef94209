//! What has arrived from the other end and is not dealt with yet.

use super::Socket;
use std::io::{self, ErrorKind};

/// Bytes that are asked for at once, and room that is kept between requests.
const USUAL: usize = 256 << 10;
/// Room that is not given back.
const KEPT: usize = 4 << 20;

/// A buffer that grows with what really arrives, not with what the other end announces.
#[derive(Debug)]
pub(in crate::nbd) struct Inbox {
    room: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(in crate::nbd) fn new() -> Inbox {
        Inbox { room: vec![0; USUAL], start: 0, end: 0 }
    }

    /// Begins with what has arrived already.
    #[cfg(feature = "tls")]
    pub(in crate::nbd) fn holding(bytes: &[u8]) -> Inbox {
        let mut room = vec![0; USUAL.max(bytes.len())];
        room[..bytes.len()].copy_from_slice(bytes);
        Inbox { room, start: 0, end: bytes.len() }
    }

    /// What is there.
    pub(in crate::nbd) fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    /// The first `count` bytes are dealt with.
    pub(in crate::nbd) fn take(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.room.len() > KEPT {
                self.room = vec![0; USUAL];
            }
        }
    }

    /// Waits for more of a message that has `wanted` bytes. False: there will be no more.
    pub(in crate::nbd) fn fill(&mut self, socket: &dyn Socket, wanted: usize) -> io::Result<bool> {
        if self.room.len() - self.start < wanted {
            self.room.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.room.len() {
                let length = wanted.min(self.room.len() * 2);
                self.room.resize(length, 0);
            }
        }
        loop {
            match socket.read(&mut self.room[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Fills `room` with what comes next: what is there, and then what arrives, which takes no way round.
    ///
    /// # Errors
    /// The host's; `UnexpectedEof` if the other end has ended.
    pub(in crate::nbd) fn fetch(&mut self, socket: &dyn Socket, room: &mut [u8]) -> io::Result<()> {
        let there = room.len().min(self.end - self.start);
        let (first, mut rest) = room.split_at_mut(there);
        first.copy_from_slice(&self.bytes()[..there]);
        self.take(there);
        while !rest.is_empty() {
            match socket.read(rest) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => rest = &mut rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
