//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, as in `20G`, `512`, `1.5M`, `0x200`: powers of 1024, the suffixes of qemu-img.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size: a number, with one of B, K, M, G, T, P or E behind it, below 16E")]
pub struct SizeError(String);

impl Size {
    /// Reads a size as qemu-img does: a fraction needs a suffix, and what it leaves of a byte is dropped.
    ///
    /// `20GiB` is understood too; `20GB` is not, because it means another number.
    ///
    /// # Errors
    /// For anything else, and for what does not fit 64 bits.
    pub fn parse(text: &str) -> Result<Size, SizeError> {
        let bytes = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                u64::from_str_radix(digits, 16).ok()
            }
            Some(_) => None,
            None => decimal(text),
        };
        bytes.map(Size).ok_or_else(|| SizeError(text.to_owned()))
    }
}

fn decimal(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let shift = match unit.as_bytes() {
        [] => 0,
        [letter] | [letter, b'i', b'B'] => 10 * "BKMGTPE".find(letter.to_ascii_uppercase() as char)?,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let bare = shift == 0 && number.contains('.');
    let digits = whole.len() + fraction.len() > 0 && fraction.bytes().all(|digit| digit.is_ascii_digit());
    if bare || !digits || (shift == 0 && unit.len() > 1) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Digits past the eighteenth are worth less than a byte, or as good as.
    let (part, scale) = fraction
        .bytes()
        .take(18)
        .fold((0u128, 1u128), |(part, scale), digit| (part * 10 + u128::from(digit - b'0'), scale * 10));
    whole.checked_mul(1 << shift)?.checked_add(((part << shift) / scale) as u64)
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

/// `text` for a URI: letters, digits and a few signs as they are, and those in `also`.
pub(crate) fn escaped(text: &str, also: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c) || also.contains(c);
    let escape = |c: char| match plain(c) {
        true => c.to_string(),
        false => c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_qemu_img_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("0x100000", 1 << 20),
            ("1k", 1024),
            ("20G", 20 << 30),
            ("20GiB", 20 << 30),
            ("1.5M", 3 << 19),
            (".5k", 512),
            ("1.k", 1024),
            ("0.1k", 102),
            ("7E", 7 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
        assert!(Size::parse(&format!("15.{}E", "9".repeat(60))).is_ok());
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "G",
            ".",
            ".k",
            "-1",
            "+1",
            "1.5",
            "1.5B",
            "1BiB",
            "1GB",
            "1e6",
            "1.2.3G",
            "0x",
            "0xg",
            "0x1k",
            "1 G",
            "1X",
            "16E",
            "1é",
            "99999999999999999999999",
            "0x10000000000000000",
        ] {
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
