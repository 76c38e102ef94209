//! Two disks that move to their copies at once, while their guests write.

use super::files::{BLOCK, MOVING, VIEWS, side};
use super::live::OPTIONS;
use crate::error::Result;
use crate::live::{Disk, Move, pivot_together};
use crate::testing::crash::Scenario;
use crate::testing::model::Model;
use crate::testing::world::World;

/// A block and an odd rest.
const SIZE: u64 = BLOCK + 1000;

/// At every moment each disk is on one side, both on the same, with all that its guest has flushed.
pub(super) const GROUP_PIVOT: Scenario = Scenario {
    name: "live pivot of a group",
    setup: |w| w.with_group(SIZE),
    body,
    recover: |w| {
        for ((view, _), name) in VIEWS.into_iter().zip(side(&w.disk)?) {
            let chain = w.open(name)?;
            w.read(view, &chain);
            w.write(view, &chain, 0..512)?;
            w.durable(view, || chain.close())?;
        }
        Ok(())
    },
};

fn body(w: &mut World) -> Result<()> {
    let mut moves = Vec::new();
    for ((view, _), [source, target]) in VIEWS.into_iter().zip(MOVING) {
        let disk = Disk::new(w.open(source)?);
        let mirror = disk.mirror_with(w.open_marked(target)?, &OPTIONS)?;
        while !mirror.step(2 * BLOCK)?.ready {}
        w.write(view, &*disk, 512..1024)?;
        w.flush(view, &*disk)?;
        w.write(view, &*disk, SIZE - 700..SIZE)?;
        moves.push(Move { disk, mirror });
    }
    w.disk.note("the group moves", 0..0);
    let moved = pivot_together(&moves, w.file(super::files::GROUP)?);
    if moved.is_ok() {
        for (view, open) in VIEWS {
            let model = w.model(view).unwrap_or_else(|| Model::zeros(SIZE)).durable();
            w.view(view, open, model, true);
        }
    }
    w.disk.note("the guests go on", 0..0);
    for (Move { disk, mirror }, (view, _)) in moves.iter().zip(VIEWS) {
        w.write(view, &**disk, BLOCK..BLOCK + 512)?;
        w.flush(view, &**disk)?;
        if moved.is_err() {
            disk.abandon(mirror)?;
        }
    }
    for (Move { disk, .. }, (view, _)) in moves.iter().zip(VIEWS) {
        w.durable(view, || disk.close())?;
    }
    let moved = moved?;
    moved.left.iter().try_for_each(|chain| chain.close())?;
    moved.marks
}
