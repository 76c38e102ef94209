//! The NBD client as users meet it: exports of qemu-nbd, nbdkit and `lvd serve` as parents, sources and targets.

use crate::common::{MIB, Place, Random, content, lvd as command, peers, same};
use crate::lvd;
use crate::serve::Server as LvdServer;
use crate::tool;
use lvd::chain::RawDevice;
use lvd::nbd::Uri;
use lvd::nbd::client::{NbdStorage, Options};
use lvd::storage::Storage;
use lvd::{BlockDevice, Error};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A server of others at a socket, killed at the end.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts `tool`, whose arguments may name the `SOCKET`.
    fn start(place: &Place, tool: &str, arguments: &[&str]) -> Server {
        let socket = place.path(&format!("{tool}.sock"));
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(tool);
        for argument in arguments {
            command.arg(argument.replace("SOCKET", &socket.display().to_string()));
        }
        let child = command.current_dir(place.root()).stderr(Stdio::null()).spawn().expect("started");
        let mut server = Server { child, socket };
        while !server.socket.exists() {
            assert!(server.child.try_wait().expect("known").is_none(), "{tool} {arguments:?} has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// `nbdkit` in the foreground, with these arguments.
    fn nbdkit(place: &Place, arguments: &[&str]) -> Server {
        let server = Server::start(place, "nbdkit", &[&["-f", "-U", "SOCKET"], arguments].concat());
        // The socket is there before anybody listens at it.
        while UnixStream::connect(&server.socket).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn qemu_nbd(place: &Place, arguments: &[&str]) -> Server {
        let usual = ["-t", "-k", "SOCKET", "-f", "raw", "--shared", "8", "--discard", "unmap"];
        Server::start(place, "qemu-nbd", &[&usual, arguments].concat())
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    fn client(&self, write: bool) -> Result<NbdStorage, Error> {
        let options = Options { write, reconnect: Duration::ZERO, ..Options::default() };
        NbdStorage::open(&Uri::parse(&self.uri()).unwrap(), options)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A raw disk of 8 MiB with holes, and what it holds.
fn raw(place: &Place, name: &str) -> Vec<u8> {
    let bytes = Random::new(7).disk(8 * MIB as usize);
    place.file(name, &bytes);
    bytes
}

#[test]
fn exports_are_sources() {
    if !peers(&["qemu-nbd", "nbdkit"]) {
        return;
    }
    let place = Place::new();
    let bytes = raw(&place, "a.raw");
    let delayed = ["--filter=delay", "file", "a.raw", "rdelay=1ms"];
    for server in [
        Server::qemu_nbd(&place, &["-r", "a.raw"]),
        Server::nbdkit(&place, &["-r", "file", "a.raw"]),
        Server::nbdkit(&place, &["-r", "--no-sr", "file", "a.raw"]),
        Server::nbdkit(&place, &["-r", "--mask-handshake=0", "file", "a.raw"]),
        Server::nbdkit(&place, &["-r", "--filter=noextents", "--filter=noparallel", "file", "a.raw"]),
        Server::nbdkit(&place, &[&["-r"][..], &delayed].concat()),
    ] {
        let copy = place.path("copy.lvd");
        lvd!("convert", "-f", "raw", server.uri(), &copy).ok();
        same(&content(&copy), &bytes, "what was converted");
        lvd!("compare", "-f", "raw", "-F", "raw", server.uri(), place.path("a.raw")).ok();
        let map = lvd!("map", "--json", "-f", "raw", server.uri()).ok().json();
        assert_eq!(map[0]["start"], 0, "{map}");
        let info = lvd!("info", "--json", "-f", "raw", server.uri()).ok().json();
        assert_eq!(info["virtual-size"], bytes.len());
    }
}

#[test]
fn exports_are_targets() {
    if !peers(&["qemu-nbd", "nbdkit"]) {
        return;
    }
    let place = Place::new();
    let bytes = raw(&place, "a.raw");
    lvd!("convert", "-f", "raw", place.path("a.raw"), place.path("a.lvd")).ok();
    for arguments in [
        &["qemu-nbd", "b.raw"][..],
        &["nbdkit", "file", "b.raw"],
        &["nbdkit", "--no-sr", "--filter=nozero", "file", "b.raw"],
        &[
            "nbdkit",
            "--filter=blocksize-policy",
            "file",
            "b.raw",
            "blocksize-minimum=64K",
            "blocksize-preferred=64K",
            "blocksize-maximum=256K",
            "blocksize-error-policy=error",
        ],
    ] {
        for verb in ["convert", "mirror", "backup"] {
            // What was there before is not zeros.
            let target = place.file("b.raw", &vec![9; bytes.len()]);
            let server = match arguments.split_first() {
                Some((&"qemu-nbd", rest)) => Server::qemu_nbd(&place, rest),
                Some((_, rest)) => Server::nbdkit(&place, rest),
                None => unreachable!(),
            };
            lvd!(verb, "-q", "-O", "raw", place.path("a.lvd"), server.uri()).ok();
            drop(server);
            same(&fs::read(&target).unwrap(), &bytes, &format!("{verb} to {arguments:?}"));
        }
    }
    let server = Server::nbdkit(&place, &["-r", "file", "b.raw"]);
    lvd!("convert", "-O", "raw", place.path("a.lvd"), server.uri()).fails(1, "the server lets nobody write to it");
    lvd!("convert", place.path("a.lvd"), server.uri()).fails(1, "say what it is to be: -O raw or -O lvd");
}

/// An LVD image that is served raw, as an image of the client's.
#[test]
fn an_image_lies_in_an_export() {
    if !peers(&["qemu-nbd"]) {
        return;
    }
    let place = Place::new();
    place.sparse("b.raw", 16 * MIB);
    let server = Server::qemu_nbd(&place, &["b.raw"]);
    lvd!("create", server.uri(), "8M").ok();
    lvd!("write", "-P", "5", server.uri(), "1M", "64K").ok();
    lvd!("check", server.uri()).ok();
    drop(server);
    let image = place.path("b.raw");
    lvd!("check", &image).ok();
    assert!(content(&image)[MIB as usize..][..64 << 10].iter().all(|byte| *byte == 5));
}

/// What QEMU has recorded goes on here.
#[test]
fn a_bitmap_of_qemu_is_merged() {
    if !peers(&["qemu-nbd", "qemu-img", "qemu-io"]) {
        return;
    }
    let place = Place::new();
    let theirs = place.path("theirs.qcow2");
    tool!("qemu-img", "create", "-q", "-f", "qcow2", &theirs, "8M").ok();
    tool!("qemu-img", "bitmap", "--add", "-g", "64K", &theirs, "daily").ok();
    tool!("qemu-io", "-c", "write 130k 1k", "-c", "write 1M 64k", &theirs).ok();
    tool!("qemu-img", "bitmap", "--disable", &theirs, "daily").ok();
    let served = ["-t", "-k", "SOCKET", "-f", "qcow2", "-r", "-B", "daily", "theirs.qcow2"];
    let server = Server::start(&place, "qemu-nbd", &served);
    lvd!("create", place.path("ours.lvd"), "8M").ok();
    lvd!("bitmap", "merge", "--from", server.uri(), place.path("ours.lvd"), "since", "daily").ok();
    let extents = lvd!("bitmap", "extents", "--json", place.path("ours.lvd"), "since").ok().json();
    let dirty = extents.as_array().expect("extents").iter().filter(|extent| extent["type"] == 1);
    let dirty: Vec<_> = dirty.map(|extent| (extent["offset"].as_u64(), extent["length"].as_u64())).collect();
    assert_eq!(dirty, [(Some(2 << 16), Some(1 << 16)), (Some(1 << 20), Some(1 << 16))]);
}

#[test]
fn a_parent_is_on_a_server() {
    if !peers(&["nbdkit"]) {
        return;
    }
    let place = Place::new();
    let mut bytes = raw(&place, "a.raw");
    let top = place.path("top.lvd");
    let server = Server::nbdkit(&place, &["-r", "file", "a.raw"]);
    lvd!("create", "-b", server.uri(), "-F", "raw", &top).ok();
    // Whom this machine connects to is not for an image to say.
    lvd!("read", &top, "0", "1").fails(1, "says that its parent is nbd+unix:///?socket=");
    lvd!("write", "--remote", "-P", "3", &top, "100", "5000").ok();
    bytes[100..5100].fill(3);
    lvd!("create", "--remote", "-b", "top.lvd", place.path("above.lvd")).ok();
    let read = lvd!("read", "--remote", place.path("above.lvd"), "0", "8M").ok();
    same(&read.out, &bytes, "through two layers");
    // What a link leads to after two layers became one.
    lvd!("stream", "--remote", "--base", server.uri(), place.path("above.lvd")).ok();
    let info = lvd!("info", "--json", place.path("above.lvd")).ok().json();
    assert_eq!(info["backing-filename"], server.uri(), "{info}");
    lvd!("stream", "--remote", &top).ok();
    drop(server);
    same(&content(&top), &bytes, "after the stream");
}

/// What an image on a server says of its parent is looked for on that server, and with leave alone. It used to lead into
/// this machine's files, of which a stream would have told the server, and to any of its sockets.
#[test]
fn an_image_on_a_server_names_nothing_of_this_machine() {
    let place = Place::new();
    let bytes = raw(&place, "base.raw");
    let top = place.path("top.lvd");
    for (hint, remote) in [(place.path("base.raw"), None), (PathBuf::from("base.raw"), Some(&bytes))] {
        let _ = fs::remove_file(&top);
        lvd!("create", "-b", &hint, "-F", "raw", &top).ok();
        let server = LvdServer::start(&place, &["-r", "-f", "raw", "top.lvd", "base.raw"]);
        let uri = server.uri().replace("///?", "///top.lvd?");
        lvd!("read", &uri, "0", "1").fails(1, "allow that with --remote");
        let read = lvd!("read", "--remote", &uri, "0", "8M");
        match remote {
            Some(bytes) => same(&read.ok().out, bytes, "through the server"),
            None => drop(read.fails(1, "the server has no such export")),
        }
    }
}

/// Nobody holds an export as a file is held: that one command reads and overwrites it must be seen beforehand.
#[test]
fn an_export_is_not_copied_onto_itself() {
    let place = Place::new();
    let file = place.sparse("a.raw", 8 * MIB);
    let server = LvdServer::start(&place, &["-f", "raw", "a.raw"]);
    lvd!("create", server.uri(), "4M").ok();
    lvd!("write", "-P", "5", server.uri(), "0", "4M").ok();
    for verb in ["convert", "mirror", "backup"] {
        lvd!(verb, "-q", "-O", "raw", server.uri(), server.uri()).fails(1, "it is what is copied");
    }
    server.stop().ok();
    assert!(content(&file)[..4 * MIB as usize].iter().all(|byte| *byte == 5));
}

/// The server goes: what is here is read, what is not is not, and a stream that failed goes on when it is back.
#[test]
fn a_server_that_is_gone() {
    if !peers(&["nbdkit"]) {
        return;
    }
    let place = Place::new();
    let mut bytes = raw(&place, "a.raw");
    let top = place.path("top.lvd");
    let server = || Server::nbdkit(&place, &["-r", "--filter=rate", "file", "a.raw", "rate=200M"]);
    let first = server();
    lvd!("create", "-b", first.uri(), "-F", "raw", &top).ok();
    lvd!("write", "--remote", "-P", "3", &top, "0", "1M").ok();
    bytes[..MIB as usize].fill(3);
    let served = LvdServer::start(&place, &["top.lvd", "--remote", "--reconnect", "0"]);
    let serving = NbdStorage::open(&Uri::parse(&served.uri()).unwrap(), Options::default()).unwrap();
    let mut read = vec![0; 4096];
    serving.read_at(&mut read, 4 * MIB).unwrap();
    assert!(read == bytes[4 * MIB as usize..][..4096]);
    drop(first);
    serving.read_at(&mut read, 0).unwrap();
    assert!(read == bytes[..4096], "what is here");
    let error = serving.read_at(&mut read, 4 * MIB).unwrap_err().to_string();
    assert!(error.contains("the server says: input/output error"), "{error}");
    drop(serving);
    // The server's own errors are told by the server.
    assert!(served.stop().err.contains("no connection"), "the cause is told where it is known");
    lvd!("stream", "--remote", "--reconnect", "0", &top).fails(1, "no connection");
    let _second = server();
    lvd!("stream", "--remote", &top).ok();
    same(&content(&top), &bytes, "after the stream");
}

/// A mirror whose target's server is killed, again and again, ends with a true copy; so does a stream from a server that is.
#[test]
fn servers_that_are_killed_during_jobs() {
    if !peers(&["nbdkit"]) {
        return;
    }
    let place = Place::new();
    let bytes = raw(&place, "a.raw");
    lvd!("convert", "-f", "raw", place.path("a.raw"), place.path("a.lvd")).ok();
    let target = place.file("b.raw", &vec![9; bytes.len()]);
    let slow = ["--filter=delay", "file", "b.raw", "wdelay=5ms"];
    let source = ["-r", "--filter=delay", "file", "a.raw", "rdelay=5ms"];
    for (server, job) in
        [(&slow[..], &["mirror", "-O", "raw", "a.lvd", "URI"][..]), (&source, &["stream", "--remote", "top.lvd"])]
    {
        let mut running = Server::nbdkit(&place, server);
        lvd!("create", "-b", running.uri(), "-F", "raw", place.path("top.lvd")).ok();
        let mut command = command();
        let arguments = job.iter().map(|word| word.replace("URI", &running.uri()));
        command.current_dir(place.root()).args(arguments).args(["--speed", "16M", "-m", "4"]);
        let mut job = command.stderr(Stdio::piped()).spawn().expect("started");
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(60));
            drop(running);
            running = Server::nbdkit(&place, server);
        }
        let status = job.wait().expect("waited for");
        assert!(status.success(), "{status}");
    }
    same(&fs::read(&target).unwrap(), &bytes, "the mirror");
    same(&content(&place.path("top.lvd")), &bytes, "the stream");
}

#[test]
fn errors_of_the_server_are_told_in_one_line() {
    if !peers(&["nbdkit"]) {
        return;
    }
    let place = Place::new();
    raw(&place, "a.raw");
    let server = Server::nbdkit(&place, &["--filter=error", "file", "a.raw", "error=EIO", "error-rate=100%"]);
    let uri = server.uri();
    lvd!("read", "-f", "raw", &uri, "0", "4K").fails(1, "cannot read: the server says: input/output error");
    let full =
        Server::nbdkit(&place, &["--filter=error", "file", "a.raw", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"]);
    lvd!("write", "-f", "raw", "-P", "1", full.uri(), "0", "4K").fails(1, "no space left");
    let old = Server::nbdkit(&place, &["-o", "file", "a.raw"]);
    lvd!("read", "-f", "raw", old.uri(), "0", "4K").fails(1, "the server speaks the protocol of before 2010");
    drop((server, full, old));
    lvd!("read", "-f", "raw", &uri, "0", "4K").fails(1, "no connection");
    lvd!("read", "-f", "raw", "nbd://localhost:1/x", "0", "4K").fails(1, "no connection");
    lvd!("read", "-f", "raw", "nbd:unix:/x", "0", "4K").fails(1, "not an NBD URI");
    let served = LvdServer::start(&place, &["-f", "raw", "a.raw", "-x", "one"]);
    let other = served.uri().replace("///?", "///two?");
    lvd!("read", "-f", "raw", other, "0", "4K").fails(1, "the server has no such export");
}

/// A server whose blocks are large: what is smaller is read, changed and written back, by one caller at a time.
#[test]
fn large_blocks() {
    if !peers(&["nbdkit"]) {
        return;
    }
    let place = Place::new();
    let mut bytes = raw(&place, "a.raw");
    let policy = ["blocksize-minimum=4K", "blocksize-maximum=64K", "blocksize-error-policy=error"];
    let server = Server::nbdkit(&place, &[&["--filter=blocksize-policy", "file", "a.raw"][..], &policy].concat());
    let client = server.client(true).unwrap();
    let mut random = Random::new(3);
    std::thread::scope(|scope| {
        // Each thread has every fourth sector: two of them always share a block.
        let writers: Vec<_> = (0..4usize)
            .map(|thread| {
                let (client, data) = (&client, random.bytes(512));
                scope.spawn(move || {
                    for sector in (thread..256).step_by(4) {
                        client.write_at(&data, sector as u64 * 512).unwrap();
                    }
                    (thread, data)
                })
            })
            .collect();
        for writer in writers {
            let (thread, data) = writer.join().unwrap();
            (thread..256).step_by(4).for_each(|sector| bytes[sector * 512..][..512].copy_from_slice(&data));
        }
    });
    client.punch(MIB + 5..3 * MIB - 7).unwrap();
    bytes[MIB as usize + 5..3 * MIB as usize - 7].fill(0);
    let mut read = vec![0; 5 * MIB as usize];
    client.read_at(&mut read, 3).unwrap();
    assert!(read == bytes[3..][..read.len()]);
    client.sync().unwrap();
    drop((client, server));
    same(&fs::read(place.path("a.raw")).unwrap(), &bytes, "the file");
}

/// Through `lvd serve` and back, over TCP: holes stay holes.
#[test]
fn holes_stay_holes() {
    let place = Place::new();
    let image = place.path("a.lvd");
    lvd!("create", &image, "64M").ok();
    lvd!("write", "-P", "7", &image, "32M", "1M").ok();
    let server = LvdServer::start(&place, &["a.lvd", "-r", "--tcp", "localhost:0"]);
    let device = NbdStorage::open(&Uri::parse(&server.uri()).unwrap(), Options::default()).unwrap();
    let device = RawDevice::new(Arc::new(device), false).unwrap();
    let first = device.extent(0, 64 * MIB).unwrap();
    assert_eq!((first.range.clone(), first.kind), (0..32 * MIB, lvd::ExtentKind::Zero));
    let copy = place.path("copy.lvd");
    lvd!("convert", "-f", "raw", server.uri(), &copy).ok();
    assert!(used(&copy) < 2 * MIB, "{} bytes", used(&copy));
    lvd!("compare", "-f", "raw", server.uri(), &copy).ok();
}

fn used(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512
}

/// A parent that does not answer holds up what asks for it, and nothing else of the same client: neither reads of what is
/// here, nor writes, nor flushes.
#[test]
fn a_parent_that_hangs() {
    let place = Place::new();
    raw(&place, "a.raw");
    let parent = LvdServer::start_at(&place, "parent", &["-r", "-f", "raw", "a.raw"]);
    let top = place.path("top.lvd");
    lvd!("create", "-b", parent.uri(), "-F", "raw", &top).ok();
    lvd!("write", "--remote", "-P", "3", &top, "0", "1M").ok();
    let served = LvdServer::start(&place, &["top.lvd", "--remote"]);
    parent.signal("STOP");
    let options = Options { write: true, connections: 1, ..Options::default() };
    let client = NbdStorage::open(&Uri::parse(&served.uri()).unwrap(), options).unwrap();
    std::thread::scope(|scope| {
        let far: Vec<_> = (0..20u64)
            .map(|part| {
                let client = &client;
                scope.spawn(move || {
                    let mut read = vec![0; 4096];
                    match part % 4 {
                        0 => client.read_at(&mut read, 4 * MIB + part * 4096),
                        1 => client.write_at(&[5; 100], 5 * MIB + part * 4096),
                        2 => client.next_data(6 * MIB + part * 4096..7 * MIB).map(drop),
                        _ => client.punch(7 * MIB + part * 4096..7 * MIB + part * 4096 + 5),
                    }
                })
            })
            .collect();
        // A test that fails does so after a while, and not never.
        let (passed, timer) = std::sync::mpsc::channel::<()>();
        let parent = &parent;
        scope.spawn(move || {
            let _ = timer.recv_timeout(Duration::from_secs(30));
            parent.signal("CONT");
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(far.iter().all(|far| !far.is_finished()), "nobody has answered");
        let mut read = vec![0; 4096];
        client.read_at(&mut read, 8192).unwrap();
        assert!(read == [3; 4096]);
        client.write_at(&[4; 4096], 2 * MIB).unwrap();
        client.write_at(&[4; 100], 50).unwrap();
        client.sync().unwrap();
        assert!(far.iter().all(|far| !far.is_finished()), "nobody has answered yet");
        drop(passed);
        far.into_iter().for_each(|far| far.join().unwrap().unwrap());
    });
    client.sync().unwrap();
    let mut read = vec![0; 100];
    client.read_at(&mut read, 5 * MIB + 4096).unwrap();
    assert!(read == [5; 100]);
    drop(client);
    served.stop().ok();
}
