//! What waits to be sent to a client.

use crate::nbd::{Socket, write_all};
use crate::sync::{Arc, Condvar, Mutex, lock, wait};
use std::io::IoSlice;
use std::net::Shutdown;

/// Most bytes that wait for one client. One that does not fetch them is sent away: nothing waits for it.
const MOST: usize = 4 << 20;

/// The lines for one client, sent by a thread of its own, so that no job waits for a client.
pub(super) struct Outbox {
    socket: Arc<dyn Socket>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The client has begun to give commands.
    hears: bool,
    closed: bool,
}

impl Outbox {
    pub(super) fn new(socket: Arc<dyn Socket>) -> Outbox {
        Outbox { socket, queue: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn send(&self, line: &[u8]) {
        self.add(&mut lock(&self.queue), line);
    }

    /// Sends an answer. Behind it the client gets events, if it `hears` them by then.
    pub(super) fn answer(&self, line: &[u8], hears: bool) {
        let mut queue = lock(&self.queue);
        self.add(&mut queue, line);
        queue.hears = hears;
    }

    pub(super) fn event(&self, line: &[u8]) {
        let mut queue = lock(&self.queue);
        if queue.hears {
            self.add(&mut queue, line);
        }
    }

    fn add(&self, queue: &mut Queue, line: &[u8]) {
        if queue.closed {
            return;
        }
        queue.bytes.extend_from_slice(line);
        if queue.bytes.len() > MOST {
            queue.closed = true;
            queue.bytes.clear();
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// There will be no more; what waits still goes out.
    pub(super) fn close(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
    }

    /// Sends what comes, until there will be no more or the client is gone.
    pub(super) fn run(&self) {
        loop {
            let bytes = {
                let mut queue = lock(&self.queue);
                while queue.bytes.is_empty() && !queue.closed {
                    queue = wait(&self.changed, queue);
                }
                std::mem::take(&mut queue.bytes)
            };
            if bytes.is_empty() || write_all(&*self.socket, &mut [IoSlice::new(&bytes)]).is_err() {
                self.close();
                let _ = self.socket.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
