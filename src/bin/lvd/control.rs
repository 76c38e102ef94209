//! `job`, `snapshot`, and `bitmap` with a control socket: commands to a server that runs.

use crate::args::{Bitmap, Control, Fetch, Job, NewJob, OutputFormat, Snapshot, Sync};
use crate::{open, output};
use lvd::units::Size;
use lvd::{Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub fn job(verb: &Job) -> Result<()> {
    match verb {
        Job::Stream { job, base } => begin(job, "block-stream", json!({ "base": file(base.as_deref())? })),
        Job::Commit { job, into, top } => {
            let layers = json!({ "base": file(into.as_deref())?, "top": file(top.as_deref())? });
            begin(job, "block-commit", layers)
        }
        Job::Mirror { job, sync, output_format, resume, compare, target } => {
            let format = format_name(*output_format);
            let target = file(Some(target.as_path()))?;
            let sync = match sync {
                Sync::Full => "full",
                Sync::Top => "top",
            };
            let more =
                json!({ "target": target, "format": format, "sync": sync, "resume": resume, "compare": compare });
            begin(job, "drive-mirror", more)
        }
        Job::Backup { job, bitmap, keep_bitmap, previous, onto, output_format, target } => {
            let incremental = previous.is_some() || *onto;
            let (sync, mode) =
                (if incremental { "bitmap" } else { "full" }, if *keep_bitmap { "never" } else { "on-success" });
            let more = json!({
                "target": file(Some(target))?,
                "format": if *onto { "raw" } else { format_name(*output_format) },
                "mode": if *onto { "existing" } else { "absolute-paths" },
                "sync": sync,
                "bitmap": bitmap,
                "bitmap-mode": bitmap.as_ref().map(|_| mode),
                "previous": file(previous.as_deref())?,
            });
            begin(job, "drive-backup", more)
        }
        Job::Pull { job, bitmap, export, scratch } => {
            begin(job, "drive-backup", json!({ "target": file(Some(scratch))?, "sync": "none", "bitmap": bitmap }))?;
            let node = job.id.as_ref().unwrap_or(&job.device);
            let wanted = json!({
                "type": "nbd", "id": node, "node-name": node, "name": export,
                "bitmaps": bitmap.iter().collect::<Vec<_>>(),
            });
            let added = ask(&job.control, "block-export-add", wanted);
            if added.is_err() {
                // Nobody would reach what it keeps. The first failure is the one to be told.
                let _ = ask(&job.control, "job-cancel", json!({ "id": node }));
            }
            added
        }
        Job::List { control, output } => list(control, output.json()),
        Job::Pause(job) => ask(&job.control, "job-pause", json!({ "id": job.id })),
        Job::Resume(job) => ask(&job.control, "job-resume", json!({ "id": job.id })),
        Job::Cancel(job) => ask(&job.control, "job-cancel", json!({ "id": job.id })),
        Job::Compare(job) => ask(&job.control, "job-compare", json!({ "id": job.id })),
        Job::Split(job) => ask(&job.control, "block-job-cancel", json!({ "device": job.id })),
        Job::Complete { control, group, ids } => match (group, &ids[..]) {
            (Some(group), ids) => {
                ask(control, "job-complete-together", json!({ "ids": ids, "group": file(Some(group))? }))
            }
            (None, [id]) => ask(control, "job-complete", json!({ "id": id })),
            (None, _) => Err(Error::Invalid("several jobs are completed together by the file of a --group".into())),
        },
        Job::Finalize(job) => ask(&job.control, "job-finalize", json!({ "id": job.id })),
        Job::Dismiss(job) => ask(&job.control, "job-dismiss", json!({ "id": job.id })),
        Job::SetSpeed { job, speed } => {
            ask(&job.control, "block-job-set-speed", json!({ "device": job.id, "speed": speed }))
        }
    }
}

pub fn snapshot(arguments: &Snapshot) -> Result<()> {
    let mut actions = Vec::new();
    for pair in arguments.overlays.chunks(2) {
        let [device, overlay] = pair else {
            return Err(Error::Invalid("each DEVICE comes with a FILE".into()));
        };
        let data = json!({ "device": device, "snapshot-file": file(Some(overlay))?, "format": "lvd" });
        actions.push(json!({ "type": "blockdev-snapshot-sync", "data": data }));
    }
    ask(&arguments.control, "transaction", json!({ "actions": actions }))
}

/// Has the server do what it is told to, if it is a server's bitmap that is meant.
pub fn bitmap(verb: &Bitmap) -> Result<bool> {
    let (at, word, more) = match verb {
        Bitmap::Add { granularity, disabled, at } => {
            (at, "add", json!({ "granularity": granularity, "disabled": disabled }))
        }
        Bitmap::Remove(at) => (at, "remove", json!({})),
        Bitmap::Enable(at) => (at, "enable", json!({})),
        Bitmap::Disable(at) => (at, "disable", json!({})),
        Bitmap::Clear(at) => (at, "clear", json!({})),
        Bitmap::Merge { from, at, sources } => {
            let far = from.as_deref().map(open::uri).transpose()?.flatten().is_some();
            let source = |name: &String| match from {
                None => json!(name),
                Some(from) => {
                    json!({ (if far { "export" } else { "node" }): from.display().to_string(), "name": name })
                }
            };
            let bitmaps: Vec<Value> = sources.iter().map(source).collect();
            (at, "merge", json!({ "target": at.named.name, "bitmaps": bitmaps }))
        }
        _ => return Ok(false),
    };
    let Some(control) = &at.control else { return Ok(false) };
    let mut wanted = json!({ "node": at.named.image.display().to_string() });
    if word != "merge" {
        wanted["name"] = json!(at.named.name);
    }
    let control = Control { control: control.clone() };
    ask(&control, &format!("block-dirty-bitmap-{word}"), with(wanted, more)).map(|()| true)
}

/// Makes a bitmap that is there with all its bits, or not at all.
pub fn fetch(fetch: &Fetch) -> Result<()> {
    let Fetch { control, recorded, granularity, device: node, name, old } = fetch;
    let old = old.display().to_string();
    let action = |word: &str, data: Value| json!({ "type": format!("block-dirty-bitmap-{word}"), "data": data });
    let actions = [
        action("add", json!({ "node": node, "name": name, "granularity": granularity })),
        action(
            "merge",
            json!({ "node": node, "target": name, "bitmaps": [recorded, { "export": old, "name": name }] }),
        ),
        action("remove", json!({ "node": node, "name": recorded })),
    ];
    ask(control, "transaction", json!({ "actions": actions }))
}

fn format_name(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Lvd => "lvd",
        OutputFormat::Raw => "raw",
    }
}

/// Begins a job, of which `more` says what is its own.
fn begin(job: &NewJob, command: &str, more: Value) -> Result<()> {
    let wanted = json!({ "device": job.device, "speed": job.speed, "job-id": job.id });
    ask(&job.control, command, with(wanted, more))
}

/// The members of both.
fn with(mut wanted: Value, more: Value) -> Value {
    if let (Some(wanted), Value::Object(mut more)) = (wanted.as_object_mut(), more) {
        wanted.append(&mut more);
    }
    wanted
}

/// Gives a command that has nothing to tell.
fn ask(control: &Control, command: &str, arguments: Value) -> Result<()> {
    Connection::open(&control.control)?.ask(command, arguments).map(drop)
}

fn list(control: &Control, json: bool) -> Result<()> {
    let jobs = Connection::open(&control.control)?.ask("query-block-jobs", json!({}))?;
    if json {
        return output::json(&jobs);
    }
    for job in jobs.as_array().into_iter().flatten() {
        let text = |member: &str| job[member].as_str().unwrap_or_default().to_owned();
        let number = |member: &str| job[member].as_u64().unwrap_or_default();
        let (done, total) = (Size(number("offset")), Size(number("len")));
        let speed = match number("speed") {
            0 => String::new(),
            speed => format!(", at most {}/s", Size(speed)),
        };
        let error = job["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
        let (device, kind, status) = (text("device"), text("type"), text("status"));
        output::line(format!("{device:<24} {kind:<8} {status:<10} {done} of {total}{speed}{error}"))?;
    }
    Ok(())
}

/// A file as the server finds it, whose directory is another; the URI of an export as it is.
fn file(path: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let name = path.display().to_string();
    if open::uri(path)?.is_some() {
        return Ok(Some(name));
    }
    let path = std::path::absolute(path).map_err(|error| Error::io(&name, "cannot find its directory", error))?;
    let text = path.into_os_string().into_string();
    text.map(Some).map_err(|_| Error::Invalid(format!("{name}: commands are UTF-8")))
}

/// A client of a control socket.
struct Connection {
    name: String,
    stream: BufReader<UnixStream>,
}

impl Connection {
    fn open(path: &Path) -> Result<Connection> {
        let name = path.display().to_string();
        let stream = UnixStream::connect(path).map_err(|error| Error::io(&name, "cannot connect", error))?;
        let mut connection = Connection { name, stream: BufReader::new(stream) };
        let greeting = connection.receive()?;
        if !greeting["QMP"].is_object() {
            let why = greeting["error"]["desc"].as_str().unwrap_or("no control socket");
            return Err(Error::Invalid(format!("{}: {why}", connection.name)));
        }
        connection.ask("qmp_capabilities", json!({}))?;
        Ok(connection)
    }

    /// The answer to a command. What happens meanwhile is no answer.
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let text = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        let sent = self.stream.get_mut().write_all(text.as_bytes());
        sent.map_err(|error| Error::io(&self.name, "cannot send", error))?;
        loop {
            let mut answer = self.receive()?;
            if let Some(error) = answer["error"]["desc"].as_str() {
                return Err(Error::Invalid(error.to_owned()));
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        let failed = |error| Error::io(&self.name, "cannot receive", error);
        let mut line = String::new();
        match self.stream.read_line(&mut line).map_err(failed)? {
            0 => Err(failed(ErrorKind::UnexpectedEof.into())),
            _ => serde_json::from_str(&line).map_err(|error| failed(error.into())),
        }
    }
}
