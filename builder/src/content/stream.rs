//! Standard input as a disk.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use blob::{FileBlob, PageBuffer};

use crate::content::{Content, ContentError, Raw, Stretch};
use crate::zeroes::is_zero;

/// What is read at a time.
const PIECE_LEN_BYTES: usize = 1 << 20;
/// Zeroes of this length are left out of a spooled file.
const HOLE_LEN_BYTES: usize = 4096;

/// Keeps all that `input` has in a file without a name in `dir`, zeroes as holes.
///
/// # Errors
///
/// When the input cannot be read, or there is no room.
pub fn spool(mut input: impl Read, dir: &Path) -> Result<Raw, ContentError> {
    let failed = |source| ContentError::Spool {
        dir: dir.to_owned(),
        source,
    };
    let file = tempfile::tempfile_in(dir).map_err(failed)?;
    let mut buf = PageBuffer::zeroed(PIECE_LEN_BYTES);
    let mut position = 0;
    loop {
        let len = read_full(&mut input, &mut buf)
            .map_err(|error| ContentError::read("standard input", position, error))?;
        let piece = buf.get(..len).unwrap_or_default();
        write_sparse(&file, piece, position).map_err(failed)?;
        position += len as u64;
        if len < buf.len() {
            break;
        }
    }
    file.set_len(position).map_err(failed)?;
    let name = "standard input".to_owned();
    FileBlob::from_file(file)
        .map(|file| Raw::new(file, name))
        .map_err(|source| ContentError::Open {
            path: dir.to_owned(),
            source,
        })
}

fn write_sparse(file: &File, piece: &[u8], position: u64) -> io::Result<()> {
    let mut at = position;
    for block in piece.chunks(HOLE_LEN_BYTES) {
        if !is_zero(block) {
            file.write_all_at(block, at)?;
        }
        at += block.len() as u64;
    }
    Ok(())
}

/// Reads until `buf` is full or the input ends, and returns how many bytes came.
pub(crate) fn read_full(input: &mut (impl Read + ?Sized), buf: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = buf.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// A stream of known length, which can be read once from front to back. What is skipped, is read and dropped.
pub struct Stream<R> {
    len_bytes: u64,
    state: Mutex<(R, u64)>,
}

impl<R> std::fmt::Debug for Stream<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

impl<R: Read + Send> Stream<R> {
    /// A stream of this length.
    #[must_use]
    pub fn new(input: R, len_bytes: u64) -> Self {
        Self {
            len_bytes,
            state: Mutex::new((input, 0)),
        }
    }
}

impl<R: Read + Send> Content for Stream<R> {
    fn is_stream(&self) -> bool {
        true
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn stretch_at(&self, _offset: u64) -> Result<Stretch, ContentError> {
        Ok(Stretch::Data {
            end: self.len_bytes,
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (input, position) = &mut *state;
        let failed = |error| ContentError::read("standard input", offset, error);
        let length = |what, offset| ContentError::StreamLength {
            what,
            offset,
            len_bytes: self.len_bytes,
        };
        if offset != *position || !blob::range_is_inside(offset, buf.len(), self.len_bytes) {
            return Err(ContentError::outside("standard input", offset));
        }
        let len = read_full(input, buf).map_err(failed)?;
        *position += len as u64;
        if len < buf.len() {
            return Err(length("ends", *position));
        }
        if *position == self.len_bytes && read_full(input, &mut [0]).map_err(failed)? > 0 {
            return Err(length("goes on", *position));
        }
        Ok(())
    }
}
