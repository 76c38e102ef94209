//! The server: clients, the events that all of them get, and the devices that they command.

use super::commands;
use super::exports::Added;
use super::files::Files;
use super::jobs::Jobs;
use super::outbox::Outbox;
use super::session::Session;
use super::wire;
use crate::live::Disk;
use crate::nbd::server::Exports;
use crate::nbd::{Socket, write_all};
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, lock};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes that are read from a client at once.
const PIECE: usize = 64 << 10;

/// A disk that commands find by its name.
#[derive(Debug)]
pub struct Device {
    pub(super) name: String,
    pub(super) disk: Arc<Disk>,
    /// Held while layers are looked up by number and then used, and while they change.
    pub(super) layers: Mutex<()>,
}

impl Device {
    /// `disk`, which commands call `name`.
    pub fn new(name: String, disk: Arc<Disk>) -> Device {
        Device { name, disk, layers: Mutex::new(()) }
    }
}

/// How a server treats its clients.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most clients at the same time; more are sent away.
    pub clients: usize,
    /// How long clients may take, once the server stops, to fetch what waits for them.
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { clients: 16, grace: Duration::from_secs(2) }
    }
}

/// Who is told, in a line, what went wrong and fails nothing; and who ends the server when a client asks for it.
type Report = Box<dyn Fn(&str) + Send + Sync>;
type Quit = Box<dyn Fn() + Send + Sync>;

/// Carries out the commands of clients on devices.
pub struct Server {
    devices: Vec<Arc<Device>>,
    pub(super) files: Box<dyn Files>,
    pub(super) jobs: Jobs,
    /// What is served to guests and others.
    pub(super) exports: Arc<Exports>,
    /// What commands have added to it.
    pub(super) added: Mutex<BTreeMap<String, Added>>,
    options: Options,
    report: Report,
    quit: Quit,
    quitting: AtomicBool,
    stopping: AtomicBool,
    clients: Mutex<Clients>,
    left: Condvar,
}

#[derive(Default)]
struct Clients {
    outboxes: BTreeMap<u64, (Arc<dyn Socket>, Arc<Outbox>)>,
    /// Clients so far.
    count: u64,
}

impl Server {
    /// Commands on `devices` reach the files that `files` lets them reach, and change `exports`. `report` is told, in a line, what went wrong and
    /// fails no command; `quit` that a client wants the program to end.
    pub fn new(
        devices: Vec<Device>,
        files: Box<dyn Files>,
        exports: Arc<Exports>,
        options: Options,
        report: Box<dyn Fn(&str) + Send + Sync>,
        quit: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Server> {
        Arc::new(Server {
            devices: devices.into_iter().map(Arc::new).collect(),
            files,
            jobs: Jobs::default(),
            exports,
            added: Mutex::default(),
            options,
            report,
            quit,
            quitting: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            clients: Mutex::default(),
            left: Condvar::new(),
        })
    }

    /// Serves one client on threads of its own. One too many is sent away.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn serve(self: &Arc<Self>, socket: Arc<dyn Socket>) -> io::Result<()> {
        let outbox = Arc::new(Outbox::new(socket.clone()));
        let mut clients = lock(&self.clients);
        if clients.outboxes.len() >= self.options.clients.max(1) || self.stopping.load(Ordering::SeqCst) {
            drop(clients);
            let failure = wire::Failure::generic("too many clients, or about to end");
            // It is sent away with or without a word.
            let _ = write_all(&*socket, &mut [IoSlice::new(&wire::answer(Err(failure), None))]);
            return socket.shutdown(Shutdown::Both);
        }
        let number = clients.count;
        clients.count += 1;
        clients.outboxes.insert(number, (socket.clone(), outbox.clone()));
        drop(clients);
        // Left when both threads have ended, or never were.
        let seat = Arc::new(Seat { server: self.clone(), number });
        outbox.send(&Session::greeting());
        let (writing, out) = (seat.clone(), outbox.clone());
        thread::Builder::new().name("control-out".into()).spawn(move || {
            out.run();
            drop(writing);
        })?;
        let heard = outbox.clone();
        let listen = move || {
            seat.server.listen(&*socket, &heard);
            heard.close();
        };
        thread::Builder::new().name("control".into()).spawn(listen).map(drop).inspect_err(|_| outbox.close())
    }

    /// Carries out what a client sends until it goes, or sends what nobody understands.
    fn listen(self: &Arc<Self>, socket: &dyn Socket, outbox: &Outbox) {
        let (mut session, mut buffer) = (Session::default(), vec![0; PIECE]);
        loop {
            match session.answer(|name, arguments| commands::execute(self, name, arguments)) {
                Ok(Some(answer)) => {
                    outbox.answer(&answer, session.negotiated());
                    if self.quitting.swap(false, Ordering::SeqCst) {
                        self.event("SHUTDOWN", &json!({ "guest": false, "reason": "host-qmp-quit" }));
                        (self.quit)();
                    }
                    continue;
                }
                Ok(None) => {}
                Err(flaw) => {
                    let failure = wire::Failure::generic(format!("{flaw}: the connection ends"));
                    outbox.send(&wire::answer(Err(failure), None));
                    return;
                }
            }
            match socket.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(count) => session.push(&buffer[..count]),
            }
        }
    }

    /// Stops: jobs are cancelled, and what they have done stays; commands that are under way end, and clients get what waits
    /// for them. The disks have no job on return, and are neither flushed nor closed by it.
    pub fn stop(&self) {
        self.jobs.close();
        let mut clients = lock(&self.clients);
        self.stopping.store(true, Ordering::SeqCst);
        clients.outboxes.values().for_each(|(_, outbox)| outbox.close());
        let end = Instant::now() + self.options.grace;
        while !clients.outboxes.is_empty() {
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                // They do not fetch it.
                clients.outboxes.values().for_each(|(socket, _)| drop(socket.shutdown(Shutdown::Both)));
            }
            let waited = self.left.wait_timeout(clients, rest.max(Duration::from_millis(10)));
            clients = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    /// The device of that name.
    pub(super) fn device(&self, name: &str) -> Result<&Arc<Device>, wire::Failure> {
        let found = self.devices.iter().find(|device| device.name == name);
        found.ok_or_else(|| wire::Failure::new(wire::Class::DeviceNotFound, format!("Cannot find device '{name}'")))
    }

    pub(super) fn devices(&self) -> &[Arc<Device>] {
        &self.devices
    }

    /// Tells all clients what happened.
    pub(super) fn event(&self, name: &str, data: &Value) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = wire::event(name, data, time);
        lock(&self.clients).outboxes.values().for_each(|(_, outbox)| outbox.event(&line));
    }

    pub(super) fn report(&self, text: &str) {
        (self.report)(text);
    }

    /// Has the program end, once the client who wants that has its answer.
    pub(super) fn quit(&self) {
        self.quitting.store(true, Ordering::SeqCst);
    }
}

/// The place of one client.
struct Seat {
    server: Arc<Server>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.server.clients).outboxes.remove(&self.number);
        self.server.left.notify_all();
    }
}
