//! The conventions of the control socket without sockets: a client's bytes go in, in pieces of any size.

use crate::control::{Class, Failure, Flaw, Session};
use serde_json::{Map, Value};

/// A server of one command, `echo`, which returns its arguments.
fn execute(name: &str, arguments: Map<String, Value>) -> Result<Value, Failure> {
    match name {
        "echo" => Ok(Value::Object(arguments)),
        _ => Err(Failure { class: Class::CommandNotFound, description: format!("The command {name} is none") }),
    }
}

/// All answers to what a client sends in `pieces`, and what ended them.
pub fn answers<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<Flaw>) {
    let (mut session, mut out) = (Session::default(), Vec::new());
    for piece in pieces {
        session.push(piece);
        loop {
            match session.answer(execute) {
                Ok(Some(answer)) => out.extend(answer),
                Ok(None) => break,
                Err(flaw) => return (out, Some(flaw)),
            }
        }
    }
    (out, None)
}

/// A client sends `input`: each text has one answer in one line, whatever the pieces in which it arrives.
///
/// # Panics
/// If that is not so.
pub fn play(input: &[u8]) {
    let (out, flaw) = answers([input]);
    for length in [1, 7] {
        assert!(answers(input.chunks(length)) == (out.clone(), flaw), "in pieces of {length} bytes");
    }
    for line in out.split_inclusive(|byte| *byte == b'\n') {
        let answer = serde_json::from_slice::<Value>(line).unwrap_or_default();
        assert!(line.ends_with(b"\r\n") && answer["return"].is_object() != answer["error"].is_object());
    }
}
