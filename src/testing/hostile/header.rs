//! Header slots a few changes away from sound ones, beside the judge.

use super::describe::{bases, read_slots};
use super::judge::agree;
use super::number::Number;
use crate::format::{
    Bitmap, BitmapState, CopyMark, Decision, Field, GroupMark, Header, Kind, MergeMark, Point, Structure, Uuid,
    fix_checksum, structures,
};
use crate::testing::vectors::draft::Draft;
use arbitrary::{Arbitrary, Result, Unstructured};
use std::sync::OnceLock;

/// Longer lists of changes tell nothing new.
const MOST_CHANGES: usize = 8;
/// An input whose first byte has this bit is a slot itself; with bit 0, its checksum is made right.
const RAW: u8 = 0x80;

/// Two slots.
#[derive(Debug, Arbitrary)]
struct Slots {
    base: u8,
    second: Second,
    changes: Changes,
}

/// What slot 1 holds beside slot 0.
#[derive(Debug, Arbitrary)]
enum Second {
    Same,
    Empty,
    /// A header that another one followed.
    Older,
    /// One that was not written in full.
    Torn(u16),
    /// The same sound header, changed otherwise.
    Changed([Change; 2]),
}

#[derive(Debug)]
struct Changes(Vec<Change>);

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Change {
    /// A field of the fixed header.
    Fixed(u8, Number),
    /// A field of a record's payload.
    Payload(u8, u8, Number),
    Type(u8, u8),
    Flags(u8, u8),
    /// The payload has so many bytes more, or less.
    Length(u8, i8),
    Drop(u8),
    Again(u8),
    Swap(u8, u8),
    /// A field of the fixed header, when everything else is done: also its length and its number of records.
    Late(u8, Number),
    Byte(u16, u8),
}

impl Number {
    /// As many bytes as `field` has: a number, and where that is none, one byte again and again.
    fn bytes(self, field: &Field) -> Vec<u8> {
        let number = self.value().to_le_bytes();
        number.get(..field.size as usize).map_or_else(|| vec![number[0]; field.size as usize], <[u8]>::to_vec)
    }
}

impl Arbitrary<'_> for Changes {
    fn arbitrary(input: &mut Unstructured<'_>) -> Result<Changes> {
        let mut changes = Vec::new();
        while !input.is_empty() && changes.len() < MOST_CHANGES {
            changes.push(input.arbitrary()?);
        }
        Ok(Changes(changes))
    }
}

/// Judges the slots that `input` describes.
///
/// # Panics
/// If the library and the judge do not agree, or what was accepted does not come back.
pub fn play(input: &[u8]) {
    match input.split_first() {
        Some((knobs, slot)) if knobs & RAW != 0 => {
            let mut slot = slot.to_vec();
            if knobs & 1 != 0 {
                fix_checksum(&mut slot);
            }
            drop(agree(&slot, &[]));
        }
        _ => drop(Slots::arbitrary_take_rest(Unstructured::new(input)).map(|slots| slots.judge())),
    }
}

impl Slots {
    fn judge(&self) {
        let sound = &sound()[usize::from(self.base) % sound().len()];
        let draft = Draft::of(sound);
        let first = changed(draft.clone(), &self.changes.0);
        let second = match &self.second {
            Second::Same => first.clone(),
            Second::Empty => Vec::new(),
            Second::Older => Draft::of(&Header { sequence: sound.sequence - 1, ..sound.clone() }).slot(),
            Second::Torn(at) => {
                let mut torn = first.clone();
                let at = usize::from(*at) % torn.len();
                torn[at] ^= 1;
                torn
            }
            Second::Changed(changes) => changed(draft, changes),
        };
        drop(agree(&first, &second));
        drop(agree(&second, &first));
    }
}

fn changed(mut draft: Draft, changes: &[Change]) -> Vec<u8> {
    let structures = structures();
    for change in changes {
        let count = draft.records.len().max(1);
        let at = |number: u8| usize::from(number) % count;
        match *change {
            Change::Fixed(field, number) => put(&mut draft.fixed, &structures[0], field, number),
            Change::Late(field, number) => {
                let field = &structures[0].fields[usize::from(field) % structures[0].fields.len()];
                draft.put_late(field.offset as usize, &number.bytes(field));
            }
            Change::Byte(at, byte) => draft.put_late(usize::from(at), &[byte]),
            _ if draft.records.is_empty() => {}
            Change::Payload(record, field, number) => {
                let record = &mut draft.records[at(record)];
                if let Some(structure) = payload(&structures, record.record_type) {
                    put(&mut record.payload, structure, field, number);
                }
            }
            Change::Type(record, number) => draft.records[at(record)].record_type = u16::from(number % 12),
            Change::Flags(record, flags) => draft.records[at(record)].flags = flags.into(),
            Change::Length(record, more) => {
                let payload = &mut draft.records[at(record)].payload;
                payload.resize(payload.len().saturating_add_signed(more.into()), 0);
            }
            Change::Drop(record) => drop(draft.records.remove(at(record))),
            Change::Again(record) => draft.records.insert(at(record), draft.records[at(record)].clone()),
            Change::Swap(one, other) => draft.records.swap(at(one), at(other)),
        }
    }
    let mut slot = draft.slot();
    slot.truncate(1 << 16);
    slot
}

/// Changes a field of a structure, if the bytes are long enough to have it.
fn put(bytes: &mut [u8], structure: &Structure, field: u8, number: Number) {
    let field = &structure.fields[usize::from(field) % structure.fields.len()];
    let start = field.offset as usize;
    if let Some(place) = bytes.get_mut(start..start + field.size as usize) {
        place.copy_from_slice(&number.bytes(field));
    }
}

/// The fields of a payload.
fn payload(structures: &[Structure], record_type: u16) -> Option<&Structure> {
    let names = ["Section", "Parent", "Merge mark", "Copy mark", "Host", "Bitmap", "Point", "Group mark", "Decision"];
    let name = names.get(usize::from(record_type).checked_sub(1)?)?;
    structures.iter().find(|structure| structure.name == *name)
}

/// Sound headers: those of the files that hostile ones begin from, with every record that they can have, and a group's.
fn sound() -> &'static [Header] {
    static SOUND: OnceLock<Vec<Header>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let id = |byte| Uuid([byte; 16]);
        let mut headers: Vec<Header> = bases().iter().map(|base| read_slots(base).expect("sound").header).collect();
        let mut full = headers[2].clone();
        full.merge_mark = Some(MergeMark { child_uuid: id(1), child_epoch: id(2) });
        full.copy_mark = Some(CopyMark { group: id(3) });
        full.set_group_mark(Some(GroupMark { group: id(3) }));
        full.points.push(Point { source: id(4), point: id(5) });
        let dirty = crate::format::Section {
            id: id(6),
            kind: crate::format::SectionKind::Dirty,
            granularity_shift: 16,
            required: false,
            offset: full.data_end().next_multiple_of(4096),
            length: 4096,
            covered: full.virtual_size,
        };
        full.sections.push(dirty);
        let (section, since, epoch, name) = (id(6), id(7), full.epoch, "daily".to_string());
        full.bitmaps.push(Bitmap { section, since, epoch, state: BitmapState::Recording, name });
        headers.push(full);
        let decision = Some(Decision::Undecided);
        headers.push(Header { sequence: 2, decision, ..Header::new(Kind::Group, id(8), id(9), 0, 0) });
        headers
    })
}
