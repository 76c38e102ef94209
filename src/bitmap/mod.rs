//! The bits of a section in memory, page by page.
//!
//! Pages know nothing of files: whoever owns them reads and writes their 4096 bytes, in the order of
//! `spec/ordering.md`. Many threads test and set bits of one page at once.

mod page;
#[cfg(test)]
mod tests;

pub use page::{BadSector, Page, Run};
