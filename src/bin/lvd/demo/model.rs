//! What the demo's disk must hold: for each sector a number, and from the number its bytes.

use lvd::{BlockDevice, Error, Result};

const SECTOR: u64 = 512;
/// Bytes read or written at once.
const PIECE: u64 = 1 << 20;
/// Longest request of the guest, in sectors.
const LONGEST: u64 = 128;

/// A disk as it should be. Four bytes a sector, so that large disks fit in memory.
pub struct Model {
    /// 0: zeros. Else the number of the write that the sector's bytes came with.
    sectors: Vec<u32>,
    writes: u32,
    random: u64,
}

impl Model {
    pub fn new(size: u64) -> Model {
        Model { sectors: vec![0; (size / SECTOR) as usize], writes: 0, random: 0x4c56_4421 }
    }

    pub fn size(&self) -> u64 {
        self.sectors.len() as u64 * SECTOR
    }

    /// Writes every other stretch of the disk, of 64 KiB to 2 MiB. Returns the bytes written.
    pub fn fill_half(&mut self, device: &dyn BlockDevice) -> Result<u64> {
        let (mut at, mut hole, mut written) = (0, false, 0);
        let end = self.sectors.len() as u64;
        while at < end {
            let length = (128 << (self.next() % 6)).min(end - at);
            if !hole {
                written += self.write(device, at, length)?;
            }
            (at, hole) = (at + length, !hole);
        }
        Ok(written)
    }

    /// One request of the guest: most are whole blocks, some are odd.
    pub fn write_somewhere(&mut self, device: &dyn BlockDevice) -> Result<u64> {
        let end = self.sectors.len() as u64;
        let (mut at, mut length) = (self.next() % end, 1 + self.next() % LONGEST);
        if !self.next().is_multiple_of(4) {
            (at, length) = (at / 8 * 8, length.next_multiple_of(8));
        }
        self.write(device, at, length.min(end - at))
    }

    fn write(&mut self, device: &dyn BlockDevice, at: u64, length: u64) -> Result<u64> {
        self.writes += 1;
        self.sectors[at as usize..(at + length) as usize].fill(self.writes);
        let mut buffer = vec![0; (length * SECTOR) as usize];
        self.fill(&mut buffer, at);
        device.write_at(&buffer, at * SECTOR)?;
        Ok(length * SECTOR)
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

    fn verify_part(
        &self,
        name: &str,
        part: std::ops::Range<u64>,
        read: &impl Fn(&mut [u8], u64) -> Result<()>,
    ) -> Result<()> {
        let (mut got, mut wanted) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
        for start in part.clone().step_by(PIECE as usize) {
            let length = (part.end - start).min(PIECE) as usize;
            read(&mut got[..length], start)?;
            self.fill(&mut wanted[..length], start / SECTOR);
            if let Some(at) = (0..length).find(|&at| got[at] != wanted[at]) {
                let at = start + at as u64;
                return Err(Error::Invalid(format!("{name}: byte {at} is not what was written there")));
            }
        }
        Ok(())
    }

    /// What the sectors from `first` on hold.
    fn fill(&self, buffer: &mut [u8], first: u64) {
        for (sector, bytes) in (first..).zip(buffer.chunks_mut(SECTOR as usize)) {
            let write = self.sectors[sector as usize];
            if write == 0 {
                bytes.fill(0);
                continue;
            }
            let seed = sector << 32 | u64::from(write);
            for (number, word) in (0..).zip(bytes.chunks_mut(8)) {
                word.copy_from_slice(&mix(seed ^ number << 56).to_le_bytes());
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random) >> 1
    }
}

/// The finalizer of splitmix64: every bit of the input changes half of the output's.
fn mix(seed: u64) -> u64 {
    let z = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
