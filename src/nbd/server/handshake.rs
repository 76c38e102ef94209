//! Option haggling: the options of a client and the replies to them, until it has chosen an export.

use super::context::Context;
use super::export::{Export, Exports};
use super::transmission::Terms;
use super::{Flaw, MAX_QUERIES};
use crate::nbd::proto::*;
use crate::nbd::{MAX_OPTION, MAX_OPTIONS, MAX_PAYLOAD};
use crate::sync::Arc;

/// What clients are told to align requests to, for speed: every byte can be read and written.
const PREFERRED_BLOCK: u32 = 4096;

/// Where the handshake stands after a look at what arrived.
#[derive(Debug)]
pub enum Answer {
    /// Nothing can be said before so many bytes have arrived.
    More(usize),
    /// So many bytes are dealt with, and the replies are out.
    GoOn(usize),
    /// So many bytes are dealt with; transmission begins on these terms.
    Chosen(usize, Terms),
    /// So many bytes are dealt with. TLS begins, and all bytes that come after them belong to it: the handshake goes on
    /// with what TLS makes of them.
    StartTls(usize),
    /// The client ends the session.
    Abort,
}

/// Whether a connection is encrypted. There is no server that leaves it to the client: whoever sits between the two could
/// then say for either that it has no TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// It is not.
    Off,
    /// It is to be before anything else.
    Required,
    /// It is.
    On,
}

/// One client's handshake.
#[derive(Debug)]
pub struct Handshake {
    exports: Arc<Exports>,
    tls: Tls,
    /// Whether a client may have several connections.
    several: bool,
    /// The flags of the client, once they are there.
    flags: Option<u32>,
    options: u32,
    structured: bool,
    /// What `NBD_OPT_SET_META_CONTEXT` chose, and for which export.
    contexts: Option<(Arc<Export>, Vec<Context>)>,
}

/// An error reply and its words.
type Refusal = (u32, &'static str);

const INVALID: Refusal = (NBD_REP_ERR_INVALID, "the data of the option makes no sense");
const NO_TLS: Refusal = (NBD_REP_ERR_UNSUP, "this server has no TLS");
const TLS_FIRST: Refusal = (NBD_REP_ERR_TLS_REQD, "this server wants TLS first");
const TLS_AGAIN: Refusal = (NBD_REP_ERR_INVALID, "TLS has begun already");
const UNKNOWN: Refusal = (NBD_REP_ERR_UNKNOWN, "no such export");

impl Handshake {
    /// Begins: `out` gets the greeting. Clients learn whether they may have `several` connections.
    pub fn new(exports: Arc<Exports>, tls: Tls, several: bool, out: &mut Vec<u8>) -> Handshake {
        let flags = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES;
        Greeting { magic: NBDMAGIC, newstyle: IHAVEOPT, flags }.put(out);
        Handshake { exports, tls, several, flags: None, options: 0, structured: false, contexts: None }
    }

    /// Deals with the first message of `input`; `out` gets the replies. Bytes that it took are not shown again.
    ///
    /// # Errors
    /// The connection is to end, once `out` has gone.
    pub fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Answer, Flaw> {
        let Some(flags) = self.flags else { return self.client_flags(input) };
        let Some(head) = OptionHead::parse(input) else { return Ok(Answer::More(OptionHead::LENGTH)) };
        if head.magic != IHAVEOPT {
            return Err(Flaw::Magic);
        }
        if head.length > MAX_OPTION {
            Reply { option: head.option, out }.refuse((NBD_REP_ERR_TOO_BIG, "the option is too long"));
            return Err(Flaw::OptionLength);
        }
        let length = OptionHead::LENGTH + head.length as usize;
        let Some(data) = input.get(OptionHead::LENGTH..length) else { return Ok(Answer::More(length)) };
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Err(Flaw::Options);
        }
        let in_the_clear = [NBD_OPT_STARTTLS, NBD_OPT_ABORT].contains(&head.option);
        if self.tls == Tls::Required && !in_the_clear {
            if head.option == NBD_OPT_EXPORT_NAME {
                return Err(Flaw::NoTls);
            }
            Reply { option: head.option, out }.refuse(TLS_FIRST);
            return Ok(Answer::GoOn(length));
        }
        if head.option == NBD_OPT_EXPORT_NAME {
            let export = self.exports.find(data).ok_or(Flaw::NoExport)?;
            let (size, transmission) = (export.device.size(), export.flags(self.structured, self.several));
            ExportNameReply { size, flags: transmission }.put(out);
            if flags & NBD_FLAG_C_NO_ZEROES == 0 {
                out.resize(out.len() + 124, 0);
            }
            return Ok(Answer::Chosen(length, self.terms(export)));
        }
        let mut reply = Reply { option: head.option, out };
        let done = match head.option {
            NBD_OPT_ABORT => {
                reply.send(NBD_REP_ACK, &[]);
                return Ok(Answer::Abort);
            }
            NBD_OPT_LIST => self.list(data, &mut reply),
            NBD_OPT_INFO => self.info(data, &mut reply).map(drop),
            NBD_OPT_GO => match self.info(data, &mut reply) {
                Ok(export) => {
                    reply.send(NBD_REP_ACK, &[]);
                    return Ok(Answer::Chosen(length, self.terms(export)));
                }
                Err(refusal) => Err(refusal),
            },
            NBD_OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                Ok(())
            }
            NBD_OPT_STRUCTURED_REPLY => Err(INVALID),
            NBD_OPT_LIST_META_CONTEXT => self.list_contexts(data, &mut reply),
            NBD_OPT_SET_META_CONTEXT => self.set_contexts(data, &mut reply),
            NBD_OPT_STARTTLS => match self.tls {
                Tls::Off => Err(NO_TLS),
                Tls::On => Err(TLS_AGAIN),
                Tls::Required if !data.is_empty() => Err(INVALID),
                Tls::Required => {
                    reply.send(NBD_REP_ACK, &[]);
                    self.forget();
                    return Ok(Answer::StartTls(length));
                }
            },
            _ => Err((NBD_REP_ERR_UNSUP, "unknown option")),
        };
        match done {
            Ok(()) => reply.send(NBD_REP_ACK, &[]),
            Err(refusal) => reply.refuse(refusal),
        }
        Ok(Answer::GoOn(length))
    }

    /// Begins anew behind TLS: anybody may have sent what came before it. The flags stay, as they are not sent again, and
    /// options are counted on.
    fn forget(&mut self) {
        let Handshake { flags, options, .. } = *self;
        let exports = self.exports.clone();
        let (tls, several) = (Tls::On, self.several);
        *self = Handshake { exports, tls, several, flags, options, structured: false, contexts: None };
    }

    fn client_flags(&mut self, input: &[u8]) -> Result<Answer, Flaw> {
        let Some(ClientFlags { flags }) = ClientFlags::parse(input) else {
            return Ok(Answer::More(ClientFlags::LENGTH));
        };
        if flags & !(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES) != 0 {
            return Err(Flaw::ClientFlags);
        }
        self.flags = Some(flags);
        Ok(Answer::GoOn(ClientFlags::LENGTH))
    }

    /// What was negotiated. Contexts count only for the export that they were chosen for.
    fn terms(&mut self, export: Arc<Export>) -> Terms {
        let chosen = self.contexts.take().filter(|(other, _)| Arc::ptr_eq(other, &export));
        let contexts = chosen.map(|(_, contexts)| contexts).unwrap_or_default();
        Terms { export, structured: self.structured, contexts }
    }

    fn list(&self, data: &[u8], reply: &mut Reply<'_>) -> Result<(), Refusal> {
        if !data.is_empty() {
            return Err(INVALID);
        }
        for export in self.exports.all() {
            // Fits: see `Exports::new`.
            let length = (export.name.len() as u32).to_be_bytes();
            reply.send(NBD_REP_SERVER, &[&length, export.name.as_bytes(), export.description.as_bytes()]);
        }
        Ok(())
    }

    /// `NBD_OPT_INFO`, and `NBD_OPT_GO` up to its acknowledgement.
    fn info(&self, data: &[u8], reply: &mut Reply<'_>) -> Result<Arc<Export>, Refusal> {
        let mut data = Data(data);
        let name = data.string()?;
        let count = data.u16()?;
        let wanted: Vec<u16> = (0..count).map(|_| data.u16()).collect::<Result<_, _>>()?;
        data.end()?;
        let export = self.exports.find(name).ok_or(UNKNOWN)?;
        let wants = |info| wanted.contains(&info);
        let mut bytes = Vec::new();
        let (size, flags) = (export.device.size(), export.flags(self.structured, self.several));
        InfoExport { info: NBD_INFO_EXPORT, size, flags }.put(&mut bytes);
        reply.send(NBD_REP_INFO, &[&bytes]);
        if wants(NBD_INFO_NAME) {
            reply.send(NBD_REP_INFO, &[&NBD_INFO_NAME.to_be_bytes(), export.name.as_bytes()]);
        }
        if wants(NBD_INFO_DESCRIPTION) && !export.description.is_empty() {
            reply.send(NBD_REP_INFO, &[&NBD_INFO_DESCRIPTION.to_be_bytes(), export.description.as_bytes()]);
        }
        if wants(NBD_INFO_BLOCK_SIZE) {
            bytes.clear();
            let (info, preferred) = (NBD_INFO_BLOCK_SIZE, PREFERRED_BLOCK);
            InfoBlockSize { info, minimum: 1, preferred, maximum: MAX_PAYLOAD }.put(&mut bytes);
            reply.send(NBD_REP_INFO, &[&bytes]);
        }
        Ok(export.clone())
    }

    fn list_contexts(&self, data: &[u8], reply: &mut Reply<'_>) -> Result<(), Refusal> {
        let (export, queries) = self.queries(data)?;
        let wanted = |context: &Context| queries.is_empty() || queries.iter().any(|query| context.answers(query, true));
        for context in export.contexts().filter(wanted) {
            reply.send(NBD_REP_META_CONTEXT, &[&0u32.to_be_bytes(), context.name().as_bytes()]);
        }
        Ok(())
    }

    fn set_contexts(&mut self, data: &[u8], reply: &mut Reply<'_>) -> Result<(), Refusal> {
        // Also if it fails.
        self.contexts = None;
        let (export, queries) = self.queries(data)?;
        let wanted = |context: &Context| queries.iter().any(|query| context.answers(query, false));
        let chosen: Vec<Context> = export.contexts().filter(wanted).collect();
        for (id, context) in (0u32..).zip(&chosen) {
            reply.send(NBD_REP_META_CONTEXT, &[&id.to_be_bytes(), context.name().as_bytes()]);
        }
        self.contexts = Some((export, chosen));
        Ok(())
    }

    /// The export and the queries of an option on metadata contexts.
    fn queries<'a>(&self, data: &'a [u8]) -> Result<(Arc<Export>, Vec<&'a [u8]>), Refusal> {
        if !self.structured {
            return Err((NBD_REP_ERR_INVALID, "metadata contexts need structured replies"));
        }
        let mut data = Data(data);
        let name = data.string()?;
        let count = data.u32()?;
        if count > MAX_QUERIES {
            return Err((NBD_REP_ERR_TOO_BIG, "too many queries"));
        }
        let queries = (0..count).map(|_| data.string()).collect::<Result<_, _>>()?;
        data.end()?;
        Ok((self.exports.find(name).ok_or(UNKNOWN)?, queries))
    }
}

/// Replies to one option.
struct Reply<'a> {
    option: u32,
    out: &'a mut Vec<u8>,
}

impl Reply<'_> {
    /// Sends one reply, its data in pieces.
    fn send(&mut self, reply: u32, data: &[&[u8]]) {
        let length = data.iter().map(|piece| piece.len() as u32).sum();
        OptionReply { magic: NBD_REP_MAGIC, option: self.option, reply, length }.put(self.out);
        data.iter().for_each(|piece| self.out.extend_from_slice(piece));
    }

    fn refuse(&mut self, (reply, words): Refusal) {
        self.send(reply, &[words.as_bytes()]);
    }
}

/// What is left of an option's data. Nothing is taken that is not there.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(INVALID)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, Refusal> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, Refusal> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Bytes with their length before them.
    fn string(&mut self) -> Result<&'a [u8], Refusal> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn end(&self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(INVALID) }
    }
}
