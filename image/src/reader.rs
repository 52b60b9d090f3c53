//! Reading the merged disk: plan, fetch, decode, one step after another. An engine that has many reads under way does
//! the same with its own I/O in between.

use std::path::PathBuf;
use std::sync::Arc;

use blob::{PageBuffer, ReadAt, ReadError, ReadErrorKind};

use crate::shown::Shown;
use crate::{Decoder, Image, MAX_PLAN_LEN_BYTES, Origin, Plan, Step};

/// One thread's way to read an [`Image`]: the image is shared, the buffers are its own.
///
/// Once warm, a read allocates nothing.
#[derive(Debug)]
pub struct Reader {
    image: Arc<Image>,
    plan: Plan,
    decoder: Decoder,
    /// Stored bytes of compressed blocks.
    stored: PageBuffer,
}

/// A read that could not be answered, and the layer that is to blame.
#[derive(Debug)]
pub struct ReadFailure {
    /// First byte of the disk that could not be read.
    pub disk_offset: u64,
    /// Ordinal and path of the layer, unless the range was outside the disk.
    pub layer: Option<(usize, PathBuf)>,
    /// What went wrong there.
    pub source: ReadError,
}

impl std::fmt::Display for ReadFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "disk byte {}", self.disk_offset)?;
        match &self.layer {
            Some((ordinal, path)) => write!(f, ": layer {ordinal} ({})", Shown(path)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ReadFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl ReadFailure {
    /// What the failure means.
    #[must_use]
    pub fn kind(&self) -> ReadErrorKind {
        self.source.kind()
    }
}

impl Reader {
    /// A reader with cold buffers.
    #[must_use]
    pub fn new(image: Arc<Image>) -> Self {
        Self {
            image,
            plan: Plan::default(),
            decoder: Decoder::new(),
            stored: PageBuffer::default(),
        }
    }

    /// The image being read.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Fills `buf` with the bytes of the disk at `offset`, or fails.
    ///
    /// # Errors
    ///
    /// When the range leaves the disk, or a layer cannot deliver. The content of `buf` is then unspecified and
    /// must not be used.
    pub fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<(), ReadFailure> {
        self.read_at(buf, offset, fetch).map(drop)
    }

    /// The same if it need not wait for a device, and `false` otherwise: the content of `buf` is then unspecified.
    ///
    /// # Errors
    ///
    /// As [`Reader::read_exact_at`].
    pub fn read_ready_at(&mut self, buf: &mut [u8], offset: u64) -> Result<bool, ReadFailure> {
        self.read_at(buf, offset, fetch_ready)
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64, fetch: Fetch) -> Result<bool, ReadFailure> {
        let outside = || ReadFailure {
            disk_offset: offset,
            layer: None,
            source: ReadError::new(ReadErrorKind::OutOfRange, offset),
        };
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.image.len_bytes()) {
            return Err(outside());
        }
        let mut position = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            // Cut where blocks end, so that no block is read for two pieces.
            let into_piece = position % MAX_PLAN_LEN_BYTES as u64;
            let left = usize::try_from(MAX_PLAN_LEN_BYTES as u64 - into_piece);
            let len = left.map_or(rest.len(), |left| left.min(rest.len()));
            let (piece, after) = std::mem::take(&mut rest)
                .split_at_mut_checked(len)
                .ok_or_else(outside)?;
            if !self.read_piece(piece, position, fetch)? {
                return Ok(false);
            }
            position += len as u64;
            rest = after;
        }
        Ok(true)
    }

    fn read_piece(
        &mut self,
        piece: &mut [u8],
        offset: u64,
        fetch: Fetch,
    ) -> Result<bool, ReadFailure> {
        let Self {
            image,
            plan,
            decoder,
            stored,
        } = self;
        image.plan(offset, piece.len(), plan)?;
        let mut rest = piece;
        for step in plan.steps() {
            let Some((part, after)) = std::mem::take(&mut rest).split_at_mut_checked(step.len)
            else {
                return Err(mismatch(step));
            };
            rest = after;
            if let Origin::Zero = step.origin {
                part.fill(0);
                continue;
            }
            let left = decoder.recall(image, step, |skipped, bytes| {
                copy_to(part, skipped, bytes).ok_or_else(|| mismatch(step))
            })?;
            let Some(left) = left else {
                continue;
            };
            let skipped = usize::try_from(left.disk_offset - step.disk_offset);
            let part = skipped
                .ok()
                .and_then(|skipped| part.get_mut(skipped..)?.get_mut(..left.len))
                .ok_or_else(|| mismatch(step))?;
            if !read_step(image, decoder, stored, &left, part, fetch)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Fills `out` with the bytes of a step, out of `stored` if it is compressed.
fn read_step(
    image: &Image,
    decoder: &mut Decoder,
    stored: &mut PageBuffer,
    step: &Step,
    out: &mut [u8],
    fetch: Fetch,
) -> Result<bool, ReadFailure> {
    let (ordinal, range) = step.stored().ok_or_else(|| mismatch(step))?;
    let failure = |error| image.failure(step.disk_offset, ordinal, error);
    if let Origin::Plain { .. } = step.origin {
        return fetch(image, ordinal, range.start, out).map_err(failure);
    }
    // At most a plan's length and the rest of two blocks, whatever they grew by.
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let stored = stored.resized(len);
    if !fetch(image, ordinal, range.start, stored).map_err(failure)? {
        return Ok(false);
    }
    decoder.decode_to(image, step, stored, out)?;
    Ok(true)
}

/// Fills a buffer with stored bytes of a layer from some offset on; `false` if that would take waiting.
type Fetch = fn(&Image, usize, u64, &mut [u8]) -> Result<bool, ReadError>;

fn fetch(image: &Image, ordinal: usize, offset: u64, buf: &mut [u8]) -> Result<bool, ReadError> {
    image.read_stored(ordinal, offset, buf).map(|()| true)
}

fn fetch_ready(
    image: &Image,
    ordinal: usize,
    offset: u64,
    buf: &mut [u8],
) -> Result<bool, ReadError> {
    let source = image.stored(ordinal);
    let ready = source.is_some_and(|source| source.read_ready_at(buf, offset) == buf.len());
    Ok(ready)
}

/// Copies `bytes` to where `part` has its byte `skipped`, if there is room for all of them.
fn copy_to(part: &mut [u8], skipped: usize, bytes: &[u8]) -> Option<()> {
    part.get_mut(skipped..)?
        .get_mut(..bytes.len())?
        .copy_from_slice(bytes);
    Some(())
}

/// A plan promises steps that fill its range exactly; this one does not.
fn mismatch(step: &Step) -> ReadFailure {
    ReadFailure {
        disk_offset: step.disk_offset,
        layer: None,
        source: ReadError::new(ReadErrorKind::OutOfRange, step.disk_offset),
    }
}
