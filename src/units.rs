//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, as in `20G`, `512`, `1.5M`: powers of 1024, the suffixes of qemu-img.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size: a number, with one of B, K, M, G, T, P or E behind it")]
pub struct SizeError(String);

impl Size {
    /// Reads a size. A fraction needs a suffix; what is left of a byte is refused.
    pub fn parse(text: &str) -> Result<Size, SizeError> {
        let error = || SizeError(text.to_owned());
        let (number, shift) = match text.char_indices().next_back() {
            Some((at, suffix)) if suffix.is_ascii_alphabetic() => {
                let power = "BKMGTPE".find(suffix.to_ascii_uppercase()).ok_or_else(error)?;
                (&text[..at], 10 * power as u32)
            }
            _ => (text, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && part.len() <= 20;
        if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
            return Err(error());
        }
        let unit = 1u128 << shift;
        let scale = 10u128.pow(fraction.len() as u32);
        let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| error())? };
        let bytes = whole.parse::<u128>().map_err(|_| error())?.checked_mul(unit).ok_or_else(error)?;
        let part = part.checked_mul(unit).filter(|part| part.is_multiple_of(scale)).ok_or_else(error)? / scale;
        u64::try_from(bytes + part).map(Size).map_err(|_| error())
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        Size::parse(text)
    }
}

impl fmt::Display for Size {
    /// Three digits and a unit: `1.5 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let power = (self.0.checked_ilog2().unwrap_or(0) / 10) as usize;
        let value = self.0 as f64 / (1u64 << (10 * power)) as f64;
        let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}")[..4].to_owned() };
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        write!(f, "{text} {}", UNITS[power])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_qemu_img_reads_them() {
        for (text, bytes) in
            [("0", 0), ("512", 512), ("1k", 1024), ("20G", 20 << 30), ("1.5M", 3 << 19), ("7E", 7 << 60)]
        {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "G", "-1", "1.", ".5K", "1.3", "16E", "1X", "1.0000001K", "99999999999999999999999", "1é"] {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_with_three_digits() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (3 << 19, "1.5 MiB"), (u64::MAX, "16 EiB")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
