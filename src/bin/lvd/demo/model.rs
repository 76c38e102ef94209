//! What the demo's disk must hold: for each sector a number, and from the number its bytes.

use lvd::{BlockDevice, Error, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

pub const SECTOR: u64 = 512;
/// Bytes read or written at once.
const PIECE: u64 = 1 << 20;

/// A disk as it should be. Four bytes a sector, so that large disks fit in memory. Threads may share it that keep to
/// sectors of their own.
pub struct Model {
    /// 0: zeros. Else the number of the write that the sector's bytes came with.
    sectors: Vec<AtomicU32>,
}

impl Model {
    /// Zeros; `size` in bytes.
    pub fn new(size: u64) -> Model {
        Model { sectors: (0..size / SECTOR).map(|_| AtomicU32::new(0)).collect() }
    }

    /// The same disk, to go another way from here.
    pub fn copy(&self) -> Model {
        let number = |sector: &AtomicU32| AtomicU32::new(sector.load(Ordering::Relaxed));
        Model { sectors: self.sectors.iter().map(number).collect() }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.sectors.len() as u64 * SECTOR
    }

    /// These sectors hold write `number` now.
    pub fn set(&self, sectors: Range<u64>, number: u32) {
        for sector in &self.sectors[sectors.start as usize..sectors.end as usize] {
            sector.store(number, Ordering::Relaxed);
        }
    }

    /// Writes every other stretch of the disk, of 64 KiB to 2 MiB, as write number 1. Returns the bytes written.
    pub fn fill_half(&self, random: &mut Random, device: &dyn BlockDevice) -> Result<u64> {
        let (mut at, mut hole, mut written) = (0, false, 0);
        let end = self.sectors.len() as u64;
        while at < end {
            let length = (128 << random.below(6)).min(end - at);
            if !hole {
                device.write_at(&bytes(at..at + length, 1), at * SECTOR)?;
                self.set(at..at + length, 1);
                written += length * SECTOR;
            }
            (at, hole) = (at + length, !hole);
        }
        Ok(written)
    }

    /// Holds what was read at `offset` against what was written.
    pub fn compare(&self, name: &str, got: &[u8], offset: u64) -> Result<()> {
        let mut wanted = vec![0; got.len()];
        self.fill(&mut wanted, offset / SECTOR);
        match (0..got.len()).find(|&at| got[at] != wanted[at]) {
            None => Ok(()),
            Some(at) => {
                let at = offset + at as u64;
                Err(Error::Invalid(format!("{name}: byte {at} is not what was written there")))
            }
        }
    }

    /// Reads the whole disk by `read`, in several threads, and finds the first byte that is wrong.
    pub fn verify(&self, name: &str, read: impl Fn(&mut [u8], u64) -> Result<()> + Sync) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4) as u64;
        let share = self.size().div_ceil(threads).next_multiple_of(PIECE);
        std::thread::scope(|scope| {
            let read = &read;
            let part = |number: u64| (number * share).min(self.size())..((number + 1) * share).min(self.size());
            let parts: Vec<_> =
                (0..threads).map(|number| scope.spawn(move || self.verify_part(name, part(number), read))).collect();
            parts.into_iter().try_for_each(|part| match part.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    fn verify_part(&self, name: &str, part: Range<u64>, read: &impl Fn(&mut [u8], u64) -> Result<()>) -> Result<()> {
        let mut got = vec![0; PIECE as usize];
        for start in part.clone().step_by(PIECE as usize) {
            let got = &mut got[..(part.end - start).min(PIECE) as usize];
            read(got, start)?;
            self.compare(name, got, start)?;
        }
        Ok(())
    }

    /// What the sectors from `first` on hold.
    fn fill(&self, buffer: &mut [u8], first: u64) {
        for (sector, bytes) in (first..).zip(buffer.chunks_mut(SECTOR as usize)) {
            fill_sector(bytes, sector, self.sectors[sector as usize].load(Ordering::Relaxed));
        }
    }
}

/// The bytes of `sectors` in write `number`.
pub fn bytes(sectors: Range<u64>, number: u32) -> Vec<u8> {
    let mut buffer = vec![0; ((sectors.end - sectors.start) * SECTOR) as usize];
    for (sector, bytes) in sectors.zip(buffer.chunks_mut(SECTOR as usize)) {
        fill_sector(bytes, sector, number);
    }
    buffer
}

fn fill_sector(bytes: &mut [u8], sector: u64, number: u32) {
    if number == 0 {
        return bytes.fill(0);
    }
    let seed = sector << 32 | u64::from(number);
    for (place, word) in (0..).zip(bytes.chunks_mut(8)) {
        word.copy_from_slice(&mix(seed ^ place << 56).to_le_bytes());
    }
}

/// Numbers that are the same in each run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(mix(seed ^ 0x4c56_4421))
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) >> 1) % end
    }
}

/// The finalizer of splitmix64: every bit of the input changes half of the output's.
fn mix(seed: u64) -> u64 {
    let z = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
