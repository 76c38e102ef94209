//! An image and the layers below it, opened by the caller's policy (`spec/chain.md`).

mod raw;

pub use raw::RawDevice;
