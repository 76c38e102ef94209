//! The records behind the fixed header: their bytes, and what they say.

use super::bitmap::{self, Point};
use super::flaw::{require, support};
use super::kinds::{Decision, HostFormat, ParentFormat, SectionKind};
use super::layout::{Bytes, OnDisk, on_disk};
use super::section::Section;
use super::{Flaw, Header, Uuid};
use crate::limits::MAX_HINT;
use crate::violation::Violation;

/// Flag of a record that whoever does not know its type must refuse the file.
pub(super) const REQUIRED: u16 = 1;
/// Flag of a parent that carries a UUID and an epoch.
const IDENTITY: u32 = 1;
/// Records begin on multiples of this.
const ALIGNMENT: usize = 8;

pub(super) const SECTION: u16 = 1;
pub(super) const PARENT: u16 = 2;
pub(super) const MERGE_MARK: u16 = 3;
pub(super) const COPY_MARK: u16 = 4;
pub(super) const HOST: u16 = 5;
pub(super) const BITMAP: u16 = 6;
pub(super) const POINT: u16 = 7;
pub(super) const GROUP_MARK: u16 = 8;
pub(super) const DECISION: u16 = 9;

on_disk! {
    /// What every record starts with.
    RecordHead, table "Record" {
        record_type: u16,
        flags: u16,
        length: u32,
    }
}

on_disk! {
    /// Where a bitmap section lies and what its bits speak of.
    SectionBody, table "Section" {
        id: Uuid,
        kind: u16,
        granularity_shift: u8,
        reserved: Bytes<5>,
        offset: u64,
        length: u64,
        covered: u64,
        reserved2: Bytes<8>,
    }
}

on_disk! {
    /// The link to the layer below; the hint follows it.
    ParentBody, table "Parent" {
        uuid: Uuid,
        epoch: Uuid,
        flags: u32,
        format: u32,
        visible_length: u64,
        hint_length: u32,
        reserved: Bytes<12>,
    }
}

on_disk! {
    /// Another file is being merged into this one.
    MergeMarkBody, table "Merge mark" {
        child_uuid: Uuid,
        child_epoch: Uuid,
        reserved: Bytes<16>,
    }
}

on_disk! {
    /// The file is not yet a copy of what it is to be.
    CopyMarkBody, table "Copy mark" {
        group: Uuid,
        reserved: Bytes<16>,
    }
}

on_disk! {
    /// The file that a sidecar serves.
    HostBody, table "Host" {
        format: u32,
        reserved: Bytes<4>,
        length: u64,
        former: Uuid,
    }
}

on_disk! {
    /// A group decides whether the disk has moved elsewhere.
    GroupMarkBody, table "Group mark" {
        group: Uuid,
        reserved: Bytes<16>,
    }
}

on_disk! {
    /// What a group has decided.
    DecisionBody, table "Decision" {
        decision: u32,
        reserved: Bytes<12>,
    }
}

/// Who a layer is, and which of its contents is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The layer's UUID.
    pub uuid: Uuid,
    /// The epoch that names the content.
    pub epoch: Uuid,
}

/// The link of a file to the layer below it. The file never makes anybody open it: a caller's policy does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Who the parent is; `None` for a parent that carries no identity.
    pub identity: Option<Identity>,
    /// How its bytes are to be read.
    pub format: ParentFormat,
    /// Bytes of the parent that are seen; zeros follow.
    pub visible_length: u64,
    /// Where it was when the link was made: a path, or whatever the policy understands.
    pub hint: String,
}

/// A child is being merged into this file, which only that child may have below it meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeMark {
    /// The child's UUID.
    pub child_uuid: Uuid,
    /// The epoch of this file that the child's link names.
    pub child_epoch: Uuid,
}

/// The file is not yet the copy that it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyMark {
    /// The group of copies that become valid together, nil if it is alone.
    pub group: Uuid,
}

/// A group decides whether the disk has moved to another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMark {
    /// The UUID of the group's file.
    pub group: Uuid,
}

/// The file that a sidecar serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRecord {
    /// How its bytes are to be read.
    pub format: HostFormat,
    /// Its length in bytes.
    pub length: u64,
    /// What the bitmaps are bound by: of a raw volume its fingerprint, of an image its epoch before the one at hand. Nil
    /// if there is none.
    pub former: Uuid,
}

/// A record whose type is not known, kept byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Its type.
    pub record_type: u16,
    /// Its flags.
    pub flags: u16,
    /// Its payload, without padding.
    pub payload: Vec<u8>,
}

/// Whether `record_type` is one of those above.
pub(super) fn known(record_type: u16) -> bool {
    (SECTION..=HOST).contains(&record_type) || (GROUP_MARK..=DECISION).contains(&record_type)
}

/// Reads the records of `bytes`, as many as `count`, into `header`.
pub(super) fn decode_records(mut bytes: &[u8], count: u32, header: &mut Header) -> Result<(), Flaw> {
    let mut last = 0;
    for _ in 0..count {
        let Some(Piece { head, payload, rest }) = split(bytes)? else { break };
        require(head.record_type >= last, Violation::RecordOrder)?;
        decode_record(head, payload, header)?;
        (last, bytes) = (head.record_type, rest);
    }
    // What follows those that are counted is no record, whatever it looks like.
    require(bytes.is_empty(), Violation::RecordWalk)?;
    header.admit_bitmaps();
    Ok(())
}

/// A record, and what follows its padding.
struct Piece<'a> {
    head: RecordHead,
    payload: &'a [u8],
    rest: &'a [u8],
}

/// The first record of `bytes`; `None` only if a test wants the walk unchecked and it leaves the header.
fn split(bytes: &[u8]) -> Result<Option<Piece<'_>>, Flaw> {
    let head = RecordHead::parse(bytes);
    let end = head.as_ref().and_then(|head| RecordHead::SIZE.checked_add(usize::try_from(head.length).ok()?));
    let next = end.and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
    let (Some(head), Some(end), Some(next)) = (head, end, next.filter(|&next| next <= bytes.len())) else {
        require(false, Violation::RecordWalk)?;
        return Ok(None);
    };
    require(bytes[end..next].iter().all(|&byte| byte == 0), Violation::RecordPadding)?;
    Ok(Some(Piece { head, payload: &bytes[RecordHead::SIZE..end], rest: &bytes[next..] }))
}

fn decode_record(head: RecordHead, payload: &[u8], header: &mut Header) -> Result<(), Flaw> {
    let required = head.flags & REQUIRED != 0;
    support(head.flags & !REQUIRED == 0, Violation::RecordFlags, || {
        format!("flags {:#x} of a record of type {}", head.flags, head.record_type)
    })?;
    match head.record_type {
        SECTION => {
            if let Some(section) = decode_section(payload, required)? {
                header.sections.push(section);
            }
        }
        PARENT => put(&mut header.parent, decode_parent(payload)?)?,
        MERGE_MARK => put(&mut header.merge_mark, decode_merge_mark(payload)?)?,
        COPY_MARK => put(&mut header.copy_mark, decode_copy_mark(payload)?)?,
        HOST => put(&mut header.host, decode_host(payload)?)?,
        GROUP_MARK => put(&mut header.group_mark, decode_group_mark(payload)?)?,
        DECISION => put(&mut header.decision, decode_decision(payload)?)?,
        POINT if !required && payload.len() == 32 => {
            header.points.extend(bitmap::decode_point(payload));
            return Ok(());
        }
        record_type => {
            support(!required, Violation::RequiredRecord, || format!("a record of type {record_type}"))?;
            header.unknown.push(RawRecord { record_type, flags: head.flags, payload: payload.to_vec() });
            return Ok(());
        }
    }
    let right = match head.record_type {
        // Judged with the section: it depends on the kind.
        SECTION => true,
        GROUP_MARK => !required,
        _ => required,
    };
    require(right, Violation::KnownRecordRequired)
}

/// Puts a record in its place, which can be taken once.
fn put<T>(place: &mut Option<T>, record: Option<T>) -> Result<(), Flaw> {
    require(place.is_none(), Violation::RecordCount)?;
    *place = record;
    Ok(())
}

/// Reads a structure that is all of `payload`; `None` only if a test wants its length unchecked.
fn whole<T: OnDisk>(payload: &[u8]) -> Result<Option<T>, Flaw> {
    require(payload.len() == T::SIZE, Violation::RecordLength)?;
    Ok(T::parse(payload))
}

fn decode_section(payload: &[u8], required: bool) -> Result<Option<Section>, Flaw> {
    let Some(body) = whole::<SectionBody>(payload)? else { return Ok(None) };
    require(body.reserved == Bytes::ZERO && body.reserved2 == Bytes::ZERO, Violation::RecordLength)?;
    Ok(Some(Section {
        id: body.id,
        kind: SectionKind::from_number(body.kind),
        granularity_shift: body.granularity_shift,
        required,
        offset: body.offset,
        length: body.length,
        covered: body.covered,
    }))
}

fn decode_parent(payload: &[u8]) -> Result<Option<Parent>, Flaw> {
    let (fixed, hint) = payload.split_at(payload.len().min(ParentBody::SIZE));
    let Some(body) = whole::<ParentBody>(fixed)? else { return Ok(None) };
    require(hint.len() as u64 == u64::from(body.hint_length), Violation::RecordLength)?;
    require(body.reserved == Bytes::ZERO, Violation::RecordLength)?;
    let format = ParentFormat::from_number(body.format);
    support(format.is_some(), Violation::ParentFormat, || format!("a parent of format {}", body.format))?;
    support(body.flags & !IDENTITY == 0, Violation::ParentFormat, || format!("parent flags {:#x}", body.flags))?;
    let identity = (body.flags & IDENTITY != 0).then_some(Identity { uuid: body.uuid, epoch: body.epoch });
    require(identity.is_some() || (body.uuid.is_nil() && body.epoch.is_nil()), Violation::ParentFormat)?;
    let text = std::str::from_utf8(hint);
    require(text.is_ok(), Violation::Hint)?;
    let format = format.unwrap_or(ParentFormat::Raw);
    let hint = text.map_or_else(|_| String::from_utf8_lossy(hint).into_owned(), str::to_owned);
    Ok(Some(Parent { identity, format, visible_length: body.visible_length, hint }))
}

fn decode_merge_mark(payload: &[u8]) -> Result<Option<MergeMark>, Flaw> {
    let Some(body) = whole::<MergeMarkBody>(payload)? else { return Ok(None) };
    require(body.reserved == Bytes::ZERO, Violation::RecordLength)?;
    Ok(Some(MergeMark { child_uuid: body.child_uuid, child_epoch: body.child_epoch }))
}

fn decode_copy_mark(payload: &[u8]) -> Result<Option<CopyMark>, Flaw> {
    let Some(body) = whole::<CopyMarkBody>(payload)? else { return Ok(None) };
    require(body.reserved == Bytes::ZERO, Violation::RecordLength)?;
    Ok(Some(CopyMark { group: body.group }))
}

fn decode_host(payload: &[u8]) -> Result<Option<HostRecord>, Flaw> {
    let Some(body) = whole::<HostBody>(payload)? else { return Ok(None) };
    require(body.reserved == Bytes::ZERO, Violation::RecordLength)?;
    let format = HostFormat::from_number(body.format);
    support(format.is_some(), Violation::HostFormat, || format!("a host of format {}", body.format))?;
    Ok(Some(HostRecord { format: format.unwrap_or(HostFormat::Raw), length: body.length, former: body.former }))
}

fn decode_group_mark(payload: &[u8]) -> Result<Option<GroupMark>, Flaw> {
    let Some(body) = whole::<GroupMarkBody>(payload)? else { return Ok(None) };
    require(body.reserved == Bytes::ZERO, Violation::RecordLength)?;
    Ok(Some(GroupMark { group: body.group }))
}

fn decode_decision(payload: &[u8]) -> Result<Option<Decision>, Flaw> {
    let Some(body) = whole::<DecisionBody>(payload)? else { return Ok(None) };
    require(body.reserved == Bytes::ZERO, Violation::RecordLength)?;
    let decision = Decision::from_number(body.decision);
    support(decision.is_some(), Violation::Decision, || format!("the decision {} of a group", body.decision))?;
    Ok(decision)
}

/// The records of `header` as bytes, and how many they are. Ascending by type, else in the order they stand in.
pub(super) fn encode_records(header: &Header) -> Result<(Vec<u8>, u32), Violation> {
    let mut records: Vec<RawRecord> = header.sections.iter().map(section_record).collect();
    records.extend(header.parent.iter().map(parent_record).collect::<Result<Vec<_>, _>>()?);
    records.extend(header.merge_mark.iter().map(|mark| {
        let reserved = Bytes::ZERO;
        let body = MergeMarkBody { child_uuid: mark.child_uuid, child_epoch: mark.child_epoch, reserved };
        RawRecord { record_type: MERGE_MARK, flags: REQUIRED, payload: body.to_bytes() }
    }));
    records.extend(header.copy_mark.iter().map(|mark| {
        let body = CopyMarkBody { group: mark.group, reserved: Bytes::ZERO };
        RawRecord { record_type: COPY_MARK, flags: REQUIRED, payload: body.to_bytes() }
    }));
    records.extend(header.host.iter().map(|host| {
        let (format, length) = (host.format.number(), host.length);
        let body = HostBody { format, reserved: Bytes::ZERO, length, former: host.former };
        RawRecord { record_type: HOST, flags: REQUIRED, payload: body.to_bytes() }
    }));
    records.extend(header.group_mark.iter().map(|mark| {
        let body = GroupMarkBody { group: mark.group, reserved: Bytes::ZERO };
        RawRecord { record_type: GROUP_MARK, flags: 0, payload: body.to_bytes() }
    }));
    records.extend(header.decision.iter().map(|decision| {
        let body = DecisionBody { decision: decision.number(), reserved: Bytes::ZERO };
        RawRecord { record_type: DECISION, flags: REQUIRED, payload: body.to_bytes() }
    }));
    for bitmap in &header.bitmaps {
        records.push(RawRecord { record_type: BITMAP, flags: 0, payload: bitmap::encode(bitmap)? });
    }
    let point = |point: &Point| RawRecord { record_type: POINT, flags: 0, payload: bitmap::encode_point(point) };
    records.extend(header.points.iter().map(point));
    records.extend(header.unknown.iter().cloned());
    records.sort_by_key(|record| record.record_type);

    let mut out = Vec::new();
    for record in &records {
        let length = u32::try_from(record.payload.len()).map_err(|_| Violation::HeaderLength)?;
        out.extend(RecordHead { record_type: record.record_type, flags: record.flags, length }.to_bytes());
        out.extend_from_slice(&record.payload);
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    }
    Ok((out, u32::try_from(records.len()).map_err(|_| Violation::HeaderLength)?))
}

fn section_record(section: &Section) -> RawRecord {
    let body = SectionBody {
        id: section.id,
        kind: section.kind.number(),
        granularity_shift: section.granularity_shift,
        reserved: Bytes::ZERO,
        offset: section.offset,
        length: section.length,
        covered: section.covered,
        reserved2: Bytes::ZERO,
    };
    let flags = if section.required { REQUIRED } else { 0 };
    RawRecord { record_type: SECTION, flags, payload: body.to_bytes() }
}

fn parent_record(parent: &Parent) -> Result<RawRecord, Violation> {
    let Identity { uuid, epoch } = parent.identity.unwrap_or(Identity { uuid: Uuid::NIL, epoch: Uuid::NIL });
    let body = ParentBody {
        uuid,
        epoch,
        flags: if parent.identity.is_some() { IDENTITY } else { 0 },
        format: parent.format.number(),
        visible_length: parent.visible_length,
        hint_length: u32::try_from(parent.hint.len()).map_err(|_| Violation::Hint)?,
        reserved: Bytes::ZERO,
    };
    let payload = [&body.to_bytes(), parent.hint.as_bytes()].concat();
    Ok(RawRecord { record_type: PARENT, flags: REQUIRED, payload })
}

impl Parent {
    /// Holds the link against its rules.
    pub(super) fn check(&self) -> Result<(), Flaw> {
        let named = self.identity.is_none_or(|identity| !identity.uuid.is_nil() && !identity.epoch.is_nil());
        require(named, Violation::ParentFormat)?;
        require(self.hint.len() <= MAX_HINT && !self.hint.contains('\0'), Violation::Hint)
    }
}

impl MergeMark {
    /// Holds the mark against its rule.
    pub(super) fn check(&self) -> Result<(), Flaw> {
        require(!self.child_uuid.is_nil() && !self.child_epoch.is_nil(), Violation::MergeMark)
    }
}
