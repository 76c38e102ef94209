//! Stream: what the layers below hold goes into the top, then the top lies on a deeper layer, or on none.

use crate::chain::{Chain, Holder, Layer, holder};
use crate::device::{BlockDevice, ExtentKind};
use crate::error::{Error, Result};
use crate::format::Parent;
use crate::image::Image;
use crate::jobs::control::Work;
use crate::jobs::copy::extent;
use crate::limits::PAGE_SIZE;
use crate::switch::{Step, skipped};
use crate::sync::Arc;
use crate::violation::Violation;
use std::ops::Range;

/// Fills the top of a chain from the layers below it.
///
/// The disk does not change at any moment, and the top's epoch neither: who lies on it goes on doing so. What is done
/// is in its allocation bitmap, so a stream that was killed goes on where it was.
#[derive(Debug)]
pub struct Stream {
    image: Arc<Image>,
    /// The top and the layers whose blocks it takes over.
    upper: Vec<Layer>,
    base: Option<Base>,
}

/// The layer that the top lies on afterwards.
#[derive(Debug)]
struct Base {
    link: Parent,
    layer: Layer,
}

impl Stream {
    /// Streams into the top of `chain` what the layers above layer number `base` hold, or all layers if `None`: the top
    /// is complete then.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `base` is no layer below the top, [`Error::Denied`] if the top is not open for writing,
    /// [`Error::Refused`] if the base cannot be named.
    pub fn new(chain: &Chain, base: Option<usize>) -> Result<Stream> {
        let image = chain.image(0)?.clone();
        if !image.writable() {
            return Err(Error::Denied(format!("{}: it is not open for writing", chain.name())));
        }
        let depth = base.unwrap_or(chain.layers.len());
        if depth == 0 {
            return Err(Error::Invalid("the base of a stream is the top itself".into()));
        }
        let base = base.map(|index| Base::new(chain, index)).transpose()?;
        let upper = chain.layers.iter().take(depth).cloned().collect();
        Ok(Stream { image, upper, base })
    }

    /// Fills what a layer between the top and the base holds, in whole blocks: a bit speaks of all of its block.
    fn fill_from_between(&self, range: Range<u64>) -> Result<u64> {
        let granule = self.image.granule();
        let mut copied = 0;
        let mut at = range.start;
        while at < range.end {
            let (who, mut end) = holder(&self.upper, at, range.end)?;
            if matches!(who, Holder::Layer(1..)) {
                end = end.next_multiple_of(granule).min(range.end);
                copied += self.image.fill(at - at % granule..end)?;
            }
            at = end;
        }
        Ok(copied)
    }

    /// Fills what no layer of the chain leaves as zeros: the mistake that ORD-70 guards against.
    fn fill_but_zeros(&self, range: Range<u64>) -> Result<u64> {
        let mut copied = 0;
        let mut at = range.start;
        while at < range.end {
            let found = extent(&*self.image, at, range.end)?;
            at = found.range.end;
            if found.kind == ExtentKind::Data {
                copied += self.image.fill(found.range)?;
            }
        }
        Ok(copied)
    }
}

impl Base {
    fn new(chain: &Chain, index: usize) -> Result<Base> {
        let layer = chain.layer(index)?.clone();
        let mut visible = chain.top().size().min(layer.size());
        for above in 0..index {
            let header = chain.image(above)?.header();
            visible = visible.min(header.parent.as_ref().map_or(0, |link| link.visible_length));
        }
        let top = chain.image(0)?.uuid();
        let other = layer.image().and_then(|image| image.header().merge_mark).filter(|mark| mark.child_uuid != top);
        if other.is_some() {
            // CHN-16: with the layers between gone nobody whom its mark names would lie above it.
            let why = "it is being merged into: finish that merge first";
            return Err(Error::refused(layer.name(), why, Violation::Marked));
        }
        let link = layer.link(visible, chain.hint(0, index)?)?;
        Ok(Base { link, layer })
    }
}

impl Work for Stream {
    fn kind(&self) -> &'static str {
        "stream"
    }

    fn total(&self) -> u64 {
        self.image.size()
    }

    fn alignment(&self) -> u64 {
        self.image.granule().max(PAGE_SIZE)
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        match &self.base {
            Some(_) => self.fill_from_between(range),
            None if skipped(Step::AllPresent) => self.fill_but_zeros(range),
            None => self.image.fill(range),
        }
    }

    fn checkpoint(&self) -> Result<()> {
        self.image.flush()
    }

    fn finish(&self) -> Result<()> {
        let header = self.image.header();
        match &self.base {
            None if header.complete() => self.image.flush(),
            None => self.image.relink(None, None),
            Some(base) if header.parent.as_ref() == Some(&base.link) => self.image.flush(),
            Some(base) => self.image.relink(Some(base.link.clone()), Some(base.layer.device())),
        }
    }
}
