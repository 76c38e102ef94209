//! Vectors of what a reader reads: presence, garbage, sizes and granules at their limits.

use super::maker::{Maker, raw};
use super::sparse::Sparse;
use super::vector::{Flag, Role, Vector};
use super::{opens, sparse_overlay};
use crate::limits::MAX_SIZE;
use crate::violation::Violation as V;

pub(super) fn all() -> Vec<Vector> {
    [complete_sizes(), overlay_sizes(), granules(), large(), presence(), tails()].concat()
}

fn complete_sizes() -> Vec<Vector> {
    let sizes = [0, 1, 511, 512, 513, 4095, 4096, 4097, 65_537];
    sizes
        .map(|size: u64| {
            let mut maker = Maker::complete("size", size).data(0..size);
            let purpose = format!("A complete image of {size} bytes.");
            opens(&format!("alc-complete-size_{size}"), &purpose, &[V::VirtualSize], &mut maker).also(&["ALC-01"])
        })
        .into()
}

fn overlay_sizes() -> Vec<Vector> {
    let mut vectors: Vec<Vector> = [1, 511, 4097, 8191]
        .map(|size: u64| {
            let last = (size - 1) / 4096 * 4096;
            let mut maker = Maker::overlay("size", size, 12).data(last..size);
            let purpose = format!("An overlay of {size} bytes whose last block is present.");
            opens(&format!("alc-overlay-size_{size}"), &purpose, &[V::AllocationCovers], &mut maker).also(&["ALC-06"])
        })
        .into();
    let mut nothing = Maker::overlay("size", 0, 12);
    vectors.push(opens(
        "alc-overlay-size_0",
        "An overlay of no bytes: its section has no length and lies where the data area does.",
        &[V::AllocationCovers, V::SectionLength, V::Overlap],
        &mut nothing,
    ));
    vectors
}

fn granules() -> Vec<Vector> {
    let mut vectors: Vec<Vector> = [12, 13, 16, 20, 24]
        .map(|shift: u8| {
            let granule = 1u64 << shift;
            let size = 3 * granule + 1000;
            let mut maker = Maker::overlay("gran", size, shift)
                .data(granule + 512..granule + 1024)
                .data(size - 1000..size - 500)
                .garbage(granule - 512..granule);
            let purpose = format!("Blocks of {granule} bytes, the second and the short last one present.");
            opens(&format!("alc-granule-{shift}"), &purpose, &[V::Granularity], &mut maker).also(&["ALC-06"])
        })
        .into();
    let mut larger = Maker::overlay("gran", 5000, 24).data(100..200);
    vectors.push(opens(
        "alc-granule-larger_than_disk",
        "A block of 16 MiB for a disk of 5000 bytes.",
        &[V::Granularity],
        &mut larger,
    ));
    vectors
}

fn large() -> Vec<Vector> {
    let tib = 1u64 << 40;
    let mut complete = Maker::complete("tera", tib).data(0..512).data(tib - 512..tib);
    let mut overlay = Maker::overlay("tera", tib, 12)
        .data(0..4096)
        .data((tib >> 1)..(tib >> 1) + 512)
        .data(tib - 4096..tib)
        .garbage(tib - 8192..tib - 4096);
    let mut largest = Maker::complete("exbi", MAX_SIZE).data(0..512).data(MAX_SIZE - 512..MAX_SIZE);
    let mut largest_overlay = Maker::overlay("exbi", MAX_SIZE, 24).data(0..512).data(MAX_SIZE - 512..MAX_SIZE);
    let mut finest = Maker::overlay("exbi", MAX_SIZE, 12).data(0..512).data(MAX_SIZE - 512..MAX_SIZE);
    let size = &[V::VirtualSize];
    vec![
        opens("alc-complete-1_tib", "A sparse disk of 1 TiB.", size, &mut complete),
        opens("alc-overlay-1_tib", "An overlay of 1 TiB in 4 KiB blocks, almost all absent.", size, &mut overlay),
        opens("alc-complete-max", "The largest disk, 2^60 bytes.", size, &mut largest)
            .flag(Flag::Huge)
            .also(&["LIM-03"]),
        opens("alc-overlay-max", "The largest overlay, in the largest blocks.", size, &mut largest_overlay)
            .flag(Flag::Huge)
            .also(&["LIM-03"]),
        opens("alc-overlay-max_finest", "The largest overlay, in the smallest blocks: 2^48 bits.", size, &mut finest)
            .flag(Flag::Huge)
            .also(&["LIM-02", "LIM-03"]),
    ]
}

fn presence() -> Vec<Vector> {
    let mut masked = Maker::overlay("mask", 16_384, 12).garbage(0..16_384);
    let mut some = sparse_overlay();
    let mut zeros = Maker::overlay("zero", 16_384, 12).zeros(4096..8192);
    let base = raw("base", 16_384, &[0..16_384]);
    let mut over = Maker::overlay("zero", 16_384, 12).over_raw(&base, "base.raw", 16_384).zeros(4096..8192);
    let mut part =
        Maker::overlay("part", 16_384, 12).over_raw(&base, "base.raw", 16_384).data(5000..5100).zeros(8200..8300);
    let with_base = |name: &str, purpose: &str, rules: &[&str], maker: &mut Maker| {
        opens(name, purpose, &[], maker).also(rules).file("base.raw", Role::Parent, base.clone())
    };
    vec![
        opens("alc-garbage-masked", "No bit is set: what lies in the data area is never shown.", &[], &mut masked)
            .also(&["ALC-04"]),
        opens("alc-some_present", "Two blocks of eight are present; beside one of them lies garbage.", &[], &mut some)
            .also(&["ALC-03", "ALC-04"]),
        opens("alc-zeros_present", "A block of zeros, where the file has a hole, is present.", &[], &mut zeros)
            .also(&["ALC-03", "ALC-08"]),
        with_base(
            "alc-zeros_hide_parent",
            "A present block of zeros hides the parent's data.",
            &["ALC-03", "ALC-08"],
            &mut over,
        ),
        with_base(
            "alc-partial_writes",
            "Blocks that were written in part hold the parent's bytes around it.",
            &["ALC-03", "ORD-44"],
            &mut part,
        ),
    ]
}

/// What lies past the end of the disk, and within the last page of the file.
fn tails() -> Vec<Vector> {
    let mut bits = Maker::overlay("tail", 4 * 4096 + 100, 12).data(4 * 4096..4 * 4096 + 100);
    for block in [5, 6, 100, 3967, 3968] {
        bits = bits.set_bit(block);
    }
    let mut data = Maker::overlay("tail", 4097, 12).data(4096..4097);
    let end = data.header.data_offset + 4097;
    data.file.write(end, b"behind the disk's last byte");
    let mut short = Maker::overlay("tail", 5000, 16).over_raw(&Sparse::new(0), "empty.raw", 0).data(4999..5000);
    vec![
        opens("alc-bits_past_end", "Bits past the end of the disk are set.", &[], &mut bits).also(&["ALC-07"]),
        opens("alc-data_past_end", "Bytes lie behind the end of the disk, within its last block.", &[], &mut data)
            .also(&["ALC-06"]),
        opens("alc-parent_empty", "The parent is an empty file.", &[], &mut short).also(&["ALC-05"]).file(
            "empty.raw",
            Role::Parent,
            Sparse::new(0),
        ),
    ]
}
