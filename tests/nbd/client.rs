//! A client of a few lines, which can also misbehave.

use lvd::nbd::proto::*;
use lvd::testing::nbd::{opening, request};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// A client of the export `disk` with structured replies and all its contexts.
pub struct Client<S = UnixStream> {
    pub stream: S,
    cookies: u64,
}

/// The replies to [`opening`].
fn fetch_opening(stream: &mut impl Read) {
    loop {
        let mut head = [0; OptionReply::LENGTH];
        stream.read_exact(&mut head).expect("a reply");
        let head = OptionReply::parse(&head).expect("all of it");
        let mut data = vec![0; head.length as usize];
        stream.read_exact(&mut data).expect("a reply");
        assert!(head.reply >> 31 == 0, "{}", String::from_utf8_lossy(&data));
        if (head.option, head.reply) == (NBD_OPT_GO, NBD_REP_ACK) {
            return;
        }
    }
}

impl Client {
    pub fn new(mut stream: UnixStream) -> Client {
        stream.write_all(&opening(true)).expect("sent");
        stream.read_exact(&mut [0; 18]).expect("a greeting");
        fetch_opening(&mut stream);
        Client { stream, cookies: 0 }
    }

    /// A client of another export, with structured replies and no contexts.
    #[allow(dead_code, reason = "each test binary uses a part")]
    pub fn of(mut stream: UnixStream, export: &str) -> Client {
        let mut bytes = Vec::new();
        ClientFlags { flags: NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES }.put(&mut bytes);
        let go = [&(export.len() as u32).to_be_bytes(), export.as_bytes(), &[0, 0]].concat();
        for (option, data) in [(NBD_OPT_STRUCTURED_REPLY, &[][..]), (NBD_OPT_GO, &go)] {
            OptionHead { magic: IHAVEOPT, option, length: data.len() as u32 }.put(&mut bytes);
            bytes.extend_from_slice(data);
        }
        stream.write_all(&bytes).expect("sent");
        stream.read_exact(&mut [0; 18]).expect("a greeting");
        fetch_opening(&mut stream);
        Client { stream, cookies: 0 }
    }
}

impl<S: Read + Write> Client<S> {
    /// A client that has been greeted, and that has sent its flags.
    pub fn greeted(mut stream: S) -> Client<S> {
        stream.write_all(&opening(true)[4..]).expect("sent");
        fetch_opening(&mut stream);
        Client { stream, cookies: 0 }
    }

    /// Sends a request, and returns its cookie.
    pub fn send(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) -> u64 {
        self.cookies += 1;
        self.stream.write_all(&request(command, 0, self.cookies, offset, length, data)).expect("sent");
        self.cookies
    }

    /// The next reply: its cookie, and what was read or the error.
    pub fn reply(&mut self) -> (u64, Result<Vec<u8>, u32>) {
        let (mut bytes, mut failed) = (Vec::new(), None);
        loop {
            let mut magic = [0; 4];
            self.stream.read_exact(&mut magic).expect("a reply");
            if u32::from_be_bytes(magic) == NBD_SIMPLE_REPLY_MAGIC {
                let rest = self.fetch(SimpleReply::LENGTH - 4);
                let reply = SimpleReply::parse(&[&magic[..], &rest].concat()).expect("all of it");
                return (reply.cookie, if reply.error == 0 { Ok(bytes) } else { Err(reply.error) });
            }
            let rest = self.fetch(ChunkHead::LENGTH - 4);
            let head = ChunkHead::parse(&[&magic[..], &rest].concat()).expect("all of it");
            assert_eq!(head.magic, NBD_STRUCTURED_REPLY_MAGIC);
            let payload = self.fetch(head.length as usize);
            match head.kind {
                NBD_REPLY_TYPE_OFFSET_DATA => bytes.extend_from_slice(&payload[8..]),
                NBD_REPLY_TYPE_OFFSET_HOLE => {
                    let hole = OffsetHole::parse(&payload).expect("all of it");
                    bytes.resize(bytes.len() + hole.size as usize, 0);
                }
                NBD_REPLY_TYPE_ERROR => failed = ErrorHead::parse(&payload).map(|head| head.error),
                _ => bytes.extend_from_slice(&payload),
            }
            if head.flags & NBD_REPLY_FLAG_DONE != 0 {
                return (head.cookie, failed.map_or(Ok(bytes), Err));
            }
        }
    }

    fn fetch(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("a reply");
        bytes
    }

    /// One request and its reply.
    pub fn ask(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) -> Result<Vec<u8>, u32> {
        let cookie = self.send(command, offset, length, data);
        let (answered, result) = self.reply();
        assert_eq!(answered, cookie);
        result
    }

    pub fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        self.ask(NBD_CMD_READ, offset, length, &[]).expect("read")
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.ask(NBD_CMD_WRITE, offset, data.len() as u32, data).expect("written");
    }
}
