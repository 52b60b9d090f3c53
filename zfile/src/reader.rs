//! Reading: from a range of the content to stored bytes, and from stored bytes to content.
//!
//! [`ZFile::plan`] and [`ZFile::blocks`] do no I/O, so that an engine can put its own between them.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::Range;

use blob::{PageBuffer, ReadAt, ReadError, ReadErrorKind, range_is_inside};

use crate::blocks::{Blocks, mismatch};
use crate::codec::Decoder;
use crate::error::OpenError;
use crate::jump_table::JumpTable;
use crate::open::{self, Info};

/// How much content one read of the source serves, in bytes: enough for the device to work at its full rate,
/// little enough that the stored bytes, which a thread keeps in its scratch, stay below 1.1 MiB.
const RUN_CONTENT_MAX_BYTES: u64 = 1 << 20;

/// A ZFile, open for reading: its content is a [`ReadAt`] of its own.
///
/// Immutable after opening, so that any number of threads can read from it, each with its own [`Scratch`].
#[derive(Debug)]
pub struct ZFile<S> {
    source: S,
    info: Info,
    table: JumpTable,
}

/// Buffers that a thread keeps from one read to the next: at most about 1.3 MiB.
#[derive(Debug, Default)]
pub struct Scratch {
    stored: PageBuffer,
    decoder: Decoder,
}

/// The blocks that hold a range of the content; made by [`ZFile::plan`], for the same ZFile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRun {
    blocks: Range<u64>,
    stored: Range<u64>,
    content: Range<u64>,
}

impl BlockRun {
    /// The numbers of the blocks, counted from 0.
    #[must_use]
    pub fn blocks(&self) -> Range<u64> {
        self.blocks.clone()
    }

    /// The bytes of the source to fetch: the stored blocks, which lie side by side.
    #[must_use]
    pub fn stored(&self) -> Range<u64> {
        self.stored.clone()
    }

    /// The bytes of the content that were asked for.
    #[must_use]
    pub fn content(&self) -> Range<u64> {
        self.content.clone()
    }
}

impl<S: ReadAt> ZFile<S> {
    /// Opens the ZFile that `source` holds, from its first byte to its last.
    ///
    /// Reads header, jump table and trailer, and checks them against each other and the length of the source.
    /// Keeps about 4.1 bytes of memory per block.
    ///
    /// # Errors
    ///
    /// When the source cannot be read, is no ZFile, is damaged in any part that is needed to find the blocks,
    /// or uses what this crate does not support. Damage inside blocks shows when they are read.
    pub fn open(source: S) -> Result<Self, OpenError> {
        let (info, table) = open::open(&source)?;
        Ok(Self {
            source,
            info,
            table,
        })
    }

    /// What the file says about itself.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Memory that the jump table takes, in bytes.
    pub fn index_len_bytes(&self) -> usize {
        self.table.len_bytes()
    }

    /// The source, in which offsets count stored bytes.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Where in the source the block begins that holds byte `offset` of the content, if there is one: where the bytes of
    /// [`ZFile::plan`] begin, in a few nanoseconds.
    #[inline]
    pub fn locate(&self, offset: u64) -> Option<u64> {
        let block_size = u64::from(self.info.block_size_bytes);
        let block = offset.checked_div(block_size)?;
        (offset < self.len_bytes()).then(|| self.table.start(block))?
    }

    /// The blocks that hold `len_bytes` bytes of content from `offset` on, and where they are stored. No I/O.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::OutOfRange`] when the range leaves the content.
    pub fn plan(&self, offset: u64, len_bytes: usize) -> Result<BlockRun, ReadError> {
        let out_of_range = || ReadError::new(ReadErrorKind::OutOfRange, offset);
        if !range_is_inside(offset, len_bytes, self.len_bytes()) {
            return Err(out_of_range());
        }
        let len = u64::try_from(len_bytes).unwrap_or(u64::MAX);
        let end = offset.saturating_add(len);
        let block_size = u64::from(self.info.block_size_bytes);
        let first = offset.checked_div(block_size).ok_or_else(out_of_range)?;
        let blocks = first..end.div_ceil(block_size).max(first);
        let blocks = if len == 0 { first..first } else { blocks };
        let stored = self.table.stored_range(&blocks).ok_or_else(out_of_range)?;
        Ok(BlockRun {
            blocks,
            stored,
            content: offset..end,
        })
    }

    /// How many bytes of the content of `run`, from its beginning on, are in blocks that lie in the first `stored_bytes`
    /// of its stored bytes. No I/O.
    pub fn content_within(&self, run: &BlockRun, stored_bytes: usize) -> usize {
        let stored = u64::try_from(stored_bytes).unwrap_or(u64::MAX);
        let limit = run.stored.start.saturating_add(stored);
        let ends_within = |block: u64| {
            let end = self.table.start(block.saturating_add(1));
            end.is_some_and(|end| end <= limit)
        };
        let mut left = run.blocks.clone();
        while left.start < left.end {
            let middle = left.start.midpoint(left.end);
            if ends_within(middle) {
                left.start = middle.saturating_add(1);
            } else {
                left.end = middle;
            }
        }
        self.content_before(run, left.start)
    }

    /// How many bytes of the content of `run`, from its beginning on, its first `len_bytes` bytes are together with what
    /// else is wanted of the block they end in. No I/O.
    pub fn whole_blocks(&self, run: &BlockRun, len_bytes: usize) -> usize {
        let len = u64::try_from(len_bytes).unwrap_or(u64::MAX);
        let block_size = u64::from(self.info.block_size_bytes);
        let end = run.content.start.saturating_add(len);
        self.content_before(run, end.div_ceil(block_size))
    }

    /// How many bytes of the content of `run` lie before this block.
    fn content_before(&self, run: &BlockRun, block: u64) -> usize {
        let end = block.saturating_mul(u64::from(self.info.block_size_bytes));
        length(&(run.content.start..end.min(run.content.end)))
    }

    /// The blocks of `run`, to be checked and decoded one after another. No I/O.
    ///
    /// `stored` are the bytes [`BlockRun::stored`] of the source.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::OutOfRange`] when `stored` is not as long as these.
    pub fn blocks<'a>(
        &'a self,
        run: &'a BlockRun,
        stored: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> Result<Blocks<'a>, ReadError> {
        Blocks::new(&self.info, &self.table, run, stored, &mut scratch.decoder)
    }

    /// Checks and decodes the blocks of `run` and fills `out` with the content asked for. No I/O.
    ///
    /// `stored` are the bytes [`BlockRun::stored`] of the source, `out` is as long as [`BlockRun::content`].
    ///
    /// # Errors
    ///
    /// As [`Blocks::next`], and [`ReadErrorKind::OutOfRange`] when `run`, `stored` and `out` do not belong together.
    /// After an error the content of `out` is unspecified.
    pub fn decode(
        &self,
        run: &BlockRun,
        stored: &[u8],
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        self.decode_with(run, stored, &mut scratch.decoder, out)
    }

    /// [`ReadAt::read_exact_at`] with the buffers of the calling thread: allocates nothing once they have grown.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan) and [`decode`](Self::decode), and whatever the source fails with.
    pub fn read_exact_at_with(
        &self,
        scratch: &mut Scratch,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<(), ReadError> {
        if !range_is_inside(offset, buf.len(), self.len_bytes()) {
            return Err(ReadError::new(ReadErrorKind::OutOfRange, offset));
        }
        let Scratch { stored, decoder } = scratch;
        let (mut offset, mut rest) = (offset, buf);
        while !rest.is_empty() {
            // A run ends where a block ends, so that no block is read twice.
            let into_run = offset.checked_rem(RUN_CONTENT_MAX_BYTES).unwrap_or(0);
            let run_left = RUN_CONTENT_MAX_BYTES.saturating_sub(into_run);
            let piece_bytes = usize::try_from(run_left).map_or(rest.len(), |n| n.min(rest.len()));
            let Some((piece, tail)) = std::mem::take(&mut rest).split_at_mut_checked(piece_bytes)
            else {
                break;
            };
            let run = self.plan(offset, piece.len())?;
            let fetched = stored.resized(length(&run.stored));
            self.source.read_exact_at(fetched, run.stored.start)?;
            self.decode_with(&run, fetched, decoder, piece)?;
            offset = run.content.end;
            rest = tail;
        }
        Ok(())
    }

    fn decode_with(
        &self,
        run: &BlockRun,
        stored: &[u8],
        decoder: &mut Decoder,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        if out.len() != length(&run.content) {
            return Err(mismatch(run));
        }
        let mut blocks = Blocks::new(&self.info, &self.table, run, stored, decoder)?;
        let mut rest = out;
        while let Some(block) = blocks.next()? {
            let wanted = block.wanted();
            let (piece, tail) = std::mem::take(&mut rest)
                .split_at_mut_checked(wanted.len())
                .ok_or_else(|| mismatch(run))?;
            piece.copy_from_slice(wanted);
            rest = tail;
        }
        // Bytes that no block has filled would be somebody else's.
        if rest.is_empty() {
            Ok(())
        } else {
            Err(mismatch(run))
        }
    }
}

impl<S: ReadAt> ReadAt for ZFile<S> {
    fn len_bytes(&self) -> u64 {
        self.info.original_len_bytes
    }

    /// With buffers of its own; [`ZFile::read_exact_at_with`] reuses those of the caller.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.read_exact_at_with(&mut Scratch::default(), buf, offset)
    }
}

/// The length of a range that is about to become, or already is, a buffer.
pub(crate) fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}
