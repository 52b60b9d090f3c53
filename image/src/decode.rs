//! From stored bytes to bytes of the disk, with the help of what was decoded before. No I/O.

use std::ops::Range;
use std::sync::Arc;

use blob::{ReadError, ReadErrorKind};
use zfile::{BlockRun, Blocks, Scratch, ZFile};

use crate::cache::Key;
use crate::plan::{Origin, Step};
use crate::row::Ends;
use crate::source::Bytes;
use crate::{Image, ReadFailure};

/// One thread's buffers for decoding.
#[derive(Debug, Default)]
pub struct Decoder {
    scratch: Scratch,
    /// Of steps of compressed layers.
    ends: Ends,
    /// For a block that is to be kept.
    spare: Vec<u8>,
}

/// The bytes of a step, piece by piece, in order; made by [`Decoder::decode`].
#[derive(Debug)]
pub struct Pieces<'a> {
    image: &'a Image,
    step: &'a Step,
    ordinal: usize,
    /// For a block that is to be kept.
    spare: &'a mut Vec<u8>,
    stored: Stored<'a>,
    /// Bytes of the step that are still to come.
    left: usize,
}

#[derive(Debug)]
enum Stored<'a> {
    /// What has not been asked for yet.
    Plain(Option<&'a [u8]>),
    Blocks(Blocks<'a>),
}

/// A compressed layer and which it is.
struct Compressed<'a> {
    image: &'a Image,
    zfile: &'a ZFile<blob::Window<Bytes>>,
    ordinal: usize,
}

/// The part of a block that a run wants, if it does not want all of it.
struct Edge {
    block: u64,
    /// Where the wanted part starts in the block, in bytes.
    skip: usize,
    len: usize,
}

/// A block that was decoded before, and what is wanted of it.
type Kept = (Arc<Vec<u8>>, Edge);

impl Decoder {
    /// A decoder with cold buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Delivers the ends of a step that lie in blocks which were decoded before: each with the number of bytes of the
    /// step that lie before it. Returns what is left of the step, which is in one piece.
    ///
    /// # Errors
    ///
    /// Whatever `deliver` fails with, and [`ReadErrorKind::OutOfRange`] when the step is not one of this image.
    pub fn recall<E: From<ReadFailure>>(
        &mut self,
        image: &Image,
        step: &Step,
        mut deliver: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<Option<Step>, E> {
        let Origin::Blocks { ordinal, run } = &step.origin else {
            return Ok(Some(step.clone()));
        };
        let fail = |error| E::from(image.failure(step.disk_offset, *ordinal, error));
        let layer = Compressed::of(image, *ordinal).map_err(fail)?;
        let edges = layer.edges(run);
        if let (None, None) = edges {
            return Ok(Some(step.clone()));
        }
        self.ends.add(step.end());
        let (first, last) = layer.recall(edges);
        let (mut skipped, mut dropped) = (0, 0);
        if let Some((content, edge)) = first {
            deliver(0, edge.of(&content).map_err(fail)?)?;
            skipped = edge.len;
            self.ends.add(step.disk_offset + skipped as u64);
        }
        if let Some((content, edge)) = last {
            let before = step.len.saturating_sub(edge.len);
            deliver(before, edge.of(&content).map_err(fail)?)?;
            dropped = edge.len;
        }
        if skipped + dropped == 0 {
            return Ok(Some(step.clone()));
        }
        if skipped + dropped >= step.len {
            return Ok(None);
        }
        step.narrowed(image, skipped, dropped)
            .map(Some)
            .map_err(fail)
    }

    /// Makes the bytes of `step` out of its `stored` bytes, which are those that [`Step::stored`] names, piece by piece.
    /// Blocks of which only a part is wanted are kept for whoever wants the rest.
    ///
    /// What lies behind the wanted part of a block is decoded as well where it is likely to be wanted next: in a row of
    /// reads, after a read from the beginning of a block, and where more was wanted than is kept. Otherwise it may be
    /// spared.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::OutOfRange`] when `step` and `stored` do not belong together, or when it is made of zeroes.
    pub fn decode<'a>(
        &'a mut self,
        image: &'a Image,
        step: &'a Step,
        stored: &'a [u8],
    ) -> Result<Pieces<'a>, ReadFailure> {
        let (ordinal, stored) = match &step.origin {
            Origin::Plain { ordinal, .. } if stored.len() == step.len => {
                (*ordinal, Ok(Stored::Plain(Some(stored))))
            }
            Origin::Blocks { ordinal, run } => {
                let Self { scratch, ends, .. } = self;
                let blocks = Compressed::of(image, *ordinal).and_then(|layer| {
                    let blocks = layer.zfile.blocks(run, stored, scratch)?;
                    let goes_on = || ends.has(step.disk_offset);
                    Ok(if layer.wants_rest(run, goes_on) {
                        blocks
                    } else {
                        blocks.only_wanted()
                    })
                });
                ends.add(step.end());
                (*ordinal, blocks.map(Stored::Blocks))
            }
            Origin::Plain { ordinal, .. } => (*ordinal, Err(mismatch(0))),
            Origin::Zero => (0, Err(mismatch(0))),
        };
        Ok(Pieces {
            image,
            step,
            ordinal,
            spare: &mut self.spare,
            left: step.len,
            stored: stored.map_err(|error| image.failure(step.disk_offset, ordinal, error))?,
        })
    }

    /// [`Decoder::decode`] to `out`, which is as long as the step.
    ///
    /// # Errors
    ///
    /// When a block is damaged, or when `step`, `stored` and `out` do not belong together. The content of `out` is then
    /// unspecified.
    pub fn decode_to(
        &mut self,
        image: &Image,
        step: &Step,
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<(), ReadFailure> {
        let mut pieces = self.decode(image, step, stored)?;
        let ordinal = pieces.ordinal;
        let fail = || image.failure(step.disk_offset, ordinal, mismatch(0));
        let mut rest = out;
        while let Some(piece) = pieces.next()? {
            let (now, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(piece.len())
                .ok_or_else(fail)?;
            now.copy_from_slice(piece);
            rest = later;
        }
        // Bytes that no piece has filled would be somebody else's.
        if rest.is_empty() { Ok(()) } else { Err(fail()) }
    }
}

impl Pieces<'_> {
    /// The next bytes of the step. `None` when that was all of it.
    ///
    /// # Errors
    ///
    /// When a block is damaged: what came before it is good. When the end has come and not all bytes of the step.
    #[expect(
        clippy::should_implement_trait,
        reason = "a piece borrows from this, which no `Iterator` can say"
    )]
    pub fn next(&mut self) -> Result<Option<&[u8]>, ReadFailure> {
        let (image, ordinal) = (self.image, self.ordinal);
        let fail = |error| image.failure(self.step.disk_offset, ordinal, error);
        let blocks = match &mut self.stored {
            Stored::Plain(stored) => return Ok(stored.take()),
            Stored::Blocks(blocks) => blocks,
        };
        let Some(block) = blocks.next().map_err(fail)? else {
            // Bytes that no block has filled would be somebody else's.
            return if self.left == 0 {
                Ok(None)
            } else {
                Err(fail(mismatch(0)))
            };
        };
        self.left = self.left.saturating_sub(block.wanted().len());
        let len = block.block_len();
        if block.wanted().len() < len && image.cache().is_enabled() {
            let mut content = std::mem::take(self.spare);
            content.clear();
            // Counted is the length of the block, so a buffer must not have room for more.
            if content.capacity() != len {
                content = Vec::with_capacity(len);
            }
            content.extend_from_slice(block.content());
            let block = block.number();
            let key = Key { ordinal, block };
            let spare = image.cache().put(key, Arc::new(content), len);
            *self.spare = spare.unwrap_or_default();
        }
        Ok(Some(block.wanted()))
    }
}

impl<'a> Compressed<'a> {
    fn of(image: &'a Image, ordinal: usize) -> Result<Self, ReadError> {
        let zfile = image.zfile(ordinal).ok_or_else(|| mismatch(0))?;
        Ok(Self {
            image,
            zfile,
            ordinal,
        })
    }

    fn key(&self, block: u64) -> Key {
        let ordinal = self.ordinal;
        Key { ordinal, block }
    }

    fn block_content(&self, block: u64) -> Range<u64> {
        let info = self.zfile.info();
        let size = u64::from(info.block_size_bytes);
        let start = block.saturating_mul(size);
        start..start.saturating_add(size).min(info.original_len_bytes)
    }

    /// The blocks at both ends of a run of which only a part is wanted. One block that is cut at both ends is the
    /// first.
    fn edges(&self, run: &BlockRun) -> (Option<Edge>, Option<Edge>) {
        let (blocks, content) = (run.blocks(), run.content());
        let Some(last) = blocks
            .end
            .checked_sub(1)
            .filter(|last| *last >= blocks.start)
        else {
            return (None, None);
        };
        let edge = |block| {
            let whole = self.block_content(block);
            let wanted = content.start.max(whole.start)..content.end.min(whole.end);
            (wanted != whole).then(|| Edge {
                block,
                skip: length(&(whole.start..wanted.start)),
                len: length(&wanted),
            })
        };
        let first = edge(blocks.start);
        (
            first,
            if last > blocks.start {
                edge(last)
            } else {
                None
            },
        )
    }

    /// Whether what a run does not want of its last block is likely to be wanted next, if there is any.
    fn wants_rest(&self, run: &BlockRun, goes_on: impl FnOnce() -> bool) -> bool {
        let (blocks, content) = (run.blocks(), run.content());
        let Some(last) = blocks.end.checked_sub(1) else {
            return false;
        };
        let whole = self.block_content(last);
        if content.end == whole.end {
            return true;
        }
        // In an earlier block, a run begins before this one.
        let from_start = content.start == whole.start;
        let cache = self.image.cache();
        cache.is_enabled() && (from_start || goes_on() || cache.has(self.key(last)))
    }

    /// What is kept of the blocks at both ends.
    fn recall(&self, (first, last): (Option<Edge>, Option<Edge>)) -> (Option<Kept>, Option<Kept>) {
        let cache = self.image.cache();
        if !cache.is_enabled() {
            return (None, None);
        }
        let kept = |edge: Edge| {
            let content = cache.get(self.key(edge.block), edge.skip.saturating_add(edge.len))?;
            Some((content, edge))
        };
        (first.and_then(kept), last.and_then(kept))
    }
}

impl Edge {
    /// The part out of the content of its block.
    fn of<'c>(&self, content: &'c [u8]) -> Result<&'c [u8], ReadError> {
        content
            .get(self.skip..)
            .and_then(|from| from.get(..self.len))
            .ok_or_else(|| mismatch(0))
    }
}

/// The length of a range that is a buffer.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

fn mismatch(offset: u64) -> ReadError {
    ReadError::new(ReadErrorKind::OutOfRange, offset)
        .with_source("the buffers do not belong to this step")
}
