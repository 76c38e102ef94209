//! Mirror: a disk, or its top layer alone, into another file. Convert is a mirror into a new one.

use crate::chain::{Chain, Layer};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::Parent;
use crate::image::Image;
use crate::jobs::control::Work;
use crate::jobs::copy::{Zeros, copy};
use crate::limits::PAGE_SIZE;
use crate::switch::{Step, skipped};
use crate::sync::Arc;
use crate::violation::Violation;
use std::ops::Range;

/// Copies a disk. An LVD target carries a copy mark until all of it is durable; a raw one cannot say what it is.
#[derive(Debug)]
pub struct Mirror {
    source: Arc<dyn BlockDevice>,
    /// If only what the source's top holds is copied.
    shallow: Option<Shallow>,
    target: Layer,
    zeros: Zeros,
}

#[derive(Debug)]
struct Shallow {
    from: Arc<Image>,
    to: Arc<Image>,
    /// What the target lies on.
    below: Arc<dyn BlockDevice>,
}

impl Mirror {
    /// Copies all of `source`, whatever layers hold it, into `target`.
    ///
    /// With `fresh` the target is known to read as zeros everywhere (a file that was just made): zeros of the source are
    /// not written. An LVD target was created with a copy mark.
    ///
    /// # Errors
    /// [`Error::Denied`] if the target is not open for writing, [`Error::Invalid`] if it is of another size or carries
    /// no copy mark.
    pub fn full(source: Arc<dyn BlockDevice>, target: Layer, fresh: bool) -> Result<Mirror> {
        let parent = target.image().and_then(|image| image.header().parent.clone());
        let zeros = if fresh && parent.is_none() { Zeros::LeftOut } else { Zeros::Written };
        Mirror { source, shallow: None, target, zeros }.checked()
    }

    /// Copies what the top of `source` holds into `target`, an LVD image on the same parent.
    ///
    /// # Errors
    /// As [`full`](Self::full), [`Error::Invalid`] if the two do not lie on the same parent, [`Error::Refused`] if that is
    /// being merged into.
    pub fn top(source: &Chain, target: &Chain) -> Result<Mirror> {
        let (from, to) = (source.image(0)?.clone(), target.image(0)?.clone());
        let (one, other) = (from.header().parent.clone(), to.header().parent.clone());
        let same = |a: &Parent, b: &Parent| a.identity == b.identity && a.format == b.format;
        match (&one, &other) {
            (Some(one), Some(other)) if same(one, other) => {}
            _ => return Err(Error::Invalid(format!("{}: it does not lie on the source's parent", target.name()))),
        }
        let parent = target.layer(1)?;
        if parent.image().is_some_and(|image| image.header().merge_mark.is_some()) {
            // CHN-16: the copy is not the child that the mark names.
            let why = "it is being merged into: finish that merge first";
            return Err(Error::refused(parent.name(), why, Violation::Marked));
        }
        let below = parent.device();
        let shallow = Some(Shallow { from, to: to.clone(), below });
        Mirror { source: source.top(), shallow, target: Layer::Lvd(to), zeros: Zeros::Written }.checked()
    }

    fn checked(self) -> Result<Mirror> {
        let (name, size) = (self.target.name(), self.source.size());
        if !self.target.writable() {
            return Err(Error::Denied(format!("{name}: it is not open for writing")));
        }
        if let Some(image) = self.target.image() {
            if image.size() != size {
                return Err(Error::Invalid(format!("{name}: it has {} bytes, the source {size}", image.size())));
            }
            if image.header().copy_mark.is_none() {
                return Err(Error::Invalid(format!("{name}: it was not created as the target of a copy")));
            }
        }
        Ok(self)
    }

    /// Copies what the source's top holds, and what an earlier run left in the target that the top does not hold.
    fn copy_top(&self, Shallow { from, to, .. }: &Shallow, range: Range<u64>) -> Result<u64> {
        let mut copied = 0;
        let mut at = range.start;
        while at < range.end {
            let (held, mut end) = from.local_run(at, range.end)?;
            let mut wanted = held;
            if !held {
                let (left_over, run) = to.local_run(at, end)?;
                (wanted, end) = (left_over, end.min(run));
            }
            if wanted {
                copied += copy(&*self.source, &**to, at..end, self.zeros)?;
            }
            at = end;
        }
        Ok(copied)
    }
}

impl Shallow {
    /// Gives the target's link the visible length of the source's: where less of the parent may be seen than there is,
    /// what is not copied reads as zeros.
    fn same_visible_length(&self) -> Result<()> {
        match (self.from.header().parent.clone(), self.to.header().parent.clone()) {
            (Some(one), Some(other)) if one.visible_length != other.visible_length => {
                let link = Parent { visible_length: one.visible_length, ..other };
                self.to.relink(Some(link), Some(self.below.clone()))
            }
            _ => Ok(()),
        }
    }
}

impl Work for Mirror {
    fn kind(&self) -> &'static str {
        "mirror"
    }

    fn total(&self) -> u64 {
        self.source.size()
    }

    fn alignment(&self) -> u64 {
        let source = self.shallow.as_ref().map_or(1, |shallow| shallow.from.granule());
        source.max(self.target.granule()).max(PAGE_SIZE)
    }

    fn prepare(&self) -> Result<()> {
        match &self.target {
            Layer::Raw(raw) => raw.set_size(self.source.size())?,
            Layer::Lvd(image) if skipped(Step::CopyMark) => image.clear_copy_mark()?,
            Layer::Lvd(_) | Layer::Foreign(_) => {}
        }
        self.shallow.as_ref().map_or(Ok(()), Shallow::same_visible_length)
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        match &self.shallow {
            Some(shallow) => self.copy_top(shallow, range),
            None => copy(&*self.source, &*self.target.device(), range, self.zeros),
        }
    }

    fn checkpoint(&self) -> Result<()> {
        self.target.device().flush()
    }

    fn finish(&self) -> Result<()> {
        match &self.target {
            Layer::Raw(raw) => {
                raw.flush()?;
                raw.storage().sync_directory()
            }
            // Is no target: it is not writable.
            Layer::Foreign(_) => Ok(()),
            Layer::Lvd(image) => {
                image.flush()?;
                // The run that created the target may have been killed before its name was durable.
                image.storage().sync_directory()?;
                if skipped(Step::CopyMark) { Ok(()) } else { image.clear_copy_mark() }
            }
        }
    }
}
