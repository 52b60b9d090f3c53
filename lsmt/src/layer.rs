//! One layer: a source, what it says about itself, and its index.

use blob::ReadAt;
use crc_fast::{CrcAlgorithm, Digest};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::{Corruption, Feature, OpenError};
use crate::format::{HEADER_END, RawHeader, RawRecord, SECTOR_LEN_BYTES};
use crate::header::{self, HeaderForm, Uuid, Warning};
use crate::index::{self, Index};
use crate::segment::Segment;

/// What a layer says about itself. Everything is taken from the trailer except `header_form`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// Length of the disk in bytes, a multiple of 512; 0 leaves it to the layers below.
    pub virtual_size_bytes: u64,
    /// Name of the layer. Informational.
    pub uuid: Uuid,
    /// Name of the layer below, by custom. Informational, and often wrong.
    pub parent_uuid: Uuid,
    /// Free text without its trailing NULs, at most 256 bytes of any value.
    pub user_tag: Vec<u8>,
    /// Start of the index, in bytes; all data lies between byte 4096 and here.
    pub index_offset: u64,
    /// Records stored in the index, padding included.
    pub record_count: usize,
    /// Records that mean something.
    pub segment_count: usize,
    /// Disk sectors decided by data.
    pub data_sectors: u64,
    /// Disk sectors decided to be zero.
    pub zeroed_sectors: u64,
    /// How the layer came to be.
    pub header_form: HeaderForm,
    /// Whether records carry tags, as the output of merge tools does; they are ignored.
    pub tags_present: bool,
    /// A checksum over trailer and index: two layers that differ in it map different bytes. It says nothing
    /// about the data and is no defence against intent.
    pub fingerprint: u64,
    /// Oddities to tell a person about.
    pub warnings: Vec<Warning>,
}

/// A sealed layer that passed every check of the format, ready to be stacked into a [`Disk`](crate::Disk).
#[derive(Debug)]
pub struct Layer<S> {
    source: S,
    info: LayerInfo,
    segments: Vec<Segment>,
}

impl<S: ReadAt> Layer<S> {
    /// Opens the layer that fills `source` from its first byte to its last.
    ///
    /// Reads header, trailer and index, at most 16 MB, in three reads; data is not touched.
    ///
    /// # Errors
    ///
    /// When a read fails, when the bytes break a rule of the format, when they are another kind of file, or when
    /// a number in them is beyond a limit of this crate. No limit is checked after the memory it guards has been
    /// allocated.
    pub fn open(source: S) -> Result<Self, OpenError> {
        let len_bytes = source.len_bytes();
        let Some(trailer_offset) = len_bytes.checked_sub(HEADER_END) else {
            return Err(OpenError::Corrupt(Corruption::TooShort { len_bytes }));
        };
        let header = read_header(&source, 0)?;
        let header_form = header::check_header(&header)?;
        if trailer_offset < HEADER_END {
            return Err(header::without_trailer(&header));
        }
        let trailer = read_header(&source, trailer_offset)?;
        let geometry = header::check_trailer(&header, &trailer, trailer_offset)?;

        let mut records = vec![RawRecord::default(); geometry.record_count];
        source.read_exact_at(records.as_mut_bytes(), geometry.index_offset)?;
        let fingerprint = fingerprint(&trailer, &records);
        let Index {
            segments,
            data_sectors,
            zeroed_sectors,
            tags_present,
        } = index::parse(records, geometry.index_offset)?;
        if !len_bytes.is_multiple_of(SECTOR_LEN_BYTES) {
            // The trailer of a turboOCI layer follows its index without padding, so its length can be odd.
            return Err(if tags_present {
                OpenError::Unsupported(Feature::TurboOci)
            } else {
                OpenError::Corrupt(Corruption::LengthUnaligned { len_bytes })
            });
        }
        let info = LayerInfo {
            virtual_size_bytes: geometry.virtual_size_bytes,
            uuid: Uuid::from_bytes(trailer.uuid),
            parent_uuid: Uuid::from_bytes(trailer.parent_uuid),
            user_tag: without_trailing_nuls(&trailer.user_tag),
            index_offset: geometry.index_offset,
            record_count: geometry.record_count,
            segment_count: segments.len(),
            data_sectors,
            zeroed_sectors,
            header_form,
            tags_present,
            fingerprint,
            warnings: header::compare(&header, &trailer),
        };
        Ok(Self {
            source,
            info,
            segments,
        })
    }

    /// What the layer says about itself.
    pub fn info(&self) -> &LayerInfo {
        &self.info
    }

    /// The bytes of the layer, header and trailer included.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The records that mean something, in the order of the disk, free of overlap. Empty once the layer is part of
    /// a [`Disk`](crate::Disk), which has merged them.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The index, which the layer no longer has afterwards.
    pub(crate) fn take_segments(&mut self) -> Vec<Segment> {
        std::mem::take(&mut self.segments)
    }
}

fn read_header(source: &impl ReadAt, offset: u64) -> Result<RawHeader, OpenError> {
    let mut raw = RawHeader::new_zeroed();
    source.read_exact_at(raw.as_mut_bytes(), offset)?;
    Ok(raw)
}

pub(crate) fn without_trailing_nuls(tag: &[u8]) -> Vec<u8> {
    let len = tag
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    tag.iter().copied().take(len).collect()
}

fn fingerprint(trailer: &RawHeader, records: &[RawRecord]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(trailer.as_bytes());
    digest.update(records.as_bytes());
    digest.finalize()
}
