//! Performing a request, in three rooms that do not know each other: [`plan`] checks the guest's numbers, [`Fetcher`]
//! knows the disk and no guest, [`Delivery`] guest memory and no disk.

use std::sync::Arc;

use image::{Image, ReadFailure, Reader};
use vm_memory::{Bytes, GuestAddress};

use crate::guest::GuestMemory;
use crate::limits::MAX_PIECE_LEN_BYTES;
use crate::queue::Buffer;
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
    /// The driver's buffer is not in guest memory.
    #[error("data buffer at {address:#x} outside guest memory")]
    Buffer {
        /// Its guest physical address.
        address: u64,
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
#[derive(Debug, PartialEq, Eq)]
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

    /// Offset and length of what is to be read next, if anything is left.
    pub fn next_piece(&mut self) -> Option<(u64, usize)> {
        let left_bytes = self.end - self.offset;
        let len = usize::try_from(left_bytes)
            .map_or(MAX_PIECE_LEN_BYTES, |left| left.min(MAX_PIECE_LEN_BYTES));
        let offset = self.offset;
        self.offset += len as u64;
        (len > 0).then_some((offset, len))
    }
}

/// The disk's side of a queue thread: its reader and its buffer.
#[derive(Debug)]
pub struct Fetcher {
    reader: Reader,
    buffer: Vec<u8>,
    fetched_bytes: usize,
}

impl Fetcher {
    /// A fetcher with cold buffers.
    #[must_use]
    pub fn new(image: &Arc<Image>) -> Self {
        Self {
            reader: Reader::new(Arc::clone(image)),
            buffer: Vec::new(),
            fetched_bytes: 0,
        }
    }

    /// Reads `len` bytes of the disk from `offset` on into the buffer.
    ///
    /// # Errors
    ///
    /// When a layer cannot deliver all of them; then there are none.
    pub fn fetch(&mut self, offset: u64, len: usize) -> Result<(), ReadFailure> {
        self.fetched_bytes = 0;
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        self.reader.read_exact_at(&mut self.buffer[..len], offset)?;
        self.fetched_bytes = len;
        Ok(())
    }

    /// What was fetched last.
    #[must_use]
    pub fn fetched(&self) -> &[u8] {
        &self.buffer[..self.fetched_bytes]
    }
}

/// Where the next byte goes in the data buffers of a request, and how many went there.
#[derive(Debug, Default)]
pub struct Delivery {
    buffer: usize,
    used_bytes: u32,
    delivered_bytes: u32,
}

impl Delivery {
    /// Bytes delivered so far: whole pieces of right data.
    #[must_use]
    pub fn delivered_bytes(&self) -> u32 {
        self.delivered_bytes
    }

    /// Copies `bytes` to where the last delivery ended, as many as there is room for in `buffers`. The copy is
    /// volatile: no reference into guest memory is ever formed.
    ///
    /// # Errors
    ///
    /// When a buffer is not in guest memory.
    pub fn deliver(
        &mut self,
        memory: &GuestMemory,
        buffers: &[Buffer],
        mut bytes: &[u8],
    ) -> Result<(), ExecuteError> {
        while let (Some(buffer), false) = (buffers.get(self.buffer), bytes.is_empty()) {
            let room = buffer.len_bytes - self.used_bytes;
            let len = u32::try_from(bytes.len()).map_or(room, |len| len.min(room));
            let (now, later) = bytes.split_at(len as usize);
            let address = buffer.address.0.checked_add(u64::from(self.used_bytes));
            address
                .and_then(|address| memory.write_slice(now, GuestAddress(address)).ok())
                .ok_or(ExecuteError::Buffer {
                    address: buffer.address.0,
                })?;
            self.delivered_bytes += len;
            bytes = later;
            self.used_bytes += len;
            if self.used_bytes == buffer.len_bytes {
                self.buffer += 1;
                self.used_bytes = 0;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::test_memory;

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
    }

    #[test]
    fn delivery_goes_on_across_buffers_and_stops_where_there_is_no_memory() {
        let memory = test_memory(&[(0, 4096)]);
        let buffers = [(100, 3), (200, 5), (4094, 4)].map(|(address, len_bytes)| Buffer {
            address: GuestAddress(address),
            len_bytes,
        });
        let mut delivery = Delivery::default();
        delivery.deliver(&memory, &buffers, &[1, 2]).unwrap();
        delivery.deliver(&memory, &buffers, &[3, 4, 5]).unwrap();
        assert_eq!(delivery.delivered_bytes(), 5);
        let mut bytes = [0; 5];
        memory.read_slice(&mut bytes, GuestAddress(100)).unwrap();
        assert_eq!(bytes, [1, 2, 3, 0, 0]);
        memory.read_slice(&mut bytes, GuestAddress(200)).unwrap();
        assert_eq!(bytes, [4, 5, 0, 0, 0]);
        let error = delivery.deliver(&memory, &buffers, &[6; 20]).unwrap_err();
        assert!(matches!(error, ExecuteError::Buffer { address: 4094 }));
        assert_eq!(delivery.delivered_bytes(), 8, "what lies in whole buffers");
    }
}
