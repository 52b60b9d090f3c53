//! How many of many sorted segments have ended before a sector, found in a few nanoseconds.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::hint::select_unpredictable;

use crate::segment::Segment;

/// The low bits of a sector that a key holds: a bucket is at most 65,536 sectors, 32 MiB of the disk, wide.
const KEY_BITS: u32 = 16;
/// Keys that the last step of a search compares at once, without a branch: four registers of SSE2, which every
/// x86-64 has.
const WINDOW: usize = BEHIND.len();
/// 16-bit numbers in such a register.
const LANES: usize = 8;
/// Of every position in a window, how many there are behind it.
const BEHIND: [i16; 32] = [
    31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8,
    7, 6, 5, 4, 3, 2, 1, 0,
];
/// Buckets are as narrow as they can be with so many segments in one on average.
const SEGMENTS_PER_BUCKET: usize = 8;
/// A table of so many buckets is built for any number of segments: 128 KiB, for a disk of 1 TiB.
const FREE_BUCKETS: usize = 32 << 10;

/// Sorted segments by the sectors where they end, for disks of a size in proportion to the number of segments.
///
/// The disk is cut into buckets of equal width, a power of two. The table says which segments end in a bucket;
/// within it, 16 bits tell where a segment ends. So a search takes one line of the table and one or two of keys,
/// 2.5 bytes per segment in all, and leaves the segments themselves, of which few fit into a cache, alone.
/// It has no branch that depends on the sector, so that one search does not wait for another.
#[derive(Debug)]
pub(crate) struct BucketTable {
    /// For every bucket, how many segments end in the buckets before it; at last, the number of all.
    starts: Vec<u32>,
    /// For every segment, [`key`] of its end; then keys that nothing reads but the comparison of a whole window.
    keys: Vec<i16>,
    bucket_bits: u32,
    /// How often the largest bucket must be halved until it fits into a window. At most 11, for a bucket cannot
    /// hold more segments than sectors.
    halvings: u32,
}

impl BucketTable {
    /// Takes segments that are sorted and free of overlap. `None` when the table would be large in comparison:
    /// more than 1 TiB of disk, and fewer than 8 segments per 32 MiB of it.
    pub(crate) fn new(segments: &[Segment]) -> Option<Self> {
        let end = segments.last().map_or(0, |last| last.end());
        let buckets = |bits: u32| {
            let last = usize::try_from(end.wrapping_shr(bits)).unwrap_or(usize::MAX);
            last.saturating_add(1)
        };
        let fitting = segments.len() / SEGMENTS_PER_BUCKET;
        if buckets(KEY_BITS) > fitting.max(FREE_BUCKETS) {
            return None;
        }
        let bucket_bits = (0..KEY_BITS)
            .find(|bits| buckets(*bits) <= fitting)
            .unwrap_or(KEY_BITS);

        let mut starts = Vec::with_capacity(buckets(bucket_bits).saturating_add(1));
        let mut keys = Vec::with_capacity(segments.len().saturating_add(WINDOW));
        for (position, segment) in (0_u32..).zip(segments) {
            let bucket = usize::try_from(segment.end().wrapping_shr(bucket_bits)).ok()?;
            while starts.len() <= bucket {
                starts.push(position);
            }
            keys.push(key(segment.end(), bucket_bits));
        }
        starts.push(u32::try_from(segments.len()).ok()?);
        keys.resize(segments.len().saturating_add(WINDOW), 0);
        let sizes = starts
            .iter()
            .zip(starts.iter().skip(1))
            .map(|(start, end)| end.wrapping_sub(*start) as usize);
        let windows = sizes.max().unwrap_or_default().div_ceil(WINDOW);
        Some(Self {
            starts,
            keys,
            bucket_bits,
            halvings: windows.next_power_of_two().trailing_zeros(),
        })
    }

    /// Memory taken, in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        let starts = self.starts.capacity().saturating_mul(size_of::<u32>());
        let keys = self.keys.capacity().saturating_mul(size_of::<i16>());
        starts.saturating_add(keys)
    }

    /// How many segments end at `sector` or before it; any number at least that of all if it is behind the last
    /// bucket.
    #[inline]
    pub(crate) fn ended_by(&self, sector: u64) -> usize {
        let bucket = usize::try_from(sector.wrapping_shr(self.bucket_bits)).unwrap_or(usize::MAX);
        let starts = self.starts.get(bucket..).and_then(<[u32]>::first_chunk);
        let Some(&[mut first, end]) = starts else {
            return usize::MAX;
        };
        let mut len = end.wrapping_sub(first);
        let key = key(sector, self.bucket_bits);
        // As many rounds for every sector, be its bucket large or small: a loop that is foreseen costs less.
        for _ in 0..self.halvings {
            let half = len / 2;
            let middle = first.wrapping_add(half);
            let Some(found) = self.keys.get(middle as usize) else {
                break;
            };
            first = select_unpredictable(*found <= key, middle, first);
            len = len.wrapping_sub(half);
        }
        let first = first as usize;
        let window = self.keys.get(first..first.wrapping_add(WINDOW));
        let Some(window) = window.and_then(<[i16]>::first_chunk) else {
            return usize::MAX;
        };
        // What is in the window behind the bucket can be anything.
        first.wrapping_add(not_above(window, key).min(len) as usize)
    }
}

/// Position of a sector in its bucket as the high bits of a number, moved so that signed numbers have its order,
/// which is what SSE2 compares.
#[inline]
fn key(sector: u64, bucket_bits: u32) -> i16 {
    let high = sector.wrapping_shl(KEY_BITS.wrapping_sub(bucket_bits));
    ((high & 0xffff) as u16 ^ 0x8000).cast_signed()
}

/// How many keys there are before the first above `key`; [`WINDOW`] or more if there is none.
///
/// Neither a search that stops nor one that counts, but a minimum over all keys, in lanes: in this form the
/// compiler makes four comparisons of registers of it. A key above `key` gives the complement of how
/// many are behind it, which is negative and least for the first of them; another key gives no negative number.
#[inline]
fn not_above(window: &[i16; WINDOW], key: i16) -> u32 {
    let mut least = [i16::MAX; LANES];
    for (keys, behind) in window.chunks_exact(LANES).zip(BEHIND.chunks_exact(LANES)) {
        for ((least, found), behind) in least.iter_mut().zip(keys).zip(behind) {
            // All bits set, or none.
            let above = i16::from(*found > key).wrapping_neg();
            *least = (behind ^ above).min(*least);
        }
    }
    let least = least.iter().fold(i16::MAX, |least, lane| *lane.min(&least));
    // -32 is the first position.
    least.wrapping_add(32).cast_unsigned().into()
}
