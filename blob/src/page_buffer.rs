//! Buffers that begin where a page begins.
//!
//! Files lie in the page cache in whole pages, and guests mostly read to whole pages. Where both ends of a copy begin in
//! the same place of a page, it is never slow. A buffer that comes from an allocator begins a few bytes into a page: large
//! ones 16, always. Many processors copy with one instruction, which looks for overlaps in the low bits of the addresses
//! alone; where the destination begins 1 to 31 bytes behind the source in its page, AMD's Zen 3 takes 5 to 19 times as
//! long.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Length of the smallest pages there are, in bytes.
const PAGE_LEN_BYTES: usize = 4096;

/// Bytes that begin where a page begins. None at first.
#[derive(Default)]
pub struct PageBuffer {
    /// Never moved: it is replaced where it is too short.
    room: Vec<u8>,
    /// Where in the room the first page begins.
    start: usize,
    len_bytes: usize,
}

impl PageBuffer {
    /// A buffer of this many zeroes.
    #[must_use]
    pub fn zeroed(len_bytes: usize) -> Self {
        let room = vec![0; len_bytes.saturating_add(PAGE_LEN_BYTES - 1)];
        let start = room.as_ptr().align_offset(PAGE_LEN_BYTES);
        Self {
            room,
            start,
            len_bytes,
        }
    }

    /// Makes it `len_bytes` long. What is in it then is unspecified.
    pub fn resized(&mut self, len_bytes: usize) -> &mut [u8] {
        if self.capacity_bytes() < len_bytes {
            // The old one is given back first.
            *self = Self::default();
            *self = Self::zeroed(len_bytes);
        }
        self.len_bytes = len_bytes;
        self
    }

    /// Gives its memory to nobody, for good: somebody may still write to it.
    pub fn leak(self) {
        self.room.leak();
    }

    /// How long it can be without being made anew, in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.room.len().saturating_sub(self.start)
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let from = self.room.get(self.start..).unwrap_or_default();
        from.get(..self.len_bytes).unwrap_or_default()
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let from = self.room.get_mut(self.start..).unwrap_or_default();
        from.get_mut(..self.len_bytes).unwrap_or_default()
    }
}

impl fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageBuffer")
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_where_a_page_begins_however_long_and_wherever_it_is_moved() {
        let mut buffer = PageBuffer::default();
        assert!(buffer.is_empty());
        for len in [0, 1, 4095, 4096, 600, 300_000, 1 << 20, 16] {
            let bytes = buffer.resized(len);
            assert_eq!(bytes.len(), len);
            bytes.fill(7);
            let mut moved = Box::new(std::mem::take(&mut buffer));
            assert!(
                len == 0 || moved.as_ptr().addr() % PAGE_LEN_BYTES == 0,
                "{len}"
            );
            assert!(moved.capacity_bytes() >= len);
            assert_eq!(moved[..], vec![7; len]);
            moved.fill(8);
            buffer = *moved;
            assert_eq!(buffer[..], vec![8; len]);
        }
        assert!(buffer.capacity_bytes() >= 1 << 20, "it does not shrink");
        let zeroed = PageBuffer::zeroed(5000);
        assert_eq!(zeroed.as_ptr().addr() % PAGE_LEN_BYTES, 0);
        assert_eq!(*zeroed, [0; 5000]);
    }
}
