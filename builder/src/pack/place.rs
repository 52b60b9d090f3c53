//! Where a packed layer goes.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

/// Unit in which zeroes are left out of files: the block of most file systems.
const HOLE_LEN_BYTES: usize = 4096;

/// A file from a position on, or a stream. What is written in order goes through [`Write`].
pub(super) enum Place<'a> {
    File {
        file: &'a File,
        start: u64,
        len_bytes: u64,
    },
    Stream {
        out: Box<dyn Write + 'a>,
        len_bytes: u64,
    },
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("len_bytes", &self.len_bytes())
            .finish_non_exhaustive()
    }
}

impl Place<'_> {
    /// Bytes written in order.
    pub(super) fn len_bytes(&self) -> u64 {
        match self {
            Self::File { len_bytes, .. } | Self::Stream { len_bytes, .. } => *len_bytes,
        }
    }
}

/// Zeroes are not written to a file, which is empty at first: they remain holes.
impl Write for Place<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::File {
                file,
                start,
                len_bytes,
            } => {
                let at = *start + *len_bytes;
                let (len, is_hole) = next_piece(buf, at);
                let written = match is_hole {
                    true => len,
                    false => file.write_at(buf.get(..len).unwrap_or(buf), at)?,
                };
                *len_bytes += written as u64;
                Ok(written)
            }
            Self::Stream { out, len_bytes } => {
                let written = out.write(buf)?;
                *len_bytes += written as u64;
                Ok(written)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File { .. } => Ok(()),
            Self::Stream { out, .. } => out.flush(),
        }
    }
}

impl zfile::OverwriteHead for Place<'_> {
    fn overwrite_head(&mut self, head: &[u8; zfile::HEADER_LEN_BYTES]) -> io::Result<()> {
        match self {
            Self::File { file, start, .. } => file.write_all_at(head, *start),
            // Streams are finished in the form that does without.
            Self::Stream { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// How many bytes of `buf`, which belongs at byte `at` of a file, are to be written or to be left out, and which of the
/// two.
fn next_piece(buf: &[u8], at: u64) -> (usize, bool) {
    let into_unit = usize::try_from(at % HOLE_LEN_BYTES as u64).unwrap_or(0);
    let first = (HOLE_LEN_BYTES - into_unit).min(buf.len());
    let (first, rest) = buf.split_at(first);
    let is_hole = is_zero(first);
    let more = rest
        .chunks(HOLE_LEN_BYTES)
        .take_while(|unit| is_zero(unit) == is_hole)
        .map(<[u8]>::len)
        .sum::<usize>();
    (first.len() + more, is_hole)
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_le_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_units_of_the_file() {
        let mut buf = vec![1; 3 * 4096];
        assert_eq!(next_piece(&buf, 0), (12_288, false));
        buf[4096..8192].fill(0);
        assert_eq!(next_piece(&buf, 8192), (4096, false));
        assert_eq!(next_piece(&buf[4096..], 4096), (4096, true));
        assert_eq!(next_piece(&buf[8192..], 0), (4096, false));
        // No unit of the file is zero throughout.
        assert_eq!(next_piece(&buf, 10), (12_288, false));
        assert_eq!(next_piece(&buf[4096..8000], 10), (3904, true));
        assert_eq!(next_piece(&[], 5), (0, true));
        for at in 0..4096 {
            let mut unit = vec![0; 4096];
            assert!(is_zero(&unit));
            unit[at] = 1;
            assert!(!is_zero(&unit));
        }
    }
}
