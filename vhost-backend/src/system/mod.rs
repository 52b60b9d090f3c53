//! What the standard library cannot do on its own word: all `unsafe` code of this crate.
//!
//! Two things, each behind a safe door that no caller can misuse:
//!
//! - [`adopt`]: a descriptor number that was passed by exec becomes an owned descriptor, once.
//! - [`SharedMapping`]: a piece of somebody else's file stays readable when its owner cuts the file short. Without
//!   it, one `ftruncate` of a front-end ends the process of whoever maps its memory (trap T-7, case F-22); an
//!   access that cannot fail cannot be checked in any other way, and reading guest memory with system calls would
//!   cost one for each descriptor instead of none.

mod descriptor;
mod shared_mapping;

pub use descriptor::adopt;
pub use shared_mapping::{Alarm, SharedMapping};
