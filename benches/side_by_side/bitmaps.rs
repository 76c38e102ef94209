//! What dirty bitmaps cost a guest that writes, and how fast they are listed.

use crate::Bench;
use crate::files::{Counting, aligned, fill, median};
use crate::requests::Offsets;
use lvd::image::NewBitmap;
use lvd::storage::{Create, OsHost, Storage};
use lvd::{BlockDevice, CreateOptions, Image, OpenOptions};
use std::sync::Arc;
use std::time::Instant;

/// Bitmaps of the images that are measured beside each other.
const COUNTS: [usize; 3] = [0, 1, 8];

impl Bench {
    /// All rows.
    pub(crate) fn bitmaps(&self) {
        let name = "bitmaps under random overwrites";
        if self.wanted(name) {
            println!("\n{:<34} {:>10} {:>10} {:>10}", "4K writes a second, and ratio", "none", "1", "8");
            self.overwrites(name);
        }
        let name = "bitmaps touched for the first time";
        if self.wanted(name) {
            println!(
                "\n{:<34} {:>10} {:>10} {:>12}",
                "barriers for so many writes", "in order", "random", "of one, us"
            );
            self.first_touch(name);
        }
        let name = "bitmap of 1 TiB";
        if self.wanted(name) {
            self.list(name);
        }
    }

    fn tracked(&self, name: &str, size: u64, bitmaps: usize) -> (Arc<Counting>, Image) {
        let path = self.path(name);
        let _ = std::fs::remove_file(&path);
        let (file, host) = (Counting::open(&path, &self.options(Create::New)), Arc::new(OsHost::default()));
        let options = CreateOptions { virtual_size: size, ..CreateOptions::default() };
        Image::create(&*file, &*host, &options).expect("an image");
        let options = OpenOptions { write: true, ..OpenOptions::default() };
        let image = Image::open(file.clone(), host, &options).expect("opens");
        for number in 0..bitmaps {
            image.add_bitmap(&number.to_string(), &NewBitmap::default()).expect("a bitmap");
        }
        (file, image)
    }

    fn overwrites(&self, name: &str) {
        let images = COUNTS.map(|count| self.tracked(&format!("tracked-{count}.lvd"), self.disk, count).1);
        for image in &images {
            fill(self.disk, |data, at| image.write_at(data, at));
            image.flush().expect("a barrier");
        }
        let overwrite = |image: &Image, seed: usize| {
            let (mut offsets, buffer) = (Offsets(seed as u64 + 1), aligned(4096));
            let start = Instant::now();
            for _ in 0..self.requests {
                image.write_at(buffer.bytes(), offsets.next(self.disk / 4096) * 4096).expect("a write");
            }
            let rate = self.requests as f64 / start.elapsed().as_secs_f64();
            image.flush().expect("a barrier");
            rate
        };
        // From here on all writes are hits.
        images.iter().for_each(|image| _ = overwrite(image, 0));
        let mut samples = Vec::new();
        for round in 0..self.rounds * 3 {
            let mut rates = [0.0; COUNTS.len()];
            // Whoever comes first meets what the page cache still writes of the round before.
            for turn in 0..COUNTS.len() {
                let place = (round + turn) % COUNTS.len();
                rates[place] = overwrite(&images[place], round);
            }
            samples.push(rates);
        }
        let middle = |of: &dyn Fn(&[f64; COUNTS.len()]) -> f64| median(samples.iter().map(of).collect());
        let [none, one, eight] = [0, 1, 2].map(|place| middle(&|rates| rates[place]));
        let [first, second] = [1, 2].map(|place| middle(&|rates| rates[place] / rates[0]));
        println!("{name:<34} {none:>10.0} {one:>10.0} {eight:>10.0}   {first:.2} {second:.2}");
    }

    fn first_touch(&self, name: &str) {
        let touch = |random: bool| {
            let (file, image) = self.tracked("touched.lvd", self.disk, 1);
            image.write_at(&[1; 512], 0).expect("a session");
            let before = file.counts()[0];
            let (mut offsets, buffer) = (Offsets(1), aligned(4096));
            for number in 0..self.requests {
                let block = if random { offsets.next(self.disk / 4096) } else { number * 4 % (self.disk / 4096) };
                image.write_at(buffer.bytes(), block * 4096).expect("a write");
            }
            file.counts()[0] - before
        };
        let (in_order, random) = (touch(false), touch(true));
        let (file, _image) = self.tracked("touched.lvd", self.disk, 0);
        let mut times = Vec::new();
        for number in 0..self.rounds as u64 * 4 {
            file.inner.write_at(aligned(4096).bytes(), 131_072 + number * 4096).expect("a write");
            let start = Instant::now();
            file.inner.sync().expect("a barrier");
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        println!("{name:<34} {in_order:>10} {random:>10} {:>12.0}   of {}", median(times), self.requests);
    }

    fn list(&self, name: &str) {
        let (_, image) = self.tracked("large.lvd", 1 << 40, 1);
        let count = if self.quick { 512 } else { 65_536 };
        let dirty: Vec<_> = (0..count).map(|number| number * ((1 << 40) / count)).map(|at| at..at + 1).collect();
        image.merge_bitmap("0", &dirty).expect("marked");
        image.close().expect("closed");
        let file = Counting::open(&self.path("large.lvd"), &self.options(Create::No));
        let image = Image::open(file, Arc::new(OsHost::default()), &OpenOptions::default()).expect("opens");
        let start = Instant::now();
        assert_eq!(image.dirty_stretches("0").expect("listed").len() as u64, count);
        println!("\n{name}: {count} dirty granules of 64 KiB listed in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    }
}
