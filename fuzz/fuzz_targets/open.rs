//! Any file: opened, read, checked, written to. `src/testing/hostile.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lvd::testing::hostile::open(input));
