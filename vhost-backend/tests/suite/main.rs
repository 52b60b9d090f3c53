//! The device behind its socket: one file for each promise.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod daemon;
mod fuzz;
mod golden;
mod kill;
mod profiles;
mod requests;
mod session;
mod support;
