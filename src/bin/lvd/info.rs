//! `info` and `check`: what a file says of itself, and whether it is sound.

use crate::args::{Access, Check, Format, Info};
use crate::open::{self, Disk, beside, file_of};
use crate::{Outcome, output};
use lvd::chain::Layer;
use lvd::foreign::{Qed, QedFacts};
use lvd::format::{Bitmap, CopyMark, GroupMark, Header, HostFormat, Kind, Parent, State};
use lvd::image::{CheckReport, Image, OpenOptions};
use lvd::storage::{LockMode, Storage};
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
    let file = open::storage(path, false, &Access::default(), Some(LockMode::Shared))?;
    let facts = match open::format_of(&*file, opening.format, "-f")? {
        Format::Lvd => Facts::new(&*file, Content::Lvd(Box::new(Image::read_header(&*file)?)))?,
        Format::Raw => Facts::new(&*file, Content::Raw)?,
        Format::Qed => Facts::new(&*file, Content::Qed(Qed::read_facts(&*file)?))?,
    };
    if arguments.output.json() { output::json(&facts.json()) } else { output::raw(facts.text().as_bytes()) }
}

/// What is known of one file.
struct Facts {
    filename: String,
    size: u64,
    allocated: Option<u64>,
    content: Content,
}

/// What the file says of itself.
enum Content {
    Lvd(Box<Header>),
    Raw,
    Qed(QedFacts),
}

impl Content {
    fn format(&self) -> &'static str {
        match self {
            Content::Lvd(_) => "lvd",
            Content::Raw => "raw",
            Content::Qed(_) => "qed",
        }
    }

    /// Whether the last writer did not close it.
    fn unclean(&self) -> bool {
        match self {
            Content::Lvd(header) => header.state != State::Closed,
            Content::Raw => false,
            Content::Qed(facts) => facts.header.need_check,
        }
    }
}

impl Facts {
    fn new(file: &dyn Storage, content: Content) -> Result<Facts> {
        let size = match &content {
            Content::Lvd(header) => header.virtual_size,
            Content::Raw => file.size()?,
            Content::Qed(facts) => facts.header.size,
        };
        Ok(Facts { filename: file.name().to_owned(), size, allocated: file.allocated()?, content })
    }

    fn of_layer(layer: &Layer) -> Result<Facts> {
        let file = &**file_of(layer);
        let content = match layer {
            Layer::Lvd(image) => Content::Lvd(Box::new((*image.header()).clone())),
            Layer::Raw(_) => Content::Raw,
            Layer::Foreign(_) => Content::Qed(Qed::read_facts(file)?),
        };
        Facts::new(file, content)
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "filename": self.filename,
            "format": self.content.format(),
            "virtual-size": self.size,
            "actual-size": self.allocated,
            "dirty-flag": self.content.unclean(),
        });
        match &self.content {
            Content::Lvd(header) => merge(&mut value, self.header_json(header)),
            Content::Raw => {}
            Content::Qed(facts) => merge(&mut value, self.qed_json(facts)),
        }
        value
    }

    fn qed_json(&self, facts: &QedFacts) -> Value {
        let mut value = json!({ "cluster-size": facts.header.cluster_size });
        if let Some(name) = &facts.backing {
            let backing = json!({
                "backing-filename": name,
                "full-backing-filename": beside(Path::new(&self.filename), name),
                "backing-filename-format": facts.header.backing_raw.then_some("raw"),
            });
            merge(&mut value, backing);
        }
        value
    }

    fn header_json(&self, header: &Header) -> Value {
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
        let mut value = json!({
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
            "group-mark": header.group_mark.map(|mark| json!({ "group": mark.group.to_string() })),
            "decision": header.decision.map(|decision| decision.to_string()),
        });
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
        line("file format", &self.content.format());
        line("virtual size", &format!("{} ({} bytes)", Size(self.size), self.size));
        match self.allocated {
            Some(allocated) => line("disk size", &Size(allocated)),
            None => line("disk size", &"unknown"),
        }
        let header = match &self.content {
            Content::Lvd(header) => header,
            Content::Raw => return text,
            Content::Qed(facts) => {
                line("cluster size", &Size(facts.header.cluster_size));
                line("session", &if facts.header.need_check { "not closed" } else { "closed" });
                if let Some(name) = &facts.backing {
                    line("backing file", name);
                    line("backing file format", &if facts.header.backing_raw { "raw" } else { "not said" });
                }
                return text;
            }
        };
        match header.kind {
            Kind::Sidecar => {
                let of = header
                    .host
                    .map_or("nothing", |host| if host.format == HostFormat::Lvd { "an image" } else { "a raw volume" });
                line("kind", &format!("sidecar of {of}"));
            }
            Kind::Group => line("kind", &"group of disks"),
            Kind::Image => {
                line("data offset", &header.data_offset);
                line("complete", &if header.complete() { "yes" } else { "no" });
            }
        }
        if let Some(decision) = header.decision {
            line("decision", &decision);
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
        if let Some(CopyMark { group }) = header.copy_mark {
            match group.is_nil() {
                true => line("not a copy yet", &"the job that fills it has not finished"),
                false => line("not a copy until moved by group", &group),
            }
        }
        if let Some(GroupMark { group }) = header.group_mark {
            line("not the disk once moved by group", &group);
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
    let why = match opening.format {
        Some(Format::Raw) => Some("a raw disk has nothing that can be checked"),
        Some(Format::Qed) => Some("a QED image is checked by qemu-img"),
        Some(Format::Lvd) | None => None,
    };
    if let (Some(why), None) = (why, &opening.sidecar) {
        output::complain(&format!("{}: {why}", arguments.image.display()));
        return Ok(Outcome::NotCheckable);
    }
    let path = opening.sidecar.as_deref().unwrap_or(&arguments.image);
    let file = open::storage(path, false, &opening.access, Some(LockMode::Shared))?;
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

fn open_to_check(arguments: &Check, file: Arc<dyn Storage>) -> Result<Image> {
    let options = OpenOptions { ignore_marks: true, ..OpenOptions::default() };
    if arguments.opening.sidecar.is_none() {
        return Image::open(file, open::host(), &options);
    }
    let volume = open::storage(&arguments.image, false, &arguments.opening.access, Some(LockMode::Shared))?;
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
