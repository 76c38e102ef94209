//! Properties over all headers and all bytes.

use super::*;
use crate::limits::SLOT_SIZE;
use crate::switch::without_check;
use crate::violation::Violation;
use proptest::collection::vec;
use proptest::prelude::*;

fn id() -> impl Strategy<Value = Uuid> {
    any::<[u8; 16]>().prop_map(Uuid).prop_filter("nil", |uuid| !uuid.is_nil())
}

/// A section still without its place: `needed` and up to three pages more.
fn section(virtual_size: u64) -> impl Strategy<Value = Section> {
    let covered = prop_oneof![Just(virtual_size), 0..=virtual_size];
    (id(), 2..9u16, 12..=24u8, any::<bool>(), 0..4u64, covered).prop_map(
        |(id, kind, shift, required, pages, covered)| {
            let kind = SectionKind::from_number(kind);
            let length = Section::needed_length(covered, shift) + pages * 4096;
            let required = required && kind.known();
            Section { id, kind, granularity_shift: shift, required, offset: 0, length, covered }
        },
    )
}

fn link(virtual_size: u64) -> impl Strategy<Value = Parent> {
    let identity = proptest::option::of((id(), id()).prop_map(|(uuid, epoch)| Identity { uuid, epoch }));
    let format = proptest::sample::select(ParentFormat::ALL);
    (identity, format, 0..=virtual_size, "[^\0]{0,80}").prop_map(|(identity, format, visible_length, hint)| Parent {
        identity,
        format,
        visible_length,
        hint,
    })
}

/// A record of unknown type, or one of a bitmap or point that is too short to be one.
fn record() -> impl Strategy<Value = RawRecord> {
    let number = prop_oneof![Just(0u16), 6..8u16, 10..12u16, Just(u16::MAX)];
    (number, vec(any::<u8>(), 0..31)).prop_map(|(record_type, payload)| RawRecord { record_type, flags: 0, payload })
}

/// Any header that keeps the rules.
pub(super) fn header() -> impl Strategy<Value = Header> {
    prop_oneof![9 => disk(), 1 => decided()]
}

/// The header of a group's file.
fn decided() -> impl Strategy<Value = Header> {
    (id(), id(), 1..1u64 << 63, proptest::sample::select(Decision::ALL)).prop_map(
        |(uuid, epoch, sequence, decision)| Header {
            sequence,
            decision: Some(decision),
            ..Header::new(Kind::Group, uuid, epoch, 0, 0)
        },
    )
}

fn disk() -> impl Strategy<Value = Header> {
    let size = prop_oneof![Just(0u64), 0..4096u64, 0..=1u64 << 60, Just(1 << 60)];
    size.prop_flat_map(|size| {
        (
            (Just(size), any::<bool>(), any::<bool>(), 1..1u64 << 63, id(), id(), 0..3usize),
            vec(section(size), 0..5),
            section(size),
            proptest::option::of(link(size)),
            (
                proptest::option::of((id(), id())),
                proptest::option::of(any::<[u8; 16]>()),
                proptest::option::of(id()),
                vec(record(), 0..3),
            ),
            (any::<u64>(), any::<u64>(), 0..1u64 << 20),
        )
    })
    .prop_map(
        |(fixed, sections, allocation, parent, (merge, copy, group, unknown), (ro_compat, compat, host_more))| {
            let (size, sidecar, overlay, sequence, uuid, epoch, state) = fixed;
            let mut header = Header::new(if sidecar { Kind::Sidecar } else { Kind::Image }, uuid, epoch, size, 0);
            header.state = State::ALL[state];
            header.sequence = sequence;
            (header.ro_compat, header.compat) = (ro_compat, compat);
            header.sections = sections;
            if overlay || parent.is_some() {
                let (kind, required) = (SectionKind::Allocation, true);
                let length = Section::needed_length(size, allocation.granularity_shift);
                header.sections.push(Section { kind, required, covered: size, length, ..allocation });
            }
            header.parent = parent;
            header.merge_mark = merge.map(|(child_uuid, child_epoch)| MergeMark { child_uuid, child_epoch });
            header.copy_mark = copy.map(|group| CopyMark { group: Uuid(group) });
            header.set_group_mark(group.map(|group| GroupMark { group }));
            header.host =
                sidecar.then(|| HostRecord { format: HostFormat::Raw, length: size + host_more, former: Uuid::NIL });
            header.unknown = unknown;
            header.unknown.sort_by_key(|record| record.record_type);
            place(&mut header);
            header
        },
    )
}

/// Puts the sections behind the slots and the data behind them.
fn place(header: &mut Header) {
    let mut end = 2 * SLOT_SIZE;
    for section in &mut header.sections {
        section.offset = end;
        end += section.length;
    }
    if header.kind == Kind::Image {
        header.data_offset = end;
    }
}

proptest! {
    #[test]
    fn every_header_comes_back(header in header()) {
        let slot = header.encode().unwrap();
        prop_assert_eq!(slot.len() % 4096, 0);
        prop_assert_eq!(&Header::decode(&slot).unwrap(), &header);
    }

    #[test]
    fn no_changed_byte_is_overlooked(header in header(), at: usize, change in 1..=255u8) {
        let mut slot = header.encode().unwrap();
        let length = u32::from_le_bytes(slot[12..16].try_into().unwrap()) as usize;
        let at = at % slot.len();
        slot[at] ^= change;
        prop_assert_eq!(Header::decode(&slot).is_ok(), at >= length);
    }

    /// The checksum is made right, so that the parser and the rules have to cope with what is inside.
    #[test]
    fn what_is_accepted_is_canonical(header in header(), changes in vec((any::<usize>(), any::<u8>()), 1..4)) {
        let mut slot = header.encode().unwrap();
        let length = u32::from_le_bytes(slot[12..16].try_into().unwrap()) as usize;
        for (at, value) in changes {
            slot[at % length] = value;
        }
        fix_checksum(&mut slot);
        if let Ok(header) = Header::decode(&slot) {
            let length = u32::from_le_bytes(slot[12..16].try_into().unwrap()) as usize;
            prop_assert_eq!(&header.encode().unwrap()[..length], &slot[..length]);
        }
    }

    /// A check that a test leaves out lets a file pass, and nothing worse.
    #[test]
    fn no_check_keeps_another_from_a_panic(
        header in header(),
        rule in proptest::sample::select(Violation::ALL),
        changes in vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let mut slot = header.encode().unwrap();
        let length = slot.len();
        for (at, value) in changes {
            slot[at % length] = value;
        }
        without_check(rule, || {
            let _ = choose(&slot, &[]);
            fix_checksum(&mut slot);
            if let Ok(header) = Header::decode(&slot) {
                let _ = header.encode();
                let _ = (header.check_size(1 << 20), header.writable(), header.granule(), header.data_end());
                for section in &header.sections {
                    let _ = (section.bits(), section.pages(), section.sectors(), section.range(), section.granule());
                }
            }
        });
    }

    #[test]
    fn any_bytes_are_judged(mut slot in vec(any::<u8>(), 0..600), records in 0..9u8, behind in vec(0..9u8, 400)) {
        let _ = Header::decode(&slot);
        // The same behind a sound fixed header, with small numbers that make records of the rest.
        let mut sound = image().encode().unwrap();
        sound[104] = records;
        sound[12..16].copy_from_slice(&(128 + behind.len() as u32).to_le_bytes());
        sound[128..528].copy_from_slice(&behind);
        fix_checksum(&mut sound);
        let _ = Header::decode(&sound);
        slot.extend(sound);
        let _ = choose(&slot, &slot);
    }
}
