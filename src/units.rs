//! Sizes, alignment and ranges, checked.
