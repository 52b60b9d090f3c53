//! Flat disks out of layers.

mod qcow2;

use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use blob::PageBuffer;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

pub use qcow2::export_qcow2;

use crate::content::Content;
use crate::error::BuildError;
use crate::parallel::{Buffers, in_order, threads};
use crate::walk::{Piece, Walk};
use crate::zeroes::is_zero;
use crate::{Output, Progress};

/// Zeroes of this length, where the disk offset is a multiple of it, are left out of a sparse file.
const HOLE_LEN_BYTES: usize = 4096;
/// The same, as the unit of a walk.
const UNIT_BYTES: u32 = 4096;

/// Writes what a disk holds in `range`, in bytes, to a file. Where `sparse`, zeroes are holes in the file; otherwise all
/// of its room is taken.
///
/// # Errors
///
/// When the disk cannot be read or has no such range, or the file not be written.
pub fn export_raw(
    disk: &dyn Content,
    range: Range<u64>,
    output: Output,
    sparse: bool,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    check_range(disk, &range)?;
    let path = output.path().to_owned();
    let failed = |source: io::Error| BuildError::Write {
        path: path.clone(),
        source,
    };
    let file = output.file();
    let len_bytes = range.end - range.start;
    file.set_len(len_bytes).map_err(failed)?;
    let is_allocated = !sparse && allocate(&output, len_bytes).map_err(failed)?;
    let leave_out = sparse || is_allocated;
    progress.begin("exporting", Some(len_bytes));
    let buffers = Buffers::default();
    let write = |piece: Piece| {
        let mut bytes = buffers.take(piece.len_bytes);
        disk.read_exact_at(&mut bytes, piece.offset)?;
        let mut start = 0;
        // Pieces start at blocks of the disk, unless the range does not.
        while let Some(rest) = bytes.get(start..).filter(|rest| !rest.is_empty()) {
            let zero = zeroes_at_front(rest);
            let (skipped, data) = match leave_out {
                true => (zero, data_at_front(rest.get(zero..).unwrap_or_default())),
                false => (0, rest.len()),
            };
            let from = start + skipped;
            let data = bytes.get(from..from + data).unwrap_or_default();
            file.write_all_at(data, piece.offset - range.start + from as u64)
                .map_err(failed)?;
            start = from + data.len();
        }
        buffers.give(bytes);
        Ok::<_, BuildError>(piece)
    };
    let took = |piece: Piece| {
        progress.advance(piece.skipped_bytes + piece.len_bytes as u64);
        Ok(())
    };
    let pieces = Walk::new([disk, disk], range.clone(), UNIT_BYTES)
        .map(|piece| piece.map_err(BuildError::from));
    in_order(threads(0), pieces, write, took)?;
    if !leave_out {
        write_zeroes(disk, &range, &output)?;
    }
    output.finish()?;
    Ok(())
}

/// Writes what a disk holds in `range`, in bytes, zeroes and all.
///
/// # Errors
///
/// When the disk cannot be read or has no such range, or `out` takes no more.
pub fn export_stream(
    disk: &dyn Content,
    range: Range<u64>,
    out: &mut impl Write,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    check_range(disk, &range)?;
    progress.begin("exporting", Some(range.end - range.start));
    let buffers = Buffers::default();
    let read = |piece: Piece| {
        let mut bytes = buffers.take(piece.len_bytes);
        disk.read_exact_at(&mut bytes, piece.offset)?;
        Ok::<_, BuildError>((piece, bytes))
    };
    let pieces =
        Walk::new([disk, disk], range, UNIT_BYTES).map(|piece| piece.map_err(BuildError::from));
    let write = |(piece, bytes): (Piece, PageBuffer)| {
        let skipped = io::copy(&mut io::Read::take(io::repeat(0), piece.skipped_bytes), out);
        let written = skipped.and_then(|_| out.write_all(&bytes));
        written.map_err(|source| BuildError::Write {
            path: "standard output".into(),
            source,
        })?;
        progress.advance(piece.skipped_bytes + piece.len_bytes as u64);
        buffers.give(bytes);
        Ok(())
    };
    in_order(threads(0), pieces, read, write)?;
    out.flush().map_err(|source| BuildError::Write {
        path: "standard output".into(),
        source,
    })
}

fn check_range(disk: &dyn Content, range: &Range<u64>) -> Result<(), BuildError> {
    match range.start <= range.end && range.end <= disk.len_bytes() {
        true => Ok(()),
        false => Err(BuildError::NoSuchRange {
            start: range.start,
            end: range.end,
            len_bytes: disk.len_bytes(),
        }),
    }
}

/// Takes the room of a file, which reads as zeroes then; `false` where the file system knows no such thing.
fn allocate(output: &Output, len_bytes: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(output.file(), FallocateFlags::empty(), 0, len_bytes) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(_) if len_bytes == 0 => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Writes zeroes wherever the disk has nothing to read.
fn write_zeroes(disk: &dyn Content, range: &Range<u64>, output: &Output) -> Result<(), BuildError> {
    let zeroes = vec![0; 1 << 20];
    for piece in Walk::new([disk, disk], range.clone(), UNIT_BYTES) {
        let piece = piece?;
        let mut at = piece.offset - piece.skipped_bytes;
        while at < piece.offset {
            let left = usize::try_from(piece.offset - at).unwrap_or(usize::MAX);
            let part = zeroes.get(..left.min(zeroes.len())).unwrap_or_default();
            output
                .file()
                .write_all_at(part, at - range.start)
                .map_err(|source| BuildError::Write {
                    path: output.path().to_owned(),
                    source,
                })?;
            at += part.len() as u64;
        }
    }
    Ok(())
}

/// How many bytes at the front are blocks of zeroes.
fn zeroes_at_front(bytes: &[u8]) -> usize {
    let blocks = bytes.chunks(HOLE_LEN_BYTES);
    blocks
        .take_while(|block| is_zero(block))
        .map(<[u8]>::len)
        .sum()
}

/// How many bytes at the front are blocks of anything else.
fn data_at_front(bytes: &[u8]) -> usize {
    let blocks = bytes.chunks(HOLE_LEN_BYTES);
    blocks
        .take_while(|block| !is_zero(block))
        .map(<[u8]>::len)
        .sum()
}
