//! What must hold after every operation.

use super::bytes::Bytes;
use super::scene::{Layer, Scene};
use crate::chain::{self, Chain, ChainOptions};
use crate::device::{BlockDevice, ExtentKind};
use crate::error::Result;
use crate::format::{State, Uuid};
use crate::image::Image;
use crate::limits::SLOT_SIZE;
use crate::violation::Violation;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// What is known of the files beyond the bytes of the disk.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// A hash of the content that each sealed epoch names (law E).
    epochs: HashMap<(Uuid, Uuid), u64>,
    /// Changes of the files when the disk was opened.
    at_open: u64,
    /// The disk, or what it lies on, was asked to change since, or was not closed before.
    changed: bool,
}

impl Known {
    pub(super) fn opened(&mut self, chain: &Chain, changes: u64) {
        self.at_open = changes;
        self.changed = writable(chain).any(|image| image.header().state != State::Closed);
    }

    pub(super) fn change(&mut self) {
        self.changed = true;
    }

    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// A session in which nothing was asked for writes nothing; one that was closed says so in both slots.
    pub(super) fn closed(&self, chain: &Chain, changes: u64) {
        assert!(self.changed || changes == self.at_open, "a disk that was only read is written");
        for image in writable(chain) {
            assert_eq!(image.header().state, State::Closed, "{}", image.name());
            let slots = [0, 1].map(|slot| {
                let mut bytes = vec![0; SLOT_SIZE as usize];
                image.storage().read_at(&mut bytes, slot * SLOT_SIZE).expect("memory is read");
                bytes
            });
            assert!(slots[0] == slots[1], "{}: the slots differ after a close", image.name());
        }
    }

    /// Law E.
    fn epoch(&mut self, image: &Image, content: impl FnOnce() -> u64) {
        let header = image.header();
        if header.state != State::Writing {
            let content = content();
            let known = *self.epochs.entry((header.uuid, header.epoch)).or_insert(content);
            assert_eq!(known, content, "{}: its epoch names two contents", image.name());
        }
    }
}

fn writable(chain: &Chain) -> impl Iterator<Item = &Arc<Image>> {
    chain.layers.iter().filter_map(|layer| layer.image()).filter(|image| image.writable())
}

impl Scene {
    /// The disk is what it should be.
    pub(super) fn verify(&mut self) {
        self.verify_bytes();
        self.verify_extents();
        let (image, view) = (self.image().clone(), &self.layers[0].view);
        let report = image.check().expect("memory is read");
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert!(report.present_blocks <= report.total_blocks);
        let header = image.header();
        assert_eq!((header.virtual_size, header.copy_mark), (view.size(), None));
        self.known.epoch(&image, || view.hash());
    }

    /// The disk has its size, and reads right wherever something was ever written.
    pub(super) fn verify_bytes(&self) {
        let view = &self.top().view;
        assert_eq!(self.chain().size(), view.size());
        view.touched().for_each(|page| self.verify_range(page));
    }

    pub(super) fn verify_range(&self, range: Range<u64>) {
        let mut bytes = vec![0x77; (range.end - range.start) as usize];
        self.chain().read_at(&mut bytes, range.start).expect("read");
        let expected = self.top().view.read(range.clone());
        let wrong = bytes.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!(wrong.map(|at| range.start + at as u64), None, "the first wrong byte of {range:?}");
    }

    /// Extents cover the disk without a gap; what they call zero is zero, and what they say where to find is there.
    fn verify_extents(&self) {
        let (chain, view) = (self.chain(), &self.top().view);
        let mut at = 0;
        while at < view.size() {
            let extent = chain.extent(at, view.size()).expect("said");
            let range = extent.range.clone();
            assert!(range.start == at && range.end > at && range.end <= view.size(), "{range:?} at {at}");
            for (depth, layer) in chain.layers.iter().enumerate().take(extent.depth + 1) {
                let held = layer
                    .image()
                    .map_or((true, range.end), |image| image.local_run(at, range.end.min(image.size())).expect("said"));
                assert_eq!(held, (extent.present && depth == extent.depth, range.end), "layer {depth}: {extent:?}");
            }
            if extent.kind == ExtentKind::Zero {
                assert!(view.is_zero(range.clone()), "{range:?} is called zero");
            } else {
                let place = extent.place.expect("data lies somewhere");
                let mut bytes = vec![0; (range.end - range.start) as usize];
                place.file.read_at(&mut bytes, place.offset).expect("memory is read");
                assert!(bytes == view.read(range.clone()), "{range:?} does not lie where it is said to");
            }
            at = range.end;
        }
    }

    /// Every layer shows what it should on its own, or is refused as its mark asks.
    pub(super) fn verify_all(&mut self) {
        self.verify();
        for index in 1..self.layers.len() {
            let layer = self.layers[index].clone();
            if self.refused_alone(index) {
                let refused = self.look(&layer.name).map(drop).expect_err("something that is being merged into opens");
                assert_eq!(refused.violation(), Some(Violation::Marked), "{refused}");
            } else if layer.merging {
                assert!(layer.name.ends_with(".raw"), "{}: being merged into, and not marked", layer.name);
            } else {
                self.verify_alone(&layer);
            }
        }
    }

    /// A layer shows what it should on its own.
    pub(super) fn verify_alone(&mut self, layer: &Layer) {
        let chain = self.look(&layer.name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(chain.size(), layer.view.size(), "{}", layer.name);
        for page in layer.view.touched() {
            let mut bytes = vec![0; (page.end - page.start) as usize];
            chain.read_at(&mut bytes, page.start).expect("read");
            assert!(bytes == layer.view.read(page.clone()), "{}: {page:?}", layer.name);
        }
        assert!(self.seen(&chain.layers[0]).hash() == layer.view.hash(), "{}: somewhere else", layer.name);
        if let Some(image) = chain.layers[0].image() {
            let report = image.check().expect("memory is read");
            assert!(report.findings.is_empty(), "{:?}", report.findings);
            self.known.epoch(image, || layer.view.hash());
        }
    }

    fn look(&self, name: &str) -> Result<Chain> {
        self.files.chain(name, self.host.clone(), &ChainOptions::default())
    }

    /// All that a layer says it holds.
    pub(super) fn seen(&self, layer: &chain::Layer) -> Bytes {
        let device = layer.device();
        let mut seen = Bytes::zeros(device.size());
        let mut at = 0;
        while at < device.size() {
            let extent = device.extent(at, device.size()).expect("said");
            if extent.kind == ExtentKind::Data {
                let mut bytes = vec![0; (extent.range.end - at) as usize];
                device.read_at(&mut bytes, at).expect("read");
                seen.write(&bytes, at);
            }
            at = extent.range.end;
        }
        seen
    }

    /// CHN-04: whether a layer, on its own, is below or within a merge whose upper layer is not there.
    pub(super) fn refused_alone(&self, index: usize) -> bool {
        let images = self.chain().layers[index..].iter().filter_map(|layer| layer.image());
        let mut above = Vec::new();
        for header in images.map(|image| image.header()) {
            if header.merge_mark.as_ref().is_some_and(|mark| !above.contains(&mark.child_uuid)) {
                return true;
            }
            above.push(header.uuid);
        }
        false
    }
}
