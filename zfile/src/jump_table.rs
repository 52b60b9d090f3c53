//! Where each stored block starts: the jump table of the file, with its lengths summed up.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::ops::Range;

use crate::error::Corruption;
use crate::format::DATA_START;
use crate::header::Geometry;

/// Blocks that share one 64-bit position. Large enough that the shared part weighs little (4.125 bytes per
/// block in all), small enough that the offsets within a group, at most 64 × 64.3 KiB, fit in 32 bits.
const GROUP_BLOCKS: u64 = 64;

/// Where each stored block starts, in bytes from the start of the ZFile.
pub(crate) struct JumpTable {
    /// Where the first block of each group starts.
    groups: Vec<u64>,
    /// Where each block starts, counted from the start of its group.
    offsets: Vec<u32>,
    /// Where the last block ends.
    end: u64,
}

impl fmt::Debug for JumpTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JumpTable")
            .field("blocks", &self.offsets.len())
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl JumpTable {
    /// Memory taken, in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        let groups = self.groups.capacity().saturating_mul(size_of::<u64>());
        let offsets = self.offsets.capacity().saturating_mul(size_of::<u32>());
        groups.saturating_add(offsets)
    }

    /// The bytes `start..end` of the stored blocks `blocks`, which may be none.
    ///
    /// `None` when there are no such blocks.
    pub(crate) fn stored_range(&self, blocks: &Range<u64>) -> Option<Range<u64>> {
        Some(self.start(blocks.start)?..self.start(blocks.end)?)
    }

    /// Where block `block` starts. The number of blocks counts as a block too: it starts where the last one
    /// ends.
    pub(crate) fn start(&self, block: u64) -> Option<u64> {
        let position = usize::try_from(block).ok()?;
        match self.offsets.get(position) {
            Some(offset) => {
                let group = usize::try_from(block.checked_div(GROUP_BLOCKS)?).ok()?;
                self.groups.get(group)?.checked_add(u64::from(*offset))
            }
            None => (position == self.offsets.len()).then_some(self.end),
        }
    }
}

/// Takes the entries of a jump table in, piece by piece, and checks each.
#[derive(Debug)]
pub(crate) struct Builder {
    table: JumpTable,
    min: u32,
    max: u32,
    index_offset: u64,
}

impl Builder {
    /// The memory for the whole table is taken here: `geometry` has been checked against the length of the
    /// source, so that a small file cannot claim much of it.
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let blocks = usize::try_from(geometry.block_count).unwrap_or_default();
        let groups =
            usize::try_from(geometry.block_count.div_ceil(GROUP_BLOCKS)).unwrap_or_default();
        let overhead = geometry.overhead_bytes();
        let payload_max = geometry
            .algorithm
            .payload_max_bytes(geometry.block_size_bytes);
        Self {
            table: JumpTable {
                groups: Vec::with_capacity(groups),
                offsets: Vec::with_capacity(blocks),
                end: DATA_START,
            },
            min: overhead.saturating_add(1),
            max: payload_max.saturating_add(overhead),
            index_offset: geometry.index_offset,
        }
    }

    /// Takes in the stored length of the next block.
    pub(crate) fn push(&mut self, stored_bytes: u32) -> Result<(), Corruption> {
        let Self {
            table, min, max, ..
        } = self;
        let entry = u64::try_from(table.offsets.len()).unwrap_or(u64::MAX);
        let opens_group = entry.is_multiple_of(GROUP_BLOCKS);
        let group = table.groups.last().filter(|_| !opens_group);
        let offset = table.end.checked_sub(*group.unwrap_or(&table.end));
        let offset = offset.and_then(|offset| u32::try_from(offset).ok());
        let end = table.end.checked_add(u64::from(stored_bytes));
        let fits = (*min..=*max).contains(&stored_bytes);
        let (Some(offset), Some(end), true) = (offset, end, fits) else {
            return Err(Corruption::EntryLength {
                entry,
                found: stored_bytes,
                min: *min,
                max: *max,
            });
        };
        if opens_group {
            table.groups.push(table.end);
        }
        table.offsets.push(offset);
        table.end = end;
        Ok(())
    }

    /// The table, if the blocks fill the space up to the jump table exactly.
    pub(crate) fn finish(self) -> Result<JumpTable, Corruption> {
        if self.table.end == self.index_offset {
            return Ok(self.table);
        }
        Err(Corruption::DataEnd {
            found: self.index_offset,
            expected: self.table.end,
        })
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers are ours")]
mod tests {
    use super::*;
    use crate::Algorithm;

    fn geometry(block_count: u64, index_offset: u64) -> Geometry {
        Geometry {
            algorithm: Algorithm::Lz4,
            block_size_bytes: 65_536,
            verify: true,
            original_len_bytes: block_count * 65_536,
            block_count,
            index_offset,
            index_end: index_offset + block_count * 4,
            index_crc: None,
        }
    }

    fn table(lengths: &[u32]) -> JumpTable {
        let sum: u64 = lengths.iter().copied().map(u64::from).sum();
        let mut builder = Builder::new(&geometry(lengths.len() as u64, 512 + sum));
        for length in lengths {
            builder.push(*length).unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn every_range_is_the_sum_of_the_lengths_before() {
        for count in [1, 2, 63, 64, 65, 128, 200_u64] {
            let lengths: Vec<u32> = (0..count)
                .map(|i| if i % 3 == 0 { 65_813 } else { 5 })
                .collect();
            let table = table(&lengths);
            let mut start = 512;
            for (block, length) in (0..).zip(&lengths) {
                let end = start + u64::from(*length);
                assert_eq!(table.stored_range(&(block..block + 1)), Some(start..end));
                assert_eq!(table.stored_range(&(0..block)), Some(512..start));
                start = end;
            }
            assert_eq!(table.stored_range(&(0..count)), Some(512..start));
            assert_eq!(table.stored_range(&(count..count)), Some(start..start));
            assert_eq!(table.stored_range(&(0..count + 1)), None);
            assert_eq!(table.stored_range(&(u64::MAX..u64::MAX)), None);
        }
    }

    #[test]
    fn entry_bounds_are_exact() {
        let bounds = [(4, false), (5, true), (65_813, true), (65_814, false)];
        for (length, accepted) in bounds {
            let mut builder = Builder::new(&geometry(1, 512));
            assert_eq!(builder.push(length).is_ok(), accepted, "{length}");
        }
    }

    #[test]
    fn blocks_must_end_at_the_jump_table() {
        for (index_offset, accepted) in [(521, false), (522, true), (523, false)] {
            let mut builder = Builder::new(&geometry(1, index_offset));
            builder.push(10).unwrap();
            assert_eq!(builder.finish().is_ok(), accepted, "{index_offset}");
        }
    }
}
