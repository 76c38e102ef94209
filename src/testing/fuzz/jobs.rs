//! What changes the layers: jobs that are begun, go on while the guest writes where that is allowed, and are stopped
//! or finish.

use super::bytes::Bytes;
use super::scene::{Layer, Scene, options};
use super::span::{Granule, Span};
use super::story::{Change, Shape};
use crate::chain::{Chain, ChainOptions};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::State;
use crate::image::{CreateOptions, Image};
use crate::jobs::{Job, Merge, Mirror, Rebase, Stream, Work};
use crate::limits::PAGE_SIZE;
use crate::violation::Violation;
use std::ops::Range;

/// More layers make nothing else happen.
const MOST_LAYERS: usize = 5;

/// A job under way.
pub(super) struct Running {
    job: Job,
    outcome: Outcome,
}

/// What a job that ends brings about.
enum Outcome {
    /// The top lies on the layer of this number, or on none.
    Stream { base: usize },
    /// One layer has what another had.
    Merge {
        top: usize,
        base: usize,
        empty: bool,
        /// What the base held before.
        behind: Bytes,
    },
    /// The top lies on these.
    Rebase { below: Vec<Layer> },
    /// There is a copy, on these layers.
    Mirror { target: Chain, copy: Layer, below: Vec<Layer>, pivot: bool },
}

impl Running {
    /// Whether the guest may write meanwhile.
    pub(super) fn bears_writes(&self) -> bool {
        match self.outcome {
            Outcome::Stream { .. } | Outcome::Rebase { .. } => true,
            // What is merged, or copied, must not change.
            Outcome::Merge { top, .. } => top > 0,
            Outcome::Mirror { .. } => false,
        }
    }
}

impl Scene {
    /// The layers change, or a job begins that will change them. A job that is under way is stopped.
    pub(super) fn change(&mut self, change: Change) {
        self.stop();
        let depth = self.layers.len();
        match change {
            Change::Resize(size) => self.resize(size.bytes()),
            Change::Snapshot(shape) if depth < MOST_LAYERS && !self.top().name.ends_with(".lvb") => {
                self.add_image(&shape);
            }
            Change::Snapshot(_) => {}
            Change::Stream(base) => self.stream(1 + usize::from(base) % depth),
            Change::Merge { top, base, empty } if depth > 1 => {
                let top = usize::from(top) % (depth - 1);
                self.merge(top, top + 1 + usize::from(base) % (depth - top - 1), empty);
            }
            Change::MirrorTop { granule, pivot } if depth > 1 => self.mirror_top(granule, pivot),
            Change::RebaseDeeper(to) if depth > 1 => self.rebase_deeper(1 + usize::from(to) % (depth - 1)),
            Change::Merge { .. } | Change::MirrorTop { .. } | Change::RebaseDeeper(_) => {}
            Change::Mirror { target, raw, used, pivot } => self.mirror(&target, raw, used, pivot),
            Change::Rebase { parent, raw, same } => self.rebase(&parent, raw, same),
        }
    }

    fn resize(&mut self, size: u64) {
        self.image().resize(size).expect("resized");
        self.layers[0].view.resize(size);
        self.known.change();
    }

    fn stream(&mut self, base: usize) {
        let work = Stream::new(self.chain(), Some(base).filter(|base| *base < self.layers.len()));
        self.begin(work, Outcome::Stream { base });
    }

    fn merge(&mut self, top: usize, base: usize, empty: bool) {
        self.close(true);
        self.open(base);
        let work = Merge::new(self.chain(), top, base, empty);
        let layer = &self.layers[base];
        // What an earlier run left in the base beyond the top's end is as it left it.
        let behind = if layer.merging { self.seen(&self.chain().layers[base]) } else { layer.view.clone() };
        self.begin(work, Outcome::Merge { top, base, empty, behind });
    }

    fn mirror(&mut self, target: &Shape, raw: bool, used: bool, pivot: bool) {
        let size = self.top().view.size();
        let name = self.name(if raw { "raw" } else { "lvd" });
        let file = self.files.create(&name);
        if !raw {
            let options = CreateOptions { copy_mark: true, ..options(target, None, size) };
            Image::create(&*file, &*self.host, &options).expect("created");
            self.refused_copy(&name);
        }
        let chain = self.open_target(&name).expect("a target opens for the job");
        if used {
            let range = target.written[0].on(chain.size(), &[]);
            chain.write_at(&vec![0x5a; (range.end - range.start) as usize], range.start).expect("written");
        }
        let work = Mirror::full(self.chain().top(), chain.layers[0].clone(), !used);
        let copy = Layer { name, view: Bytes::default(), merging: false };
        // A raw disk has no life of its own here.
        self.begin(work, Outcome::Mirror { target: chain, copy, below: Vec::new(), pivot: pivot && !raw });
    }

    fn mirror_top(&mut self, granule: Granule, pivot: bool) {
        let size = self.top().view.size();
        let name = self.name("lvd");
        let options = CreateOptions {
            virtual_size: size,
            granularity_shift: granule.shift(),
            parent: self.image().header().parent.clone(),
            allocation: true,
            copy_mark: true,
        };
        Image::create(&*self.files.create(&name), &*self.host, &options).expect("created");
        self.refused_copy(&name);
        let target = self.open_target(&name).expect("a target opens for the job");
        let work = Mirror::top(self.chain(), &target);
        let copy = Layer { name, view: Bytes::default(), merging: false };
        self.begin(work, Outcome::Mirror { target, copy, below: self.layers[1..].to_vec(), pivot });
    }

    /// The target of a copy is opened by the job alone (CHN-06).
    fn refused_copy(&self, name: &str) {
        let refused = self.files.chain(name, self.host.clone(), &ChainOptions::default()).map(drop);
        let violation = refused.expect_err("no copy yet").violation();
        assert!(matches!(violation, Some(Violation::Copying)), "{violation:?}");
    }

    fn open_target(&self, name: &str) -> Result<Chain> {
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        self.files.chain(name, self.host.clone(), &options)
    }

    fn rebase_deeper(&mut self, to: usize) {
        self.rebase_onto(self.layers[to..].to_vec());
    }

    /// Onto a new layer that is like the disk in a part.
    fn rebase(&mut self, parent: &Shape, raw: bool, same: Span) {
        let view = Bytes::zeros(parent.size.bytes());
        let mut layer = if raw { self.new_raw(parent) } else { self.new_image(parent, None, view) };
        let both = layer.view.size().min(self.top().view.size());
        let part = same.on(both, &[]);
        let options = ChainOptions { write: true, ..ChainOptions::default() };
        let chain = self.files.chain(&layer.name, self.host.clone(), &options).expect("what was made opens");
        let data = self.top().view.read(part.clone());
        chain.write_at(&data, part.start).expect("written");
        chain.close().expect("closed");
        layer.view.write(&data, part.start);
        self.rebase_onto(vec![layer]);
    }

    fn rebase_onto(&mut self, below: Vec<Layer>) {
        if self.image().complete() {
            return;
        }
        let name = below[0].name.clone();
        let work = self
            .files
            .chain(&name, self.host.clone(), &ChainOptions::default())
            .and_then(|parent| Rebase::new(self.chain(), &parent, name));
        self.begin(work, Outcome::Rebase { below });
    }

    /// A job may be refused only on account of a merge that was not finished, or of a layer that was not closed after it.
    fn begin(&mut self, work: Result<impl Work + 'static>, outcome: Outcome) {
        self.known.change();
        match work {
            Ok(work) => self.job = Some(Running { job: Job::new(work, self.host.clone()), outcome }),
            Err(error) => {
                let Error::Refused { violation, .. } = error else { panic!("{error}") };
                let explains = |layer: &crate::chain::Layer| {
                    layer.image().map(|image| image.header()).is_some_and(|header| match violation {
                        Violation::Marked => header.merge_mark.is_some(),
                        Violation::ParentMatches => header.state == State::Writing,
                        _ => false,
                    })
                };
                assert!(self.chain().layers.iter().any(explains), "{error}");
            }
        }
    }

    /// The job goes on.
    pub(super) fn step(&mut self, steps: u8, pages: u8) {
        let Some(running) = self.job.take() else { return };
        self.known.change();
        for _ in 0..steps % 16 {
            if let Outcome::Merge { base, .. } = running.outcome {
                self.layers[base].merging = true;
            }
            if running.job.step(u64::from(pages) * PAGE_SIZE).expect("a job goes on").finished {
                return self.ended(running.outcome);
            }
        }
        self.job = Some(running);
    }

    /// The job goes on no more.
    pub(super) fn stop(&mut self) {
        if let Some(Running { outcome: Outcome::Mirror { target, copy, .. }, .. }) = self.job.take() {
            drop(target);
            if copy.name.ends_with(".lvd") {
                self.refused_copy(&copy.name);
            }
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        // The open disk reads as before, on whatever it lies now.
        self.verify_bytes();
        match outcome {
            Outcome::Stream { base } => {
                assert_eq!(self.image().complete(), base == self.layers.len());
                self.replace(1..base, Vec::new());
            }
            Outcome::Merge { top, base, empty, behind } => {
                let merged = self.layers[top].view.over(&behind);
                self.layers[base] = Layer { view: merged, merging: false, ..self.layers[base].clone() };
                let left = self.chain().image(top).expect("an image").check().expect("memory is read");
                assert!(!empty || left.present_blocks == 0, "{} blocks left", left.present_blocks);
                self.replace(top + 1..base, Vec::new());
                assert!(!self.refused_alone(top + 1), "what was merged into opens");
            }
            Outcome::Rebase { below } => self.replace(1..self.layers.len(), below),
            Outcome::Mirror { target, copy, below, pivot } => {
                target.close().expect("closed");
                drop(target);
                let copy = Layer { view: self.top().view.clone(), ..copy };
                self.verify_alone(&copy);
                match pivot {
                    true => self.replace(0..self.layers.len(), [vec![copy], below].concat()),
                    false => self.files.remove(&copy.name),
                }
            }
        }
    }

    /// Other layers take the place of some, whose files are gone then.
    fn replace(&mut self, gone: Range<usize>, new: Vec<Layer>) {
        self.close(true);
        let gone: Vec<Layer> = self.layers.splice(gone, new).collect();
        for name in gone.into_iter().map(|layer| layer.name) {
            if self.layers.iter().all(|layer| layer.name != name) {
                self.files.remove(&name);
            }
        }
        self.open(0);
        self.verify_all();
    }
}
