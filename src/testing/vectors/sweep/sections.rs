//! Records of sections, field by field, and what sections are to each other.

use super::Value::{Bytes, Eight, One, Two};
use super::{Row, answer, overlay, spoilt};
use crate::format::{Section, SectionKind};
use crate::limits::{MAX_OFFSET, PAGE_SIZE, SLOTS_END};
use crate::testing::vectors::IMAGE;
use crate::testing::vectors::draft::SECTION;
use crate::testing::vectors::maker::{Maker, id, section};
use crate::testing::vectors::vector::{Case, Role, Vector};
use crate::violation::Violation as V;
use SectionKind::{Dirty, Intent, Other, Sync};

pub(super) fn all() -> Vec<Vector> {
    [of_allocation(), of_others(), overlaps(), ids(), files()].concat()
}

/// Far behind the end of any file here.
const FAR: u64 = 1 << 40;
/// Where the data area of the overlay begins. It is eight pages long.
const DATA: u64 = SLOTS_END + (64 << 10);
/// As many bytes as the bits of one page speak of, with granules of 64 KiB.
const PAGE_COVERS: u64 = 31_744 << 16;

/// The allocation section of an overlay; places in the payload of its record.
const ALLOCATION: &[Row] = &[
    ("sec-kind-big_endian", "The kind is stored big endian.", 16, Two(0x100), &[V::SectionKind]),
    ("sec-kind-257", "The kind's low byte is 1, and so is the high one.", 16, Two(257), &[V::SectionKind]),
    ("sec-kind-high_bit", "The kind is 1 and has its highest bit set.", 16, Two(0x8001), &[V::SectionKind]),
    ("sec-kind-ones", "The kind is all ones.", 16, Two(u16::MAX), &[V::SectionKind]),
    ("sec-granularity-32", "A granule of 4 GiB.", 18, One(32), &[V::Granularity]),
    ("sec-granularity-48", "The largest granule of intents in an allocation section.", 18, One(48), &[V::Granularity]),
    ("sec-granularity-63", "The largest granule that has a number.", 18, One(63), &[V::Granularity]),
    ("sec-granularity-high_bit", "The shift is 12 and has its highest bit set.", 18, One(0x8c), &[V::Granularity]),
    (
        "sec-offset-less_1",
        "The section begins with the last byte of slot 1.",
        24,
        Eight(SLOTS_END - 1),
        &[V::SectionPlace, V::Overlap],
    ),
    ("sec-offset-and_1", "The section begins a byte behind the slots.", 24, Eight(SLOTS_END + 1), &[V::SectionPlace]),
    (
        "sec-offset-half_page",
        "The section begins half a page behind the slots.",
        24,
        Eight(SLOTS_END + 2048),
        &[V::SectionPlace],
    ),
    (
        "sec-offset-page_0",
        "The section lies in the second page of slot 0.",
        24,
        Eight(4096),
        &[V::SectionPlace, V::Overlap],
    ),
    ("sec-offset-2_61", "The section begins where the last one may end.", 24, Eight(MAX_OFFSET), &[V::SectionPlace]),
    (
        "sec-offset-high_bit",
        "The offset is right but for its highest bit.",
        24,
        Eight(1 << 63 | SLOTS_END),
        &[V::SectionPlace],
    ),
    ("sec-offset-ones", "The offset is all ones.", 24, Eight(u64::MAX), &[V::SectionPlace]),
    (
        "sec-offset-big_endian",
        "The offset is stored big endian, and still one.",
        24,
        Eight(SLOTS_END.swap_bytes()),
        &[V::SectionInFile],
    ),
    (
        "sec-offset-last_page",
        "The section ends at 2^61, far behind the file.",
        24,
        Eight(MAX_OFFSET - PAGE_SIZE),
        &[V::SectionInFile],
    ),
    (
        "sec-length-less_1",
        "The section is a byte shorter than a page.",
        32,
        Eight(4095),
        &[V::SectionPlace, V::SectionLength],
    ),
    ("sec-length-and_1", "The section is a byte longer than a page.", 32, Eight(4097), &[V::SectionPlace]),
    (
        "sec-length-sector",
        "The section is as long as the sector that it needs.",
        32,
        Eight(512),
        &[V::SectionPlace, V::SectionLength],
    ),
    ("sec-length-half_page", "The section is half a page longer than it needs.", 32, Eight(6144), &[V::SectionPlace]),
    (
        "sec-length-2_61",
        "The section is as long as a file may be.",
        32,
        Eight(MAX_OFFSET),
        &[V::SectionPlace, V::Overlap],
    ),
    (
        "sec-length-to_2_61",
        "The section ends where the last one may, and lies over the data area.",
        32,
        Eight(MAX_OFFSET - SLOTS_END),
        &[V::Overlap],
    ),
    (
        "sec-length-high_bit",
        "The length is 2^63 and a page.",
        32,
        Eight(1 << 63 | PAGE_SIZE),
        &[V::SectionPlace, V::Overlap],
    ),
    (
        "sec-length-ones",
        "The length is all ones: added to the offset it wraps.",
        32,
        Eight(u64::MAX),
        &[V::SectionPlace, V::Overlap],
    ),
    ("sec-length-big_endian", "The length is stored big endian.", 32, Eight(PAGE_SIZE.swap_bytes()), &[V::Overlap]),
    (
        "sec-allocation-covers_block_less",
        "The bits end a block before the disk.",
        40,
        Eight(28_672),
        &[V::AllocationCovers],
    ),
    (
        "sec-allocation-covers_block_more",
        "The bits speak of a block more than the disk has.",
        40,
        Eight(36_864),
        &[V::AllocationCovers],
    ),
    (
        "sec-allocation-covers_high_bit",
        "The bits speak of 2^63 bytes more than the disk has.",
        40,
        Eight(1 << 63 | 32_768),
        &[V::AllocationCovers, V::SectionLength],
    ),
    (
        "sec-allocation-covers_ones",
        "The bits speak of 2^64 - 1 bytes.",
        40,
        Eight(u64::MAX),
        &[V::AllocationCovers, V::SectionLength],
    ),
    (
        "sec-allocation-covers_big_endian",
        "What the bits speak of is stored big endian.",
        40,
        Eight(32_768u64.swap_bytes()),
        &[V::AllocationCovers, V::SectionLength],
    ),
];

/// A section that is not required, of one page, far behind the end of the file.
const OTHERS: &[(SectionKind, Row)] = &[
    (Dirty, ("sec-granularity-dirty_25", "A granule of 32 MiB in a dirty section.", 18, One(25), &[V::Granularity])),
    (
        Dirty,
        (
            "sec-granularity-dirty_64",
            "A granule that has no number in a dirty section.",
            18,
            One(64),
            &[V::Granularity],
        ),
    ),
    (Sync, ("sec-granularity-sync_11", "A granule of 2 KiB in a sync section.", 18, One(11), &[V::Granularity])),
    (Sync, ("sec-granularity-sync_25", "A granule of 32 MiB in a sync section.", 18, One(25), &[V::Granularity])),
    (Intent, ("sec-granularity-intent_11", "A granule of 2 KiB in an intent section.", 18, One(11), &[V::Granularity])),
    (
        Intent,
        ("sec-granularity-intent_49", "A granule of 2^49 bytes in an intent section.", 18, One(49), &[V::Granularity]),
    ),
    (
        Intent,
        (
            "sec-granularity-intent_64",
            "A granule that has no number in an intent section.",
            18,
            One(64),
            &[V::Granularity],
        ),
    ),
    (
        Intent,
        ("sec-granularity-intent_255", "The largest shift in an intent section.", 18, One(255), &[V::Granularity]),
    ),
    (
        Dirty,
        (
            "sec-offset-dirty_and_1",
            "A dirty section begins a byte behind a page.",
            24,
            Eight(FAR + 1),
            &[V::SectionPlace],
        ),
    ),
    (
        Sync,
        (
            "sec-offset-sync_512",
            "A sync section begins on a multiple of 512 only.",
            24,
            Eight(FAR + 512),
            &[V::SectionPlace],
        ),
    ),
    (
        Intent,
        (
            "sec-offset-intent_in_slot",
            "An intent section lies in the last page of slot 1.",
            24,
            Eight(SLOTS_END - PAGE_SIZE),
            &[V::SectionPlace, V::Overlap],
        ),
    ),
    (
        Other(77),
        (
            "sec-offset-unknown_high_bit",
            "A section of unknown kind has an offset with its highest bit set.",
            24,
            Eight(1 << 63 | FAR),
            &[V::SectionPlace],
        ),
    ),
    (
        Other(77),
        (
            "sec-offset-unknown_half_page",
            "A section of unknown kind begins half a page behind a page.",
            24,
            Eight(FAR + 2048),
            &[V::SectionPlace],
        ),
    ),
    (
        Dirty,
        (
            "sec-length-dirty_and_1",
            "A dirty section is a byte longer than a page.",
            32,
            Eight(4097),
            &[V::SectionPlace],
        ),
    ),
    (
        Intent,
        (
            "sec-length-intent_512",
            "An intent section is as long as the sector that it needs.",
            32,
            Eight(512),
            &[V::SectionPlace, V::SectionLength],
        ),
    ),
    (
        Other(77),
        (
            "sec-length-unknown_less_1",
            "A section of unknown kind is a byte shorter than a page.",
            32,
            Eight(4095),
            &[V::SectionPlace],
        ),
    ),
    (
        Other(77),
        (
            "sec-length-unknown_ones",
            "The length of a section of unknown kind is all ones: added to its offset it wraps.",
            32,
            Eight(u64::MAX),
            &[V::SectionPlace],
        ),
    ),
    (Dirty, ("sec-length-dirty_0", "A dirty section of no length for one bit.", 32, Eight(0), &[V::SectionLength])),
    (Sync, ("sec-length-sync_0", "A sync section of no length for one bit.", 32, Eight(0), &[V::SectionLength])),
    (Intent, ("sec-length-intent_0", "An intent section of no length for one bit.", 32, Eight(0), &[V::SectionLength])),
    (
        Dirty,
        (
            "sec-covered-dirty_bit_more",
            "A dirty section of a page covers a byte more than a page's bits speak of.",
            40,
            Eight(PAGE_COVERS + 1),
            &[V::SectionLength],
        ),
    ),
    (
        Sync,
        (
            "sec-covered-sync_bit_more",
            "A sync section of a page covers a byte more than a page's bits speak of.",
            40,
            Eight(PAGE_COVERS + 1),
            &[V::SectionLength],
        ),
    ),
    (
        Intent,
        (
            "sec-covered-intent_bit_more",
            "An intent section of a page covers a byte more than a page's bits speak of.",
            40,
            Eight(PAGE_COVERS + 1),
            &[V::SectionLength],
        ),
    ),
    (
        Dirty,
        (
            "sec-covered-dirty_ones",
            "A dirty section covers 2^64 - 1 bytes: rounded up to granules they wrap.",
            40,
            Eight(u64::MAX),
            &[V::SectionLength],
        ),
    ),
    (Sync, ("sec-covered-sync_high_bit", "A sync section covers 2^63 bytes.", 40, Eight(1 << 63), &[V::SectionLength])),
    (
        Intent,
        (
            "sec-covered-intent_ones",
            "An intent section covers 2^64 - 1 bytes: rounded up to regions they wrap.",
            40,
            Eight(u64::MAX),
            &[V::SectionLength],
        ),
    ),
    (
        Dirty,
        ("sec-reserved-dirty", "A reserved byte of a dirty section is not zero.", 19, Bytes(&[1]), &[V::RecordLength]),
    ),
    (
        Other(77),
        (
            "sec-reserved-unknown",
            "A reserved byte of a section of unknown kind is not zero.",
            55,
            Bytes(&[0x80]),
            &[V::RecordLength],
        ),
    ),
    (
        Other(77),
        ("sec-id-unknown_nil", "A section of unknown kind without identity.", 0, Bytes(&[0; 16]), &[V::SectionId]),
    ),
    (Dirty, ("sec-id-dirty_nil", "A dirty section without identity.", 0, Bytes(&[0; 16]), &[V::SectionId])),
];

fn of_allocation() -> Vec<Vector> {
    let vector = |&(name, purpose, at, value, rules): &Row| {
        spoilt(name, purpose, rules, overlay(), |draft| draft.put_in(SECTION, at, &value.bytes()))
    };
    ALLOCATION.iter().map(vector).collect()
}

/// A section that is not required.
fn optional(number: u64, kind: SectionKind, offset: u64, length: u64) -> Section {
    let id = id(&format!("section {number}"));
    Section { id, kind, granularity_shift: 16, required: false, offset, length, covered: 32_768 }
}

fn of_others() -> Vec<Vector> {
    let vector = |&(kind, (name, purpose, at, value, rules)): &(SectionKind, Row)| {
        let mut maker = overlay();
        maker.header.sections.push(optional(0, kind, FAR, PAGE_SIZE));
        spoilt(name, purpose, rules, maker, |draft| draft.put_at(1, at, &value.bytes()))
    };
    OTHERS.iter().map(vector).collect()
}

/// Sections that are not required, by their places and their lengths in pages.
type Places = &'static [(SectionKind, u64, u64)];

/// Which of them overlap each other, the data area or the allocation section.
const OVERLAPS: &[(&str, &str, Places)] = &[
    (
        "one_page",
        "A dirty section ends a page behind the beginning of a sync section.",
        &[(Dirty, FAR, 2), (Sync, FAR + 4096, 2)],
    ),
    (
        "lower_second",
        "The section that begins first stands second in the header.",
        &[(Dirty, FAR + 4096, 2), (Dirty, FAR, 2)],
    ),
    ("within", "An intent section lies within a dirty one.", &[(Dirty, FAR, 4), (Intent, FAR + 4096, 1)]),
    ("unknown_kinds", "Two sections of unknown kinds lie in one place.", &[(Other(77), FAR, 1), (Other(78), FAR, 1)]),
    (
        "not_neighbours",
        "Of three sections the first and the last share a page.",
        &[(Dirty, FAR, 2), (Sync, 2 * FAR, 1), (Intent, FAR + 4096, 1)],
    ),
    (
        "at_2_61",
        "Two sections share the last page that there may be.",
        &[(Dirty, MAX_OFFSET - 8192, 2), (Other(77), MAX_OFFSET - 4096, 1)],
    ),
    ("data_first_page", "An intent section ends behind the first page of the data area.", &[(Intent, DATA - 4096, 2)]),
    ("around_data", "A dirty section begins before the data area and ends behind it.", &[(Dirty, DATA - 4096, 10)]),
    ("within_data", "A sync section lies in the middle of the data area.", &[(Sync, DATA + 8192, 1)]),
    (
        "allocation_unknown",
        "A section of unknown kind lies where the allocation section does.",
        &[(Other(77), SLOTS_END, 1)],
    ),
];

fn overlaps() -> Vec<Vector> {
    let vector = |&(name, purpose, places): &(&str, &str, Places)| {
        let mut maker = overlay();
        // Somewhere else first: a draft starts from a right header.
        let right = (1..)
            .zip(places)
            .map(|(number, &(kind, _, pages))| optional(number, kind, FAR << number, pages * PAGE_SIZE));
        maker.header.sections.extend(right);
        spoilt(&format!("sec-overlap-{name}"), purpose, &[V::Overlap], maker, |draft| {
            for (number, (_, offset, _)) in (1..).zip(places) {
                draft.put_at(number, 24, &offset.to_le_bytes());
            }
        })
    };
    let mut vectors: Vec<Vector> = OVERLAPS.iter().map(vector).collect();
    let mut two_pages = overlay();
    two_pages.header.sections.push(optional(1, Dirty, SLOTS_END + PAGE_SIZE, PAGE_SIZE));
    let purpose = "The second page of the allocation section, which needs one, is another section.";
    vectors.push(spoilt("sec-overlap-spare_page", purpose, &[V::Overlap], two_pages, |draft| {
        draft.put_at(0, 32, &(2 * PAGE_SIZE).to_le_bytes());
    }));
    let mut odd = Maker::overlay("over", 30_000, 12);
    odd.header.sections.push(optional(1, Dirty, FAR, PAGE_SIZE));
    let purpose = "A dirty section begins in the page in which the data area ends.";
    vectors.push(spoilt("sec-overlap-page_of_data_end", purpose, &[V::Overlap], odd, |draft| {
        draft.put_at(1, 24, &(DATA + 28_672).to_le_bytes());
    }));
    vectors
}

/// Identities that two sections share, behind an allocation section.
fn ids() -> Vec<Vector> {
    [
        ("dirty_twice", "Two dirty sections have one identity.", Dirty, Dirty),
        ("dirty_and_intent", "A dirty and an intent section have one identity.", Dirty, Intent),
        ("unknown_twice", "Two sections of unknown kinds have one identity.", Other(77), Other(78)),
    ]
    .map(|(name, purpose, first, second)| {
        let mut maker = overlay();
        let sections = [optional(1, first, FAR, PAGE_SIZE), optional(2, second, 2 * FAR, PAGE_SIZE)];
        maker.header.sections.extend(sections);
        spoilt(&format!("sec-id-{name}"), purpose, &[V::SectionId], maker, |draft| {
            draft.put_at(2, 0, &sections[0].id.0)
        })
    })
    .into()
}

/// An allocation section of two pages behind the data area, of which the file has less and less.
fn files() -> Vec<Vector> {
    let end = SLOTS_END + 32_768;
    [
        (
            "sector_short",
            "The last sector of the allocation section, which it has to spare, is missing.",
            end + 8192 - 512,
        ),
        ("page_short", "The last page of the allocation section, which it has to spare, is missing.", end + 4096),
        ("in_first_sector", "The file ends within the only sector that the bits need.", end + 100),
        ("at_start", "The file ends where the allocation section begins.", end),
    ]
    .map(|(name, purpose, length)| {
        let mut maker = Maker::complete("back", 32_768);
        maker.header.sections.push(Section { length: 8192, ..section("back", 32_768, 12, end) });
        maker.file.set_len(end + 8192);
        let mut file = maker.data(4096..4608).finish();
        file.set_len(length);
        let rule = V::SectionInFile;
        Vector::new(&format!("sec-file-{name}"), purpose, &[rule]).file(IMAGE, Role::Image, file).case(Case::new(
            IMAGE,
            answer(rule),
            &[rule],
        ))
    })
    .into()
}
