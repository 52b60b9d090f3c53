//! Bare LZ4 blocks.

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

use crate::error::BlockFault;

/// How much longer than its content an LZ4 block can be.
pub(crate) fn growth_max_bytes(content_bytes: u32) -> u32 {
    (content_bytes / 255).saturating_add(16)
}

/// Decodes `payload` to the start of `content` and returns the number of bytes decoded.
pub(crate) fn decode(payload: &[u8], content: &mut [u8]) -> Result<usize, BlockFault> {
    decompress_into(payload, content).map_err(BlockFault::Lz4)
}

/// How much room the compressor wants for this much content: more than it can need.
pub(crate) fn room_bytes(content_bytes: usize) -> usize {
    get_maximum_output_size(content_bytes)
}

/// Compresses block after block, independently of each other.
pub(crate) struct Encoder {
    table: CompressTable,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            table: CompressTable::large(),
        }
    }

    /// Compresses `content` to the start of `payload` and returns the length.
    pub(crate) fn encode(&mut self, content: &[u8], payload: &mut [u8]) -> Result<usize, String> {
        compress_into_with_table(content, payload, &mut self.table).map_err(|e| e.to_string())
    }
}
