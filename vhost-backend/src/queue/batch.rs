//! How many requests are answered before the driver is told.
//!
//! While the driver goes on with one batch, the next one is served, on another processor. To be told costs both sides
//! about as much as some requests, so batches should be large; but what is left has to keep this side busy until the
//! driver, which may have to be woken, has made new requests, or each of the two sleeps while the other works.

use std::time::{Duration, Instant};

use crate::limits::{MAX_BATCH, MAX_BATCH_TIME};
use crate::usual_time::UsualTime;

/// How long a driver takes from being told to its next requests, if it sleeps: what machines and guests need to wake.
const TURN_AROUND: Duration = Duration::from_micros(50);

/// Learns what requests take, and says how many to answer.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Of one request.
    request_time: UsualTime,
    begun: Option<Instant>,
    /// How many to take, as it looked when the first was taken.
    most: usize,
}

impl Batch {
    /// How many requests to take, of which one is sure and so many others wait.
    pub(crate) fn begin(&mut self, waiting: usize) -> usize {
        let most = waiting.saturating_sub(self.enough()).max(waiting / 2);
        self.most = most.clamp(1, MAX_BATCH);
        self.begun = (self.most > 1).then(Instant::now);
        self.most
    }

    /// How many more to take when so many were taken, and `waiting` says how many wait now; none when the first answer has
    /// been kept back for long.
    pub(crate) fn more(&self, taken: usize, waiting: impl FnOnce() -> usize) -> usize {
        // A batch of one is not timed, and stays one.
        let is_long = |begun: Instant| begun.elapsed() >= MAX_BATCH_TIME;
        if taken >= MAX_BATCH || self.begun.is_none_or(is_long) {
            return 0;
        }
        match self.most.checked_sub(taken) {
            Some(more) if more > 0 => more,
            // A driver that was awake has made some.
            _ => waiting()
                .saturating_sub(self.enough())
                .min(MAX_BATCH - taken),
        }
    }

    /// How many requests keep this side busy until a driver that sleeps has made more.
    fn enough(&self) -> usize {
        self.request_time.get().map_or(usize::MAX, |time| {
            let enough = TURN_AROUND.as_nanos().div_ceil(time.as_nanos());
            usize::try_from(enough).unwrap_or(usize::MAX)
        })
    }

    /// So many requests were taken.
    pub(crate) fn end(&mut self, taken: usize) {
        let Some(begun) = self.begun.take() else {
            return;
        };
        let taken = u32::try_from(taken).ok();
        if let Some(each) = taken.and_then(|taken| begun.elapsed().checked_div(taken)) {
            self.request_time.learn(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many requests make a batch, if `more` come when half of them are left.
    fn len(batch: &mut Batch, requests: usize, more: usize) -> usize {
        let (mut taken, mut total) = (0, requests);
        let mut most = batch.begin(requests);
        // No time passes, whatever else the machine does.
        let later = Instant::now() + Duration::from_secs(3600);
        batch.begun = batch.begun.map(|_| later);
        while most > 0 {
            taken += 1;
            if taken == requests / 2 {
                total += more;
            }
            let then = batch.more(taken, || total - taken);
            assert!(then + 1 >= most, "what was allowed stays so");
            most = then;
        }
        assert_eq!(batch.more(MAX_BATCH, || 1000), 0);
        taken
    }

    #[test]
    fn half_until_it_is_known_what_requests_take() {
        let mut batch = Batch::default();
        let cases = [(1, 1), (2, 1), (3, 1), (8, 4), (32, 16), (1000, MAX_BATCH)];
        for (requests, expected) in cases {
            assert_eq!(len(&mut batch, requests, 0), expected, "{requests}");
            assert_eq!(len(&mut batch, requests, 1000), expected, "{requests}");
        }
    }

    #[test]
    fn what_is_left_covers_the_time_until_there_is_more() {
        for (micros, requests, more, expected) in [
            (2, 32, 0, 16),
            (2, 8, 0, 4),
            (2, 50, 0, 25),
            (4, 32, 0, 19),
            (4, 16, 0, 8),
            (4, 128, 0, MAX_BATCH),
            (20, 8, 0, 5),
            (100, 8, 0, 7),
            (100, 1, 0, 1),
            // 20 more when 6 are left: 13 are enough.
            (4, 12, 20, 19),
            (4, 12, 2, 6),
            (2, 8, 4, 4),
        ] {
            let mut batch = Batch::default();
            batch.request_time.learn(Duration::from_micros(micros));
            let found = len(&mut batch, requests, more);
            assert_eq!(
                found, expected,
                "{micros} us, {requests} requests and {more}"
            );
        }
    }

    #[test]
    fn no_answer_is_kept_back_for_long() {
        let mut batch = Batch::default();
        assert_eq!(batch.begin(8), 4);
        assert_eq!(batch.more(1, || 7), 3);
        batch.begun = Instant::now().checked_sub(MAX_BATCH_TIME);
        assert_eq!(batch.more(1, || 7), 0);
        batch.end(1);
        assert!(batch.request_time.get() >= Some(MAX_BATCH_TIME));
    }

    #[test]
    fn single_requests_cost_no_look_at_the_clock() {
        let mut batch = Batch::default();
        batch.begin(2);
        assert_eq!(batch.begun, None);
        batch.end(1);
        batch.begin(8);
        assert!(batch.begun.is_some());
        batch.end(4);
        assert!(batch.begun.is_none() && batch.request_time.get().is_some());
    }
}
