//! Numbers that an input asks for.

use arbitrary::Arbitrary;

/// A number near those that rules speak of.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(in crate::testing) enum Number {
    Small(u8),
    /// So many pages, or clusters, of 4096.
    Pages(u8),
    Near(u8, i8),
    Any(u64),
}

impl Number {
    pub(in crate::testing) fn value(self) -> u64 {
        match self {
            Number::Small(number) => number.into(),
            Number::Pages(number) => u64::from(number) << 12,
            Number::Near(bit, more) => (1u64 << (bit % 64)).wrapping_add_signed(more.into()),
            Number::Any(number) => number,
        }
    }
}
