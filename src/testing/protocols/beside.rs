//! An image and two sidecars with a bitmap each: sessions with some of them and without, killed, rolled back
//! (`spec/bitmaps.md`, sections 5 and 7).
//!
//! Whichever are opened together, a bitmap that says that it can be trusted tells of every change since its `since`. And it
//! can be trusted as long as each session that wrote was told of it, and nothing was rolled back.

use super::{beginning, begun, fingerprint, judged, losses, on_a_world};

use crate::error::Result;
use crate::image::{Image, NewBitmap, OpenOptions};
use crate::limits::SLOTS_END;
use crate::storage::Host;
use crate::sync::Arc;
use crate::testing::crash::Scenario;
use crate::testing::explore::Protocol;
use crate::testing::file::Content;
use crate::testing::host::SimHost;
use crate::testing::laws::Opened;
use crate::testing::model::{Breach, Model};
use crate::testing::pending::Loss;
use crate::testing::scenarios::files::BLOCK;
use crate::testing::sim::{Fault, SimDisk};
use crate::testing::world::World;
use std::time::Duration;

/// One block, which a bitmap has clean, or dirty.
const SIZE: u64 = BLOCK;
const DISK: &str = "disk.lvd";
/// Each with a bitmap of the same name.
const SIDECARS: [&str; 2] = ["a", "b"];
/// Longer than intents stay that nothing relies on.
const LONG: Duration = Duration::from_secs(60);

const BEGINNING: Scenario = beginning("sidecars", |w| {
    w.create(DISK, SIZE)?;
    w.view("disk", looked_at, Model::zeros(SIZE), true);
    w.disk.set_payload(DISK, w.header(DISK).map_or(0..0, |header| header.data_offset..u64::MAX));
    let image = Image::open(w.disk.open(DISK, true)?, w.host.clone(), &writing())?;
    for name in SIDECARS {
        Image::create_beside_image(&*w.file(name)?, &image)?;
        let sidecar = Image::open_beside(w.disk.open(name, true)?, &image, w.host.clone(), &writing())?;
        image.attach(Arc::new(sidecar))?;
        let since = Some(w.bitmap_point("disk"));
        image.add_bitmap(name, &NewBitmap { granularity_shift: 12, since, ..NewBitmap::default() })?;
        w.promise_bitmap("disk", name);
    }
    w.durable("disk", || image.close())
});

fn writing() -> OpenOptions {
    OpenOptions { write: true, ..OpenOptions::default() }
}

/// Opens the image with both sidecars.
fn looked_at(disk: &SimDisk) -> Result<Opened> {
    let image = Arc::new(opened(disk, Arc::new(SimHost::new(0)), [true; 2], false)?);
    Ok(Opened { header: Some(image.header()), device: image.clone(), image: Some(image) })
}

fn opened(disk: &SimDisk, host: Arc<SimHost>, with: [bool; 2], write: bool) -> Result<Image> {
    let options = OpenOptions { write, ..OpenOptions::default() };
    let image = Image::open(disk.open(DISK, write)?, host.clone(), &options)?;
    for (name, _) in SIDECARS.into_iter().zip(with).filter(|(_, with)| *with) {
        image.attach(Arc::new(Image::open_beside(disk.open(name, write)?, &image, host.clone(), &options)?))?;
    }
    Ok(image)
}

/// The world of an image and its sidecars.
pub struct Beside {
    w: World,
    session: Option<Session>,
    /// Files as they were once: the image and what it then held, and the sidecars.
    kept: Option<Kept>,
}

struct Session {
    image: Arc<Image>,
    with: [bool; 2],
    written: bool,
    flushed: bool,
}

struct Kept {
    files: [Arc<Content>; 3],
    model: Model,
}

/// What can happen.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A session of the image, with these sidecars.
    Open(bool, bool),
    /// The guest writes.
    Write,
    /// The guest flushes.
    Flush,
    /// The same, so late that intents go that nothing relies on.
    Wait,
    /// The bitmap of the first sidecar begins anew.
    Clear,
    /// It is closed.
    Close,
    /// The process dies.
    Kill,
    /// Power is lost.
    Lose(Loss),
    /// All files are copied.
    Keep,
    /// The copy of a file takes its place: 0 is the image.
    RollBack(u8),
}

impl Beside {
    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("events of a session are offered where there is one")
    }

    /// The image, which is about to have a new epoch. Who is not told of that is stale.
    fn changing(&mut self) -> Arc<Image> {
        let (image, with) = (self.session().image.clone(), self.session().with);
        for (name, _) in SIDECARS.into_iter().zip(with).filter(|(_, with)| !with) {
            self.w.forget_bitmap("disk", name);
        }
        image
    }

    fn roll_back(&mut self, file: u8) {
        let Some(kept) = &self.kept else { return };
        let names = [DISK, SIDECARS[0], SIDECARS[1]];
        let file = usize::from(file);
        self.w.disk.put(names[file], &kept.files[file]);
        SIDECARS.iter().for_each(|name| self.w.forget_bitmap("disk", name));
        if file == 0 {
            self.w.rolled_back("disk", kept.model.clone());
        }
        // Once is enough.
        self.kept = None;
    }
}

impl Protocol for Beside {
    type Event = Event;
    const NAME: &'static str = "sidecars";

    fn begin() -> Result<Beside> {
        Ok(Beside { w: begun(&BEGINNING)?, session: None, kept: None })
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        match &self.session {
            None => {
                let which = [false, true].into_iter().flat_map(|a| [false, true].map(|b| Event::Open(a, b)));
                events.extend(which);
                match self.kept {
                    None if self.w.disk.pending().choices().is_empty() => events.push(Event::Keep),
                    None => {}
                    Some(_) => events.extend((0..3).map(Event::RollBack)),
                }
            }
            Some(session) => {
                events.extend([Event::Flush, Event::Wait, Event::Close, Event::Kill]);
                events.extend((!session.written).then_some(Event::Write));
                events.extend(session.with[0].then_some(Event::Clear));
            }
        }
        events.extend(losses(&self.w).iter().map(|loss| Event::Lose(*loss)));
        events
    }

    fn happen(&mut self, event: Event) -> Result<bool> {
        match event {
            Event::Open(a, b) => {
                let image = Arc::new(opened(&self.w.disk, self.w.host.clone(), [a, b], true)?);
                self.w.read("disk", &*image);
                self.session = Some(Session { image, with: [a, b], written: false, flushed: false });
            }
            Event::Write => {
                let image = self.changing();
                self.w.write("disk", &*image, 0..512)?;
                self.session().written = true;
            }
            Event::Flush | Event::Wait => {
                if matches!(event, Event::Wait) {
                    self.w.host.sleep(LONG);
                }
                let image = self.session().image.clone();
                self.w.flush("disk", &*image)?;
                (self.session().written, self.session().flushed) = (false, true);
            }
            Event::Clear => {
                let (image, name) = (self.changing(), SIDECARS[0]);
                let since = self.w.bitmap_point("disk");
                self.w.durable("disk", || image.clear_bitmap(name, Some(since)))?;
                self.session().written = false;
                self.w.forget_bitmap("disk", name);
                self.w.promise_bitmap("disk", name);
            }
            Event::Close => {
                let image = self.changing();
                self.w.durable("disk", || image.close())?;
                self.session = None;
            }
            Event::Kill => {
                self.session = None;
                self.w.die(Fault::None);
            }
            Event::Lose(loss) => {
                self.session = None;
                self.w.lose(loss);
            }
            Event::Keep => {
                let cached = |name| self.w.disk.cached(name).expect("it was made");
                let files = [DISK, SIDECARS[0], SIDECARS[1]].map(cached);
                let model = self.w.model("disk").expect("it has a view").durable();
                self.kept = Some(Kept { files, model });
            }
            Event::RollBack(file) => self.roll_back(file),
        }
        Ok(true)
    }

    fn can_be_cut(event: Event) -> bool {
        matches!(event, Event::Write | Event::Clear | Event::Close)
    }

    fn laws(&self, seen: bool) -> std::result::Result<(), Breach> {
        judged(&self.w, seen)
    }

    fn fingerprint(&self) -> u64 {
        let mut print = fingerprint(&self.w);
        if let Some(kept) = &self.kept {
            let payload = [SLOTS_END, u64::MAX, u64::MAX].map(|start| start..u64::MAX);
            kept.files.iter().zip(payload).for_each(|(file, payload)| print.file(file, &payload));
        }
        if let Some(session) = &self.session {
            let flags = [session.with[0], session.with[1], session.written, session.flushed];
            print.number(flags.into_iter().fold(1, |bits, flag| bits << 1 | u64::from(flag)));
            print.image(&session.image);
        }
        print.end()
    }

    on_a_world!(session = None);
}
