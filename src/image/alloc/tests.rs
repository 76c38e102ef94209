//! The allocation bitmap beside plain bits, and what it keeps in memory.

use super::*;
use crate::format::{SectionKind, Uuid};
use crate::image::tests::{Device, Random};

/// Where the section lies in its file.
const OFFSET: u64 = 8192;

/// A file with a section of so many pages, none of them written.
fn empty(pages: u64) -> Arc<Device> {
    let file = Device::new();
    file.set_size(OFFSET + pages * PAGE_SIZE).unwrap();
    Arc::new(file)
}

/// The bitmap in it, that keeps so many pages.
fn bitmap(file: &Arc<Device>, kept: u64) -> Allocation {
    let length = file.size().unwrap() - OFFSET;
    let (id, kind, required) = (Uuid([3; 16]), SectionKind::Allocation, true);
    let section = Section { id, kind, granularity_shift: 12, required, offset: OFFSET, length, covered: 0 };
    Allocation::new(file.clone(), section, kept * PAGE_SIZE)
}

fn save(allocation: &Allocation) {
    for (offset, page) in allocation.take_dirty() {
        allocation.file.write_at(&page[..], offset).unwrap();
    }
    allocation.committed();
}

/// From and to anywhere, over several pages; some only in memory, some of the file's holes, a sector broken.
#[test]
fn runs_of_blocks_are_those_of_their_bits() {
    let pages = 5;
    let blocks = pages * BITS_PER_PAGE;
    let place = |random: &mut Random| {
        let page = random.below(pages + 1) * BITS_PER_PAGE;
        (page + random.below(3)).saturating_sub(random.below(3)).min(blocks)
    };
    for seed in 1..40 {
        let mut random = Random(seed);
        let file = empty(pages);
        let mut bits = vec![false; blocks as usize];
        let broken = (seed % 2 == 0).then(|| random.below(pages * 8));
        let is_bad = |block: u64| broken == Some(block / BITS_PER_SECTOR);
        let told = |block: u64| {
            let at = OFFSET + block / BITS_PER_SECTOR * SECTOR_SIZE;
            Error::corrupt("image", at, Violation::SealedSector).to_string()
        };
        let mut change = |allocation: &Allocation, random: &mut Random| {
            for _ in 0..random.below(4) {
                let (start, end) = (place(random), place(random));
                let clear = random.below(3) == 0;
                let edit = if clear { Allocation::clear } else { Allocation::set };
                match edit(allocation, start..end) {
                    Ok(()) => bits[start.min(end) as usize..end as usize].fill(!clear),
                    // What lies in the pages before that one is done.
                    Err(error) => {
                        let bad = (start..end).find(|block| is_bad(*block)).expect("a broken sector");
                        assert_eq!(error.to_string(), told(bad));
                        let page = bad / BITS_PER_PAGE * BITS_PER_PAGE;
                        bits[start.min(page) as usize..page as usize].fill(!clear);
                    }
                }
            }
        };
        let saved = bitmap(&file, 0);
        change(&saved, &mut random);
        save(&saved);
        if let Some(sector) = broken {
            file.write_at(&[1; SECTOR_SIZE as usize], OFFSET + sector * SECTOR_SIZE).unwrap();
        }
        let allocation = bitmap(&file, 0);
        change(&allocation, &mut random);
        for _ in 0..200 {
            let (start, end) = (place(&mut random), place(&mut random));
            let run = allocation.run(start, end);
            if start < end && is_bad(start) {
                assert_eq!(run.unwrap_err().to_string(), told(start));
                continue;
            }
            let differs = |at: &u64| is_bad(*at) || bits[*at as usize] != bits[start as usize];
            let stop = (start..end).find(differs).unwrap_or(end.max(start));
            let present = start < end && bits[start as usize];
            assert_eq!(run.unwrap(), BlockRun { present, end: stop }, "{start}..{end}, seed {seed}");
            let all = allocation.all_present(start..end);
            assert_eq!(all.unwrap_or(false), present && stop == end, "{start}..{end}, seed {seed}");
        }
    }
}

#[test]
fn pages_are_kept_as_far_as_the_cache_goes_and_until_they_are_committed() {
    let file = empty(1000);
    let allocation = bitmap(&file, 64);
    let reads = |pages: Range<u64>| {
        let before = file.reads.load(Ordering::Relaxed);
        pages.for_each(|page| drop(allocation.page(page).unwrap()));
        file.reads.load(Ordering::Relaxed) - before
    };
    assert_eq!((reads(0..64), reads(0..64)), (64, 0));
    reads(0..1000);
    let kept = || allocation.shards.iter().map(|pages| read(pages).len() as u64).sum::<u64>();
    assert!(kept() <= 64 + SHARDS, "{} pages", kept());
    assert_eq!(allocation.cached.load(Ordering::Relaxed), kept());

    // The 33rd is more than half of them.
    for page in 0..40 {
        assert_eq!(allocation.crowded(), page > 32, "{page} pages are not committed");
        allocation.set(page * BITS_PER_PAGE..page * BITS_PER_PAGE + 1).unwrap();
    }
    let set = || (0..40).filter(|page| allocation.page(*page).unwrap().get(0)).count();
    reads(100..1000);
    assert_eq!((reads(0..40), set()), (0, 40));
    let taken = allocation.take_dirty();
    assert!(taken.len() == 40 && !allocation.crowded());
    reads(100..1000);
    assert_eq!((reads(0..40), set()), (0, 40), "what a commit has taken is not in the file yet");
    for (offset, page) in taken {
        file.write_at(&page[..], offset).unwrap();
    }
    allocation.committed();
    for _ in 0..4 {
        reads(100..1000);
    }
    assert!(reads(0..40) > 20 && set() == 40, "what is in the file makes room");
}

#[test]
fn the_host_is_asked_once_for_the_pages_around_one() {
    let groups = MOST_GROUPS as u64 + 2;
    let file = empty(groups * GROUP - 10);
    let allocation = bitmap(&file, 64);
    let bytes = |group: u64| OFFSET + group * GROUP * PAGE_SIZE..OFFSET + (group + 1) * GROUP * PAGE_SIZE;
    let wanted = |page: u64| {
        allocation.page(page).unwrap();
        std::mem::take(&mut *lock(&file.wanted))
    };
    assert_eq!(wanted(300), [bytes(1)]);
    assert_eq!((wanted(300), wanted(511), wanted(256)), (vec![], vec![], vec![]));
    assert_eq!((wanted(255), wanted(0)), (vec![bytes(0)], vec![]));
    let last = (groups - 1) * GROUP;
    assert_eq!(wanted(last), [bytes(groups - 1).start..OFFSET + (groups * GROUP - 10) * PAGE_SIZE]);
    // So many are remembered, and then none.
    (2..MOST_GROUPS as u64 - 2).for_each(|group| assert_eq!(wanted(group * GROUP).len(), 1));
    assert_eq!(wanted(257), []);
    assert_eq!(wanted((MOST_GROUPS as u64 - 2) * GROUP).len(), 1);
    assert_eq!((wanted(258), wanted(259)), (vec![bytes(1)], vec![]));
}

/// An image of petabytes has millions of pages that nobody wrote: a run over them looks at none.
#[test]
fn a_run_over_a_hole_asks_for_none_of_its_pages() {
    let pages = 100_000;
    let file = empty(pages);
    let bit = |page: u64| page * BITS_PER_PAGE..page * BITS_PER_PAGE + 1;
    let allocation = bitmap(&file, 64);
    allocation.set(bit(3)).unwrap();
    allocation.set(bit(70_000)).unwrap();
    save(&allocation);
    for unsaved in [None, Some(50_000)] {
        let allocation = bitmap(&file, 64);
        unsaved.into_iter().for_each(|page| allocation.set(bit(page)).unwrap());
        let before = file.reads.load(Ordering::Relaxed);
        let run = allocation.run(bit(20).start, bit(pages).start).unwrap();
        assert_eq!(run, BlockRun { present: false, end: bit(unsaved.unwrap_or(70_000)).start });
        let reads = file.reads.load(Ordering::Relaxed) - before;
        assert!(reads <= 2, "{reads} reads");
    }
}
