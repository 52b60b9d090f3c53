//! `vbd-vhost`.
fn main() {}
