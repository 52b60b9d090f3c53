//! Where bytes come from.
//!
//! A *blob* is the file, block device or memory that holds one layer. This crate gives every room above one
//! way to read it, [`ReadAt`]: a source whose length never changes, read by position, exactly or not at all.
//!
//! ```text
//! FileBlob ──▶ Window (the payload of a tar wrapper) ──▶ zfile ──▶ lsmt
//! ```
//!
//! Words used here: a *blob* is the whole source; a *window* is a byte range of it; an *offset* always counts
//! from the start of the source it is handed to.
//!
//! What this crate refuses to do: cache, retry, log, or return a short read. A short read that turned into
//! zeroes would be a wrong byte in a guest; here it is an error.
//!
//! ```
//! use blob::{MemoryBlob, ReadAt, Window};
//!
//! let blob = MemoryBlob::new(b"header-payload".to_vec());
//! let payload = Window::new(blob, 7, 7).unwrap();
//! let mut bytes = [0; 7];
//! payload.read_exact_at(&mut bytes, 0).unwrap();
//! assert_eq!(&bytes, b"payload");
//! assert!(payload.read_exact_at(&mut bytes, 1).is_err());
//! ```
#![forbid(unsafe_code)]

mod error;
mod file;
mod memory;
mod page_buffer;
pub mod tar;
#[cfg(feature = "test-util")]
pub mod test_util;
mod window;

pub use error::{ReadError, ReadErrorKind};
pub use file::{FileBlob, FileOpenError, is_in_memory};
pub use memory::MemoryBlob;
pub use page_buffer::PageBuffer;
pub use window::{Window, WindowError};

use std::sync::Arc;

/// A fixed-length, immutable source of bytes.
///
/// # Range checking
///
/// Callers need not check ranges: an implementation answers a range that does not lie inside
/// `0..len_bytes()` with [`ReadErrorKind::OutOfRange`], never with a panic. A read of zero bytes at any offset
/// up to and including `len_bytes()` succeeds.
///
/// All implementations pass `test_util::conformance`.
pub trait ReadAt: Send + Sync {
    /// Length in bytes. Never changes while the source exists.
    fn len_bytes(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`, or fails.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::OutOfRange`] when the range leaves the source, otherwise whatever kept the source from
    /// delivering every byte. After an error the content of `buf` is unspecified and must not be used.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError>;

    /// Fills a beginning of `buf` with the bytes at `offset` that are at hand, without waiting for any device, and
    /// returns its length: 0 when nothing is at hand, or when the source cannot tell. What is missing, and what is
    /// wrong, the ordinary read says. The rest of `buf` is unspecified afterwards.
    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> usize {
        let (_, _) = (buf, offset);
        0
    }

    /// The file that holds the source, and where in it the source starts; `None` when there is none. For whoever
    /// has a way of its own to read files.
    fn file_range(&self) -> Option<(&FileBlob, u64)> {
        None
    }

    /// Lets the source fetch `len_bytes` bytes at `offset` ahead of their being asked for, where it can. May wait.
    fn will_need(&self, offset: u64, len_bytes: u64) {
        let (_, _) = (offset, len_bytes);
    }
}

/// What points to a source is that source.
macro_rules! forward {
    ($($pointer:ty),+) => {$(
        impl<T: ReadAt + ?Sized> ReadAt for $pointer {
            fn len_bytes(&self) -> u64 {
                (**self).len_bytes()
            }

            fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
                (**self).read_exact_at(buf, offset)
            }

            fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> usize {
                (**self).read_ready_at(buf, offset)
            }

            fn file_range(&self) -> Option<(&FileBlob, u64)> {
                (**self).file_range()
            }

            fn will_need(&self, offset: u64, len_bytes: u64) {
                (**self).will_need(offset, len_bytes);
            }
        }
    )+};
}

forward!(&T, Arc<T>, Box<T>);

/// Whether `len` bytes at `offset` lie inside a source of `source_len` bytes.
#[must_use]
pub fn range_is_inside(offset: u64, len: usize, source_len: u64) -> bool {
    u64::try_from(len)
        .ok()
        .and_then(|len| offset.checked_add(len))
        .is_some_and(|end| end <= source_len)
}
