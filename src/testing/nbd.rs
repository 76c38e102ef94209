//! The protocol of the NBD server without sockets: bytes of a client go in, in pieces of any size, and what comes out
//! is held against the rules of `doc/proto.md`.

use crate::device::{BlockDevice, Extent, ExtentKind};
use crate::error::{Error, Result};
use crate::nbd::proto::*;
use crate::nbd::server::{
    Answer, Command, Export, ExportDevice, Exports, Flaw, Handshake, Parsed, Replies, Request, Tls, Transmission,
};
use crate::nbd::{MAX_OPTION, MAX_PAYLOAD};
use crate::sync::{Arc, Mutex, lock};
use crate::zeros;
use std::collections::VecDeque;
use std::ops::Range;

/// A disk in memory, told of in units of 4 KiB: those that are all zero are holes, every fourth is dirty, every third
/// lies in the layer below.
#[derive(Debug)]
pub struct Memory(Mutex<Vec<u8>>);

const UNIT: u64 = 4096;

impl Memory {
    /// A disk of `size` bytes, of which every other unit is zeros, the first among them.
    pub fn new(size: usize) -> Memory {
        let mut bytes = vec![0; size];
        let data = bytes.chunks_mut(UNIT as usize).enumerate().filter(|(unit, _)| unit % 2 == 1);
        data.for_each(|(unit, bytes)| bytes.fill((unit % 250) as u8 + 1));
        Memory(Mutex::new(bytes))
    }

    fn change(&self, range: Range<u64>, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut bytes = lock(&self.0);
        let place = range.start as usize..range.end as usize;
        bytes.get_mut(place).map(change).ok_or_else(|| Error::Invalid("outside".into()))
    }
}

impl BlockDevice for Memory {
    fn size(&self) -> u64 {
        lock(&self.0).len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.change(offset..offset + buffer.len() as u64, |bytes| buffer.copy_from_slice(bytes))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.change(offset..offset + data.len() as u64, |bytes| bytes.copy_from_slice(data))
    }

    fn write_zeroes(&self, range: Range<u64>, _: bool) -> Result<()> {
        self.change(range, |bytes| bytes.fill(0))
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.write_zeroes(range, true)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        let (unit, end) = (offset / UNIT, end.min((offset / UNIT + 1) * UNIT));
        let mut kind = ExtentKind::Data;
        self.change(offset..end, |bytes| {
            if zeros::is_zero(bytes) {
                kind = ExtentKind::Zero;
            }
        })?;
        let depth = usize::from(unit.is_multiple_of(3));
        Ok(Extent { range: offset..end, kind, present: unit % 5 != 4, depth, place: None })
    }
}

impl ExportDevice for Memory {
    fn bitmap_run(&self, _: &str, offset: u64, end: u64) -> Result<(bool, u64)> {
        Ok(((offset / UNIT).is_multiple_of(4), end.min((offset / UNIT + 1) * UNIT)))
    }

    fn zeroes_fast(&self) -> bool {
        true
    }
}

/// Two exports: `disk` of `size` bytes with the bitmap `b0`, and `locked`, which is read-only and smaller by half.
pub fn exports(size: usize) -> Exports {
    let export = |name: &str, size, read_only| Export {
        name: name.into(),
        description: if read_only { String::new() } else { "a disk".into() },
        read_only,
        write_through: false,
        bitmaps: if read_only { Vec::new() } else { vec!["b0".into()] },
        device: Arc::new(Memory::new(size)),
    };
    Exports::new(vec![export("disk", size, false), export("locked", size / 2, true)]).expect("two names")
}

/// Where a dialogue stands.
#[derive(Debug)]
enum Phase {
    Handshake(Handshake),
    Transmission(Transmission),
    Over,
}

/// One client and the protocol's side of a server, which carries out one request after the other.
#[derive(Debug)]
pub struct Dialogue {
    phase: Phase,
    tls: Tls,
    /// What has arrived and is not dealt with.
    inbox: Vec<u8>,
    /// What the server has sent.
    pub sent: Vec<u8>,
    /// What was understood, in words, and the cookies that are to be answered.
    pub events: Vec<String>,
    cookies: VecDeque<(u64, Option<Range<u64>>)>,
    /// Why the connection ended, if the client is to blame.
    pub flaw: Option<Flaw>,
    structured: bool,
}

impl Dialogue {
    /// Begins, with the server's greeting.
    pub fn new(exports: Exports, tls: Tls) -> Dialogue {
        let mut sent = Vec::new();
        let phase = Phase::Handshake(Handshake::new(Arc::new(exports), tls, true, &mut sent));
        let (inbox, events, cookies) = (Vec::new(), Vec::new(), VecDeque::new());
        Dialogue { phase, tls, inbox, sent, events, cookies, flaw: None, structured: false }
    }

    /// Some bytes arrive from the client.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        while let Some(taken) = self.step() {
            self.inbox.drain(..taken);
        }
        // A server needs to keep one message that is not complete.
        let most = MAX_OPTION.max(MAX_PAYLOAD) as usize + RequestHead::LENGTH;
        assert!(matches!(self.phase, Phase::Over) || self.inbox.len() <= most, "unbounded memory");
    }

    /// Whether the server has ended the connection.
    pub fn over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Deals with one message; `None` if there is none.
    fn step(&mut self) -> Option<usize> {
        let before = self.sent.len();
        match &mut self.phase {
            Phase::Over => None,
            Phase::Handshake(handshake) => {
                let answer = handshake.next(&self.inbox, &mut self.sent);
                self.events.extend((self.sent.len() > before).then(|| format!("{:x?}", &self.sent[before..])));
                match answer {
                    Ok(Answer::More(wanted)) => {
                        assert!(wanted > self.inbox.len(), "waits for what is there");
                        assert!(wanted <= OptionHead::LENGTH + MAX_OPTION as usize, "wants {wanted} bytes");
                        None
                    }
                    Ok(Answer::GoOn(taken)) => {
                        let told = OptionReply::parse(&self.sent[before..]);
                        let told = told.filter(|_| self.tls == Tls::Required).map(|reply| reply.reply);
                        let harmless = [NBD_REP_ERR_TLS_REQD, NBD_REP_ERR_INVALID];
                        assert!(told.is_none_or(|told| harmless.contains(&told)), "told without TLS: {told:x?}");
                        Some(taken)
                    }
                    Ok(Answer::StartTls(_)) => {
                        assert_eq!(self.tls, Tls::Required);
                        self.tls = Tls::On;
                        // All of it is for TLS. What is fed from here on has come out of it.
                        Some(self.inbox.len())
                    }
                    Ok(Answer::Chosen(taken, terms)) => {
                        assert_ne!(self.tls, Tls::Required);
                        let (name, contexts) = (&terms.export.name, &terms.contexts);
                        self.events.push(format!("{name:?} {} {contexts:?}", terms.structured));
                        self.structured = terms.structured;
                        self.phase = Phase::Transmission(Transmission::new(terms));
                        Some(taken)
                    }
                    Ok(Answer::Abort) => self.end(None),
                    Err(flaw) => self.end(Some(flaw)),
                }
            }
            Phase::Transmission(transmission) => match transmission.next(&self.inbox) {
                Ok(Parsed::More(wanted)) => {
                    assert!(wanted > self.inbox.len(), "waits for what is there");
                    assert!(wanted <= RequestHead::LENGTH + MAX_PAYLOAD as usize, "wants {wanted} bytes");
                    None
                }
                Ok(Parsed::Request(taken, request)) => {
                    self.events.push(format!("{request:?}"));
                    if request.command == Command::Disc {
                        return self.end(None);
                    }
                    let read = match &request.command {
                        Command::Read { range, .. } => Some(range.clone()),
                        _ => None,
                    };
                    self.cookies.push_back((request.cookie, read));
                    carry_out(transmission, request, &mut self.sent);
                    self.answered(before);
                    Some(taken)
                }
                Err(flaw) => self.end(Some(flaw)),
            },
        }
    }

    fn end(&mut self, flaw: Option<Flaw>) -> Option<usize> {
        self.flaw = flaw;
        self.phase = Phase::Over;
        None
    }

    /// Holds what was sent since `before` against the request that it answers.
    fn answered(&mut self, before: usize) {
        let Some((cookie, read)) = self.cookies.pop_front() else { unreachable!("there was a request") };
        let length = read.as_ref().map_or(0, |range| range.end - range.start);
        let mut sent = &self.sent[before..];
        let mut covered = 0;
        let mut failed = false;
        loop {
            let simple = SimpleReply::parse(sent).filter(|reply| reply.magic == NBD_SIMPLE_REPLY_MAGIC);
            if let Some(reply) = simple {
                assert!(!self.structured || read.is_none(), "a read gets structured replies");
                let data = if reply.error == 0 { length as usize } else { 0 };
                assert_eq!(reply.cookie, cookie);
                assert_eq!(sent.len(), SimpleReply::LENGTH + data);
                return;
            }
            let head = ChunkHead::parse(sent).expect("a reply");
            assert_eq!((head.magic, head.cookie), (NBD_STRUCTURED_REPLY_MAGIC, cookie));
            assert!(self.structured, "structured replies were negotiated");
            let (payload, rest) = sent[ChunkHead::LENGTH..].split_at(head.length as usize);
            match head.kind {
                NBD_REPLY_TYPE_NONE => assert!(payload.is_empty()),
                NBD_REPLY_TYPE_OFFSET_DATA => {
                    assert!(payload.len() > OffsetData::LENGTH);
                    covered += (payload.len() - OffsetData::LENGTH) as u64;
                }
                NBD_REPLY_TYPE_OFFSET_HOLE => {
                    covered += u64::from(OffsetHole::parse(payload).expect("a hole").size);
                }
                NBD_REPLY_TYPE_BLOCK_STATUS => assert!(payload.len() > 4 && payload.len() % 8 == 4),
                NBD_REPLY_TYPE_ERROR => {
                    let error = ErrorHead::parse(payload).expect("an error");
                    assert_eq!(payload.len(), ErrorHead::LENGTH + usize::from(error.length));
                    failed = true;
                }
                kind => panic!("a chunk of type {kind}"),
            }
            sent = rest;
            if head.flags & NBD_REPLY_FLAG_DONE != 0 {
                assert!(sent.is_empty(), "something after the last chunk");
                assert!(failed || covered == length, "{covered} bytes of {length}");
                return;
            }
        }
    }
}

/// What a server does with a request, one by one and at once.
fn carry_out(transmission: &Transmission, request: Request<'_>, sent: &mut Vec<u8>) {
    let terms = transmission.terms();
    let (device, cookie) = (&*terms.export.device, request.cookie);
    let mut replies = Replies::new(terms.structured);
    let mut memory = Vec::new();
    let done = match request.command {
        Command::Read { range, df } => {
            memory = vec![0; (range.end - range.start) as usize];
            device.read_at(&mut memory, range.start).expect("within the disk");
            replies.read(cookie, range.start, &memory, 0..memory.len(), df);
            None
        }
        Command::BlockStatus { range, one } => {
            let found = terms.describe(range, one).expect("within the disk");
            replies.block_status(cookie, &found);
            None
        }
        Command::Refused(errno) => {
            replies.error(cookie, errno);
            None
        }
        Command::Write { offset, data, .. } => Some(device.write_at(data, offset)),
        Command::WriteZeroes { range, unmap, .. } => Some(device.write_zeroes(range, unmap)),
        Command::Trim { range, .. } => Some(device.discard(range)),
        Command::Disc | Command::Flush | Command::Cache { .. } => Some(Ok(())),
    };
    if let Some(done) = done {
        done.expect("within the disk, and allowed");
        replies.done(cookie);
    }
    replies.slices(&memory).iter().for_each(|slice| sent.extend_from_slice(slice));
}

/// A client's bytes up to the transmission: simple replies, or structured ones with all contexts.
pub fn opening(structured: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    ClientFlags { flags: NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES }.put(&mut bytes);
    let mut option = |option, data: &[u8]| {
        OptionHead { magic: IHAVEOPT, option, length: data.len() as u32 }.put(&mut bytes);
        bytes.extend_from_slice(data);
    };
    let string = |text: &str| [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat();
    if structured {
        option(NBD_OPT_STRUCTURED_REPLY, &[]);
        let queries = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"];
        let data = [string("disk"), 3u32.to_be_bytes().to_vec(), queries.map(string).concat()].concat();
        option(NBD_OPT_SET_META_CONTEXT, &data);
    }
    option(NBD_OPT_GO, &[string("disk"), vec![0, 0]].concat());
    bytes
}

/// A request's bytes.
pub fn request(command: u16, flags: u16, cookie: u64, offset: u64, length: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    RequestHead { magic: NBD_REQUEST_MAGIC, flags, command, cookie, offset, length }.put(&mut bytes);
    bytes.extend_from_slice(data);
    bytes
}

/// What the fuzz target does: the first byte says whether TLS is required and how the client begins, the second into
/// which pieces its bytes fall.
pub fn play(input: &[u8]) {
    let Some(([begin, pieces], bytes)) = input.split_first_chunk::<2>() else { return };
    let tls = if *begin < 128 { Tls::Off } else { Tls::Required };
    let mut dialogue = Dialogue::new(exports(96 << 10), tls);
    match begin % 3 {
        0 => {}
        kind => dialogue.feed(&opening(kind == 1)),
    }
    let mut rest = bytes;
    let mut piece = usize::from(*pieces) + 1;
    while !rest.is_empty() && !dialogue.over() {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        dialogue.feed(now);
        // Only what is kept between messages may count as the server's memory.
        dialogue.sent.clear();
        dialogue.events.clear();
        (rest, piece) = (later, piece * 7 % 257 + 1);
    }
}
