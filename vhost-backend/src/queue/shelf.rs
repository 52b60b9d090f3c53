//! Where a queue's thread leaves the guest while it waits for the disk.
//!
//! A read may take for ever, and nothing ends a thread that hangs in one. So the thread does not hold the guest
//! during a read: it puts the ring, with the memory it lies in, on this shelf, and takes it back when the bytes are
//! there. Whoever has to stop the queue and cannot wait takes the ring from the shelf instead. The thread then finds
//! nothing to come back to, and can touch the guest no more, whenever its read returns.

use std::sync::{Mutex, PoisonError};

use crate::queue::SplitRing;

/// A place for one ring.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Option<Box<SplitRing>>>);

impl Shelf {
    /// Leaves the ring here.
    pub(crate) fn put(&self, ring: Box<SplitRing>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ring);
    }

    /// Takes the ring, if it is here.
    pub(crate) fn take(&self) -> Option<Box<SplitRing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
