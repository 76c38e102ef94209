//! Which slot counts, and what is said when none does.

use super::*;
use crate::limits::SLOT_SIZE;
use crate::violation::Violation;

static EMPTY: [u8; SLOT_SIZE as usize] = [0; SLOT_SIZE as usize];

fn slot(sequence: u64) -> Vec<u8> {
    slot_of(Header { sequence, ..overlay() })
}

fn slot_of(header: Header) -> Vec<u8> {
    let mut slot = header.encode().unwrap();
    slot.resize(SLOT_SIZE as usize, 0);
    slot
}

fn torn(sequence: u64) -> Vec<u8> {
    let mut slot = slot(sequence);
    slot[100] ^= 1;
    slot
}

fn violation(slot0: &[u8], slot1: &[u8]) -> Violation {
    choose(slot0, slot1).unwrap_err().violation
}

#[test]
fn the_highest_sequence_counts() {
    for (one, two, expected) in [(7, 8, 1), (8, 7, 0), (1, i64::MAX as u64, 1)] {
        let chosen = choose(&slot(one), &slot(two)).unwrap();
        assert_eq!((chosen.slot, chosen.header.sequence, chosen.equal), (expected, one.max(two), false));
    }
    let chosen = choose(&slot(7), &slot(7)).unwrap();
    assert_eq!((chosen.slot, chosen.equal), (0, true));
    assert_eq!(chosen.bytes, slot(7)[..4096]);
}

#[test]
fn a_slot_that_is_torn_or_empty_is_skipped() {
    for other in [torn(9), EMPTY.to_vec(), vec![0xff; 65536], Vec::new(), slot(9)[..100].to_vec()] {
        let chosen = choose(&slot(7), &other).unwrap();
        assert_eq!((chosen.slot, chosen.header.sequence, chosen.equal), (0, 7, false));
        let chosen = choose(&other, &slot(7)).unwrap();
        assert_eq!((chosen.slot, chosen.header.sequence, chosen.equal), (1, 7, false));
    }
}

#[test]
fn what_lies_behind_a_header_has_no_meaning() {
    let mut junk = slot(7);
    junk[272..].fill(0xee);
    assert!(choose(&junk, &slot(7)).unwrap().equal);
}

#[test]
fn one_sequence_number_is_one_header() {
    let other = slot_of(Header { sequence: 7, epoch: Uuid([9; 16]), ..overlay() });
    assert_eq!(violation(&slot(7), &other), Violation::EqualSequence);
}

#[test]
fn two_headers_are_of_one_file() {
    for other in [Header { uuid: Uuid([9; 16]), ..overlay() }, sidecar()] {
        let other = slot_of(Header { sequence: 8, ..other });
        assert_eq!(violation(&slot(7), &other), Violation::OneFile);
        assert_eq!(violation(&other, &slot(7)), Violation::OneFile);
    }
}

#[test]
fn a_whole_header_that_breaks_a_rule_refuses_the_file_from_either_slot() {
    let mut broken = slot(3);
    broken[22] = 9;
    fix_checksum(&mut broken);
    for (slot0, slot1) in [(&broken, &slot(7)), (&slot(7), &broken), (&broken, &EMPTY.to_vec())] {
        assert_eq!(violation(slot0, slot1), Violation::State);
    }
}

#[test]
fn the_slot_that_came_closest_says_what_is_wrong() {
    let alien = vec![0xff; 65536];
    assert_eq!(violation(&EMPTY, &EMPTY), Violation::Magic);
    assert_eq!(violation(&alien, &alien), Violation::Magic);
    assert_eq!(violation(&alien, &torn(1)), Violation::HeaderChecksum);
    assert_eq!(violation(&torn(1), &alien), Violation::HeaderChecksum);
    assert_eq!(violation(&EMPTY, &torn(1)), Violation::HeaderChecksum);
    assert_eq!(violation(&[], &[0; 4096]), Violation::Magic);
    assert_eq!(violation(&[], &torn(1)[..20]), Violation::HeaderChecksum);
    let mut long = slot(1);
    long[12..16].copy_from_slice(&65544u32.to_le_bytes());
    assert_eq!(violation(&long, &EMPTY), Violation::HeaderLength);
    let mut newer = torn(1);
    newer[8] = 2;
    let flaw = choose(&torn(1), &newer).unwrap_err();
    assert_eq!((flaw.violation, flaw.unsupported), (Violation::Version, true));
    assert_eq!(flaw.detail, "version 2");
    let mut newest = newer.clone();
    newest[8] = 3;
    for (first, second, told) in [(&newer, &newest, "version 2"), (&newest, &newer, "version 3")] {
        assert_eq!(choose(first, second).unwrap_err().detail, told, "the first of two that came as close");
    }
}

#[test]
fn a_newer_version_is_never_passed_over_for_an_older_slot() {
    let mut newer = slot(8);
    newer[8] = 2;
    fix_checksum(&mut newer);
    assert_eq!(violation(&slot(7), &newer), Violation::Version);
}
