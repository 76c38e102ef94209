//! Jobs on random chains beside the naive model: each disk a vector of bytes.

mod course;
mod jobs;
mod stopped;

use super::*;
use crate::chain::{Chain, ChainOptions, ParentPolicy, RawDevice};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::Parent;
use crate::image::{CreateOptions, Image};
use crate::storage::{FileId, Host, LockMode, MemoryStorage, OsHost, Storage};
use crate::sync::{Arc, AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::ops::Range;

/// Small deterministic random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    fn range(&mut self, size: u64, longest: u64) -> Range<u64> {
        let start = self.below(size + 1);
        start..start + self.below((size - start).min(longest) + 1)
    }

    /// A size that is rarely a multiple of anything, and now and then zero.
    fn size(&mut self) -> u64 {
        match self.below(12) {
            0 => 0,
            1 => 1,
            2 => 65_536,
            3 => 65_537,
            _ => self.below(160 << 10),
        }
    }
}

/// Lets so many changes of any file through, then none: the process was killed there.
#[derive(Debug)]
struct Fuse(AtomicU64);

impl Fuse {
    fn new(changes: u64) -> Arc<Fuse> {
        Arc::new(Fuse(AtomicU64::new(changes)))
    }

    fn burn(&self, file: &str) -> Result<()> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| Error::Denied(format!("{file}: stopped here")))
    }

    fn burnt(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[derive(Debug)]
struct Fused {
    inner: Arc<MemoryStorage>,
    fuse: Arc<Fuse>,
}

impl Storage for Fused {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.fuse.burn(self.name())?;
        self.inner.write_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        self.fuse.burn(self.name())?;
        self.inner.sync()
    }

    fn sync_directory(&self) -> Result<()> {
        self.inner.sync_directory()
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.fuse.burn(self.name())?;
        self.inner.set_size(size)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.fuse.burn(self.name())?;
        self.inner.punch(range)
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.fuse.burn(self.name())?;
        self.inner.write_zeroes(range)
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.inner.next_data(range)
    }

    /// A host that shares whole pages, and only in every other stretch of 64 KiB. Nobody can tell sharing from copying.
    fn share(&self, offset: u64, source: &dyn Storage, range: Range<u64>) -> Result<bool> {
        let pages = [offset, range.start, range.end].iter().all(|at| at.is_multiple_of(4096));
        if !pages || offset / 65_536 % 2 == 1 || range.end > source.size()? {
            return Ok(false);
        }
        self.fuse.burn(self.name())?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        source.read_at(&mut bytes, range.start)?;
        self.inner.write_at(&bytes, offset).map(|()| true)
    }

    fn lock(&self, mode: LockMode) -> Result<()> {
        self.inner.lock(mode)
    }

    fn id(&self) -> Option<FileId> {
        self.inner.id()
    }
}

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

/// Some files, found by their names.
#[derive(Debug, Default)]
struct Files {
    files: BTreeMap<String, Arc<MemoryStorage>>,
}

/// Opens whatever a hint names.
#[derive(Debug)]
struct ByName<'a>(&'a Files, Arc<Fuse>);

impl ParentPolicy for ByName<'_> {
    fn open(&self, link: &Parent, _child: &str, _write: bool) -> Result<Arc<dyn Storage>> {
        Ok(self.0.storage(&link.hint, &self.1))
    }
}

impl Files {
    fn add(&mut self, name: &str) -> Arc<MemoryStorage> {
        let file = Arc::new(MemoryStorage::new(name));
        self.files.insert(name.to_string(), file.clone());
        file
    }

    fn storage(&self, name: &str, fuse: &Arc<Fuse>) -> Arc<dyn Storage> {
        Arc::new(Fused { inner: self.files[name].clone(), fuse: fuse.clone() })
    }

    fn copy(&self) -> Files {
        Files { files: self.files.iter().map(|(name, file)| (name.clone(), Arc::new(file.copy(name)))).collect() }
    }

    fn open_with(&self, name: &str, options: &ChainOptions, fuse: &Arc<Fuse>) -> Result<Chain> {
        let top = self.storage(name, fuse);
        if name.ends_with(".raw") {
            return Chain::open_raw(top, host(), options);
        }
        Chain::open(top, host(), &ByName(self, fuse.clone()), options)
    }

    /// Opens `name` and the layers down to `last` for writing.
    fn open(&self, name: &str, last: usize) -> Result<Chain> {
        let options = ChainOptions { write: true, write_also: Some(last), ..ChainOptions::default() };
        self.open_with(name, &options, &Fuse::new(u64::MAX))
    }

    /// What a reader finds.
    fn view(&self, name: &str) -> Result<Vec<u8>> {
        let chain = self.open_with(name, &ChainOptions::default(), &Fuse::new(0))?;
        let mut bytes = vec![0; chain.size() as usize];
        chain.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// A random chain: files with the views they show, the top first.
#[derive(Debug)]
struct Scene {
    files: Files,
    names: Vec<String>,
    views: Vec<Vec<u8>>,
}

impl Scene {
    /// A chain of `depth` layers, none of them raw.
    fn of_images(random: &mut Random, depth: usize) -> Scene {
        loop {
            let scene = Scene::new(random, depth);
            if !scene.names.iter().any(|name| name.ends_with(".raw")) {
                return scene;
            }
        }
    }

    /// A chain of `depth` layers; the lowest may be raw.
    fn new(random: &mut Random, depth: usize) -> Scene {
        let mut scene = Scene { files: Files::default(), names: Vec::new(), views: Vec::new() };
        for index in (0..depth).rev() {
            let raw = index == depth - 1 && random.below(3) == 0;
            scene.put_layer(random, index, raw);
        }
        if depth > 1 {
            scene.leave_garbage(random);
        }
        scene
    }

    /// A process that was killed wrote to the top where the top holds nothing: the bits never came, the bytes did.
    fn leave_garbage(&self, random: &mut Random) {
        let chain = self.files.open(self.top(), 0).unwrap();
        let Ok(image) = chain.image(0) else { return };
        let blocks = image.size().div_ceil(image.granule().max(4096));
        for _ in 0..random.below(4) {
            let start = random.below(blocks + 1) * image.granule();
            let end = (start + image.granule()).min(image.size());
            if image.granule() > 1 && start < end && !image.local_run(start, end).unwrap().0 {
                image.write_at(&vec![0xee; (end - start) as usize], start).unwrap();
            }
        }
    }

    /// Puts a layer on the chain so far, and writes to it.
    fn put_layer(&mut self, random: &mut Random, index: usize, raw: bool) {
        let name = format!("layer{index}.{}", if raw { "raw" } else { "lvd" });
        let size = random.size();
        let file = self.files.add(&name);
        let mut view = vec![0; size as usize];
        let parent = self.names.first().map(|below| {
            let chain = self.files.open_with(below, &ChainOptions::default(), &Fuse::new(u64::MAX)).unwrap();
            let most = size.min(chain.size());
            let visible = if random.below(3) == 0 { random.below(most + 1) } else { most };
            view[..visible as usize].copy_from_slice(&self.views[0][..visible as usize]);
            chain.layers[0].link(visible, below.clone()).unwrap()
        });
        match raw {
            true => file.set_size(size).unwrap(),
            false => {
                let granularity_shift = if random.below(2) == 0 { 12 } else { 16 };
                let allocation = random.below(2) == 0;
                let options =
                    CreateOptions { virtual_size: size, granularity_shift, parent, allocation, copy_mark: false };
                Image::create(&*file, &*host(), &options).unwrap();
            }
        }
        self.names.insert(0, name.clone());
        self.views.insert(0, view);
        let chain = self.files.open(&name, 0).unwrap();
        for _ in 0..random.below(12) {
            change(random, &chain, &mut self.views[0]);
        }
        chain.close().unwrap();
    }

    fn top(&self) -> &str {
        &self.names[0]
    }

    fn copy(&self) -> Scene {
        Scene { files: self.files.copy(), names: self.names.clone(), views: self.views.clone() }
    }
}

/// One random change of a disk and of the vector that stands for it.
fn change(random: &mut Random, disk: &dyn BlockDevice, view: &mut [u8]) {
    let range = random.range(view.len() as u64, 40_000);
    let bytes = &mut view[range.start as usize..range.end as usize];
    match random.below(4) {
        0 => {
            bytes.fill(0);
            disk.write_zeroes(range, random.below(2) == 0).unwrap();
        }
        1 => {
            bytes.fill(0);
            disk.write_at(bytes, range.start).unwrap();
        }
        _ => {
            bytes.iter_mut().for_each(|byte| *byte = random.next() as u8 | 1);
            disk.write_at(bytes, range.start).unwrap();
        }
    }
}

/// Steps a job to its end, in pieces of `budget` bytes.
fn finish(job: &Job, budget: u64) -> Result<Progress> {
    let mut before = 0;
    loop {
        let progress = job.step(budget)?;
        assert!(progress.done >= before && progress.done <= progress.total);
        before = progress.done;
        if progress.finished {
            assert_eq!(progress.done, progress.total);
            return Ok(progress);
        }
    }
}
