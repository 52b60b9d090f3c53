//! What opening a disk and reading from it consist of, step by step.

use zerocopy::FromBytes;

use crate::error::{OpenError, StackError};
use crate::format::{MAX_SEGMENTS, RawRecord};
use crate::index;
use crate::merge;
use crate::merged_index::MergedIndex;
use crate::segment::Segment;

/// The records of a layer, as stored.
#[derive(Clone, Debug)]
pub struct Records(Vec<RawRecord>);

impl Records {
    /// Copies them. Bytes behind the last whole record are left out.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let records = bytes.chunks_exact(size_of::<RawRecord>());
        let records = records.flat_map(RawRecord::read_from_bytes);
        Self(records.collect())
    }
}

/// The index of one layer, or of several that are merged.
#[derive(Clone, Debug)]
pub struct Index {
    segments: Vec<Segment>,
}

impl Index {
    /// Checks the records of a layer whose index starts at byte `index_offset` of it.
    ///
    /// # Errors
    ///
    /// As [`Layer::open`](crate::Layer::open) has when a record breaks a rule.
    pub fn parse(records: Records, index_offset: u64) -> Result<Self, OpenError> {
        Ok(Self {
            segments: index::parse(records.0, index_offset)?.segments,
        })
    }

    /// One index out of those of all layers, the lowest first.
    ///
    /// # Errors
    ///
    /// As [`Disk::new`](crate::Disk::new) has when there are too many segments.
    pub fn merge(layers: Vec<Self>) -> Result<Self, StackError> {
        let indexes = layers.into_iter().map(|layer| layer.segments).collect();
        Ok(Self {
            segments: merge::merge(indexes, MAX_SEGMENTS)?,
        })
    }

    /// Makes it ready for searches.
    #[must_use]
    pub fn into_search(self) -> Search {
        Search(MergedIndex::new(self.segments))
    }
}

/// An index in which sectors can be looked up.
#[derive(Debug)]
pub struct Search(MergedIndex);

impl Search {
    /// How many segments there are from the one on that covers `sector`, or from the next one after it.
    #[inline]
    #[must_use]
    pub fn remaining(&self, sector: u64) -> usize {
        self.0.at_or_after(sector).len()
    }

    /// Memory taken, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.0.len_bytes()
    }
}
