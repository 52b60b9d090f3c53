//! The map of requests in flight (vhost-user, "Inflight I/O tracking", split rings, version 1).
//!
//! A file that the front-end keeps when this process dies. Each queue has a part of it:
//!
//! ```text
//! 0  features (8)   8 version (2)   10 descriptors (2)   12 last_batch_head (2)   14 used_index (2)
//! 16 + 16 n, for descriptor n:  0 in_flight (1)   1 padding (5)   6 next (2)   8 counter (8)
//! ```
//!
//! An entry is set when a request is taken and cleared when the used index has moved past it. Whoever dies in
//! between leaves either an entry that is set, which is served again, or one that should have been cleared: then the
//! used index in guest memory is ahead of the one here, and the list that begins at `last_batch_head` says whose.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::{AtomicAccess, Bytes, VolatileMemory};

use crate::guest::{MapError, map_file};
use crate::limits::MAX_RING_SIZE;
use crate::system::{Alarm, SharedMapping};

const VERSION: u16 = 1;
const VERSION_OFFSET: usize = 8;
const DESCRIPTORS_OFFSET: usize = 10;
const LAST_BATCH_HEAD_OFFSET: usize = 12;
const USED_INDEX_OFFSET: usize = 14;
const HEADER_LEN_BYTES: usize = 16;
const ENTRY_LEN_BYTES: usize = 16;
const NEXT_OFFSET: usize = 6;
const COUNTER_OFFSET: usize = 8;
/// Parts begin at multiples of this.
const ALIGNMENT_BYTES: usize = 64;
/// Room for the largest ring, whatever ring size a front-end states: QEMU states 128 and then uses 1024.
const PART_LEN_BYTES: usize =
    (HEADER_LEN_BYTES + ENTRY_LEN_BYTES * MAX_RING_SIZE as usize).next_multiple_of(ALIGNMENT_BYTES);
/// Longest map of another backend that is taken over.
const MAX_MAP_LEN_BYTES: u64 = 16 << 20;

/// Why a map of requests in flight is refused.
#[derive(Debug, thiserror::Error)]
pub enum InflightError {
    /// Its numbers are impossible.
    #[error("in-flight map of {len_bytes:#x} bytes for {queues} queues")]
    Size {
        /// Length of the map.
        len_bytes: u64,
        /// Queues it is for.
        queues: u16,
    },
    /// It was written by a backend that knew something else.
    #[error("in-flight map of version {version} for queue {queue}, expected {VERSION}")]
    Version {
        /// What it says.
        version: u16,
        /// Where.
        queue: u16,
    },
    /// It cannot be mapped.
    #[error("in-flight map")]
    Map(#[from] MapError),
    /// The system has no memory for a new one.
    #[error("no in-flight map can be made")]
    System(#[from] io::Error),
}

/// The map of all queues.
#[derive(Debug)]
pub struct InflightRegion {
    mapping: SharedMapping,
    queues: u16,
    part_len_bytes: usize,
}

/// The part of one queue, used by its worker alone.
#[derive(Debug)]
pub struct InflightQueue {
    region: Arc<InflightRegion>,
    start: usize,
    /// Entries: the size of the ring.
    size: u16,
    /// Orders requests by when they were taken.
    counter: u64,
}

impl InflightRegion {
    /// A new, empty map for `queues` queues, its file, and its length. Nobody can cut the file short.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn create(queues: u16, alarm: &Arc<Alarm>) -> Result<(Self, File, u64), InflightError> {
        let len_bytes = (PART_LEN_BYTES as u64) * u64::from(queues);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("vbd-inflight", flags).map_err(io::Error::from)?;
        let file = File::from(file);
        file.set_len(len_bytes)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(io::Error::from)?;
        let region = Self::map(file.try_clone()?, 0, len_bytes, queues, alarm)?;
        Ok((region, file, len_bytes))
    }

    /// Takes over the map that a predecessor left to the front-end.
    ///
    /// # Errors
    ///
    /// See [`InflightError`].
    pub fn map(
        file: File,
        offset: u64,
        len_bytes: u64,
        queues: u16,
        alarm: &Arc<Alarm>,
    ) -> Result<Self, InflightError> {
        let impossible = InflightError::Size { len_bytes, queues };
        if len_bytes > MAX_MAP_LEN_BYTES {
            return Err(impossible);
        }
        let part_len_bytes = usize::try_from(len_bytes)
            .ok()
            .and_then(|len| len.checked_div(usize::from(queues)))
            .map(|part| part - part % ALIGNMENT_BYTES);
        let Some(part_len_bytes) = part_len_bytes.filter(|part| *part > 0) else {
            return Err(impossible);
        };
        let region = Self {
            mapping: map_file(file, offset, len_bytes, (), alarm)?,
            queues,
            part_len_bytes,
        };
        for queue in 0..queues {
            let version = region.load(usize::from(queue) * part_len_bytes + VERSION_OFFSET);
            if version != 0 && version != VERSION {
                return Err(InflightError::Version { version, queue });
            }
        }
        Ok(region)
    }

    /// The part of queue `index` with a ring of `size` entries; `None` when the map has no room for that.
    #[must_use]
    pub fn queue(self: &Arc<Self>, index: u16, size: u16) -> Option<InflightQueue> {
        let needed = HEADER_LEN_BYTES + ENTRY_LEN_BYTES * usize::from(size);
        (index < self.queues && needed <= self.part_len_bytes).then(|| InflightQueue {
            region: Arc::clone(self),
            start: usize::from(index) * self.part_len_bytes,
            size,
            counter: 0,
        })
    }

    /// A number of the map. Offsets lie inside by construction, and a mapping never gets shorter.
    fn load<T: AtomicAccess + Default>(&self, offset: usize) -> T {
        let bytes = self.mapping.region().as_volatile_slice();
        bytes.load(offset, Ordering::Acquire).unwrap_or_default()
    }

    /// Sets a number of the map, after everything that was set before it.
    fn store<T: AtomicAccess>(&self, offset: usize, value: T) {
        let bytes = self.mapping.region().as_volatile_slice();
        let _inside = bytes.store(value, offset, Ordering::Release);
    }
}

impl InflightQueue {
    /// Mends what a predecessor left half done and returns the requests it had taken and not given back, in the
    /// order it had taken them. `used_index` is the one in guest memory.
    pub fn recover(&mut self, used_index: u16) -> Vec<u16> {
        if self.load::<u16>(VERSION_OFFSET) == VERSION {
            self.finish_last_batch(used_index);
        }
        self.store(USED_INDEX_OFFSET, used_index);
        self.store(DESCRIPTORS_OFFSET, self.size);
        self.store(VERSION_OFFSET, VERSION);
        let mut pending: Vec<(u64, u16)> = (0..self.size)
            .filter(|head| self.load::<u8>(self.entry(*head)) != 0)
            .map(|head| (self.load(self.entry(head) + COUNTER_OFFSET), head))
            .collect();
        pending.sort_unstable();
        self.counter = pending
            .last()
            .map_or(0, |(counter, _)| counter.wrapping_add(1));
        pending.into_iter().map(|(_, head)| head).collect()
    }

    /// Clears the entries of requests that were given back before the predecessor died.
    fn finish_last_batch(&self, used_index: u16) {
        let given_back = used_index.wrapping_sub(self.load(USED_INDEX_OFFSET));
        if given_back > self.size {
            // The driver has set its ring up anew; there is no batch that fits.
            return;
        }
        let mut head: u16 = self.load(LAST_BATCH_HEAD_OFFSET);
        for _ in 0..given_back {
            if head >= self.size {
                return;
            }
            self.store(self.entry(head), 0_u8);
            head = self.load(self.entry(head) + NEXT_OFFSET);
        }
    }

    /// The request at `head` has been taken from the available ring.
    pub fn take(&mut self, head: u16) {
        self.store(self.entry(head) + COUNTER_OFFSET, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.store(self.entry(head), 1_u8);
    }

    /// The request at `head` has not been taken after all.
    pub fn put_back(&self, head: u16) {
        self.store(self.entry(head), 0_u8);
    }

    /// The used index is about to move past the request at `head`.
    pub fn announce(&self, head: u16) {
        let last: u16 = self.load(LAST_BATCH_HEAD_OFFSET);
        self.store(self.entry(head) + NEXT_OFFSET, last);
        self.store(LAST_BATCH_HEAD_OFFSET, head);
    }

    /// The used index has moved past the request at `head`.
    pub fn settle(&self, head: u16) {
        self.store(self.entry(head), 0_u8);
    }

    /// All requests up to `used_index` are settled.
    pub fn settled(&self, used_index: u16) {
        self.store(USED_INDEX_OFFSET, used_index);
    }

    /// Where the entry of `head` begins in the part. Heads are checked against the ring before they come here.
    fn entry(&self, head: u16) -> usize {
        HEADER_LEN_BYTES + ENTRY_LEN_BYTES * usize::from(head)
    }

    fn load<T: AtomicAccess + Default>(&self, offset: usize) -> T {
        self.region.load(self.start + offset)
    }

    fn store<T: AtomicAccess>(&self, offset: usize, value: T) {
        self.region.store(self.start + offset, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn alarm() -> Arc<Alarm> {
        Arc::new(Alarm::new().unwrap())
    }

    fn map_again(file: &File, len: u64, queues: u16) -> Arc<InflightRegion> {
        let file = file.try_clone().unwrap();
        Arc::new(InflightRegion::map(file, 0, len, queues, &alarm()).unwrap())
    }

    #[test]
    fn requests_of_a_predecessor_come_back_in_the_order_they_were_taken() {
        let (region, file, len) = InflightRegion::create(3, &alarm()).unwrap();
        let mut queue = Arc::new(region).queue(2, 8).unwrap();
        assert_eq!(queue.recover(0), [0; 0]);
        for head in [5, 1, 7, 3] {
            queue.take(head);
        }
        queue.announce(1);
        queue.settle(1);
        queue.settled(1);
        queue.put_back(3);
        drop(queue);
        let region = map_again(&file, len, 3);
        assert_eq!(region.queue(1, 8).unwrap().recover(0), [0; 0]);
        let mut queue = region.queue(2, 8).unwrap();
        assert_eq!(queue.recover(1), [5, 7]);
        // What is taken now comes after what is left from before.
        queue.take(0);
        assert_eq!(region.queue(2, 8).unwrap().recover(1), [5, 7, 0]);
    }

    #[test]
    fn request_that_was_given_back_in_the_last_moment_is_not_served_again() {
        let (region, _file, _) = InflightRegion::create(1, &alarm()).unwrap();
        let region = Arc::new(region);
        let mut queue = region.queue(0, 8).unwrap();
        queue.recover(65_534);
        for head in [6, 2, 4] {
            queue.take(head);
        }
        queue.announce(6);
        queue.settle(6);
        queue.settled(65_535);
        // Announced, and then dead before or after the used index moved.
        queue.announce(2);
        assert_eq!(region.queue(0, 8).unwrap().recover(65_535), [2, 4]);
        assert_eq!(region.queue(0, 8).unwrap().recover(0), [4]);
        // A batch of another backend may be longer than one.
        let mut queue = region.queue(0, 8).unwrap();
        queue.take(1);
        queue.announce(4);
        queue.announce(1);
        assert_eq!(region.queue(0, 8).unwrap().recover(2), [0; 0]);
    }

    #[test]
    fn map_that_lies_does_no_harm() {
        let (region, file, len) = InflightRegion::create(1, &alarm()).unwrap();
        let region = Arc::new(region);
        region.queue(0, 4).unwrap().recover(0);
        // Batch list in a circle, through a head outside the ring, with a count beyond it.
        for (last, next) in [(1_u16, 1_u16), (1, 9), (0xffff, 0)] {
            file.write_all_at(&last.to_le_bytes(), 12).unwrap();
            file.write_all_at(&next.to_le_bytes(), 16 + 16 + 6).unwrap();
            for used in [1, 4, 5, 0x8000] {
                file.write_all_at(&[0; 2], 14).unwrap();
                file.write_all_at(&[1], 16 + 16).unwrap();
                assert!(region.queue(0, 4).unwrap().recover(used).len() <= 1);
            }
        }
        for head in 0..4 {
            file.write_all_at(&[0xff; 16], 16 + 16 * head).unwrap();
        }
        let mut queue = region.queue(0, 4).unwrap();
        assert_eq!(queue.recover(0), [0, 1, 2, 3]);
        queue.take(2);
        for (queues, size) in [(1, 1024), (0, 4)] {
            assert_eq!(region.queue(queues, size).is_some(), queues == 0);
        }
        assert!(map_again(&file, 128, 1).queue(0, 8).is_none(), "no room");
        assert!(map_again(&file, 192, 1).queue(0, 8).is_some());
        drop((file, len));
    }

    #[test]
    fn impossible_maps_are_refused() {
        let file = || {
            let file = tempfile::tempfile().unwrap();
            file.set_len(1 << 20).unwrap();
            file
        };
        let map = |file, offset, len, queues| {
            InflightRegion::map(file, offset, len, queues, &alarm()).unwrap_err()
        };
        for (len, queues) in [(0, 1), (4096, 0), (4096, 65), (MAX_MAP_LEN_BYTES + 1, 1)] {
            let error = map(file(), 0, len, queues);
            assert!(matches!(error, InflightError::Size { .. }), "{error:?}");
        }
        for (offset, len) in [(0, (1 << 20) + 1), (u64::MAX, 4096), (4095, 4096)] {
            let error = map(file(), offset, len, 1);
            assert!(matches!(error, InflightError::Map(_)), "{error:?}");
        }
        let strange = file();
        strange.write_all_at(&[2, 0], 2048 + 8).unwrap();
        assert!(matches!(
            map(strange, 0, 4096, 2),
            InflightError::Version {
                version: 2,
                queue: 1
            }
        ));
    }
}
