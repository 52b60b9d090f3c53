//! The content of files.

use std::io::Read;
use std::ops::Range;

use super::extents::{Extent, append};
use super::{BLOCK_LEN_BYTES, Ext4Error, FileSystem};

/// What is read at once.
pub(crate) const PIECE_LEN_BYTES: usize = 1 << 20;
/// Zeroes are not stored where so many stand in their place.
const UNIT_LEN_BYTES: usize = 1 << 16;

impl FileSystem {
    /// Stores a file of `len_bytes`: the bytes of `source` stand in `segments`, ascending ranges of it, and the rest is
    /// zero.
    pub(super) fn store(
        &mut self,
        len_bytes: u64,
        segments: &[Range<u64>],
        source: &mut dyn Read,
    ) -> Result<Vec<Extent>, Ext4Error> {
        let size_bytes = u64::from(self.geometry.blocks) * BLOCK_LEN_BYTES;
        if len_bytes > size_bytes {
            return Err(Ext4Error::FileTooLarge {
                len_bytes,
                size_bytes,
            });
        }
        let mut extents = Vec::new();
        let mut piece = std::mem::take(&mut self.piece);
        let mut segments = segments
            .iter()
            .filter(|segment| !segment.is_empty())
            .peekable();
        let mut start = 0;
        while let Some(segment) = segments.peek() {
            // Between segments there is nothing to do; pieces begin where units do.
            start = start.max(segment.start - segment.start % UNIT_LEN_BYTES as u64);
            let end = len_bytes.min(start + PIECE_LEN_BYTES as u64);
            let len = usize::try_from(end - start).unwrap_or(PIECE_LEN_BYTES);
            piece.clear();
            piece.resize(len.next_multiple_of(super::BLOCK_LEN), 0);
            while let Some(segment) = segments.peek().filter(|segment| segment.start < end) {
                let (from, to) = (segment.start.max(start), segment.end.min(end));
                let place = |at: u64| usize::try_from(at - start).unwrap_or(PIECE_LEN_BYTES);
                source.read_exact(&mut piece[place(from)..place(to)])?;
                if segment.end > end {
                    // The rest of it is for the next piece.
                    break;
                }
                segments.next();
            }
            self.store_piece(start, &piece, &mut extents)?;
            start = end;
        }
        self.piece = piece;
        Ok(extents)
    }

    fn store_piece(
        &mut self,
        start: u64,
        piece: &[u8],
        extents: &mut Vec<Extent>,
    ) -> Result<(), Ext4Error> {
        let is_zero = |unit: &&[u8]| unit.iter().all(|byte| *byte == 0);
        let mut logical = u32::try_from(start / BLOCK_LEN_BYTES).unwrap_or(u32::MAX);
        let mut rest = piece;
        while !rest.is_empty() {
            let zeroes = rest.chunks(UNIT_LEN_BYTES).take_while(is_zero);
            let zeroes: usize = zeroes.map(<[u8]>::len).sum();
            logical += blocks(zeroes);
            rest = &rest[zeroes..];
            let data = rest
                .chunks(UNIT_LEN_BYTES)
                .take_while(|unit| !is_zero(unit));
            let data: usize = data.map(<[u8]>::len).sum();
            let (mut bytes, behind) = rest.split_at(data);
            while !bytes.is_empty() {
                let found = self.allocate(blocks(bytes.len()))?;
                let len = found.len() * super::BLOCK_LEN;
                let (now, later) = bytes.split_at(len);
                self.write_blocks(found.start, now)?;
                append(extents, logical, found);
                logical += blocks(len);
                bytes = later;
            }
            rest = behind;
        }
        Ok(())
    }
}

fn blocks(len: usize) -> u32 {
    u32::try_from(len / super::BLOCK_LEN).unwrap_or(u32::MAX)
}
