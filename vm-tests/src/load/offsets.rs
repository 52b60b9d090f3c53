//! What is asked of the disk, and in which order.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::queue::Mode;
use crate::stack::Random;

/// The order of the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Any block, again and again.
    Random,
    /// Every block once, in random order.
    RandomOnce,
    /// One block out of every eight, once, in random order; at least four blocks are between any two.
    RandomApart,
    /// One after the other, from the start again at the end.
    Sequential,
    /// One after the other, once.
    SequentialOnce,
}

impl Pattern {
    /// Whether the order is random.
    #[must_use]
    pub fn is_random(self) -> bool {
        match self {
            Self::Random | Self::RandomOnce | Self::RandomApart => true,
            Self::Sequential | Self::SequentialOnce => false,
        }
    }
}

/// Of so many blocks one is read where they are to be apart,
const APART_OF: u32 = 8;
/// and it is among the first of these.
const APART_FIRST: usize = 4;

/// What to ask of the disk. With several queues each has `depth` requests in flight; sequential queues have a part of
/// the region each.
#[derive(Debug, Clone)]
pub struct Workload {
    /// In which order.
    pub pattern: Pattern,
    /// Length of a request, and what its offset is a multiple of.
    pub block_bytes: usize,
    /// Requests in flight on each queue.
    pub depth: usize,
    /// The part of the disk to read; empty for all of it.
    pub region_bytes: Range<u64>,
    /// Chooses the random order. Not 0.
    pub seed: u64,
    /// How completions are waited for.
    pub mode: Mode,
    /// The longest piece of a buffer that one descriptor describes. Guests without huge pages have short ones.
    pub segment_bytes: usize,
}

impl Workload {
    /// All of the disk in this order, sleeping, with buffers in one piece.
    #[must_use]
    pub fn new(pattern: Pattern, block_bytes: usize, depth: usize) -> Self {
        Self {
            pattern,
            block_bytes,
            depth,
            region_bytes: 0..0,
            seed: 1,
            mode: Mode::Event,
            segment_bytes: block_bytes,
        }
    }

    /// The offsets that a disk with one queue is asked for, in this order.
    ///
    /// # Errors
    ///
    /// If the disk is too small.
    pub fn offsets(&self, capacity_bytes: u64) -> Result<impl Iterator<Item = u64> + use<>> {
        Offsets::new(self, capacity_bytes, (0, 1), u64::MAX)
    }

    pub(super) fn segments(&self) -> usize {
        self.block_bytes.div_ceil(self.segment_bytes.max(1))
    }
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// At this time.
    pub deadline: Option<Instant>,
    /// After this many requests on each queue.
    pub requests: u64,
}

impl Limit {
    /// In so many seconds from now, for all that are given this limit.
    #[must_use]
    pub fn seconds(seconds: f64) -> Self {
        Self {
            deadline: Instant::now().checked_add(Duration::from_secs_f64(seconds)),
            requests: u64::MAX,
        }
    }

    /// After this many requests on each queue.
    #[must_use]
    pub fn requests(requests: u64) -> Self {
        Self {
            deadline: None,
            requests,
        }
    }
}

/// The offsets that one queue asks for.
#[derive(Debug)]
pub(super) struct Offsets {
    order: Order,
    start_bytes: u64,
    block_bytes: u64,
    left: u64,
}

#[derive(Debug)]
enum Order {
    Random { random: Random, blocks: usize },
    Listed { blocks: std::vec::IntoIter<u32> },
    Sequential { blocks: Range<u64>, next: u64 },
}

impl Offsets {
    /// Those of queue number `queue` of `queues`, at most `limit` of them.
    pub(super) fn new(
        workload: &Workload,
        capacity_bytes: u64,
        (queue, queues): (usize, usize),
        limit: u64,
    ) -> Result<Self> {
        let Range { start, end } = match &workload.region_bytes {
            region if region.is_empty() => 0..capacity_bytes,
            region => region.clone(),
        };
        ensure!(end <= capacity_bytes, "the region leaves the disk");
        let block_bytes = workload.block_bytes as u64;
        ensure!(
            block_bytes > 0 && block_bytes.is_multiple_of(512) && start.is_multiple_of(512),
            "blocks and regions are whole sectors"
        );
        let blocks = (end - start) / block_bytes;
        ensure!(blocks >= queues as u64, "the region is too small");
        let (number, of) = (queue as u64, queues as u64);
        let count = match workload.pattern {
            Pattern::RandomApart => blocks / u64::from(APART_OF),
            _ => blocks,
        };
        let share = count * number / of..count * (number + 1) / of;
        let once = share.end - share.start;
        let (order, left) = match workload.pattern {
            Pattern::Random => {
                let random = Random::new(workload.seed.wrapping_add(number << 32));
                let blocks = usize::try_from(blocks)?;
                (Order::Random { random, blocks }, u64::MAX)
            }
            Pattern::RandomOnce | Pattern::RandomApart => {
                let mut blocks = shuffled(u32::try_from(count)?, workload.seed);
                if workload.pattern == Pattern::RandomApart {
                    spread(&mut blocks, workload.seed);
                }
                blocks.truncate(usize::try_from(share.end)?);
                blocks.drain(..usize::try_from(share.start)?);
                let blocks = blocks.into_iter();
                (Order::Listed { blocks }, once)
            }
            Pattern::Sequential | Pattern::SequentialOnce => {
                let next = share.start;
                let repeated = workload.pattern == Pattern::Sequential;
                let left = if repeated { u64::MAX } else { once };
                let blocks = share;
                (Order::Sequential { blocks, next }, left)
            }
        };
        Ok(Self {
            order,
            start_bytes: start,
            block_bytes,
            left: left.min(limit),
        })
    }
}

impl Iterator for Offsets {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let block = match &mut self.order {
            Order::Random { random, blocks } => random.below(*blocks) as u64,
            Order::Listed { blocks } => u64::from(blocks.next()?),
            Order::Sequential { blocks, next } => {
                let block = *next;
                *next += 1;
                if *next == blocks.end {
                    *next = blocks.start;
                }
                block
            }
        };
        Some(self.start_bytes + block * self.block_bytes)
    }
}

/// The numbers below `end` in random order.
fn shuffled(end: u32, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    let mut numbers: Vec<u32> = (0..end).collect();
    for last in (1..numbers.len()).rev() {
        numbers.swap(last, random.below(last + 1));
    }
    numbers
}

/// Makes numbers of groups numbers of blocks, one in each group.
fn spread(groups: &mut [u32], seed: u64) {
    let mut random = Random::new(seed.wrapping_add(1));
    for group in groups {
        let place = u32::try_from(random.below(APART_FIRST)).unwrap_or_default();
        *group = *group * APART_OF + place;
    }
}

#[cfg(test)]
mod tests {
    use super::{Offsets, Pattern, Workload};

    const DISK_BYTES: u64 = 10 * 4096 + 512;

    fn offsets(pattern: Pattern, queue: usize, queues: usize, limit: u64) -> Vec<u64> {
        let workload = Workload::new(pattern, 4096, 1);
        Offsets::new(&workload, DISK_BYTES, (queue, queues), limit)
            .unwrap()
            .collect()
    }

    #[test]
    fn queues_share_a_disk_without_gap_or_overlap() {
        for pattern in [Pattern::RandomOnce, Pattern::SequentialOnce] {
            let mut all: Vec<u64> = (0..3)
                .flat_map(|queue| offsets(pattern, queue, 3, 100))
                .collect();
            all.sort_unstable();
            let expected: Vec<u64> = (0..10).map(|block| block * 4096).collect();
            assert_eq!(all, expected, "{pattern:?}");
        }
    }

    #[test]
    fn what_repeats_ends_at_the_limit_and_stays_inside() {
        let sequential = offsets(Pattern::Sequential, 0, 1, 12);
        assert_eq!(sequential[9..], [9 * 4096, 0, 4096]);
        let random = offsets(Pattern::Random, 0, 1, 1000);
        assert_eq!(random.len(), 1000);
        assert!(random.iter().all(|at| at % 4096 == 0 && at / 4096 < 10));
        assert_ne!(random, offsets(Pattern::Random, 1, 2, 1000));
    }

    #[test]
    fn blocks_apart_are_one_in_eight_and_never_neighbours() {
        let workload = Workload::new(Pattern::RandomApart, 4096, 1);
        let mut blocks: Vec<u64> = workload.offsets(1000 * 4096).unwrap().collect();
        assert!(!blocks.is_sorted());
        blocks.sort_unstable();
        assert_eq!(blocks.len(), 125);
        assert!(blocks.windows(2).all(|pair| pair[1] - pair[0] > 4 * 4096));
        assert!(blocks.iter().all(|offset| *offset < 1000 * 4096));
    }

    #[test]
    fn a_region_is_kept() {
        let workload = Workload {
            region_bytes: 8192..16384,
            ..Workload::new(Pattern::SequentialOnce, 4096, 1)
        };
        let offsets = Offsets::new(&workload, DISK_BYTES, (0, 1), 100).unwrap();
        assert_eq!(offsets.collect::<Vec<_>>(), [8192, 12288]);
        let beyond = Workload {
            region_bytes: 8192..DISK_BYTES + 512,
            ..workload
        };
        assert!(Offsets::new(&beyond, DISK_BYTES, (0, 1), 100).is_err());
    }
}
