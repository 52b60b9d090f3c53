//! Reading the merged disk: plan, fetch, decode, one step after another. An engine that has many reads under way does
//! the same with its own I/O in between.

use std::path::PathBuf;
use std::sync::Arc;

use blob::{ReadError, ReadErrorKind};

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
    stored: Vec<u8>,
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
            stored: Vec::new(),
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
            self.read_piece(piece, position)?;
            position += len as u64;
            rest = after;
        }
        Ok(())
    }

    fn read_piece(&mut self, piece: &mut [u8], offset: u64) -> Result<(), ReadFailure> {
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
            if let Some(left) = left {
                let skipped = usize::try_from(left.disk_offset - step.disk_offset);
                let part = skipped
                    .ok()
                    .and_then(|skipped| part.get_mut(skipped..)?.get_mut(..left.len))
                    .unwrap_or_default();
                fetch(image, decoder, stored, &left, part)?;
            }
        }
        Ok(())
    }
}

/// Waits for the bytes of a step and makes them what the disk holds.
fn fetch(
    image: &Image,
    decoder: &mut Decoder,
    stored: &mut Vec<u8>,
    step: &Step,
    out: &mut [u8],
) -> Result<(), ReadFailure> {
    let (ordinal, range) = step.stored().ok_or_else(|| mismatch(step))?;
    let failure = |error| image.failure(step.disk_offset, ordinal, error);
    if let Origin::Plain { .. } = step.origin {
        return image
            .read_stored(ordinal, range.start, out)
            .map_err(failure);
    }
    // At most a plan's length and the rest of two blocks, whatever they grew by.
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    if stored.len() < len {
        stored.resize(len, 0);
    }
    let stored = stored.get_mut(..len).unwrap_or_default();
    image
        .read_stored(ordinal, range.start, stored)
        .map_err(failure)?;
    decoder.decode_to(image, step, stored, out)
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
