//! Bitmaps in a sidecar, of a disk that is also written past them, rolled back, and put together with what it does not
//! belong to.
//!
//! A bitmap that says it can be trusted tells of every byte that differs between the content that its `since` names and the
//! one at hand, whoever wrote it.

use super::files::Files;
use super::span::{Granule, Size, Span};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{BitmapState, State, Uuid};
use crate::image::{BitmapInfo, CreateOptions, Image, NewBitmap, OpenOptions, Trust};
use crate::storage::{Host, MemoryStorage, Storage};
use crate::testing::host::SimHost;
use crate::testing::sector::mix;
use crate::violation::Violation;
use arbitrary::{Arbitrary, Unstructured};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Longer lives tell nothing new.
const MOST_EVENTS: usize = 40;
const NAMES: [&str; 3] = ["daily", "hourly", "other"];
const DISK: &str = "disk";
const SIDECAR: &str = "disk.lvb";

/// A disk with a sidecar, and what happens to the two.
#[derive(Debug)]
pub struct Pair {
    sort: Sort,
    size: Size,
    events: Vec<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Sort {
    /// A raw volume, whole.
    Volume,
    /// A raw volume with its allocation bits in the sidecar too.
    Overlay,
    /// An image.
    Image,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Event {
    Write(Span),
    WriteAgain(Span),
    Zero(Span, bool),
    Flush,
    /// So long that intents which nothing relies on go.
    Wait,
    Verb(u8, Verb),
    /// Another session; false: the process was killed before it.
    Reopen(bool),
    /// Somebody writes to the disk, and does not know of the sidecar.
    Past(Span),
    /// The files are copied.
    Keep,
    /// The copy of the disk, or that of the sidecar, takes its place.
    RollBack {
        sidecar: bool,
    },
    /// It is opened together with something else.
    Mismatch,
    Resize(Size),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Verb {
    Add { granule: Granule, recording: bool },
    Clear,
    Disable,
    Enable,
    Freeze,
    HandOver,
    TakeBack,
    Remove,
}

impl Pair {
    /// What some bytes describe.
    pub fn of(input: &[u8]) -> Option<Pair> {
        let mut input = Unstructured::new(input);
        let (sort, size) = (input.arbitrary().ok()?, input.arbitrary().ok()?);
        let mut events = Vec::new();
        while !input.is_empty() && events.len() < MOST_EVENTS {
            events.extend(input.arbitrary::<Event>());
        }
        Some(Pair { sort, size, events })
    }

    /// Lets it happen.
    ///
    /// # Panics
    /// If a bitmap that can be trusted does not tell of a change, one that cannot claims that it can, or the disk reads
    /// wrong.
    pub fn live(&self) {
        let mut scene = Scene::new(self.sort, self.size.few_bytes());
        for event in &self.events {
            scene.now = format!("{event:?}");
            scene.happen(*event);
            scene.check();
        }
        scene.now = "the end".into();
        scene.reopen(true);
        scene.check();
    }
}

struct Scene {
    sort: Sort,
    files: Files,
    host: Arc<SimHost>,
    disk: Option<Image>,
    content: Vec<u8>,
    /// What was changed since the last flush, and a kill may lose.
    unflushed: Vec<Range<u64>>,
    /// What each `since` names.
    since: BTreeMap<Uuid, Vec<u8>>,
    /// The content up to which a bitmap could be trusted last, by its `since`.
    until: BTreeMap<Uuid, Vec<u8>>,
    /// Disk and sidecar as they were once, and `until` of then: a bitmap that is rolled back speaks of that time.
    kept: Option<(MemoryStorage, MemoryStorage, BTreeMap<Uuid, Vec<u8>>)>,
    /// Nobody has written past the sidecar, or rolled anything back.
    honest: bool,
    written: u64,
    now: String,
}

fn writing() -> OpenOptions {
    OpenOptions { write: true, ..OpenOptions::default() }
}

impl Scene {
    fn new(sort: Sort, size: u64) -> Scene {
        let (mut files, host) = (Files::default(), Arc::new(SimHost::new(1)));
        let (disk, sidecar) = (files.create(DISK), files.create(SIDECAR));
        let options =
            CreateOptions { virtual_size: size, allocation: sort == Sort::Overlay, ..CreateOptions::default() };
        match sort {
            Sort::Volume => disk.set_size(size).and_then(|()| Image::create_beside(&*sidecar, &*disk, &*host)),
            Sort::Overlay => {
                disk.set_size(size).and_then(|()| Image::create_sidecar(&*sidecar, &*disk, &*host, &options))
            }
            Sort::Image => Image::create(&*disk, &*host, &options)
                .and_then(|()| Image::create_beside_image(&*sidecar, &Image::open(disk, host.clone(), &writing())?)),
        }
        .expect("memory takes it");
        let (content, now) = (vec![0; size as usize], String::new());
        let (since, until) = (BTreeMap::new(), BTreeMap::new());
        let (unflushed, kept, honest, written) = (Vec::new(), None, true, 0);
        let mut scene =
            Scene { sort, files, host, disk: None, content, unflushed, since, until, kept, honest, written, now };
        scene.open();
        scene
    }

    fn disk(&self) -> &Image {
        self.disk.as_ref().expect("it is open")
    }

    fn open(&mut self) {
        let opened = self.opened().unwrap_or_else(|error| panic!("{}: {error}", self.now));
        self.disk = Some(opened);
    }

    fn opened(&self) -> Result<Image> {
        let (disk, sidecar) = (self.files.open(DISK, true)?, self.files.open(SIDECAR, true)?);
        if self.sort != Sort::Image {
            let image = Image::open_sidecar(sidecar, disk, self.host.clone(), &writing())?;
            return Ok(image);
        }
        let image = Image::open(disk, self.host.clone(), &writing())?;
        image.attach(Arc::new(Image::open_beside(sidecar, &image, self.host.clone(), &writing())?))?;
        Ok(image)
    }

    fn done<T>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| panic!("{}: {error}", self.now))
    }

    fn range(&self, span: Span) -> Range<u64> {
        span.on(self.content.len() as u64, &[4096, 8192])
    }

    /// Bytes that were never written before.
    fn fresh(&mut self, range: &Range<u64>) -> Vec<u8> {
        self.written += 1;
        range.clone().map(|at| mix(self.written, at / 8).to_le_bytes()[(at % 8) as usize]).collect()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Write(span) | Event::WriteAgain(span) => {
                let range = self.range(span);
                let data = self.fresh(&range);
                self.done(self.disk().write_at(&data, range.start));
                self.content[range.start as usize..range.end as usize].copy_from_slice(&data);
                self.unflushed.push(range);
            }
            Event::Zero(span, unmap) => {
                let range = self.range(span);
                self.done(self.disk().write_zeroes(range.clone(), unmap));
                self.content[range.start as usize..range.end as usize].fill(0);
                self.unflushed.push(range);
            }
            Event::Flush => self.flush(),
            Event::Wait => {
                self.host.sleep(Duration::from_secs(60));
                self.flush();
            }
            Event::Verb(name, verb) => self.verb(NAMES[usize::from(name) % NAMES.len()], verb),
            Event::Reopen(clean) => self.reopen(clean),
            Event::Past(span) => self.past(span),
            Event::Keep => {
                self.reopen(true);
                self.kept = Some((self.files.keep(DISK), self.files.keep(SIDECAR), self.until.clone()));
            }
            Event::RollBack { sidecar } => self.roll_back(sidecar),
            Event::Mismatch => self.mismatch(),
            Event::Resize(size) if self.sort == Sort::Image => {
                self.done(self.disk().resize(size.few_bytes()));
                self.content.resize(size.few_bytes() as usize, 0);
            }
            Event::Resize(_) => {}
        }
    }

    fn flush(&mut self) {
        self.done(self.disk().flush());
        self.unflushed.clear();
    }

    fn reopen(&mut self, clean: bool) {
        if clean {
            self.done(self.disk().close());
            self.unflushed.clear();
        }
        self.disk = None;
        self.open();
        self.adopt();
    }

    /// After a kill what was not flushed is there, or is not.
    fn adopt(&mut self) {
        let mut now = self.read();
        let lost = std::mem::take(&mut self.unflushed);
        std::mem::swap(&mut now, &mut self.content);
        for range in lost {
            let end = (range.end as usize).min(now.len());
            let range = (range.start as usize).min(end)..end;
            now[range.clone()].copy_from_slice(&self.content[range]);
        }
        assert!(now == self.content, "{}: what was flushed is lost", self.now);
    }

    /// What makes no sense is refused; what a bitmap begins or ends with is noted.
    fn verb(&mut self, name: &str, verb: Verb) {
        let before = self.disk().bitmaps().into_iter().find(|info| info.name == name);
        let disk = self.disk();
        let result = match verb {
            Verb::Add { granule, recording } => {
                let new = NewBitmap { granularity_shift: granule.shift(), recording, ..NewBitmap::default() };
                disk.add_bitmap(name, &new).map(Some)
            }
            Verb::Clear => disk.clear_bitmap(name, None).map(Some),
            Verb::Disable => disk.disable_bitmap(name).map(|()| None),
            Verb::Enable => disk.enable_bitmap(name).map(|()| None),
            Verb::Freeze => disk.freeze_bitmap(name, None).map(Some),
            Verb::HandOver => disk.hand_over_bitmap(name).map(|()| None),
            Verb::TakeBack => disk.take_back_bitmap(name).map(|()| None),
            Verb::Remove => disk.remove_bitmap(name).map(|()| None),
        };
        match result {
            Ok(since) => {
                assert_eq!(before.is_some(), !matches!(verb, Verb::Add { .. }), "{}: not refused", self.now);
                self.since.extend(since.map(|since| (since, self.content.clone())));
            }
            Err(error) => {
                assert!(matches!(error, Error::Invalid(_) | Error::Denied(_)), "{}: {error}", self.now);
                let simple = matches!(verb, Verb::Clear | Verb::Remove | Verb::Freeze);
                let fresh = before.as_ref().is_some_and(|info| info.state == BitmapState::Recording);
                assert!(!(simple && fresh && self.honest), "{}: refused: {error}", self.now);
            }
        }
    }

    /// A session of the sidecar may be open after a kill, and of such a one nothing tells whether somebody else wrote
    /// to the volume since (EPO-07).
    fn nothing_tells(&self) -> bool {
        let sidecar = self.done(self.files.open(SIDECAR, false));
        self.sort != Sort::Image && self.done(Image::read_header(&*sidecar)).state != State::Closed
    }

    fn past(&mut self, span: Span) {
        self.reopen(false);
        self.disk = None;
        let range = self.range(span);
        if !range.is_empty() && !self.nothing_tells() {
            let data = self.fresh(&range);
            let file = self.done(self.files.open(DISK, true));
            if self.sort == Sort::Image {
                let image = self.done(Image::open(file, self.host.clone(), &writing()));
                self.done(image.write_at(&data, range.start));
                if self.written.is_multiple_of(2) {
                    self.done(image.close());
                }
            } else {
                self.done(file.write_at(&data, range.start));
            }
            self.honest = false;
        }
        self.open();
        self.content = self.read();
    }

    fn roll_back(&mut self, sidecar: bool) {
        let Some((disk, beside, until)) = self.kept.take() else { return };
        self.reopen(false);
        self.disk = None;
        if !self.nothing_tells() {
            if sidecar {
                self.files.put_back(SIDECAR, &beside);
                self.until.clone_from(&until);
            } else {
                self.files.put_back(DISK, &disk);
            }
            self.honest = false;
        }
        self.kept = Some((disk, beside, until));
        self.open();
        self.content = self.read();
    }

    /// What does not belong together is refused, and is what it was.
    fn mismatch(&mut self) {
        let clean = self.written.is_multiple_of(2);
        self.reopen(clean);
        let (sidecar, host) = (self.done(self.files.open(SIDECAR, true)), self.host.clone());
        let other = Arc::new(MemoryStorage::new("other"));
        let options = CreateOptions { virtual_size: 4096, ..CreateOptions::default() };
        self.done(Image::create(&*other, &*host, &options));
        let image = self.done(Image::open(other.clone(), host.clone(), &writing()));
        let beside = Image::open_beside(sidecar.clone(), &image, host.clone(), &writing()).map(drop);
        let alone = Image::open(sidecar.clone(), host.clone(), &writing()).map(drop);
        assert!(matches!(alone, Err(Error::Denied(_))), "{}: SID-07: {alone:?}", self.now);
        let short = Arc::new(MemoryStorage::new("short"));
        let with = Image::open_sidecar(sidecar, short.clone(), host, &writing()).map(drop);
        match self.sort {
            Sort::Image => {
                let rule = beside.as_ref().err().and_then(Error::violation);
                assert_eq!(rule, Some(Violation::SidecarOfImage), "{}: {beside:?}", self.now);
                assert!(matches!(with, Err(Error::Denied(_))), "{}: SID-05: {with:?}", self.now);
            }
            _ => {
                assert!(matches!(beside, Err(Error::Denied(_))), "{}: SID-05: {beside:?}", self.now);
                let rule = with.as_ref().err().and_then(Error::violation);
                let fits = self.content.is_empty();
                assert_eq!(rule, (!fits).then_some(Violation::HostLength), "{}: {with:?}", self.now);
            }
        }
        assert_eq!(self.done(short.size()), 0);
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0xaa; self.disk().size() as usize];
        self.done(self.disk().read_at(&mut bytes, 0));
        bytes
    }

    fn check(&mut self) {
        assert!(self.read() == self.content, "{}: the disk reads wrong", self.now);
        let report = self.done(self.disk().check());
        assert!(report.findings.is_empty(), "{}: {:?}", self.now, report.findings);
        for info in self.disk().bitmaps() {
            assert_eq!(info.broken, None, "{}", self.now);
            if info.trust == Trust::Valid {
                self.until.insert(info.since, self.content.clone());
            }
            self.check_bitmap(&info);
        }
    }

    fn check_bitmap(&self, info: &BitmapInfo) {
        let (name, since) = (&info.name, &self.since[&info.since]);
        let (mut at, size) = (0, self.disk().size());
        let mut dirty = Vec::new();
        while at < size {
            let (set, end) = self.done(self.disk().bitmap_run(name, at, size));
            assert!(end > at && end <= size, "{}: {name}: a run from {at} to {end}", self.now);
            dirty.resize(end as usize, set);
            at = end;
        }
        let until = match info.trust {
            Trust::Valid | Trust::MissedWrites => self.until.get(&info.since).unwrap_or(since),
            Trust::Stale => {
                assert!(dirty.iter().all(|dirty| *dirty), "{}: {name}: stale, and not all dirty", self.now);
                assert!(!self.honest, "{}: {name}: stale, and nobody wrote past it", self.now);
                return;
            }
        };
        let byte = |content: &Vec<u8>, at| content.get(at).copied().unwrap_or(0);
        let untold = (0..dirty.len()).find(|&at| !dirty[at] && byte(since, at) != byte(until, at));
        assert_eq!(untold, None, "{}: {name}, {:?}: a byte that changed is not dirty", self.now, info.trust);
        let records = info.state != BitmapState::Disabled;
        assert!(!records || info.trust == Trust::Valid, "{}: {name}: {:?}", self.now, info.trust);
    }
}
