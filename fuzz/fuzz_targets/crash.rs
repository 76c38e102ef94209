//! An overlay whose process dies and whose machine loses power. `src/testing/fuzz/life.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let lived = lvd::testing::fuzz::Life::of(input).live();
    lived.findings.iter().for_each(|finding| panic!("{finding}"));
});
