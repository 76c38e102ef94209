//! The content of a file that is mostly zeros, and the text that vectors keep it in.

use crate::conformance::hex;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;

const CHUNK: u64 = 4096;
/// Bytes of one line of a dump.
const LINE: usize = 16;

/// Bytes of a file or of a disk; what was never written costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparse {
    length: u64,
    chunks: BTreeMap<u64, Box<[u8; CHUNK as usize]>>,
}

impl Sparse {
    /// `length` zeros.
    pub fn new(length: u64) -> Sparse {
        Sparse { length, chunks: BTreeMap::new() }
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Cuts the end off or adds zeros.
    pub fn set_len(&mut self, length: u64) {
        if length < self.length {
            self.zero(length..self.length);
        }
        self.length = length;
    }

    /// Writes `data`, which may lengthen the file.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, &byte) in (offset..).zip(data) {
            if byte != 0 || self.chunks.contains_key(&(at / CHUNK)) {
                self.chunks.entry(at / CHUNK).or_insert_with(|| Box::new([0; CHUNK as usize]))[(at % CHUNK) as usize] =
                    byte;
            }
        }
        self.length = self.length.max(offset + data.len() as u64);
    }

    /// Makes `range` read as zeros.
    pub fn zero(&mut self, range: Range<u64>) {
        for (&number, chunk) in self.chunks.range_mut(range.start / CHUNK..range.end.div_ceil(CHUNK)) {
            let start = range.start.saturating_sub(number * CHUNK).min(CHUNK);
            let end = (range.end - number * CHUNK).min(CHUNK);
            chunk[start as usize..end as usize].fill(0);
        }
    }

    /// The `length` bytes at `offset`; zeros past the end.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        let end = offset.saturating_add(length as u64);
        for (&number, chunk) in self.chunks.range(offset / CHUNK..end.div_ceil(CHUNK)) {
            let from = offset.max(number * CHUNK);
            let to = end.min((number + 1) * CHUNK);
            let part = &chunk[(from - number * CHUNK) as usize..(to - number * CHUNK) as usize];
            out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        out
    }

    /// Takes `range` of `other`, at the same place.
    pub fn copy(&mut self, other: &Sparse, range: Range<u64>) {
        self.zero(range.clone());
        for (at, piece) in other.pieces() {
            let (from, to) = (range.start.max(at), range.end.min(at + CHUNK));
            if from < to {
                self.write(from, &piece[(from - at) as usize..(to - at) as usize]);
            }
        }
    }

    /// The stretches that may hold anything but zeros, with their offsets.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.chunks.iter().map(|(&number, chunk)| (number * CHUNK, &chunk[..]))
    }

    /// The text form: a line for each 16 bytes that are not all zero, as `xxd -r` reads them.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for (at, piece) in self.pieces() {
            for (place, line) in (at..).step_by(LINE).zip(piece.chunks(LINE)) {
                // The last line ends with the file, so that whoever reads the text makes it no longer.
                let line = &line[..line.len().min(self.length.saturating_sub(place) as usize)];
                if line.iter().any(|&byte| byte != 0) {
                    text.push_str(&format!("{place:08x}: "));
                    text.push_str(&hex(line));
                    text.push('\n');
                }
            }
        }
        text
    }

    /// Reads the text form.
    pub fn parse(text: &str, length: u64) -> Result<Sparse, String> {
        let mut bytes = Sparse::new(length);
        for line in text.lines() {
            let wrong = || format!("not a line of a dump: {line}");
            let (place, digits) = line.split_once(": ").ok_or_else(wrong)?;
            let place = u64::from_str_radix(place, 16).map_err(|_| wrong())?;
            let data: Option<Vec<u8>> =
                (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect();
            bytes.write(place, &data.ok_or_else(wrong)?);
        }
        if bytes.len() > length {
            return Err(format!("the dump is longer than {length} bytes"));
        }
        Ok(bytes)
    }

    /// SHA-256 of all bytes, holes included.
    pub fn sha256(&self) -> String {
        let (mut hash, mut done) = (Sha256::new(), 0);
        let zeros_to = |hash: &mut Sha256, done: &mut u64, to: u64| {
            while *done < to {
                let step = (to - *done).min(CHUNK);
                hash.update(&[0; CHUNK as usize][..step as usize]);
                *done += step;
            }
        };
        for (at, piece) in self.pieces().take_while(|(at, _)| *at < self.length) {
            zeros_to(&mut hash, &mut done, at);
            let end = self.length.min(at + CHUNK);
            hash.update(&piece[..(end - at) as usize]);
            done = done.max(end);
        }
        zeros_to(&mut hash, &mut done, self.length);
        hex(&hash.finalize())
    }
}

/// SHA-256 of `bytes` in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The first sixteen bytes of the SHA-256 of `label`: identities that are the same in every run.
pub fn sixteen(label: &str) -> [u8; 16] {
    let hash = Sha256::digest(label.as_bytes());
    std::array::from_fn(|at| hash[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_read_back() {
        let mut bytes = Sparse::new(1 << 40);
        bytes.write(5, b"five");
        bytes.write((1 << 40) - 3, b"end");
        bytes.write(4090, b"across a chunk");
        bytes.zero(4092..4094);
        let again = Sparse::parse(&bytes.dump(), 1 << 40).unwrap();
        assert_eq!(again.dump(), bytes.dump());
        assert_eq!(again.read(4090, 14), b"ac\0\0ss a chunk");
        assert_eq!(again.len(), 1 << 40);
    }

    #[test]
    fn the_hash_is_that_of_all_bytes() {
        let mut bytes = Sparse::new(10_000);
        bytes.write(9_000, b"x");
        bytes.write(4_096, b"y");
        assert_eq!(bytes.sha256(), sha256(&bytes.read(0, 10_000)));
        bytes.set_len(9_001);
        assert_eq!(bytes.sha256(), sha256(&bytes.read(0, 9_001)));
        bytes.set_len(5);
        assert_eq!(bytes.sha256(), sha256(&[0; 5]));
        bytes.set_len(9_001);
        assert_eq!(bytes.sha256(), sha256(&[0; 9_001]));
    }
}
