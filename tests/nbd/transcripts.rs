//! Every message of the protocol, byte by byte.
//!
//! A transcript has a line for each message, of hexadecimal numbers as wide as the protocol's fields, 'text', and
//! `BYTE*COUNT`. Lines begin with S: for what the server sends and C: for what the client does.

use lvd::nbd::server::{Flaw, Tls};
use lvd::testing::nbd::{Dialogue, exports, opening, request};
use proptest::prelude::*;

const KIB: usize = 1 << 10;

fn bytes(fields: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = fields.trim();
    while !rest.is_empty() {
        if let Some(text) = rest.strip_prefix('\'') {
            let (text, after) = text.split_once('\'').expect("a text ends");
            bytes.extend_from_slice(text.as_bytes());
            rest = after.trim_start();
            continue;
        }
        let (field, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let (digits, count) =
            field.split_once('*').map_or((field, 1), |(digits, count)| (digits, count.parse().unwrap()));
        for _ in 0..count {
            let pairs = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
            bytes.extend(pairs);
        }
        rest = after.trim_start();
    }
    bytes
}

/// Plays a transcript and returns where it leads.
#[track_caller]
fn play(transcript: &str) -> Dialogue {
    play_with(Tls::Off, transcript)
}

#[track_caller]
fn play_with(tls: Tls, transcript: &str) -> Dialogue {
    let mut dialogue = Dialogue::new(exports(64 * KIB), tls);
    let mut heard = 0;
    for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (who, fields) = line.split_at(2);
        match who {
            "C:" => {
                assert_eq!(heard, dialogue.sent.len(), "the server says more than is expected before: {line}");
                dialogue.feed(&bytes(fields));
            }
            "S:" => {
                let wanted = bytes(fields);
                let sent = &dialogue.sent[heard..(heard + wanted.len()).min(dialogue.sent.len())];
                assert_eq!(format!("{sent:02x?}"), format!("{wanted:02x?}"), "{line}");
                heard += wanted.len();
            }
            other => panic!("{other}: {line}"),
        }
    }
    assert_eq!(heard, dialogue.sent.len(), "the server says more than is expected");
    dialogue
}

const GREETING: &str = "
    S: 4e42444d41474943 49484156454f5054 0003
    C: 00000003
";

/// `NBD_OPT_STRUCTURED_REPLY`, and `NBD_OPT_GO` for the export `disk`.
const STRUCTURED: &str = "
    C: 49484156454f5054 00000008 00000000
    S: 0003e889045565a9 00000008 00000001 00000000
    C: 49484156454f5054 00000007 0000000a 00000004 'disk' 0000
    S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000010000 0ded
    S: 0003e889045565a9 00000007 00000001 00000000
";

const SIMPLE: &str = "
    C: 49484156454f5054 00000007 0000000a 00000004 'disk' 0000
    S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000010000 0d6d
    S: 0003e889045565a9 00000007 00000001 00000000
";

fn after(openings: &[&str], transcript: &str) -> Dialogue {
    play(&[&[GREETING], openings, &[transcript]].concat().concat())
}

#[test]
fn export_name() {
    let chosen = "C: 49484156454f5054 00000001 00000004 'disk'\n S: 0000000000010000 0d6d";
    assert!(!after(&[], chosen).over());
    // Without NBD_FLAG_C_NO_ZEROES; the empty name is that of the first export.
    play(
        "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000001
         C: 49484156454f5054 00000001 00000000
         S: 0000000000010000 0d6d 00*124",
    );
    let unknown = after(&[], "C: 49484156454f5054 00000001 00000003 'dis'");
    assert_eq!(unknown.flaw, Some(Flaw::NoExport));
}

#[test]
fn abort() {
    let ended = after(
        &[],
        "C: 49484156454f5054 00000002 00000003 'bye'
         S: 0003e889045565a9 00000002 00000001 00000000",
    );
    assert!(ended.over() && ended.flaw.is_none());
}

#[test]
fn list() {
    after(
        &[],
        "C: 49484156454f5054 00000003 00000000
         S: 0003e889045565a9 00000003 00000002 0000000e 00000004 'disk' 'a disk'
         S: 0003e889045565a9 00000003 00000002 0000000a 00000006 'locked'
         S: 0003e889045565a9 00000003 00000001 00000000
         C: 49484156454f5054 00000003 00000001 00
         S: 0003e889045565a9 00000003 80000003 00000025 'the data of the option makes no sense'",
    );
}

#[test]
fn info() {
    after(
        &[],
        "C: 49484156454f5054 00000006 00000012 00000004 'disk' 0004 0003 0002 0001 0000
         S: 0003e889045565a9 00000006 00000003 0000000c 0000 0000000000010000 0d6d
         S: 0003e889045565a9 00000006 00000003 00000006 0001 'disk'
         S: 0003e889045565a9 00000006 00000003 00000008 0002 'a disk'
         S: 0003e889045565a9 00000006 00000003 0000000e 0003 00000001 00001000 02000000
         S: 0003e889045565a9 00000006 00000001 00000000
         C: 49484156454f5054 00000006 0000000e 00000006 'locked' 0001 0063
         S: 0003e889045565a9 00000006 00000003 0000000c 0000 0000000000008000 050f
         S: 0003e889045565a9 00000006 00000001 00000000
         C: 49484156454f5054 00000006 00000009 00000003 'dis' 0000
         S: 0003e889045565a9 00000006 80000006 0000000e 'no such export'
         C: 49484156454f5054 00000007 00000009 00000003 'dis' 0000
         S: 0003e889045565a9 00000007 80000006 0000000e 'no such export'",
    );
}

#[test]
fn options_that_make_no_sense_are_answered() {
    let invalid = "80000003 00000025 'the data of the option makes no sense'";
    for data in [
        // Too short for its name; for its count; for its information requests; something behind them; nothing at all.
        "00000006 00000009 'di'",
        "00000006 00000004 'di'",
        "0000000a 00000004 'disk' 0001",
        "0000000b 00000004 'disk' 0000 00",
        "00000000",
        "00000004 ffffffff",
    ] {
        after(&[], &format!("C: 49484156454f5054 00000006 {data}\n S: 0003e889045565a9 00000006 {invalid}"));
    }
    after(
        &[],
        &format!(
            "C: 49484156454f5054 00000008 00000001 00
             S: 0003e889045565a9 00000008 {invalid}
             C: 49484156454f5054 00000005 00000000
             S: 0003e889045565a9 00000005 80000001 00000016 'this server has no TLS'
             C: 49484156454f5054 0000000b 00000000
             S: 0003e889045565a9 0000000b 80000001 0000000e 'unknown option'
             C: 49484156454f5054 deadbeef 00000005 'hello'
             S: 0003e889045565a9 deadbeef 80000001 0000000e 'unknown option'
             C: 49484156454f5054 00000003 00000000
             S: 0003e889045565a9 00000003 00000002 0000000e 00000004 'disk' 'a disk'
             S: 0003e889045565a9 00000003 00000002 0000000a 00000006 'locked'
             S: 0003e889045565a9 00000003 00000001 00000000"
        ),
    );
}

/// No reply to a name has anything of it, or grows with it.
#[test]
fn names_of_every_length() {
    let ask = |option: u32, data: &[u8]| {
        let mut dialogue = Dialogue::new(exports(64 * KIB), Tls::Off);
        dialogue.feed(&[0, 0, 0, 3]);
        dialogue.sent.clear();
        dialogue.feed(&[&0x4948_4156_454f_5054u64.to_be_bytes()[..], &option.to_be_bytes()].concat());
        dialogue.feed(&[&(data.len() as u32).to_be_bytes()[..], data].concat());
        dialogue
    };
    for length in [0, 1, 4095, 4096, 4097, 65_529, 65_530] {
        let name = vec![b'~'; length];
        let data = [&(length as u32).to_be_bytes()[..], &name, &[0, 0]].concat();
        for option in [6, 7] {
            let dialogue = ask(option, &data);
            assert_eq!(dialogue.flaw, None);
            assert!(!dialogue.sent.contains(&b'~') && dialogue.sent.len() < 100, "option {option}, {length} bytes");
        }
        let dialogue = ask(1, &name);
        assert!(length == 0 || dialogue.flaw == Some(Flaw::NoExport) && dialogue.sent.is_empty(), "{length} bytes");
    }
    assert_eq!(ask(1, &[b'~'; 65_537]).flaw, Some(Flaw::OptionLength));
}

#[test]
fn clients_that_are_none_are_sent_away() {
    let flags = play("S: 4e42444d41474943 49484156454f5054 0003\n C: 00000004");
    assert_eq!(flags.flaw, Some(Flaw::ClientFlags));
    assert_eq!(after(&[], "C: 49484156454f5053 00000003 00000000").flaw, Some(Flaw::Magic));
    let long = after(
        &[],
        "C: 49484156454f5054 00000007 ffffffff
         S: 0003e889045565a9 00000007 80000009 00000016 'the option is too long'",
    );
    assert_eq!(long.flaw, Some(Flaw::OptionLength));
    assert_eq!(after(&[SIMPLE], "C: 25609514 0000 0000 0000000000000001 00*12").flaw, Some(Flaw::Magic));
    let write = "C: 25609513 0000 0001 0000000000000001 0000000000000000 02000001";
    assert_eq!(after(&[SIMPLE], write).flaw, Some(Flaw::Payload));
    let mut many = Dialogue::new(exports(64 * KIB), Tls::Off);
    many.feed(&[0, 0, 0, 3]);
    for _ in 0..=lvd::nbd::MAX_OPTIONS {
        assert_eq!(many.flaw, None);
        many.feed(&bytes("49484156454f5054 00000063 00000000"));
    }
    assert_eq!(many.flaw, Some(Flaw::Options));
}

const ENCRYPTED: &str = "
    C: 49484156454f5054 00000005 00000000
    S: 0003e889045565a9 00000005 00000001 00000000
";

/// Where TLS is required nothing is told before it, and nothing that was said before it counts.
#[test]
fn tls_before_anything_else() {
    let tls = |parts: &[&str]| play_with(Tls::Required, &format!("{GREETING}{}", parts.join("\n")));
    for (option, data) in [
        ("00000003", "00000000"),
        ("00000006", "0000000a 00000004 'disk' 0000"),
        ("00000007", "0000000a 00000004 'disk' 0000"),
        ("00000008", "00000000"),
        ("00000009", "0000000c 00000004 'disk' 00000000"),
        ("0000000a", "0000001f 00000004 'disk' 00000001 0000000f 'base:allocation'"),
        ("deadbeef", "00000005 'hello'"),
    ] {
        let refused = format!(
            "C: 49484156454f5054 {option} {data}
             S: 0003e889045565a9 {option} 80000005 0000001b 'this server wants TLS first'"
        );
        // Not at first, and not again; then TLS begins, and the client has negotiated nothing.
        let chosen = tls(&[&refused, &refused, ENCRYPTED, SIMPLE]);
        assert_eq!(chosen.events.last().unwrap(), "\"disk\" false []");
    }
    let data = "C: 49484156454f5054 00000005 00000001 00
                S: 0003e889045565a9 00000005 80000003 00000025 'the data of the option makes no sense'";
    let again = "C: 49484156454f5054 00000005 00000000
                 S: 0003e889045565a9 00000005 80000003 00000015 'TLS has begun already'";
    tls(&[data, ENCRYPTED, again, STRUCTURED]);
    let name = "C: 49484156454f5054 00000001 00000004 'disk'";
    assert_eq!(tls(&[name]).flaw, Some(Flaw::NoTls));
    assert!(!tls(&[ENCRYPTED, name, "S: 0000000000010000 0d6d"]).over());
    let abort = "C: 49484156454f5054 00000002 00000000\n S: 0003e889045565a9 00000002 00000001 00000000";
    let ended = tls(&[abort]);
    assert!(ended.over() && ended.flaw.is_none());
}

/// Options are counted through TLS.
#[test]
fn tls_does_not_count_anew() {
    let mut many = Dialogue::new(exports(64 * KIB), Tls::Required);
    many.feed(&[0, 0, 0, 3]);
    many.feed(&bytes("49484156454f5054 00000005 00000000"));
    for _ in 1..=lvd::nbd::MAX_OPTIONS {
        assert_eq!(many.flaw, None);
        many.feed(&bytes("49484156454f5054 00000063 00000000"));
    }
    assert_eq!(many.flaw, Some(Flaw::Options));
}

/// `NBD_OPT_LIST_META_CONTEXT` (9) and `NBD_OPT_SET_META_CONTEXT` (10), and the block status of what they choose.
#[test]
fn contexts() {
    let words = "80000003 00000029 'metadata contexts need structured replies'";
    after(
        &[],
        &format!(
            "C: 49484156454f5054 0000000a 0000000c 00000004 'disk' 00000000\n S: 0003e889045565a9 0000000a {words}"
        ),
    );
    after(
        &[],
        "C: 49484156454f5054 00000008 00000000
         S: 0003e889045565a9 00000008 00000001 00000000

         C: 49484156454f5054 00000009 0000000c 00000004 'disk' 00000000
         S: 0003e889045565a9 00000009 00000004 00000013 00000000 'base:allocation'
         S: 0003e889045565a9 00000009 00000004 00000019 00000000 'qemu:allocation-depth'
         S: 0003e889045565a9 00000009 00000004 00000018 00000000 'qemu:dirty-bitmap:b0'
         S: 0003e889045565a9 00000009 00000001 00000000

         C: 49484156454f5054 00000009 00000034 00000004 'disk' 00000003 00000005 'base:' 00000012 'qemu:dirty-bitmap:' 00000005 'other'
         S: 0003e889045565a9 00000009 00000004 00000013 00000000 'base:allocation'
         S: 0003e889045565a9 00000009 00000004 00000018 00000000 'qemu:dirty-bitmap:b0'
         S: 0003e889045565a9 00000009 00000001 00000000

         C: 49484156454f5054 0000000a 00000037 00000004 'disk' 00000002 00000005 'base:' 0000001e 'qemu:dirty-bitmap:b0-not-there'
         S: 0003e889045565a9 0000000a 00000001 00000000

         C: 49484156454f5054 00000009 0000000c 00000004 'desk' 00000000
         S: 0003e889045565a9 00000009 80000006 0000000e 'no such export'
         C: 49484156454f5054 0000000a 0000000c 00000004 'disk' 00000401
         S: 0003e889045565a9 0000000a 80000009 00000010 'too many queries'

         C: 49484156454f5054 0000000a 00000037 00000004 'disk' 00000002 00000014 'qemu:dirty-bitmap:b0' 00000010 'base:allocation'
         S: 0003e889045565a9 0000000a 80000003 00000025 'the data of the option makes no sense'
         C: 49484156454f5054 0000000a 00000037 00000004 'disk' 00000002 00000014 'qemu:dirty-bitmap:b0' 0000000f 'base:allocation'
         S: 0003e889045565a9 0000000a 00000004 00000013 00000000 'base:allocation'
         S: 0003e889045565a9 0000000a 00000004 00000018 00000001 'qemu:dirty-bitmap:b0'
         S: 0003e889045565a9 0000000a 00000001 00000000

         C: 49484156454f5054 00000007 0000000a 00000004 'disk' 0000
         S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000010000 0ded
         S: 0003e889045565a9 00000007 00000001 00000000

         C: 25609513 0000 0007 00000000000000aa 0000000000000800 00002800
         S: 668e33ef 0000 0005 00000000000000aa 0000001c 00000000 00000800 00000003 00001000 00000000 00001000 00000003
         S: 668e33ef 0001 0005 00000000000000aa 00000014 00000001 00000800 00000001 00002000 00000000

         C: 25609513 0008 0007 00000000000000ab 0000000000000800 00002800
         S: 668e33ef 0000 0005 00000000000000ab 0000000c 00000000 00000800 00000003
         S: 668e33ef 0001 0005 00000000000000ab 0000000c 00000001 00000800 00000001",
    );
}

/// Contexts that were chosen for one export do not count for another.
#[test]
fn contexts_of_another_export() {
    after(
        &[],
        "C: 49484156454f5054 00000008 00000000
         S: 0003e889045565a9 00000008 00000001 00000000
         C: 49484156454f5054 0000000a 00000021 00000006 'locked' 00000001 0000000f 'base:allocation'
         S: 0003e889045565a9 0000000a 00000004 00000013 00000000 'base:allocation'
         S: 0003e889045565a9 0000000a 00000001 00000000
         C: 49484156454f5054 00000007 0000000a 00000004 'disk' 0000
         S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000010000 0ded
         S: 0003e889045565a9 00000007 00000001 00000000
         C: 25609513 0000 0007 00000000000000aa 0000000000000000 00001000
         S: 668e33ef 0001 8001 00000000000000aa 0000002f 00000016 0029 'the request makes no sense to this export'",
    );
}

#[test]
fn requests_and_simple_replies() {
    after(
        &[SIMPLE],
        "C: 25609513 0000 0001 00000000000000a1 0000000000000003 00000005 'hello'
         S: 67446698 00000000 00000000000000a1
         C: 25609513 0000 0000 00000000000000a2 0000000000000002 00000007
         S: 67446698 00000000 00000000000000a2 00 'hello' 00
         C: 25609513 0001 0006 00000000000000a3 0000000000000003 00000002
         S: 67446698 00000000 00000000000000a3
         C: 25609513 0001 0000 00000000000000a4 0000000000000002 00000006
         S: 67446698 00000000 00000000000000a4 00*3 'llo'
         C: 25609513 0000 0003 00000000000000a5 0000000000000000 00000000
         S: 67446698 00000000 00000000000000a5
         C: 25609513 0000 0004 00000000000000a6 0000000000000000 00010000
         S: 67446698 00000000 00000000000000a6
         C: 25609513 0000 0005 00000000000000a7 0000000000000000 00010000
         S: 67446698 00000000 00000000000000a7
         C: 25609513 0000 0000 00000000000000a8 0000000000000000 00000000
         S: 67446698 00000000 00000000000000a8",
    );
    // What is refused: outside the disk, unknown flags and commands, DF and block status without structured replies.
    for (request, error) in [
        ("0000 0000 00000000000000a1 000000000000ffff 00000002", "00000016"),
        ("0000 0000 00000000000000a1 ffffffffffffffff ffffffff", "00000016"),
        ("0000 0001 00000000000000a1 000000000000ffff 00000002 'ab'", "0000001c"),
        ("0000 0004 00000000000000a1 000000000000ffff 00000002", "00000016"),
        ("0000 0005 00000000000000a1 000000000000ffff 00000002", "00000016"),
        ("0000 0006 00000000000000a1 000000000000ffff 00000002", "0000001c"),
        ("0012 0006 00000000000000a1 0000000000000000 00001000", "0000005f"),
        ("0020 0003 00000000000000a1 0000000000000000 00000000", "00000016"),
        ("0004 0000 00000000000000a1 0000000000000000 00000001", "00000016"),
        ("0008 0001 00000000000000a1 0000000000000000 00000002 'ab'", "00000016"),
        ("0000 0007 00000000000000a1 0000000000000000 00000001", "00000016"),
        ("0000 0008 00000000000000a1 0000000000000000 00000001", "00000016"),
    ] {
        after(&[SIMPLE], &format!("C: 25609513 {request}\n S: 67446698 {error} 00000000000000a1"));
    }
    let gone = after(&[SIMPLE], "C: 25609513 0000 0002 00000000000000a1 0000000000000000 00000000");
    assert!(gone.over() && gone.flaw.is_none());
}

#[test]
fn structured_replies() {
    after(
        &[STRUCTURED],
        "C: 25609513 0000 0001 00000000000000a1 0000000000000003 00000005 'hello'
         S: 67446698 00000000 00000000000000a1
         C: 25609513 0000 0000 00000000000000a2 0000000000000003 00000005
         S: 668e33ef 0001 0001 00000000000000a2 0000000d 0000000000000003 'hello'
         C: 25609513 0000 0000 00000000000000a3 0000000000000100 00000200
         S: 668e33ef 0001 0002 00000000000000a3 0000000c 0000000000000100 00000200
         C: 25609513 0004 0000 00000000000000a4 0000000000000000 00000004
         S: 668e33ef 0001 0001 00000000000000a4 0000000c 0000000000000000 00*3 'h'
         C: 25609513 0000 0000 00000000000000a5 0000000000000000 00000000
         S: 668e33ef 0001 0000 00000000000000a5 00000000
         C: 25609513 0010 0006 00000000000000a6 0000000000000000 00000008
         S: 67446698 00000000 00000000000000a6
         C: 25609513 0004 0000 00000000000000a7 0000000000000000 00000008
         S: 668e33ef 0001 0002 00000000000000a7 0000000c 0000000000000000 00000008
         C: 25609513 0000 0000 00000000000000a8 000000000000ffff 00000002
         S: 668e33ef 0001 8001 00000000000000a8 0000002f 00000016 0029 'the request makes no sense to this export'",
    );
}

#[test]
fn read_only_exports_do_not_change() {
    let locked = "
        C: 49484156454f5054 00000007 0000000c 00000006 'locked' 0000
        S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000008000 050f
        S: 0003e889045565a9 00000007 00000001 00000000
    ";
    after(
        &[locked],
        "C: 25609513 0000 0001 00000000000000a1 0000000000000000 00000005 'hello'
         S: 67446698 00000001 00000000000000a1
         C: 25609513 0000 0006 00000000000000a2 0000000000000000 00000005
         S: 67446698 00000001 00000000000000a2
         C: 25609513 0000 0004 00000000000000a3 0000000000000000 00000005
         S: 67446698 00000001 00000000000000a3
         C: 25609513 0000 0003 00000000000000a4 0000000000000000 00000000
         S: 67446698 00000000 00000000000000a4
         C: 25609513 0000 0000 00000000000000a5 0000000000000000 00000003
         S: 67446698 00000000 00000000000000a5 00*3",
    );
}

/// A large read in which holes and data follow each other falls into chunks; with DF it does not.
#[test]
fn holes_within_a_read() {
    let mut dialogue = Dialogue::new(exports(1024 * KIB), Tls::Off);
    dialogue.feed(&opening(true));
    dialogue.feed(&request(6, 0, 1, 0, 640 * KIB as u32, &[]));
    for (flags, lengths) in [(0, vec![12, 8 + 384 * KIB]), (4, vec![8 + 768 * KIB])] {
        let before = dialogue.sent.len();
        dialogue.feed(&request(0, flags, 2, 256 * KIB as u64, 768 * KIB as u32, &[]));
        let mut at = before;
        for length in lengths {
            assert_eq!(dialogue.sent[at + 16..at + 20], (length as u32).to_be_bytes());
            at += 20 + length;
        }
        assert_eq!(at, dialogue.sent.len());
    }
}

/// Bytes that are more or less a client's.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let message = prop_oneof![
        8 => (0..9u16, 0..40u16, any::<u64>(), 0..100_000u64, 0..70_000u32).prop_map(|(command, flags, cookie, offset, length)| {
            let length = if command == 1 { length % 300 } else { length };
            let data = vec![cookie as u8; if command == 1 { length as usize } else { 0 }];
            request(command, if flags < 20 { 0 } else { flags }, cookie, offset, length, &data)
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..60),
    ];
    (0..3u8, proptest::collection::vec(message, 0..12)).prop_map(|(begin, messages)| {
        let begin = if begin == 0 { Vec::new() } else { opening(begin == 1) };
        [begin, messages.concat()].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Into which pieces a stream falls changes nothing.
    #[test]
    fn pieces_do_not_matter(stream in stream(), cuts in proptest::collection::vec(1..400usize, 1..20)) {
        let mut whole = Dialogue::new(exports(96 * KIB), Tls::Off);
        whole.feed(&stream);
        let mut pieces = Dialogue::new(exports(96 * KIB), Tls::Off);
        let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            pieces.feed(now);
            rest = later;
        }
        prop_assert_eq!(&whole.events, &pieces.events);
        prop_assert_eq!(whole.flaw, pieces.flaw);
        prop_assert!(whole.sent == pieces.sent);
    }
}
