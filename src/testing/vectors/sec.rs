//! Vectors of sections: kind, granule, place, length, overlap, identity.

use super::draft::{Draft, REQUIRED, SECTION};
use super::maker::{Maker, id, section};
use super::vector::{Case, Role, Vector, Verdict};
use super::{IMAGE, broken, opens, plain, sparse_overlay};
use crate::format::{Header, Section, SectionKind};
use crate::limits::{MAX_OFFSET, PAGE_SIZE, SLOT_SIZE, SLOTS_END};
use crate::violation::Violation as V;
use Verdict::{Invalid, Unsupported};

pub(super) fn all() -> Vec<Vector> {
    [kinds(), granules(), places(), lengths(), overlaps(), ids(), allocation(), in_file()].concat()
}

/// Adds sections that nobody needs, far behind the end of the file.
pub(super) fn add_optional(header: &mut Header, count: u64) {
    for number in 0..count {
        header.sections.push(Section {
            id: id(&format!("optional section {number}")),
            kind: if number % 2 == 0 { SectionKind::Dirty } else { SectionKind::Other(77) },
            granularity_shift: 16,
            required: false,
            offset: (1 << 40) + number * 4096,
            length: 4096,
            covered: header.virtual_size,
        });
    }
}

/// A section that nobody needs, within the file.
fn optional(kind: SectionKind, offset: u64) -> Section {
    let id = id("optional");
    Section { id, kind, granularity_shift: 16, required: false, offset, length: 4096, covered: 32_768 }
}

/// A change of the overlay's allocation section; its fields in the record: kind at 16, shift 18, offset 24, length
/// 32, covered 40.
fn change(name: &str, purpose: &str, rule: V, verdict: Verdict, apply: impl FnOnce(&mut Draft)) -> Vector {
    broken(name, purpose, rule, verdict, sparse_overlay(), apply)
}

fn set(name: &str, purpose: &str, rule: V, at: usize, value: u64) -> Vector {
    change(name, purpose, rule, Invalid, |d| d.put_in(SECTION, at, &value.to_le_bytes()))
}

/// The overlay with one more section.
fn with(name: &str, purpose: &str, rules: &[V], another: Section) -> Vector {
    let mut maker = sparse_overlay();
    maker.header.sections.push(another);
    opens(name, purpose, rules, &mut maker)
}

fn kinds() -> Vec<Vector> {
    let mut vectors = vec![
        with(
            "sec-kind-unknown_optional",
            "A section of unknown kind that is not required, past the end of the file.",
            &[V::SectionKind, V::SectionInFile],
            optional(SectionKind::Other(5), 1 << 40),
        ),
        with(
            "sec-kind-unknown_odd_fields",
            "Granule and length of a section of unknown kind mean nothing to a reader.",
            &[V::SectionKind, V::Granularity, V::SectionLength],
            Section {
                granularity_shift: 200,
                length: 0,
                covered: u64::MAX,
                ..optional(SectionKind::Other(9), 1 << 40)
            },
        ),
        with(
            "sec-kind-dirty_optional",
            "A dirty section that is not required keeps no image from opening.",
            &[V::SectionKind],
            optional(SectionKind::Dirty, 1 << 40),
        ),
        change("sec-kind-unknown_required", "A required section of unknown kind.", V::SectionKind, Unsupported, |d| {
            d.put_in(SECTION, 16, &[5, 0])
        }),
        change("sec-kind-0_required", "A required section of kind 0.", V::SectionKind, Unsupported, |d| {
            d.put_in(SECTION, 16, &[0, 0])
        }),
    ];
    let mut required = plain();
    required.header.sections.push(Section { required: true, ..optional(SectionKind::Dirty, 1 << 40) });
    let purpose = "A required dirty section in a complete image: known, and in nobody's way.";
    vectors.push(opens("sec-kind-dirty_required", purpose, &[V::SectionKind], &mut required));
    vectors.push(broken(
        "sec-kind-unknown_required_second",
        "A required section of unknown kind behind an allocation section.",
        V::SectionKind,
        Unsupported,
        with_dirty(),
        |d| {
            d.records[1].flags = REQUIRED;
            d.records[1].payload[16..18].copy_from_slice(&[0xff, 0xff]);
        },
    ));
    vectors
}

fn granules() -> Vec<Vector> {
    let shift = |name: &str, purpose: &str, shift: u8| {
        change(name, purpose, V::Granularity, Invalid, |d| d.put_in(SECTION, 18, &[shift]))
    };
    vec![
        shift("sec-granularity-0", "A granule of one byte.", 0).or(V::SectionLength),
        shift("sec-granularity-11", "A granule of 2 KiB.", 11),
        shift("sec-granularity-25", "A granule of 32 MiB.", 25),
        shift("sec-granularity-64", "A shift of 64: the granule does not fit into 64 bits.", 64),
        shift("sec-granularity-255", "A shift of 255.", 255),
        broken(
            "sec-granularity-dirty_11",
            "A granule of 2 KiB in a dirty section that is not required.",
            V::Granularity,
            Invalid,
            with_dirty(),
            |d| d.records[1].payload[18] = 11,
        ),
    ]
}

/// An overlay with a dirty section.
fn with_dirty() -> Maker {
    let mut maker = sparse_overlay();
    maker.header.sections.push(optional(SectionKind::Dirty, 1 << 40));
    maker
}

fn places() -> Vec<Vector> {
    let last = MAX_OFFSET - 4096;
    vec![
        set(
            "sec-offset-unaligned",
            "The section begins on a multiple of 512 only.",
            V::SectionPlace,
            24,
            SLOTS_END + 512,
        ),
        set("sec-length-unaligned", "The section's length is a multiple of 512 only.", V::SectionPlace, 32, 4608),
        set("sec-offset-0", "The section lies over slot 0.", V::SectionPlace, 24, 0).or(V::Overlap),
        set("sec-offset-slot_1", "The section lies over slot 1.", V::SectionPlace, 24, SLOT_SIZE).or(V::Overlap),
        set(
            "sec-offset-slot_1_end",
            "The section begins a page before the end of slot 1.",
            V::SectionPlace,
            24,
            SLOTS_END - 4096,
        )
        .or(V::Overlap),
        set("sec-offset-overflow", "Offset and length together are 2^64.", V::SectionPlace, 24, u64::MAX - 4095)
            .also(&["LIM-01"]),
        set(
            "sec-length-overflow",
            "Offset and length together are more than 2^64.",
            V::SectionPlace,
            32,
            u64::MAX - 4095,
        )
        .or(V::Overlap)
        .also(&["LIM-01"]),
        with(
            "sec-offset-max",
            "An optional section ends at 2^61.",
            &[V::SectionPlace, V::SectionInFile],
            optional(SectionKind::Dirty, last),
        ),
        broken(
            "sec-offset-above_max",
            "An optional section ends a page behind 2^61.",
            V::SectionPlace,
            Invalid,
            with_dirty(),
            |d| d.records[1].payload[24..32].copy_from_slice(&(last + 4096).to_le_bytes()),
        ),
        broken(
            "sec-offset-unknown_kind",
            "The rule holds for a section of unknown kind.",
            V::SectionPlace,
            Invalid,
            with_dirty(),
            |d| {
                d.records[1].payload[16] = 99;
                d.records[1].payload[24..32].copy_from_slice(&4096u64.to_le_bytes());
            },
        )
        .or(V::Overlap),
    ]
}

fn lengths() -> Vec<Vector> {
    // One bit more than a page of sectors holds.
    let over = (31_744 + 1) * 4096;
    let mut exact = Maker::overlay("page", 31_744 * 4096, 12).data(0..512);
    let mut more = Maker::overlay("more", over, 12).data(0..512).data(over - 4096..over);
    let mut long = sparse_overlay();
    long.header.sections[0].length = 3 * 4096;
    let short = Maker::overlay("more", over, 12);
    vec![
        opens(
            "sec-length-one_page",
            "As many bits as one page has: 8 sectors of 3968.",
            &[V::SectionLength],
            &mut exact,
        ),
        opens("sec-length-two_pages", "One bit more than a page has.", &[V::SectionLength], &mut more),
        opens("sec-length-spare", "A section may be longer than its bits need.", &[V::SectionLength], &mut long),
        broken(
            "sec-length-page_short",
            "A section of one page for one bit more than that.",
            V::SectionLength,
            Invalid,
            short,
            |d| d.put_in(SECTION, 32, &4096u64.to_le_bytes()),
        ),
        set("sec-length-0", "A section of no length for eight bits.", V::SectionLength, 32, 0),
    ]
}

fn overlaps() -> Vec<Vector> {
    let mut no_data = Maker::overlay("none", 0, 12);
    no_data.header.data_offset = SLOTS_END + PAGE_SIZE;
    no_data.header.sections[0].length = 2 * PAGE_SIZE;
    no_data.file.set_len(SLOTS_END + 2 * PAGE_SIZE);
    let at = |name: &str, purpose: &str, kind: SectionKind, offset: u64| {
        broken(name, purpose, V::Overlap, Invalid, with_dirty(), |d| {
            d.records[1].payload[16..18].copy_from_slice(&kind.number().to_le_bytes());
            d.records[1].payload[24..32].copy_from_slice(&offset.to_le_bytes());
        })
    };
    let data = sparse_overlay().header.data_offset;
    vec![
        set(
            "sec-overlap-data_end",
            "The allocation section reaches a page into the data area.",
            V::Overlap,
            32,
            data - SLOTS_END + 4096,
        ),
        change(
            "sec-overlap-data_offset",
            "The data area begins where the allocation section does.",
            V::Overlap,
            Invalid,
            |d| d.put(72, &SLOTS_END.to_le_bytes()),
        ),
        at(
            "sec-overlap-same_place",
            "A dirty section lies where the allocation section does.",
            SectionKind::Dirty,
            SLOTS_END,
        ),
        at(
            "sec-overlap-last_page_of_data",
            "A dirty section lies in the last page of the data area.",
            SectionKind::Dirty,
            data + 28_672,
        ),
        at(
            "sec-overlap-unknown_kind",
            "A section of unknown kind lies in the data area.",
            SectionKind::Other(300),
            data,
        ),
        with(
            "sec-overlap-touching",
            "Sections and data area touch and do not overlap.",
            &[V::Overlap, V::SectionId],
            optional(SectionKind::Dirty, SLOTS_END + 4096),
        ),
        with(
            "sec-overlap-behind_data",
            "A section begins where the data area ends.",
            &[V::Overlap],
            optional(SectionKind::Dirty, data + 32_768),
        ),
        opens(
            "sec-overlap-empty_data",
            "A disk of no bytes: its data area, in the middle of the section, overlaps nothing.",
            &[V::Overlap],
            &mut no_data,
        ),
        with(
            "sec-overlap-empty",
            "An empty section within the data area overlaps nothing.",
            &[V::Overlap],
            Section { length: 0, covered: 0, ..optional(SectionKind::Dirty, data + 4096) },
        ),
    ]
}

fn ids() -> Vec<Vector> {
    vec![
        change("sec-id-nil", "A section's identity is nil.", V::SectionId, Invalid, |d| d.put_in(SECTION, 0, &[0; 16])),
        broken("sec-id-twice", "Two sections have one identity.", V::SectionId, Invalid, with_dirty(), |d| {
            let first = d.records[0].payload[..16].to_vec();
            d.records[1].payload[..16].copy_from_slice(&first);
        }),
        broken(
            "sec-id-twice_unknown_kind",
            "A section of unknown kind has the identity of another.",
            V::SectionId,
            Invalid,
            with_dirty(),
            |d| {
                let first = d.records[0].payload[..16].to_vec();
                d.records[1].payload[..16].copy_from_slice(&first);
                d.records[1].payload[16] = 50;
            },
        ),
    ]
}

fn allocation() -> Vec<Vector> {
    let two = |d: &mut Draft| {
        let mut another = d.records[0].clone();
        another.payload[..16].copy_from_slice(&id("second allocation").0);
        another.payload[24..32].copy_from_slice(&(SLOTS_END + 4096).to_le_bytes());
        d.records.insert(1, another);
    };
    vec![
        change("sec-allocation-two", "There are two allocation sections.", V::AllocationCovers, Invalid, two),
        set("sec-allocation-covers_less", "The bits end a byte before the disk.", V::AllocationCovers, 40, 32_767),
        set(
            "sec-allocation-covers_more",
            "The bits speak of a byte more than the disk has.",
            V::AllocationCovers,
            40,
            32_769,
        ),
        set("sec-allocation-covers_nothing", "The bits speak of nothing.", V::AllocationCovers, 40, 0),
    ]
}

fn in_file() -> Vec<Vector> {
    // As after a grow: the section lies behind the data area.
    let behind = || {
        let mut maker = Maker::complete("back", 32_768);
        let end = SLOTS_END + 32_768;
        maker.header.sections.push(section("back", 32_768, 12, end));
        maker.file.set_len(end + 4096);
        maker.data(4096..8192)
    };
    let mut file = behind().finish();
    file.set_len(file.len() - 1);
    let cut = Vector::new("sec-file-cut", "The last byte of the allocation section is missing.", &[V::SectionInFile])
        .file(IMAGE, Role::Image, file)
        .case(Case::new(IMAGE, Invalid, &[V::SectionInFile]));
    let purpose = "The allocation section lies behind the data area and ends with the file.";
    vec![
        opens("sec-file-behind_data", purpose, &[V::SectionInFile], &mut behind()),
        cut,
        broken(
            "sec-file-beyond_end",
            "The allocation section lies at 1 TiB.",
            V::SectionInFile,
            Invalid,
            sparse_overlay(),
            |d| d.put_in(SECTION, 24, &(1u64 << 40).to_le_bytes()),
        ),
    ]
}
