//! Writing ext4, without the kernel and without being root.
//!
//! The tree is in memory, the content of files goes to a (sparse) file at once, and [`FileSystem::flush`] brings the
//! metadata there. What has changed since the last [step](FileSystem::next_step) is known to the block, so a layer is
//! written without comparing disks.
//!
//! The dialect is the plain one every ext4 driver of the last decade reads: 4 KiB blocks, 256-byte inodes, extents,
//! flexible block groups; no journal, no checksums (layers have their own), no hash trees, no `lost+found`. Everything
//! depends on the calls and their order alone: no clock, no random number.
//!
//! Nothing is ever moved: a file stays where it is until it is removed. Free space is looked for from where the last
//! search ended, so what a step writes lies together.
//!
//! # Limits
//!
//! [`MIN_SIZE_BYTES`] to [`MAX_SIZE_BYTES`], [`MAX_INODES`], [`MAX_HELD_BYTES`], names of [`MAX_NAME_LEN_BYTES`]. Memory:
//! some 200 bytes and the name for each file, 8 KiB for each 128 MiB in use, and [`PIECE_LEN_BYTES`].

mod block_set;
mod bytes;
mod content;
mod directory;
mod error;
mod extents;
mod flush;
mod geometry;
mod inode;
mod superblock;
mod tree;
mod xattr;

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use block_set::BlockSet;
use directory::Directory;
use geometry::{BLOCK_LEN, FIRST_INODE, Geometry, ROOT_INODE};
use inode::{Inode, Kind};

pub(crate) use content::PIECE_LEN_BYTES;
pub use directory::MAX_NAME_LEN_BYTES;
pub use error::Ext4Error;
pub(crate) use geometry::BLOCK_LEN_BYTES;
pub use geometry::{MAX_SIZE_BYTES, MIN_SIZE_BYTES};
pub(crate) use inode::{Attributes, Time};
pub use inode::{MAX_DEVICE, MAX_LINKS, MAX_TARGET_LEN_BYTES};
pub(crate) use tree::{Found, Shape};
pub(crate) use xattr::Xattr;
pub use xattr::{MAX_XATTR_NAME_LEN_BYTES, XattrError};

/// Most files, directories and links: a bound for memory (about a GiB), far beyond any image that is used.
pub const MAX_INODES: u32 = 4 << 20;

/// Most bytes of names, targets of symbolic links and extended attributes together, which are kept in memory.
pub const MAX_HELD_BYTES: u64 = 1 << 30;

/// A file system being made.
#[derive(Debug)]
pub(crate) struct FileSystem {
    file: File,
    geometry: Geometry,
    allocated: BlockSet,
    /// Blocks whose bytes are not those of the last step: every one allocated since, and those written since.
    ///
    /// For all other blocks in use, the file holds what the layers hold. Of free blocks nothing is known.
    changed: BlockSet,
    /// Where the next free block is looked for.
    cursor: u32,
    /// By number; the first is inode 1.
    inodes: Vec<Option<Inode>>,
    free_inodes: BTreeSet<u32>,
    changed_inodes: BTreeSet<u32>,
    /// Groups whose bitmaps or counts have changed.
    changed_groups: BTreeSet<u32>,
    step: u32,
    /// Directories below which this step has removed everything older.
    cleared: BTreeSet<u32>,
    /// Bytes of names, targets of links and attributes, and how many there may be.
    held_bytes: u64,
    max_held_bytes: u64,
    /// Room for a piece of a file, kept from one to the next.
    piece: Vec<u8>,
}

impl FileSystem {
    /// An empty file system for a disk of `size_bytes`, of which nothing is written yet. `file` is empty.
    pub(crate) fn new(file: File, size_bytes: u64) -> Result<Self, Ext4Error> {
        let geometry = Geometry::new(size_bytes)?;
        file.set_len(size_bytes)?;
        let mut system = Self {
            file,
            allocated: BlockSet::default(),
            changed: BlockSet::default(),
            cursor: 0,
            inodes: Vec::new(),
            free_inodes: BTreeSet::new(),
            changed_inodes: BTreeSet::new(),
            changed_groups: (0..geometry.groups).collect(),
            step: 0,
            cleared: BTreeSet::new(),
            held_bytes: 0,
            max_held_bytes: MAX_HELD_BYTES,
            piece: Vec::new(),
            geometry,
        };
        system.reserve();
        system.inodes.resize_with(index(FIRST_INODE), || None);
        let attributes = Attributes {
            permissions: 0o755,
            ..Attributes::default()
        };
        let root = Kind::Directory(Box::new(Directory::new(ROOT_INODE)));
        system.inodes[index(ROOT_INODE)] = Some(Inode::new(root, attributes));
        system.changed_inodes.insert(ROOT_INODE);
        system.write_backups()?;
        Ok(system)
    }

    /// Marks what the metadata of the groups takes.
    fn reserve(&mut self) {
        let geometry = &self.geometry;
        for group in 0..geometry.groups {
            let placement = geometry.placement(group);
            let table = placement.inode_table;
            for blocks in [
                geometry.superblock(group),
                placement.block_bitmap..placement.block_bitmap + 1,
                placement.inode_bitmap..placement.inode_bitmap + 1,
                table..table + geometry.inode_table_blocks(),
            ] {
                self.allocated.insert(blocks);
            }
        }
    }

    /// The file with the bytes of the disk: those of all blocks in use. What free blocks hold there is not part of it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The blocks that differ from what they were after the last step, in stretches, ascending. To be asked after
    /// [`flush`](Self::flush).
    pub(crate) fn changed(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.changed.runs()
    }

    /// What has changed has been seen to; the next step begins.
    pub(crate) fn next_step(&mut self) {
        debug_assert!(
            self.changed_inodes.is_empty() && self.changed_groups.is_empty(),
            "a step ends with a flush"
        );
        self.changed.clear();
        self.cleared.clear();
        self.step += 1;
    }

    fn free_blocks(&self, group: u32) -> u32 {
        let blocks = self.geometry.group(group);
        (blocks.end - blocks.start) - self.allocated.count_in(group)
    }

    /// Takes up to `max_len` blocks in a row, at least one.
    fn allocate(&mut self, max_len: u32) -> Result<Range<u32>, Ext4Error> {
        let (cursor, end) = (self.cursor, self.geometry.blocks);
        let found = self
            .allocated
            .first_gap(cursor..end, max_len)
            .or_else(|| self.allocated.first_gap(0..cursor, max_len));
        let Some(blocks) = found else {
            return Err(Ext4Error::Full {
                size_bytes: u64::from(end) * BLOCK_LEN_BYTES,
            });
        };
        self.cursor = blocks.end;
        self.allocated.insert(blocks.clone());
        self.changed.insert(blocks.clone());
        self.note_groups(&blocks);
        Ok(blocks)
    }

    fn allocate_one(&mut self) -> Result<u32, Ext4Error> {
        Ok(self.allocate(1)?.start)
    }

    fn release(&mut self, blocks: Range<u32>) {
        self.note_groups(&blocks);
        self.allocated.remove(blocks.clone());
        self.changed.remove(blocks);
    }

    fn note_groups(&mut self, blocks: &Range<u32>) {
        let first = blocks.start / geometry::BLOCKS_PER_GROUP;
        let last = blocks.end.saturating_sub(1) / geometry::BLOCKS_PER_GROUP;
        self.changed_groups.extend(first..=last);
    }

    fn write_blocks(&self, first: u32, bytes: &[u8]) -> Result<(), Ext4Error> {
        Ok(self
            .file
            .write_all_at(bytes, u64::from(first) * BLOCK_LEN_BYTES)?)
    }

    /// Writes a block of metadata, if it holds anything else.
    fn update_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), Ext4Error> {
        if !self.changed.contains(block) {
            if self.read_block(block)? == bytes {
                return Ok(());
            }
            self.changed.insert(block..block + 1);
        }
        self.write_blocks(block, bytes)
    }

    fn read_block(&self, block: u32) -> Result<Vec<u8>, Ext4Error> {
        let mut bytes = vec![0; BLOCK_LEN];
        self.file
            .read_exact_at(&mut bytes, u64::from(block) * BLOCK_LEN_BYTES)?;
        Ok(bytes)
    }

    fn inode(&self, number: u32) -> Option<&Inode> {
        self.inodes.get(index(number))?.as_ref()
    }

    fn inode_mut(&mut self, number: u32) -> Option<&mut Inode> {
        self.changed_inodes.insert(number);
        self.inodes.get_mut(index(number))?.as_mut()
    }

    /// Notes that so many bytes more are kept.
    fn hold(&mut self, bytes: u64) -> Result<(), Ext4Error> {
        self.held_bytes += bytes;
        match self.held_bytes > self.max_held_bytes {
            true => Err(Ext4Error::TooMuchText {
                max_bytes: self.max_held_bytes,
            }),
            false => Ok(()),
        }
    }

    fn add_inode(&mut self, inode: Inode) -> Result<u32, Ext4Error> {
        self.hold(inode.held_bytes())?;
        let number = match self.free_inodes.pop_first() {
            Some(number) => number,
            None => {
                let next = u32::try_from(self.inodes.len()).unwrap_or(u32::MAX);
                let max = MAX_INODES.min(self.geometry.inodes());
                if next >= max {
                    return Err(Ext4Error::TooManyFiles { max });
                }
                self.inodes.push(None);
                next + 1
            }
        };
        self.inodes[index(number)] = Some(inode);
        self.changed_inodes.insert(number);
        self.changed_groups.insert(self.group_of_inode(number));
        Ok(number)
    }

    /// Forgets an inode that has no name any more.
    fn drop_inode(&mut self, number: u32) {
        let Some(inode) = self.inodes.get_mut(index(number)).and_then(Option::take) else {
            return;
        };
        self.held_bytes -= inode.held_bytes();
        for extent in inode.blocks() {
            self.release(extent.blocks());
        }
        self.free_inodes.insert(number);
        self.changed_inodes.insert(number);
        self.changed_groups.insert(self.group_of_inode(number));
    }

    fn group_of_inode(&self, number: u32) -> u32 {
        (number - 1) / self.geometry.inodes_per_group
    }
}

/// Where an inode stands in the list.
fn index(number: u32) -> usize {
    usize::try_from(number - 1).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
