//! Disks that grow and shrink.

use super::files::{BLOCK, SIZE, note_payload, top};
use super::guest::overlay;
use crate::chain::Chain;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::{Header, Kind, Section, SectionKind, Uuid};
use crate::limits::SLOT_SIZE;
use crate::storage::{Host, Storage};
use crate::testing::crash::Scenario;
use crate::testing::model::Model;
use crate::testing::world::World;

/// A complete image shrinks, grows, shrinks and grows.
pub(super) const COMPLETE: Scenario = Scenario {
    name: "resize a complete image",
    setup: |w| {
        w.create("top.lvd", SIZE)?;
        w.view("top", top, Model::zeros(SIZE), true);
        w.fill("top", "top.lvd")
    },
    body: shrink_and_grow,
    recover: grow_again,
};

/// An overlay shrinks and grows: neither its own old blocks nor the parent's come back.
pub(super) const OVERLAY: Scenario = Scenario {
    name: "resize an overlay",
    setup: |w| {
        overlay(w)?;
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, 3 * BLOCK..SIZE)?;
        w.durable("top", || disk.close())
    },
    body: shrink_and_grow,
    recover: grow_again,
};

/// A disk grows into the place of its own bitmap, twice.
pub(super) const GROW_OVER_SECTION: Scenario = Scenario {
    name: "grow over a section",
    setup: |w| {
        w.with_base(SIZE)?;
        section_behind_data(w)?;
        let model = w.model("base").unwrap_or_else(|| Model::zeros(SIZE));
        w.view("top", top, model, true);
        let disk = w.open("top.lvd")?;
        w.write("top", &disk, BLOCK..BLOCK + 512)?;
        w.write("top", &disk, 5 * BLOCK..SIZE)?;
        w.durable("top", || disk.close())
    },
    body: |w| {
        let disk = w.open("top.lvd")?;
        resize(w, &disk, SIZE + 2 * BLOCK)?;
        w.write("top", &disk, 6 * BLOCK..7 * BLOCK)?;
        w.flush("top", &disk)?;
        resize(w, &disk, SIZE + 4 * BLOCK)?;
        w.read("top", &disk);
        w.durable("top", || disk.close())
    },
    recover: |w| {
        let disk = w.open("top.lvd")?;
        resize(w, &disk, SIZE + 5 * BLOCK)?;
        w.write("top", &disk, 7 * BLOCK..8 * BLOCK)?;
        w.flush("top", &disk)?;
        w.read("top", &disk);
        w.sound(&disk)
    },
};

fn resize(w: &mut World, disk: &Chain, size: u64) -> Result<()> {
    let image = disk.image(0)?.clone();
    let result = w.resize("top", size, || image.resize(size));
    note_payload(&w.disk, disk);
    result
}

fn shrink_and_grow(w: &mut World) -> Result<()> {
    let disk = w.open("top.lvd")?;
    resize(w, &disk, 3 * BLOCK + 300)?;
    w.write("top", &disk, 3 * BLOCK..3 * BLOCK + 300)?;
    resize(w, &disk, 5 * BLOCK)?;
    w.write("top", &disk, 4 * BLOCK..4 * BLOCK + 512)?;
    w.flush("top", &disk)?;
    resize(w, &disk, 2 * BLOCK)?;
    w.durable("top", || disk.close())?;
    drop(disk);
    let disk = w.open("top.lvd")?;
    resize(w, &disk, SIZE)?;
    w.read("top", &disk);
    w.write("top", &disk, 4 * BLOCK..5 * BLOCK)?;
    w.durable("top", || disk.close())
}

fn grow_again(w: &mut World) -> Result<()> {
    let disk = w.open("top.lvd")?;
    w.read("top", &disk);
    let size = disk.size();
    // Who does not know how a resize ended asks for it again. It may be in the page cache alone.
    resize(w, &disk, size)?;
    resize(w, &disk, BLOCK + 512)?;
    resize(w, &disk, size.max(4 * BLOCK))?;
    w.read("top", &disk);
    w.durable("top", || disk.close())?;
    drop(disk);
    w.carry_on("top", "top.lvd")
}

/// Creates `top.lvd` on `base.lvd`, its bitmap right behind its data, as a mover of sections might leave it.
fn section_behind_data(w: &mut World) -> Result<()> {
    let data_offset = 2 * SLOT_SIZE;
    let place = (data_offset + SIZE).next_multiple_of(BLOCK);
    let mut header = Header::new(Kind::Image, Uuid(w.host.random()), Uuid(w.host.random()), SIZE, data_offset);
    header.parent = Some(w.link("base.lvd", SIZE)?);
    header.sections.push(Section {
        id: Uuid(w.host.random()),
        kind: SectionKind::Allocation,
        granularity_shift: 12,
        required: true,
        offset: place,
        length: BLOCK,
        covered: SIZE,
    });
    let file = w.disk.create("top.lvd")?;
    file.set_size(place + BLOCK)?;
    let bytes = header.encode().unwrap_or_else(|violation| panic!("{violation}"));
    file.write_at(&bytes, 0)?;
    file.write_at(&bytes, SLOT_SIZE)
}
