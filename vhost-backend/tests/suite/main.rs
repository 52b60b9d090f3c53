//! The device behind its socket: one file for each promise.

mod requests;
mod support;
