//! A chain at work beside naive disks. `src/testing/fuzz/story.rs` says what an input describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some(story) = lvd::testing::fuzz::Story::of(input) {
        story.tell();
    }
});
