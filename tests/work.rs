//! How much is read for a file that somebody made to be opened: counted in calls and bytes, and held against what the file
//! stores.

use lvd::chain::{Chain, ChainOptions, ParentPolicy};
use lvd::foreign::Qed;
use lvd::format::{Header, Kind, Parent, ParentFormat, Section, SectionKind, Uuid, seal};
use lvd::image::{Image, OpenOptions};
use lvd::limits::{DEFAULT_DEPTH, SECTOR_SIZE, SLOT_SIZE, SLOTS_END};
use lvd::storage::{FileId, Host, LockMode, MemoryStorage, OsHost, Storage};
use lvd::testing::vectors::vector::Role;
use lvd::{BlockDevice, Error, Result, Violation};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A file in memory, and what it was asked for.
#[derive(Debug)]
struct Counted {
    file: MemoryStorage,
    calls: AtomicU64,
    bytes: AtomicU64,
}

impl Counted {
    fn new(file: MemoryStorage) -> Arc<Counted> {
        Arc::new(Counted { file, calls: AtomicU64::new(0), bytes: AtomicU64::new(0) })
    }

    fn count(&self, bytes: usize) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Calls and bytes since it was last asked.
    fn taken(&self) -> (u64, u64) {
        (self.calls.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed))
    }

    /// Pages that are stored.
    fn pages(&self) -> u64 {
        self.file.allocated().unwrap().unwrap() / 4096
    }
}

impl Storage for Counted {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn size(&self) -> Result<u64> {
        self.count(0);
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.count(buffer.len());
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        panic!("nothing is written")
    }

    fn sync(&self) -> Result<()> {
        panic!("nothing is written")
    }

    fn sync_directory(&self) -> Result<()> {
        panic!("nothing is written")
    }

    fn set_size(&self, _: u64) -> Result<()> {
        panic!("nothing is written")
    }

    fn punch(&self, _: Range<u64>) -> Result<()> {
        panic!("nothing is written")
    }

    fn write_zeroes(&self, _: Range<u64>) -> Result<()> {
        panic!("nothing is written")
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.count(0);
        self.file.next_data(range)
    }

    fn lock(&self, _: LockMode) -> Result<()> {
        Ok(())
    }

    fn id(&self) -> Option<FileId> {
        self.file.id()
    }
}

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

fn open(file: &Arc<Counted>) -> Result<Image> {
    let options = OpenOptions { ignore_marks: true, ..OpenOptions::default() };
    Image::open(file.clone(), host(), &options)
}

/// Opening reads both slots and nothing else, whatever they say: two reads of each at most.
fn opens_cheaply(file: &Arc<Counted>) -> Result<Image> {
    let image = open(file);
    let (calls, bytes) = file.taken();
    assert!(calls <= 6 && bytes <= SLOTS_END, "{}: {calls} calls, {bytes} bytes to open", file.name());
    image
}

/// A check, and a walk over each bitmap, read the pages that the file stores, and one behind each at most: their calls and
/// bytes have a bound in what is stored, however large the file says that it is.
fn walks_cheaply(file: &Arc<Counted>, image: &Image) {
    let pages = file.pages();
    let bound = |(calls, bytes): (u64, u64), what: &str| {
        assert!(calls <= 8 + 8 * pages, "{}: {calls} calls for {what} of {pages} pages", file.name());
        assert!(bytes <= 4096 * (8 + 2 * pages), "{}: {bytes} bytes for {what} of {pages} pages", file.name());
    };
    image.check().unwrap();
    bound(file.taken(), "a check");
    for bitmap in image.bitmaps() {
        let mut at = 0;
        // A record that is no bitmap has nothing to walk over.
        while let (true, Ok((_, end))) = (at < image.size(), image.bitmap_run(&bitmap.name, at, image.size())) {
            at = end;
        }
        bound(file.taken(), "a bitmap");
    }
}

#[test]
fn what_a_file_costs_is_bounded_by_what_it_stores() {
    let (mut opened, mut refused) = (0, 0);
    for vector in lvd::testing::vectors::all() {
        for described in vector.files.iter().filter(|file| file.role == Role::Image) {
            let file = MemoryStorage::new(format!("{}/{}", vector.name, described.name));
            described.bytes.pieces().for_each(|(at, bytes)| file.write_at(bytes, at).unwrap());
            file.set_size(described.length).unwrap();
            let file = Counted::new(file);
            match opens_cheaply(&file) {
                Ok(image) => {
                    walks_cheaply(&file, &image);
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(opened > 300 && refused > 300, "{opened} opened, {refused} refused");
}

/// The largest bitmap that there is, 36 TiB of it, with few pages scattered over it: half are sound, half are noise.
#[test]
fn the_largest_bitmap_costs_the_pages_that_it_stores() {
    let size = 1u64 << 60;
    let length = Section::needed_length(size, 12);
    let mut header = Header::new(Kind::Image, Uuid([1; 16]), Uuid([2; 16]), size, SLOTS_END + length);
    let (id, kind, covered) = (Uuid([3; 16]), SectionKind::Allocation, size);
    let section = Section { id, kind, granularity_shift: 12, required: true, offset: SLOTS_END, length, covered };
    header.sections.push(section);
    let file = MemoryStorage::new("largest");
    let bytes = header.encode().unwrap();
    [0, SLOT_SIZE].into_iter().for_each(|slot| file.write_at(&bytes, slot).unwrap());
    file.set_size(header.data_end()).unwrap();
    let pages = 1000u64;
    for number in 0..pages {
        let at = number * (length / 4096 / pages) * 4096;
        let mut sector = [0x55; SECTOR_SIZE as usize];
        if number % 2 == 0 {
            seal(&mut sector, id, at / SECTOR_SIZE);
        }
        file.write_at(&sector, SLOTS_END + at).unwrap();
    }
    let file = Counted::new(file);
    let image = opens_cheaply(&file).unwrap();
    walks_cheaply(&file, &image);
    assert_eq!(image.check().unwrap().corruptions, pages / 2);
}

/// Gives the same link again and again, each time in another file.
#[derive(Debug)]
struct Endless {
    opened: Mutex<Vec<Arc<Counted>>>,
}

fn endless(number: usize) -> Arc<Counted> {
    let file = MemoryStorage::new(format!("layer {number}"));
    let length = Section::needed_length(4096, 12);
    let mut header = Header::new(Kind::Image, Uuid([1; 16]), Uuid([2; 16]), 4096, SLOTS_END + length);
    let (id, kind) = (Uuid([3; 16]), SectionKind::Allocation);
    header.sections.push(Section {
        id,
        kind,
        granularity_shift: 12,
        required: true,
        offset: SLOTS_END,
        length,
        covered: 4096,
    });
    let identity = Some(lvd::format::Identity { uuid: header.uuid, epoch: header.epoch });
    header.parent = Some(Parent { identity, format: ParentFormat::Lvd, visible_length: 4096, hint: "itself".into() });
    let bytes = header.encode().unwrap();
    [0, SLOT_SIZE].into_iter().for_each(|slot| file.write_at(&bytes, slot).unwrap());
    file.set_size(header.data_end()).unwrap();
    Counted::new(file)
}

impl ParentPolicy for Endless {
    fn open(&self, _: &Parent, _: &str, _: bool) -> Result<Arc<dyn Storage>> {
        let mut opened = self.opened.lock().unwrap();
        let next = endless(opened.len() + 1);
        opened.push(next.clone());
        Ok(next)
    }
}

/// A chain that does not end costs as many files as it may have layers, and as little of each as one that ends.
#[test]
fn a_chain_without_end_costs_its_depth() {
    for depth in [1, 2, DEFAULT_DEPTH] {
        let policy = Endless { opened: Mutex::default() };
        let top = endless(0);
        let options = ChainOptions { depth, ..ChainOptions::default() };
        let error = Chain::open(top.clone(), host(), &policy, &options).unwrap_err();
        assert!(matches!(&error, Error::Refused { violation: Violation::Cycle, .. }), "{error}");
        let mut opened = policy.opened.into_inner().unwrap();
        assert_eq!(opened.len(), depth - 1, "files of {depth} layers");
        opened.push(top);
        for file in opened {
            let (calls, bytes) = file.taken();
            assert!(calls <= 6 && bytes <= SLOTS_END, "{}: {calls} calls, {bytes} bytes", file.name());
        }
    }
}

/// Reading one byte costs one page of a table on each of two levels, wherever tables lead.
#[test]
fn tables_of_a_foreign_image_cost_two_pages_a_read() {
    for vector in lvd::testing::vectors::all().iter().filter(|vector| vector.name.starts_with("qed-")) {
        for described in &vector.files {
            let file = MemoryStorage::new(vector.name.clone());
            described.bytes.pieces().for_each(|(at, bytes)| file.write_at(bytes, at).unwrap());
            file.set_size(described.length).unwrap();
            let file = Counted::new(file);
            let qed = Qed::open(file.clone(), 0);
            let (calls, bytes) = file.taken();
            assert!(calls <= 5 && bytes <= 72 + 4096, "{}: {calls} calls, {bytes} bytes to open", file.name());
            let Ok(qed) = qed else { continue };
            for at in (0..64).map(|part| qed.size() / 64 * part) {
                // Whether it can be read is not the question.
                let _ = qed.extent(at, (at + 1).min(qed.size()));
                let (calls, bytes) = file.taken();
                assert!(calls <= 2 && bytes <= 2 * 4096, "{}: {calls} calls, {bytes} bytes at {at}", file.name());
            }
        }
    }
}
