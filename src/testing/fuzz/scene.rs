//! A chain at work, and beside it the naive disk that each of its layers shows.

use super::bytes::Bytes;
use super::files::Files;
use super::jobs::Running;
use super::oracles::Known;
use super::span::{Span, bit_edges};
use super::story::{Guest, Shape};
use crate::chain::{Chain, ChainOptions};
use crate::device::{BlockDevice, Request};
use crate::error::Error;
use crate::format::{Parent, State};
use crate::image::{CreateOptions, Image};
use crate::testing::host::SimHost;
use crate::testing::sector::mix;
use std::ops::Range;
use std::sync::Arc;

/// A file of the chain.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub name: String,
    /// What the disk reads as from here down.
    pub view: Bytes,
    /// A merge into it was begun and not finished: what it reads as on its own is nobody's business.
    pub merging: bool,
}

/// Everything there is.
pub struct Scene {
    pub(super) files: Files,
    /// The top first.
    pub(super) layers: Vec<Layer>,
    pub(super) host: Arc<SimHost>,
    /// The disk, open for writing.
    open: Option<Chain>,
    pub(super) job: Option<Running>,
    pub(super) known: Known,
    /// Files so far.
    named: u64,
    /// Writes so far.
    written: u64,
}

impl Default for Scene {
    fn default() -> Scene {
        Scene {
            files: Files::default(),
            layers: Vec::new(),
            host: Arc::new(SimHost::new(1)),
            open: None,
            job: None,
            known: Known::default(),
            named: 0,
            written: 0,
        }
    }
}

impl Scene {
    /// The disk.
    pub(super) fn chain(&self) -> &Chain {
        self.open.as_ref().expect("a story begins with a disk")
    }

    pub(super) fn image(&self) -> &Arc<Image> {
        self.chain().image(0).expect("the top is an image")
    }

    pub(super) fn top(&self) -> &Layer {
        &self.layers[0]
    }

    /// A name that no file had.
    pub(super) fn name(&mut self, extension: &str) -> String {
        self.named += 1;
        format!("{}.{extension}", self.named)
    }

    /// Adds a raw file as the lowest layer.
    pub(super) fn add_raw(&mut self, shape: &Shape) {
        let layer = self.new_raw(shape);
        self.layers = vec![layer];
    }

    /// A raw file, written to.
    pub(super) fn new_raw(&mut self, shape: &Shape) -> Layer {
        let name = self.name("raw");
        let size = shape.size.bytes();
        self.files.create(&name).set_size(size).expect("memory has any size");
        self.written_to(Layer { name, view: Bytes::zeros(size), merging: false }, shape)
    }

    /// Puts an image on top.
    pub(super) fn add_image(&mut self, shape: &Shape) {
        self.close(true);
        let size = shape.size.bytes();
        let (parent, view) = self.link(shape, size);
        let layer = self.new_image(shape, parent, view);
        self.layers.insert(0, layer);
        self.open(0);
    }

    /// An image with that parent, written to.
    pub(super) fn new_image(&mut self, shape: &Shape, parent: Option<Parent>, view: Bytes) -> Layer {
        let name = self.name("lvd");
        let options = options(shape, parent, view.size());
        Image::create(&*self.files.create(&name), &*self.host, &options).expect("created");
        self.written_to(Layer { name, view, merging: false }, shape)
    }

    /// Puts a volume with a sidecar on top. It is longer than the disk, and full of something.
    pub(super) fn add_sidecar(&mut self, shape: &Shape) {
        let size = shape.size.bytes();
        let (parent, view) = self.link(shape, size);
        let volume = self.name("volume");
        let (name, sector) = (format!("{volume}.lvb"), size.next_multiple_of(512));
        let file = self.files.create(&volume);
        file.write_at(&[0xbb; 9000], size.saturating_sub(8000)).expect("memory is written");
        file.write_at(&[0xbb; 9000], 0).expect("memory is written");
        file.set_size(sector).expect("memory has any size");
        let options = options(shape, parent, size);
        Image::create_sidecar(&*self.files.create(&name), &*file, &*self.host, &options).expect("created");
        let layer = self.written_to(Layer { name, view, merging: false }, shape);
        self.layers.insert(0, layer);
        self.open(0);
    }

    /// A link to the top, for a layer of that shape, and what that layer shows.
    fn link(&self, shape: &Shape, size: u64) -> (Option<Parent>, Bytes) {
        let Some(below) = self.layers.first() else { return (None, Bytes::zeros(size)) };
        let most = size.min(below.view.size());
        let visible = shape.visible.map_or(most, |visible| visible.bytes().min(most));
        let options = ChainOptions::default();
        let chain = self.files.chain(&below.name, self.host.clone(), &options).expect("a closed disk opens");
        let parent = chain.layers[0].link(visible, below.name.clone()).expect("a closed disk can be named");
        (Some(parent), below.view.seen(visible, size))
    }

    /// One session in which the layer is written to.
    fn written_to(&mut self, mut layer: Layer, shape: &Shape) -> Layer {
        let options = ChainOptions { write: true, ..ChainOptions::default() };
        let chain = self.files.chain(&layer.name, self.host.clone(), &options).expect("what was made opens");
        for span in shape.written {
            let range = span.on(layer.view.size(), &[]);
            let data = self.fresh(&range);
            chain.write_at(&data, range.start).expect("written");
            layer.view.write(&data, range.start);
        }
        chain.close().expect("closed");
        layer
    }

    /// Opens the disk, the layers down to `last` for writing too.
    pub(super) fn open(&mut self, last: usize) {
        let options = ChainOptions { write: true, write_also: Some(last), cache_bytes: 0, ..ChainOptions::default() };
        let name = &self.layers[0].name;
        let chain = self.files.chain(name, self.host.clone(), &options).unwrap_or_else(|e| panic!("opening: {e}"));
        let names: Vec<&str> = chain.layers.iter().map(|layer| layer.name()).collect();
        assert!(names.iter().eq(self.layers.iter().map(|layer| &layer.name)), "{names:?} are the layers");
        self.known.opened(&chain, self.files.changes(&chain));
        self.open = Some(chain);
    }

    /// Stops what is going on, and closes the disk. Not `clean`: its process is killed after a flush.
    pub(super) fn close(&mut self, clean: bool) {
        self.stop();
        let Some(chain) = self.open.take() else { return };
        if clean {
            chain.close().expect("closed");
            self.known.closed(&chain, self.files.changes(&chain));
        } else if self.known.changed() {
            chain.flush().expect("flushed");
        }
    }

    /// Bytes that were never written before.
    pub(super) fn fresh(&mut self, range: &Range<u64>) -> Vec<u8> {
        self.written += 1;
        let words = range.start / 8..range.end.div_ceil(8);
        let bytes: Vec<u8> = words.clone().flat_map(|word| mix(mix(self.written, word), 7).to_le_bytes()).collect();
        let skip = (range.start - words.start * 8) as usize;
        bytes[skip..skip + (range.end - range.start) as usize].to_vec()
    }

    fn range(&self, span: Span) -> Range<u64> {
        let view = &self.top().view;
        let mut edges = bit_edges(self.image().granule().max(4096)).to_vec();
        edges.extend(self.image().header().parent.as_ref().map(|parent| parent.visible_length));
        span.on(view.size(), &edges)
    }

    /// The guest writes what it never wrote before.
    pub(super) fn write(&mut self, span: Span) {
        let range = self.range(span);
        let data = self.fresh(&range);
        self.put(&data, range.start);
    }

    fn put(&mut self, data: &[u8], offset: u64) {
        self.stop_at_rest();
        self.chain().write_at(data, offset).expect("written");
        self.layers[0].view.write(data, offset);
        if !data.is_empty() {
            self.known.change();
            assert_eq!(self.image().header().state, State::Writing);
        }
    }

    /// A job that needs the disk at rest is stopped.
    fn stop_at_rest(&mut self) {
        if self.job.as_ref().is_some_and(|job| !job.bears_writes()) {
            self.stop();
        }
    }

    /// Any other request.
    pub(super) fn guest(&mut self, guest: Guest) {
        match guest {
            Guest::Read(span) => self.verify_range(self.range(span)),
            Guest::WriteZeros(span) => {
                let range = self.range(span);
                self.put(&vec![0; (range.end - range.start) as usize], range.start);
            }
            Guest::Zero(span, unmap) => {
                let range = self.range(span);
                self.stop_at_rest();
                self.chain().write_zeroes(range.clone(), unmap).expect("zeroed");
                self.layers[0].view.zero(range);
                self.known.change();
            }
            Guest::Discard(span) => self.discard(self.range(span)),
            Guest::Batch(spans) => self.batch(spans.map(|span| self.range(span))),
            Guest::Outside(span) => self.outside(self.range(span)),
            Guest::Flush => {
                self.chain().flush().expect("flushed");
                self.known.change();
            }
            Guest::Seal => self.seal(),
            Guest::Fill(span) => self.fill(self.range(span)),
            Guest::Garbage(span) => self.leave_garbage(self.range(span)),
            Guest::Reopen(clean) => {
                self.close(clean);
                self.open(0);
                self.verify_all();
            }
        }
    }

    /// Each byte reads as zero afterwards, or as before.
    fn discard(&mut self, range: Range<u64>) {
        self.stop_at_rest();
        self.chain().discard(range.clone()).expect("discarded");
        self.known.change();
        let mut now = vec![0; (range.end - range.start) as usize];
        self.chain().read_at(&mut now, range.start).expect("read");
        let before = self.top().view.read(range.clone());
        assert!(now.iter().zip(&before).all(|(now, before)| *now == 0 || now == before), "discarded {range:?}");
        self.layers[0].view.write(&now, range.start);
    }

    /// Three requests that are under way at once, and have no byte in common.
    fn batch(&mut self, mut ranges: [Range<u64>; 3]) {
        self.stop_at_rest();
        ranges.sort_by_key(|range| range.start);
        let mut end = 0;
        for range in &mut ranges {
            *range = range.start.max(end)..range.end.max(end);
            end = range.end;
        }
        let [zero, write, read] = ranges;
        let data = self.fresh(&write);
        let mut buffer = vec![0; (read.end - read.start) as usize];
        let results = self.chain().submit(&mut [
            Request::Read { buffer: &mut buffer, offset: read.start },
            Request::Write { data: &data, offset: write.start },
            Request::WriteZeroes { range: zero.clone(), unmap: true },
        ]);
        results.into_iter().for_each(|result| result.expect("carried out"));
        assert!(buffer == self.top().view.read(read), "read in a batch");
        self.layers[0].view.write(&data, write.start);
        self.layers[0].view.zero(zero);
        self.known.change();
    }

    /// Requests that end past the disk are refused and do nothing.
    fn outside(&mut self, range: Range<u64>) {
        let size = self.top().view.size();
        let range = range.start..size + 1;
        let mut bytes = vec![0x0f; (range.end - range.start) as usize];
        let disk = self.chain();
        let results = [
            disk.read_at(&mut bytes, range.start),
            disk.write_at(&bytes, range.start),
            disk.write_zeroes(range.clone(), true),
            disk.discard(range.clone()),
            disk.extent(range.start, range.end).map(drop),
            disk.write_at(&[1], u64::MAX),
        ];
        results.into_iter().for_each(|result| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}"));
    }

    fn seal(&mut self) {
        self.image().seal().expect("sealed");
        assert_eq!(self.image().header().state, State::Closed);
    }

    /// Content and epoch stay as they are.
    fn fill(&mut self, range: Range<u64>) {
        let before = self.image().header();
        self.image().fill(range.clone()).expect("filled");
        self.known.change();
        assert!(range.is_empty() || self.image().local_run(range.start, range.end).expect("read") == (true, range.end));
        assert!(before.state == State::Writing || before.epoch == self.image().epoch(), "a fill changes no content");
    }

    /// Puts something under clear bits.
    fn leave_garbage(&mut self, range: Range<u64>) {
        let image = self.image().clone();
        let (granule, size) = (image.granule(), image.size());
        let (file, offset) = image.data_location();
        let mut at = range.start / granule * granule;
        while at < range.end && !image.complete() {
            let end = (at + granule).min(size);
            if !image.local_run(at, end).expect("read").0 {
                file.write_at(&vec![0x99; (end - at) as usize], offset + at).expect("memory is written");
                self.known.change();
            }
            at = end;
        }
    }

    /// The story is over: what is left is right.
    pub(super) fn end(&mut self) {
        self.close(true);
        self.open(0);
        self.verify_all();
        self.close(true);
    }
}

/// How a layer of that shape is created.
pub(super) fn options(shape: &Shape, parent: Option<Parent>, virtual_size: u64) -> CreateOptions {
    let (granularity_shift, allocation) = (shape.granule.shift(), shape.allocation);
    CreateOptions { virtual_size, granularity_shift, parent, allocation, copy_mark: false }
}
