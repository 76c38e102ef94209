//! What is told of disks, layers and bitmaps: the members of QEMU's answers that mean something here.

use super::server::Device;
use crate::chain::{Chain, Layer};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::BitmapState;
use crate::image::{BitmapInfo, Image, Trust};
use serde_json::{Value, json};

/// A device, as `query-block` has it.
pub(super) fn block(device: &Device) -> Result<Value> {
    let chain = device.disk.chain();
    let top = chain.layer(0)?;
    let bitmaps = match top.image() {
        // One that somebody takes away meanwhile is not there.
        Some(image) => image.bitmaps().iter().filter_map(|info| bitmap(image, info).ok()).collect(),
        None => Vec::new(),
    };
    let mut inserted = json!({
        "file": top.name(), "drv": format(top), "ro": !top.writable(), "encrypted": false,
        "backing_file_depth": chain.layers.len() - 1, "image": image(&chain, 0), "dirty-bitmaps": bitmaps,
    });
    if let Some(below) = chain.layers.get(1) {
        inserted["backing_file"] = below.name().into();
    }
    Ok(json!({
        "device": device.name, "type": "unknown", "removable": false, "locked": false, "inserted": inserted,
    }))
}

/// Layer number `index`, and in it those below.
fn image(chain: &Chain, index: usize) -> Value {
    let layer = &chain.layers[index];
    let size = if index == 0 { chain.size() } else { layer.size() };
    let mut info = json!({ "filename": layer.name(), "format": format(layer), "virtual-size": size });
    if let Some(below) = chain.layers.get(index + 1) {
        info["backing-filename"] = below.name().into();
        info["backing-image"] = image(chain, index + 1);
    }
    info
}

fn format(layer: &Layer) -> &'static str {
    match layer {
        Layer::Lvd(_) => "lvd",
        Layer::Raw(_) => "raw",
        Layer::Foreign(_) => "qed",
    }
}

fn bitmap(image: &Image, info: &BitmapInfo) -> Result<Value> {
    if info.broken.is_some() {
        return Ok(json!({ "name": info.name, "inconsistent": true }));
    }
    let count: u64 = image.dirty_stretches(&info.name)?.iter().map(|range| range.end - range.start).sum();
    Ok(json!({
        "name": info.name, "granularity": info.granularity, "count": count, "persistent": true, "busy": false,
        "recording": info.state == BitmapState::Recording, "inconsistent": info.trust != Trust::Valid,
    }))
}
