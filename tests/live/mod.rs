//! What the tests of live jobs share: files whose requests a test can hold, fail and count, and guests with a model.
//!
//! Nothing here waits for a time to pass where the right code is at work: a breakpoint stops a request exactly where the
//! story wants it. Only a wrong code is given a moment to show itself ([`a_moment`]).
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses a part")]

mod guest;
mod stage;

pub use guest::{Guest, Guests, Mortal};
pub use stage::{Fuse, Kind, Staged};

use lvd::chain::{Chain, ChainOptions, ParentPolicy};
use lvd::format::Parent;
use lvd::image::{CreateOptions, Image};
use lvd::live::{Disk, LiveMirror};
use lvd::storage::{Host, OsHost, Storage};
use lvd::{BlockDevice, Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
/// A block of an overlay, unless a test says otherwise.
pub const BLOCK: u64 = 4 * KIB;

/// A clock that moves only when somebody sleeps.
#[derive(Debug, Default)]
pub struct Clock(Mutex<Duration>);

impl Host for Clock {
    fn random(&self) -> [u8; 16] {
        OsHost::default().random()
    }

    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

/// Files in memory, found by the hints of those that lie on them.
#[derive(Debug)]
pub struct Files {
    files: Mutex<BTreeMap<String, Arc<Staged>>>,
    fuse: Arc<Fuse>,
    pub clock: Arc<Clock>,
}

impl ParentPolicy for Files {
    fn open(&self, link: &Parent, _child: &str, _write: bool) -> Result<Arc<dyn Storage>> {
        Ok(self.file(&link.hint))
    }
}

impl Files {
    pub fn new() -> Files {
        Files { files: Mutex::default(), fuse: Fuse::endless(), clock: Arc::default() }
    }

    /// A new, empty file.
    pub fn add(&self, name: &str) -> Arc<Staged> {
        let file = Arc::new(Staged::new(name, self.fuse.clone()));
        assert!(self.files.lock().unwrap().insert(name.into(), file.clone()).is_none(), "{name} is there already");
        file
    }

    pub fn file(&self, name: &str) -> Arc<Staged> {
        self.files.lock().unwrap().get(name).unwrap_or_else(|| panic!("{name} is deleted")).clone()
    }

    /// Deletes a file: whoever opens a chain that needs it fails.
    pub fn delete(&self, name: &str) {
        assert!(self.files.lock().unwrap().remove(name).is_some());
    }

    /// The files as they are now, changes of which burn `fuse`.
    pub fn copy(&self, fuse: &Arc<Fuse>) -> Files {
        let copy = |(name, file): (&String, &Arc<Staged>)| (name.clone(), Arc::new(file.copy(fuse.clone())));
        let files = Mutex::new(self.files.lock().unwrap().iter().map(copy).collect());
        Files { files, fuse: fuse.clone(), clock: Arc::default() }
    }

    /// A new complete image.
    pub fn image(&self, name: &str, size: u64) -> Arc<Staged> {
        self.create(name, CreateOptions { virtual_size: size, ..CreateOptions::default() })
    }

    /// A copy of a file of other files, under the same name.
    pub fn take(&self, file: &Staged) {
        let copy = Arc::new(file.copy(self.fuse.clone()));
        assert!(self.files.lock().unwrap().insert(file.name().into(), copy).is_none());
    }

    /// A new image that is to become a copy, opened for that.
    pub fn target(&self, name: &str, size: u64) -> Chain {
        self.create(name, CreateOptions { virtual_size: size, copy_mark: true, ..CreateOptions::default() });
        self.open_marked(name)
    }

    /// The same, on a parent.
    pub fn target_on(&self, name: &str, parent: &str, size: u64, granularity_shift: u8) -> Chain {
        let parent = Some(self.link(parent, size));
        let options = CreateOptions { virtual_size: size, granularity_shift, parent, ..CreateOptions::default() };
        self.create(name, CreateOptions { copy_mark: true, ..options });
        self.open_marked(name)
    }

    fn link(&self, parent: &str, size: u64) -> Parent {
        let below = self.read(parent).unwrap();
        below.layers[0].link(size.min(below.size()), parent.into()).unwrap()
    }

    /// A new overlay of `size` bytes on all of `parent`, or on as much as its size.
    pub fn overlay(&self, name: &str, parent: &str, size: u64) -> Arc<Staged> {
        self.overlay_in_blocks(name, parent, size, 12)
    }

    pub fn overlay_in_blocks(&self, name: &str, parent: &str, size: u64, granularity_shift: u8) -> Arc<Staged> {
        let parent = Some(self.link(parent, size));
        self.create(name, CreateOptions { virtual_size: size, granularity_shift, parent, ..CreateOptions::default() })
    }

    fn create(&self, name: &str, options: CreateOptions) -> Arc<Staged> {
        let file = self.add(name);
        Image::create(&*file, &*self.clock, &options).unwrap();
        file
    }

    /// Opens `name` and the layers down to `last` for writing.
    pub fn open(&self, name: &str, last: usize) -> Result<Chain> {
        self.open_with(name, &ChainOptions { write: true, write_also: Some(last), ..ChainOptions::default() })
    }

    pub fn open_marked(&self, name: &str) -> Chain {
        self.open_with(name, &ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() }).unwrap()
    }

    /// Opens `name` for reading.
    pub fn read(&self, name: &str) -> Result<Chain> {
        self.open_with(name, &ChainOptions::default())
    }

    fn open_with(&self, name: &str, options: &ChainOptions) -> Result<Chain> {
        match name.ends_with(".raw") {
            true => Chain::open_raw(self.file(name), self.clock.clone(), options),
            false => Chain::open(self.file(name), self.clock.clone(), self, options),
        }
    }

    /// What a fresh reader of `name` finds.
    pub fn view(&self, name: &str) -> Result<Vec<u8>> {
        self.read(name).map(|chain| content(&chain))
    }

    /// Serves `name`, all of whose layers down to `last` are open for writing.
    pub fn serve(&self, name: &str, last: usize) -> Arc<Disk> {
        Disk::new(self.open(name, last).unwrap())
    }

    /// Puts a new overlay on top of a disk.
    pub fn snapshot(&self, disk: &Arc<Disk>, name: &str, below: &str) {
        disk.snapshot(self.add(name), below.into(), 12).unwrap();
    }

    /// Writes to a disk at rest.
    pub fn change(&self, name: &str, body: impl FnOnce(&mut Guest<'_>)) {
        let chain = self.open(name, 0).unwrap();
        body(&mut Guest::new(&chain));
        chain.close().unwrap();
    }
}

/// Makes `layer0.lvd` on `layer1.lvd` on …, the top first: a letter is a block that the layer holds, `-` one that it
/// does not.
pub fn layers(texts: &[&str]) -> Files {
    let files = Files::new();
    for (index, text) in texts.iter().enumerate().rev() {
        let (name, size) = (format!("layer{index}.lvd"), text.len() as u64 * BLOCK);
        match index + 1 < texts.len() {
            true => files.overlay(&name, &format!("layer{}.lvd", index + 1), size),
            false => files.image(&name, size),
        };
        files.change(&name, |guest| {
            for (block, letter) in (0..).zip(text.bytes()).filter(|(_, letter)| *letter != b'-') {
                guest.write(block * BLOCK..(block + 1) * BLOCK, letter);
            }
        });
    }
    files
}

/// What [`layers`] has made, as it reads: `0` for zeros.
#[track_caller]
pub fn letters(view: &[u8]) -> String {
    let letter = |block: &[u8]| {
        assert!(block.iter().all(|byte| *byte == block[0]), "a block of several letters");
        if block[0] == 0 { '0' } else { block[0] as char }
    };
    view.chunks(BLOCK as usize).map(letter).collect()
}

/// All of a disk.
pub fn content(device: &dyn BlockDevice) -> Vec<u8> {
    bytes(device, 0..device.size())
}

pub fn bytes(device: &dyn BlockDevice, range: Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0xaa; (range.end - range.start) as usize];
    device.read_at(&mut bytes, range.start).unwrap();
    bytes
}

/// Where two disks first differ, if they do: their bytes are no message.
#[track_caller]
pub fn same(found: &[u8], wanted: &[u8], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: the size");
    if let Some(at) = (0..found.len()).find(|&at| found[at] != wanted[at]) {
        panic!("{what}: byte {at} is {:#x} instead of {:#x}", found[at], wanted[at]);
    }
}

/// Steps a mirror until it is ready.
pub fn until_ready(mirror: &LiveMirror) {
    while !mirror.step(MIB).unwrap().ready {}
}

/// A refusal that says why: by policy, and with these words.
#[track_caller]
pub fn denied<T>(result: Result<T>, words: &[&str]) {
    match result {
        Err(error @ (Error::Denied(_) | Error::Invalid(_))) => {
            let text = error.to_string();
            words.iter().for_each(|word| assert!(text.contains(word), "no '{word}' in: {text}"));
        }
        Err(error) => panic!("refused for another reason: {error}"),
        Ok(_) => panic!("not refused, though it should be for {words:?}"),
    }
}

/// Gives a thread that ought to wait the time to show that it does not. The right code never depends on it.
pub fn a_moment<T>(thread: &ScopedJoinHandle<'_, T>) {
    let until = Instant::now() + Duration::from_millis(30);
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}
