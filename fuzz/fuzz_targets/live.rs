//! A disk whose layers jobs change under its guest. `src/testing/live_script.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some(script) = lvd::testing::live_script::Script::of(input) {
        script.play();
    }
});
