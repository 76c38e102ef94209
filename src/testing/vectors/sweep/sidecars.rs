//! Sidecars: the host record, the volume, what lies below, and the image beside which one stands.

use super::Value::{Bytes, Eight, Four, Two};
use super::sectors::Damage;
use super::{RAW, Refused, Row, answer, or};
use crate::format::{CopyMark, HostFormat, HostRecord, MergeMark, Uuid, seal};
use crate::limits::{MAX_SIZE, SLOTS_END};
use crate::testing::vectors::chn::BASE;
use crate::testing::vectors::dirty::Tracked;
use crate::testing::vectors::draft::{BITMAP, Draft, HOST, PARENT, POINT, REQUIRED, SECTION};
use crate::testing::vectors::epo;
use crate::testing::vectors::maker::{Maker, id, raw};
use crate::testing::vectors::pag::{reseal_as, sector};
use crate::testing::vectors::sid::{SIDECAR, VOLUME, fails, opens, side};
use crate::testing::vectors::vector::{Case, Role, Vector};
use crate::violation::Violation as V;

pub(super) fn all() -> Vec<Vector> {
    [fields(), records(), volumes(), sectors(), below(), beside()].concat()
}

/// Places in the payload of the host record.
const HOSTS: &[Row] = &[
    ("sid-host-format_258", "The format's low byte is 2, and the next one 1.", 0, Four(258), &[V::HostFormat]),
    ("sid-host-format_big_endian", "The format, 2, is stored big endian.", 0, Four(2 << 24), &[V::HostFormat]),
    (
        "sid-host-format_high_bit",
        "The format is 2 and has its highest bit set.",
        0,
        Four(1 << 31 | 2),
        &[V::HostFormat],
    ),
    ("sid-host-format_ones", "The format is all ones.", 0, Four(u32::MAX), &[V::HostFormat]),
    (
        "sid-host-reserved_middle",
        "The middle of the reserved field of the host record is not zero.",
        6,
        Bytes(&[1]),
        &[V::RecordLength],
    ),
    (
        "sid-host-reserved_end",
        "The last byte of the reserved field of the host record is not zero.",
        7,
        Bytes(&[0x80]),
        &[V::RecordLength],
    ),
    ("sid-host-length_0", "The host has no bytes, the disk has some.", 8, Eight(0), &[V::HostCovers]),
    ("sid-host-length_sector_less", "The host is a sector shorter than the disk.", 8, Eight(32_256), &[V::HostCovers]),
    (
        "sid-host-length_page_more",
        "The host is said to be a page longer than the volume is.",
        8,
        Eight(36_864),
        &[V::HostLength],
    ),
    (
        "sid-host-length_high_bit",
        "The length of the host is right but for its highest bit.",
        8,
        Eight(1 << 63 | 32_768),
        &[V::HostLength],
    ),
    ("sid-host-length_ones", "The length of the host is all ones.", 8, Eight(u64::MAX), &[V::HostLength]),
    (
        "sid-host-length_big_endian",
        "The length of the host is stored big endian.",
        8,
        Eight(32_768u64.swap_bytes()),
        &[V::HostLength],
    ),
];

/// Places in the fixed header of a sidecar.
const HEADERS: &[Row] = &[
    (
        "sid-kind-image",
        "All of a sidecar in a header that says it is an image.",
        20,
        Two(1),
        &[V::DataOffset, V::SidecarHost, V::Overlap],
    ),
    ("sid-kind-4", "All of a sidecar in a header of unknown kind.", 20, Two(4), &[V::Kind]),
    ("sid-data_offset-1", "The data offset of a sidecar is 1.", 72, Eight(1), &[V::DataOffset]),
    ("sid-data_offset-page", "The data offset of a sidecar is that of a page.", 72, Eight(4096), &[V::DataOffset]),
    (
        "sid-data_offset-max",
        "The data offset of a sidecar is the largest of an image.",
        72,
        Eight(MAX_SIZE),
        &[V::DataOffset],
    ),
    ("sid-data_offset-high_bit", "The data offset of a sidecar is 2^63.", 72, Eight(1 << 63), &[V::DataOffset]),
    ("sid-data_offset-ones", "The data offset of a sidecar is all ones.", 72, Eight(u64::MAX), &[V::DataOffset]),
    ("sid-state-3", "A sidecar in a state that there is not.", 22, Two(3), &[V::State]),
    ("sid-incompat", "A sidecar with an unknown incompatible feature.", 80, Eight(1 << 40), &[V::IncompatibleFeature]),
];

/// A sidecar whose header `change` spoils.
fn spoilt(name: &str, purpose: &str, rules: &[V], change: impl FnOnce(&mut Draft)) -> Vector {
    or(fails(name, purpose, rules[0], answer(rules[0]), change), &rules[1..])
}

fn fields() -> Vec<Vector> {
    let hosts = HOSTS.iter().map(|&(name, purpose, at, value, rules)| {
        spoilt(name, purpose, rules, |draft| draft.put_in(HOST, at, &value.bytes()))
    });
    let headers = HEADERS
        .iter()
        .map(|&(name, purpose, at, value, rules)| spoilt(name, purpose, rules, |draft| draft.put(at, &value.bytes())));
    hosts.chain(headers).collect()
}

/// The payload of a link to a raw file of which nothing is seen.
fn no_parent() -> Vec<u8> {
    [&[0; 36][..], &[2, 0, 0, 0], &[0; 24]].concat()
}

/// Length, flags and place of the host record.
fn records() -> Vec<Vector> {
    let lengths = [("33", 33), ("31", 31), ("16", 16), ("empty", 0)].map(|(name, length)| {
        let purpose = format!("The host record has {length} bytes.");
        spoilt(&format!("sid-host-length_of_record_{name}"), &purpose, &[V::RecordLength], |draft| {
            draft.record(HOST).payload.resize(length, 0)
        })
    });
    let flags = [("bit_1", "lowest", 2), ("bit_15", "highest", 0x8000)].map(|(name, which, flag)| {
        let purpose = format!("The {which} unknown flag on a host record.");
        spoilt(&format!("sid-host-flags_{name}"), &purpose, &[V::RecordFlags], |draft| draft.record(HOST).flags |= flag)
    });
    let point = [id("source").0, id("point").0].concat();
    let order = [
        ("before_section", "The host record stands in front of the section.", SECTION, Vec::new()),
        ("before_parent", "The host record stands in front of the parent.", PARENT, no_parent()),
        ("behind_bitmap", "The host record stands behind a bitmap.", BITMAP, Vec::new()),
        ("behind_point", "The host record stands behind a backup point.", POINT, point),
    ]
    .map(|(name, purpose, record_type, payload)| {
        spoilt(&format!("sid-order-host_{name}"), purpose, &[V::RecordOrder], |draft| match record_type {
            SECTION => draft.records.reverse(),
            PARENT => draft.add(PARENT, REQUIRED, &payload),
            _ => {
                draft.add(record_type, 0, &payload);
                draft.records.swap(1, 2);
            }
        })
    });
    let purpose = "A parent in a sidecar without allocation section.";
    let complete = spoilt("sid-parent-of_complete", purpose, &[V::ParentNeedsAllocation], |draft| {
        draft.records.remove(0);
        draft.add(PARENT, REQUIRED, &no_parent());
        draft.records.reverse();
    });
    let purpose = "The bits speak of all of the host, of which the disk is a part.";
    let covers = spoilt("sid-allocation-covers_host", purpose, &[V::AllocationCovers], |draft| {
        draft.put(64, &20_480u64.to_le_bytes())
    });
    let purpose = "A sidecar with two allocation sections.";
    let mut two = spoilt("sid-allocation-two", purpose, &[V::AllocationCovers], |draft| {
        let another = draft.record(SECTION).clone();
        draft.records.insert(1, another);
        draft.put_at(1, 0, &id("second allocation").0);
        draft.put_at(1, 24, &(SLOTS_END + 4096).to_le_bytes());
    });
    two.files[0].bytes.set_len(SLOTS_END + 8192);
    lengths.into_iter().chain(flags).chain(order).chain([complete, covers, two]).collect()
}

/// What is given as the volume.
fn volumes() -> Vec<Vector> {
    let short = [
        ("sector_short", "The volume is a sector shorter than the sidecar says.", 32_256),
        ("page_short", "The volume is a page shorter than the sidecar says.", 28_672),
        ("1_byte", "The volume has one byte.", 1),
    ]
    .map(|(name, purpose, length)| {
        let rule = V::HostLength;
        let mut vector = opens(&format!("sid-volume-{name}"), purpose, &[rule], &mut side());
        vector.files[1].bytes.set_len(length);
        vector.cases = vec![Case { volume: Some(VOLUME.into()), ..Case::new(SIDECAR, answer(rule), &[rule]) }];
        vector
    });
    let rule = V::Magic;
    let purpose = "The volume is opened as the sidecar, and the sidecar given as its volume.";
    let mut swapped = opens("sid-volume-swapped", purpose, &[rule], &mut side());
    swapped.cases = vec![Case { volume: Some(SIDECAR.into()), ..Case::new(VOLUME, answer(rule), &[rule]) }];
    short.into_iter().chain([swapped]).collect()
}

/// The sector of the bits of a volume.
fn sectors() -> Vec<Vector> {
    let damages: [(&str, &str, Damage); 3] = [
        ("index", "The index of the one sector is 1, its checksum right.", |bytes, maker, _| {
            reseal_as(bytes, maker, 1)
        }),
        ("marker", "The marker of the one sector has flipped a bit.", |bytes, _, _| bytes[504] ^= 1),
        ("host", "The one sector is sealed for the UUID of the disk.", |bytes, maker, _| {
            seal(bytes, maker.header.uuid, 0)
        }),
    ];
    damages
        .map(|(name, purpose, damage)| {
            let mut maker = side();
            maker.finish();
            let mut bytes = sector(&maker, 0);
            damage(&mut bytes, &maker, 0);
            let at = maker.sector_at(0);
            maker.file.write(at, &bytes);
            maker.bad.insert(0);
            let case = Case { volume: Some(VOLUME.into()), ..maker.opens(SIDECAR) };
            Vector::new(&format!("sid-bad_{name}"), purpose, &[V::SealedSector])
                .also(&["PAG-04"])
                .file(SIDECAR, Role::Sidecar, maker.file)
                .file(VOLUME, Role::Volume, maker.volume.expect("a sidecar has a volume"))
                .case(case)
        })
        .into()
}

/// A sidecar and what it lies on, which does not suit it.
fn below() -> Vec<Vector> {
    let base = raw("base", 20_000, &[0..512]);
    let over_raw = || Maker::sidecar("side", 32_768, 12).over_raw(&base, RAW, 20_000).data(4096..4608);
    let image = Maker::complete("base", 16_384);
    let vector = |name: &str, purpose: &str, rule: &str, mut maker: Maker, parents: &[&str]| {
        let mut vector = opens(name, purpose, &[], &mut maker).also(&[rule]);
        let parents = parents.iter().map(|&parent| parent.into()).collect();
        let broken = vec![rule.into()];
        let case = Case::new(SIDECAR, Refused, &[]);
        vector.cases = vec![Case { volume: Some(VOLUME.into()), parents, broken, ..case }];
        vector
    };
    let mut changed = image.next();
    let mut cut = base.clone();
    cut.set_len(19_999);
    let over_image = || Maker::sidecar("side", 32_768, 12).over(&image, BASE, 16_384).data(4096..4608);
    let mut merged = side();
    merged.header.merge_mark = Some(MergeMark { child_uuid: id("child"), child_epoch: id("child's epoch") });
    let mut copied = side();
    copied.header.copy_mark = Some(CopyMark { group: Uuid::NIL });
    let (cut_text, changed_text) = (
        "The raw parent of a sidecar has lost its last byte.",
        "The parent of a sidecar was changed since it was linked.",
    );
    vec![
        vector("sid-over_nothing", "The parent of a sidecar is not given.", "CHN-01", over_raw(), &[]),
        vector("sid-over_volume", "The parent of a sidecar is its own volume.", "CHN-02", over_raw(), &[VOLUME]),
        vector("sid-over_itself", "The raw parent of a sidecar is the sidecar.", "CHN-02", over_raw(), &[SIDECAR]),
        vector("sid-over_cut", cut_text, "CHN-05", over_raw(), &[RAW]).file(RAW, Role::Parent, cut),
        vector("sid-over_changed", changed_text, "CHN-03", over_image(), &[BASE]).file(
            BASE,
            Role::Parent,
            changed.finish(),
        ),
        vector("sid-merge_mark", "A volume with its sidecar that is being merged into.", "CHN-04", merged, &[]),
        vector("sid-copy_mark", "A volume with its sidecar that is not yet a copy.", "CHN-06", copied, &[]),
    ]
}

/// What is given as the sidecar of an image.
fn beside() -> Vec<Vector> {
    let mut vectors: Vec<Vector> = [
        ("uuid_first_byte", "The UUID of the sidecar differs from the image's in the first byte.", 0, 0x01),
        ("uuid_last_byte", "The UUID of the sidecar differs from the image's in the last byte.", 15, 0x80),
    ]
    .map(|(name, purpose, at, mask)| {
        let mut other = epo::of_image(Uuid::NIL);
        other.maker.header.uuid.0[at] ^= mask;
        epo::stranger(&format!("epo-image-{name}"), purpose, "EPO-04", other)
    })
    .into();
    let mut of_epoch = epo::of_image(Uuid::NIL);
    of_epoch.maker.header.uuid = of_epoch.maker.header.epoch;
    let mut swapped = epo::of_image(Uuid::NIL);
    swapped.maker.header.uuid = super::sectors::swapped(swapped.maker.header.uuid);
    let mut held = Maker::sidecar("disk", 65_536, 12);
    held.header.host = Some(HostRecord { format: HostFormat::Raw, length: 65_536, former: Uuid::NIL });
    held.volume = None;
    vectors.extend([
        epo::stranger(
            "epo-image-uuid_is_epoch",
            "The UUID of the sidecar is the epoch of the image.",
            "EPO-04",
            of_epoch,
        ),
        epo::stranger(
            "epo-image-uuid_swapped",
            "The first three parts of the sidecar's UUID are byte-swapped, as in a GUID.",
            "EPO-04",
            swapped,
        ),
        epo::stranger(
            "epo-image-of_volume_allocation",
            "The sidecar of a volume, with an allocation section and the UUID of the image.",
            "SID-05",
            Tracked::new(held),
        ),
    ]);
    vectors
}
