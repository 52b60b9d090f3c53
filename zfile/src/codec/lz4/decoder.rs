//! Decoding, in safe Rust without a check for each copy: positions are kept inside a room of fixed size by a mask, so
//! that copies of fixed length always fit, and what they write too much is written over or left behind.
//!
//! It only ever says what a good block decodes to. For what is wrong with a bad one, and in doubt, there is `lz4_flex`.

use std::fmt;

use super::MATCH_MIN_BYTES;

/// Longest content.
const CONTENT_MAX_BYTES: usize = 1 << 16;
/// Positions in the room: twice the longest content, so that nothing written past the end comes out at the start.
const POSITIONS: usize = 2 * CONTENT_MAX_BYTES;
/// Longest copy of fixed length.
const COPY_MAX_BYTES: usize = 16;
/// What loops copy at a time: two of those. Most of what is long enough for a loop is no longer than this, so that the
/// processor guesses right that it ends after the first step.
const STEP_BYTES: usize = 2 * COPY_MAX_BYTES;
/// A token, the most literals of a short sequence with one byte to spare, and what is left of the offset.
const SHORT_BYTES: usize = 17;
/// In each half of a token: the length goes on in the bytes that follow.
const GOES_ON: usize = 15;
/// By offset: the number that makes 8 bytes of repetition out of the bytes that are repeated.
const REPETITIONS: [u64; 8] = [
    0,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0001_0000_0100_0001,
    0x0000_0001_0000_0001,
    0x0000_0100_0000_0001,
    0x0001_0000_0000_0001,
    0x0100_0000_0000_0001,
];
/// By offset: the most bytes, up to 8, that are a whole number of repetitions.
const STRIDES: [usize; 8] = [0, 8, 8, 6, 8, 5, 6, 7];

/// Where content grows, and matches find what came before.
pub(super) struct Room {
    bytes: Box<[u8; POSITIONS + COPY_MAX_BYTES]>,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

impl Room {
    pub(super) fn new() -> Self {
        let bytes = vec![0; POSITIONS + COPY_MAX_BYTES].into_boxed_slice();
        // Infallible: the length is that of the type. Made as a vector, it never lies on the stack.
        let bytes = bytes
            .try_into()
            .unwrap_or_else(|_| Box::new([0; POSITIONS + COPY_MAX_BYTES]));
        Self { bytes }
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "below POSITIONS by the mask")]
    fn load<const N: usize>(&self, at: usize) -> [u8; N] {
        const { assert!(N <= COPY_MAX_BYTES) };
        // Infallible: N more bytes follow every position.
        *self.bytes[at % POSITIONS..]
            .first_chunk()
            .unwrap_or(&[0; N])
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "below POSITIONS by the mask")]
    fn store<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        const { assert!(N <= COPY_MAX_BYTES) };
        if let Some(place) = self.bytes[at % POSITIONS..].first_chunk_mut() {
            *place = bytes;
        }
    }

    #[inline(always)]
    fn copy<const N: usize>(&mut self, from: usize, to: usize) {
        let bytes: [u8; N] = self.load(from);
        self.store(to, bytes);
    }

    /// Copies [`STEP_BYTES`], which start at least [`COPY_MAX_BYTES`] before where they go.
    #[inline(always)]
    fn copy_step(&mut self, from: usize, to: usize) {
        self.copy::<16>(from, to);
        self.copy::<16>(from.wrapping_add(16), to.wrapping_add(16));
    }

    /// Copies 18 bytes, of which the first 8 start at least 8 before where they go: the most that a token says.
    #[inline(always)]
    fn copy_short(&mut self, from: usize, to: usize) {
        self.copy::<8>(from, to);
        self.copy::<8>(from.wrapping_add(8), to.wrapping_add(8));
        self.copy::<2>(from.wrapping_add(16), to.wrapping_add(16));
    }

    /// Appends at `to` what lies `offset` bytes before it, and goes on with what it has just appended, in steps; up to
    /// a step more than `len`. The offset is at most `to`; 0 is none.
    #[inline(always)]
    fn repeat(&mut self, to: usize, offset: usize, len: usize) -> Option<()> {
        let from = to.wrapping_sub(offset);
        if offset >= COPY_MAX_BYTES {
            let mut step = 0;
            while step < len {
                self.copy_step(from.wrapping_add(step), to.wrapping_add(step));
                step = step.wrapping_add(STEP_BYTES);
            }
        } else if offset >= 8 {
            for step in (0..len).step_by(8) {
                self.copy::<8>(from.wrapping_add(step), to.wrapping_add(step));
            }
        } else {
            let (repetition, stride) = (REPETITIONS.get(offset)?, *STRIDES.get(offset)?);
            if stride == 0 {
                return None;
            }
            let unused_bits = 64_u32.wrapping_sub(u32::try_from(offset).ok()?.wrapping_mul(8));
            let unit = u64::from_le_bytes(self.load(from)) & (u64::MAX >> unused_bits);
            let word = unit.wrapping_mul(*repetition).to_le_bytes();
            let mut step = 0;
            while step < len {
                self.store(to.wrapping_add(step), word);
                step = step.wrapping_add(stride);
            }
        }
        Some(())
    }

    /// What was decoded: the first `len` bytes, and no more than a block can have.
    pub(super) fn content(&self, len: usize) -> &[u8] {
        self.bytes
            .get(..len.min(CONTENT_MAX_BYTES))
            .unwrap_or_default()
    }

    /// The same for somebody else to decode to.
    pub(super) fn content_mut(&mut self, len: usize) -> &mut [u8] {
        self.bytes
            .get_mut(..len.min(CONTENT_MAX_BYTES))
            .unwrap_or_default()
    }

    /// Decodes `payload` to the start of the room, and returns the number of bytes decoded. `None`: no LZ4 block, or more
    /// than `limit` bytes, which are at most [`CONTENT_MAX_BYTES`]. Where `enough` is less than `limit`, it ends with the
    /// first sequence that reaches so far, and does not look at the others.
    pub(super) fn decode(&mut self, payload: &[u8], limit: usize, enough: usize) -> Option<usize> {
        if limit > CONTENT_MAX_BYTES {
            return None;
        }
        if enough < limit {
            self.decode_to::<false>(payload, limit, enough)
        } else {
            // Nothing but a fault gets there.
            self.decode_to::<true>(payload, limit, limit.wrapping_add(1))
        }
    }

    /// [`Room::decode`], to the first sequence that reaches to `stop`. Decoding of whole blocks is a function of its own: with
    /// a way out of its loop, it would take a tenth more time.
    fn decode_to<const WHOLE: bool>(
        &mut self,
        payload: &[u8],
        limit: usize,
        stop: usize,
    ) -> Option<usize> {
        let mut input = Input { payload, at: 0 };
        // Never above `limit`, so that positions are those of the room up to the longest copy.
        let mut end = 0_usize;
        loop {
            let (to, offset, match_start);
            if let Some((literals, token, short)) = short_sequence(&input) {
                // At most 14 of the 16 are literals; what follows them is written over.
                self.store(end, literals);
                to = end.wrapping_add(token >> 4);
                (offset, match_start) = (short, token & GOES_ON);
                input.skip((token >> 4).wrapping_add(3));
                // What most sequences are, from token to copy on a path of its own, its end included: sharing these checks
                // with the rare ones below takes a twentieth more time.
                if match_start != GOES_ON && offset >= 8 {
                    let next = to.wrapping_add(match_start.wrapping_add(MATCH_MIN_BYTES));
                    if next >= stop || offset > to {
                        if WHOLE || next > limit || offset > to {
                            return None;
                        }
                        self.copy_short(to.wrapping_sub(offset), to);
                        return Some(next);
                    }
                    self.copy_short(to.wrapping_sub(offset), to);
                    end = next;
                    continue;
                }
                let middle = self.middle_match(&mut input, to, offset, match_start, stop);
                if let Some(next) = middle {
                    end = next;
                    continue;
                }
            } else {
                let token = input.byte()?;
                let len = input.length(token >> 4)?;
                to = self.append(&mut input, end, len, limit)?;
                if input.at == payload.len() || (!WHOLE && to >= stop) {
                    return Some(to);
                }
                offset = input.byte()? | (input.byte()? << 8);
                match_start = token & GOES_ON;
            }
            let len = input.length(match_start)?.checked_add(MATCH_MIN_BYTES)?;
            end = to.checked_add(len).filter(|end| *end <= limit)?;
            if offset > to {
                return None;
            }
            if match_start != GOES_ON && offset >= 8 {
                self.copy_short(to.wrapping_sub(offset), to);
            } else {
                self.repeat(to, offset, len)?;
            }
            if !WHOLE && end >= stop {
                return Some(end);
            }
        }
    }

    /// Appends the match at `to` if it is longer than a token can say, but no longer than a step, and returns the new end.
    /// `None`: it is not, or it reaches to `stop`, or there is something wrong with it.
    #[inline(always)]
    fn middle_match(
        &mut self,
        input: &mut Input<'_>,
        to: usize,
        offset: usize,
        match_start: usize,
        stop: usize,
    ) -> Option<usize> {
        if match_start != GOES_ON || offset < COPY_MAX_BYTES {
            return None;
        }
        let more = usize::from(*input.payload.get(input.at)?);
        let len = more.wrapping_add(GOES_ON + MATCH_MIN_BYTES);
        let end = to.wrapping_add(len);
        if len > STEP_BYTES || end >= stop || offset > to {
            return None;
        }
        input.skip(1);
        self.copy_step(to.wrapping_sub(offset), to);
        Some(end)
    }

    /// Appends `len` literals at `end` and returns the new end.
    #[inline(always)]
    fn append(
        &mut self,
        input: &mut Input<'_>,
        end: usize,
        len: usize,
        limit: usize,
    ) -> Option<usize> {
        let new_end = end.checked_add(len).filter(|end| *end <= limit)?;
        if let Some(literals) = input.peek(len.next_multiple_of(STEP_BYTES)) {
            let mut to = end;
            for step in literals.as_chunks::<STEP_BYTES>().0 {
                let [first, second] = halves(step);
                self.store(to, first);
                self.store(to.wrapping_add(COPY_MAX_BYTES), second);
                to = to.wrapping_add(STEP_BYTES);
            }
        } else {
            self.bytes
                .get_mut(end..new_end)?
                .copy_from_slice(input.peek(len)?);
        }
        input.skip(len);
        Some(new_end)
    }
}

/// The payload from where it is read.
struct Input<'p> {
    payload: &'p [u8],
    at: usize,
}

impl<'p> Input<'p> {
    /// The next `len` bytes, which stay.
    #[inline(always)]
    fn peek(&self, len: usize) -> Option<&'p [u8]> {
        self.payload.get(self.at..self.at.checked_add(len)?)
    }

    #[inline(always)]
    fn skip(&mut self, len: usize) {
        self.at = self.at.wrapping_add(len);
    }

    #[inline(always)]
    fn byte(&mut self) -> Option<usize> {
        let byte = *self.payload.get(self.at)?;
        self.skip(1);
        Some(usize::from(byte))
    }

    /// A length of which half a token says `start`.
    #[inline(always)]
    fn length(&mut self, start: usize) -> Option<usize> {
        let mut len = start;
        if start == GOES_ON {
            loop {
                let more = self.byte()?;
                len = len.checked_add(more)?;
                if more != 255 {
                    break;
                }
            }
        }
        Some(len)
    }
}

/// If the next sequence has few literals and is not near the end: 16 bytes that start with them, the token and the
/// offset of the match.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "a token says at most 15")]
fn short_sequence(input: &Input<'_>) -> Option<([u8; 16], usize, usize)> {
    let window: &[u8; SHORT_BYTES] = input.payload.get(input.at..)?.first_chunk()?;
    let token = usize::from(window[0]);
    let literals = token >> 4;
    if literals == GOES_ON {
        return None;
    }
    let offset = u16::from_le_bytes([
        window[literals.wrapping_add(1)],
        window[literals.wrapping_add(2)],
    ]);
    Some((*window.last_chunk()?, token, usize::from(offset)))
}

#[inline(always)]
fn halves(step: &[u8; STEP_BYTES]) -> [[u8; COPY_MAX_BYTES]; 2] {
    // Infallible: a step is two copies long.
    let [first, second] = step.as_chunks().0 else {
        return [[0; COPY_MAX_BYTES]; 2];
    };
    [*first, *second]
}
