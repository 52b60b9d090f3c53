//! Sets of block numbers, kept by groups: what nobody touches takes no memory.

use std::collections::BTreeMap;
use std::ops::Range;

use super::geometry::BLOCKS_PER_GROUP;

const WORD_BITS: u32 = 64;
const WORDS: usize = 512;

/// One bit for each block of a group, lowest first; stored little-endian it is a block bitmap of ext4.
type Bits = [u64; WORDS];

/// A set of block numbers. Takes 4 KiB for each group of 32768 blocks that has ever held one.
#[derive(Debug, Default)]
pub(super) struct BlockSet {
    groups: BTreeMap<u32, Box<Bits>>,
}

impl BlockSet {
    pub(super) fn contains(&self, block: u32) -> bool {
        self.groups
            .get(&(block / BLOCKS_PER_GROUP))
            .is_some_and(|bits| bits[word(block)] & bit(block) != 0)
    }

    pub(super) fn insert(&mut self, blocks: Range<u32>) {
        for block in blocks {
            self.bits_mut(block)[word(block)] |= bit(block);
        }
    }

    pub(super) fn remove(&mut self, blocks: Range<u32>) {
        for block in blocks {
            if let Some(bits) = self.groups.get_mut(&(block / BLOCKS_PER_GROUP)) {
                bits[word(block)] &= !bit(block);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.groups.clear();
    }

    /// How many blocks of a group are in the set.
    pub(super) fn count_in(&self, group: u32) -> u32 {
        self.groups.get(&group).map_or(0, |bits| {
            bits.iter().map(|word| word.count_ones()).sum::<u32>()
        })
    }

    /// The bitmap of a group.
    pub(super) fn bitmap(&self, group: u32) -> Vec<u8> {
        match self.groups.get(&group) {
            None => vec![0; WORDS * 8],
            Some(bits) => bits.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }
    }

    /// The first stretch of blocks out of `within` that are not in the set, at most `max_len` of them.
    pub(super) fn first_gap(&self, within: Range<u32>, max_len: u32) -> Option<Range<u32>> {
        let start = self.seek(within.clone(), false)?;
        let limit = within.end.min(start.saturating_add(max_len));
        let end = self.seek(start..limit, true).unwrap_or(limit);
        Some(start..end)
    }

    /// The stretches of blocks in the set, ascending.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let end = self.groups.keys().next_back().map_or(0, |last| {
            last.saturating_add(1).saturating_mul(BLOCKS_PER_GROUP)
        });
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.seek(from..end, true)?;
            from = self.seek(start..end, false).unwrap_or(end);
            Some(start..from)
        })
    }

    /// The first block of `within` that is in the set (`wanted`) or not in it.
    fn seek(&self, within: Range<u32>, wanted: bool) -> Option<u32> {
        let mut at = within.start;
        while at < within.end {
            let group = at / BLOCKS_PER_GROUP;
            let group_end = (group + 1).saturating_mul(BLOCKS_PER_GROUP);
            match (self.groups.get(&group), wanted) {
                (None, false) => return Some(at),
                (None, true) => {
                    // Groups that hold nothing are passed over together.
                    let next = self.groups.range(group..).next()?.0;
                    at = next.saturating_mul(BLOCKS_PER_GROUP);
                }
                (Some(bits), _) => {
                    let flip = if wanted { 0 } else { u64::MAX };
                    match seek_in(bits, at % BLOCKS_PER_GROUP, flip) {
                        Some(found) => {
                            let found = group * BLOCKS_PER_GROUP + found;
                            return (found < within.end).then_some(found);
                        }
                        None => at = group_end,
                    }
                }
            }
        }
        None
    }

    fn bits_mut(&mut self, block: u32) -> &mut Bits {
        self.groups
            .entry(block / BLOCKS_PER_GROUP)
            .or_insert_with(|| Box::new([0; WORDS]))
    }
}

/// The first bit from `from` on that is set once `flip` has been applied.
fn seek_in(bits: &Bits, from: u32, flip: u64) -> Option<u32> {
    let first = word(from);
    let mut mask = u64::MAX << (from % WORD_BITS);
    for (at, word) in (0_u32..).zip(bits).skip(first) {
        let hit = (word ^ flip) & mask;
        if hit != 0 {
            return Some(at * WORD_BITS + hit.trailing_zeros());
        }
        mask = u64::MAX;
    }
    None
}

fn word(block: u32) -> usize {
    usize::try_from(block % BLOCKS_PER_GROUP / WORD_BITS).unwrap_or_default()
}

fn bit(block: u32) -> u64 {
    1 << (block % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_blocks_is_a_set_of_numbers(
            changes in prop::collection::vec((any::<bool>(), 0_u32..140_000, 1_u32..300), 1..40),
            from in 0_u32..150_000,
            max_len in 1_u32..400,
        ) {
            let (mut set, mut model) = (BlockSet::default(), BTreeSet::new());
            for (insert, start, len) in changes {
                let range = start..start + len;
                if insert {
                    set.insert(range.clone());
                    model.extend(range);
                } else {
                    set.remove(range.clone());
                    model.retain(|block| !range.contains(block));
                }
            }
            let listed: BTreeSet<u32> = set.runs().flatten().collect();
            prop_assert_eq!(&listed, &model);
            for group in 0..5 {
                let count = model.iter().filter(|block| *block / BLOCKS_PER_GROUP == group).count();
                prop_assert_eq!(set.count_in(group) as usize, count);
                let ones: u32 = set.bitmap(group).iter().map(|byte| byte.count_ones()).sum();
                prop_assert_eq!(ones as usize, count);
            }
            let start = (from..150_000).find(|block| !model.contains(block));
            let gap = start.map(|start| {
                let end = (start..150_000.min(start + max_len)).find(|block| model.contains(block));
                start..end.unwrap_or(150_000.min(start + max_len))
            });
            prop_assert_eq!(set.first_gap(from..150_000, max_len), gap);
            prop_assert_eq!(set.contains(from), model.contains(&from));
        }
    }
}
