//! Where bytes have been seen before: a table of last positions by hash, and a chain from each position to the one
//! before with the same hash.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "positions are made here, in content of ours; a mistake must show and not be written"
)]

use super::{LAST_LITERALS, MATCH_MIN_BYTES};

/// Positions that are remembered by hash: as many as fit in half a first-level cache.
const HASH_BITS: u32 = 13;
/// Spreads four bytes over the upper bits: 2^32 divided by the golden ratio.
const HASH_FACTOR: u32 = 2_654_435_761;
/// Longest content.
const CONTENT_MAX_BYTES: usize = 1 << 16;

/// Bytes that came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    /// How many; 0 when there is no match.
    pub(super) len: u16,
    /// How far before.
    pub(super) offset: u16,
}

impl Match {
    /// Infallible: content is at most 64 KiB, and matches neither start nor end in its last bytes.
    pub(super) fn new(len: usize, offset: usize) -> Self {
        Self {
            len: u16::try_from(len).unwrap_or_default(),
            offset: u16::try_from(offset).unwrap_or_default(),
        }
    }

    /// What is left of the match one byte on.
    pub(super) fn shortened(self) -> Self {
        match self.len {
            0..=4 => Self::default(),
            len => Self {
                len: len - 1,
                ..self
            },
        }
    }
}

/// The last position of each hash, plus one; 0 is none.
pub(super) struct Heads(Box<[u16; 1 << HASH_BITS]>);

impl Heads {
    pub(super) fn new() -> Self {
        Self(Box::new([0; 1 << HASH_BITS]))
    }

    /// Forgets everything: what is found depends on nothing but the block.
    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Notes position `at` and returns the last one before with the same hash, plus one.
    #[inline]
    pub(super) fn replace(&mut self, content: &[u8], at: usize) -> u16 {
        let hash = word(content, at).wrapping_mul(HASH_FACTOR) >> (32 - HASH_BITS);
        let head = &mut self.0[hash as usize];
        // Infallible: matches do not start in the last bytes of at most 64 KiB.
        std::mem::replace(head, u16::try_from(at + 1).unwrap_or_default())
    }
}

/// Finds the longest match.
pub(super) struct Finder {
    heads: Heads,
    /// For each position, the one before with the same hash, plus one; 0 is none.
    links: Box<[u16]>,
}

impl Finder {
    pub(super) fn new() -> Self {
        Self {
            heads: Heads::new(),
            links: vec![0; CONTENT_MAX_BYTES].into_boxed_slice(),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        // Links are followed from heads only, so they need not be cleared.
        self.heads.clear();
    }

    /// Notes position `at`. Positions come in order.
    #[inline]
    pub(super) fn enter(&mut self, content: &[u8], at: usize) {
        self.links[at] = self.heads.replace(content, at);
    }

    /// The longest match for position `at`, which was entered last, among `known` and the last `depth` positions with
    /// the same hash. One of `enough` bytes ends the search.
    #[inline]
    pub(super) fn longest(
        &self,
        content: &[u8],
        at: usize,
        known: Match,
        depth: u32,
        enough: u16,
    ) -> Match {
        let end = content.len() - LAST_LITERALS;
        let enough = usize::from(enough).min(end - at);
        let first = word(content, at);
        let (mut len, mut from) = (usize::from(known.len), at - usize::from(known.offset));
        let mut link = self.links[at];
        for _ in 0..depth {
            if link == 0 || len >= enough {
                break;
            }
            let other = usize::from(link) - 1;
            // Only what also has the byte behind the best one can be better.
            if content[other + len] == content[at + len] && word(content, other) == first {
                let behind = MATCH_MIN_BYTES;
                let other_len = behind + common(content, other + behind, at + behind, end);
                if other_len > len {
                    (len, from) = (other_len, other);
                }
            }
            link = self.links[other];
        }
        Match::new(len, at - from)
    }
}

/// The four bytes at `at`.
#[inline]
pub(super) fn word(content: &[u8], at: usize) -> u32 {
    let bytes = content[at..].first_chunk().copied();
    u32::from_le_bytes(bytes.unwrap_or_default())
}

/// How many bytes from `from` on are the same as those from `at` on, up to `end`.
#[inline]
pub(super) fn common(content: &[u8], from: usize, at: usize, end: usize) -> usize {
    let (new, old) = (&content[at..end], &content[from..]);
    let (new_words, _) = new.as_chunks::<8>();
    let (old_words, _) = old.as_chunks::<8>();
    let mut len = 0;
    for (new, old) in new_words.iter().zip(old_words) {
        let differ = u64::from_le_bytes(*new) ^ u64::from_le_bytes(*old);
        if differ != 0 {
            return len + (differ.trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    let rest = new[len..].iter().zip(&old[len..]);
    len + rest.take_while(|(new, old)| new == old).count()
}
