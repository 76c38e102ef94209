//! Which of the two header slots counts.

use super::flaw::require;
use super::header::Slot;
use super::{Flaw, Header};
use crate::limits::SLOT_SIZE;
use crate::violation::Violation;

/// The header that counts.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// What it says.
    pub header: Header,
    /// The slot it was found in, 0 or 1; 0 if both hold it.
    pub slot: usize,
    /// Its bytes as they were found, as long as its length says.
    pub bytes: Vec<u8>,
    /// Whether the other slot holds the same.
    pub equal: bool,
}

/// Chooses among what was read from the two slots: the highest sequence number among valid headers counts.
///
/// A slot that is empty or torn is skipped. One that is whole and breaks a rule refuses the file, whichever
/// it is. If there is no header at all, the error is of the slot that came closest to one.
pub fn choose(slot0: &[u8], slot1: &[u8]) -> Result<Chosen, Flaw> {
    let (first, second) = match (Slot::read(slot0), Slot::read(slot1)) {
        (Slot::Whole(first, bytes0), Slot::Whole(second, bytes1)) => {
            return newest((first?, bytes0), (second?, bytes1));
        }
        (Slot::Whole(header, bytes), _) => return Ok(Chosen::only(header?, 0, bytes)),
        (_, Slot::Whole(header, bytes)) => return Ok(Chosen::only(header?, 1, bytes)),
        (first, second) => (first.into_flaw(), second.into_flaw()),
    };
    let short = slot0.len().min(slot1.len()) < SLOT_SIZE as usize;
    Err(match (first, second) {
        (Some(first), Some(second)) if closeness(&second) > closeness(&first) => second,
        (Some(flaw), _) | (None, Some(flaw)) => flaw,
        (None, None) if short => Flaw::corrupt(Violation::Slots),
        (None, None) => Flaw::corrupt(Violation::Magic),
    })
}

fn newest(first: (Header, &[u8]), second: (Header, &[u8])) -> Result<Chosen, Flaw> {
    let same_number = first.0.sequence == second.0.sequence;
    let equal = same_number && first.1 == second.1;
    require(equal || !same_number, Violation::EqualSequence)?;
    let slot = usize::from(second.0.sequence > first.0.sequence);
    let (header, bytes) = if slot == 0 { first } else { second };
    Ok(Chosen { header, slot, bytes: bytes.to_vec(), equal })
}

/// How near the bytes came to being a header.
fn closeness(flaw: &Flaw) -> u8 {
    match flaw.violation {
        Violation::Magic => 0,
        Violation::HeaderLength => 1,
        Violation::HeaderChecksum => 2,
        _ => 3,
    }
}

impl Chosen {
    fn only(header: Header, slot: usize, bytes: &[u8]) -> Chosen {
        Chosen { header, slot, bytes: bytes.to_vec(), equal: false }
    }
}

impl Slot<'_> {
    /// Why it is no header; `None` if nothing is there.
    fn into_flaw(self) -> Option<Flaw> {
        match self {
            Slot::Torn(flaw) => Some(flaw),
            Slot::Empty | Slot::Whole(..) => None,
        }
    }
}
