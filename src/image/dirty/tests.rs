//! Runs of dirty bytes beside one look at each granule.

use super::*;
use crate::bitmap::Page;
use crate::device::BlockDevice;
use crate::format::{BITS_PER_PAGE, BITS_PER_SECTOR, MergeMark};
use crate::image::tests::{Device, Random, complete, create, open, overlay};
use crate::limits::{MAX_SECTIONS, PAGE_SIZE, SLOT_SIZE};
use crate::storage::MemoryStorage;
use crate::sync::Ordering;

#[test]
fn ranges_touch_the_granules_that_they_touch() {
    let (granule, size) = (8, 8 * 20 - 3);
    for seed in 1..500 {
        let mut random = Random(seed);
        let (mut at, mut ranges) = (0, Vec::new());
        while at < size {
            let start = at + random.below(30);
            at = start + 1 + random.below(20);
            ranges.push(start..at);
        }
        for offset in 0..size {
            let (dirty, end) = run_of_ranges(&ranges, granule, offset, size);
            let touched = |byte: u64| {
                let (first, last) = (byte / granule * granule, (byte / granule + 1) * granule);
                ranges.iter().any(|range| range.start < last && first < range.end)
            };
            assert!(offset < end && end <= size, "{offset} of {ranges:?}: {end}");
            assert!((offset..end).all(|byte| touched(byte) == dirty), "{offset}..{end} of {ranges:?}: {dirty}");
        }
    }
}

/// BMP-05: a bad sector counts as set, and keeps nobody from the others of its page.
#[test]
fn bits_are_set_beside_bad_sectors() {
    let sector = BITS_PER_SECTOR;
    for bits in [0..8 * sector, sector - 1..3 * sector + 1, 2 * sector + 5..2 * sector + 6, 3 * sector..3 * sector + 1]
    {
        let mut bytes = Page::new().encode(Uuid([3; 16]), 0);
        bytes[2 * 512] = 1;
        let page = Page::decode(&bytes, Uuid([3; 16]), 0);
        bits::set(&page, bits.clone());
        for bit in 0..8 * sector {
            let is_bad = bit / sector == 2;
            assert_eq!(
                (page.get(bit), page.is_bad(bit)),
                (bits.contains(&bit) && !is_bad, is_bad),
                "{bit} of {bits:?}"
            );
        }
    }
}

/// A file with a section of intents for 60,000 regions of 1 MiB, in two pages.
fn intents() -> (Arc<Device>, Section) {
    let file = Device::new();
    file.set_size(16384).unwrap();
    let (id, kind, covered) = (Uuid([3; 16]), SectionKind::Intent, 60_000 << 20);
    let section = Section { id, kind, granularity_shift: 20, required: false, offset: 8192, length: 8192, covered };
    (Arc::new(file), section)
}

fn region(number: u64) -> Range<u64> {
    number << 20..(number + 1) << 20
}

/// INT-01: what is intended is found by who opens the file next, in whichever page, until it is folded.
#[test]
fn intents_are_found_in_all_pages() {
    let (file, section) = intents();
    let read = || Intents::read(file.clone(), section, true);
    let (intents, found) = read();
    assert_eq!(found, []);
    for number in [100, 40_000, 7] {
        intents.intend(&(region(number).start + 5..region(number).start + 6)).unwrap();
    }
    assert_eq!(read().1, [region(7), region(100), region(40_000)]);
    // All three were relied on until now; nobody has done so since.
    intents.fold(false, || Ok(())).unwrap();
    assert_eq!(read().1.len(), 3);
    intents.intend(&region(40_000)).unwrap();
    let saved = std::cell::Cell::new(0);
    let save = || {
        saved.set(saved.get() + 1);
        Ok(())
    };
    intents.fold(false, save).unwrap();
    assert_eq!((read().1, saved.get()), (vec![region(40_000)], 1));
    intents.fold(true, || Ok(())).unwrap();
    assert_eq!(read().1, []);
}

/// A region costs a write of the section once, while a write relies on it; regions in a row cost few.
#[test]
fn intents_are_written_seldom() {
    let (file, section) = intents();
    let (intents, _) = Intents::read(file.clone(), section, true);
    let rounds = |numbers: &mut dyn Iterator<Item = u64>| {
        let before = file.writes.load(Ordering::Relaxed);
        numbers.for_each(|number| intents.intend(&region(number)).unwrap());
        (file.writes.load(Ordering::Relaxed) - before) / 2
    };
    assert_eq!(rounds(&mut [70, 70, 64, 6, 70, 64].into_iter()), 3, "each its own");
    assert_eq!(rounds(&mut [6, 64, 70].into_iter()), 0);
    intents.fold(false, || Ok(())).unwrap();
    assert_eq!(rounds(&mut [6, 64, 70].into_iter()), 0, "they were relied on");
    intents.fold(true, || Ok(())).unwrap();
    assert_eq!(rounds(&mut [6].into_iter()), 1, "it is there no more");
    let in_a_row = rounds(&mut (1000..1100));
    let ahead = Intents::read(file.clone(), section, true).1.last().map(|range| range.end);
    assert!(ahead <= Some(region(1100 + 64).start), "{ahead:?}");
    let in_a_row = in_a_row + rounds(&mut (1100..2000));
    assert!(in_a_row <= 25, "{in_a_row} rounds for 1000 regions in a row");
}

/// INT-04: what is intended while a fold has nothing to clear, and so writes nothing, counts once it is written itself.
#[test]
fn a_fold_that_clears_nothing_makes_no_intent_count() {
    let (file, section) = intents();
    let (intents, _) = Intents::read(file.clone(), section, true);
    std::thread::scope(|scope| {
        let mut guest = None;
        let save = || {
            guest = Some(scope.spawn(|| intents.intend(&region(9))));
            // Time enough to ask, and to wait for the fold.
            std::thread::sleep(Duration::from_millis(50));
            file.unsafe_cache.store(true, Ordering::Relaxed);
            Ok(())
        };
        intents.fold(false, save).unwrap();
        assert!(guest.unwrap().join().unwrap().is_err(), "its barrier has failed");
    });
    file.unsafe_cache.store(false, Ordering::Relaxed);
    let barriers = || file.barriers.load(Ordering::Relaxed);
    let before = barriers();
    intents.intend(&region(9)).unwrap();
    assert_eq!(barriers(), before + 1);
}

/// BMP-05: what could not be read is dirty for good. The host failed to read a page of bits as the intents of a crash were
/// made bits; the page was left as it was, the intents were cleared, and once it could be read again what they had spoken of
/// was clean.
#[test]
fn a_page_that_could_not_be_read_stays_dirty() {
    let page = BITS_PER_PAGE * 4096;
    let (file, image) = create(Device::new(), 2 * page, false);
    image.add_bitmap("daily", &NewBitmap { granularity_shift: 12, ..NewBitmap::default() }).unwrap();
    image.write_at(&[7; 4096], 5 << 20).unwrap();
    let crashed = Arc::new(Device { inner: file.inner.copy("image"), ..Device::new() });
    let image = open(&crashed, &None);
    let bits = *image.header().sections.iter().find(|section| section.kind == SectionKind::Dirty).unwrap();
    *lock(&crashed.unreadable) = bits.offset..bits.offset + PAGE_SIZE;
    image.write_at(&[7; 4096], page).unwrap();
    image.close().unwrap();
    *lock(&crashed.unreadable) = 0..0;
    assert_eq!(open(&crashed, &None).dirty_stretches("daily").unwrap(), [0..page + 4096]);
}

/// BMP-15: a bitmap whose bits are still to come records nothing, and is not trusted, until it begins.
#[test]
fn an_unbegun_bitmap_begins_once() {
    let (_, image) = create(MemoryStorage::new("image"), 1 << 20, false);
    let unbegun = image.add_bitmap_unbegun("late", &NewBitmap::default()).unwrap();
    let info = || image.bitmap("late").unwrap();
    assert_eq!((info().state, info().trust, info().records()), (BitmapState::Disabled, Trust::MissedWrites, false));
    image.begin_bitmap(&unbegun).unwrap();
    assert_eq!((info().state, info().trust, info().records()), (BitmapState::Recording, Trust::Valid, true));
    image.write_at(&[1; 512], 65536).unwrap();
    assert_eq!(image.dirty_stretches("late").unwrap(), [65536..131_072]);
}

/// Names may fill the header up to what its other records need.
#[test]
fn a_header_keeps_room_for_what_is_no_bitmap() {
    let (_, image) = create(MemoryStorage::new("image"), 1 << 20, false);
    let pages = || image.header().encode().unwrap().len() as u64 / PAGE_SIZE;
    let mut names = (0..).map(|number| format!("{}{number}", "n".repeat(1000)));
    let refused = loop {
        let before = pages();
        match image.add_bitmap(&names.next().unwrap(), &NewBitmap::default()) {
            Ok(_) => assert!(before < SLOT_SIZE / PAGE_SIZE),
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("has no room for one more bitmap"), "{refused}");
    assert!(pages() == SLOT_SIZE / PAGE_SIZE && image.header().sections.len() < MAX_SECTIONS);
    image.set_merge_mark(Some(MergeMark { child_uuid: Uuid([1; 16]), child_epoch: Uuid([2; 16]) })).unwrap();
}

/// A frozen bitmap without its successor is nobody's to change: only who froze it knows whether the backup was made.
#[test]
fn a_frozen_bitmap_is_left_alone() {
    let (file, image) = create(MemoryStorage::new("image"), 1 << 20, false);
    image.add_bitmap("daily", &NewBitmap::default()).unwrap();
    let freeze = |header: &mut Header| header.bitmaps[0].state = BitmapState::Frozen;
    image.order.change_header(crate::image::order::Session::None, freeze).unwrap();
    image.close().unwrap();
    let image = open(&file, &None);
    for refused in [image.clear_bitmap("daily", None).map(drop), image.disable_bitmap("daily")] {
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("the bitmap \"daily\" is frozen for a backup"), "{said}");
    }
}

/// Writes all over the disk get coarser intents after a while, and finer ones again when they have become fewer.
#[test]
fn intents_of_scattered_writes_get_coarser() {
    let (file, section) = intents();
    let (intents, _) = Intents::read(file.clone(), section, true);
    let touched = |numbers: Range<u64>| {
        for number in numbers.clone() {
            intents.intend(&region(1001 + number * 1000)).unwrap();
        }
        let found = Intents::read(file.clone(), section, true).1;
        let of = |number: u64| found.iter().find(|range| range.contains(&region(1001 + number * 1000).start)).cloned();
        numbers.map(|number| of(number).expect("an intent")).collect::<Vec<_>>()
    };
    let fine = |number: u64| region(1001 + number * 1000);
    let coarse = |number: u64| region(1000 + number * 1000).start..fine(number).end;
    assert!(touched(0..40).into_iter().eq((0..31).map(fine).chain((31..40).map(coarse))));
    intents.fold(false, || Ok(())).unwrap();
    // Twenty are remembered of them.
    assert!(touched(40..53).into_iter().eq((40..51).map(fine).chain((51..53).map(coarse))));
}

/// What changes nothing of the bitmaps leaves their bits in memory alone: read from the file they would be as coarse as
/// intents.
#[test]
fn bits_outlive_a_parent_that_goes() {
    let size = 8 << 20;
    let (file, below) = overlay(&Arc::new(complete(&vec![1; size])), size as u64, 12);
    let image = open(&file, &below);
    image.add_bitmap("daily", &NewBitmap { granularity_shift: 12, ..NewBitmap::default() }).unwrap();
    image.write_at(&[2; 4096], 5 << 20).unwrap();
    image.fill(0..size as u64).unwrap();
    image.relink(None, None).unwrap();
    assert_eq!(image.dirty_stretches("daily").unwrap(), [5 << 20..(5 << 20) + 4096]);
}
