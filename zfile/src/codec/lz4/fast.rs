//! The fast way: take the first match that comes, and look less often where there have been none for a while.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "positions are made here, in content of ours; a mistake must show and not be written"
)]

use super::finder::{Heads, Match, common, word};
use super::sequences::Sequences;
use super::{LAST_LITERALS, MATCH_MIN_BYTES, starts};

/// After 2^6 positions without a match, every second one is looked at, after as many of these every third.
const PATIENCE_BITS: u32 = 6;

pub(crate) struct Encoder {
    heads: Heads,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            heads: Heads::new(),
        }
    }

    pub(super) fn encode(&mut self, content: &[u8], payload: &mut [u8]) -> usize {
        self.heads.clear();
        let mut sequences = Sequences::new(content, payload);
        let starts = starts(content.len());
        let (mut at, mut misses) = (0, 1_usize << PATIENCE_BITS);
        while at < starts {
            let link = self.heads.replace(content, at);
            match usize::from(link).checked_sub(1) {
                Some(from) if word(content, from) == word(content, at) => {
                    at = copy(&mut sequences, content, from, at);
                    misses = 1 << PATIENCE_BITS;
                    // A position inside the match that costs little and is often found again.
                    if at < starts {
                        self.heads.replace(content, at - 2);
                    }
                }
                _ => {
                    at += misses >> PATIENCE_BITS;
                    misses += 1;
                }
            }
        }
        sequences.finish()
    }
}

/// Writes the match of `at` with `from`, as far as it goes to both sides, and returns where it ends.
fn copy(sequences: &mut Sequences<'_>, content: &[u8], mut from: usize, mut at: usize) -> usize {
    let behind = MATCH_MIN_BYTES;
    let end = content.len() - LAST_LITERALS;
    let stop = at + behind + common(content, from + behind, at + behind, end);
    while at > sequences.done() && from > 0 && content[at - 1] == content[from - 1] {
        (at, from) = (at - 1, from - 1);
    }
    sequences.copy(at, Match::new(stop - at, at - from));
    stop
}
