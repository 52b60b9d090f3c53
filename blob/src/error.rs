//! The one run-time error of every byte source.

use std::error::Error;
use std::fmt;

/// What a failed read means for the reader's control flow; the cause is in the error's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadErrorKind {
    /// The range does not lie inside the source: a mistake of the caller.
    OutOfRange,
    /// The operating system failed to deliver the bytes, or the file has become shorter than it was.
    Io,
    /// The bytes arrived but fail a check: a checksum, a decoder, a length.
    Corrupt,
}

impl fmt::Display for ReadErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "read outside the source",
            Self::Io => "read failed",
            Self::Corrupt => "damaged data",
        })
    }
}

/// A read that did not deliver every byte it was asked for.
#[derive(Debug)]
pub struct ReadError {
    kind: ReadErrorKind,
    offset: u64,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ReadError {
    /// An error at byte `offset` of the source that reports it.
    #[must_use]
    pub fn new(kind: ReadErrorKind, offset: u64) -> Self {
        Self {
            kind,
            offset,
            source: None,
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the failure means.
    #[must_use]
    pub fn kind(&self) -> ReadErrorKind {
        self.kind
    }

    /// Byte offset in the source that reports the error.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.kind, self.offset)
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
