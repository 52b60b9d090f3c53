//! Names: what a file system looks like from inside.

use std::io::Read;
use std::ops::Range;

use super::directory::{Directory, Entry, MAX_NAME_LEN_BYTES};
use super::geometry::ROOT_INODE;
use super::inode::{Attributes, Inode, Kind, MAX_DEVICE, MAX_LINKS, MAX_TARGET_LEN_BYTES};
use super::xattr::place;
use super::{Ext4Error, FileSystem};

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Number of its inode.
    pub(crate) inode: u32,
    /// What it is.
    pub(crate) shape: Shape,
}

/// What the way through a tree depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

impl FileSystem {
    /// The root directory.
    pub(crate) fn root(&self) -> u32 {
        ROOT_INODE
    }

    /// What stands under `name` in a directory.
    pub(crate) fn look_up(&self, directory: u32, name: &[u8]) -> Option<Found> {
        let entry = self.directory(directory)?.get(name)?;
        Some(self.found(entry))
    }

    /// The directory above; the root is above itself.
    pub(crate) fn parent(&self, directory: u32) -> u32 {
        self.directory(directory)
            .map_or(ROOT_INODE, |directory| directory.parent)
    }

    /// Where a symbolic link points to.
    pub(crate) fn target(&self, symlink: u32) -> Option<&[u8]> {
        match &self.inode(symlink)?.kind {
            Kind::Symlink { target, .. } => Some(target),
            _ => None,
        }
    }

    pub(crate) fn make_directory(
        &mut self,
        parent: u32,
        name: &[u8],
        attributes: Attributes,
    ) -> Result<u32, Ext4Error> {
        let kind = Kind::Directory(Box::new(Directory::new(parent)));
        self.make(parent, name, kind, attributes)
    }

    /// Stores a file of `len_bytes`: the bytes of `source` stand in `segments`, ascending ranges of it, and the rest is
    /// zero.
    pub(crate) fn make_file(
        &mut self,
        (parent, name): (u32, &[u8]),
        attributes: Attributes,
        len_bytes: u64,
        segments: &[Range<u64>],
        source: &mut dyn Read,
    ) -> Result<(), Ext4Error> {
        let extents = self.store(len_bytes, segments, source)?;
        self.make(parent, name, Kind::File { len_bytes, extents }, attributes)?;
        Ok(())
    }

    pub(crate) fn make_symlink(
        &mut self,
        parent: u32,
        name: &[u8],
        attributes: Attributes,
        target: &[u8],
    ) -> Result<(), Ext4Error> {
        let len_bytes = target.len();
        if !(1..=MAX_TARGET_LEN_BYTES).contains(&len_bytes) || target.contains(&0) {
            return Err(Ext4Error::Target { len_bytes });
        }
        let kind = Kind::Symlink {
            target: target.into(),
            block: None,
        };
        // Links have no permissions of their own; Linux shows all.
        let attributes = Attributes {
            permissions: 0o777,
            ..attributes
        };
        self.make(parent, name, kind, attributes)?;
        Ok(())
    }

    pub(crate) fn make_device(
        &mut self,
        parent: u32,
        name: &[u8],
        attributes: Attributes,
        is_block: bool,
        (major, minor): (u32, u32),
    ) -> Result<(), Ext4Error> {
        if major > MAX_DEVICE.0 || minor > MAX_DEVICE.1 {
            return Err(Ext4Error::Device { major, minor });
        }
        let kind = Kind::Device {
            is_block,
            major,
            minor,
        };
        self.make(parent, name, kind, attributes)?;
        Ok(())
    }

    pub(crate) fn make_fifo(
        &mut self,
        parent: u32,
        name: &[u8],
        attributes: Attributes,
    ) -> Result<(), Ext4Error> {
        self.make(parent, name, Kind::Fifo, attributes)?;
        Ok(())
    }

    /// Gives a file one more name.
    pub(crate) fn link(&mut self, parent: u32, name: &[u8], inode: u32) -> Result<(), Ext4Error> {
        let file_type = match self.inode_mut(inode) {
            None
            | Some(Inode {
                kind: Kind::Directory(_),
                ..
            }) => return Err(Ext4Error::LinkToDirectory),
            Some(file) if file.links >= MAX_LINKS => return Err(Ext4Error::TooManyLinks),
            Some(file) => {
                file.links += 1;
                file.kind.type_bits().1
            }
        };
        self.add_name(parent, name, inode, file_type)
    }

    /// Replaces owner, permissions, time and extended attributes.
    pub(crate) fn set_attributes(
        &mut self,
        inode: u32,
        attributes: Attributes,
    ) -> Result<(), Ext4Error> {
        place(&attributes.xattrs, super::inode::XATTR_ROOM)?;
        let new_bytes = attributes.held_bytes();
        if let Some(inode) = self.inode_mut(inode) {
            let old_bytes = inode.attributes.held_bytes();
            let permissions = match inode.kind {
                Kind::Symlink { .. } => 0o777,
                _ => attributes.permissions,
            };
            inode.attributes = Attributes {
                permissions,
                ..attributes
            };
            self.held_bytes -= old_bytes;
            self.hold(new_bytes)?;
        }
        Ok(())
    }

    /// Notes that this step speaks of a name.
    pub(crate) fn touch(&mut self, parent: u32, name: &[u8]) {
        let step = self.step;
        if let Some(directory) = self.directory_mut(parent) {
            directory.touch(name, step);
        }
    }

    /// Removes a name and all below it.
    pub(crate) fn remove(&mut self, parent: u32, name: &[u8]) {
        let mut names = vec![(parent, name.to_vec())];
        // By inode: a directory goes when its names are gone, and what its names were stands behind it in the list.
        let mut directories = Vec::new();
        while let Some((parent, name)) = names.pop() {
            let Some(entry) = self.take_name(parent, &name) else {
                continue;
            };
            match self.directory(entry.inode) {
                Some(directory) => {
                    names.extend(
                        directory
                            .iter()
                            .map(|(name, _)| (entry.inode, name.to_vec())),
                    );
                    directories.push(entry.inode);
                }
                None => self.drop_link(entry.inode),
            }
        }
        for directory in directories {
            self.drop_inode(directory);
        }
    }

    /// Removes a name and all below it, but for what this step speaks of.
    pub(crate) fn remove_older(&mut self, parent: u32, name: &[u8]) {
        let Some(entry) = self.directory(parent).and_then(|parent| parent.get(name)) else {
            return;
        };
        if self.directory(entry.inode).is_some() {
            self.clear_older(entry.inode);
        }
        self.remove_if_older(parent, name);
    }

    /// Removes all below a directory, but for what this step speaks of.
    pub(crate) fn clear_older(&mut self, directory: u32) {
        // Directories above come before those below.
        let mut found = Vec::new();
        let mut next = vec![directory];
        while let Some(above) = next.pop() {
            // Nothing older comes back in the same step.
            if !self.cleared.insert(above) {
                continue;
            }
            let names = self.directory(above).into_iter().flat_map(Directory::iter);
            let names: Vec<(Vec<u8>, u32)> = names
                .map(|(name, entry)| (name.to_vec(), entry.inode))
                .collect();
            for (name, inode) in names {
                if self.directory(inode).is_some() {
                    next.push(inode);
                    found.push((above, name));
                } else {
                    self.remove_if_older(above, &name);
                }
            }
        }
        for (above, name) in found.into_iter().rev() {
            self.remove_if_older(above, &name);
        }
    }

    fn remove_if_older(&mut self, parent: u32, name: &[u8]) {
        let Some(entry) = self.directory(parent).and_then(|parent| parent.get(name)) else {
            return;
        };
        let has_names = |directory: &Directory| directory.iter().next().is_some();
        if entry.step < self.step && !self.directory(entry.inode).is_some_and(has_names) {
            self.remove(parent, name);
        }
    }

    fn make(
        &mut self,
        parent: u32,
        name: &[u8],
        kind: Kind,
        attributes: Attributes,
    ) -> Result<u32, Ext4Error> {
        place(&attributes.xattrs, super::inode::XATTR_ROOM)?;
        let file_type = kind.type_bits().1;
        let inode = self.add_inode(Inode::new(kind, attributes))?;
        self.add_name(parent, name, inode, file_type)?;
        Ok(inode)
    }

    fn add_name(
        &mut self,
        parent: u32,
        name: &[u8],
        inode: u32,
        file_type: u8,
    ) -> Result<(), Ext4Error> {
        let len_bytes = name.len();
        let possible = (1..=MAX_NAME_LEN_BYTES).contains(&len_bytes)
            && !name.contains(&b'/')
            && !name.contains(&0)
            && name != b"."
            && name != b"..";
        if !possible {
            return Err(Ext4Error::Name { len_bytes });
        }
        let is_directory = self.directory(inode).is_some();
        let step = self.step;
        let Some(directory) = self.directory_mut(parent) else {
            return Err(Ext4Error::NotADirectory { number: parent });
        };
        directory.insert(name, inode, file_type, step);
        directory.subdirectories += u32::from(is_directory);
        self.hold(len_bytes as u64)
    }

    /// Takes a name out of a directory. What it stood for is still there.
    fn take_name(&mut self, parent: u32, name: &[u8]) -> Option<Entry> {
        let entry = self.directory(parent)?.get(name)?;
        let is_directory = self.directory(entry.inode).is_some();
        let directory = self.directory_mut(parent)?;
        directory.subdirectories -= u32::from(is_directory);
        let removed = directory.remove(name)?;
        self.held_bytes -= name.len() as u64;
        Some(removed)
    }

    fn drop_link(&mut self, number: u32) {
        let Some(inode) = self.inode_mut(number) else {
            return;
        };
        inode.links = inode.links.saturating_sub(1);
        if inode.links == 0 {
            self.drop_inode(number);
        }
    }

    fn found(&self, entry: Entry) -> Found {
        let shape = match self.inode(entry.inode).map(|inode| &inode.kind) {
            Some(Kind::Directory(_)) => Shape::Directory,
            Some(Kind::Symlink { .. }) => Shape::Symlink,
            _ => Shape::Other,
        };
        Found {
            inode: entry.inode,
            shape,
        }
    }

    pub(super) fn directory(&self, number: u32) -> Option<&Directory> {
        match &self.inode(number)?.kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn directory_mut(&mut self, number: u32) -> Option<&mut Directory> {
        match &mut self.inode_mut(number)?.kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }
}
