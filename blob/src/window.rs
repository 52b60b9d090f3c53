//! A byte range of a source, as a source of its own.

use crate::{FileBlob, ReadAt, ReadError, ReadErrorKind, range_is_inside};

/// The bytes `start..start + len_bytes` of a source; nothing outside them can be reached through it.
#[derive(Clone, Debug)]
pub struct Window<S> {
    source: S,
    start: u64,
    len_bytes: u64,
}

/// A window that does not lie inside its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len_bytes} bytes at byte {start} do not lie inside a source of {source_len_bytes} bytes")]
pub struct WindowError {
    /// First byte asked for.
    pub start: u64,
    /// Length asked for.
    pub len_bytes: u64,
    /// Length of the source.
    pub source_len_bytes: u64,
}

impl<S: ReadAt> Window<S> {
    /// The `len_bytes` bytes of `source` from `start` on.
    ///
    /// # Errors
    ///
    /// When the range leaves the source.
    pub fn new(source: S, start: u64, len_bytes: u64) -> Result<Self, WindowError> {
        let source_len_bytes = source.len_bytes();
        let end = start
            .checked_add(len_bytes)
            .filter(|end| *end <= source_len_bytes);
        match end {
            Some(_) => Ok(Self {
                source,
                start,
                len_bytes,
            }),
            None => Err(WindowError {
                start,
                len_bytes,
                source_len_bytes,
            }),
        }
    }

    /// The whole of `source`.
    pub fn whole(source: S) -> Self {
        let len_bytes = source.len_bytes();
        Self {
            source,
            start: 0,
            len_bytes,
        }
    }

    /// Where the window starts in its source, in bytes.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The source the window looks into.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl<S: ReadAt> ReadAt for Window<S> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let start = self
            .start
            .checked_add(offset)
            .filter(|_| range_is_inside(offset, buf.len(), self.len_bytes))
            .ok_or_else(|| ReadError::new(ReadErrorKind::OutOfRange, offset))?;
        // Errors from below already name the byte of the blob itself, which is what a person needs.
        self.source.read_exact_at(buf, start)
    }

    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> usize {
        let start = self.start.checked_add(offset);
        match start.filter(|_| range_is_inside(offset, buf.len(), self.len_bytes)) {
            Some(start) => self.source.read_ready_at(buf, start),
            None => 0,
        }
    }

    fn file_range(&self) -> Option<(&FileBlob, u64)> {
        let (file, start) = self.source.file_range()?;
        Some((file, start.checked_add(self.start)?))
    }

    fn will_need(&self, offset: u64, len_bytes: u64) {
        let inside = len_bytes.min(self.len_bytes.saturating_sub(offset));
        if let (1.., Some(start)) = (inside, self.start.checked_add(offset)) {
            self.source.will_need(start, inside);
        }
    }
}
