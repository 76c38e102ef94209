//! Runs vectors against this library.

use super::host::Seeded;
use super::maker::{facts, mark};
use super::sparse::Sparse;
use super::vector::{After, Case, Disk, File, Held, Operation, Stretch, Vector, Verdict};
use crate::chain::{Chain, ChainOptions, GivenParents, Layer};
use crate::device::BlockDevice;
use crate::error::Error;
use crate::format::Header;
use crate::image::Image;
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

/// The files of a vector while a case runs: each can be opened again, as others left it.
struct Files(BTreeMap<String, Arc<dyn Storage>>);

impl Files {
    /// Files that take no writes unless `write`: whatever only reads must not try to.
    fn of(vector: &Vector, write: bool) -> Files {
        let storage = |file: &File| -> Arc<dyn Storage> {
            let storage = stored(&file.name, &file.bytes);
            if write { Arc::new(storage) } else { Arc::new(ReadOnly(storage)) }
        };
        Files(vector.files.iter().map(|file| (file.name.clone(), storage(file))).collect())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Storage>, Error> {
        let missing = || Error::Denied(format!("{name}: not among the files of the vector"));
        self.0.get(name).cloned().ok_or_else(missing)
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
    let opened = open(&files, case, case.write);
    let refused = !matches!(case.result, Verdict::Valid | Verdict::Damaged);
    let chain = match opened {
        Err(error) if refused => return check_refusal(&error, case),
        Err(error) => return Err(format!("does not open: {error}")),
        Ok(_) if refused => return Err(format!("opens, and breaks {}", case.broken.join(" or "))),
        Ok(chain) => chain,
    };
    let image = top(&chain)?;
    let before = image.header();
    if let Some(expected) = &case.header {
        same("the header", &facts(&before), expected)?;
    }
    let disk = case.disk.as_ref().ok_or("the vector does not say what is read")?;
    check_disk(image, disk, case)?;
    check_findings(&chain, case)?;
    if let Some(after) = &case.after {
        let files = Files::of(vector, true);
        change(&files, case)?;
        check_after(&files, case, after, &before)?;
    }
    Ok(())
}

fn open(files: &Files, case: &Case, write: bool) -> Result<Chain, Error> {
    let host: Arc<dyn Host> = Arc::new(Seeded::new("whoever runs the vectors"));
    let defaults = ChainOptions::default();
    let options = ChainOptions {
        write,
        depth: case.depth.unwrap_or(defaults.depth),
        trust_links: case.trust_links,
        ignore_marks: case.ignore_marks,
        ..defaults
    };
    let parents = case.parents.iter().map(|name| files.open(name)).collect::<Result<Vec<_>, _>>()?;
    let (file, policy) = (files.open(&case.open)?, GivenParents::new(parents));
    match &case.volume {
        Some(volume) => Chain::open_sidecar(file, files.open(volume)?, host, &policy, &options),
        None => Chain::open(file, host, &policy, &options),
    }
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

fn check_disk(image: &Image, disk: &Disk, case: &Case) -> Result<(), Mismatch> {
    same("the size", &image.size(), &disk.size)?;
    for extent in &disk.extents {
        let range = extent.offset..extent.offset + extent.length;
        if extent.held == Held::Unreadable {
            check_unreadable(image, &range, &case.broken)?;
        } else {
            check_held(image, extent)?;
            probes(&range, &disk.bytes).iter().try_for_each(|probe| check_bytes(image, probe, &disk.bytes))?;
        }
    }
    // Across all extents at once.
    if disk.size <= WHOLE && disk.extents.iter().all(|extent| extent.held != Held::Unreadable) {
        check_bytes(image, &(0..disk.size), &disk.bytes)?;
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

fn check_bytes(image: &Image, range: &Range<u64>, bytes: &Sparse) -> Result<(), Mismatch> {
    let mut found = vec![0xaa; (range.end - range.start) as usize];
    image.read_at(&mut found, range.start).map_err(|error| format!("bytes {range:?} cannot be read: {error}"))?;
    let expected = bytes.read(range.start, found.len());
    match found.iter().zip(&expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(at) => Err(format!("byte {} is {:#x} instead of {:#x}", range.start + at as u64, found[at], expected[at])),
    }
}

fn check_unreadable(image: &Image, range: &Range<u64>, broken: &[String]) -> Result<(), Mismatch> {
    let all = range.start..range.end.min(range.start + WHOLE);
    for part in [range.start..range.start + 1, range.end - 1..range.end, all] {
        let mut bytes = vec![0; (part.end - part.start) as usize];
        match image.read_at(&mut bytes, part.start) {
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

/// Opens for writing and does what the case asks for.
fn change(files: &Files, case: &Case) -> Result<(), Mismatch> {
    let failed = |operation: &Operation, error: Error| format!("{operation:?} fails: {error}");
    let chain = open(files, case, true).map_err(|error| format!("does not open for writing: {error}"))?;
    let image = top(&chain)?;
    for operation in &case.then {
        match operation {
            Operation::Write { offset, length, pattern } => image.write_at(&repeat(pattern, *length)?, *offset),
            Operation::Zero { offset, length } => image.write_zeroes(*offset..offset + length, true),
            Operation::Fill { offset, length } => image.fill(*offset..offset + length).map(drop),
            Operation::Resize { size } => image.resize(*size),
            Operation::Flush => image.flush(),
            Operation::Close => image.close(),
        }
        .map_err(|error| failed(operation, error))?;
    }
    Ok(())
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

fn check_after(files: &Files, case: &Case, after: &After, before: &Header) -> Result<(), Mismatch> {
    let chain = open(files, case, false).map_err(|error| format!("does not open afterwards: {error}"))?;
    let image = top(&chain)?;
    let header = image.header();
    same("the UUID afterwards", &header.uuid, &before.uuid)?;
    same("whether the epoch is new", &(header.epoch != before.epoch), &after.new_epoch)?;
    same("the state afterwards", &header.state.to_string(), &after.state)?;
    same("the optional features afterwards", &header.compat, &after.compat)?;
    let kept: Vec<(u16, u16, String)> = header
        .unknown
        .iter()
        .map(|record| (record.record_type, record.flags, super::sparse::hex(&record.payload)))
        .collect();
    same("what was kept of unknown records", &kept, &after.kept)?;
    same("the merge mark afterwards", &header.merge_mark.as_ref().map(mark), &after.merge_mark)?;
    if header.sequence <= before.sequence {
        return Err("the sequence number did not rise".into());
    }
    check_disk(image, &after.disk, case).map_err(|error| format!("afterwards: {error}"))
}
