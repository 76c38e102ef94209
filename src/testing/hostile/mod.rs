//! Files that somebody made to be opened: any bytes, opened, read, checked and written to.

mod describe;
pub mod header;
pub mod judge;
pub(in crate::testing) mod number;

pub use describe::{bases, expand, pack};

use crate::chain::RawDevice;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{
    BITS_PER_SECTOR, BitmapState, Header, Kind, RawRecord, Section, SectorState, State, Uuid, check_sector,
};
use crate::image::{Image, OpenOptions, Trust};
use crate::limits::{SECTOR_SIZE, SLOT_SIZE, SLOTS_END};
use crate::storage::{MemoryStorage, Storage};
use crate::testing::host::SimHost;
use describe::{get, put, read_slots};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// A disk with more blocks is not walked from end to end.
const MOST_BLOCKS: u64 = 1 << 20;
/// More pages of bitmaps than that are not written: the file is in memory.
const MOST_PAGES: u64 = 1 << 13;
/// Bytes that are looked at in one place.
const PROBE: u64 = 700;

/// Opens, reads, checks and changes the file that `input` describes.
///
/// # Panics
/// If a file is read as something else than it says, or a changed file is not what it should be.
pub fn open(input: &[u8]) {
    let (file, places) = expand(input);
    let slots = get(&file, 0..SLOTS_END);
    let Ok(chosen) = judge::agree(&slots[..SLOT_SIZE as usize], &slots[SLOT_SIZE as usize..]) else {
        let refused = Image::open(Arc::new(file), Arc::new(SimHost::new(1)), &OpenOptions::default());
        assert!(refused.is_err(), "a file without a header opened");
        return;
    };
    let subject = Subject::new(file, chosen.header, &places);
    if let Ok(image) = subject.open(false) {
        subject.examine(&image);
        subject.change();
    }
}

/// A file with a header, and what it needs to be opened.
struct Subject {
    header: Header,
    file: Arc<MemoryStorage>,
    /// The file itself, or the volume that it serves.
    data: Arc<MemoryStorage>,
    below: Arc<MemoryStorage>,
    /// Parts of the disk that are looked at.
    probes: Vec<Range<u64>>,
    /// Offsets in the file that hold something.
    places: Vec<u64>,
}

impl Subject {
    fn new(file: MemoryStorage, header: Header, places: &[u64]) -> Subject {
        let file = Arc::new(file);
        let data = match header.host {
            None => file.clone(),
            Some(host) => {
                let volume = MemoryStorage::new("volume");
                volume.set_size(host.length).expect("memory has any size");
                Arc::new(volume)
            }
        };
        let below = MemoryStorage::new("below");
        let visible = header.parent.as_ref().map_or(0, |parent| parent.visible_length);
        let probes = probes(&header, visible, places);
        probes.iter().for_each(|probe| put(&below, &[0xbe; PROBE as usize], probe.start));
        below.set_size(visible).expect("memory has any size");
        Subject { header, file, data, below: Arc::new(below), probes, places: places.to_vec() }
    }

    fn open(&self, write: bool) -> Result<Image> {
        let options = OpenOptions { write, ignore_marks: true, ..OpenOptions::default() };
        let host = Arc::new(SimHost::new(u64::from(write)));
        let image = match self.header.kind {
            Kind::Image => Image::open(self.file.clone(), host, &options)?,
            Kind::Sidecar => Image::open_sidecar(self.file.clone(), self.data.clone(), host, &options)?,
            // What is refused is no disk, and this is none either.
            Kind::Group => Image::open(self.file.clone(), host, &options)?,
        };
        if self.header.parent.is_some() {
            image.set_below(Some(Arc::new(RawDevice::new(self.below.clone(), false)?)));
        }
        Ok(image)
    }

    /// Everything that reading offers.
    fn examine(&self, image: &Image) {
        assert_eq!(image.size(), self.header.virtual_size);
        for probe in &self.probes {
            let (read, expected) = (read(image, probe), self.naive(probe));
            assert_eq!(read.ok(), expected, "bytes {probe:?}");
        }
        if image.size() / image.granule() <= MOST_BLOCKS {
            let report = image.check().expect("memory is read");
            assert!(report.present_blocks <= report.total_blocks);
        }
        let mut at = 0;
        for _ in 0..64 {
            let Ok(extent) = image.extent(at, image.size()) else { break };
            assert_eq!(extent.range.start, at);
            assert!(extent.range.end <= image.size() && (extent.range.end > at || at == image.size()));
            at = extent.range.end;
        }
        self.examine_bitmaps(image);
    }

    /// The bitmaps tell something of all of the disk.
    fn examine_bitmaps(&self, image: &Image) {
        for info in image.bitmaps().iter().filter(|info| info.broken.is_none()) {
            let mut at = 0;
            for _ in 0..64 {
                let (dirty, end) = image.bitmap_run(&info.name, at, image.size()).expect("memory is read");
                assert!(end <= image.size() && (end > at || at == image.size()));
                assert!(dirty || at == image.size() || info.trust != Trust::Stale);
                at = end;
            }
        }
    }

    /// The bytes of `range` by the words of the specification alone; `None` where a seal is broken (PAG-04).
    fn naive(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let offset = self.header.data_offset + range.start;
        let mut bytes = get(&self.data, offset..offset + (range.end - range.start));
        let below = get(&self.below, range.clone());
        let Some(section) = self.header.allocation() else { return Some(bytes) };
        let mut last = None;
        for (at, (byte, lower)) in range.clone().zip(bytes.iter_mut().zip(below)) {
            let bit = at / section.granule();
            let present = match last {
                Some((known, present)) if known == bit => present,
                _ => self.naive_bit(bit)?,
            };
            last = Some((bit, present));
            *byte = if present { *byte } else { lower };
        }
        Some(bytes)
    }

    fn naive_bit(&self, bit: u64) -> Option<bool> {
        let section = self.header.allocation()?;
        let (index, within) = (bit / BITS_PER_SECTOR, bit % BITS_PER_SECTOR);
        let place = section.offset + index * SECTOR_SIZE;
        let sector: [u8; 512] = get(&self.file, place..place + SECTOR_SIZE).try_into().expect("a sector");
        match check_sector(&sector, section.id, index) {
            SectorState::Bad => None,
            _ => Some(sector[(within / 8) as usize] >> (within % 8) & 1 == 1),
        }
    }

    /// Writes to it, closes it, and looks again.
    fn change(mut self) {
        let header = &self.header;
        let recording =
            |id: Uuid| header.bitmaps.iter().any(|it| it.section == id && it.state == BitmapState::Recording);
        let pages: u64 = header.sections.iter().filter(|it| recording(it.id)).map(Section::pages).sum();
        if (header.state == State::Writing || header.intents().is_some()) && pages > MOST_PAGES {
            // Intents may make all of them dirty.
            return;
        }
        let Ok(image) = self.open(true) else { return };
        let (kept, stale) = (self.strange(), stale(&image));
        let mut expected: Vec<_> = self.probes.iter().map(|probe| read(&image, probe).ok()).collect();
        // The last sequence numbers leave no room for another header.
        let last = self.header.sequence >= (1 << 63) - 8;
        let mut done = true;
        for (number, target) in self.probes.iter().enumerate().take(4) {
            let result = match number % 2 {
                0 => image.write_at(&[0xaa; PROBE as usize][..(target.end - target.start) as usize], target.start),
                _ => image.write_zeroes(target.clone(), true),
            };
            match result {
                Ok(()) => {
                    self.probes.iter().zip(&mut expected).for_each(|(probe, bytes)| {
                        let value = if number % 2 == 0 { 0xaa } else { 0 };
                        overwrite(probe, bytes, target, value);
                    });
                }
                Err(error) => {
                    // What a refused write left of its range is open; the broken sector is why.
                    assert!(last || matches!(error, Error::Corrupt { .. }), "{error}");
                    done = false;
                }
            }
        }
        let closed = image.close();
        assert!(last || closed.is_ok(), "{closed:?}");
        drop(image);
        self.header = read_slots(&self.file).expect("a changed file has a header").header;
        assert_eq!(self.strange(), kept, "what is not known is kept");
        let image = self.open(false).expect("a changed file opens");
        assert!(stale.is_subset(&self::stale(&image)), "a stale bitmap stays stale");
        self.examine(&image);
        if done && closed.is_ok() {
            let again: Vec<_> = self.probes.iter().map(|probe| read(&image, probe).ok()).collect();
            assert!(again == expected, "what was written is read");
        }
    }

    /// What a writer must not touch: unknown records, features, sections it does not use, and their bytes.
    fn strange(&self) -> Header {
        let mut header = self.header.clone();
        let mut own: Vec<Uuid> = header.allocation().into_iter().chain(header.intents()).map(|s| s.id).collect();
        for bitmap in header.bitmaps.iter_mut().filter(|bitmap| bitmap.state == BitmapState::Recording) {
            own.push(bitmap.section);
            bitmap.epoch = Uuid::NIL;
        }
        if let Some(host) = &mut header.host {
            host.former = Uuid::NIL;
        }
        header.sections.retain(|section| !own.contains(&section.id));
        for section in &header.sections {
            for &place in self.places.iter().filter(|place| section.range().contains(place)) {
                let record = get(&self.file, place..place + SECTOR_SIZE);
                header.unknown.push(RawRecord { record_type: 0, flags: 0, payload: record });
            }
        }
        Header { sequence: 0, epoch: Default::default(), state: State::Closed, ..header }
    }
}

/// Where to look: at the ends, where sectors and pages of bits meet, where the parent ends, at each piece.
fn probes(header: &Header, visible: u64, places: &[u64]) -> Vec<Range<u64>> {
    let size = header.virtual_size;
    let granule = header.granule();
    let meet = [BITS_PER_SECTOR, 8 * BITS_PER_SECTOR].map(|bits| (bits * granule).saturating_sub(PROBE / 2));
    let ends = [0, size.saturating_sub(PROBE), visible.saturating_sub(PROBE / 2), granule - PROBE / 2];
    let pieces = places.iter().filter_map(|place| place.checked_sub(header.data_offset)).take(8);
    let starts = pieces.chain(ends).chain(meet).filter(|&start| start < size);
    starts.map(|start| start..size.min(start.saturating_add(PROBE))).collect()
}

/// The names of the bitmaps that are not to be trusted.
fn stale(image: &Image) -> BTreeSet<String> {
    image.bitmaps().into_iter().filter(|info| info.trust == Trust::Stale).map(|info| info.name).collect()
}

fn read(image: &Image, range: &Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    image.read_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// Puts `value` where `target` meets `probe`, whose bytes are known.
fn overwrite(probe: &Range<u64>, bytes: &mut Option<Vec<u8>>, target: &Range<u64>, value: u8) {
    let meet = probe.start.max(target.start)..probe.end.min(target.end);
    if let Some(bytes) = bytes.as_mut().filter(|_| meet.start < meet.end) {
        bytes[(meet.start - probe.start) as usize..(meet.end - probe.start) as usize].fill(value);
    }
}
