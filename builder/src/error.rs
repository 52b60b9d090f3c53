//! Why a layer or a disk cannot be made.

use std::io;
use std::path::PathBuf;

use crate::content::ContentError;
use crate::{OutputError, PackError};

/// Why a layer or a disk cannot be made. What has been written of it so far is gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// What it is made from cannot be read.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// Layers that it is made from cannot be used.
    #[error(transparent)]
    Open(#[from] image::OpenError),
    /// A read-write layer cannot be used.
    #[error("{}", path.display())]
    Unsealed {
        /// Its data file.
        path: PathBuf,
        /// Why.
        source: lsmt::UnsealedError,
    },
    /// What was to be committed is no layer.
    #[error("{}: {what}", path.display())]
    NotALayer {
        /// The file or directory.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The output is no layer, or cannot be written.
    #[error("cannot write {}", path.display())]
    Layer {
        /// The output.
        path: PathBuf,
        /// Why.
        source: lsmt::WriteError,
    },
    /// The output cannot be compressed or wrapped.
    #[error("cannot write {}", path.display())]
    Pack {
        /// The output.
        path: PathBuf,
        /// Why.
        source: PackError,
    },
    /// The output cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output cannot be made.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The layer is cut into too many pieces.
    #[error(
        "the layer needs more than {max} index records, which is all that it may have; a larger --granularity than {granularity_bytes} makes fewer, longer ones"
    )]
    TooManyRecords {
        /// Records it may have.
        max: usize,
        /// Granularity now.
        granularity_bytes: u32,
    },
    /// The merged layers hold more than one layer can.
    #[error(
        "the layer needs more than {max} index records, which is all that it may have; merge fewer layers with --from and --to"
    )]
    TooManyMerged {
        /// Records it may have.
        max: usize,
    },
    /// There is no such granularity.
    #[error("a granularity of {granularity_bytes} bytes is not a power of two from 512 to {max}")]
    Granularity {
        /// What was asked for.
        granularity_bytes: u32,
        /// The largest.
        max: u32,
    },
    /// The layers to merge are not there.
    #[error("there are no layers {from} to {to}: {count} layers are numbered from 0")]
    NoSuchLayers {
        /// The lowest wanted.
        from: usize,
        /// The highest wanted.
        to: usize,
        /// Layers given.
        count: usize,
    },
    /// The range to export is not on the disk.
    #[error("the range {start} to {end} leaves the disk, which is {len_bytes} bytes long")]
    NoSuchRange {
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// Length of the disk.
        len_bytes: u64,
    },
    /// A file system cannot be made.
    #[error(transparent)]
    FileSystem(#[from] crate::mkfs::FileSystemError),
}
