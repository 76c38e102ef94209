//! QED images beside a naive reader. `src/testing/qed.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lvd::testing::qed::play(input));
