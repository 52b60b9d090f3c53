//! Where layers come out: LSMT, packed, in a file that appears when it is complete.

use std::path::Path;

use crate::error::BuildError;
use crate::{Output, Packed, Packer, Packing};

/// What a layer is to say about itself, and how it is stored.
#[derive(Clone, Debug)]
pub struct LayerOptions {
    /// How it is stored.
    pub packing: Packing,
    /// What it says.
    pub header: lsmt::WriterOptions,
}

impl LayerOptions {
    /// A layer of this size that says nothing about itself, in the form that every known reader reads: it states its
    /// size, has an index, and its length is a multiple of 4096 bytes.
    #[must_use]
    pub fn new(packing: Packing, virtual_size_bytes: u64) -> Self {
        Self {
            packing,
            header: lsmt::WriterOptions {
                virtual_size_bytes,
                pad_data: true,
                ..lsmt::WriterOptions::default()
            },
        }
    }

    /// The same, where what lies beyond the end of the disk stays, for a disk that is made longer again.
    pub(crate) fn keeping_leftovers(&self) -> Self {
        let mut options = self.clone();
        options.header.beyond_virtual_size = true;
        options
    }
}

/// A layer that has been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the layer and of its file.
    pub packed: Packed,
    /// Length of its disk in bytes.
    pub virtual_size_bytes: u64,
    /// Bytes of the disk that it decides by data.
    pub data_bytes: u64,
    /// Bytes of the disk that it decides to be zero.
    pub zeroed_bytes: u64,
    /// Records of its index.
    pub record_count: usize,
}

/// What writes a layer.
pub(crate) type LayerWriter<'a> = lsmt::Writer<Packer<'a>>;

/// A layer cannot be written to `path`.
pub(crate) fn failed(path: &Path) -> impl Fn(lsmt::WriteError) -> BuildError + '_ {
    |source| BuildError::Layer {
        path: path.to_owned(),
        source,
    }
}

/// Writes a layer: `fill` says what it decides.
pub(crate) fn write(
    output: Output,
    options: &LayerOptions,
    fill: impl FnOnce(&mut LayerWriter<'_>) -> Result<(), BuildError>,
) -> Result<Written, BuildError> {
    let not_packed = |source| BuildError::Pack {
        path: output.path().to_owned(),
        source,
    };
    let packer = Packer::new(output.file(), &options.packing).map_err(not_packed)?;
    let mut writer = lsmt::Writer::new(packer, &options.header).map_err(failed(output.path()))?;
    fill(&mut writer)?;
    let data_bytes = writer.data_sectors() * lsmt::SECTOR_LEN_BYTES;
    let zeroed_bytes = writer.zeroed_sectors() * lsmt::SECTOR_LEN_BYTES;
    let record_count = writer.record_count();
    let packer = writer.finish().map_err(failed(output.path()))?;
    let packed = packer.finish().map_err(not_packed)?;
    output.finish()?;
    Ok(Written {
        packed,
        virtual_size_bytes: options.header.virtual_size_bytes,
        data_bytes,
        zeroed_bytes,
        record_count,
    })
}
