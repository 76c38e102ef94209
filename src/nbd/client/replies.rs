//! Replies: the bytes of a server, taken apart.

use super::Breach;
use crate::nbd::proto::*;
use crate::nbd::{MAX_PAYLOAD, MAX_STRING};

/// What a look at a server's bytes finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing can be said before so many bytes have arrived.
    More(usize),
    /// So many bytes make a reply, or a chunk of one.
    Chunk(usize, Chunk),
}

/// A simple reply, or a chunk of a structured one.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which request it answers.
    pub cookie: u64,
    /// Whether there is no more to the reply.
    pub last: bool,
    /// What it says.
    pub what: What,
}

/// What a chunk says.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// A simple reply of success. What was read, all of it, follows on the wire.
    Simple,
    /// Nothing: `NBD_REPLY_TYPE_NONE`.
    Nothing,
    /// The request has failed: the protocol's number, and the server's words.
    Failed(u32, String),
    /// So many bytes of the disk follow on the wire.
    Data {
        /// Where they begin.
        offset: u64,
        /// How many there are.
        length: u32,
    },
    /// So many bytes of the disk are zeros.
    Hole {
        /// Where they begin.
        offset: u64,
        /// How many there are.
        length: u32,
    },
    /// What a metadata context says from the start of the request's range on.
    Status {
        /// The context's number.
        context: u32,
        /// At least one.
        descriptors: Vec<Descriptor>,
    },
}

/// The first reply or chunk of `input`, on a connection that has, or has not, structured replies.
///
/// # Errors
/// It is none.
pub fn next(input: &[u8], structured: bool) -> Result<Found, Breach> {
    let Some(magic) = input.first_chunk().map(|magic| u32::from_be_bytes(*magic)) else { return Ok(Found::More(4)) };
    match magic {
        NBD_SIMPLE_REPLY_MAGIC => Ok(simple(input)),
        NBD_STRUCTURED_REPLY_MAGIC if structured => chunk(input),
        _ => Err(Breach::Magic),
    }
}

fn simple(input: &[u8]) -> Found {
    let Some(reply) = SimpleReply::parse(input) else { return Found::More(SimpleReply::LENGTH) };
    let what = if reply.error == 0 { What::Simple } else { What::Failed(reply.error, String::new()) };
    Found::Chunk(SimpleReply::LENGTH, Chunk { cookie: reply.cookie, last: true, what })
}

fn chunk(input: &[u8]) -> Result<Found, Breach> {
    let Some(head) = ChunkHead::parse(input) else { return Ok(Found::More(ChunkHead::LENGTH)) };
    let length = head.length as usize;
    // All but what was read is looked at once it is there as a whole.
    let (whole, limit) = match head.kind {
        NBD_REPLY_TYPE_NONE => (length, 0),
        NBD_REPLY_TYPE_OFFSET_DATA => (OffsetData::LENGTH, OffsetData::LENGTH + MAX_PAYLOAD as usize),
        NBD_REPLY_TYPE_OFFSET_HOLE => (length, OffsetHole::LENGTH),
        NBD_REPLY_TYPE_BLOCK_STATUS => (length, BlockStatus::LENGTH + MAX_STATUS * Descriptor::LENGTH),
        kind if kind & NBD_REPLY_FLAG_ERROR != 0 => (length, MAX_ERROR),
        _ => return Err(Breach::Chunk),
    };
    if length < whole || length > limit {
        return Err(Breach::Length);
    }
    let end = ChunkHead::LENGTH + whole;
    let Some(payload) = input.get(ChunkHead::LENGTH..end) else { return Ok(Found::More(end)) };
    let what = what(&head, payload).ok_or(Breach::Length)?;
    let last = head.flags & NBD_REPLY_FLAG_DONE != 0;
    Ok(Found::Chunk(end, Chunk { cookie: head.cookie, last, what }))
}

/// What a chunk says; `None` if its payload has not the length that its kind asks for.
fn what(head: &ChunkHead, payload: &[u8]) -> Option<What> {
    let what = match head.kind {
        NBD_REPLY_TYPE_NONE => What::Nothing,
        NBD_REPLY_TYPE_OFFSET_DATA => {
            let OffsetData { offset } = OffsetData::parse(payload)?;
            What::Data { offset, length: head.length - OffsetData::LENGTH as u32 }
        }
        NBD_REPLY_TYPE_OFFSET_HOLE => {
            let OffsetHole { offset, size } = OffsetHole::parse(payload)?;
            What::Hole { offset, length: size }
        }
        NBD_REPLY_TYPE_BLOCK_STATUS => {
            let BlockStatus { context } = BlockStatus::parse(payload)?;
            let descriptors = payload[BlockStatus::LENGTH..].chunks(Descriptor::LENGTH);
            let descriptors = descriptors.map(Descriptor::parse).collect::<Option<Vec<_>>>()?;
            (!descriptors.is_empty()).then_some(What::Status { context, descriptors })?
        }
        _ => {
            let ErrorHead { error, length } = ErrorHead::parse(payload)?;
            // What comes behind the words is the offset, which some kinds of errors have.
            let words = payload[ErrorHead::LENGTH..].get(..usize::from(length))?;
            // An error is one, whatever its number.
            What::Failed(error.max(1), super::words(words))
        }
    };
    Some(what)
}

/// Most descriptors that are taken of a server: the limit is ours, and far above what it is asked for.
const MAX_STATUS: usize = 1 << 20;
/// Longest payload of an error: its words, and an offset.
const MAX_ERROR: usize = ErrorHead::LENGTH + MAX_STRING + 8;
