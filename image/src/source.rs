//! The bytes of one layer, whatever they are packed in.

use std::cell::RefCell;
use std::path::Path;

use blob::{FileBlob, ReadAt, ReadError, Window};
use zfile::{Scratch, ZFile};

use crate::error::LayerError;
use crate::probe;

/// Where a layer's bytes come from in the end: a file, a block device, or what a test puts there.
pub type Bytes = Box<dyn ReadAt>;

thread_local! {
    /// Buffers for opening layers, which reads each of them four times: a new zstd decoder for every read would
    /// take more time than all the rest. Readers have their own.
    static OPENING: RefCell<Scratch> = RefCell::default();
}

/// The LSMT stream of one layer.
///
/// A closed set on purpose: a new packing is one more arm here and nothing elsewhere.
pub enum Source {
    /// Stored as it is.
    Plain(Window<Bytes>),
    /// Inside a ZFile.
    Compressed(Box<ZFile<Window<Bytes>>>),
}

/// How a layer is packed, for people and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Whether a tar header stands before it.
    pub tar: bool,
    /// The compression, if there is one.
    pub compression: Option<zfile::Algorithm>,
}

impl Source {
    /// The layer in the file or block device at `path`, by itself. That it is sound as a layer is for
    /// [`lsmt::Layer::open`] to say.
    ///
    /// # Errors
    ///
    /// When there is no such file, or it holds no layer that this crate unpacks.
    pub fn open(path: &Path) -> Result<Self, LayerError> {
        Self::from_blob(Box::new(FileBlob::open(path)?))
    }

    /// The layer in a blob.
    ///
    /// # Errors
    ///
    /// When it holds no layer that this crate unpacks.
    pub fn from_blob(bytes: Bytes) -> Result<Self, LayerError> {
        probe::unwrap(bytes)
    }

    /// What is in the ZFile in a blob, with or without tar around it, be it a layer or not.
    ///
    /// # Errors
    ///
    /// When it holds no ZFile.
    pub fn from_any_zfile(bytes: Bytes) -> Result<Self, LayerError> {
        probe::unwrap_any(bytes)
    }

    /// How the layer is packed.
    #[must_use]
    pub fn packing(&self) -> Packing {
        match self {
            Self::Plain(window) => Packing {
                tar: window.start() > 0,
                compression: None,
            },
            Self::Compressed(zfile) => Packing {
                tar: zfile.source().start() > 0,
                compression: Some(zfile.info().algorithm),
            },
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("packing", &self.packing())
            .finish_non_exhaustive()
    }
}

impl ReadAt for Source {
    fn len_bytes(&self) -> u64 {
        match self {
            Self::Plain(window) => window.len_bytes(),
            Self::Compressed(zfile) => zfile.len_bytes(),
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        match self {
            Self::Plain(window) => window.read_exact_at(buf, offset),
            Self::Compressed(zfile) => {
                OPENING.with_borrow_mut(|scratch| zfile.read_exact_at_with(scratch, buf, offset))
            }
        }
    }
}
