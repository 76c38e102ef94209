//! What a client sends to an NBD server, in whatever pieces. `src/testing/nbd.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lvd::testing::nbd::play(input));
