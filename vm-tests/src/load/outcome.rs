//! What came of a run.

use std::time::{Duration, Instant};

use super::histogram::Histogram;

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Requests answered.
    pub requests: u64,
    /// Their data.
    pub bytes: u64,
    /// When it began and when the last answer was seen. `None` before there was anything.
    pub span: Option<(Instant, Instant)>,
    /// Time from making a request to seeing its answer.
    pub latency: Histogram,
    /// How often the backend was notified of requests.
    pub kicks: u64,
    /// How often the backend notified of answers.
    pub interrupts: u64,
}

impl Outcome {
    /// From its beginning to its end. Of what ran at the same time, from the first beginning to the last end: those that
    /// came later have had the machine to themselves.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(began, ended)| {
            ended.saturating_duration_since(began)
        })
    }

    /// Requests per second.
    #[must_use]
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed().as_secs_f64()
    }

    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed().as_secs_f64()
    }

    /// Joins what ran at the same time.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.span = match (self.span, other.span) {
            (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
            (one, other) => one.or(other),
        };
        self.latency.add(&other.latency);
        self.kicks += other.kicks;
        self.interrupts += other.interrupts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two that ran one after the other have not been twice as fast.
    #[test]
    fn rate_is_that_of_the_whole_time() {
        let start = Instant::now();
        let run = |from: u64, to: u64| Outcome {
            requests: 100,
            bytes: 1000,
            span: Some((
                start + Duration::from_secs(from),
                start + Duration::from_secs(to),
            )),
            ..Outcome::default()
        };
        let mut sum = Outcome::default();
        assert_eq!(sum.elapsed(), Duration::ZERO);
        sum.add(&run(2, 3));
        sum.add(&run(1, 2));
        sum.add(&Outcome::default());
        assert_eq!(sum.elapsed(), Duration::from_secs(2));
        assert_eq!(sum.requests_per_second(), 100.0);
        assert_eq!(sum.bytes_per_second(), 1000.0);
    }
}
