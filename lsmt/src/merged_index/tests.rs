//! Promise: the search finds what looking at one segment after the other finds, wherever the segments are.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers here are the test's own"
)]

use proptest::prelude::*;

use super::{MergedIndex, Search};
use crate::format::{MAX_END_SECTOR, MAX_RECORD_SECTORS, MAX_VIRTUAL_SIZE_BYTES};
use crate::segment::Segment;

/// Sectors of 32 MiB, as many as the widest bucket takes.
const PAGE: u64 = 1 << 16;
/// Sectors of the largest disk.
const HUGE: u64 = MAX_VIRTUAL_SIZE_BYTES / 512;

/// Segments from (hole before it, length).
fn segments(runs: impl IntoIterator<Item = (u64, u64)>) -> Vec<Segment> {
    let mut at = 0;
    runs.into_iter()
        .map(|(hole, len)| {
            let segment = Segment::new(at + hole, len, 8, false);
            at += hole + len;
            segment
        })
        .collect()
}

/// Sectors where an answer changes or a number of the search overflows, and those beside them.
fn sectors_of_interest(segments: &[Segment]) -> impl Iterator<Item = u64> {
    let ends = segments.iter().flat_map(|s| [s.first(), s.end()]);
    let pages = segments
        .iter()
        .flat_map(|s| [s.end() / PAGE * PAGE, (s.end() / PAGE + 1) * PAGE]);
    let powers = (0..64).map(|k| 1 << k);
    let all = ends.chain(pages).chain(powers);
    let near = all.flat_map(|s: u64| [s.saturating_sub(1), s, s.saturating_add(1)]);
    near.chain([0, HUGE, MAX_END_SECTOR, u64::MAX - 1, u64::MAX])
}

/// Holds the search against a linear scan; returns whether it is the one with buckets.
fn check(segments: &[Segment]) -> bool {
    let index = MergedIndex::new(segments.to_vec());
    let mut sectors: Vec<_> = sectors_of_interest(segments).collect();
    sectors.sort_unstable();
    // The scan goes on where it stood, for a larger sector is never further to the front.
    let mut ended = 0;
    for sector in sectors {
        while segments.get(ended).is_some_and(|s| s.end() <= sector) {
            ended += 1;
        }
        let found = index.at_or_after(sector).len();
        assert_eq!(found, segments.len() - ended, "sector {sector}");
    }
    matches!(index.search, Search::Buckets(_))
}

#[test]
fn few_segments_are_found_at_every_sector() {
    for count in [0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200] {
        // Of two sectors, touching in pairs, with holes between the pairs.
        let segments = segments((0..count).map(|k| (1 + 2 * (k % 2), 2)));
        assert!(check(&segments), "{count}");
        let index = MergedIndex::new(segments.clone());
        for sector in 0..=5 * count + 5 {
            let scanned = segments.iter().filter(|s| s.end() > sector).count();
            let found = index.at_or_after(sector).len();
            assert_eq!(found, scanned, "{sector} of {count}");
        }
    }
}

#[test]
fn dense_segments_are_found() {
    assert!(check(&segments((0..70_000).map(|_| (0, 1)))));
    assert!(check(&segments((0..70_000).map(|k| (k % 3, 1 + k % 5)))));
    let longest = MAX_RECORD_SECTORS;
    assert!(check(&segments((0..70_000).map(|k| (k % 2, longest)))));
}

#[test]
fn segments_at_the_edges_of_buckets_are_found() {
    // One that ends where a bucket does, one that begins there, one that reaches across, and one alone in its own.
    let edges = [(PAGE - 8, 8), (0, 8), (PAGE - 16, 16), (5 * PAGE, 1)];
    assert!(check(&segments(edges)));
    assert!(check(&segments([(0, 1), (PAGE - 2, 1), (0, 1)])));
    for count in [30, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000] {
        // So many in one bucket, one in the next, and the same again behind an empty one.
        let bucket = (0..count).map(|_| (0, 1)).chain([(PAGE - count, 1)]);
        let apart = [(2 * PAGE - 1, 1)].into_iter().chain(bucket.clone());
        assert!(check(&segments(bucket.chain(apart))), "{count}");
    }
}

#[test]
fn segments_crowded_in_places_far_apart_are_found() {
    let crowds = (0..5000).map(|k| {
        if k % 1000 == 0 {
            (300 << 20, 1)
        } else {
            (k % 2, 1)
        }
    });
    assert!(check(&segments(crowds)));
    // Too far apart for buckets.
    let crowds = (0..5000).map(|k| {
        if k % 1000 == 0 {
            (1 << 34, 1)
        } else {
            (k % 2, 1)
        }
    });
    assert!(!check(&segments(crowds)));
}

#[test]
fn sparse_segments_of_the_largest_disk_are_found() {
    for count in [1, 2, 15, 16, 17, 1000] {
        let segments = segments((0..count).map(|_| (HUGE / count - 1, 1)));
        assert_eq!(segments.last().map(|s| s.end()), Some(HUGE / count * count));
        assert!(!check(&segments), "{count}");
    }
}

#[test]
fn segments_at_the_end_of_what_records_can_speak_of_are_found() {
    let first = MAX_END_SECTOR - MAX_RECORD_SECTORS;
    assert!(!check(&segments([(first, MAX_RECORD_SECTORS)])));
    assert!(!check(&segments([(0, 1), (first - 1, MAX_RECORD_SECTORS)])));
}

#[test]
fn disks_beyond_one_tebibyte_have_buckets_for_many_segments() {
    let tebibyte = 1 << 31;
    assert!(check(&segments([(tebibyte - 2, 1)])));
    assert!(!check(&segments([(tebibyte - 1, 1)])));
    // 300,000 segments are enough for 37,500 buckets.
    assert!(check(&segments((0..300_000).map(|_| (8000, 1)))));
    assert!(!check(&segments((0..300_000).map(|_| (9000, 1)))));
}

#[test]
fn memory_of_the_search_is_small() {
    // Whatever the width of the buckets.
    for hole in [0, 1, 3, 10, 30, 100, 500] {
        let segments = segments((0..100_000).map(|_| (hole, 1)));
        let plain = segments.len() * 16;
        let search = MergedIndex::new(segments).len_bytes() - plain;
        assert!((220_000..=250_300).contains(&search), "{search} at {hole}");
    }
    let sparse = segments((0..100_000).map(|_| (HUGE / 100_000 - 1, 1)));
    assert_eq!(MergedIndex::new(sparse).len_bytes(), 100_000 * 16 + 50_000);
    let few = MergedIndex::new(segments([(10 * PAGE, 1)]));
    // A segment; where buckets 0 to 10 start, and the end; a key, and a window.
    assert_eq!(few.len_bytes(), 16 + 12 * 4 + 33 * 2);
}

/// Holes of every magnitude up to 2^`bits`, lengths of every magnitude.
fn any_runs(bits: u32, count: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let hole = (0..=bits, any::<u64>()).prop_map(|(bits, number)| number % (1 << bits));
    let len = (0..=13_u32, any::<u64>()).prop_map(|(bits, number)| 1 + number % (1 << bits));
    prop::collection::vec((hole, len), 0..count)
}

proptest! {
    #[test]
    fn any_segments_are_found(runs in any_runs(18, 3000)) {
        check(&segments(runs));
    }

    #[test]
    fn any_segments_of_a_huge_disk_are_found(runs in any_runs(34, 300)) {
        check(&segments(runs));
    }
}
