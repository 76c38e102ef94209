//! Merge (commit): what the layers from a top down hold goes into a base below them; then the top lies on the base.
//!
//! The view from the top never changes: the base is changed only where a layer above it hides it. So a merge may stop
//! anywhere and begin again. What lies between the two, and every other child of the base, loses its ground with the
//! first change; the marks say so on disk (ORD-80, ORD-84) until the base has a new, sealed epoch and the top names it.

use crate::chain::{Chain, Holder, Layer, holder};
use crate::device::{BlockDevice, ExtentKind};
use crate::error::{Error, Result};
use crate::format::{MergeMark, Parent};
use crate::image::Image;
use crate::jobs::control::Work;
use crate::jobs::copy::{Zeros, copy, extent};
use crate::limits::PAGE_SIZE;
use crate::storage::Host;
use crate::switch::{Step, skipped};
use crate::sync::Arc;
use crate::violation::Violation;
use std::ops::Range;

/// Merges a layer of a chain, and those between, into one below.
#[derive(Debug)]
pub struct Merge {
    top: Arc<Image>,
    /// The top, and the layers between it and the base.
    upper: Vec<Layer>,
    base: Layer,
    /// The marks of the layers between and of the base, upper first. A raw base has none.
    marks: Vec<(Arc<Image>, MergeMark)>,
    /// How the base is found from the top.
    hint: String,
    host: Arc<dyn Host>,
    empty: bool,
}

impl Merge {
    /// Merges layer number `top` of `chain`, and the layers between, into layer number `base`. With `empty` the top
    /// holds no block of its own afterwards.
    ///
    /// The chain must be opened with all layers down to `base` writable. Afterwards the layers between are dead.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `base` is not a layer below `top`, [`Error::Denied`] if a layer is not open for writing,
    /// [`Error::Refused`] if the top is itself being merged into, another layer into the base, or the top into a layer further
    /// down.
    pub fn new(chain: &Chain, top: usize, base: usize, empty: bool) -> Result<Merge> {
        if top >= base {
            return Err(Error::Invalid(format!("layer {top} does not lie above layer {base}")));
        }
        let layers = (top..=base).map(|index| chain.layer(index).cloned()).collect::<Result<Vec<_>>>()?;
        if let Some(layer) = layers.iter().find(|layer| !layer.writable()) {
            return Err(Error::Denied(format!("{}: it is not open for writing", layer.name())));
        }
        let image = chain.image(top)?.clone();
        if image.header().merge_mark.is_some() {
            let why = "it is being merged into itself: finish that merge first";
            return Err(Error::refused(chain.layer(top)?.name(), why, Violation::Marked));
        }
        let child = |layer: &Layer| Some(layer.image()?.header().merge_mark?.child_uuid);
        if child(chain.layer(base)?).is_some_and(|child| child != image.uuid()) {
            let why = "another layer is being merged into it: finish that merge first";
            return Err(Error::refused(chain.layer(base)?.name(), why, Violation::Marked));
        }
        if let Some(layer) = chain.layers[base + 1..].iter().find(|layer| child(layer) == Some(image.uuid())) {
            // It would be refused to whoever opens the base alone, which then has all that was merged.
            let why = format!("{} is being merged into it: finish that merge first", image.name());
            return Err(Error::refused(layer.name(), why, Violation::Marked));
        }
        has_room(chain.layer(base)?, image.size())?;
        let marks = marks(&layers)?;
        let hint = chain.hint(top, base)?;
        let mut upper = layers;
        let base = upper.pop().ok_or_else(|| Error::Invalid("a merge needs two layers".into()))?;
        Ok(Merge { top: image, upper, base, marks, hint, host: chain.host().clone(), empty })
    }

    fn set_marks(&self) -> Result<()> {
        for (image, mark) in &self.marks {
            let is_base = self.base.image().is_some_and(|base| Arc::ptr_eq(base, image));
            let step = if is_base { Step::MarkBase } else { Step::MarkBetween };
            // Also if it is there already, from a merge that was stopped: what follows needs a session of this open.
            if !skipped(step) {
                image.set_merge_mark(Some(*mark))?;
                if !is_base {
                    // Nothing else is written to it: both slots carry the mark before what lies below changes.
                    image.seal()?;
                }
            }
        }
        Ok(())
    }

    /// Makes the base as long as the top. A longer one is not cut.
    fn grow(&self) -> Result<()> {
        let (size, wanted) = (self.base.size(), self.top.size());
        match &self.base {
            Layer::Lvd(image) if size < wanted => image.resize(wanted),
            Layer::Raw(raw) => raw.set_size(size.max(wanted)),
            Layer::Lvd(_) | Layer::Foreign(_) => Ok(()),
        }
    }

    /// Makes the base read as zeros where a layer above it lets nothing through (ORD-83).
    fn hide(&self, range: Range<u64>) -> Result<()> {
        if skipped(Step::ZerosPastShort) {
            return Ok(());
        }
        let base = self.base.device();
        let mut at = range.start;
        while at < range.end {
            let found = extent(&*base, at, range.end)?;
            at = found.range.end;
            // What no layer holds, or a hole of a layer that this merge does not write to, is zero and stays so. The
            // base's own holes may be those of a run whose barrier failed.
            let zero = found.kind == ExtentKind::Zero && (!found.present || found.depth > 0);
            if !zero {
                base.write_zeroes(found.range, true)?;
            }
        }
        Ok(())
    }

    fn seal_base(&self) -> Result<()> {
        match &self.base {
            Layer::Lvd(image) if !skipped(Step::SealBase) => image.seal(),
            Layer::Raw(raw) if !skipped(Step::SealBase) => raw.flush(),
            _ => Ok(()),
        }
    }

    fn clear_mark(&self) -> Result<()> {
        match &self.base {
            Layer::Lvd(image) => image.set_merge_mark(None),
            Layer::Raw(_) | Layer::Foreign(_) => Ok(()),
        }
    }
}

impl Work for Merge {
    fn kind(&self) -> &'static str {
        "commit"
    }

    fn total(&self) -> u64 {
        self.top.size()
    }

    fn alignment(&self) -> u64 {
        self.upper.iter().map(Layer::granule).max().unwrap_or(1).max(self.base.granule()).max(PAGE_SIZE)
    }

    fn prepare(&self) -> Result<()> {
        // The marks name the epochs that the links of these layers name: links that a killed run has left in the page
        // cache alone must not go back to older ones.
        self.upper.iter().try_for_each(|layer| layer.device().flush())?;
        self.set_marks()?;
        self.grow()
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        let base = self.base.device();
        let mut copied = 0;
        let mut at = range.start;
        while at < range.end {
            let (who, end) = holder(&self.upper, at, range.end)?;
            match who {
                Holder::Layer(_) => copied += copy(&*self.top, &*base, at..end, Zeros::Written)?,
                Holder::Hidden => self.hide(at..end)?,
                Holder::Below => {}
            }
            at = end;
        }
        Ok(copied)
    }

    fn checkpoint(&self) -> Result<()> {
        self.base.device().flush()
    }

    fn finish(&self) -> Result<()> {
        self.seal_base()?;
        let visible = self.top.size().min(self.base.size());
        let link: Parent = self.base.link(visible, self.hint.clone())?;
        if skipped(Step::ClearMarkLast) {
            self.clear_mark()?;
        }
        self.top.relink(Some(link), Some(self.base.device()))?;
        if !skipped(Step::ClearMarkLast) {
            self.clear_mark()?;
        }
        if self.empty { self.top.empty(&*self.host) } else { Ok(()) }
    }
}

/// Refuses a base on a device that is too small, before a mark says that the merge has begun.
fn has_room(base: &Layer, size: u64) -> Result<()> {
    let (storage, offset) = match base {
        Layer::Lvd(image) => image.data_location(),
        Layer::Raw(raw) => (raw.storage().clone(), 0),
        // Is never written: refused before.
        Layer::Foreign(_) => return Ok(()),
    };
    let grows = !storage.zeros_when_new() && size > base.size();
    if grows && storage.size()? < offset.saturating_add(size) {
        return Err(Error::NoSpace { file: storage.name().into() });
    }
    Ok(())
}

/// The mark for each layer below the first: the merge's top, and the epoch that the link to the layer names. So this
/// very chain opens again after a crash, and no way that does not pass the top leads to a layer that has changed.
fn marks(layers: &[Layer]) -> Result<Vec<(Arc<Image>, MergeMark)>> {
    let mut marks = Vec::new();
    let Some(Layer::Lvd(top)) = layers.first() else { return Ok(marks) };
    let child_uuid = top.uuid();
    for pair in layers.windows(2) {
        let [Layer::Lvd(child), Layer::Lvd(image)] = pair else { continue };
        let header = child.header();
        let identity = header.parent.as_ref().and_then(|link| link.identity.as_ref());
        let named = identity.ok_or_else(|| Error::Invalid(format!("{}: it names no parent", pair[0].name())))?;
        marks.push((image.clone(), MergeMark { child_uuid, child_epoch: named.epoch }));
    }
    Ok(marks)
}
