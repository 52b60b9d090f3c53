//! The device behind its socket: one file for each promise.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod cold;
mod daemon;
mod device_state;
mod fuzz;
mod golden;
mod hung_disk;
mod kill;
mod lost_memory;
mod profiles;
mod requests;
mod rows;
mod session;
mod support;
