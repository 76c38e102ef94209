//! QED images, sound and mangled, beside a reader that knows nothing but the words of the specification.

use super::*;
use crate::error::Error;
use crate::storage::MemoryStorage;
use crate::testing::qed::{CLUSTER, Cluster, Mangle, agrees, build, mangled, open, put};
use proptest::prelude::*;
use proptest::sample::select;

/// Runs of some clusters, and such that an L2 table is missing before one that is there.
fn kinds() -> impl Strategy<Value = Vec<Cluster>> {
    let length = prop_oneof![4 => 1..40usize, 1 => 400..700usize];
    let runs = (select(&[Cluster::Absent, Cluster::Zeros, Cluster::Data][..]), length);
    prop::collection::vec(runs, 1..12)
        .prop_map(|runs| runs.into_iter().flat_map(|(kind, length)| vec![kind; length]).collect())
}

/// Mostly where numbers are that lead somewhere.
fn mangles() -> impl Strategy<Value = Vec<Mangle>> {
    let places = prop_oneof![0..9u64, 512..530u64, 1024..1100u64, 0..4000u64].prop_map(|word| word * 8);
    let numbers = prop_oneof![
        0..20u64,
        any::<u64>(),
        (0..200u64).prop_map(|cluster| cluster * CLUSTER),
        (0..64u32).prop_map(|bit| 1 << bit),
        (0..3u64).prop_map(|less| u64::MAX - less * CLUSTER),
    ];
    let mangle = prop_oneof![
        (0..72u64, any::<u8>()).prop_map(|(at, byte)| Mangle::Byte(at, byte)),
        (places, numbers).prop_map(|(at, number)| Mangle::Number(at, number)),
        (0..400_000u64).prop_map(Mangle::Cut),
    ];
    prop::collection::vec(mangle, 1..4)
}

/// Ranges, of any length and at any place.
fn probes() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((any::<u64>(), select(&[1u64, 512, 5000, 100_000][..])), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn sound_images_are_read(
        sectors in 0..9000u64,
        table in select(&[1u64, 2][..]),
        clusters in kinds(),
        backing in prop::option::of(0..300_000usize),
        probes in probes(),
    ) {
        let file = build(sectors * 512, table, backing.is_some(), &clusters);
        let backing = vec![0xbb; backing.unwrap_or(0)];
        prop_assert!(open(&file, &backing).is_ok());
        agrees(&file, &backing, &probes);
    }

    #[test]
    fn mangled_images_are_refused_or_read_as_they_are(
        sectors in 1..9000u64,
        clusters in kinds(),
        backed in any::<bool>(),
        mangles in mangles(),
        probes in probes(),
    ) {
        let mut file = build(sectors * 512, 1, backed, &clusters);
        mangles.into_iter().for_each(|mangle| mangled(&mut file, mangle));
        agrees(&file, &[0xbb; 50_000], &probes);
    }

    #[test]
    fn any_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..20_000), magic in any::<bool>()) {
        if magic && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(b"QED\0");
        }
        agrees(&bytes, &[], &[(0, 10)]);
    }
}

#[test]
fn a_change_is_refused() {
    let qed = open(&build(8192, 1, false, &[Cluster::Data]), &[]).unwrap();
    for result in [qed.write_at(&[1], 0), qed.write_zeroes(0..1, false), qed.discard(0..1)] {
        assert!(matches!(result, Err(Error::Denied(_))), "{result:?}");
    }
    qed.flush().unwrap();
}

/// Where tables of the largest size reach further than numbers go.
#[test]
fn the_largest_tables_are_read_in_pieces() {
    let (cluster, table) = (64u64 << 20, 16u64);
    let image = MemoryStorage::new("image");
    let (l1, l2, data) = (cluster, cluster * (1 + table), cluster * (1 + 2 * table));
    let mut header = build(512, 1, false, &[Cluster::Absent]);
    for (at, field) in [(4, cluster), (8, table)] {
        put(&mut header, at, &(field as u32).to_le_bytes());
    }
    put(&mut header, 40, &l1.to_le_bytes());
    put(&mut header, 48, &(1u64 << 60).to_le_bytes());
    image.write_at(&header[..72], 0).unwrap();
    image.set_size(data + cluster).unwrap();
    let last = (1 << 60) / cluster - 1;
    let entries = table * cluster / 8;
    image.write_at(&l2.to_le_bytes(), l1 + last / entries * 8).unwrap();
    image.write_at(&data.to_le_bytes(), l2 + last % entries * 8).unwrap();
    image.write_at(b"end", data + cluster - 3).unwrap();
    let qed = Qed::open(Arc::new(image), 0).unwrap();
    let mut bytes = [0; 3];
    qed.read_at(&mut bytes, (1 << 60) - 3).unwrap();
    assert_eq!(&bytes, b"end");
    let (mut at, mut extents) = (0, 0);
    while at < 1 << 60 {
        at = qed.extent(at, 1 << 60).unwrap().range.end;
        extents += 1;
    }
    assert!(extents < 300_000, "{extents} extents");
}
