//! `map`: where each stretch of the disk comes from, in the words of `qemu-img map`.

use crate::args::Map;
use crate::open::Disk;
use crate::{output, signals};
use lvd::{BlockDevice, Error, Extent, ExtentKind, Result};
use std::fmt::Write;

/// Text is handed on in pieces of this many bytes, so that a long map needs no more memory than a short one.
const PIECE: usize = 64 << 10;

pub fn map(arguments: &Map) -> Result<()> {
    let disk = Disk::open(&arguments.image, &arguments.opening, false)?;
    let size = disk.chain().size();
    let start = arguments.start_offset;
    if start > size {
        return Err(Error::Invalid(format!("offset {start} lies outside the disk of {size}")));
    }
    let end = arguments.max_length.map_or(size, |length| start.saturating_add(length).min(size));
    let mut table = Table { json: arguments.output.json(), text: String::new(), rows: 0 };
    table.begin();
    let mut pending: Option<Extent> = None;
    let mut at = start;
    while at < end && !output::closed() {
        signals::go_on()?;
        let extent = disk.chain().extent(at, end)?;
        at = extent.range.end;
        match &mut pending {
            Some(last) if continues(last, &extent) => last.range.end = extent.range.end,
            _ => {
                if let Some(last) = pending.replace(extent) {
                    table.row(&last)?;
                }
            }
        }
    }
    if let Some(last) = pending {
        table.row(&last)?;
    }
    table.end()
}

/// Whether `next` is more of the same.
fn continues(last: &Extent, next: &Extent) -> bool {
    let follows = match (&last.place, &next.place) {
        (Some(before), Some(after)) => {
            after.offset.checked_sub(before.offset) == Some(last.range.end - last.range.start)
        }
        (None, None) => true,
        _ => false,
    };
    follows && (last.kind, last.present, last.depth) == (next.kind, next.present, next.depth)
}

struct Table {
    json: bool,
    text: String,
    rows: u64,
}

impl Table {
    fn begin(&mut self) {
        self.text += if self.json { "[" } else { "Offset          Length          Mapped to       File\n" };
    }

    fn row(&mut self, extent: &Extent) -> Result<()> {
        let (start, length) = (extent.range.start, extent.range.end - extent.range.start);
        let data = extent.kind == ExtentKind::Data;
        // Writing to a string does not fail.
        let _ = if self.json {
            let comma = if self.rows == 0 { "" } else { ",\n" };
            let (present, depth) = (extent.present, extent.depth);
            let offset =
                extent.place.as_ref().map(|place| format!(", \"offset\": {}", place.offset)).unwrap_or_default();
            write!(
                self.text,
                "{comma}{{ \"start\": {start}, \"length\": {length}, \"depth\": {depth}, \"present\": {present}, \
                 \"zero\": {}, \"data\": {data}, \"compressed\": false{offset}}}",
                !data
            )
        } else if let (true, Some(place)) = (data, &extent.place) {
            writeln!(self.text, "{start:<#16x}{length:<#16x}{:<#16x}{}", place.offset, place.file.name())
        } else {
            Ok(())
        };
        self.rows += 1;
        if self.text.len() >= PIECE {
            output::raw(self.text.as_bytes())?;
            self.text.clear();
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        if self.json {
            self.text += "]\n";
        }
        output::raw(self.text.as_bytes())
    }
}
