//! What an index decides, for whoever makes layers of layers.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::segment::Segment;

/// A run of disk sectors that one layer decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First disk sector.
    pub first_sector: u64,
    /// Sectors, 1 to 16383.
    pub len_sectors: u64,
    /// What they hold.
    pub decision: Decision,
}

/// What a layer decides sectors to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Zeroes.
    Zeroed,
    /// Bytes that a layer holds in one place.
    Data {
        /// Which layer; 0 is the lowest.
        layer: u8,
        /// Where in that layer's source they start, in bytes.
        layer_offset: u64,
    },
}

impl Run {
    pub(crate) fn of(segment: Segment) -> Self {
        Self {
            first_sector: segment.first(),
            len_sectors: segment.len(),
            decision: match segment.is_zeroed() {
                true => Decision::Zeroed,
                false => Decision::Data {
                    layer: segment.layer(),
                    layer_offset: segment.mapped_bytes(),
                },
            },
        }
    }

    /// Disk sector after the last.
    #[must_use]
    pub fn end_sector(&self) -> u64 {
        self.first_sector.saturating_add(self.len_sectors)
    }

    /// Whether it is decided to be zero.
    #[must_use]
    pub fn is_zeroed(&self) -> bool {
        self.decision == Decision::Zeroed
    }
}
