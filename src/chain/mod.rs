//! An image and the layers below it, opened by the caller's policy (`spec/chain.md`).
//!
//! | file | what |
//! |---|---|
//! | `policy` | which files the parents may be: the caller's word, never the image's |
//! | `directories` | parents by their hints, within directories that the caller allows |
//! | `raw` | raw files and block devices as layers |
//! | `layer` | one layer, whatever its format: LVD, raw, or a foreign one |
//! | `open` | opening a chain layer by layer, and what is checked at each link |
//! | `holder` | which layer holds a stretch of the disk |

mod directories;
mod holder;
mod layer;
mod open;
mod policy;
mod raw;
#[cfg(test)]
mod tests;

pub use directories::ParentsInDirectories;
pub use holder::{Holder, holder};
pub use layer::Layer;
pub use open::ChainOptions;
pub use policy::{GivenParents, NoParents, ParentPolicy, joined_hint};
pub use raw::RawDevice;

use crate::device::{BlockDevice, Extent, Place};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::storage::Host;
use crate::sync::Arc;
use std::ops::Range;

/// The layers of a disk, the top first. As a [`BlockDevice`] it is its top layer.
#[derive(Debug)]
pub struct Chain {
    /// The layers: the top is number 0, each lies on the next.
    pub layers: Vec<Layer>,
    host: Arc<dyn Host>,
}

impl Chain {
    /// Layers that are open already, each set above the next.
    pub(crate) fn from_layers(layers: Vec<Layer>, host: Arc<dyn Host>) -> Chain {
        Chain { layers, host }
    }

    /// What a guest sees.
    pub fn top(&self) -> Arc<dyn BlockDevice> {
        self.first().device()
    }

    fn first(&self) -> &Layer {
        match self.layers.first() {
            Some(layer) => layer,
            None => unreachable!("a chain is opened with its top"),
        }
    }

    /// Layer `index`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the chain is not that deep.
    pub fn layer(&self, index: usize) -> Result<&Layer> {
        self.layers.get(index).ok_or_else(|| {
            Error::Invalid(format!(
                "{}: its chain has {} layers, none is number {index}",
                self.name(),
                self.layers.len()
            ))
        })
    }

    /// Layer `index`, which must be an LVD image.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such layer, or if it is none of LVD.
    pub fn image(&self, index: usize) -> Result<&Arc<Image>> {
        let layer = self.layer(index)?;
        layer.image().ok_or_else(|| Error::Invalid(format!("{}: it is not an LVD image", layer.name())))
    }

    /// How errors name the chain: by its top.
    pub fn name(&self) -> &str {
        self.layers.first().map(Layer::name).unwrap_or_default()
    }

    /// How layer `parent` is found from layer `child` above it: the hints between the two, one after the other.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `parent` does not lie below `child`.
    pub fn hint(&self, child: usize, parent: usize) -> Result<String> {
        let mut hint: Option<String> = None;
        for index in child..parent {
            let header = self.image(index)?.header();
            let next = header.parent.as_ref().map(|link| link.hint.as_str()).unwrap_or_default();
            hint = Some(hint.map_or(next.to_string(), |before| joined_hint(&before, next)));
        }
        hint.ok_or_else(|| Error::Invalid(format!("layer {parent} does not lie below layer {child}")))
    }

    /// The host that the chain was opened with.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// Flushes and closes every layer that was opened for writing, from the lowest up. All are closed even if one
    /// fails; the first failure is returned.
    ///
    /// # Errors
    /// The host's, or [`Error::Poisoned`].
    pub fn close(&self) -> Result<()> {
        let closed = self.layers.iter().rev().map(Layer::close).collect::<Vec<_>>();
        closed.into_iter().collect()
    }
}

impl BlockDevice for Chain {
    fn size(&self) -> u64 {
        self.first().as_device().size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.first().as_device().read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.first().as_device().write_at(data, offset)
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> Result<()> {
        self.first().as_device().write_zeroes(range, unmap)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.first().as_device().discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.first().as_device().flush()
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        self.first().as_device().extent(offset, end)
    }

    fn read_batch(&self, pieces: &mut [(u64, &mut [u8])]) -> Result<()> {
        self.first().as_device().read_batch(pieces)
    }

    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        self.first().as_device().write_batch(pieces)
    }

    fn share(&self, range: Range<u64>, place: &Place) -> Result<bool> {
        self.first().as_device().share(range, place)
    }
}
