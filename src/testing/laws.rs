//! What holds in every state that a crash leaves: the laws R, O, E and S.

use super::choices::Random;
use super::model::{Breach, Model, Seen};
use super::sector::mix;
use super::sim::SimDisk;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::{Header, State, Uuid};
use crate::image::{Image, Trust};
use crate::limits::SECTOR_SIZE;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// A disk opened for looking.
#[derive(Debug)]
pub struct Opened {
    /// What a guest would see.
    pub device: Arc<dyn BlockDevice>,
    /// The header of the file whose content that is, if it has one.
    pub header: Option<Arc<Header>>,
    /// The same file, with its bitmaps.
    pub image: Option<Arc<Image>>,
}

/// Opens a disk for reading alone.
pub type Open = fn(&SimDisk) -> Result<Opened>;

/// A disk that users of the scenario may open, and what they may expect.
#[derive(Clone)]
pub struct View {
    /// Its name in messages.
    pub name: &'static str,
    /// How it is opened.
    pub open: Open,
    /// What may be read.
    pub model: Model,
    /// Whether it must open. What was not promised yet may be missing or refused, but never wrong.
    pub required: bool,
    /// What the disk held at the points that its bitmaps may name.
    pub points: Vec<(Uuid, Arc<BTreeMap<u64, u64>>)>,
    /// Bitmaps that it must have, and that must be valid.
    pub bitmaps: Vec<&'static str>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("name", &self.name).field("required", &self.required).finish()
    }
}

/// What is known of the contents that epochs name, over all states of a scenario.
#[derive(Debug, Default)]
pub struct Epochs(HashMap<(Uuid, Uuid), Named>);

#[derive(Debug)]
struct Named {
    /// A hash of each sector; 0 where a failed barrier has left it in doubt.
    content: Vec<u64>,
    /// A second content was seen.
    several: bool,
    /// Somebody may rely on the epoch: it was seen in a closed or filling file, or a child names it.
    sealed: bool,
}

impl Epochs {
    /// Law E: takes in a content under its epoch.
    fn note(&mut self, header: &Header, content: &[u64], sealed: bool) -> std::result::Result<(), Breach> {
        let first = || Named { content: content.to_vec(), several: false, sealed };
        let named = self.0.entry((header.uuid, header.epoch)).or_insert_with(first);
        named.several |= named.content.len() != content.len();
        for (known, seen) in named.content.iter_mut().zip(content) {
            if *seen == 0 {
                *known = 0;
            }
            named.several |= *known != 0 && known != seen;
        }
        named.sealed |= sealed;
        if named.several && named.sealed {
            let what = format!("epoch {} of {} names more than one content", header.epoch, header.uuid);
            return Err(Breach::new('E', what));
        }
        Ok(())
    }
}

/// Holds one state of the disk against the laws. What each view was seen to hold, in their order; `None` for one that
/// was not promised and does not open.
pub fn judge(disk: &SimDisk, views: &[View], epochs: &mut Epochs) -> std::result::Result<Vec<Option<Seen>>, Breach> {
    let mut seen = Vec::with_capacity(views.len());
    let mut headers: Vec<(Arc<Header>, Vec<u64>)> = Vec::new();
    for view in views {
        let opened = match (view.open)(disk) {
            Ok(opened) => opened,
            Err(error) if view.required => {
                return Err(Breach::new('R', format!("{} does not open: {error}", view.name)));
            }
            Err(_) => {
                seen.push(None);
                continue;
            }
        };
        let content = view.model.check(&*opened.device).map_err(|breach| named(view, breach))?;
        if let Some(image) = &opened.image {
            superset(view, image, &content)?;
        }
        if let Some(header) = opened.header {
            headers.push((header, view.model.fingerprint(&content)));
        }
        seen.push(Some(content));
    }
    for (header, content) in &headers {
        let links = headers.iter().filter_map(|(child, _)| child.parent.as_ref()?.identity);
        let named_by_child = links.into_iter().any(|id| (id.uuid, id.epoch) == (header.uuid, header.epoch));
        let sealed = header.state != State::Writing || named_by_child;
        epochs.note(header, content, sealed)?;
    }
    match disk.written_read_only() {
        true => Err(Breach::new('R', "opening for reading wrote")),
        false => Ok(seen),
    }
}

/// Law S: a bitmap that is valid has every granule dirty that was changed since its point. And none gets lost or stale.
pub(super) fn superset(view: &View, image: &Image, seen: &Seen) -> std::result::Result<(), Breach> {
    let infos = image.bitmaps();
    for name in &view.bitmaps {
        if !infos.iter().any(|info| info.name == *name && info.trust == Trust::Valid) {
            return Err(Breach::new('S', format!("{}: the bitmap {name} is not valid, or gone: {infos:?}", view.name)));
        }
    }
    for info in infos.iter().filter(|info| info.trust == Trust::Valid) {
        let Some((_, before)) = view.points.iter().find(|(since, _)| *since == info.since) else { continue };
        let clean = |sector: u64| {
            let at = sector * SECTOR_SIZE;
            Ok(at < seen.size && !image.bitmap_run(&info.name, at, at + 1)?.0)
        };
        let unseen = view.model.changed_unseen(seen, before, clean);
        let unseen = unseen.map_err(|error| Breach::new('R', format!("{}: {}: {error}", view.name, info.name)))?;
        if let Some(sector) = unseen {
            let what = format!(
                "{}: sector {sector} changed since the point of the bitmap {}, which has it clean",
                view.name, info.name
            );
            return Err(Breach::new('S', what));
        }
    }
    Ok(())
}

fn named(view: &View, breach: Breach) -> Breach {
    Breach::new(breach.law, format!("{}: {}", view.name, breach.what))
}

/// A hash of what is expected, for telling apart states that were already judged.
pub fn hash(views: &[View]) -> u64 {
    views.iter().fold(5, |state, view| {
        let promised = view.required as u64 | (view.bitmaps.len() as u64) << 1 | (view.points.len() as u64) << 8;
        mix(mix(state, view.model.hash()), promised)
    })
}

/// Whether a state with this hash belongs to a sample of one in `period`.
pub fn sampled(hash: u64, period: u64) -> bool {
    period != 0 && Random(hash).below(period) == 0
}
