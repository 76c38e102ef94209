//! An export as a storage.

use super::link::Link;
use super::statuses::{Statuses, first_data};
use super::wire::{Ask, Asked};
use super::{Connector, Options};
use crate::error::{Error, Result};
use crate::nbd::proto::*;
use crate::nbd::socket::connect;
#[cfg(feature = "tls")]
use crate::nbd::tls::ClientTls;
use crate::nbd::{StartTls, Uri, UriTls};
use crate::storage::{LockMode, Storage};
use crate::sync::{Arc, Mutex, lock};
use std::fmt;
use std::ops::Range;

/// The metadata context that tells of holes.
const ALLOCATION: &str = "base:allocation";
/// Most bytes that one request zeroes: any server counts so far.
const MOST_ZEROES: u64 = 1 << 30;
/// Most bytes that one question about a metadata context is about.
pub(super) const MOST_STATUS: u64 = 1 << 30;

/// An export of a server, seen as a block device: it keeps its length, and what nobody wrote may be anything.
///
/// Requests of any number of threads are under way at once, on a few connections. When the server goes they wait for it
/// to come back, as [`Options::reconnect`] says, and are made again; changes that it may not have made durable are made
/// again before all others.
///
/// There are no locks across a network: whoever serves the export sees to it that one alone writes.
pub struct NbdStorage {
    link: Link,
    statuses: Statuses,
    /// Held by whoever reads, changes and writes back parts of the server's blocks.
    parts: Mutex<()>,
    write: bool,
}

impl NbdStorage {
    /// Opens the export that `uri` names.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such server or export; [`Error::Denied`] if it may not be written to, though
    /// `options` want it, or what is written could not be made durable; what loading certificates meets.
    pub fn open(uri: &Uri, options: Options) -> Result<NbdStorage> {
        let (connector, options) = reach(uri, options)?;
        NbdStorage::connect(uri.to_string(), uri.export.clone(), connector, options)
    }

    /// Opens `export` of the server that `connector` reaches. Errors call it `name`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn connect(name: String, export: String, connector: Connector, options: Options) -> Result<NbdStorage> {
        let write = options.write;
        let link = Link::open(name, (export, ALLOCATION.into()), connector, options)?;
        Ok(NbdStorage { link, statuses: Statuses::default(), parts: Mutex::new(()), write })
    }

    /// The range in whole blocks of the server.
    fn whole(&self, range: Range<u64>) -> Range<u64> {
        self.link.offer().whole(range)
    }

    /// Cuts `range` into what one request may read or write.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        split(range, u64::from(self.link.offer().maximum))
    }

    fn within(&self, range: &Range<u64>) -> Result<()> {
        let size = self.link.offer().size;
        match range.end <= size {
            true => Ok(()),
            false => {
                let name = self.link.name();
                Err(Error::Invalid(format!("{name}: {}..{} does not lie within {size}", range.start, range.end)))
            }
        }
    }

    fn may_change(&self, range: &Range<u64>) -> Result<()> {
        if !self.write {
            return Err(Error::Denied(format!("{}: opened for reading only", self.link.name())));
        }
        self.within(range)
    }

    /// Makes a change, before and after which nothing is known of holes.
    fn change(&self, action: &str, bytes: u64, asks: &mut [Ask<'_>]) -> Result<()> {
        self.statuses.change();
        let changed = self.link.change(action, bytes, asks);
        self.statuses.change();
        changed
    }

    /// Writes what is no whole number of the server's blocks.
    fn write_part(&self, data: &[u8], offset: u64) -> Result<()> {
        let whole = self.whole(offset..offset + data.len() as u64);
        let mut blocks = vec![0; (whole.end - whole.start) as usize];
        let _held = lock(&self.parts);
        self.read_whole(&mut [(whole.start, &mut blocks)])?;
        blocks[(offset - whole.start) as usize..][..data.len()].copy_from_slice(data);
        self.write_whole(&[(whole.start, &blocks)])
    }

    fn read_whole(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        let mut asks = Vec::with_capacity(pieces.len());
        let mut bytes = 0;
        for (offset, buffer) in pieces {
            bytes += buffer.len() as u64;
            let mut rest = &mut **buffer;
            for piece in self.pieces(*offset..*offset + rest.len() as u64) {
                let (now, later) = std::mem::take(&mut rest).split_at_mut((piece.end - piece.start) as usize);
                asks.push(Ask::new(Asked::Read(now), piece));
                rest = later;
            }
        }
        self.link.call("cannot read", bytes, &mut asks)
    }

    fn write_whole(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let mut asks = Vec::with_capacity(pieces.len());
        let mut bytes = 0;
        for (offset, data) in pieces {
            bytes += data.len() as u64;
            for piece in self.pieces(*offset..*offset + data.len() as u64) {
                let place = (piece.start - offset) as usize..(piece.end - offset) as usize;
                asks.push(Ask::new(Asked::Write(&data[place]), piece));
            }
        }
        self.change("cannot write", bytes, &mut asks)
    }

    fn zero(&self, range: Range<u64>, unmap: bool) -> Result<()> {
        let range = range.start..range.end.min(self.link.offer().size);
        self.may_change(&range)?;
        if range.is_empty() {
            return Ok(());
        }
        let whole = match self.link.offer().has(NBD_FLAG_SEND_WRITE_ZEROES) {
            true => self.within_blocks(&range),
            false => range.start..range.start,
        };
        let ask = |piece: Range<u64>| Ask::new(Asked::Zeroes(unmap), piece);
        let mut asks: Vec<Ask<'_>> = split(whole.clone(), MOST_ZEROES).map(ask).collect();
        if !asks.is_empty() {
            self.change("cannot write zeros", 0, &mut asks)?;
        }
        self.write_zeros(range.start..whole.start)?;
        self.write_zeros(whole.end..range.end)
    }

    /// The whole blocks of the server in `range`; where there are none, its start.
    fn within_blocks(&self, range: &Range<u64>) -> Range<u64> {
        let (minimum, size) = (u64::from(self.link.offer().minimum), self.link.offer().size);
        // The disk's last block may end early.
        let end = if range.end == size { size } else { range.end - range.end % minimum };
        match range.start.next_multiple_of(minimum) {
            start if start < end => start..end,
            _ => range.start..range.start,
        }
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        let zeros = vec![0; (range.end - range.start).min(u64::from(self.link.offer().maximum)) as usize];
        self.pieces(range)
            .try_for_each(|piece| self.write_at(&zeros[..(piece.end - piece.start) as usize], piece.start))
    }

    /// Whether the disk is known to be zeros at `offset`, and up to where.
    fn status(&self, offset: u64) -> Result<(bool, u64)> {
        if let Some(known) = self.statuses.at(offset) {
            return Ok(known);
        }
        let offer = self.link.offer();
        let whole = self.whole(offset..offset.saturating_add(MOST_STATUS).min(offer.size));
        let mut found = Vec::new();
        let changes = self.statuses.begin();
        self.link.call("cannot ask for holes", 0, &mut [Ask::new(Asked::Status(&mut found), whole.clone())])?;
        self.statuses.learn(changes, whole.start, offer.size, &found);
        // If something has changed since, nothing is known.
        Ok(self.statuses.at(offset).unwrap_or((false, whole.end)))
    }
}

/// How the server that `uri` names is reached, and with which options.
pub(super) fn reach(uri: &Uri, mut options: Options) -> Result<(Connector, Options)> {
    if let (Some(wanted), None) = (&uri.tls, &options.tls) {
        options.tls = Some(tls(uri, wanted)?);
    }
    let place = uri.place.clone();
    Ok((Box::new(move || connect(&place)), options))
}

/// What encrypts connections to the server that `uri` names.
#[cfg(feature = "tls")]
fn tls(uri: &Uri, wanted: &UriTls) -> Result<Arc<dyn StartTls>> {
    let directory = wanted.certificates.as_deref().ok_or_else(|| {
        Error::Invalid(format!(
            "{uri}: say with tls-certificates=DIR where the certificates of those are whom you trust"
        ))
    })?;
    Ok(Arc::new(ClientTls::load(directory)?.to(uri.server_name())))
}

#[cfg(not(feature = "tls"))]
fn tls(uri: &Uri, _: &UriTls) -> Result<Arc<dyn StartTls>> {
    Err(Error::Invalid(format!("{uri}: this program was built without TLS")))
}

/// `range` in pieces of at most `most` bytes.
fn split(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let piece = at..at.saturating_add(most).min(range.end);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

impl fmt::Debug for NbdStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NbdStorage").field("name", &self.link.name()).finish_non_exhaustive()
    }
}

impl Storage for NbdStorage {
    fn name(&self) -> &str {
        self.link.name()
    }

    fn size(&self) -> Result<u64> {
        Ok(self.link.offer().size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read_batch(&mut [(offset, buffer)])
    }

    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        let size = self.link.offer().size;
        let mut whole = Vec::with_capacity(pieces.len());
        let mut parts = Vec::new();
        for (offset, buffer) in pieces {
            let there = size.saturating_sub(*offset).min(buffer.len() as u64);
            let (buffer, past) = buffer.split_at_mut(there as usize);
            past.fill(0);
            if buffer.is_empty() {
                continue;
            }
            let range = *offset..*offset + there;
            match self.whole(range.clone()) {
                blocks if blocks == range => whole.push((*offset, buffer)),
                blocks => parts.push((*offset, buffer, vec![0; (blocks.end - blocks.start) as usize], blocks.start)),
            }
        }
        whole.extend(parts.iter_mut().map(|(_, _, blocks, start)| (*start, &mut blocks[..])));
        self.read_whole(&mut whole)?;
        for (offset, buffer, blocks, start) in parts {
            let place = (offset - start) as usize;
            buffer.copy_from_slice(&blocks[place..place + buffer.len()]);
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.write_batch(&[(offset, data)])
    }

    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let range = |piece: &(u64, &[u8])| piece.0..piece.0.saturating_add(piece.1.len() as u64);
        pieces.iter().try_for_each(|piece| self.may_change(&range(piece)))?;
        let pieces = pieces.iter().filter(|piece| !piece.1.is_empty());
        let is_whole = |piece: &&(u64, &[u8])| self.whole(range(piece)) == range(piece);
        let whole: Vec<(u64, &[u8])> = pieces.clone().filter(is_whole).copied().collect();
        self.write_whole(&whole)?;
        pieces.filter(|piece| !is_whole(piece)).try_for_each(|(offset, data)| self.write_part(data, *offset))
    }

    fn sync(&self) -> Result<()> {
        if self.write { self.link.flush() } else { Ok(()) }
    }

    /// The server's host knows of directories, if it has any.
    fn sync_directory(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        if size == self.link.offer().size {
            return Ok(());
        }
        Err(Error::Denied(format!("{}: an export keeps its size", self.link.name())))
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.zero(range, true)
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.zero(range, false)
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let end = range.end.min(self.link.offer().size);
        if self.link.offer().context.is_none() {
            return Ok((range.start < end).then_some(range.start..end));
        }
        first_data(range.start..end, |offset| self.status(offset))
    }

    /// There is none: see [`NbdStorage`].
    fn lock(&self, _: LockMode) -> Result<()> {
        Ok(())
    }

    fn read_only(&self) -> bool {
        !self.write
    }

    fn is_far(&self) -> bool {
        true
    }

    fn zeros_when_new(&self) -> bool {
        false
    }
}
