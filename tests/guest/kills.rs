//! The server is killed, or asked to end, under a guest that writes; the guest reconnects to the next one and goes on.
//!
//! `LVD_KILLS` says how often (20), all under one guest. A kill loses nothing that the kernel has, flushed or not: it shows
//! that what was durable did not live in the server alone, that the image opens whatever was under way, and that its bitmap
//! missed nothing. What a loss of power takes is another matter (`power`).
//!
//! A guest outlives kills only if the server writes through. What was acknowledged and not flushed yet may live in the
//! server alone (which blocks an overlay holds), and QEMU does not send it again: the guest's next flush, which the next
//! server carries out, would vouch for writes that are gone.

use crate::common::{MIB, Place, Random, lvd as command};
use crate::files;
use crate::jobs::unchanged_outside;
use crate::lvd;
use crate::machine::{Guest, kit};
use crate::witness::Witness;
use lvd::chain::{Chain, ChainOptions, ParentsInDirectories};
use lvd::storage::{FileOptions, FileStorage, OsHost};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 128 * MIB;
/// After one kill in so many the guest's file system is looked at, too.
const LOOK_EVERY: u64 = 5;

fn kills() -> u64 {
    std::env::var("LVD_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// An overlay whose bitmap records, a server that may die, and what was acknowledged.
struct Scene {
    kit: &'static Path,
    place: Place,
    base: Vec<u8>,
    witness: Arc<Witness>,
    socket: PathBuf,
}

impl Scene {
    /// None where there is no guest to be had.
    fn new() -> Option<Scene> {
        let kit = kit()?;
        let place = Place::new();
        let raw = files::make(&place, "base.raw", SIZE, 8 * MIB);
        let base = fs::read(&raw).expect("read");
        lvd!("convert", "-f", "raw", &raw, place.path("base.lvd")).ok();
        lvd!("create", "-b", "base.lvd", place.path("top.lvd")).ok();
        lvd!("bitmap", "add", place.path("top.lvd"), "daily").ok();
        let socket = place.path("socket");
        let witness = Witness::new(base.clone(), &socket, &place.path("server"));
        Some(Scene { kit, place, base, witness, socket })
    }

    fn boot(&self) -> Guest {
        let mut guest = Guest::boot(self.kit, &self.place, &self.socket, &[]);
        guest.run("mount -t ext4 /dev/vda /mnt");
        guest
    }

    /// Has servers ended by `end`, which is told how many before, under one guest that writes all the time.
    #[track_caller]
    fn replace_servers(&self, options: &[&str], count: u64, end: impl Fn(u64, Server)) {
        let mut server = self.serve(options);
        let mut guest = self.boot();
        guest.run("write_files 1 & make_noise &");
        let mut random = Random::new(count);
        for number in 1..=count {
            guest.go_on(2);
            std::thread::sleep(Duration::from_millis(random.below(200)));
            end(number, server);
            // The guest waits, and is told nothing: there is no server.
            let synced = guest.synced();
            self.check();
            if number % LOOK_EVERY == 0 {
                self.look(synced);
            }
            server = self.serve(options);
        }
        guest.go_on(2);
        guest.rest();
        self.finish(guest, server);
    }

    /// The guest finds all its files, and so does the host once it is gone.
    #[track_caller]
    fn finish(&self, mut guest: Guest, server: Server) {
        guest.run("verify && umount /mnt && e2fsck -fn /dev/vda >/tmp/said 2>&1");
        let all = guest.synced();
        guest.end();
        server.stop();
        self.check();
        files::is_clean(&files::raw_copy(&self.place, "top.lvd"), 1..=all, "the end");
    }

    fn serve(&self, options: &[&str]) -> Server {
        Server::start(&self.place, &[&["top.lvd"], options].concat())
    }

    /// What a killed server left: sound, with all that it had acknowledged, and with a bitmap that missed nothing.
    fn check(&self) {
        let top = self.place.path("top.lvd");
        lvd!("check", &top).ok();
        let storage = FileStorage::open(&top, &FileOptions::default()).expect("opened");
        let policy = ParentsInDirectories::new(self.place.root(), [self.place.root()]);
        let host = Arc::new(OsHost::default());
        let chain = Chain::open(Arc::new(storage), host, &policy, &ChainOptions::default()).expect("opened");
        let now = self.witness.check(&chain);
        let dirty = chain.image(0).and_then(|image| image.dirty_stretches("daily")).expect("a bitmap");
        unchanged_outside(&dirty, &self.base, &now);
    }

    /// The files that the guest was told are durable are in its file system.
    fn look(&self, synced: u64) {
        files::survives(&files::raw_copy(&self.place, "top.lvd"), 1..=synced, "after a kill");
    }
}

#[test]
fn a_server_is_killed_under_its_guest() {
    let Some(scene) = Scene::new() else { return };
    scene.replace_servers(&["--write-through"], kills(), |number, server| {
        // Just when it has said that something is durable, or while it is at it.
        match number % 3 {
            0 => scene.witness.until_answered(),
            _ => scene.witness.until_busy(),
        }
        server.kill();
        scene.witness.until_silent();
        scene.witness.all_is_durable();
    });
    let interrupted = scene.witness.interrupted();
    println!("{} kills, {interrupted} with requests under way", kills());
    assert!(interrupted * 2 > kills(), "most kills came when there was nothing to lose");
}

/// A server that is asked to end makes durable what it has acknowledged, and does what it has begun. What it does not
/// begin it leaves without an answer: it used to say that it was shutting down, which QEMU passes on to the guest as an
/// error of the disk, instead of asking the next server.
#[test]
fn a_server_is_replaced_under_its_guest() {
    let Some(scene) = Scene::new() else { return };
    scene.replace_servers(&[], kills().div_ceil(2), |_, server| {
        scene.witness.until_busy();
        server.stop();
        scene.witness.until_silent();
        scene.witness.all_is_durable();
    });
}

/// The machine dies with both. Another guest finds what this one was told is durable.
#[test]
fn a_server_and_its_guest_are_killed() {
    let Some(scene) = Scene::new() else { return };
    let server = scene.serve(&[]);
    let mut guest = scene.boot();
    guest.run("write_files 1 & make_noise &");
    guest.go_on(30);
    scene.witness.until_busy();
    server.kill();
    let synced = guest.kill();
    scene.witness.until_silent();
    scene.check();
    scene.look(synced);
    let server = scene.serve(&[]);
    let mut guest = scene.boot();
    // The file that was being written when all died may be there in part.
    guest.run(&format!("rm -f /mnt/files/{}; write_files {} {}", synced + 1, synced + 1, synced + 10));
    scene.finish(guest, server);
}

/// `lvd serve`, killed if a test fails.
pub struct Server {
    child: Child,
    pub socket: PathBuf,
}

impl Server {
    /// `lvd serve` with these arguments in `place`; returns once it listens.
    pub fn start(place: &Place, arguments: &[&str]) -> Server {
        let socket = place.path("server");
        let mut serve = command();
        serve.current_dir(place.root()).args(["serve", "--unix"]).arg(&socket).args(arguments).stdout(Stdio::null());
        let mut child = serve.spawn().expect("started");
        while UnixStream::connect(&socket).is_err() {
            assert!(child.try_wait().expect("known").is_none(), "the server ends");
            std::thread::sleep(Duration::from_millis(5));
        }
        Server { child, socket }
    }

    /// Kills it, as the kernel does that is short of memory.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
    }

    /// Asks it to end.
    pub fn stop(mut self) {
        crate::tool!("kill", self.child.id().to_string()).ok();
        assert!(self.child.wait().expect("waited for").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
