//! What cannot be stored.

use std::io;

use super::{
    MAX_DEVICE, MAX_LINKS, MAX_NAME_LEN_BYTES, MAX_TARGET_LEN_BYTES, MAX_XATTR_NAME_LEN_BYTES,
    XattrError,
};

/// A file system, or something in it, that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ext4Error {
    /// No such size.
    #[error("a file system of {size_bytes} bytes: {min} to {max} are possible, in steps of 4096")]
    Size {
        /// What was asked for.
        size_bytes: u64,
        /// Smallest size.
        min: u64,
        /// Largest size.
        max: u64,
    },
    /// No space is left.
    #[error("the file system of {size_bytes} bytes is full; --size makes it larger")]
    Full {
        /// Its size.
        size_bytes: u64,
    },
    /// No inode is left.
    #[error("more than {max} files, directories and links; a larger --size may make room for more")]
    TooManyFiles {
        /// How many there can be.
        max: u32,
    },
    /// Too much to keep in memory.
    #[error(
        "names, targets of links and extended attributes together have more than {max_bytes} bytes"
    )]
    TooMuchText {
        /// How many there can be.
        max_bytes: u64,
    },
    /// A file that can never fit.
    #[error("a file of {len_bytes} bytes in a file system of {size_bytes}; --size makes it larger")]
    FileTooLarge {
        /// Length of the file.
        len_bytes: u64,
        /// Size of the file system.
        size_bytes: u64,
    },
    /// An empty or endless name, or one that cannot be a name.
    #[error(
        "{len_bytes} bytes are no file name: 1 to {MAX_NAME_LEN_BYTES}, without slash and NUL, and not . or .."
    )]
    Name {
        /// Its length.
        len_bytes: usize,
    },
    /// An empty or endless target of a symbolic link.
    #[error(
        "a symbolic link to a path of {len_bytes} bytes: 1 to {MAX_TARGET_LEN_BYTES} are possible, without NUL"
    )]
    Target {
        /// Length of the target.
        len_bytes: usize,
    },
    /// A device with impossible numbers.
    #[error("device {major}:{minor}: numbers go up to {}:{}", MAX_DEVICE.0, MAX_DEVICE.1)]
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A file with too many names.
    #[error("more than {MAX_LINKS} hard links to one file")]
    TooManyLinks,
    /// A second name for a directory.
    #[error("a hard link to a directory")]
    LinkToDirectory,
    /// An extended attribute that cannot be kept.
    #[error("extended attribute, of names up to {MAX_XATTR_NAME_LEN_BYTES} bytes")]
    Xattr(#[from] XattrError),
    /// A directory that is none.
    #[error("inode {number} is not a directory")]
    NotADirectory {
        /// Its number.
        number: u32,
    },
    /// The content of a file cannot be read, or the file system not written.
    #[error("cannot copy")]
    Io(#[from] io::Error),
}
