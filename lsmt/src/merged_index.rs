//! Where in the merged index a sector is.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::segment::Segment;

/// Segments per fence: 256 bytes, so that the second half of a search touches four cache lines at most, while the
/// fences of a million segments, 500 KB, stay cached. The fastest among 16, 32, 64 and 128 where that was measured.
const BLOCK_SEGMENTS: usize = 16;

/// The segments of a disk, sorted and free of overlap, with a way to find the one for a sector.
///
/// The only type that knows how the search works: among the fences first, then among the segments of one block.
/// A plain binary search over all segments would touch a new page of memory with almost every step.
#[derive(Debug)]
pub(crate) struct MergedIndex {
    segments: Vec<Segment>,
    /// For every full block of segments, the disk sector after its last.
    fences: Vec<u64>,
}

impl MergedIndex {
    /// Takes segments that are sorted and free of overlap, as merging leaves them.
    pub(crate) fn new(segments: Vec<Segment>) -> Self {
        debug_assert!(segments.is_sorted_by(|a, b| a.end() <= b.first()));
        let blocks = segments.chunks_exact(BLOCK_SEGMENTS);
        let fences = blocks
            .filter_map(|block| block.last())
            .map(|last| last.end());
        Self {
            fences: fences.collect(),
            segments,
        }
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Memory taken, in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        let fences = self.fences.capacity().saturating_mul(size_of::<u64>());
        let segments = self
            .segments
            .capacity()
            .saturating_mul(size_of::<Segment>());
        segments.saturating_add(fences)
    }

    /// The segments from the one on that covers `sector`, or the next one after it.
    pub(crate) fn at_or_after(&self, sector: u64) -> &[Segment] {
        let block = self.fences.partition_point(|end| *end <= sector);
        let first = block.saturating_mul(BLOCK_SEGMENTS);
        let rest = self.segments.get(first..).unwrap_or_default();
        let block = rest.get(..BLOCK_SEGMENTS).unwrap_or(rest);
        let position = block.partition_point(|segment| segment.end() <= sector);
        rest.get(position..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around every boundary of a block, the search agrees with looking at one segment after the other.
    #[test]
    fn search_agrees_with_a_linear_scan() {
        for count in [0, 1, 15, 16, 17, 31, 32, 33, 200] {
            // Segments of two sectors, touching in pairs, with holes between the pairs.
            let segments: Vec<_> = (0..count)
                .map(|k| Segment::new(2 * k + 3 * (k / 2) + 1, 2, 8, false))
                .collect();
            let index = MergedIndex::new(segments.clone());
            for sector in 0..=4 * count + 5 {
                let scanned = segments.iter().position(|segment| segment.end() > sector);
                let expected = segments.len() - scanned.unwrap_or(segments.len());
                assert_eq!(
                    index.at_or_after(sector).len(),
                    expected,
                    "{sector} of {count}"
                );
            }
        }
    }
}
