//! Sequences as bytes.
//!
//! ```text
//! | token: literals, match | more literals 255 255 … n | literals | offset u16 | more match 255 255 … n |
//! ```
//!
//! Each half of the token counts to 15; where it says 15, bytes follow that are added, until one is not 255. The match
//! half counts from 4. The last sequence ends behind its literals.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "positions are made by the matcher, in content of ours; a mistake must show and not be written"
)]

use super::MATCH_MIN_BYTES;
use super::finder::Match;

/// What half a token counts to.
const TOKEN_MAX: usize = 15;
/// What a byte behind it counts to.
const MORE_MAX: usize = 255;
/// Literals that are copied as one piece of fixed length where there is room, which is most of them.
const SHORT_LITERALS: usize = 16;

/// Writes the sequences of one block to the start of a buffer.
pub(super) struct Sequences<'a> {
    content: &'a [u8],
    out: &'a mut [u8],
    /// Bytes of `out` that are written.
    len: usize,
    /// Bytes of `content` that are expressed.
    done: usize,
}

impl<'a> Sequences<'a> {
    /// No sequences yet of `content`, for which `out` has room.
    pub(super) fn new(content: &'a [u8], out: &'a mut [u8]) -> Self {
        Self {
            content,
            out,
            len: 0,
            done: 0,
        }
    }

    /// Bytes of the content that are expressed.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Everything up to `start` as literals, then the match that was found there.
    pub(super) fn copy(&mut self, start: usize, found: Match) {
        let len = usize::from(found.len);
        let literals = start - self.done;
        let beyond = len - MATCH_MIN_BYTES;
        self.begin(literals, beyond);
        self.out[self.len..self.len + 2].copy_from_slice(&found.offset.to_le_bytes());
        self.len += 2;
        self.more(beyond);
        self.done = start + len;
    }

    /// The rest as literals; returns the length of the block.
    pub(super) fn finish(mut self) -> usize {
        self.begin(self.content.len() - self.done, 0);
        self.len
    }

    /// The token and the literals.
    fn begin(&mut self, literals: usize, beyond: usize) {
        let token = (literals.min(TOKEN_MAX) << 4) | beyond.min(TOKEN_MAX);
        self.put(token);
        self.more(literals);
        let (from, to) = (self.done, self.len);
        let fixed = self
            .content
            .get(from..from + SHORT_LITERALS)
            .zip(self.out.get_mut(to..to + SHORT_LITERALS));
        match fixed {
            // What is copied beyond the literals is overwritten by what comes next.
            Some((content, out)) if literals <= SHORT_LITERALS => out.copy_from_slice(content),
            _ => self.out[to..to + literals].copy_from_slice(&self.content[from..from + literals]),
        }
        self.len += literals;
    }

    fn more(&mut self, len: usize) {
        let Some(mut more) = len.checked_sub(TOKEN_MAX) else {
            return;
        };
        while more >= MORE_MAX {
            self.put(MORE_MAX);
            more -= MORE_MAX;
        }
        self.put(more);
    }

    fn put(&mut self, byte: usize) {
        // Infallible: callers count to 255.
        self.out[self.len] = u8::try_from(byte).unwrap_or_default();
        self.len += 1;
    }
}
