//! Promise: whatever a guest or a front-end does, the daemon lives, other queues of the same session and the next
//! front-end are answered right, nothing grows, nothing spins, and the log stays short.
//!
//! One file for each family of attacks, one row of `docs/hostile.md` for each case. A row says what was observed; a
//! run compares it with the document, and `VBD_WRITE_HOSTILE_TABLE=1` writes the document anew.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail like tests"
)]

mod attack;
mod family;
#[expect(dead_code, reason = "the suite of faults next door uses the rest")]
mod house;
mod messages;
#[path = "../suite/support/mod.rs"]
#[expect(dead_code, reason = "the suite next door uses the rest")]
mod support;
mod table;

mod v01_loops;
mod v02_empty;
mod v03_floods;
mod v04_available;
mod v05_duplicates;
mod v06_races;
mod v07_lengths;
mod v08_framing;
mod v09_indirect;
mod v10_overlaps;
mod v11_requests;
mod v12_set_up;
mod v13_descriptors;
mod v14_inflight;
mod v15_messages;
mod v16_disconnects;
mod v17_lost_memory;
mod v18_memory_tables;
