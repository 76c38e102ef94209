//! Pages of two bitmap sections, whose sectors break and get into each other's places, beside plain bits.

use crate::bitmap::{Page, Run};
use crate::format::{BITS_PER_PAGE, BITS_PER_SECTOR, PAYLOAD_BYTES, Uuid};
use arbitrary::{Arbitrary, Result, Unstructured};
use std::ops::Range;

/// Longer courses tell nothing new.
const MOST_EVENTS: usize = 64;
/// Each page by its section and its number there.
const PAGES: [(Uuid, u64); 4] =
    [(Uuid([7; 16]), 0), (Uuid([7; 16]), 3), (Uuid([8; 16]), 3), (Uuid([7; 16]), u64::MAX / 8)];
const SECTOR: usize = 512;

/// What happens to some pages.
#[derive(Debug)]
pub struct Course(Vec<(u8, Event)>);

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Event {
    Set(Bits),
    Clear(Bits),
    Look(Bits),
    /// Written and read again.
    Reload,
    /// Written, with this byte changed, and read again.
    Break(u16),
    /// Written, with a sector of another page, or of another place, in place of one of its own, and read again.
    Misplace {
        page: u8,
        from: u8,
        to: u8,
    },
    /// Written, with zeros in place of a sector, and read again.
    Lose(u8),
    /// What is broken counts as set.
    BadSet,
}

/// Bits of a page, near the edge of a word or a sector.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Bits {
    start: u16,
    edge: bool,
    length: Length,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Length {
    Few(u8),
    Sectors(u8, i8),
    Any(u16),
}

impl Bits {
    /// They may reach past the page.
    fn range(self) -> Range<u64> {
        let start = match self.edge {
            true => u64::from(self.start % 9) * BITS_PER_SECTOR,
            false => u64::from(self.start),
        };
        let length = match self.length {
            Length::Few(length) => length.into(),
            Length::Sectors(number, more) => {
                (u64::from(number % 9) * BITS_PER_SECTOR).saturating_add_signed(more.into())
            }
            Length::Any(length) => length.into(),
        };
        start..start + length
    }
}

impl Arbitrary<'_> for Course {
    fn arbitrary(input: &mut Unstructured<'_>) -> Result<Course> {
        let mut events = Vec::new();
        while !input.is_empty() && events.len() < MOST_EVENTS {
            events.push(input.arbitrary()?);
        }
        Ok(Course(events))
    }
}

impl Course {
    /// The course that some bytes describe, up to where they end.
    pub fn of(input: &[u8]) -> Option<Course> {
        Course::arbitrary_take_rest(Unstructured::new(input)).ok()
    }

    /// Lets it happen.
    ///
    /// # Panics
    /// If a page is not what its bits and its bytes are.
    pub fn run(&self) {
        let mut twins = PAGES.map(Twin::new);
        for (number, event) in &self.0 {
            let at = usize::from(*number) % twins.len();
            if let Event::Misplace { page, from, to } = *event {
                let other = twins[usize::from(page) % twins.len()].bytes();
                let (from, to) = (usize::from(from % 8), usize::from(to % 8));
                let sector = other[from * SECTOR..][..SECTOR].try_into().expect("a sector");
                twins[at].put(to, sector);
            } else {
                twins[at].happen(*event);
            }
            twins[at].check(event.reach());
        }
        twins.iter().for_each(|twin| twin.check(0..BITS_PER_PAGE));
    }
}

impl Event {
    /// The bits that have to be looked at after it at once: the whole page is, in the end.
    fn reach(self) -> Range<u64> {
        match self {
            Event::Set(bits) | Event::Clear(bits) | Event::Look(bits) => {
                let range = bits.range();
                range.start.saturating_sub(64)..range.end + 64
            }
            Event::Break(at) => sector(usize::from(at) / SECTOR),
            Event::Misplace { to, .. } => sector(to.into()),
            Event::Lose(number) => sector(number.into()),
            Event::Reload | Event::BadSet => 0..BITS_PER_PAGE,
        }
    }
}

/// The bits of a sector of a page, and some beside it.
fn sector(number: usize) -> Range<u64> {
    let start = (number % 8) as u64 * BITS_PER_SECTOR;
    start.saturating_sub(64)..start + BITS_PER_SECTOR + 64
}

/// What a sector is, as far as its bits do not say it.
#[derive(Clone, PartialEq)]
enum Sector {
    /// Zeros in the file until it holds a bit.
    Empty,
    Sealed,
    Bad(Box<[u8; SECTOR]>),
}

/// A page, and beside it the bits and the bytes that it should have.
struct Twin {
    page: Page,
    id: Uuid,
    index: u64,
    bits: Vec<bool>,
    sectors: [Sector; 8],
}

impl Twin {
    fn new((id, index): (Uuid, u64)) -> Twin {
        let bits = vec![false; BITS_PER_PAGE as usize];
        Twin { page: Page::new(), id, index, bits, sectors: [const { Sector::Empty }; 8] }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Set(bits) => self.change(bits.range(), true),
            Event::Clear(bits) => self.change(bits.range(), false),
            Event::Look(bits) => self.check(bits.range()),
            Event::Reload => {
                let bytes = self.bytes();
                self.read(bytes);
            }
            Event::Break(at) => {
                let (number, within) = (usize::from(at) / SECTOR % 8, usize::from(at) % SECTOR);
                let mut sector: [u8; SECTOR] = self.bytes()[number * SECTOR..][..SECTOR].try_into().expect("a sector");
                sector[within] ^= 0x40;
                self.put(number, sector);
            }
            Event::Lose(sector) => self.put(usize::from(sector % 8), [0; SECTOR]),
            Event::BadSet => {
                self.page = std::mem::take(&mut self.page).with_bad_set();
                for (number, sector) in self.sectors.iter_mut().enumerate() {
                    if let Sector::Bad(_) = sector {
                        *sector = Sector::Sealed;
                        self.bits[number * BITS_PER_SECTOR as usize..][..BITS_PER_SECTOR as usize].fill(true);
                    }
                }
            }
            Event::Misplace { .. } => {}
        }
    }

    fn what(&self, bit: u64) -> Run {
        match (&self.sectors[(bit / BITS_PER_SECTOR) as usize], self.bits[bit as usize]) {
            (Sector::Bad(_), _) => Run::Bad,
            (_, true) => Run::Set,
            (_, false) => Run::Clear,
        }
    }

    fn change(&mut self, range: Range<u64>, value: bool) {
        let result = if value { self.page.set_range(range.clone()) } else { self.page.clear_range(range.clone()) };
        let bits = range.start..range.end.min(BITS_PER_PAGE);
        if bits.clone().any(|bit| self.what(bit) == Run::Bad) {
            assert!(result.is_err_and(|bad| self.what(bad.bits.start) == Run::Bad), "a broken sector was changed");
            return;
        }
        let changed = bits.clone().filter(|bit| self.bits[*bit as usize] != value).count() as u64;
        assert_eq!(result, Ok(changed), "bits that changed in {range:?}");
        bits.for_each(|bit| self.bits[bit as usize] = value);
    }

    /// The bytes of the page by the words of the specification: what holds a bit, or did in the file, is sealed.
    fn bytes(&mut self) -> [u8; 4096] {
        let mut page = [0; 4096];
        for (number, bytes) in page.chunks_mut(SECTOR).enumerate() {
            let bits = &self.bits[number * BITS_PER_SECTOR as usize..][..BITS_PER_SECTOR as usize];
            match &self.sectors[number] {
                Sector::Bad(bad) => bytes.copy_from_slice(&**bad),
                Sector::Empty if bits.iter().all(|bit| !bit) => {}
                _ => {
                    seal(bytes, bits, self.id, self.index * 8 + number as u64);
                    self.sectors[number] = Sector::Sealed;
                }
            }
        }
        assert!(self.page.encode(self.id, self.index) == page, "the bytes of a page");
        page
    }

    fn read(&mut self, bytes: [u8; 4096]) {
        self.page = Page::decode(&bytes, self.id, self.index);
        assert!(self.page.encode(self.id, self.index) == bytes, "what was read is written");
    }

    /// The page is in the file, and one of its sectors is `sector` now.
    fn put(&mut self, number: usize, sector: [u8; SECTOR]) {
        let mut bytes = self.bytes();
        bytes[number * SECTOR..][..SECTOR].copy_from_slice(&sector);
        self.read(bytes);
        let bits = &mut self.bits[number * BITS_PER_SECTOR as usize..][..BITS_PER_SECTOR as usize];
        let mut sealed = [0; SECTOR];
        let told: Vec<bool> = (0..bits.len()).map(|bit| sector[bit / 8] >> (bit % 8) & 1 == 1).collect();
        seal(&mut sealed, &told, self.id, self.index * 8 + number as u64);
        self.sectors[number] = match sector {
            sector if sector == [0; SECTOR] => Sector::Empty,
            sector if sector == sealed => Sector::Sealed,
            sector => Sector::Bad(Box::new(sector)),
        };
        // Nobody knows the bits of a broken one.
        let bad = matches!(self.sectors[number], Sector::Bad(_));
        bits.iter_mut().zip(told).for_each(|(bit, told)| *bit = told && !bad);
    }

    /// All that the page says of `range`.
    fn check(&self, range: Range<u64>) {
        let range = range.start..range.end.min(BITS_PER_PAGE);
        let (mut at, mut set) = (range.start, 0);
        while at < range.end {
            let (what, end) = (self.what(at), self.end_of_run(at, range.end));
            assert_eq!(self.page.run(at, range.end), (what, end), "the run from bit {at}");
            for bit in [at, end - 1] {
                assert_eq!(
                    (self.page.get(bit), self.page.is_bad(bit)),
                    (what == Run::Set, what == Run::Bad),
                    "bit {bit}"
                );
            }
            set += if what == Run::Set { end - at } else { 0 };
            at = end;
        }
        assert_eq!(self.page.count(range), set, "bits that are set");
        let bad = (0..8).filter(|number| matches!(self.sectors[*number as usize], Sector::Bad(_)));
        assert!(self.page.bad_sectors().eq(bad), "broken sectors");
    }

    /// Where what begins with bit `at` ends, at `end` at the latest: sector by sector, since a campaign asks often.
    fn end_of_run(&self, at: u64, end: u64) -> u64 {
        let (what, mut to) = (self.what(at), at);
        while to < end && self.what(to) == what {
            let within = to..end.min((to / BITS_PER_SECTOR + 1) * BITS_PER_SECTOR);
            let bits = &self.bits[within.start as usize..within.end as usize];
            let other = if what == Run::Bad { None } else { bits.iter().position(|bit| *bit != (what == Run::Set)) };
            match other {
                Some(other) => return to + other as u64,
                None => to = within.end,
            }
        }
        to
    }
}

/// A sealed sector by the words of the specification.
fn seal(sector: &mut [u8], bits: &[bool], id: Uuid, index: u64) {
    for (bit, _) in bits.iter().enumerate().filter(|(_, set)| **set) {
        sector[bit / 8] |= 1 << (bit % 8);
    }
    sector[PAYLOAD_BYTES..PAYLOAD_BYTES + 8].copy_from_slice(&index.to_le_bytes());
    sector[PAYLOAD_BYTES + 8..PAYLOAD_BYTES + 12].copy_from_slice(b"SEAL");
    let checksum = crc32c::crc32c(&[&id.0[..], &sector[..508]].concat());
    sector[508..].copy_from_slice(&checksum.to_le_bytes());
}
