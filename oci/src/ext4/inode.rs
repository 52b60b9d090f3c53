//! Inodes: what a file is and whose it is.

use super::bytes::{halves, long_halves, put, put_u16, put_u32};
use super::directory::Directory;
use super::extents::{Extent, ROOT_LEN, append};
use super::geometry::{BLOCK_LEN_BYTES, INODE_LEN};
use super::xattr::Xattr;

/// Bytes of the fields behind the first 128.
const EXTRA_LEN: u16 = 32;
const XATTRS_AT: usize = 160;
/// Room for extended attributes in an inode.
pub(super) const XATTR_ROOM: usize = INODE_LEN - XATTRS_AT;
const SECTORS_PER_BLOCK: u64 = 8;

const FLAG_EXTENTS: u32 = 0x8_0000;

/// Longest target of a symbolic link that stands in the inode.
pub(super) const MAX_INLINE_TARGET_LEN: usize = ROOT_LEN - 1;
/// Longest target of a symbolic link.
pub const MAX_TARGET_LEN_BYTES: usize = 4095;
/// Most names of a file.
pub const MAX_LINKS: u32 = 65_000;
/// Largest numbers of a device node.
pub const MAX_DEVICE: (u32, u32) = ((1 << 12) - 1, (1 << 20) - 1);

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    /// Seconds since 1970.
    pub(crate) seconds: i64,
    /// Less than a billion.
    pub(crate) nanos: u32,
}

impl Time {
    /// What ext4 can express.
    const MIN_SECONDS: i64 = -(1 << 31);
    const MAX_SECONDS: i64 = (1 << 34) - (1 << 31) - 1;

    /// The field and its extension.
    fn encode(self) -> (u32, u32) {
        let seconds = self.seconds.clamp(Self::MIN_SECONDS, Self::MAX_SECONDS);
        let (low, _) = long_halves(seconds.cast_unsigned());
        // The low half is read as a signed number; two more bits count how often it has overflowed.
        let (_, epoch) = long_halves((seconds - i64::from(low.cast_signed())).cast_unsigned());
        (low, (self.nanos << 2) | (epoch & 3))
    }
}

/// Owner, permissions, time and extended attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The lower twelve bits of the mode.
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Sorted.
    pub(crate) xattrs: Vec<Xattr>,
}

impl Attributes {
    /// Bytes of the extended attributes.
    pub(super) fn held_bytes(&self) -> u64 {
        self.xattrs.iter().map(Xattr::held_bytes).sum()
    }
}

/// What a file is.
#[derive(Debug)]
pub(super) enum Kind {
    File {
        len_bytes: u64,
        extents: Vec<Extent>,
    },
    Directory(Box<Directory>),
    Symlink {
        target: Box<[u8]>,
        /// Where a long target is.
        block: Option<u32>,
    },
    /// A device node: its mode bits of the type, major and minor number.
    Device {
        is_block: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
}

impl Kind {
    /// The bits of the mode that say what a file is, and the same in a directory.
    pub(super) fn type_bits(&self) -> (u16, u8) {
        match self {
            Self::File { .. } => (0o100_000, 1),
            Self::Directory(_) => (0o040_000, 2),
            Self::Device {
                is_block: false, ..
            } => (0o020_000, 3),
            Self::Device { is_block: true, .. } => (0o060_000, 4),
            Self::Fifo => (0o010_000, 5),
            Self::Symlink { .. } => (0o120_000, 7),
        }
    }
}

/// A file.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) attributes: Attributes,
    /// Names of it; of no meaning for directories.
    pub(super) links: u32,
    /// Blocks of the extent tree.
    pub(super) tree_blocks: Vec<u32>,
    /// The block of the extended attributes.
    pub(super) xattr_block: Option<u32>,
}

impl Inode {
    pub(super) fn new(kind: Kind, attributes: Attributes) -> Self {
        Self {
            kind,
            attributes,
            links: 1,
            tree_blocks: Vec::new(),
            xattr_block: None,
        }
    }

    /// Where its content lies.
    pub(super) fn extents(&self) -> Vec<Extent> {
        match &self.kind {
            Kind::File { extents, .. } => extents.clone(),
            Kind::Directory(directory) => {
                let mut extents = Vec::new();
                for (logical, place) in (0_u32..).zip(&directory.places) {
                    append(&mut extents, logical, *place..*place + 1);
                }
                extents
            }
            Kind::Symlink {
                block: Some(block), ..
            } => vec![Extent {
                logical: 0,
                physical: *block,
                len: 1,
            }],
            Kind::Symlink { block: None, .. } | Kind::Device { .. } | Kind::Fifo => Vec::new(),
        }
    }

    /// All blocks that are its own.
    pub(super) fn blocks(&self) -> Vec<Extent> {
        let single = self.tree_blocks.iter().chain(&self.xattr_block);
        let single = single.map(|block| Extent {
            logical: 0,
            physical: *block,
            len: 1,
        });
        let mut all = self.extents();
        all.extend(single);
        all
    }

    /// Bytes of texts that are kept in memory for it, beside its names.
    pub(super) fn held_bytes(&self) -> u64 {
        let target = match &self.kind {
            Kind::Symlink { target, .. } => target.len() as u64,
            _ => 0,
        };
        target + self.attributes.held_bytes()
    }

    fn len_bytes(&self) -> u64 {
        match &self.kind {
            Kind::File { len_bytes, .. } => *len_bytes,
            Kind::Directory(directory) => directory.block_count() as u64 * BLOCK_LEN_BYTES,
            Kind::Symlink { target, .. } => target.len() as u64,
            Kind::Device { .. } | Kind::Fifo => 0,
        }
    }

    fn link_count(&self) -> u16 {
        let links = match &self.kind {
            Kind::Directory(directory) => directory.subdirectories + 2,
            _ => self.links,
        };
        // A directory with more subdirectories than can be counted says 1.
        match u16::try_from(links) {
            Ok(links) if u32::from(links) <= MAX_LINKS => links,
            _ => 1,
        }
    }

    /// The bytes of the inode, whose extent tree begins with `root` and in which `xattrs` are to stand.
    pub(super) fn encode(&self, root: &[u8; ROOT_LEN], xattrs: &[u8]) -> [u8; INODE_LEN] {
        let mut buf = [0; INODE_LEN];
        let attributes = &self.attributes;
        put_u16(
            &mut buf,
            0,
            self.kind.type_bits().0 | (attributes.permissions & 0o7777),
        );
        let ((uid, uid_high), (gid, gid_high)) = (halves(attributes.uid), halves(attributes.gid));
        put_u16(&mut buf, 2, uid);
        put_u16(&mut buf, 24, gid);
        put_u16(&mut buf, 120, uid_high);
        put_u16(&mut buf, 122, gid_high);
        let (size, size_high) = long_halves(self.len_bytes());
        put_u32(&mut buf, 4, size);
        put_u32(&mut buf, 108, size_high);
        put_u16(&mut buf, 26, self.link_count());
        let blocks: u64 = self
            .blocks()
            .iter()
            .map(|extent| u64::from(extent.len))
            .sum();
        let (sectors, sectors_high) = long_halves(blocks * SECTORS_PER_BLOCK);
        put_u32(&mut buf, 28, sectors);
        put_u16(&mut buf, 116, halves(sectors_high).0);
        put_u32(&mut buf, 104, self.xattr_block.unwrap_or_default());
        let (seconds, extra) = attributes.mtime.encode();
        // Access, change and modification; and creation, further on. Then what extends them.
        for at in [8, 12, 16, 144] {
            put_u32(&mut buf, at, seconds);
        }
        for at in [132, 136, 140, 148] {
            put_u32(&mut buf, at, extra);
        }
        put_u16(&mut buf, 128, EXTRA_LEN);
        self.encode_content(&mut buf, root);
        put(&mut buf, XATTRS_AT, xattrs);
        buf
    }

    fn encode_content(&self, buf: &mut [u8; INODE_LEN], root: &[u8; ROOT_LEN]) {
        const FLAGS_AT: usize = 32;
        const CONTENT_AT: usize = 40;
        match &self.kind {
            Kind::Symlink {
                target,
                block: None,
            } => put(buf, CONTENT_AT, target),
            Kind::File { .. } | Kind::Directory(_) | Kind::Symlink { .. } => {
                put_u32(buf, FLAGS_AT, FLAG_EXTENTS);
                put(buf, CONTENT_AT, root);
            }
            Kind::Device { major, minor, .. } => match (u8::try_from(*major), u8::try_from(*minor))
            {
                (Ok(major), Ok(minor)) => put(buf, CONTENT_AT, &[minor, major]),
                _ => {
                    let number = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
                    put_u32(buf, CONTENT_AT + 4, number);
                }
            },
            Kind::Fifo => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_34_bits() {
        for (seconds, low, epoch) in [
            (0, 0, 0),
            (-1, u32::MAX, 0),
            (-(1 << 31), 1 << 31, 0),
            ((1 << 31) - 1, (1 << 31) - 1, 0),
            (1 << 31, 1 << 31, 1),
            ((1 << 32) - 1, u32::MAX, 1),
            (1 << 32, 0, 1),
            (15_032_385_535, (1 << 31) - 1, 3),
            (i64::MAX, (1 << 31) - 1, 3),
            (i64::MIN, 1 << 31, 0),
        ] {
            let time = Time { seconds, nanos: 5 };
            assert_eq!(time.encode(), (low, 20 | epoch), "{seconds}");
        }
    }
}
