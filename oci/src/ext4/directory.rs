//! Directories: names in memory, and their blocks.
//!
//! Names stay in the block they were put into, so that a change touches one block and not all behind it. There is no
//! hash tree: the kernel searches such directories from front to back, and keeps what it has found.

use std::collections::{BTreeMap, BTreeSet};

use super::bytes::{put, put_u16, put_u32};
use super::geometry::BLOCK_LEN;

const HEADER_LEN: usize = 8;
/// Longest name in bytes.
pub const MAX_NAME_LEN_BYTES: usize = 255;
const MAX_ENTRY_LEN: usize = (HEADER_LEN + MAX_NAME_LEN_BYTES).next_multiple_of(4);
/// `.` and `..`.
const DOTS_LEN: usize = 24;

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) inode: u32,
    pub(super) file_type: u8,
    /// The step, see [`super::FileSystem::step`], in which the name was given last.
    pub(super) step: u32,
    /// Which block of the directory it is in.
    block: u32,
}

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) parent: u32,
    /// How many of the names are directories.
    pub(super) subdirectories: u32,
    /// Where each block of it lies on the disk, as far as that is known.
    pub(super) places: Vec<u32>,
    entries: BTreeMap<Box<[u8]>, Entry>,
    /// Bytes in use of each block.
    used: Vec<usize>,
    /// Blocks before this one are full.
    first_with_room: usize,
    /// Blocks whose bytes are not what is stored.
    changed: BTreeSet<usize>,
}

impl Directory {
    pub(super) fn new(parent: u32) -> Self {
        Self {
            parent,
            subdirectories: 0,
            places: Vec::new(),
            entries: BTreeMap::new(),
            used: vec![DOTS_LEN],
            first_with_room: 0,
            changed: BTreeSet::from([0]),
        }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<Entry> {
        self.entries.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Entry)> {
        self.entries.iter().map(|(name, entry)| (&**name, *entry))
    }

    /// Gives an inode a name that is not taken.
    pub(super) fn insert(&mut self, name: &[u8], inode: u32, file_type: u8, step: u32) {
        let len = entry_len(name);
        while self
            .used
            .get(self.first_with_room)
            .is_some_and(|used| used + MAX_ENTRY_LEN > BLOCK_LEN)
        {
            self.first_with_room += 1;
        }
        let at = self.first_with_room;
        if at == self.used.len() {
            self.used.push(0);
        }
        self.used[at] += len;
        self.changed.insert(at);
        let entry = Entry {
            inode,
            file_type,
            step,
            block: u32::try_from(at).unwrap_or(u32::MAX),
        };
        self.entries.insert(name.into(), entry);
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Entry> {
        let entry = self.entries.remove(name)?;
        let at = usize::try_from(entry.block).unwrap_or_default();
        self.used[at] -= entry_len(name);
        self.changed.insert(at);
        self.first_with_room = self.first_with_room.min(at);
        Some(entry)
    }

    /// Notes that a name was given again in this step.
    pub(super) fn touch(&mut self, name: &[u8], step: u32) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.step = step;
        }
    }

    /// Blocks it takes.
    pub(super) fn block_count(&self) -> usize {
        self.used.len()
    }

    /// The bytes of the blocks that have changed since the last call, by their number.
    pub(super) fn take_changed(&mut self, own: u32) -> Vec<(usize, Vec<u8>)> {
        let mut names: BTreeMap<usize, Vec<(&[u8], Entry)>> = std::mem::take(&mut self.changed)
            .into_iter()
            .map(|block| (block, Vec::new()))
            .collect();
        for (name, entry) in &self.entries {
            let block = usize::try_from(entry.block).unwrap_or_default();
            if let Some(names) = names.get_mut(&block) {
                names.push((name, *entry));
            }
        }
        let blocks = names.into_iter().map(|(block, names)| {
            let dots = (block == 0).then_some((own, self.parent));
            (block, encode(dots, &names))
        });
        blocks.collect()
    }
}

fn entry_len(name: &[u8]) -> usize {
    (HEADER_LEN + name.len()).next_multiple_of(4)
}

fn encode(dots: Option<(u32, u32)>, names: &[(&[u8], Entry)]) -> Vec<u8> {
    let mut block = vec![0; BLOCK_LEN];
    let dots = dots.map(|(own, parent)| [(&b"."[..], own, 2), (&b".."[..], parent, 2)]);
    let names = names
        .iter()
        .map(|(name, entry)| (*name, entry.inode, entry.file_type));
    let mut at = 0;
    let mut last = 0;
    for (name, inode, file_type) in dots.into_iter().flatten().chain(names) {
        let len = entry_len(name);
        put_u32(&mut block, at, inode);
        put_u16(&mut block, at + 4, u16::try_from(len).unwrap_or(u16::MAX));
        block[at + 6] = u8::try_from(name.len()).unwrap_or(u8::MAX);
        block[at + 7] = file_type;
        put(&mut block, at + HEADER_LEN, name);
        last = at;
        at += len;
    }
    // The last entry reaches to the end; in an empty block it is one without an inode.
    let rest = u16::try_from(BLOCK_LEN - last).unwrap_or(u16::MAX);
    put_u16(&mut block, last + 4, rest);
    block
}
