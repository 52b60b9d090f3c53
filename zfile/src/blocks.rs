//! From stored blocks to content, one after another. No I/O.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::Range;

use blob::{ReadError, ReadErrorKind};

use crate::checksum::{BLOCK_SEED, raw_crc32c};
use crate::codec::Decoder;
use crate::error::{BlockError, BlockFault};
use crate::jump_table::JumpTable;
use crate::open::Info;
use crate::reader::{BlockRun, length};

/// The blocks of a [`BlockRun`], which are checked and decoded as they are asked for; made by
/// [`ZFile::blocks`](crate::ZFile::blocks).
#[derive(Debug)]
pub struct Blocks<'a> {
    info: &'a Info,
    table: &'a JumpTable,
    run: &'a BlockRun,
    decoder: &'a mut Decoder,
    only_wanted: bool,
    /// Of the blocks that are left.
    numbers: Range<u64>,
    stored: &'a [u8],
}

/// A block that was decoded; it is there until the next one is.
#[derive(Debug)]
pub struct Block<'a> {
    number: u64,
    len: usize,
    content: &'a [u8],
    wanted: &'a [u8],
}

impl<'a> Block<'a> {
    /// Its number, counted from 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its length in bytes, decoded.
    #[must_use]
    pub fn block_len(&self) -> usize {
        self.len
    }

    /// All of it; after [`Blocks::only_wanted`], at least its beginning, up to the end of what is wanted.
    #[must_use]
    pub fn content(&self) -> &'a [u8] {
        self.content
    }

    /// What the run asks of it.
    #[must_use]
    pub fn wanted(&self) -> &'a [u8] {
        self.wanted
    }
}

impl<'a> Blocks<'a> {
    /// `stored` are the bytes of the run, which was made with this table.
    pub(crate) fn new(
        info: &'a Info,
        table: &'a JumpTable,
        run: &'a BlockRun,
        stored: &'a [u8],
        decoder: &'a mut Decoder,
    ) -> Result<Self, ReadError> {
        if stored.len() != length(&run.stored()) {
            return Err(mismatch(run));
        }
        Ok(Self {
            info,
            table,
            run,
            decoder,
            only_wanted: false,
            numbers: run.blocks(),
            stored,
        })
    }

    /// Of the last block, nothing is decoded behind what the run asks of it, if that can be done and the block has a
    /// checksum: without one, only decoding a block tells whether it is good.
    #[must_use]
    pub fn only_wanted(mut self) -> Self {
        self.only_wanted = self.info.verify;
        self
    }

    /// The next block, which is the next in the content too. `None` when there are no more.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::Corrupt`] at the content offset of a block that fails a check, with a [`BlockError`] as its
    /// source. [`ReadErrorKind::OutOfRange`] when the stored bytes are not those of the run.
    #[expect(
        clippy::should_implement_trait,
        reason = "a block borrows from this, which no `Iterator` can say"
    )]
    pub fn next(&mut self) -> Result<Option<Block<'_>>, ReadError> {
        let Some(number) = self.numbers.next() else {
            return Ok(None);
        };
        let out_of_range = || mismatch(self.run);
        let stored = self.take_stored(number).ok_or_else(out_of_range)?;
        let whole = self.content_range(number).ok_or_else(out_of_range)?;
        let asked = self.run.content();
        let wanted = asked.start.max(whole.start)..asked.end.min(whole.end);
        let skip = length(&(whole.start..wanted.start));
        let len = length(&whole);
        let enough = if self.only_wanted {
            length(&(whole.start..wanted.end))
        } else {
            len
        };
        let content = payload(self.info, stored)
            .and_then(|payload| {
                let algorithm = self.info.algorithm;
                self.decoder.decode(algorithm, payload, len, enough)
            })
            .map_err(|fault| {
                let error = BlockError {
                    block: number,
                    stored_offset: self.table.start(number).unwrap_or_default(),
                    fault,
                };
                ReadError::new(ReadErrorKind::Corrupt, whole.start).with_source(error)
            })?;
        let wanted = content
            .get(skip..)
            .and_then(|from| from.get(..length(&wanted)))
            .ok_or_else(|| mismatch(self.run))?;
        Ok(Some(Block {
            number,
            len,
            content,
            wanted,
        }))
    }

    /// The stored bytes of block `number`. The last one has all that is left.
    fn take_stored(&mut self, number: u64) -> Option<&'a [u8]> {
        if self.numbers.is_empty() {
            return Some(std::mem::take(&mut self.stored));
        }
        let range = self.table.stored_range(&(number..number.checked_add(1)?))?;
        let (block, rest) = self.stored.split_at_checked(length(&range))?;
        self.stored = rest;
        Some(block)
    }

    fn content_range(&self, number: u64) -> Option<Range<u64>> {
        let block_size = u64::from(self.info.block_size_bytes);
        let start = number.checked_mul(block_size)?;
        let end = start
            .checked_add(block_size)?
            .min(self.info.original_len_bytes);
        Some(start..end)
    }
}

/// The compressed bytes of a stored block, after a look at their checksum.
fn payload<'a>(info: &Info, stored: &'a [u8]) -> Result<&'a [u8], BlockFault> {
    // A block that is shorter than a checksum does not get past the check of the jump table.
    let Some((payload, checksum)) = stored.split_last_chunk().filter(|_| info.verify) else {
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

/// What was given for `run` does not belong to it.
pub(crate) fn mismatch(run: &BlockRun) -> ReadError {
    ReadError::new(ReadErrorKind::OutOfRange, run.content().start)
        .with_source("the buffers do not belong to this run of blocks")
}
