//! Vectors of bitmaps beside the disk that they speak of: a raw volume, or an image.

use super::IMAGE;
use super::bmp::former;
use super::dirty::{Bits, DISABLED, FROZEN, Mark, RECORDING, Tracked};
use super::maker::{Maker, id};
use super::vector::{Case, Flag, Role, Vector, Verdict};
use crate::format::{HostFormat, HostRecord, State, Uuid};
use crate::limits::SLOTS_END;
use crate::violation::Violation as V;

const SIDECAR: &str = "bits.lvb";
const VOLUME: &str = "volume.raw";
const SIZE: u64 = 65_536;
/// No file has it: neither an inode number nor a time is that large.
const FINGERPRINT_OF_NONE: Uuid = Uuid([0xff; 16]);

pub(super) fn all() -> Vec<Vector> {
    [volumes(), images(), strangers()].concat()
}

/// A sidecar without an allocation section.
fn sidecar(size: u64, format: HostFormat, former: Uuid) -> Maker {
    let mut maker = Maker::sidecar("disk", size, 12);
    maker.header.sections.clear();
    maker.header.host = Some(HostRecord { format, length: size, former });
    maker.file.set_len(SLOTS_END);
    maker
}

/// The sidecar of a raw volume.
fn of_volume(fingerprint: Uuid) -> Tracked {
    let maker = sidecar(SIZE, HostFormat::Raw, fingerprint).data(0..4096).data(61_440..65_536);
    Tracked::new(maker).bitmap("daily", RECORDING, Bits::dirty(12, &[0, 15]))
}

fn volume(name: &str, purpose: &str, rules: &[&str], mut tracked: Tracked) -> Vector {
    let file = tracked.finish();
    let volume = tracked.maker.volume.clone().expect("a sidecar of a volume has one");
    Vector::new(name, purpose, &[])
        .also(rules)
        .file(SIDECAR, Role::Sidecar, file)
        .file(VOLUME, Role::Volume, volume)
        .case(Case { volume: Some(VOLUME.into()), ..tracked.opens(SIDECAR) })
}

/// A fingerprint that a file has once it is restored is not known here: vectors can only say that nobody knows it, or
/// name one that no file has.
fn volumes() -> Vec<Vector> {
    let more = |tracked: Tracked| {
        tracked.bitmap("old", DISABLED, Bits::dirty(12, &[7])).bitmap("kept", FROZEN, Bits::dirty(12, &[8])).bitmap(
            "kept",
            RECORDING,
            Bits::dirty(12, &[9]),
        )
    };
    let mut held = Maker::sidecar("side", SIZE, 12).data(4096..8192);
    held.header.host = Some(HostRecord { format: HostFormat::Raw, length: SIZE, former: Uuid::NIL });
    let held = Tracked::new(held).bitmap("daily", RECORDING, Bits::dirty(12, &[1]));
    let with_allocation = volume(
        "epo-volume-with_allocation",
        "A sidecar with an allocation section and a bitmap.",
        &["EPO-07", "SEC-09"],
        held,
    );
    vec![
        volume(
            "epo-volume",
            "The sidecar of a raw volume, closed; the fingerprint says that nobody knows.",
            &["EPO-07", "SID-03"],
            more(of_volume(Uuid::NIL)),
        ),
        volume(
            "epo-volume-changed",
            "The fingerprint is one that the volume does not have: somebody changed it. What was disabled has missed that.",
            &["EPO-07", "BMP-07"],
            more(of_volume(FINGERPRINT_OF_NONE)).distrusted(),
        ),
        volume(
            "epo-volume-unclean",
            "The session of a raw volume's sidecar did not end: intents count.",
            &["EPO-07", "INT-02"],
            more(of_volume(Uuid::NIL)).intents(Bits::intents(14, &[1])).state(State::Writing),
        )
        .flag(Flag::Crash),
        volume(
            "epo-volume-unclean_changed",
            "A fingerprint counts only in a closed sidecar: while one writes it is that of before.",
            &["EPO-07", "INT-02"],
            more(of_volume(FINGERPRINT_OF_NONE)).intents(Bits::intents(14, &[1])).state(State::Writing),
        )
        .flag(Flag::Crash),
        volume(
            "epo-volume-filling_changed",
            "The same while blocks are being filled.",
            &["EPO-07"],
            more(of_volume(FINGERPRINT_OF_NONE)).state(State::Filling),
        )
        .flag(Flag::Crash),
        volume(
            "epo-volume-stale",
            "A bitmap in the sidecar that does not name its epoch.",
            &["BMP-06"],
            of_volume(Uuid::NIL).mark(Mark::new("lost", RECORDING, Bits::dirty(12, &[3])).until(former())),
        ),
        with_allocation,
    ]
}

/// An image whose disk has `size` bytes.
fn image(size: u64) -> Tracked {
    Tracked::new(Maker::complete("disk", size).data(0..4096))
}

/// The sidecar of that image, in its epoch.
pub(super) fn of_image(former: Uuid) -> Tracked {
    Tracked::new(sidecar(SIZE, HostFormat::Lvd, former)).bitmap("daily", RECORDING, Bits::dirty(12, &[0, 15])).bitmap(
        "old",
        DISABLED,
        Bits::dirty(12, &[7]),
    )
}

fn together(name: &str, purpose: &str, mut image: Tracked, mut beside: Tracked) -> Vector {
    let (file, bits) = (image.finish(), beside.finish());
    let case = beside.told(image.maker.header.virtual_size, image.opens(IMAGE));
    Vector::new(name, purpose, &[V::SidecarOfImage])
        .file(IMAGE, Role::Image, file)
        .file(SIDECAR, Role::Sidecar, bits)
        .case(Case { beside: Some(SIDECAR.into()), ..case })
}

fn images() -> Vec<Vector> {
    let before = || {
        let mut image = image(SIZE);
        image.maker.header.epoch = former();
        image
    };
    let own = image(SIZE).bitmap("own", RECORDING, Bits::dirty(13, &[2]));
    let mut torn = of_image(Uuid::NIL);
    torn.finish();
    let mut next = torn.maker.next();
    next.header.host = Some(HostRecord { format: HostFormat::Lvd, length: SIZE, former: torn.maker.header.epoch });
    let mut slot = next.encoded();
    slot[200] ^= 1;
    let mut torn_vector = together("epo-image-torn_slot", "", image(SIZE), torn.clone());
    torn.maker.slot(0, &slot);
    torn_vector.files[1].bytes = torn.maker.file.clone();
    torn_vector.purpose = "The sidecar's update to the next epoch was torn: image and sidecar are of one epoch.".into();
    vec![
        together(
            "epo-image",
            "The sidecar of an image, both of one epoch.",
            image(SIZE),
            of_image(Uuid::NIL),
        ),
        together("epo-image-own_too", "Image and sidecar have bitmaps of their own.", own, of_image(former())),
        together(
            "epo-image-former",
            "The image is still in the epoch before: a crash came between the two headers, and nothing was changed.",
            before(),
            of_image(former()).intents(Bits::intents(14, &[1])).state(State::Writing),
        )
        .also(&["EPO-05", "INT-02"])
        .flag(Flag::Crash),
        together(
            "epo-image-former_disabled",
            "The same, with a bitmap that names the image's epoch and not the sidecar's: it counts as one that missed writes.",
            before(),
            of_image(former()).mark(Mark::new("older", DISABLED, Bits::dirty(12, &[3])).until(former())),
        )
        .also(&["BMP-07"]),
        together(
            "epo-image-neither",
            "Somebody changed the image without its sidecar: what records is stale, what was disabled has missed writes.",
            before(),
            of_image(id("disk, an epoch long ago")).distrusted(),
        )
        .also(&["BMP-06", "BMP-07"]),
        together(
            "epo-image-former_nil",
            "The image is in the epoch before, but a bitmap was cleared since: the sidecar names no former epoch.",
            before(),
            of_image(Uuid::NIL).distrusted(),
        )
        .also(&["EPO-06"]),
        together(
            "epo-image-frozen",
            "A frozen bitmap and its successor in a sidecar that the image has left behind.",
            before(),
            of_image(Uuid::NIL)
                .bitmap("kept", FROZEN, Bits::dirty(12, &[3]))
                .bitmap("kept", RECORDING, Bits::dirty(12, &[4]))
                .distrusted(),
        )
        .also(&["BMP-08"]),
        together(
            "epo-image-state",
            "Sidecar and image did not end their sessions; the intents are the sidecar's.",
            image(SIZE).state(State::Writing),
            of_image(former()).intents(Bits::intents(14, &[2])).state(State::Writing),
        )
        .also(&["INT-02"])
        .flag(Flag::Crash),
        together(
            "epo-image-own_state",
            "The sidecar is closed, the image is not: in the sidecar no intents are missing.",
            image(SIZE).state(State::Writing),
            of_image(Uuid::NIL),
        )
        .also(&["INT-02"])
        .flag(Flag::Crash),
        together(
            "epo-image-larger",
            "The image's disk is larger than the sidecar's header says: the bitmaps speak of the image's disk.",
            image(SIZE + 10_000),
            of_image(Uuid::NIL),
        )
        .also(&["BMP-05"]),
        together(
            "epo-image-smaller",
            "It is smaller: bits past its end have no meaning.",
            image(20_000),
            of_image(Uuid::NIL),
        )
        .also(&["BMP-05"]),
        torn_vector.also(&["HDR-17"]).flag(Flag::Crash),
        together(
            "epo-image-none",
            "A record in the sidecar that is no bitmap.",
            image(SIZE),
            of_image(Uuid::NIL)
                .mark(Mark::new("none", RECORDING, Bits::dirty(12, &[3])).none_by(V::BitmapRecord, |payload| payload[60] = 9)),
        )
        .also(&["BMP-01"]),
    ]
}

/// A file that is not the sidecar of the image, and is given as such.
pub(super) fn stranger(name: &str, purpose: &str, rule: &str, mut beside: Tracked) -> Vector {
    let mut vector = together(name, purpose, image(SIZE), of_image(Uuid::NIL));
    let file = beside.finish();
    vector.files[1].length = file.len();
    vector.files[1].bytes = file;
    vector.cases = vec![Case {
        beside: Some(SIDECAR.into()),
        broken: vec![rule.into()],
        ..Case::new(IMAGE, Verdict::Refused, &[])
    }];
    vector.rules = vec![rule.into()];
    vector
}

fn strangers() -> Vec<Vector> {
    let mut other = of_image(Uuid::NIL);
    other.maker.header.uuid = id("another disk");
    let mut alone = of_image(Uuid::NIL);
    let alone_file = alone.finish();
    let mut volume = of_volume(Uuid::NIL);
    volume.maker.volume = None;
    vec![
        stranger("epo-image-other_uuid", "The sidecar of another image.", "EPO-04", other),
        stranger("epo-image-of_volume", "The sidecar of a raw volume is no sidecar of an image.", "SID-05", volume),
        stranger("epo-image-no_sidecar", "Another image is given as the sidecar.", "SID-05", image(SIZE)),
        Vector::new("epo-image-alone", "The sidecar of an image is opened as if it were one.", &[])
            .also(&["SID-07"])
            .file(SIDECAR, Role::Sidecar, alone_file)
            .case(Case { broken: vec!["SID-07".into()], ..Case::new(SIDECAR, Verdict::Refused, &[]) }),
    ]
}
