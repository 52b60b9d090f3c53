//! Where in the merged index a sector is.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::bucket_table::BucketTable;
use crate::segment::Segment;

/// Segments per fence: 256 bytes, so that the second half of a search touches four cache lines at most.
const BLOCK_SEGMENTS: usize = 16;

/// The segments of a disk, sorted and free of overlap, with a way to find the one for a sector.
#[derive(Debug)]
pub(crate) struct MergedIndex {
    segments: Vec<Segment>,
    search: Search,
}

/// How segments are found.
#[derive(Debug)]
enum Search {
    Buckets(BucketTable),
    /// For few segments on a huge disk: of every full block of segments, the disk sector after its last. Half
    /// a byte per segment, and log2 steps.
    Fences(Vec<u64>),
}

impl MergedIndex {
    /// Takes segments that are sorted and free of overlap, as merging leaves them.
    pub(crate) fn new(segments: Vec<Segment>) -> Self {
        debug_assert!(segments.is_sorted_by(|a, b| a.end() <= b.first()));
        let search = BucketTable::new(&segments)
            .map_or_else(|| Search::Fences(fences(&segments)), Search::Buckets);
        Self { segments, search }
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Memory taken, in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        let search = match &self.search {
            Search::Buckets(table) => table.len_bytes(),
            Search::Fences(fences) => fences.capacity().saturating_mul(size_of::<u64>()),
        };
        let segments = self.segments.capacity();
        segments
            .saturating_mul(size_of::<Segment>())
            .saturating_add(search)
    }

    /// The segments from the one on that covers `sector`, or the next one after it.
    #[inline]
    pub(crate) fn at_or_after(&self, sector: u64) -> &[Segment] {
        let position = match &self.search {
            Search::Buckets(table) => table.ended_by(sector),
            Search::Fences(fences) => self.ended_by(fences, sector),
        };
        self.segments.get(position..).unwrap_or_default()
    }

    /// How many segments end at `sector` or before it.
    fn ended_by(&self, fences: &[u64], sector: u64) -> usize {
        let block = fences.partition_point(|end| *end <= sector);
        let first = block.saturating_mul(BLOCK_SEGMENTS);
        let rest = self.segments.get(first..).unwrap_or_default();
        let block = rest.get(..BLOCK_SEGMENTS).unwrap_or(rest);
        first.saturating_add(block.partition_point(|segment| segment.end() <= sector))
    }
}

fn fences(segments: &[Segment]) -> Vec<u64> {
    let blocks = segments.chunks_exact(BLOCK_SEGMENTS);
    blocks
        .map(|block| block.last().map_or(0, |last| last.end()))
        .collect()
}

#[cfg(test)]
mod tests;
