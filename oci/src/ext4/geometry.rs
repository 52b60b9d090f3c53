//! Where things lie in a file system of a given size.
//!
//! ```text
//!  flex group (16 block groups of 32768 blocks)                                    next flex group
//!  | superblock, descriptors | 16 block bitmaps | 16 inode bitmaps | 16 inode tables | data … |
//!    group 0 and its copies    in the first group of the flex group
//! ```

use std::ops::Range;

use super::Ext4Error;

/// Bytes of a block.
pub(crate) const BLOCK_LEN_BYTES: u64 = 4096;
/// The same, for buffers.
pub(super) const BLOCK_LEN: usize = 4096;
/// As many as one block of bitmap has bits.
pub(super) const BLOCKS_PER_GROUP: u32 = 32768;
/// The first inode that is not reserved.
pub(super) const FIRST_INODE: u32 = 11;
/// The root directory.
pub(super) const ROOT_INODE: u32 = 2;
/// Bytes of an inode.
pub(super) const INODE_LEN: usize = 256;
/// Bytes of a group descriptor.
pub(super) const DESCRIPTOR_LEN: usize = 32;

/// Smallest file system.
pub const MIN_SIZE_BYTES: u64 = 2 << 20;
/// Largest file system: what kernel readers of layers can address. It also bounds the memory for bitmaps, to 64 MiB
/// for each of two.
pub const MAX_SIZE_BYTES: u64 = 2 << 40;

const GROUPS_PER_FLEX: u32 = 16;
/// 2^4 groups.
pub(super) const LOG_GROUPS_PER_FLEX: u8 = 4;
const INODES_PER_BLOCK: u32 = 16;
const DESCRIPTORS_PER_BLOCK: u32 = 128;
/// A last group with less room for data than this is left out, as mkfs does.
const MIN_DATA_BLOCKS: u32 = 50;

/// Up to this size, small files are expected.
const SMALL_SIZE_BYTES: u64 = 512 << 20;
/// Bytes of space for each inode in small file systems, and in others. Empty tables cost nothing: no layer holds them.
const BYTES_PER_INODE: (u64, u64) = (4096, 8192);

/// Where things lie.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    pub(super) blocks: u32,
    pub(super) groups: u32,
    pub(super) inodes_per_group: u32,
    /// Blocks of the group descriptors.
    pub(super) descriptor_blocks: u32,
}

/// Where the metadata of a group lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) block_bitmap: u32,
    pub(super) inode_bitmap: u32,
    pub(super) inode_table: u32,
}

impl Geometry {
    /// The geometry for a disk of `size_bytes`. Up to a group less than all of it is used.
    pub(super) fn new(size_bytes: u64) -> Result<Self, Ext4Error> {
        if !(MIN_SIZE_BYTES..=MAX_SIZE_BYTES).contains(&size_bytes)
            || !size_bytes.is_multiple_of(BLOCK_LEN_BYTES)
        {
            return Err(Ext4Error::Size {
                size_bytes,
                min: MIN_SIZE_BYTES,
                max: MAX_SIZE_BYTES,
            });
        }
        let bad = |_too_large| Ext4Error::Size {
            size_bytes,
            min: MIN_SIZE_BYTES,
            max: MAX_SIZE_BYTES,
        };
        let blocks = u32::try_from(size_bytes / BLOCK_LEN_BYTES).map_err(bad)?;
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let bytes_per_inode = match size_bytes < SMALL_SIZE_BYTES {
            true => BYTES_PER_INODE.0,
            false => BYTES_PER_INODE.1,
        };
        let inodes = u32::try_from(size_bytes / bytes_per_inode).map_err(bad)?;
        let inodes_per_group = inodes
            .div_ceil(groups)
            .next_multiple_of(INODES_PER_BLOCK)
            .min(BLOCKS_PER_GROUP);
        let mut geometry = Self {
            blocks,
            groups,
            inodes_per_group,
            descriptor_blocks: groups.div_ceil(DESCRIPTORS_PER_BLOCK),
        };
        geometry.leave_out_crowded_group();
        Ok(geometry)
    }

    /// A last group that has no room beside its metadata is left out.
    fn leave_out_crowded_group(&mut self) {
        let last = self.groups - 1;
        let start = last * BLOCKS_PER_GROUP;
        let mut needed = MIN_DATA_BLOCKS;
        if has_superblock(last) {
            needed += 1 + self.descriptor_blocks;
        }
        if last.is_multiple_of(GROUPS_PER_FLEX) {
            needed += 2 + self.inode_table_blocks();
        }
        if last > 0 && self.blocks - start < needed {
            self.groups = last;
            self.blocks = start;
        }
    }

    pub(super) fn inodes(&self) -> u32 {
        self.groups * self.inodes_per_group
    }

    pub(super) fn inode_table_blocks(&self) -> u32 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// The blocks of a group.
    pub(super) fn group(&self, group: u32) -> Range<u32> {
        let start = group * BLOCKS_PER_GROUP;
        start..self.blocks.min(start.saturating_add(BLOCKS_PER_GROUP))
    }

    /// The superblock of a group and the descriptors behind it; nothing in most groups.
    pub(super) fn superblock(&self, group: u32) -> Range<u32> {
        let start = group * BLOCKS_PER_GROUP;
        match has_superblock(group) {
            true => start..start + 1 + self.descriptor_blocks,
            false => start..start,
        }
    }

    pub(super) fn placement(&self, group: u32) -> Placement {
        let first = group - group % GROUPS_PER_FLEX;
        let in_flex = (self.groups - first).min(GROUPS_PER_FLEX);
        let start = self.superblock(first).end;
        let at = group - first;
        Placement {
            block_bitmap: start + at,
            inode_bitmap: start + in_flex + at,
            inode_table: start + 2 * in_flex + at * self.inode_table_blocks(),
        }
    }

    /// The block of the inode table that holds an inode, and where in it.
    pub(super) fn inode(&self, number: u32) -> (u32, usize) {
        let at = number - 1;
        let (group, in_group) = (at / self.inodes_per_group, at % self.inodes_per_group);
        let block = self.placement(group).inode_table + in_group / INODES_PER_BLOCK;
        let place = usize::try_from(in_group % INODES_PER_BLOCK).unwrap_or_default() * INODE_LEN;
        (block, place)
    }
}

/// Whether a group holds a copy of the superblock: 0, 1 and the powers of 3, 5 and 7.
pub(super) fn has_superblock(group: u32) -> bool {
    let is_power_of = |base: u32| {
        let mut power = base;
        while power < group {
            power = power.saturating_mul(base);
        }
        power == group
    };
    group <= 1 || [3, 5, 7].into_iter().any(is_power_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_the_superblock_stand_where_ext4_looks_for_them() {
        let groups: Vec<u32> = (0..130).filter(|group| has_superblock(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn nothing_overlaps_in_any_size() {
        let sizes = [
            2,
            5,
            64,
            127,
            128,
            129,
            500,
            511,
            512,
            1024,
            2049,
            65536,
            65540,
            2 << 20,
        ];
        for size in sizes
            .map(|mib: u64| mib << 20)
            .into_iter()
            .chain([(2 << 30) + 4096 * 60])
        {
            let geometry = Geometry::new(size).unwrap();
            let mut parts = Vec::new();
            for group in 0..geometry.groups {
                let placement = geometry.placement(group);
                parts.push(geometry.superblock(group));
                for (start, len) in [
                    (placement.block_bitmap, 1),
                    (placement.inode_bitmap, 1),
                    (placement.inode_table, geometry.inode_table_blocks()),
                ] {
                    parts.push(start..start + len);
                }
            }
            parts.retain(|part| !part.is_empty());
            parts.sort_by_key(|part| part.start);
            for pair in parts.windows(2) {
                assert!(pair[0].end <= pair[1].start, "{size}: {pair:?}");
            }
            let last = parts.last().unwrap();
            assert!(
                last.end + MIN_DATA_BLOCKS <= geometry.blocks,
                "{size}: {last:?}"
            );
            assert!(geometry.group(geometry.groups - 1).len() >= MIN_DATA_BLOCKS as usize);
        }
    }

    #[test]
    fn sizes_outside_the_limits_are_refused() {
        for size in [
            0,
            4096,
            (2 << 20) - 4096,
            (64 << 20) + 512,
            (2 << 40) + 4096,
            u64::MAX,
        ] {
            assert!(
                matches!(Geometry::new(size), Err(Ext4Error::Size { .. })),
                "{size}"
            );
        }
    }
}
