//! One run of disk sectors and where its bytes are.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::ops::Range;

use crate::format::{
    LEN_SHIFT, MAPPED_MASK, OFFSET_MASK, RawRecord, SECTOR_LEN_BYTES, TAG_SHIFT, ZEROED_BIT,
};

/// A run of disk sectors that one layer decides: by data at one place in it, or by saying "zeroes".
///
/// Packed as records are stored, with the ordinal of the layer (0 = lowest) in place of the tag. A value of this
/// type holds what has been checked when its layer was opened: at least one sector, no end beyond what the format
/// can express. Sums of its fields therefore stay below 2^56.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    word0: u64,
    word1: u64,
}

const _: () = assert!(size_of::<Segment>() == 16);

impl Segment {
    /// The disk sectors, at least one.
    #[must_use]
    pub fn disk_sectors(self) -> Range<u64> {
        self.first()..self.end()
    }

    /// Where their data is, in sectors from the start of the layer; `None` when the run reads as zeroes.
    #[must_use]
    pub fn layer_sectors(self) -> Option<Range<u64>> {
        let end = self.mapped().wrapping_add(self.len());
        (!self.is_zeroed()).then_some(self.mapped()..end)
    }

    /// Which layer of its disk decides the run; 0 is the lowest. Always 0 before the layer is part of a disk.
    #[must_use]
    pub fn layer(self) -> u8 {
        (self.word1 >> TAG_SHIFT) as u8
    }

    /// From the words of a record, whose tag means nothing. The ordinal is 0.
    pub(crate) fn from_words(word0: u64, word1: u64) -> Self {
        Self {
            word0,
            word1: word1 & (ZEROED_BIT | MAPPED_MASK),
        }
    }

    /// The record that stores this segment, with tag 0.
    pub(crate) fn to_record(self) -> RawRecord {
        RawRecord {
            word0: self.word0.into(),
            word1: (self.word1 & (ZEROED_BIT | MAPPED_MASK)).into(),
        }
    }

    /// A run of `len` sectors from `first` on. The caller has checked that both fit their fields.
    pub(crate) fn new(first: u64, len: u64, mapped: u64, zeroed: bool) -> Self {
        let zeroed = if zeroed { ZEROED_BIT } else { 0 };
        Self::from_words(first | (len << LEN_SHIFT), mapped | zeroed)
    }

    /// First disk sector.
    pub(crate) fn first(self) -> u64 {
        self.word0 & OFFSET_MASK
    }

    /// Sectors, at least 1.
    pub(crate) fn len(self) -> u64 {
        self.word0 >> LEN_SHIFT
    }

    /// Disk sector after the last.
    pub(crate) fn end(self) -> u64 {
        self.first().wrapping_add(self.len())
    }

    /// First sector of the data in the layer; of no meaning in a zeroed segment.
    pub(crate) fn mapped(self) -> u64 {
        self.word1 & MAPPED_MASK
    }

    /// The same in bytes. Data lies before the index of its layer, so the product is a position in a file.
    pub(crate) fn mapped_bytes(self) -> u64 {
        self.mapped().wrapping_mul(SECTOR_LEN_BYTES)
    }

    /// Whether the run reads as zeroes.
    pub(crate) fn is_zeroed(self) -> bool {
        self.word1 & ZEROED_BIT != 0
    }

    /// The same segment, of another layer.
    pub(crate) fn with_layer(self, ordinal: u8) -> Self {
        Self {
            word0: self.word0,
            word1: (self.word1 & (ZEROED_BIT | MAPPED_MASK)) | (u64::from(ordinal) << TAG_SHIFT),
        }
    }

    /// What lies before disk sector `end`, which is inside the segment.
    pub(crate) fn before(self, end: u64) -> Self {
        debug_assert!(self.first() < end && end <= self.end());
        let len = end.wrapping_sub(self.first());
        Self {
            word0: self.first() | (len << LEN_SHIFT),
            word1: self.word1,
        }
    }

    /// What lies from disk sector `first` on, which is inside the segment.
    pub(crate) fn onward(self, first: u64) -> Self {
        debug_assert!(self.first() <= first && first < self.end());
        let skipped = first.wrapping_sub(self.first());
        let len = self.len().wrapping_sub(skipped);
        Self {
            word0: first | (len << LEN_SHIFT),
            word1: if self.is_zeroed() {
                self.word1
            } else {
                // The last mapped sector fits its 55 bits, so nothing carries into the flag.
                self.word1.wrapping_add(skipped)
            },
        }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, end, layer) = (self.first(), self.end(), self.layer());
        if self.is_zeroed() {
            write!(f, "{first}..{end} zeroed by {layer}")
        } else {
            write!(f, "{first}..{end} at {} of {layer}", self.mapped())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Segment;

    #[test]
    fn what_is_seen_of_a_segment_is_what_it_was_made_of() {
        let data = Segment::new(100, 7, 50, false).with_layer(3);
        assert_eq!(data.disk_sectors(), 100..107);
        assert_eq!(data.layer_sectors(), Some(50..57));
        assert_eq!(data.layer(), 3);
        let piece = data.onward(102).before(105);
        assert_eq!(piece.disk_sectors(), 102..105);
        assert_eq!(piece.layer_sectors(), Some(52..55));
        let zeroed = Segment::new(100, 7, 50, true).onward(102);
        assert_eq!(zeroed.disk_sectors(), 102..107);
        assert_eq!(zeroed.layer_sectors(), None);
    }
}
