//! Runs of dirty bytes beside one look at each granule.

use super::*;
use crate::image::tests::Random;

#[test]
fn ranges_touch_the_granules_that_they_touch() {
    let (granule, size) = (8, 8 * 20 - 3);
    for seed in 1..500 {
        let mut random = Random(seed);
        let (mut at, mut ranges) = (0, Vec::new());
        while at < size {
            let start = at + random.below(30);
            at = start + 1 + random.below(20);
            ranges.push(start..at);
        }
        for offset in 0..size {
            let (dirty, end) = run_of_ranges(&ranges, granule, offset, size);
            let touched = |byte: u64| {
                let (first, last) = (byte / granule * granule, (byte / granule + 1) * granule);
                ranges.iter().any(|range| range.start < last && first < range.end)
            };
            assert!(offset < end && end <= size, "{offset} of {ranges:?}: {end}");
            assert!((offset..end).all(|byte| touched(byte) == dirty), "{offset}..{end} of {ranges:?}: {dirty}");
        }
    }
}
