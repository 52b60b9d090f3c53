//! A reader with a buffer that begins where a page begins.

use std::io::{self, BufRead, Read};
use std::ops::Range;

use blob::PageBuffer;

/// What is read at once.
const BUFFER_LEN_BYTES: usize = 1 << 18;

/// As `std::io::BufReader`, whose buffer begins somewhere in a page: out of the page cache, it is filled many times more
/// slowly.
#[derive(Debug)]
pub(crate) struct PageReader<R> {
    source: R,
    buffer: PageBuffer,
    /// Bytes of the buffer that nobody has taken yet.
    unread: Range<usize>,
}

impl<R: Read> PageReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            buffer: PageBuffer::zeroed(BUFFER_LEN_BYTES),
            unread: 0..0,
        }
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.source
    }

    /// The source. What was read from it and not taken is lost.
    pub(crate) fn into_inner(self) -> R {
        self.source
    }
}

impl<R: Read> Read for PageReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() && buf.len() >= BUFFER_LEN_BYTES {
            return self.source.read(buf);
        }
        let read = self.fill_buf()?.read(buf)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for PageReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread.is_empty() {
            self.unread = 0..self.source.read(&mut self.buffer)?;
        }
        Ok(self.buffer.get(self.unread.clone()).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        self.unread.start = self.unread.end.min(self.unread.start.saturating_add(len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_once_however_it_is_asked_for() {
        let bytes = blob::test_util::noise(BUFFER_LEN_BYTES * 3 + 100, 1);
        let mut reader = PageReader::new(&bytes[..]);
        let mut read = Vec::new();
        for len in (0..).step_by(31_337) {
            let mut some = vec![0; len % (2 * BUFFER_LEN_BYTES)];
            let there = reader.read(&mut some).unwrap();
            read.extend_from_slice(&some[..there]);
            if there == 0 && !some.is_empty() {
                break;
            }
            let looked = reader.fill_buf().unwrap();
            let taken = looked.len().min(7);
            read.extend_from_slice(&looked[..taken]);
            reader.consume(taken);
        }
        assert!(read == bytes);
        reader.consume(1);
        assert!(reader.fill_buf().unwrap().is_empty());
        assert!(reader.get_ref().is_empty());
        assert!(reader.into_inner().is_empty());
    }
}
