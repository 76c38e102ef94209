//! Runs of dirty bytes beside one look at each granule.

use super::*;
use crate::bitmap::Page;
use crate::format::BITS_PER_SECTOR;
use crate::image::tests::Random;
use crate::storage::MemoryStorage;

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

/// INT-01: what is intended is found by who opens the file next, in whichever page, until it is folded.
#[test]
fn intents_are_found_in_all_pages() {
    let file = Arc::new(MemoryStorage::new("image"));
    let (id, kind, covered) = (Uuid([3; 16]), SectionKind::Intent, 60_000 << 20);
    let section = Section { id, kind, granularity_shift: 20, required: false, offset: 8192, length: 8192, covered };
    file.set_size(8192 + 8192).unwrap();
    let read = || Intents::read(file.clone(), section, true);
    let (intents, found) = read();
    assert_eq!(found, []);
    let region = |number: u64| number << 20..(number + 1) << 20;
    for number in [100, 40_000, 7] {
        intents.intend(&(region(number).start + 5..region(number).start + 6)).unwrap();
    }
    assert_eq!(read().1, [region(7), region(100), region(40_000)]);
    // All three were relied on until now; nobody has done so since.
    intents.fold(false, || Ok(())).unwrap();
    assert_eq!(read().1.len(), 3);
    intents.intend(&region(40_000)).unwrap();
    let mut saved = 0;
    intents
        .fold(false, || {
            saved += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((read().1, saved), (vec![region(40_000)], 1));
    intents.fold(true, || Ok(())).unwrap();
    assert_eq!(read().1, []);
}
