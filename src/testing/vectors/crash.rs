//! Vectors of what a crash leaves, made by hand after the crash arguments of `spec/ordering.md`.
//!
//! A reader has no choice in any of them: what it must read follows from the bytes. That it is also what the
//! laws allow is said in the purpose.

use super::draft::Draft;
use super::maker::{Maker, id, raw, section, tagged};
use super::sparse::Sparse;
use super::vector::{Case, Flag, Role, Vector, Verdict};
use super::{IMAGE, plain};
use crate::format::{BITS_PER_SECTOR, CopyMark, State, Uuid, seal};
use crate::limits::{SECTOR_SIZE, SLOT_SIZE, SLOTS_END};
use crate::violation::Violation as V;
use Verdict::{Invalid, Refused};

const RAW: &str = "base.raw";
/// Bytes that the bits of one sector speak of.
const SPAN: u64 = BITS_PER_SECTOR * 4096;

pub(super) fn all() -> Vec<Vector> {
    let mut vectors =
        [writes(), pages(), sessions(), creating(), resizing(), streaming(), copying(), sections()].concat();
    for vector in &mut vectors {
        vector.flags.push(Flag::Crash);
    }
    vectors
}

/// One image, as its maker says.
fn shows(name: &str, purpose: &str, rules: &[&str], maker: &Maker) -> Vector {
    Vector::new(name, purpose, &[]).also(rules).file(IMAGE, Role::Image, maker.file.clone()).case(maker.opens(IMAGE))
}

fn base() -> Sparse {
    raw("base", 20_000, &[0..20_000])
}

fn over_base(name: &str, purpose: &str, rules: &[&str], maker: &Maker) -> Vector {
    shows(name, purpose, rules, maker).file(RAW, Role::Parent, base())
}

/// An overlay over a shorter raw file, in a session, with one block of its own. Its bits fill more than one sector.
fn over() -> Maker {
    let mut maker = Maker::overlay("top ", SPAN + 40_960, 12).over_raw(&base(), RAW, 20_000).data(8192..12_288);
    maker.header.state = State::Writing;
    maker.header.sequence = 2;
    maker
}

fn writes() -> Vec<Vector> {
    let mut landed = over().garbage(0..4096);
    landed.finish();
    let mut half = over().garbage(16_384..18_432);
    half.finish();
    let mut filling = over();
    filling.header.state = State::Filling;
    filling.finish();
    // A fill copies what a reader sees anyway.
    filling.file.write(filling.header.data_offset, &tagged("base", 0..8192));
    let mut punched = over().garbage(0..8192);
    punched.finish();
    punched.file.zero(punched.header.data_offset..punched.header.data_offset + 4096);
    let mut overwritten = over();
    overwritten.finish();
    let mut complete = plain();
    complete.header.state = State::Writing;
    complete.finish();
    for (maker, at) in [(&mut overwritten, 8192), (&mut complete, 0)] {
        for sector in [1, 2, 5] {
            let range = at + sector * SECTOR_SIZE..at + (sector + 1) * SECTOR_SIZE;
            maker.disk.write(range.start, &tagged("new!", range.clone()));
            maker.file.write(maker.header.data_offset + range.start, &tagged("new!", range));
        }
    }
    vec![
        over_base(
            "crash-write-no_bit",
            "A block was written and its bit was not: it reads as before, from the parent.",
            &["ORD-01", "ALC-04"],
            &landed,
        ),
        over_base(
            "crash-write-half_block_no_bit",
            "Half of a block was written, where the parent ends.",
            &["ORD-01", "ALC-04", "ALC-05"],
            &half,
        ),
        over_base("crash-fill-no_bit", "A fill wrote its data and no bit yet.", &["ORD-45", "ORD-50"], &filling),
        over_base(
            "crash-zero-no_bit",
            "Garbage was punched, and its bit was not written: the parent shows, not zeros.",
            &["ORD-02", "ORD-45", "ALC-08"],
            &punched,
        ),
        over_base(
            "crash-overwrite-sectors",
            "Three sectors of a present block are new: each sector is old or new.",
            &["ORD-03"],
            &overwritten,
        ),
        shows("crash-overwrite-complete", "The same in a complete image.", &["ORD-03"], &complete),
    ]
}

/// A commit that made some sectors of one page durable.
fn pages() -> Vec<Vector> {
    // Both blocks' data is durable before any of their bits is.
    let both = over().data(4096..8192).data(SPAN..SPAN + 4096);
    let with = |sealed: Maker, name: &str, purpose: &str| {
        let mut maker = sealed;
        maker.finish();
        maker.file.copy(&both.file, both.header.data_offset..both.header.data_offset + SPAN + 40_960);
        over_base(name, purpose, &["ORD-01", "ORD-40", "PAG-01"], &maker)
    };
    vec![
        with(
            over(),
            "crash-page-none",
            "A commit of two sectors of one page: none is durable. The data is, and is garbage.",
        ),
        with(
            over().data(4096..8192),
            "crash-page-first_sector",
            "The first sector is new, the second was never written.",
        ),
        with(
            over().data(SPAN..SPAN + 4096),
            "crash-page-second_sector",
            "The second sector is new, the first one old.",
        ),
        with(
            both.clone(),
            "crash-page-all",
            "Both sectors are new; the flush was not acknowledged, and may have been.",
        ),
    ]
}

/// The bytes of a header of which the first sector did not get written.
fn torn(bytes: &[u8]) -> Vec<u8> {
    [&tagged("junk", 0..SECTOR_SIZE), &bytes[SECTOR_SIZE as usize..]].concat()
}

fn sessions() -> Vec<Vector> {
    let mut closed = over();
    closed.header.state = State::Closed;
    let mut open = closed.next();
    open.header.state = State::Writing;
    let mut end = open.next();
    end.header.state = State::Closed;
    let in_slots = |maker: &Maker, slots: [&[u8]; 2]| {
        let mut maker = maker.clone();
        maker.seal_bits();
        maker.slot(0, slots[0]);
        maker.slot(1, slots[1]);
        maker
    };
    let (old, new, last) = (closed.encoded(), open.encoded(), end.encoded());
    // The older header is all there is: a change that the session made shows under the old epoch.
    let mut rotten = in_slots(&closed, [&old, &torn(&new)]);
    let changed = tagged("new!", 8192..8704);
    rotten.disk.write(8192, &changed);
    rotten.file.write(rotten.header.data_offset + 8192, &changed);
    vec![
        over_base(
            "crash-session-header_torn",
            "The header that begins a session is torn: closed, the old epoch.",
            &["ORD-30", "ORD-50", "HDR-17"],
            &in_slots(&closed, [&old, &torn(&new)]),
        ),
        over_base(
            "crash-session-header_in_one",
            "It is in one slot: writing, the new epoch.",
            &["ORD-30", "HDR-19"],
            &in_slots(&open, [&old, &new]),
        ),
        over_base(
            "crash-session-other_slot_torn",
            "It is in one slot, and the other was torn when it was made equal.",
            &["ORD-30", "HDR-17"],
            &in_slots(&open, [&torn(&new), &new]),
        ),
        over_base(
            "crash-close-header_torn",
            "The header that closes the session is torn: still writing.",
            &["ORD-52"],
            &in_slots(&open, [&torn(&last), &new]),
        ),
        over_base(
            "crash-close-header_in_one",
            "It is in one slot: closed, its own epoch.",
            &["ORD-51", "ORD-52"],
            &in_slots(&end, [&last, &new]),
        ),
        over_base(
            "crash-session-newest_rots",
            "The newest header rots before the other slot was made equal: the older one \
            counts, as after an interrupted update. A limit of the format; nothing that it names is gone.",
            &["ORD-32"],
            &rotten,
        ),
    ]
}

fn creating() -> Vec<Vector> {
    let empty = |name: &str, purpose: &str, rule: V, slots: [&[u8]; 2]| {
        let mut maker = plain();
        maker.file = Sparse::new(maker.file.len());
        maker.slot(0, slots[0]);
        maker.slot(1, slots[1]);
        Vector::new(name, purpose, &[rule])
            .also(&["ORD-10", "ORD-11"])
            .file(IMAGE, Role::Image, maker.file)
            .case(Case::new(IMAGE, Invalid, &[rule]))
    };
    let header = plain().encoded();
    let mut one = Maker::complete("disk", 12_288);
    one.slot(1, &header);
    vec![
        empty(
            "crash-create-no_header",
            "The file has its length and no header: its creation never returned.",
            V::Magic,
            [&[], &[]],
        ),
        empty(
            "crash-create-torn",
            "Both slots were torn when the file was created.",
            V::HeaderChecksum,
            [&header[..60], &header[..30]],
        )
        .also(&["HDR-20"]),
        shows("crash-create-one_slot", "The first header got into slot 1 alone: an image of zeros.", &["ORD-10"], &one),
    ]
}

/// The image with another size in a header of its own.
fn sized(maker: &Maker, size: u64) -> Maker {
    let mut maker = maker.next();
    maker.header.virtual_size = size;
    maker.header.sections.iter_mut().for_each(|section| section.covered = size);
    maker.disk.set_len(size);
    maker
}

fn two_slots(mut newest: Maker, older: &Maker) -> Maker {
    newest.seal_bits();
    newest.slot(0, &older.encoded());
    let bytes = newest.encoded();
    newest.slot(1, &bytes);
    newest
}

fn resizing() -> Vec<Vector> {
    let mut writing = plain();
    writing.header.state = State::Writing;
    let mut lengthened = writing.clone();
    lengthened.file.set_len(SLOTS_END + 20_000);
    lengthened.finish();
    let mut grown = sized(&writing, 20_000);
    grown.file.set_len(SLOTS_END + 20_000);
    let shrunk = sized(&writing, 5000);
    let mut cut = shrunk.clone();
    cut.finish();
    cut.file.set_len(SLOTS_END + 5000);
    let rules = &["ORD-60", "HDR-16"];
    let mut vectors = vec![
        shows("crash-grow-lengthened", "The file was lengthened, the header names the old size.", rules, &lengthened),
        shows(
            "crash-grow-header_in_one",
            "The header with the new size is in one slot: the disk is longer, by zeros.",
            rules,
            &two_slots(grown, &writing),
        ),
        shows(
            "crash-shrink-header_in_one",
            "The header with the new size is in one slot; the file is not cut yet.",
            &["HDR-16", "ORD-32"],
            &two_slots(shrunk, &writing),
        ),
        shows("crash-shrink-cut", "Both slots name the new size, and the file is cut.", &["HDR-16", "ORD-32"], &cut),
    ];
    vectors.extend(moving());
    vectors
}

/// A section that lies in the way of a growing data area is copied behind it, then the header names the copy.
fn moving() -> Vec<Vector> {
    let mut old = Maker::overlay("move", 40_960, 12).data(4096..8192).data(36_864..40_960);
    old.header.state = State::Writing;
    old.finish();
    let place = SLOTS_END + (1 << 20);
    let sector = old.file.read(old.sector_at(0), 4096);
    let mut copied = old.clone();
    copied.file.set_len(place + 4096);
    copied.file.write(place, &sector);
    let mut half = old.clone();
    half.file.set_len(place + 4096);
    half.file.write(place, &sector[..300]);
    let mut moved = copied.next();
    moved.header.sections[0].offset = place;
    let mut reused = moved.clone();
    reused.finish();
    reused.file.write(SLOTS_END, b"the old place is free now, and holds anything");
    let rules = &["ORD-62", "SEC-11"];
    vec![
        shows(
            "crash-move-half_copied",
            "Half of the section was copied; the header names the old place.",
            rules,
            &half,
        ),
        shows("crash-move-copied", "The section was copied; the header names the old place.", rules, &copied),
        shows(
            "crash-move-header_in_one",
            "The header that names the new place is in one slot.",
            rules,
            &two_slots(moved, &old),
        ),
        shows(
            "crash-move-old_place_reused",
            "Both slots name the new place; the old one is free and has been reused.",
            &["ORD-62", "ORD-32"],
            &reused,
        ),
    ]
}

/// A stream's end: every block is present, and the header drops section and parent.
fn streaming() -> Vec<Vector> {
    let size = 40_960;
    let mut full = Maker::overlay("strm", size, 12).over_raw(&base(), RAW, 20_000).data(0..4096).filled(0..size);
    full.header.state = State::Filling;
    full.finish();
    let mut complete = full.clone();
    complete.header.sequence += 1;
    complete.header.sections.clear();
    complete.header.parent = None;
    let mut last_absent = Maker::overlay("strm", size, 12).over_raw(&base(), RAW, 20_000).filled(0..36_864);
    last_absent.header.state = State::Filling;
    last_absent.finish();
    let mut header_torn = full.clone();
    header_torn.slot(1, &torn(&complete.encoded()));
    let mut punched = complete.clone();
    punched.finish();
    punched.file.zero(SLOTS_END..SLOTS_END + 4096);
    vec![
        over_base(
            "crash-stream-before_last",
            "All but the last block were filled; where the parent has nothing, with zeros.",
            &["ORD-45", "ORD-70"],
            &last_absent,
        ),
        over_base(
            "crash-stream-header_torn",
            "All blocks are present; the header that drops the parent is torn.",
            &["ORD-70", "ORD-71"],
            &header_torn,
        ),
        shows(
            "crash-stream-header_in_one",
            "That header is in one slot: a complete image, which needs no parent. The other \
            slot still names section and parent, which are there.",
            &["ORD-70", "ORD-71"],
            &two_slots(complete, &full),
        ),
        shows(
            "crash-stream-done",
            "Both slots name neither; the section's space was given back.",
            &["ORD-32"],
            &punched,
        ),
    ]
}

fn copying() -> Vec<Vector> {
    let mut target = plain();
    target.header.copy_mark = Some(CopyMark { group: Uuid::NIL });
    target.header.state = State::Writing;
    target.finish();
    let mut half = target.clone();
    half.file.zero(SLOTS_END + 8192..SLOTS_END + 12_288);
    let mut copied = target.clone();
    copied.header.sequence += 1;
    copied.header.copy_mark = None;
    let case = Case::new(IMAGE, Refused, &[V::Copying]);
    let refused = Vector::new("crash-copy-half", "Half of a copy was written: the mark keeps it shut.", &[V::Copying])
        .also(&["ORD-90"])
        .file(IMAGE, Role::Image, half.file)
        .case(case);
    vec![
        refused,
        shows(
            "crash-copy-mark_cleared_in_one",
            "All was written and the header without mark is in one slot: a copy.",
            &["ORD-90", "HDR-19"],
            &two_slots(copied, &target),
        ),
        merged_in_one(),
    ]
}

/// A merge's base whose mark is cleared in one slot.
fn merged_in_one() -> Vector {
    let mut marked = plain();
    marked.header.merge_mark =
        Some(crate::format::MergeMark { child_uuid: id("child"), child_epoch: id("the epoch before") });
    marked.finish();
    let mut done = marked.clone();
    done.header.sequence += 1;
    done.header.merge_mark = None;
    let purpose = "A merge is over and the header without mark is in one slot: the base opens on its own.";
    shows("crash-merge-mark_cleared_in_one", purpose, &["CHN-04", "ORD-82", "HDR-19"], &two_slots(done, &marked))
}

/// What a writer must not leave: sectors of an older section in the space of a new one.
fn sections() -> Vec<Vector> {
    let older = id("an older section");
    let mut maker = Maker::overlay("reus", 2 * SPAN, 12);
    maker.finish();
    for number in 0..2 {
        let mut bytes = [0x0f; SECTOR_SIZE as usize];
        seal(&mut bytes, older, number);
        maker.file.write(maker.sector_at(number), &bytes);
        maker.bad.insert(number);
    }
    let purpose = "A writer did not zero the space of a new section: an older one's sectors are not taken for its own.";
    let mut image = shows("crash-section-space_not_zeroed", purpose, &["ORD-10", "SEC-10", "PAG-04"], &maker);
    image.rules.push(V::SealedSector.id().into());
    let mut dropped = Maker::complete("drop", 40_960).data(4096..8192);
    dropped.header.sequence = 9;
    dropped.finish();
    let mut older_header = dropped.clone();
    older_header.header.sequence = 8;
    // The older header names a section over what is now free space.
    older_header.header.sections.push(section("drop", 40_960, 12, SLOTS_END + (1 << 20)));
    let mut draft = Draft::of(&older_header.header);
    draft.put(22, &[State::Filling.number() as u8, 0]);
    dropped.slot(0, &draft.slot()[..SLOT_SIZE as usize]);
    let purpose =
        "The older slot names an allocation section past the end of the file: only the newer one is held against it.";
    vec![image, shows("crash-older_slot_names_cut_space", purpose, &["SEC-08", "HDR-19"], &dropped)]
}
