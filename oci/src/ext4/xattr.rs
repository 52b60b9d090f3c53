//! Extended attributes: their names, POSIX ACLs, and the two places where they are kept.

use super::bytes::{put, put_u16, put_u32};
use super::geometry::BLOCK_LEN;

const MAGIC: u32 = 0xEA02_0000;
/// Bytes before the entries in an inode, and in a block.
const INODE_HEADER_LEN: usize = 4;
const BLOCK_HEADER_LEN: usize = 32;
const ENTRY_LEN: usize = 16;
/// Four zero bytes end the entries.
const END_LEN: usize = 4;

/// Longest name, with its prefix.
pub const MAX_XATTR_NAME_LEN_BYTES: usize = 255;

/// Prefixes that ext4 keeps as a number.
const PREFIXES: [(&[u8], u8); 4] = [
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"system.", 7),
];
const ACL_ACCESS: (&[u8], u8) = (b"system.posix_acl_access", 2);
const ACL_DEFAULT: (&[u8], u8) = (b"system.posix_acl_default", 3);

/// One extended attribute, as ext4 names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Xattr {
    index: u8,
    name_len: usize,
    name: Box<[u8]>,
    value: Box<[u8]>,
}

/// Why an attribute cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XattrError {
    /// No prefix that ext4 knows.
    #[error("ext4 keeps names that begin with user., trusted., security. or are POSIX ACLs")]
    Prefix,
    /// An empty or endless name.
    #[error("its name has {len_bytes} bytes, of at most {MAX_XATTR_NAME_LEN_BYTES}")]
    NameLength {
        /// Bytes of the name.
        len_bytes: usize,
    },
    /// A POSIX ACL that is none.
    #[error("its value is no POSIX ACL")]
    Acl,
    /// All of them need more than a block.
    #[error("all extended attributes of a file together take more than 4 KiB")]
    TooMuch,
}

impl Xattr {
    /// The attribute called `name` by the kernel.
    pub(crate) fn new(name: &[u8], value: &[u8]) -> Result<Self, XattrError> {
        if name.len() > MAX_XATTR_NAME_LEN_BYTES {
            return Err(XattrError::NameLength {
                len_bytes: name.len(),
            });
        }
        for (full, index) in [ACL_ACCESS, ACL_DEFAULT] {
            if name == full {
                return Ok(Self::known(index, b"", &stored_acl(value)?));
            }
        }
        let known = PREFIXES
            .into_iter()
            .find_map(|(prefix, index)| Some((index, name.strip_prefix(prefix)?)));
        let Some((index, rest)) = known.filter(|(index, _)| *index != 7) else {
            return Err(XattrError::Prefix);
        };
        if rest.is_empty() {
            return Err(XattrError::NameLength { len_bytes: 0 });
        }
        Ok(Self::known(index, rest, value))
    }

    fn known(index: u8, name: &[u8], value: &[u8]) -> Self {
        Self {
            index,
            name_len: name.len(),
            name: name.into(),
            value: value.into(),
        }
    }

    /// Bytes that are kept of it.
    pub(super) fn held_bytes(&self) -> u64 {
        self.name.len() as u64 + self.value.len() as u64
    }

    fn entry_len(&self) -> usize {
        (ENTRY_LEN + self.name.len()).next_multiple_of(4)
    }

    fn value_len(&self) -> usize {
        self.value.len().next_multiple_of(4)
    }

    /// What the kernel computes over name and value.
    fn hash(&self) -> u32 {
        let name = self
            .name
            .iter()
            .fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
        let words = self.value.chunks(4).map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_le_bytes(word)
        });
        words.fold(name, |hash, word| hash.rotate_left(16) ^ word)
    }
}

/// A POSIX ACL as ext4 stores it, from the form in which system calls pass it: version, and behind it entries of tag,
/// permissions and id. The stored form leaves out ids where there are none.
fn stored_acl(value: &[u8]) -> Result<Vec<u8>, XattrError> {
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    let Some(entries) = value.strip_prefix(&2_u32.to_le_bytes()) else {
        return Err(XattrError::Acl);
    };
    let (entries, []) = entries.as_chunks::<8>() else {
        return Err(XattrError::Acl);
    };
    let mut stored = 1_u32.to_le_bytes().to_vec();
    for entry in entries {
        let &[tag_low, tag_high, ..] = entry;
        match u16::from_le_bytes([tag_low, tag_high]) {
            USER | GROUP => stored.extend_from_slice(entry),
            1 | 4 | 16 | 32 => stored.extend_from_slice(&entry[..4]),
            _ => return Err(XattrError::Acl),
        }
    }
    Ok(stored)
}

/// Where the attributes of a file go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// Into the room behind the fields of the inode.
    Inode(Vec<u8>),
    /// Into a block of their own.
    Block(Vec<u8>),
}

/// Stores attributes, sorted, in the inode if its `room` lets them and else in a block.
pub(super) fn place(xattrs: &[Xattr], room: usize) -> Result<Placed, XattrError> {
    let entries: usize = xattrs.iter().map(Xattr::entry_len).sum();
    let values: usize = xattrs.iter().map(Xattr::value_len).sum();
    let needed = entries + END_LEN + values;
    if xattrs.is_empty() {
        return Ok(Placed::Inode(Vec::new()));
    }
    if INODE_HEADER_LEN + needed <= room {
        let mut buf = vec![0; room];
        put_u32(&mut buf, 0, MAGIC);
        // Positions of values count from the first entry here, and from the block's first byte there.
        fill(xattrs, &mut buf[INODE_HEADER_LEN..], 0, |_| 0);
        return Ok(Placed::Inode(buf));
    }
    if BLOCK_HEADER_LEN + needed > BLOCK_LEN {
        return Err(XattrError::TooMuch);
    }
    let mut buf = vec![0; BLOCK_LEN];
    put_u32(&mut buf, 0, MAGIC);
    put_u32(&mut buf, 4, 1);
    put_u32(&mut buf, 8, 1);
    let all = xattrs
        .iter()
        .fold(0_u32, |all, xattr| all.rotate_left(16) ^ xattr.hash());
    put_u32(&mut buf, 12, all);
    fill(xattrs, &mut buf, BLOCK_HEADER_LEN, Xattr::hash);
    Ok(Placed::Block(buf))
}

/// Entries from `at` upwards, values from the end downwards.
fn fill(xattrs: &[Xattr], buf: &mut [u8], mut at: usize, hash: impl Fn(&Xattr) -> u32) {
    let mut value_at = buf.len();
    for xattr in xattrs {
        value_at -= xattr.value_len();
        put(buf, value_at, &xattr.value);
        let offset = match xattr.value.is_empty() {
            true => 0,
            false => value_at,
        };
        // Everything lies in one block, and names are short.
        buf[at] = u8::try_from(xattr.name_len).unwrap_or(u8::MAX);
        buf[at + 1] = xattr.index;
        put_u16(buf, at + 2, u16::try_from(offset).unwrap_or(u16::MAX));
        let len = u32::try_from(xattr.value.len()).unwrap_or(u32::MAX);
        put_u32(buf, at + 8, len);
        put_u32(buf, at + 12, hash(xattr));
        put(buf, at + ENTRY_LEN, &xattr.name);
        at += xattr.entry_len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_as_prefix_and_rest() {
        let xattr = Xattr::new(b"security.capability", b"x").unwrap();
        assert_eq!((xattr.index, &*xattr.name), (6, &b"capability"[..]));
        for name in [
            &b"com.apple.provenance"[..],
            b"system.nfs4_acl",
            b"user",
            b"",
        ] {
            assert_eq!(Xattr::new(name, b""), Err(XattrError::Prefix));
        }
        assert_eq!(
            Xattr::new(b"user.", b""),
            Err(XattrError::NameLength { len_bytes: 0 })
        );
        let long = [b"user.".as_slice(), &[b'x'; 251]].concat();
        assert_eq!(
            Xattr::new(&long, b""),
            Err(XattrError::NameLength { len_bytes: 256 })
        );
    }

    #[test]
    fn acls_lose_the_ids_they_do_not_have() {
        let acl = [
            &[2, 0, 0, 0][..],
            &[1, 0, 7, 0, 255, 255, 255, 255],
            &[2, 0, 5, 0, 232, 3, 0, 0],
            &[32, 0, 4, 0, 255, 255, 255, 255],
        ]
        .concat();
        let stored = [
            1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 5, 0, 232, 3, 0, 0, 32, 0, 4, 0,
        ];
        let xattr = Xattr::new(b"system.posix_acl_access", &acl).unwrap();
        assert_eq!(*xattr.value, stored);
        for bad in [
            &acl[..acl.len() - 1],
            &acl[1..],
            &[],
            &[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let refused = Xattr::new(b"system.posix_acl_default", bad);
            assert_eq!(refused, Err(XattrError::Acl), "{bad:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let xattr = |len| Xattr::new(b"user.x", &vec![7; len]).unwrap();
        // 4 for the magic, 20 for the entry, 4 for the end.
        assert!(matches!(place(&[xattr(68)], 96), Ok(Placed::Inode(_))));
        assert!(matches!(place(&[xattr(69)], 96), Ok(Placed::Block(_))));
        assert!(matches!(place(&[xattr(4040)], 96), Ok(Placed::Block(_))));
        assert_eq!(place(&[xattr(4041)], 96), Err(XattrError::TooMuch));
        assert_eq!(place(&[], 96), Ok(Placed::Inode(Vec::new())));
    }
}
