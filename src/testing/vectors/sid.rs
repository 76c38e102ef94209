//! Vectors of sidecars: an allocation section beside a raw volume.

use super::draft::{Draft, HOST, REQUIRED, SECTION};
use super::link::marked;
use super::maker::{Maker, id, raw};
use super::sparse::Sparse;
use super::vector::{Case, Role, Vector, Verdict};
use super::{IMAGE, broken, plain};
use crate::format::{HostFormat, HostRecord, MergeMark, State, Uuid};
use crate::limits::{SLOT_SIZE, SLOTS_END};
use crate::violation::Violation as V;
use Verdict::{Invalid, Unsupported};

pub(super) const SIDECAR: &str = "sidecar.lvb";
pub(super) const VOLUME: &str = "volume.raw";

pub(super) fn all() -> Vec<Vector> {
    [valid(), hosts(), volumes(), records()].concat()
}

/// A volume of eight blocks, of which two are present and one holds what a crash left.
pub(super) fn side() -> Maker {
    Maker::sidecar("side", 32_768, 12).data(0..4096).data(28_672..32_768).garbage(8192..12_288)
}

/// A sidecar that opens beside its volume.
pub(super) fn opens(name: &str, purpose: &str, rules: &[V], maker: &mut Maker) -> Vector {
    let file = maker.finish();
    let volume = maker.volume.clone().expect("a sidecar has a volume");
    Vector::new(name, purpose, rules)
        .file(SIDECAR, Role::Sidecar, file)
        .file(VOLUME, Role::Volume, volume)
        .case(Case { volume: Some(VOLUME.into()), ..maker.opens(SIDECAR) })
}

/// A sidecar both of whose slots hold what `change` made of a right header.
pub(super) fn fails(name: &str, purpose: &str, rule: V, verdict: Verdict, change: impl FnOnce(&mut Draft)) -> Vector {
    let mut maker = side();
    maker.seal_bits();
    let mut draft = Draft::of(&maker.header);
    change(&mut draft);
    maker.slot(0, &draft.slot());
    maker.slot(1, &draft.slot());
    let volume = maker.volume.clone().expect("a sidecar has a volume");
    Vector::new(name, purpose, &[rule])
        .file(SIDECAR, Role::Sidecar, maker.file)
        .file(VOLUME, Role::Volume, volume)
        .case(Case { volume: Some(VOLUME.into()), ..Case::new(SIDECAR, verdict, &[rule]) })
}

fn valid() -> Vec<Vector> {
    let base = raw("base", 20_000, &[0..20_000]);
    let mut over = Maker::sidecar("side", 32_768, 12).over_raw(&base, "base.raw", 20_000).data(4096..5000);
    let mut lvd = Maker::complete("base", 16_384).data(0..16_384);
    let mut over_lvd = Maker::sidecar("side", 32_768, 12).over(&lvd, "base.lvd", 16_384).data(0..4096);
    over_lvd.header.state = State::Filling;
    let mut odd = Maker::sidecar("side", 10_001, 12).data(8192..10_001);
    let mut longer = side();
    longer.volume.as_mut().expect("a sidecar has a volume").set_len(40_000);
    longer.volume.as_mut().expect("a sidecar has a volume").write(32_768, b"not of the disk");
    let mut shorter = Maker::sidecar("side", 20_480, 12).data(16_384..20_480);
    shorter.header.host = Some(HostRecord { format: HostFormat::Raw, length: 32_768, former: Uuid::NIL });
    shorter.volume.as_mut().expect("a sidecar has a volume").set_len(32_768);
    let mut long = Maker::sidecar("side", 1 << 20, 12).data(0..4096).data(1_044_480..1_048_576);
    let mut former = side();
    former.header.host = Some(HostRecord { format: HostFormat::Raw, length: 32_768, former: Uuid([0xa5; 16]) });
    let mut merged = side();
    merged.header.merge_mark = Some(MergeMark { child_uuid: id("child"), child_epoch: id("child's epoch") });
    let mut looked_at = opens(
        "sid-merge_mark-looked_at",
        "A volume with its sidecar that is being merged into: the caller may override, to look.",
        &[V::Marked],
        &mut merged,
    );
    looked_at.cases[0].ignore_marks = true;
    let mut over_mixed = Maker::sidecar("side", 32_768, 12).over(&lvd, "base.lvd", 16_384).data(0..4096);
    let mut mixed = marked(&lvd, over_mixed.header.uuid).data(0..4096);
    let mut bad = side();
    bad.finish();
    bad.file.write(bad.sector_at(0) + 7, &[0x55]);
    bad.bad.insert(0);
    let damaged = Case { volume: Some(VOLUME.into()), ..bad.opens(SIDECAR) };
    vec![
        opens(
            "sid-plain",
            "A raw volume of eight blocks, of which its sidecar says that two are present.",
            &[V::AllocationHome, V::SidecarHost, V::HostFormat],
            &mut side(),
        )
        .also(&["ALC-01", "ALC-04", "SID-05"]),
        opens("sid-over_raw", "Copy-on-read from a shorter raw file into a volume.", &[V::VisibleLength], &mut over)
            .also(&["ALC-05"])
            .file("base.raw", Role::Parent, base),
        opens("sid-over_image", "The same from an image; the session ended while it was filling.", &[], &mut over_lvd)
            .file("base.lvd", Role::Parent, lvd.finish()),
        opens(
            "sid-over_merged",
            "The base of a merge below the child that its mark names, a sidecar with its volume.",
            &[V::Marked],
            &mut over_mixed,
        )
        .file("base.lvd", Role::Parent, mixed.finish()),
        looked_at,
        opens("sid-odd_size", "The volume is no multiple of a block.", &[], &mut odd).also(&["ALC-06"]),
        opens("sid-volume-longer", "The volume is longer than the sidecar says.", &[V::HostLength], &mut longer),
        opens(
            "sid-host-former",
            "What bitmaps are bound by is any number; here there are none.",
            &[V::SidecarHost, V::RecordLength],
            &mut former,
        ),
        opens(
            "sid-disk-past_own_file",
            "The disk is longer than the sidecar, which has no data area: neither its end nor its section is in the way.",
            &[V::DataArea, V::Overlap],
            &mut long,
        ),
        opens("sid-disk-shorter_than_host", "The disk is shorter than its host.", &[V::HostCovers], &mut shorter),
        opens(
            "sid-complete",
            "A sidecar without allocation section, as a stream that came to its end leaves it: the volume is the disk.",
            &[V::AllocationHome],
            &mut complete(),
        )
        .also(&["ALC-02"]),
        Vector::new(
            "sid-bad_sector",
            "The one sector of the bitmap is bad: nothing of the volume is read.",
            &[V::SealedSector],
        )
        .file(SIDECAR, Role::Sidecar, bad.file.clone())
        .file(VOLUME, Role::Volume, bad.volume.clone().expect("a sidecar has a volume"))
        .case(damaged),
    ]
}

/// A volume that is present as a whole.
fn complete() -> Maker {
    let mut maker = Maker::sidecar("side", 32_768, 12).data(0..32_768);
    maker.header.sections.clear();
    maker.file.set_len(SLOTS_END);
    maker
}

fn hosts() -> Vec<Vector> {
    let mut disk_longer =
        fails("sid-disk-longer_than_host", "The disk is a byte longer than its host.", V::HostCovers, Invalid, |d| {
            d.put_in(HOST, 8, &32_767u64.to_le_bytes())
        });
    disk_longer.files[1].bytes.set_len(32_768);
    vec![
        fails("sid-host-missing", "A sidecar without host record.", V::SidecarHost, Invalid, |d| {
            d.records.retain(|record| record.record_type != HOST)
        })
        .or(V::AllocationHome),
        fails(
            "sid-host-missing_no_section",
            "A sidecar without host record and without section.",
            V::SidecarHost,
            Invalid,
            |d| d.records.clear(),
        ),
        broken("sid-host-in_image", "An image with a host record.", V::SidecarHost, Invalid, plain(), |d| {
            let host = Draft::of(&side().header).record(HOST).clone();
            d.add(HOST, REQUIRED, &host.payload);
        }),
        fails("sid-host-format_0", "A host without format.", V::HostFormat, Unsupported, |d| d.put_in(HOST, 0, &[0])),
        fails(
            "sid-host-lvd_allocation",
            "A host with a header of its own, and an allocation section: an image holds its own.",
            V::AllocationHome,
            Invalid,
            |d| d.put_in(HOST, 0, &[1]),
        ),
        fails("sid-host-format_3", "A format that version 1 does not name.", V::HostFormat, Unsupported, |d| {
            d.put_in(HOST, 0, &[3])
        }),
        fails("sid-host-format_high", "The format's last byte is set.", V::HostFormat, Unsupported, |d| {
            d.put_in(HOST, 3, &[1])
        }),
        disk_longer,
    ]
}

fn volumes() -> Vec<Vector> {
    let with_volume = |name: &str, purpose: &str, length: u64| {
        let mut vector = opens(name, purpose, &[V::HostLength], &mut side());
        let mut volume = vector.files[1].bytes.clone();
        volume.set_len(length);
        vector.files.truncate(1);
        vector.cases = vec![Case { volume: Some(VOLUME.into()), ..Case::new(SIDECAR, Invalid, &[V::HostLength]) }];
        vector.file(VOLUME, Role::Volume, volume)
    };
    let mut alone = opens("sid-alone", "A sidecar is opened as if it were an image.", &[], &mut side());
    alone.files.truncate(1);
    alone.cases = vec![Case { broken: vec!["SID-07".into()], ..Case::new(SIDECAR, Verdict::Refused, &[]) }];
    let mut itself = opens("sid-volume-itself", "A sidecar is given as its own volume.", &[V::Cycle], &mut side());
    itself.files.truncate(1);
    itself.cases = vec![Case { volume: Some(SIDECAR.into()), ..Case::new(SIDECAR, Verdict::Refused, &[V::Cycle]) }];
    let image = Vector::new("sid-image_as_sidecar", "An image is opened as if it were a sidecar.", &[])
        .also(&["SID-05"])
        .file(IMAGE, Role::Image, plain().finish())
        .file(VOLUME, Role::Volume, Sparse::new(12_288))
        .case(Case {
            volume: Some(VOLUME.into()),
            broken: vec!["SID-05".into()],
            ..Case::new(IMAGE, Verdict::Refused, &[])
        });
    let mut of_image = complete();
    of_image.header.host = Some(HostRecord { format: HostFormat::Lvd, length: 32_768, former: Uuid::NIL });
    let mut of_image =
        opens("sid-host-lvd_volume", "The sidecar of an image is opened together with a volume.", &[], &mut of_image);
    of_image.cases = vec![Case {
        volume: Some(VOLUME.into()),
        broken: vec!["SID-05".into()],
        ..Case::new(SIDECAR, Verdict::Refused, &[])
    }];
    let mut short =
        opens("sid-file-short", "The sidecar ends within slot 1, behind its header.", &[V::Slots], &mut complete());
    short.files[0].bytes.set_len(SLOT_SIZE + 4096);
    short.cases = vec![Case { volume: Some(VOLUME.into()), ..Case::new(SIDECAR, Invalid, &[V::Slots]) }];
    vec![
        short,
        with_volume("sid-volume-byte_short", "The volume is a byte shorter than the sidecar says.", 32_767),
        with_volume("sid-volume-empty", "The volume is empty.", 0),
        alone.also(&["SID-07"]),
        itself,
        image,
        of_image.also(&["SID-05"]),
    ]
}

fn records() -> Vec<Vector> {
    let mut cut =
        opens("sid-section-cut", "The sidecar ends before its section does.", &[V::SectionInFile], &mut side());
    let length = cut.files[0].length - 512;
    cut.files[0].bytes.set_len(length);
    cut.files[0].length = length;
    cut.cases = vec![Case { volume: Some(VOLUME.into()), ..Case::new(SIDECAR, Invalid, &[V::SectionInFile]) }];
    vec![
        fails("sid-host-two", "A sidecar with two host records.", V::RecordCount, Invalid, |d| {
            let host = d.record(HOST).clone();
            d.records.push(host);
        }),
        fails(
            "sid-host-optional",
            "The host record says that it need not be understood.",
            V::KnownRecordRequired,
            Invalid,
            |d| d.record(HOST).flags = 0,
        ),
        fails("sid-host-longer", "The host record is longer than its type says.", V::RecordLength, Invalid, |d| {
            d.record(HOST).payload.extend([0; 8])
        }),
        fails("sid-host-cut", "The host record is shorter than its type says.", V::RecordLength, Invalid, |d| {
            d.record(HOST).payload.truncate(24)
        }),
        fails("sid-host-reserved", "A reserved byte of the host record is not zero.", V::RecordLength, Invalid, |d| {
            d.put_in(HOST, 4, &[1])
        }),
        fails(
            "sid-host-reserved_and_format",
            "The same, and its format is unknown: of a record that breaks REC-05 the payload is not judged.",
            V::RecordLength,
            Invalid,
            |d| d.put_in(HOST, 0, &[3, 0, 0, 0, 1]),
        ),
        fails(
            "sid-walk-none_counted",
            "A sidecar that counts none of its records: whether it has a host record is not known.",
            V::RecordWalk,
            Invalid,
            |d| d.put_late(104, &[0]),
        ),
        fails("sid-data_offset", "A sidecar has no data area, but a data offset.", V::DataOffset, Invalid, |d| {
            d.put(72, &SLOTS_END.to_le_bytes())
        }),
        fails("sid-section-over_slot", "The section lies over slot 1.", V::SectionPlace, Invalid, |d| {
            d.put_in(SECTION, 24, &65_536u64.to_le_bytes())
        })
        .or(V::Overlap),
        cut,
    ]
}
