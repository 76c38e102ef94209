//! The NBD client without sockets: a server's bytes come in, in pieces of any size, while the client reads, writes and
//! asks for holes, or for a bitmap.

use crate::nbd::client::{Connector, NbdBitmap, NbdStorage, Options};
use crate::nbd::proto::*;
use crate::nbd::{Shutdown, Socket};
use crate::storage::Storage;
use crate::sync::{Arc, Mutex, lock};
use std::io::{self, IoSlice};
use std::time::Duration;

const SIZE: u64 = 1 << 20;

/// A server that says what it is going to say, whatever the client does.
struct Script(Mutex<Saying>);

struct Saying {
    bytes: Vec<u8>,
    said: usize,
    /// Most bytes that arrive at once.
    piece: usize,
}

impl Socket for Script {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut saying = lock(&self.0);
        let rest = &saying.bytes[saying.said..];
        let count = rest.len().min(buffer.len()).min(saying.piece);
        buffer[..count].copy_from_slice(&rest[..count]);
        saying.said += count;
        saying.piece = saying.piece * 7 % 257 + 1;
        Ok(count)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn set_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&self, _: Shutdown) -> io::Result<()> {
        Ok(())
    }
}

/// A server's bytes up to the transmission, for a disk of 1 MiB: simple replies, or structured ones with a `context`.
fn opening(context: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    Greeting { magic: NBDMAGIC, newstyle: IHAVEOPT, flags: NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES }.put(&mut out);
    let mut reply = |option, reply, data: &[u8]| {
        OptionReply { magic: NBD_REP_MAGIC, option, reply, length: data.len() as u32 }.put(&mut out);
        out.extend_from_slice(data);
    };
    if let Some(context) = context {
        reply(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, &[]);
        reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, &[b"\0\0\0\x01", context.as_bytes()].concat());
        reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, &[]);
    } else {
        reply(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_UNSUP, &[]);
    }
    let mut info = Vec::new();
    let flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_WRITE_ZEROES;
    InfoExport { info: NBD_INFO_EXPORT, size: SIZE, flags }.put(&mut info);
    reply(NBD_OPT_GO, NBD_REP_INFO, &info);
    reply(NBD_OPT_GO, NBD_REP_ACK, &[]);
    out
}

/// What a fuzzer's bytes describe: messages that have their form, wrong in any field, and bytes that have none.
fn messages(mut input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(([kind, which, at, count], rest)) = input.split_first_chunk::<4>() {
        // A caller's number, and the number of its request.
        let cookie = u64::from(which >> 3) << 16 | u64::from(which & 7);
        let (offset, length) = (u64::from(*at) << 9, u32::from(*count));
        let (data, after) = rest.split_at(rest.len().min(usize::from(*count)));
        input = after;
        let flags = u16::from(kind >> 7);
        let mut chunk = |kind, length| {
            let magic = NBD_STRUCTURED_REPLY_MAGIC;
            ChunkHead { magic, flags, kind, cookie, length }.put(&mut out);
        };
        match kind & 7 {
            0 => SimpleReply { magic: NBD_SIMPLE_REPLY_MAGIC, error: u32::from(*at), cookie }.put(&mut out),
            1 => chunk(NBD_REPLY_TYPE_NONE, 0),
            2 => {
                chunk(NBD_REPLY_TYPE_OFFSET_DATA, 8 + data.len() as u32);
                OffsetData { offset }.put(&mut out);
                out.extend_from_slice(data);
            }
            3 => {
                chunk(NBD_REPLY_TYPE_OFFSET_HOLE, 12);
                OffsetHole { offset, size: length << 9 }.put(&mut out);
            }
            4 => {
                chunk(NBD_REPLY_TYPE_BLOCK_STATUS, 4 + 8 * data.len() as u32);
                BlockStatus { context: 1 }.put(&mut out);
                for byte in data {
                    Descriptor { length: u32::from(*byte) << 12, flags: u32::from(byte & 3) }.put(&mut out);
                }
            }
            5 => {
                chunk(NBD_REPLY_TYPE_ERROR, 6 + data.len() as u32);
                ErrorHead { error: u32::from(*at), length: data.len() as u16 }.put(&mut out);
                out.extend_from_slice(data);
            }
            _ => out.extend_from_slice(data),
        }
    }
    out
}

/// What the fuzz target does: the first byte says how the server begins, the second into which pieces its bytes fall.
pub fn play(input: &[u8]) {
    let Some(([begin, piece], rest)) = input.split_first_chunk::<2>() else { return };
    let bytes = match begin % 4 {
        0 => rest.to_vec(),
        1 => [opening(Some("base:allocation")), messages(rest)].concat(),
        2 => [opening(None), messages(rest)].concat(),
        _ => [opening(Some("qemu:dirty-bitmap:b")), messages(rest)].concat(),
    };
    let saying = Saying { bytes, said: 0, piece: usize::from(*piece) + 1 };
    let script: Arc<dyn Socket> = Arc::new(Script(Mutex::new(saying)));
    let connector: Connector = Box::new(move || Ok(script.clone()));
    let options = Options { write: true, connections: 1, reconnect: Duration::ZERO, tls: None };
    if begin % 4 == 3 {
        let bitmap = NbdBitmap::connect("server".into(), "disk".into(), "b", connector, options);
        let dirty = bitmap.and_then(|bitmap| bitmap.dirty()).unwrap_or_default();
        assert!(dirty.iter().all(|range| range.start < range.end && range.end <= SIZE), "{dirty:?}");
        assert!(dirty.windows(2).all(|pair| pair[0].end < pair[1].start), "{dirty:?}");
        return;
    }
    let Ok(client) = NbdStorage::connect("server".into(), "disk".into(), connector, options) else { return };
    let size = client.size().expect("known");
    let (mut first, mut second) = ([0; 4096], [0; 300]);
    for round in 0..4 {
        // Whatever comes of each: a connection that is lost stays lost.
        let _ = client.read_batch(&mut [(0, &mut first), (9000, &mut second)]);
        let _ = client.write_batch(&[(512, &first), (100_000, &second)]);
        if let Ok(Some(data)) = client.next_data(round * 5000..SIZE) {
            assert!(round * 5000 <= data.start && data.start < data.end && data.end <= SIZE.min(size), "{data:?}");
        }
        let _ = client.punch(0..10_000);
        let _ = client.sync();
    }
}
