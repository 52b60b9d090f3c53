//! Content in, a ZFile out, on several threads.
//!
//! ```text
//! content ──▶ batches of blocks ──▶ threads: encode ──▶ batches in order ──▶ zfile::Assembler ──▶ output
//! ```
//!
//! Blocks are stored the same way whoever encodes them, and are put together in order, so the file does not depend on
//! the number of threads.

use std::io::Write;

use zfile::{Assembler, BlockEncoder, OverwriteHead, WriteError, WriterOptions};

use super::PackError;
use crate::lanes::{Lanes, Worker};

/// Content that a thread is given at a time: little enough that all threads have work soon, enough that handing it over
/// costs nothing beside the work. A multiple of every block size. A thread has at most two batches, each with content
/// and stored bytes: about 1 MiB.
const BATCH_LEN_BYTES: usize = 256 << 10;

pub(super) struct Compressor<W> {
    assembler: Assembler<W>,
    lanes: Lanes<Encoding>,
    block_size: usize,
    /// What is being filled.
    batch: Batch,
    /// Batches whose buffers can be used again.
    spare: Vec<Batch>,
    broken: bool,
}

/// Some blocks that follow each other.
#[derive(Default)]
struct Batch {
    first_block: u64,
    content: Vec<u8>,
    stored: Vec<u8>,
    /// Stored length of each block, in bytes.
    stored_lens: Vec<usize>,
}

/// One thread's encoder.
struct Encoding {
    options: WriterOptions,
    encoder: Option<BlockEncoder>,
}

impl Clone for Encoding {
    fn clone(&self) -> Self {
        Self {
            options: self.options.clone(),
            encoder: None,
        }
    }
}

impl Worker for Encoding {
    type Job = Batch;
    type Done = Result<Batch, WriteError>;

    fn work(&mut self, mut batch: Batch) -> Result<Batch, WriteError> {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            empty @ None => empty.insert(BlockEncoder::new(&self.options)?),
        };
        let Batch {
            first_block,
            content,
            stored,
            stored_lens,
        } = &mut batch;
        for (number, block) in (*first_block..).zip(content.chunks(block_size(&self.options))) {
            stored_lens.push(encoder.encode(number, block, stored)?);
        }
        Ok(batch)
    }
}

impl<W: Write> Compressor<W> {
    pub(super) fn new(out: W, options: &WriterOptions, threads: usize) -> Result<Self, PackError> {
        let encoding = Encoding {
            options: options.clone(),
            // Before anything is written, options are known to be good.
            encoder: Some(BlockEncoder::new(options)?),
        };
        Ok(Self {
            assembler: Assembler::new(out, options)?,
            lanes: Lanes::new(encoding, threads),
            block_size: block_size(options),
            batch: Batch::default(),
            spare: Vec::new(),
            broken: false,
        })
    }

    /// Takes in the next bytes of the content. After an error, nothing more is taken.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.check()?;
        let result = self.append_batches(bytes);
        self.broken = result.is_err();
        result
    }

    pub(super) fn finish(mut self) -> Result<(W, u64), PackError> {
        self.end()?;
        let block_count = self.assembler.block_count();
        Ok((self.assembler.finish()?, block_count))
    }

    pub(super) fn finish_overwriting(mut self) -> Result<(W, u64), PackError>
    where
        W: OverwriteHead,
    {
        self.end()?;
        let block_count = self.assembler.block_count();
        Ok((self.assembler.finish_overwriting()?, block_count))
    }

    fn check(&self) -> Result<(), PackError> {
        match self.broken {
            true => Err(WriteError::Broken.into()),
            false => Ok(()),
        }
    }

    fn append_batches(&mut self, mut bytes: &[u8]) -> Result<(), PackError> {
        while !bytes.is_empty() {
            let room = BATCH_LEN_BYTES - self.batch.content.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.batch.content.extend_from_slice(now);
            if self.batch.content.len() == BATCH_LEN_BYTES {
                self.hand_out()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn hand_out(&mut self) -> Result<(), PackError> {
        if self.lanes.is_full() {
            self.put_together()?;
        }
        let mut next = self.spare.pop().unwrap_or_default();
        next.content.clear();
        next.stored.clear();
        next.stored_lens.clear();
        let blocks = self.batch.content.len().div_ceil(self.block_size);
        next.first_block = self.batch.first_block + blocks as u64;
        let batch = std::mem::replace(&mut self.batch, next);
        Ok(self.lanes.begin(batch)?)
    }

    /// Writes the oldest batch that is under way; returns whether there was one.
    fn put_together(&mut self) -> Result<bool, PackError> {
        let Some(batch) = self.lanes.take()? else {
            return Ok(false);
        };
        let batch = batch?;
        let mut stored = batch.stored.as_slice();
        for (block, len) in batch
            .content
            .chunks(self.block_size)
            .zip(&batch.stored_lens)
        {
            let (now, later) = stored.split_at(*len);
            self.assembler.append(block.len(), now)?;
            stored = later;
        }
        self.spare.push(batch);
        Ok(true)
    }

    fn end(&mut self) -> Result<(), PackError> {
        self.check()?;
        if !self.batch.content.is_empty() {
            self.hand_out()?;
        }
        while self.put_together()? {}
        Ok(())
    }
}

fn block_size(options: &WriterOptions) -> usize {
    // Infallible: at most 64 KiB.
    usize::try_from(options.block_size_bytes)
        .unwrap_or(1)
        .max(1)
}
