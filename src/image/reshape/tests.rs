//! Disks that change their size, beside what was written to them.

use crate::device::BlockDevice;
use crate::error::Error;
use crate::format::Section;
use crate::image::order::COPY_CHUNK;
use crate::image::tests::{Device, Random, complete, create, open, overlay};
use crate::image::{CreateOptions, Image, NewBitmap, OpenOptions};
use crate::limits::{MAX_SIZE, PAGE_SIZE};
use crate::storage::{MemoryStorage, OsHost, Storage};
use crate::sync::{Arc, Ordering};
use std::collections::{BTreeMap, BTreeSet};

const CHUNK: u64 = 4096;

/// A disk, and each chunk of it that is not zeros: the byte that fills it, and up to where.
struct Subject {
    file: Arc<MemoryStorage>,
    below: Option<Arc<dyn BlockDevice>>,
    image: Image,
    chunks: BTreeMap<u64, (u8, u64)>,
    /// By their names: chunks that were written since, and how many chunks the disk had all along.
    bitmaps: Vec<(String, BTreeSet<u64>, u64)>,
}

impl Subject {
    fn new(random: &mut Random, size: u64) -> Subject {
        let mut chunks = BTreeMap::new();
        let (file, below) = if random.below(2) == 0 {
            let seen = 100.min(size / CHUNK);
            chunks.extend((0..seen).map(|chunk| (chunk, (7, CHUNK))));
            overlay(&Arc::new(complete(&vec![7; (seen * CHUNK) as usize])), size, 12)
        } else {
            (create(MemoryStorage::new("image"), size, random.below(2) == 0).0, None)
        };
        Subject { image: open(&file, &below), file, below, chunks, bitmaps: Vec::new() }
    }

    fn step(&mut self, random: &mut Random) {
        let size = self.image.size();
        match random.below(12) {
            0..6 => {
                let chunk = random.below(size / CHUNK);
                let value = random.below(255) as u8 + 1;
                self.image.write_at(&[value; CHUNK as usize], chunk * CHUNK).unwrap();
                self.chunks.insert(chunk, (value, CHUNK));
                for (_, written, _) in &mut self.bitmaps {
                    written.insert(chunk);
                }
            }
            6 if self.bitmaps.len() < 3 => {
                let name = format!("since {}", self.bitmaps.len());
                let fine = NewBitmap { granularity_shift: 12, ..NewBitmap::default() };
                self.image.add_bitmap(&name, &fine).unwrap();
                self.bitmaps.push((name, BTreeSet::new(), size / CHUNK));
            }
            7 => {
                self.image.close().unwrap();
                self.image = open(&self.file, &self.below);
            }
            _ => {
                let size = [1, 20, 130, 300, 700][random.below(5) as usize] << 20;
                self.resize(size + random.below(3) * 512 + random.below(100) * PAGE_SIZE);
            }
        }
    }

    fn resize(&mut self, size: u64) {
        self.image.resize(size).unwrap();
        assert_eq!(self.image.size(), size);
        self.chunks.retain(|chunk, (_, length)| {
            *length = (*length).min(size.saturating_sub(chunk * CHUNK));
            *length > 0
        });
        for (_, written, least) in &mut self.bitmaps {
            written.retain(|chunk| chunk * CHUNK < size);
            *least = (size / CHUNK).min(*least);
        }
    }

    fn check(&self, random: &mut Random) {
        let size = self.image.size();
        let some: Vec<u64> = (0..50).map(|_| random.below(size / CHUNK)).collect();
        for chunk in self.chunks.keys().chain(&some) {
            let mut bytes = vec![0; CHUNK.min(size - chunk * CHUNK) as usize];
            self.image.read_at(&mut bytes, chunk * CHUNK).unwrap();
            let (value, length) = self.chunks.get(chunk).copied().unwrap_or_default();
            let (held, rest) = bytes.split_at(length as usize);
            assert!(held.iter().all(|byte| *byte == value) && rest.iter().all(|byte| *byte == 0), "chunk {chunk}");
        }
        for (name, written, least) in &self.bitmaps {
            let dirty = |chunk: u64| self.image.bitmap_run(name, chunk * CHUNK, chunk * CHUNK + 1).unwrap().0;
            assert!(written.iter().all(|chunk| dirty(*chunk)), "\"{name}\" has missed a write");
            let clean = |chunk: &&u64| **chunk < *least && !written.contains(chunk);
            assert!(!some.iter().filter(clean).any(|chunk| dirty(*chunk)), "\"{name}\" has dirty what nobody wrote");
            let clean_until = |chunk: u64| {
                let (dirty, end) = self.image.bitmap_run(name, chunk * CHUNK, size).unwrap();
                if dirty { 0 } else { end.min(size / CHUNK * CHUNK) }
            };
            assert!(some.iter().all(|chunk| clean_until(*chunk) <= least * CHUNK), "\"{name}\": clean past {least}");
            let mut grown = some.iter().filter(|chunk| *chunk >= least);
            assert!(grown.all(|chunk| dirty(*chunk)), "\"{name}\" has clean what a growth has brought");
        }
        let report = self.image.check().unwrap();
        assert!(report.findings.is_empty(), "{report:?}");
    }
}

#[test]
fn disks_that_change_their_size_keep_what_they_hold() {
    for seed in 1..80 {
        let mut random = Random(seed);
        let mut subject = Subject::new(&mut random, 1 << 20);
        for _ in 0..30 {
            subject.step(&mut random);
            subject.check(&mut random);
        }
    }
}

/// An emptied overlay shows its parent again, and what it held is the host's.
#[test]
fn an_overlay_that_is_emptied_holds_nothing() {
    let parent = Arc::new(complete(&[7; 20 * CHUNK as usize]));
    let (file, below) = overlay(&parent, 20 * CHUNK, 12);
    let image = open(&file, &below);
    image.add_bitmap("daily", &NewBitmap::default()).unwrap();
    image.write_at(&[8; 5 * CHUNK as usize], 2 * CHUNK).unwrap();
    image.flush().unwrap();
    let (before, epoch) = (image.header(), image.epoch());
    image.empty(&OsHost::default()).unwrap();
    let after = image.header();
    let [old, new] = [&before, &after].map(|header| *header.allocation().unwrap());
    assert!(old.id != new.id && old.offset != new.offset && old.length == new.length);
    assert_eq!((image.epoch(), after.bitmaps.len(), after.sections.len()), (epoch, 1, before.sections.len()));
    let others = |sections: &[Section]| {
        sections.iter().filter(|section| section.id != old.id && section.id != new.id).copied().collect::<Vec<_>>()
    };
    assert_eq!(others(&before.sections), others(&after.sections));
    let hole = |start: u64, length: u64| file.next_data(start..start + length).unwrap().is_none();
    assert!(hole(old.offset, old.length) && hole(after.data_offset, 20 * CHUNK));
    assert_eq!(image.local_run(0, 20 * CHUNK).unwrap(), (false, 20 * CHUNK));
    image.close().unwrap();
    let mut bytes = [0; 20 * CHUNK as usize];
    open(&file, &below).read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [7; 20 * CHUNK as usize]);
}

/// Where a device ends, no section begins that does not fit; one that does takes its last byte.
#[test]
fn sections_end_where_the_device_ends() {
    let size = 1 << 30;
    let on_device = |length: u64| {
        let device = Device { fixed: true, ..Device::new() };
        device.set_size(length).unwrap();
        create(device, size, false).1
    };
    let fine = NewBitmap { granularity_shift: 12, ..NewBitmap::default() };
    let image = on_device(2 * size);
    let mut ends = Vec::new();
    for number in 0..4 {
        image.add_bitmap(&number.to_string(), &fine).unwrap();
        ends.push(image.header().sections.iter().map(|section| section.range().end).max().unwrap());
    }
    let data_end = image.header().data_end();
    let [.., before, last] = ends[..] else { unreachable!() };
    assert!(data_end < before && before < last);
    for (length, fits) in [(last, true), (last - 1, false), (before, false)] {
        let image = on_device(length);
        (0..3).for_each(|number| assert!(image.add_bitmap(&number.to_string(), &fine).is_ok()));
        match image.add_bitmap("last", &fine) {
            Ok(_) => assert!(fits, "{length}"),
            Err(error) => assert!(!fits && matches!(error, Error::NoSpace { .. }), "{length}: {error}"),
        }
        assert_eq!(image.bitmaps().len(), 3 + usize::from(fits));
    }
}

/// What is not in the way of the data, and long enough, stays where it is.
#[test]
fn sections_move_only_out_of_the_way() {
    for size in [CHUNK, 8 << 20] {
        let (_, image) = create(MemoryStorage::new("image"), size, true);
        let data = image.header().data_offset;
        let behind = |image: &Image| image.header().sections.iter().filter(|section| section.offset > data).count();
        for number in 0.. {
            image.add_bitmap(&number.to_string(), &NewBitmap::default()).unwrap();
            if behind(&image) == 2 {
                break;
            }
        }
        let before = image.header().sections.clone();
        let next = before.iter().filter(|section| section.offset > data).min_by_key(|section| section.offset);
        let next = *next.expect("a section behind the data");
        image.resize(next.offset - data - 1).unwrap();
        image.resize(next.offset - data).unwrap();
        let kept: Vec<u64> = image.header().sections.iter().map(|section| section.offset).collect();
        assert!(kept.iter().eq(before.iter().map(|section| &section.offset)), "{kept:?}");
        image.resize(next.offset - data + 1).unwrap();
        for (section, old) in image.header().sections.iter().zip(kept) {
            assert_eq!(section.offset != old, section.id == next.id, "{section:?} was at {old}");
        }
    }
}

/// A section that gets longer leaves its old place to the host, before the data and in a sidecar.
#[test]
fn sections_that_get_longer_move_behind_what_there_is() {
    let host = Arc::new(OsHost::default());
    let write = OpenOptions { write: true, ..OpenOptions::default() };
    for in_sidecar in [false, true] {
        let file = Arc::new(MemoryStorage::new("image"));
        let options = CreateOptions { virtual_size: 1 << 20, allocation: true, ..CreateOptions::default() };
        let image = if in_sidecar {
            let volume = Arc::new(MemoryStorage::new("volume"));
            volume.set_size(options.virtual_size).unwrap();
            Image::create_sidecar(&*file, &*volume, &*host, &options).unwrap();
            Image::open_sidecar(file.clone(), volume, host.clone(), &write).unwrap()
        } else {
            Image::create(&*file, &*host, &options).unwrap();
            open(&file, &None)
        };
        image.add_bitmap("daily", &NewBitmap::default()).unwrap();
        image.write_at(&[7; CHUNK as usize], 3 * CHUNK).unwrap();
        let before = image.header();
        // Three pages of bits.
        let size = 300 << 20;
        image.resize(size).unwrap();
        let (old, new) = (before.allocation().unwrap(), *image.header().allocation().unwrap());
        assert_eq!((new.length, old.length), (3 * PAGE_SIZE, PAGE_SIZE));
        let ends = before.sections.iter().map(|section| section.range().end).chain([image.header().data_end()]);
        assert!(new.offset >= ends.max().unwrap() && new.offset.is_multiple_of(PAGE_SIZE));
        assert!(file.next_data(old.range()).unwrap().is_none(), "in a sidecar: {in_sidecar}");
        image.write_at(&[8; CHUNK as usize], size - CHUNK).unwrap();
        for at in [3, 4, size / CHUNK - 2, size / CHUNK - 1] {
            assert_eq!(image.local_run(at * CHUNK, at * CHUNK + 1).unwrap().0, at == 3 || at == size / CHUNK - 1);
        }
        let others = |sections: &[Section]| {
            let others = sections.iter().filter(|section| section.id != old.id);
            others.map(|section| (section.id, section.offset, section.length)).collect::<Vec<_>>()
        };
        if in_sidecar {
            assert_eq!(others(&before.sections), others(&image.header().sections));
        }
        assert!(image.check().unwrap().findings.is_empty());
    }
}

/// However long a section is, moving it takes little memory.
#[test]
fn sections_are_moved_piece_by_piece() {
    let size = 64 << 30;
    let (file, image) = create(Device::new(), size, false);
    image.add_bitmap("daily", &NewBitmap { granularity_shift: 12, ..NewBitmap::default() }).unwrap();
    let places: Vec<u64> = (0..size).step_by((100 << 20) + 4096).collect();
    for at in &places {
        image.write_at(&[7], *at).unwrap();
    }
    image.seal().unwrap();
    let dirty = image.dirty_stretches("daily").unwrap();
    assert_eq!(dirty.len(), places.len());
    file.longest_read.store(0, Ordering::Relaxed);
    image.resize(size + (1 << 30)).unwrap();
    let longest = file.longest_read.load(Ordering::Relaxed);
    assert!(longest == COPY_CHUNK, "{longest}");
    let kept = image.dirty_stretches("daily").unwrap();
    assert_eq!(kept[..dirty.len()], dirty[..]);
}

/// Space that a section has given up is the next one's.
#[test]
fn sections_fill_the_gaps_of_others() {
    let (_, image) = create(MemoryStorage::new("image"), 1 << 20, false);
    let add = |name: &str| {
        image.add_bitmap(name, &NewBitmap::default()).unwrap();
    };
    let places = || image.header().sections.iter().map(|section| section.offset).collect::<BTreeSet<_>>();
    ["first", "second", "third"].into_iter().for_each(add);
    let before = places();
    for name in ["second", "first", "third"] {
        image.remove_bitmap(name).unwrap();
        assert_eq!(places().len(), before.len() - 1);
        add(name);
        assert_eq!(places(), before);
    }
}

#[test]
fn a_disk_may_be_as_large_as_disks_can_be() {
    let (file, image) = create(MemoryStorage::new("image"), 1 << 20, false);
    let said = image.resize(MAX_SIZE + 1).unwrap_err().to_string();
    assert!(said.contains("no disk is larger than"), "{said}");
    image.resize(MAX_SIZE).unwrap();
    image.write_at(&[1; 512], MAX_SIZE - 512).unwrap();
    image.close().unwrap();
    assert_eq!(open(&file, &None).size(), MAX_SIZE);
}
