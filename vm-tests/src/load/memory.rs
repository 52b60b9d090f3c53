//! What a queue needs in guest memory, and the memfd it lies in.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use rustix::fs::MemfdFlags;
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::ring::{DESCRIPTOR_BYTES, avail_bytes, used_bytes};

/// Where the memory of the guest starts for the guest: not at 0, where a mistaken address would be right.
const GUEST_BASE: u64 = 0x1000_0000;
const PAGE_BYTES: usize = 4096;

/// The longest header and the status of a request share a cache line, as in Linux's request structure.
pub(super) const HEADER_STRIDE_BYTES: usize = 64;
pub(super) const STATUS_OFFSET_BYTES: usize = 16;

/// What a queue must have room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Requests in flight.
    pub(super) slots: usize,
    /// Data of each.
    pub(super) slot_bytes: usize,
    /// Pieces the data is cut into at most.
    pub(super) segments: usize,
    pub(super) entries: u16,
}

/// Where the parts of one queue lie, in bytes from the start of memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) descriptors: usize,
    pub(super) avail: usize,
    pub(super) used: usize,
    /// One indirect table for each slot.
    pub(super) tables: usize,
    pub(super) headers: usize,
    pub(super) data: usize,
    pub(super) end: usize,
    pub(super) room: Room,
}

impl Layout {
    pub(super) fn new(start: usize, room: Room) -> Self {
        let entries = usize::from(room.entries);
        let mut end = start;
        let mut part = |bytes: usize| {
            let start = end;
            end = (end + bytes).next_multiple_of(PAGE_BYTES);
            start
        };
        let descriptors = part(DESCRIPTOR_BYTES * entries);
        let avail = part(avail_bytes(room.entries));
        let used = part(used_bytes(room.entries));
        let tables = part(room.slots * DESCRIPTOR_BYTES * (room.segments + 2));
        let headers = part(room.slots * HEADER_STRIDE_BYTES);
        let data = part(room.slots * room.slot_bytes.next_multiple_of(PAGE_BYTES));
        Self {
            descriptors,
            avail,
            used,
            tables,
            headers,
            data,
            end,
            room,
        }
    }

    pub(super) fn ring_parts(&self) -> [usize; 3] {
        [self.descriptors, self.avail, self.used]
    }

    pub(super) fn data_of(&self, slot: usize) -> usize {
        self.data + slot * self.room.slot_bytes.next_multiple_of(PAGE_BYTES)
    }

    pub(super) fn header_of(&self, slot: usize) -> usize {
        self.headers + slot * HEADER_STRIDE_BYTES
    }

    pub(super) fn table_of(&self, slot: usize) -> usize {
        self.tables + slot * DESCRIPTOR_BYTES * (self.room.segments + 2)
    }
}

/// Memory shared with the backend.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) region: MmapRegion,
}

impl Memory {
    pub(super) fn new(size_bytes: usize) -> Result<Self> {
        ensure!(
            size_bytes.is_multiple_of(PAGE_BYTES),
            "memory comes in pages"
        );
        let file: File = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC)?.into();
        file.set_len(size_bytes as u64)?;
        let region = MmapRegion::from_file(FileOffset::new(file, 0), size_bytes)?;
        // A guest that has been up for a while has touched its buffers.
        for page in (0..size_bytes).step_by(PAGE_BYTES) {
            region.get_ref::<u8>(page)?.store(0);
        }
        Ok(Self { region })
    }

    /// As SET_MEM_TABLE describes it.
    pub(super) fn description(&self) -> Result<VhostUserMemoryRegionInfo> {
        let file = self.region.file_offset().map(FileOffset::file);
        ensure!(file.is_some(), "the memory has no file");
        Ok(VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: self.region.size() as u64,
            userspace_addr: self.front_end_address(0),
            mmap_offset: 0,
            mmap_handle: file.map_or(-1, AsRawFd::as_raw_fd),
        })
    }

    /// What a descriptor calls this place.
    pub(super) fn guest_address(offset: usize) -> u64 {
        GUEST_BASE + offset as u64
    }

    /// What a message about rings calls this place.
    pub(super) fn front_end_address(&self, offset: usize) -> u64 {
        (self.region.as_ptr().addr() + offset) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, Room};

    #[test]
    fn parts_do_not_overlap() {
        let room = Room {
            slots: 128,
            slot_bytes: 5000,
            segments: 3,
            entries: 128,
        };
        let layout = Layout::new(8192, room);
        let parts = [
            (layout.descriptors, 16 * 128),
            (layout.avail, 262),
            (layout.used, 1030),
            (layout.tables, layout.table_of(128) - layout.tables),
            (layout.headers, layout.header_of(128) - layout.headers),
            (layout.data, layout.data_of(128) - layout.data),
        ];
        let mut end = 8192;
        for (start, bytes) in parts {
            assert!(start >= end && start.is_multiple_of(4096), "{layout:?}");
            end = start + bytes;
        }
        assert!(layout.end >= end);
    }
}
