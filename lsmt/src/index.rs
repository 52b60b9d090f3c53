//! The index of one layer: records as stored in, checked segments out.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::error::{Corruption, Feature, OpenError};
use crate::format::{
    FIRST_DATA_SECTOR, INVALID_OFFSET, LEN_SHIFT, MAPPED_MASK, MAX_END_SECTOR, OFFSET_MASK,
    RawRecord, SECTOR_LEN_BYTES, TAG_SHIFT, ZEROED_BIT,
};
use crate::segment::Segment;

/// The valid records of an index, sorted and free of overlap, and what was counted on the way.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) segments: Vec<Segment>,
    pub(crate) data_sectors: u64,
    pub(crate) zeroed_sectors: u64,
    /// Whether any valid record has a tag.
    pub(crate) tags_present: bool,
}

/// Checks the records of a layer whose index starts at byte `index_offset`.
///
/// Records that say "invalid" are dropped wherever they are. Tags have no meaning in an ordinary layer, although
/// merge tools leave some behind; only together with data out of bounds do they tell what the layer is.
///
/// The segments take the place of the records: fresh memory would cost more than all of the checks.
pub(crate) fn parse(records: Vec<RawRecord>, index_offset: u64) -> Result<Index, OpenError> {
    let index_sector = index_offset / SECTOR_LEN_BYTES;
    let (mut data_sectors, mut zeroed_sectors) = (0_u64, 0_u64);
    let mut previous_end = 0;
    let mut word1_union = 0;
    for (number, record) in records.iter().enumerate() {
        let fields = Fields::of(record);
        if fields.first == INVALID_OFFSET {
            continue;
        }
        // One branch for a sound record: the parts are combined without short-circuit.
        let sound = (fields.len != 0)
            & (fields.end <= MAX_END_SECTOR)
            & (fields.first >= previous_end)
            & (fields.mapped >= FIRST_DATA_SECTOR)
            & (fields.mapped_end <= index_sector);
        if !sound {
            return Err(first_fault(number, &fields, previous_end, index_sector));
        }
        previous_end = fields.end;
        word1_union |= fields.word1;
        // At most a million records of 14-bit lengths.
        data_sectors = data_sectors.wrapping_add(fields.data_len);
        zeroed_sectors = zeroed_sectors.wrapping_add(fields.len.wrapping_sub(fields.data_len));
    }
    // Iterators of types of one layout collect where they are.
    let sound = records
        .into_iter()
        .map(|record| Fields::of(&record))
        .filter(|fields| fields.first != INVALID_OFFSET);
    let mut segments: Vec<_> = sound
        .map(|fields| Segment::from_words(fields.word0, fields.word1))
        .collect();
    segments.shrink_to_fit();
    Ok(Index {
        segments,
        data_sectors,
        zeroed_sectors,
        tags_present: word1_union >> TAG_SHIFT != 0,
    })
}

/// A record taken apart. The widest field has 55 bits, so no sum of two reaches 2^64.
struct Fields {
    word0: u64,
    word1: u64,
    first: u64,
    len: u64,
    end: u64,
    mapped: u64,
    /// Sectors of data: the length, or 0 if zeroed.
    data_len: u64,
    mapped_end: u64,
}

impl Fields {
    #[inline]
    fn of(record: &RawRecord) -> Self {
        let (word0, word1) = (record.word0.get(), record.word1.get());
        let (first, len) = (word0 & OFFSET_MASK, word0 >> LEN_SHIFT);
        let mapped = word1 & MAPPED_MASK;
        let data_len = if word1 & ZEROED_BIT == 0 { len } else { 0 };
        Self {
            word0,
            word1,
            first,
            len,
            end: first.wrapping_add(len),
            mapped,
            data_len,
            mapped_end: mapped.wrapping_add(data_len),
        }
    }
}

/// Names the rule that an unsound record breaks.
#[cold]
fn first_fault(record: usize, fields: &Fields, previous_end: u64, index_sector: u64) -> OpenError {
    OpenError::Corrupt(if fields.len == 0 {
        Corruption::RecordEmpty { record }
    } else if fields.end > MAX_END_SECTOR {
        Corruption::RecordTooFar {
            record,
            end_sector: fields.end,
        }
    } else if fields.first < previous_end {
        Corruption::RecordOrder {
            record,
            first_sector: fields.first,
            previous_end_sector: previous_end,
        }
    } else if fields.word1 >> TAG_SHIFT != 0 {
        return OpenError::Unsupported(Feature::TurboOci);
    } else if fields.word1 & ZEROED_BIT != 0 {
        Corruption::ZeroedOutOfBounds {
            record,
            mapped_sector: fields.mapped,
            index_sector,
        }
    } else {
        Corruption::DataOutOfBounds {
            record,
            mapped_sector: fields.mapped,
            len_sectors: fields.len,
            index_sector,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::format::{INVALID_OFFSET, LEN_SHIFT, RawRecord};

    /// What the format allows between records is dropped, and nothing is copied to other memory for it.
    #[test]
    fn segments_take_the_place_of_the_records() {
        let record = |first: u64, len: u64| RawRecord {
            word0: (first | (len << LEN_SHIFT)).into(),
            word1: 8.into(),
        };
        let invalid = record(INVALID_OFFSET, 3);
        let records = vec![record(0, 1), invalid, record(5, 1), record(6, 1), invalid];
        let place = records.as_ptr().addr();
        let segments = parse(records, 512 * 9).unwrap().segments;
        let firsts: Vec<_> = segments.iter().map(|segment| segment.first()).collect();
        assert_eq!(firsts, [0, 5, 6]);
        assert_eq!(segments.as_ptr().addr(), place);
    }
}
