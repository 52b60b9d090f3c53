//! How many requests are answered before the driver is told.
//!
//! While the driver goes on with one batch, the next one is served, on another processor. To be told costs both sides
//! about as much as some requests, so batches should be large; but what is left has to keep this side busy until the
//! driver, which may have to be woken, has made new requests, or each of the two sleeps while the other works.

use std::time::{Duration, Instant};

use crate::limits::MAX_BATCH;

/// How long a driver takes from being told to its next requests, if it sleeps: what machines and guests need to wake.
const TURN_AROUND: Duration = Duration::from_micros(40);

/// Learns what requests take, and says how many to answer.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// What one request takes. Zero: nobody knows yet.
    request_time: Duration,
    begun: Option<Instant>,
}

impl Batch {
    /// So many requests wait: how many to take before the driver is told.
    pub(crate) fn begin(&mut self, waiting: usize) -> usize {
        let len = self.len(waiting);
        self.begun = (len > 1).then(Instant::now);
        len
    }

    fn len(&self, waiting: usize) -> usize {
        let half = waiting / 2;
        let most = if self.request_time.is_zero() {
            0
        } else {
            let left = TURN_AROUND
                .as_nanos()
                .div_ceil(self.request_time.as_nanos());
            waiting.saturating_sub(usize::try_from(left).unwrap_or(usize::MAX))
        };
        half.max(most).clamp(1, MAX_BATCH)
    }

    /// So many requests were taken.
    pub(crate) fn end(&mut self, taken: usize) {
        let Some(begun) = self.begun.take() else {
            return;
        };
        if let Ok(taken) = u32::try_from(taken)
            && taken > 1
        {
            self.learn(begun.elapsed() / taken);
        }
    }

    /// Something else may have run meanwhile, so a longer time counts for little.
    fn learn(&mut self, time: Duration) {
        self.request_time = if self.request_time.is_zero() {
            time
        } else {
            let more = time.saturating_sub(self.request_time) / 8;
            time.min(self.request_time + more)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_until_it_is_known_what_requests_take() {
        let batch = Batch::default();
        for (waiting, len) in [
            (0, 1),
            (1, 1),
            (2, 1),
            (3, 1),
            (8, 4),
            (32, 16),
            (1000, MAX_BATCH),
        ] {
            assert_eq!(batch.len(waiting), len);
        }
    }

    #[test]
    fn what_is_left_covers_the_time_until_there_is_more() {
        for (micros, waiting, len) in [
            (2, 32, 16),
            (2, 8, 4),
            (2, 50, 30),
            (4, 32, 22),
            (4, 16, 8),
            (4, 128, MAX_BATCH),
            (20, 8, 6),
            (100, 8, 7),
            (100, 1, 1),
        ] {
            let mut batch = Batch::default();
            batch.learn(Duration::from_micros(micros));
            assert_eq!(batch.len(waiting), len, "{micros} us, {waiting} waiting");
        }
    }

    #[test]
    fn accidents_count_for_little_and_pass() {
        let mut batch = Batch::default();
        batch.learn(Duration::from_micros(4));
        batch.learn(Duration::from_micros(44));
        assert_eq!(batch.request_time, Duration::from_micros(9));
        batch.learn(Duration::from_micros(5));
        assert_eq!(batch.request_time, Duration::from_micros(5));
    }

    #[test]
    fn single_requests_cost_no_look_at_the_clock() {
        let mut batch = Batch::default();
        assert_eq!(batch.begin(2), 1);
        assert_eq!(batch.begun, None);
        batch.end(1);
        assert_eq!(batch.begin(8), 4);
        assert!(batch.begun.is_some());
        batch.end(4);
        assert!(batch.begun.is_none() && !batch.request_time.is_zero());
    }
}
