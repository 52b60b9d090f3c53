//! The single point where a request ends: status, used length, log line, counter.

use std::error::Error;

use vm_memory::{Bytes, GuestAddress};

use crate::guest::GuestMemory;
use crate::killpoint::{self, Point};
use crate::queue::{ChainError, Ticket};
use crate::rate_limit::RateLimit;
use crate::request::{ExecuteError, ParseError};
use crate::stats::QueueStats;

/// What the status byte says (virtio 1.2, 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Refused or failed.
    IoError = 1,
    /// The device knows no such request.
    Unsupported = 2,
}

/// How a request ended, before anybody is told.
#[derive(Debug)]
pub enum Verdict {
    /// Performed.
    Done,
    /// The descriptors are no chain. Where its end would be is unknown, so nothing is written.
    BadChain(ChainError),
    /// The chain is no request.
    BadRequest(ParseError),
    /// The request was not performed.
    Failed(ExecuteError),
}

/// A request and everything needed to end it.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// Where the status byte goes, if there is a place for it.
    pub status_address: Option<GuestAddress>,
    /// Data bytes written to the guest.
    pub delivered_bytes: u32,
}

/// A read that has come to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) ticket: Ticket,
    pub(crate) status_address: Option<GuestAddress>,
    pub(crate) result: Result<(), ExecuteError>,
    pub(crate) delivered_bytes: u32,
}

impl Ended {
    /// The same as the end of a request.
    pub(crate) fn into_outcome(self) -> Outcome {
        Outcome {
            verdict: self.result.map_or_else(Verdict::Failed, |()| Verdict::Done),
            status_address: self.status_address,
            delivered_bytes: self.delivered_bytes,
        }
    }
}

impl Verdict {
    /// The status for the guest: a total function, so no error can be forgotten.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Done => Status::Ok,
            Self::BadChain(_) | Self::BadRequest(_) => Status::IoError,
            Self::Failed(ExecuteError::Unsupported { .. }) => Status::Unsupported,
            Self::Failed(
                ExecuteError::Disk(_)
                | ExecuteError::TooLate
                | ExecuteError::OutOfRange { .. }
                | ExecuteError::NotSectors { .. }
                | ExecuteError::Buffer { .. }
                | ExecuteError::NoRoom { .. }
                | ExecuteError::ReadOnly { .. },
            ) => Status::IoError,
        }
    }
}

impl Outcome {
    /// Writes the status, logs, counts, and returns the used length: exactly the bytes written to the guest.
    pub fn finish(self, memory: &GuestMemory, stats: &QueueStats, log: &RateLimit) -> u32 {
        let status = self.verdict.status();
        let written = self
            .status_address
            .is_some_and(|address| memory.write_obj(status as u8, address).is_ok());
        killpoint::reached(Point::AfterStatus);
        self.count(stats);
        self.log(log);
        // The chain walk limits all buffers together to 32 bits, so data and status fit.
        self.delivered_bytes.saturating_add(u32::from(written))
    }

    fn count(&self, stats: &QueueStats) {
        stats.requests.add(1);
        stats.delivered_bytes.add(u64::from(self.delivered_bytes));
        match &self.verdict {
            Verdict::Done => {}
            Verdict::BadChain(_) | Verdict::BadRequest(_) => stats.malformed.add(1),
            Verdict::Failed(ExecuteError::Disk(_) | ExecuteError::TooLate) => {
                stats.disk_errors.add(1);
            }
            Verdict::Failed(_) => stats.refused.add(1),
        }
    }

    fn log(&self, limit: &RateLimit) {
        let cause: &dyn Error = match &self.verdict {
            Verdict::Done => return,
            Verdict::BadChain(error) => error,
            Verdict::BadRequest(error) => error,
            Verdict::Failed(error) => error,
        };
        let Some(suppressed) = limit.admit() else {
            return;
        };
        let cause = chain_text(cause);
        match &self.verdict {
            Verdict::Failed(ExecuteError::Disk(_) | ExecuteError::TooLate) => {
                tracing::error!(suppressed, "read failed: {cause}")
            }
            _ => tracing::warn!(suppressed, "request refused: {cause}"),
        }
    }
}

/// An error and its causes on one line.
#[must_use]
pub(crate) fn chain_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
