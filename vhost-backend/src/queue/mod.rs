//! One queue at work: descriptors in, completions out, on a thread of its own.

mod chain;
mod worker;

pub use chain::{Buffer, Chain, ChainError, Table};
pub use worker::{QueueSetup, StartError, Stopped, Vring, Worker};
