//! The unit of everything simulated: 512 bytes, shared, with their hash.

use crate::limits::SECTOR_SIZE;
use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;

/// [`SECTOR_SIZE`] as a length in memory.
pub const SECTOR: usize = SECTOR_SIZE as usize;

/// What space reads as that a host does not promise to be zeros.
pub const POISON: u8 = 0xee;

/// The content of one sector. Copies share it; comparing two is comparing two hashes first.
#[derive(Clone)]
pub struct Sector(Arc<Content>);

struct Content {
    hash: u64,
    bytes: [u8; SECTOR],
}

impl Sector {
    /// The sector that holds `bytes`.
    pub fn new(bytes: [u8; SECTOR]) -> Sector {
        Sector(Arc::new(Content { hash: hash(&bytes), bytes }))
    }

    /// The sector that holds `bytes`, which are at most 512, followed by zeros.
    pub fn from_slice(bytes: &[u8]) -> Sector {
        let mut sector = [0; SECTOR];
        sector[..bytes.len()].copy_from_slice(bytes);
        Sector::new(sector)
    }

    /// All zeros.
    pub fn zero() -> Sector {
        static ZERO: OnceLock<Sector> = OnceLock::new();
        ZERO.get_or_init(|| Sector::new([0; SECTOR])).clone()
    }

    /// What space that was never written holds where zeros are not promised.
    pub fn poison() -> Sector {
        static POISONED: OnceLock<Sector> = OnceLock::new();
        POISONED.get_or_init(|| Sector::new([POISON; SECTOR])).clone()
    }

    /// A content that no other number gives, and that names its number when it turns up in a wrong place.
    pub fn numbered(number: u64) -> Sector {
        let mut bytes = [0; SECTOR];
        for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&(number << 8 | i as u64 | 1 << 62).to_le_bytes());
        }
        Sector::new(bytes)
    }

    /// The first half of `newer` before the second half of this one: a sector that was rewritten while it was
    /// being written back.
    pub fn torn(&self, newer: &Sector) -> Sector {
        let mut bytes = *self.bytes();
        bytes[..SECTOR / 2].copy_from_slice(&newer.bytes()[..SECTOR / 2]);
        Sector::new(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; SECTOR] {
        &self.0.bytes
    }

    /// A hash of the bytes, never 0.
    pub fn hash(&self) -> u64 {
        self.0.hash
    }

    /// Whether all bytes are zero.
    pub fn is_zero(&self) -> bool {
        *self == Sector::zero()
    }
}

impl PartialEq for Sector {
    fn eq(&self, other: &Sector) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.hash == other.0.hash && self.0.bytes == other.0.bytes)
    }
}

impl Eq for Sector {}

impl fmt::Debug for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(self.bytes(), f)
    }
}

/// Names a content as a person would: zeros, poison, the number of a numbered sector, or its first bytes.
fn describe(bytes: &[u8; SECTOR], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let first = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    if bytes.iter().all(|b| *b == 0) {
        f.write_str("zeros")
    } else if bytes.contains(&POISON) && bytes.iter().all(|b| *b == POISON) {
        f.write_str("poison")
    } else if first >> 62 == 1 && first & 0xff == 0 {
        let number = first << 2 >> 10;
        let whole = if Sector::numbered(number).bytes() == bytes { "" } else { " in part" };
        write!(f, "#{number}{whole}")
    } else {
        write!(f, "{:02x?}…", &bytes[..8])
    }
}

/// Stirs `word` into `state`.
pub fn mix(state: u64, word: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 29
}

fn hash(bytes: &[u8; SECTOR]) -> u64 {
    bytes
        .chunks_exact(8)
        .fold(0x5eed, |state, word| mix(state, u64::from_le_bytes(word.try_into().expect("eight bytes"))))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_name_themselves() {
        assert_eq!(format!("{:?}", Sector::zero()), "zeros");
        assert_eq!(format!("{:?}", Sector::poison()), "poison");
        assert_eq!(format!("{:?}", Sector::numbered(300)), "#300");
        assert_eq!(format!("{:?}", Sector::numbered(4).torn(&Sector::numbered(5))), "#5 in part");
    }
}
