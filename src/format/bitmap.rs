//! The record of a dirty bitmap, and that of a backup point. Neither keeps a file from opening (BMP-01).

use super::kinds::{BitmapState, SectionKind};
use super::layout::{Bytes, OnDisk, on_disk};
use super::record::{BITMAP, RawRecord};
use super::{Header, Section, Uuid};
use crate::limits::{BITMAP_NAME, MAX_BITMAP_BITS, MAX_INTENTS};
use crate::switch::unchecked;
use crate::violation::Violation;

on_disk! {
    /// A dirty bitmap; its name follows.
    BitmapBody, table "Bitmap" {
        section: Uuid,
        since: Uuid,
        epoch: Uuid,
        state: u16,
        name_length: u16,
        reserved: Bytes<12>,
    }
}

on_disk! {
    /// What a backup is a copy of, and of which moment.
    PointBody, table "Point" {
        source: Uuid,
        point: Uuid,
    }
}

/// What the header says of a dirty bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// The identity of the section that has its bits.
    pub section: Uuid,
    /// Names the point from which on it tells of changes.
    pub since: Uuid,
    /// Names the content up to which it tells of them.
    pub epoch: Uuid,
    /// What it does.
    pub state: BitmapState,
    /// Its name.
    pub name: String,
}

/// What a backup is a copy of, and of which moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The UUID of the disk.
    pub source: Uuid,
    /// The `since` of the bitmap that tells of what changed after it.
    pub point: Uuid,
}

impl Header {
    /// Moves the records of bitmaps from the unknown ones to the bitmaps, but for those that break a rule.
    pub(super) fn admit_bitmaps(&mut self) {
        let (records, rest) = std::mem::take(&mut self.unknown).into_iter().partition(|r| r.record_type == BITMAP);
        self.unknown = rest;
        let records: Vec<RawRecord> = records;
        for record in records {
            match self.admit(&record) {
                Ok(bitmap) => self.bitmaps.push(bitmap),
                Err(_) => self.unknown.push(record),
            }
        }
        self.unknown.sort_by_key(|record| record.record_type);
    }

    /// The records that are no bitmaps, each with its name as far as it has one, and the rule that it breaks.
    pub fn broken_bitmaps(&self) -> Vec<(String, Violation)> {
        let records = self.unknown.iter().filter(|record| record.record_type == BITMAP);
        records
            .filter_map(|record| {
                let name = record.payload.get(BitmapBody::SIZE..).unwrap_or_default();
                Some((String::from_utf8_lossy(name).into_owned(), self.admit(record).err()?))
            })
            .collect()
    }

    /// Takes away the records that are no bitmaps and have this name. False if there is none.
    pub fn remove_broken_bitmaps(&mut self, name: &str) -> bool {
        let before = self.unknown.len();
        let named = |record: &RawRecord| record.payload.get(BitmapBody::SIZE..) == Some(name.as_bytes());
        self.unknown.retain(|record| record.record_type != BITMAP || !named(record));
        self.unknown.len() < before
    }

    /// What a record says, if it is a bitmap beside those that there are.
    fn admit(&self, record: &RawRecord) -> Result<Bitmap, Violation> {
        let bitmap = decode(&record.payload)?;
        self.check_bitmap(&bitmap)?;
        Ok(bitmap)
    }

    /// Holds a bitmap that is to stand behind the others against BMP-03 and BMP-04: by itself first, since one that is none
    /// may have stood before the others.
    pub fn check_bitmap(&self, bitmap: &Bitmap) -> Result<(), Violation> {
        let frozen = |bitmap: &Bitmap| bitmap.state == BitmapState::Frozen;
        let twin = |other: &Bitmap| other.name == bitmap.name && frozen(other) == frozen(bitmap);
        let named = BITMAP_NAME.contains(&bitmap.name.len()) && !bitmap.name.contains('\0');
        hold(named, Violation::BitmapName)?;
        let mut sections = self.sections.iter().filter(|section| section.kind.tells_of_changes());
        let there = sections.any(|section| section.id == bitmap.section && section.bits() <= MAX_BITMAP_BITS);
        let taken = self.bitmaps.iter().any(|other| other.section == bitmap.section);
        hold(there, Violation::BitmapSection)?;
        hold(!self.bitmaps.iter().any(twin), Violation::BitmapName)?;
        hold(!taken, Violation::BitmapSection)
    }

    /// The section of intents; one that has more of them than any writer makes is not read (INT-02).
    pub fn intents(&self) -> Option<&Section> {
        self.section(SectionKind::Intent).filter(|section| section.bits() <= MAX_INTENTS)
    }

    /// Makes the recording bitmaps that name the epoch `from` name `to` (EPO-01, EPO-02).
    pub fn carry_bitmaps(&mut self, from: Uuid, to: Uuid) {
        for bitmap in &mut self.bitmaps {
            if bitmap.state == BitmapState::Recording && bitmap.epoch == from {
                bitmap.epoch = to;
            }
        }
    }
}

fn hold(condition: bool, violation: Violation) -> Result<(), Violation> {
    if condition || unchecked(violation) { Ok(()) } else { Err(violation) }
}

fn decode(payload: &[u8]) -> Result<Bitmap, Violation> {
    let (fixed, name) = payload.split_at(payload.len().min(BitmapBody::SIZE));
    let body = BitmapBody::parse(fixed).ok_or(Violation::BitmapRecord)?;
    let state = BitmapState::from_number(body.state);
    let told = name.len() == usize::from(body.name_length) && body.reserved == Bytes::ZERO;
    let named = !body.since.is_nil() && !body.epoch.is_nil();
    hold(told && named && state.is_some(), Violation::BitmapRecord)?;
    let text = std::str::from_utf8(name);
    hold(text.is_ok(), Violation::BitmapName)?;
    let name = text.map_or_else(|_| String::from_utf8_lossy(name).into_owned(), str::to_owned);
    let (section, since, epoch) = (body.section, body.since, body.epoch);
    Ok(Bitmap { section, since, epoch, state: state.unwrap_or(BitmapState::Disabled), name })
}

/// The payload of a bitmap's record.
pub(super) fn encode(bitmap: &Bitmap) -> Result<Vec<u8>, Violation> {
    let body = BitmapBody {
        section: bitmap.section,
        since: bitmap.since,
        epoch: bitmap.epoch,
        state: bitmap.state.number(),
        name_length: u16::try_from(bitmap.name.len()).map_err(|_| Violation::BitmapName)?,
        reserved: Bytes::ZERO,
    };
    Ok([&body.to_bytes(), bitmap.name.as_bytes()].concat())
}

/// What the record of a backup point says.
pub(super) fn decode_point(payload: &[u8]) -> Option<Point> {
    PointBody::parse(payload).map(|body| Point { source: body.source, point: body.point })
}

/// The payload of its record.
pub(super) fn encode_point(point: &Point) -> Vec<u8> {
    PointBody { source: point.source, point: point.point }.to_bytes()
}
