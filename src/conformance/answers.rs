//! What this library answers, in the words of the vectors.

use super::words::{BitmapFacts, Facts, Held, Link, Mark, NoBitmap, PointFacts, Stretch, Trusted, Verdict};
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{Header, MergeMark, Point, Section, SectionKind};
use crate::image::{BitmapInfo, Image, Trust};
use crate::violation::Violation;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Range;

/// Blocks and clusters are this long or longer.
const SMALLEST_BLOCK: u64 = 4096;

/// How an open ends that fails with `error`. `None` if that is the host's matter, or the caller's.
pub fn verdict(error: &Error) -> Option<Verdict> {
    match error {
        Error::Corrupt { .. } => Some(Verdict::Invalid),
        Error::Unsupported { .. } => Some(Verdict::Unsupported),
        Error::Refused { .. } | Error::Denied(_) => Some(Verdict::Refused),
        _ => None,
    }
}

/// What `header` says.
pub fn facts(header: &Header) -> Facts {
    Facts {
        kind: header.kind.to_string(),
        state: header.state.to_string(),
        sequence: header.sequence,
        uuid: header.uuid.to_string(),
        epoch: header.epoch.to_string(),
        virtual_size: header.virtual_size,
        data_offset: header.data_offset,
        complete: header.complete(),
        granule: header.allocation().map(Section::granule),
        parent: header.parent.as_ref().map(|parent| Link {
            format: parent.format.to_string(),
            uuid: parent.identity.map(|identity| identity.uuid.to_string()),
            epoch: parent.identity.map(|identity| identity.epoch.to_string()),
            visible_length: parent.visible_length,
            hint: parent.hint.clone(),
        }),
        merge_mark: header.merge_mark.as_ref().map(mark),
        copy_mark: header.copy_mark.map(|mark| mark.group.to_string()),
        group_mark: header.group_mark.map(|mark| mark.group.to_string()),
    }
}

/// `bytes` in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The records of unknown type: type, flags, payload in hexadecimal digits.
pub fn kept(header: &Header) -> Vec<(u16, u16, String)> {
    header.unknown.iter().map(|record| (record.record_type, record.flags, hex(&record.payload))).collect()
}

/// What a merge mark says.
pub fn mark(mark: &MergeMark) -> Mark {
    Mark { child_uuid: mark.child_uuid.to_string(), child_epoch: mark.child_epoch.to_string() }
}

/// What is told of bitmaps.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The bitmaps.
    pub bitmaps: Vec<BitmapFacts>,
    /// The records that look like one and are none.
    pub no_bitmaps: Vec<NoBitmap>,
    /// The backup point that counts.
    pub point: Option<PointFacts>,
}

/// What is told of the bitmaps of `image`.
///
/// # Errors
/// The host's.
pub fn told(image: &Image) -> Result<Told> {
    let mut told = Told::default();
    for BitmapInfo { name, kind, state, since, granularity, trust, broken } in image.bitmaps() {
        if let Some(rule) = broken {
            told.no_bitmaps.push(NoBitmap { name, broken: rule.id().into() });
            continue;
        }
        let trust = match trust {
            Trust::Valid => Trusted::Valid,
            Trust::MissedWrites => Trusted::MissedWrites,
            Trust::Stale => Trusted::Stale,
        };
        let dirty = dirty(image, &name)?;
        let (state, since, sync) = (state.to_string(), since.to_string(), kind == SectionKind::Sync);
        told.bitmaps.push(BitmapFacts { name, sync, state, granularity, since, trust, dirty });
    }
    let point = image.header().points.first().copied();
    told.point =
        point.map(|Point { source, point }| PointFacts { source: source.to_string(), point: point.to_string() });
    Ok(told)
}

/// The stretches that the bitmap `name` has dirty.
fn dirty(image: &Image, name: &str) -> Result<Vec<(u64, u64)>> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < image.size() {
        let (dirty, end) = image.bitmap_run(name, at, image.size())?;
        match found.last_mut() {
            Some((start, length)) if dirty && *start + *length == at => *length = end - *start,
            _ if dirty => found.push((at, end - at)),
            _ => {}
        }
        at = end;
    }
    Ok(found)
}

/// Who holds what of the disk, all of it in order.
///
/// # Errors
/// The host's.
pub fn extents(chain: &Chain) -> Result<Vec<Stretch>> {
    let (size, mut at) = (chain.size(), 0);
    let mut found: Vec<Stretch> = Vec::new();
    while at < size {
        let (held, end) = held(chain, at..size)?;
        match found.last_mut() {
            Some(last) if last.held == held => last.length = end - last.offset,
            _ => found.push(Stretch { offset: at, length: end - at, held }),
        }
        at = end;
    }
    Ok(found)
}

/// Who holds the first bytes of `range`, and where those end.
fn held(chain: &Chain, range: Range<u64>) -> Result<(Held, u64)> {
    // What cannot be read goes on to the end of a block, at least.
    let unreadable = |error: Error, block: u64| match error.violation() {
        Some(_) => Ok((Held::Unreadable, ((range.start / block + 1) * block).min(range.end))),
        None => Err(error),
    };
    let Ok(image) = chain.image(0) else { return Ok((Held::Here, range.end)) };
    let block = image.header().allocation().map_or(SMALLEST_BLOCK, Section::granule);
    match image.local_run(range.start, range.end) {
        Ok((true, end)) => Ok((Held::Here, end)),
        Ok((false, end)) => match chain.extent(range.start, end) {
            Ok(extent) => Ok((Held::Below, extent.range.end)),
            Err(error) => unreadable(error, SMALLEST_BLOCK),
        },
        Err(error) => unreadable(error, block),
    }
}

/// The rules that the files of all layers of `chain` break.
///
/// # Errors
/// The host's.
pub fn findings(chain: &Chain) -> Result<BTreeSet<Violation>> {
    let images = (0..chain.layers.len()).filter_map(|layer| chain.image(layer).ok());
    let reports: Vec<_> = images.map(|image| image.check()).collect::<Result<_>>()?;
    Ok(reports.iter().flat_map(|report| &report.findings).map(|finding| finding.violation).collect())
}
