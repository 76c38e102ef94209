//! Vectors of intents: what counts as dirty because its bits may not be in the file.

use super::bmp::{disk, former, tells};
use super::dirty::{Bits, DISABLED, FROZEN, Mark, RECORDING, Tracked};
use super::maker::Maker;
use super::vector::{Flag, Vector};
use crate::format::{BITS_PER_SECTOR, State};
use crate::limits::PAGE_SIZE;

pub(super) fn all() -> Vec<Vector> {
    [unclean(), clean(), whom(), which()].concat()
}

/// Bytes that the bits of one sector speak of, with regions of 4 KiB.
const SECTOR_SPAN: u64 = BITS_PER_SECTOR * 4096;

/// The disk with a bitmap in which granule 1 is dirty.
fn daily() -> Tracked {
    disk().bitmap("daily", RECORDING, Bits::dirty(12, &[1]))
}

/// A disk of three sectors of intents, the bitmap of which has larger granules.
fn wide() -> Tracked {
    let maker = Maker::complete("wide", 2 * SECTOR_SPAN + 40_960);
    Tracked::new(maker).bitmap("daily", RECORDING, Bits::dirty(16, &[3]))
}

/// The file as a session that writes left it without an end.
fn unfinished(name: &str, purpose: &str, tracked: Tracked) -> Vector {
    tells(name, purpose, &["INT-02", "BMP-05"], tracked.state(State::Writing)).flag(Flag::Crash)
}

fn unclean() -> Vec<Vector> {
    let three = [1, BITS_PER_SECTOR + 1];
    vec![
        unfinished(
            "int-unclean",
            "Bits and intents together: a region has four granules.",
            daily().intents(Bits::intents(14, &[1, 3])),
        ),
        unfinished(
            "int-unclean-larger_granules",
            "Granules are larger than regions: one that an intent touches is dirty as a whole.",
            disk().bitmap("daily", RECORDING, Bits::dirty(15, &[])).intents(Bits::intents(12, &[9])),
        ),
        unfinished(
            "int-unclean-nothing_intended",
            "No intent is set: the bits are all that is dirty.",
            daily().intents(Bits::intents(16, &[])),
        ),
        unfinished(
            "int-unclean-odd_end",
            "Disk, bitmap and intents end within a granule.",
            Tracked::new(Maker::complete("odd", 50_000))
                .bitmap("daily", RECORDING, Bits::dirty(12, &[1]))
                .intents(Bits::intents(15, &[1])),
        ),
        unfinished(
            "int-unclean-odd_end_clean",
            "They end there together, and the last granule is clean: intents do not end before the bitmap.",
            Tracked::new(Maker::complete("odd", 50_000))
                .bitmap("daily", RECORDING, Bits::dirty(12, &[1]))
                .intents(Bits::intents(15, &[])),
        ),
        unfinished(
            "int-unclean-odd_end_covers_more",
            "The bitmap covers more than the intents, which end with the disk: the granule in which they end is dirty.",
            Tracked::new(Maker::complete("odd", 50_000))
                .bitmap("daily", RECORDING, Bits::dirty(12, &[1]).covers(65_536))
                .intents(Bits::intents(15, &[])),
        ),
        unfinished("int-unclean-no_section", "Without an intent section all of the disk is intended.", daily())
            .flag(Flag::Lost),
        unfinished(
            "int-unclean-short",
            "The intents end before the disk: what lies behind is intended.",
            daily().intents(Bits::intents(14, &[1]).covers(32_768)),
        ),
        unfinished(
            "int-unclean-short_odd",
            "They end within a granule, which is touched by what lies behind.",
            daily().intents(Bits::intents(14, &[]).covers(45_000)),
        ),
        unfinished(
            "int-unclean-bad_sector",
            "A bad sector of intents counts as one with all bits set.",
            wide().intents(Bits::intents(12, &three).rotten(&[1])),
        )
        .flag(Flag::Lost),
        unfinished(
            "int-unclean-past_end",
            "The intent section lies past the end of the file.",
            daily().intents(Bits::intents(14, &[1])).cut(PAGE_SIZE),
        )
        .flag(Flag::Lost),
        unfinished(
            "int-unclean-too_many_bits",
            "An intent section of 65537 bits is not read: all of the disk is intended.",
            daily().intents(Bits::intents(12, &[1]).covers(65_537 << 12)),
        )
        .flag(Flag::Lost),
        unfinished(
            "int-unclean-most_bits",
            "One of 65536 bits is read.",
            daily().intents(Bits::intents(12, &[5]).covers(65_536 << 12)),
        ),
        unfinished(
            "int-unclean-largest_region",
            "Regions of 2^48 bytes: the only intent is of the whole disk.",
            daily().intents(Bits::intents(48, &[0])),
        ),
    ]
}

fn clean() -> Vec<Vector> {
    let with = |name: &str, purpose: &str, tracked: Tracked, state: State| {
        tells(name, purpose, &["INT-02"], tracked.state(state))
    };
    let three = [1, BITS_PER_SECTOR + 1];
    vec![
        with(
            "int-closed-set",
            "An intent that is set in a closed file counts: it says what its writer did not know of.",
            daily().intents(Bits::intents(14, &[2])),
            State::Closed,
        ),
        with(
            "int-closed-set_last",
            "The last region reaches past what the section covers: all that it touches is dirty.",
            daily().intents(Bits::intents(14, &[1]).covers(20_000)),
            State::Closed,
        ),
        with(
            "int-closed-bit_past_covered",
            "Bits past those that have a meaning are no intents.",
            daily().intents(Bits::intents(14, &[2, 3]).covers(20_000)),
            State::Closed,
        ),
        with(
            "int-filling-set",
            "The same while blocks are being filled, which change nothing.",
            daily().intents(Bits::intents(14, &[2])),
            State::Filling,
        )
        .flag(Flag::Crash),
        with("int-closed-no_section", "A closed file needs no intents.", daily(), State::Closed),
        with("int-filling-no_section", "Nor does one that is being filled.", daily(), State::Filling).flag(Flag::Crash),
        with(
            "int-closed-short",
            "In a closed file nothing is intended behind the section's end.",
            daily().intents(Bits::intents(14, &[]).covers(32_768)),
            State::Closed,
        ),
        with(
            "int-closed-bad_sector",
            "In a closed file a bad sector of intents says nothing; the whole ones do.",
            wide().intents(Bits::intents(12, &three).rotten(&[1])),
            State::Closed,
        )
        .flag(Flag::Lost),
        with(
            "int-filling-bad_sector",
            "The same while blocks are being filled.",
            wide().intents(Bits::intents(12, &three).rotten(&[0])),
            State::Filling,
        )
        .flag(Flag::Lost),
        with(
            "int-closed-past_end",
            "In a closed file an intent section past the end of the file says nothing.",
            daily().intents(Bits::intents(14, &[1])).cut(PAGE_SIZE),
            State::Closed,
        )
        .flag(Flag::Lost),
        with(
            "int-closed-too_many_bits",
            "Nor does one that is not read because it has too many bits.",
            daily().intents(Bits::intents(12, &[9]).covers(65_537 << 12)),
            State::Closed,
        )
        .flag(Flag::Lost),
    ]
}

/// Whom intents concern.
fn whom() -> Vec<Vector> {
    let bits = |set: &[u64]| Bits::dirty(12, set);
    vec![
        unfinished(
            "int-unclean-disabled",
            "Intents are of recording bitmaps: the disabled one is as its bits are.",
            daily().bitmap("old", DISABLED, bits(&[9])).intents(Bits::intents(14, &[2])),
        ),
        unfinished(
            "int-unclean-disabled_alone",
            "Without an intent section too.",
            disk().mark(Mark::new("old", DISABLED, bits(&[9])).until(former())),
        ),
        unfinished(
            "int-unclean-frozen",
            "A frozen bitmap and its successor, to which the intents belong.",
            disk()
                .bitmap("daily", FROZEN, bits(&[1]))
                .bitmap("daily", RECORDING, bits(&[9]))
                .intents(Bits::intents(14, &[3])),
        ),
        unfinished(
            "int-unclean-stale",
            "A stale bitmap is dirty as a whole, intents or not; the other one has them.",
            daily().mark(Mark::new("lost", RECORDING, bits(&[9])).until(former())).intents(Bits::intents(14, &[2])),
        ),
    ]
}

/// Which of the sections counts.
fn which() -> Vec<Vector> {
    vec![
        unfinished(
            "int-two_sections",
            "Of two intent sections the first one in the header counts.",
            daily().intents(Bits::intents(14, &[1])).intents(Bits::intents(14, &[3])),
        ),
        unfinished(
            "int-two_sections-short_first",
            "Also if the second one reaches further.",
            daily().intents(Bits::intents(14, &[1]).covers(49_152)).intents(Bits::intents(14, &[])),
        ),
    ]
}
