//! Runs vectors against this library.

use super::host::Seeded;
use super::made::content;
use super::script::play;
use super::sparse::Sparse;
use super::vector::{After, Case, Disk, Facts, File, Flag, Held, Perhaps, Stretch, Vector, Verdict};
use crate::chain::Chain;
use crate::conformance::{Opening, Place, Told, facts, findings, kept, mark, open, repeat, told, verdict};
use crate::device::BlockDevice;
use crate::error::Error;
use crate::format::Header;
use crate::image::Image;
use crate::limits::SECTOR_SIZE;
use crate::storage::{Host, MemoryStorage, ReadOnly, Storage};
use crate::sync::{Arc, Mutex, lock};
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

fn played(vector: &Vector, case: &Case) -> Result<Files, Mismatch> {
    let files = Files::of(vector, true);
    play(&files, case, vector.flags.contains(&Flag::Live))?;
    Ok(files)
}

/// The files of a vector while a case runs: each can be opened again, as others left it.
#[derive(Debug)]
pub(super) struct Files {
    storages: Mutex<BTreeMap<String, Arc<dyn Storage>>>,
    /// One for all processes: what one of them drew no other one draws.
    host: Arc<dyn Host>,
}

impl Files {
    /// Files that take no writes unless `write`: whatever only reads must not try to.
    pub(super) fn of(vector: &Vector, write: bool) -> Files {
        let storage = |file: &File| -> Arc<dyn Storage> {
            let storage = stored(&file.name, &file.bytes);
            if write { Arc::new(storage) } else { Arc::new(ReadOnly(storage)) }
        };
        let storages = vector.files.iter().map(|file| (file.name.clone(), storage(file))).collect();
        Files { storages: Mutex::new(storages), host: Arc::new(Seeded::new("whoever runs the vectors")) }
    }

    /// All the bytes of all files.
    pub(super) fn contents(&self) -> Result<BTreeMap<String, Sparse>, Error> {
        let storages = lock(&self.storages);
        storages.iter().map(|(name, storage)| Ok((name.clone(), content(&**storage)?))).collect()
    }
}

impl Place for Files {
    fn open(&self, name: &str, _write: bool) -> Result<Arc<dyn Storage>, Error> {
        let missing = || Error::Denied(format!("{name}: not among the files of the vector"));
        lock(&self.storages).get(name).cloned().ok_or_else(missing)
    }

    fn has(&self, name: &str) -> bool {
        lock(&self.storages).contains_key(name)
    }

    fn add(&self, name: &str) -> Result<Arc<dyn Storage>, Error> {
        let storage = Arc::new(MemoryStorage::new(name));
        lock(&self.storages).insert(name.into(), storage.clone());
        Ok(storage)
    }

    fn host(&self) -> &Arc<dyn Host> {
        &self.host
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
    let Some(chain) = judge(&files, case)? else { return Ok(()) };
    case.disk.as_ref().ok_or("the vector does not say what is read")?;
    if case.then.is_empty() {
        return Ok(());
    }
    let left = played(vector, case)?;
    if let Some(after) = &case.after {
        let before = top(&chain)?.header();
        let again = open(&left, &Opening { write: false, ..case.opening() });
        let again = again.map_err(|error| format!("does not open afterwards: {error}"))?;
        check_after(&again, after, Some(&before)).map_err(|error| format!("afterwards: {error}"))?;
        // A process that was killed before it flushed need not have begun a session.
        let least = before.sequence + u64::from(after.perhaps.is_empty());
        if top(&again)?.header().sequence < least {
            return Err("the sequence number did not rise".into());
        }
    }
    case.finally.iter().try_for_each(|last| {
        run_last(vector, &left, last).map_err(|error| format!("finally, {} {:?}: {error}", last.open, last.parents))
    })
}

/// An open of what is left in the end.
fn run_last(vector: &Vector, left: &Files, case: &Case) -> Result<(), Mismatch> {
    let Some(chain) = judge(left, case)? else { return Ok(()) };
    let Some(after) = &case.after else { return Ok(()) };
    // A file that was made meanwhile had no header before.
    let before = vector.files.iter().find(|file| file.name == case.open);
    let before = before.map(|file| Image::read_header(&stored(&file.name, &file.bytes)).map_err(|e| e.to_string()));
    check_after(&chain, after, before.transpose()?.as_ref())
}

/// Opens what `case` says, which must end as it says: `None` if it is rightly refused.
fn judge(files: &Files, case: &Case) -> Result<Option<Chain>, Mismatch> {
    let refused = !matches!(case.result, Verdict::Valid | Verdict::Damaged);
    let chain = match open(files, &case.opening()) {
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
    let Some(verdict) = verdict(error) else { return Err(format!("fails for another reason: {error}")) };
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
    let Told { mut bitmaps, mut no_bitmaps, point } = told(image).map_err(|error| format!("the bitmaps: {error}"))?;
    let (mut expected, mut none) = (case.bitmaps.clone(), case.no_bitmaps.clone());
    bitmaps.sort();
    expected.sort();
    same("what is told of bitmaps", &bitmaps, &expected)?;
    no_bitmaps.sort();
    none.sort();
    same("what is no bitmap", &no_bitmaps, &none)?;
    same("the backup point", &point, &case.point)
}

/// A check of the layers finds what the case says, and nothing else. A foreign image is not checked.
fn check_findings(chain: &Chain, case: &Case) -> Result<(), Mismatch> {
    let found = findings(chain).map_err(|error| format!("cannot be checked: {error}"))?;
    let found: BTreeSet<String> = found.iter().map(|rule| rule.id().into()).collect();
    let checked = case.broken.iter().filter(|id| *id == Violation::SealedSector.id());
    same("what a check finds", &found, &checked.cloned().collect())
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
    same("what was kept of unknown records", &kept(&header), &after.kept)?;
    same("the merge mark", &header.merge_mark.as_ref().map(mark), &after.merge_mark)?;
    let Facts { copy_mark, group_mark, .. } = facts(&header);
    same("the copy mark", &copy_mark, &after.copy_mark)?;
    same("the group mark", &group_mark, &after.group_mark)?;
    let complete = header.allocation().is_none() && header.parent.is_none();
    said("whether it is complete", &complete, &after.complete.then_some(true))?;
    let visible = header.parent.as_ref().map_or(0, |parent| parent.visible_length);
    said("the visible length", &visible, &after.visible_length)?;
    let Some(disk) = &after.disk else { return Ok(()) };
    let mut disk = disk.clone();
    settle(chain, &mut disk, &after.perhaps)?;
    check_disk(chain, &disk, &[Violation::SealedSector.id().to_owned()])
}

/// Of each sector that `perhaps` touches, `disk` gets what is found there, if that is one of what may be.
fn settle(chain: &Chain, disk: &mut Disk, perhaps: &[Perhaps]) -> Result<(), Mismatch> {
    let touched = |write: &Perhaps| write.offset / SECTOR_SIZE..(write.offset + write.length).div_ceil(SECTOR_SIZE);
    let sectors: BTreeSet<u64> = perhaps.iter().flat_map(touched).collect();
    for sector in sectors {
        let start = sector * SECTOR_SIZE;
        let length = SECTOR_SIZE.min(disk.size - start) as usize;
        let mut found = vec![0; length];
        chain.read_at(&mut found, start).map_err(|error| format!("sector {sector} cannot be read: {error}"))?;
        let mut may_be = disk.bytes.read(start, length);
        let mut right = found == may_be;
        for write in perhaps {
            let bytes = repeat(&write.pattern, write.length).map_err(|error| error.to_string())?;
            for (byte, at) in bytes.iter().zip(write.offset..).filter(|(_, at)| at / SECTOR_SIZE == sector) {
                may_be[(at - start) as usize] = *byte;
            }
            right |= found == may_be;
        }
        if !right {
            return Err(format!("the sector at {start} is neither old nor new"));
        }
        disk.bytes.write(start, &found);
    }
    Ok(())
}

/// As [`same`], if the vector says anything.
fn said<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &Option<T>) -> Result<(), Mismatch> {
    expected.as_ref().map_or(Ok(()), |expected| same(what, found, expected))
}
