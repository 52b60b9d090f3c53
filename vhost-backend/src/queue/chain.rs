//! From a descriptor head to the buffers of one request.
//!
//! The walk is ours because the ring crate's iterator reports every fault as the end of the chain, which makes a
//! damaged chain look like a shorter valid one. Here each descriptor is read once, into private memory, and every
//! fault has a name. Direct chains, indirect tables, and direct descriptors followed by one indirect table are
//! walked (virtio 1.2, 2.7.5.3); nothing is assumed about how a request is cut into descriptors.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::GuestMemory;
use crate::limits::MAX_CHAIN_DESCRIPTORS;

const DESCRIPTOR_LEN_BYTES: u32 = 16;

/// One piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address of its first byte.
    pub address: GuestAddress,
    /// Length in bytes, never 0.
    pub len_bytes: u32,
}

/// The buffers of one request, in order. Reused from request to request, so a walk allocates nothing once warm.
#[derive(Debug, Default)]
pub struct Chain {
    /// What the driver wrote for the device.
    pub readable: Vec<Buffer>,
    /// Where the device may write.
    pub writable: Vec<Buffer>,
}

/// Why a chain is not one. The driver broke the rules of the ring; no byte of such a chain is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A descriptor lies outside guest memory.
    #[error("descriptor {index} cannot be read from guest memory")]
    Unreadable {
        /// Position in its table.
        index: u16,
    },
    /// A `next` points behind the end of its table.
    #[error("descriptor {index} is outside its table of {table_len} entries")]
    OutsideTable {
        /// The position asked for.
        index: u16,
        /// Entries of the table.
        table_len: u32,
    },
    /// More descriptors than any request may have, or a loop.
    #[error("more than {max} descriptors, or a loop")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// An indirect table although the driver did not negotiate them.
    #[error("indirect table without the feature")]
    IndirectNotNegotiated,
    /// An indirect table inside an indirect table, or one that is not the end of its chain.
    #[error("indirect table in the wrong place")]
    IndirectMisplaced,
    /// An indirect table that is empty or not made of whole descriptors.
    #[error("indirect table of {len_bytes} bytes")]
    IndirectLength {
        /// Its length.
        len_bytes: u32,
    },
    /// Something for the device to read behind something for it to write.
    #[error("readable descriptor after a writable one")]
    Order,
    /// Buffers that together are longer than a used length can say.
    #[error("buffers of more than 4 GiB")]
    TooLarge,
}

/// Where a table of descriptors lies.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Guest physical address of entry 0.
    pub address: GuestAddress,
    /// Number of entries.
    pub len: u32,
}

impl Chain {
    /// Collects the buffers of the chain that begins at `head` of the ring's own `table`.
    ///
    /// # Errors
    ///
    /// When the driver broke a rule of the ring; the content of the chain is then meaningless.
    pub fn collect(
        &mut self,
        memory: &GuestMemory,
        table: Table,
        head: u16,
        indirect_negotiated: bool,
    ) -> Result<(), ChainError> {
        self.readable.clear();
        self.writable.clear();
        let max = MAX_CHAIN_DESCRIPTORS;
        let mut table = table;
        let mut index = head;
        let mut inside_indirect = false;
        let mut count = 0;
        while count < max {
            let descriptor = read_descriptor(memory, table, index)?;
            if descriptor.refers_to_indirect_table() {
                if !indirect_negotiated {
                    return Err(ChainError::IndirectNotNegotiated);
                }
                if inside_indirect || descriptor.has_next() {
                    return Err(ChainError::IndirectMisplaced);
                }
                table = indirect_table(descriptor)?;
                index = 0;
                inside_indirect = true;
                continue;
            }
            // The reference to a table is no buffer and comes at most once.
            count += 1;
            self.push(descriptor)?;
            if !descriptor.has_next() {
                return self.check_len();
            }
            index = descriptor.next();
        }
        Err(ChainError::TooLong { max })
    }

    /// Room for data, once the status has been split off.
    #[must_use]
    pub fn data_len_bytes(&self) -> u64 {
        let buffers = self.writable.iter();
        buffers.map(|buffer| u64::from(buffer.len_bytes)).sum()
    }

    fn push(&mut self, descriptor: Descriptor) -> Result<(), ChainError> {
        let buffer = Buffer {
            address: descriptor.addr(),
            len_bytes: descriptor.len(),
        };
        if descriptor.is_write_only() {
            // An empty buffer is legal and holds nothing; dropping it here spares every user the thought.
            self.writable
                .extend(Some(buffer).filter(|buffer| buffer.len_bytes > 0));
            return Ok(());
        }
        if !self.writable.is_empty() {
            return Err(ChainError::Order);
        }
        self.readable
            .extend(Some(buffer).filter(|buffer| buffer.len_bytes > 0));
        Ok(())
    }

    /// The used length is 32 bits wide, so no honest chain is longer.
    fn check_len(&self) -> Result<(), ChainError> {
        let buffers = self.readable.iter().chain(&self.writable);
        let total: u64 = buffers.map(|buffer| u64::from(buffer.len_bytes)).sum();
        if total <= u64::from(u32::MAX) {
            Ok(())
        } else {
            Err(ChainError::TooLarge)
        }
    }
}

fn read_descriptor(
    memory: &GuestMemory,
    table: Table,
    index: u16,
) -> Result<Descriptor, ChainError> {
    if u32::from(index) >= table.len {
        return Err(ChainError::OutsideTable {
            index,
            table_len: table.len,
        });
    }
    let offset = u64::from(index) * u64::from(DESCRIPTOR_LEN_BYTES);
    table
        .address
        .0
        .checked_add(offset)
        .and_then(|address| memory.read_obj(GuestAddress(address)).ok())
        .ok_or(ChainError::Unreadable { index })
}

fn indirect_table(descriptor: Descriptor) -> Result<Table, ChainError> {
    let len_bytes = descriptor.len();
    if len_bytes == 0 || !len_bytes.is_multiple_of(DESCRIPTOR_LEN_BYTES) {
        return Err(ChainError::IndirectLength { len_bytes });
    }
    Ok(Table {
        address: descriptor.addr(),
        len: len_bytes / DESCRIPTOR_LEN_BYTES,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;

    fn memory() -> GuestMemory {
        crate::guest::test_memory(&[(0, 1 << 20)])
    }

    fn put(memory: &GuestMemory, table: u64, index: u16, descriptor: (u64, u32, u16, u16)) {
        let (address, len, flags, next) = descriptor;
        let descriptor = Descriptor::new(address, len, flags, next);
        memory
            .write_obj(descriptor, GuestAddress(table + 16 * u64::from(index)))
            .unwrap();
    }

    fn collect(memory: &GuestMemory, head: u16, indirect: bool) -> Result<Chain, ChainError> {
        let mut chain = Chain::default();
        let table = Table {
            address: GuestAddress(0),
            len: 16,
        };
        chain.collect(memory, table, head, indirect).map(|()| chain)
    }

    fn buffer(address: u64, len_bytes: u32) -> Buffer {
        Buffer {
            address: GuestAddress(address),
            len_bytes,
        }
    }

    #[test]
    fn direct_chain_in_any_order_of_indices() {
        let memory = memory();
        put(&memory, 0, 9, (0x1000, 16, NEXT, 2));
        put(&memory, 0, 2, (0x2000, 0, NEXT | WRITE, 15));
        put(&memory, 0, 15, (0x3000, 513, WRITE, 0));
        let chain = collect(&memory, 9, false).unwrap();
        assert_eq!(chain.readable, [buffer(0x1000, 16)]);
        assert_eq!(chain.writable, [buffer(0x3000, 513)]);
    }

    #[test]
    fn indirect_table_alone_and_behind_direct_descriptors() {
        let memory = memory();
        put(&memory, 0x8000, 0, (0x2000, 512, NEXT | WRITE, 1));
        put(&memory, 0x8000, 1, (0x3000, 1, WRITE, 0));
        put(&memory, 0, 0, (0x1000, 16, NEXT, 1));
        // The write flag of the descriptor that refers to a table means nothing.
        put(&memory, 0, 1, (0x8000, 32, INDIRECT | WRITE, 0));
        let chain = collect(&memory, 0, true).unwrap();
        assert_eq!((chain.readable.len(), chain.writable.len()), (1, 2));
        assert_eq!(collect(&memory, 1, true).unwrap().readable, []);
        assert_eq!(
            collect(&memory, 0, false).unwrap_err(),
            ChainError::IndirectNotNegotiated
        );
    }

    #[test]
    fn every_broken_rule_is_named() {
        let memory = memory();
        put(&memory, 0, 0, (0x1000, 16, NEXT, 0));
        assert_eq!(
            collect(&memory, 0, true).unwrap_err(),
            ChainError::TooLong { max: 1024 }
        );
        put(&memory, 0, 0, (0x1000, 16, NEXT, 16));
        let outside = ChainError::OutsideTable {
            index: 16,
            table_len: 16,
        };
        assert_eq!(collect(&memory, 0, true).unwrap_err(), outside);
        assert_eq!(collect(&memory, 16, true).unwrap_err(), outside);
        for (len, expected) in [
            (0, ChainError::IndirectLength { len_bytes: 0 }),
            (17, ChainError::IndirectLength { len_bytes: 17 }),
        ] {
            put(&memory, 0, 0, (0x8000, len, INDIRECT, 0));
            assert_eq!(collect(&memory, 0, true).unwrap_err(), expected);
        }
        put(&memory, 0, 0, (0x8000, 16, INDIRECT | NEXT, 1));
        assert_eq!(
            collect(&memory, 0, true).unwrap_err(),
            ChainError::IndirectMisplaced
        );
        put(&memory, 0x8000, 0, (0x9000, 16, INDIRECT, 0));
        put(&memory, 0, 0, (0x8000, 16, INDIRECT, 0));
        assert_eq!(
            collect(&memory, 0, true).unwrap_err(),
            ChainError::IndirectMisplaced
        );
        put(&memory, 0, 0, (u64::MAX - 15, 16, INDIRECT, 0));
        assert_eq!(
            collect(&memory, 0, true).unwrap_err(),
            ChainError::Unreadable { index: 0 }
        );
        put(&memory, 0, 0, (0x1000, 1, WRITE | NEXT, 1));
        put(&memory, 0, 1, (0x1000, 16, 0, 0));
        assert_eq!(collect(&memory, 0, true).unwrap_err(), ChainError::Order);
        put(&memory, 0, 1, (0x1000, u32::MAX, WRITE, 0));
        assert_eq!(collect(&memory, 0, true).unwrap_err(), ChainError::TooLarge);
    }
}
