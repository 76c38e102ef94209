//! Pages of bitmap sections beside plain bits. `src/testing/fuzz/pages.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some(course) = lvd::testing::fuzz::Course::of(input) {
        course.run();
    }
});
