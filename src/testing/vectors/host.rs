//! A host without clock and without randomness.

use super::sparse::sixteen;
use crate::storage::Host;
use crate::sync::{AtomicU64, Ordering};
use std::time::Duration;

/// "Random" bytes are hashes of a label and of how many were drawn; time stands still.
#[derive(Debug)]
pub(super) struct Seeded {
    label: &'static str,
    drawn: AtomicU64,
}

impl Seeded {
    /// Two labels, two sequences of bytes.
    pub(super) fn new(label: &'static str) -> Seeded {
        Seeded { label, drawn: AtomicU64::new(0) }
    }
}

impl Host for Seeded {
    fn random(&self) -> [u8; 16] {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        sixteen(&format!("lvd vectors 1: {}, drawn {number}", self.label))
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _time: Duration) {}
}
