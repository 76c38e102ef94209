//! A small disk under two guests: storages that remember what is durable and can fail, layers, requests.

use crate::history::{Effect, History};
use lvd::chain::{Chain, ChainOptions, GivenParents};
use lvd::device::Request;
use lvd::image::{CreateOptions, Image};
use lvd::live::{Disk, MirrorOptions, Pace};
use lvd::storage::{Host, LockMode, MemoryStorage, Storage};
use lvd::testing::host::SimHost;
use lvd::{BlockDevice, Error, Result};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{JoinHandle, spawn, yield_now};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The blocks of all images.
pub(crate) const BLOCK: u64 = 4096;
/// The granules of all mirrors: two blocks.
pub(crate) const GRANULE: u64 = 2 * BLOCK;
/// Two granules and a half.
pub(crate) const SIZE: u64 = 5 * BLOCK;
/// What is written, read and judged as one.
pub(crate) const CELL: u64 = 1024;
/// Cells of the disk.
pub(crate) const CELLS: usize = (SIZE / CELL) as usize;

/// What a storage does wrong, once, counted from when it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This write or punch does half of it and fails.
    Write(u64),
    /// This barrier fails.
    Sync(u64),
}

/// A storage in memory that remembers what its last barrier covered.
#[derive(Debug)]
pub(crate) struct Store {
    inner: MemoryStorage,
    durable: Mutex<Vec<u8>>,
    /// Barriers do not overtake each other.
    barrier: shuttle::sync::Mutex<()>,
    fault: Mutex<Option<Fault>>,
    /// Its host shares blocks, which nobody can tell from copying them.
    shares: bool,
    /// Writes and barriers since the fault was set, and reads of each block.
    writes: AtomicU64,
    syncs: AtomicU64,
    pub reads: Mutex<Vec<Range<u64>>>,
    /// All that was written, when it was issued.
    pub written: Mutex<Vec<Range<u64>>>,
}

impl Store {
    pub(crate) fn new(name: &str) -> Arc<Store> {
        Arc::new(Store {
            inner: MemoryStorage::new(name),
            durable: Mutex::default(),
            barrier: shuttle::sync::Mutex::default(),
            fault: Mutex::default(),
            shares: once_in(3),
            writes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            reads: Mutex::default(),
            written: Mutex::default(),
        })
    }

    pub(crate) fn arm(&self, fault: Fault) {
        self.writes.store(0, Ordering::Relaxed);
        self.syncs.store(0, Ordering::Relaxed);
        *self.fault.lock().unwrap() = Some(fault);
    }

    /// All of its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.inner.contents()
    }

    /// What its last barrier covered, as a file of its own.
    pub(crate) fn durable(&self) -> Arc<dyn Storage> {
        let bytes = self.durable.lock().unwrap().clone();
        Arc::new(MemoryStorage::with_bytes("what is durable", &bytes))
    }

    /// The durable cells of the disk that begins at `offset`.
    pub(crate) fn durable_cells(&self, offset: u64) -> Vec<u8> {
        let bytes = self.durable.lock().unwrap();
        let mut disk = bytes.get(offset as usize..).unwrap_or_default().to_vec();
        disk.resize(SIZE as usize, 0);
        cells_of(&disk)
    }

    fn fails(&self, fault: Fault) -> bool {
        self.fault.lock().unwrap().take_if(|armed| *armed == fault).is_some()
    }

    fn write(&self, range: Range<u64>, act: impl Fn(Range<u64>) -> Result<()>) -> Result<()> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.fails(Fault::Write(number)) {
            return act(range);
        }
        act(range.start..range.start + (range.end - range.start) / 2 / CELL * CELL)?;
        Err(Error::NoSpace { file: self.name().into() })
    }
}

impl Storage for Store {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.reads.lock().unwrap().push(offset..offset + buffer.len() as u64);
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let end = offset + data.len() as u64;
        self.written.lock().unwrap().push(offset..end);
        self.write(offset..end, |part| self.inner.write_at(&data[..(part.end - offset) as usize], offset))
    }

    fn sync(&self) -> Result<()> {
        let number = self.syncs.fetch_add(1, Ordering::Relaxed) + 1;
        if self.fails(Fault::Sync(number)) {
            return Err(Error::NoSpace { file: self.name().into() });
        }
        let _one = self.barrier.lock().unwrap();
        let content = self.inner.contents();
        *self.durable.lock().unwrap() = content;
        Ok(())
    }

    fn sync_directory(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.inner.set_size(size)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.write(range, |part| self.inner.punch(part))
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.punch(range)
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.inner.next_data(range)
    }

    fn share(&self, offset: u64, source: &dyn Storage, range: Range<u64>) -> Result<bool> {
        let blocks = [offset, range.start, range.end].iter().all(|at| at.is_multiple_of(BLOCK));
        if !self.shares || !blocks || range.end > source.size()? {
            return Ok(false);
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        source.read_at(&mut bytes, range.start)?;
        self.write_at(&bytes, offset).map(|()| true)
    }

    fn lock(&self, _: LockMode) -> Result<()> {
        Ok(())
    }
}

/// One layer to be made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Cells of its disk.
    pub cells: usize,
    /// Cells that it holds, and the value in all of them.
    pub held: Vec<Range<usize>>,
    pub value: u8,
    /// An image; else raw.
    pub image: bool,
}

/// A disk, its layers, and what its guests were told.
pub(crate) struct Rig {
    pub disk: Arc<Disk>,
    pub history: Arc<History>,
    pub host: Arc<dyn Host>,
    /// The layers' storages, the top first.
    pub stores: Vec<Arc<Store>>,
    /// The guests' disk may fail them.
    pub(crate) faulty: Arc<AtomicBool>,
    /// Some requests come in batches.
    pub(crate) batches: bool,
    /// All requests are for the whole disk.
    pub(crate) whole: bool,
    guests: Vec<JoinHandle<()>>,
}

/// A number below `end`.
pub(crate) fn below(end: u64) -> u64 {
    thread_rng().gen_range(0..end)
}

/// True once in `n` times.
pub(crate) fn once_in(n: u64) -> bool {
    below(n) == 0
}

impl Rig {
    /// A disk of the layers `plans`, the lowest first, of which the upper `writable` ones are open for writing.
    pub(crate) fn new(plans: &[Plan], writable: usize) -> Rig {
        let host: Arc<dyn Host> = Arc::new(SimHost::new(7));
        let mut stores: Vec<Arc<Store>> = Vec::new();
        let mut content: Vec<u8> = Vec::new();
        for plan in plans {
            let store = Store::new(&format!("layer {}", stores.len()));
            let size = plan.cells as u64 * CELL;
            let below = stores.first().map(|_| open(&stores, plans, &host, None));
            if plan.image {
                let parent = below.map(|below| below.layers[0].link(size.min(below.size()), "below".into()).unwrap());
                let options = CreateOptions { virtual_size: size, parent, ..CreateOptions::default() };
                Image::create(&*store, &*host, &options).unwrap();
            } else {
                store.set_size(size).unwrap();
            }
            stores.insert(0, store);
            content.resize(plan.cells, 0);
            let chain = open(&stores, plans, &host, Some(0));
            for cells in &plan.held {
                chain.write_at(&vec![plan.value; cells.len() * CELL as usize], cells.start as u64 * CELL).unwrap();
                content[cells.clone()].fill(plan.value);
            }
            chain.close().unwrap();
        }
        let disk = Disk::new(open(&stores, plans, &host, Some(writable - 1)));
        Rig {
            disk,
            history: Arc::new(History::new(content)),
            host,
            stores,
            faulty: Arc::default(),
            batches: true,
            whole: false,
            guests: Vec::new(),
        }
    }

    /// Lets two guests make so many requests each.
    pub(crate) fn start_guests(&mut self, requests: u64) {
        for number in 0..2 {
            let (disk, history, faulty) = (self.disk.clone(), self.history.clone(), self.faulty.clone());
            let guest = Guest { number, disk, history, faulty, batches: self.batches, whole: self.whole };
            self.guests.push(spawn(move || (0..requests).for_each(|_| guest.request())));
        }
    }

    /// Waits for the guests; then every cell must have been like one register, up to what it holds now.
    pub(crate) fn finish(&mut self) {
        self.guests.drain(..).for_each(|guest| guest.join().unwrap());
        let begun = self.history.now();
        self.history.note(2, 0..CELLS, Effect::Read(content(&*self.disk)), begun);
        self.history.check();
    }

    /// Does `act`, and says when.
    pub(crate) fn timed<T>(&self, act: impl FnOnce() -> T) -> (T, Range<u64>) {
        let begun = self.history.now();
        let result = act();
        (result, begun..self.history.now())
    }

    /// A mirror's target: an image with a copy mark, or a raw file.
    pub(crate) fn target(&self, image: bool) -> (Arc<Store>, Chain) {
        let store = Store::new("target");
        if image {
            let create = CreateOptions { virtual_size: SIZE, copy_mark: true, ..CreateOptions::default() };
            Image::create(&*store, &*self.host, &create).unwrap();
        } else {
            store.set_size(SIZE).unwrap();
            // What an earlier copy left there.
            store.write_at(&[222; SIZE as usize], 0).unwrap();
        }
        (store.clone(), self.target_in(&store, image))
    }

    /// A target of a mirror of the top: an overlay of what that lies on.
    pub(crate) fn target_beside(&self) -> Chain {
        let store = Store::new("target");
        let parent = self.disk.chain().image(0).unwrap().header().parent.clone();
        let create = CreateOptions { virtual_size: SIZE, parent, copy_mark: true, ..CreateOptions::default() };
        Image::create(&*store, &*self.host, &create).unwrap();
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        let parents = self.stores[1..].iter().map(|store| store.clone() as Arc<dyn Storage>);
        Chain::open(store, self.host.clone(), &GivenParents::new(parents), &options).unwrap()
    }

    /// Opens a mirror's target.
    pub(crate) fn target_in(&self, store: &Arc<Store>, image: bool) -> Chain {
        let (store, host) = (store.clone(), self.host.clone());
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        match image {
            true => Chain::open(store, host, &GivenParents::new([]), &options).unwrap(),
            false => Chain::open_raw(store, host, &options).unwrap(),
        }
    }
}

/// Opens the chain of `stores`, the lowest of which is of `plans`' first kind, for writing down to layer `last`.
fn open(stores: &[Arc<Store>], plans: &[Plan], host: &Arc<dyn Host>, last: Option<usize>) -> Chain {
    let options = ChainOptions { write: last.is_some(), write_also: last, ..ChainOptions::default() };
    let parents = stores[1..].iter().map(|store| store.clone() as Arc<dyn Storage>);
    match plans[stores.len() - 1].image {
        true => Chain::open(stores[0].clone(), host.clone(), &GivenParents::new(parents), &options).unwrap(),
        false => Chain::open_raw(stores[0].clone(), host.clone(), &options).unwrap(),
    }
}

/// Mirrors with few granules, one of which may be behind.
pub(crate) fn options(pace: Pace) -> MirrorOptions {
    let piece = GRANULE << below(2);
    MirrorOptions { granularity: GRANULE, bound: GRANULE, piece, pace, share: 100, compare: false }
}

/// Any pace.
pub(crate) fn pace() -> Pace {
    [Pace::Background, Pace::Bounded, Pace::WriteThrough][below(3) as usize]
}

/// The cells of a disk.
pub(crate) fn content(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    device.read_at(&mut bytes, 0).unwrap();
    cells_of(&bytes)
}

fn cells_of(bytes: &[u8]) -> Vec<u8> {
    let cells = bytes.chunks(CELL as usize).enumerate();
    cells
        .map(|(number, cell)| {
            assert!(cell.iter().all(|byte| *byte == cell[0]), "cell {number} is torn");
            cell[0]
        })
        .collect()
}

/// Waits for others.
pub(crate) fn pause() {
    yield_now();
}

struct Guest {
    number: usize,
    disk: Arc<Disk>,
    history: Arc<History>,
    faulty: Arc<AtomicBool>,
    batches: bool,
    whole: bool,
}

impl Guest {
    /// Any request, on cells that others like too.
    fn request(&self) {
        let cells = if self.whole { 0..CELLS } else { cells() };
        let range = cells.start as u64 * CELL..cells.end as u64 * CELL;
        let begun = self.history.now();
        match below(12) {
            0 if self.batches => self.batch(cells, begun),
            0..=4 => {
                let value = self.history.fresh();
                let data = vec![value; (range.end - range.start) as usize];
                self.told(self.disk.write_at(&data, range.start), cells, value, begun);
            }
            5..=6 => self.told(self.disk.write_zeroes(range, once_in(2)), cells, 0, begun),
            7 => {
                self.judge(&self.disk.discard(range));
                self.history.note(self.number, cells, Effect::May(0), begun);
            }
            8 => self.judge(&self.disk.flush()),
            _ => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let read = self.disk.read_at(&mut bytes, range.start);
                self.judge(&read);
                if read.is_ok() {
                    self.history.note(self.number, cells, Effect::Read(cells_of(&bytes)), begun);
                }
            }
        }
    }

    /// Two writes at once.
    fn batch(&self, cells: Range<usize>, begun: u64) {
        let writes = [cells, self::cells()].map(|cells| {
            let value = self.history.fresh();
            (vec![value; cells.len() * CELL as usize], cells, value)
        });
        let requests = writes.iter().map(|(data, cells, _)| Request::Write { data, offset: cells.start as u64 * CELL });
        let results = self.disk.submit(&mut requests.collect::<Vec<_>>());
        for (result, (_, cells, value)) in results.into_iter().zip(writes) {
            self.told(result, cells, value, begun);
        }
    }

    /// A write that failed may have written some of its cells.
    fn told(&self, result: Result<()>, cells: Range<usize>, value: u8, begun: u64) {
        self.judge(&result);
        let effect = if result.is_ok() { Effect::Set(value) } else { Effect::May(value) };
        self.history.note(self.number, cells, effect, begun);
    }

    fn judge(&self, result: &Result<()>) {
        if let (Err(error), false) = (result, self.faulty.load(Ordering::Relaxed)) {
            panic!("guest {}: {error}", self.number);
        }
    }
}

/// A whole granule, a whole block, parts of either, something across a border, or most of the disk.
fn cells() -> Range<usize> {
    const GRANULE_CELLS: u64 = GRANULE / CELL;
    const BLOCK_CELLS: u64 = BLOCK / CELL;
    let (start, length) = match below(8) {
        0..=1 => (below(3) * GRANULE_CELLS, GRANULE_CELLS),
        2 => (below(5) * BLOCK_CELLS, BLOCK_CELLS),
        3..=5 => (below(CELLS as u64), 1 + below(2)),
        6 => (GRANULE_CELLS - 1 - below(3), 2 + below(4)),
        _ => (below(4), CELLS as u64),
    };
    start as usize..((start + length) as usize).min(CELLS)
}
