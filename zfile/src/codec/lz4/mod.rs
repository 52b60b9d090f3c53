//! Bare LZ4 blocks.
//!
//! A block is a row of *sequences*: some literals, then a copy of bytes that came before, a *match*. Both directions are
//! ours: what decodes 4 KiB at a time knows how little that is, and what encodes has time to search well, for something
//! is written once and read for years. What our decoder does not take, `lz4_flex` judges.

mod decoder;
mod fast;
mod finder;
mod lazy;
mod parser;
mod sequences;

use lz4_flex::block::decompress_into;

use self::decoder::Room;
use crate::codec::Algorithm;
use crate::error::{BlockFault, WriteError};

/// Fastest level: one look for each match, and longer and longer steps where there are none.
const LEVEL_MIN: i32 = 1;
/// Level that looks longest for matches.
const LEVEL_MAX: i32 = 12;
/// About as fast as a good disk on each processor, and always smaller than what the tools that made the format write,
/// which is like level 1.
const LEVEL_DEFAULT: i32 = 3;

/// Shortest match that can be expressed.
const MATCH_MIN_BYTES: usize = 4;
/// The last bytes of a block are always literals: decoders copy in steps of 8 bytes.
const LAST_LITERALS: usize = 5;
/// No match starts in the last bytes of a block, and so none is in a shorter one.
const LAST_START_BYTES: usize = 12;

/// How much longer than its content an LZ4 block can be.
pub(crate) fn growth_max_bytes(content_bytes: u32) -> u32 {
    (content_bytes / 255).saturating_add(16)
}

/// Decodes block after block, independently of each other.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Made for the first block.
    room: Option<Room>,
}

impl Decoder {
    /// Decodes `payload` to at most `limit` bytes, at most a block; if less is `enough`, perhaps no further than to there.
    pub(crate) fn decode(
        &mut self,
        payload: &[u8],
        limit: usize,
        enough: usize,
    ) -> Result<&[u8], BlockFault> {
        let room = self.room.get_or_insert_with(Room::new);
        let len = match room.decode(payload, limit, enough) {
            Some(len) => len,
            None => {
                let content = room.content_mut(limit);
                decompress_into(payload, content).map_err(BlockFault::Lz4)?
            }
        };
        Ok(room.content(len))
    }
}

/// How much room the compressor wants for this much content: as much as it can need at worst.
pub(crate) fn room_bytes(content_bytes: usize) -> usize {
    content_bytes
        .saturating_add(content_bytes / 255)
        .saturating_add(16)
}

/// Compresses block after block, independently of each other.
pub(crate) enum Encoder {
    Fast(fast::Encoder),
    Lazy(lazy::Encoder),
    Parser(parser::Parser),
}

impl Encoder {
    /// An encoder of this level.
    pub(crate) fn new(level: Option<i32>) -> Result<Self, WriteError> {
        let level = level.unwrap_or(LEVEL_DEFAULT);
        let lazy = |depth| Ok(Self::Lazy(lazy::Encoder::new(depth)));
        let parser = |depth, enough| Ok(Self::Parser(parser::Parser::new(depth, enough)));
        match level {
            LEVEL_MIN => Ok(Self::Fast(fast::Encoder::new())),
            2 => lazy(2),
            3 => lazy(4),
            4 => lazy(8),
            5 => lazy(16),
            6 => lazy(32),
            7 => parser(32, 64),
            8 => parser(64, 96),
            9 => parser(128, 128),
            10 => parser(256, 256),
            11 => parser(512, 512),
            LEVEL_MAX => parser(2048, 1024),
            found => Err(WriteError::Level {
                algorithm: Algorithm::Lz4,
                found,
                min: LEVEL_MIN,
                max: LEVEL_MAX,
            }),
        }
    }

    /// Compresses `content`, at most 64 KiB, to the start of `payload`, which has [`room_bytes`] for it, and returns
    /// the length.
    pub(crate) fn encode(&mut self, content: &[u8], payload: &mut [u8]) -> usize {
        match self {
            Self::Fast(encoder) => encoder.encode(content, payload),
            Self::Lazy(encoder) => encoder.encode(content, payload),
            Self::Parser(parser) => parser.encode(content, payload),
        }
    }
}

/// Positions at which a match may start in content of this length.
fn starts(content_bytes: usize) -> usize {
    content_bytes
        .checked_sub(LAST_START_BYTES)
        .map_or(0, |last| last.saturating_add(1))
}

#[cfg(test)]
mod tests;
