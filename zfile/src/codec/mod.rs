//! The compression algorithms. The set is closed by the format, so this is an enum and not a trait.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub(crate) mod lz4;
pub(crate) mod zstd;

use std::fmt;

use crate::error::{BlockFault, WriteError};
use crate::format::{ALGORITHM_LZ4, ALGORITHM_ZSTD};

/// How the blocks of a ZFile are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Bare LZ4 blocks, without frame or length prefix.
    Lz4,
    /// One standard zstd frame per block.
    Zstd,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lz4 => "LZ4",
            Self::Zstd => "zstd",
        })
    }
}

impl Algorithm {
    /// The algorithm with this number in the `algo` field, if there is one.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            ALGORITHM_LZ4 => Some(Self::Lz4),
            ALGORITHM_ZSTD => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its number in the `algo` field.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Lz4 => ALGORITHM_LZ4,
            Self::Zstd => ALGORITHM_ZSTD,
        }
    }

    /// The longest payload that a block of `block_size_bytes` can take: what data without any pattern grows to.
    pub(crate) fn payload_max_bytes(self, block_size_bytes: u32) -> u32 {
        let growth = match self {
            Self::Lz4 => lz4::growth_max_bytes(block_size_bytes),
            Self::Zstd => zstd::growth_max_bytes(block_size_bytes),
        };
        block_size_bytes.saturating_add(growth)
    }
}

/// Decodes blocks of either algorithm; keeps what is worth keeping from one block to the next.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    lz4: lz4::Decoder,
    zstd: zstd::Decoder,
}

impl Decoder {
    /// What `payload` decodes to, which has to be `content_bytes` long: too much is a fault, and so is too little. If the
    /// first bytes of it are `enough`, what follows these may be neither there nor looked at.
    pub(crate) fn decode(
        &mut self,
        algorithm: Algorithm,
        payload: &[u8],
        content_bytes: usize,
        enough: usize,
    ) -> Result<&[u8], BlockFault> {
        let content = match algorithm {
            Algorithm::Lz4 => self.lz4.decode(payload, content_bytes, enough)?,
            Algorithm::Zstd => self.zstd.decode(payload, content_bytes)?,
        };
        // Never more than `content_bytes`.
        if content.len() >= enough.min(content_bytes) {
            Ok(content)
        } else {
            Err(BlockFault::Length {
                found_bytes: content.len(),
                expected_bytes: content_bytes,
            })
        }
    }
}

/// Encodes blocks of one algorithm.
pub(crate) enum Encoder {
    Lz4(lz4::Encoder),
    Zstd(zstd::Encoder),
}

impl Encoder {
    /// An encoder of this level, or of the algorithm's usual one.
    pub(crate) fn new(algorithm: Algorithm, level: Option<i32>) -> Result<Self, WriteError> {
        match algorithm {
            Algorithm::Lz4 => Ok(Self::Lz4(lz4::Encoder::new(level)?)),
            Algorithm::Zstd => Ok(Self::Zstd(zstd::Encoder::new(level)?)),
        }
    }

    /// How much room [`encode`](Self::encode) must be given for this much content, whatever the algorithm.
    pub(crate) fn room_bytes(content_bytes: usize) -> usize {
        lz4::room_bytes(content_bytes).max(zstd::room_bytes(content_bytes))
    }

    /// Compresses `content` to the start of `payload` and returns the length, or the reason why not.
    pub(crate) fn encode(&mut self, content: &[u8], payload: &mut [u8]) -> Result<usize, String> {
        match self {
            Self::Lz4(encoder) => Ok(encoder.encode(content, payload)),
            Self::Zstd(encoder) => encoder.encode(content, payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_bounds_are_those_of_the_algorithms() {
        for (algorithm, block_size, bound) in [
            (Algorithm::Lz4, 4096, 4096 + 16 + 16),
            (Algorithm::Lz4, 65_536, 65_536 + 257 + 16),
            (Algorithm::Zstd, 4096, 4096 + 16 + 62),
            (Algorithm::Zstd, 65_536, 65_536 + 256 + 32),
        ] {
            assert_eq!(algorithm.payload_max_bytes(block_size), bound);
        }
    }
}
