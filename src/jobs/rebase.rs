//! Rebase: the same disk on another parent.

use crate::chain::{Chain, Layer};
use crate::device::{BlockDevice, ExtentKind};
use crate::error::{Error, Result};
use crate::format::Parent;
use crate::image::Image;
use crate::jobs::control::Work;
use crate::jobs::copy::{PIECE, extent, sized};
use crate::sync::Arc;
use std::ops::Range;

/// Moves the top of a chain onto another parent, taking over first what would read differently there.
///
/// The disk does not change at any moment, nor does its epoch; killed, it goes on where it was.
#[derive(Debug)]
pub struct Rebase {
    image: Arc<Image>,
    parent: Layer,
    link: Parent,
}

impl Rebase {
    /// Moves the top of `chain` onto the top of `parent`, which `hint` leads to.
    ///
    /// # Errors
    /// [`Error::Denied`] if the top is not open for writing, [`Error::Invalid`] if it has no allocation section (a
    /// complete image lies on nothing); see [`Layer::link`].
    pub fn new(chain: &Chain, parent: &Chain, hint: String) -> Result<Rebase> {
        let image = chain.image(0)?.clone();
        if !image.writable() {
            return Err(Error::Denied(format!("{}: it is not open for writing", chain.name())));
        }
        if image.complete() {
            return Err(Error::Invalid(format!("{}: it is complete, so no parent could show through", chain.name())));
        }
        let parent = parent.layer(0)?.clone();
        let link = parent.link(image.size().min(parent.size()), hint)?;
        Ok(Rebase { image, parent, link })
    }

    /// Fills those blocks of `range`, all absent, that would read differently.
    fn fill_different(&self, range: Range<u64>, old: &mut Vec<u8>, new: &mut Vec<u8>) -> Result<u64> {
        let (old, new) = (sized(old, &range), sized(new, &range));
        self.image.read_at(old, range.start)?;
        self.read_new(new, range.start)?;
        let granule = self.image.granule();
        let differs = |at: &u64| {
            let block = (at - range.start) as usize..(at - range.start + granule).min(old.len() as u64) as usize;
            old[block.clone()] != new[block]
        };
        let mut copied = range.end - range.start;
        let mut at = range.start;
        while at < range.end {
            let end = (at..range.end).step_by(granule as usize).find(|at| !differs(at)).unwrap_or(range.end);
            if end > at {
                copied += self.image.fill(at..end)?;
            }
            at = end.saturating_add(granule);
        }
        Ok(copied)
    }

    /// What the new parent will show.
    fn read_new(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let visible = self.link.visible_length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (seen, hidden) = buffer.split_at_mut(visible);
        hidden.fill(0);
        if seen.is_empty() { Ok(()) } else { self.parent.device().read_at(seen, offset) }
    }

    /// Whether both the old and the new parent are known to read as zeros from `at` on, and up to where.
    fn both_zero(&self, at: u64, end: u64) -> Result<(bool, u64)> {
        let old = extent(&*self.image, at, end)?;
        let mut end = old.range.end;
        let mut zero = old.kind == ExtentKind::Zero;
        if at < self.link.visible_length {
            let new = extent(&*self.parent.device(), at, end.min(self.link.visible_length))?;
            zero &= new.kind == ExtentKind::Zero;
            end = new.range.end;
        }
        Ok((zero, end))
    }
}

impl Work for Rebase {
    fn kind(&self) -> &'static str {
        "rebase"
    }

    fn total(&self) -> u64 {
        self.image.size()
    }

    fn alignment(&self) -> u64 {
        self.image.granule()
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        let granule = self.image.granule();
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let mut copied = 0;
        let mut at = range.start;
        while at < range.end {
            let (present, run) = self.image.local_run(at, range.end)?;
            if present {
                at = run;
                continue;
            }
            let (zero, end) = self.both_zero(at, run)?;
            // Only whole blocks are passed over: a bit speaks of all of its block.
            let whole = if end < run { end - end % granule } else { run };
            if zero && whole > at {
                at = whole;
                continue;
            }
            let end = at.saturating_add(PIECE.max(granule)).min(run);
            copied += self.fill_different(at..end, &mut old, &mut new)?;
            at = end;
        }
        Ok(copied)
    }

    fn checkpoint(&self) -> Result<()> {
        self.image.flush()
    }

    fn finish(&self) -> Result<()> {
        self.image.relink(Some(self.link.clone()), Some(self.parent.device()))
    }
}

/// Makes `image` lie on `link` from now on without looking at either parent: the caller answers for their being equal.
///
/// # Errors
/// What writing the header meets.
pub fn rebase_unsafe(image: &Image, link: Parent) -> Result<()> {
    image.relink(Some(link), None)
}
