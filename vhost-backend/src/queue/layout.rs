//! Where the parts of a split ring lie, and how they are read and written (virtio 1.2, 2.7.5 to 2.7.8).

use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::guest::GuestMemory;
use crate::queue::{RingError, Table};

/// Where the index of the available and of the used ring lies, behind the flags, in bytes.
const INDEX_OFFSET: u64 = 2;
/// Where the entries of both begin, in bytes.
const ENTRIES_OFFSET: u64 = 4;
const AVAIL_ENTRY_LEN_BYTES: u64 = 2;
const USED_ENTRY_LEN_BYTES: u64 = 8;
/// Flags, index and the available event of a used ring, in bytes.
const USED_BESIDES_ENTRIES_LEN_BYTES: u64 = 6;
/// Set in the available ring's flags by a driver that wants no interrupts.
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Set in the used ring's flags by a device that wants no kicks.
const USED_F_NO_NOTIFY: u16 = 1;

/// The parts of a ring. The driver cannot move them while the ring runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout {
    table: u64,
    avail: u64,
    used: u64,
    size: u16,
    event_idx: bool,
}

impl Layout {
    /// That of a ring the ring crate has found to lie in guest memory.
    pub(crate) fn of(queue: &Queue) -> Self {
        Self {
            table: queue.desc_table(),
            avail: queue.avail_ring(),
            used: queue.used_ring(),
            size: queue.size(),
            event_idx: queue.event_idx_enabled(),
        }
    }

    /// Entries of the ring.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The ring's own table of descriptors.
    pub(crate) fn table(&self) -> Table {
        Table {
            address: GuestAddress(self.table),
            len: u32::from(self.size),
        }
    }

    /// How far the driver has come. What it wrote before it moved the index is visible after this.
    pub(crate) fn avail_index(&self, memory: &GuestMemory) -> Result<u16, RingError> {
        load(memory, self.avail, INDEX_OFFSET, Ordering::Acquire)
    }

    /// The head in an entry of the available ring.
    pub(crate) fn avail_entry(
        &self,
        memory: &GuestMemory,
        position: u16,
    ) -> Result<u16, RingError> {
        let slot = u64::from(position % self.size);
        let offset = ENTRIES_OFFSET + AVAIL_ENTRY_LEN_BYTES * slot;
        load(memory, self.avail, offset, Ordering::Relaxed)
    }

    /// Whether the driver wants an interrupt now that the used index has moved from `old` to `new`.
    pub(crate) fn wants_interrupt(
        &self,
        memory: &GuestMemory,
        old: u16,
        new: u16,
    ) -> Result<bool, RingError> {
        if !self.event_idx {
            let flags = load(memory, self.avail, 0, Ordering::Relaxed)?;
            return Ok(flags & AVAIL_F_NO_INTERRUPT == 0);
        }
        let offset = ENTRIES_OFFSET + AVAIL_ENTRY_LEN_BYTES * u64::from(self.size);
        let event = load(memory, self.avail, offset, Ordering::Relaxed)?;
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    /// Writes an entry of the used ring, which nobody looks at before the index has moved.
    pub(crate) fn put_used(
        &self,
        memory: &GuestMemory,
        position: u16,
        head: u16,
        len_bytes: u32,
    ) -> Result<(), RingError> {
        let entry = u64::from(head) | u64::from(len_bytes) << 32;
        let slot = u64::from(position % self.size);
        // The ring is aligned to four bytes only, so this is no atomic store.
        self.used
            .checked_add(ENTRIES_OFFSET + USED_ENTRY_LEN_BYTES * slot)
            .and_then(|at| memory.write_obj(entry.to_le(), GuestAddress(at)).ok())
            .ok_or(RingError::OutsideMemory)
    }

    /// Moves the used index. Whoever sees it sees the entries, the statuses and the data as well.
    pub(crate) fn set_used_index(&self, memory: &GuestMemory, index: u16) -> Result<(), RingError> {
        store(memory, self.used, INDEX_OFFSET, index, Ordering::Release)
    }

    /// Asks for a kick for the entry at `next_avail`.
    pub(crate) fn ask_for_kicks(
        &self,
        memory: &GuestMemory,
        next_avail: u16,
    ) -> Result<(), RingError> {
        if !self.event_idx {
            return store(memory, self.used, 0, 0, Ordering::Relaxed);
        }
        let offset = ENTRIES_OFFSET + USED_ENTRY_LEN_BYTES * u64::from(self.size);
        store(memory, self.used, offset, next_avail, Ordering::Relaxed)
    }

    /// Asks for no kicks, where that is not said already: with indexes, the entry that was asked for last has passed.
    pub(crate) fn refuse_kicks(&self, memory: &GuestMemory) -> Result<bool, RingError> {
        if !self.event_idx {
            store(memory, self.used, 0, USED_F_NO_NOTIFY, Ordering::Relaxed)?;
        }
        Ok(!self.event_idx)
    }
}

/// Length of the used ring of a queue of `size` entries.
#[must_use]
pub fn used_len_bytes(size: u16) -> u64 {
    USED_BESIDES_ENTRIES_LEN_BYTES + USED_ENTRY_LEN_BYTES * u64::from(size)
}

fn load(memory: &GuestMemory, part: u64, offset: u64, order: Ordering) -> Result<u16, RingError> {
    part.checked_add(offset)
        .and_then(|at| memory.load(GuestAddress(at), order).ok())
        .map(u16::from_le)
        .ok_or(RingError::OutsideMemory)
}

fn store(
    memory: &GuestMemory,
    part: u64,
    offset: u64,
    value: u16,
    order: Ordering,
) -> Result<(), RingError> {
    part.checked_add(offset)
        .and_then(|at| memory.store(value.to_le(), GuestAddress(at), order).ok())
        .ok_or(RingError::OutsideMemory)
}
