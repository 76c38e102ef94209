//! What management does with a guest that runs: by commands to a server alone, on two disks at once.
//!
//! | of the field's lists of what breaks | here |
//! |---|---|
//! | 63, bitmaps in migration | `a_guest_is_managed_from_snapshot_to_migration` |
//! | 73, the guest moves first, and its disk follows | `a_guest_goes_ahead_of_its_disk` |

use crate::common::{MIB, Place, Process, Run, lvd as command, peers, run, same};
use crate::files;
use crate::machine::{Guest, kit, nbd};
use crate::{lvd, tool};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

const SIZE: u64 = 96 * MIB;
const DATA: u64 = 32 * MIB;
/// Files that the guest makes between two jobs.
const FILES: u64 = 4;

/// A server of the exports `disk` and `data`, where the guest finds them.
struct Managed {
    place: Place,
    socket: PathBuf,
    control: PathBuf,
    server: Process,
}

impl Managed {
    fn path(&self, name: &str) -> String {
        self.place.path(name).display().to_string()
    }

    /// `lvd` with these words and the control socket.
    fn ask<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Run {
        run(command().args(words).arg("--control").arg(&self.control))
    }

    fn jobs(&self) -> serde_json::Value {
        self.ask(["job", "list", "--json"]).ok().json()
    }

    /// Waits until no job is left, while the guest goes on.
    fn all_over(&self) {
        while self.jobs() != serde_json::json!([]) {
            sleep(Duration::from_millis(20));
        }
    }

    fn until_ready(&self, jobs: usize) {
        loop {
            let found = self.jobs();
            let ready = found.as_array().map_or(0, |all| all.iter().filter(|job| job["ready"] == true).count());
            let failed = found.as_array().is_none_or(|all| all.len() < jobs);
            assert!(!failed, "{found}");
            if ready == jobs {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

fn serve(place: &Place, socket: &Path, control: &Path, images: &[&str]) -> Process {
    let mut server = command();
    server.arg("serve").arg("--unix").arg(socket).arg("--control").arg(control).args(["-x", "disk", "-x", "data"]);
    Process::start(server.args(images.iter().map(|image| place.path(image))), socket)
}

/// A server that only shows the disk of an image, as the export `old`, and what more the `options` say.
fn show(place: &Place, image: &str, socket: &Path, options: &[&str]) -> Process {
    let mut server = command();
    server.args(["serve", "-r", "-x", "old"]).args(options).arg("--unix").arg(socket);
    Process::start(server.arg(place.path(image)), socket)
}

fn uri(export: &str, socket: &Path) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

/// The export `name` of the server, as a raw file.
fn fetched(managed: &Managed, name: &str) -> PathBuf {
    let to = managed.place.path(name);
    tool!("nbdcopy", uri(name, &managed.socket), &to).ok();
    to
}

#[test]
fn a_guest_is_managed_from_snapshot_to_migration() {
    let (Some(kit), true) = (kit(), peers(&["nbdcopy", "nbdinfo"])) else { return };
    let place = Place::new();
    let raw = files::make(&place, "base.raw", SIZE, 24 * MIB);
    lvd!("convert", "-f", "raw", raw, place.path("base.lvd")).ok();
    lvd!("create", "-b", "base.lvd", place.path("top.lvd")).ok();
    lvd!("bitmap", "add", place.path("top.lvd"), "daily").ok();
    let raw = files::make(&place, "data.raw", DATA, MIB);
    lvd!("convert", "-f", "raw", raw, place.path("data.lvd")).ok();
    let (socket, control) = (place.path("socket"), place.path("control"));
    let server = serve(&place, &socket, &control, &["top.lvd", "data.lvd"]);
    let managed = Managed { place, socket, control, server };

    let nodes = [nbd(&managed.socket, "disk"), nbd(&managed.socket, "data")];
    let mut guest = Guest::boot_with(kit, &managed.place, &nodes);
    guest.run("mount -t ext4 -o discard /dev/vda /mnt && mkdir /tmp/data && mount -t ext4 /dev/vdb /tmp/data");
    guest.run("write_files 1 & make_noise &");
    guest.run(
        "(n=0; while [ ! -e /tmp/stop ]; do n=$((n + 1)); echo $n >/tmp/data/count; sync /tmp/data/count; done) &",
    );
    guest.go_on(FILES);

    // The first backup, whole, and pushed.
    managed.ask(["job", "backup", "--bitmap", "daily", "disk", &managed.path("full.lvd")]).ok();
    managed.all_over();
    guest.go_on(FILES);

    // Two disks at one instant.
    managed.ask(["snapshot", "disk", &managed.path("top2.lvd"), "data", &managed.path("data2.lvd")]).ok();
    let snapshot = guest.synced();
    guest.go_on(FILES);
    managed.ask(["job", "stream", "disk"]).ok();
    managed.all_over();
    files::survives(&files::raw_copy(&managed.place, "top.lvd"), 1..=snapshot, "the snapshot");
    fs::remove_file(managed.place.path("base.lvd")).expect("nobody needs it");
    guest.go_on(FILES);
    managed.ask(["job", "commit", "data"]).ok();
    managed.until_ready(1);
    managed.ask(["job", "complete", "data"]).ok();
    managed.all_over();
    guest.go_on(FILES);

    // Both disks move to other files, as one decision.
    for (device, target) in [("disk", "moved.lvd"), ("data", "data3.lvd")] {
        managed.ask(["job", "mirror", device, &managed.path(target)]).ok();
    }
    managed.until_ready(2);
    guest.go_on(FILES);
    let moved = guest.synced();
    managed.ask(["job", "complete", "--group", &managed.path("group.lvg"), "disk", "data"]).ok();
    managed.all_over();
    guest.go_on(FILES);
    files::survives(&files::raw_copy(&managed.place, "top2.lvd"), 1..=moved, "what the guest has left");
    lvd!("bitmap", "add", managed.place.path("data.lvd"), "more").fails(1, "may have moved");

    // What changed since the first backup, for a tool that knows nothing of ours.
    let synced = guest.synced();
    managed.ask(["job", "pull", "--bitmap", "daily", "-x", "instant", "disk", &managed.path("scratch")]).ok();
    guest.go_on(FILES);
    let instant = uri("instant", &managed.socket);
    let map = tool!("nbdinfo", "--json", "--map=qemu:dirty-bitmap:daily", instant).ok().json();
    let pulled = fetched(&managed, "instant");
    managed.ask(["job", "complete", "disk"]).ok();
    managed.all_over();
    let (mut restored, new) =
        (fs::read(files::raw_copy(&managed.place, "full.lvd")).expect("read"), fs::read(&pulled).expect("read"));
    let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
    let mut dirty = 0;
    for extent in map.as_array().expect("extents").iter().filter(|extent| extent["type"] == 1) {
        let range = number(&extent["offset"])..number(&extent["offset"]) + number(&extent["length"]);
        dirty += range.len();
        restored[range.clone()].copy_from_slice(&new[range]);
    }
    same(&restored, &new, "the first backup with what is dirty put on top");
    assert!(dirty > 0 && dirty < SIZE as usize / 2, "{dirty} bytes are dirty");
    files::survives(&pulled, 1..=synced, "what was pulled");

    // To another server, while it runs: mirrored there, and then served from there.
    lvd!("create", managed.place.path("away.lvd"), SIZE.to_string()).ok();
    let (away, place) = (managed.place.path("away"), &managed.place);
    let (mut there, away_control) = (command(), place.path("away.control"));
    there.args(["serve", "-x", "away", "--unix"]).arg(&away).arg("--control").arg(&away_control);
    let there = Process::start(there.arg(place.path("away.lvd")), &away_control);
    managed.ask(["job", "mirror", "-O", "raw", "disk", &uri("away", &away)]).ok();
    managed.until_ready(1);
    // Its bitmap goes with it: what changes from here on is recorded there.
    lvd!("bitmap", "add", "--control", &away_control, "away", "moving").ok();
    guest.go_on(FILES);
    managed.ask(["job", "complete", "disk"]).ok();
    managed.all_over();
    guest.go_on(FILES);
    // The guest's requests go through the old server still; then that one ends, and its clients find the new one.
    lvd!("check", managed.place.path("moved.lvd")).ok();
    let stopped = managed.server.stop().ok();
    assert_eq!(stopped.err, "");
    there.stop().ok();
    let (place, socket, control) = (managed.place, managed.socket, managed.control);
    let server = serve(&place, &socket, &control, &["away.lvd", "data3.lvd"]);
    let managed = Managed { place, socket, control, server };
    guest.go_on(FILES);
    let left = managed.place.path("left");
    let shown = show(&managed.place, "moved.lvd", &left, &["--bitmap", "daily"]);
    managed.ask(["bitmap", "fetch", "--recorded", "moving", "disk", "daily", &uri("old", &left)]).ok();
    shown.stop().ok();
    guest.go_on(FILES);

    guest.rest();
    guest.run("verify && umount /mnt && e2fsck -fn /dev/vda >/tmp/said 2>&1");
    guest.run("[ $(cat /tmp/data/count) -gt 10 ] && umount /tmp/data && e2fsck -fn /dev/vdb >/tmp/said 2>&1");
    let all = guest.synced();
    guest.end();
    // What was pulled before the move, with what is dirty put on top, is the disk.
    let copy = managed.place.file("copy.raw", &new);
    managed.ask(["job", "backup", "--bitmap", "daily", "--onto", "disk", &managed.path("copy.raw")]).ok();
    managed.all_over();
    let Managed { place, server, .. } = managed;
    server.stop().ok();
    let disk = files::raw_copy(&place, "away.lvd");
    same(
        &fs::read(copy).expect("read"),
        &fs::read(disk).expect("read"),
        "the backup before the move, brought up to date",
    );
    files::is_clean(&files::raw_copy(&place, "away.lvd"), 1..=all, "the guest's last disk");
    for image in ["full.lvd", "top.lvd", "top2.lvd", "data.lvd", "data2.lvd", "data3.lvd", "moved.lvd"] {
        lvd!("check", place.path(image)).ok();
    }
}

/// The other way: the guest goes on at once on the other machine, its disk comes after it, and the old machine ends.
#[test]
fn a_guest_goes_ahead_of_its_disk() {
    let Some(kit) = kit() else { return };
    let place = Place::new();
    let raw = files::make(&place, "old.raw", SIZE, 24 * MIB);
    lvd!("convert", "-f", "raw", raw, place.path("old.lvd")).ok();
    let raw = files::make(&place, "data.raw", DATA, MIB);
    lvd!("convert", "-f", "raw", raw, place.path("data.lvd")).ok();
    let (socket, control, left) = (place.path("socket"), place.path("control"), place.path("left"));
    let server = serve(&place, &socket, &control, &["old.lvd", "data.lvd"]);
    let mut guest = Guest::boot_with(kit, &place, &[nbd(&socket, "disk"), nbd(&socket, "data")]);
    guest.run("mount -t ext4 -o discard /dev/vda /mnt");
    guest.run("write_files 1 & make_noise &");
    guest.go_on(FILES);

    // The guest waits from here, until it is served over there: by a disk on which nothing is yet.
    server.stop().ok();
    let before = guest.synced();
    let shown = show(&place, "old.lvd", &left, &[]);
    lvd!("create", "-b", uri("old", &left), "-F", "raw", place.path("home.lvd")).ok();
    let mut server = command();
    server.args(["serve", "--remote", "--copy-on-read", "-x", "disk", "-x", "data", "--unix"]).arg(&socket);
    server.arg("--control").arg(&control).args([place.path("home.lvd"), place.path("data.lvd")]);
    let server = Process::start(&mut server, &socket);
    let managed = Managed { place, socket, control, server };
    guest.go_on(FILES);

    // Again onto new storage, before all has come: the overlay is that of a disk that is far.
    managed.ask(["snapshot", "disk", &managed.path("home2.lvd")]).ok();
    guest.go_on(FILES);
    managed.ask(["job", "stream", "--speed", "24M", "disk"]).ok();
    guest.go_on(FILES);
    managed.all_over();

    // Nothing is needed of the old machine.
    shown.stop().ok();
    fs::remove_file(managed.place.path("home.lvd")).expect("removed");
    guest.go_on(FILES);
    guest.rest();
    guest.run("verify && umount /mnt && e2fsck -fn /dev/vda >/tmp/said 2>&1");
    let all = guest.synced();
    guest.end();
    let Managed { place, server, .. } = managed;
    server.stop().ok();
    files::survives(&files::raw_copy(&place, "old.lvd"), 1..=before, "what the guest has left");
    files::is_clean(&files::raw_copy(&place, "home2.lvd"), 1..=all, "the guest's last disk");
    lvd!("check", place.path("home2.lvd")).ok();
    let facts = lvd!("info", "--json", place.path("home2.lvd")).ok().json();
    assert_eq!(facts["backing-filename"], serde_json::Value::Null, "it still lies on something");
}
