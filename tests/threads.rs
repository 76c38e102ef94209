//! Many threads on one disk: guests that write while a job copies, and the job driven by several.

use lvd::chain::{Chain, ChainOptions, GivenParents};
use lvd::image::{CreateOptions, Image};
use lvd::jobs::{Job, Stream};
use lvd::storage::{Host, MemoryStorage, OsHost, Storage};
use lvd::{BlockDevice, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SIZE: usize = (2 << 20) + 1000;
const WRITERS: usize = 3;

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

fn open(top: &Arc<MemoryStorage>, base: &Arc<MemoryStorage>) -> Result<Chain> {
    let options = ChainOptions { write: true, cache_bytes: 0, ..ChainOptions::default() };
    Chain::open(top.clone(), host(), &GivenParents::new([base.clone() as Arc<dyn Storage>]), &options)
}

/// A guest that owns every `WRITERS`th stretch of 1500 bytes, so that guests and job meet in one block, and keeps
/// the model of what it wrote.
fn guest(chain: &Chain, number: usize, stop: &AtomicBool, model: &mut [u8]) {
    let mut seed = number as u64 + 1;
    let stretches = SIZE / 1500;
    while !stop.load(Ordering::Relaxed) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let stretch = (seed >> 33) as usize % (stretches / WRITERS) * WRITERS + number;
        let range = stretch * 1500..(stretch + 1) * 1500;
        let mut found = vec![0; 1500];
        chain.read_at(&mut found, range.start as u64).unwrap();
        assert!(found == model[range.clone()], "guest {number} finds bytes it did not write");
        match seed >> 20 & 7 {
            0 => chain.flush().unwrap(),
            1 => {
                chain.write_zeroes(range.start as u64..range.end as u64, seed >> 24 & 1 == 0).unwrap();
                model[range].fill(0);
            }
            _ => {
                model[range.clone()].fill((seed >> 40) as u8);
                chain.write_at(&model[range.clone()], range.start as u64).unwrap();
            }
        }
    }
}

#[test]
fn guests_write_while_a_stream_copies() {
    for (round, shift) in [12, 16, 20, 12, 16].into_iter().enumerate() {
        let base = Arc::new(MemoryStorage::new("base"));
        let options = CreateOptions { virtual_size: SIZE as u64, ..CreateOptions::default() };
        Image::create(&*base, &*host(), &options).unwrap();
        let content: Vec<u8> = (0..SIZE).map(|at| (at / 700 % 251) as u8).collect();
        let below = open(&base, &base).unwrap();
        below.write_at(&content, 0).unwrap();
        below.close().unwrap();
        let top = Arc::new(MemoryStorage::new("top"));
        let parent = Some(below.layers[0].link(SIZE as u64, "base".into()).unwrap());
        let options = CreateOptions { virtual_size: SIZE as u64, granularity_shift: shift, parent, ..options };
        Image::create(&*top, &*host(), &options).unwrap();

        let chain = open(&top, &base).unwrap();
        let job = Job::new(Stream::new(&chain, None).unwrap(), host());
        let stop = AtomicBool::new(false);
        let mut models: Vec<Vec<u8>> = vec![content; WRITERS];
        std::thread::scope(|scope| {
            for (number, model) in models.iter_mut().enumerate() {
                let (chain, stop) = (&chain, &stop);
                scope.spawn(move || guest(chain, number, stop, model));
            }
            let copiers: Vec<_> =
                (0..2).map(|_| scope.spawn(|| while !job.step(8192 << round).unwrap().finished {})).collect();
            copiers.into_iter().for_each(|copier| copier.join().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
            stop.store(true, Ordering::Relaxed);
        });
        chain.close().unwrap();
        drop(chain);
        let chain = open(&top, &base).unwrap();
        assert!(chain.layers.len() == 1 && chain.image(0).unwrap().complete());
        let mut found = vec![0; SIZE];
        chain.read_at(&mut found, 0).unwrap();
        for (at, byte) in found.iter().enumerate() {
            // Past the last whole turn nobody writes.
            let owner = if at < SIZE / 1500 / WRITERS * WRITERS * 1500 { at / 1500 % WRITERS } else { 0 };
            assert_eq!(*byte, models[owner][at], "round {round}, byte {at}");
        }
    }
}
