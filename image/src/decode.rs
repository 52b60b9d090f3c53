//! From stored bytes to bytes of the disk, with the help of what was decoded before. No I/O.

use std::ops::Range;
use std::sync::Arc;

use blob::{ReadError, ReadErrorKind};
use zfile::{BlockRun, Scratch, ZFile};

use crate::cache::Key;
use crate::plan::{Origin, Step};
use crate::source::Bytes;
use crate::{Image, ReadFailure};

/// One thread's buffers for decoding.
#[derive(Debug, Default)]
pub struct Decoder {
    scratch: Scratch,
    /// For a block that is to be kept.
    spare: Vec<u8>,
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

impl Decoder {
    /// A decoder with cold buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills those bytes of `out` that need nothing to be fetched: zeroes, and ends of the step that lie in blocks
    /// which were decoded before. Returns what is left of the step, which is in one piece.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::OutOfRange`] when `step` and `out` do not belong together.
    pub fn recall(
        &mut self,
        image: &Image,
        step: &Step,
        out: &mut [u8],
    ) -> Result<Option<Step>, ReadFailure> {
        match &step.origin {
            Origin::Zero => {
                out.fill(0);
                Ok(None)
            }
            Origin::Plain { .. } => Ok(Some(step.clone())),
            Origin::Blocks { ordinal, run } => {
                let fail = |error| image.failure(step.disk_offset, *ordinal, error);
                let layer = Compressed::of(image, *ordinal).map_err(fail)?;
                let (skipped, dropped) = layer.recall(run, out).map_err(fail)?;
                if skipped + dropped >= step.len {
                    return Ok(None);
                }
                if skipped + dropped == 0 {
                    return Ok(Some(step.clone()));
                }
                step.narrowed(image, skipped, dropped)
                    .map(Some)
                    .map_err(fail)
            }
        }
    }

    /// Makes the bytes of `step` out of its `stored` bytes, which are those that [`Step::stored`] names.
    ///
    /// # Errors
    ///
    /// When a block is damaged, or when `step`, `stored` and `out` do not belong together. The content of `out` is
    /// then unspecified.
    pub fn decode(
        &mut self,
        image: &Image,
        step: &Step,
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<(), ReadFailure> {
        match &step.origin {
            Origin::Zero => {
                out.fill(0);
                Ok(())
            }
            Origin::Plain { ordinal, .. } => {
                if stored.len() != out.len() {
                    return Err(image.failure(step.disk_offset, *ordinal, mismatch(0)));
                }
                out.copy_from_slice(stored);
                Ok(())
            }
            Origin::Blocks { ordinal, run } => Compressed::of(image, *ordinal)
                .and_then(|layer| self.decode_run(&layer, run, stored, out))
                .map_err(|error| image.failure(step.disk_offset, *ordinal, error)),
        }
    }

    /// Whole blocks go straight to `out`; a block that is cut is kept for whoever wants the rest of it.
    fn decode_run(
        &mut self,
        layer: &Compressed<'_>,
        run: &BlockRun,
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        let (first, last) = layer.edges(run);
        if !layer.image.cache().is_enabled() || (first.is_none() && last.is_none()) {
            return layer.zfile.decode(run, stored, &mut self.scratch, out);
        }
        let content = run.content();
        let (mut middle, mut rest) = (content.clone(), out);
        if let Some(edge) = first {
            let (part, after) = split(rest, edge.len, content.start)?;
            self.decode_edge(layer, run, stored, &edge, part)?;
            middle.start += edge.len as u64;
            rest = after;
        }
        if let Some(edge) = last {
            let before = rest.len().saturating_sub(edge.len);
            let (inner, part) = split(rest, before, content.start)?;
            self.decode_edge(layer, run, stored, &edge, part)?;
            middle.end -= edge.len as u64;
            rest = inner;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let inner = layer.zfile.plan(middle.start, rest.len())?;
        let stored = part_of(run, stored, &inner.stored())?;
        layer.zfile.decode(&inner, stored, &mut self.scratch, rest)
    }

    fn decode_edge(
        &mut self,
        layer: &Compressed<'_>,
        run: &BlockRun,
        stored: &[u8],
        edge: &Edge,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        let whole = layer.block_content(edge.block);
        let block = layer.zfile.plan(whole.start, length(&whole))?;
        let stored = part_of(run, stored, &block.stored())?;
        let mut content = std::mem::take(&mut self.spare);
        content.resize(length(&whole), 0);
        layer
            .zfile
            .decode(&block, stored, &mut self.scratch, &mut content)?;
        copy_part(&content, edge, out)?;
        let (key, content) = (layer.key(edge.block), Arc::new(content));
        self.spare = layer.image.cache().put(key, content).unwrap_or_default();
        Ok(())
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

    /// Copies what is kept of the blocks at both ends; returns how many bytes of both ends are filled.
    fn recall(&self, run: &BlockRun, out: &mut [u8]) -> Result<(usize, usize), ReadError> {
        let cache = self.image.cache();
        if !cache.is_enabled() {
            return Ok((0, 0));
        }
        let kept = |edge: Edge| Some((cache.get(self.key(edge.block))?, edge));
        let (first, last) = self.edges(run);
        let (mut skipped, mut dropped) = (0, 0);
        if let Some((content, edge)) = first.and_then(kept) {
            let (part, _) = split(out, edge.len, run.content().start)?;
            copy_part(&content, &edge, part)?;
            skipped = edge.len;
        }
        if let Some((content, edge)) = last.and_then(kept) {
            let before = out.len().saturating_sub(edge.len);
            let (_, part) = split(out, before, run.content().start)?;
            copy_part(&content, &edge, part)?;
            dropped = edge.len;
        }
        Ok((skipped, dropped))
    }
}

fn copy_part(content: &[u8], edge: &Edge, out: &mut [u8]) -> Result<(), ReadError> {
    let part = content
        .get(edge.skip..)
        .and_then(|from| from.get(..edge.len))
        .filter(|part| part.len() == out.len())
        .ok_or_else(|| mismatch(0))?;
    out.copy_from_slice(part);
    Ok(())
}

/// The stored bytes of some blocks of a run, of whose stored bytes they are a part.
fn part_of<'s>(run: &BlockRun, stored: &'s [u8], part: &Range<u64>) -> Result<&'s [u8], ReadError> {
    let skip = part.start.saturating_sub(run.stored().start);
    usize::try_from(skip)
        .ok()
        .and_then(|skip| stored.get(skip..)?.get(..length(part)))
        .ok_or_else(|| mismatch(part.start))
}

fn split(out: &mut [u8], at: usize, offset: u64) -> Result<(&mut [u8], &mut [u8]), ReadError> {
    out.split_at_mut_checked(at).ok_or_else(|| mismatch(offset))
}

/// The length of a range that is a buffer.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

fn mismatch(offset: u64) -> ReadError {
    ReadError::new(ReadErrorKind::OutOfRange, offset)
        .with_source("the buffers do not belong to this step")
}
