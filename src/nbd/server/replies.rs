//! Replies: results of requests as bytes. What was read is not copied: it goes out from where it was read into.

use crate::nbd::proto::*;
use crate::zeros;
use std::io::IoSlice;
use std::ops::Range;

/// Zeros are told from data in steps of so many bytes, so that a reply does not fall into crumbs.
const HOLE_STEP: usize = 64 << 10;

/// Replies that go out together.
#[derive(Debug)]
pub struct Replies {
    structured: bool,
    /// All but what was read.
    bytes: Vec<u8>,
    /// Up to where `bytes` go out before some of what was read does.
    parts: Vec<(usize, Range<usize>)>,
}

impl Replies {
    /// None yet.
    pub fn new(structured: bool) -> Replies {
        Replies { structured, bytes: Vec::new(), parts: Vec::new() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets them, once they are out.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
    }

    /// A request without data has succeeded.
    pub fn done(&mut self, cookie: u64) {
        // Shorter than a chunk, and allowed for everything but reads.
        self.simple(cookie, 0);
    }

    /// A request has failed.
    pub fn error(&mut self, cookie: u64, error: Errno) {
        if !self.structured {
            return self.simple(cookie, error as u32);
        }
        let text = error.text().as_bytes();
        self.chunk(cookie, NBD_REPLY_TYPE_ERROR, ErrorHead::LENGTH + text.len(), true);
        ErrorHead { error: error as u32, length: text.len() as u16 }.put(&mut self.bytes);
        self.bytes.extend_from_slice(text);
    }

    /// What was read from `offset` on: it lies at `place` of `memory`. Zeros are sent as holes where the client takes
    /// such; with `df` that is the case if all of it is zeros, or nothing.
    pub fn read(&mut self, cookie: u64, offset: u64, memory: &[u8], place: Range<usize>, df: bool) {
        if !self.structured {
            self.simple(cookie, 0);
            return self.data(place);
        }
        if place.is_empty() {
            return self.chunk(cookie, NBD_REPLY_TYPE_NONE, 0, true);
        }
        let step = if df { place.len() } else { HOLE_STEP };
        for (stretch, zero) in zeros::stretches(&memory[place.clone()], step) {
            let (last, at) = (stretch.end == place.len(), offset + stretch.start as u64);
            if zero {
                self.chunk(cookie, NBD_REPLY_TYPE_OFFSET_HOLE, OffsetHole::LENGTH, last);
                OffsetHole { offset: at, size: stretch.len() as u32 }.put(&mut self.bytes);
            } else {
                self.chunk(cookie, NBD_REPLY_TYPE_OFFSET_DATA, OffsetData::LENGTH + stretch.len(), last);
                OffsetData { offset: at }.put(&mut self.bytes);
                self.data(place.start + stretch.start..place.start + stretch.end);
            }
        }
    }

    /// What a block status found, for each context by its number.
    pub fn block_status(&mut self, cookie: u64, contexts: &[Vec<Descriptor>]) {
        for (id, descriptors) in (0u32..).zip(contexts) {
            let last = id as usize + 1 == contexts.len();
            let length = BlockStatus::LENGTH + descriptors.len() * Descriptor::LENGTH;
            self.chunk(cookie, NBD_REPLY_TYPE_BLOCK_STATUS, length, last);
            BlockStatus { context: id }.put(&mut self.bytes);
            descriptors.iter().for_each(|descriptor| descriptor.put(&mut self.bytes));
        }
    }

    /// All of it in the order of the wire. What was read lies in `memory`.
    pub fn slices<'a>(&'a self, memory: &'a [u8]) -> Vec<IoSlice<'a>> {
        let (mut slices, mut at) = (Vec::with_capacity(self.parts.len() * 2 + 1), 0);
        for (end, place) in &self.parts {
            slices.push(IoSlice::new(&self.bytes[at..*end]));
            slices.push(IoSlice::new(&memory[place.clone()]));
            at = *end;
        }
        slices.push(IoSlice::new(&self.bytes[at..]));
        slices
    }

    fn simple(&mut self, cookie: u64, error: u32) {
        SimpleReply { magic: NBD_SIMPLE_REPLY_MAGIC, error, cookie }.put(&mut self.bytes);
    }

    fn chunk(&mut self, cookie: u64, kind: u16, length: usize, last: bool) {
        let flags = if last { NBD_REPLY_FLAG_DONE } else { 0 };
        // Fits: reads and lists of descriptors have their limits.
        let length = length as u32;
        ChunkHead { magic: NBD_STRUCTURED_REPLY_MAGIC, flags, kind, cookie, length }.put(&mut self.bytes);
    }

    fn data(&mut self, place: Range<usize>) {
        self.parts.push((self.bytes.len(), place));
    }
}
