//! The thorough way: find the longest match of every position, then choose, from the end to the beginning, what makes
//! the rest of the block shortest.
//!
//! All matches of one length cost the same in LZ4, however far back they reach. And a rest that starts a byte later is
//! never longer: its first sequence can be cut by a byte. So at each position only three things can be best: a literal,
//! the longest match, and the longest match that takes one byte less to express. That makes the choice a single pass.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "positions are made here, in content of ours; a mistake must show and not be written"
)]

use super::finder::{Finder, Match};
use super::sequences::Sequences;
use super::starts;

/// Token and offset.
const MATCH_COST: u32 = 3;
/// So many literals, and each 255 more, take a byte beyond the token to count.
const LITERALS_STEP: u32 = 15;
/// So long a match, and each 255 bytes more, takes a byte beyond the token to count.
const MATCH_STEP: u16 = 19;
/// What such a byte counts to.
const MORE_MAX: u16 = 255;

pub(crate) struct Parser {
    finder: Finder,
    /// Earlier positions that are compared with each.
    depth: u32,
    /// A match of so many bytes is long enough.
    enough: u16,
    /// For each position, first its longest match, then what was chosen: a match, or none for a literal.
    matches: Vec<Match>,
    /// For each position, the bytes that the rest of the block takes from there.
    costs: Vec<u32>,
}

impl Parser {
    pub(super) fn new(depth: u32, enough: u16) -> Self {
        Self {
            finder: Finder::new(),
            depth,
            enough,
            matches: Vec::new(),
            costs: Vec::new(),
        }
    }

    pub(super) fn encode(&mut self, content: &[u8], payload: &mut [u8]) -> usize {
        self.find(content);
        self.choose(content.len());
        let mut sequences = Sequences::new(content, payload);
        let mut at = 0;
        while at < self.matches.len() {
            let found = self.matches[at];
            if found.len == 0 {
                at += 1;
            } else {
                sequences.copy(at, found);
                at += usize::from(found.len);
            }
        }
        sequences.finish()
    }

    fn find(&mut self, content: &[u8]) {
        let Self { depth, enough, .. } = *self;
        self.finder.clear();
        self.matches.clear();
        let mut last = Match::default();
        for at in 0..starts(content.len()) {
            self.finder.enter(content, at);
            let known = last.shortened();
            last = self.finder.longest(content, at, known, depth, enough);
            self.matches.push(last);
        }
    }

    fn choose(&mut self, content_bytes: usize) {
        let costs = &mut self.costs;
        costs.clear();
        costs.resize(content_bytes + 1, 0);
        let mut rest = 0;
        // Literals that the rest of the block begins with, and how many of them take a byte more to count.
        let (mut literals, mut step) = (0, LITERALS_STEP);
        for at in (0..content_bytes).rev() {
            literals += 1;
            rest += 1;
            if literals == step {
                rest += 1;
                step += u32::from(MORE_MAX);
            }
            if let Some(found) = self.matches.get_mut(at) {
                let len = cheapest(found.len, &costs[at..], &mut rest);
                found.len = len;
                if len > 0 {
                    (literals, step) = (0, LITERALS_STEP);
                }
            }
            costs[at] = rest;
        }
    }
}

/// The length, of a match of up to `longest` bytes, with which the rest of the block takes less than `best` bytes,
/// which becomes what it takes then; 0 when there is none. `costs` are those of the positions from here on.
#[inline]
fn cheapest(longest: u16, costs: &[u32], best: &mut u32) -> u16 {
    if longest == 0 {
        return 0;
    }
    let mut chosen = 0;
    let mut more = 0;
    if longest >= MATCH_STEP {
        more = 1 + (longest - MATCH_STEP) / MORE_MAX;
        // The longest that takes a byte less to count.
        let shorter = MATCH_STEP - 1 + MORE_MAX * (more - 1);
        let cost = costs[usize::from(shorter)] + MATCH_COST + u32::from(more) - 1;
        if cost < *best {
            (*best, chosen) = (cost, shorter);
        }
    }
    let cost = costs[usize::from(longest)] + MATCH_COST + u32::from(more);
    if cost < *best {
        (*best, chosen) = (cost, longest);
    }
    chosen
}
