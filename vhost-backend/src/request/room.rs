//! The place for the data of one request: the driver's buffers, addressed as if they were one.

use vm_memory::{Bytes, GuestAddress};

use blob::FileBlob;

use crate::guest::{GuestMemory, populate};
use crate::queue::Buffer;
use crate::request::ExecuteError;
use crate::system::read_ready_to_guest;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Buffers in guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room<'a> {
    /// The memory they lie in.
    pub(crate) memory: &'a GuestMemory,
    /// The buffers, in order.
    pub(crate) buffers: &'a [Buffer],
}

/// A place in a [`Room`] that moves on with what is written.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    /// What is left of it.
    room: Room<'a>,
    /// Counted from the start of the first buffer that is left.
    position: u32,
}

impl<'a> Room<'a> {
    /// Where `len` bytes from `position` on lie, piece by piece.
    fn pieces(
        self,
        position: u32,
        len: usize,
    ) -> impl Iterator<Item = (GuestAddress, usize)> + Clone + use<'a> {
        let mut skip = position;
        let mut left = len;
        self.buffers.iter().filter_map(move |buffer| {
            if skip >= buffer.len_bytes {
                skip -= buffer.len_bytes;
                return None;
            }
            let room = (buffer.len_bytes - skip) as usize;
            let piece = room.min(left);
            // An address that overflows is nowhere, and whoever goes there is told.
            let address = buffer.address.0.saturating_add(u64::from(skip));
            left -= piece;
            skip = 0;
            (piece > 0).then_some((GuestAddress(address), piece))
        })
    }

    /// Prepares `len` bytes from `position` on for being written; a hint that costs little where it is of no use.
    pub(crate) fn populate(self, position: u32, len: usize) {
        for (address, len) in self.pieces(position, len) {
            populate(self.memory, address, len);
        }
    }

    /// Copies `bytes` to `position`. The copy is volatile: no reference into guest memory is ever formed.
    ///
    /// # Errors
    ///
    /// When a buffer is not in guest memory, or the buffers end before the bytes do.
    pub(crate) fn write(self, position: u32, bytes: &[u8]) -> Result<(), ExecuteError> {
        self.writer(position).write(bytes)
    }

    /// Copies from `position` on.
    pub(crate) fn writer(self, position: u32) -> Writer<'a> {
        Writer {
            room: self,
            position,
        }
    }

    /// Copies as many of `bytes` to the beginning as there is room for, and returns how many that are.
    ///
    /// # Errors
    ///
    /// When a buffer is not in guest memory.
    pub(crate) fn write_some(self, bytes: &[u8]) -> Result<u32, ExecuteError> {
        let room: usize = self.pieces(0, bytes.len()).map(|(_, len)| len).sum();
        self.write(0, bytes.get(..room).unwrap_or(bytes))?;
        Ok(u32::try_from(room).unwrap_or(u32::MAX))
    }

    /// Fills `len` bytes from `position` on with zeroes.
    ///
    /// # Errors
    ///
    /// When a buffer is not in guest memory, or the buffers end before that.
    pub(crate) fn clear(self, position: u32, len: usize) -> Result<(), ExecuteError> {
        let mut left = len;
        for (address, len) in self.pieces(position, len) {
            left -= len;
            let mut done = 0;
            while done < len {
                let now = (len - done).min(ZEROES.len());
                let at = GuestAddress(address.0.saturating_add(done as u64));
                self.memory
                    .write_slice(&ZEROES[..now], at)
                    .map_err(|_outside| ExecuteError::Buffer { address: address.0 })?;
                done += now;
            }
        }
        all_found_room(left)
    }

    /// Reads `len` bytes of a file from byte `offset` on to `position`, as many as are at hand, and returns how many
    /// that were.
    pub(crate) fn read_ready(
        self,
        position: u32,
        len: usize,
        file: &FileBlob,
        offset: u64,
    ) -> usize {
        let mut done = 0;
        while done < len {
            let at = position.saturating_add(u32::try_from(done).unwrap_or(u32::MAX));
            let pieces = self.pieces(at, len - done);
            let offset = offset.saturating_add(done as u64);
            match read_ready_to_guest(file, offset, self.memory, pieces) {
                0 => break,
                read => done += read,
            }
        }
        done
    }
}

impl Writer<'_> {
    /// Copies `bytes` behind those that were copied before.
    ///
    /// # Errors
    ///
    /// As for [`Room::write`].
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ExecuteError> {
        let mut rest = bytes;
        // What is behind is not looked at again: a driver may have made a buffer of every page.
        while let [buffer, others @ ..] = self.room.buffers {
            if self.position < buffer.len_bytes {
                if rest.is_empty() {
                    break;
                }
                let room = (buffer.len_bytes - self.position) as usize;
                let (now, later) = rest.split_at(room.min(rest.len()));
                // An address that overflows is nowhere, and whoever goes there is told.
                let address = buffer.address.0.saturating_add(u64::from(self.position));
                self.room
                    .memory
                    .write_slice(now, GuestAddress(address))
                    .map_err(|_outside| ExecuteError::Buffer { address })?;
                self.position += u32::try_from(now.len()).unwrap_or(u32::MAX);
                rest = later;
            } else {
                self.position -= buffer.len_bytes;
                self.room.buffers = others;
            }
        }
        all_found_room(rest.len())
    }
}

/// So many bytes are left over.
fn all_found_room(missing_bytes: usize) -> Result<(), ExecuteError> {
    if missing_bytes == 0 {
        Ok(())
    } else {
        Err(ExecuteError::NoRoom { missing_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::test_memory;

    fn buffers(parts: &[(u64, u32)]) -> Vec<Buffer> {
        let buffer = |(address, len_bytes): &(u64, u32)| Buffer {
            address: GuestAddress(*address),
            len_bytes: *len_bytes,
        };
        parts.iter().map(buffer).collect()
    }

    fn bytes(memory: &GuestMemory, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    #[test]
    fn buffers_are_one_row_of_bytes() {
        let memory = test_memory(&[(0, 4096)]);
        let buffers = buffers(&[(100, 3), (200, 5), (300, 4)]);
        let model: Vec<u64> = (100..103).chain(200..205).chain(300..304).collect();
        let room = Room {
            memory: &memory,
            buffers: &buffers,
        };
        for position in 0..12_usize {
            for len in 0..=12 - position {
                memory.write_slice(&[0; 512], GuestAddress(0)).unwrap();
                let at = u32::try_from(position).unwrap();
                let data: Vec<u8> = (1..).take(len).collect();
                room.write(at, &data).unwrap();
                let mut expected = vec![0; 512];
                for (address, byte) in model[position..].iter().zip(&data) {
                    expected[usize::try_from(*address).unwrap()] = *byte;
                }
                assert_eq!(bytes(&memory, 0, 512), expected, "{len} at {position}");
                room.clear(at, len).unwrap();
                assert_eq!(bytes(&memory, 0, 512), [0; 512], "{len} at {position}");
            }
        }
    }

    #[test]
    fn long_stretches_of_zeroes_are_whole() {
        let memory = test_memory(&[(0, 1 << 20)]);
        memory
            .write_slice(&vec![7; 1 << 20], GuestAddress(0))
            .unwrap();
        let buffers = buffers(&[(1, 200_000)]);
        let room = Room {
            memory: &memory,
            buffers: &buffers,
        };
        room.clear(1, 199_998).unwrap();
        assert_eq!(bytes(&memory, 0, 3), [7, 7, 0]);
        assert_eq!(bytes(&memory, 199_998, 4), [0, 0, 7, 7]);
        assert!(bytes(&memory, 2, 199_998).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn bytes_without_a_place_are_an_error() {
        let memory = test_memory(&[(0, 4096)]);
        for parts in [&[(0, 4), (100, 4)][..], &[]] {
            let buffers = buffers(parts);
            let room = Room {
                memory: &memory,
                buffers: &buffers,
            };
            let len = parts.len() * 4;
            let at = u32::try_from(len).unwrap();
            room.write(0, &vec![6; len]).unwrap();
            room.clear(0, len).unwrap();
            for result in [
                room.write(0, &vec![6; len + 3]),
                room.write(at, &[6; 3]),
                room.clear(0, len + 3),
                room.clear(at, 3),
            ] {
                let Err(ExecuteError::NoRoom { missing_bytes: 3 }) = result else {
                    panic!("{result:?}");
                };
            }
            assert_eq!(room.write_some(&[6; 20]).unwrap(), at);
        }
    }

    #[test]
    fn buffers_outside_memory_are_named() {
        let memory = test_memory(&[(0, 4096)]);
        for (parts, bad) in [
            (&[(0, 4), (4094, 4)][..], 4094),
            (&[(9999, 8)], 9999),
            (&[(u64::MAX, 8)], u64::MAX),
        ] {
            let buffers = buffers(parts);
            let room = Room {
                memory: &memory,
                buffers: &buffers,
            };
            for result in [room.write(0, &[6; 8]), room.clear(0, 8)] {
                let Err(ExecuteError::Buffer { address }) = result else {
                    panic!("{result:?}");
                };
                assert_eq!(address, bad);
            }
        }
    }
}
