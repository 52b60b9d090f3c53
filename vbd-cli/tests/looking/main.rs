//! Promise: what `vbd info`, `vbd verify` and `vbd config` say about layers is so, is readable by people and by
//! programs, and their exit status can be relied on.
#![expect(
    clippy::unwrap_used,
    reason = "tests fail by panicking, and so do their helpers"
)]

mod config;
mod info;
mod support;
mod verify;
