//! One queue at work: descriptors in, completions out, on a thread of its own.
//!
//! [`Worker`] is what the session holds, `service` what the thread does, [`SplitRing`] the rules of the ring, `layout`
//! its bytes, [`Chain`] the buffers of one request.

mod batch;
mod chain;
mod layout;
mod poll;
mod ring;
mod service;
mod worker;

pub use chain::{Buffer, Chain, ChainError, Table};
pub use layout::used_len_bytes;
pub use ring::{Order, RingError, SplitRing, Ticket, UsedLog, Vring};
pub use worker::{QueueSetup, StartError, Stopped, Worker};
