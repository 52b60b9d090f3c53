//! The tree that layers make, computed from their entries and not from archives, and whiteouts first: neither is how it
//! is done in the crate.

use std::collections::{BTreeMap, BTreeSet};

use oci::test_util::{Bytes, Entry, What, dir, join, split};

/// A file as a tree shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) what: What,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Bytes, Bytes>,
    pub(crate) links: usize,
}

/// What the layers make together. Paths of hard links show the same number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    paths: BTreeMap<Bytes, usize>,
    nodes: Vec<Node>,
}

impl Model {
    pub(crate) fn new() -> Self {
        let mut model = Self::default();
        model.insert(b"", &dir("").time(0, 0));
        model
    }

    pub(crate) fn apply(&mut self, layer: &[Entry]) {
        for entry in layer {
            match entry.what {
                What::Whiteout => self.remove(&entry.path),
                What::Opaque => self.remove_below(&entry.path),
                _ => {}
            }
        }
        for entry in layer {
            if matches!(entry.what, What::Whiteout | What::Opaque) {
                continue;
            }
            let mut above = split(&entry.path).0;
            let mut missing = Vec::new();
            while !above.is_empty() && !self.paths.contains_key(above) {
                missing.push(above);
                above = split(above).0;
            }
            for path in missing.into_iter().rev() {
                self.insert(path, &dir(path).time(0, 0));
            }
            let there = self
                .paths
                .get(&entry.path)
                .map(|node| &self.nodes[*node].what);
            let keeps = entry.what == What::Dir && there == Some(&What::Dir);
            if let What::HardLink(target) = &entry.what {
                self.remove(&entry.path);
                let node = self.paths[target];
                self.paths.insert(entry.path.clone(), node);
                let what = self.nodes[node].what.clone();
                self.nodes[node] = Self::node(what, entry);
            } else if keeps {
                let node = self.paths[&entry.path];
                self.nodes[node] = Self::node(What::Dir, entry);
            } else {
                self.remove(&entry.path);
                self.insert(&entry.path.clone(), entry);
            }
        }
    }

    fn node(what: What, entry: &Entry) -> Node {
        let mode = match what {
            What::Symlink(_) => 0o777,
            _ => entry.mode,
        };
        Node {
            what,
            mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
            links: 0,
        }
    }

    fn insert(&mut self, path: &[u8], entry: &Entry) {
        self.nodes.push(Self::node(entry.what.clone(), entry));
        self.paths.insert(path.to_vec(), self.nodes.len() - 1);
    }

    fn remove(&mut self, path: &[u8]) {
        self.remove_below(path);
        self.paths.remove(path);
    }

    fn remove_below(&mut self, path: &[u8]) {
        let prefix = join(path, b"");
        let prefix = if path.is_empty() { Vec::new() } else { prefix };
        self.paths
            .retain(|other, _| other == path || !other.starts_with(&prefix));
    }

    /// All paths and what stands there.
    pub(crate) fn tree(&self) -> BTreeMap<Bytes, Node> {
        let node = |(path, number): (&Bytes, &usize)| {
            let mut node = self.nodes[*number].clone();
            let below =
                |other: &&Bytes| !other.is_empty() && split(other).0 == path && *other != path;
            node.links = match node.what {
                What::Dir => {
                    let is_dir = |other: &&Bytes| self.nodes[self.paths[*other]].what == What::Dir;
                    2 + self
                        .children(path)
                        .into_iter()
                        .filter(below)
                        .filter(is_dir)
                        .count()
                }
                _ => self.paths.values().filter(|other| *other == number).count(),
            };
            (path.clone(), node)
        };
        self.paths.iter().map(node).collect()
    }

    fn children<'a>(&'a self, path: &[u8]) -> Vec<&'a Bytes> {
        match path.is_empty() {
            true => self.paths.keys().collect(),
            false => {
                let prefix = join(path, b"");
                self.paths
                    .range(prefix.clone()..)
                    .map(|(other, _)| other)
                    .take_while(|other| other.starts_with(&prefix))
                    .collect()
            }
        }
    }

    /// Sets of paths that are the same file.
    pub(crate) fn links(&self) -> BTreeSet<BTreeSet<Bytes>> {
        let mut sets: BTreeMap<usize, BTreeSet<Bytes>> = BTreeMap::new();
        for (path, node) in &self.paths {
            sets.entry(*node).or_default().insert(path.clone());
        }
        sets.into_values().filter(|set| set.len() > 1).collect()
    }
}

/// Bytes that look random and are the same every time.
pub(crate) fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
