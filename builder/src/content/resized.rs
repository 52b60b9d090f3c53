//! The same disk, shorter or longer.

use crate::content::{Content, ContentError, Stretch};

/// A disk that was cut, or continued with zeroes.
#[derive(Debug)]
pub struct Resized<C> {
    content: C,
    len_bytes: u64,
}

impl<C: Content> Resized<C> {
    /// `content`, of another length.
    #[must_use]
    pub fn new(content: C, len_bytes: u64) -> Self {
        Self { content, len_bytes }
    }
}

impl<C: Content> Content for Resized<C> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn stretch_at(&self, offset: u64) -> Result<Stretch, ContentError> {
        if offset >= self.content.len_bytes() {
            return Ok(Stretch::Zero {
                end: self.len_bytes,
            });
        }
        Ok(match self.content.stretch_at(offset)? {
            Stretch::Data { end } => Stretch::Data {
                end: end.min(self.len_bytes),
            },
            Stretch::Zero { end } => Stretch::Zero {
                end: end.min(self.len_bytes),
            },
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError> {
        if !blob::range_is_inside(offset, buf.len(), self.len_bytes) {
            return Err(ContentError::outside("the disk", offset));
        }
        let there = self.content.len_bytes().saturating_sub(offset);
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(buf.len());
        let (there, beyond) = buf.split_at_mut(there);
        beyond.fill(0);
        match there.is_empty() {
            true => Ok(()),
            false => self.content.read_exact_at(there, offset),
        }
    }
}

impl<C: Content + ?Sized> Content for Box<C> {
    fn len_bytes(&self) -> u64 {
        (**self).len_bytes()
    }

    fn stretch_at(&self, offset: u64) -> Result<Stretch, ContentError> {
        (**self).stretch_at(offset)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError> {
        (**self).read_exact_at(buf, offset)
    }

    fn is_stream(&self) -> bool {
        (**self).is_stream()
    }
}
