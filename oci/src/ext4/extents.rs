//! Where the bytes of a file are: extents, and the tree they are stored in.

use std::ops::Range;

use super::bytes::{put_u16, put_u32};
use super::geometry::BLOCK_LEN;

const MAGIC: u16 = 0xF30A;
const ENTRY_LEN: usize = 12;
/// Entries in an inode.
const ROOT_ENTRIES: usize = 4;
/// Entries in a block.
const NODE_ENTRIES: usize = (BLOCK_LEN - ENTRY_LEN) / ENTRY_LEN;
/// Blocks of one extent.
const MAX_EXTENT_BLOCKS: u32 = 32768;
/// Bytes of the root in an inode.
pub(super) const ROOT_LEN: usize = 60;

/// Blocks of a file that lie in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first of them, as a block of the file.
    pub(super) logical: u32,
    /// The same, as a block of the disk.
    pub(super) physical: u32,
    pub(super) len: u32,
}

impl Extent {
    pub(super) fn blocks(&self) -> Range<u32> {
        self.physical..self.physical + self.len
    }
}

/// Adds blocks behind those that are there.
pub(super) fn append(extents: &mut Vec<Extent>, logical: u32, blocks: Range<u32>) {
    let (mut logical, mut physical) = (logical, blocks.start);
    let mut left = blocks.end - blocks.start;
    while left > 0 {
        if let Some(last) = extents.last_mut()
            && last.logical + last.len == logical
            && last.physical + last.len == physical
            && last.len < MAX_EXTENT_BLOCKS
        {
            let more = left.min(MAX_EXTENT_BLOCKS - last.len);
            last.len += more;
            (logical, physical, left) = (logical + more, physical + more, left - more);
            continue;
        }
        extents.push(Extent {
            logical,
            physical,
            len: 0,
        });
    }
}

/// Blocks that the tree of so many extents takes beside its root.
pub(super) fn tree_blocks(extents: usize) -> usize {
    let (mut level, mut blocks) = (extents, 0);
    while level > ROOT_ENTRIES {
        level = level.div_ceil(NODE_ENTRIES);
        blocks += level;
    }
    blocks
}

/// The root for the inode, and what stands in each of `blocks`, of which there are [`tree_blocks`].
pub(super) fn tree(extents: &[Extent], blocks: &[u32]) -> ([u8; ROOT_LEN], Vec<(u32, Vec<u8>)>) {
    // First logical block, and the rest of the entry.
    let mut level: Vec<(u32, [u8; ENTRY_LEN])> = extents.iter().map(leaf_entry).collect();
    let (mut depth, mut nodes, mut blocks) = (0_u16, Vec::new(), blocks.iter());
    while level.len() > ROOT_ENTRIES {
        let above = level.chunks(NODE_ENTRIES).zip(&mut blocks);
        let above = above.map(|(entries, block)| {
            let mut node = vec![0; BLOCK_LEN];
            fill(&mut node, NODE_ENTRIES, depth, entries);
            nodes.push((*block, node));
            let first = entries.first().map_or(0, |(first, _)| *first);
            (first, index_entry(first, *block))
        });
        level = above.collect();
        depth += 1;
    }
    let mut root = [0; ROOT_LEN];
    fill(&mut root, ROOT_ENTRIES, depth, &level);
    (root, nodes)
}

fn fill(node: &mut [u8], max: usize, depth: u16, entries: &[(u32, [u8; ENTRY_LEN])]) {
    put_u16(node, 0, MAGIC);
    put_u16(node, 2, u16::try_from(entries.len()).unwrap_or(u16::MAX));
    put_u16(node, 4, u16::try_from(max).unwrap_or(u16::MAX));
    put_u16(node, 6, depth);
    let places = node.as_chunks_mut::<ENTRY_LEN>().0.iter_mut().skip(1);
    for (place, (_, entry)) in places.zip(entries) {
        *place = *entry;
    }
}

fn leaf_entry(extent: &Extent) -> (u32, [u8; ENTRY_LEN]) {
    let mut entry = [0; ENTRY_LEN];
    put_u32(&mut entry, 0, extent.logical);
    // 32768 as it stands: larger numbers would mean blocks that are not written yet.
    put_u16(&mut entry, 4, u16::try_from(extent.len).unwrap_or(u16::MAX));
    put_u32(&mut entry, 8, extent.physical);
    (extent.logical, entry)
}

fn index_entry(first: u32, block: u32) -> [u8; ENTRY_LEN] {
    let mut entry = [0; ENTRY_LEN];
    put_u32(&mut entry, 0, first);
    put_u32(&mut entry, 4, block);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_is_one_extent_up_to_its_limit() {
        let mut extents = Vec::new();
        append(&mut extents, 0, 100..200);
        append(&mut extents, 100, 200..300);
        append(&mut extents, 201, 300..301);
        append(&mut extents, 202, 400..70_000);
        let found: Vec<_> = extents
            .iter()
            .map(|extent| (extent.logical, extent.physical, extent.len))
            .collect();
        let expected = [
            (0, 100, 200),
            (201, 300, 1),
            (202, 400, 32768),
            (32970, 33168, 32768),
            (65738, 65936, 4064),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn trees_have_the_blocks_they_were_said_to_need() {
        for (extents, blocks) in [
            (0, 0),
            (4, 0),
            (5, 1),
            (340, 1),
            (341, 2),
            (1360, 4),
            (1361, 6),
        ] {
            assert_eq!(tree_blocks(extents), blocks, "{extents}");
            let list: Vec<_> = (0..u32::try_from(extents).unwrap())
                .map(|at| Extent {
                    logical: 2 * at,
                    physical: 1000 + 3 * at,
                    len: 1,
                })
                .collect();
            let places: Vec<u32> = (0..u32::try_from(blocks).unwrap()).collect();
            let (root, nodes) = tree(&list, &places);
            assert_eq!(nodes.len(), blocks);
            assert!(usize::from(root[2]) <= ROOT_ENTRIES);
        }
    }
}
