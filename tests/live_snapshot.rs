//! Snapshots under a guest.
//!
//! Told as in `live_stream.rs`; the list of stories has no part about snapshots, whose rules other stories rest on: a
//! sealed parent under a link that names it (CHN-07), a new file that is durable before it is used (ORD-11), a disk
//! that goes on with its old top if any of that fails.

mod common;
mod live;

use live::*;
use lvd::chain::{Chain, ChainOptions, GivenParents};
use lvd::image::{CreateOptions, Image};
use lvd::live::Disk;
use lvd::storage::Storage;
use lvd::{BlockDevice, Error, Violation};

/// Found: a snapshot whose parent goes on changing, or whose link names an epoch that several contents had.
#[test]
fn a_snapshot_is_the_disk_of_its_instant_however_often_it_is_taken() {
    const SIZE: u64 = MIB + 700;
    let files = Files::new();
    files.image("0.lvd", SIZE);
    let disk = files.serve("0.lvd", 0);
    let mut instants = Vec::new();
    let end = Guests { disk: &*disk, count: 3, size: SIZE }.during(|| {
        for number in 0..5 {
            files.snapshot(&disk, &format!("{}.lvd", number + 1), &format!("{number}.lvd"));
            instants.push(content(&*disk.chain().layers[1].device()));
        }
    });
    disk.close().unwrap();
    for (number, instant) in instants.iter().enumerate() {
        same(&files.view(&format!("{number}.lvd")).unwrap(), instant, &format!("snapshot {number}"));
    }
    same(&files.view("5.lvd").unwrap(), &end, "the disk");
    assert_eq!(files.read("5.lvd").unwrap().layers.len(), 6);
}

/// Found: a file of the disk itself that is made into a new, empty overlay of it.
#[test]
fn a_layer_of_the_disk_does_not_become_its_overlay() {
    let files = layers(&["-B--", "AAAA"]);
    let disk = files.serve("layer0.lvd", 0);
    for name in ["layer0.lvd", "layer1.lvd"] {
        let file = files.file(name) as std::sync::Arc<dyn Storage>;
        denied(disk.snapshot(file, name.into(), 12), &[name, "of this disk"]);
    }
    assert_eq!(letters(&content(&*disk)), "ABAA");
    disk.close().unwrap();
    assert_eq!(letters(&files.view("layer0.lvd").unwrap()), "ABAA");
}

/// SID-07, CHN-03. Found: a snapshot above a volume with its sidecar, which no link can name: the disk could never be
/// opened again.
#[test]
fn a_volume_with_its_sidecar_takes_no_snapshot() {
    let files = layers(&["AAAA"]);
    let (sidecar, volume) = (files.add("volume.lvb"), files.add("volume.raw"));
    volume.set_size(4 * BLOCK).unwrap();
    let parent = files.read("layer0.lvd").unwrap().layers[0].link(4 * BLOCK, "layer0.lvd".into()).unwrap();
    let options = CreateOptions { virtual_size: 4 * BLOCK, parent: Some(parent), ..CreateOptions::default() };
    Image::create_sidecar(&*sidecar, &*volume, &*files.clock, &options).unwrap();
    let open = |write: bool| {
        let options = ChainOptions { write, ..ChainOptions::default() };
        let (sidecar, volume) = (files.file("volume.lvb"), files.file("volume.raw"));
        Chain::open_sidecar(sidecar, volume, files.clock.clone(), &files, &options).unwrap()
    };
    let disk = Disk::new(open(true));
    denied(disk.snapshot(files.add("top.lvd"), "volume.lvb".into(), 12), &["volume.lvb", "cannot be a parent"]);
    disk.write_at(&[b'W'; BLOCK as usize], 0).unwrap();
    disk.close().unwrap();
    assert_eq!(letters(&content(&open(false))), "WAAA");
}

/// Found: a guest without a disk, or on an overlay that is not there, after a snapshot that failed half way.
#[test]
fn a_snapshot_that_fails_leaves_the_guest_where_it_was() {
    let files = layers(&["AAAA"]);
    let disk = files.serve("layer0.lvd", 0);
    let mut guest = Guest::new(&*disk);
    for (number, kind) in [Kind::Write, Kind::Sync].into_iter().enumerate() {
        let file = files.add(&format!("full{number}.lvd"));
        let dead = file.fail(kind, 0..MIB);
        assert!(matches!(disk.snapshot(file.clone(), "layer0.lvd".into(), 12), Err(Error::Io { .. })));
        dead.release();
        guest.write(BLOCK..2 * BLOCK, b'W' + number as u8);
    }
    denied(disk.snapshot(files.add("odd.lvd"), "layer0.lvd".into(), 3), &["granules of 2^3"]);
    guest.write(0..BLOCK, b'V');
    assert_eq!(disk.chain().layers.len(), 1);
    files.snapshot(&disk, "top.lvd", "layer0.lvd");
    guest.write(3 * BLOCK..4 * BLOCK, b'U');
    guest.check_all();
    disk.close().unwrap();
    assert_eq!(letters(&files.view("top.lvd").unwrap()), "VXAU");
    assert_eq!(letters(&files.view("layer0.lvd").unwrap()), "VXAA");
}

/// A raw disk needs no header to be a parent. Found: a snapshot that writes to it.
#[test]
fn a_raw_disk_gets_an_overlay_and_is_written_no_more() {
    let files = Files::new();
    let raw = files.add("base.raw");
    raw.write_at(&[b'A'; 4 * BLOCK as usize], 0).unwrap();
    let disk = files.serve("base.raw", 0);
    disk.write_at(&[b'B'; BLOCK as usize], 0).unwrap();
    files.snapshot(&disk, "top.lvd", "base.raw");
    let writes = raw.count(Kind::Write, 0..MIB);
    disk.write_at(&[b'C'; BLOCK as usize], BLOCK).unwrap();
    disk.close().unwrap();
    assert_eq!(raw.count(Kind::Write, 0..MIB), writes);
    assert_eq!(letters(&files.view("base.raw").unwrap()), "BAAA");
    assert_eq!(letters(&files.view("top.lvd").unwrap()), "BCAA");
}

/// CHN-07, ORD-11. The process is killed at each change of any file in turn. Found: an overlay that opens and does not
/// hold what was flushed, a parent that does not open.
#[test]
fn a_snapshot_may_be_killed_anywhere() {
    let scene = layers(&["-B-B----", "AAAAAAAA"]);
    let before = scene.view("layer0.lvd").unwrap();
    for changes in 0.. {
        let fuse = Fuse::new(changes);
        let files = scene.copy(&fuse);
        let mut guest = Mortal::new(before.clone(), changes % 7);
        let mut taken = false;
        let ran = files.open("layer0.lvd", 0).and_then(|chain| {
            let disk = Disk::new(chain);
            (0..6).try_for_each(|_| guest.act(&*disk))?;
            disk.snapshot(files.add("top.lvd"), "layer0.lvd".into(), 12)?;
            taken = true;
            (0..6).try_for_each(|_| guest.act(&*disk))
        });
        let files = files.copy(&Fuse::endless());
        let context = format!("killed after {changes} changes");
        let new = match taken || ran.is_ok() {
            true => files.view("top.lvd").unwrap_or_else(|error| panic!("{context}: {error}")),
            false => files.view("layer0.lvd").unwrap_or_else(|error| panic!("{context}: {error}")),
        };
        guest.check(&new, &context);
        if ran.is_ok() && !fuse.burnt() {
            break;
        }
    }
}

/// CHN-03. Found: a parent that was changed behind its overlay's back and is taken for the old one.
#[test]
fn an_overlay_knows_when_its_parent_was_written_by_somebody_else() {
    let files = layers(&["AAAA"]);
    let disk = files.serve("layer0.lvd", 0);
    files.snapshot(&disk, "top.lvd", "layer0.lvd");
    disk.close().unwrap();
    drop(disk);
    files.change("layer0.lvd", |guest| guest.write(0..1, 9));
    assert_eq!(files.read("top.lvd").unwrap_err().violation(), Some(Violation::ParentMatches));
    let trusting = ChainOptions { trust_links: true, ..ChainOptions::default() };
    let given = GivenParents::new([files.file("layer0.lvd") as std::sync::Arc<dyn Storage>]);
    assert!(Chain::open(files.file("top.lvd"), files.clock.clone(), &given, &trusting).is_ok());
}
