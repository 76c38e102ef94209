//! What a server sends to an NBD client, in whatever pieces. `src/testing/nbd_client.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lvd::testing::nbd_client::play(input));
