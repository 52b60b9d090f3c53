//! A read-write layer as a live system leaves it behind: a data file and the records of what was written to it.
//!
//! ```text
//! data:   | header 4096 | data, in the order it was written … |
//! index:  | header 4096 | records, in the order of the writes: a later one counts where two overlap |
//! sparse: | header 4096 | the disk itself, with holes where nothing was written |     no index
//! ```
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::Range;

use blob::ReadAt;
use zerocopy::{FromZeros, IntoBytes};

use crate::error::{Corruption, OpenError, Part, UnsealedError};
use crate::format::{
    FIRST_DATA_SECTOR, FLAG_DATA_FILE, FLAG_HEADER, FLAG_SEALED, FLAG_SPARSE, HEADER_END,
    INVALID_OFFSET, LEN_SHIFT, MAPPED_MASK, MAX_END_SECTOR, MAX_RECORD_SECTORS, MAX_SEGMENTS,
    MAX_VIRTUAL_SIZE_BYTES, OFFSET_MASK, RECORD_LEN_BYTES, RawHeader, RawRecord, SECTOR_LEN_BYTES,
    ZEROED_BIT,
};
use crate::header::{self, Uuid};
use crate::layer::without_trailing_nuls;
use crate::merge;
use crate::segment::Segment;

/// Records that an index file may have: 16 bytes each, so 256 MiB. The reference allows eight times as many, of which
/// no sealed layer could keep more than a sixteenth of these.
pub const MAX_UNSEALED_RECORDS: u64 = 16 << 20;

/// Records that are put in order at a time. Each may need a list of its own for that, of 64 bytes.
const BATCH_RECORDS: u64 = 1 << 18;

/// What a read-write layer says about itself in the header of its data file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnsealedInfo {
    /// Length of the disk in bytes, a multiple of 512; 0 leaves it to the layers below.
    pub virtual_size_bytes: u64,
    /// Name of the layer.
    pub uuid: Uuid,
    /// Name of the layer below.
    pub parent_uuid: Uuid,
    /// Free text without its trailing NULs, at most 256 bytes of any value.
    pub user_tag: Vec<u8>,
    /// Whether the data file is the disk itself, with holes. What was discarded has left no trace there: layers below
    /// show through.
    pub is_sparse: bool,
    /// Records in the index file, all of them; 0 for a sparse one.
    pub record_count: u64,
}

/// A read-write layer, its records put in order.
#[derive(Debug)]
pub struct Unsealed<S> {
    source: S,
    info: UnsealedInfo,
    segments: Vec<Segment>,
}

impl<S: ReadAt> Unsealed<S> {
    /// Opens the layer whose data file is `data` and whose records are in `index`.
    ///
    /// A record cut off at the end of the index, by whatever ended its writer, is left out.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is something else, when the two belong to different layers, when a record
    /// makes no sense or speaks of data that is not there, or when there are more than [`MAX_UNSEALED_RECORDS`].
    pub fn open(data: S, index: &impl ReadAt) -> Result<Self, UnsealedError> {
        let (raw, mut info) = data_header(&data)?;
        if info.is_sparse {
            return Err(UnsealedError::Sparse);
        }
        let index_raw = read_header(index).map_err(UnsealedError::Index)?;
        check_index_header(&index_raw)?;
        if index_raw.uuid != raw.uuid {
            return Err(UnsealedError::OfAnother {
                data: info.uuid,
                index: Uuid::from_bytes(index_raw.uuid),
            });
        }
        let records_len_bytes = index.len_bytes().saturating_sub(HEADER_END);
        info.record_count = records_len_bytes / RECORD_LEN_BYTES;
        if info.record_count > MAX_UNSEALED_RECORDS {
            return Err(UnsealedError::Index(OpenError::Limit {
                what: "number of index records",
                value: info.record_count,
                max: MAX_UNSEALED_RECORDS,
            }));
        }
        let segments = resolve(
            index,
            info.record_count,
            data.len_bytes() / SECTOR_LEN_BYTES,
        )?;
        Ok(Self {
            source: data,
            info,
            segments,
        })
    }

    /// Opens the layer whose data file is `data`, of which the byte ranges `written` are not holes: in ascending order,
    /// counted from the start of the file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is something else, or has more ranges than a merged index may have segments.
    pub fn open_sparse(data: S, written: &[Range<u64>]) -> Result<Self, UnsealedError> {
        let (_, info) = data_header(&data)?;
        if !info.is_sparse {
            return Err(UnsealedError::NotSparse);
        }
        let end = match info.virtual_size_bytes {
            0 => MAX_VIRTUAL_SIZE_BYTES,
            size => size,
        };
        let end = data.len_bytes().min(end.saturating_add(HEADER_END)) / SECTOR_LEN_BYTES;
        let mut segments = Vec::new();
        let mut mapped = FIRST_DATA_SECTOR;
        for range in written {
            mapped = mapped.max(range.start / SECTOR_LEN_BYTES);
            let range_end = range.end.div_ceil(SECTOR_LEN_BYTES).min(end);
            while mapped < range_end {
                let len = range_end.wrapping_sub(mapped).min(MAX_RECORD_SECTORS);
                if segments.len() >= MAX_SEGMENTS {
                    return Err(UnsealedError::TooManySegments { max: MAX_SEGMENTS });
                }
                let first = mapped.wrapping_sub(FIRST_DATA_SECTOR);
                segments.push(Segment::new(first, len, mapped, false));
                mapped = mapped.wrapping_add(len);
            }
        }
        Ok(Self {
            source: data,
            info,
            segments,
        })
    }

    /// What the layer says about itself.
    pub fn info(&self) -> &UnsealedInfo {
        &self.info
    }

    /// The data file.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Everything that the layer decides, in the order of the disk, free of overlap. Segments that touch are not
    /// joined.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Whether a data file is the disk itself, with holes. It may have been sealed since.
#[must_use]
pub(crate) fn is_sparse(raw: &RawHeader) -> bool {
    raw.flags.get() & FLAG_SPARSE != 0
}

fn read_header(source: &impl ReadAt) -> Result<RawHeader, OpenError> {
    let len_bytes = source.len_bytes();
    if len_bytes < HEADER_END {
        return Err(OpenError::Corrupt(Corruption::TooShort { len_bytes }));
    }
    let mut raw = RawHeader::new_zeroed();
    source.read_exact_at(raw.as_mut_bytes(), 0)?;
    Ok(raw)
}

fn data_header(data: &impl ReadAt) -> Result<(RawHeader, UnsealedInfo), UnsealedError> {
    let raw = read_header(data).map_err(UnsealedError::Data)?;
    header::check_header(&raw).map_err(UnsealedError::Data)?;
    if raw.flags.get() & FLAG_SEALED != 0 {
        return Err(UnsealedError::Sealed);
    }
    let virtual_size_bytes = raw.virtual_size.get();
    header::check_virtual_size(virtual_size_bytes).map_err(UnsealedError::Data)?;
    let info = UnsealedInfo {
        virtual_size_bytes,
        uuid: Uuid::from_bytes(raw.uuid),
        parent_uuid: Uuid::from_bytes(raw.parent_uuid),
        user_tag: without_trailing_nuls(&raw.user_tag),
        is_sparse: is_sparse(&raw),
        record_count: 0,
    };
    Ok((raw, info))
}

fn check_index_header(raw: &RawHeader) -> Result<(), UnsealedError> {
    if !header::has_magic(raw) {
        return Err(UnsealedError::Index(OpenError::Corrupt(
            Corruption::HeaderMagic,
        )));
    }
    let flags = raw.flags.get();
    if flags & (FLAG_HEADER | FLAG_DATA_FILE) != FLAG_HEADER {
        return Err(UnsealedError::NotAnIndex { flags });
    }
    header::check_common(raw, Part::Header).map_err(UnsealedError::Index)
}

/// The records of an index file, sorted and free of overlap.
fn resolve(
    index: &impl ReadAt,
    record_count: u64,
    data_end_sector: u64,
) -> Result<Vec<Segment>, UnsealedError> {
    let too_many = |_| UnsealedError::TooManySegments { max: MAX_SEGMENTS };
    let mut batches = Vec::new();
    let mut done = 0_u64;
    while done < record_count {
        let len = record_count.wrapping_sub(done).min(BATCH_RECORDS);
        let mut records = vec![RawRecord::default(); usize::try_from(len).unwrap_or_default()];
        let offset = HEADER_END.wrapping_add(done.wrapping_mul(RECORD_LEN_BYTES));
        index
            .read_exact_at(records.as_mut_bytes(), offset)
            .map_err(|error| UnsealedError::Index(error.into()))?;
        let lists = ascending_lists(&records, done, data_end_sector)?;
        batches.push(merge::merge(lists, MAX_SEGMENTS).map_err(too_many)?);
        done = done.wrapping_add(len);
    }
    merge::merge(batches, MAX_SEGMENTS).map_err(too_many)
}

/// Cuts records in the order of writing into lists that are sorted and free of overlap each. They are a stack then,
/// and what was written later lies higher.
fn ascending_lists(
    records: &[RawRecord],
    first_number: u64,
    data_end_sector: u64,
) -> Result<Vec<Vec<Segment>>, UnsealedError> {
    let mut lists = Vec::new();
    let mut list: Vec<Segment> = Vec::new();
    for (number, record) in (first_number..).zip(records) {
        let (word0, word1) = (record.word0.get(), record.word1.get());
        if word0 & OFFSET_MASK == INVALID_OFFSET {
            continue;
        }
        check_record(word0, word1, data_end_sector)
            .map_err(|fault| UnsealedError::Record { number, fault })?;
        let segment = Segment::from_words(word0, word1);
        if list.last().is_some_and(|last| last.end() > segment.first()) {
            lists.push(std::mem::take(&mut list));
        }
        list.push(segment);
    }
    lists.push(list);
    Ok(lists)
}

/// The rule that a record breaks. No field has more than 55 bits, so no sum wraps.
fn check_record(word0: u64, word1: u64, data_end_sector: u64) -> Result<(), &'static str> {
    let (first, len) = (word0 & OFFSET_MASK, word0 >> LEN_SHIFT);
    let mapped = word1 & MAPPED_MASK;
    let data_len = if word1 & ZEROED_BIT == 0 { len } else { 0 };
    if len == 0 {
        return Err("has length 0");
    }
    if first.wrapping_add(len) > MAX_END_SECTOR {
        return Err("ends beyond what the format can express");
    }
    if mapped < FIRST_DATA_SECTOR {
        return Err("has its data in the header");
    }
    if mapped.wrapping_add(data_len) > data_end_sector {
        return Err("has its data beyond the end of the data file: another file, or one cut short");
    }
    Ok(())
}
