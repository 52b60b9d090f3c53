//! One guest request: parsed to a plain value, executed, brought to its single outcome.

mod asked;
mod chances;
mod decode_ahead;
mod execute;
mod join;
mod outcome;
mod parse;
mod read;
mod read_ahead;
mod reads;
mod room;
mod turns;

pub(crate) use asked::{Asked, Gathered, Reading};
pub use execute::{ExecuteError, Plan, Span, plan};
pub(crate) use outcome::{Ended, chain_text};
pub use outcome::{Outcome, Status, Verdict};
pub use parse::{ParseError, Parsed, Request, parse};
pub(crate) use read::{Look, Missing, Performer, Progress, Read};
pub(crate) use reads::Reads;
pub(crate) use room::Room;
