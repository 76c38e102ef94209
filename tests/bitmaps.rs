//! Dirty bitmaps: never too few, never stale unnoticed, never in the way of the disk.

mod common;

use common::Random;
use lvd::chain::{Chain, ChainOptions, GivenParents};
use lvd::format::{BitmapState, Header, Section, Uuid};
use lvd::image::{CreateOptions, Image, NewBitmap, OpenOptions, Trust};
use lvd::jobs::drive;
use lvd::live::Disk;
use lvd::storage::{Host, MemoryStorage, Storage};
use lvd::switch::{Step, without_step};
use lvd::testing::fuzz::files::Files;
use lvd::testing::host::SimHost;
use lvd::{BlockDevice, Error, Violation};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn host() -> Arc<SimHost> {
    Arc::new(SimHost::new(4))
}

fn file(name: &str, size: u64, host: &SimHost) -> Arc<MemoryStorage> {
    let file = Arc::new(MemoryStorage::new(name));
    let options = CreateOptions { virtual_size: size, ..CreateOptions::default() };
    Image::create(&*file, host, &options).unwrap();
    file
}

fn open(file: &Arc<MemoryStorage>, host: &Arc<SimHost>) -> Arc<Image> {
    let options = OpenOptions { write: true, ..OpenOptions::default() };
    Arc::new(Image::open(file.clone(), host.clone(), &options).unwrap())
}

fn small(shift: u8) -> NewBitmap {
    NewBitmap { granularity_shift: shift, ..NewBitmap::default() }
}

/// A disk with a bitmap "daily" in granules of 2^`shift` bytes.
fn with_daily(size: u64, shift: u8) -> (Arc<SimHost>, Arc<MemoryStorage>, Arc<Image>) {
    let host = host();
    let disk = file("disk.lvd", size, &host);
    let image = open(&disk, &host);
    image.add_bitmap("daily", &small(shift)).unwrap();
    (host, disk, image)
}

/// The section of the bitmap `name`.
fn section_of(image: &Image, name: &str) -> Section {
    let header = image.header();
    let bitmap = header.bitmaps.iter().find(|bitmap| bitmap.name == name).unwrap();
    *header.sections.iter().find(|section| section.id == bitmap.section).unwrap()
}

/// What a bitmap must have dirty, and what it may have.
#[derive(Clone, Default)]
struct Model {
    /// Bytes changed since the point, in units of 512.
    changed: BTreeSet<u64>,
    records: bool,
    missed: bool,
}

impl Model {
    fn note(&mut self, range: &Range<u64>) {
        match self.records {
            true => self.changed.extend(range.start / 512..range.end.div_ceil(512)),
            false => self.missed |= !range.is_empty(),
        }
    }
}

/// Lives of a disk with two bitmaps beside a naive set of changed sectors: nothing that changed is clean, and a disabled
/// one has missed writes if there were any.
#[test]
fn bitmaps_are_their_model() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let host = host();
        let size = MIB + 512 * random.below(600) + [0, 100][random.below(2) as usize];
        let disk = file("disk.lvd", size, &host);
        let mut image = open(&disk, &host);
        let shifts = [12 + random.below(6) as u8, 16];
        let mut models = Vec::new();
        for (number, shift) in shifts.iter().enumerate() {
            image.add_bitmap(&number.to_string(), &small(*shift)).unwrap();
            models.push(Model { records: true, ..Model::default() });
        }
        for turn in 0..120 {
            let at = random.below(size);
            let range = at..(at + 1 + random.below(9000)).min(size);
            let which = random.below(2) as usize;
            let (name, model) = (which.to_string(), which);
            match random.below(14) {
                0..5 => {
                    image.write_at(&random.bytes((range.end - range.start) as usize), range.start).unwrap();
                    models.iter_mut().for_each(|model| model.note(&range));
                }
                5 => {
                    image.write_zeroes(range.clone(), true).unwrap();
                    models.iter_mut().for_each(|model| model.note(&range));
                }
                6 => {
                    host.sleep(Duration::from_secs(30));
                    image.flush().unwrap();
                }
                7 => {
                    image.close().unwrap();
                    for (number, model) in models.iter().enumerate() {
                        let trust = image.bitmap(&number.to_string()).unwrap().trust;
                        assert_eq!(trust == Trust::MissedWrites, model.missed, "seed {seed}, turn {turn}: {trust:?}");
                    }
                    image = open(&disk, &host);
                }
                8 => image = open(&disk, &host), // What was in memory alone is lost.
                9 => {
                    image.clear_bitmap(&name, None).unwrap();
                    models[model] = Model { records: models[model].records, ..Model::default() };
                }
                10 => {
                    image.disable_bitmap(&name).unwrap();
                    models[model].records = false;
                }
                11 => match (models[model].records, models[model].missed) {
                    (false, true) => assert!(matches!(image.enable_bitmap(&name), Err(Error::Denied(_)))),
                    _ => {
                        image.enable_bitmap(&name).unwrap();
                        models[model].records = true;
                    }
                },
                12 => {
                    if models[model].records {
                        let before = models[model].clone();
                        image.freeze_bitmap(&name, None).unwrap();
                        image.write_at(&[1; 700], range.start.min(size - 700)).unwrap();
                        let written = range.start.min(size - 700)..range.start.min(size - 700) + 700;
                        models.iter_mut().for_each(|model| model.note(&written));
                        superset(&image, &models, "frozen");
                        if random.below(2) == 0 {
                            image.take_back_bitmap(&name).unwrap();
                        } else {
                            image.hand_over_bitmap(&name).unwrap();
                            models[model] = Model { changed: BTreeSet::new(), ..before };
                            models[model].note(&written);
                        }
                    }
                }
                _ => {
                    let other = (1 - which).to_string();
                    image.merge_bitmap(&name, &image.dirty_stretches(&other).unwrap()).unwrap();
                    let granule = 1 << (shifts[1 - which] - 9);
                    let more: Vec<u64> = models[1 - which].changed.iter().map(|sector| sector / granule).collect();
                    models[model].changed.extend(more.iter().flat_map(|g| g * granule..(g + 1) * granule));
                    // What intents had dirty in the other one is dirty here, for good.
                    for range in image.dirty_stretches(&other).unwrap() {
                        models[model].changed.extend(range.start / 512..range.end.div_ceil(512));
                    }
                }
            }
            superset(&image, &models, &format!("seed {seed}, turn {turn}"));
            ["0", "1"].iter().for_each(|name| runs_are_whole(&image, name, turn));
        }
    }
}

fn superset(image: &Image, models: &[Model], when: &str) {
    for (number, model) in models.iter().enumerate() {
        for sector in &model.changed {
            let at = sector * 512;
            if at < image.size() {
                let dirty = image.bitmap_run(&number.to_string(), at, at + 1).unwrap().0;
                assert!(dirty, "{when}: sector {sector} is clean in bitmap {number}");
            }
        }
    }
}

/// A run ends where something else begins.
fn runs_are_whole(image: &Image, name: &str, turn: u32) {
    let (mut at, mut before) = (0, None);
    while at < image.size() {
        let (dirty, end) = image.bitmap_run(name, at, image.size()).unwrap();
        assert!(at < end && before != Some(dirty), "turn {turn}: two runs of \"{name}\" meet at {at}");
        (at, before) = (end, Some(dirty));
    }
}

/// BMP-13: what is taken back has what was dirty before and since, and nothing else.
#[test]
fn a_bitmap_that_is_taken_back_is_exact() {
    let (host, disk, mut image) = with_daily(8 * MIB, 12);
    image.write_at(&[1; 512], 3 * 4096).unwrap();
    image.write_at(&[1; 512], 8 * MIB - 512).unwrap();
    image.freeze_bitmap("daily", None).unwrap();
    image.write_at(&[1; 512], 4 * 4096).unwrap();
    let dirty = [3 * 4096..5 * 4096, 8 * MIB - 4096..8 * MIB];
    assert_eq!(image.dirty_stretches("daily").unwrap(), dirty);
    assert_eq!(image.bitmap_run("daily", 3 * 4096, 8 * MIB).unwrap(), (true, 5 * 4096));
    image.take_back_bitmap("daily").unwrap();
    assert_eq!(image.dirty_stretches("daily").unwrap(), dirty);
    image.close().unwrap();
    image = open(&disk, &host);
    assert_eq!(image.dirty_stretches("daily").unwrap(), dirty);
}

/// Every ten seconds intents are cleared (INT-05) that no write relied on since the last time: what they spoke of is as
/// exact after a crash as its bits.
#[test]
fn intents_are_cleared_once_they_are_old() {
    for in_sidecar in [false, true] {
        let beside = Beside::new(2048 * MIB);
        let image = if in_sidecar { beside.open().unwrap() } else { open(&beside.disk, &beside.host) };
        image.add_bitmap("daily", &small(16)).unwrap();
        cleared_once_they_are_old(&beside, &image, in_sidecar);
    }
}

fn cleared_once_they_are_old(beside: &Beside, image: &Image, in_sidecar: bool) {
    let after_crash = || {
        let files = [&beside.disk, &beside.bits].map(|file| Arc::new(file.copy("crashed")));
        let [disk, bits] = files;
        let crashed = Beside { host: beside.host.clone(), disk, bits };
        let image = if in_sidecar { crashed.open().unwrap() } else { open(&crashed.disk, &crashed.host) };
        image.dirty_stretches("daily").unwrap()
    };
    let write = |at: u64, seconds: u64| {
        image.write_at(&[1; 512], at).unwrap();
        beside.host.sleep(Duration::from_secs(seconds));
        image.flush().unwrap();
        let found = after_crash();
        move |at: u64| found.contains(&(at..at + (1 << 16)))
    };
    beside.host.sleep(Duration::from_secs(100));
    let (early, late) = (0, 1024 * MIB);
    assert!(!write(early, 0)(early), "intents are coarser than bits");
    assert!(!write(late, 9)(early), "nine seconds after the last fold");
    let exact = write(2000 * MIB, 1);
    assert!(exact(early) && !exact(late), "ten seconds after it; a write has relied on the second one");
    assert!(!write(1500 * MIB, 9)(late));
    assert!(write(1800 * MIB, 1)(late));
}

/// Who may not write folds no intents, though there are some, and it is time.
#[test]
fn a_reader_folds_nothing() {
    let (host, disk, image) = with_daily(MIB, 16);
    image.write_at(&[1; 512], 0).unwrap();
    let crashed = Arc::new(disk.copy("crashed.lvd"));
    let before = crashed.contents();
    let reader = Image::open(crashed.clone(), host.clone(), &OpenOptions::default()).unwrap();
    host.sleep(Duration::from_secs(100));
    reader.flush().unwrap();
    reader.close().unwrap();
    assert!(crashed.contents() == before);
}

/// Intents are as fine as few of them can be: a crash then has little dirty that was not written.
#[test]
fn regions_of_intents_grow_with_the_disk() {
    let gib = 1024 * MIB;
    let cases = [
        (MIB, 16),
        (256 * MIB, 16),
        (256 * MIB + 512, 17),
        (64 * gib, 24),
        (64 * gib + 512, 24),
        (1024 * gib, 24),
        (1024 * gib + 512, 25),
    ];
    for (size, shift) in cases {
        let host = host();
        let image = open(&file("disk.lvd", size, &host), &host);
        image.add_bitmap("daily", &small(16)).unwrap();
        let intents = *image.header().intents().expect("a section of intents");
        assert_eq!((intents.granularity_shift, intents.covered), (shift, size));
        image.resize(size + MIB).unwrap();
        assert_eq!(image.header().intents().unwrap().covered, size);
        image.add_bitmap("weekly", &small(16)).unwrap();
        assert_eq!(image.header().intents().unwrap().covered, size + MIB, "they reach as far as its bitmaps do");
    }
}

/// What records nothing costs nothing: a write leaves all that belongs to bitmaps as it is.
#[test]
fn writes_note_nothing_in_a_bitmap_that_is_disabled() {
    let (host, disk, image) = with_daily(8 * MIB, 12);
    assert!(image.bitmap("daily").unwrap().records());
    image.write_at(&[1; 512], 0).unwrap();
    image.disable_bitmap("daily").unwrap();
    assert!(!image.bitmap("daily").unwrap().records());
    let sections = || {
        let header = image.header();
        let bytes = |range: Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            disk.read_at(&mut bytes, range.start).unwrap();
            bytes
        };
        header.sections.iter().map(|section| bytes(section.offset..section.offset + section.length)).collect::<Vec<_>>()
    };
    let before = sections();
    assert!(before.len() > 1);
    image.write_at(&[1; 512], 4 * MIB).unwrap();
    host.sleep(Duration::from_secs(30));
    image.flush().unwrap();
    assert!(sections() == before);
    image.close().unwrap();
    assert!(sections() == before);
}

/// Without a death in between nothing else is dirty: a granule for a granule.
#[test]
fn after_a_clean_end_a_bitmap_is_exact() {
    let (host, disk, image) = with_daily(8 * MIB, 12);
    image.write_at(&[1; 3], 5 * 4096 + 4094).unwrap();
    image.write_at(&[1; 4096], 7 * MIB).unwrap();
    assert!(image.bitmap_run("daily", 0, 4096).unwrap() == (false, 4096), "what is in memory is exact too");
    image.close().unwrap();
    drop(image);
    let image = open(&disk, &host);
    let dirty = image.dirty_stretches("daily").unwrap();
    assert_eq!(dirty, [5 * 4096..7 * 4096, 7 * MIB..7 * MIB + 4096]);
}

/// Intents that a crash has left are made bits page by page: those in memory there, the others in the file, some hundred at
/// a time.
#[test]
fn intents_become_bits_of_pages_nobody_asks_for() {
    let (host, page) = (host(), 31_744 * 4096);
    let file = file("disk", 700 * page, &host);
    let image = open(&file, &host);
    image.add_bitmap("b", &small(12)).unwrap();
    let dirty = [(0, 3), (20, 600), (650, 651)].map(|(first, end)| first * page..end * page);
    dirty.iter().for_each(|range| image.write_zeroes(range.clone(), true).unwrap());
    let crashed = Arc::new(file.copy("crashed"));
    drop(image);
    let image = open(&crashed, &host);
    let before = image.dirty_stretches("b").unwrap();
    // Some pages are in memory, with a bit of their own, when the intents are folded.
    image.write_at(&[1; 512], 5 * page).unwrap();
    image.write_at(&[1; 512], 300 * page).unwrap();
    image.write_at(&[1; 512], 699 * page).unwrap();
    image.close().unwrap();
    drop(image);
    let after = Image::open(crashed, host, &OpenOptions::default()).unwrap().dirty_stretches("b").unwrap();
    let covers = |stretches: &[Range<u64>], range: &Range<u64>| {
        stretches.iter().any(|stretch| stretch.start <= range.start && range.end <= stretch.end)
    };
    let own = [5, 300, 699].map(|first| first * page..first * page + 4096);
    for range in before.iter().chain(&dirty).chain(&own) {
        assert!(covers(&after, range), "{range:?} is not in {after:?}");
    }
    let bytes = |stretches: &[Range<u64>]| stretches.iter().map(|range| range.end - range.start).sum::<u64>();
    assert!(bytes(&after) <= bytes(&before) + 3 * 4096, "{after:?} is more than {before:?}");
}

fn written_by_one_that_knows_none(disk: &Arc<MemoryStorage>, host: &Arc<SimHost>) {
    without_step(Step::CarryBitmaps, || {
        let image = open(disk, host);
        image.write_at(&[1; 512], 0).unwrap();
        image.close().unwrap();
    });
}

/// A writer that knows nothing of bitmaps gives the disk a new epoch: they are stale, and say so; the disk runs.
#[test]
fn a_writer_that_ignores_bitmaps_makes_them_stale() {
    let (host, disk, image) = with_daily(MIB, 16);
    image.close().unwrap();
    drop(image);
    written_by_one_that_knows_none(&disk, &host);
    let image = open(&disk, &host);
    assert_eq!(image.bitmap("daily").unwrap().trust, Trust::Stale);
    assert_eq!(image.dirty_stretches("daily").unwrap(), [0..MIB]);
    image.write_at(&[2; 512], 4096).unwrap();
    image.close().unwrap();
    assert_eq!(image.bitmap("daily").unwrap().trust, Trust::Stale, "for good");
    assert!(matches!(image.disable_bitmap("daily"), Err(Error::Denied(_))));
    image.clear_bitmap("daily", None).unwrap();
    assert_eq!(image.dirty_stretches("daily").unwrap(), []);
}

/// A volume was written past its sidecar, which the next open noticed. Then a bitmap was added, or blocks were filled, and
/// no guest wrote: the seal noted what the volume looked like by then, under the epoch of before, and at the open after
/// that the stale bitmap counted as right. (A verb that is refused must not have it forgotten either.) A backup by it would have left out what was written past it (EPO-02).
#[test]
fn a_bitmap_stays_stale_when_the_volume_is_noted_anew() {
    for allocation in [false, true] {
        let (mut files, host) = (Files::default(), host());
        let (volume, sidecar) = (files.create("volume"), files.create("sidecar"));
        volume.set_size(MIB).unwrap();
        if allocation {
            let options = CreateOptions { virtual_size: MIB, allocation, ..CreateOptions::default() };
            Image::create_sidecar(&*sidecar, &*volume, &*host, &options).unwrap();
        } else {
            Image::create_beside(&*sidecar, &*volume, &*host).unwrap();
        }
        let open = || {
            let (sidecar, volume) = (files.open("sidecar", true).unwrap(), files.open("volume", true).unwrap());
            let options = OpenOptions { write: true, ..OpenOptions::default() };
            Image::open_sidecar(sidecar, volume, host.clone(), &options).unwrap()
        };
        let disk = open();
        disk.add_bitmap("recording", &small(12)).unwrap();
        disk.add_bitmap("disabled", &NewBitmap { recording: false, ..small(12) }).unwrap();
        disk.close().unwrap();
        drop(disk);
        volume.write_at(&[7; 100], 5000).unwrap();
        let disk = open();
        // Refused: nothing of it is written.
        assert!(disk.add_bitmap("recording", &small(12)).is_err());
        if allocation {
            disk.fill(0..4096).unwrap();
        } else {
            disk.add_bitmap("new", &small(12)).unwrap();
        }
        disk.close().unwrap();
        drop(disk);
        let disk = open();
        assert_eq!(disk.bitmap("recording").unwrap().trust, Trust::Stale);
        assert_eq!(disk.bitmap("disabled").unwrap().trust, Trust::MissedWrites);
        assert!(allocation || disk.bitmap("new").unwrap().trust == Trust::Valid, "what was begun since is right");
    }
}

/// An image that is put back to an older copy of itself has the bitmap of then, and with it the point of then.
#[test]
fn a_rolled_back_image_has_the_point_of_then() {
    let host = host();
    let disk = file("disk.lvd", MIB, &host);
    let image = open(&disk, &host);
    let first = image.add_bitmap("daily", &small(16)).unwrap();
    image.close().unwrap();
    let old = disk.copy("old.lvd");
    image.write_at(&[1; 512], 0).unwrap();
    let second = image.clear_bitmap("daily", None).unwrap();
    let back = open(&Arc::new(old), &host);
    let bitmap = back.bitmap("daily").unwrap();
    assert_eq!((bitmap.trust, bitmap.since), (Trust::Valid, first));
    assert_ne!(first, second, "a backup of the second point does not fit");
}

struct Beside {
    host: Arc<SimHost>,
    disk: Arc<MemoryStorage>,
    bits: Arc<MemoryStorage>,
}

impl Beside {
    fn new(size: u64) -> Beside {
        let host = host();
        let disk = file("disk.lvd", size, &host);
        let bits = Arc::new(MemoryStorage::new("disk.lvb"));
        Image::create_beside_image(&*bits, &open(&disk, &host)).unwrap();
        Beside { host, disk, bits }
    }

    fn open(&self) -> lvd::Result<Arc<Image>> {
        let image = open(&self.disk, &self.host);
        let options = OpenOptions { write: true, ..OpenOptions::default() };
        let sidecar = Image::open_beside(self.bits.clone(), &image, self.host.clone(), &options)?;
        image.attach(Arc::new(sidecar))?;
        Ok(image)
    }
}

/// What a growth brings is dirty in a sidecar too, also where the disk was before it shrank (BMP-11).
#[test]
fn a_disk_that_shrinks_and_grows_is_dirty_there() {
    let beside = Beside::new(4 * MIB);
    let image = beside.open().unwrap();
    image.add_bitmap("daily", &small(16)).unwrap();
    image.resize(MIB).unwrap();
    assert_eq!(image.dirty_stretches("daily").unwrap(), []);
    image.resize(3 * MIB).unwrap();
    assert_eq!(image.dirty_stretches("daily").unwrap(), [MIB..3 * MIB]);
}

/// Each verb goes to where its bitmap is, whatever else there is.
#[test]
fn verbs_find_bitmaps_in_the_image_and_beside_it() {
    let beside = Beside::new(MIB);
    let image = open(&beside.disk, &beside.host);
    let names = ["one", "two", "three", "four"];
    for name in &names[..2] {
        image.add_bitmap(name, &small(16)).unwrap();
    }
    image.close().unwrap();
    drop(image);
    let image = beside.open().unwrap();
    for name in &names[2..] {
        image.add_bitmap(name, &small(16)).unwrap();
    }
    for name in names {
        image.write_at(&[1], 0).unwrap();
        image.clear_bitmap(name, None).unwrap();
        let dirty = names.map(|name| !image.dirty_stretches(name).unwrap().is_empty());
        assert_eq!(dirty, names.map(|other| other != name), "{name} is cleared");
        image.disable_bitmap(name).unwrap();
        image.enable_bitmap(name).unwrap();
    }
    image.rest_below_overlay(&image.bitmaps()).unwrap();
    assert!(image.bitmaps().iter().all(|info| info.state == BitmapState::Disabled));
    for (left, name) in names.iter().enumerate().rev() {
        image.remove_bitmap(name).unwrap();
        assert_eq!(image.bitmaps().iter().map(|info| &info.name[..]).collect::<BTreeSet<_>>().len(), left);
    }
}

/// What becomes of a sidecar whose image went other ways: written without it, put back, replaced.
#[test]
fn a_sidecar_notices_what_happened_to_its_image() {
    let beside = Beside::new(MIB);
    let image = beside.open().unwrap();
    image.add_bitmap("daily", &small(16)).unwrap();
    let old = beside.disk.copy("old.lvd");
    image.write_at(&[1; 512], 65536).unwrap();
    image.close().unwrap();
    assert_eq!(image.dirty_stretches("daily").unwrap(), [65536..131_072]);
    image.clear_bitmap("daily", None).unwrap();
    drop(image);
    let image = beside.open().unwrap();
    assert_eq!(image.bitmap("daily").unwrap().trust, Trust::Valid);
    drop(image);

    // Put back to before the write that it has forgotten.
    let back = Beside { disk: Arc::new(old), bits: Arc::new(beside.bits.copy("bits")), host: beside.host.clone() };
    assert_eq!(back.open().unwrap().bitmap("daily").unwrap().trust, Trust::Stale);

    // Written without it.
    let image = open(&beside.disk, &beside.host);
    image.write_at(&[3; 512], 0).unwrap();
    image.close().unwrap();
    drop(image);
    let image = beside.open().unwrap();
    assert_eq!(image.bitmap("daily").unwrap().trust, Trust::Stale);
    image.write_at(&[4; 512], 0).unwrap();
    image.close().unwrap();
    drop(image);
    let image = beside.open().unwrap();
    assert_eq!(image.bitmap("daily").unwrap().trust, Trust::Stale, "for good");
    image.clear_bitmap("daily", None).unwrap();
    image.write_at(&[5; 512], 0).unwrap();
    image.close().unwrap();
    drop(image);
    let image = beside.open().unwrap();
    assert_eq!(image.bitmap("daily").unwrap().trust, Trust::Valid);
    assert_eq!(image.dirty_stretches("daily").unwrap(), [0..65536]);
    drop(image);

    // Another image's.
    let other = Beside { disk: file("other.lvd", MIB, &beside.host), ..beside };
    let error = other.open().unwrap_err();
    assert_eq!(error.violation(), Some(Violation::SidecarOfImage));
    assert!(error.to_string().contains("disk.lvb"), "{error}");
}

/// A verb on a bitmap beside an image speaks of what the image holds then, whether or not anything is written after it.
#[test]
fn a_stale_bitmap_in_a_sidecar_is_valid_once_it_is_cleared() {
    let beside = Beside::new(MIB);
    let image = beside.open().unwrap();
    image.add_bitmap("daily", &small(16)).unwrap();
    image.close().unwrap();
    drop(image);
    let image = open(&beside.disk, &beside.host);
    image.write_at(&[3; 512], 0).unwrap();
    image.close().unwrap();
    drop(image);
    let image = beside.open().unwrap();
    assert_eq!(image.bitmap("daily").unwrap().trust, Trust::Stale);
    image.clear_bitmap("daily", None).unwrap();
    image.close().unwrap();
    drop(image);
    let image = beside.open().unwrap();
    assert_eq!(image.bitmap("daily").unwrap().trust, Trust::Valid);
    assert_eq!(image.dirty_stretches("daily").unwrap(), []);
}

/// A bitmap tells from a point: which one it is, is the freeze's business alone.
#[test]
fn points_follow_the_bits() {
    let host = host();
    let image = open(&file("disk.lvd", MIB, &host), &host);
    let first = image.add_bitmap("daily", &small(12)).unwrap();
    image.add_bitmap("weekly", &small(16)).unwrap();
    let weekly = image.bitmap("weekly").unwrap();
    let since = || image.bitmap("daily").unwrap().since;
    let second = image.freeze_bitmap("daily", None).unwrap();
    assert_eq!(since(), first, "what is frozen tells of what was");
    image.take_back_bitmap("daily").unwrap();
    assert_eq!(since(), first);
    let third = image.freeze_bitmap("daily", None).unwrap();
    image.hand_over_bitmap("daily").unwrap();
    assert_eq!(since(), third);
    let given = Uuid([7; 16]);
    assert_eq!(image.freeze_bitmap("daily", Some(given)).unwrap(), given);
    image.hand_over_bitmap("daily").unwrap();
    assert_eq!(since(), given);
    assert_eq!(image.clear_bitmap("daily", Some(first)).unwrap(), first);
    assert_eq!(since(), first);
    assert!(second != first && third != second && second != given);
    assert_eq!(image.bitmap("weekly").unwrap(), weekly, "the other one has no part in it");
}

/// Bits that are put back replace those there are, in a bitmap that goes on as it was.
#[test]
fn a_bitmap_gets_back_the_bits_it_had() {
    let host = host();
    let image = open(&file("disk.lvd", MIB, &host), &host);
    image.add_bitmap("weekly", &small(16)).unwrap();
    image.add_bitmap("daily", &small(12)).unwrap();
    image.write_at(&[1; 512], 0).unwrap();
    let before = [image.bitmap("daily").unwrap(), image.bitmap("weekly").unwrap()];
    let sections = image.header().sections.len();
    image.restore_bitmap("daily", &[8192..12288, 65536..65537]).unwrap();
    assert_eq!(image.dirty_stretches("daily").unwrap(), [8192..12288, 65536..69632]);
    assert_eq!(image.dirty_stretches("weekly").unwrap(), [0..65536]);
    assert_eq!([image.bitmap("daily").unwrap(), image.bitmap("weekly").unwrap()], before);
    assert_eq!(image.header().sections.len(), sections);
    image.write_at(&[1; 512], 4096).unwrap();
    assert_eq!(image.dirty_stretches("daily").unwrap(), [4096..12288, 65536..69632]);
}

/// What is removed gives its space back, and leaves the others alone.
#[test]
fn a_bitmap_that_is_removed_leaves_a_hole() {
    let (_, disk, image) = with_daily(MIB, 12);
    let gone = section_of(&image, "daily");
    image.add_bitmap("weekly", &small(16)).unwrap();
    image.write_at(&[1; 512], 4096).unwrap();
    image.flush().unwrap();
    image.close().unwrap();
    let kept = section_of(&image, "weekly");
    let hole = |offset: u64, length: u64| disk.next_data(offset..offset + length).unwrap().is_none();
    assert!(!hole(gone.offset, gone.length) && !hole(kept.offset, kept.length));
    image.remove_bitmap("daily").unwrap();
    assert!(hole(gone.offset, gone.length) && !hole(kept.offset, kept.length));
    assert_eq!(section_of(&image, "weekly"), kept);
    assert_eq!(image.dirty_stretches("weekly").unwrap(), [0..65536]);
    assert_eq!(image.header().sections.len(), 2, "its own, and that of intents");
}

/// Why a bitmap is not turned on, off or frozen, in a line that says what to do.
#[test]
fn a_bitmap_that_cannot_be_turned_says_why() {
    let host = host();
    let disk = file("disk.lvd", MIB, &host);
    let image = open(&disk, &host);
    for name in ["resting", "missed", "stale"] {
        image.add_bitmap(name, &small(16)).unwrap();
    }
    ["resting", "missed"].iter().for_each(|name| image.disable_bitmap(name).unwrap());
    let told = |result: lvd::Result<Uuid>| result.unwrap_err().to_string();
    assert_eq!(told(image.freeze_bitmap("resting", None)), "disk.lvd: the bitmap \"resting\" does not record");
    image.clear_bitmap("resting", None).unwrap();
    image.enable_bitmap("resting").unwrap();
    image.write_at(&[1; 512], 0).unwrap();
    image.close().unwrap();
    let why = |result: lvd::Result<()>| result.unwrap_err().to_string();
    let missed = "disk.lvd: the bitmap \"missed\" has missed writes: clear or remove it";
    assert_eq!(why(image.enable_bitmap("missed")), missed);
    drop(image);
    written_by_one_that_knows_none(&disk, &host);
    let image = open(&disk, &host);
    let stale = "disk.lvd: the bitmap \"stale\" is stale: clear or remove it";
    assert_eq!(why(image.disable_bitmap("stale")), stale);
    assert_eq!(told(image.freeze_bitmap("stale", None)), "disk.lvd: the bitmap \"stale\" does not record");
}

/// A bitmap of an image that goes on in another one is the same there: its granules, its point, its bits. What tells of a
/// mirror's target stays.
#[test]
fn bitmaps_are_taken_over_as_they_are() {
    let host = host();
    let from = open(&file("from.lvd", MIB, &host), &host);
    let to = open(&file("to.lvd", MIB, &host), &host);
    for (name, shift, sync) in [("daily", 12, false), ("weekly", 18, false), ("mirror", 16, true)] {
        from.add_bitmap(name, &NewBitmap { sync, ..small(shift) }).unwrap();
    }
    from.write_at(&[1; 512], 300 * 1024).unwrap();
    to.add_bitmap("weekly", &small(12)).unwrap();
    to.add_bitmap("own", &small(12)).unwrap();
    let all = from.bitmaps();
    to.take_over_bitmaps(&from, &all).unwrap();
    for name in ["daily", "weekly"] {
        assert_eq!(to.bitmap(name).unwrap(), from.bitmap(name).unwrap());
        assert_eq!(to.dirty_stretches(name).unwrap(), from.dirty_stretches(name).unwrap());
    }
    assert!(to.bitmap("mirror").is_err() && to.bitmap("own").is_ok());
    let some = [from.bitmap("daily").unwrap()];
    from.rest_below_overlay(&some).unwrap();
    let states = ["daily", "weekly", "mirror"].map(|name| from.bitmap(name).unwrap().state);
    assert_eq!(states, [BitmapState::Disabled, BitmapState::Recording, BitmapState::Recording]);
}

/// What is broken in a bitmap never keeps the disk from opening, and is told in a line.
#[test]
fn a_broken_bitmap_leaves_the_disk_alone() {
    let (host, disk, image) = with_daily(MIB, 12);
    image.write_at(&[1; 512], 8192).unwrap();
    image.close().unwrap();
    let section = section_of(&image, "daily");
    drop(image);

    // A bad sector: its granules count as dirty, and it can be cleared.
    disk.write_at(&[0x55; 512], section.offset).unwrap();
    let image = open(&disk, &host);
    assert_eq!(image.dirty_stretches("daily").unwrap(), [0..MIB]);
    image.clear_bitmap("daily", None).unwrap();
    assert_eq!(image.dirty_stretches("daily").unwrap(), []);
    drop(image);

    // A section past the end of the file, and a bitmap without one.
    let rewrite = |edit: &dyn Fn(&mut Header)| {
        let mut slot = vec![0; 65536];
        disk.read_at(&mut slot, 0).unwrap();
        let mut header = Header::decode(&slot).unwrap();
        edit(&mut header);
        let bytes = header.encode().unwrap();
        disk.write_at(&bytes, 0).unwrap();
        disk.write_at(&bytes, 65536).unwrap();
    };
    rewrite(&|header| {
        let id = header.bitmaps[0].section;
        let section = header.sections.iter_mut().find(|section| section.id == id).unwrap();
        section.offset = 1 << 40;
    });
    assert_eq!(open(&disk, &host).dirty_stretches("daily").unwrap(), [0..MIB]);
    rewrite(&|header| header.bitmaps[0].section = Uuid([9; 16]));
    let image = open(&disk, &host);
    let infos = image.bitmaps();
    assert_eq!((infos.len(), infos[0].broken), (1, Some(Violation::BitmapSection)));
    assert!(image.bitmap_run("daily", 0, 1).is_err());
    image.write_at(&[6; 512], 0).unwrap();
    image.close().unwrap();
    assert_eq!(image.bitmaps()[0].broken, Some(Violation::BitmapSection), "it is kept");
    image.remove_bitmap("daily").unwrap();
    assert_eq!(image.bitmaps(), []);
}

/// A live disk's bitmaps go with the guest: into a snapshot's overlay, back by a merge, away with a mirror.
#[test]
fn bitmaps_go_with_the_guest() {
    let host = host();
    let base = file("base.lvd", MIB, &host);
    let options = ChainOptions { write: true, ..ChainOptions::default() };
    let chain = Chain::open(base.clone(), host.clone(), &GivenParents::new([]), &options).unwrap();
    let since = chain.image(0).unwrap().add_bitmap("daily", &small(16)).unwrap();
    let disk = Disk::new(chain);
    let top = |disk: &Disk| disk.chain().image(0).unwrap().clone();
    disk.write_at(&[1; 512], 65536).unwrap();

    disk.snapshot(Arc::new(MemoryStorage::new("over.lvd")), "base.lvd".into(), 12).unwrap();
    disk.write_at(&[2; 512], 3 * 65536).unwrap();
    let both = [65536..131_072, 196_608..262_144];
    assert_eq!(top(&disk).dirty_stretches("daily").unwrap(), both);
    assert_eq!(top(&disk).bitmap("daily").unwrap().since, since);
    let below = disk.chain().image(1).unwrap().bitmap("daily").unwrap();
    assert_eq!((below.state, below.trust), (BitmapState::Disabled, Trust::Valid), "that of the snapshot's instant");

    let merge = disk.merge_active(1).unwrap();
    while !merge.step(MIB).unwrap().ready {}
    disk.write_at(&[3; 512], 5 * 65536).unwrap();
    disk.pivot(&merge).unwrap();
    disk.write_at(&[4; 512], 7 * 65536).unwrap();
    let all: Vec<Range<u64>> = [1, 3, 5, 7].map(|granule| granule * 65536..(granule + 1) * 65536).to_vec();
    assert_eq!(top(&disk).name(), "base.lvd");
    assert_eq!(top(&disk).dirty_stretches("daily").unwrap(), all);

    let target = file("moved.lvd", MIB, &host);
    Image::create(&*target, &*host, &CreateOptions { virtual_size: MIB, copy_mark: true, ..CreateOptions::default() })
        .unwrap();
    let marked = ChainOptions { ignore_marks: true, ..options };
    let target = Chain::open(target, host.clone(), &GivenParents::new([]), &marked).unwrap();
    let mirror = disk.mirror(target).unwrap();
    while !mirror.step(MIB).unwrap().ready {}
    disk.pivot(&mirror).unwrap();
    assert_eq!(top(&disk).name(), "moved.lvd");
    let bitmap = top(&disk).bitmap("daily").unwrap();
    assert_eq!((bitmap.since, bitmap.state, bitmap.trust), (since, BitmapState::Recording, Trust::Valid));
    assert_eq!(top(&disk).dirty_stretches("daily").unwrap(), all);

    // A stream changes nothing that the guest reads.
    disk.snapshot(Arc::new(MemoryStorage::new("next.lvd")), "moved.lvd".into(), 12).unwrap();
    drive(&disk.stream(None).unwrap(), |_| {}).unwrap();
    assert_eq!(top(&disk).dirty_stretches("daily").unwrap(), all);
    disk.close().unwrap();
}
