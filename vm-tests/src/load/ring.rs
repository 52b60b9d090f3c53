//! One split ring from the driver's side: what lies where, and who must be told of what.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use anyhow::Result;
use vm_memory::{MmapRegion, VolatileArrayRef, VolatileMemory};

/// Another descriptor follows.
pub(super) const NEXT: u16 = 1;
/// The device writes this one.
pub(super) const WRITE: u16 = 2;
/// The buffer holds descriptors.
pub(super) const INDIRECT: u16 = 4;

pub(super) const DESCRIPTOR_BYTES: usize = 16;

/// Without event indices: do not notify. In either direction.
const NO_NOTIFICATION: u16 = 1;

/// How far an index that nobody is to be told about is kept ahead.
const FAR_AHEAD: u16 = 0x8000;

/// Whether the step from `old` to `new` passes the entry that the other side has named, as the specification puts it.
pub(super) fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Bytes of the available ring, with the index of the used event behind it.
pub(super) fn avail_bytes(entries: u16) -> usize {
    4 + 2 * usize::from(entries) + 2
}

/// Bytes of the used ring, with the index of the available event behind it.
pub(super) fn used_bytes(entries: u16) -> usize {
    4 + 8 * usize::from(entries) + 2
}

/// A descriptor as its two little-endian halves.
pub(super) fn descriptor(address: u64, len_bytes: u32, flags: u16, next: u16) -> [u64; 2] {
    let second = u64::from(len_bytes) | u64::from(flags) << 32 | u64::from(next) << 48;
    [address.to_le(), second.to_le()]
}

/// The ring in memory.
pub(super) struct Ring<'a> {
    pub(super) descriptors: VolatileArrayRef<'a, u64>,
    avail_flags: &'a AtomicU16,
    avail_index: &'a AtomicU16,
    avail_ring: VolatileArrayRef<'a, u16>,
    used_event: &'a AtomicU16,
    used_flags: &'a AtomicU16,
    used_index: &'a AtomicU16,
    used_ring: VolatileArrayRef<'a, u32>,
    avail_event: &'a AtomicU16,
    entries: u16,
    event_index: bool,
}

/// How far the driver is; outlives its view of the memory.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Position {
    next_avail: u16,
    /// As the device has been told so far.
    announced: u16,
    next_used: u16,
    /// The last index the device was told to notify at.
    event: u16,
}

impl<'a> Ring<'a> {
    pub(super) fn new(
        memory: &'a MmapRegion,
        [descriptors, avail, used]: [usize; 3],
        entries: u16,
        event_index: bool,
    ) -> Result<Self> {
        let size = usize::from(entries);
        let index = |offset| memory.get_atomic_ref::<AtomicU16>(offset);
        Ok(Self {
            descriptors: memory.get_array_ref(descriptors, 2 * size)?,
            avail_flags: index(avail)?,
            avail_index: index(avail + 2)?,
            avail_ring: memory.get_array_ref(avail + 4, size)?,
            used_event: index(avail + 4 + 2 * size)?,
            used_flags: index(used)?,
            used_index: index(used + 2)?,
            used_ring: memory.get_array_ref(used + 4, 2 * size)?,
            avail_event: index(used + 4 + 8 * size)?,
            entries,
            event_index,
        })
    }

    /// Makes the chain that starts at `head` available.
    pub(super) fn offer(&self, at: &mut Position, head: u16) {
        let entry = usize::from(at.next_avail & (self.entries - 1));
        self.avail_ring.store(entry, head.to_le());
        at.next_avail = at.next_avail.wrapping_add(1);
        self.avail_index
            .store(at.next_avail.to_le(), Ordering::Release);
    }

    /// Whether the device asks to be told of what was offered since the last call.
    pub(super) fn kick_wanted(&self, at: &mut Position) -> bool {
        let (old, new) = (at.announced, at.next_avail);
        if old == new {
            return false;
        }
        at.announced = new;
        // The device names its event, then looks at the index again; here it is the other way round.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = u16::from_le(self.avail_event.load(Ordering::Relaxed));
            passes(event, new, old)
        } else {
            u16::from_le(self.used_flags.load(Ordering::Relaxed)) & NO_NOTIFICATION == 0
        }
    }

    /// The head of the next chain given back.
    pub(super) fn take(&self, at: &mut Position) -> Option<u32> {
        if self.is_empty(at) {
            return None;
        }
        let entry = usize::from(at.next_used & (self.entries - 1));
        at.next_used = at.next_used.wrapping_add(1);
        Some(u32::from_le(self.used_ring.load(2 * entry)))
    }

    pub(super) fn is_empty(&self, at: &Position) -> bool {
        u16::from_le(self.used_index.load(Ordering::Acquire)) == at.next_used
    }

    /// Asks to be notified of the next chain given back. Returns whether there is none yet, so that one may sleep.
    pub(super) fn want_notification(&self, at: &mut Position) -> bool {
        at.event = at.next_used;
        if self.event_index {
            self.used_event
                .store(at.next_used.to_le(), Ordering::Relaxed);
        } else {
            self.avail_flags.store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.is_empty(at)
    }

    /// Asks for no notification. With event indices the one that has been named stays, as in Linux, unless
    /// `for_long`: then an index is named that is not reached.
    pub(super) fn want_silence(&self, at: &mut Position, for_long: bool) {
        if !self.event_index {
            self.avail_flags
                .store(NO_NOTIFICATION.to_le(), Ordering::Relaxed);
        } else if for_long && at.event.wrapping_sub(at.next_used) < FAR_AHEAD / 2 {
            at.event = at.next_used.wrapping_add(FAR_AHEAD);
            self.used_event.store(at.event.to_le(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{FileOffset, MmapRegion};

    use super::{Position, Ring, avail_bytes, descriptor, passes, used_bytes};

    const ENTRIES: u16 = 4;
    const PARTS: [usize; 3] = [0, 64, 128];

    fn memory() -> MmapRegion {
        let file = rustix::fs::memfd_create("ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = std::fs::File::from(file);
        file.set_len(4096).unwrap();
        MmapRegion::from_file(FileOffset::new(file, 0), 4096).unwrap()
    }

    #[test]
    fn an_event_is_passed_when_it_is_stepped_over_also_around_the_end() {
        assert!(passes(0, 1, 0));
        assert!(!passes(1, 1, 0));
        assert!(!passes(0, 1, 1));
        assert!(passes(u16::MAX, 2, u16::MAX));
        assert!(!passes(2, 2, u16::MAX));
        assert!(!passes(5, 4, 2));
    }

    #[test]
    fn sizes_and_descriptors_are_those_of_the_specification() {
        assert_eq!((avail_bytes(128), used_bytes(128)), (262, 1030));
        let [address, rest] = descriptor(0x1234, 0x0102_0304, 2, 0x0506);
        assert_eq!(u64::from_le(address), 0x1234);
        assert_eq!(u64::from_le(rest), 0x0506_0002_0102_0304);
    }

    #[test]
    fn a_kick_is_wanted_once_for_what_passes_the_event() {
        let memory = memory();
        let ring = Ring::new(&memory, PARTS, ENTRIES, true).unwrap();
        let mut at = Position::default();
        assert!(!ring.kick_wanted(&mut at));
        ring.offer(&mut at, 3);
        assert!(ring.kick_wanted(&mut at));
        assert!(!ring.kick_wanted(&mut at));
        // The event is still the first entry, which was passed long ago.
        ring.offer(&mut at, 2);
        assert!(!ring.kick_wanted(&mut at));
    }

    #[test]
    fn a_long_silence_names_an_event_out_of_reach() {
        let memory = memory();
        let ring = Ring::new(&memory, PARTS, ENTRIES, true).unwrap();
        let mut at = Position::default();
        assert!(ring.want_notification(&mut at));
        ring.want_silence(&mut at, false);
        assert_eq!(at.event, 0);
        for step in [0, 1, 0x3000, 0x5000, 0x9000, 0xffff] {
            at.next_used = step;
            ring.want_silence(&mut at, true);
            assert!(!passes(at.event, step.wrapping_add(0x1000), step));
        }
    }

    #[test]
    fn nothing_is_taken_from_an_empty_ring() {
        let memory = memory();
        let ring = Ring::new(&memory, PARTS, ENTRIES, false).unwrap();
        assert!(ring.take(&mut Position::default()).is_none());
    }
}
