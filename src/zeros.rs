//! Finding zeros, which need not be copied.

use std::ops::Range;

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // In pieces without a branch inside, of which the compiler makes vector instructions.
    let pieces = bytes.chunks_exact(64);
    let rest = pieces.remainder();
    let zero = |piece: &[u8]| piece.iter().fold(0, |all, byte| all | byte) == 0;
    pieces.into_iter().all(zero) && zero(rest)
}

/// Cuts `bytes` into the longest stretches that are all zero or not, in steps of `granule` bytes.
///
/// The last step may be shorter. A granule counts as zero only if all of it is.
pub fn stretches(bytes: &[u8], granule: usize) -> impl Iterator<Item = (Range<usize>, bool)> + '_ {
    let granule = granule.max(1);
    let step = move |at: usize| at..bytes.len().min(at.saturating_add(granule));
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let zero = is_zero(bytes.get(step(at)).filter(|step| !step.is_empty())?);
        while at < bytes.len() && is_zero(&bytes[step(at)]) == zero {
            at = step(at).end;
        }
        Some((start..at, zero))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_found() {
        for length in [1, 63, 64, 65, 200] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in 0..length {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {length}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn stretches_cover_all_and_alternate() {
        let mut bytes = vec![0; 10_000];
        bytes[4100] = 7;
        bytes[9999] = 7;
        let found: Vec<_> = stretches(&bytes, 4096).collect();
        assert_eq!(found, [(0..4096, true), (4096..10_000, false)]);
        let found: Vec<_> = stretches(&bytes[..8192], 4096).collect();
        assert_eq!(found, [(0..4096, true), (4096..8192, false)]);
        assert_eq!(stretches(&[], 4096).count(), 0);
    }
}
