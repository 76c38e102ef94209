//! Jobs on a disk at rest whose files fail. `src/testing/fuzz/labour.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some(labour) = lvd::testing::fuzz::Labour::of(input) {
        labour.toil();
    }
});
