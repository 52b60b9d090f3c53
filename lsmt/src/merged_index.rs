//! Where in the merged index a sector is.

use crate::segment::Segment;

/// The segments of a disk, sorted and free of overlap, with a way to find the one for a sector.
///
/// The only type that knows how the search works.
#[derive(Debug)]
pub(crate) struct MergedIndex {
    segments: Vec<Segment>,
}

impl MergedIndex {
    /// Takes segments that are sorted and free of overlap, as merging leaves them.
    pub(crate) fn new(segments: Vec<Segment>) -> Self {
        debug_assert!(segments.is_sorted_by(|a, b| a.end() <= b.first()));
        Self { segments }
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Memory taken, in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        self.segments.capacity() * size_of::<Segment>()
    }

    /// The segments from the one on that covers `sector`, or the next one after it.
    pub(crate) fn at_or_after(&self, sector: u64) -> &[Segment] {
        let position = self
            .segments
            .partition_point(|segment| segment.end() <= sector);
        self.segments.get(position..).unwrap_or_default()
    }
}
