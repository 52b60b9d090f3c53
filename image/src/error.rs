//! Why an image cannot be opened, and where.

use std::path::PathBuf;

use blob::tar::TarError;
use blob::{FileOpenError, ReadError};

use crate::shown::Shown;

/// An image that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// One layer is not what it should be.
    #[error("layer {ordinal} ({})", Shown(path))]
    Layer {
        /// Ordinal of the layer, 0 = lowest.
        ordinal: usize,
        /// Its path as it was given.
        path: PathBuf,
        /// What is wrong with it.
        source: LayerError,
    },
    /// The layers hold more index records together than are kept in memory at once.
    #[error(
        "layer {ordinal} ({}): {found} index records in the layers up to this one are more than the limit of {max}",
        Shown(path)
    )]
    TooManyRecords {
        /// Ordinal of the layer that is one too many, 0 = lowest.
        ordinal: usize,
        /// Its path as it was given.
        path: PathBuf,
        /// Records of this layer and those below it.
        found: usize,
        /// Records accepted: [`MAX_RECORDS`](crate::MAX_RECORDS).
        max: usize,
    },
    /// The layers do not make a disk together.
    #[error("cannot stack {layer_count} layers")]
    Stack {
        /// How many layers there are.
        layer_count: usize,
        /// What is wrong with them.
        source: lsmt::StackError,
    },
}

/// What is wrong with one layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The path does not lead to a blob.
    #[error(transparent)]
    File(#[from] FileOpenError),
    /// Reading the first bytes failed.
    #[error("cannot read its first bytes")]
    Read(#[source] ReadError),
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// It begins like nothing that could be a layer.
    #[error("is not a layer: expected an LSMT, ZFile or ustar magic, found {found}")]
    NotALayer {
        /// What it begins with.
        found: String,
    },
    /// A container inside another of its kind, which no writer makes.
    #[error(
        "holds {inner} inside {outer}: a layer is LSMT, optionally in one ZFile, optionally in one tar"
    )]
    Nested {
        /// The container inside.
        inner: &'static str,
        /// The container around it.
        outer: &'static str,
    },
    /// The tar wrapper cannot be used.
    #[error("tar wrapper")]
    Tar(#[source] TarError),
    /// The ZFile cannot be used.
    #[error("ZFile")]
    ZFile(#[source] zfile::OpenError),
    /// The LSMT file cannot be used.
    #[error("LSMT")]
    Lsmt(#[source] lsmt::OpenError),
}
