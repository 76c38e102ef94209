//! How long lives begin: a disk on its own, an overlay, or a volume with a sidecar, over some layers and with some bitmaps.

use super::bitmaps::add;
use super::files::{BLOCK, base, mid, over, sibling, sidecar, top};
use crate::error::Result;
use crate::image::{CreateOptions, Image};
use crate::testing::laws::Open;
use crate::testing::model::Model;
use crate::testing::world::World;

/// What a disk is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Layers below it, at most four.
    pub layers: usize,
    /// Bitmaps, at most three.
    pub bitmaps: usize,
    /// Whether it is a volume with a sidecar, which has a layer below at least.
    pub sidecar: bool,
    /// Its bytes.
    pub size: u64,
}

const LAYERS: [(&str, &str, Open); 4] = [
    ("base", "base.lvd", base),
    ("mid", "mid.lvd", mid),
    ("over", "over.lvd", over),
    ("sibling", "sibling.lvd", sibling),
];
const BITMAPS: [(&str, u8); 3] = [("daily", 12), ("weekly", 13), ("monthly", 16)];

/// Makes the disk `top`.
pub fn begin(w: &mut World, shape: &Shape) -> Result<()> {
    let mut below: Option<(&str, &str)> = None;
    for (number, (view, name, open)) in LAYERS.into_iter().take(shape.layers).enumerate() {
        // Each layer ends elsewhere, and some end before the disk does.
        let size = shape.size - shape.size / 7 * number as u64 % shape.size;
        layer(w, view, open, name, below, size)?;
        let disk = w.open(name)?;
        let start = number as u64 * BLOCK / 2 % size;
        w.write(view, &disk, start..size.min(start + 3 * BLOCK))?;
        w.durable(view, || disk.close())?;
        below = Some((name, view));
    }
    match (shape.sidecar, below) {
        (true, Some((parent, view))) => {
            w.disk.add_device("volume.raw", shape.size.next_multiple_of(512));
            w.disk.set_payload("volume.raw", 0..u64::MAX);
            let (virtual_size, parent) = (shape.size, Some(w.link(parent, shape.size)?));
            let options = CreateOptions { virtual_size, parent, ..CreateOptions::default() };
            let (file, volume) = (w.disk.create("volume.raw.lvb")?, w.disk.open("volume.raw", true)?);
            Image::create_sidecar(&*file, &*volume, &*w.host, &options)?;
            let model = w.model(view).map(|model| model.resized(shape.size)).unwrap_or_else(|| Model::zeros(0));
            w.view("top", sidecar, model, true);
        }
        _ => layer(w, "top", top, "top.lvd", below, shape.size)?,
    }
    for (name, shift) in BITMAPS.into_iter().take(shape.bitmaps) {
        let disk = super::open_top(w)?;
        add(w, &disk, name, shift)?;
        w.durable("top", || disk.close())?;
    }
    Ok(())
}

fn layer(
    w: &mut World,
    view: &'static str,
    open: Open,
    name: &str,
    below: Option<(&str, &str)>,
    size: u64,
) -> Result<()> {
    match below {
        Some(below) => w.with_overlay(view, open, below, size),
        None => {
            w.create(name, size)?;
            w.view(view, open, Model::zeros(size), true);
            Ok(())
        }
    }
}
