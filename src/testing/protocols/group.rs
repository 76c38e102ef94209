//! Two disks that move to their copies at once, by a file that holds the decision (`spec/groups.md`).
//!
//! With the group's file each disk opens for writing on exactly one side, both on the same, and holds all that its guest
//! flushed. Without it, of no disk do both sides open, and what opens is right; a marked one is refused.

use super::{beginning, begun, fingerprint, judged, losses, on_a_world};
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::Decision;
use crate::image::Image;
use crate::live::{Disk, LiveMirror, Move, pivot_together};
use crate::sync::Arc;
use crate::testing::crash::Scenario;
use crate::testing::explore::Protocol;
use crate::testing::model::Breach;
use crate::testing::pending::Loss;
use crate::testing::scenarios::files::{BLOCK, GROUP, MOVING, VIEWS, open_moving};
use crate::testing::scenarios::live::OPTIONS;
use crate::testing::sim::{Fault, SimDisk};
use crate::testing::world::World;

/// One block each.
const SIZE: u64 = BLOCK;
const BEGINNING: Scenario = beginning("group", |w| w.with_group(SIZE));

/// The world of a group.
pub struct Group {
    w: World,
    /// What serves the disks, in the order of [`MOVING`].
    served: [Option<Served>; 2],
    /// Somebody has lost the group's file.
    lost: bool,
}

struct Served {
    disk: Arc<Disk>,
    mirror: Option<Arc<LiveMirror>>,
    written: bool,
    flushed: bool,
    /// It takes nothing any more: perhaps it has moved.
    in_doubt: bool,
}

/// What can happen.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// The guest of a disk writes.
    Write(u8),
    /// It flushes.
    Flush(u8),
    /// All guests move.
    Move,
    /// They are to move, and the barrier on the decision fails: nobody knows.
    MoveFails,
    /// A mirror is given up.
    Abandon(u8),
    /// A disk is closed.
    Close(u8),
    /// A disk is opened for writing.
    Open(u8),
    /// All processes die.
    Kill,
    /// Power is lost.
    Lose(Loss),
    /// The group's file goes.
    LoseFile,
}

impl Group {
    fn served(&mut self, number: u8) -> &mut Served {
        self.served[usize::from(number)].as_mut().expect("what is offered is of a disk that is served")
    }

    fn mirrors(&self) -> bool {
        self.served.iter().all(|served| served.as_ref().is_some_and(|served| served.mirror.is_some()))
    }

    fn go_together(&mut self) -> Result<()> {
        let moves: Vec<Move> = self
            .served
            .iter()
            .flatten()
            .filter_map(|served| Some(Move { disk: served.disk.clone(), mirror: served.mirror.clone()? }))
            .collect();
        let moved = pivot_together(&moves, self.w.file(GROUP)?)?;
        moved.left.iter().try_for_each(|chain| chain.close())?;
        for ((view, open), served) in VIEWS.into_iter().zip(self.served.iter_mut().flatten()) {
            let model = self.w.model(view).expect("each has a view").durable();
            self.w.view(view, open, model, true);
            served.mirror = None;
            served.written = false;
        }
        moved.marks
    }

    /// The file that opens for writing by whatever there is of the group.
    fn place(&self, number: u8) -> Option<&'static str> {
        MOVING[usize::from(number)].into_iter().find(|name| open_moving(&self.w.disk, name).is_ok())
    }

    /// Without its file nobody is on two sides, and nobody on the wrong one.
    fn one_side(&self) -> std::result::Result<(), Breach> {
        for loss in Loss::EACH {
            let disk = self.w.disk.after_loss(loss);
            if disk.exists(GROUP) {
                disk.remove(GROUP);
            }
            for ((view, _), sides) in VIEWS.into_iter().zip(MOVING) {
                let open: Vec<Chain> = sides.into_iter().filter_map(|name| open_moving(&disk, name).ok()).collect();
                if open.len() > 1 {
                    return Err(Breach::new('X', format!("{view} is open on both sides after a loss ({loss:?})")));
                }
                let model = self.w.model(view).expect("each has a view");
                open.iter().try_for_each(|chain| model.check(chain).map(drop))?;
            }
        }
        Ok(())
    }
}

/// Whether the page cache shows that the group has moved.
fn decided(disk: &SimDisk) -> bool {
    let header = disk.open(GROUP, false).and_then(|file| Image::read_header(&*file));
    header.is_ok_and(|header| header.decision == Some(Decision::Moved))
}

impl Protocol for Group {
    type Event = Event;
    const NAME: &'static str = "group";

    fn begin() -> Result<Group> {
        let mut w = begun(&BEGINNING)?;
        let mut serve = |view: &str, [source, target]: [&str; 2]| -> Result<Option<Served>> {
            let disk = Disk::new(w.open(source)?);
            let mirror = disk.mirror_with(w.open_marked(target)?, &OPTIONS)?;
            while !mirror.step(BLOCK)?.ready {}
            w.read(view, &*disk);
            Ok(Some(Served { disk, mirror: Some(mirror), written: false, flushed: false, in_doubt: false }))
        };
        let served = [serve("one", MOVING[0])?, serve("two", MOVING[1])?];
        Ok(Group { w, served, lost: false })
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (number, served) in (0u8..).zip(&self.served) {
            match served {
                None => events.push(Event::Open(number)),
                Some(served) if served.in_doubt => {}
                Some(served) => {
                    events.push(if served.written { Event::Flush(number) } else { Event::Write(number) });
                    events.push(if served.mirror.is_some() { Event::Abandon(number) } else { Event::Close(number) });
                }
            }
        }
        if self.mirrors() && !self.w.disk.exists(GROUP) && !self.lost {
            events.extend([Event::Move, Event::MoveFails]);
        }
        if self.served.iter().any(Option::is_some) {
            events.push(Event::Kill);
        } else if self.w.disk.exists(GROUP) {
            events.push(Event::LoseFile);
        }
        events.extend(losses(&self.w).iter().map(|loss| Event::Lose(*loss)));
        events
    }

    fn happen(&mut self, event: Event) -> Result<bool> {
        match event {
            Event::Write(number) | Event::Flush(number) => {
                let (view, disk) = (VIEWS[usize::from(number)].0, self.served(number).disk.clone());
                let writes = matches!(event, Event::Write(_));
                if writes {
                    self.w.write(view, &*disk, 512..1024)?;
                } else {
                    self.w.flush(view, &*disk)?;
                    self.served(number).flushed = true;
                }
                self.served(number).written = writes;
            }
            Event::Move => self.go_together()?,
            Event::MoveFails => {
                self.w.disk.observe(Some(Arc::new(|disk: &SimDisk| {
                    if decided(disk) && !disk.fired() {
                        disk.arm(Fault::FailSync(1));
                    }
                })));
                let moved = self.go_together();
                self.w.disk.observe(None);
                self.w.disk.arm(Fault::None);
                if moved.is_ok() {
                    return Err(Error::Invalid("a decision that failed was none".into()));
                }
                for served in self.served.iter_mut().flatten() {
                    served.in_doubt = served.disk.write_at(&[], 0).is_err();
                }
            }
            Event::Abandon(number) => {
                let served = self.served(number);
                if let Some(mirror) = served.mirror.take() {
                    served.disk.abandon(&mirror)?;
                }
            }
            Event::Close(number) => {
                let served = self.served[usize::from(number)].take();
                let view = VIEWS[usize::from(number)].0;
                served.map_or(Ok(()), |served| self.w.durable(view, || served.disk.close()))?;
            }
            Event::Open(number) => {
                let view = VIEWS[usize::from(number)].0;
                let Some(name) = self.place(number) else { return Ok(false) };
                let disk = Disk::new(self.w.open(name)?);
                self.w.read(view, &*disk);
                self.served[usize::from(number)] =
                    Some(Served { disk, mirror: None, written: false, flushed: false, in_doubt: false });
            }
            Event::Kill => {
                self.served = [None, None];
                self.w.die(Fault::None);
            }
            Event::Lose(loss) => {
                self.served = [None, None];
                self.w.lose(loss);
            }
            Event::LoseFile => {
                self.w.disk.remove(GROUP);
                VIEWS.iter().for_each(|(view, _)| self.w.refusable(view));
                self.lost = true;
            }
        }
        Ok(true)
    }

    fn can_be_cut(event: Event) -> bool {
        matches!(event, Event::Move | Event::Open(_) | Event::Write(_))
    }

    fn laws(&self, seen: bool) -> std::result::Result<(), Breach> {
        judged(&self.w, seen)?;
        if seen { Ok(()) } else { self.one_side() }
    }

    fn fingerprint(&self) -> u64 {
        let mut print = fingerprint(&self.w);
        print.number(self.lost.into());
        for served in &self.served {
            print.number(served.is_some().into());
            let Some(served) = served else { continue };
            print.number(u64::from(served.written) | u64::from(served.flushed) << 1 | u64::from(served.in_doubt) << 2);
            print.chain(&served.disk.chain());
            if let Some(mirror) = &served.mirror {
                print.number(mirror.progress().behind + 1);
            }
        }
        print.end()
    }

    on_a_world!(served = [None, None]);
}
