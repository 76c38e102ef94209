//! Every job works on the disk of a guest that writes, and reads back, all the time.

use crate::common::{MIB, Place, same};
use crate::files;
use crate::lvd;
use crate::machine::{Guest, kit};
use crate::witness::Witness;
use lvd::chain::{Chain, ChainOptions, NoParents, ParentsInDirectories};
use lvd::jobs::{Job, drive};
use lvd::live::{Disk, LiveMirror};
use lvd::nbd::server::{Export, Exports, Options, Server};
use lvd::storage::{Create, FileOptions, FileStorage, Host, LockMode, OsHost, Storage};
use lvd::{BlockDevice, CreateOptions, Image};
use std::fs;
use std::ops::Range;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Files that the guest makes before a job, and after it.
const FILES: u64 = 6;
/// Bytes a second at which jobs copy, so that the guest does much meanwhile.
const SPEED: u64 = 24 * MIB;

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

fn file(path: &Path, create: Create) -> Arc<dyn Storage> {
    let options = FileOptions { write: true, create, lock: Some(LockMode::Exclusive), ..FileOptions::default() };
    Arc::new(FileStorage::open(path, &options).expect("opened"))
}

/// A disk that is served in this process, where jobs can reach it.
pub struct Stage {
    pub place: Place,
    pub disk: Arc<Disk>,
    pub socket: PathBuf,
    witness: Arc<Witness>,
    server: Arc<Server>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Stage {
    /// `top.lvd`, an overlay of `base.lvd` with a bitmap that has recorded since it was made. `base.raw` stays.
    pub fn new(size: u64, filling: u64) -> Stage {
        let place = Place::new();
        let raw = files::make(&place, "base.raw", size, filling);
        lvd!("convert", "-f", "raw", &raw, place.path("base.lvd")).ok();
        lvd!("create", "-b", "base.lvd", place.path("top.lvd")).ok();
        lvd!("bitmap", "add", place.path("top.lvd"), "daily").ok();
        let policy = ParentsInDirectories::new(place.root(), [place.root()]);
        let options = ChainOptions { write: true, ..ChainOptions::default() };
        let chain = Chain::open(file(&place.path("top.lvd"), Create::No), host(), &policy, &options).expect("opened");
        let disk = Disk::new(chain);
        let (name, description) = ("disk".into(), String::new());
        let (read_only, write_through, bitmaps) = (false, false, Vec::new());
        let export = Export { name, description, read_only, write_through, bitmaps, device: disk.clone() };
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = told.clone();
        let report = Box::new(move |text: &str| heard.lock().expect("no panic while held").push(text.to_owned()));
        let server = Server::new(Exports::new(vec![export]).expect("one"), Options::default(), report);
        let (socket, behind) = (place.path("socket"), place.path("server"));
        let witness = Witness::new(fs::read(raw).expect("read"), &socket, &behind);
        let listener = UnixListener::bind(behind).expect("bound");
        let serving = server.clone();
        // The guest is the only client. Nothing may hold the disk when it is gone.
        std::thread::spawn(move || {
            let (client, _) = listener.accept().expect("a client");
            serving.serve(Arc::new(client)).expect("a thread");
        });
        Stage { place, disk, socket, witness, server, told }
    }

    /// All jobs, one after the other, beside a guest that writes. Its disk is then `moved.lvd`; `top.lvd` is as the guest
    /// left it. Returns how many files were durable before it left, at least.
    pub fn change_everything(&self, guest: &mut Guest) -> u64 {
        guest.go_on(FILES);
        self.copy(guest, "stream", &self.disk.stream(None).expect("begun"));
        fs::remove_file(self.place.path("base.lvd")).expect("removed");

        guest.go_on(FILES);
        let overlay = file(&self.place.path("snapshot.lvd"), Create::New);
        self.disk.snapshot(overlay, "top.lvd".into(), 12).expect("taken");
        guest.go_on(FILES);
        let merge = self.disk.merge_active(1).expect("begun");
        self.follow(guest, &merge);
        drop(self.disk.pivot(&merge).expect("pivoted"));
        drop(merge);

        guest.go_on(FILES);
        let mirror = self.disk.mirror(self.target("moved.lvd")).expect("begun");
        self.follow(guest, &mirror);
        let durable = guest.synced();
        let left = self.disk.pivot(&mirror).expect("pivoted");
        left.close().expect("closed");
        guest.go_on(FILES);
        durable
    }

    /// Has a job done, not too fast, while the guest goes on.
    fn copy(&self, guest: &mut Guest, what: &str, job: &Job) {
        let before = guest.synced();
        job.set_speed(SPEED);
        drive(job, |_| ()).expect("done");
        assert!(guest.synced() > before, "the guest stood still while a {what} went on");
        guest.go_on(FILES);
    }

    /// The same for a mirror, until the guest may be moved.
    fn follow(&self, guest: &mut Guest, mirror: &LiveMirror) {
        let before = guest.synced();
        mirror.set_speed(SPEED);
        step_until_ready(mirror);
        assert!(guest.synced() > before, "the guest stood still while a {} went on", mirror.kind());
        // What it writes now is mirrored too.
        while guest.synced() < before + FILES {
            mirror.step(MIB).expect("a step");
            guest.go_on(1);
        }
    }

    fn target(&self, name: &str) -> Chain {
        let storage = file(&self.place.path(name), Create::New);
        let options = CreateOptions { virtual_size: self.disk.size(), copy_mark: true, ..CreateOptions::default() };
        Image::create(&*storage, &*host(), &options).expect("created");
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        Chain::open(storage, host(), &NoParents, &options).expect("opened")
    }

    /// The guest is gone. Its disk holds what it wrote; a copy is made in `name`, and all is closed.
    pub fn end(self, copy: &str) -> Place {
        self.witness.check(&*self.disk);
        let mirror = self.disk.mirror(self.target(copy)).expect("begun");
        step_until_ready(&mirror);
        self.disk.split(&mirror).expect("split").close().expect("closed");
        self.server.stop();
        self.disk.close().expect("closed");
        assert_eq!(*self.told.lock().expect("no panic while held"), Vec::<String>::new());
        self.place
    }
}

/// Every byte that is not as it was when the bitmap was made is dirty.
fn bitmap_tells_all(place: &Place, image: &str, now: &[u8]) {
    let storage = file(&place.path(image), Create::No);
    let chain = Chain::open(storage, host(), &NoParents, &ChainOptions::default()).expect("opened");
    let dirty = chain.image(0).and_then(|image| image.dirty_stretches("daily")).expect("a bitmap");
    unchanged_outside(&dirty, &fs::read(place.path("base.raw")).expect("read"), now);
}

/// Two disks differ only within `dirty`.
#[track_caller]
pub fn unchanged_outside(dirty: &[Range<u64>], old: &[u8], new: &[u8]) {
    let mut at = 0;
    for range in dirty.iter().cloned().chain([old.len() as u64..old.len() as u64]) {
        let clean = at..range.start as usize;
        same(&new[clean.clone()], &old[clean.clone()], &format!("changed, and clean in the bitmap: {clean:?}"));
        at = range.end as usize;
    }
}

fn step_until_ready(mirror: &LiveMirror) {
    loop {
        let progress = mirror.step(MIB).expect("a step");
        if progress.ready {
            return;
        }
        if let Some(time) = progress.wait {
            std::thread::sleep(time);
        }
    }
}

#[test]
fn a_guest_writes_and_verifies_ext4_while_jobs_run_underneath() {
    let Some(kit) = kit() else { return };
    let stage = Stage::new(128 * MIB, 40 * MIB);
    let mut guest = Guest::boot(kit, &stage.place, &stage.socket, &[]);
    guest.run("mount -t ext4 -o discard /dev/vda /mnt");
    guest.run("write_files 1 & make_noise &");
    let durable = stage.change_everything(&mut guest);
    guest.rest();
    guest.run("verify && fstrim /mnt && umount /mnt && e2fsck -fn /dev/vda >/tmp/said 2>&1");
    let all = guest.synced();
    guest.end();
    let place = &stage.end("copy.lvd");

    for image in ["top.lvd", "snapshot.lvd", "moved.lvd", "copy.lvd"] {
        lvd!("check", place.path(image)).ok();
    }
    // What the guest left at the pivot is its disk of that moment, as if the power had failed.
    files::survives(&files::raw_copy(place, "top.lvd"), 1..=durable, "the source of the mirror");
    lvd!("compare", place.path("moved.lvd"), place.path("copy.lvd")).ok();
    let raw = files::raw_copy(place, "moved.lvd");
    bitmap_tells_all(place, "moved.lvd", &fs::read(&raw).expect("read"));
    files::is_clean(&raw, 1..=all, "the guest's last disk");
    again(kit, place, "moved.lvd");
}

/// Another guest finds all on the disk, which the command serves now.
fn again(kit: &Path, place: &Place, image: &str) {
    let server = crate::kills::Server::start(place, &[image]);
    let mut guest = Guest::boot(kit, place, &server.socket, &[]);
    guest.run("e2fsck -fn /dev/vda >/tmp/said 2>&1 && mount -t ext4 /dev/vda /mnt && verify && umount /mnt");
    guest.end();
    server.stop();
    lvd!("check", place.path(image)).ok();
}
