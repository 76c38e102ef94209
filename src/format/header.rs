//! The header: its bytes, and what they say.

use super::bitmap::{Bitmap, Point};
use super::flaw::{require, support};
use super::kinds::{Decision, Kind, SectionKind, State};
use super::layout::{Bytes, OnDisk, on_disk};
use super::record::{self, CopyMark, GroupMark, HostRecord, MergeMark, Parent, RawRecord};
use super::rules::IN_GROUP;
use super::section::Section;
use super::slots::in_full;
use super::{Flaw, Uuid};
use crate::limits::{PAGE_SIZE, SLOT_SIZE};
use crate::violation::Violation;
use crate::zeros::is_zero;
use std::ops::Range;

const MAGIC: [u8; 8] = *b"\x89LVD\r\n\x1a\n";
const VERSION: u32 = 1;
/// Where the checksum lies, which is zero while it is computed.
const CHECKSUM: Range<usize> = 16..20;
/// Header lengths are multiples of this.
const ALIGNMENT: usize = 8;

on_disk! {
    /// What a header slot starts with; the records follow.
    FixedHeader, table "Header" {
        magic: Bytes<8>,
        version: u32,
        header_length: u32,
        checksum: u32,
        kind: u16,
        state: u16,
        sequence: u64,
        uuid: Uuid,
        epoch: Uuid,
        virtual_size: u64,
        data_offset: u64,
        incompat: u64,
        ro_compat: u64,
        compat: u64,
        record_count: u32,
        reserved: Bytes<20>,
    }
}

/// What a header slot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the file is.
    pub kind: Kind,
    /// Whether a session was ended.
    pub state: State,
    /// Rises by one with every new header; the highest valid one counts.
    pub sequence: u64,
    /// Who the file is, for life.
    pub uuid: Uuid,
    /// Which content it has.
    pub epoch: Uuid,
    /// The disk's size in bytes.
    pub virtual_size: u64,
    /// Where the disk's first byte lies in the file.
    pub data_offset: u64,
    /// Features without which the file cannot be read.
    pub incompat: u64,
    /// Features without which the file cannot be written.
    pub ro_compat: u64,
    /// Features that others need not know.
    pub compat: u64,
    /// The bitmap sections, in the order of their records.
    pub sections: Vec<Section>,
    /// The layer below.
    pub parent: Option<Parent>,
    /// A merge into this file is going on.
    pub merge_mark: Option<MergeMark>,
    /// The file is not yet a copy.
    pub copy_mark: Option<CopyMark>,
    /// The file that a sidecar serves.
    pub host: Option<HostRecord>,
    /// A group decides whether the disk has moved.
    pub group_mark: Option<GroupMark>,
    /// What the group has decided whose file this is.
    pub decision: Option<Decision>,
    /// The dirty bitmaps, in the order of their records.
    pub bitmaps: Vec<Bitmap>,
    /// The backup points; the first one counts.
    pub points: Vec<Point>,
    /// Records of unknown type, and bitmaps that are none, kept byte for byte.
    pub unknown: Vec<RawRecord>,
}

/// What one header slot turned out to be.
pub(super) enum Slot<'a> {
    /// Nothing: all zeros.
    Empty,
    /// Not written in full, or not a header: nothing it says counts.
    Torn(Flaw),
    /// What somebody meant to write: from here on a flaw refuses the file.
    Whole(Whole<'a>),
}

/// The bytes of a header whose checksum is right.
pub(super) struct Whole<'a> {
    fixed: FixedHeader,
    /// As many as the header's length says.
    pub(super) bytes: &'a [u8],
}

impl Header {
    /// A closed file without sections or records.
    pub fn new(kind: Kind, uuid: Uuid, epoch: Uuid, virtual_size: u64, data_offset: u64) -> Header {
        Header {
            kind,
            state: State::Closed,
            sequence: 1,
            uuid,
            epoch,
            virtual_size,
            data_offset,
            incompat: 0,
            ro_compat: 0,
            compat: 0,
            sections: Vec::new(),
            parent: None,
            merge_mark: None,
            copy_mark: None,
            host: None,
            group_mark: None,
            decision: None,
            bitmaps: Vec::new(),
            points: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// The bytes for a header slot, zeros up to a multiple of 4096. The rule it would break, if it does.
    pub fn encode(&self) -> Result<Vec<u8>, Violation> {
        self.validate().map_err(|flaw| flaw.violation)?;
        let (records, record_count) = record::encode_records(self)?;
        let length = FixedHeader::SIZE + records.len();
        let header_length = u32::try_from(length).map_err(|_| Violation::HeaderLength)?;
        if u64::from(header_length) > SLOT_SIZE {
            return Err(Violation::HeaderLength);
        }
        let fixed = FixedHeader {
            magic: Bytes(MAGIC),
            version: VERSION,
            header_length,
            checksum: 0,
            kind: self.kind.number(),
            state: self.state.number(),
            sequence: self.sequence,
            uuid: self.uuid,
            epoch: self.epoch,
            virtual_size: self.virtual_size,
            data_offset: self.data_offset,
            incompat: self.incompat,
            ro_compat: self.ro_compat,
            compat: self.compat,
            record_count,
            reserved: Bytes::ZERO,
        };
        let mut bytes = fixed.to_bytes();
        bytes.extend(records);
        let checksum = checksum(&bytes);
        bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE as usize), 0);
        Ok(bytes)
    }

    /// Reads a header slot, followed by zeros if it is shorter than one. What lies behind the header in it has
    /// no meaning.
    pub fn decode(slot: &[u8]) -> Result<Header, Flaw> {
        match Slot::read(&in_full(slot)) {
            Slot::Empty => Err(Flaw::corrupt(Violation::Magic)),
            Slot::Torn(flaw) => Err(flaw),
            Slot::Whole(whole) => whole.decode(),
        }
    }

    /// The section of `kind` that stands first.
    pub fn section(&self, kind: SectionKind) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    /// The section that says which blocks this layer holds; a file without one holds them all.
    pub fn allocation(&self) -> Option<&Section> {
        self.section(SectionKind::Allocation)
    }

    /// Whether the file holds the whole disk: no block of it lies elsewhere.
    pub fn complete(&self) -> bool {
        self.allocation().is_none() && self.parent.is_none()
    }

    /// Bytes of the disk that are present or absent together; a page in a complete image.
    pub fn granule(&self) -> u64 {
        self.allocation().map_or(PAGE_SIZE, Section::granule)
    }

    /// The bytes of an image's file that hold the disk; empty in any other file.
    pub fn data_range(&self) -> Range<u64> {
        match self.kind {
            Kind::Image => self.data_offset..self.data_offset.saturating_add(self.virtual_size),
            Kind::Sidecar | Kind::Group => 0..0,
        }
    }

    /// Puts the disk into a group, or out of it, with the feature bit that keeps writers off who know of no groups.
    pub fn set_group_mark(&mut self, mark: Option<GroupMark>) {
        self.ro_compat = self.ro_compat & !IN_GROUP | mark.map_or(0, |_| IN_GROUP);
        self.group_mark = mark;
    }

    /// Where an image's data area ends; 0 in any other file.
    pub fn data_end(&self) -> u64 {
        self.data_range().end
    }
}

impl Whole<'_> {
    /// Reads what the checksum vouches for.
    pub(super) fn decode(&self) -> Result<Header, Flaw> {
        let fixed = &self.fixed;
        support(fixed.version == VERSION, Violation::Version, || format!("version {}", fixed.version))?;
        let mut header = Header::new(Kind::Image, fixed.uuid, fixed.epoch, fixed.virtual_size, fixed.data_offset);
        header.sequence = fixed.sequence;
        (header.incompat, header.ro_compat, header.compat) = (fixed.incompat, fixed.ro_compat, fixed.compat);
        // First of all: such a feature may change what anything else means.
        header.check_features()?;
        let (kind, state) = (Kind::from_number(fixed.kind), State::from_number(fixed.state));
        support(kind.is_some(), Violation::Kind, || format!("a file of kind {}", fixed.kind))?;
        require(state.is_some(), Violation::State)?;
        require(fixed.reserved == Bytes::ZERO, Violation::HeaderReserved)?;
        header.kind = kind.unwrap_or(header.kind);
        header.state = state.unwrap_or(header.state);
        record::decode_records(&self.bytes[FixedHeader::SIZE..], fixed.record_count, &mut header)?;
        header.validate()?;
        Ok(header)
    }
}

impl Slot<'_> {
    /// Finds out what a slot is, of which at least [`header_length`] bytes are there. Magic, version, length and
    /// checksum keep their place and meaning in every version.
    pub(super) fn read(slot: &[u8]) -> Slot<'_> {
        if is_zero(slot) {
            return Slot::Empty;
        }
        let Some(fixed) = FixedHeader::parse(slot) else { return Slot::Empty };
        let newer = |flaw: Flaw| match fixed.version {
            VERSION => flaw,
            version => Flaw::unsupported(Violation::Version, format!("version {version}")),
        };
        if let Err(flaw) = require(fixed.magic == Bytes(MAGIC), Violation::Magic) {
            return Slot::Torn(flaw);
        }
        let length = fixed.header_length as usize;
        let fits = (FixedHeader::SIZE..=SLOT_SIZE as usize).contains(&length);
        if let Err(flaw) = require(fits && length.is_multiple_of(ALIGNMENT), Violation::HeaderLength) {
            return Slot::Torn(newer(flaw));
        }
        let bytes = &slot[..header_length(slot)];
        if let Err(flaw) = require(fixed.checksum == checksum(bytes), Violation::HeaderChecksum) {
            return Slot::Torn(newer(flaw));
        }
        Slot::Whole(Whole { fixed, bytes })
    }
}

/// How many bytes of a slot its header takes, as its first 128 bytes have it: at most all 65536 of them.
pub fn header_length(slot: &[u8]) -> usize {
    let length = FixedHeader::parse(slot).map_or(0, |fixed| fixed.header_length as usize);
    length.clamp(FixedHeader::SIZE, SLOT_SIZE as usize)
}

/// crc32c of a header whose own checksum counts as zero.
fn checksum(bytes: &[u8]) -> u32 {
    let (before, after) = (&bytes[..CHECKSUM.start], &bytes[CHECKSUM.end..]);
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after)
}

/// Makes the checksum of the header in `slot` right again, so that a changed field is what gets judged.
#[cfg(feature = "testing")]
pub fn fix_checksum(slot: &mut [u8]) {
    let Some(fixed) = FixedHeader::parse(slot) else { return };
    let length = (fixed.header_length as usize).clamp(FixedHeader::SIZE, slot.len());
    let checksum = checksum(&slot[..length]);
    slot[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}
