//! Bitmaps in a sidecar, of a disk that is also written past them. `src/testing/fuzz/beside.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some(pair) = lvd::testing::fuzz::Pair::of(input) {
        pair.live();
    }
});
