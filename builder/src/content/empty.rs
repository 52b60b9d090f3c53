//! A disk of zeroes.

use crate::content::{Content, ContentError, Stretch};

/// A disk of zeroes.
#[derive(Clone, Copy, Debug)]
pub struct Empty {
    len_bytes: u64,
}

impl Empty {
    /// A disk of this length.
    #[must_use]
    pub fn new(len_bytes: u64) -> Self {
        Self { len_bytes }
    }
}

impl Content for Empty {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn stretch_at(&self, _offset: u64) -> Result<Stretch, ContentError> {
        Ok(Stretch::Zero {
            end: self.len_bytes,
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError> {
        match blob::range_is_inside(offset, buf.len(), self.len_bytes) {
            true => buf.fill(0),
            false => return Err(ContentError::outside("an empty disk", offset)),
        }
        Ok(())
    }
}
