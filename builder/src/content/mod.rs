//! What a disk should hold, wherever that is written down.

mod empty;
mod foreign;
mod format;
mod qemu_img;
mod raw;
mod resized;
mod stack;
mod stream;

use std::error::Error;
use std::io;
use std::path::PathBuf;

pub use empty::Empty;
pub use format::{Format, SourceOptions, open};
pub use raw::Raw;
pub use resized::Resized;
pub use stack::Stack;
pub(crate) use stream::read_full;
pub use stream::{Stream, spool};

/// What a disk should hold, from its first byte to its last. It does not change.
///
/// Threads share it by reference.
pub trait Content: Send + Sync {
    /// Length in bytes.
    fn len_bytes(&self) -> u64;

    /// What lies at `offset`, which is below the length, and how far it goes at least. Nothing need be read for that:
    /// data may be zero all the same.
    ///
    /// # Errors
    ///
    /// When it cannot be found out.
    fn stretch_at(&self, offset: u64) -> Result<Stretch, ContentError>;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// When not all of them can be had, or the range leaves the content.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError>;

    /// Whether it can only be read from front to back, once.
    fn is_stream(&self) -> bool {
        false
    }
}

/// A part of a disk that is of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// Bytes that have to be read.
    Data {
        /// Where it ends, in bytes.
        end: u64,
    },
    /// Zeroes, which need not be read.
    Zero {
        /// Where it ends, in bytes.
        end: u64,
    },
}

impl Stretch {
    /// Where it ends, in bytes.
    #[must_use]
    pub fn end(self) -> u64 {
        match self {
            Self::Data { end } | Self::Zero { end } => end,
        }
    }

    /// Whether it has to be read.
    #[must_use]
    pub fn is_data(self) -> bool {
        matches!(self, Self::Data { .. })
    }
}

/// A disk that cannot be read, or is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// There is no such file, or it is none.
    #[error("{}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: blob::FileOpenError,
    },
    /// It cannot be read.
    #[error("cannot read byte {offset} of {what}")]
    Read {
        /// Name of the content.
        what: String,
        /// First byte that was wanted.
        offset: u64,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A layer cannot deliver.
    #[error(transparent)]
    Stack(#[from] image::ReadFailure),
    /// Disks consist of whole sectors.
    #[error(
        "{what} is {len_bytes} bytes long, not a multiple of 512; --size {padded} fills the last sector with zeroes"
    )]
    Unaligned {
        /// Name of the content.
        what: String,
        /// Its length.
        len_bytes: u64,
        /// The length of the sectors it needs.
        padded: u64,
    },
    /// There is nothing in it.
    #[error("{what} is empty: a disk has at least one sector of 512 bytes")]
    Empty {
        /// Name of the content.
        what: String,
    },
    /// A disk of this length cannot be expressed.
    #[error("{what} is {len_bytes} bytes long, more than the limit of {max}")]
    TooLong {
        /// Name of the content.
        what: String,
        /// Its length.
        len_bytes: u64,
        /// Longest length.
        max: u64,
    },
    /// It begins like an image of another format than it is taken for.
    #[error("{} is taken as {taken} but begins like {found}: say which it is with --format", path.display())]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// What it would be read as.
        taken: Format,
        /// What it looks like.
        found: Format,
    },
    /// It begins like something that is no disk image.
    #[error(
        "{} begins like {found}, not like a disk: {instead}; if it is a disk all the same, say --format raw",
        path.display()
    )]
    NotADisk {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
        /// What to do with such a file.
        instead: &'static str,
    },
    /// A stream is not read from front to back in this format.
    #[error("standard input can only be raw, not {format}: give the image as a file")]
    StreamFormat {
        /// The format.
        format: Format,
    },
    /// It needs other files.
    #[error(
        "{} refers to another file ({names}): if you trust whoever made it, --allow-backing opens that file, too",
        path.display()
    )]
    Backing {
        /// The file.
        path: PathBuf,
        /// The other file, as far as it is known.
        names: String,
    },
    /// It cannot be read as an image of its format.
    #[error("{} cannot be read as {format}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The format.
        format: Format,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A program is missing that reads the format.
    #[error("{program} is needed to read {}: install the package {package}", path.display())]
    NoProgram {
        /// The file.
        path: PathBuf,
        /// The program.
        program: &'static str,
        /// Where Debian has it.
        package: &'static str,
    },
    /// A stream cannot be kept.
    #[error("cannot keep standard input in {}", dir.display())]
    Spool {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A stream has another length than stated.
    #[error("standard input {what} at byte {offset}; --size says {len_bytes}")]
    StreamLength {
        /// What it does.
        what: &'static str,
        /// Where.
        offset: u64,
        /// The length stated.
        len_bytes: u64,
    },
    /// No room for files on the way.
    #[error(transparent)]
    Scratch(#[from] crate::OutputError),
}

impl ContentError {
    pub(crate) fn read(
        what: &str,
        offset: u64,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Read {
            what: what.to_owned(),
            offset,
            source: source.into(),
        }
    }

    /// Content of this name does not have these bytes.
    pub(crate) fn outside(what: &str, offset: u64) -> Self {
        Self::read(what, offset, "outside the disk")
    }
}

/// The length of a disk that holds `len_bytes` bytes: these, unless `size` states more or less.
///
/// # Errors
///
/// When there is no such disk.
pub(crate) fn disk_len(what: &str, len_bytes: u64, size: Option<u64>) -> Result<u64, ContentError> {
    let what = || what.to_owned();
    let len_bytes = size.unwrap_or(len_bytes);
    let max = lsmt::MAX_VIRTUAL_SIZE_BYTES;
    match len_bytes {
        0 => Err(ContentError::Empty { what: what() }),
        _ if len_bytes > max => Err(ContentError::TooLong {
            what: what(),
            len_bytes,
            max,
        }),
        _ if !len_bytes.is_multiple_of(lsmt::SECTOR_LEN_BYTES) => Err(ContentError::Unaligned {
            what: what(),
            len_bytes,
            padded: len_bytes.next_multiple_of(lsmt::SECTOR_LEN_BYTES),
        }),
        _ => Ok(len_bytes),
    }
}

/// The shape of anything that is content.
impl std::fmt::Debug for dyn Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("len_bytes", &self.len_bytes())
            .finish_non_exhaustive()
    }
}
