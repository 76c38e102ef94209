//! A disk of 1 TiB with 65,536 scattered allocations of 64 KiB: what it costs, and how fast it is looked at.

use crate::Bench;
use crate::files::{aligned, evict, median};
use lvd::chain::RawDevice;
use lvd::format::{Parent, ParentFormat};
use lvd::storage::{Create, OsHost, Storage};
use lvd::{BlockDevice, CreateOptions, Image, OpenOptions};
use std::sync::Arc;
use std::time::Instant;

const DISK: u64 = 1 << 40;
const PIECE: u64 = 64 << 10;

impl Bench {
    /// All rows.
    pub(crate) fn scattered(&self) {
        println!(
            "\n{:<34} {:>10} {:>9} {:>9} {:>9}",
            "1 TiB, scattered 64K", "meta MiB", "check s", "map s", "cold read"
        );
        for shift in [12, 16] {
            let name = format!("scattered, granules of {} KiB", (1u64 << shift) >> 10);
            if self.wanted(&name) {
                self.scattered_row(&name, shift);
            }
        }
    }

    fn scattered_row(&self, name: &str, granularity_shift: u8) {
        let count = if self.quick { 1024 } else { 65_536 };
        let path = self.path("scattered.lvd");
        let _ = std::fs::remove_file(&path);
        let empty = self.raw("empty.raw", DISK, false);
        let link = Parent { identity: None, format: ParentFormat::Raw, visible_length: DISK, hint: String::new() };
        let options = CreateOptions { virtual_size: DISK, granularity_shift, parent: Some(link), ..Default::default() };
        let file = Arc::new(lvd::storage::FileStorage::open(&path, &self.options(Create::New)).expect("a file"));
        let host = Arc::new(OsHost::default());
        Image::create(&*file, &*host, &options).expect("an image");
        let open = || {
            let options = OpenOptions { write: true, ..OpenOptions::default() };
            let image = Image::open(file.clone(), host.clone(), &options).expect("opens");
            image.set_below(Some(Arc::new(RawDevice::new(empty.clone(), false).expect("a raw parent"))));
            image
        };
        let bare = self.raw("bare.raw", DISK, false);
        let buffer = aligned(PIECE as usize);
        let image = open();
        for number in 0..count {
            image.write_at(buffer.bytes(), number * (DISK / count)).expect("space for the bench");
            bare.inner.write_at(buffer.bytes(), number * (DISK / count)).expect("space for the bench");
        }
        image.close().expect("closes");
        bare.inner.sync().expect("a barrier");
        let metadata = file.allocated().expect("a file").unwrap_or(0).saturating_sub(count * PIECE);

        let image = open();
        let start = Instant::now();
        assert_eq!(image.check().expect("a check").corruptions, 0);
        let check = start.elapsed().as_secs_f64();
        let (start, mut at) = (Instant::now(), 0);
        while at < DISK {
            at = image.extent(at, DISK).expect("an extent").range.end;
        }
        let map = start.elapsed().as_secs_f64();
        drop(image);

        let mut ratios = Vec::new();
        for _ in 0..self.rounds {
            if !(evict(&path) && evict(&self.path("bare.raw"))) {
                break;
            }
            let ours = self.read_scattered(count, &open());
            ratios.push(ours / self.read_scattered(count, &RawDevice::new(bare.clone(), false).expect("a raw device")));
        }
        let cold = if ratios.is_empty() { "-".to_owned() } else { format!("{:.2}", median(ratios)) };
        println!("{name:<34} {:>10.1} {check:>9.3} {map:>9.3} {cold:>9}", metadata as f64 / (1 << 20) as f64);
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_file(self.path("bare.raw"));
    }

    /// Reads of 4 KiB a second, each in another allocation far from the last.
    fn read_scattered(&self, count: u64, device: &dyn BlockDevice) -> f64 {
        let mut buffer = aligned(4096);
        let reads = count.min(8000);
        let start = Instant::now();
        for number in 0..reads {
            device.read_at(buffer.bytes_mut(), number * 127 % count * (DISK / count)).expect("a read");
        }
        reads as f64 / start.elapsed().as_secs_f64()
    }
}
