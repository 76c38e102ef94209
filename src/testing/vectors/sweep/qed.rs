//! QED images below an overlay: each field of the header, and entries of both tables.

use super::Value::{Bytes, Eight, Four};
use super::{Row, answer, or};
use crate::testing::vectors::IMAGE;
use crate::testing::vectors::chn::refused;
use crate::testing::vectors::maker::Maker;
use crate::testing::vectors::qed::{CLUSTER, ENTRIES, NEED_CHECK, QED, Qed, REACH, ZEROS, lost, shows, sized};
use crate::testing::vectors::sparse::Sparse;
use crate::testing::vectors::vector::{Role, Vector};
use crate::violation::Violation as V;

pub(super) fn all() -> Vec<Vector> {
    [fields(), names(), entries(), tables()].concat()
}

const SIZE: u64 = 16 * CLUSTER;

/// An image of sixteen clusters, none of which it holds: a header and an L1 table.
fn empty() -> Qed {
    Qed::new(SIZE)
}

/// Places in the header; those of names are in an image that has a backing file.
const FIELDS: &[Row] = &[
    ("qed-magic-byte_0", "The first letter of the magic is a small one.", 0, Bytes(b"q"), &[V::QedMagic]),
    ("qed-magic-byte_1", "The second letter of the magic is a small one.", 1, Bytes(b"e"), &[V::QedMagic]),
    ("qed-magic-byte_2", "The third letter of the magic is a small one.", 2, Bytes(b"d"), &[V::QedMagic]),
    ("qed-magic-high_bit", "The last byte of the magic has its highest bit set.", 3, Bytes(b"\x80"), &[V::QedMagic]),
    ("qed-magic-reversed", "The magic is stored backwards.", 0, Bytes(b"\0DEQ"), &[V::QedMagic]),
    ("qed-cluster_1", "Clusters of one byte.", 4, Four(1), &[V::QedGeometry, V::QedSize]),
    (
        "qed-cluster_4k_less_1",
        "A cluster is a byte less than the least.",
        4,
        Four(4095),
        &[V::QedGeometry, V::QedPlace],
    ),
    ("qed-cluster_4k_and_1", "A cluster is a byte more than the least.", 4, Four(4097), &[V::QedGeometry, V::QedPlace]),
    (
        "qed-cluster_64m_and_1",
        "A cluster is a byte more than the most.",
        4,
        Four((64 << 20) + 1),
        &[V::QedGeometry, V::QedPlace],
    ),
    ("qed-cluster_2g", "A cluster has the highest bit alone.", 4, Four(1 << 31), &[V::QedGeometry, V::QedPlace]),
    ("qed-cluster_ones", "A cluster is all ones.", 4, Four(u32::MAX), &[V::QedGeometry, V::QedPlace]),
    (
        "qed-cluster_big_endian",
        "The size of a cluster is stored big endian, and still one.",
        4,
        Four(4096u32.swap_bytes()),
        &[V::QedPlace],
    ),
    ("qed-table_15", "A table is a cluster less than the most.", 8, Four(15), &[V::QedGeometry, V::QedPlace]),
    ("qed-table_16", "A table is as large as can be, and goes on behind the file.", 8, Four(16), &[V::QedPlace]),
    ("qed-table_17", "A table is a cluster more than the most.", 8, Four(17), &[V::QedGeometry, V::QedPlace]),
    ("qed-table_2g", "A table has the highest bit alone.", 8, Four(1 << 31), &[V::QedGeometry, V::QedPlace]),
    ("qed-table_ones", "A table is all ones.", 8, Four(u32::MAX), &[V::QedGeometry, V::QedPlace]),
    (
        "qed-table_big_endian",
        "The size of a table is stored big endian.",
        8,
        Four(1 << 24),
        &[V::QedGeometry, V::QedPlace],
    ),
    (
        "qed-header-2",
        "A header of two clusters, on the second of which the L1 table lies.",
        12,
        Four(2),
        &[V::QedPlace],
    ),
    (
        "qed-header-high_bit",
        "The size of the header has its highest bit set: the L1 table lies in it.",
        12,
        Four(1 << 31 | 1),
        &[V::QedPlace],
    ),
    (
        "qed-header-ones",
        "The size of the header is all ones: the L1 table lies in it.",
        12,
        Four(u32::MAX),
        &[V::QedPlace],
    ),
    (
        "qed-header-big_endian",
        "The size of the header is stored big endian: the L1 table lies in it.",
        12,
        Four(1 << 24),
        &[V::QedPlace],
    ),
    ("qed-feature-4", "The second feature that nobody knows.", 16, Eight(1 << 4), &[V::QedFeature]),
    ("qed-feature-31", "The last feature of the low half.", 16, Eight(1 << 31), &[V::QedFeature]),
    ("qed-feature-32", "The first feature of the high half.", 16, Eight(1 << 32), &[V::QedFeature]),
    (
        "qed-feature-big_endian",
        "That the image needs a check is stored big endian.",
        16,
        Eight(NEED_CHECK.swap_bytes()),
        &[V::QedFeature],
    ),
    ("qed-feature-unknown", "All features but those that are known.", 16, Eight(u64::MAX << 3), &[V::QedFeature]),
    ("qed-l1-1", "The L1 table is at 1, which stands for zeros in an L2 table.", 40, Eight(ZEROS), &[V::QedPlace]),
    ("qed-l1-less_1", "The L1 table begins with the last byte of the header.", 40, Eight(CLUSTER - 1), &[V::QedPlace]),
    ("qed-l1-and_1", "The L1 table begins a byte late.", 40, Eight(CLUSTER + 1), &[V::QedPlace]),
    (
        "qed-l1-half",
        "The L1 table begins in the middle of a cluster.",
        40,
        Eight(CLUSTER + CLUSTER / 2),
        &[V::QedPlace],
    ),
    ("qed-l1-at_end", "The L1 table begins where the file ends.", 40, Eight(2 * CLUSTER), &[V::QedPlace]),
    (
        "qed-l1-high_bit",
        "The place of the L1 table is right but for its highest bit.",
        40,
        Eight(1 << 63 | CLUSTER),
        &[V::QedPlace],
    ),
    ("qed-l1-ones", "The place of the L1 table is all ones.", 40, Eight(u64::MAX), &[V::QedPlace]),
    (
        "qed-l1-big_endian",
        "The place of the L1 table is stored big endian.",
        40,
        Eight(CLUSTER.swap_bytes()),
        &[V::QedPlace],
    ),
    ("qed-size-less_1", "The disk is a byte less than a multiple of 512.", 48, Eight(SIZE - 1), &[V::QedSize]),
    ("qed-size-half_sector", "The disk is a multiple of 256 bytes only.", 48, Eight(SIZE + 256), &[V::QedSize]),
    (
        "qed-size-cluster_past_reach",
        "The disk goes on for a cluster past the reach of the tables.",
        48,
        Eight(ENTRIES * REACH + CLUSTER),
        &[V::QedSize],
    ),
    ("qed-size-high_bit", "The size is right but for its highest bit.", 48, Eight(1 << 63 | SIZE), &[V::QedSize]),
    ("qed-size-ones", "The size is all ones.", 48, Eight(u64::MAX), &[V::QedSize]),
    ("qed-size-big_endian", "The size is stored big endian.", 48, Eight(SIZE.swap_bytes()), &[V::QedSize]),
];

/// The place of a name of eight bytes, at 64, in an image that has a backing file.
const NAMES: &[Row] = &[
    ("qed-name-offset_ones", "The place of the name is all ones.", 56, Four(u32::MAX), &[V::QedName]),
    ("qed-name-offset_wraps", "The name ends at 2^32.", 56, Four(u32::MAX - 7), &[V::QedName]),
    ("qed-name-offset_big_endian", "The place of the name is stored big endian.", 56, Four(64 << 24), &[V::QedName]),
    ("qed-name-behind_header", "The name begins where the header ends.", 56, Four(4096), &[V::QedName]),
    ("qed-name-size_ones", "The size of the name is all ones.", 60, Four(u32::MAX), &[V::QedName]),
    (
        "qed-name-size_high_bit",
        "The size of the name is right but for its highest bit.",
        60,
        Four(1 << 31 | 8),
        &[V::QedName],
    ),
    ("qed-name-size_big_endian", "The size of the name is stored big endian.", 60, Four(8 << 24), &[V::QedName]),
    (
        "qed-name-empty_past_header",
        "A name of no bytes lies a byte behind the header.",
        56,
        Bytes(&[1, 16, 0, 0, 0, 0, 0, 0]),
        &[V::QedName],
    ),
    ("qed-name-nul_first", "The name begins with a NUL.", 64, Bytes(b"\0"), &[V::QedName]),
    ("qed-name-nul_last", "The name ends with a NUL as in C.", 71, Bytes(b"\0"), &[V::QedName]),
    ("qed-name-cut", "The name ends within a character.", 71, Bytes(b"\xc3"), &[V::QedName]),
    ("qed-name-continuation", "The name begins within a character.", 64, Bytes(b"\xa4"), &[V::QedName]),
    ("qed-name-surrogate", "The name has a surrogate.", 64, Bytes(b"\xed\xa0\x80"), &[V::QedName]),
    ("qed-name-overlong", "The name has a NUL in two bytes.", 64, Bytes(b"\xc0\x80"), &[V::QedName]),
];

/// An overlay that sees all of `qed`.
fn overlay(qed: &Qed, size: u64) -> Maker {
    sized(qed, size, size).data(4096..4608)
}

/// `qed` with a field that refuses it.
fn spoilt(&(name, purpose, at, value, rules): &Row, qed: Qed) -> Vector {
    let mut top = overlay(&qed, SIZE);
    let file = qed.with(at as u64, &value.bytes()).file;
    let vector = refused(name, purpose, answer(rules[0]), &rules[..1], &mut [(IMAGE, &mut top)]);
    or(vector, &rules[1..]).file(QED, Role::Parent, file)
}

fn fields() -> Vec<Vector> {
    FIELDS.iter().map(|row| spoilt(row, empty())).collect()
}

fn names() -> Vec<Vector> {
    NAMES.iter().map(|row| spoilt(row, empty().over(b"base.raw", &Sparse::new(0)))).collect()
}

/// Numbers that lead nowhere, where the table or cluster at `right` would be.
fn astray(right: u64) -> [(&'static str, &'static str, u64); 7] {
    [
        ("2", "is 2, which stands for nothing", 2),
        ("and_1", "begins a byte late", right + 1),
        ("half", "begins in the middle of a cluster", right + CLUSTER / 2),
        ("high_bit", "is right but for its highest bit", 1 << 63 | right),
        ("zeros_high_bit", "stands for zeros but for its highest bit", 1 << 63 | ZEROS),
        ("ones", "is all ones", u64::MAX),
        ("big_endian", "is stored big endian", right.swap_bytes()),
    ]
}

/// Entries of an L2 table, which lies in the third cluster of the file.
fn entries() -> Vec<Vector> {
    let vector = |(name, what, entry)| {
        let purpose = format!("An entry of an L2 table {what}.");
        let qed = empty().enter(2, entry);
        let top = overlay(&qed, SIZE);
        lost(shows(&format!("qed-entry-{name}"), &purpose, &[], top, qed), &[2..3])
    };
    astray(2 * CLUSTER).map(vector).into()
}

/// Entries of the L1 table: the second one, of a disk of which a few clusters lie in its reach.
fn tables() -> Vec<Vector> {
    let vector = |(name, what, entry): (&str, &str, u64)| {
        let clusters = ENTRIES..ENTRIES + 16;
        let purpose = format!("An entry of the L1 table {what}.");
        let qed = Qed::new(clusters.end * CLUSTER).with(CLUSTER + 8, &entry.to_le_bytes());
        let top = overlay(&qed, clusters.end * CLUSTER);
        lost(shows(&format!("qed-table-{name}"), &purpose, &[], top, qed), &[clusters])
    };
    let at_end = ("at_end", "leads to where the file ends", 2 * CLUSTER);
    let overflow = ("overflow", "leads to a table whose end has no number", u64::MAX - CLUSTER + 1);
    astray(CLUSTER).into_iter().chain([at_end, overflow]).map(vector).collect()
}
