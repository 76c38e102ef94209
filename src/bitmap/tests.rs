use super::*;
use crate::format::{BITS_PER_PAGE, BITS_PER_SECTOR, Uuid};
use crate::testing::fuzz::Course;
use proptest::prelude::*;

const ID: Uuid = Uuid([7; 16]);

proptest! {
    #[test]
    fn pages_are_their_bits(input in proptest::collection::vec(any::<u8>(), 20..400)) {
        if let Some(course) = Course::of(&input) {
            course.run();
        }
    }

    #[test]
    fn any_bytes_decode_and_come_back(bytes in proptest::collection::vec(any::<u8>(), 4096), index: u64) {
        let bytes: [u8; 4096] = bytes.try_into().unwrap();
        let page = Page::decode(&bytes, ID, index);
        prop_assert_eq!(page.encode(ID, index), bytes);
    }
}

#[test]
fn a_sector_is_zeros_until_it_holds_a_bit() {
    let page = Page::new();
    assert_eq!(page.encode(ID, 0), [0; 4096]);
    assert_eq!(page.set_range(BITS_PER_SECTOR..BITS_PER_SECTOR + 1), Ok(1));
    let bytes = page.encode(ID, 0);
    assert_eq!(bytes[..512], [0; 512]);
    assert_eq!(bytes[512], 1, "the lowest bit of a byte comes first");
    assert_eq!(bytes[1024..], [0; 3072]);
    assert_eq!(page.clear_range(0..BITS_PER_PAGE), Ok(1));
    let cleared = page.encode(ID, 0);
    assert_ne!(cleared[512..1024], [0; 512], "a written sector stays sealed");
    let read = Page::decode(&cleared, ID, 0);
    assert_eq!(read.run(0, BITS_PER_PAGE), (Run::Clear, BITS_PER_PAGE));
    assert_eq!(read.encode(ID, 0), cleared);
}

#[test]
fn a_sector_of_another_section_or_place_is_broken() {
    let page = Page::new();
    page.set_range(0..1).unwrap();
    let bytes = page.encode(ID, 5);
    assert!(!Page::decode(&bytes, ID, 5).is_bad(0));
    assert!(Page::decode(&bytes, ID, 6).is_bad(0));
    assert!(Page::decode(&bytes, Uuid([8; 16]), 5).is_bad(0));
    let bad = Page::decode(&bytes, ID, 6);
    assert_eq!(bad.set_range(BITS_PER_SECTOR - 1..BITS_PER_SECTOR + 1), Err(BadSector { bits: 0..BITS_PER_SECTOR }));
    assert!(!bad.get(BITS_PER_SECTOR), "a refused change changes nothing");
    assert_eq!(bad.set_range(10..10), Ok(0));

    // What ends where a broken sector begins, or begins where it ends, does not touch it.
    let mut bytes = Page::new().encode(ID, 5);
    bytes[512] = 1;
    let bad = Page::decode(&bytes, ID, 5);
    assert!(bad.bad_sectors().eq([1]));
    assert_eq!(bad.set_range(BITS_PER_SECTOR - 1..BITS_PER_SECTOR), Ok(1));
    assert_eq!(bad.set_range(2 * BITS_PER_SECTOR..2 * BITS_PER_SECTOR + 1), Ok(1));
}

#[test]
fn past_its_end_a_page_holds_nothing() {
    let page = Page::new();
    assert_eq!(page.set_range(0..BITS_PER_PAGE + 1), Ok(BITS_PER_PAGE));
    assert!(page.get(BITS_PER_PAGE - 1) && !page.get(BITS_PER_PAGE) && !page.is_bad(BITS_PER_PAGE));
}

#[test]
fn threads_lose_no_bit() {
    let page = Page::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let page = &page;
            scope.spawn(move || {
                let own = (thread..BITS_PER_PAGE).step_by(4);
                assert_eq!(own.map(|bit| page.set_range(bit..bit + 1).unwrap()).sum::<u64>(), BITS_PER_PAGE / 4);
            });
        }
    });
    assert_eq!(page.run(0, BITS_PER_PAGE), (Run::Set, BITS_PER_PAGE));
}

#[test]
fn a_page_tells_in_one_line_how_many_bits_are_set_and_which_sectors_are_broken() {
    let page = Page::new();
    page.set_range(5..9).unwrap();
    assert_eq!(format!("{page:?}"), "Page { set: 4, bad: [] }");
    assert_eq!(page.run(9, 9), (Run::Clear, 9), "nothing ends where it begins");
    let moved = Page::decode(&page.encode(ID, 5), ID, 6);
    assert_eq!(format!("{moved:?}"), "Page { set: 0, bad: [0] }");
}
