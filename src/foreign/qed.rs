//! QED images: two levels of tables lead from an offset of the disk to a cluster of the file.

use super::Foreign;
use super::pages::{Page, Pages};
use crate::device::{BlockDevice, Extent, ExtentKind, Place};
use crate::error::{Error, Result};
use crate::format::{Flaw, Parent, ParentFormat, QedHeader};
use crate::limits::PAGE_SIZE;
use crate::storage::Storage;
use crate::switch::require;
use crate::sync::{Arc, OnceLock};
use crate::violation::Violation;
use std::ops::Range;

/// Entry of a table: no cluster, so that the backing file shows, or zeros.
const UNALLOCATED: u64 = 0;
/// Entry of an L2 table: zeros, whatever lies below.
const ZEROS: u64 = 1;
/// Bytes of an entry.
const ENTRY: u64 = 8;

/// What a QED image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QedFacts {
    /// Its header.
    pub header: QedHeader,
    /// The name of its backing file, if it has one.
    pub backing: Option<String>,
}

/// A QED image, open for reading.
///
/// Nothing of it is taken on trust: an entry of a table that leads out of the file fails the requests that need it, and
/// no others. That holds for an image that needs a check too, which is what is left when its writer was killed.
#[derive(Debug)]
pub struct Qed {
    storage: Arc<dyn Storage>,
    facts: QedFacts,
    /// Bytes of the file.
    length: u64,
    pages: Pages,
    below: OnceLock<Arc<dyn BlockDevice>>,
}

/// Who holds a stretch of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// The image does not: the backing file, or nobody.
    Below,
    /// Nobody needs to: it is zeros.
    Zeros,
    /// The file, from this offset on.
    At(u64),
}

impl Qed {
    /// What the image in `storage` says of itself. Reads no table.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Unsupported`] for what QED-01 to QED-06 forbid, or the host's.
    pub fn read_facts(storage: &dyn Storage) -> Result<QedFacts> {
        let mut bytes = [0; QedHeader::BYTES];
        storage.read_at(&mut bytes, 0)?;
        let in_header = |flaw: Flaw| flaw.into_error(storage.name(), 0);
        let header = QedHeader::decode(&bytes, storage.size()?).map_err(in_header)?;
        let backing = match &header.backing_name {
            None => None,
            Some(place) => {
                let mut name = vec![0; (place.end - place.start) as usize];
                storage.read_at(&mut name, place.start)?;
                Some(QedHeader::decode_name(&name).map_err(in_header)?)
            }
        };
        Ok(QedFacts { header, backing })
    }

    /// Opens the image in `storage`, with at most about `cache_bytes` of its tables in memory.
    ///
    /// # Errors
    /// As [`read_facts`](Self::read_facts).
    pub fn open(storage: Arc<dyn Storage>, cache_bytes: u64) -> Result<Qed> {
        let facts = Qed::read_facts(&*storage)?;
        let (length, pages) = (storage.size()?, Pages::new(cache_bytes));
        Ok(Qed { storage, facts, length, pages, below: OnceLock::new() })
    }

    /// Who holds the disk from `offset` on, and up to where, `end` at most, that is so: as far as one page of a table
    /// tells.
    fn run(&self, offset: u64, end: u64) -> Result<(Held, u64)> {
        if offset >= end {
            return Ok((Held::Below, end));
        }
        let header = &self.facts.header;
        let (cluster, reach) = (header.cluster_size, header.table_reach());
        let tables = self.entries(header.l1_table, offset / reach)?;
        let table = tables.first();
        if table == UNALLOCATED {
            let stop = (offset / reach + tables.count(|_| UNALLOCATED)) * reach;
            return Ok((Held::Below, stop.min(end)));
        }
        self.check_place(table, header.table_bytes(), tables.at)?;
        let clusters = self.entries(table, offset % reach / cluster)?;
        let (held, count) = match clusters.first() {
            UNALLOCATED => (Held::Below, clusters.count(|_| UNALLOCATED)),
            ZEROS => (Held::Zeros, clusters.count(|_| ZEROS)),
            first => {
                self.check_place(first, cluster, clusters.at)?;
                // As far as the clusters follow one another in the file too, and all of them lie within it.
                let room = self.length.saturating_sub(first) / cluster;
                let count = clusters.count(|number| first.saturating_add(number * cluster)).min(room.max(1));
                (Held::At(first.saturating_add(offset % cluster)), count)
            }
        };
        Ok((held, ((offset / cluster + count) * cluster).min(end)))
    }

    /// The entries of the table at `table` from number `index` on, as far as one page holds them.
    fn entries(&self, table: u64, index: u64) -> Result<Entries> {
        let at = table.saturating_add(index * ENTRY);
        let page = self.pages.get(&*self.storage, at - at % PAGE_SIZE)?;
        Ok(Entries { page, at })
    }

    /// QED-05, for what the entry at `entry` leads to.
    fn check_place(&self, offset: u64, bytes: u64, entry: u64) -> Result<()> {
        let checked = self.facts.header.check_place(offset, bytes, self.length);
        checked.map_err(|flaw| flaw.into_error(self.storage.name(), entry))
    }

    fn within(&self, offset: u64, length: u64) -> Result<Range<u64>> {
        let (name, size) = (self.storage.name(), self.size());
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(offset..end),
            _ => Err(Error::Invalid(format!(
                "{name}: {length} bytes at offset {offset} do not lie within its {size} bytes"
            ))),
        }
    }

    /// The device below, as far as there is one at `offset`, and where it ends. Zeros follow.
    fn below_at(&self, offset: u64) -> Option<(&dyn BlockDevice, u64)> {
        let below = self.below.get()?;
        Some((&**below, below.size())).filter(|(_, end)| offset < *end)
    }

    fn only_read(&self) -> Error {
        Error::Denied(format!("{}: a QED image is only read", self.storage.name()))
    }
}

/// Entries of a table, up to the end of a page.
struct Entries {
    page: Arc<Page>,
    /// Where in the file the first of them lies.
    at: u64,
}

impl Entries {
    fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let first = (self.at % PAGE_SIZE / ENTRY) as usize;
        self.page.as_chunks().0.iter().skip(first).map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn first(&self) -> u64 {
        self.iter().next().unwrap_or(UNALLOCATED)
    }

    /// How many of them, from the first on, are as `expected` by their number.
    fn count(&self, expected: impl Fn(u64) -> u64) -> u64 {
        (0..).zip(self.iter()).take_while(|(number, entry)| expected(*number) == *entry).count() as u64
    }
}

impl Foreign for Qed {
    fn format(&self) -> ParentFormat {
        ParentFormat::Qed
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    fn link(&self) -> Result<Option<Parent>> {
        let Some(hint) = self.facts.backing.clone() else { return Ok(None) };
        require(self.facts.header.backing_raw, Violation::QedBacking, |rule| {
            let why = format!("it does not say in which format its backing file {hint:?} is, and nothing is guessed");
            Error::refused(self.storage.name(), why, rule)
        })?;
        // It asks for no length: where the backing file ends zeros follow.
        Ok(Some(Parent { identity: None, format: ParentFormat::Raw, visible_length: 0, hint }))
    }

    fn set_below(&self, below: Arc<dyn BlockDevice>) {
        // Set already: that one stays.
        let _ = self.below.set(below);
    }
}

impl BlockDevice for Qed {
    fn size(&self) -> u64 {
        self.facts.header.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read_batch(&mut [(offset, buffer)])
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Err(self.only_read())
    }

    fn write_zeroes(&self, _range: Range<u64>, _unmap: bool) -> Result<()> {
        Err(self.only_read())
    }

    fn discard(&self, _range: Range<u64>) -> Result<()> {
        Err(self.only_read())
    }

    /// There is nothing to flush.
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        self.within(offset, end.saturating_sub(offset))?;
        let (held, end) = self.run(offset, end)?;
        let range = offset..end;
        let extent = Extent { range, kind: ExtentKind::Zero, present: true, depth: 0, place: None };
        match (held, self.below_at(offset)) {
            (Held::At(place), _) => {
                let place = Some(Place { file: self.storage.clone(), offset: place });
                Ok(Extent { kind: ExtentKind::Data, place, ..extent })
            }
            (Held::Zeros, _) => Ok(extent),
            (Held::Below, None) => Ok(Extent { present: false, ..extent }),
            (Held::Below, Some((below, size))) => {
                let extent = below.extent(offset, end.min(size))?;
                Ok(Extent { depth: extent.depth + 1, ..extent })
            }
        }
    }

    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        let (mut here, mut below) = (Vec::with_capacity(pieces.len()), Vec::new());
        for (offset, buffer) in pieces.iter_mut() {
            let range = self.within(*offset, buffer.len() as u64)?;
            let (mut at, mut rest) = (range.start, &mut **buffer);
            while !rest.is_empty() {
                let (held, end) = self.run(at, range.end)?;
                let (piece, after) = rest.split_at_mut((end - at) as usize);
                match (held, self.below_at(at)) {
                    (Held::At(place), _) => here.push((place, piece)),
                    (Held::Below, Some((_, size))) => {
                        let (seen, beyond) = piece.split_at_mut((size - at).min(end - at) as usize);
                        beyond.fill(0);
                        below.push((at, seen));
                    }
                    (Held::Zeros | Held::Below, _) => piece.fill(0),
                }
                (at, rest) = (end, after);
            }
        }
        self.storage.read_batch(&mut here)?;
        self.below.get().map_or(Ok(()), |device| device.read_batch(&mut below))
    }
}
