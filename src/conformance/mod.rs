//! This library as conformance runners see it: what they ask, and what it answers.
//!
//! The vectors of the feature `testing` and the command `lvd adapter` are held to the same words.

mod answers;
mod process;
mod words;

pub use answers::{Told, extents, facts, findings, hex, kept, mark, told, verdict};
pub use process::{Place, Process, alone, open, repeat};
pub use words::{
    BitmapFacts, Facts, Held, Link, Mark, NoBitmap, Opening, Operation, PointFacts, Stretch, Trusted, Verdict,
};
