//! A state as one number, the same for states that differ in nothing but what was drawn at random, or was written, to tell
//! things apart.
//!
//! Identities, epochs and contents of sectors count by where they come up first, sequence numbers of headers by their
//! distance, and checksums, which follow from the rest, not at all.

use super::file::Content;
use super::laws::View;
use super::sector::{Sector, mix};
use super::sim::SimDisk;
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::format::Uuid;
use crate::image::Image;
use crate::limits::{SECTOR_SIZE, SLOT_SIZE, SLOTS_END};
use std::collections::HashMap;
use std::ops::Range;

/// Where a header has its checksum, and its sequence number.
const CHECKSUM: Range<usize> = 16..20;
const SEQUENCE: Range<usize> = 24..32;
/// Where a sealed sector has its checksum.
const SEAL: Range<usize> = 508..512;

/// A number in the making.
#[derive(Debug)]
pub struct Fingerprint {
    state: u64,
    /// What came up so far, by a hash.
    names: HashMap<u64, u64>,
    /// How all that the host draws begins.
    drawn: [u8; 8],
}

impl Fingerprint {
    /// Of nothing yet. `drawn` is something that its host drew.
    pub fn new(drawn: [u8; 16]) -> Fingerprint {
        let [drawn, _] = halves(&drawn);
        Fingerprint { state: 0, names: HashMap::new(), drawn }
    }

    /// The number.
    pub fn end(self) -> u64 {
        self.state
    }

    /// Takes in a number as it is.
    pub fn number(&mut self, number: u64) {
        self.state = mix(self.state, number);
    }

    /// Takes in a number that only tells things apart.
    pub fn name(&mut self, name: u64) {
        let next = self.names.len() as u64 + 1;
        let known = *self.names.entry(name).or_insert(next);
        self.number(known);
    }

    /// Takes in an identity or epoch.
    pub fn uuid(&mut self, uuid: Uuid) {
        let [_, drawn] = halves(&uuid.0);
        if uuid.is_nil() { self.number(0) } else { self.name(u64::from_le_bytes(drawn)) }
    }

    /// Takes in what the guest wrote to a sector.
    pub fn content(&mut self, sector: &Sector) {
        if sector.is_zero() { self.number(0) } else { self.name(sector.hash()) }
    }

    /// Takes in all files: what the page cache shows, and what is durable.
    pub fn disk(&mut self, disk: &SimDisk) {
        for file in disk.files() {
            self.number(file.name.bytes().fold(u64::from(file.entry), |state, byte| mix(state, byte.into())));
            self.file(&file.cache, &file.payload);
            if !file.pending.is_empty() {
                self.file(&file.durable, &file.payload);
            }
            self.number(file.pending.iter().filter(|op| op.abandoned).count() as u64);
        }
    }

    /// Takes in one file, whose guest data lies at `payload`.
    pub fn file(&mut self, content: &Content, payload: &Range<u64>) {
        self.number(content.size);
        let slots = [0, SLOT_SIZE / SECTOR_SIZE];
        let sequence = |sector: &Sector| u64::from_le_bytes(sector.bytes()[SEQUENCE].try_into().expect("eight bytes"));
        let sequences = slots.map(|slot| content.sectors.get(&slot).map_or(u64::MAX, sequence));
        let oldest = sequences.into_iter().min().unwrap_or_default();
        for (number, sector) in content.sectors.iter().filter(|(_, sector)| !sector.is_zero()) {
            self.number(*number);
            if payload.contains(&(number * SECTOR_SIZE)) {
                self.content(sector);
                continue;
            }
            let mut bytes = *sector.bytes();
            if slots.contains(number) {
                bytes[CHECKSUM].fill(0);
                bytes[SEQUENCE].copy_from_slice(&sequence(sector).wrapping_sub(oldest).to_le_bytes());
            } else if number * SECTOR_SIZE >= SLOTS_END {
                bytes[SEAL].fill(0);
            }
            self.metadata(&bytes);
        }
    }

    /// Takes in bytes among which there are identities.
    fn metadata(&mut self, bytes: &[u8; SECTOR_SIZE as usize]) {
        let (mut plain, mut at) = (*bytes, 0);
        while let Some(next) = bytes[at..].iter().position(|byte| *byte == self.drawn[0]) {
            at += next;
            match bytes[at..].first_chunk::<16>() {
                Some(uuid) if uuid.starts_with(&self.drawn) => {
                    self.number(at as u64);
                    self.uuid(Uuid(*uuid));
                    plain[at..at + 16].fill(0);
                    at += 16;
                }
                _ => at += 1,
            }
        }
        self.number(Sector::new(plain).hash());
    }

    /// Takes in what is expected of the disks.
    pub fn views(&mut self, views: &[View]) {
        for view in views {
            self.number(u64::from(view.required) | (view.bitmaps.len() as u64) << 1);
            view.model.tell(self);
            let now = view.model.content();
            for (since, content) in &view.points {
                self.uuid(*since);
                content.iter().filter(|(at, hash)| now.get(at) != Some(hash)).for_each(|(at, _)| self.number(*at));
            }
        }
    }

    /// Takes in what an open chain keeps in memory of its images.
    pub fn chain(&mut self, chain: &Chain) {
        self.number(chain.layers.len() as u64);
        chain.layers.iter().filter_map(|layer| layer.image()).for_each(|image| self.image(image));
    }

    /// Takes in what an open image keeps in memory.
    pub fn image(&mut self, image: &Image) {
        let header = image.header();
        self.number(header.state as u64 | u64::from(image.poisoned().is_some()) << 2);
        [header.uuid, header.epoch].into_iter().for_each(|uuid| self.uuid(uuid));
        let (size, mut at) = (image.size(), 0);
        while let Ok((present, end)) = image.local_run(at, size)
            && at < size
        {
            self.number(end << 1 | u64::from(present));
            at = end;
        }
        for bitmap in image.bitmaps() {
            self.uuid(bitmap.since);
            self.number(bitmap.trust as u64 | (bitmap.state as u64) << 2);
            for stretch in image.dirty_stretches(&bitmap.name).unwrap_or_default() {
                self.number(stretch.start);
                self.number(stretch.end);
            }
        }
    }
}

fn halves(bytes: &[u8; 16]) -> [[u8; 8]; 2] {
    let (halves, _) = bytes.as_chunks::<8>();
    [halves[0], halves[1]]
}
