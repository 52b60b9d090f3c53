//! Walking over disks piece by piece, past what need not be read.

use crate::content::{Content, ContentError, Stretch};

/// A piece ends where the disk offset is a multiple of this, so that blocks of compressed layers are read for one.
pub(crate) const PIECE_LEN_BYTES: u64 = 1 << 20;
/// Zeroes shorter than this are no reason to end a piece.
const SKIPPED_LEN_BYTES: u64 = 64 << 10;

/// Two disks of one length, side by side.
pub(crate) struct Walk<'a> {
    sides: [Side<'a>; 2],
    position: u64,
    end: u64,
    granularity_bytes: u64,
}

/// A part of both disks, at most [`PIECE_LEN_BYTES`] long and none at the end of the walk, that starts and ends at multiples of the granularity or at an
/// end of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it starts on the disks, in bytes.
    pub(crate) offset: u64,
    pub(crate) len_bytes: usize,
    /// What both disks have zeroes in since the piece before.
    pub(crate) skipped_bytes: u64,
    /// Whether there is anything to read of each side. Where there is not, it is zero.
    pub(crate) is_data: [bool; 2],
}

struct Side<'a> {
    content: &'a dyn Content,
    /// The stretch that was asked for last, and where it starts.
    known: Option<(u64, Stretch)>,
}

impl Side<'_> {
    fn at(&mut self, offset: u64) -> Result<Stretch, ContentError> {
        if let Some((start, stretch)) = self.known
            && (start..stretch.end()).contains(&offset)
        {
            return Ok(stretch);
        }
        let stretch = self.content.stretch_at(offset)?;
        self.known = Some((offset, stretch));
        Ok(stretch)
    }
}

impl<'a> Walk<'a> {
    /// From `start` to `end`, which both disks have.
    pub(crate) fn new(
        sides: [&'a dyn Content; 2],
        range: std::ops::Range<u64>,
        granularity_bytes: u32,
    ) -> Self {
        let side = |content| Side {
            content,
            known: None,
        };
        Self {
            sides: sides.map(side),
            position: range.start,
            end: range.end,
            granularity_bytes: u64::from(granularity_bytes),
        }
    }

    /// Which sides have data at `offset`, and up to where that is so.
    fn at(&mut self, offset: u64) -> Result<([bool; 2], u64), ContentError> {
        let [a, b] = &mut self.sides;
        let (a, b) = (a.at(offset)?, b.at(offset)?);
        // Whatever the sides say, the walk goes on.
        let end = a.end().min(b.end()).clamp(offset + 1, self.end);
        Ok(([a.is_data(), b.is_data()], end))
    }

    /// Where the first data is, whole units of zeroes left out.
    fn skip(&mut self) -> Result<(), ContentError> {
        while self.position < self.end {
            let (is_data, end) = self.at(self.position)?;
            let whole = match end == self.end {
                true => end,
                false => end - end % self.granularity_bytes,
            };
            if is_data.contains(&true) || whole <= self.position {
                break;
            }
            self.position = whole;
        }
        Ok(())
    }

    fn piece(&mut self) -> Result<Piece, ContentError> {
        let before = self.position;
        self.skip()?;
        let offset = self.position;
        let limit = (offset + 1).next_multiple_of(PIECE_LEN_BYTES).min(self.end);
        let mut is_data = [false; 2];
        let mut end = offset;
        while end < limit {
            let (data, next) = self.at(end)?;
            let next = next.min(limit);
            // The piece will end at a unit: up to there, both sides must be known.
            let unit_end = end.next_multiple_of(self.granularity_bytes).min(limit);
            let is_skipped = next - end >= SKIPPED_LEN_BYTES && next >= unit_end;
            if end > offset && is_skipped && !data.contains(&true) {
                break;
            }
            for (all, this) in is_data.iter_mut().zip(data) {
                *all |= this;
            }
            end = next;
        }
        self.position = end.next_multiple_of(self.granularity_bytes).min(limit);
        let piece = Piece {
            offset,
            // At most the length of a piece.
            len_bytes: usize::try_from(self.position - offset).unwrap_or_default(),
            skipped_bytes: offset - before,
            is_data,
        };
        Ok(piece)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Piece, ContentError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.position < self.end).then(|| self.piece())
    }
}
