//! The simulator on a store small enough to judge by eye: one block in two places, and a pointer to the valid one.

use super::crash::{Explorer, Limits, Scenario};
use super::laws::Opened;
use super::model::Model;
use super::sim::{SimDisk, SimStorage};
use super::world::World;
use crate::device::{BlockDevice, Extent};
use crate::error::Result;
use crate::storage::Storage;
use std::ops::Range;
use std::sync::Arc;

const BLOCK: u64 = 2048;

/// What a toy leaves out.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Without {
    Nothing,
    DataBarrier,
    PointerBarrier,
    DirectoryEntry,
    Poison,
}

/// Sector 0 holds the number of the valid place; the places are at 2048 and 4096.
#[derive(Debug)]
struct Toy {
    file: Arc<SimStorage>,
    without: Without,
}

impl Toy {
    fn place(&self) -> Result<u64> {
        let mut pointer = [0; 8];
        self.file.read_at(&mut pointer, 0)?;
        Ok(u64::from_le_bytes(pointer))
    }
}

impl BlockDevice for Toy {
    fn size(&self) -> u64 {
        BLOCK
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(buffer, BLOCK * (1 + self.place()?) + offset)
    }

    /// All of the block at once.
    fn write_at(&self, data: &[u8], _: u64) -> Result<()> {
        let other = 1 - self.place()?;
        self.file.write_at(data, BLOCK * (1 + other))?;
        if self.without != Without::DataBarrier {
            let synced = self.file.sync();
            if self.without == Without::Poison { synced.or_else(|_| self.file.sync())? } else { synced? }
        }
        self.file.write_at(&other.to_le_bytes(), 0)?;
        // The other place is free only then.
        if self.without != Without::PointerBarrier {
            self.file.sync()?;
        }
        Ok(())
    }

    fn write_zeroes(&self, _: Range<u64>, _: bool) -> Result<()> {
        unimplemented!("not in the toy")
    }

    fn discard(&self, _: Range<u64>) -> Result<()> {
        unimplemented!("not in the toy")
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent(&self, _: u64, _: u64) -> Result<Extent> {
        unimplemented!("not in the toy")
    }
}

fn open(disk: &SimDisk) -> Result<Opened> {
    Ok(Opened {
        device: Arc::new(Toy { file: disk.open("toy", false)?, without: Without::Nothing }),
        header: None,
        image: None,
    })
}

fn run(world: &mut World, without: Without) -> Result<()> {
    let file = if world.disk.exists("toy") { world.disk.open("toy", true)? } else { world.disk.create("toy")? };
    // An earlier process may have been killed, or have seen a barrier fail: all of it is written again.
    let mut pointer = [0; 512];
    file.read_at(&mut pointer, 0)?;
    file.write_at(&pointer, 0)?;
    file.set_size(3 * BLOCK)?;
    file.sync()?;
    if without != Without::DirectoryEntry {
        file.sync_directory()?;
    }
    world.disk.set_payload("toy", BLOCK..3 * BLOCK);
    world.promise("toy");
    let toy = Toy { file: world.disk.open("toy", true)?, without };
    for _ in 0..3 {
        world.write("toy", &toy, 0..BLOCK)?;
        world.flush("toy", &toy)?;
    }
    world.read("toy", &toy);
    Ok(())
}

fn setup(world: &mut World) -> Result<()> {
    world.view("toy", open, Model::zeros(BLOCK), false);
    Ok(())
}

macro_rules! toy {
    ($name:literal $without:expr) => {{
        const SCENARIO: Scenario =
            Scenario { name: $name, setup, body: |w| run(w, $without), recover: |w| run(w, $without) };
        Explorer::explore(&SCENARIO, Limits { recovery_period: 4, ..Limits::USUAL })
    }};
}

#[test]
fn a_sound_store_breaks_no_law() {
    let report = toy!("toy" Without::Nothing);
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    assert!(report.exhaustive * 10 > report.points * 9, "{report:?}");
    assert!(report.recoveries > 10 && report.disks > 100, "{report:?}");
}

#[test]
fn each_missing_barrier_is_found_and_walked_to_again() {
    const BROKEN: Scenario = Scenario {
        name: "broken",
        setup,
        body: |w| run(w, Without::DataBarrier),
        recover: |w| run(w, Without::DataBarrier),
    };
    let report = Explorer::explore(&BROKEN, Limits::SEARCH);
    assert_eq!(report.findings.len(), 1);
    let first = &report.findings[0];
    assert_eq!(first.breach.law, 'O', "{first}");
    let again = Explorer::replay(&[&BROKEN], &first.path).expect("the path is one of this scenario");
    assert_eq!(again.findings[0].breach.what, first.breach.what);

    assert!(!toy!("no pointer barrier" Without::PointerBarrier).findings.is_empty());
    assert!(toy!("no entry" Without::DirectoryEntry).findings.iter().any(|finding| finding.breach.law == 'R'));
}

#[test]
fn who_tries_a_failed_barrier_again_is_found() {
    let report = toy!("barrier tried again" Without::Poison);
    for fault in ["eio", "revert", "late"] {
        let of_fault = format!("barrier tried again/{fault}");
        let mut of_fault = report.findings.iter().filter(|finding| finding.path.starts_with(&of_fault));
        assert!(of_fault.any(|finding| finding.breach.law == 'F'), "{fault}");
    }
}
