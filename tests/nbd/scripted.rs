//! The NBD client and servers of which every byte is known: what it makes of those that mean harm.

use crate::remote::writing;
use lvd::Error;
use lvd::nbd::Socket;
use lvd::nbd::client::{Connector, NbdBitmap, NbdStorage, Options};
use lvd::nbd::proto::*;
use lvd::storage::Storage;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// A server of these bytes, which then hears what the client says until it goes.
fn script(bytes: Vec<u8>) -> Connector {
    Box::new(move || {
        let (ours, mut theirs) = UnixStream::pair()?;
        let bytes = bytes.clone();
        thread::spawn(move || {
            let _ = theirs.write_all(&bytes);
            let _ = theirs.shutdown(std::net::Shutdown::Write);
            let _ = io::copy(&mut theirs, &mut io::sink());
        });
        Ok(Arc::new(ours) as Arc<dyn Socket>)
    })
}

/// Numbers as wide as their digits say, big endian; anything that begins with a quotation mark is text.
fn bytes(fields: &str) -> Vec<u8> {
    let field = |field: &str| match field.strip_prefix('\'') {
        Some(text) => text.as_bytes().to_vec(),
        None => (0..field.len()).step_by(2).map(|at| u8::from_str_radix(&field[at..at + 2], 16).unwrap()).collect(),
    };
    fields.split_whitespace().flat_map(field).collect()
}

const GREETING: &str = "4e42444d41474943 49484156454f5054 0003 ";
const STRUCTURED: &str = "0003e889045565a9 00000008 00000001 00000000 ";
const NO_STRUCTURED: &str = "0003e889045565a9 00000008 80000001 00000000 ";
const CONTEXT: &str = "0003e889045565a9 0000000a 00000004 00000013 00000005 'base:allocation \
                       0003e889045565a9 0000000a 00000001 00000000 ";
const NO_CONTEXT: &str = "0003e889045565a9 0000000a 80000001 00000000 ";
/// 1 MiB, with flush, FUA and zeroes.
const GO: &str = "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 004d \
                  0003e889045565a9 00000007 00000001 00000000 ";

fn refused(parts: &[&str]) -> String {
    let options = writing(1, Duration::ZERO);
    let opened = NbdStorage::connect("remote".into(), "disk".into(), script(bytes(&parts.concat())), options);
    opened.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn handshakes_that_lead_nowhere() {
    for (parts, why) in [
        (&[""][..], "the server ended the connection"),
        (&["'HTTP/1.1_400_Bad_Request"], "it is no NBD server"),
        (&["4e42444d41474943 00420281861253 0000000000100000"], "the server speaks the protocol of before 2010"),
        (&[GREETING, "0003e889045565a9 00000007 00000001 00000000"], "the server sent something that is no reply"),
        (&[GREETING, "0003e889045565a8 00000008 00000001 00000000"], "the server sent something that is no reply"),
        (
            &[GREETING, "0003e889045565a9 00000008 00000001 00010001"],
            "the server sent a message of an impossible length",
        ),
        (&[GREETING, "0003e889045565a9 00000008 80000005 00000000"], "the server wants TLS"),
        (
            &[GREETING, "0003e889045565a9 00000008 00000003 00000000"],
            "the server sent a reply that its option does not have",
        ),
        (&[GREETING, NO_STRUCTURED, "0003e889045565a9 00000007 80000006 00000000"], "the server has no such export"),
        (
            &[GREETING, NO_STRUCTURED, "0003e889045565a9 00000007 80000002 00000005 'not ", "0a '!"],
            "the server does not give the export: not\\n!",
        ),
        (
            &[GREETING, NO_STRUCTURED, "0003e889045565a9 00000007 00000001 00000000"],
            "the server sent a reply that its option does not have",
        ),
        (
            &[GREETING, NO_STRUCTURED, "0003e889045565a9 00000007 00000003 00000004 0000 0000"],
            "the server sent a reply that its option does not have",
        ),
        (
            &[GREETING, NO_STRUCTURED, "0003e889045565a9 00000007 00000003 0000000e 0003 00000003 00001000 02000000"],
            "the server's sizes of blocks make no sense",
        ),
    ] {
        let error = refused(parts);
        assert_eq!(error, format!("remote: no connection: {why}"), "{parts:?}");
    }
    let endless = "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 004d ".repeat(1100);
    assert!(refused(&[GREETING, NO_STRUCTURED, &endless]).ends_with("the server sent too many replies"));
    let huge = GO.replace("0000000000100000", "7fffffffffffffff");
    assert!(refused(&[GREETING, NO_STRUCTURED, &huge]).ends_with("larger than any can be"));
    let no_flush = GO.replace("004d", "0001");
    assert!(refused(&[GREETING, NO_STRUCTURED, &no_flush]).ends_with("no way to make durable what is written to it"));
}

/// The client of a server that gives 1 MiB, and then says this.
fn after(opening: &[&str], replies: &str) -> NbdStorage {
    let connector = script(bytes(&format!("{}{replies}", opening.concat())));
    NbdStorage::connect("remote".into(), "disk".into(), connector, writing(1, Duration::ZERO)).expect("connected")
}

#[test]
fn handshakes_that_lead_somewhere() {
    let mut buffer = [0; 4];
    let simple = "67446698 00000000 0000000000000000 'four ";
    // The greeting without the fixed newstyle has one option, and no reply but this; GO may be unknown.
    for opening in [
        &["4e42444d41474943 49484156454f5054 0002 ", "0000000000100000 0005 "][..],
        &[GREETING, NO_STRUCTURED, "0003e889045565a9 00000007 80000001 00000000 ", "0000000000100000 0005 "],
        &[GREETING, NO_STRUCTURED, GO],
    ] {
        after(opening, simple).read_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"four");
    }
    let zeroes = "00".repeat(124);
    after(&["4e42444d41474943 49484156454f5054 0000 ", "0000000000100000 0005 ", &zeroes], simple)
        .read_at(&mut buffer, 0)
        .unwrap();
    // No contexts; chunks in any order.
    let chunks = "668e33ef 0000 0002 0000000000000000 0000000c 0000000000000002 00000002 \
                  668e33ef 0001 0001 0000000000000000 0000000a 0000000000000000 'to ";
    after(&[GREETING, STRUCTURED, NO_CONTEXT, GO], chunks).read_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"to\0\0");
}

#[test]
fn replies_that_are_none() {
    let structured = [GREETING, STRUCTURED, CONTEXT, GO];
    for (replies, why) in [
        ("", "the server ended the connection"),
        ("67446699 00000000 0000000000000000", "the server sent something that is no reply"),
        // A simple reply to a read, though structured ones were agreed upon.
        ("67446698 00000000 0000000000000000 'four", "the server sent a chunk that its request does not have"),
        ("668e33ef 0001 0000 0000000000000001 00000000", "the server answered what was not asked"),
        ("668e33ef 0001 0000 0000000000010000 00000000", "the server answered what was not asked"),
        ("668e33ef 0001 0000 0000000000000000 00000000", "the server left out some of what was asked for"),
        ("668e33ef 0001 0000 0000000000000000 00000001 00", "the server sent a message of an impossible length"),
        ("668e33ef 0001 0003 0000000000000000 00000000", "the server sent a chunk that its request does not have"),
        ("668e33ef 0001 0001 0000000000000000 00000004 00000000", "the server sent a message of an impossible length"),
        ("668e33ef 0001 0001 0000000000000000 ffffffff", "the server sent a message of an impossible length"),
        // More than was asked for, beside it, all of it twice, and nothing.
        (
            "668e33ef 0001 0001 0000000000000000 0000000d 0000000000000000 'fours",
            "the server sent data that was not asked for",
        ),
        (
            "668e33ef 0001 0001 0000000000000000 0000000c 0000000000000001 'four",
            "the server sent data that was not asked for",
        ),
        (
            "668e33ef 0001 0001 0000000000000000 0000000c ffffffffffffffff 'four",
            "the server sent data that was not asked for",
        ),
        (
            "668e33ef 0000 0002 0000000000000000 0000000c 0000000000000000 00000003 \
             668e33ef 0001 0002 0000000000000000 0000000c 0000000000000000 00000001",
            "the server sent data that was not asked for",
        ),
        (
            "668e33ef 0000 0002 0000000000000000 0000000c 0000000000000000 00000000",
            "the server sent data that was not asked for",
        ),
        (
            "668e33ef 0001 0005 0000000000000000 0000000c 00000005 00001000 00000000",
            "the server sent a chunk that its request does not have",
        ),
        ("668e33ef 0001 0005 0000000000000000 00000004 00000005", "the server sent a message of an impossible length"),
    ] {
        let error = after(&structured, replies).read_at(&mut [0; 4], 0).unwrap_err().to_string();
        assert_eq!(error, format!("remote: no connection: {why}"), "{replies}");
    }
    let error = "668e33ef 0001 8001 0000000000000000 0000000b 00000005 0005 'bad\u{1b}! ";
    let error = after(&structured, error).read_at(&mut [0; 4], 0).unwrap_err().to_string();
    assert_eq!(error, "remote: cannot read: the server says: input/output error (bad\\u{1b}!)");
    let full = after(&[GREETING, NO_STRUCTURED, GO], "67446698 0000001c 0000000000000000");
    assert!(matches!(full.write_at(&[1], 0), Err(Error::NoSpace { .. })));
}

/// A server that is there again each time, and each time dies of the same request, is not asked for ever.
#[test]
fn a_request_that_no_server_survives() {
    let said = [GREETING, STRUCTURED, CONTEXT, GO, "67446699 00000000 0000000000000000"].concat();
    let options = writing(1, Duration::from_millis(500));
    let client = NbdStorage::connect("remote".into(), "disk".into(), script(bytes(&said)), options).unwrap();
    let (done, result) = std::sync::mpsc::channel();
    thread::spawn(move || done.send(client.read_at(&mut [0; 4], 0)));
    let error = result.recv_timeout(Duration::from_secs(20)).expect("an end").unwrap_err().to_string();
    assert_eq!(error, "remote: no connection: the server sent something that is no reply");
}

/// What a server says of holes may go past the disk or be nothing at all; it never makes data of zeros or an endless loop.
#[test]
fn statuses_that_go_too_far() {
    let structured = [GREETING, STRUCTURED, CONTEXT, GO];
    let status = |descriptors: &str| {
        let length = 4 + descriptors.split_whitespace().map(|field| field.len() / 2).sum::<usize>();
        format!("668e33ef 0001 0005 0000000000000000 {length:08x} 00000005 {descriptors}")
    };
    let first_data = |replies: &str| after(&structured, replies).next_data(0..1 << 20);
    assert_eq!(first_data(&status("ffffffff 00000003")).unwrap(), None);
    assert_eq!(first_data(&status("00001000 00000003 ffffffff 00000000")).unwrap(), Some(0x1000..1 << 20));
    // A descriptor of no length says nothing.
    assert_eq!(first_data(&status("00000000 00000003")).unwrap(), Some(0..1 << 20));
    let holes = "00000001 00000003 00000001 00000000 ".repeat(1000);
    assert_eq!(first_data(&status(&holes)).unwrap(), Some(1..2));
}

/// What a server tells of a bitmap goes no further than the disk, and each of its replies says something.
#[test]
fn bitmaps_that_go_too_far() {
    let context = CONTEXT.replace("00000013 00000005 'base:allocation", "00000018 00000005 'qemu:dirty-bitmap:b0");
    let open = |context: &str, replies: &str| {
        let connector = script(bytes(&[GREETING, STRUCTURED, context, GO, replies].concat()));
        NbdBitmap::connect("remote".into(), "disk".into(), "b0", connector, Options::default())
    };
    let status = |number: u64, of: u32, descriptors: &str| {
        let length = 4 + descriptors.split_whitespace().map(|field| field.len() / 2).sum::<usize>();
        format!("668e33ef 0001 0005 {:016x} {length:08x} {of:08x} {descriptors} ", number << 16)
    };
    let dirty = |replies: &str| open(&context, replies).expect("opened").dirty().map_err(|error| error.to_string());
    let mib = 1 << 20;
    assert_eq!(dirty(&status(0, 5, "ffffffff 00000001")), Ok(vec![0..mib]));
    assert_eq!(dirty(&status(0, 5, "00001000 00000000 00001000 00000003 ffffffff 00000002")), Ok(vec![4096..8192]));
    // What is left out is asked for.
    let parts =
        status(0, 5, "00001000 00000001") + &status(1, 5, "00001000 00000000") + &status(2, 5, "000fe000 00000001");
    assert_eq!(dirty(&parts), Ok(vec![0..4096, 8192..mib]));
    // Parts of granules are whole ones.
    assert_eq!(dirty(&status(0, 5, "00000001 00000000 00000001 00000001 ffffffff 00000000")), Ok(vec![0..4096]));
    for (replies, why) in [
        (status(0, 5, "00000000 00000001"), "left out some"),
        (status(0, 5, "00001000 00000001"), "the server ended the connection"),
        (status(0, 6, "00100000 00000000"), "a chunk that its request does not have"),
        ("668e33ef 0001 0000 0000000000000000 00000000".into(), "left out some"),
        ("668e33ef 0001 8001 0000000000000000 00000006 00000005 0000".into(), "the server says: input/output error"),
    ] {
        let error = dirty(&replies).unwrap_err();
        assert!(error.starts_with("remote: ") && error.contains(why), "{error}");
    }
    for none in [NO_CONTEXT, "0003e889045565a9 0000000a 00000001 00000000 "] {
        let error = open(none, "").map(drop).unwrap_err().to_string();
        assert_eq!(error, "remote: the server tells of no bitmap \"b0\"");
    }
    let error = open(CONTEXT, "").map(drop).unwrap_err().to_string();
    assert!(error.contains("a reply that its option does not have"), "{error}");
}

/// A server that reads nothing and sends nothing is not waited for without end.
#[test]
fn a_silent_server_is_not_waited_for() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&bytes(GREETING)).unwrap();
    let ours = Arc::new(ours);
    ours.set_timeout(Some(Duration::from_millis(1))).unwrap();
    let begun = std::time::Instant::now();
    let connector: Connector = Box::new(move || Ok(ours.clone()));
    let error = NbdStorage::connect("remote".into(), "disk".into(), connector, Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "remote: no connection: the server does not answer");
    assert!(begun.elapsed() >= Duration::from_secs(9), "it has ten seconds");
    theirs.read_exact(&mut [0; 4]).expect("the client's flags");
}

/// Ends a connection also when a test fails.
struct HangUp<'a>(&'a UnixStream);

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// A server that sends megabytes of answers to a caller that is still sending: nobody keeps all of them.
#[test]
fn answers_to_a_caller_that_sends_have_a_limit() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    theirs.write_all(&bytes(&[GREETING, STRUCTURED, CONTEXT, GO].concat())).unwrap();
    let ours = Arc::new(ours);
    let connector: Connector = Box::new(move || Ok(ours.clone()));
    let client = NbdStorage::connect("remote".into(), "disk".into(), connector, writing(1, Duration::ZERO)).unwrap();
    thread::scope(|scope| {
        let _hang_up = HangUp(&theirs);
        let reader = scope.spawn(|| client.read_at(&mut [0; 4], 0));
        // The options, and the head of the read.
        thread::sleep(Duration::from_millis(100));
        // Nobody takes what this one sends.
        let writer = scope.spawn(|| client.write_at(&vec![1; 1 << 20], 0));
        thread::sleep(Duration::from_millis(100));
        let mut chunk = bytes("668e33ef 0000 0005 0000000000010000 00800004 00000005");
        chunk.resize(chunk.len() + (8 << 20), 0);
        let taken = (0..8).take_while(|_| (&theirs).write_all(&chunk).is_ok()).count();
        assert!(taken < 8, "all of it is kept");
        for failed in [reader.join().unwrap(), writer.join().unwrap()] {
            let error = failed.unwrap_err().to_string();
            assert_eq!(error, "remote: no connection: the server sent a chunk that its request does not have");
        }
    });
}

/// A server that answers the first half of a batch of writes, and then sends what another caller reads before it takes the
/// second half. The answer must not wait for the writer, who is still sending: nobody would read, and all would wait.
#[test]
fn nobody_waits_for_a_caller_that_sends() {
    const LENGTH: usize = 4 << 20;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    for timeout in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        timeout(&theirs, Some(Duration::from_secs(20))).unwrap();
    }
    theirs.write_all(&bytes(&[GREETING, NO_STRUCTURED, &GO.replace("100000", "800000")].concat())).unwrap();
    let ours = Arc::new(ours);
    let connector: Connector = Box::new(move || Ok(ours.clone()));
    let client = NbdStorage::connect("remote".into(), "disk".into(), connector, writing(1, Duration::ZERO)).unwrap();
    thread::scope(|scope| {
        let _hang_up = HangUp(&theirs);
        let reader = scope.spawn(|| {
            let mut all = vec![0; LENGTH];
            client.read_at(&mut all, 0).unwrap();
            all
        });
        let head = || {
            let mut bytes = [0; RequestHead::LENGTH];
            (&theirs).read_exact(&mut bytes).unwrap();
            RequestHead::parse(&bytes).unwrap()
        };
        // What the client said while it haggled.
        let mut options = [0; 4 + 16 + 16 + 12];
        (&theirs).read_exact(&mut options).unwrap();
        let read = head();
        let writer = scope.spawn(|| {
            let data = vec![1; LENGTH / 2];
            client.write_batch(&[(0, &data), (LENGTH as u64, &data)]).unwrap();
        });
        let done = |cookie| {
            let mut bytes = Vec::new();
            SimpleReply { magic: NBD_SIMPLE_REPLY_MAGIC, error: 0, cookie }.put(&mut bytes);
            bytes
        };
        let write = || {
            let head = head();
            (&theirs).read_exact(&mut vec![0; head.length as usize]).unwrap();
            head
        };
        let first = write();
        (&theirs).write_all(&done(first.cookie)).unwrap();
        (&theirs).write_all(&[done(read.cookie), vec![7; LENGTH]].concat()).expect("somebody reads");
        let second = write();
        (&theirs).write_all(&done(second.cookie)).unwrap();
        writer.join().unwrap();
        assert!(reader.join().unwrap() == vec![7; LENGTH]);
    });
}

#[test]
fn far_past_the_end_of_large_blocks_there_are_zeros() {
    let blocks = "0003e889045565a9 00000007 00000003 0000000e 0003 00001000 00001000 02000000 ";
    let client = after(&[GREETING, NO_STRUCTURED, blocks, GO], "");
    let mut buffer = [1; 6];
    client.read_at(&mut buffer, u64::MAX - 2).unwrap();
    assert_eq!(buffer, [0; 6]);
}
