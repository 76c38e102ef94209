//! An image beside the naive model: a vector of bytes.

use super::*;
use crate::device::{Extent, ExtentKind, Place, Request};
use crate::format::{BITS_PER_PAGE, BITS_PER_SECTOR, Identity, Parent, ParentFormat, State};
use crate::limits::{MAX_SIZE, PAGE_SIZE, SLOT_SIZE};
use crate::storage::{MemoryStorage, OsHost, ReadOnly};
use crate::sync::{AtomicBool, AtomicU64, Mutex, OnceLock, Ordering, lock};
use crate::violation::Violation;
use std::time::Duration;

/// Small deterministic random numbers (xorshift64*).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8 | 1).collect()
    }
}

struct Subject {
    file: Arc<MemoryStorage>,
    below: Option<Arc<dyn BlockDevice>>,
    image: Image,
    model: Vec<u8>,
}

fn host() -> Arc<OsHost> {
    Arc::new(OsHost::default())
}

/// A new image of `size` bytes in `file`, with an allocation bitmap if that is wanted, and open.
pub(super) fn create<S: Storage + 'static>(file: S, size: u64, allocation: bool) -> (Arc<S>, Image) {
    let file = Arc::new(file);
    let options = CreateOptions { virtual_size: size, allocation, ..CreateOptions::default() };
    Image::create(&*file, &*host(), &options).unwrap();
    let image = open(&file, &None);
    (file, image)
}

pub(super) fn open<S: Storage + 'static>(file: &Arc<S>, below: &Option<Arc<dyn BlockDevice>>) -> Image {
    let options = OpenOptions { write: true, cache_bytes: 0, ..OpenOptions::default() };
    let image = Image::open(file.clone(), host(), &options).unwrap();
    image.set_below(below.clone());
    image
}

/// A complete image with this content, and holes where it has pages of zeros.
pub(super) fn complete(content: &[u8]) -> Image {
    let (_, image) = create(MemoryStorage::new("parent"), content.len() as u64, false);
    for (stretch, zero) in crate::zeros::stretches(content, 4096) {
        if !zero {
            image.write_at(&content[stretch.clone()], stretch.start as u64).unwrap();
        }
    }
    image.close().unwrap();
    image
}

/// An empty overlay of `size` bytes in blocks of 2^`shift`, and what is below it.
pub(super) fn overlay(parent: &Arc<Image>, size: u64, shift: u8) -> (Arc<MemoryStorage>, Option<Arc<dyn BlockDevice>>) {
    let file = Arc::new(MemoryStorage::new("image"));
    let link = Parent {
        identity: Some(Identity { uuid: parent.uuid(), epoch: parent.epoch() }),
        format: ParentFormat::Lvd,
        visible_length: parent.size().min(size),
        hint: "parent".into(),
    };
    let options =
        CreateOptions { virtual_size: size, granularity_shift: shift, parent: Some(link), ..Default::default() };
    Image::create(&*file, &*host(), &options).unwrap();
    (file, Some(parent.clone()))
}

impl Subject {
    fn new(random: &mut Random, size: u64, shift: u8, parent_size: Option<u64>) -> Subject {
        let mut content = random.bytes(parent_size.unwrap_or(0) as usize);
        for _ in 0..random.below(6) {
            let start = random.below(content.len() as u64) as usize;
            let end = start + random.below(100_000) as usize;
            let end = end.min(content.len());
            content[start..end].fill(0);
        }
        let (file, below) = match parent_size {
            Some(_) => overlay(&Arc::new(complete(&content)), size, shift),
            None => {
                let file = Arc::new(MemoryStorage::new("image"));
                let options = CreateOptions { virtual_size: size, granularity_shift: shift, ..Default::default() };
                Image::create(&*file, &*host(), &options).unwrap();
                (file, None)
            }
        };
        let mut model = content;
        model.resize(size as usize, 0);
        Subject { image: open(&file, &below), file, below, model }
    }

    fn range(&self, random: &mut Random) -> Range<u64> {
        let start = random.below(self.model.len() as u64 + 1);
        let longest = if random.below(4) == 0 { 200_000 } else { 6000 };
        start..(start + random.below(longest)).min(self.model.len() as u64)
    }

    /// Requests that touch no byte of each other, and one that lies outside of the disk: all are answered, each by itself.
    fn batch(&mut self, random: &mut Random) {
        let mut ranges: Vec<Range<u64>> = (0..random.below(8)).map(|_| self.range(random)).collect();
        if random.below(2) == 0 {
            // Whole blocks, as guests write.
            ranges.iter_mut().for_each(|range| *range = range.start / 4096 * 4096..range.end / 4096 * 4096);
        }
        ranges.sort_by_key(|range| range.start);
        ranges.retain(|range| range.start < range.end);
        ranges.dedup_by(|next, range| next.start < range.end);
        let outside = self.model.len() as u64..self.model.len() as u64 + 1;
        ranges.push(outside.clone());
        let mut bytes: Vec<Vec<u8>> =
            ranges.iter().map(|range| random.bytes((range.end - range.start) as usize)).collect();
        let kinds: Vec<u64> = ranges.iter().map(|_| random.below(4)).collect();
        let requests = ranges.iter().zip(&mut bytes).zip(&kinds).map(|((range, bytes), kind)| match kind {
            0 => Request::WriteZeroes { range: range.clone(), unmap: true },
            1 => Request::Read { buffer: bytes, offset: range.start },
            _ => Request::Write { data: bytes, offset: range.start },
        });
        let results = self.image.submit(&mut requests.collect::<Vec<_>>());
        for (((range, bytes), kind), result) in ranges.iter().zip(&bytes).zip(kinds).zip(results) {
            assert_eq!(result.is_ok(), *range != outside, "{range:?}");
            if result.is_ok() {
                let model = &mut self.model[range.start as usize..range.end as usize];
                match kind {
                    0 => model.fill(0),
                    1 => assert!(model == &bytes[..]),
                    _ => model.copy_from_slice(bytes),
                }
            }
        }
    }

    fn step(&mut self, random: &mut Random) {
        let range = self.range(random);
        let (at, length) = (range.start, (range.end - range.start) as usize);
        let slice = range.start as usize..range.end as usize;
        match random.below(14) {
            12..=13 => self.batch(random),
            0..=3 => {
                let data = random.bytes(length);
                self.image.write_at(&data, at).unwrap();
                self.model[slice].copy_from_slice(&data);
            }
            4..=5 => {
                self.image.write_zeroes(range, random.below(2) == 0).unwrap();
                self.model[slice].fill(0);
            }
            6 => {
                self.image.discard(range).unwrap();
                let mut now = vec![0; length];
                self.image.read_at(&mut now, at).unwrap();
                assert!(now.iter().zip(&self.model[slice.clone()]).all(|(new, old)| new == old || *new == 0));
                self.model[slice].copy_from_slice(&now);
            }
            7 => self.image.flush().unwrap(),
            8 => drop(self.image.fill(range).unwrap()),
            9 => {
                let size = random.below(self.model.len() as u64 * 2 + 10_000).min(600_000);
                self.image.resize(size).unwrap();
                self.model.resize(size as usize, 0);
            }
            10 => {
                if random.below(2) == 0 {
                    self.image.close().unwrap();
                } else {
                    self.image.flush().unwrap();
                }
                self.image = open(&self.file, &self.below);
            }
            _ => self.image.seal().unwrap(),
        }
    }

    fn verify(&self) {
        let size = self.model.len() as u64;
        assert_eq!(self.image.size(), size);
        let mut whole = vec![7; self.model.len()];
        self.image.read_at(&mut whole, 0).unwrap();
        assert!(
            whole == self.model,
            "first difference at {:?}",
            whole.iter().zip(&self.model).position(|(a, b)| a != b)
        );
        let mut at = 0;
        while at < size {
            let extent = self.image.extent(at, size).unwrap();
            assert_eq!(extent.range.start, at);
            assert!(extent.range.end > at && extent.range.end <= size);
            let bytes = &self.model[at as usize..extent.range.end as usize];
            assert!(extent.kind == crate::ExtentKind::Data || bytes.iter().all(|&byte| byte == 0));
            at = extent.range.end;
        }
        assert!(self.image.check().unwrap().findings.is_empty());
    }
}

#[test]
fn random_lives_agree_with_the_model() {
    for seed in 1..=60 {
        let mut random = Random(seed);
        let size = random.below(400_000);
        let shift = [12, 12, 13, 16][random.below(4) as usize];
        let parent = (seed % 3 != 0).then(|| random.below(500_000));
        let mut subject = Subject::new(&mut random, size, shift, parent);
        for _ in 0..60 {
            subject.step(&mut random);
            subject.verify();
        }
    }
}

#[test]
fn a_filled_overlay_becomes_complete() {
    let mut random = Random(77);
    let mut subject = Subject::new(&mut random, 300_001, 12, Some(123_457));
    for _ in 0..10 {
        subject.step(&mut random);
    }
    assert!(subject.image.relink(None, None).is_err());
    let epoch = {
        subject.image.seal().unwrap();
        subject.image.epoch()
    };
    subject.image.fill(0..subject.image.size()).unwrap();
    subject.image.relink(None, None).unwrap();
    subject.image.close().unwrap();
    assert_eq!(subject.image.epoch(), epoch, "filling is no change of content");
    assert!(subject.image.complete());
    subject.below = None;
    subject.image = open(&subject.file, &None);
    subject.verify();
}

#[test]
fn threads_that_share_blocks_lose_nothing() {
    let mut random = Random(5);
    let subject = Subject::new(&mut random, 1 << 20, 16, Some(1 << 20));
    let (image, threads) = (&subject.image, 8u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut random = Random(thread + 1);
                // Every thread owns each eighth run of 512 bytes: all meet in every block.
                for _ in 0..300 {
                    let at = (random.below((1 << 20) / 512 / threads) * threads + thread) * 512;
                    image.write_at(&[thread as u8 + 1; 512], at).unwrap();
                    let mut back = [0; 512];
                    image.read_at(&mut back, at).unwrap();
                    assert_eq!(back, [thread as u8 + 1; 512]);
                    match random.below(10) {
                        0 => image.flush().unwrap(),
                        1 => drop(image.fill(at / 65536 * 65536..(at / 65536 + 1) * 65536).unwrap()),
                        _ => {}
                    }
                }
            });
        }
    });
    let mut whole = vec![0; 1 << 20];
    image.read_at(&mut whole, 0).unwrap();
    for (index, sector) in whole.chunks(512).enumerate() {
        let mine = sector.iter().all(|&byte| byte == index as u8 % threads as u8 + 1);
        let before = sector == &subject.model[index * 512..][..512];
        assert!(mine || before, "sector {index}");
    }
}

/// A device that fails as it is told to, and of which it is known what was asked.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) inner: MemoryStorage,
    pub(super) unreadable: Mutex<Range<u64>>,
    /// Whether barriers fail.
    pub(super) unsafe_cache: AtomicBool,
    /// Whether it has a size that nobody chooses, and bytes that nobody knows.
    pub(super) fixed: bool,
    /// Up to where it shares with other files; and what it has shared.
    pub(super) shares: u64,
    pub(super) shared: Mutex<Vec<Range<u64>>>,
    pub(super) reads: AtomicU64,
    pub(super) longest_read: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) barriers: AtomicU64,
    /// What it was asked to fetch.
    pub(super) wanted: Mutex<Vec<Range<u64>>>,
}

impl Device {
    pub(super) fn new() -> Device {
        Device {
            inner: MemoryStorage::new("image"),
            unreadable: Mutex::default(),
            unsafe_cache: AtomicBool::new(false),
            fixed: false,
            shares: 0,
            shared: Mutex::default(),
            reads: AtomicU64::new(0),
            longest_read: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            barriers: AtomicU64::new(0),
            wanted: Mutex::default(),
        }
    }
}

impl Storage for Device {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn size(&self) -> Result<u64> {
        self.inner.size()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.longest_read.fetch_max(buffer.len() as u64, Ordering::Relaxed);
        let bad = lock(&self.unreadable).clone();
        if offset < bad.end && bad.start < offset + buffer.len() as u64 {
            return Err(Error::io(self.name(), "cannot read", std::io::Error::from_raw_os_error(5)));
        }
        self.inner.read_at(buffer, offset)
    }
    fn will_need(&self, range: Range<u64>) {
        lock(&self.wanted).push(range);
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.inner.write_at(data, offset)
    }
    fn share(&self, offset: u64, from: &dyn Storage, range: Range<u64>) -> Result<bool> {
        if range.end > self.shares {
            return Ok(false);
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        from.read_at(&mut bytes, range.start)?;
        self.inner.write_at(&bytes, offset)?;
        lock(&self.shared).push(range);
        Ok(true)
    }
    fn zeros_when_new(&self) -> bool {
        !self.fixed
    }
    fn sync(&self) -> Result<()> {
        self.barriers.fetch_add(1, Ordering::Relaxed);
        if self.unsafe_cache.load(Ordering::Relaxed) {
            return Err(Error::io(self.name(), "cannot flush", std::io::Error::from_raw_os_error(5)));
        }
        self.inner.sync()
    }
    fn sync_directory(&self) -> Result<()> {
        self.inner.sync_directory()
    }
    fn set_size(&self, size: u64) -> Result<()> {
        self.inner.set_size(size)
    }
    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.inner.punch(range)
    }
    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.inner.write_zeroes(range)
    }
    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.inner.next_data(range)
    }
    fn lock(&self, mode: crate::storage::LockMode) -> Result<()> {
        self.inner.lock(mode)
    }
}

/// HDR-22, PAG-08: what the device fails to read is not taken for torn, nor for zeros, nor for the parent's.
#[test]
fn what_the_host_cannot_read_is_its_error_and_no_conclusion() {
    let size = 2 * BITS_PER_PAGE * 4096;
    let file = Arc::new(Device::new());
    let options = CreateOptions { virtual_size: size, allocation: true, ..Default::default() };
    Image::create(&*file, &*host(), &options).unwrap();
    let open = || Image::open(file.clone(), host(), &OpenOptions { write: true, ..OpenOptions::default() });
    let image = open().unwrap();
    image.write_at(&[7; 4096], 0).unwrap();
    image.write_at(&[8; 4096], size - 4096).unwrap();
    image.close().unwrap();
    let fail = |range: Range<u64>| *lock(&file.unreadable) = range;
    for slot in [0, crate::limits::SLOT_SIZE] {
        fail(slot + 512..slot + 1024);
        assert!(matches!(open(), Err(Error::Io { .. })), "slot at {slot}");
    }
    // Behind the header nothing is read.
    fail(crate::limits::SLOT_SIZE - 4096..crate::limits::SLOT_SIZE);
    let image = open().unwrap();
    fail(0..0);
    let section = image.header().allocation().unwrap().offset;
    fail(section..section + 4096);
    let mut bytes = [0; 4096];
    assert!(matches!(image.read_at(&mut bytes, 0), Err(Error::Io { .. })));
    assert!(matches!(image.write_at(&bytes, 4096), Err(Error::Io { .. })));
    image.read_at(&mut bytes, size - 4096).unwrap();
    assert_eq!(bytes, [8; 4096]);
    fail(0..0);
    image.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [7; 4096]);
}

/// A device has to be as long as the image, and may be longer; a disk has to be one that a header and a bitmap can tell of.
#[test]
fn an_image_fits_its_device_and_the_limits_of_the_format() {
    let device = Device { fixed: true, ..Device::new() };
    let options = CreateOptions { virtual_size: 1 << 20, ..CreateOptions::default() };
    let create = |options: &CreateOptions| Image::create(&device, &*host(), options);
    device.set_size(2 << 20).unwrap();
    create(&options).unwrap();
    let header = Image::open(Arc::new(device.inner.copy("copy")), host(), &OpenOptions::default()).unwrap().header();
    let end = header.data_offset + (1 << 20);
    device.set_size(end).unwrap();
    create(&options).unwrap();
    device.set_size(end - 1).unwrap();
    assert!(matches!(create(&options), Err(Error::NoSpace { .. })));

    let file = MemoryStorage::new("image");
    let with = |virtual_size, granularity_shift| {
        let options = CreateOptions { virtual_size, granularity_shift, allocation: true, ..CreateOptions::default() };
        Image::create(&file, &*host(), &options).map_err(|error| error.to_string())
    };
    let coarsest = *crate::limits::GRANULARITY_SHIFTS.end();
    with(MAX_SIZE, coarsest).unwrap();
    for (size, shift) in [(MAX_SIZE + 1, coarsest), (MAX_SIZE, coarsest + 1), (1 << 20, 0)] {
        let said = with(size, shift).unwrap_err();
        assert_eq!(said, format!("no image has {size} bytes in granules of 2^{shift}"));
    }
    let volume = MemoryStorage::new("volume");
    volume.set_size(12345).unwrap();
    Image::create_beside(&file, &volume, &*host()).unwrap();
    let header = crate::format::choose(&file.contents()[..1 << 16], &[]).unwrap().header;
    assert_eq!((header.virtual_size, header.host.unwrap().length), (12345, 12345));
}

/// What a file has a hole for is zeros, what it holds is data; who discards gives back whole pages, and the rest of the disk
/// with them.
#[test]
fn extents_end_where_the_file_has_holes_and_discards_make_them() {
    let size = (1 << 20) + 100;
    for allocation in [false, true] {
        let (_, image) = create(MemoryStorage::new("image"), size, allocation);
        let extents = || {
            let (mut at, mut found): (u64, Vec<(bool, u64)>) = (0, Vec::new());
            while at < size {
                let extent = image.extent(at, size).unwrap();
                assert!(extent.range.start == at && extent.range.end > at && extent.range.end <= size, "{extent:?}");
                at = extent.range.end;
                let data = extent.kind == ExtentKind::Data;
                found.pop_if(|before| before.0 == data);
                found.push((data, at));
            }
            found
        };
        let content = || {
            let mut bytes = vec![0; size as usize];
            image.read_at(&mut bytes, 0).unwrap();
            bytes
        };
        let (start, end) = (512 << 10, 768 << 10);
        image.write_at(&vec![7; end - start], start as u64).unwrap();
        image.write_at(&[8; 200], size - 200).unwrap();
        let tail = size / 4096 * 4096 - 4096;
        let (start, end) = (start as u64, end as u64);
        assert_eq!(extents(), [(false, start), (true, end), (false, tail), (true, size)]);
        image.discard(start + 1..end - 1).unwrap();
        assert_eq!(
            extents(),
            [(false, start), (true, start + 4096), (false, end - 4096), (true, end), (false, tail), (true, size)]
        );
        assert!(
            content()[start as usize..][..4096] == [7; 4096] && content()[end as usize - 4096..][..4096] == [7; 4096]
        );
        // Not to the end of the disk: part of a page.
        image.discard(tail + 4096..size - 1).unwrap();
        assert_eq!(content()[tail as usize + 4096..], [8; 100]);
        image.discard(tail + 4096..size).unwrap();
        assert_eq!(content()[tail as usize + 4096..], [0; 100]);
        assert_eq!(content()[tail as usize + 3996..][..100], [8; 100]);
        image.discard(start..start + 8).unwrap();
        assert_eq!(extents()[..2], [(false, start), (true, start + 4096)]);
    }
}

/// However far behind: zeroes go on in strides.
#[test]
fn zeroes_far_behind_the_first_stride_end() {
    let (_, image) = create(MemoryStorage::new("image"), 1 << 40, true);
    image.write_at(&[7; 512], 1 << 39).unwrap();
    image.write_zeroes((1 << 39) - 5000..(1 << 39) + (1 << 30), true).unwrap();
    let mut bytes = [1; 512];
    image.read_at(&mut bytes, 1 << 39).unwrap();
    assert_eq!(bytes, [0; 512]);
}

/// What is filled is what was asked for, block by block; zeros become holes, and take no copy.
#[test]
fn a_fill_copies_what_it_has_to() {
    let granule = 64 << 10;
    let size = 12 * granule + 300;
    // Data at the start of a block, inside of one, and a hole that begins and ends inside of blocks.
    let mut content = vec![0; size as usize];
    content[..3 * granule as usize + 500].fill(7);
    content[10 * granule as usize + 8192..][..50].fill(8);
    let parent = Arc::new(complete(&content));
    let filled = |range: Range<u64>| {
        let (file, below) = overlay(&parent, size, 16);
        let image = open(&file, &below);
        let copied = image.fill(range).unwrap();
        let present = |block: &u64| image.local_run(block * granule, (block * granule + 1).min(size)).unwrap().0;
        let mut bytes = vec![1; size as usize];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == content, "{copied} bytes copied");
        let holes = |block: &u64| image.extent(block * granule, block * granule + 1).unwrap().kind == ExtentKind::Zero;
        let (present, zeros): (Vec<u64>, Vec<u64>) =
            ((0..13).filter(present).collect(), (0..13).filter(holes).collect());
        let copied_whole = u64::from(present.contains(&10));
        assert!(
            zeros.into_iter().eq((4..13).filter(|block| *block != 10 * copied_whole)),
            "zeros below are a hole here"
        );
        (present, copied.div_ceil(granule))
    };
    assert_eq!(filled(5 * granule + 10..5 * granule + 11), (vec![5], 0));
    assert_eq!(filled(granule + 5..2 * granule), (vec![1], 1));
    assert_eq!(filled(granule + 5..2 * granule + 1), (vec![1, 2], 2));
    assert_eq!(filled(9 * granule..10 * granule + 1), (vec![9, 10], 1));
    assert_eq!(filled(size - 1..size), (vec![12], 0));
    assert_eq!(filled(0..size), ((0..13).collect(), 5));
}

/// Whole blocks of data are shared with the file below where the host can do that; what it cannot share is copied.
#[test]
fn a_fill_shares_what_it_can() {
    let granule = 64 << 10;
    let size = 8 * granule + 300;
    let content: Vec<u8> =
        (0..size).map(|at| if (2..3).contains(&(at / granule)) { 0 } else { (at / 512) as u8 | 1 }).collect();
    let parent = Arc::new(complete(&content));
    let (below, start) = parent.data_location();
    let of = |range: Range<u64>| start + range.start..start + range.end;
    let fill = |shares: u64| {
        let (file, below) = overlay(&parent, size, 16);
        let inner = file.copy("image");
        let file = Arc::new(Device { inner, shares: start + shares, ..Device::new() });
        let image = open(&file, &below);
        image.write_at(&content[5 * granule as usize..][..512], 5 * granule).unwrap();
        let copied = image.fill(0..size).unwrap();
        let mut bytes = vec![1; size as usize];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == content && image.local_run(0, size).unwrap() == (true, size));
        (copied, lock(&file.shared).clone())
    };
    assert!(below.size().unwrap() >= start + size);
    let all = [of(0..2 * granule), of(3 * granule..5 * granule), of(6 * granule..size)];
    assert_eq!(fill(u64::MAX / 2), (0, all.to_vec()));
    assert_eq!(fill(size - 1), (2 * granule + 300, all[..2].to_vec()));
    assert_eq!(fill(0).1, []);
}

/// A parent that a guest of `image` is quick enough to write beside: the first block when somebody has asked what is here,
/// the second one when somebody has read it.
#[derive(Debug)]
struct Raced {
    inner: Arc<Image>,
    image: OnceLock<Arc<Image>>,
    second: Mutex<Option<std::thread::JoinHandle<Result<()>>>>,
}

impl Raced {
    const BLOCK: u64 = 64 << 10;
}

impl BlockDevice for Raced {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buffer, offset)?;
        if (offset..offset + buffer.len() as u64).contains(&Raced::BLOCK) {
            let image = self.image.get().unwrap().clone();
            let (done, wrote) = std::sync::mpsc::channel();
            let guest = std::thread::spawn(move || {
                let result = image.write_at(&[8; Raced::BLOCK as usize], Raced::BLOCK);
                let _ = done.send(());
                result
            });
            // If it does not wait for who reads here, it is done now.
            let _ = wrote.recv_timeout(Duration::from_millis(200));
            *lock(&self.second) = Some(guest);
        }
        Ok(())
    }
    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        unreachable!()
    }
    fn write_zeroes(&self, _: Range<u64>, _: bool) -> Result<()> {
        unreachable!()
    }
    fn discard(&self, _: Range<u64>) -> Result<()> {
        unreachable!()
    }
    fn flush(&self) -> Result<()> {
        unreachable!()
    }
    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        let found = self.inner.extent(offset, end)?;
        self.image.get().unwrap().write_at(&[9; Raced::BLOCK as usize], 0)?;
        Ok(found)
    }
}

/// What a guest writes while a fill is on its way is not replaced by what the fill saw below, nor are the blocks behind it
/// mixed up.
#[test]
fn a_fill_gives_way_to_a_guest() {
    let size = 4 * Raced::BLOCK;
    let content: Vec<u8> = (0..size).map(|at| (at / 512) as u8 % 7 + 1).collect();
    for shares in [0, u64::MAX / 2] {
        let parent = Arc::new(complete(&content));
        let (file, _) = overlay(&parent, size, 16);
        let file = Arc::new(Device { inner: file.copy("image"), shares, ..Device::new() });
        let image = Arc::new(open(&file, &None));
        let raced = Arc::new(Raced { inner: parent, image: OnceLock::new(), second: Mutex::default() });
        raced.image.set(image.clone()).unwrap();
        image.set_below(Some(raced.clone()));
        image.fill(0..size).unwrap();
        let second = lock(&raced.second).take();
        assert_eq!(second.is_some(), shares == 0);
        second.into_iter().for_each(|guest| guest.join().unwrap().unwrap());
        image.set_below(None);
        let mut model = content.clone();
        model[..Raced::BLOCK as usize].fill(9);
        if shares == 0 {
            model[Raced::BLOCK as usize..2 * Raced::BLOCK as usize].fill(8);
        }
        let mut bytes = vec![0; size as usize];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == model);
    }
}

/// A share is a write of whole blocks, and none where the host shares nothing.
#[test]
fn what_an_image_shares_is_its_own() {
    let granule = 64 << 10;
    let content: Vec<u8> = (0..4 * granule + 300).map(|at| (at / 512) as u8 | 1).collect();
    let size = content.len() as u64;
    let parent = Arc::new(complete(&content));
    let (source, start) = parent.data_location();
    let from = |at: u64| Place { file: source.clone(), offset: start + at };
    let (file, below) = overlay(&parent, size, 16);
    let opened = |shares: u64| {
        let file = Arc::new(Device { inner: file.copy("image"), shares, ..Device::new() });
        open(&file, &below)
    };
    let image = opened(u64::MAX / 2);
    image.add_bitmap("daily", &NewBitmap { granularity_shift: 16, ..NewBitmap::default() }).unwrap();
    // Blocks that move by one; then the last one, of 300 bytes.
    assert!(image.share(granule..3 * granule, &from(0)).unwrap());
    assert!(image.share(4 * granule..size, &from(9)).unwrap());
    assert!(image.share(5..5, &from(0)).unwrap());
    let mut model = content.clone();
    model[granule as usize..3 * granule as usize].copy_from_slice(&content[..2 * granule as usize]);
    model[4 * granule as usize..].copy_from_slice(&content[9..309]);
    let mut bytes = vec![0; size as usize];
    image.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == model);
    assert_eq!(
        [0, granule, 3 * granule, 4 * granule].map(|at| image.local_run(at, size).unwrap()),
        [(false, granule), (true, 3 * granule), (false, 4 * granule), (true, size)]
    );
    assert_eq!(image.dirty_stretches("daily").unwrap(), [granule..3 * granule, 4 * granule..size]);
    for part in [0..granule - 1, 1..granule, 3 * granule..3 * granule + 1] {
        assert!(!image.share(part, &from(0)).unwrap(), "a part of a block that is absent");
    }
    assert!(!image.local_run(0, 1).unwrap().0);

    let image = opened(0);
    assert!(!image.share(0..granule, &from(0)).unwrap());
    assert_eq!(image.local_run(0, size).unwrap(), (false, size));
}

/// ALC-05: past what is seen of the parent there are zeros, and an overlay needs no block to say so.
#[test]
fn zeroes_past_the_parent_take_no_block() {
    let parent = Arc::new(complete(&[7; 3 * 4096]));
    let (file, below) = overlay(&parent, 8 * 4096, 12);
    let image = open(&file, &below);
    image.write_zeroes(3 * 4096..8 * 4096, true).unwrap();
    assert_eq!(image.local_run(0, 8 * 4096).unwrap(), (false, 8 * 4096));
    image.write_zeroes(2 * 4096 + 100..8 * 4096 - 1, false).unwrap();
    assert_eq!(image.local_run(0, 8 * 4096).unwrap(), (false, 2 * 4096));
    assert_eq!([0, 2 * 4096].map(|at| image.extent(at, at + 1).unwrap().depth), [1, 0]);
    // One byte is left of the first of the blocks that are absent; the next one is present.
    image.write_at(&[9; 4095], 4096).unwrap();
    let mut bytes = [0; 3 * 4096];
    image.read_at(&mut bytes, 0).unwrap();
    assert!(bytes[..4096] == [7; 4096] && bytes[4096..8191] == [9; 4095] && bytes[8191..8292] == [7; 101]);
    assert!(bytes[8292..] == [0; 3996]);
}

/// A guest that never flushes does not fill the memory with bits.
#[test]
fn bits_that_wait_are_bounded() {
    let pages = 200;
    let (file, below) = overlay(&Arc::new(complete(&[7; 4096])), pages * BITS_PER_PAGE * 4096, 12);
    let options = OpenOptions { write: true, cache_bytes: 64 * PAGE_SIZE, ..OpenOptions::default() };
    let image = Image::open(file, host(), &options).unwrap();
    image.set_below(below);
    for page in 0..pages {
        image.write_at(&[1; 4096], page * BITS_PER_PAGE * 4096).unwrap();
        assert!(!read(&image.layout).allocation.as_ref().unwrap().crowded(), "after {page} pages");
    }
}

/// What begins a session after a clean one: both slots as they were, and nothing of the pages (ORD-21); then the header that
/// says so, in both (ORD-32).
#[test]
fn a_session_begins_with_the_two_slots() {
    let (file, _) = create(Device::new(), 1 << 20, true);
    let slots = || {
        let bytes = file.inner.contents();
        let [one, other] = [0, SLOT_SIZE].map(|at| bytes[at as usize..][..SLOT_SIZE as usize].to_vec());
        assert!(one == other);
        one
    };
    let count = || [&file.writes, &file.barriers].map(|count| count.load(Ordering::Relaxed));
    for round in 0..4 {
        let before = slots();
        let image = open(&file, &None);
        let [writes, barriers] = count();
        image.write_at(&[7; 4096], round * 4096).unwrap();
        assert_eq!(count(), [writes + 2 + 2 + 1, barriers + 2], "round {round}");
        image.flush().unwrap();
        assert_eq!(count(), [writes + 6, barriers + 4], "data, then bits");
        assert!(slots() != before);
        image.close().unwrap();
        assert_eq!(count(), [writes + 8, barriers + 6]);
        assert!(slots() != before);
    }
}

/// A mark, or a list of points, is no session: whoever finds the image afterwards has nothing to mend.
#[test]
fn what_is_noted_of_a_closed_image_leaves_it_closed() {
    let (file, _) = create(MemoryStorage::new("image"), 1 << 20, false);
    for note in 0..3 {
        let image = open(&file, &None);
        let epoch = image.epoch();
        match note {
            0 => image.clear_copy_mark(),
            1 => image.set_group_mark(None),
            _ => image.set_points(Vec::new()),
        }
        .unwrap();
        assert_eq!((image.header().state, image.epoch()), (State::Closed, epoch));
    }
}

/// ORD-06: after a barrier that failed nothing is written, and whoever asks is told why.
#[test]
fn an_image_whose_barrier_failed_says_so() {
    let (file, image) = create(Device::new(), 1 << 20, true);
    image.write_at(&[7; 4096], 0).unwrap();
    assert_eq!(image.poisoned(), None);
    file.unsafe_cache.store(true, Ordering::Relaxed);
    image.flush().unwrap_err();
    file.unsafe_cache.store(false, Ordering::Relaxed);
    let reason = image.poisoned().expect("a reason");
    assert!(reason.contains("image: cannot flush"), "{reason}");
    for refused in [image.write_at(&[7; 4096], 0), image.flush(), image.close()] {
        assert!(refused.unwrap_err().to_string().contains(&reason));
    }
}

/// A check names each sector that is broken, the first 64 of them, and what it means for the disk.
#[test]
fn a_check_tells_what_is_broken_and_goes_on() {
    let file = Arc::new(Device::new());
    let (unit, sectors) = (1 << 16, 80);
    let size = (sectors - 1) * BITS_PER_SECTOR * unit + 3 * unit - 100;
    let options = CreateOptions { virtual_size: size, allocation: true, granularity_shift: 16, ..Default::default() };
    Image::create(&*file, &*host(), &options).unwrap();
    let image = Image::open(file.clone(), host(), &OpenOptions { write: true, ..OpenOptions::default() }).unwrap();
    assert!(!image.check().unwrap().unclean);
    image.write_at(&vec![7; 4 << 16], unit).unwrap();
    image.write_at(&[7; 300], size - 300).unwrap();
    image.flush().unwrap();
    let sound = CheckReport {
        present_blocks: 5,
        total_blocks: (sectors - 1) * BITS_PER_SECTOR + 3,
        unclean: true,
        ..CheckReport::default()
    };
    assert_eq!(image.check().unwrap(), sound);
    let section = image.header().allocation().unwrap().offset;
    image.close().unwrap();

    // All but the first sector, the last of which tells of three blocks.
    file.write_at(&vec![1; ((sectors - 1) * 512) as usize], section + 512).unwrap();
    let open = || Image::open(file.clone(), host(), &OpenOptions::default()).unwrap();
    let report = open().check().unwrap();
    let of_sector = |sector: u64| {
        let bytes = |sector: u64| (sector * BITS_PER_SECTOR * unit).min(size);
        let text = format!("bytes {} to {} of the disk cannot be read", bytes(sector), bytes(sector + 1));
        Finding { at: section + sector * 512, violation: Violation::SealedSector, text }
    };
    assert_eq!((report.corruptions, report.present_blocks, report.unclean), (sectors - 1, 4, false));
    assert!(report.findings.into_iter().eq((1..65).map(of_sector)));
    file.write_at(&vec![0; ((sectors - 2) * 512) as usize], section + 512).unwrap();
    assert_eq!(open().check().unwrap().findings, [of_sector(sectors - 1)]);

    *lock(&file.unreadable) = section..section + 512;
    assert!(matches!(open().check(), Err(Error::Io { .. })), "what cannot be read is no finding");
}

/// A call that cannot be, and words of what is said of it.
type Wrong<'a> = (&'a dyn Fn(&Image) -> Result<()>, &'a str);

#[test]
fn what_cannot_be_done_is_told_and_changes_no_byte() {
    let (file, image) = create(MemoryStorage::new("disk.lvd"), 100_000, false);
    for (name, sync) in [("daily", false), ("held", false), ("mirror", true)] {
        image.add_bitmap(name, &NewBitmap { sync, ..NewBitmap::default() }).unwrap();
    }
    image.freeze_bitmap("held", None).unwrap();
    let too_fine = NewBitmap { granularity_shift: 3, ..NewBitmap::default() };
    let add = |name: &str, new: &NewBitmap| image.add_bitmap(name, new).map(drop);
    let nothing = Some(Uuid::NIL);
    let cases: &[Wrong<'_>] = &[
        (&|_| add("fine", &too_fine), "no bitmap has granules of 2^3 bytes"),
        (&|_| add("daily", &NewBitmap::default()), "there is a bitmap \"daily\" already"),
        (&|_| add("held", &NewBitmap::default()), "there is a bitmap \"held\" already"),
        (&|_| add("", &NewBitmap::default()), "\"\""),
        (&|image| image.clear_bitmap("mirror", None).map(drop), "only a mirror knows better"),
        (&|image| image.clear_bitmap("held", None).map(drop), "is frozen for a backup"),
        (&|image| image.clear_bitmap("none", nothing).map(drop), "has no bitmap \"none\""),
        (&|image| image.disable_bitmap("held"), "is frozen for a backup"),
        (&|image| image.enable_bitmap("none"), "has no bitmap \"none\""),
        (&|image| image.remove_bitmap("none"), "has no bitmap \"none\""),
        (&|image| image.merge_bitmap("none", &[]), "has no bitmap \"none\""),
        (&|image| image.restore_bitmap("held", &[]), "is frozen for a backup"),
        (&|image| image.take_back_bitmap("none"), "has no bitmap \"none\""),
        (&|image| image.restore_bitmap("none", &[]), "has no bitmap \"none\""),
        (&|image| image.take_back_bitmap("daily"), "is not frozen"),
        (&|image| image.hand_over_bitmap("none"), "has no bitmap \"none\""),
        (&|image| image.bitmap_run("none", 0, 1).map(drop), "has no bitmap \"none\""),
        (&|image| image.bitmap_run("daily", 99_999, 100_001).map(drop), "100001"),
        (&|image| image.local_run(99_999, 100_001).map(drop), "100001"),
        (&|image| image.write_at(&[1, 2], 99_999), "100001"),
        (&|image| image.read_at(&mut [0; 2], 99_999), "100001"),
        (&|image| image.write_zeroes(0..100_001, true), "100001"),
        (&|image| image.discard(0..100_001), "100001"),
        (&|image| image.resize(MAX_SIZE + 1), "no disk is larger than"),
        (&|image| image.empty(&*host()), "a complete image cannot be emptied"),
    ];
    image.flush().unwrap();
    let content = || {
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    let before = content();
    for (wrong, words) in cases {
        let said = wrong(&image).unwrap_err().to_string();
        assert!(said.contains(words) && said.contains("disk.lvd") && !said.contains('\n'), "{said:?}: {words:?}");
        assert!(image.poisoned().is_none() && content() == before, "{said}");
    }
    let names = (0..).map(|number| format!("{number:0>200}"));
    let full = names.map(|name| add(&name, &NewBitmap::default())).find_map(Result::err).unwrap();
    assert!(full.to_string().contains("disk.lvd: has no room for one more bitmap"), "{full}");
    assert!(image.bitmaps().len() > 50, "{:?}", image.bitmaps().len());
    image.close().unwrap();
    open(&file, &None);
}

#[test]
fn who_opened_for_reading_changes_nothing() {
    // Of a session that crashed there would be much to write.
    let (file, crashed) = create(MemoryStorage::new("disk.lvd"), 100_000, false);
    crashed.add_bitmap("hourly", &NewBitmap::default()).unwrap();
    crashed.write_at(&[1], 5000).unwrap();
    let file = Arc::new(file.copy("disk.lvd"));
    let before = file.contents();
    let image = Image::open(file.clone(), host(), &OpenOptions::default()).unwrap();
    let cases: &[&dyn Fn() -> Result<()>] = &[
        &|| image.write_at(&[1], 0),
        &|| image.write_zeroes(0..1, false),
        &|| image.discard(0..1),
        &|| image.fill(0..1).map(drop),
        &|| image.resize(1),
        &|| image.relink(None, None),
        &|| image.empty(&*host()),
        &|| image.add_bitmap("daily", &NewBitmap::default()).map(drop),
        &|| image.set_merge_mark(None),
        &|| image.set_copy_mark(),
        &|| image.clear_copy_mark(),
        &|| image.set_copy_group(Uuid::NIL),
        &|| image.set_group_mark(None),
        &|| image.set_points(Vec::new()),
    ];
    for refused in cases {
        let said = refused().unwrap_err().to_string();
        assert!(said.contains("disk.lvd: opened read-only"), "{said}");
    }
    image.flush().unwrap();
    image.close().unwrap();
    assert!(file.contents() == before);
    let sealed = ReadOnly(MemoryStorage::new("sealed.lvd"));
    let refused = Image::open(Arc::new(sealed), host(), &OpenOptions { write: true, ..OpenOptions::default() });
    assert!(refused.is_err());
}

#[test]
fn a_sidecar_takes_no_name_that_the_image_has_and_no_volume_that_is_too_short() {
    let (file, image) = create(MemoryStorage::new("disk.lvd"), 100_000, false);
    let beside = Arc::new(MemoryStorage::new("disk.lvb"));
    Image::create_beside_image(&*beside, &image).unwrap();
    let write = OpenOptions { write: true, ..OpenOptions::default() };
    let sidecar = Arc::new(Image::open_beside(beside.clone(), &image, host(), &write).unwrap());
    let (_, other) = create(MemoryStorage::new("other.lvd"), 100_000, false);
    let unfit = other.attach(sidecar.clone()).unwrap_err().to_string();
    assert_eq!(unfit, "disk.lvb: not opened as a sidecar of other.lvd");
    let reading = Image::open_beside(beside.clone(), &image, host(), &OpenOptions::default()).unwrap();
    let unfit = image.attach(Arc::new(reading)).unwrap_err().to_string();
    assert_eq!(unfit, "disk.lvb: not opened as a sidecar of disk.lvd", "its bitmaps would miss what is written");
    image.attach(sidecar.clone()).unwrap();
    image.add_bitmap("daily", &NewBitmap::default()).unwrap();
    assert!(sidecar.bitmap("daily").is_ok(), "new bitmaps go beside");
    image.close().unwrap();
    // The image has one of that name meanwhile.
    let image = open(&file, &None);
    image.add_bitmap("daily", &NewBitmap::default()).unwrap();
    let twice = image.attach(sidecar).unwrap_err().to_string();
    assert!(twice.contains("disk.lvb: there is a bitmap \"daily\" already"), "{twice}");

    let (volume, sidecar) = (MemoryStorage::new("volume.raw"), MemoryStorage::new("volume.lvb"));
    volume.set_size(99_999).unwrap();
    let options = CreateOptions { virtual_size: 100_000, ..CreateOptions::default() };
    let short = Image::create_sidecar(&sidecar, &volume, &*host(), &options).unwrap_err().to_string();
    assert!(short.contains("volume.raw: shorter than the disk"), "{short}");
    volume.set_size(100_000).unwrap();
    Image::create_sidecar(&sidecar, &volume, &*host(), &options).unwrap();
    let (sidecar, volume) = (Arc::new(sidecar), Arc::new(ReadOnly(volume)));
    Image::open_sidecar(sidecar.clone(), volume.clone(), host(), &OpenOptions::default()).unwrap();
    let refused = Image::open_sidecar(sidecar, volume, host(), &write).unwrap_err().to_string();
    assert_eq!(refused, "volume.lvb: the file is read-only");
}
