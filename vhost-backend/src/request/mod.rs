//! One guest request: parsed to a plain value, executed, brought to its single outcome.

mod execute;
mod outcome;
mod parse;

pub use execute::{Delivery, ExecuteError, Fetcher, Plan, Span, plan};
pub(crate) use outcome::chain_text;
pub use outcome::{Outcome, Status, Verdict};
pub use parse::{ParseError, Parsed, Request, parse};
