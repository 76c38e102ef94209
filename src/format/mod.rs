//! Bytes ↔ types: what lies in a file, by `spec/format.md`.
//!
//! Pure: no I/O, no state, no allocation that a file could make large. Bytes become a [`Header`] that keeps
//! every rule, once, here; what breaks one is a [`Flaw`]. Only this module knows binrw.
//!
//! | file | what of the specification |
//! |---|---|
//! | `layout` | declares a structure and its table in one place |
//! | `header`, `slots` | the header, and which of its two slots counts |
//! | `record`, `bitmap`, `section` | the records, the place and size of a section |
//! | `rules` | the rules that a header keeps as a whole |
//! | `seal` | the sealed sectors of a section |
//! | `kinds`, `uuid` | numbers with names, identities |
//! | `qed` | the header of a format of others (`spec/foreign.md`) |

mod bitmap;
mod flaw;
mod header;
mod kinds;
mod layout;
mod qed;
mod record;
mod rules;
mod seal;
mod section;
mod slots;
#[cfg(test)]
mod tests;
mod uuid;

pub use bitmap::{Bitmap, Point};
pub use flaw::Flaw;
#[cfg(feature = "testing")]
pub use header::fix_checksum;
pub use header::{Header, header_length};
pub use kinds::{BitmapState, Decision, HostFormat, Kind, ParentFormat, SectionKind, State};
pub use layout::{Field, Structure};
pub use qed::QedHeader;
pub use record::{CopyMark, GroupMark, HostRecord, Identity, MergeMark, Parent, RawRecord};
pub use seal::{BITS_PER_PAGE, BITS_PER_SECTOR, PAYLOAD_BYTES, SECTORS_PER_PAGE, SectorState, check_sector, seal};
pub use section::Section;
pub use slots::{Chosen, choose};
pub use uuid::Uuid;

use layout::OnDisk;

/// Every structure of the file with its fields, as the tables of `spec/format.md` list them.
pub fn structures() -> Vec<Structure> {
    vec![
        header::FixedHeader::structure(),
        record::RecordHead::structure(),
        record::SectionBody::structure(),
        record::ParentBody::structure(),
        record::MergeMarkBody::structure(),
        record::CopyMarkBody::structure(),
        record::HostBody::structure(),
        record::GroupMarkBody::structure(),
        record::DecisionBody::structure(),
        bitmap::BitmapBody::structure(),
        bitmap::PointBody::structure(),
        seal::SealedSector::structure(),
        qed::QedFixed::structure(),
    ]
}
