//! Option haggling from the client's side: what the server says → the options that lead to one export.

use super::Breach;
use crate::nbd::proto::*;
use crate::nbd::{MAX_OPTION, MAX_OPTIONS, MAX_PAYLOAD};
use std::ops::Range;

/// What a server offers under a name, and on which terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Bytes of the disk.
    pub size: u64,
    /// The transmission flags.
    pub flags: u16,
    /// Whether replies are structured.
    pub structured: bool,
    /// The number of the metadata context that was asked for, where the server has it.
    pub context: Option<u32>,
    /// Requests begin and end at multiples of so many bytes.
    pub minimum: u32,
    /// Most bytes that one request reads or writes.
    pub maximum: u32,
}

impl Offer {
    /// `range` in whole blocks of the server. The disk's last block may end early.
    pub(super) fn whole(&self, range: Range<u64>) -> Range<u64> {
        let minimum = u64::from(self.minimum);
        range.start - range.start % minimum..range.end.next_multiple_of(minimum).min(self.size).max(range.end)
    }

    /// Whether a transmission flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Where the handshake stands after a look at what arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Move {
    /// Nothing can be said before so many bytes have arrived.
    More(usize),
    /// So many bytes are dealt with, and the next option is out.
    GoOn(usize),
    /// So many bytes are dealt with, and the next ones belong to TLS. The handshake goes on with [`Handshake::secured`].
    StartTls(usize),
    /// So many bytes are dealt with; transmission begins.
    Chosen(usize, Offer),
}

/// What the server is to answer next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    /// `NBD_OPT_STARTTLS`.
    Tls,
    /// `NBD_OPT_STRUCTURED_REPLY`.
    Structured,
    /// `NBD_OPT_SET_META_CONTEXT`.
    Context,
    /// `NBD_OPT_GO`.
    Go,
    /// `NBD_OPT_EXPORT_NAME`, for servers that know no other way.
    ExportName,
}

/// One handshake. Asks for structured replies, for one metadata context and for sizes of blocks, and does without.
#[derive(Debug)]
pub struct Handshake {
    export: String,
    context: String,
    tls: bool,
    stage: Stage,
    /// Whether the server leaves out the zeroes behind its reply to `NBD_OPT_EXPORT_NAME`.
    no_zeroes: bool,
    /// Replies so far.
    replies: u32,
    offer: Offer,
    /// Whether `NBD_INFO_EXPORT` was among the replies to `NBD_OPT_GO`.
    told: bool,
}

impl Handshake {
    /// Begins, for the export of that name and what `context` says of it; each fits in
    /// [`MAX_STRING`](crate::nbd::MAX_STRING). With `tls` nothing is asked for without it.
    pub fn new(export: &str, context: &str, tls: bool) -> Handshake {
        let offer = Offer { size: 0, flags: 0, structured: false, context: None, minimum: 1, maximum: MAX_PAYLOAD };
        let (export, context, stage) = (export.into(), context.into(), Stage::Greeting);
        Handshake { export, context, tls, stage, no_zeroes: false, replies: 0, offer, told: false }
    }

    /// Deals with the first message of `input`; `out` gets what is to be sent. Bytes that it took are not shown again.
    ///
    /// # Errors
    /// The server is none, or does not have what is asked for.
    pub fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Move, Breach> {
        match self.stage {
            Stage::Greeting => self.greeting(input, out),
            Stage::ExportName => self.export_name(input),
            _ => self.reply(input, out),
        }
    }

    /// Goes on behind TLS: `out` gets the first option.
    pub fn secured(&mut self, out: &mut Vec<u8>) {
        self.ask(Stage::Structured, out);
    }

    fn greeting(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Move, Breach> {
        let Some(greeting) = Greeting::parse(input) else { return Ok(Move::More(Greeting::LENGTH)) };
        if greeting.magic != NBDMAGIC {
            return Err(Breach::NoServer);
        }
        if greeting.newstyle != IHAVEOPT {
            return Err(Breach::OldStyle);
        }
        let fixed = greeting.flags & NBD_FLAG_FIXED_NEWSTYLE != 0;
        self.no_zeroes = greeting.flags & NBD_FLAG_NO_ZEROES != 0;
        let mut flags = if fixed { NBD_FLAG_C_FIXED_NEWSTYLE } else { 0 };
        flags |= if self.no_zeroes { NBD_FLAG_C_NO_ZEROES } else { 0 };
        ClientFlags { flags }.put(out);
        match (fixed, self.tls) {
            (true, true) => self.ask(Stage::Tls, out),
            (true, false) => self.ask(Stage::Structured, out),
            (false, true) => return Err(Breach::NoTls),
            (false, false) => self.ask(Stage::ExportName, out),
        }
        Ok(Move::GoOn(Greeting::LENGTH))
    }

    /// Sends the option of `stage`.
    fn ask(&mut self, stage: Stage, out: &mut Vec<u8>) {
        self.stage = stage;
        let (name, context) = (self.export.as_bytes(), self.context.as_bytes());
        let length = |bytes: &[u8]| (bytes.len() as u32).to_be_bytes();
        let data = match stage {
            Stage::Greeting | Stage::Tls | Stage::Structured => Vec::new(),
            Stage::Context => [&length(name)[..], name, &1u32.to_be_bytes(), &length(context), context].concat(),
            Stage::Go => [&length(name)[..], name, &1u16.to_be_bytes(), &NBD_INFO_BLOCK_SIZE.to_be_bytes()].concat(),
            Stage::ExportName => name.to_vec(),
        };
        OptionHead { magic: IHAVEOPT, option: self.option(), length: data.len() as u32 }.put(out);
        out.extend_from_slice(&data);
    }

    fn option(&self) -> u32 {
        match self.stage {
            Stage::Tls => NBD_OPT_STARTTLS,
            Stage::Greeting | Stage::Structured => NBD_OPT_STRUCTURED_REPLY,
            Stage::Context => NBD_OPT_SET_META_CONTEXT,
            Stage::Go => NBD_OPT_GO,
            Stage::ExportName => NBD_OPT_EXPORT_NAME,
        }
    }

    fn export_name(&mut self, input: &[u8]) -> Result<Move, Breach> {
        let length = ExportNameReply::LENGTH + if self.no_zeroes { 0 } else { EXPORT_NAME_ZEROES };
        match ExportNameReply::parse(input) {
            Some(reply) if input.len() >= length => {
                (self.offer.size, self.offer.flags) = (reply.size, reply.flags);
                Ok(Move::Chosen(length, self.offer))
            }
            _ => Ok(Move::More(length)),
        }
    }

    fn reply(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Move, Breach> {
        let Some(head) = OptionReply::parse(input) else { return Ok(Move::More(OptionReply::LENGTH)) };
        if head.magic != NBD_REP_MAGIC || head.option != self.option() {
            return Err(Breach::Magic);
        }
        if head.length > MAX_OPTION {
            return Err(Breach::Length);
        }
        let length = OptionReply::LENGTH + head.length as usize;
        let Some(data) = input.get(OptionReply::LENGTH..length) else { return Ok(Move::More(length)) };
        self.replies += 1;
        if self.replies > MAX_OPTIONS {
            return Err(Breach::Replies);
        }
        let failed = head.reply & NBD_REP_FLAG_ERROR != 0;
        match (self.stage, head.reply) {
            (Stage::Tls, NBD_REP_ACK) => return Ok(Move::StartTls(length)),
            (Stage::Tls, _) if failed => return Err(Breach::NoTls),
            (_, NBD_REP_ERR_TLS_REQD) => return Err(Breach::TlsRequired),
            (Stage::Structured, NBD_REP_ACK) => {
                self.offer.structured = true;
                self.ask(Stage::Context, out);
            }
            (Stage::Structured, _) if failed => self.ask(Stage::Go, out),
            (Stage::Context, NBD_REP_META_CONTEXT) => self.context(data)?,
            (Stage::Context, NBD_REP_ACK) => self.ask(Stage::Go, out),
            (Stage::Context, _) if failed => {
                self.offer.context = None;
                self.ask(Stage::Go, out);
            }
            (Stage::Go, NBD_REP_INFO) => self.info(data)?,
            (Stage::Go, NBD_REP_ACK) if self.told => return Ok(Move::Chosen(length, self.offer)),
            (Stage::Go, NBD_REP_ERR_UNSUP) => self.ask(Stage::ExportName, out),
            (Stage::Go, reply) if failed => return Err(refusal(reply, data)),
            _ => return Err(Breach::Reply),
        }
        Ok(Move::GoOn(length))
    }

    fn context(&mut self, data: &[u8]) -> Result<(), Breach> {
        match data.split_first_chunk() {
            Some((id, name)) if name == self.context.as_bytes() => self.offer.context = Some(u32::from_be_bytes(*id)),
            _ => return Err(Breach::Reply),
        }
        Ok(())
    }

    fn info(&mut self, data: &[u8]) -> Result<(), Breach> {
        let kind = data.first_chunk().map(|kind| u16::from_be_bytes(*kind)).ok_or(Breach::Reply)?;
        match kind {
            NBD_INFO_EXPORT => {
                let info = InfoExport::parse(data).ok_or(Breach::Reply)?;
                (self.offer.size, self.offer.flags, self.told) = (info.size, info.flags, true);
            }
            NBD_INFO_BLOCK_SIZE => {
                let info = InfoBlockSize::parse(data).ok_or(Breach::Reply)?;
                if !info.minimum.is_power_of_two() || info.minimum > MAX_MINIMUM || info.maximum < info.minimum {
                    return Err(Breach::BlockSize);
                }
                self.offer.minimum = info.minimum;
                // What both ends take, in whole blocks.
                let maximum = info.maximum.min(MAX_PAYLOAD);
                self.offer.maximum = maximum - maximum % info.minimum;
            }
            // What was not asked for may be told all the same.
            _ => {}
        }
        Ok(())
    }
}

/// Zeroes behind the reply to `NBD_OPT_EXPORT_NAME`, where they were not given up.
const EXPORT_NAME_ZEROES: usize = 124;
/// `NBD_INFO_BLOCK_SIZE`: "the minimum block size … at most 64 KiB".
const MAX_MINIMUM: u32 = 64 << 10;

/// Why the export cannot be had, in the server's words if it has some.
fn refusal(reply: u32, data: &[u8]) -> Breach {
    match reply {
        NBD_REP_ERR_UNKNOWN => Breach::NoExport,
        _ => Breach::Refused(super::words(data)),
    }
}
