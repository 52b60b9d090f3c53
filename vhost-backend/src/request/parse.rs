//! From buffers to a request (virtio 1.2, 5.2.6). No I/O on the disk happens here.
//!
//! The driver may cut a request into descriptors as it likes: the header is the first 16 readable bytes wherever
//! they lie, the status is the last writable byte, and what is writable before it is data.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_SECURE_ERASE, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::{Bytes, GuestAddress};

use crate::guest::GuestMemory;
use crate::queue::{Buffer, Chain};

/// Length of a request header in bytes.
const HEADER_LEN_BYTES: usize = 16;

/// What the driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read from this sector on, as much as there is room for.
    Read {
        /// First sector, unchecked.
        sector: u64,
    },
    /// Make earlier writes durable. There are none.
    Flush,
    /// Tell the serial.
    GetId,
    /// Any of the requests that would change the disk.
    Write {
        /// Its type.
        kind: u32,
    },
    /// A type this device does not know.
    Unknown {
        /// Its type.
        kind: u32,
    },
}

/// A chain whose end at least is known: there is a place for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Where the status goes, if there is any writable byte.
    pub status_address: Option<GuestAddress>,
    /// What is asked for.
    pub request: Result<Request, ParseError>,
}

/// Why the readable part of a chain is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer readable bytes than a header has.
    #[error("request header of {found} bytes, expected {HEADER_LEN_BYTES}")]
    HeaderTooShort {
        /// Readable bytes.
        found: usize,
    },
    /// The header is not in guest memory.
    #[error("request header outside guest memory")]
    HeaderUnreadable,
}

/// Splits the status byte off `chain`, whose writable buffers are only data afterwards, and reads the header.
pub fn parse(memory: &GuestMemory, chain: &mut Chain) -> Parsed {
    // The status first: whatever is wrong with the rest can then still be reported.
    let status_address = split_status(&mut chain.writable);
    Parsed {
        status_address,
        request: read_header(memory, &chain.readable).map(classify),
    }
}

fn split_status(writable: &mut Vec<Buffer>) -> Option<GuestAddress> {
    let last = writable.last_mut()?;
    last.len_bytes -= 1;
    let address = last
        .address
        .0
        .checked_add(u64::from(last.len_bytes))
        .map(GuestAddress);
    if last.len_bytes == 0 {
        writable.pop();
    }
    address
}

fn read_header(
    memory: &GuestMemory,
    readable: &[Buffer],
) -> Result<[u8; HEADER_LEN_BYTES], ParseError> {
    let mut header = [0; HEADER_LEN_BYTES];
    let mut filled = 0;
    for buffer in readable {
        let rest = &mut header[filled..];
        let len = rest
            .len()
            .min(usize::try_from(buffer.len_bytes).unwrap_or(usize::MAX));
        memory
            .read_slice(&mut rest[..len], buffer.address)
            .map_err(|_outside| ParseError::HeaderUnreadable)?;
        filled += len;
        if filled == HEADER_LEN_BYTES {
            return Ok(header);
        }
    }
    Err(ParseError::HeaderTooShort { found: filled })
}

fn classify(header: [u8; HEADER_LEN_BYTES]) -> Request {
    let [k0, k1, k2, k3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
    let kind = u32::from_le_bytes([k0, k1, k2, k3]);
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    match kind {
        VIRTIO_BLK_T_IN => Request::Read { sector },
        VIRTIO_BLK_T_FLUSH => Request::Flush,
        VIRTIO_BLK_T_GET_ID => Request::GetId,
        VIRTIO_BLK_T_OUT
        | VIRTIO_BLK_T_DISCARD
        | VIRTIO_BLK_T_WRITE_ZEROES
        | VIRTIO_BLK_T_SECURE_ERASE => Request::Write { kind },
        _ => Request::Unknown { kind },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(address: u64, len_bytes: u32) -> Buffer {
        Buffer {
            address: GuestAddress(address),
            len_bytes,
        }
    }

    fn memory_with_header(kind: u32, sector: u64) -> GuestMemory {
        let memory = crate::guest::test_memory(&[(0, 0x10000)]);
        memory
            .write_slice(&kind.to_le_bytes(), GuestAddress(0x100))
            .unwrap();
        memory
            .write_slice(&sector.to_le_bytes(), GuestAddress(0x108))
            .unwrap();
        memory
    }

    #[test]
    fn header_may_be_split_at_every_byte() {
        let memory = memory_with_header(0, 0x0102_0304_0506_0708);
        for cut in 1..16 {
            let mut chain = Chain {
                readable: vec![
                    buffer(0x100, cut),
                    buffer(0x100 + u64::from(cut), 16 - cut + 3),
                ],
                writable: vec![buffer(0x1000, 512), buffer(0x2000, 1)],
            };
            let parsed = parse(&memory, &mut chain);
            assert_eq!(
                parsed.request,
                Ok(Request::Read {
                    sector: 0x0102_0304_0506_0708
                }),
                "cut at {cut}"
            );
            assert_eq!(parsed.status_address, Some(GuestAddress(0x2000)));
            assert_eq!(chain.writable, [buffer(0x1000, 512)]);
        }
    }

    #[test]
    fn status_is_the_last_writable_byte_wherever_it_lies() {
        let memory = memory_with_header(4, 0);
        let mut chain = Chain {
            readable: vec![buffer(0x100, 16)],
            writable: vec![buffer(0x1000, 513)],
        };
        let parsed = parse(&memory, &mut chain);
        assert_eq!(
            parsed,
            Parsed {
                status_address: Some(GuestAddress(0x1200)),
                request: Ok(Request::Flush)
            }
        );
        assert_eq!(chain.writable, [buffer(0x1000, 512)]);
        let mut none = Chain {
            readable: vec![buffer(0x100, 16)],
            writable: vec![],
        };
        assert_eq!(parse(&memory, &mut none).status_address, None);
        let mut wraps = Chain {
            readable: vec![],
            writable: vec![buffer(u64::MAX, 9)],
        };
        assert_eq!(parse(&memory, &mut wraps).status_address, None);
    }

    #[test]
    fn every_type_has_its_meaning() {
        for (kind, request) in [
            (0, Request::Read { sector: 0 }),
            (1, Request::Write { kind: 1 }),
            (4, Request::Flush),
            (8, Request::GetId),
            (10, Request::Unknown { kind: 10 }),
            (11, Request::Write { kind: 11 }),
            (13, Request::Write { kind: 13 }),
            (14, Request::Write { kind: 14 }),
            (u32::MAX, Request::Unknown { kind: u32::MAX }),
        ] {
            let memory = memory_with_header(kind, 0);
            let mut chain = Chain {
                readable: vec![buffer(0x100, 16)],
                writable: vec![buffer(0, 1)],
            };
            assert_eq!(parse(&memory, &mut chain).request, Ok(request));
        }
    }

    #[test]
    fn header_that_is_short_or_outside_memory_still_has_its_status_place() {
        let memory = memory_with_header(0, 0);
        for (readable, error) in [
            (vec![], ParseError::HeaderTooShort { found: 0 }),
            (
                vec![buffer(0x100, 7), buffer(0x200, 8)],
                ParseError::HeaderTooShort { found: 15 },
            ),
            (vec![buffer(0xFFF8, 16)], ParseError::HeaderUnreadable),
        ] {
            let mut chain = Chain {
                readable,
                writable: vec![buffer(0x1000, 1)],
            };
            let parsed = parse(&memory, &mut chain);
            assert_eq!(
                parsed,
                Parsed {
                    status_address: Some(GuestAddress(0x1000)),
                    request: Err(error)
                }
            );
        }
    }
}
