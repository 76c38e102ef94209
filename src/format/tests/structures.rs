//! Structures are where and as long as their tables say.

use super::*;
use crate::format::bitmap::{BitmapBody, PointBody};
use crate::format::header::FixedHeader;
use crate::format::layout::OnDisk;
use crate::format::qed::QedFixed;
use crate::format::record::{
    CopyMarkBody, DecisionBody, GroupMarkBody, HostBody, MergeMarkBody, ParentBody, RecordHead, SectionBody,
};
use crate::format::seal::SealedSector;

#[test]
fn sizes_are_as_specified() {
    let sizes: Vec<_> = structures().iter().map(|structure| (structure.name, structure.size)).collect();
    let expected = [
        ("Header", 128),
        ("Record", 8),
        ("Section", 56),
        ("Parent", 64),
        ("Merge mark", 48),
        ("Copy mark", 32),
        ("Host", 32),
        ("Group mark", 32),
        ("Decision", 16),
        ("Bitmap", 64),
        ("Point", 32),
        ("Sealed sector", 512),
        ("QED header", 64),
    ];
    assert_eq!(sizes, expected);
    for structure in structures() {
        let ends = structure.fields.iter().map(|field| field.offset + field.size);
        let starts = structure.fields.iter().skip(1).map(|field| field.offset).chain([structure.size]);
        assert!(ends.eq(starts), "{}: no gap", structure.name);
    }
}

/// What binrw reads and writes is what the table counts: every byte comes back, and one less is refused.
fn whole<T: OnDisk>() {
    let bytes: Vec<u8> = (0..T::SIZE).map(|at| at as u8).collect();
    assert_eq!(T::parse(&bytes).expect("long enough").to_bytes(), bytes);
    assert!(T::parse(&bytes[1..]).is_none());
    assert_eq!(T::SIZE as u64, T::structure().size);
}

#[test]
fn structures_take_all_their_bytes() {
    whole::<FixedHeader>();
    whole::<RecordHead>();
    whole::<SectionBody>();
    whole::<ParentBody>();
    whole::<MergeMarkBody>();
    whole::<CopyMarkBody>();
    whole::<HostBody>();
    whole::<GroupMarkBody>();
    whole::<DecisionBody>();
    whole::<BitmapBody>();
    whole::<PointBody>();
    whole::<SealedSector>();
    whole::<QedFixed>();
}

#[test]
fn numbers_lie_where_the_table_says() {
    let slot = overlay().encode().unwrap();
    assert_eq!(slot[..8], *b"\x89LVD\r\n\x1a\n");
    assert_eq!(slot[8..12], 1u32.to_le_bytes());
    assert_eq!(slot[12..16], (128 + 64 + 8 + 64 + 8u32).to_le_bytes());
    assert_eq!(slot[64..72], MIB.to_le_bytes());
    assert_eq!(slot[128..136], [1, 0, 1, 0, 56, 0, 0, 0]);
    assert_eq!(slot[264..272], *b"base.lvd");
    assert_eq!(slot.len(), 4096);
}

#[test]
fn a_seal_is_the_checksum_of_identity_and_sector() {
    let mut sector = [0x5a; 512];
    seal(&mut sector, UUID, 0x0102_0304_0506_0708);
    assert_eq!(sector[496..504], [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(sector[504..508], *b"SEAL");
    let covered = [&UUID.0[..], &sector[..508]].concat();
    assert_eq!(sector[508..], crc32c::crc32c(&covered).to_le_bytes());
    assert_eq!(check_sector(&sector, UUID, 0x0102_0304_0506_0708), SectorState::Sealed);
    assert_eq!(check_sector(&sector, UUID, 1), SectorState::Bad);
    assert_eq!(check_sector(&sector, EPOCH, 0x0102_0304_0506_0708), SectorState::Bad);
    assert_eq!(check_sector(&[0; 512], UUID, 1), SectorState::Empty);
    for byte in 0..512 {
        let mut damaged = sector;
        damaged[byte] ^= 1;
        assert_eq!(check_sector(&damaged, UUID, 0x0102_0304_0506_0708), SectorState::Bad, "byte {byte}");
    }
}

#[test]
fn uuids_print_in_the_order_of_their_bytes() {
    let uuid: Uuid = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
    assert_eq!(uuid.0[..3], [0x00, 0x11, 0x22]);
    assert_eq!(uuid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(format!("{uuid:?}"), uuid.to_string());
    assert!("nonsense".parse::<Uuid>().is_err());
    assert!(Uuid::NIL.is_nil() && !uuid.is_nil());
}
