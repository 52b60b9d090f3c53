//! How many queues have left reads behind that nobody waits for any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::MAX_STUCK_READS;

/// A count of queues whose last reads have not come back.
#[derive(Debug, Default)]
pub struct StuckReads(AtomicUsize);

impl StuckReads {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One has come back.
    pub fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether a disk that answers so little should be asked more.
    #[must_use]
    pub fn are_too_many(&self) -> bool {
        self.count() >= MAX_STUCK_READS
    }
}
