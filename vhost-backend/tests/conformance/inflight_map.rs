//! A map of requests in flight, read and written apart from the code that keeps it.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Where the fields of a map lie, once more and apart from the code that keeps it.
pub(crate) const VERSION: u64 = 8;
pub(crate) const DESCRIPTORS: u64 = 10;
pub(crate) const LAST_BATCH_HEAD: u64 = 12;
pub(crate) const USED_INDEX: u64 = 14;
pub(crate) const ENTRIES: u64 = 16;
pub(crate) const NEXT: u64 = 6;
pub(crate) const COUNTER: u64 = 8;

/// The part of one queue.
pub(crate) struct Part<'a> {
    file: &'a File,
    start: u64,
}

impl Part<'_> {
    pub(crate) fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.file
            .read_exact_at(&mut bytes, self.start + at)
            .unwrap();
        bytes
    }

    pub(crate) fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at))
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.start + at).unwrap();
    }

    pub(crate) fn put_u16(&self, at: u64, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    pub(crate) fn is_in_flight(&self, head: u16) -> bool {
        self.read::<1>(entry(head)) != [0]
    }

    pub(crate) fn counter(&self, head: u16) -> u64 {
        u64::from_le_bytes(self.read(entry(head) + COUNTER))
    }

    /// As a predecessor that took `head` as number `counter` left it.
    pub(crate) fn take(&self, head: u16, counter: u64) {
        self.put(entry(head), &[1]);
        self.put(entry(head) + COUNTER, &counter.to_le_bytes());
    }

    /// A head that a predecessor filled when it started.
    pub(crate) fn begin(&self, size: u16, used: u16) {
        self.put_u16(VERSION, 1);
        self.put_u16(DESCRIPTORS, size);
        self.put_u16(USED_INDEX, used);
    }

    pub(crate) fn in_flight(&self) -> Vec<u16> {
        (0..128).filter(|head| self.is_in_flight(*head)).collect()
    }
}

pub(crate) fn entry(head: u16) -> u64 {
    ENTRIES + 16 * u64::from(head)
}

pub(crate) fn part(map: &(File, u64), queue: u64, queues: u64) -> Part<'_> {
    Part {
        file: &map.0,
        start: map.1 / queues * queue,
    }
}
