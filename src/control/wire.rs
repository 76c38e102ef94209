//! The conventions of QMP: JSON texts one after the other, in pieces as they arrive, and what is answered.

use crate::error::Error;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Longest text of a client in bytes.
pub const MAX_TEXT: usize = 1 << 20;
/// Deepest nesting of a text.
pub const MAX_DEPTH: usize = 64;

/// What a client did after which nobody knows where its next command begins: the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A text of more than [`MAX_TEXT`] bytes.
    #[error("a text of more than {MAX_TEXT} bytes")]
    Length,
    /// A text that is nested more than [`MAX_DEPTH`] deep.
    #[error("a text that is nested more than {MAX_DEPTH} deep")]
    Depth,
}

/// Finds the texts in what a client sends. A text is all of one JSON object, over as many lines as it likes; newlines
/// between texts mean nothing, and not all clients send any. What is none ends with its line.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    bytes: Vec<u8>,
    /// Where the text begins that is being looked at.
    start: usize,
    /// Up to where it was.
    seen: usize,
    place: Place,
}

#[derive(Debug, Clone, Copy, Default)]
enum Place {
    /// Between texts.
    #[default]
    Between,
    /// In a text, this deep.
    Inside(usize),
    /// In a string of that text.
    String(usize),
    /// Behind a backslash in that string.
    Escape(usize),
    /// In a line that is none.
    Garbage,
}

impl Splitter {
    /// Takes what has arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        (self.start, self.seen) = (0, self.seen - self.start);
        self.bytes.extend_from_slice(bytes);
    }

    /// The next text, if all of it is there.
    ///
    /// # Errors
    /// There is none that anybody could find.
    pub(super) fn next_text(&mut self) -> Result<Option<Vec<u8>>, Flaw> {
        while let Some(&byte) = self.bytes.get(self.seen) {
            self.seen += 1;
            match self.step(byte)? {
                Step::Skip => self.start = self.seen,
                Step::Text => return Ok(Some(self.take())),
                Step::More if self.seen - self.start >= MAX_TEXT => return Err(Flaw::Length),
                Step::More => {}
            }
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<Step, Flaw> {
        let (place, step) = match (self.place, byte) {
            (Place::Between, b' ' | b'\t' | b'\r' | b'\n') => (Place::Between, Step::Skip),
            (Place::Between, b'{' | b'[') => (Place::Inside(1), Step::More),
            (Place::Between, _) => (Place::Garbage, Step::More),
            // No string has a newline in it: whoever has left one open is asked to begin anew.
            (Place::Garbage | Place::String(_) | Place::Escape(_), b'\n') => (Place::Between, Step::Text),
            (Place::Garbage, _) => (Place::Garbage, Step::More),
            (Place::Inside(MAX_DEPTH), b'{' | b'[') => return Err(Flaw::Depth),
            (Place::Inside(depth), b'{' | b'[') => (Place::Inside(depth + 1), Step::More),
            (Place::Inside(1), b'}' | b']') => (Place::Between, Step::Text),
            (Place::Inside(depth), b'}' | b']') => (Place::Inside(depth - 1), Step::More),
            (Place::Inside(depth), b'"') => (Place::String(depth), Step::More),
            (Place::String(depth), b'"') => (Place::Inside(depth), Step::More),
            (Place::String(depth), b'\\') => (Place::Escape(depth), Step::More),
            (Place::Escape(depth), _) => (Place::String(depth), Step::More),
            (place, _) => (place, Step::More),
        };
        self.place = place;
        Ok(step)
    }

    fn take(&mut self) -> Vec<u8> {
        let text = self.bytes[self.start..self.seen].to_vec();
        self.start = self.seen;
        text
    }
}

enum Step {
    More,
    Skip,
    Text,
}

/// The classes of errors that QMP knows; a program looks at these, people at the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Anything else.
    GenericError,
    /// There is no such command, or not now.
    CommandNotFound,
    /// There is no such device.
    DeviceNotFound,
    /// There is no such job.
    DeviceNotActive,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub class: Class,
    /// One line, for people.
    pub description: String,
}

impl Failure {
    pub(super) fn new(class: Class, description: impl Into<String>) -> Failure {
        Failure { class, description: description.into() }
    }

    pub(super) fn generic(description: impl Into<String>) -> Failure {
        Failure::new(Class::GenericError, description)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::generic(error.to_string())
    }
}

/// A command of a client, of which only the form is known to be right.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: String,
    pub(super) arguments: Map<String, Value>,
}

/// The command that a text is, and what the client wants to find in its answer.
pub(super) fn parse(text: &[u8]) -> (Result<Command, Failure>, Option<Value>) {
    match serde_json::from_slice(text) {
        Ok(Value::Object(mut members)) => {
            let id = members.remove("id");
            (command(members), id)
        }
        Ok(_) => (Err(Failure::generic("QMP input must be a JSON object")), None),
        Err(error) => (Err(Failure::generic(format!("JSON parse error: {error}"))), None),
    }
}

fn command(mut members: Map<String, Value>) -> Result<Command, Failure> {
    let name = match members.remove("execute") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(Failure::generic("QMP input member 'execute' must be a string")),
        None => return Err(Failure::generic("QMP input lacks member 'execute'")),
    };
    let arguments = match members.remove("arguments") {
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(Failure::generic("QMP input member 'arguments' must be an object")),
        None => Map::new(),
    };
    match members.keys().next() {
        None => Ok(Command { name, arguments }),
        Some(unknown) => Err(Failure::generic(format!("QMP input member '{unknown}' is unexpected"))),
    }
}

/// What a client is greeted with.
pub(super) fn greeting() -> Vec<u8> {
    line(&json!({ "QMP": { "version": version(), "capabilities": [] } }))
}

/// The version of LVD, where tools of QEMU look for QEMU's.
pub(super) fn version() -> Value {
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    json!({
        "qemu": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("lvd ", env!("CARGO_PKG_VERSION")),
    })
}

/// The answer to a command.
pub(super) fn answer(result: Result<Value, Failure>, id: Option<Value>) -> Vec<u8> {
    let mut members = match result {
        Ok(value) => Map::from_iter([("return".to_owned(), value)]),
        Err(Failure { class, description }) => {
            let class = format!("{class:?}");
            Map::from_iter([("error".to_owned(), json!({ "class": class, "desc": description }))])
        }
    };
    members.extend(id.map(|id| ("id".to_owned(), id)));
    line(&Value::Object(members))
}

/// Something that happened at `time` since 1970.
pub(super) fn event(name: &str, data: &Value, time: Duration) -> Vec<u8> {
    let timestamp = json!({ "seconds": time.as_secs(), "microseconds": time.subsec_micros() });
    line(&json!({ "event": name, "data": data, "timestamp": timestamp }))
}

/// One line, as QEMU ends it.
fn line(value: &Value) -> Vec<u8> {
    format!("{value}\r\n").into_bytes()
}
