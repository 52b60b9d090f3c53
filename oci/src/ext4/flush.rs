//! Bringing the metadata to the disk.

use std::ops::Range;

use super::bytes::{halves, put, put_u16, put_u32};
use super::extents::{ROOT_LEN, tree, tree_blocks};
use super::geometry::{
    BLOCK_LEN, BLOCKS_PER_GROUP, DESCRIPTOR_LEN, FIRST_INODE, INODE_LEN, has_superblock,
};
use super::inode::{Kind, MAX_INLINE_TARGET_LEN, XATTR_ROOM};
use super::xattr::{Placed, place};
use super::{Ext4Error, FileSystem, index, superblock};

impl FileSystem {
    /// Brings everything to the file. The file system in it is complete then, and clean.
    pub(crate) fn flush(&mut self) -> Result<(), Ext4Error> {
        let numbers: Vec<u32> = self.changed_inodes.iter().copied().collect();
        for number in &numbers {
            self.flush_directory(*number)?;
            self.flush_target(*number)?;
        }
        self.flush_inodes(&numbers)?;
        self.changed_inodes.clear();
        self.flush_groups()?;
        self.changed_groups.clear();
        let superblock = superblock::primary(&self.geometry, self.free());
        self.update_block(0, &superblock)
    }

    fn flush_directory(&mut self, number: u32) -> Result<(), Ext4Error> {
        let Some(directory) = self.directory(number) else {
            return Ok(());
        };
        for _missing in directory.places.len()..directory.block_count() {
            let block = self.allocate_one()?;
            if let Some(directory) = self.directory_mut(number) {
                directory.places.push(block);
            }
        }
        let Some(directory) = self.directory_mut(number) else {
            return Ok(());
        };
        let blocks = directory.take_changed(number);
        let places = directory.places.clone();
        for (at, bytes) in blocks {
            self.update_block(places[at], &bytes)?;
        }
        Ok(())
    }

    /// Long targets of symbolic links have a block.
    fn flush_target(&mut self, number: u32) -> Result<(), Ext4Error> {
        let Some(Kind::Symlink {
            target,
            block: None,
        }) = self.inode(number).map(|inode| &inode.kind)
        else {
            return Ok(());
        };
        if target.len() <= MAX_INLINE_TARGET_LEN {
            return Ok(());
        }
        let mut bytes = vec![0; BLOCK_LEN];
        put(&mut bytes, 0, target);
        let place = self.allocate_one()?;
        self.update_block(place, &bytes)?;
        if let Some(Kind::Symlink { block, .. }) =
            self.inode_mut(number).map(|inode| &mut inode.kind)
        {
            *block = Some(place);
        }
        Ok(())
    }

    fn flush_inodes(&mut self, numbers: &[u32]) -> Result<(), Ext4Error> {
        // Neighbours are in one block of the table.
        let mut table: Option<(u32, Vec<u8>)> = None;
        for number in numbers {
            let bytes = self.encode_inode(*number)?;
            let (block, at) = self.geometry.inode(*number);
            let mut current = match table.take() {
                Some((current, bytes)) if current == block => bytes,
                other => {
                    if let Some((other, bytes)) = other {
                        self.update_block(other, &bytes)?;
                    }
                    self.read_block(block)?
                }
            };
            put(&mut current, at, &bytes);
            table = Some((block, current));
        }
        match table {
            Some((block, bytes)) => self.update_block(block, &bytes),
            None => Ok(()),
        }
    }

    /// The bytes of an inode, once its extent tree and extended attributes are stored.
    fn encode_inode(&mut self, number: u32) -> Result<[u8; INODE_LEN], Ext4Error> {
        let Some(inode) = self.inode(number) else {
            return Ok([0; INODE_LEN]);
        };
        let placed = place(&inode.attributes.xattrs, XATTR_ROOM)?;
        let extents = inode.extents();
        let (have, old_xattrs) = (inode.tree_blocks.clone(), inode.xattr_block);
        let blocks = self.resize(have, tree_blocks(extents.len()))?;
        let (root, nodes) = tree(&extents, &blocks);
        for (block, bytes) in nodes {
            self.update_block(block, &bytes)?;
        }
        let (in_inode, in_block) = match placed {
            Placed::Inode(bytes) => (bytes, None),
            Placed::Block(bytes) => (Vec::new(), Some(bytes)),
        };
        let wanted = usize::from(in_block.is_some());
        let xattr_block = self.resize(old_xattrs.into_iter().collect(), wanted)?.pop();
        if let (Some(block), Some(bytes)) = (xattr_block, in_block) {
            self.update_block(block, &bytes)?;
        }
        let Some(inode) = self.inode_mut(number) else {
            return Ok([0; INODE_LEN]);
        };
        inode.tree_blocks = blocks;
        inode.xattr_block = xattr_block;
        let root: &[u8; ROOT_LEN] = &root;
        Ok(inode.encode(root, &in_inode))
    }

    /// Takes blocks or gives some back, until there are so many.
    fn resize(&mut self, mut blocks: Vec<u32>, wanted: usize) -> Result<Vec<u32>, Ext4Error> {
        while blocks.len() < wanted {
            blocks.push(self.allocate_one()?);
        }
        for block in blocks.split_off(wanted) {
            self.release(block..block + 1);
        }
        Ok(blocks)
    }

    fn flush_groups(&mut self) -> Result<(), Ext4Error> {
        let groups: Vec<u32> = self.changed_groups.iter().copied().collect();
        for group in groups {
            let placement = self.geometry.placement(group);
            let bitmap = self.block_bitmap(group);
            self.update_block(placement.block_bitmap, &bitmap)?;
            let bitmap = self.inode_bitmap(group);
            self.update_block(placement.inode_bitmap, &bitmap)?;
            let at = usize::try_from(group).unwrap_or_default() * DESCRIPTOR_LEN;
            let block = 1 + u32::try_from(at / BLOCK_LEN).unwrap_or_default();
            let mut descriptors = self.read_block(block)?;
            put(&mut descriptors, at % BLOCK_LEN, &self.descriptor(group));
            self.update_block(block, &descriptors)?;
        }
        Ok(())
    }

    /// The bitmap of a group, in which blocks behind the end count as taken.
    fn block_bitmap(&self, group: u32) -> Vec<u8> {
        let blocks = self.geometry.group(group);
        let mut bitmap = self.allocated.bitmap(group);
        set_from(&mut bitmap, blocks.end - blocks.start);
        bitmap
    }

    fn inode_bitmap(&self, group: u32) -> Vec<u8> {
        let per_group = self.geometry.inodes_per_group;
        let mut bitmap = vec![0; BLOCK_LEN];
        for number in self
            .known_inodes(group)
            .filter(|number| self.is_used(*number))
        {
            let at = (number - 1) % per_group;
            bitmap[bit_byte(at)] |= 1 << (at % 8);
        }
        set_from(&mut bitmap, per_group);
        bitmap
    }

    /// The inodes of a group, but for those behind the last one that was ever used.
    fn known_inodes(&self, group: u32) -> Range<u32> {
        let per_group = self.geometry.inodes_per_group;
        let first = group * per_group + 1;
        let end = u32::try_from(self.inodes.len() + 1).unwrap_or(u32::MAX);
        first..end.clamp(first, first + per_group)
    }

    fn is_used(&self, number: u32) -> bool {
        number < FIRST_INODE || self.inode(number).is_some()
    }

    fn descriptor(&self, group: u32) -> [u8; DESCRIPTOR_LEN] {
        let placement = self.geometry.placement(group);
        let (mut free_inodes, mut directories) = (self.geometry.inodes_per_group, 0);
        for number in self.known_inodes(group) {
            free_inodes -= u32::from(self.is_used(number));
            directories += u32::from(self.directory(number).is_some());
        }
        let mut descriptor = [0; DESCRIPTOR_LEN];
        put_u32(&mut descriptor, 0, placement.block_bitmap);
        put_u32(&mut descriptor, 4, placement.inode_bitmap);
        put_u32(&mut descriptor, 8, placement.inode_table);
        let counts = [self.free_blocks(group), free_inodes, directories];
        for (at, count) in [12, 14, 16].into_iter().zip(counts) {
            put_u16(&mut descriptor, at, halves(count).0);
        }
        descriptor
    }

    /// Free blocks and inodes of all groups.
    fn free(&self) -> (u32, u32) {
        let groups = 0..self.geometry.groups;
        let blocks = groups.map(|group| self.free_blocks(group)).sum();
        let used = (FIRST_INODE..)
            .zip(self.inodes.iter().skip(index(FIRST_INODE)))
            .filter(|(_, inode)| inode.is_some())
            .count();
        let used = u32::try_from(used).unwrap_or(u32::MAX) + FIRST_INODE - 1;
        (blocks, self.geometry.inodes() - used)
    }

    /// Copies of the superblock and the descriptors stand in some groups. Drivers and tools bring their counts up to
    /// date when they need them, so they stay as they are in the empty file system.
    pub(super) fn write_backups(&mut self) -> Result<(), Ext4Error> {
        let len = usize::try_from(self.geometry.descriptor_blocks).unwrap_or_default() * BLOCK_LEN;
        let mut descriptors = vec![0; len];
        for group in 0..self.geometry.groups {
            let at = usize::try_from(group).unwrap_or_default() * DESCRIPTOR_LEN;
            put(&mut descriptors, at, &self.descriptor(group));
        }
        for group in (1..self.geometry.groups).filter(|group| has_superblock(*group)) {
            let mut copy = superblock::copy(&self.geometry, self.free(), group);
            copy.extend_from_slice(&descriptors);
            let first = group * BLOCKS_PER_GROUP;
            self.write_blocks(first, &copy)?;
            self.changed.insert(self.geometry.superblock(group));
        }
        Ok(())
    }
}

fn bit_byte(at: u32) -> usize {
    usize::try_from(at / 8).unwrap_or_default()
}

/// Sets all bits from one on.
fn set_from(bitmap: &mut [u8], first: u32) {
    let byte = bit_byte(first);
    if let Some(partial) = bitmap.get_mut(byte) {
        *partial |= u8::MAX << (first % 8);
    }
    if let Some(rest) = bitmap.get_mut(byte + 1..) {
        rest.fill(u8::MAX);
    }
}
