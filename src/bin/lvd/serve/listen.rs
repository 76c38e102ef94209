//! Where clients connect: a Unix socket, a TCP address, or what a service manager hands over.

use crate::args::Serve;
use crate::output;
use lvd::nbd::{self, PORT, Socket, Uri, UriTls};
use lvd::{Error, Result};
use rustix::fs::Mode;
use rustix::process::umask;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a listener rests that cannot take a client for want of descriptors or memory, or waits for another server.
const REST: Duration = Duration::from_millis(100);
/// How often it is tried, with a rest between, to lock a directory: longer than any server takes to make its socket.
const TURNS: u32 = 30;

/// All places at which one server listens. Socket files that it made go with it.
pub struct Place {
    pub listeners: Vec<Listener>,
    /// Where commands come from, which is no place for clients of disks.
    control: Option<Listener>,
    made: Vec<Made>,
    /// With TLS: the directory of certificates, from the root.
    certificates: Option<PathBuf>,
    /// Holds the socket of `--unix -`.
    _directory: Option<tempfile::TempDir>,
}

/// A socket file, by its path, and device and inode.
struct Made {
    path: PathBuf,
    id: (u64, u64),
}

impl Place {
    /// Listens where the user says, and at the sockets that a service manager `handed` over.
    pub fn new(arguments: &Serve, handed: Vec<Listener>) -> Result<Place> {
        let certificates = arguments.tls_certificates.as_deref().map(absolute);
        let mut place = Place { listeners: handed, control: None, made: Vec::new(), certificates, _directory: None };
        let temporary = arguments.unix.as_deref() == Some(Path::new("-"));
        let nowhere = arguments.unix.is_none() && arguments.tcp.is_none() && place.listeners.is_empty();
        if temporary || nowhere && arguments.run.is_some() {
            if arguments.run.is_none() {
                return Err(Error::Invalid("a temporary socket is of use with --run alone".into()));
            }
            let directory = tempfile::Builder::new().prefix("lvd.").tempdir();
            let directory = directory.map_err(|error| Error::io("temporary directory", "cannot make it", error))?;
            place.listen_unix(&directory.path().join("socket"))?;
            place._directory = Some(directory);
        } else if nowhere {
            return Err(Error::Invalid("say where to listen: --unix PATH or --tcp HOST:PORT".into()));
        } else if let Some(path) = &arguments.unix {
            place.listen_unix(path)?;
        }
        if let Some(address) = &arguments.tcp {
            let failed = |error| Error::io(address, "cannot listen", error);
            let addresses: Vec<SocketAddr> = with_port(address).to_socket_addrs().map_err(failed)?.collect();
            let listener = Listener::Tcp(TcpListener::bind(&*addresses).map_err(failed)?);
            if arguments.run.is_none() && addresses.iter().any(|address| address.port() == 0) {
                output::line(place.uri(&listener, "")?)?;
            }
            place.listeners.push(listener);
        }
        if let Some(path) = &arguments.control {
            // From its first moment on: whoever connects before a mode is set has connected.
            let before = umask(Mode::from_raw_mode(0o177));
            let listener = place.make_unix(path);
            umask(before);
            place.control = Some(listener?);
        }
        Ok(place)
    }

    fn listen_unix(&mut self, path: &Path) -> Result<()> {
        let listener = self.make_unix(path)?;
        self.listeners.push(listener);
        Ok(())
    }

    fn make_unix(&mut self, path: &Path) -> Result<Listener> {
        let listener = bind(path)?;
        let metadata = fs::symlink_metadata(path).map_err(|error| failed(path, error))?;
        self.made.push(Made { path: path.to_owned(), id: (metadata.dev(), metadata.ino()) });
        Ok(Listener::Unix(listener, absolute(path)))
    }

    /// Where commands come from, if they do.
    pub fn control(&self) -> Result<Option<Listener>> {
        self.control.as_ref().map(Listener::try_clone).transpose()
    }

    /// Where an export is that is reached by `listener`.
    pub fn uri(&self, listener: &Listener, export: &str) -> Result<String> {
        let place = match listener {
            Listener::Unix(_, path) => nbd::Place::Unix(path.clone()),
            Listener::Tcp(listener) => {
                let address = address(listener)?;
                nbd::Place::Tcp(address.ip().to_string(), address.port())
            }
        };
        let certificates = self.certificates.clone();
        let tls = certificates.map(|directory| UriTls { certificates: Some(directory), hostname: None });
        Ok(Uri { place, export: export.to_owned(), tls }.to_string())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for made in &self.made {
            // Only if it is still ours.
            if fs::symlink_metadata(&made.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == made.id) {
                let _ = fs::remove_file(&made.path);
            }
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::io(&path.display().to_string(), "cannot listen", error)
}

/// Makes the socket. One that a dead server left gives way; one that somebody listens at, or any other file, does not.
fn bind(path: &Path) -> Result<UnixListener> {
    // Two servers that find the same dead socket must not both replace it.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(directory).map_err(|error| failed(path, error))?;
    wait_for_turn(&directory).map_err(|error| failed(path, error))?;
    let in_use = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        other => return other.map_err(|error| failed(path, error)),
    };
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let dead = UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if !is_socket || !dead {
        return Err(failed(path, in_use));
    }
    fs::remove_file(path).and_then(|()| UnixListener::bind(path)).map_err(|error| failed(path, error))
}

/// Locks the directory in which a socket is made. Whoever may read it may hold that lock for ever, so it is not waited for
/// for ever.
fn wait_for_turn(directory: &File) -> io::Result<()> {
    for _ in 0..TURNS {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(REST),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other("another program holds its directory locked"))
}

/// The address with the protocol's port, if it has none: `host`, `host:port`, `[v6]`, `[v6]:port`.
fn with_port(address: &str) -> String {
    let after_host = address.rsplit_once(']').map_or(address, |(_, rest)| rest);
    if after_host.contains(':') { address.to_owned() } else { format!("{address}:{PORT}") }
}

/// One place at which clients connect.
pub enum Listener {
    /// With its path, from the root.
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    pub fn try_clone(&self) -> Result<Listener> {
        let clone = match self {
            Listener::Unix(listener, path) => listener.try_clone().map(|clone| Listener::Unix(clone, path.clone())),
            Listener::Tcp(listener) => listener.try_clone().map(Listener::Tcp),
        };
        clone.map_err(|error| Error::io("socket", "cannot listen", error))
    }

    /// Waits for a client.
    pub fn accept(&self) -> Result<Arc<dyn Socket>> {
        loop {
            let accepted: io::Result<Arc<dyn Socket>> = match self {
                Listener::Unix(listener, _) => listener.accept().map(|(socket, _)| Arc::new(socket) as _),
                Listener::Tcp(listener) => listener.accept().map(|(socket, _)| {
                    // What a socket cannot be told costs speed alone.
                    let _ = nbd::prepare(&socket);
                    Arc::new(socket) as _
                }),
            };
            match accepted {
                Ok(socket) => return Ok(socket),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return Err(Error::io("socket", "cannot accept", error));
                }
                // A client that went before it was served, or a host that is short of something for a while.
                Err(_) => std::thread::sleep(REST),
            }
        }
    }

    pub fn path(&self) -> Option<&Path> {
        match self {
            Listener::Unix(_, path) => Some(path),
            Listener::Tcp(_) => None,
        }
    }

    /// The name of an export in QEMU's old words.
    pub fn qemu_name(&self, export: &str) -> Result<String> {
        let name = match self {
            Listener::Unix(_, path) => format!("nbd:unix:{}", path.display()),
            Listener::Tcp(listener) => format!("nbd:{}", address(listener)?),
        };
        Ok(if export.is_empty() { name } else { format!("{name}:exportname={export}") })
    }
}

fn address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Error::io("socket", "has no address", error))
}
