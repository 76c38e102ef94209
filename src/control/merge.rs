//! `block-dirty-bitmap-merge`: what it says, and the merge into a bitmap of a disk that is held still.

use super::commands::{Answer, Command};
use super::server::Server;
use super::transaction::{self, Action};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::BitmapState;
use crate::image::{Image, Trust};
use crate::live::Still;
use crate::sync::Arc;
use serde::Deserialize;
use serde_json::Value;
use std::ops::Range;

/// Makes dirty in `target`, a bitmap of `node`, what is dirty in `bitmaps`: of the same disk, of another one of this server
/// or of an export of another server. Where granules differ, each of the target's that touches a dirty one becomes dirty.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BitmapMerge {
    pub(super) node: String,
    pub(super) target: String,
    bitmaps: Vec<Source>,
}

/// A bitmap whose bits are taken.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
enum Source {
    /// Of the same disk.
    Here(String),
    /// Of a disk of this server, as QEMU has it.
    Of { node: String, name: String },
    /// Of an export, by its URI.
    Far { export: String, name: String },
}

impl TryFrom<Value> for Source {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Source, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Members {
            node: Option<String>,
            export: Option<String>,
            name: String,
        }
        if let Value::String(name) = value {
            return Ok(Source::Here(name));
        }
        let Members { node, export, name } = serde_json::from_value(value).map_err(|error| error.to_string())?;
        match (node, export) {
            (Some(node), None) => Ok(Source::Of { node, name }),
            (None, Some(export)) => Ok(Source::Far { export, name }),
            _ => Err(format!("the bitmap {name:?} is one of a 'node' or of an 'export'")),
        }
    }
}

/// What a bitmap of an export has dirty, of a disk of so many bytes.
pub(super) struct Fetched {
    export: String,
    size: u64,
    dirty: Vec<Range<u64>>,
}

impl Command for BitmapMerge {
    fn run(self, server: &Arc<Server>) -> Answer {
        transaction::carry_out(server, vec![Action::BlockDirtyBitmapMerge(self)], false)
    }
}

impl BitmapMerge {
    /// The disks whose bitmaps it is about.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &str> {
        let others = self.bitmaps.iter().filter_map(|source| match source {
            Source::Of { node, .. } => Some(node.as_str()),
            Source::Here(_) | Source::Far { .. } => None,
        });
        std::iter::once(self.node.as_str()).chain(others)
    }

    /// Reads what is on other servers.
    pub(super) fn fetch(&self, server: &Server) -> Result<Vec<Fetched>> {
        let far = self.bitmaps.iter().filter_map(|source| match source {
            Source::Far { export, name } => Some((export, name)),
            Source::Here(_) | Source::Of { .. } => None,
        });
        let fetch = |(export, name): (&String, &String)| {
            let bitmap = server.files.bitmap(export, name)?;
            Ok(Fetched { export: export.clone(), size: bitmap.size(), dirty: bitmap.dirty()? })
        };
        far.map(fetch).collect()
    }

    /// Merges at an instant at which the disks that `still` finds are held still. Returns what was dirty in the target before.
    pub(super) fn make<'a>(
        &self,
        still: &dyn Fn(&str) -> Option<&'a Still<'a>>,
        fetched: &[Fetched],
    ) -> Result<Vec<Range<u64>>> {
        let disk = |node: &str| -> Result<(u64, &'a Arc<Image>)> {
            let still = still(node).ok_or_else(|| Error::Invalid(format!("Cannot find device '{node}'")))?;
            let chain = still.chain();
            Ok((chain.size(), chain.image(0)?))
        };
        let (size, image) = disk(&self.node)?;
        let target = &self.target;
        if image.bitmap(target)?.state == BitmapState::Frozen {
            return Err(Error::Denied(format!("{}: the bitmap {target:?} is frozen for a backup", image.name())));
        }
        // All are looked at first: one that does not fit changes nothing.
        let fits = |whose: &str, other: u64| match other == size {
            true => Ok(()),
            false => Err(Error::Invalid(format!("{whose}: a disk of {other} bytes, and {} has {size}", image.name()))),
        };
        let mut dirty = Vec::new();
        for source in &self.bitmaps {
            let (node, name) = match source {
                Source::Here(name) => (&self.node, name),
                Source::Of { node, name } => (node, name),
                Source::Far { .. } => continue,
            };
            let (other, from) = disk(node)?;
            fits(from.name(), other)?;
            dirty.push(dirty_in(from, name)?);
        }
        for far in fetched {
            fits(&far.export, far.size)?;
        }
        let before = dirty_in(image, target)?;
        let all = dirty.iter().chain(fetched.iter().map(|far| &far.dirty));
        all.into_iter().try_for_each(|dirty| image.merge_bitmap(target, dirty))?;
        Ok(before)
    }
}

/// What the bitmap has dirty. One that has missed writes has what it tells of, as one that is disabled has in QEMU; a stale
/// one has nothing.
fn dirty_in(image: &Image, name: &str) -> Result<Vec<Range<u64>>> {
    match image.bitmap(name)?.trust {
        Trust::Valid | Trust::MissedWrites => image.dirty_stretches(name),
        Trust::Stale => {
            let text = format!("{}: the bitmap {name:?} is stale: clear or remove it", image.name());
            Err(Error::Denied(text))
        }
    }
}
