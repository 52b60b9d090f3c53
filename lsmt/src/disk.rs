//! The disk that a stack of layers makes.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use blob::{ReadAt, ReadError, ReadErrorKind};
use crc_fast::{CrcAlgorithm, Digest};

use crate::error::{LayerReadError, StackError};
use crate::extent::{Extent, Extents};
use crate::format::{MAX_LAYERS, MAX_SEGMENTS, SECTOR_LEN_BYTES};
use crate::layer::Layer;
use crate::merge;
use crate::merged_index::MergedIndex;
use crate::segment::Segment;

/// A read-only disk: layers laid over each other.
///
/// Never changes and has no lock: share it between threads by reference. As a [`ReadAt`] it takes any byte range,
/// not only whole sectors.
#[derive(Debug)]
pub struct Disk<S> {
    /// Without their indexes, which went into the merged one.
    layers: Vec<Layer<S>>,
    index: MergedIndex,
    len_bytes: u64,
    fingerprint: u64,
}

impl<S: ReadAt> Disk<S> {
    /// Stacks `layers`, the lowest first.
    ///
    /// The disk is as long as the highest layer says that says anything; what lower layers hold beyond is left
    /// out. The indexes of the layers are merged and freed, so that a read has one place to look, however many
    /// layers there are. Takes time in proportion to the number of records, times log2 of the number of layers if
    /// they are alike; a large layer under small ones is looked at once or twice.
    ///
    /// # Errors
    ///
    /// When there are no layers or too many, when none states a size, or when the merged index would be larger
    /// than [`MAX_SEGMENTS`].
    pub fn new(layers: Vec<Layer<S>>) -> Result<Self, StackError> {
        let len_bytes = layers
            .iter()
            .rev()
            .map(|layer| layer.info().virtual_size_bytes)
            .find(|size| *size > 0);
        Self::stack(layers, len_bytes)
    }

    /// Stacks `layers` as they are seen below a layer that states the size `len_bytes`, a multiple of 512: what they
    /// hold up to there counts, whatever sizes they state themselves.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), but a size is not needed.
    pub fn with_len(layers: Vec<Layer<S>>, len_bytes: u64) -> Result<Self, StackError> {
        Self::stack(layers, Some(len_bytes))
    }

    fn stack(mut layers: Vec<Layer<S>>, len_bytes: Option<u64>) -> Result<Self, StackError> {
        if layers.is_empty() {
            return Err(StackError::NoLayers);
        }
        if layers.len() > MAX_LAYERS {
            return Err(StackError::TooManyLayers {
                count: layers.len(),
                max: MAX_LAYERS,
            });
        }
        let len_bytes = len_bytes.ok_or(StackError::NoVirtualSize)?;
        let indexes = (0..=u8::MAX)
            .zip(&mut layers)
            .map(|(ordinal, layer)| {
                let mut segments = layer.take_segments();
                merge::clip(&mut segments, len_bytes / SECTOR_LEN_BYTES);
                for segment in &mut segments {
                    *segment = segment.with_layer(ordinal);
                }
                segments
            })
            .collect();
        Ok(Self {
            index: MergedIndex::new(merge::merge(indexes, MAX_SEGMENTS)?),
            fingerprint: fingerprint(&layers, len_bytes),
            layers,
            len_bytes,
        })
    }

    /// Length of the disk in bytes, a multiple of 512 and never 0.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Length of the disk in sectors of 512 bytes.
    pub fn len_sectors(&self) -> u64 {
        self.len_bytes / SECTOR_LEN_BYTES
    }

    /// The layers, the lowest first.
    pub fn layers(&self) -> &[Layer<S>] {
        &self.layers
    }

    /// The merged index: who decides which sectors, in the order of the disk, free of overlap. Sectors of which
    /// none speaks are holes. Segments that touch are not joined.
    pub fn segments(&self) -> &[Segment] {
        self.index.segments()
    }

    /// Segments of the merged index.
    pub fn segment_count(&self) -> usize {
        self.index.segments().len()
    }

    /// Memory that the merged index takes, in bytes.
    pub fn index_len_bytes(&self) -> usize {
        self.index.len_bytes()
    }

    /// A checksum over the fingerprints of the layers, in order, and the size: disks that differ in it are made
    /// from different layers.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Says where `len_bytes` bytes of the disk from byte `offset` on come from.
    ///
    /// Replaces the content of `out` by extents that cover the range from its first byte to its last, in order,
    /// each at least one byte long. They are as long as can be: neighbours are never both zeroes, and never the
    /// continuation of each other in one layer. A range of no bytes has no extents. Reads nothing.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::OutOfRange`] when the range leaves the disk; `out` is empty then.
    pub fn resolve(
        &self,
        offset: u64,
        len_bytes: u64,
        out: &mut Vec<Extent>,
    ) -> Result<(), ReadError> {
        out.clear();
        self.extents(offset, len_bytes)?.append_to(out);
        Ok(())
    }

    /// The layer that holds byte `offset` of the disk and where in its source, if one does: what [`Disk::resolve`] says of
    /// this byte alone, in a few nanoseconds.
    #[inline]
    pub fn locate(&self, offset: u64) -> Option<(u8, u64)> {
        let sector = offset / SECTOR_LEN_BYTES;
        let segment = self.index.at_or_after(sector).first()?;
        if offset >= self.len_bytes || sector < segment.first() || segment.is_zeroed() {
            return None;
        }
        let before = segment.first().wrapping_mul(SECTOR_LEN_BYTES);
        let layer_offset = segment
            .mapped_bytes()
            .wrapping_add(offset.wrapping_sub(before));
        Some((segment.layer(), layer_offset))
    }

    /// Fills `buf` with the bytes of one extent, or of the beginning of it if `buf` is shorter.
    ///
    /// # Errors
    ///
    /// When the layer cannot be read; the source of the error is a [`LayerReadError`] that names the layer. An
    /// extent shorter than `buf`, or one that speaks of a layer this disk does not have, is out of range.
    pub fn read_extent(&self, extent: &Extent, buf: &mut [u8]) -> Result<(), ReadError> {
        let out_of_range = || ReadError::new(ReadErrorKind::OutOfRange, extent.disk_offset());
        if extent.len_bytes() < buf.len() as u64 {
            return Err(out_of_range());
        }
        match *extent {
            Extent::Zero { .. } => {
                buf.fill(0);
                Ok(())
            }
            Extent::Data {
                disk_offset,
                layer: ordinal,
                layer_offset,
                ..
            } => {
                let layer = self
                    .layers
                    .get(usize::from(ordinal))
                    .ok_or_else(out_of_range)?;
                layer
                    .source()
                    .read_exact_at(buf, layer_offset)
                    .map_err(|source| {
                        let error = LayerReadError {
                            ordinal,
                            layer_offset,
                            source,
                        };
                        error.at_disk_offset(disk_offset)
                    })
            }
        }
    }

    fn extents(&self, offset: u64, len_bytes: u64) -> Result<Extents<'_>, ReadError> {
        let end = offset
            .checked_add(len_bytes)
            .filter(|end| *end <= self.len_bytes)
            .ok_or_else(|| ReadError::new(ReadErrorKind::OutOfRange, offset))?;
        let segments = self.index.at_or_after(offset / SECTOR_LEN_BYTES);
        Ok(Extents::new(segments, offset, end))
    }
}

impl<S: ReadAt> ReadAt for Disk<S> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let mut rest = &mut *buf;
        for extent in self.extents(offset, rest.len() as u64)? {
            let (piece, after) = usize::try_from(extent.len_bytes())
                .ok()
                .and_then(|len| rest.split_at_mut_checked(len))
                .ok_or_else(|| ReadError::new(ReadErrorKind::OutOfRange, offset))?;
            self.read_extent(&extent, piece)?;
            rest = after;
        }
        Ok(())
    }
}

fn fingerprint<S: ReadAt>(layers: &[Layer<S>], len_bytes: u64) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    for layer in layers {
        digest.update(&layer.info().fingerprint.to_le_bytes());
    }
    digest.update(&len_bytes.to_le_bytes());
    digest.finalize()
}
