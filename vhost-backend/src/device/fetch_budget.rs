//! How many bytes the disk is asked for at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::MAX_DEVICE_FETCH_LEN_BYTES;

/// A sum over all queues of a device. Bounds their buffers: a guest with many queues and a slow disk could otherwise
/// have any amount of memory filled.
#[derive(Debug, Default)]
pub struct FetchBudget(AtomicUsize);

impl FetchBudget {
    /// Whether there is room for more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed) < MAX_DEVICE_FETCH_LEN_BYTES
    }

    /// These bytes are asked for.
    pub fn take(&self, len_bytes: usize) {
        self.0.fetch_add(len_bytes, Ordering::Relaxed);
    }

    /// These bytes have come, or nobody waits for them any more.
    pub fn give_back(&self, len_bytes: usize) {
        self.0.fetch_sub(len_bytes, Ordering::Relaxed);
    }
}
