//! Which disk sectors lie in certain bytes of a layer.

use std::ops::Range;

use lsmt::{SECTOR_LEN_BYTES, Segment};
use serde::Serialize;

/// Most ranges that are listed for a fault; the others are counted.
pub const MAX_RANGES: usize = 64;

/// Longest record that the format can express, in sectors.
const MAX_RECORD_SECTORS: u64 = (1 << 14) - 1;

/// Records looked at for all faults of a layer. Any number of records may share data, and a hostile layer could have a
/// million of them for each of a thousand faults.
const MAX_LOOKS: usize = 64 << 20;

/// Sectors of the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// How many sectors.
    pub sectors: u64,
    /// Where they are, in the order of the disk; the first [`MAX_RANGES`] ranges.
    pub ranges: Vec<Range<u64>>,
    /// How many ranges there are.
    pub range_count: usize,
    /// Whether the search was given up before its end, so that there may be more.
    pub is_partial: bool,
}

/// Segments with data, by where in the layer it is.
#[derive(Debug)]
pub(super) struct Places {
    segments: Vec<Segment>,
    looks_left: usize,
}

impl Places {
    pub(super) fn new(segments: impl Iterator<Item = Segment>) -> Self {
        let mut segments: Vec<_> = segments.filter(|it| it.layer_sectors().is_some()).collect();
        segments.sort_unstable_by_key(|segment| start(*segment));
        Self {
            segments,
            looks_left: MAX_LOOKS,
        }
    }

    /// The disk sectors whose data lies at least partly in the bytes `content` of the layer.
    pub(super) fn reach(&mut self, content: &Range<u64>) -> Reach {
        let first = content.start / SECTOR_LEN_BYTES;
        let end = content.end.div_ceil(SECTOR_LEN_BYTES);
        let before = first.saturating_sub(MAX_RECORD_SECTORS);
        let from = self
            .segments
            .partition_point(|segment| start(*segment) < before);
        let candidates = self.segments.get(from..).unwrap_or_default();
        let mut ranges = Vec::new();
        let mut is_partial = false;
        for segment in candidates {
            let Some(data) = segment.layer_sectors().filter(|data| data.start < end) else {
                break;
            };
            if self.looks_left == 0 {
                is_partial = true;
                break;
            }
            self.looks_left -= 1;
            let (from, to) = (data.start.max(first), data.end.min(end));
            if from < to {
                let disk = segment.disk_sectors().start;
                ranges.push(disk + (from - data.start)..disk + (to - data.start));
            }
        }
        Reach {
            is_partial,
            ..joined(ranges)
        }
    }
}

fn start(segment: Segment) -> u64 {
    segment.layer_sectors().map_or(0, |sectors| sectors.start)
}

/// Ranges in order, those that touch as one. They do not overlap: a sector has one record in a layer.
fn joined(mut ranges: Vec<Range<u64>>) -> Reach {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut reach = Reach::default();
    let mut last: Option<Range<u64>> = None;
    for range in ranges {
        reach.sectors += range.end - range.start;
        match &mut last {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => reach.push(last.replace(range)),
        }
    }
    reach.push(last);
    reach
}

impl Reach {
    fn push(&mut self, range: Option<Range<u64>>) {
        if let Some(range) = range {
            self.range_count += 1;
            if self.ranges.len() < MAX_RANGES {
                self.ranges.push(range);
            }
        }
    }

    /// Whether there are no such sectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sectors == 0 && !self.is_partial
    }
}
