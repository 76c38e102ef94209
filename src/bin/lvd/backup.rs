//! `backup` and `diff`.

use crate::args::{Backup, Diff, OutputFormat};
use crate::bitmap::Stretches;
use crate::create::ParentOf;
use crate::open::{Disk, Target};
use crate::{output, run, signals};
use lvd::format::Uuid;
use lvd::image::CreateOptions;
use lvd::jobs::{self, Count, Job, differences};
use lvd::{BlockDevice, Error, Result};
use serde_json::json;

pub fn backup(arguments: &Backup) -> Result<()> {
    let counts = arguments.bitmap.is_some() && !arguments.keep_bitmap;
    let source = Disk::open(&arguments.image, &arguments.opening, counts)?;
    let since = counts.then(|| Uuid(source.chain().host().random()));
    let count = match (&arguments.bitmap, since) {
        (Some(name), Some(since)) => {
            crate::bitmap::image(&source)?;
            Some(Count::new(source.chain().image(0)?.clone(), name, since))
        }
        _ => None,
    };
    let done = match &arguments.previous {
        Some(previous) => incremental(arguments, &source, previous, count),
        None => full(arguments, &source, count),
    };
    let closed = source.close();
    let done = done?;
    closed?;
    if let Some(since) = since.filter(|_| !arguments.running.output.json() && !arguments.running.quiet) {
        output::line(format!("point {since}"))?;
    }
    if arguments.running.output.json() {
        let point = since.map(|since| since.to_string());
        let (total, copied, seconds) = (done.total, done.copied, done.seconds);
        return output::json(
            &json!({ "job": "backup", "total": total, "copied": copied, "seconds": seconds, "point": point }),
        );
    }
    run::tell("backup", &arguments.running, done)
}

fn full(arguments: &Backup, source: &Disk, count: Option<Count>) -> Result<run::Done> {
    let target = Target::open(&arguments.target, &arguments.opening.access)?;
    target.refuse_source(source)?;
    target.keep_if(|| {
        let (layer, fresh) = target.layer(arguments.output_format, source.chain().size())?;
        let work = jobs::Backup::full(source.chain(), layer.clone(), fresh, count)?;
        let job = Job::new(work, source.chain().host().clone());
        run::run_and_close(&job, "backup", &arguments.running, || layer.close())
    })
}

fn incremental(arguments: &Backup, source: &Disk, previous: &str, count: Option<Count>) -> Result<run::Done> {
    let (Some(name), OutputFormat::Lvd) = (&arguments.bitmap, arguments.output_format) else {
        return Err(Error::Invalid("an incremental backup is an LVD overlay of the one before".into()));
    };
    let access = &arguments.opening.access;
    let parent = ParentOf::open(&arguments.target, previous, arguments.previous_format, access)?;
    let size = source.chain().size();
    let options = CreateOptions {
        virtual_size: size,
        parent: Some(parent.link(size.min(parent.size()))?),
        copy_mark: true,
        ..CreateOptions::default()
    };
    drop(parent);
    let target = Target::open(&arguments.target, access)?;
    target.refuse_source(source)?;
    target.keep_if(|| {
        target.create(&options)?;
        let chain = target.chain(access)?;
        let work = jobs::Backup::incremental(source.chain(), &chain, name, arguments.since, count)?;
        let job = Job::new(work, source.chain().host().clone());
        run::run_and_close(&job, "backup", &arguments.running, || chain.close())
    })
}

pub fn diff(arguments: &Diff) -> Result<()> {
    let unit = arguments.granularity;
    if !unit.is_power_of_two() || !(4096..=1 << 24).contains(&unit) {
        return Err(Error::Invalid(format!("a granularity is a power of two from 4096 to 16M, not {unit}")));
    }
    let first = Disk::open(&arguments.first, &arguments.opening, false)?;
    let opening = crate::args::Opening { format: arguments.second_format, sidecar: None, ..arguments.opening.clone() };
    let second = Disk::open(&arguments.second, &opening, false)?;
    let mut table = Stretches::new(arguments.output.json(), ("same", "changed"));
    differences(first.chain(), second.chain(), unit, &mut |range, differs| {
        signals::go_on()?;
        table.row(range, differs)
    })?;
    table.end()
}
