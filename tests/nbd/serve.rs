//! `lvd serve` as a process: where it listens, how it ends, what it says.

use crate::client::Client;
use crate::common::{Place, Process, Run, lvd as command, peers};
use crate::{lvd, tool};
use lvd::nbd::proto::{NBD_CMD_FLAG_FUA, NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE};
use lvd::testing::nbd::request;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A server, killed if a test fails.
pub struct Server {
    process: Process,
    pub socket: PathBuf,
}

impl Server {
    /// `lvd serve` with these arguments at a socket in `place`, once it listens.
    pub fn start(place: &Place, arguments: &[&str]) -> Server {
        Server::start_at(place, "socket", arguments)
    }

    /// The same at a socket of that name.
    pub fn start_at(place: &Place, name: &str, arguments: &[&str]) -> Server {
        let socket = place.path(name);
        let mut serve = command();
        serve.current_dir(place.root()).args(["serve", "--unix"]).arg(&socket).args(arguments);
        Server { process: Process::start(&mut serve, &socket), socket }
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        stream
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    pub fn pid(&self) -> String {
        self.process.pid()
    }

    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub fn end(&mut self) -> Run {
        self.process.end()
    }

    /// Asks it to stop, and waits.
    pub fn stop(self) -> Run {
        self.process.stop()
    }
}

fn image(place: &Place, name: &str) -> PathBuf {
    lvd!("create", place.path(name), "1M").ok();
    place.path(name)
}

#[test]
fn a_signal_ends_it_cleanly() {
    let place = Place::new();
    let disk = image(&place, "disk.lvd");
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&place, &["disk.lvd"]);
        lvd!("info", &disk).fails(1, "locked");
        // A client that does nothing holds nobody up.
        let mut idle = server.connect();
        idle.read_exact(&mut [0; 18]).expect("a greeting");
        server.signal(signal);
        server.end().ok();
        assert!(!server.socket.exists(), "the socket is left");
        assert_eq!(lvd!("info", "--json", &disk).ok().json()["state"], "closed");
    }
}

/// A client that does not fetch its replies is waited for, but not after a second signal.
#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    image(&place, "disk.lvd");
    lvd!("write", "-P", "1", place.path("disk.lvd"), "0", "1M").ok();
    let mut server = Server::start(&place, &["disk.lvd", "-x", "disk"]);
    let mut client = Client::new(server.connect());
    for _ in 0..64 {
        client.send(NBD_CMD_READ, 0, 1 << 20, &[]);
    }
    // The replies are on their way, and are more than a socket holds.
    client.stream.read_exact(&mut [0; 4]).expect("the first bytes");
    server.signal("TERM");
    // Whoever comes now is not greeted.
    while server.connect().read(&mut [0; 18]).expect("an answer") > 0 {}
    server.signal("TERM");
    assert_eq!(server.end().code, None, "it ended by itself");
}

#[test]
fn dead_sockets_give_way_and_live_ones_do_not() {
    let place = Place::new();
    image(&place, "disk.lvd");
    image(&place, "other.lvd");
    let mut server = Server::start(&place, &["disk.lvd"]);
    let again = |name: &str| lvd!("serve", "--unix", &server.socket, place.path(name));
    again("other.lvd").fails(1, "in use");
    server.signal("KILL");
    server.end();
    assert!(server.socket.exists(), "a killed server leaves its socket");
    Server::start(&place, &["disk.lvd"]).stop().ok();
    // Any other file stays.
    let file = place.file("socket", b"precious");
    lvd!("serve", "--unix", &file, place.path("disk.lvd")).fails(1, "in use");
    assert_eq!(std::fs::read(file).expect("read"), b"precious");
    // What another server has put in its place stays too.
    std::fs::remove_file(place.path("socket")).expect("removed");
    let server = Server::start(&place, &["disk.lvd"]);
    std::fs::remove_file(&server.socket).expect("removed");
    let _other = UnixListener::bind(&server.socket).expect("bound");
    server.stop().ok();
    assert!(place.path("socket").exists());
}

#[test]
fn commands_run_beside_it() {
    let place = Place::new();
    let disk = image(&place, "my disk.lvd");
    let script = "test -S \"$unixsocket\" && echo \"$uri|$nbd|$exportname\"; exit 7";
    let run = lvd!("serve", "--run", script, "-x", "a/b", &disk).code(7);
    let text = run.text();
    let (uri, rest) = text.trim().split_once('|').expect("both");
    assert!(uri.starts_with("nbd+unix:///a%2Fb?socket=/") && rest.ends_with(":exportname=a/b|a/b"), "{text}");
    assert!(!Path::new(uri.split_once("socket=").expect("a socket").1).exists(), "the socket is left");
    lvd!("serve", "--run", "kill -9 $$", &disk).code(128 + 9);
    lvd!("serve", "--tcp", "127.0.0.1:0", "--run", "case $uri in nbd://127.0.0.1:*/) ;; *) exit 3; esac", &disk).ok();
    assert_eq!(lvd!("info", "--json", &disk).ok().json()["state"], "closed");
}

/// A server that is asked to stop takes the command along.
#[test]
fn a_signal_ends_the_command_too() {
    let place = Place::new();
    let disk = image(&place, "disk.lvd");
    let script = "trap 'echo ended >told; exit' TERM; echo begun >told; for i in $(seq 900); do sleep 0.05; done";
    let mut child =
        command().current_dir(place.root()).args(["serve", "--run", script]).arg(&disk).spawn().expect("started");
    let told = || std::fs::read_to_string(place.path("told")).unwrap_or_default();
    let wait_for = |word: &str| {
        (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            told() == word
        })
    };
    assert!(wait_for("begun\n"), "{}", told());
    tool!("kill", child.id().to_string()).ok();
    let ended = child.wait().expect("waited for");
    assert!(wait_for("ended\n"), "{}", told());
    assert!(ended.success());
    assert_eq!(lvd!("info", "--json", &disk).ok().json()["state"], "closed");
}

#[test]
fn what_makes_no_sense_is_said_in_a_line() {
    let place = Place::new();
    let (disk, raw) = (image(&place, "disk.lvd"), place.sparse("disk.raw", 4096));
    let socket = place.path("socket");
    lvd!("serve", &disk).fails(1, "say where to listen");
    lvd!("serve", "--unix", "-", &disk).fails(1, "--run");
    lvd!("serve", "--unix", &socket).fails(1, "<IMG>");
    lvd!("serve", "--unix", &socket, &raw).fails(1, "-f raw");
    lvd!("serve", "--unix", &socket, "--bitmap", "b", &disk).fails(1, "no image has a bitmap \"b\"");
    lvd!("serve", "--unix", &socket, &disk, &disk).fails(1, "locked");
    lvd!("serve", "--unix", &socket, "-r", &disk, &disk).fails(1, "two exports have the name");
    lvd!("serve", "--unix", &socket, "-r", "-x", "a", &disk, &disk).fails(1, "once for each image");
    lvd!("serve", "--unix", place.path("no/socket"), &disk).fails(1, "no such file");
    lvd!("serve", "--unix", place.path(&"long".repeat(30)), &disk).fails(1, "SUN_LEN");
    lvd!("serve", "--tcp", "127.0.0.1:1:1", &disk).fails(1, "cannot listen");
    assert!(!socket.exists());
}

/// What was flushed, or written with FUA, is in an overlay whose server is killed.
#[test]
fn a_killed_server_keeps_what_was_flushed() {
    let place = Place::new();
    image(&place, "base.lvd");
    lvd!("create", "-b", "base.lvd", place.path("top.lvd")).ok();
    let mut server = Server::start(&place, &["top.lvd", "-x", "disk"]);
    let mut client = Client::new(server.connect());
    client.write(8192, &[1; 4096]);
    client.ask(NBD_CMD_FLUSH, 0, 0, &[]).expect("flushed");
    client.stream.write_all(&request(NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 99, 16384, 5, b"hello")).expect("sent");
    assert_eq!(client.reply(), (99, Ok(Vec::new())));
    server.signal("KILL");
    server.end();
    let top = place.path("top.lvd");
    assert_eq!(lvd!("read", &top, "8192", "4096").ok().out, [1; 4096]);
    assert_eq!(lvd!("read", &top, "16384", "6").ok().out, b"hello\0");
    lvd!("check", &top).ok();
}

/// With --copy-on-read what a client has read is in the overlay.
#[test]
fn copy_on_read() {
    let place = Place::new();
    let base = image(&place, "base.lvd");
    lvd!("write", "-P", "3", base, "64K", "4K").ok();
    lvd!("create", "-b", "base.lvd", place.path("top.lvd")).ok();
    let server = Server::start(&place, &["top.lvd", "-x", "disk", "--copy-on-read"]);
    assert_eq!(Client::new(server.connect()).read(64 << 10, 4096), [3; 4096]);
    server.stop().ok();
    let map = lvd!("map", "--json", place.path("top.lvd")).ok().json();
    let read = map.as_array().expect("a list").iter().find(|row| row["start"] == 64 << 10).expect("an extent");
    assert_eq!(read["depth"], 0, "{map}");
}

/// The port is printed where the user left it to the host.
#[test]
fn a_free_port() {
    let place = Place::new();
    let disk = image(&place, "disk.lvd");
    let mut child = command().args(["serve", "--tcp", "127.0.0.1:0"]).arg(disk).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("nbd://").and_then(|rest| rest.strip_suffix('/')).expect("a URI");
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
    tool!("kill", child.id().to_string()).ok();
    assert!(child.wait().unwrap().success());
}

/// A socket that a service manager hands over as descriptor 3.
#[test]
fn a_socket_that_is_handed_over() {
    if !peers(&["bash"]) {
        return;
    }
    let place = Place::new();
    let disk = image(&place, "disk.lvd");
    let listener = UnixListener::bind(place.path("socket")).expect("bound");
    let input: std::os::fd::OwnedFd = listener.into();
    let mut shell = Command::new("bash");
    shell.arg("-c").arg("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"").arg("bash");
    shell.arg(env!("CARGO_BIN_EXE_lvd")).arg("serve").arg(disk).stdin(Stdio::from(input)).process_group(0);
    let mut child = shell.spawn().expect("started");
    let mut stream = UnixStream::connect(place.path("socket")).expect("somebody listens");
    stream.read_exact(&mut [0; 18]).expect("a greeting");
    tool!("kill", child.id().to_string()).ok();
    assert!(child.wait().expect("waited for").success());
    assert!(place.path("socket").exists(), "a socket that was handed over is not ours to delete");
}

/// Descriptors at which nobody can connect are refused, and those that are meant for others are not looked at.
#[test]
fn what_is_handed_over_and_is_no_listener() {
    if !peers(&["bash"]) {
        return;
    }
    let place = Place::new();
    let disk = image(&place, "disk.lvd");
    let handed = |input: Stdio, environment: &str| {
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(format!("exec 3<&0 </dev/null; {environment} exec \"$@\"")).arg("bash");
        shell.arg(env!("CARGO_BIN_EXE_lvd")).arg("serve").arg(&disk).stdin(input);
        crate::common::run(&mut shell)
    };
    let ours = "LISTEN_FDS=1 LISTEN_PID=$$";
    handed(Stdio::null(), ours).fails(1, "socket 1 of LISTEN_FDS: cannot listen: fd 3 is not a socket");
    let connected = || Stdio::from(std::os::fd::OwnedFd::from(UnixStream::pair().expect("a pair").0));
    handed(connected(), ours).fails(1, "socket 1 of LISTEN_FDS: nobody listens at it");
    for others in ["LISTEN_FDS=1 LISTEN_PID=1", "LISTEN_FDS=1"] {
        handed(connected(), others).fails(1, "say where to listen");
    }
}
