//! Backups beside a guest: in every state that a crash leaves, the newest backup that the bitmap fits and what the bitmap
//! has dirty make the disk.

use super::files::{BLOCK, SIZE, hint, look};
use super::live::guest;
use crate::device::{BlockDevice, Extent, ExtentKind};
use crate::error::{Error, Result};
use crate::format::Point;
use crate::image::{CreateOptions, Image, NewBitmap};
use crate::jobs::Job;
use crate::live::{BackupOptions, BackupPlan, Disk};
use crate::testing::crash::Scenario;
use crate::testing::laws::Opened;
use crate::testing::model::Model;
use crate::testing::sim::SimDisk;
use crate::testing::world::World;
use std::ops::Range;
use std::sync::Arc;

const OPTIONS: BackupOptions<'_> = BackupOptions { bitmap: Some("daily"), granularity: BLOCK };

/// A disk, a full backup of it, and an incremental one while the guest goes on.
pub(super) const INCREMENTAL: Scenario = Scenario {
    name: "live backup",
    setup: |w| {
        w.create("top.lvd", SIZE)?;
        w.view("top", restored, Model::zeros(SIZE), false);
        let disk = Disk::new(w.open("top.lvd")?);
        w.write("top", &*disk, 0..2 * BLOCK)?;
        let since = w.bitmap_point("top");
        let new = NewBitmap { granularity_shift: 12, since: Some(since), ..NewBitmap::default() };
        disk.chain().image(0)?.add_bitmap("daily", &new)?;
        let create = CreateOptions { virtual_size: SIZE, copy_mark: true, ..CreateOptions::default() };
        Image::create(&*w.file("full.lvd")?, &*w.host, &create)?;
        let target = w.open_marked("full.lvd")?;
        let job = disk.still().backup(&BackupPlan::Full { target: &target, fresh: true }, &OPTIONS)?;
        while !job.step(SIZE)?.finished {}
        drop(job);
        target.close()?;
        w.durable("top", || disk.close())?;
        w.promise("top");
        Ok(())
    },
    body: incremental,
    recover: |w| {
        if newest(&w.disk).is_ok_and(|name| name == "next.lvd") {
            w.promise("next");
        } else {
            w.forget("next");
            incremental(w)?;
        }
        w.carry_on("top", "top.lvd")
    },
};

fn incremental(w: &mut World) -> Result<()> {
    let disk = Disk::new(w.open("top.lvd")?);
    w.write("top", &*disk, 2 * BLOCK + 512..3 * BLOCK)?;
    let copied = copy(w, &disk);
    // One that failed costs the guest nothing.
    guest(w, "top", &disk, 0)?;
    w.durable("top", || disk.close())?;
    copied
}

fn copy(w: &mut World, disk: &Arc<Disk>) -> Result<()> {
    let below = super::files::chain(&w.disk, w.host.clone(), "full.lvd", false, None)?;
    let parent = Some(below.layers[0].link(SIZE, hint("full.lvd"))?);
    drop(below);
    let create = CreateOptions { virtual_size: SIZE, copy_mark: true, parent, ..CreateOptions::default() };
    Image::create(&*w.file("next.lvd")?, &*w.host, &create)?;
    let target = w.open_marked("next.lvd")?;
    // The content of this instant, whether the guest ever flushes it or not.
    let model = w.model("top").unwrap_or_else(|| Model::zeros(SIZE)).durable();
    w.view("next", |disk| look(disk, "next.lvd"), model, false);
    let plan = BackupPlan::Incremental { target: &target, dirty: "daily", since: None };
    w.disk.note("backup", 0..0);
    let job: Job = disk.still().backup(&plan, &OPTIONS)?;
    for turn in 0.. {
        guest(w, "top", disk, turn)?;
        w.disk.note("job steps", 0..0);
        if job.step(4 * BLOCK)?.finished {
            break;
        }
    }
    w.disk.note("job reports its end", 0..0);
    w.promise("next");
    w.point();
    drop(job);
    target.close()
}

/// The backup that fits what the bitmap tells.
fn newest(disk: &SimDisk) -> Result<&'static str> {
    let image = look(disk, "top.lvd")?.image.ok_or_else(|| Error::Invalid("no image".into()))?;
    let point = Point { source: image.uuid(), point: image.bitmap("daily")?.since };
    let fits = |name: &&str| {
        let header = look(disk, name).ok().and_then(|opened| opened.header);
        header.is_some_and(|header| header.points.first() == Some(&point))
    };
    let found = ["next.lvd", "full.lvd"].into_iter().find(fits);
    found.ok_or_else(|| Error::Invalid("no backup is the one that the bitmap tells of changes since".into()))
}

/// What a restore of that backup makes of the disk, with what is dirty put on top.
fn restored(disk: &SimDisk) -> Result<Opened> {
    let top = look(disk, "top.lvd")?;
    let backup = look(disk, newest(disk)?)?.device;
    let dirty = top.image.as_ref().map_or(Ok(Vec::new()), |image| image.dirty_stretches("daily"))?;
    Ok(Opened { device: Arc::new(Restored { top: top.device, backup, dirty }), ..top })
}

/// A disk that is read from `top` where it is dirty, and from a backup elsewhere.
#[derive(Debug)]
struct Restored {
    top: Arc<dyn BlockDevice>,
    backup: Arc<dyn BlockDevice>,
    dirty: Vec<Range<u64>>,
}

impl BlockDevice for Restored {
    fn size(&self) -> u64 {
        self.top.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.backup.read_at(buffer, offset)?;
        let end = offset + buffer.len() as u64;
        for range in &self.dirty {
            let meet = offset.max(range.start)..end.min(range.end);
            if meet.start < meet.end {
                let part = (meet.start - offset) as usize..(meet.end - offset) as usize;
                self.top.read_at(&mut buffer[part], meet.start)?;
            }
        }
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        Err(Error::Denied("it is for looking".into()))
    }

    fn write_zeroes(&self, _: Range<u64>, _: bool) -> Result<()> {
        Err(Error::Denied("it is for looking".into()))
    }

    fn discard(&self, _: Range<u64>) -> Result<()> {
        Err(Error::Denied("it is for looking".into()))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        Ok(Extent { range: offset..end, kind: ExtentKind::Data, present: true, depth: 0, place: None })
    }
}
