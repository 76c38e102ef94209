//! A real ext4's writes, and the power fails: the guest's log is carried out once more, on a disk of ours in the crash
//! simulator.
//!
//! At many barriers, and after flushes, some of the states are taken that a loss of power can leave there. In each the disk
//! must open; what was flushed must be there, sector by sector; and in some of them the file system must be whole once its
//! journal is replayed, hold every file of which the guest had been told that it is durable, and the bitmap must tell of
//! every change.

use crate::common::{MIB, same};
use crate::files;
use crate::jobs::{Stage, unchanged_outside};
use crate::log::{self, Entry};
use crate::lvd;
use crate::machine::{Guest, kit};
use lvd::chain::{Chain, ChainOptions, GivenParents};
use lvd::image::NewBitmap;
use lvd::jobs::Job;
use lvd::live::Disk;
use lvd::storage::Storage;
use lvd::testing::choices::{Random, sample};
use lvd::testing::host::SimHost;
use lvd::testing::model::Model;
use lvd::testing::sim::SimDisk;
use lvd::{BlockDevice, CreateOptions, Image, Result};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// At one moment in so many the power fails.
const CUT_EVERY: u64 = 12;
/// So many of the states are taken that this can leave.
const STATES: u64 = 4;
/// In one of so many states the file system is looked at.
const LOOK_EVERY: u64 = 10;
const SIZE: u64 = 48 * MIB;

#[test]
fn a_guest_finds_its_files_after_a_loss_of_power() {
    let Some(kit) = kit() else { return };
    let stage = Stage::new(SIZE, 8 * MIB);
    let logged = stage.place.sparse("log.raw", 1 << 30);
    let mut guest = Guest::boot(kit, &stage.place, &stage.socket, &[&logged]);
    guest.run("dmsetup create log --table \"0 $(blockdev --getsz /dev/vda) log-writes /dev/vda /dev/vdb\"");
    guest.run("mount -t ext4 /dev/dm-0 /mnt");
    guest.run("write_files 1 & make_noise &");
    stage.change_everything(&mut guest);
    guest.rest();
    guest.run("verify && umount /mnt && dmsetup remove log && e2fsck -fn /dev/vda >/tmp/said 2>&1");
    let all = guest.synced();
    guest.end();
    let place = stage.end("copy.lvd");
    for image in ["top.lvd", "snapshot.lvd", "moved.lvd", "copy.lvd"] {
        lvd!("check", place.path(image)).ok();
    }

    let log = log::read(&logged);
    let base = fs::read(place.path("base.raw")).expect("read");
    let mut wanted = base.clone();
    log::apply(&log, &mut wanted);
    let raw = files::raw_copy(&place, "moved.lvd");
    same(&fs::read(&raw).expect("read"), &wanted, "the disk, and what the guest asked for");
    files::is_clean(&raw, 1..=all, "the guest's last disk");

    let cuts = Cuts::new(&base, &log, place.path("cut.raw"));
    replay(&base, &log, &cuts, Disk::flush).expect("carried out");
    println!("{}", cuts.summary());
    assert_eq!(*cuts.found(), Vec::<String>::new());
    // Both ways to look would notice a disk whose flushes do nothing.
    let cuts = Cuts::new(&base, &log, place.path("cut.raw"));
    replay(&base, &log, &cuts, |_| Ok(())).expect("carried out");
    let found = cuts.found();
    assert!(found.iter().any(|flaw| flaw.starts_with("law O")), "{found:?}");
    assert!(found.iter().any(|flaw| flaw.starts_with("file")), "{found:?}");
}

/// Carries out the log on `top.lvd`, an overlay of `base.lvd`, which is streamed meanwhile.
fn replay(base: &[u8], log: &[Entry], cuts: &Arc<Cuts>, flush: fn(&Disk) -> Result<()>) -> Result<()> {
    let sim = make(base)?;
    let disk = Disk::new(open(&sim, true)?);
    let observing = cuts.clone();
    sim.observe(Some(Arc::new(move |sim| observing.moment(sim))));
    let mut stream: Option<Job> = None;
    for (number, entry) in log.iter().enumerate() {
        match entry {
            Entry::Write { offset, data } => {
                let ticket = cuts.model().begin_write(data, *offset);
                disk.write_at(data, *offset)?;
                cuts.model().end_write(ticket);
            }
            Entry::Flush => {
                let ticket = cuts.model().begin_flush();
                flush(&disk)?;
                cuts.model().end_flush(ticket);
                cuts.moment(&sim);
            }
            // A flush has come before it.
            Entry::Mark(text) => {
                cuts.synced.store(text.parse().unwrap_or(cuts.synced()), Ordering::Relaxed);
            }
        }
        if number == log.len() / 3 {
            stream = Some(disk.stream(None)?);
        }
        if let Some(job) = stream.take_if(|job| !job.progress().finished) {
            job.step(64 << 10)?;
            stream = Some(job);
        }
        if cuts.over() {
            break;
        }
    }
    sim.observe(None);
    Ok(())
}

/// The files as they are before the guest comes, with a bitmap that records.
fn make(base: &[u8]) -> Result<SimDisk> {
    let (sim, host) = (SimDisk::new(), host());
    let options = CreateOptions { virtual_size: base.len() as u64, ..CreateOptions::default() };
    let lower = sim.create("base.lvd")?;
    Image::create(&*lower, &*host, &options)?;
    let options_for_writing = ChainOptions { write: true, ..ChainOptions::default() };
    let chain = Chain::open(lower, host.clone(), &GivenParents::default(), &options_for_writing)?;
    for (piece, at) in base.chunks(4096).zip((0..).step_by(4096)) {
        if piece.iter().any(|byte| *byte != 0) {
            chain.write_at(piece, at)?;
        }
    }
    chain.close()?;
    let parent = Some(chain.layer(0)?.link(chain.size(), "base.lvd".into())?);
    Image::create(&*sim.create("top.lvd")?, &*host, &CreateOptions { parent, ..options })?;
    drop(chain);
    let chain = open(&sim, true)?;
    chain.image(0)?.add_bitmap("daily", &NewBitmap::default())?;
    chain.close()?;
    let (storage, offset) = chain.image(0)?.data_location();
    sim.set_payload(storage.name(), offset..offset + chain.size());
    sim.settle();
    Ok(sim)
}

fn host() -> Arc<SimHost> {
    Arc::new(SimHost::new(1))
}

fn open(sim: &SimDisk, write: bool) -> Result<Chain> {
    let parents: [Arc<dyn Storage>; 1] = [sim.open("base.lvd", false)?];
    let options = ChainOptions { write, ..ChainOptions::default() };
    Chain::open(sim.open("top.lvd", write)?, host(), &GivenParents::new(parents), &options)
}

/// Where the power fails, and what is found then.
struct Cuts {
    base: Vec<u8>,
    raw: PathBuf,
    model: Mutex<Model>,
    /// The last file that is durable.
    synced: AtomicU64,
    random: Mutex<Random>,
    moments: AtomicU64,
    states: AtomicU64,
    looks: AtomicU64,
    found: Mutex<Vec<String>>,
}

impl Cuts {
    fn new(base: &[u8], log: &[Entry], raw: PathBuf) -> Arc<Cuts> {
        let counter = || AtomicU64::new(0);
        Arc::new(Cuts {
            base: base.to_vec(),
            raw,
            model: Mutex::new(watched(base, log)),
            synced: counter(),
            random: Mutex::new(Random(1)),
            moments: counter(),
            states: counter(),
            looks: counter(),
            found: Mutex::default(),
        })
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().expect("no panic while held")
    }

    fn found(&self) -> MutexGuard<'_, Vec<String>> {
        self.found.lock().expect("no panic while held")
    }

    fn synced(&self) -> u64 {
        self.synced.load(Ordering::Relaxed)
    }

    /// Whether each way to look has found something, if at all.
    fn over(&self) -> bool {
        let found = self.found();
        ["law", "file"].iter().all(|way| found.iter().any(|flaw| flaw.starts_with(way)))
    }

    fn summary(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (moments, states, looks) = (count(&self.moments), count(&self.states), count(&self.looks));
        format!("{moments} losses of power in {states} ways, {looks} file systems, {} files", self.synced())
    }

    fn one_in(&self, count: u64) -> bool {
        self.random.lock().expect("no panic while held").below(count) == 0
    }

    /// The power may fail now.
    fn moment(&self, sim: &SimDisk) {
        if !self.one_in(CUT_EVERY) {
            return;
        }
        let pending = sim.pending();
        let seed = self.moments.fetch_add(1, Ordering::Relaxed);
        let mut number = 0;
        sample(pending.choices(), STATES, seed, |choices| {
            self.judge(&SimDisk::after(&pending.apply(choices)));
            number += 1;
            // Where nothing is pending there is one state.
            !pending.choices().is_empty()
        });
    }

    fn judge(&self, left: &SimDisk) {
        self.states.fetch_add(1, Ordering::Relaxed);
        let flaw = match open(left, false) {
            Ok(chain) => {
                let flaw = self.model().check(&chain).err().map(|breach| breach.to_string());
                if self.one_in(LOOK_EVERY) {
                    self.looks.fetch_add(1, Ordering::Relaxed);
                    self.found().extend(self.look(&chain).err());
                }
                flaw
            }
            Err(error) => Some(format!("law R: it does not open: {error}")),
        };
        self.found().extend(flaw);
    }

    /// The file system, and the bitmap.
    fn look(&self, chain: &Chain) -> std::result::Result<(), String> {
        let mut now = vec![0; chain.size() as usize];
        chain.read_at(&mut now, 0).expect("read");
        let dirty = chain.image(0).and_then(|image| image.dirty_stretches("daily")).expect("a bitmap");
        unchanged_outside(&dirty, &self.base, &now);
        fs::write(&self.raw, now).expect("written");
        files::repaired(&self.raw)
            .and_then(|()| files::hold(&self.raw, 1..=self.synced()))
            .map_err(|flaw| format!("files: {flaw}"))
    }
}

/// What the sectors hold, at first and for good, that the log writes to.
fn watched(base: &[u8], log: &[Entry]) -> Model {
    let mut windows: Vec<_> = log
        .iter()
        .filter_map(|entry| match entry {
            Entry::Write { offset, data } => Some(offset / 512..(offset + data.len() as u64) / 512),
            _ => None,
        })
        .collect();
    windows.sort_by_key(|window| window.start);
    windows.dedup_by(|next, last| {
        let met = next.start <= last.end;
        last.end = if met { last.end.max(next.end) } else { last.end };
        met
    });
    let mut model = Model::watching(base.len() as u64, windows);
    let ticket = model.begin_write(base, 0);
    model.end_write(ticket);
    model.durable()
}
