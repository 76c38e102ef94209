//! Clients that mean harm, or do nothing, beside one that goes on unharmed.

use crate::common::{Place, Random};
use crate::lvd;
use crate::rig::{Monitor, Server, overlay};
use lvd::control::MAX_TEXT;
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

fn connect(server: &Server) -> UnixStream {
    let stream = UnixStream::connect(&server.control).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    stream
}

/// A client that has been greeted: there is room for it once the server has seen others go.
fn greeted(server: &Server) -> UnixStream {
    loop {
        let (mut stream, mut line, mut byte) = (connect(server), Vec::new(), [0]);
        while !line.ends_with(b"\n") && stream.read(&mut byte).expect("a greeting") == 1 {
            line.push(byte[0]);
        }
        if line.starts_with(b"{\"QMP\"") {
            return stream;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All that comes until the server hangs up.
fn rest(stream: &mut UnixStream) -> String {
    let (mut buffer, mut all) = (vec![0; 64 << 10], Vec::new());
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return String::from_utf8(all).expect("text"),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            // Told once, where the server has not read everything; what it has sent comes all the same.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Answers, and does so soon.
fn unharmed(monitor: &mut Monitor) {
    let begun = Instant::now();
    monitor.ok("query-block", json!({}));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn garbage_half_lines_endless_lines_and_nothing() {
    let place = Place::new();
    overlay(&place);
    let server = Server::start(&place);
    let (mut monitor, mut random) = (server.monitor(), Random::new(3));
    let mut idle = Vec::new();
    for round in 0..40 {
        let mut stream = connect(&server);
        match round % 4 {
            // Sent, and gone.
            0 => drop(stream.write_all(&random.bytes(5000))),
            // Half a command, and gone.
            1 => drop(stream.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"")),
            // Half a command, and nothing more.
            2 if idle.len() < 5 => {
                stream.write_all(b"{\"execute\":\"qmp_").expect("sent");
                idle.push(stream);
            }
            _ => {}
        }
        unharmed(&mut monitor);
    }
    for endless in
        [b"x".repeat(MAX_TEXT + 1), [b"{\"a\":\"".to_vec(), b"x".repeat(MAX_TEXT)].concat(), b"[".repeat(100)]
    {
        let mut stream = greeted(&server);
        // The server hangs up before all of it is there.
        let _ = stream.write_all(&endless);
        let told = rest(&mut stream);
        assert!(told.lines().count() == 1 && told.contains("the connection ends"), "{told}");
        unharmed(&mut monitor);
    }
    drop(idle);
    server.stop().ok();
}

/// A client that fetches nothing, while much is told, is sent away; it keeps nobody up, not even the end of the server.
#[test]
fn a_client_that_fetches_nothing() {
    let place = Place::new();
    overlay(&place);
    let server = Server::start(&place);
    let mut monitor = server.monitor();
    let mut deaf = greeted(&server);
    deaf.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").expect("sent");
    deaf.set_write_timeout(Some(Duration::from_millis(200))).expect("set");
    let question = b"{\"execute\":\"query-commands\"}\n".repeat(1000);
    let sent_away = (0..100).any(|_| match deaf.write_all(&question) {
        Ok(()) => false,
        Err(error) => error.kind() == ErrorKind::BrokenPipe || error.kind() == ErrorKind::ConnectionReset,
    });
    assert!(sent_away, "a client that fetches nothing is served for ever");
    unharmed(&mut monitor);
    let mut idle = connect(&server);
    idle.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").expect("sent");
    let begun = Instant::now();
    server.stop().ok();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// One client too many is sent away; when another has gone there is room again.
#[test]
fn too_many_clients() {
    let place = Place::new();
    overlay(&place);
    let server = Server::start(&place);
    // `start` has connected once to see whether somebody listens; that client may not have left yet.
    let mut monitors: Vec<Monitor> = (0..15).map(|_| server.monitor()).collect();
    let crowd: Vec<UnixStream> = (0..20).map(|_| connect(&server)).collect();
    unharmed(&mut monitors[0]);
    let mut late = connect(&server);
    assert!(rest(&mut late).contains("too many clients"));
    lvd!("job", "list", "--control", &server.control).fails(1, "too many clients");
    drop(crowd);
    monitors.truncate(1);
    drop(greeted(&server));
    server.stop().ok();
}
