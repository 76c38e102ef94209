//! `info` and `check`: what a file says of itself, and whether it is sound.

use crate::args::{Cache, Check, Format, Info};
use crate::open::{self, Disk, beside, file_of};
use crate::{Outcome, output};
use lvd::chain::Layer;
use lvd::format::{Bitmap, Header, HostFormat, Kind, Parent, State};
use lvd::image::{CheckReport, Image, OpenOptions};
use lvd::storage::{FileStorage, LockMode, Storage};
use lvd::units::Size;
use lvd::{Error, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

pub fn info(arguments: &Info) -> Result<()> {
    let mut opening = arguments.opening.clone();
    // Looking does no harm, and the marks are part of what is to be seen.
    opening.ignore_marks = true;
    if arguments.chain {
        let disk = Disk::open(&arguments.image, &opening, false)?;
        let layers = disk.chain().layers.iter().map(Facts::of_layer).collect::<Result<Vec<_>>>()?;
        if arguments.output.json() {
            return output::json(&layers.iter().map(Facts::json).collect::<Vec<_>>());
        }
        let texts: Vec<_> = layers.iter().map(Facts::text).collect();
        return output::raw(texts.join("\n").as_bytes());
    }
    let path = opening.sidecar.as_deref().unwrap_or(&arguments.image);
    let file = open::file(path, false, Cache::Writeback, Some(LockMode::Shared))?;
    let facts = match open::format_of(&*file, opening.format, "-f")? {
        Format::Lvd => Facts::new(&*file, Some(Image::read_header(&*file)?))?,
        Format::Raw => Facts::new(&*file, None)?,
    };
    if arguments.output.json() { output::json(&facts.json()) } else { output::raw(facts.text().as_bytes()) }
}

/// What is known of one file.
struct Facts {
    filename: String,
    size: u64,
    allocated: Option<u64>,
    /// None of a raw file.
    header: Option<Header>,
}

impl Facts {
    fn new(file: &dyn Storage, header: Option<Header>) -> Result<Facts> {
        let size = header.as_ref().map_or_else(|| file.size(), |header| Ok(header.virtual_size))?;
        Ok(Facts { filename: file.name().to_owned(), size, allocated: file.allocated()?, header })
    }

    fn of_layer(layer: &Layer) -> Result<Facts> {
        Facts::new(&**file_of(layer), layer.image().map(|image| (*image.header()).clone()))
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "filename": self.filename,
            "format": if self.header.is_some() { "lvd" } else { "raw" },
            "virtual-size": self.size,
            "actual-size": self.allocated,
            "dirty-flag": self.header.as_ref().is_some_and(|header| header.state != State::Closed),
        });
        let Some(header) = &self.header else { return value };
        let sections: Vec<_> = header
            .sections
            .iter()
            .map(|section| {
                json!({
                    "kind": section.kind.to_string(), "granularity": section.granule(),
                    "offset": section.offset, "length": section.length,
                })
            })
            .collect();
        let own = json!({
            "kind": header.kind.to_string(),
            "data-offset": header.data_offset,
            "complete": header.kind == Kind::Image && header.complete(),
            "granularity": header.allocation().map(|section| section.granule()),
            "uuid": header.uuid.to_string(),
            "epoch": header.epoch.to_string(),
            "state": header.state.to_string(),
            "sequence": header.sequence,
            "sections": sections,
            "bitmaps": header.bitmaps.iter().map(bitmap_json).collect::<Vec<_>>(),
            "points": header.points.iter().map(|point| point.point.to_string()).collect::<Vec<_>>(),
            "merge-mark": header.merge_mark.as_ref().map(|mark| {
                json!({ "child-uuid": mark.child_uuid.to_string(), "child-epoch": mark.child_epoch.to_string() })
            }),
            "copy-mark": header.copy_mark.as_ref().map(|mark| json!({ "group": mark.group.to_string() })),
        });
        merge(&mut value, own);
        if let Some(parent) = &header.parent {
            merge(&mut value, self.parent_json(parent));
        }
        value
    }

    fn parent_json(&self, parent: &Parent) -> Value {
        let identity = parent.identity.as_ref();
        json!({
            "backing-filename": parent.hint,
            "full-backing-filename": beside(Path::new(&self.filename), &parent.hint),
            "backing-filename-format": parent.format.to_string(),
            "parent": {
                "uuid": identity.map(|identity| identity.uuid.to_string()),
                "epoch": identity.map(|identity| identity.epoch.to_string()),
                "visible-length": parent.visible_length,
                "unverified": identity.is_none(),
            },
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            // A string takes whatever is written.
            let _ = writeln!(text, "{key}: {value}");
        };
        line("image", &self.filename);
        line("file format", &if self.header.is_some() { "lvd" } else { "raw" });
        line("virtual size", &format!("{} ({} bytes)", Size(self.size), self.size));
        match self.allocated {
            Some(allocated) => line("disk size", &Size(allocated)),
            None => line("disk size", &"unknown"),
        }
        let Some(header) = &self.header else { return text };
        if header.kind == Kind::Sidecar {
            let of = header
                .host
                .map_or("nothing", |host| if host.format == HostFormat::Lvd { "an image" } else { "a raw volume" });
            line("kind", &format!("sidecar of {of}"));
        } else {
            line("data offset", &header.data_offset);
            line("complete", &if header.complete() { "yes" } else { "no" });
        }
        if let Some(section) = header.allocation() {
            line("block size", &Size(section.granule()));
        }
        line("uuid", &header.uuid);
        line("epoch", &header.epoch);
        line("session", &if header.state == State::Closed { "closed" } else { "not closed" });
        if let Some(parent) = &header.parent {
            line("backing file", &parent.hint);
            line("backing file format", &parent.format);
            line("visible of it", &format!("{} bytes", parent.visible_length));
            if parent.identity.is_none() {
                line("backing file identity", &"unverified");
            }
        }
        for bitmap in &header.bitmaps {
            line("bitmap", &format!("{} ({}), since {}", bitmap.name, bitmap.state, bitmap.since));
        }
        if let Some(point) = header.points.first() {
            line("backup of", &format!("{} at {}", point.source, point.point));
        }
        if let Some(mark) = &header.merge_mark {
            line("being merged into by", &mark.child_uuid);
        }
        if header.copy_mark.is_some() {
            line("not a copy yet", &"the job that fills it has not finished");
        }
        text
    }
}

/// What the header says of a bitmap; `bitmap list` reads its bits too.
fn bitmap_json(bitmap: &Bitmap) -> Value {
    json!({ "name": bitmap.name, "state": bitmap.state.to_string(), "since": bitmap.since.to_string() })
}

/// Adds the members of `more`.
fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(all), Value::Object(more)) = (value, more) {
        all.extend(more);
    }
}

pub fn check(arguments: &Check) -> Result<Outcome> {
    let opening = &arguments.opening;
    if opening.format == Some(Format::Raw) && opening.sidecar.is_none() {
        output::complain(&format!("{}: a raw disk has nothing that can be checked", arguments.image.display()));
        return Ok(Outcome::NotCheckable);
    }
    let path = opening.sidecar.as_deref().unwrap_or(&arguments.image);
    let file = open::file(path, false, opening.cache, Some(LockMode::Shared))?;
    if opening.format.is_none() && !open::recognisable(&*file)? {
        output::complain(&format!("{}: not an LVD image, so there is nothing to check", path.display()));
        return Ok(Outcome::NotCheckable);
    }
    let image = match open_to_check(arguments, file) {
        Ok(image) => image,
        Err(error @ Error::Corrupt { .. }) => {
            output::complain(&error.to_string());
            return Ok(Outcome::Damaged);
        }
        Err(error @ Error::Unsupported { .. }) => {
            output::complain(&error.to_string());
            return Ok(Outcome::NotCheckable);
        }
        Err(error) => return Err(error),
    };
    let report = image.check()?;
    if arguments.output.json() {
        output::json(&report_json(&image, &report))?;
    } else {
        print_report(arguments, &report)?;
    }
    Ok(if report.corruptions == 0 { Outcome::Done } else { Outcome::Damaged })
}

fn open_to_check(arguments: &Check, file: Arc<FileStorage>) -> Result<Image> {
    let options = OpenOptions { ignore_marks: true, ..OpenOptions::default() };
    if arguments.opening.sidecar.is_none() {
        return Image::open(file, open::host(), &options);
    }
    let volume = open::file(&arguments.image, false, arguments.opening.cache, Some(LockMode::Shared))?;
    Image::open_sidecar(file, volume, open::host(), &options)
}

fn report_json(image: &Image, report: &CheckReport) -> Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            let (rule, sentence) = (finding.violation.id(), finding.violation.rule());
            json!({ "offset": finding.at, "rule": rule, "sentence": sentence, "text": finding.text })
        })
        .collect();
    json!({
        "filename": image.name(),
        "format": "lvd",
        "check-errors": 0,
        "corruptions": report.corruptions,
        "total-clusters": report.total_blocks,
        "allocated-clusters": report.present_blocks,
        "unclean": report.unclean,
        "findings": findings,
    })
}

fn print_report(arguments: &Check, report: &CheckReport) -> Result<()> {
    for finding in &report.findings {
        output::line(format!("at offset {}: {} ({})", finding.at, finding.text, finding.violation))?;
    }
    let untold = report.corruptions - report.findings.len() as u64;
    if untold > 0 {
        output::line(format!("and {untold} more"))?;
    }
    if arguments.quiet {
        return Ok(());
    }
    if report.corruptions == 0 {
        output::line("No errors were found on the image.")?;
    } else {
        output::line(format!("{} errors were found on the image.", report.corruptions))?;
    }
    if report.unclean {
        output::line("It was not closed when it was last written; that is no damage.")?;
    }
    let share = 100.0 * report.present_blocks as f64 / report.total_blocks.max(1) as f64;
    output::line(format!("{}/{} = {share:.2}% allocated", report.present_blocks, report.total_blocks))
}
