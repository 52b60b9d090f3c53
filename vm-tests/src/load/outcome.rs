//! What came of a run.

use std::time::Duration;

use super::histogram::Histogram;

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Requests answered.
    pub requests: u64,
    /// Their data.
    pub bytes: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Time from making a request to seeing its answer.
    pub latency: Histogram,
    /// How often the backend was notified of requests.
    pub kicks: u64,
    /// How often the backend notified of answers.
    pub interrupts: u64,
}

impl Outcome {
    /// Requests per second.
    #[must_use]
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }

    /// Joins what ran at the same time.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latency.add(&other.latency);
        self.kicks += other.kicks;
        self.interrupts += other.interrupts;
    }
}
