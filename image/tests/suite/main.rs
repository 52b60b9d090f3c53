//! The promises of the crate, one file each.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking, and so do their helpers"
)]

mod bad_input;
mod block_device;
mod cache;
mod faults;
mod golden;
mod model;
mod support;
mod wrapping;
