//! Requests: the bytes of a client, taken apart and held against what the export allows.

use super::context::Context;
use super::export::Export;
use super::{Flaw, MAX_DESCRIPTORS};
use crate::nbd::MAX_PAYLOAD;
use crate::nbd::proto::*;
use crate::sync::Arc;
use std::ops::Range;

/// What a handshake has led to.
#[derive(Debug, Clone)]
pub struct Terms {
    /// What the client uses.
    pub export: Arc<Export>,
    /// Whether replies are structured.
    pub structured: bool,
    /// What a block status tells; a context's number is its place.
    pub contexts: Vec<Context>,
}

impl Terms {
    /// The answer to a block status: what each context says of `range`, or of its first extent alone.
    ///
    /// # Errors
    /// The device's.
    pub fn describe(&self, range: Range<u64>, one: bool) -> crate::Result<Vec<Vec<Descriptor>>> {
        let most = if one { 1 } else { MAX_DESCRIPTORS };
        let describe = |context: &Context| context.describe(&*self.export.device, range.clone(), most);
        self.contexts.iter().map(describe).collect()
    }
}

/// What a look at a client's bytes finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// Nothing can be said before so many bytes have arrived.
    More(usize),
    /// So many bytes make a request.
    Request(usize, Request<'a>),
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What the reply carries.
    pub cookie: u64,
    /// What is to be done.
    pub command: Command<'a>,
}

/// What a client asks for. Ranges lie within the export, and read-only exports are not changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `NBD_CMD_READ`.
    Read {
        /// Bytes of the disk, at most [`MAX_PAYLOAD`].
        range: Range<u64>,
        /// Whether the reply must have one content chunk.
        df: bool,
    },
    /// `NBD_CMD_WRITE`.
    Write {
        /// The first byte of the disk.
        offset: u64,
        /// What is written.
        data: &'a [u8],
        /// Whether it is durable before the reply.
        fua: bool,
    },
    /// `NBD_CMD_DISC`. There is no reply, and nothing comes after it.
    Disc,
    /// `NBD_CMD_FLUSH`.
    Flush,
    /// `NBD_CMD_TRIM`.
    Trim {
        /// Bytes of the disk.
        range: Range<u64>,
        /// Whether it is durable before the reply.
        fua: bool,
    },
    /// `NBD_CMD_CACHE`.
    Cache {
        /// Bytes of the disk, at most [`MAX_PAYLOAD`].
        range: Range<u64>,
    },
    /// `NBD_CMD_WRITE_ZEROES`.
    WriteZeroes {
        /// Bytes of the disk.
        range: Range<u64>,
        /// Whether the host may give the space back.
        unmap: bool,
        /// Whether it is durable before the reply.
        fua: bool,
    },
    /// `NBD_CMD_BLOCK_STATUS`.
    BlockStatus {
        /// Bytes of the disk; not empty.
        range: Range<u64>,
        /// Whether one descriptor is wanted, and no more.
        one: bool,
    },
    /// What can only be answered with an error.
    Refused(Errno),
}

/// Takes requests apart.
#[derive(Debug)]
pub struct Transmission {
    terms: Terms,
}

impl Transmission {
    /// Requests on `terms`.
    pub fn new(terms: Terms) -> Transmission {
        Transmission { terms }
    }

    /// What was negotiated.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The first request of `input`.
    ///
    /// # Errors
    /// The connection is to end.
    pub fn next<'a>(&self, input: &'a [u8]) -> Result<Parsed<'a>, Flaw> {
        let Some(head) = RequestHead::parse(input) else { return Ok(Parsed::More(RequestHead::LENGTH)) };
        if head.magic != NBD_REQUEST_MAGIC {
            return Err(Flaw::Magic);
        }
        let mut length = RequestHead::LENGTH;
        if head.command == NBD_CMD_WRITE {
            if head.length > MAX_PAYLOAD {
                return Err(Flaw::Payload);
            }
            length += head.length as usize;
        }
        let Some(data) = input.get(RequestHead::LENGTH..length) else { return Ok(Parsed::More(length)) };
        let command = self.command(&head, data).unwrap_or_else(Command::Refused);
        Ok(Parsed::Request(length, Request { cookie: head.cookie, command }))
    }

    fn command<'a>(&self, head: &RequestHead, data: &'a [u8]) -> Result<Command<'a>, Errno> {
        let has = |flag| head.flags & flag != 0;
        let fua = has(NBD_CMD_FLAG_FUA) || self.terms.export.write_through;
        // FUA is allowed everywhere, since clients are known to set it everywhere.
        let extra = match head.command {
            NBD_CMD_READ if self.terms.structured => NBD_CMD_FLAG_DF,
            NBD_CMD_WRITE_ZEROES => NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
            NBD_CMD_BLOCK_STATUS => NBD_CMD_FLAG_REQ_ONE,
            _ => 0,
        };
        if head.flags & !(NBD_CMD_FLAG_FUA | extra) != 0 && head.command != NBD_CMD_DISC {
            return Err(Errno::NBD_EINVAL);
        }
        let command = match head.command {
            NBD_CMD_READ => Command::Read { range: self.payload(head)?, df: has(NBD_CMD_FLAG_DF) },
            NBD_CMD_WRITE => Command::Write { offset: self.change(head, Errno::NBD_ENOSPC)?.start, data, fua },
            NBD_CMD_DISC => Command::Disc,
            NBD_CMD_FLUSH => Command::Flush,
            NBD_CMD_TRIM => Command::Trim { range: self.change(head, Errno::NBD_EINVAL)?, fua },
            NBD_CMD_CACHE => Command::Cache { range: self.payload(head)? },
            NBD_CMD_WRITE_ZEROES => {
                let (range, unmap) = (self.change(head, Errno::NBD_ENOSPC)?, !has(NBD_CMD_FLAG_NO_HOLE));
                // Nobody says beforehand how fast the host provides zeroed space.
                if has(NBD_CMD_FLAG_FAST_ZERO) && !(unmap && self.terms.export.device.zeroes_fast()) {
                    return Err(Errno::NBD_ENOTSUP);
                }
                Command::WriteZeroes { range, unmap, fua }
            }
            NBD_CMD_BLOCK_STATUS if self.terms.contexts.is_empty() || head.length == 0 => {
                return Err(Errno::NBD_EINVAL);
            }
            NBD_CMD_BLOCK_STATUS => {
                Command::BlockStatus { range: self.within(head, Errno::NBD_EINVAL)?, one: has(NBD_CMD_FLAG_REQ_ONE) }
            }
            _ => return Err(Errno::NBD_EINVAL),
        };
        Ok(command)
    }

    /// The range of a request; `outside` if it does not lie within the disk as it is now.
    fn within(&self, head: &RequestHead, outside: Errno) -> Result<Range<u64>, Errno> {
        let end = head.offset.checked_add(u64::from(head.length));
        let end = end.filter(|end| *end <= self.terms.export.device.size()).ok_or(outside)?;
        Ok(head.offset..end)
    }

    fn payload(&self, head: &RequestHead) -> Result<Range<u64>, Errno> {
        if head.length > MAX_PAYLOAD {
            return Err(Errno::NBD_EINVAL);
        }
        self.within(head, Errno::NBD_EINVAL)
    }

    fn change(&self, head: &RequestHead, outside: Errno) -> Result<Range<u64>, Errno> {
        if self.terms.export.read_only {
            return Err(Errno::NBD_EPERM);
        }
        self.within(head, outside)
    }
}
