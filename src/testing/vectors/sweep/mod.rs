//! Sweeps: one structure after the other, each field at the illegal neighbours of its legal values.
//!
//! A vector is a row of a table: its name, its purpose, where in the structure what stands, and the rules that this
//! breaks. How the open ends follows from the rule.
//!
//! | module | structure |
//! |---|---|
//! | [`header`] | the fixed header, its checksum, the length of the file |
//! | [`slots`] | two slots, of which one or both are not right |
//! | [`records`] | heads, lengths, padding, order and fields of records |
//! | [`sections`] | records of sections, and sections together |
//! | [`sectors`] | sealed sectors |
//! | [`sidecars`] | sidecars with their volumes, and with their images |
//! | [`qed`] | the header and the tables of a QED image |
//! | [`chains`] | links, marks, cycles, and what is wrong further down |

mod chains;
mod header;
mod qed;
mod records;
mod sections;
mod sectors;
mod sidecars;
mod slots;

use super::dirty::{Bits, RECORDING, Tracked};
use super::draft::Draft;
use super::maker::{Maker, id};
use super::sparse::Sparse;
use super::vector::{Case, Role, Vector, Verdict};
use super::{IMAGE, broken};
use crate::format::{CopyMark, MergeMark, RawRecord};
use crate::violation::Violation as V;
use Value::{Bytes, Four, One, Two};
use Verdict::{Invalid, Refused, Unsupported};

pub(super) fn all() -> Vec<Vector> {
    [header::all, slots::all, records::all, sections::all, sectors::all, sidecars::all, chains::all, qed::all]
        .map(|area| area())
        .concat()
}

/// The name of a raw parent.
const RAW: &str = "base.raw";
/// A record that version 1 does not know, and nobody needs to.
const UNKNOWN: u16 = 900;

/// What stands in a field.
#[derive(Debug, Clone, Copy)]
enum Value {
    One(u8),
    Two(u16),
    Four(u32),
    Eight(u64),
    Bytes(&'static [u8]),
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        match self {
            One(number) => vec![number],
            Two(number) => number.to_le_bytes().into(),
            Four(number) => number.to_le_bytes().into(),
            Value::Eight(number) => number.to_le_bytes().into(),
            Bytes(bytes) => bytes.into(),
        }
    }
}

/// Name, purpose, place, value, and the rules that may be named.
type Row = (&'static str, &'static str, usize, Value, &'static [V]);

/// What is done to a header.
type Change = fn(&mut Draft);

/// Name, what a header has, the rules that may be named, and how it comes to have it.
type Breach = (&'static str, &'static str, &'static [V], Change);

/// How an open ends that names `rule`: format.md, section 10. Of the rules with two answers it is the one for what the
/// header alone breaks, and for what is damaged.
fn answer(rule: V) -> Verdict {
    match rule {
        V::Version | V::IncompatibleFeature | V::Kind | V::RequiredRecord | V::RecordFlags | V::SectionKind => {
            Unsupported
        }
        V::HostFormat | V::QedFeature => Unsupported,
        V::Cycle | V::ParentMatches | V::Marked | V::Copying | V::SidecarOfImage => Refused,
        _ => Invalid,
    }
}

/// Says that the first case may as well be refused for one of `rules`.
fn or(vector: Vector, rules: &[V]) -> Vector {
    rules.iter().fold(vector, |vector, &rule| vector.or(rule))
}

/// An image both of whose slots hold what `change` made of its header.
fn spoilt(name: &str, purpose: &str, rules: &[V], maker: Maker, change: impl FnOnce(&mut Draft)) -> Vector {
    or(broken(name, purpose, rules[0], answer(rules[0]), maker, change), &rules[1..])
}

/// An overlay of eight blocks, one of which has data.
fn overlay() -> Maker {
    Maker::overlay("over", 32_768, 12).data(4096..4608)
}

/// The raw file below.
fn base() -> Sparse {
    Sparse::new(32_768)
}

/// An overlay over a raw file with a record of every type that an image can have. Those of the parent, the bitmap and
/// the unknown type are padded.
fn everything() -> Tracked {
    let mut maker = overlay().over_raw(&base(), "b", 0);
    maker.header.merge_mark = Some(MergeMark { child_uuid: id("child"), child_epoch: id("child's epoch") });
    maker.header.copy_mark = Some(CopyMark { group: id("group") });
    let point = [id("source").0, id("point").0].concat();
    let mut tracked = Tracked::new(maker).bitmap("n", RECORDING, Bits::dirty(12, &[1])).point(&point);
    tracked.finish();
    tracked.maker.header.unknown.push(RawRecord { record_type: UNKNOWN, flags: 0, payload: b"odd".to_vec() });
    tracked
}

/// A change of that image. Its parent is there and its marks are ignored: nothing else is wrong.
fn spoilt_among_all(name: &str, purpose: &str, rules: &[V], change: impl FnOnce(&mut Draft)) -> Vector {
    let maker = everything().maker;
    let mut vector = spoilt(name, purpose, rules, maker, change).file(RAW, Role::Parent, base());
    vector.cases[0].ignore_marks = true;
    vector
}

/// That image as it is.
fn untouched() -> Vector {
    let mut all = everything();
    Vector::new("rec-every_type", "A record of every type that an image can have, and of one that nobody knows.", &[])
        .also(&["REC-01", "REC-02", "REC-04", "REC-05", "REC-11", "REC-12", "REC-13"])
        .file(IMAGE, Role::Image, all.maker.finish())
        .file(RAW, Role::Parent, base())
        .case(Case { ignore_marks: true, ..all.opens(IMAGE) })
}
