//! Promise: what the vhost-user protocol and virtio-blk ask of a backend like this one holds, line by line.
//!
//! One file for each line C-01, C-02, … of the two specifications, or for a few that belong together. A line consists
//! of checks with a name and a number; `docs/specification.md` says in plain sentences which promise each of them
//! proves, and `document.rs` holds the two together.
//!
//! `VBD_CYCLES` and `VBD_RECONNECTS` ask for more than a normal run does; `VBD_SEED` repeats its random choices.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail like tests, and say what they did"
)]

mod bench;
mod dirty_log;
mod document;
mod extra_memory;
mod inflight_map;
mod program;
mod registry;
#[path = "../suite/support/mod.rs"]
#[expect(dead_code, reason = "the suite next door uses the rest")]
mod support;

mod c01_ring_states;
mod c02_stopping;
mod c04_restarting;
mod c06_memory_table;
mod c07_memory_regions;
mod c08_dirty_log;
mod c08_killed;
mod c09_inflight;
mod c10_offers;
mod c11_config;
mod c12_acknowledgements;
mod c16_errors;
mod c18_sessions;
mod c20_program;
mod c21_termination;
mod c22_requests;
mod c23_features;
