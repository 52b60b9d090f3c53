//! The usual way: take the longest of a few matches, unless there is a longer one a byte later.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "positions are made here, in content of ours; a mistake must show and not be written"
)]

use super::finder::{Finder, Match};
use super::sequences::Sequences;
use super::{MATCH_MIN_BYTES, starts};

/// After 2^6 positions without a match, every second one is looked at, after as many of these every third.
const PATIENCE_BITS: u32 = 6;
/// A match of so many bytes is long enough.
const ENOUGH_BYTES: u16 = 64;

pub(crate) struct Encoder {
    finder: Finder,
    /// Earlier positions that are compared with each.
    depth: u32,
}

impl Encoder {
    pub(super) fn new(depth: u32) -> Self {
        Self {
            finder: Finder::new(),
            depth,
        }
    }

    pub(super) fn encode(&mut self, content: &[u8], payload: &mut [u8]) -> usize {
        self.finder.clear();
        let mut sequences = Sequences::new(content, payload);
        let starts = starts(content.len());
        let (mut at, mut misses) = (0, 1_usize << PATIENCE_BITS);
        while at < starts {
            let found = self.look(content, at, Match::default());
            if found.len == 0 {
                at += misses >> PATIENCE_BITS;
                misses += 1;
                continue;
            }
            misses = 1 << PATIENCE_BITS;
            at = self.copy(content, at, found, &mut sequences);
        }
        sequences.finish()
    }

    fn look(&mut self, content: &[u8], at: usize, known: Match) -> Match {
        self.finder.enter(content, at);
        self.finder
            .longest(content, at, known, self.depth, ENOUGH_BYTES)
    }

    /// Writes the match of `at`, or a better one that starts later, and returns where it ends.
    fn copy(
        &mut self,
        content: &[u8],
        mut at: usize,
        mut found: Match,
        sequences: &mut Sequences<'_>,
    ) -> usize {
        let starts = starts(content.len());
        let mut next = at + 1;
        while next < starts && found.len < ENOUGH_BYTES {
            // It has to be longer, for it costs a literal.
            let better = self.look(content, next, found);
            next += 1;
            if better.len == found.len {
                break;
            }
            (at, found) = (next - 1, better);
        }
        let (mut from, mut start) = (at - usize::from(found.offset), at);
        while start > sequences.done() && from > 0 && content[start - 1] == content[from - 1] {
            (start, from) = (start - 1, from - 1);
        }
        let stop = at + usize::from(found.len);
        sequences.copy(start, Match::new(stop - start, start - from));
        // The bytes inside the match are found where they stood before. New are those that go beyond its end.
        let new = stop.saturating_sub(MATCH_MIN_BYTES - 1).max(next);
        for inside in new..stop.min(starts) {
            self.finder.enter(content, inside);
        }
        stop
    }
}
