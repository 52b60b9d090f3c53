//! The bytes of a layer, from first to last, to where they are stored anew.

use std::io::{self, Read, Write};
use std::sync::Arc;

use blob::{PageBuffer, ReadAt, ReadError};
use image::Source;
use zfile::Scratch;

use crate::Progress;
use crate::content::read_full;
use crate::lanes::{Lanes, ThreadError, Worker};

/// What is read at once: a multiple of every block size. Each thread has at most two of these.
const PIECE_LEN_BYTES: usize = 256 << 10;
/// Length of the trailer of a layer.
const TRAILER_LEN_BYTES: usize = lsmt::HEADER_LEN_BYTES;

/// Bytes that cannot be handed on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The input cannot be read, or a block of it is damaged.
    #[error("cannot read the input")]
    Read(#[source] ReadError),
    /// The stream cannot be read.
    #[error("cannot read the input after {len_bytes} bytes")]
    Stream {
        /// Bytes that came.
        len_bytes: u64,
        /// Why no more.
        source: io::Error,
    },
    /// The stream is packed.
    #[error(
        "the input is {found}, which cannot be read from a stream, for its end says what is in it; give it as a file"
    )]
    Packed {
        /// What it is.
        found: &'static str,
    },
    /// The stream is something else.
    #[error("the input is not a layer: it does not begin with an LSMT header")]
    NotALayer,
    /// The stream ends too early.
    #[error(
        "the input ends after {len_bytes} bytes without an LSMT trailer; has its writer failed?"
    )]
    Unfinished {
        /// Bytes that came.
        len_bytes: u64,
    },
    /// The output fails.
    #[error(transparent)]
    Write(io::Error),
    /// The threads that decode fail.
    #[error("cannot decode")]
    Thread(#[from] ThreadError),
}

/// What a stream should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// A layer as it is, from its LSMT header to its trailer.
    Layer,
    /// Whatever it is.
    Anything,
}

/// Hands all bytes of a layer to `out`. Checks and decodes on `threads` threads, 0 for one for each processor, which take
/// 512 KiB of memory each.
///
/// # Errors
///
/// The first byte that cannot be had: `out` has got those before it, or fewer. Or the error of `out`.
pub fn copy_layer(
    source: &Arc<Source>,
    threads: usize,
    progress: &dyn Progress,
    out: &mut dyn Write,
) -> Result<(), CopyError> {
    let threads = match **source {
        // What is not decoded takes no more than somebody to read ahead.
        Source::Plain(_) => 1,
        Source::Compressed(_) => threads,
    };
    let len_bytes = source.len_bytes();
    let mut lanes = Lanes::new(Reading::new(source.clone()), threads);
    let mut spare: Vec<PageBuffer> = Vec::new();
    let mut offset = 0;
    while offset < len_bytes {
        if lanes.is_full() {
            spare.extend(write_next(&mut lanes, progress, out)?);
        }
        let left = usize::try_from(len_bytes - offset).unwrap_or(usize::MAX);
        let mut buffer = spare.pop().unwrap_or_default();
        buffer.resized(PIECE_LEN_BYTES.min(left));
        let piece = Piece { offset, buffer };
        offset += piece.buffer.len() as u64;
        lanes.begin(piece)?;
    }
    while write_next(&mut lanes, progress, out)?.is_some() {}
    Ok(())
}

fn write_next(
    lanes: &mut Lanes<Reading>,
    progress: &dyn Progress,
    out: &mut dyn Write,
) -> Result<Option<PageBuffer>, CopyError> {
    let Some(piece) = lanes.take()? else {
        return Ok(None);
    };
    let buffer = piece.map_err(CopyError::Read)?;
    out.write_all(&buffer).map_err(CopyError::Write)?;
    progress.advance(buffer.len() as u64);
    Ok(Some(buffer))
}

/// Bytes of a layer to be read.
struct Piece {
    offset: u64,
    buffer: PageBuffer,
}

/// One thread's way to read.
struct Reading {
    source: Arc<Source>,
    scratch: Scratch,
}

impl Reading {
    fn new(source: Arc<Source>) -> Self {
        let scratch = Scratch::default();
        Self { source, scratch }
    }
}

impl Clone for Reading {
    fn clone(&self) -> Self {
        Self::new(self.source.clone())
    }
}

impl Worker for Reading {
    type Job = Piece;
    type Done = Result<PageBuffer, ReadError>;

    fn work(&mut self, piece: Piece) -> Result<PageBuffer, ReadError> {
        let Piece { offset, mut buffer } = piece;
        match &*self.source {
            Source::Plain(window) => window.read_exact_at(&mut buffer, offset),
            Source::Compressed(zfile) => {
                zfile.read_exact_at_with(&mut self.scratch, &mut buffer, offset)
            }
        }?;
        Ok(buffer)
    }
}

/// Hands all bytes of a stream to `out`. Of a layer, first and last bytes must be those of one.
///
/// # Errors
///
/// When the stream or `out` fails, or the stream is not what is expected.
pub fn copy_stream(
    input: &mut dyn Read,
    expect: Expect,
    progress: &dyn Progress,
    out: &mut dyn Write,
) -> Result<(), CopyError> {
    let mut buffer = PageBuffer::zeroed(PIECE_LEN_BYTES);
    let mut tail = Vec::new();
    let mut len_bytes = 0;
    loop {
        let len = read_full(input, &mut buffer)
            .map_err(|source| CopyError::Stream { len_bytes, source })?;
        let piece = buffer.get(..len).unwrap_or_default();
        if expect == Expect::Layer {
            if len_bytes == 0 {
                check_head(piece)?;
            }
            keep_tail(&mut tail, piece);
        }
        if piece.is_empty() {
            break;
        }
        out.write_all(piece).map_err(CopyError::Write)?;
        len_bytes += piece.len() as u64;
        progress.advance(piece.len() as u64);
    }
    let is_whole = len_bytes.is_multiple_of(lsmt::SECTOR_LEN_BYTES)
        && len_bytes >= 2 * TRAILER_LEN_BYTES as u64
        && lsmt::probe(&tail).is_some();
    match expect == Expect::Anything || is_whole {
        true => Ok(()),
        false => Err(CopyError::Unfinished { len_bytes }),
    }
}

fn check_head(head: &[u8]) -> Result<(), CopyError> {
    if lsmt::probe(head).is_some() {
        Ok(())
    } else if zfile::is_zfile(head) {
        Err(CopyError::Packed { found: "a ZFile" })
    } else if blob::tar::looks_like_tar(head) {
        Err(CopyError::Packed {
            found: "a tar file",
        })
    } else {
        Err(CopyError::NotALayer)
    }
}

/// Keeps the last bytes of all pieces so far.
fn keep_tail(tail: &mut Vec<u8>, piece: &[u8]) {
    let new = piece.len().saturating_sub(TRAILER_LEN_BYTES);
    tail.extend_from_slice(piece.get(new..).unwrap_or_default());
    tail.drain(..tail.len().saturating_sub(TRAILER_LEN_BYTES));
}
