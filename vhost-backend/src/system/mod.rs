//! What the standard library cannot do on its own word: all `unsafe` code of this crate.
//!
//! Four things, each behind a safe door that no caller can misuse:
//!
//! - [`adopt`]: a descriptor number that was passed by exec becomes an owned descriptor, once.
//! - [`SharedMapping`]: a piece of somebody else's file stays readable when its owner cuts the file short. Without
//!   it, one `ftruncate` of a front-end ends the process of whoever maps its memory (trap T-7, case F-22); an
//!   access that cannot fail cannot be checked in any other way, and reading guest memory with system calls would
//!   cost one for each descriptor instead of none. It also has many of its pages mapped at once, for two thirds of what the
//!   faults would cost.
//! - [`read_ready_to_guest`]: the bytes of a layer that is stored as it is go from the page cache to guest memory in one
//!   copy instead of two (docs/performance.md has the difference).
//! - `Uring`: many reads wait for the disk at a time without a thread for each (the same place has what that saves).

mod descriptor;
mod guest_read;
mod shared_mapping;
mod uring;

pub use descriptor::adopt;
pub use guest_read::read_ready_to_guest;
pub use shared_mapping::{Alarm, SharedMapping};
pub(crate) use uring::{Completed, Uring};
