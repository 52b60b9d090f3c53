//! What a front-end shares with us: guest memory, the log of pages we wrote, the map of requests in flight.
//!
//! All of it is files of a stranger, mapped. [`map_file`] is the one door: the file has the bytes when it is
//! mapped, and losing them later raises an [`Alarm`](crate::system::Alarm) instead of ending the process. Every
//! write to [`GuestMemory`] marks the pages it touches in the log, if there is one; no caller has to think of it.

mod dirty_log;
mod inflight;
mod memory;
mod populated;
mod shared_file;

pub use dirty_log::{DirtyLog, DirtyPages, DirtySlice};
pub use inflight::{InflightError, InflightQueue, InflightRegion};
pub(crate) use memory::populate;
pub use memory::{GuestMemory, GuestRegion};
pub use shared_file::{MapError, map_file};

#[cfg(test)]
pub(crate) use memory::test_memory;
