//! The content of one block in, its stored bytes out.

use std::fmt;

use crate::checksum::{BLOCK_SEED, raw_crc32c};
use crate::codec::Encoder;
use crate::error::WriteError;
use crate::format::PORTABLE_PAYLOAD_MAX_BYTES;
use crate::writer::WriterOptions;

/// Makes the stored bytes of blocks, checksums included, without any I/O.
///
/// A block is stored the same way whatever this encoder has encoded before, so the blocks of a file can be shared out
/// among any number of encoders, one for each thread, and put together by an [`Assembler`](crate::Assembler).
pub struct BlockEncoder {
    options: WriterOptions,
    encoder: Encoder,
    /// Room for a compressed block.
    payload: Vec<u8>,
}

impl fmt::Debug for BlockEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockEncoder")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl BlockEncoder {
    /// An encoder for the blocks of a file with these options. Takes up to 1 MiB of memory for LZ4; for zstd what its
    /// level asks for.
    ///
    /// # Errors
    ///
    /// When `options` ask for what the format does not have.
    pub fn new(options: &WriterOptions) -> Result<Self, WriteError> {
        options.check()?;
        let encoder = Encoder::new(options.algorithm, options.level)?;
        let room_bytes = Encoder::room_bytes(options.block_size());
        Ok(Self {
            options: options.clone(),
            encoder,
            payload: vec![0; room_bytes],
        })
    }

    /// Appends the stored bytes of a block to `stored` and returns how many they are.
    ///
    /// `block` is its number, for messages; `content` is as long as the block size says, or shorter in the last block.
    ///
    /// # Errors
    ///
    /// When the content is empty or longer than a block, or its stored bytes are longer than allowed. Nothing is
    /// appended then.
    pub fn encode(
        &mut self,
        block: u64,
        content: &[u8],
        stored: &mut Vec<u8>,
    ) -> Result<usize, WriteError> {
        if content.is_empty() || content.len() > self.options.block_size() {
            return Err(WriteError::Misplaced {
                block,
                content_bytes: content.len(),
                block_size_bytes: self.options.block_size_bytes,
            });
        }
        let payload_bytes = self
            .encoder
            .encode(content, &mut self.payload)
            .map_err(|reason| WriteError::Compress { block, reason })?;
        if payload_bytes > PORTABLE_PAYLOAD_MAX_BYTES && !self.options.allow_oversized_blocks {
            return Err(WriteError::Oversized {
                block,
                payload_bytes,
                max: PORTABLE_PAYLOAD_MAX_BYTES,
            });
        }
        let payload = &self.payload[..payload_bytes];
        let checksum = raw_crc32c(BLOCK_SEED, payload).to_le_bytes();
        let checksum: &[u8] = if self.options.verify { &checksum } else { &[] };
        stored.extend_from_slice(payload);
        stored.extend_from_slice(checksum);
        Ok(payload_bytes + checksum.len())
    }
}
