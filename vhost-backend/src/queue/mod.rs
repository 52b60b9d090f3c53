//! One queue at work: descriptors in, completions out, on a thread of its own.
//!
//! [`Worker`] is what the session holds, `service` what the thread does, [`SplitRing`] the rules of the ring,
//! [`Chain`] the buffers of one request, `shelf` the reason why a dead disk cannot hold up a stop.

mod chain;
mod ring;
mod service;
mod shelf;
mod worker;

pub use chain::{Buffer, Chain, ChainError, Table};
pub use ring::{RingError, SplitRing, UsedLog, Vring, used_len_bytes};
pub use worker::{QueueSetup, StartError, Stopped, Worker};
