//! Memory that a host accepts for direct I/O.

/// What O_DIRECT asks of addresses, and of offsets and lengths at most, on every device there is.
pub(super) const ALIGNMENT: usize = 4096;

/// Bytes at an address that is a multiple of [`ALIGNMENT`].
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// `length` zeros.
    pub(super) fn new(length: usize) -> Buffer {
        let memory = vec![0; length + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Buffer { memory, start, length }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.length]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.length]
    }
}
