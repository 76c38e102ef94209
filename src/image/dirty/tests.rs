//! Runs of dirty bytes beside one look at each granule.

use super::*;
use crate::bitmap::Page;
use crate::format::BITS_PER_SECTOR;
use crate::image::tests::{Device, Random};
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
    let in_a_row = rounds(&mut (1000..2000));
    assert!(in_a_row <= 25, "{in_a_row} rounds for 1000 regions in a row");
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
