//! What a queue has done, counted without locks.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one queue, from the start of its session.
#[derive(Debug, Default)]
pub struct QueueStats {
    /// Requests that were brought to an end, whatever it was.
    pub requests: Counter,
    /// Data bytes written to the guest.
    pub delivered_bytes: Counter,
    /// Reads that a layer could not answer.
    pub disk_errors: Counter,
    /// Requests a read-only disk refuses: writes, unknown types, ranges outside the disk.
    pub refused: Counter,
    /// Chains that are no request.
    pub malformed: Counter,
}
