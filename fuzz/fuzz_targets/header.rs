//! Two header slots beside a judge of the specification. `src/testing/hostile/header.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lvd::testing::hostile::header::play(input));
