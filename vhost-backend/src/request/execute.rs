//! Performing a request: the disk on one side, guest memory on the other.

use image::{ReadFailure, Reader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::device::Device;
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

/// One queue thread's hands: its reader and its buffer.
#[derive(Debug)]
pub struct Executor {
    reader: Reader,
    piece: Vec<u8>,
}

/// Where the next delivered byte goes: a position in the data buffers of a request.
struct Destination<'a> {
    buffers: &'a [Buffer],
    used_bytes: u32,
}

impl Executor {
    /// An executor for `device` with cold buffers.
    #[must_use]
    pub fn new(device: &Device) -> Self {
        Self {
            reader: Reader::new(device.image().clone()),
            piece: Vec::new(),
        }
    }

    /// Performs `request` into the `data` buffers, adding every byte it delivers to `delivered_bytes`.
    ///
    /// # Errors
    ///
    /// Why not. Bytes delivered before the error are whole pieces of right data.
    pub fn execute(
        &mut self,
        device: &Device,
        memory: &GuestMemoryMmap,
        request: Request,
        data: &[Buffer],
        delivered_bytes: &mut u32,
    ) -> Result<(), ExecuteError> {
        match request {
            Request::Read { sector } => self.read(memory, sector, data, delivered_bytes),
            Request::Flush => Ok(()),
            Request::GetId => {
                let len = total_len_bytes(data).min(device.serial().as_bytes().len() as u64);
                let id = device
                    .serial()
                    .as_bytes()
                    .iter()
                    .copied()
                    .take(usize::try_from(len).unwrap_or_default());
                self.piece.clear();
                self.piece.extend(id);
                Destination {
                    buffers: data,
                    used_bytes: 0,
                }
                .deliver(memory, &self.piece, delivered_bytes)
            }
            Request::Write { kind } => Err(ExecuteError::ReadOnly { kind }),
            Request::Unknown { kind } => Err(ExecuteError::Unsupported { kind }),
        }
    }

    /// Guest numbers end here: past the two checks, only byte ranges inside the disk exist.
    fn read(
        &mut self,
        memory: &GuestMemoryMmap,
        sector: u64,
        data: &[Buffer],
        delivered_bytes: &mut u32,
    ) -> Result<(), ExecuteError> {
        let len_bytes = total_len_bytes(data);
        if !len_bytes.is_multiple_of(SECTOR_LEN_BYTES) {
            return Err(ExecuteError::NotSectors { len_bytes });
        }
        let disk_len_bytes = self.reader.image().len_bytes();
        let start = sector.checked_mul(SECTOR_LEN_BYTES);
        let end = start
            .and_then(|start| start.checked_add(len_bytes))
            .filter(|end| *end <= disk_len_bytes);
        let (Some(mut offset), Some(end)) = (start, end) else {
            let capacity_sectors = disk_len_bytes / SECTOR_LEN_BYTES;
            return Err(ExecuteError::OutOfRange {
                sector,
                len_bytes,
                capacity_sectors,
            });
        };
        let mut destination = Destination {
            buffers: data,
            used_bytes: 0,
        };
        while offset < end {
            let len = usize::try_from(end - offset)
                .map_or(MAX_PIECE_LEN_BYTES, |len| len.min(MAX_PIECE_LEN_BYTES));
            if self.piece.len() < len {
                self.piece.resize(len, 0);
            }
            let piece = &mut self.piece[..len];
            self.reader.read_exact_at(piece, offset)?;
            destination.deliver(memory, piece, delivered_bytes)?;
            offset += len as u64;
        }
        Ok(())
    }
}

fn total_len_bytes(buffers: &[Buffer]) -> u64 {
    buffers
        .iter()
        .map(|buffer| u64::from(buffer.len_bytes))
        .sum()
}

impl Destination<'_> {
    /// Copies all of `bytes` to where the last delivery ended. The copy is volatile: no reference into guest
    /// memory is ever formed.
    fn deliver(
        &mut self,
        memory: &GuestMemoryMmap,
        mut bytes: &[u8],
        delivered_bytes: &mut u32,
    ) -> Result<(), ExecuteError> {
        while let (Some(buffer), false) = (self.buffers.first(), bytes.is_empty()) {
            let room = buffer.len_bytes - self.used_bytes;
            let len = u32::try_from(bytes.len()).map_or(room, |len| len.min(room));
            let (now, later) = bytes.split_at(len as usize);
            let address = buffer.address.0.checked_add(u64::from(self.used_bytes));
            address
                .and_then(|address| memory.write_slice(now, GuestAddress(address)).ok())
                .ok_or(ExecuteError::Buffer {
                    address: buffer.address.0,
                })?;
            *delivered_bytes += len;
            bytes = later;
            self.used_bytes += len;
            if self.used_bytes == buffer.len_bytes {
                self.buffers = &self.buffers[1..];
                self.used_bytes = 0;
            }
        }
        Ok(())
    }
}
