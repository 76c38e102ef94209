//! What a client gets, byte by byte, for what it sends.

use crate::common::Random;
use lvd::control::{Flaw, MAX_DEPTH, MAX_TEXT, Session};
use lvd::testing::control::{answers, play as hold};
use serde_json::{Value, json};

/// All answers, and the flaw that ended them.
fn play<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, Option<Flaw>) {
    let (out, flaw) = answers(pieces);
    (String::from_utf8(out).expect("text"), flaw)
}

/// The same in whatever pieces it arrives.
#[track_caller]
fn transcript(input: &str, wanted: &[&str]) {
    let wanted: String = wanted.iter().map(|line| format!("{line}\r\n")).collect();
    assert_eq!(play([input.as_bytes()]), (wanted.clone(), None));
    assert_eq!(play(input.as_bytes().chunks(1)), (wanted.clone(), None), "byte by byte");
    let (first, second) = input.as_bytes().split_at(input.len() / 2);
    assert_eq!(play([first, second]), (wanted, None), "in halves");
}

const HELLO: &str = r#"{"execute":"qmp_capabilities"}"#;
const DONE: &str = r#"{"return":{}}"#;

#[test]
fn greeting() {
    let greeting: Value = serde_json::from_slice(&Session::greeting()).expect("JSON");
    let number = |text: &str| text.parse::<u64>().unwrap();
    let version = json!({
        "qemu": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")), "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("lvd ", env!("CARGO_PKG_VERSION")),
    });
    assert_eq!(greeting, json!({ "QMP": { "version": version, "capabilities": [] } }));
    assert!(Session::greeting().ends_with(b"\r\n"));
}

#[test]
fn negotiation() {
    let early =
        r#"{"error":{"class":"CommandNotFound","desc":"Expecting capabilities negotiation with 'qmp_capabilities'"}}"#;
    let late = r#"{"error":{"class":"CommandNotFound","desc":"Capabilities negotiation is already complete"},"id":2}"#;
    transcript(r#"{"execute":"echo"}"#, &[early]);
    transcript(&format!(r#"{HELLO}{{"execute":"qmp_capabilities","id":2}}"#), &[DONE, late]);
    transcript(r#"{"execute":"qmp_capabilities","arguments":{"enable":[]}}"#, &[DONE]);
    let unknown = r#"{"error":{"class":"GenericError","desc":"Capability [\"oob\"] not available"}}"#;
    transcript(r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}{"execute":"echo"}"#, &[unknown, early]);
    let unexpected = r#"{"error":{"class":"GenericError","desc":"Parameter 'x' is unexpected"}}"#;
    transcript(r#"{"execute":"qmp_capabilities","arguments":{"x":1}}"#, &[unexpected]);
}

/// Clients of QEMU end a command with CR LF, with LF, with nothing, or in the middle of a line.
#[test]
fn texts_and_lines() {
    let echo = r#"{"return":{"a":"}{\"\n"}}"#;
    let command = r#"{"execute":"echo","arguments":{"a":"}{\"\n"}}"#;
    for end in ["", "\n", "\r\n", " \t\r\n\n"] {
        transcript(&format!("{HELLO}{end}{command}{end}{command}{end}"), &[DONE, echo, echo]);
    }
    transcript(&format!("{HELLO}\n{{\n  \"execute\":\n  \"echo\"\n}}\n"), &[DONE, r#"{"return":{}}"#]);
    // Half a command has no answer yet.
    transcript(&format!(r#"{HELLO}{{"execute":"#), &[DONE]);
    // The id comes back as it is, whatever it is.
    for id in ["7", "\"x\"", "null", r#"{"a":[1]}"#] {
        transcript(
            &format!(r#"{HELLO}{{"execute":"echo","id":{id}}}"#),
            &[DONE, &format!(r#"{{"id":{id},"return":{{}}}}"#)],
        );
    }
}

#[test]
fn what_is_no_command() {
    let fails = |text: &str, description: &str, id: &str| {
        let error = json!({ "class": "GenericError", "desc": description });
        transcript(&format!("{HELLO}{text}"), &[DONE, &format!(r#"{{"error":{error}{id}}}"#)]);
    };
    fails("[]", "QMP input must be a JSON object", "");
    fails(r#"{"id":1}"#, "QMP input lacks member 'execute'", r#","id":1"#);
    fails(r#"{"execute":1,"id":1}"#, "QMP input member 'execute' must be a string", r#","id":1"#);
    fails(r#"{"execute":"echo","arguments":[]}"#, "QMP input member 'arguments' must be an object", "");
    fails(r#"{"execute":"echo","exec":1}"#, "QMP input member 'exec' is unexpected", "");
    fails("{]", "JSON parse error: key must be a string at line 1 column 2", "");
    fails("hello\n", "JSON parse error: expected value at line 1 column 1", "");
    let unknown = r#"{"error":{"class":"CommandNotFound","desc":"The command x is none"},"id":1}"#;
    transcript(&format!(r#"{HELLO}{{"execute":"x","id":1}}"#), &[DONE, unknown]);
    // A string that is left open ends with its line: what follows is understood again.
    let (answers, flaw) = play([format!("{HELLO}{{\"execute\n{{\"execute\":\"echo\"}}").as_bytes()]);
    assert_eq!((answers.lines().count(), flaw), (3, None), "{answers}");
    assert!(answers.ends_with("{\"return\":{}}\r\n"), "{answers}");
}

#[test]
fn a_text_has_a_longest_length_and_a_greatest_depth() {
    let long = format!("{HELLO}{{\"execute\":\"{}", "x".repeat(MAX_TEXT));
    assert_eq!(play([long.as_bytes()]), (format!("{DONE}\r\n"), Some(Flaw::Length)));
    let garbage = "x".repeat(MAX_TEXT);
    assert_eq!(play(garbage.as_bytes().chunks(1000)), (String::new(), Some(Flaw::Length)));
    // Between texts there may be as much white space as anybody likes to send.
    let blanks = " \n".repeat(MAX_TEXT) + HELLO;
    assert_eq!(play(blanks.as_bytes().chunks(1000)), (format!("{DONE}\r\n"), None));
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(play([nested(MAX_DEPTH + 1).as_bytes()]).1, Some(Flaw::Depth));
    assert_eq!(play([nested(MAX_DEPTH).as_bytes()]).1, None);
}

/// Every text has one answer in one line, whatever it is made of.
#[test]
fn garbage() {
    let mut random = Random::new(1);
    let words: [&[u8]; 12] =
        [b"{", b"}", b"[", b"]", b"\"", b"\\", b"\n", b":", b"\"execute\":\"echo\"", b",", b"\xff\0", HELLO.as_bytes()];
    for _ in 0..20_000 {
        let input: Vec<u8> =
            (0..random.below(12)).flat_map(|_| words[random.below(words.len() as u64) as usize].to_vec()).collect();
        hold(&input);
    }
}
