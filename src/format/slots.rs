//! Which of the two header slots counts.

use super::flaw::require;
use super::header::{FixedHeader, Slot, Whole, header_length};
use super::layout::OnDisk;
use super::{Flaw, Header};
use crate::limits::PAGE_SIZE;
use crate::violation::Violation;
use std::borrow::Cow;

/// The header that counts.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// What it says.
    pub header: Header,
    /// The slot it was found in, 0 or 1; 0 if both hold it.
    pub slot: usize,
    /// Its bytes as they were found, with what lies behind it up to a multiple of 4096.
    pub bytes: Vec<u8>,
    /// Whether the other slot holds the same.
    pub equal: bool,
}

/// Chooses among what was read from the two slots: the highest sequence number among valid headers counts.
///
/// A slot that is empty or torn is skipped. One that is whole and breaks a rule refuses the file, whichever
/// it is; so do two that are not of one file. If there is no header at all, the error is of the slot that came closest to
/// one (HDR-06, HDR-17 to 20, HDR-23).
/// Of each slot its first [`header_length`] bytes are enough; those that are missing count as zeros.
pub fn choose(slot0: &[u8], slot1: &[u8]) -> Result<Chosen, Flaw> {
    let (slot0, slot1) = (in_full(slot0), in_full(slot1));
    let (first, second) = match (Slot::read(&slot0), Slot::read(&slot1)) {
        (Slot::Whole(first), Slot::Whole(second)) => return newest(first, &slot0, second, &slot1),
        (Slot::Whole(only), _) => return Chosen::found(only, 0, &slot0),
        (_, Slot::Whole(only)) => return Chosen::found(only, 1, &slot1),
        (first, second) => (first.into_flaw(), second.into_flaw()),
    };
    Err(match (first, second) {
        (Some(first), Some(second)) if closeness(&second) > closeness(&first) => second,
        (Some(flaw), _) | (None, Some(flaw)) => flaw,
        (None, None) => Flaw::corrupt(Violation::Magic),
    })
}

/// As much of a slot as its header takes, at least.
pub(super) fn in_full(slot: &[u8]) -> Cow<'_, [u8]> {
    let padded = at_least(Cow::Borrowed(slot), FixedHeader::SIZE);
    let length = header_length(&padded);
    at_least(padded, length)
}

fn at_least(mut slot: Cow<'_, [u8]>, length: usize) -> Cow<'_, [u8]> {
    if slot.len() < length {
        slot.to_mut().resize(length, 0);
    }
    slot
}

fn newest(first: Whole<'_>, slot0: &[u8], second: Whole<'_>, slot1: &[u8]) -> Result<Chosen, Flaw> {
    let same_bytes = first.bytes == second.bytes;
    let (first, second) = (Chosen::found(first, 0, slot0)?, Chosen::found(second, 1, slot1)?);
    let same_number = first.header.sequence == second.header.sequence;
    require(same_bytes || !same_number, Violation::EqualSequence)?;
    let file = |chosen: &Chosen| (chosen.header.kind, chosen.header.uuid);
    require(file(&first) == file(&second), Violation::OneFile)?;
    let newest = if second.header.sequence > first.header.sequence { second } else { first };
    Ok(Chosen { equal: same_bytes, ..newest })
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
    fn found(whole: Whole<'_>, number: usize, slot: &[u8]) -> Result<Chosen, Flaw> {
        let pages = whole.bytes.len().next_multiple_of(PAGE_SIZE as usize);
        let bytes = slot[..pages.min(slot.len())].to_vec();
        Ok(Chosen { header: whole.decode()?, slot: number, bytes, equal: false })
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
