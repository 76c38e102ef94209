//! Which layer of a part of a chain holds a stretch of the disk: what stream, merge and mirror go by.

use crate::chain::Layer;
use crate::error::{Error, Result};

/// Who answers for a stretch of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The layer of this number holds it.
    Layer(usize),
    /// No layer holds it, and one of them lets nothing through there from below: it reads as zeros, whatever the
    /// layers below hold.
    Hidden,
    /// No layer holds it: the stretch is as the layer below the last one shows it.
    Below,
}

/// Who among `layers` (images, the upper one first) answers for the disk from `offset` on, and up to where: at most
/// `end`.
///
/// # Errors
/// [`Error::Invalid`] if a layer is no LVD image; what reading an allocation bitmap meets.
pub fn holder(layers: &[Layer], offset: u64, end: u64) -> Result<(Holder, u64)> {
    let mut end = end;
    for (index, layer) in layers.iter().enumerate() {
        let Some(image) = layer.image() else {
            return Err(Error::Invalid(format!("{}: it is not an LVD image", layer.name())));
        };
        let (present, run) = image.local_run(offset, end)?;
        end = run.min(end);
        if present {
            return Ok((Holder::Layer(index), end));
        }
        let visible = image.header().parent.as_ref().map_or(0, |link| link.visible_length);
        if offset >= visible {
            return Ok((Holder::Hidden, end));
        }
        end = end.min(visible);
    }
    Ok((Holder::Below, end))
}
