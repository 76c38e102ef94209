//! Memory that a host accepts for direct I/O.

/// What O_DIRECT asks of offsets, lengths and addresses, on every device there is.
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

/// Whether `bytes` at a file's `offset` may go to the device as they are.
pub(super) fn aligned(bytes: &[u8], offset: u64) -> bool {
    aligned_range(bytes.len(), offset) && (bytes.as_ptr() as usize).is_multiple_of(ALIGNMENT)
}

/// Whether `length` bytes at a file's `offset` may go to the device from memory of the right alignment.
pub(super) fn aligned_range(length: usize, offset: u64) -> bool {
    length.is_multiple_of(ALIGNMENT) && offset.is_multiple_of(ALIGNMENT as u64)
}
