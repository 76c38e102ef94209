//! Runs vectors against this library.

use super::host::Seeded;
use super::made::content;
use super::maker::{facts, mark};
use super::script::play;
use super::sparse::Sparse;
use super::vector::{
    After, BitmapFacts, Case, Disk, File, Flag, Held, NoBitmap, PointFacts, Stretch, Trusted, Vector, Verdict,
};
use crate::chain::{Chain, ChainOptions, GivenParents, Layer};
use crate::device::BlockDevice;
use crate::error::Error;
use crate::format::{Header, Point, SectionKind};
use crate::image::{BitmapInfo, Image, OpenOptions, Trust};
use crate::storage::{Host, MemoryStorage, ReadOnly, Storage};
use crate::sync::Arc;
use crate::violation::Violation;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What does not agree, in one line.
pub type Mismatch = String;

/// Stretches up to this many bytes are read as a whole, of longer ones the ends and what is not zero.
const WHOLE: u64 = 1 << 20;
const END: u64 = 4096;

/// Runs every case of `vector`.
///
/// # Errors
/// The first thing that is not as the vector says.
pub fn run(vector: &Vector) -> Result<(), Mismatch> {
    for (number, case) in vector.cases.iter().enumerate() {
        run_case(vector, case).map_err(|error| format!("{}, case {}: {error}", vector.name, number + 1))?;
    }
    Ok(())
}

/// The files that `case` of `vector` leaves, by their names.
///
/// # Errors
/// What of its `then` cannot be done.
pub fn outcome(vector: &Vector, case: &Case) -> Result<BTreeMap<String, Sparse>, Mismatch> {
    played(vector, case)?.contents().map_err(|error| error.to_string())
}

fn played(vector: &Vector, case: &Case) -> Result<Files, Mismatch> {
    let mut files = Files::of(vector, true);
    play(&mut files, case, vector.flags.contains(&Flag::Live))?;
    Ok(files)
}

/// The files of a vector while a case runs: each can be opened again, as others left it.
pub(super) struct Files {
    storages: BTreeMap<String, Arc<dyn Storage>>,
    /// One for all processes: what one of them drew no other one draws.
    host: Arc<dyn Host>,
}

impl Files {
    /// Files that take no writes unless `write`: whatever only reads must not try to.
    fn of(vector: &Vector, write: bool) -> Files {
        let storage = |file: &File| -> Arc<dyn Storage> {
            let storage = stored(&file.name, &file.bytes);
            if write { Arc::new(storage) } else { Arc::new(ReadOnly(storage)) }
        };
        let storages = vector.files.iter().map(|file| (file.name.clone(), storage(file))).collect();
        Files { storages, host: Arc::new(Seeded::new("whoever runs the vectors")) }
    }

    pub(super) fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// All the bytes of all files.
    pub(super) fn contents(&self) -> Result<BTreeMap<String, Sparse>, Error> {
        self.storages.iter().map(|(name, storage)| Ok((name.clone(), content(&**storage)?))).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.storages.contains_key(name)
    }

    /// A new, empty file.
    pub(super) fn add(&mut self, name: &str) -> Arc<dyn Storage> {
        let storage = Arc::new(MemoryStorage::new(name));
        self.storages.insert(name.into(), storage.clone());
        storage
    }

    pub(super) fn open(&self, name: &str) -> Result<Arc<dyn Storage>, Error> {
        let missing = || Error::Denied(format!("{name}: not among the files of the vector"));
        self.storages.get(name).cloned().ok_or_else(missing)
    }

    /// `top` on `parents`, from the upper one down.
    pub(super) fn chain(&self, top: &str, parents: &[String], options: &ChainOptions) -> Result<Chain, Error> {
        Chain::open(self.open(top)?, self.host.clone(), &self.policy(parents)?, options)
    }

    fn policy(&self, parents: &[String]) -> Result<GivenParents, Error> {
        Ok(GivenParents::new(parents.iter().map(|name| self.open(name)).collect::<Result<Vec<_>, _>>()?))
    }

    /// What `case` opens, as it opens it.
    pub(super) fn case(&self, case: &Case, options: ChainOptions) -> Result<Chain, Error> {
        let options = ChainOptions {
            depth: case.depth.unwrap_or(options.depth),
            trust_links: case.trust_links,
            ignore_marks: case.ignore_marks,
            ..options
        };
        let chain = match &case.volume {
            _ if case.raw => Chain::open_raw(self.open(&case.open)?, self.host.clone(), &options),
            Some(volume) => {
                let (file, volume) = (self.open(&case.open)?, self.open(volume)?);
                Chain::open_sidecar(file, volume, self.host.clone(), &self.policy(&case.parents)?, &options)
            }
            None => self.chain(&case.open, &case.parents, &options),
        }?;
        if let Some(beside) = &case.beside {
            let (image, how) = (chain.image(0)?, OpenOptions { write: options.write, ..OpenOptions::default() });
            image.attach(Arc::new(Image::open_beside(self.open(beside)?, image, self.host.clone(), &how)?))?;
        }
        Ok(chain)
    }
}

fn stored(name: &str, bytes: &Sparse) -> MemoryStorage {
    let storage = MemoryStorage::new(name);
    for (at, piece) in bytes.pieces() {
        let piece = &piece[..piece.len().min(bytes.len().saturating_sub(at) as usize)];
        storage.write_at(piece, at).expect("memory takes every write");
    }
    storage.set_size(bytes.len()).expect("memory takes every size");
    storage
}

fn run_case(vector: &Vector, case: &Case) -> Result<(), Mismatch> {
    let files = Files::of(vector, case.write);
    let options = ChainOptions { write: case.write, ..ChainOptions::default() };
    let Some(chain) = judge(&files, case, options)? else { return Ok(()) };
    case.disk.as_ref().ok_or("the vector does not say what is read")?;
    if case.then.is_empty() {
        return Ok(());
    }
    let left = played(vector, case)?;
    if let Some(after) = &case.after {
        let before = top(&chain)?.header();
        let again = left.case(case, ChainOptions::default());
        let again = again.map_err(|error| format!("does not open afterwards: {error}"))?;
        check_after(&again, after, Some(&before)).map_err(|error| format!("afterwards: {error}"))?;
        if top(&again)?.header().sequence <= before.sequence {
            return Err("the sequence number did not rise".into());
        }
    }
    case.finally.iter().try_for_each(|last| {
        run_last(vector, &left, last).map_err(|error| format!("finally, {} {:?}: {error}", last.open, last.parents))
    })
}

/// An open of what is left in the end.
fn run_last(vector: &Vector, left: &Files, case: &Case) -> Result<(), Mismatch> {
    let Some(chain) = judge(left, case, ChainOptions::default())? else { return Ok(()) };
    let Some(after) = &case.after else { return Ok(()) };
    // A file that was made meanwhile had no header before.
    let before = vector.files.iter().find(|file| file.name == case.open);
    let before = before.map(|file| Image::read_header(&stored(&file.name, &file.bytes)).map_err(|e| e.to_string()));
    check_after(&chain, after, before.transpose()?.as_ref())
}

/// Opens what `case` says, which must end as it says: `None` if it is rightly refused.
fn judge(files: &Files, case: &Case, options: ChainOptions) -> Result<Option<Chain>, Mismatch> {
    let refused = !matches!(case.result, Verdict::Valid | Verdict::Damaged);
    let chain = match files.case(case, options) {
        Err(error) if refused => return check_refusal(&error, case).map(|()| None),
        Err(error) => return Err(format!("does not open: {error}")),
        Ok(_) if refused => return Err(format!("opens, and breaks {}", case.broken.join(" or "))),
        Ok(chain) => chain,
    };
    if let Some(expected) = &case.header {
        same("the header", &facts(&top(&chain)?.header()), expected)?;
    }
    if let Some(disk) = &case.disk {
        check_disk(&chain, disk, &case.broken)?;
    }
    if !case.raw {
        check_bitmaps(top(&chain)?, case)?;
    }
    check_findings(&chain, case)?;
    Ok(Some(chain))
}

fn top(chain: &Chain) -> Result<&Arc<Image>, Mismatch> {
    chain.image(0).map_err(|error| error.to_string())
}

fn check_refusal(error: &Error, case: &Case) -> Result<(), Mismatch> {
    let verdict = match error {
        Error::Corrupt { .. } => Verdict::Invalid,
        Error::Unsupported { .. } => Verdict::Unsupported,
        Error::Refused { .. } | Error::Denied(_) => Verdict::Refused,
        _ => return Err(format!("fails for another reason: {error}")),
    };
    if verdict != case.result {
        return Err(format!("is {verdict:?} instead of {:?}: {error}", case.result));
    }
    // A rule about what a caller may ask for is no violation of a file's.
    let of_files: BTreeSet<&str> = Violation::ALL.iter().map(|rule| rule.id()).collect();
    let named = match error.violation() {
        Some(rule) => case.broken.iter().any(|id| id == rule.id()),
        None => !case.broken.iter().any(|id| of_files.contains(id.as_str())),
    };
    if named { Ok(()) } else { Err(format!("breaks {}, but: {error}", case.broken.join(" or "))) }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), Mismatch> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?} instead of {expected:?}")) }
}

fn check_disk(chain: &Chain, disk: &Disk, broken: &[String]) -> Result<(), Mismatch> {
    same("the size", &chain.size(), &disk.size)?;
    let extents = disk.extents.as_deref().unwrap_or_default();
    for extent in extents {
        let range = extent.offset..extent.offset + extent.length;
        if extent.held == Held::Unreadable {
            check_unreadable(chain, &range, broken)?;
        } else {
            check_held(top(chain)?, extent)?;
            probes(&range, &disk.bytes).iter().try_for_each(|probe| check_bytes(chain, probe, &disk.bytes))?;
        }
    }
    // Across all extents at once.
    if disk.size <= WHOLE && extents.iter().all(|extent| extent.held != Held::Unreadable) {
        check_bytes(chain, &(0..disk.size), &disk.bytes)?;
    }
    Ok(())
}

/// The ranges to read of a stretch.
fn probes(range: &Range<u64>, bytes: &Sparse) -> Vec<Range<u64>> {
    if range.end - range.start <= WHOLE {
        return vec![range.clone()];
    }
    let mut probes = vec![range.start..range.start + END, range.end - END..range.end];
    for (at, piece) in bytes.pieces() {
        let probe = at.max(range.start)..(at + piece.len() as u64).min(range.end);
        if probe.start < probe.end {
            probes.push(probe);
        }
    }
    probes
}

fn check_bytes(chain: &Chain, range: &Range<u64>, bytes: &Sparse) -> Result<(), Mismatch> {
    let mut found = vec![0xaa; (range.end - range.start) as usize];
    chain.read_at(&mut found, range.start).map_err(|error| format!("bytes {range:?} cannot be read: {error}"))?;
    let expected = bytes.read(range.start, found.len());
    match found.iter().zip(&expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(at) => Err(format!("byte {} is {:#x} instead of {:#x}", range.start + at as u64, found[at], expected[at])),
    }
}

fn check_unreadable(chain: &Chain, range: &Range<u64>, broken: &[String]) -> Result<(), Mismatch> {
    let all = range.start..range.end.min(range.start + WHOLE);
    for part in [range.start..range.start + 1, range.end - 1..range.end, all] {
        let mut bytes = vec![0; (part.end - part.start) as usize];
        match chain.read_at(&mut bytes, part.start) {
            Err(error) if error.violation().is_some_and(|rule| broken.iter().any(|id| id == rule.id())) => {}
            Err(error) => return Err(format!("bytes {part:?} fail for another reason: {error}")),
            Ok(()) => return Err(format!("bytes {part:?} are read, though nobody knows what they are")),
        }
    }
    Ok(())
}

/// Whether the image itself holds the stretch, and not a byte more or less than that.
fn check_held(image: &Image, extent: &Stretch) -> Result<(), Mismatch> {
    let here = extent.held == Held::Here;
    let (mut at, end) = (extent.offset, extent.offset + extent.length);
    while at < end {
        let (found, next) =
            image.local_run(at, end).map_err(|error| format!("nobody knows who holds {at}: {error}"))?;
        if found != here || next <= at {
            return Err(format!("byte {at} is held here: {found} instead of {here}"));
        }
        at = next;
    }
    Ok(())
}

/// The bitmaps, what is none, and the backup point are as the case says; the order in which they are told of is free.
fn check_bitmaps(image: &Image, case: &Case) -> Result<(), Mismatch> {
    let (mut bitmaps, mut none) = (BTreeSet::new(), Vec::new());
    for BitmapInfo { name, kind, state, since, granularity, trust, broken } in image.bitmaps() {
        if let Some(rule) = broken {
            none.push(NoBitmap { name, broken: rule.id().into() });
            continue;
        }
        let trust = match trust {
            Trust::Valid => Trusted::Valid,
            Trust::MissedWrites => Trusted::MissedWrites,
            Trust::Stale => Trusted::Stale,
        };
        let dirty = dirty(image, &name).map_err(|error| format!("the bitmap {name:?}: {error}"))?;
        let (state, since, sync) = (state.to_string(), since.to_string(), kind == SectionKind::Sync);
        bitmaps.insert(BitmapFacts { name, sync, state, granularity, since, trust, dirty });
    }
    same("what is told of bitmaps", &bitmaps, &case.bitmaps.iter().cloned().collect())?;
    let mut expected = case.no_bitmaps.clone();
    none.sort();
    expected.sort();
    same("what is no bitmap", &none, &expected)?;
    let point = image.header().points.first().copied();
    let point =
        point.map(|Point { source, point }| PointFacts { source: source.to_string(), point: point.to_string() });
    same("the backup point", &point, &case.point)
}

/// The stretches that the bitmap `name` has dirty.
fn dirty(image: &Image, name: &str) -> Result<Vec<(u64, u64)>, Error> {
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

/// A check of the layers finds what the case says, and nothing else. A foreign image is not checked.
fn check_findings(chain: &Chain, case: &Case) -> Result<(), Mismatch> {
    let mut found = BTreeSet::new();
    for layer in &chain.layers {
        if let Layer::Lvd(image) = layer {
            let report = image.check().map_err(|error| format!("cannot be checked: {error}"))?;
            found.extend(report.findings.iter().map(|finding| finding.violation.id().to_string()));
        }
    }
    let checked = case.broken.iter().filter(|id| *id == Violation::SealedSector.id());
    same("what a check finds", &found, &checked.cloned().collect())
}

/// The bytes that `pattern`, in hexadecimal digits, makes when it is repeated.
pub(super) fn repeat(pattern: &str, length: u64) -> Result<Vec<u8>, Mismatch> {
    let digit = |at: usize| pattern.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = (0..pattern.len()).step_by(2).map(digit).collect();
    match bytes {
        Some(bytes) if !bytes.is_empty() => Ok(bytes.into_iter().cycle().take(length as usize).collect()),
        _ => Err(format!("{pattern:?} is no pattern")),
    }
}

/// What `after` says of a file whose header was `before`.
fn check_after(chain: &Chain, after: &After, before: Option<&Header>) -> Result<(), Mismatch> {
    let header = top(chain)?.header();
    if let Some(before) = before {
        same("the UUID", &header.uuid, &before.uuid)?;
        said("whether the epoch is new", &(header.epoch != before.epoch), &after.new_epoch)?;
    }
    said("the state", &header.state.to_string(), &after.state)?;
    same("the optional features", &header.compat, &after.compat)?;
    let kept: Vec<(u16, u16, String)> = header
        .unknown
        .iter()
        .map(|record| (record.record_type, record.flags, super::sparse::hex(&record.payload)))
        .collect();
    same("what was kept of unknown records", &kept, &after.kept)?;
    same("the merge mark", &header.merge_mark.as_ref().map(mark), &after.merge_mark)?;
    let complete = header.allocation().is_none() && header.parent.is_none();
    said("whether it is complete", &complete, &after.complete.then_some(true))?;
    let visible = header.parent.as_ref().map_or(0, |parent| parent.visible_length);
    said("the visible length", &visible, &after.visible_length)?;
    after.disk.as_ref().map_or(Ok(()), |disk| check_disk(chain, disk, &[Violation::SealedSector.id().to_owned()]))
}

/// As [`same`], if the vector says anything.
fn said<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &Option<T>) -> Result<(), Mismatch> {
    expected.as_ref().map_or(Ok(()), |expected| same(what, found, expected))
}
