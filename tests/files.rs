//! Files at open: what is no disk, what is swapped in between, where symbolic links lead, and who holds a file.
#![cfg(target_os = "linux")]

mod common;

use common::{MIB, Place, Process, Random, feed, lvd as command, run};
use lvd::Error;
use lvd::chain::{Chain, ChainOptions, GivenParents, Layer, ParentPolicy, ParentsInDirectories};
use lvd::image::Image;
use lvd::storage::{Create, FileOptions, FileStorage, LockMode, OsHost, Storage, open_beneath};
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

fn fifo(place: &Place, name: &str) -> PathBuf {
    let path = place.path(name);
    run(Command::new("mkfifo").arg(&path)).ok();
    path
}

fn shared() -> FileOptions {
    FileOptions { lock: Some(LockMode::Shared), ..FileOptions::default() }
}

/// Does `work` on another thread; fails where that waits for somebody.
fn without_waiting<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(Duration::from_secs(60)).expect("nobody is waited for")
}

/// Calls `swap` again and again on another thread while `work` is done, or until it panics.
fn while_swapped(mut swap: impl FnMut(u32) + Send, work: impl FnOnce()) {
    let (stopped, stop) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut round = 0;
            while stop.try_recv() == Err(TryRecvError::Empty) {
                swap(round);
                round += 1;
            }
        });
        // Goes at the end of this, whatever that is.
        let _stopped = stopped;
        work();
    });
}

/// `lvd info /proc/kmsg` took the kernel's messages away from whoever was to have them, and then waited for more. A file of
/// sysfs was a disk of 4096 bytes.
#[test]
fn what_the_kernel_makes_up_is_no_disk() {
    for path in ["/proc/self/environ", "/proc/self/mem", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"]
    {
        if !Path::new(path).exists() {
            continue;
        }
        for words in [&["info", path][..], &["info", "-f", "raw", path], &["read", "-f", "raw", path, "0", "1"]] {
            run(command().args(words)).fails(1, "made up by the kernel, not a disk");
        }
    }
    // Its own files that are stored somewhere are reached by it as well.
    let place = Place::new();
    let path = place.file("disk.raw", &[7; 4096]);
    let file = fs::File::open(&path).expect("opened");
    let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    assert_eq!(FileStorage::open(through, &shared()).expect("a file").size().expect("a size"), 4096);
}

/// An image says what it likes of its parent; what it leads to is opened only if it is a disk, and nobody is waited for.
#[test]
fn no_parent_is_waited_for() {
    let place = Place::new();
    fifo(&place, "fifo");
    fs::create_dir(place.path("directory")).expect("made");
    let _socket = UnixListener::bind(place.path("socket")).expect("bound");
    symlink("fifo", place.path("link")).expect("made");
    place.file("base.raw", &[1; 4096]);
    let hints = ["fifo", "link", "directory", "socket", "/dev/zero", "/dev/null", "/dev/tty", "/proc/self/environ"];
    for (number, hint) in hints.into_iter().enumerate() {
        let image = place.path(&format!("{number}.lvd"));
        run(command().args(["create", "-b", "base.raw", "-F", "raw"]).arg(&image)).ok();
        rename_hint(&image, "base.raw", hint);
        for words in [&["read"][..], &["read", "--parents-in", "/"]] {
            let mut read = Command::new("timeout");
            read.arg("60").arg(env!("CARGO_BIN_EXE_lvd")).args(words).arg(&image).args(["0", "1"]);
            // A process without a terminal cannot open one.
            let part = if hint == "/dev/tty" { "tty" } else { "not a disk" };
            run(read.stdin(Stdio::null())).fails(1, part);
        }
        // What only looks at the image opens nothing else.
        run(command().arg("info").arg(&image)).ok();
        run(command().arg("check").arg(&image)).ok();
    }
}

/// Names that tools of others open as something: whatever an image says, to look at it opens nothing, and to read it no more
/// than a file of that name.
#[test]
fn names_in_images_are_only_names() {
    let place = Place::new();
    let server = TcpListener::bind("127.0.0.1:0").expect("bound");
    server.set_nonblocking(true).expect("set");
    let address = server.local_addr().expect("an address");
    place.file("base.raw", &[1; 4096]);
    let secret = place.file("secret.raw", &[9; 4096]);
    let hints = [
        format!("nbd://{address}/x"),
        format!("nbds://{address}/x"),
        format!("nbd:{address}:exportname=x"),
        format!("http://{address}/x"),
        format!("json:{{\"driver\":\"file\",\"filename\":{:?}}}", secret.display().to_string()),
        format!("file:{}", secret.display()),
        format!("file://{}", secret.display()),
        "fd:0".into(),
        "$(touch made)".into(),
        "|touch made".into(),
        "-".into(),
    ];
    for (number, hint) in hints.iter().enumerate() {
        let image = place.path(&format!("{number}.lvd"));
        run(command().args(["create", "-b", "base.raw", "-F", "raw"]).arg(&image)).ok();
        rename_hint(&image, "base.raw", hint);
        let told = run(command().args(["info", "--json"]).arg(&image)).ok().json();
        assert_eq!(told["backing-filename"], hint.as_str());
        run(command().arg("check").arg(&image)).ok();
        for words in [&["read"][..], &["info", "--chain"], &["map"]] {
            let mut look = command();
            look.current_dir(place.root()).args(words).arg(&image);
            if words[0] == "read" {
                look.args(["0", "1"]);
            }
            let result = run(&mut look).code(1);
            assert!(result.out.is_empty() && result.err.lines().count() == 1, "{hint}: {result:?}");
        }
        assert!(server.accept().is_err(), "{hint}: somebody connected");
    }
    assert!(!place.path("made").exists());
}

/// A guest of a raw disk writes what makes it an overlay of a file of the host. It stays what its user says that it is, when
/// it is opened again, copied, or the parent of another.
#[test]
fn a_guest_that_writes_a_header_stays_raw() {
    let place = Place::new();
    let (disk, secret) = (place.file("disk.raw", &vec![0; MIB as usize]), place.file("secret.raw", &[9; 4096]));
    let image = place.path("hostile.lvd");
    run(command().args(["create", "-b", "secret.raw", "-F", "raw"]).arg(&image).arg("64K")).ok();
    let header = fs::read(&image).expect("read");
    feed(["write", "-f", "raw", &disk.display().to_string(), "0"], &header).ok();
    let seen = run(command().args(["read", "-f", "raw"]).arg(&disk).args(["0", "1M"])).ok().out;
    assert_eq!(seen[..header.len()], header);
    assert_eq!(run(command().args(["info", "-f", "raw", "--json"]).arg(&disk)).ok().json()["format"], "raw");
    run(command().args(["resize", "-f", "raw"]).arg(&disk).arg("+4K")).ok();
    let copy = place.path("copy.raw");
    run(command().args(["convert", "-q", "-f", "raw", "-O", "raw"]).arg(&disk).arg(&copy)).code(0);
    assert_eq!(fs::read(&copy).expect("read")[..header.len()], header);
    let child = place.path("child.lvd");
    run(command().args(["create", "-b", "disk.raw", "-F", "raw"]).arg(&child)).ok();
    assert_eq!(run(command().arg("read").arg(&child).args(["0", "1M"])).ok().out, seen);
    assert!(secret.exists());
}

/// Has an image name another parent of the same kind.
fn rename_hint(image: &Path, from: &str, to: &str) {
    let storage = FileStorage::open(image, &FileOptions { write: true, ..FileOptions::default() }).expect("opened");
    let mut header = Image::read_header(&storage).expect("a header");
    let link = header.parent.as_mut().expect("a parent");
    assert_eq!(link.hint, from);
    link.hint = to.into();
    let bytes = header.encode().expect("a header");
    for slot in [0, lvd::limits::SLOT_SIZE] {
        storage.write_at(&bytes, slot).expect("written");
    }
}

/// Between the look at a file and its opening another takes its place, again and again: a FIFO is not waited at, and nothing
/// but the file is ever a disk.
#[test]
fn a_file_that_is_swapped_is_the_file_or_none() {
    let place = Arc::new(Place::new());
    fs::create_dir(place.path("kept")).expect("made");
    let (regular, name) = (place.file("kept/regular", &[5; 4096]), place.path("name"));
    fifo(&place, "kept/fifo");
    fs::create_dir(place.path("kept/directory")).expect("made");
    let _socket = UnixListener::bind(place.path("kept/socket")).expect("bound");
    let targets = ["kept/regular", "kept/fifo", "kept/directory", "kept/socket", "/dev/zero"];
    let id = fs::metadata(&regular).map(|found| (found.dev(), found.ino())).expect("there");
    symlink(targets[0], &name).expect("made");
    let next = place.path("next");
    while_swapped(
        |round| {
            symlink(targets[round as usize % targets.len()], &next).expect("made");
            fs::rename(&next, &name).expect("renamed");
        },
        || {
            let place = place.clone();
            let (opened, refused) = without_waiting(move || {
                let (mut opened, mut refused) = (0, 0);
                for round in 0..150_000 {
                    let result = match round % 2 {
                        0 => FileStorage::open(place.path("name"), &shared()),
                        _ => open_beneath(Path::new("/"), place.path("name").strip_prefix("/").unwrap(), &shared()),
                    };
                    match result {
                        Ok(file) => {
                            assert_eq!(file.id(), Some(id), "something else is a disk");
                            opened += 1;
                        }
                        Err(Error::Invalid(why)) => {
                            assert!(why.ends_with("not a disk"), "{why}");
                            refused += 1;
                        }
                        // A socket cannot be opened; the device leads out; the file was replaced before it was locked.
                        Err(Error::Io { .. } | Error::Denied(_) | Error::Locked { .. }) => refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                (opened, refused)
            });
            assert!(opened > 100 && refused > 100, "{opened} opened, {refused} refused: nothing was swapped");
        },
    );
}

/// A directory on the way to a parent is swapped for a link that leads out, again and again; what lies outside is never read.
#[test]
fn a_directory_that_is_swapped_leads_nowhere_else() {
    let place = Place::new();
    for directory in ["images", "images/sub", "outside"] {
        fs::create_dir(place.path(directory)).expect("made");
    }
    place.file("images/sub/base.raw", &[1; 4096]);
    place.file("outside/base.raw", &[2; 4096]);
    let (way, aside, out) = (place.path("images/sub"), place.path("images/aside"), place.path("images/out"));
    symlink(place.path("outside"), &out).expect("made");
    let policy = ParentsInDirectories::new(place.root(), [place.path("images")]);
    let link = raw_link("sub/base.raw");
    while_swapped(
        |_| {
            fs::rename(&way, &aside).expect("renamed");
            fs::rename(&out, &way).expect("renamed");
            fs::rename(&way, &out).expect("renamed");
            fs::rename(&aside, &way).expect("renamed");
        },
        || {
            let (mut inside, mut refused) = (0, 0);
            for _ in 0..20_000 {
                match policy.open(&link, "images/top.lvd", false) {
                    Ok(file) => {
                        let mut byte = [0];
                        file.read_at(&mut byte, 0).expect("read");
                        assert_eq!(byte, [1], "a file from outside");
                        inside += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
            assert!(inside > 100 && refused > 100, "{inside} inside, {refused} refused: nothing was swapped");
        },
    );
}

fn raw_link(hint: &str) -> lvd::format::Parent {
    let file = Arc::new(lvd::storage::MemoryStorage::with_bytes("base", &[1; 4096]));
    let chain = Chain::open_raw(file, Arc::new(OsHost::default()), &ChainOptions::default()).expect("opened");
    chain.layers[0].link(4096, hint.into()).expect("a link")
}

/// An image from elsewhere names a file of this machine: with the directories of parents it stays shut.
#[test]
fn parents_lie_where_the_user_says() {
    let place = Place::new();
    for directory in ["images", "images/sub", "other"] {
        fs::create_dir(place.path(directory)).expect("made");
    }
    let secret = place.file("secret.raw", &[9; 4096]);
    place.file("images/sub/base.raw", &[1; 4096]);
    place.file("other/base.raw", &[2; 4096]);
    symlink(&secret, place.path("images/link")).expect("made");
    let image = place.path("images/top.lvd");
    run(command().args(["create", "-b", "sub/base.raw", "-F", "raw"]).arg(&image)).ok();
    let read = |directories: &[&str]| {
        let mut read = command();
        read.arg("read");
        for directory in directories {
            read.arg("--parents-in").arg(place.path(directory));
        }
        run(read.arg(&image).args(["0", "1"]))
    };
    assert_eq!(read(&[]).ok().out, [1]);
    assert_eq!(read(&["images"]).ok().out, [1]);
    assert_eq!(read(&["other", "images/sub"]).ok().out, [1]);
    read(&["other"]).fails(1, "lies in no directory that is allowed");
    let mut before = "sub/base.raw".to_owned();
    for hint in [secret.display().to_string(), "../secret.raw".into(), "link".into(), "sub/../../secret.raw".into()] {
        rename_hint(&image, &before, &hint);
        before = hint;
        assert_eq!(read(&[]).ok().out, [9], "who allows everything gets it");
        let refused = read(&["images"]).code(1);
        assert!(refused.err.contains("allowed") || refused.err.contains("leads out of"), "{refused:?}");
        assert_eq!(refused.err.lines().count(), 1, "{refused:?}");
    }
    // Also of layers further down, and of the source of a job.
    let above = place.path("images/above.lvd");
    run(command().args(["create", "-b", "top.lvd"]).arg(&above)).ok();
    let copy = place.path("copy.raw");
    let convert = |words: &[&str]| {
        run(command().args(["convert", "-O", "raw"]).args(words).arg(&above).arg(&copy).current_dir(place.root()))
    };
    convert(&["--parents-in", "images"]).fails(1, "allowed");
    assert!(!copy.exists(), "nothing was copied");
    convert(&[]).code(0);
}

/// Nothing is made where a link that somebody has put there leads, and nothing is made twice.
#[test]
fn what_is_made_is_made_by_its_own_name() {
    let place = Place::new();
    let elsewhere = place.path("elsewhere");
    let link = place.path("new.lvd");
    symlink(&elsewhere, &link).expect("made");
    let new = FileOptions { write: true, create: Create::New, ..FileOptions::default() };
    assert!(FileStorage::open(&link, &new).unwrap_err().to_string().contains("exists"));
    run(command().arg("create").arg(&link).arg("1M")).fails(1, "no such file");
    let source = place.file("source.raw", &[1; 4096]);
    run(command().args(["convert", "-f", "raw"]).arg(&source).arg(&link)).fails(1, "no such file");
    assert!(!elsewhere.exists() && fs::symlink_metadata(&link).expect("there").is_symlink());
}

/// A command that failed took away its target by its name, whatever that led to by then.
#[test]
fn a_command_that_fails_takes_away_only_its_own_file() {
    let place = Place::new();
    let source = place.file("source.raw", &Random::new(1).bytes(4 * MIB as usize));
    for replaced in [false, true] {
        let (target, other) = (place.path("target.lvd"), place.file("other", b"somebody's"));
        let mut convert = command();
        convert.args(["convert", "-f", "raw", "--speed", "64K"]).arg(&source).arg(&target);
        let mut child = convert.stderr(Stdio::piped()).spawn().expect("started");
        let made =
            || FileStorage::open(&target, &FileOptions::default()).is_ok_and(|file| Image::read_header(&file).is_ok());
        while !made() {
            assert!(child.try_wait().expect("waited for").is_none(), "it ended before it was stopped");
            std::thread::sleep(Duration::from_millis(5));
        }
        if replaced {
            fs::rename(&other, &target).expect("renamed");
        }
        run(Command::new("kill").arg("-INT").arg(child.id().to_string())).ok();
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(!child.wait().expect("ended").success(), "{said}");
        match replaced {
            false => assert!(!target.exists(), "half a copy is left: {said}"),
            true => assert_eq!(fs::read(&target).expect("somebody's file is gone"), b"somebody's"),
        }
    }
}

/// `lvd serve` locks the directory in which it makes its socket, and waited for ever where somebody else held that lock, as
/// whoever may read the directory can.
#[test]
fn a_directory_that_is_held_is_not_waited_for() {
    let place = Place::new();
    run(command().arg("create").arg(place.path("disk.lvd")).arg("1M")).ok();
    let held = fs::File::open(place.root()).expect("opened");
    held.lock().expect("locked");
    let mut serve = Command::new("timeout");
    serve
        .args(["60", env!("CARGO_BIN_EXE_lvd"), "serve", "--unix"])
        .arg(place.path("socket"))
        .arg(place.path("disk.lvd"));
    run(&mut serve).fails(1, "holds its directory locked");
    drop(held);
    let mut serve = command();
    serve.args(["serve", "--unix"]).arg(place.path("socket")).arg(place.path("disk.lvd"));
    Process::start(&mut serve, &place.path("socket")).stop().ok();
}

/// A server that holds `disk`, for writing or for reading.
fn holder(place: &Place, disk: &Path, words: &[&str], socket: &str) -> Process {
    let mut serve = command();
    serve.args(["serve", "--unix"]).arg(place.path(socket)).args(words).arg(disk);
    Process::start(&mut serve, &place.path(socket))
}

fn write(path: &Path) -> common::Run {
    run(command().args(["write", "-P", "1"]).arg(path).args(["0", "512"]))
}

fn read(path: &Path) -> common::Run {
    run(command().arg("read").arg(path).args(["0", "1"]))
}

/// By whatever name the file is reached: its own, a link, a new one after it was renamed.
#[test]
fn processes_keep_each_other_out() {
    let place = Place::new();
    let (disk, hard, soft) = (place.path("disk.lvd"), place.path("hard.lvd"), place.path("soft.lvd"));
    run(command().arg("create").arg(&disk).arg("1M")).ok();
    fs::hard_link(&disk, &hard).expect("linked");
    symlink(&disk, &soft).expect("linked");
    let writer = holder(&place, &disk, &[], "a");
    for name in [&disk, &hard, &soft] {
        write(name).fails(1, "locked");
        read(name).fails(1, "locked");
    }
    let moved = place.path("moved.lvd");
    fs::rename(&disk, &moved).expect("renamed");
    write(&moved).fails(1, "locked");
    writer.stop().ok();
    let readers = [holder(&place, &moved, &["-r"], "a"), holder(&place, &hard, &["-r"], "b")];
    assert_eq!(read(&moved).ok().out, [0]);
    write(&moved).fails(1, "locked");
    readers.into_iter().for_each(|reader| drop(reader.stop().ok()));
    write(&moved).ok();
}

/// A lock is on the file and not on its name: what is put in its place is another file, which is free.
#[test]
fn a_lock_stays_with_the_file_when_another_takes_its_name() {
    let place = Place::new();
    let (disk, kept, other) = (place.path("disk.lvd"), place.path("kept.lvd"), place.path("other.lvd"));
    run(command().arg("create").arg(&disk).arg("1M")).ok();
    run(command().arg("create").arg(&other).arg("2M")).ok();
    fs::hard_link(&disk, &kept).expect("linked");
    let writer = holder(&place, &disk, &[], "a");
    fs::rename(&other, &disk).expect("renamed over");
    write(&disk).ok();
    write(&kept).fails(1, "locked");
    writer.stop().ok();
    assert_eq!(read(&disk).ok().out, [1]);
    assert_eq!(read(&kept).ok().out, [0]);
}

/// A process that is killed holds nothing, and its own children do not either.
#[test]
fn a_lock_ends_with_its_process() {
    let place = Place::new();
    let disk = place.path("disk.lvd");
    run(command().arg("create").arg(&disk).arg("1M")).ok();
    let number = place.path("number");
    let child = format!("echo $$ > {}; exec sleep 100 > /dev/null 2>&1", number.display());
    let mut writer = holder(&place, &disk, &["--run", &child], "a");
    let pid = || fs::read_to_string(&number).unwrap_or_default().trim().to_owned();
    while pid().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    write(&disk).fails(1, "locked");
    writer.signal("KILL");
    writer.end();
    write(&disk).ok();
    run(Command::new("kill").arg(pid())).ok();
}

/// Locks of POSIX are lost when the process closes any descriptor of the file. These are not.
#[test]
fn a_lock_outlasts_other_opens_of_the_file() {
    let place = Place::new();
    let disk = place.file("disk.raw", &[0; 4096]);
    let held =
        FileStorage::open(&disk, &FileOptions { lock: Some(LockMode::Exclusive), write: true, ..Default::default() });
    let held = held.expect("held");
    drop(fs::read(&disk).expect("read and closed"));
    drop(FileStorage::open(&disk, &FileOptions::default()).expect("opened and closed"));
    let again = run(command().args(["read", "-f", "raw"]).arg(&disk).args(["0", "1"]));
    again.fails(1, "locked");
    drop(held);
    run(command().args(["read", "-f", "raw"]).arg(&disk).args(["0", "1"])).ok();
}

/// A parent was opened by the policy, and another put in its place before it was locked.
#[test]
fn a_parent_that_was_swapped_before_it_was_locked_is_refused() {
    let place = Place::new();
    let (base, image) = (place.file("base.raw", &[1; 4096]), place.path("top.lvd"));
    run(command().args(["create", "-b", "base.raw", "-F", "raw"]).arg(&image)).ok();
    let open = || FileStorage::open(&base, &FileOptions::default()).map(|file| Arc::new(file) as Arc<dyn Storage>);
    let chain = |parent: Arc<dyn Storage>| {
        let top = Arc::new(FileStorage::open(&image, &FileOptions::default()).expect("opened"));
        Chain::open(top, Arc::new(OsHost::default()), &GivenParents::new([parent]), &ChainOptions::default())
    };
    assert!(chain(open().expect("opened")).is_ok_and(|chain| matches!(chain.layers[1], Layer::Raw(_))));
    let parent = open().expect("opened");
    fs::rename(place.file("other.raw", &[2; 4096]), &base).expect("renamed");
    let error = chain(parent).expect_err("another file is there by now");
    assert!(matches!(error, Error::Locked { .. }) && error.to_string().contains("another file has taken its place"));
}

/// What is made is no more open to others than the user has it.
#[test]
fn files_are_made_with_the_users_mask() {
    let place = Place::new();
    let path = place.path("disk.lvd");
    let script = "umask 077; exec \"$0\" create \"$1\" 1M";
    run(Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_lvd")]).arg(&path)).ok();
    assert_eq!(fs::metadata(&path).expect("made").permissions().mode() & 0o777, 0o600);
}
