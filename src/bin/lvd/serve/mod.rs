//! `serve`: disks as Network Block Devices, with the habits of `qemu-nbd` and `nbdkit`.

mod activation;
mod control;
mod listen;
mod run;

use crate::args::Serve;
use crate::open::Disk;
use crate::{Outcome, output, signals};
use listen::{Listener, Place};
use lvd::chain::Layer;
use lvd::live;
use lvd::nbd::StartTls;
use lvd::nbd::server::{Export, Exports, Options, Server};
use lvd::nbd::tls::ServerTls;
use lvd::{Error, Result};
use run::Running;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Why serving ends.
enum End {
    /// The user asks for it.
    Signal,
    /// The command of --run has ended.
    Command,
    /// Nobody can connect any more.
    Listener(Error),
}

pub fn serve(arguments: &Serve) -> Result<Outcome> {
    let handed = activation::listeners()?;
    let disks = disks(arguments)?;
    let served = exports(arguments, &disks).and_then(|exports| serve_until_end(arguments, handed, exports, &disks));
    // All are closed even if one fails.
    let closed: Vec<Result<()>> = disks.iter().map(|disk| disk.close()).collect();
    let outcome = served?;
    closed.into_iter().collect::<Result<()>>()?;
    Ok(outcome)
}

fn disks(arguments: &Serve) -> Result<Vec<Arc<live::Disk>>> {
    if arguments.opening.sidecar.is_some() && arguments.images.len() > 1 {
        return Err(Error::Invalid("a sidecar belongs to one image: serve that one alone".into()));
    }
    let serve = |path| {
        let deep = arguments.control.is_some() && !arguments.read_only;
        let disk = if deep { open_deep(path, arguments)? } else { open(path, arguments)? };
        disk.set_copy_on_read(arguments.copy_on_read);
        Ok(disk)
    };
    arguments.images.iter().map(|path| serve(path.as_path())).collect()
}

fn open(path: &Path, arguments: &Serve) -> Result<Arc<live::Disk>> {
    Ok(live::Disk::new(Disk::open(path, &arguments.opening, !arguments.read_only)?.into_chain()))
}

/// Opens for writing also what a commit may be asked to merge into: as many layers below the top as nobody else uses.
/// Others may read them again at once.
fn open_deep(path: &Path, arguments: &Serve) -> Result<Arc<live::Disk>> {
    let near = |layer: &&Layer| !matches!(layer, Layer::Foreign(_)) && !layer.is_far();
    let depth = Disk::open(path, &arguments.opening, false)?.chain().layers.iter().take_while(near).count();
    for last in (1..depth).rev() {
        if let Ok(disk) = Disk::open_down_to(path, &arguments.opening, true, Some(last)) {
            let disk = live::Disk::new(disk.into_chain());
            disk.share_below()?;
            return Ok(disk);
        }
    }
    open(path, arguments)
}

/// What each disk is called, and which bitmaps go with it.
fn exports(arguments: &Serve, disks: &[Arc<live::Disk>]) -> Result<Exports> {
    for (given, option) in [(&arguments.exports, "--export"), (&arguments.descriptions, "--description")] {
        if !given.is_empty() && given.len() != disks.len() {
            return Err(Error::Invalid(format!("{option} is given once for each image, or never")));
        }
    }
    let has = |disk: &live::Disk, name: &str| disk.chain().image(0).is_ok_and(|image| image.bitmap(name).is_ok());
    for name in &arguments.bitmaps {
        if !disks.iter().any(|disk| has(disk, name)) {
            return Err(Error::Invalid(format!("no image has a bitmap {name:?}")));
        }
    }
    let export = |(index, disk): (usize, &Arc<live::Disk>)| Export {
        name: arguments.exports.get(index).cloned().unwrap_or_else(|| file_name(&arguments.images[index])),
        description: arguments.descriptions.get(index).cloned().unwrap_or_default(),
        read_only: arguments.read_only,
        write_through: arguments.write_through,
        bitmaps: arguments.bitmaps.iter().filter(|name| has(disk, name)).cloned().collect(),
        device: disk.clone(),
    };
    Exports::new(disks.iter().enumerate().map(export).collect())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn serve_until_end(
    arguments: &Serve,
    handed: Vec<Listener>,
    exports: Exports,
    disks: &[Arc<live::Disk>],
) -> Result<Outcome> {
    let tls = arguments.tls_certificates.as_deref().map(|directory| {
        ServerTls::load(directory, arguments.tls_verify_peer).map(|tls| Arc::new(tls) as Arc<dyn StartTls>)
    });
    let options = Options { clients: arguments.shared, tls: tls.transpose()?, ..Options::default() };
    let place = Place::new(arguments, handed)?;
    let exports = Arc::new(exports);
    let server = Server::new(exports.clone(), options, Box::new(output::complain));
    let (ends, end) = channel();
    wait_for_signal(ends.clone())?;
    for listener in &place.listeners {
        accept(listener.try_clone()?, server.clone(), ends.clone())?;
    }
    let control = control::start(arguments, &place, &exports, disks, &ends)?;
    let export = arguments.exports.first().map_or("", String::as_str);
    let start = |command: &String| Running::start(command, &place, export, ends.clone());
    let mut running = arguments.run.as_ref().map(start).transpose()?;
    let end = end.recv().unwrap_or(End::Signal);
    if let (Some(running), End::Signal | End::Listener(_)) = (&running, &end) {
        running.terminate();
    }
    // The guests go on until no job is left.
    if let Some(control) = control {
        control.stop();
    }
    server.stop();
    match (end, &mut running) {
        (End::Command, Some(running)) => running.outcome(),
        (End::Listener(error), _) => Err(error),
        _ => Ok(Outcome::Done),
    }
}

fn wait_for_signal(ends: Sender<End>) -> Result<()> {
    let mut stop = signals::stop_stream()?;
    spawn("nbd-signal", move || {
        let _ = stop.read(&mut [0]);
        let _ = ends.send(End::Signal);
    })
}

/// Takes clients on a thread of its own, until the process ends.
fn accept(listener: Listener, server: Arc<Server>, ends: Sender<End>) -> Result<()> {
    spawn("nbd-accept", move || {
        loop {
            match listener.accept() {
                Ok(socket) => {
                    if let Err(error) = server.serve(socket) {
                        output::complain(&format!("cannot serve a client: {error}"));
                    }
                }
                Err(error) => {
                    let _ = ends.send(End::Listener(error));
                    return;
                }
            }
        }
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(|error| Error::io("threads", "cannot start one", error))
}
