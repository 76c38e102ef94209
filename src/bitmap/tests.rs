use super::*;
use crate::format::{BITS_PER_PAGE, BITS_PER_SECTOR, Uuid};
use bitvec::prelude::{BitVec, Lsb0};
use proptest::prelude::*;
use std::ops::Range;

const ID: Uuid = Uuid([7; 16]);

/// The naive twin of a page: plain bits, and which sectors are broken.
struct Model {
    bits: BitVec<u8, Lsb0>,
    bad: [bool; 8],
}

impl Model {
    fn new() -> Model {
        Model { bits: BitVec::repeat(false, BITS_PER_PAGE as usize), bad: [false; 8] }
    }

    fn what(&self, bit: u64) -> Run {
        match (self.bad[(bit / BITS_PER_SECTOR) as usize], self.bits[bit as usize]) {
            (true, _) => Run::Bad,
            (false, true) => Run::Set,
            (false, false) => Run::Clear,
        }
    }

    fn change(&mut self, range: Range<u64>, value: bool) -> Option<u64> {
        let bits = range.start..range.end.min(BITS_PER_PAGE);
        if bits.clone().any(|bit| self.what(bit) == Run::Bad) {
            return None;
        }
        let changed = bits.clone().filter(|&bit| self.bits[bit as usize] != value).count() as u64;
        bits.for_each(|bit| self.bits.set(bit as usize, value));
        Some(changed)
    }

    fn run(&self, bit: u64, end: u64) -> (Run, u64) {
        let what = self.what(bit);
        (what, (bit..end.min(BITS_PER_PAGE)).find(|&at| self.what(at) != what).unwrap_or(end.min(BITS_PER_PAGE)))
    }
}

#[derive(Debug, Clone)]
enum Op {
    Set(Range<u64>),
    Clear(Range<u64>),
    /// Encodes, breaks a byte of a sector that holds something, and decodes again.
    Break(usize),
    Reload,
}

fn range() -> impl Strategy<Value = Range<u64>> {
    let length = prop_oneof![0..4u64, 50..80u64, 3900..4100u64, 0..BITS_PER_PAGE];
    (0..BITS_PER_PAGE + 70, length).prop_map(|(start, length)| start..start + length)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => range().prop_map(Op::Set),
        3 => range().prop_map(Op::Clear),
        1 => (0..4096usize).prop_map(Op::Break),
        1 => Just(Op::Reload),
    ]
}

fn apply(page: &mut Page, model: &mut Model, op: Op) {
    match op {
        Op::Set(range) => assert_eq!(page.set_range(range.clone()).ok(), model.change(range, true)),
        Op::Clear(range) => assert_eq!(page.clear_range(range.clone()).ok(), model.change(range, false)),
        Op::Reload => *page = Page::decode(&page.encode(ID, 3), ID, 3),
        // Twice the same byte would heal it.
        Op::Break(byte) if model.bad[byte / 512] => {}
        Op::Break(byte) => {
            let mut bytes = page.encode(ID, 3);
            bytes[byte] ^= 0x40;
            model.bad[byte / 512] = true;
            *page = Page::decode(&bytes, ID, 3);
            assert_eq!(page.encode(ID, 3), bytes, "what is broken is kept");
        }
    }
}

proptest! {
    #[test]
    fn page_is_its_model(ops in proptest::collection::vec(op(), 1..30), probes in proptest::collection::vec(range(), 10)) {
        let (mut page, mut model) = (Page::new(), Model::new());
        for op in ops {
            apply(&mut page, &mut model, op);
        }
        for probe in probes {
            if probe.start < probe.end.min(BITS_PER_PAGE) {
                prop_assert_eq!(page.run(probe.start, probe.end), model.run(probe.start, probe.end));
                prop_assert_eq!(page.is_bad(probe.start), model.what(probe.start) == Run::Bad);
                prop_assert_eq!(page.get(probe.start), model.what(probe.start) == Run::Set);
            }
            let set = (probe.start..probe.end.min(BITS_PER_PAGE)).filter(|&bit| model.what(bit) == Run::Set);
            prop_assert_eq!(page.count(probe.clone()), set.count() as u64);
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
