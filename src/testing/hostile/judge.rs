//! A judge of header slots that knows nothing but the words of `spec/format.md`: offsets, numbers and rules.
//!
//! It collects every rule that a slot breaks, where the library stops at the first. Where the specification leaves open
//! whether a rule is judged, the judge has it among those that *may* be named beside one that is broken.

use crate::format::{Chosen, Flaw, Header, choose};
use std::collections::BTreeSet;
use std::ops::Range;

/// What a slot is (HDR-02 to HDR-05, HDR-18).
enum Verdict {
    Empty,
    Torn(&'static str),
    Whole(Findings),
}

/// What a whole slot breaks.
#[derive(Default)]
struct Findings {
    broken: BTreeSet<&'static str>,
    may: BTreeSet<&'static str>,
}

impl Findings {
    fn hold(&mut self, condition: bool, rule: &'static str) {
        if !condition {
            self.broken.insert(rule);
        }
    }
}

/// Rules whose answer is *newer*, not *damaged*; REC-07 can be either.
const NEWER: [&str; 8] = ["HDR-03", "HDR-08", "HDR-10", "REC-03", "REC-04", "SEC-01", "SID-03", "GRP-03"];
const SLOT: usize = 65536;

/// Has the library choose among two slots, and holds what it says against the judge's words.
///
/// # Panics
/// If the two do not agree, or what was accepted does not come back from its own bytes.
pub fn agree(slot0: &[u8], slot1: &[u8]) -> Result<Chosen, Flaw> {
    let slots = [full(slot0), full(slot1)];
    for slot in &slots {
        let decoded = Header::decode(slot);
        match judge(slot) {
            Verdict::Empty => refused(decoded, &["HDR-02"]),
            Verdict::Torn(rule) => refused(decoded, &[rule]),
            Verdict::Whole(findings) => whole(decoded.map(drop), &findings),
        }
    }
    let chosen = choose(slot0, slot1);
    let (first, second) = (sequence(&slots[0]), sequence(&slots[1]));
    match (judge(&slots[0]), judge(&slots[1])) {
        (Verdict::Whole(one), Verdict::Whole(two)) => {
            let sound = one.broken.is_empty() && two.broken.is_empty();
            let clashes: Vec<&str> = [
                (first == second && own(&slots[0]) != own(&slots[1])).then_some("HDR-06"),
                (file(&slots[0]) != file(&slots[1])).then_some("HDR-23"),
            ]
            .into_iter()
            .flatten()
            .collect();
            if sound && !clashes.is_empty() {
                refused(chosen.clone(), &clashes);
            } else {
                // Both are judged, and the first that breaks a rule is named (HDR-18).
                whole(chosen.clone().map(drop), if one.broken.is_empty() { &two } else { &one });
            }
        }
        (Verdict::Whole(one), _) | (_, Verdict::Whole(one)) => whole(chosen.clone().map(drop), &one),
        (one, two) => {
            let order = ["HDR-02", "HDR-04", "HDR-05", "HDR-03"];
            let flaws = [one, two].into_iter().filter_map(|verdict| match verdict {
                Verdict::Torn(rule) => order.iter().position(|other| *other == rule),
                _ => None,
            });
            refused(chosen.clone(), &[order[flaws.max().unwrap_or(0)]]);
        }
    }
    if let Ok(chosen) = &chosen {
        let highest = usize::from(second > first && matches!(judge(&slots[1]), Verdict::Whole(_)));
        let only = usize::from(!matches!(judge(&slots[0]), Verdict::Whole(_)));
        assert_eq!(chosen.slot, highest.max(only), "HDR-19");
        comes_back(chosen);
    }
    chosen
}

/// What was accepted can be written, and its bytes say the same; they are the same, but that records of bitmaps and
/// points that are none move behind those that are some.
fn comes_back(chosen: &Chosen) {
    let written = chosen.header.encode().expect("what was accepted can be written");
    let again = choose(&written, &written).expect("what was written can be read");
    assert_eq!(again.header, chosen.header, "what was written says the same");
    if chosen.header.unknown.iter().all(|record| ![6, 7].contains(&record.record_type)) {
        assert_eq!(own(&written), own(&chosen.bytes), "one header has one form");
    }
}

fn refused<T>(result: Result<T, Flaw>, rules: &[&str]) {
    let Err(flaw) = result else { panic!("accepted, against {rules:?}") };
    let rule = flaw.violation.id();
    assert!(rules.contains(&rule), "refused by {rule}, which it does not break, instead of {rules:?}");
    assert!(rule == "REC-07" || flaw.unsupported == NEWER.contains(&rule), "the answer of {rule}");
}

fn whole(result: Result<(), Flaw>, findings: &Findings) {
    if findings.broken.is_empty() {
        let Err(flaw) = result else { return };
        panic!("refused by {}, and breaks nothing", flaw.violation);
    }
    let rules: Vec<_> = findings.broken.union(&findings.may).copied().collect();
    refused(result, &rules);
}

fn full(slot: &[u8]) -> Vec<u8> {
    let mut full = slot[..slot.len().min(SLOT)].to_vec();
    full.resize(SLOT, 0);
    full
}

/// The bytes of a slot that its header has.
fn own(slot: &[u8]) -> &[u8] {
    &slot[..number(slot, 12, 4) as usize]
}

/// Kind and UUID.
fn file(slot: &[u8]) -> (u64, &[u8]) {
    (number(slot, 20, 2), &slot[32..48])
}

fn sequence(slot: &[u8]) -> u64 {
    number(slot, 24, 8)
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn nil(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn judge(slot: &[u8]) -> Verdict {
    let (version, length) = (number(slot, 8, 4), number(slot, 12, 4) as usize);
    let newer = |rule| if version == 1 { rule } else { "HDR-03" };
    if nil(slot) {
        return Verdict::Empty;
    }
    if slot[..8] != [0x89, 0x4c, 0x56, 0x44, 0x0d, 0x0a, 0x1a, 0x0a] {
        return Verdict::Torn("HDR-02");
    }
    if !(128..=SLOT).contains(&length) || !length.is_multiple_of(8) {
        return Verdict::Torn(newer("HDR-04"));
    }
    let mut unsigned = slot[..length].to_vec();
    unsigned[16..20].fill(0);
    if number(slot, 16, 4) != u64::from(crc32c::crc32c(&unsigned)) {
        return Verdict::Torn(newer("HDR-05"));
    }
    let mut findings = Findings::default();
    findings.hold(version == 1, "HDR-03");
    findings.hold(number(slot, 80, 8) == 0, "HDR-08");
    if findings.broken.is_empty() {
        fields(slot, &mut findings);
        let walk = Walk::of(&slot[..length], &mut findings);
        walk.judge(slot, &mut findings);
    }
    Verdict::Whole(findings)
}

/// HDR-07, HDR-10 to HDR-15.
fn fields(slot: &[u8], findings: &mut Findings) {
    let (kind, offset) = (number(slot, 20, 2), number(slot, 72, 8));
    findings.hold(nil(&slot[108..128]), "HDR-07");
    findings.hold((1..=3).contains(&kind), "HDR-10");
    findings.hold(number(slot, 22, 2) <= 2, "HDR-11");
    findings.hold(!nil(&slot[32..48]) && !nil(&slot[48..64]), "HDR-12");
    findings.hold(number(slot, 64, 8) <= 1 << 60, "HDR-13");
    let image = offset.is_multiple_of(4096) && (131_072..=1 << 60).contains(&offset);
    findings.hold(!(1..=3).contains(&kind) || if kind == 1 { image } else { offset == 0 }, "HDR-14");
    findings.hold((1..1 << 63).contains(&sequence(slot)), "HDR-15");
}

/// The records of a header, by their types. Of one that breaks REC-05 only the type is known.
#[derive(Default)]
struct Walk {
    /// All records are known (REC-01, REC-05).
    complete: bool,
    /// Records of each type from 0 to 9.
    counts: [usize; 10],
    sections: Vec<Section>,
    /// `visible_length` of the parents.
    visible: Vec<u64>,
    /// Format and length of the hosts.
    hosts: Vec<(u64, u64)>,
    /// Group marks whose payload is known.
    group_marks: usize,
}

struct Section {
    id: [u8; 16],
    kind: u64,
    shift: u64,
    offset: u64,
    length: u64,
    covered: u64,
}

impl Walk {
    fn of(header: &[u8], findings: &mut Findings) -> Walk {
        let mut walk = Walk { complete: true, ..Walk::default() };
        let (mut at, mut last) = (128, 0);
        for _ in 0..number(header, 104, 4) {
            let length = if at + 8 <= header.len() { number(header, at + 4, 4) as usize } else { SLOT };
            let (end, next) = (at + 8 + length, at + 8 + length.next_multiple_of(8));
            if next > header.len() {
                // Here the walk ends.
                findings.hold(false, "REC-01");
                return Walk { complete: false, ..walk };
            }
            findings.hold(nil(&header[end..next]), "REC-02");
            let record = number(header, at, 2);
            findings.hold(record >= last, "REC-12");
            walk.record(record, number(header, at + 2, 2), &header[at + 8..end], findings);
            (at, last) = (next, record);
        }
        findings.hold(at == header.len(), "REC-01");
        walk.complete &= at == header.len();
        walk
    }

    fn record(&mut self, record: u64, flags: u64, payload: &[u8], findings: &mut Findings) {
        let required = flags & 1 == 1;
        findings.hold(flags & !1 == 0, "REC-04");
        let (length, reserved): (usize, &[Range<usize>]) = match record {
            1 => (56, &[19..24, 48..56]),
            2 if payload.len() >= 64 => (64 + number(payload, 48, 4) as usize, &[52..64]),
            2 => (64, &[]),
            3 => (48, &[32..48]),
            4 | 8 => (32, &[16..32]),
            5 => (32, &[4..8]),
            9 => (16, &[4..16]),
            // A bitmap, a point, or nothing that is known.
            _ => return findings.hold(!required, "REC-03"),
        };
        self.counts[record as usize] += 1;
        findings.hold(self.counts[record as usize] <= if record == 1 { 64 } else { 1 }, "REC-06");
        findings.hold(record == 1 || required == (record != 8), "REC-11");
        let sound = payload.len() == length && reserved.iter().all(|range| nil(&payload[range.clone()]));
        findings.hold(sound, "REC-05");
        self.complete &= sound;
        if sound {
            self.payload(record, required, payload, findings);
        }
    }

    fn payload(&mut self, record: u64, required: bool, payload: &[u8], findings: &mut Findings) {
        let field = |at, size| number(payload, at, size);
        match record {
            1 => {
                let (id, kind) = (payload[..16].try_into().expect("16 bytes"), field(16, 2));
                findings.hold(kind != 1 || required, "REC-11");
                findings.hold((1..=4).contains(&kind) || !required, "SEC-01");
                let (offset, length, covered) = (field(24, 8), field(32, 8), field(40, 8));
                self.sections.push(Section { id, kind, shift: field(18, 1), offset, length, covered });
            }
            2 => {
                let (flags, hint) = (field(32, 4), &payload[64..]);
                let identity = [nil(&payload[..16]), nil(&payload[16..32])];
                let agrees = identity == [flags & 1 == 0; 2];
                findings.hold(flags & !1 == 0 && (1..=5).contains(&field(36, 4)) && agrees, "REC-07");
                let text = std::str::from_utf8(hint).is_ok_and(|hint| !hint.contains('\0'));
                findings.hold(text && hint.len() <= 4096, "REC-08");
                self.visible.push(field(40, 8));
            }
            3 => findings.hold(!nil(&payload[..16]) && !nil(&payload[16..32]), "REC-10"),
            5 => self.hosts.push((field(0, 4), field(8, 8))),
            8 => {
                findings.hold(!nil(&payload[..16]), "GRP-04");
                self.group_marks += 1;
            }
            9 => findings.hold(field(0, 4) <= 1, "GRP-03"),
            _ => {}
        }
    }

    /// What the records break together, and with the fields.
    fn judge(&self, slot: &[u8], findings: &mut Findings) {
        let (kind, size, data) = (number(slot, 20, 2), number(slot, 64, 8), number(slot, 72, 8));
        self.sections(kind, size, data, findings);
        let allocation = self.sections.iter().any(|section| section.kind == 1);
        findings.hold(self.visible.is_empty() || allocation || !self.complete, "REC-09");
        findings.hold(self.visible.iter().all(|visible| *visible <= size), "CHN-05");
        let (host, decision) = (self.counts[5] > 0, self.counts[9] > 0);
        for (format, length) in &self.hosts {
            let rules = if kind == 2 { &mut findings.broken } else { &mut findings.may };
            rules.extend(Some("SID-03").filter(|_| ![1, 2].contains(format)));
            rules.extend(Some("SID-04").filter(|_| size > *length));
            findings.hold(kind != 2 || !allocation || *format != 1, "SEC-09");
        }
        findings.hold(kind != 2 || host || !self.complete, "SID-01");
        findings.hold(kind != 2 || !allocation || host || !self.complete, "SEC-09");
        findings.hold(kind != 1 || !host, "SID-01");
        findings.hold(kind != 3 || decision || !self.complete, "GRP-01");
        findings.hold(![1, 2].contains(&kind) || !decision, "GRP-01");
        if kind == 3 {
            findings.hold(!allocation, "SEC-09");
            let others = [1, 2, 3, 4, 5, 8].iter().any(|record| self.counts[*record] > 0);
            findings.hold(size == 0 && !others, "GRP-02");
        }
        let flagged = number(slot, 88, 8) & 1 == 1;
        findings.hold(self.group_marks == 0 || flagged, "GRP-04");
        findings.hold(!flagged || self.counts[8] > 0 || !self.complete, "GRP-04");
    }

    /// SEC-02 to SEC-07.
    fn sections(&self, kind: u64, size: u64, data: u64, findings: &mut Findings) {
        let mut taken: Vec<Range<u128>> = vec![0..131_072];
        if kind == 1 {
            taken.push(data.into()..u128::from(data) + u128::from(size));
        }
        for section in &self.sections {
            let (offset, length) = (u128::from(section.offset), u128::from(section.length));
            let known = (1..=4).contains(&section.kind);
            let largest = if section.kind == 3 { 48 } else { 24 };
            findings.hold(!known || (12..=largest).contains(&section.shift), "SEC-02");
            let placed = offset.is_multiple_of(4096) && length.is_multiple_of(4096) && offset >= 131_072;
            findings.hold(placed && offset + length <= 1 << 61, "SEC-03");
            let bits =
                if section.shift < 64 { section.covered.div_ceil(1 << section.shift) } else { section.covered.min(1) };
            let needed = u128::from(bits).div_ceil(3968).div_ceil(8) * 4096;
            findings.hold(!known || length >= needed, "SEC-04");
            taken.push(offset..offset + length);
            let twins = self.sections.iter().filter(|other| other.id == section.id).count();
            findings.hold(twins == 1 && !nil(&section.id), "SEC-06");
            findings.hold(section.kind != 1 || section.covered == size, "SEC-07");
        }
        findings.hold(self.sections.iter().filter(|section| section.kind == 1).count() <= 1, "SEC-07");
        taken.retain(|range| !range.is_empty());
        taken.sort_by_key(|range| range.start);
        findings.hold(taken.windows(2).all(|pair| pair[0].end <= pair[1].start), "SEC-05");
    }
}
