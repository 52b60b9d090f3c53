//! For tests, here and in the rooms above: layers as lists of entries, and layouts made of them. Archives are written by
//! the crate `tar`, which this crate does not read with.

mod layout;

use std::collections::BTreeMap;

pub use layout::{Wrap, archive, digest, write_blob, write_image, write_index, write_layout};

/// A path, a name or a content: any bytes.
pub type Bytes = Vec<u8>;

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Dir,
    /// A file with its content.
    File(Bytes),
    /// A symbolic link with its target.
    Symlink(Bytes),
    /// A hard link to a path.
    HardLink(Bytes),
    /// A character device with major and minor number.
    Char(u32, u32),
    /// A block device with major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// Hides a path of the layers below.
    Whiteout,
    /// Hides what the layers below have in a directory.
    Opaque,
}

/// A member of a layer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it stands in the tree, from the root, without a slash before it.
    pub path: Bytes,
    /// What it is.
    pub what: What,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification, seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Bytes, Bytes>,
    /// Path in the archive, where that is another one.
    pub spelled: Option<Bytes>,
}

/// A member with the usual attributes.
#[must_use]
pub fn entry(path: impl AsRef<[u8]>, what: What) -> Entry {
    let mode = match what {
        What::Dir => 0o755,
        What::Symlink(_) => 0o777,
        _ => 0o644,
    };
    Entry {
        path: path.as_ref().to_vec(),
        what,
        mode,
        uid: 0,
        gid: 0,
        mtime: (1_600_000_000, 0),
        xattrs: BTreeMap::new(),
        spelled: None,
    }
}

/// A file.
#[must_use]
pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Entry {
    entry(path, What::File(content.as_ref().to_vec()))
}

/// A directory.
#[must_use]
pub fn dir(path: impl AsRef<[u8]>) -> Entry {
    entry(path, What::Dir)
}

/// A symbolic link.
#[must_use]
pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(path, What::Symlink(target.as_ref().to_vec()))
}

/// A hard link to a path.
#[must_use]
pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(path, What::HardLink(target.as_ref().to_vec()))
}

/// Hides a path of the layers below.
#[must_use]
pub fn whiteout(path: impl AsRef<[u8]>) -> Entry {
    entry(path, What::Whiteout)
}

/// Hides what the layers below have in a directory.
#[must_use]
pub fn opaque(path: impl AsRef<[u8]>) -> Entry {
    entry(path, What::Opaque)
}

impl Entry {
    /// With these permissions.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// With these owners.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// With this time of modification, seconds and nanoseconds.
    #[must_use]
    pub fn time(mut self, seconds: i64, nanos: u32) -> Self {
        self.mtime = (seconds, nanos);
        self
    }

    /// With one more extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.xattrs.insert(name.into(), value.as_ref().to_vec());
        self
    }

    /// With another path in the archive.
    #[must_use]
    pub fn spelled(mut self, path: impl AsRef<[u8]>) -> Self {
        self.spelled = Some(path.as_ref().to_vec());
        self
    }

    /// The path that stands in the archive.
    #[must_use]
    pub fn archive_path(&self) -> Bytes {
        if let Some(path) = &self.spelled {
            return path.clone();
        }
        let (above, name) = split(&self.path);
        let name = match self.what {
            What::Whiteout => [b".wh.", name].concat(),
            What::Opaque => return join(&self.path, b".wh..wh..opq"),
            What::Dir => [name, b"/"].concat(),
            _ => name.to_vec(),
        };
        join(above, &name)
    }
}

/// The path above, and the name in it.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// The path of a name in a directory.
#[must_use]
pub fn join(above: &[u8], name: &[u8]) -> Bytes {
    match above.is_empty() {
        true => name.to_vec(),
        false => [above, name].join(&b'/'),
    }
}
