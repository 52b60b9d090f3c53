//! The promises of the crate, one file each.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking, and so do their helpers"
)]

mod blocks;
mod corruption;
mod example;
mod faults;
mod goldens;
mod legacy;
mod roundtrip;
mod support;
