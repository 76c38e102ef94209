//! Lives of disks made up by a fuzzer: an input is a list of operations, valid by construction.
//!
//! | module | what it is |
//! |---|---|
//! | [`span`] | stretches and sizes that few bytes of an input put on the edges of everything |
//! | [`bytes`] | the naive disk: bytes, and nothing else |
//! | [`files`] | files in memory that notice what must not be done to them |
//! | [`beside`] | bitmaps in a sidecar, of a disk that is also written past them |
//! | [`labour`] | jobs whose files fail |
//! | [`links`] | files that name one another as parents |
//! | [`pages`] | pages of bitmaps beside plain bits |
//! | [`story`] | what an input describes |
//! | [`scene`], [`jobs`] | a chain at work beside its naive disks |
//! | [`oracles`] | what must hold of it after every operation |
//! | [`life`] | an overlay whose process dies and whose machine loses power, on the crash simulator |
//!
//! An input that a fuzzer finds is a story with a mistake at its end; `cargo test` tells stories from fixed seeds.

pub mod beside;
pub mod bytes;
pub mod files;
pub mod jobs;
pub mod labour;
pub mod life;
pub mod links;
pub mod oracles;
pub mod pages;
pub mod scene;
pub mod span;
pub mod story;

pub use beside::Pair;
pub use labour::Labour;
pub use life::Life;
pub use links::Links;
pub use pages::Course;
pub use story::Story;
