//! Promise: whatever fails below or around the daemon, a guest gets the right bytes or an error, nobody else gets
//! anything, and when the fault is gone so are its consequences.
//!
//! Long forms: `VBD_FAULT_SEEDS`, `VBD_FLIPS`, `VBD_GUESTS`, `VBD_SOAK_SECONDS`; `VBD_SEED` repeats a run.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail like tests"
)]

#[path = "../hostile/attack.rs"]
#[expect(dead_code, reason = "the suite next door uses the rest")]
mod attack;
#[path = "../hostile/house.rs"]
#[expect(dead_code, reason = "the suite next door uses the rest")]
mod house;
#[path = "../suite/support/mod.rs"]
#[expect(dead_code, reason = "the suite next door uses the rest")]
mod support;

mod files;
mod guests;
mod limits;
mod reads;
mod soak;
mod trace;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

/// Where the choices of a run begin. It is printed, and `VBD_SEED` repeats it.
fn seed() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let seed = setting("VBD_SEED", u64::from(now.subsec_nanos()));
    println!("VBD_SEED={seed}");
    seed
}

/// Says why a test does nothing, past the capture of the test runner.
fn skipped(why: &str) {
    use std::io::Write;
    std::io::stderr()
        .write_all(format!("SKIPPED: {why}\n").as_bytes())
        .unwrap();
}
