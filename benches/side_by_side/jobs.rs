//! Jobs between files at rest, beside a copy of the same bytes by read and write, durable at its end.
//!
//! On a file system that shares extents (XFS, btrfs) the copy moves bytes and the jobs do not.

use crate::Bench;
use crate::files::{aligned, fill, median};
use crate::requests::Offsets;
use lvd::chain::{Chain, ChainOptions, GivenParents, Layer};
use lvd::format::{Identity, Parent, ParentFormat};
use lvd::jobs::{Job, Merge, Mirror, Stream, Work};
use lvd::storage::{Create, FileStorage, OsHost, Storage};
use lvd::{BlockDevice, CreateOptions, Image, OpenOptions};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the top of a chain holds.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    Nothing,
    /// Every other 64 KiB.
    Half,
    All,
}

impl Bench {
    /// A job beside a copy of `share` of the disk in pieces of `piece` bytes, in any order if they are small.
    fn job(&self, name: &str, moved: u64, piece: u64, job: fn(&Bench) -> Duration) {
        if !self.wanted(name) {
            return;
        }
        let pairs: Vec<(f64, f64)> =
            (0..self.rounds).map(|_| (job(self).as_secs_f64(), self.copy(moved, piece).as_secs_f64())).collect();
        let rate = |seconds: f64| moved as f64 / seconds / (1 << 20) as f64;
        let ours = rate(median(pairs.iter().map(|pair| pair.0).collect()));
        let copy = rate(median(pairs.iter().map(|pair| pair.1).collect()));
        let ratio = median(pairs.iter().map(|pair| pair.1 / pair.0).collect());
        println!("{name:<34} {ours:>10.0} {copy:>9.0} {ratio:>6.2}");
    }

    /// Reads and writes `moved` bytes in pieces, then one barrier.
    fn copy(&self, moved: u64, piece: u64) -> Duration {
        let source = self.raw("source.raw", self.disk, true);
        let target = self.raw("copy.raw", self.disk, moved < self.disk);
        let mut offsets = Offsets(7);
        let mut buffer = aligned(piece as usize);
        let start = Instant::now();
        for number in 0..moved / piece {
            let at = if moved < self.disk { offsets.next(self.disk / piece) * piece } else { number * piece };
            source.inner.read_at(buffer.bytes_mut(), at).expect("a read");
            target.inner.write_at(buffer.bytes(), at).expect("a write");
        }
        target.inner.sync().expect("a barrier");
        start.elapsed()
    }

    fn image_file(&self, name: &str, options: &CreateOptions, holds: Holds) -> (Arc<FileStorage>, Identity) {
        let host: Arc<OsHost> = Arc::new(OsHost::default());
        let path = self.path(name);
        let _ = std::fs::remove_file(&path);
        let file = Arc::new(FileStorage::open(&path, &self.options(Create::New)).expect("a file"));
        Image::create(&*file, &*host, options).expect("an image");
        let open = OpenOptions { write: true, ignore_marks: true, ..OpenOptions::default() };
        let image = Image::open(file.clone(), host, &open).expect("opens");
        match holds {
            Holds::Nothing => {}
            Holds::All => fill(self.disk, |data, at| image.write_at(data, at)),
            Holds::Half => {
                let piece = aligned(64 << 10);
                for at in (0..self.disk).step_by(128 << 10) {
                    image.write_at(piece.bytes(), at).expect("space for the bench");
                }
            }
        }
        image.close().expect("closes");
        (file, Identity { uuid: image.uuid(), epoch: image.epoch() })
    }

    /// A top over a full base, both LVD.
    fn chain(&self, top: Holds) -> Chain {
        let complete = CreateOptions { virtual_size: self.disk, ..CreateOptions::default() };
        let (base, identity) = self.image_file("base.lvd", &complete, Holds::All);
        let link = Parent {
            identity: Some(identity),
            format: ParentFormat::Lvd,
            visible_length: self.disk,
            hint: "base.lvd".into(),
        };
        let (top, _) = self.image_file("top.lvd", &CreateOptions { parent: Some(link), ..complete }, top);
        let options = ChainOptions { write: true, write_also: Some(1), ..ChainOptions::default() };
        let host = Arc::new(OsHost::default());
        Chain::open(top, host, &GivenParents::new(vec![base as Arc<dyn Storage>]), &options).expect("a chain")
    }

    /// All rows.
    pub(crate) fn jobs(&self) {
        println!("\n{:<34} {:>10} {:>9} {:>6}", "jobs", "MiB/s", "copy", "ratio");
        self.job("convert", self.disk, 1 << 20, convert);
        self.job("stream", self.disk, 1 << 20, stream);
        self.job("merge", self.disk, 1 << 20, merge);
        self.job("merge, every other 64K", self.disk / 2, 64 << 10, merge_half);
    }
}

fn convert(bench: &Bench) -> Duration {
    let source = bench.chain(Holds::Nothing);
    let options = CreateOptions { virtual_size: bench.disk, copy_mark: true, ..CreateOptions::default() };
    let (file, _) = bench.image_file("converted.lvd", &options, Holds::Nothing);
    let open = OpenOptions { write: true, ignore_marks: true, ..OpenOptions::default() };
    let target = Layer::Lvd(Arc::new(Image::open(file, source.host().clone(), &open).expect("opens")));
    let work = Mirror::full(source.top(), target, true).expect("a job");
    run(work, &source)
}

fn stream(bench: &Bench) -> Duration {
    let chain = bench.chain(Holds::Nothing);
    run(Stream::new(&chain, None).expect("a job"), &chain)
}

fn merge(bench: &Bench) -> Duration {
    let chain = bench.chain(Holds::All);
    run(Merge::new(&chain, 0, 1, false).expect("a job"), &chain)
}

fn merge_half(bench: &Bench) -> Duration {
    let chain = bench.chain(Holds::Half);
    run(Merge::new(&chain, 0, 1, false).expect("a job"), &chain)
}

/// From as many threads as the command uses.
fn run(work: impl Work + 'static, chain: &Chain) -> Duration {
    let job = Job::new(work, chain.host().clone());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| lvd::jobs::drive(&job, |_| {}).expect("a step"));
        }
    });
    start.elapsed()
}
