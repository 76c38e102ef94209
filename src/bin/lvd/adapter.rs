//! `adapter`: this implementation as conformance runners see it. They send JSON, a line each (`testdata/ADAPTER.md`).

use crate::{open, output};
use lvd::chain::Chain;
use lvd::conformance::{self, Opening, Operation, Place, Process};
use lvd::storage::{Create, FileOptions, FileStorage, Host, Storage};
use lvd::{BlockDevice, Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, stdin};
use std::path::Path;
use std::sync::Arc;

/// The version of the protocol.
const PROTOCOL: u64 = 1;
/// What a runner may ask for.
const FEATURES: [&str; 8] = ["sidecars", "groups", "qed", "bitmaps", "check", "write", "jobs", "live"];
/// A runner reads no more at once.
const MOST_READ: u64 = 16 << 20;

#[derive(Deserialize)]
#[serde(untagged)]
enum Request {
    Question(Question),
    Operation(Operation),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
enum Question {
    Hello { protocol: u64 },
    Open(Opening),
    Check(Opening),
    Extents,
    Read { offset: u64, length: u64 },
    Bitmaps,
}

/// The files of the directory that the process was started in.
#[derive(Debug)]
struct Directory {
    host: Arc<dyn Host>,
}

impl Place for Directory {
    fn open(&self, name: &str, write: bool) -> Result<Arc<dyn Storage>> {
        let options = FileOptions { write, ..FileOptions::default() };
        Ok(Arc::new(FileStorage::open(Path::new(name), &options)?))
    }

    fn has(&self, name: &str) -> bool {
        Path::new(name).exists()
    }

    fn add(&self, name: &str) -> Result<Arc<dyn Storage>> {
        let options = FileOptions { write: true, create: Create::New, ..FileOptions::default() };
        Ok(Arc::new(FileStorage::open(Path::new(name), &options)?))
    }

    fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }
}

pub fn adapter() -> Result<()> {
    let place = Directory { host: open::host() };
    let mut process = None;
    for line in stdin().lock().lines() {
        let line = line.map_err(|error| Error::io("standard input", "cannot read", error))?;
        let answer = match serde_json::from_str(&line) {
            Ok(Request::Question(question)) => answer(&place, &mut process, question),
            Ok(Request::Operation(operation)) => {
                opened(&mut process).and_then(|process| process.perform(&operation)).map(|()| json!({}))
            }
            Err(error) => Err(Error::Invalid(format!("no request: {error}"))),
        };
        output::line(answer.unwrap_or_else(|error| failure(&error)).to_string())?;
    }
    Ok(())
}

fn opened<'a, 'b>(process: &'a mut Option<Process<'b>>) -> Result<&'a mut Process<'b>> {
    process.as_mut().ok_or_else(|| Error::Invalid("nothing is open".into()))
}

fn failure(error: &Error) -> Value {
    let mut answer = json!({ "error": error.to_string() });
    if let Some(rule) = error.violation() {
        answer["rule"] = rule.id().into();
    }
    answer
}

fn answer<'a>(place: &'a Directory, process: &mut Option<Process<'a>>, question: Question) -> Result<Value> {
    match question {
        Question::Hello { protocol: PROTOCOL } => {
            let implementation = concat!("lvd ", env!("CARGO_PKG_VERSION"));
            Ok(json!({ "implementation": implementation, "features": FEATURES }))
        }
        Question::Hello { protocol } => Err(Error::Invalid(format!("protocol {protocol} is not known here"))),
        Question::Open(opening) => {
            // What was open before must not keep others out.
            *process = None;
            match Process::open(place, opening) {
                Ok(new) => {
                    let mut answer = json!({ "result": "valid" });
                    if let Ok(image) = new.chain().image(0) {
                        let header = image.header();
                        answer["header"] = json!(conformance::facts(&header));
                        answer["header"]["kept"] = json!(conformance::kept(&header));
                        answer["header"]["compat"] = header.compat.into();
                    }
                    *process = Some(new);
                    Ok(answer)
                }
                Err(error) => {
                    let mut answer = failure(&error);
                    if let Some(verdict) = conformance::verdict(&error) {
                        answer["result"] = json!(verdict);
                    }
                    Ok(answer)
                }
            }
        }
        Question::Check(opening) => check(place, &Opening { ignore_marks: true, ..opening }),
        Question::Extents => Ok(json!({ "extents": conformance::extents(&opened(process)?.chain())? })),
        Question::Read { offset, length } => read(&opened(process)?.chain(), offset, length),
        Question::Bitmaps => match opened(process)?.chain().image(0) {
            Ok(image) => Ok(json!(conformance::told(image)?)),
            Err(_) => Ok(json!(conformance::Told::default())),
        },
    }
}

/// The rules that a file breaks, by itself: it is opened without its parents.
fn check(place: &Directory, opening: &Opening) -> Result<Value> {
    match conformance::alone(place, opening).and_then(|image| image.check()) {
        Ok(report) => {
            let rules: Vec<&str> = report.findings.iter().map(|finding| finding.violation.id()).collect();
            Ok(json!({ "rules": rules }))
        }
        Err(error) if matches!(error, Error::Corrupt { .. } | Error::Unsupported { .. }) => {
            Ok(json!({ "rules": error.violation().map(|rule| rule.id()).as_slice() }))
        }
        Err(error) => Err(error),
    }
}

fn read(chain: &Chain, offset: u64, length: u64) -> Result<Value> {
    if length > MOST_READ {
        return Err(Error::Invalid(format!("{length} bytes at once are too many")));
    }
    let mut bytes = vec![0; length as usize];
    chain.read_at(&mut bytes, offset)?;
    Ok(json!({ "data": conformance::hex(&bytes) }))
}
