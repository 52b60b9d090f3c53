//! The bytes of one layer, whatever they are packed in.

use std::cell::RefCell;
use std::path::Path;

use blob::{FileBlob, ReadAt, ReadError, Window};
use lsmt::Layer;
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

/// The two forms of tar that layers are wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarForm {
    /// One header before the layer.
    Plain,
    /// A PAX header with the size, and then the header of the member.
    Pax,
}

impl std::fmt::Display for TarForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Pax => "PAX",
        })
    }
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
    /// Finds out what the file or block device at `path` is, and takes off what is around the layer: checks tar
    /// headers and the metadata of a ZFile, and looks no deeper. So even a layer whose first block is damaged can be
    /// had as a source; whether there is a layer inside, [`Source::layer`] says.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is nothing that a layer could be in, or what is around the layer is damaged.
    pub fn open(path: &Path) -> Result<Self, LayerError> {
        Self::from_blob(Box::new(FileBlob::open(path)?))
    }

    /// The same for a blob that is already open.
    ///
    /// # Errors
    ///
    /// As for [`Source::open`].
    pub fn from_blob(bytes: Bytes) -> Result<Self, LayerError> {
        probe::unwrap(bytes)
    }

    /// Opens the layer, with every check there is for header, trailer and index. Lasts as long as the source.
    ///
    /// # Errors
    ///
    /// When there is no sound layer inside.
    pub fn layer(&self) -> Result<Layer<&Self>, LayerError> {
        probe::open_layer(self)
    }

    /// Opens the layer for good.
    ///
    /// # Errors
    ///
    /// As for [`Source::layer`].
    pub fn into_layer(self) -> Result<Layer<Self>, LayerError> {
        probe::open_layer(self)
    }

    /// How the layer is packed.
    #[must_use]
    pub fn packing(&self) -> Packing {
        Packing {
            tar: self.tar().is_some(),
            compression: self.zfile().map(|zfile| zfile.info().algorithm),
        }
    }

    /// The form of tar around the layer, if there is one.
    #[must_use]
    pub fn tar(&self) -> Option<TarForm> {
        match self.stored().start() {
            0 => None,
            blob::tar::BLOCK_LEN_BYTES => Some(TarForm::Plain),
            _ => Some(TarForm::Pax),
        }
    }

    /// The ZFile around the layer, if there is one.
    #[must_use]
    pub fn zfile(&self) -> Option<&ZFile<Window<Bytes>>> {
        match self {
            Self::Plain(_) => None,
            Self::Compressed(zfile) => Some(zfile),
        }
    }

    /// The blob, or the part of it that is inside the tar headers: the ZFile, or else the layer itself. Its
    /// [`source`](Window::source) is the whole blob.
    #[must_use]
    pub fn stored(&self) -> &Window<Bytes> {
        match self {
            Self::Plain(window) => window,
            Self::Compressed(zfile) => zfile.source(),
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
