//! Lives of disks made up by a fuzzer: an input is a list of operations, valid by construction.
//!
//! | module | what it is |
//! |---|---|
//! | [`span`] | stretches and sizes that few bytes of an input put on the edges of everything |
//! | [`bytes`] | the naive disk: bytes, and nothing else |
//! | [`files`] | files in memory that notice what must not be done to them |
//! | [`story`] | what an input describes |
//! | [`scene`], [`jobs`] | a chain at work beside its naive disks |
//! | [`oracles`] | what must hold of it after every operation |
//! | [`life`] | an overlay whose process dies and whose machine loses power, on the crash simulator |
//!
//! An input that a fuzzer finds is a story with a mistake at its end; `cargo test` tells stories from fixed seeds.

pub mod bytes;
pub mod files;
pub mod jobs;
pub mod life;
pub mod oracles;
pub mod scene;
pub mod span;
pub mod story;

pub use life::Life;
pub use story::Story;
