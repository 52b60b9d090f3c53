//! A disk that is a stack of layers.

use std::sync::{Arc, Mutex, PoisonError};

use image::{Image, Reader};
use lsmt::Extent;

use crate::content::{Content, ContentError, Stretch};

/// What is looked at for the end of a stretch at first, in bytes, and at most.
const WINDOW_LEN_BYTES: std::ops::Range<u64> = 64 << 10..1 << 30;

/// A stack of layers.
#[derive(Debug)]
pub struct Stack {
    image: Arc<Image>,
    /// Readers that are not in use. Each has buffers of a few MiB.
    readers: Mutex<Vec<Reader>>,
}

impl Stack {
    /// The disk that the layers of `image` make.
    #[must_use]
    pub fn new(image: Arc<Image>) -> Self {
        Self {
            image,
            readers: Mutex::default(),
        }
    }

    /// The layers.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content for Stack {
    fn len_bytes(&self) -> u64 {
        self.image.len_bytes()
    }

    fn stretch_at(&self, offset: u64) -> Result<Stretch, ContentError> {
        let mut extents = Vec::new();
        let mut kind = None;
        let mut window = WINDOW_LEN_BYTES.start;
        let mut end = offset;
        while end < self.len_bytes() {
            let len = window.min(self.len_bytes() - end);
            self.image
                .disk()
                .resolve(end, len, &mut extents)
                .map_err(|error| ContentError::read("the stack", end, error))?;
            for extent in &extents {
                let is_data = matches!(extent, Extent::Data { .. });
                if *kind.get_or_insert(is_data) != is_data {
                    return Ok(stretch(is_data, end, true));
                }
                end += extent.len_bytes();
            }
            // What has been looked at is in proportion to what was found, however the disk is cut up.
            window = (window * 2).min(WINDOW_LEN_BYTES.end);
        }
        Ok(stretch(kind.unwrap_or(false), end, false))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError> {
        let idle = self.readers().pop();
        let mut reader = idle.unwrap_or_else(|| Reader::new(Arc::clone(&self.image)));
        let read = reader.read_exact_at(buf, offset);
        self.readers().push(reader);
        Ok(read?)
    }
}

/// A stretch up to `end`: of the kind, or, `before` it changes to that kind, of the other.
fn stretch(is_data: bool, end: u64, before: bool) -> Stretch {
    match is_data != before {
        true => Stretch::Data { end },
        false => Stretch::Zero { end },
    }
}
