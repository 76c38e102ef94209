//! Time and random bytes that a simulation owns.

use super::sector::mix;
use crate::storage::Host;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes that look random and never come twice: two branches of one simulation have two seeds.
#[derive(Debug)]
pub struct SimHost {
    seed: u64,
    drawn: AtomicU64,
    time: AtomicU64,
}

impl SimHost {
    /// The host of the branch that `seed` names.
    pub fn new(seed: u64) -> SimHost {
        SimHost { seed: mix(seed, 0x10), drawn: AtomicU64::new(1), time: AtomicU64::new(0) }
    }
}

impl Host for SimHost {
    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        bytes[..8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[8..].copy_from_slice(&mix(drawn, self.seed).max(1).to_le_bytes());
        bytes
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.time.fetch_add(1, Ordering::Relaxed))
    }

    fn sleep(&self, time: Duration) {
        self.time.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }
}
