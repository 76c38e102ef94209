//! Files that name one another as parents. `src/testing/fuzz/links.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some(links) = lvd::testing::fuzz::Links::of(input) {
        links.follow();
    }
});
