//! Few bytes that describe a file, so that a fuzzer can hold it.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | knobs: 1 makes header checksums right, 2 copies slot 0 to slot 1, 4 seals the sectors of sections; times 16: the number of the base that pieces are put on, 0 for none |
//! | 8 | length of the file; with a base, zero stands for the base's |
//! | 4, 2, n | a piece: number of its first sector of 512 bytes, its length n, its bytes; again and again |

use crate::chain::RawDevice;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::{Chosen, Flaw, Header, Identity, Parent, ParentFormat, Uuid, choose, fix_checksum, seal};
use crate::image::{CreateOptions, Image, OpenOptions};
use crate::limits::{MAX_OFFSET, SECTOR_SIZE, SLOT_SIZE, SLOTS_END};
use crate::storage::{MemoryStorage, Storage};
use crate::testing::host::SimHost;
use crate::zeros::is_zero;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

const FIX_CHECKSUMS: u8 = 1;
const EQUAL_SLOTS: u8 = 2;
const SEAL_SECTORS: u8 = 4;
/// Bytes of the disks of the bases.
const BASE_SIZE: u64 = 300_000;

/// The file that `input` describes, and the offsets where it has pieces.
pub fn expand(input: &[u8]) -> (MemoryStorage, Vec<u64>) {
    let (knobs, rest) = input.split_first().map_or((0, input), |(knobs, rest)| (*knobs, rest));
    let (size, mut rest) = rest.split_first_chunk().unwrap_or((&[0; 8], rest));
    let base = usize::from(knobs >> 4).checked_sub(1).and_then(|number| bases().get(number));
    let file = base.map_or_else(|| MemoryStorage::new("hostile"), |base| base.copy("hostile"));
    let size = match u64::from_le_bytes(*size) % (MAX_OFFSET + 1) {
        0 if base.is_some() => file.size().expect("memory has a size"),
        size => size,
    };
    let mut places = Vec::new();
    while let Some(([s0, s1, s2, s3, l0, l1], after)) = rest.split_first_chunk() {
        let offset = u64::from(u32::from_le_bytes([*s0, *s1, *s2, *s3])) * SECTOR_SIZE;
        let length = usize::from(u16::from_le_bytes([*l0, *l1])).min(after.len());
        put(&file, &after[..length], offset);
        places.push(offset);
        rest = &after[length..];
    }
    file.set_size(size).expect("memory has any size");
    if knobs & FIX_CHECKSUMS != 0 {
        (0..2).for_each(|slot| change_slot(&file, slot * SLOT_SIZE, fix_checksum));
    }
    if knobs & EQUAL_SLOTS != 0 {
        let first = get(&file, 0..SLOT_SIZE);
        change_slot(&file, SLOT_SIZE, |slot| slot.copy_from_slice(&first));
    }
    if knobs & SEAL_SECTORS != 0
        && let Ok(chosen) = read_slots(&file)
    {
        places.iter().for_each(|&place| seal_sector(&file, &chosen.header, place));
    }
    (file, places)
}

/// Describes a file of `size` bytes that holds `pieces` at their offsets, multiples of 512, and else zeros.
/// What lies too far out to be described is left out.
pub fn pack<'a>(size: u64, pieces: impl IntoIterator<Item = (u64, &'a [u8])>) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(size.to_le_bytes());
    for (offset, bytes) in pieces {
        for (number, sector) in (offset / SECTOR_SIZE..).zip(bytes.chunks(SECTOR_SIZE as usize)) {
            if let (Ok(number), false) = (u32::try_from(number), is_zero(sector)) {
                out.extend(number.to_le_bytes());
                out.extend((sector.len() as u16).to_le_bytes());
                out.extend(sector);
            }
        }
    }
    out
}

pub(super) fn get(file: &MemoryStorage, range: Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_at(&mut bytes, range.start).expect("memory is read");
    bytes
}

pub(super) fn put(file: &MemoryStorage, bytes: &[u8], offset: u64) {
    file.write_at(bytes, offset).expect("memory is written");
}

/// Changes a header slot, unless the file ends before it does.
fn change_slot(file: &MemoryStorage, offset: u64, change: impl FnOnce(&mut [u8])) {
    if file.size().is_ok_and(|size| size >= offset + SLOT_SIZE) {
        let mut slot = get(file, offset..offset + SLOT_SIZE);
        change(&mut slot);
        put(file, &slot, offset);
    }
}

/// Makes the seal right of the sector at `place`, if it is a section's.
fn seal_sector(file: &MemoryStorage, header: &Header, place: u64) {
    let Some(section) = header.sections.iter().find(|section| section.range().contains(&place)) else { return };
    let mut sector: [u8; 512] = get(file, place..place + SECTOR_SIZE).try_into().expect("a sector");
    seal(&mut sector, section.id, (place - section.offset) / SECTOR_SIZE);
    put(file, &sector, place);
}

pub(super) fn read_slots(file: &MemoryStorage) -> std::result::Result<Chosen, Flaw> {
    let slots = get(file, 0..SLOTS_END);
    choose(&slots[..SLOT_SIZE as usize], &slots[SLOT_SIZE as usize..])
}

/// Sound files to begin with: a complete image, an overlay on nothing and on a parent, a sidecar.
pub fn bases() -> &'static [MemoryStorage] {
    static BASES: OnceLock<Vec<MemoryStorage>> = OnceLock::new();
    BASES.get_or_init(|| {
        let identity = Some(Identity { uuid: Uuid([4; 16]), epoch: Uuid([5; 16]) });
        let (format, visible_length) = (ParentFormat::Lvd, BASE_SIZE - 5000);
        let parent = Parent { identity, format, visible_length, hint: "base".into() };
        let complete = CreateOptions { virtual_size: BASE_SIZE, ..CreateOptions::default() };
        let overlay = CreateOptions { allocation: true, ..complete.clone() };
        let child = CreateOptions { parent: Some(parent), ..complete.clone() };
        let bases = [(&complete, false), (&overlay, false), (&child, false), (&child, true)];
        bases.into_iter().map(|(options, sidecar)| base(options, sidecar).expect("memory takes it")).collect()
    })
}

fn base(options: &CreateOptions, sidecar: bool) -> Result<MemoryStorage> {
    let (file, host) = (Arc::new(MemoryStorage::new("base")), Arc::new(SimHost::new(7)));
    let lower = Arc::new(MemoryStorage::with_bytes("below", &[1; BASE_SIZE as usize]));
    let write = OpenOptions { write: true, ..OpenOptions::default() };
    let image = if sidecar {
        let volume = Arc::new(lower.copy("volume"));
        Image::create_sidecar(&*file, &*volume, &*host, options)?;
        Image::open_sidecar(file.clone(), volume, host, &write)?
    } else {
        Image::create(&*file, &*host, options)?;
        Image::open(file.clone(), host, &write)?
    };
    image.set_below(Some(Arc::new(RawDevice::new(lower, false)?)));
    image.write_at(&[7; 9000], 10_000)?;
    image.close()?;
    Ok(file.copy("base"))
}
