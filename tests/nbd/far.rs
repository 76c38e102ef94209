//! A server whose devices ask other machines: what waits for them.

use crate::remote::{Disk, SIZE, UNIT, writing};
use lvd::Result;
use lvd::device::{BlockDevice, Extent};
use lvd::nbd::client::{Connector, NbdStorage};
use lvd::nbd::server::{self, Export, ExportDevice, Exports, Server};
use lvd::storage::Storage;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// A disk on another machine, which does not answer before it is let; writes that have begun, and whether it is.
#[derive(Debug, Clone)]
struct Far(Disk, Arc<(Mutex<(u64, bool)>, Condvar)>);

impl BlockDevice for Far {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.write_batch(&[(offset, data)])
    }

    fn write_batch(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let (state, changed) = &*self.1;
        let mut state = state.lock().unwrap();
        state.0 += pieces.len() as u64;
        changed.notify_all();
        drop(changed.wait_while(state, |state| !state.1).unwrap());
        self.0.write_batch(pieces)
    }

    fn write_zeroes(&self, range: Range<u64>, _: bool) -> Result<()> {
        panic!("it zeroes {range:?}");
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        panic!("it discards {range:?}");
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        self.0.extent(offset, end)
    }
}

impl ExportDevice for Far {
    fn bitmap_run(&self, _: &str, _: u64, end: u64) -> Result<(bool, u64)> {
        Ok((false, end))
    }

    fn is_far(&self, _: &Range<u64>, change: bool) -> bool {
        change
    }

    fn zeroes_fast(&self) -> bool {
        true
    }
}

/// A server of `disk`, and a client of it with one connection.
fn far_client(disk: &Far) -> (Arc<Server>, Arc<UnixStream>, NbdStorage) {
    let (name, description, device) = ("disk".into(), String::new(), Arc::new(disk.clone()));
    let (read_only, write_through, bitmaps) = (false, false, Vec::new());
    let export = Export { name, description, read_only, write_through, bitmaps, device };
    let exports = Exports::new(vec![export]).unwrap();
    let server = Server::new(exports, server::Options::default(), Box::new(|_| {}));
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.serve(Arc::new(theirs)).unwrap();
    let ours = Arc::new(ours);
    let stream = ours.clone();
    let connector: Connector = Box::new(move || Ok(stream.clone()));
    let client = NbdStorage::connect("remote".into(), "disk".into(), connector, writing(1, Duration::ZERO)).unwrap();
    (server, ours, client)
}

/// A device that panics takes its connection with it, and nothing else: the server used to wait for its thread.
#[test]
fn a_server_ends_whatever_its_devices_do() {
    let (server, ours, client) = far_client(&Far(Disk::new(vec![0; SIZE]), Arc::default()));
    let (sender, result) = std::sync::mpsc::channel();
    thread::spawn(move || drop(client.punch(0..UNIT)));
    thread::sleep(Duration::from_millis(300));
    ours.shutdown(std::net::Shutdown::Both).unwrap();
    thread::spawn(move || {
        server.stop();
        sender.send(())
    });
    result.recv_timeout(Duration::from_secs(20)).expect("it ends");
}

/// A client that lost its connection asks for the same on another one, and then for something else. What it had asked for
/// at first, and was not begun, must not be done after that.
#[test]
fn what_waits_goes_with_its_connection() {
    const SENT: u64 = 300;
    let disk = Far(Disk::new(vec![0; SIZE]), Arc::default());
    let (server, ours, client) = far_client(&disk);
    let mut under_way = 0;
    thread::scope(|scope| {
        let client = &client;
        (0..SENT).for_each(|number| drop(scope.spawn(move || client.write_at(&[1; 512], number * 512))));
        let (state, changed) = &*disk.1;
        let begun = || changed.wait_while(state.lock().unwrap(), |state| state.0 < 16).unwrap();
        drop(begun());
        // Those that cannot begin have arrived as well.
        thread::sleep(Duration::from_millis(300));
        ours.shutdown(std::net::Shutdown::Both).unwrap();
        thread::sleep(Duration::from_millis(100));
        let mut state = begun();
        under_way = state.0;
        state.1 = true;
        changed.notify_all();
    });
    server.stop();
    let written = disk.0.content().chunks(512).filter(|sector| sector[0] == 1).count() as u64;
    assert_eq!(written, under_way, "what was under way alone");
    assert!(written < SENT, "some were not begun");
}

/// Writes that wait for another machine were carried out one by one; those that have arrived together go there together,
/// and a read that asks nobody else does not wait for them.
#[test]
fn far_writes_go_together_and_near_reads_go_past_them() {
    let disk = Far(Disk::new(vec![7; SIZE]), Arc::default());
    let (server, _ours, client) = far_client(&disk);
    let writes: Vec<[u8; 512]> = (0..100).map(|number| [number; 512]).collect();
    thread::scope(|scope| {
        let client = &client;
        let pieces: Vec<(u64, &[u8])> = (0..).step_by(512).zip(writes.iter().map(|data| &data[..])).collect();
        let writing = scope.spawn(move || client.write_batch(&pieces));
        let (state, changed) = &*disk.1;
        let begun = changed.wait_while(state.lock().unwrap(), |state| state.0 < 100).unwrap();
        drop(begun);
        let mut read = [0; 512];
        client.read_at(&mut read, 200 * 512).unwrap();
        assert_eq!(read, [7; 512]);
        state.lock().unwrap().1 = true;
        changed.notify_all();
        writing.join().unwrap().unwrap();
    });
    server.stop();
    assert!((0..100).all(|number| disk.0.content()[number * 512] == number as u8));
}
