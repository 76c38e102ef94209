//! A dirty bitmap of an export.

use super::link::Link;
use super::storage::{MOST_STATUS, reach};
use super::wire::{Ask, Asked};
use super::{Breach, Connector, Options};
use crate::error::{Error, Result};
use crate::nbd::proto::NBD_STATE_DIRTY;
use crate::nbd::{MAX_STRING, Uri};
use std::io;
use std::ops::Range;
use std::time::Duration;

/// Most stretches that are kept of what a server tells.
const MOST_STRETCHES: usize = 1 << 18;
/// No dirty bitmap of ours has smaller granules.
const SMALLEST: u64 = 4096;

/// A dirty bitmap of an export: what the metadata context `qemu:dirty-bitmap:NAME` says of it.
pub struct NbdBitmap {
    link: Link,
    context: String,
}

impl NbdBitmap {
    /// Opens the bitmap `name` of the export that `uri` names.
    ///
    /// A server that goes is not waited for: what the next one says may be of another bitmap.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such server or export; `Invalid` if that has no such bitmap; what loading certificates
    /// meets.
    pub fn open(uri: &Uri, name: &str, options: Options) -> Result<NbdBitmap> {
        let (connector, options) = reach(uri, options)?;
        NbdBitmap::connect(uri.to_string(), uri.export.clone(), name, connector, options)
    }

    /// Opens the bitmap `bitmap` of `export` of the server that `connector` reaches. Errors call the export `name`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn connect(
        name: String,
        export: String,
        bitmap: &str,
        connector: Connector,
        options: Options,
    ) -> Result<NbdBitmap> {
        let context = format!("qemu:dirty-bitmap:{bitmap}");
        if context.len() > MAX_STRING {
            return Err(Error::Invalid(format!("{name}: no bitmap has a name of {} bytes", bitmap.len())));
        }
        let options = Options { write: false, connections: 1, reconnect: Duration::ZERO, ..options };
        let link = Link::open(name, (export, context.clone()), connector, options)?;
        match link.offer().context {
            Some(_) => Ok(NbdBitmap { link, context }),
            None => Err(Error::Invalid(format!("{}: the server tells of no bitmap {bitmap:?}", link.name()))),
        }
    }

    /// Bytes of the disk that it tells of.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.link.offer().size
    }

    /// The dirty stretches, in bytes, in order and apart. They are at least what the server tells: of more of them than
    /// there is room for, neighbours become one.
    ///
    /// # Errors
    /// The server's, or that it is gone.
    pub fn dirty(&self) -> Result<Vec<Range<u64>>> {
        let (offer, mut found, mut at) = (self.link.offer(), Stretches::default(), 0);
        while at < offer.size {
            let whole = offer.whole(at..at.saturating_add(MOST_STATUS).min(offer.size));
            let mut descriptors = Vec::new();
            let action = format!("cannot ask for {}", self.context);
            self.link.call(&action, 0, &mut [Ask::new(Asked::Status(&mut descriptors), whole.clone())])?;
            let (before, mut start) = (at, whole.start);
            for descriptor in descriptors {
                let end = start.saturating_add(descriptor.length.into()).min(offer.size);
                if descriptor.flags & NBD_STATE_DIRTY != 0 {
                    found.push(start..end);
                }
                start = end;
            }
            at = start;
            if at <= before {
                return Err(Error::io(self.link.name(), &action, io::Error::other(Breach::Missing)));
            }
        }
        if let Some(last) = found.list.last_mut() {
            last.end = last.end.min(offer.size);
        }
        Ok(found.list)
    }
}

/// Stretches that come in order. The more of them come, the coarser they get: what lies between two that are near each
/// other counts as dirty then, too.
#[derive(Debug)]
struct Stretches {
    unit: u64,
    list: Vec<Range<u64>>,
}

impl Default for Stretches {
    fn default() -> Stretches {
        Stretches { unit: SMALLEST, list: Vec::new() }
    }
}

impl Stretches {
    fn push(&mut self, range: Range<u64>) {
        self.join(range);
        while self.list.len() > MOST_STRETCHES {
            self.unit *= 2;
            std::mem::take(&mut self.list).into_iter().for_each(|range| self.join(range));
        }
    }

    fn join(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let range = range.start / self.unit * self.unit..range.end.next_multiple_of(self.unit);
        match self.list.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => self.list.push(range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many there are: nothing is lost, and what is kept stays few.
    #[test]
    fn stretches_get_coarser_and_lose_nothing() {
        let mut found = Stretches::default();
        let all = (0..3 * MOST_STRETCHES as u64).map(|index| index * 8192 + index % 2..index * 8192 + 100);
        for range in all.clone() {
            found.push(range);
        }
        assert!(found.list.len() <= MOST_STRETCHES, "{}", found.list.len());
        assert!(found.list.windows(2).all(|pair| pair[0].end < pair[1].start));
        let mut kept = found.list.iter().peekable();
        for range in all {
            while kept.next_if(|kept| kept.end < range.end).is_some() {}
            assert!(kept.peek().is_some_and(|kept| kept.start <= range.start), "{range:?}");
        }
    }

    /// Granules that a server tells of exactly stay so.
    #[test]
    fn a_few_stretches_stay_as_they_are() {
        let mut found = Stretches::default();
        for range in [0..4096, 8192..12288, 12288..65536, 1 << 60..(1 << 60) + 1] {
            found.push(range);
        }
        assert_eq!(found.list, [0..4096, 8192..65536, 1 << 60..(1 << 60) + 4096]);
    }
}
