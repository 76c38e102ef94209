//! What a client sends to a control socket, in whatever pieces. `src/testing/control.rs` says what is held against it.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lvd::testing::control::play(input));
