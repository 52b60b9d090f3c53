//! From what the driver asks for to what is to be done: the guest's numbers are checked here and nowhere else.

use std::ops::Range;

use image::ReadFailure;

use crate::limits::MAX_PIECE_LEN_BYTES;
use crate::request::Request;

/// The unit guests address the disk in, in bytes, whatever the logical block size.
const SECTOR_LEN_BYTES: u64 = 512;

/// Why a request was not performed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// A layer could not deliver.
    #[error(transparent)]
    Disk(#[from] ReadFailure),
    /// The read goes beyond the end of the disk.
    #[error(
        "read of {len_bytes} bytes at sector {sector}: the disk has {capacity_sectors} sectors"
    )]
    OutOfRange {
        /// First sector.
        sector: u64,
        /// Length.
        len_bytes: u64,
        /// Size of the disk.
        capacity_sectors: u64,
    },
    /// The read is not made of whole sectors.
    #[error("read of {len_bytes} bytes: not a multiple of {SECTOR_LEN_BYTES}")]
    NotSectors {
        /// Length.
        len_bytes: u64,
    },
    /// The disk did not answer, and the guest moves on to another machine.
    #[error("the disk did not answer in time")]
    TooLate,
    /// The driver's buffer is not in guest memory.
    #[error("data buffer at {address:#x} outside guest memory")]
    Buffer {
        /// Its guest physical address.
        address: u64,
    },
    /// The driver's buffers are shorter than the data: what was read and where it goes do not belong together.
    #[error("data buffers end {missing_bytes} bytes early")]
    NoRoom {
        /// Bytes that there is no place for.
        missing_bytes: usize,
    },
    /// The disk is read-only.
    #[error("request of type {kind} on a read-only disk")]
    ReadOnly {
        /// Its type.
        kind: u32,
    },
    /// The device knows no such request.
    #[error("request of unknown type {kind}")]
    Unsupported {
        /// Its type.
        kind: u32,
    },
}

/// What a request comes to, with every number checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is done already.
    Nothing,
    /// The guest is told the serial.
    TellSerial,
    /// The guest gets these bytes of the disk.
    Read(Span),
}

/// A range of the disk, taken piece by piece.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Span {
    offset: u64,
    end: u64,
}

/// Decides what to do about `request`, for which there is room for `room_bytes` of data. Guest numbers end here:
/// behind it, only byte ranges inside the disk exist.
///
/// # Errors
///
/// Why nothing is done.
pub fn plan(request: Request, room_bytes: u64, disk_len_bytes: u64) -> Result<Plan, ExecuteError> {
    match request {
        Request::Read { sector } => {
            Span::checked(sector, room_bytes, disk_len_bytes).map(Plan::Read)
        }
        Request::Flush => Ok(Plan::Nothing),
        Request::GetId => Ok(Plan::TellSerial),
        Request::Write { kind } => Err(ExecuteError::ReadOnly { kind }),
        Request::Unknown { kind } => Err(ExecuteError::Unsupported { kind }),
    }
}

impl Span {
    fn checked(sector: u64, len_bytes: u64, disk_len_bytes: u64) -> Result<Self, ExecuteError> {
        if !len_bytes.is_multiple_of(SECTOR_LEN_BYTES) {
            return Err(ExecuteError::NotSectors { len_bytes });
        }
        let offset = sector.checked_mul(SECTOR_LEN_BYTES);
        let end = offset
            .and_then(|offset| offset.checked_add(len_bytes))
            .filter(|end| *end <= disk_len_bytes);
        match (offset, end) {
            (Some(offset), Some(end)) => Ok(Self { offset, end }),
            _ => Err(ExecuteError::OutOfRange {
                sector,
                len_bytes,
                capacity_sectors: disk_len_bytes / SECTOR_LEN_BYTES,
            }),
        }
    }

    /// The bytes of the disk that are left to read.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.end
    }

    /// Offset and length of what is to be read next, if anything is left.
    pub fn next_piece(&mut self) -> Option<(u64, usize)> {
        let left_bytes = self.end - self.offset;
        let len = usize::try_from(left_bytes)
            .map_or(MAX_PIECE_LEN_BYTES, |left| left.min(MAX_PIECE_LEN_BYTES));
        let offset = self.offset;
        self.offset += len as u64;
        (len > 0).then_some((offset, len))
    }

    /// The last `len` bytes of the last piece are to be read later.
    pub fn put_off(&mut self, len: usize) {
        self.offset = self.offset.saturating_sub(len as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = (5 << 20) + 512;

    fn read(sector: u64, room_bytes: u64) -> Result<Plan, ExecuteError> {
        plan(Request::Read { sector }, room_bytes, DISK)
    }

    #[test]
    fn reads_are_whole_sectors_inside_the_disk_or_nothing() {
        let last = DISK / 512 - 1;
        for (sector, room, legal) in [
            (0, 0, true),
            (0, DISK, true),
            (last, 512, true),
            (last + 1, 0, true),
            (last, 1024, false),
            (last + 1, 512, false),
            (last + 2, 0, false),
            (1 << 55, 512, false),
            (u64::MAX, 512, false),
            (u64::MAX, 0, false),
            ((u64::MAX >> 9) - 1, 1024, false),
            (0, 511, false),
        ] {
            assert_eq!(read(sector, room).is_ok(), legal, "{sector} {room}");
        }
    }

    #[test]
    fn pieces_are_consecutive_and_cover_the_span() {
        let Ok(Plan::Read(mut span)) = read(3, (5 << 20) - 1024) else {
            panic!("a legal read");
        };
        let mut next = 3 * 512;
        while let Some((offset, len)) = span.next_piece() {
            assert_eq!(offset, next);
            assert!(len <= MAX_PIECE_LEN_BYTES);
            next += len as u64;
        }
        assert_eq!(next, DISK);
        assert_eq!(span.next_piece(), None);
        span.put_off(700);
        assert_eq!(span.next_piece(), Some((DISK - 700, 700)));
        assert_eq!(span.next_piece(), None);
    }
}
