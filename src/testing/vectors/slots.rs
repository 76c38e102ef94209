//! Vectors of the two header slots: which one counts, and what a crash leaves in them.

use super::draft::Draft;
use super::maker::{Maker, tagged};
use super::vector::{Case, Role, Vector, Verdict};
use super::{IMAGE, plain};
use crate::format::{Decision, Header, Kind, RawRecord, State};
use crate::violation::Violation as V;
use Verdict::{Invalid, Unsupported};

pub(super) fn all() -> Vec<Vector> {
    [one_is_left(), newer_wins(), torn(), odd_length(), equal(), strange(), refusing(), telling()].concat()
}

/// A slot as a write of eight sectors that stopped leaves it: the `new` sectors of `mask`, the others `old`.
fn mixed(old: &[u8], new: &[u8], mask: u8) -> Vec<u8> {
    let sector = |bytes: &[u8], at: usize| -> Vec<u8> {
        let mut sector = bytes.get(at * 512..).unwrap_or_default().to_vec();
        sector.resize(512, 0);
        sector
    };
    (0..8).flat_map(|at| sector(if mask >> at & 1 == 1 { new } else { old }, at)).collect()
}

/// A vector whose slots hold `bytes`, and that opens as `maker` says.
fn shows(name: &str, purpose: &str, mut maker: Maker, bytes: [&[u8]; 2]) -> Vector {
    maker.seal_bits();
    maker.slot(0, bytes[0]);
    maker.slot(1, bytes[1]);
    Vector::new(name, purpose, &[]).file(IMAGE, Role::Image, maker.file.clone()).case(maker.opens(IMAGE))
}

/// A vector whose slots hold `bytes`, and that does not open.
fn fails(name: &str, purpose: &str, verdict: Verdict, rule: V, bytes: [&[u8]; 2]) -> Vector {
    let mut maker = plain();
    maker.slot(0, bytes[0]);
    maker.slot(1, bytes[1]);
    Vector::new(name, purpose, &[rule]).file(IMAGE, Role::Image, maker.file).case(Case::new(IMAGE, verdict, &[rule]))
}

/// The plain image at sequence 6, and what a session made of its header: 7, another epoch, writing.
fn two() -> (Maker, Maker) {
    let mut old = plain();
    old.header.sequence = 6;
    let mut new = old.next();
    new.header.state = State::Writing;
    (old, new)
}

fn one_is_left() -> Vec<Vector> {
    let bytes = plain().encoded();
    let noise = tagged("junk", 0..4096);
    let shows = |name: &str, purpose: &str, slots| shows(name, purpose, plain(), slots).also(&["HDR-17"]);
    vec![
        shows("slots-0-alone", "Slot 1 is empty.", [&bytes, &[]]),
        shows("slots-1-alone", "Slot 0 is empty.", [&[], &bytes]),
        shows("slots-0-noise", "Slot 0 holds noise.", [&noise, &bytes]),
        shows("slots-1-noise", "Slot 1 holds noise.", [&bytes, &noise]),
    ]
}

fn newer_wins() -> Vec<Vector> {
    let (old, new) = two();
    let (six, seven) = (old.encoded(), new.encoded());
    let mut longer = old.clone();
    longer.header.virtual_size += 1 << 20;
    let mut far = old.clone();
    far.header.sequence = i64::MAX as u64;
    let far_bytes = far.encoded();
    let mut nine = plain();
    nine.header.sequence = 9;
    let mut ten = nine.next();
    ten.header.sequence = 0x100;
    let (nine, hundred) = (nine.encoded(), ten.encoded());
    vec![
        shows("slots-0-newer", "Slot 0 has the higher sequence: an update ended early.", new.clone(), [&seven, &six])
            .also(&["HDR-19", "HDR-23"]),
        shows("slots-1-newer", "Slot 1 has the higher sequence.", new.clone(), [&six, &seven]).also(&["HDR-19"]),
        shows(
            "slots-older-longer_disk",
            "The older header is of a longer disk, whose data area the file no longer holds: a shrink was interrupted.",
            new.clone(),
            [&longer.encoded(), &seven],
        )
        .also(&["HDR-16", "HDR-18"]),
        shows(
            "slots-far_apart",
            "The sequences are 7 and 2^63 - 1: numbers are compared, nothing wraps.",
            far,
            [&far_bytes, &seven],
        )
        .also(&["HDR-19", "HDR-15"]),
        shows("slots-bytewise_order", "256 is more than 9, though its first byte is less.", ten, [&hundred, &nine])
            .also(&["HDR-19"]),
    ]
}

/// The plain image with a header of seven sectors, of which a crash leaves any mixture.
fn long(sequence: u64) -> Maker {
    let mut maker = plain();
    maker.header.sequence = sequence - 1;
    let mut maker = maker.next();
    maker.header.unknown.push(RawRecord { record_type: 900, flags: 0, payload: vec![b'a' + sequence as u8; 3333] });
    maker
}

fn torn() -> Vec<Vector> {
    let (old, new) = two();
    let (five, six, seven) = (plain().encoded(), old.encoded(), new.encoded());
    let mut cut = seven.clone();
    cut[40] ^= 0x10;
    let mut vectors = vec![
        shows(
            "slots-newest_torn-in_0",
            "The update to 7 was torn in slot 0; 6 in slot 1 counts.",
            old.clone(),
            [&cut, &six],
        ),
        shows(
            "slots-newest_torn-in_1",
            "The update to 7 was torn in slot 1; 6 in slot 0 counts.",
            old.clone(),
            [&six, &cut],
        ),
        shows(
            "slots-older_torn",
            "7 is whole; making slot 0 equal to it was interrupted.",
            new.clone(),
            [&cut, &seven],
        ),
        shows("slots-two_updates_behind", "Slot 1 is two updates behind.", new, [&seven, &five]),
    ];
    vectors.extend(torn_in_sectors());
    for vector in &mut vectors {
        vector.rules.extend(["HDR-17".into(), "HDR-05".into(), "ORD-30".into()]);
    }
    vectors
}

/// A length within its limits that is no multiple of 8, under a right checksum: HDR-04 counts in full, and the slot is torn.
fn odd_length() -> Vec<Vector> {
    let (old, new) = two();
    let six = old.encoded();
    let odd = patched(&new, |draft| draft.put_late(12, &132u32.to_le_bytes()));
    let newer = patched(&new, |draft| {
        draft.put(8, &[2]);
        draft.put_late(12, &132u32.to_le_bytes());
    });
    let shows = |name: &str, purpose: &str, slots| shows(name, purpose, old.clone(), slots).also(&["HDR-17", "HDR-04"]);
    vec![
        shows(
            "slots-length_132-in_0",
            "The length in slot 0 is no multiple of 8, the checksum of so many bytes is right: slot 1 counts.",
            [&odd, &six],
        ),
        shows("slots-length_132-in_1", "The same in slot 1: slot 0 counts.", [&six, &odd]),
        shows(
            "slots-version_2_length_132",
            "Version 2 with a length that is no multiple of 8, and a right checksum, is torn like any other.",
            [&newer, &six],
        )
        .also(&["HDR-03"]),
    ]
}

/// Slot 0 held 4 and slot 1 holds 5 when 6 was being written to slot 0.
fn torn_in_sectors() -> Vec<Vector> {
    let [four, five, six] = [4, 5, 6].map(long);
    let slot_1 = five.encoded();
    let case = |name: &str, purpose: &str, maker: &Maker, mask: u8| {
        let slot_0 = mixed(&four.encoded(), &six.encoded(), mask);
        shows(name, purpose, maker.clone(), [&slot_0, &slot_1])
    };
    vec![
        case("slots-sectors-none", "Of an update no sector: slot 0 holds 4 as before, 5 counts.", &five, 0b0000_0000),
        case(
            "slots-sectors-first",
            "Of an update only the first sector, which has the new fields.",
            &five,
            0b0000_0001,
        ),
        case("slots-sectors-all_but_first", "Of an update all but the first sector.", &five, 0b1111_1110),
        case("slots-sectors-odd", "Of an update every other sector.", &five, 0b1010_1010),
        case("slots-sectors-all_but_last", "Of an update all but the last sector of the header.", &five, 0b1011_1111),
        case(
            "slots-sectors-padding_old",
            "Of an update all of the header; only the padding is old.",
            &six,
            0b0111_1111,
        ),
    ]
}

/// A right header, changed, with a right checksum.
fn patched(maker: &Maker, change: impl FnOnce(&mut Draft)) -> Vec<u8> {
    let mut draft = Draft::of(&maker.header);
    change(&mut draft);
    draft.slot()
}

fn equal() -> Vec<Vector> {
    let (_, new) = two();
    let seven = new.encoded();
    let mut other = new.clone();
    other.header.epoch = super::maker::id("a third epoch");
    vec![
        fails(
            "slots-equal_sequence-other_epoch",
            "Two headers of one sequence number.",
            Invalid,
            V::EqualSequence,
            [&seven, &other.encoded()],
        ),
        fails(
            "slots-equal_sequence-longer",
            "One header, and the same with a record more.",
            Invalid,
            V::EqualSequence,
            [&seven, &patched(&new, |draft| draft.add(900, 0, b"more"))],
        ),
    ]
}

/// Right headers of two files, as a write that went astray leaves them.
fn strange() -> Vec<Vector> {
    let (old, new) = two();
    let (six, seven) = (old.encoded(), new.encoded());
    let uuid = |maker: &Maker| patched(maker, |draft| draft.put(47, &[0]));
    let mut group = new.clone();
    group.header = Header {
        sequence: 7,
        decision: Some(Decision::Undecided),
        ..Header::new(Kind::Group, new.header.uuid, new.header.epoch, 0, 0)
    };
    let vector = |name: &str, purpose: &str, slots| fails(name, purpose, Invalid, V::OneFile, slots);
    vec![
        vector("slots-two_files-newer_in_1", "The newer header has another UUID.", [&six, &uuid(&new)]),
        vector("slots-two_files-newer_in_0", "The newer header, in slot 0, has another UUID.", [&uuid(&new), &six]),
        vector("slots-two_files-older", "The older header has another UUID.", [&uuid(&old), &seven]),
        vector(
            "grp-two_files",
            "Of a disk's header and a newer one of a group's file, with one UUID, neither is taken.",
            [&six, &group.encoded()],
        ),
        fails(
            "slots-two_files-equal_sequence",
            "Two headers of one sequence number; the last byte of the UUID differs.",
            Invalid,
            V::EqualSequence,
            [&seven, &uuid(&new)],
        )
        .or(V::OneFile),
    ]
}

fn refusing() -> Vec<Vector> {
    let (old, new) = two();
    let (six, seven) = (old.encoded(), new.encoded());
    let feature = patched(&new, |draft| draft.put(80, &[1]));
    let old_feature = patched(&old, |draft| draft.put(80, &[1]));
    let state = patched(&new, |draft| draft.put(22, &[7]));
    let old_state = patched(&old, |draft| draft.put(22, &[7]));
    let version = patched(&new, |draft| draft.put(8, &[2]));
    let reserved = patched(&new, |draft| draft.put(127, &[1]));
    let mut version_torn = version.clone();
    version_torn[100] ^= 1;
    let no_fall_back = "the older header does not take its place.";
    let mut vectors = vec![
        fails(
            "slots-newer-incompat",
            &format!("The newer header has an unknown incompatible feature: {no_fall_back}"),
            Unsupported,
            V::IncompatibleFeature,
            [&six, &feature],
        ),
        fails(
            "slots-newer-state",
            &format!("The newer header has no right state: {no_fall_back}"),
            Invalid,
            V::State,
            [&state, &six],
        ),
        fails(
            "slots-newer-reserved",
            &format!("A reserved byte of the newer header is set: {no_fall_back}"),
            Invalid,
            V::HeaderReserved,
            [&six, &reserved],
        ),
        fails(
            "slots-newer-version_2",
            &format!("The newer header is of version 2: {no_fall_back}"),
            Unsupported,
            V::Version,
            [&version, &six],
        ),
        fails(
            "slots-older-incompat",
            "The older header has an unknown incompatible feature.",
            Unsupported,
            V::IncompatibleFeature,
            [&seven, &old_feature],
        ),
        fails("slots-older-state", "The older header has no right state.", Invalid, V::State, [&old_state, &seven]),
        fails(
            "slots-two_flaws-state_first",
            "Both headers break a rule: slot 0 is judged first, though it is the older one.",
            Invalid,
            V::State,
            [&old_state, &reserved],
        ),
        fails(
            "slots-two_flaws-reserved_first",
            "The same the other way round.",
            Invalid,
            V::HeaderReserved,
            [&reserved, &old_state],
        ),
        fails(
            "slots-equal_sequence-flaw",
            "Two headers of one sequence, one of which breaks a rule: that they differ is not looked at.",
            Invalid,
            V::State,
            [&seven, &state],
        ),
    ];
    vectors.iter_mut().for_each(|vector| vector.rules.push("HDR-18".into()));
    let purpose = "Version 2 with a wrong checksum in one slot is torn like any other.";
    vectors.push(shows("slots-version_2_torn", purpose, old, [&version_torn, &six]).also(&["HDR-17", "HDR-03"]));
    vectors
}

/// Two bad slots: the flaw that is reported is that of the slot that came closest to a header.
fn telling() -> Vec<Vector> {
    let (_, new) = two();
    let seven = new.encoded();
    let noise = tagged("junk", 0..4096);
    let patched = |at: usize, bytes: &[u8]| {
        let mut slot = seven.clone();
        slot[at..at + bytes.len()].copy_from_slice(bytes);
        slot
    };
    let (checksum, length, version) = (patched(33, &[0xff]), patched(12, &[4]), patched(8, &[3]));
    let vector =
        |name: &str, purpose: &str, verdict, rule, slots| fails(name, purpose, verdict, rule, slots).also(&["HDR-20"]);
    vec![
        vector(
            "slots-flaw-noise_and_checksum",
            "Noise, and a torn header: it was a header.",
            Invalid,
            V::HeaderChecksum,
            [&noise, &checksum],
        ),
        vector(
            "slots-flaw-checksum_and_empty",
            "A torn header, and nothing.",
            Invalid,
            V::HeaderChecksum,
            [&checksum, &[]],
        ),
        vector("slots-flaw-empty_and_noise", "Nothing, and noise.", Invalid, V::Magic, [&[], &noise]),
        vector(
            "slots-flaw-length_and_checksum",
            "A length out of range, and a wrong checksum.",
            Invalid,
            V::HeaderChecksum,
            [&length, &checksum],
        ),
        vector(
            "slots-flaw-version_and_checksum",
            "Another version, torn, and a wrong checksum.",
            Unsupported,
            V::Version,
            [&checksum, &version],
        ),
    ]
}
