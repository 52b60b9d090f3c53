//! Segments of sectors into extents of bytes: clipped, with the gaps filled, and joined where they touch.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::format::SECTOR_LEN_BYTES;
use crate::segment::Segment;

/// A piece of the answer to "where do these bytes of the disk come from?". All numbers are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Zeroes by decision of the index: no layer speaks of this range, or the highest that does says "zero".
    Zero {
        /// Where on the disk it starts.
        disk_offset: u64,
        /// How long it is, at least 1.
        len_bytes: u64,
    },
    /// Bytes that one layer holds in one place.
    Data {
        /// Where on the disk it starts.
        disk_offset: u64,
        /// How long it is, at least 1.
        len_bytes: u64,
        /// Which layer; 0 is the lowest.
        layer: u8,
        /// Where in that layer's source it starts.
        layer_offset: u64,
    },
}

impl Extent {
    /// Where on the disk it starts, in bytes.
    #[must_use]
    pub fn disk_offset(&self) -> u64 {
        match *self {
            Self::Zero { disk_offset, .. } | Self::Data { disk_offset, .. } => disk_offset,
        }
    }

    /// How long it is, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        match *self {
            Self::Zero { len_bytes, .. } | Self::Data { len_bytes, .. } => len_bytes,
        }
    }

    /// Both as one, if `next`, which starts where this ends, continues it.
    fn joined(self, next: Self) -> Option<Self> {
        match (self, next) {
            (
                Self::Zero {
                    disk_offset,
                    len_bytes,
                },
                Self::Zero {
                    len_bytes: more, ..
                },
            ) => Some(Self::Zero {
                disk_offset,
                len_bytes: len_bytes.wrapping_add(more),
            }),
            (
                Self::Data {
                    disk_offset,
                    len_bytes,
                    layer,
                    layer_offset,
                },
                Self::Data {
                    len_bytes: more,
                    layer: next_layer,
                    layer_offset: next_layer_offset,
                    ..
                },
            ) if layer == next_layer
                && layer_offset.wrapping_add(len_bytes) == next_layer_offset =>
            {
                Some(Self::Data {
                    disk_offset,
                    len_bytes: len_bytes.wrapping_add(more),
                    layer,
                    layer_offset,
                })
            }
            _ => None,
        }
    }
}

/// The extents of a byte range. Offsets lie inside a disk of at most 2^46 bytes, so no sum can wrap.
#[derive(Debug)]
pub(crate) struct Extents<'a> {
    pieces: Pieces<'a>,
    /// A piece that did not join the extent before it.
    held: Option<Extent>,
}

impl<'a> Extents<'a> {
    /// For the bytes `offset..end`, from segments of which none ends before `offset`.
    pub(crate) fn new(segments: &'a [Segment], offset: u64, end: u64) -> Self {
        Self {
            pieces: Pieces {
                segments: segments.iter(),
                offset,
                end,
            },
            held: None,
        }
    }

    /// Appends all of them to `out`.
    #[inline]
    pub(crate) fn append_to(mut self, out: &mut Vec<Extent>) {
        // Most reads lie in one segment or in one gap, and there is nothing to join.
        let Some(piece) = self.pieces.next() else {
            return;
        };
        if self.pieces.is_used_up() {
            out.push(piece);
        } else {
            self.held = Some(piece);
            self.append_joined_to(out);
        }
    }

    #[inline(never)]
    fn append_joined_to(self, out: &mut Vec<Extent>) {
        out.extend(self);
    }
}

impl Iterator for Extents<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        let mut extent = self.held.take().or_else(|| self.pieces.next())?;
        for piece in &mut self.pieces {
            match extent.joined(piece) {
                Some(joined) => extent = joined,
                None => {
                    self.held = Some(piece);
                    break;
                }
            }
        }
        Some(extent)
    }
}

/// One piece per segment and per gap.
#[derive(Debug)]
struct Pieces<'a> {
    segments: std::slice::Iter<'a, Segment>,
    /// Next byte of the disk to account for.
    offset: u64,
    end: u64,
}

impl Pieces<'_> {
    fn is_used_up(&self) -> bool {
        self.offset >= self.end
    }
}

impl Iterator for Pieces<'_> {
    type Item = Extent;

    #[inline]
    fn next(&mut self) -> Option<Extent> {
        let disk_offset = self.offset;
        if self.is_used_up() {
            return None;
        }
        let segment = self.segments.as_slice().first().copied();
        let first = segment.map_or(self.end, |segment| to_bytes(segment.first()));
        let len_to = |end: u64| end.min(self.end).wrapping_sub(disk_offset);
        let extent = match segment {
            Some(segment) if first <= disk_offset => {
                self.segments.next();
                let len_bytes = len_to(to_bytes(segment.end()));
                if segment.is_zeroed() {
                    Extent::Zero {
                        disk_offset,
                        len_bytes,
                    }
                } else {
                    let skipped = disk_offset.wrapping_sub(first);
                    Extent::Data {
                        disk_offset,
                        len_bytes,
                        layer: segment.layer(),
                        layer_offset: segment.mapped_bytes().wrapping_add(skipped),
                    }
                }
            }
            _ => Extent::Zero {
                disk_offset,
                len_bytes: len_to(first),
            },
        };
        self.offset = disk_offset.wrapping_add(extent.len_bytes());
        Some(extent)
    }
}

fn to_bytes(sectors: u64) -> u64 {
    sectors.wrapping_mul(SECTOR_LEN_BYTES)
}
