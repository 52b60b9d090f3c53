//! Latencies, counted in buckets that are never wider than one part in 64 of what they hold.

use std::time::Duration;

/// Buckets for each doubling, a power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.ilog2();
/// Everything from 2^40 ns (18 minutes) on is in the last bucket.
const DOUBLINGS: u32 = 40;
const BUCKETS: usize = ((DOUBLINGS - STEP_BITS + 1) as usize) << STEP_BITS;

/// How often each latency was seen: exact below 128 ns, within 1.6 % above.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(nanoseconds)] += 1;
        self.count += 1;
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        for (own, others) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += others;
        }
        self.count += other.count;
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The latency that no more than the part `1 - quantile` of all exceed, in microseconds; 0 of nothing.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        let mut left = rank(quantile, self.count);
        for (bucket, count) in self.buckets.iter().enumerate() {
            if left <= *count && *count > 0 {
                return middle_of(bucket) / 1000.0;
            }
            left = left.saturating_sub(*count);
        }
        0.0
    }
}

/// Which of `count` values in ascending order, the first being 1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of requests is far below 2^52, and a quantile is not negative"
)]
fn rank(quantile: f64, count: u64) -> u64 {
    ((quantile * count as f64).ceil() as u64).clamp(1, count.max(1))
}

fn bucket_of(nanoseconds: u64) -> usize {
    let value = nanoseconds.min((1 << DOUBLINGS) - 1);
    // Values below STEPS have a bucket each; above, the leading STEP_BITS bits behind the first one choose.
    let shift = (value | (STEPS - 1)).ilog2() - (STEP_BITS - 1);
    let shift = shift.saturating_sub(1);
    let bucket = (u64::from(shift) << STEP_BITS) + (value >> shift);
    usize::try_from(bucket).map_or(BUCKETS - 1, |bucket| bucket.min(BUCKETS - 1))
}

/// The middle of the latencies in a bucket, in nanoseconds.
fn middle_of(bucket: usize) -> f64 {
    let bucket = bucket as u64;
    let shift = (bucket >> STEP_BITS).saturating_sub(1);
    let lowest = (bucket - (shift << STEP_BITS)) << shift;
    let width = 1_u64 << shift;
    lowest as f64 + (width - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BUCKETS, DOUBLINGS, Histogram, bucket_of, middle_of};

    #[test]
    fn buckets_follow_each_other_and_hold_what_they_say() {
        let mut last = 0;
        for value in (0..100_000).chain((17..DOUBLINGS).map(|bit| 1 << bit)) {
            let bucket = bucket_of(value);
            assert!(bucket >= last, "{value}: {bucket} after {last}");
            assert!(value > 100_000 || bucket <= last + 1, "{value}: a gap");
            last = bucket;
            let error = (middle_of(bucket) - value as f64).abs();
            assert!(error <= value as f64 / 64.0, "{value}: off by {error}");
        }
        assert_eq!(bucket_of(127), 127);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|us| histogram.record(Duration::from_micros(us)));
        for (quantile, expected) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = histogram.quantile_us(quantile);
            assert!(
                (found / expected - 1.0).abs() < 0.016,
                "{quantile}: {found}"
            );
        }
        let mut twice = histogram.clone();
        twice.add(&histogram);
        assert_eq!(twice.count(), 2000);
        assert_eq!(Histogram::default().quantile_us(0.5), 0.0);
    }
}
