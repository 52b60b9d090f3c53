//! The superblock.

use super::bytes::{halves, put, put_u16, put_u32};
use super::geometry::{
    BLOCK_LEN, BLOCKS_PER_GROUP, FIRST_INODE, Geometry, INODE_LEN, LOG_GROUPS_PER_FLEX,
};

/// Where the superblock stands in the first block; its copies begin their blocks.
const PRIMARY_AT: usize = 1024;
const MAGIC: u16 = 0xEF53;

/// Extended attributes, hash trees (which a driver may make of directories that it changes).
const COMPATIBLE: u32 = 0x8 | 0x20;
/// File types in directories, extents, flexible groups.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x200;
/// Few copies of the superblock, large and huge files, directories with many subdirectories, large inodes.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40;

/// All file systems have this UUID, so that those of the same size are the same when they are empty, and registries
/// keep one.
const UUID: [u8; 16] = *b"\xd8\x1f\x4a\x0b\x6c\x0e\x4d\x53\x9a\x27\x1b\x64\x0a\x52\xee\x31";
/// Salt of the hashes of names, constant for the same reason.
const HASH_SEED: [u8; 16] = *b"\x51\x3c\x70\x82\x0f\x9e\x46\xd1\xb8\x6d\x25\xf3\xc4\x18\x97\x6a";

/// The first block of the disk.
pub(super) fn primary(geometry: &Geometry, free: (u32, u32)) -> Vec<u8> {
    let mut block = vec![0; BLOCK_LEN];
    fill(&mut block[PRIMARY_AT..], geometry, free, 0);
    block
}

/// The first block of another group.
pub(super) fn copy(geometry: &Geometry, free: (u32, u32), group: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK_LEN];
    fill(&mut block, geometry, free, group);
    block
}

fn fill(to: &mut [u8], geometry: &Geometry, (blocks, inodes): (u32, u32), group: u32) {
    const LOG_BLOCK_SIZE: u32 = 2;
    const CLEAN: u16 = 1;
    const CONTINUE_ON_ERRORS: u16 = 1;
    const DYNAMIC_REVISION: u32 = 1;
    const XATTRS_AND_ACLS: u32 = 0xc;
    const EXTRA_LEN: u16 = 32;
    const HALF_MD4: u8 = 1;
    const SIGNED_HASH: u32 = 1;

    for (at, value) in [
        (0, geometry.inodes()),
        (4, geometry.blocks),
        (12, blocks),
        (16, inodes),
        (24, LOG_BLOCK_SIZE),
        (28, LOG_BLOCK_SIZE),
        (32, BLOCKS_PER_GROUP),
        (36, BLOCKS_PER_GROUP),
        (40, geometry.inodes_per_group),
        (76, DYNAMIC_REVISION),
        (84, FIRST_INODE),
        (92, COMPATIBLE),
        (96, INCOMPATIBLE),
        (100, READ_ONLY_COMPATIBLE),
        (256, XATTRS_AND_ACLS),
        (352, SIGNED_HASH),
    ] {
        put_u32(to, at, value);
    }
    for (at, value) in [
        // Never to be checked because of mounts or time.
        (54, u16::MAX),
        (56, MAGIC),
        (58, CLEAN),
        (60, CONTINUE_ON_ERRORS),
        (88, u16::try_from(INODE_LEN).unwrap_or_default()),
        (90, halves(group).0),
        (348, EXTRA_LEN),
        (350, EXTRA_LEN),
    ] {
        put_u16(to, at, value);
    }
    put(to, 104, &UUID);
    put(to, 236, &HASH_SEED);
    put(to, 252, &[HALF_MD4]);
    put(to, 372, &[LOG_GROUPS_PER_FLEX]);
}
