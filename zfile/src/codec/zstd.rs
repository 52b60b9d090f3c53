//! One standard zstd frame per block.

use std::fmt;

use zstd_safe::{CCtx, DCtx};

use crate::codec::Algorithm;
use crate::error::{BlockFault, WriteError};

/// What a standard frame starts with. Skippable frames start otherwise, and decoders pass over them.
const FRAME_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// The level of the tools that made the format.
const LEVEL_DEFAULT: i32 = 3;
/// Below this length of content, the bound on a frame's length has a second term.
const SMALL_CONTENT_BYTES: u32 = 128 << 10;

/// How much longer than its content a zstd frame can be.
pub(crate) fn growth_max_bytes(content_bytes: u32) -> u32 {
    let small = SMALL_CONTENT_BYTES.saturating_sub(content_bytes) >> 11;
    (content_bytes >> 8).saturating_add(small)
}

/// Decodes frames; its state is made when the first one arrives.
#[derive(Default)]
pub(crate) struct Decoder {
    context: Option<DCtx<'static>>,
    /// Of the last frame.
    content: Vec<u8>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("warm", &self.context.is_some())
            .finish()
    }
}

impl Decoder {
    /// Decodes `payload`, which must be exactly one frame, to at most `limit` bytes, at most a block.
    ///
    /// Decoding in one shot into a fixed buffer allocates no window, whatever the frame asks for.
    pub(crate) fn decode(&mut self, payload: &[u8], limit: usize) -> Result<&[u8], BlockFault> {
        if !payload.starts_with(&FRAME_MAGIC) {
            return Err(BlockFault::ZstdMagic);
        }
        let frame_bytes = zstd_safe::find_frame_compressed_size(payload).map_err(fault)?;
        if frame_bytes != payload.len() {
            return Err(BlockFault::ZstdTrailing {
                frame_bytes,
                payload_bytes: payload.len(),
            });
        }
        let context = match &mut self.context {
            Some(context) => context,
            empty @ None => empty.insert(DCtx::try_create().ok_or(BlockFault::OutOfMemory)?),
        };
        if self.content.len() < limit {
            self.content.resize(limit, 0);
        }
        let content = self.content.get_mut(..limit).unwrap_or_default();
        let len = context.decompress(content, payload).map_err(fault)?;
        Ok(content.get(..len).unwrap_or_default())
    }
}

fn fault(code: zstd_safe::ErrorCode) -> BlockFault {
    BlockFault::Zstd {
        reason: zstd_safe::get_error_name(code),
    }
}

/// How much room the compressor wants for this much content.
pub(crate) fn room_bytes(content_bytes: usize) -> usize {
    zstd_safe::compress_bound(content_bytes)
}

/// Compresses block after block, independently of each other.
pub(crate) struct Encoder {
    context: CCtx<'static>,
    level: i32,
}

impl Encoder {
    /// An encoder of this level.
    pub(crate) fn new(level: Option<i32>) -> Result<Self, WriteError> {
        let level = level.unwrap_or(LEVEL_DEFAULT);
        let (min, max) = (zstd_safe::min_c_level(), zstd_safe::max_c_level());
        if !(min..=max).contains(&level) {
            return Err(WriteError::Level {
                algorithm: Algorithm::Zstd,
                found: level,
                min,
                max,
            });
        }
        let context = CCtx::try_create().ok_or(WriteError::OutOfMemory)?;
        Ok(Self { context, level })
    }

    /// Compresses `content` to the start of `payload` and returns the length, or the reason why not.
    pub(crate) fn encode(&mut self, content: &[u8], payload: &mut [u8]) -> Result<usize, String> {
        self.context
            .compress(payload, content, self.level)
            .map_err(|code| zstd_safe::get_error_name(code).to_owned())
    }
}
