//! Vectors of dirty bitmaps: their records, and what they tell.

use super::dirty::{Bits, DISABLED, FROZEN, Mark, RECORDING, Tracked};
use super::draft::{BITMAP, Draft, POINT, REQUIRED};
use super::maker::{Maker, id, raw};
use super::vector::{Flag, Role, Vector, Verdict};
use super::{IMAGE, broken, plain, sparse_overlay};
use crate::format::{BITS_PER_PAGE, BITS_PER_SECTOR, State, Uuid};
use crate::limits::{PAGE_SIZE, SECTOR_SIZE};
use crate::violation::Violation as V;

pub(super) fn all() -> Vec<Vector> {
    [
        told(),
        covered(),
        unreadable(),
        trusted(),
        frozen(),
        syncs(),
        names(),
        records(),
        sections(),
        kept_out(),
        points(),
    ]
    .concat()
}

/// Bytes that the bits of one sector speak of, with granules of 4 KiB.
const SECTOR_SPAN: u64 = BITS_PER_SECTOR * 4096;
/// Most bits of a bitmap.
const MOST_BITS: u64 = 1 << 36;

/// A disk of sixteen granules of 4 KiB.
pub(super) fn disk() -> Tracked {
    Tracked::new(Maker::complete("disk", 65_536).data(0..1536).data(61_440..65_536))
}

/// A content that the disk does not have any more.
pub(super) fn former() -> Uuid {
    id("disk, a former epoch")
}

/// The image with its bitmaps opens, and they tell what the model says.
pub(super) fn tells(name: &str, purpose: &str, rules: &[&str], mut tracked: Tracked) -> Vector {
    let file = tracked.finish();
    Vector::new(name, purpose, &[]).also(rules).file(IMAGE, Role::Image, file).case(tracked.opens(IMAGE))
}

/// A good bitmap stands before `mark`, which is none.
fn none(name: &str, purpose: &str, rule: V, mark: Mark) -> Vector {
    let tracked = disk().bitmap("good", RECORDING, Bits::dirty(12, &[1, 2])).mark(mark.none(rule));
    tells(name, purpose, &["BMP-01", rule.id()], tracked)
}

/// A good bitmap, and one whose record `change` spoils.
fn spoilt(name: &str, purpose: &str, rule: V, change: fn(&mut Vec<u8>)) -> Vector {
    let mark = Mark::new("spoilt", RECORDING, Bits::dirty(12, &[5])).none_by(rule, change);
    let tracked = disk().bitmap("good", RECORDING, Bits::dirty(12, &[1, 2])).mark(mark);
    tells(name, purpose, &["BMP-01", rule.id()], tracked)
}

fn told() -> Vec<Vector> {
    let pages = Maker::complete("wide", 2 * BITS_PER_PAGE * 4096 + 40_960);
    let edges = [
        0,
        BITS_PER_SECTOR - 1,
        BITS_PER_SECTOR,
        5 * BITS_PER_SECTOR + 17,
        BITS_PER_PAGE - 1,
        BITS_PER_PAGE,
        2 * BITS_PER_PAGE - 2,
        2 * BITS_PER_PAGE + 9,
    ];
    let odd = |size: u64| Tracked::new(Maker::complete("odd", size));
    let three = odd(40 << 20)
        .bitmap("4 KiB", RECORDING, Bits::dirty(12, &[0, 4095, 10_239]))
        .bitmap("64 KiB", RECORDING, Bits::dirty(16, &[1, 2, 639]))
        .bitmap("16 MiB", RECORDING, Bits::dirty(24, &[1]));
    let base = raw("base", 32_768, &[0..4096]);
    let over = Maker::overlay("over", 65_536, 12).over_raw(&base, "base.raw", 32_768).data(8192..12_288);
    let over = Tracked::new(over).bitmap("daily", RECORDING, Bits::dirty(12, &[2, 3, 15]));
    vec![
        tells(
            "bmp-plain",
            "A recording bitmap: granules 0, 3, 4 and the last one are dirty.",
            &["BMP-02", "BMP-03", "BMP-04", "BMP-05", "BMP-06"],
            disk().bitmap("daily", RECORDING, Bits::dirty(12, &[0, 3, 4, 15])),
        ),
        tells(
            "bmp-nothing_dirty",
            "A bitmap whose section was never written: nothing is dirty.",
            &["BMP-05", "PAG-03"],
            disk().bitmap("daily", RECORDING, Bits::dirty(12, &[])),
        ),
        tells(
            "bmp-sectors_and_pages",
            "Bits at the edges of sectors and pages.",
            &["BMP-05"],
            Tracked::new(pages).bitmap("wide", RECORDING, Bits::dirty(12, &edges)),
        ),
        tells("bmp-granules", "Three bitmaps, each with granules of its own size.", &["BMP-05"], three),
        tells(
            "bmp-odd_end",
            "The disk ends within the last granule: the bit speaks of what there is of it.",
            &["BMP-05"],
            odd(20_000).bitmap("daily", RECORDING, Bits::dirty(12, &[1, 4])),
        ),
        tells(
            "bmp-odd_end_clean",
            "The disk, and what the bitmap covers, end within the last granule, whose bit is clear.",
            &["BMP-05"],
            odd(20_000).bitmap("daily", RECORDING, Bits::dirty(12, &[1])),
        ),
        tells(
            "bmp-granule_past_disk",
            "One granule is larger than the disk.",
            &["BMP-05"],
            odd(20_000).bitmap("daily", RECORDING, Bits::dirty(16, &[0])),
        ),
        tells(
            "bmp-disk_of_0",
            "A disk without bytes, and a bitmap without bits: its section has a length of 0.",
            &["BMP-04", "BMP-05"],
            odd(0).bitmap("daily", RECORDING, Bits::dirty(16, &[])),
        ),
        tells("bmp-in_overlay", "A bitmap beside allocation section and parent.", &["BMP-01"], over).file(
            "base.raw",
            Role::Parent,
            base,
        ),
    ]
}

fn covered() -> Vec<Vector> {
    let covers = |name: &str, purpose: &str, size: u64, covered: u64, set: &[u64]| {
        let maker = Maker::complete("part", size);
        let tracked = Tracked::new(maker).bitmap("daily", RECORDING, Bits::dirty(12, set).covers(covered));
        tells(name, purpose, &["BMP-05", "BMP-11"], tracked)
    };
    vec![
        covers("bmp-covers_less", "What lies behind the covered bytes is dirty.", 65_536, 32_768, &[1]),
        covers(
            "bmp-covers_less_odd",
            "The covered bytes end within a granule: it reaches past them, and is dirty though its bit is clear.",
            65_536,
            30_000,
            &[1],
        ),
        covers(
            "bmp-covers_less_last",
            "Covered bytes and disk end within one granule, the disk later: it is dirty.",
            65_000,
            64_999,
            &[1],
        ),
        covers("bmp-covers_nothing", "A bitmap without bits on a disk that has bytes: all is dirty.", 65_536, 0, &[]),
        covers(
            "bmp-covers_more",
            "Bits past the end of the disk, as a shrink or another writer leaves them, have no meaning.",
            40_000,
            1 << 30,
            &[1, 9, 10, 5000],
        ),
        covers(
            "bmp-bit_past_covered",
            "A set bit past those that have a meaning, in a sector that has some: dirty it is all the same.",
            65_536,
            32_768,
            &[1, 12],
        ),
    ]
}

fn unreadable() -> Vec<Vector> {
    let wide = || Tracked::new(Maker::complete("wide", 2 * SECTOR_SPAN + 40_960));
    let set = [1, BITS_PER_SECTOR + 5, 2 * BITS_PER_SECTOR + 3];
    let pages = || {
        let maker = Maker::complete("wide", 2 * BITS_PER_PAGE * 4096 + 40_960);
        Tracked::new(maker).bitmap("daily", RECORDING, Bits::dirty(12, &[1, BITS_PER_PAGE + 5]))
    };
    vec![
        tells(
            "bmp-bad_sector",
            "The second of three sectors is bad: all that it speaks of is dirty, and the disk is read.",
            &["BMP-05"],
            wide().bitmap("daily", RECORDING, Bits::dirty(12, &set).rotten(&[1])),
        )
        .flag(Flag::Lost),
        tells(
            "bmp-bad_sector-last",
            "The sector of the disk's last granules is bad.",
            &["BMP-05"],
            wide().bitmap("daily", RECORDING, Bits::dirty(12, &set).rotten(&[2])),
        )
        .flag(Flag::Lost),
        tells(
            "bmp-bad_sector-disabled",
            "The same in a disabled bitmap.",
            &["BMP-05", "BMP-07"],
            wide().bitmap("daily", DISABLED, Bits::dirty(12, &set).rotten(&[0])),
        )
        .flag(Flag::Lost),
        tells(
            "bmp-bad_sector-past_end",
            "A bad sector none of whose bits speaks of the disk.",
            &["BMP-05"],
            wide().bitmap("daily", RECORDING, Bits::dirty(12, &set).rotten(&[5])),
        )
        .flag(Flag::Lost),
        tells(
            "bmp-foreign_sectors",
            "The sectors of an older section in the same place.",
            &["BMP-05", "PAG-02"],
            wide().bitmap("daily", RECORDING, Bits::dirty(12, &[1, 2 * BITS_PER_SECTOR + 3]).foreign()),
        )
        .flag(Flag::Lost),
        tells(
            "bmp-past_end",
            "The section lies past the end of the file: nobody knows a bit, and all is dirty.",
            &["BMP-04", "BMP-05"],
            disk().bitmap("daily", RECORDING, Bits::dirty(12, &[1])).cut(PAGE_SIZE),
        )
        .flag(Flag::Lost),
        tells(
            "bmp-past_end-page",
            "The file ends where the second of three pages begins.",
            &["BMP-05"],
            pages().cut(2 * PAGE_SIZE),
        )
        .flag(Flag::Lost),
        tells(
            "bmp-past_end-in_page",
            "The file ends within the second of three pages: none of its sectors is read.",
            &["BMP-05"],
            pages().cut(2 * PAGE_SIZE - 3 * SECTOR_SIZE),
        )
        .flag(Flag::Lost),
    ]
}

fn trusted() -> Vec<Vector> {
    let bits = || Bits::dirty(12, &[1, 2]);
    let mut torn = disk().bitmap("daily", RECORDING, bits());
    torn.finish();
    let newer = torn.maker.next();
    let mut slot = newer.encoded();
    slot[200] ^= 1;
    torn.maker.slot(1, &slot);
    vec![
        tells(
            "bmp-stale",
            "A recording bitmap that names another epoch than the header: somebody wrote who does not know bitmaps.",
            &["BMP-06"],
            disk().mark(Mark::new("daily", RECORDING, bits()).until(former())),
        ),
        tells(
            "bmp-stale-one_of_two",
            "One bitmap was carried to the new epoch, the other one was not.",
            &["BMP-06"],
            disk().mark(Mark::new("daily", RECORDING, bits()).until(former())).bitmap(
                "weekly",
                RECORDING,
                Bits::dirty(12, &[1, 2, 7]),
            ),
        ),
        tells(
            "bmp-disabled",
            "A disabled bitmap that names the header's epoch: nothing has changed since.",
            &["BMP-07"],
            disk().bitmap("daily", DISABLED, bits()),
        ),
        tells(
            "bmp-disabled-missed_writes",
            "A disabled bitmap that names another epoch: it tells of changes up to that, and of no later ones.",
            &["BMP-07"],
            disk().mark(Mark::new("daily", DISABLED, bits()).until(former())),
        ),
        Vector::new(
            "bmp-torn_slot",
            "The update to the next epoch was torn in slot 1: the bitmap agrees with the header that counts.",
            &[],
        )
        .also(&["BMP-06", "HDR-17", "EPO-01"])
        .flag(Flag::Crash)
        .file(IMAGE, Role::Image, torn.maker.file.clone())
        .case(torn.opens(IMAGE)),
    ]
}

fn frozen() -> Vec<Vector> {
    let frozen = || Bits::dirty(12, &[1, 2]);
    let after = || Bits::dirty(12, &[2, 9]);
    let rules = &["BMP-08", "BMP-03"];
    vec![
        tells(
            "bmp-frozen",
            "A frozen bitmap and its successor: dirty where either is, from the frozen one's point on.",
            rules,
            disk().bitmap("daily", FROZEN, frozen()).bitmap("daily", RECORDING, after()),
        ),
        tells(
            "bmp-frozen-successor_first",
            "The successor's record stands first.",
            rules,
            disk().bitmap("daily", RECORDING, after()).bitmap("daily", FROZEN, frozen()),
        ),
        tells(
            "bmp-frozen-old_epoch",
            "The frozen one names the content at which it was frozen; only the successor goes on.",
            rules,
            disk().mark(Mark::new("daily", FROZEN, frozen()).until(former())).bitmap("daily", RECORDING, after()),
        ),
        tells(
            "bmp-frozen-alone",
            "A frozen bitmap whose successor is not there: nobody knows what has changed since.",
            rules,
            disk().bitmap("daily", FROZEN, frozen()),
        ),
        tells(
            "bmp-frozen-successor_stale",
            "The successor is stale.",
            rules,
            disk().bitmap("daily", FROZEN, frozen()).mark(Mark::new("daily", RECORDING, after()).until(former())),
        ),
        tells(
            "bmp-frozen-successor_missed",
            "The successor is disabled, and has missed writes: so has the bitmap that both are.",
            &["BMP-08", "BMP-07"],
            disk().bitmap("daily", FROZEN, frozen()).mark(Mark::new("daily", DISABLED, after()).until(former())),
        ),
        tells(
            "bmp-frozen-successor_none",
            "The successor's record is none: the frozen one is alone.",
            &["BMP-08", "BMP-02"],
            disk()
                .bitmap("daily", FROZEN, frozen())
                .mark(Mark::new("daily", RECORDING, after()).none_by(V::BitmapRecord, |payload| payload[63] = 1)),
        ),
        tells(
            "bmp-frozen-granules",
            "The two have granules of different sizes; the frozen one's is told.",
            rules,
            disk().bitmap("daily", FROZEN, Bits::dirty(13, &[1])).bitmap("daily", RECORDING, Bits::dirty(12, &[5])),
        ),
        tells(
            "bmp-frozen-bad_sector",
            "The frozen one's sector is bad: both together are dirty as a whole.",
            &["BMP-05", "BMP-08"],
            disk().bitmap("daily", FROZEN, frozen().rotten(&[0])).bitmap("daily", RECORDING, after()),
        )
        .flag(Flag::Lost),
        tells(
            "bmp-frozen-twice",
            "Two frozen bitmaps of one name: the second one is none.",
            &["BMP-03"],
            disk()
                .bitmap("daily", FROZEN, frozen())
                .bitmap("daily", RECORDING, after())
                .mark(Mark::new("daily", FROZEN, Bits::dirty(12, &[14])).none(V::BitmapName)),
        ),
    ]
}

/// What a mirror left that has not ended: another kind of section, and a bitmap like any other.
fn syncs() -> Vec<Vector> {
    let lacking = || Bits::sync(12, &[4, 5, 15]);
    vec![
        tells(
            "bmp-sync",
            "A sync bitmap beside one of changes.",
            &["BMP-04", "BMP-05"],
            disk().bitmap("mirror", RECORDING, lacking()).bitmap("daily", RECORDING, Bits::dirty(12, &[1])),
        ),
        tells(
            "bmp-sync-all_dirty",
            "A mirror that has just begun: its target lacks everything.",
            &["BMP-04", "SYN-02"],
            disk().bitmap("mirror", RECORDING, Bits::sync(13, &[0, 1, 2, 3, 4, 5, 6, 7])),
        ),
        tells(
            "bmp-sync-intents",
            "The source's writer did not close it: what intents speak of the target may lack too.",
            &["BMP-04", "INT-02"],
            disk().bitmap("mirror", RECORDING, lacking()).intents(Bits::intents(14, &[0])).state(State::Writing),
        )
        .flag(Flag::Crash),
        tells(
            "bmp-sync-frozen",
            "A mirror died while its bitmap was frozen: the target lacks what either of the two tells.",
            &["BMP-04", "BMP-08"],
            disk().bitmap("mirror", FROZEN, lacking()).bitmap("mirror", RECORDING, Bits::sync(12, &[0, 5])),
        ),
        tells(
            "bmp-sync-frozen_dirty_successor",
            "A frozen sync bitmap whose successor is of kind 2: the kind of the frozen one is told.",
            &["BMP-08"],
            disk().bitmap("mirror", FROZEN, lacking()).bitmap("mirror", RECORDING, Bits::dirty(12, &[0])),
        ),
        tells(
            "bmp-sync-stale",
            "Somebody who knows no bitmaps has written to the source: nobody knows what the target lacks.",
            &["BMP-04", "BMP-06"],
            disk().mark(Mark::new("mirror", RECORDING, lacking()).until(former())),
        ),
        tells(
            "bmp-sync-disabled",
            "A snapshot disabled it: it tells of what the target lacked then.",
            &["BMP-04", "BMP-07"],
            disk().bitmap("mirror", DISABLED, lacking()),
        ),
        tells(
            "bmp-sync-bad_sector",
            "Its sector is bad: the target may lack everything.",
            &["BMP-04", "BMP-05"],
            disk().bitmap("mirror", RECORDING, lacking().rotten(&[0])),
        ),
        tells(
            "bmp-sync-one_section_for_two",
            "Two records name one section of kind 4: the second one is no bitmap.",
            &["BMP-04"],
            {
                let one = disk().bitmap("mirror", RECORDING, lacking());
                let section = one.first_section();
                one.mark(Mark::new("again", RECORDING, Bits::dirty(12, &[])).of(section).none(V::BitmapSection))
            },
        ),
        spoilt(
            "bmp-sync-reserved",
            "A sync bitmap whose reserved bytes are not zero is none.",
            V::BitmapRecord,
            |payload| {
                payload[63] = 1;
            },
        ),
    ]
}

fn names() -> Vec<Vector> {
    let bits = || Bits::dirty(12, &[5]);
    let mark = |name: &str| Mark::new(name, RECORDING, bits());
    let long = |length: usize| "n".repeat(length);
    let good = |name: &str, purpose: &str, text: &str| tells(name, purpose, &["BMP-03"], disk().mark(mark(text)));
    vec![
        good("bmp-name-1", "A name of one byte.", "n"),
        good("bmp-name-1023", "The longest name.", &long(1023)),
        good("bmp-name-text", "A name is any text: spaces, a line feed, letters of any script.", " täglich/\n毎日 "),
        none("bmp-name-1024", "A name that is a byte too long.", V::BitmapName, mark(&long(1024))),
        none("bmp-name-empty", "A bitmap without a name.", V::BitmapName, mark("")),
        none("bmp-name-nul", "A NUL in the name.", V::BitmapName, mark("da\0ily")),
        none("bmp-name-not_text", "A name that is no UTF-8.", V::BitmapName, mark("").bytes(b"da\xffily")),
        none(
            "bmp-name-surrogate",
            "Half a surrogate pair is no UTF-8.",
            V::BitmapName,
            mark("").bytes(b"\xed\xa0\x80"),
        ),
        none(
            "bmp-name-twice",
            "Two recording bitmaps of one name: the first one counts.",
            V::BitmapName,
            Mark::new("good", RECORDING, bits()),
        ),
        none(
            "bmp-name-twice_disabled",
            "A recording bitmap and a disabled one of the same name: neither is frozen.",
            V::BitmapName,
            Mark::new("good", DISABLED, bits()),
        ),
        tells(
            "bmp-name-look_alikes",
            "Names are compared byte by byte: capital letters, and accents that are letters of their own, make other names.",
            &["BMP-03"],
            ["daily", "Daily", "\u{e9}t\u{e9}", "e\u{301}te\u{301}"]
                .into_iter()
                .fold(disk(), |disk, name| disk.mark(mark(name))),
        ),
        tells(
            "bmp-name-of_none",
            "A record that is none takes no name away: the later one of that name counts.",
            &["BMP-01", "BMP-03", "BMP-04"],
            disk().mark(mark("daily").of(id("no section")).none(V::BitmapSection)).mark(mark("daily")),
        ),
    ]
}

fn records() -> Vec<Vector> {
    let rule = V::BitmapRecord;
    vec![
        spoilt("bmp-record-cut", "A record that ends within its fixed part.", rule, |payload| payload.truncate(60)),
        spoilt("bmp-record-empty", "A record without payload.", rule, Vec::clear),
        spoilt("bmp-record-longer", "A byte follows the name.", rule, |payload| payload.push(b'!')),
        spoilt("bmp-record-shorter", "The record ends within the name.", rule, |payload| payload.truncate(67)),
        spoilt("bmp-record-reserved", "A reserved byte is not zero.", rule, |payload| payload[52] = 1),
        spoilt("bmp-record-reserved_last", "The last reserved byte is not zero.", rule, |payload| payload[63] = 0x80),
        spoilt("bmp-record-state_3", "A state that version 1 does not have.", rule, |payload| payload[48] = 3),
        spoilt("bmp-record-state_high", "The high byte of the state is set.", rule, |payload| payload[49] = 1),
        spoilt("bmp-record-since_nil", "A bitmap that begins nowhere.", rule, |payload| payload[16..32].fill(0)),
        spoilt("bmp-record-epoch_nil", "A bitmap that names no content.", rule, |payload| payload[32..48].fill(0)),
    ]
}

fn sections() -> Vec<Vector> {
    let rule = V::BitmapSection;
    let mark = |name: &str| Mark::new(name, RECORDING, Bits::dirty(12, &[5]));
    let good = disk().bitmap("good", RECORDING, Bits::dirty(12, &[1, 2]));
    let twice = mark("twice").of(good.first_section()).none(rule);
    let overlay = sparse_overlay();
    let of_allocation = overlay.header.sections[0].id;
    let overlay = Tracked::new(overlay).mark(mark("daily").of(of_allocation).none(rule));
    let most = |bits: u64| Bits::dirty(24, &[]).covers(bits << 24);
    // The section lies past the end of the file, so that the file stays small.
    let many = |bits: u64| disk().mark(Mark::new("most", RECORDING, most(bits)));
    let mut too_many = disk().mark(Mark::new("most", RECORDING, most(MOST_BITS + 1)).none(rule));
    let mut all_of_them = many(MOST_BITS);
    for tracked in [&mut too_many, &mut all_of_them] {
        tracked.maker.file.set_len(196_608);
    }
    let mut understood = disk().bitmap("daily", RECORDING, Bits::dirty(12, &[1, 2]));
    understood.maker.header.sections[0].required = true;
    let largest = Maker::complete("huge", 1 << 60);
    let set = [0, 1, BITS_PER_PAGE, MOST_BITS / 2, MOST_BITS - 1];
    vec![
        none("bmp-section-missing", "No section has that identity.", rule, mark("lost").of(id("no section"))),
        none("bmp-section-nil", "A section of nil, which no section is.", rule, mark("lost").of(Uuid::NIL)),
        tells("bmp-section-allocation", "The section named is the allocation section.", &["BMP-04"], overlay),
        tells(
            "bmp-section-intent",
            "The section named is one of intents.",
            &["BMP-04"],
            disk().mark(Mark::new("daily", RECORDING, Bits::intents(16, &[])).none(rule)),
        ),
        tells(
            "bmp-section-required",
            "The record of the section says that it must be understood, which it need not: a bitmap it is all the same.",
            &["BMP-04", "SEC-01"],
            understood,
        ),
        tells(
            "bmp-section-twice",
            "Two bitmaps name one section: the first one has it.",
            &["BMP-04"],
            good.mark(twice),
        ),
        tells(
            "bmp-section-of_none",
            "A record that is none takes no section away: the later one that names it counts.",
            &["BMP-01", "BMP-02", "BMP-04"],
            {
                let first = mark("first").none_by(V::BitmapRecord, |payload| payload[48] = 7);
                let tracked = disk().mark(first);
                let section = tracked.first_section();
                tracked.mark(mark("second").of(section))
            },
        ),
        tells(
            "bmp-section-most_bits",
            "As many bits as a bitmap may have, all past the end of the file.",
            &["BMP-04", "BMP-05"],
            all_of_them,
        )
        .flag(Flag::Lost),
        tells("bmp-section-too_many_bits", "One bit more than a bitmap may have.", &["BMP-04"], too_many),
        tells(
            "bmp-largest",
            "The largest disk, with the largest granules: as many bits as a bitmap may have.",
            &["BMP-04", "BMP-05"],
            Tracked::new(largest).bitmap("daily", RECORDING, Bits::dirty(24, &set)),
        )
        .flag(Flag::Huge),
        tells(
            "bmp-section-of_nobody",
            "A dirty section that no bitmap names has no meaning.",
            &["BMP-04", "SEC-05"],
            disk().loose(Bits::dirty(12, &[3, 4])).bitmap("daily", RECORDING, Bits::dirty(12, &[1])),
        ),
    ]
}

/// Records that ask to be understood.
fn kept_out() -> Vec<Vector> {
    let required = |name: &str, purpose: &str, record_type: u16, payload: Vec<u8>| {
        let add = |draft: &mut Draft| draft.add(record_type, REQUIRED, &payload);
        broken(name, purpose, V::RequiredRecord, Verdict::Unsupported, plain(), add).also(&["BMP-01"])
    };
    let mut right = [[1u8; 16], [2; 16], [3; 16]].concat();
    right.extend([1, 0, 1, 0]);
    right.extend([0; 12]);
    right.push(b'n');
    vec![
        required("bmp-required", "A bitmap's record that says that it must be understood.", BITMAP, right),
        required("bmp-point-required", "A backup point that says so.", POINT, [[1u8; 16], [2; 16]].concat()),
    ]
}

fn points() -> Vec<Vector> {
    let point = |label: &str| [id("disk").0, id(label).0].concat();
    let rules = &["BAK-01"];
    vec![
        tells(
            "bmp-point",
            "A backup: which disk it is of, and what begins after it.",
            rules,
            disk().point(&point("a")),
        ),
        tells(
            "bmp-point-two",
            "Of two backup points the first one counts.",
            rules,
            disk().point(&point("a")).point(&point("b")),
        ),
        tells(
            "bmp-point-cut",
            "A record that is not as long as a backup point is none.",
            rules,
            disk().point(&point("a")[..24]),
        ),
        tells(
            "bmp-point-longer",
            "One that is longer is none either: the next one counts.",
            rules,
            disk().point(&[point("a"), vec![0; 8]].concat()).point(&point("b")),
        ),
    ]
}
