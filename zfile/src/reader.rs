//! Reading: from a range of the content to stored bytes, and from stored bytes to content.
//!
//! [`ZFile::plan`] and [`ZFile::decode`] do no I/O, so that an engine can put its own between them.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::Range;

use blob::{ReadAt, ReadError, ReadErrorKind, range_is_inside};

use crate::checksum::{BLOCK_SEED, raw_crc32c};
use crate::codec::Decoder;
use crate::error::{BlockError, BlockFault, OpenError};
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
    stored: Vec<u8>,
    workspace: Workspace,
}

#[derive(Debug, Default)]
struct Workspace {
    /// A block of which only a part is wanted.
    block: Vec<u8>,
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

/// One block: where its content belongs and how long it is when stored.
struct Block {
    number: u64,
    stored_offset: u64,
    stored_bytes: usize,
    content_start: u64,
    content_bytes: usize,
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

    /// Checks and decodes the blocks of `run` and fills `out` with the content asked for. No I/O.
    ///
    /// `stored` are the bytes [`BlockRun::stored`] of the source, `out` is as long as [`BlockRun::content`].
    /// Blocks of which everything is wanted are decoded straight into `out`.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::Corrupt`] at the content offset of the first block that fails a check, with a
    /// [`BlockError`] as its source. [`ReadErrorKind::OutOfRange`] when `run`, `stored` and `out` do not belong
    /// together. After an error the content of `out` is unspecified.
    pub fn decode(
        &self,
        run: &BlockRun,
        stored: &[u8],
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        self.decode_run(run, stored, &mut scratch.workspace, out)
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
        let Scratch { stored, workspace } = scratch;
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
            let fetched = grown(stored, length(&run.stored));
            self.source.read_exact_at(fetched, run.stored.start)?;
            self.decode_run(&run, fetched, workspace, piece)?;
            offset = run.content.end;
            rest = tail;
        }
        Ok(())
    }

    fn decode_run(
        &self,
        run: &BlockRun,
        stored: &[u8],
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        let mismatch = || {
            ReadError::new(ReadErrorKind::OutOfRange, run.content.start)
                .with_source("the buffers do not belong to this run of blocks")
        };
        if stored.len() != length(&run.stored) || out.len() != length(&run.content) {
            return Err(mismatch());
        }
        let (mut stored, mut out, mut position) = (stored, out, run.content.start);
        for number in run.blocks.clone() {
            let block = self.block(number).ok_or_else(mismatch)?;
            let skip = length(&(block.content_start..position));
            let wanted = block.content_bytes.saturating_sub(skip).min(out.len());
            let (bytes, stored_tail) = stored
                .split_at_checked(block.stored_bytes)
                .ok_or_else(mismatch)?;
            let (piece, out_tail) = std::mem::take(&mut out)
                .split_at_mut_checked(wanted)
                .ok_or_else(mismatch)?;
            if wanted == block.content_bytes {
                self.decode_block(&block, bytes, &mut workspace.decoder, piece)?;
            } else {
                let whole = grown(&mut workspace.block, block.content_bytes);
                self.decode_block(&block, bytes, &mut workspace.decoder, whole)?;
                let slice = whole
                    .get(skip..)
                    .and_then(|from| from.get(..wanted))
                    .ok_or_else(mismatch)?;
                piece.copy_from_slice(slice);
            }
            (stored, out) = (stored_tail, out_tail);
            position = position.saturating_add(u64::try_from(wanted).unwrap_or(u64::MAX));
        }
        // Bytes that no block has filled would be somebody else's.
        if out.is_empty() {
            Ok(())
        } else {
            Err(mismatch())
        }
    }

    fn decode_block(
        &self,
        block: &Block,
        stored: &[u8],
        decoder: &mut Decoder,
        content: &mut [u8],
    ) -> Result<(), ReadError> {
        self.payload(stored)
            .and_then(|payload| decoder.decode(self.info.algorithm, payload, content))
            .map_err(|fault| {
                ReadError::new(ReadErrorKind::Corrupt, block.content_start).with_source(
                    BlockError {
                        block: block.number,
                        stored_offset: block.stored_offset,
                        fault,
                    },
                )
            })
    }

    /// The compressed bytes of a stored block, after a look at their checksum.
    fn payload<'a>(&self, stored: &'a [u8]) -> Result<&'a [u8], BlockFault> {
        // A block that is shorter than a checksum does not get past the check of the jump table.
        let Some((payload, checksum)) = stored.split_last_chunk().filter(|_| self.info.verify)
        else {
            return Ok(stored);
        };
        let found = u32::from_le_bytes(*checksum);
        let expected = raw_crc32c(BLOCK_SEED, payload);
        if found == expected {
            Ok(payload)
        } else {
            Err(BlockFault::Checksum { found, expected })
        }
    }

    fn block(&self, number: u64) -> Option<Block> {
        let stored = self.table.stored_range(&(number..number.checked_add(1)?))?;
        let block_size = u64::from(self.info.block_size_bytes);
        let content_start = number.checked_mul(block_size)?;
        let content_end = content_start.checked_add(block_size)?.min(self.len_bytes());
        Some(Block {
            number,
            stored_offset: stored.start,
            stored_bytes: length(&stored),
            content_start,
            content_bytes: length(&(content_start..content_end)),
        })
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
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

/// The first `len_bytes` bytes of `buffer`, which grows when it is shorter and never shrinks.
fn grown(buffer: &mut Vec<u8>, len_bytes: usize) -> &mut [u8] {
    if buffer.len() < len_bytes {
        buffer.resize(len_bytes, 0);
    }
    buffer.get_mut(..len_bytes).unwrap_or_default()
}
