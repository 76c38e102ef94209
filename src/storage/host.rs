//! The operating system's time and random bytes.

use super::Host;
use std::time::{Duration, Instant};

/// The real world.
#[derive(Debug)]
pub struct OsHost {
    start: Instant,
}

impl Default for OsHost {
    fn default() -> OsHost {
        OsHost { start: Instant::now() }
    }
}

impl Host for OsHost {
    fn random(&self) -> [u8; 16] {
        // Version 4 of RFC 9562: 122 bits of the system's generator, never nil.
        uuid::Uuid::new_v4().into_bytes()
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
