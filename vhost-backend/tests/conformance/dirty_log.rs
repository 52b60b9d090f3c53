//! A log of written pages as the front-end sees it, and a migration that follows it.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;

use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, MmapRegion, VolatileMemory};

use crate::bench::memfd;
use crate::support::guest::{BUFFERS, END};

pub(crate) const PAGE: u64 = 4096;
/// Data of reads that are to be found in the log: away from headers and states.
pub(crate) const FIELD: u64 = BUFFERS + 0x40_0000;

/// A log as the front-end sees it.
pub(crate) struct Log {
    pub(crate) file: File,
    mapping: MmapRegion,
    pub(crate) len: u64,
}

impl Log {
    pub(crate) fn new(len: u64) -> Self {
        let file = memfd(len);
        let place = FileOffset::new(file.try_clone().unwrap(), 0);
        let mapping = MmapRegion::from_file(place, usize::try_from(len).unwrap()).unwrap();
        Self { file, mapping, len }
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        self.mapping.get_atomic_ref(at).unwrap()
    }

    pub(crate) fn is_marked(&self, page: u64) -> bool {
        let byte = self.byte(usize::try_from(page / 8).unwrap());
        byte.load(Ordering::SeqCst) >> (page % 8) & 1 == 1
    }

    /// The pages that are marked; afterwards none is.
    pub(crate) fn take(&self) -> BTreeSet<u64> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap()];
        let all = self.mapping.as_volatile_slice();
        all.read_slice(&mut bytes, 0).unwrap();
        let mut pages = BTreeSet::new();
        for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            let bits = self.byte(at).swap(0, Ordering::SeqCst);
            let marked = (0..8).filter(|bit| bits >> bit & 1 == 1);
            pages.extend(marked.map(|bit| 8 * at as u64 + bit));
        }
        pages
    }
}

pub(crate) fn pages(address: u64, len: u64) -> impl Iterator<Item = u64> {
    address / PAGE..=(address + len - 1) / PAGE
}

/// Copies the pages the log names, again and again, as a migration does.
pub(crate) fn copier(
    memory: GuestMemoryMmap,
    log: Log,
    stop: Arc<AtomicBool>,
) -> JoinHandle<(Vec<u8>, GuestMemoryMmap)> {
    std::thread::spawn(move || {
        let read = |address: u64, bytes: &mut [u8]| {
            memory.read_slice(bytes, GuestAddress(address)).unwrap();
        };
        let mut copy = vec![0; usize::try_from(END - FIELD).unwrap()];
        read(FIELD, &mut copy);
        loop {
            let last = stop.load(Ordering::SeqCst);
            for page in log.take() {
                if page >= FIELD / PAGE {
                    let at = usize::try_from(page * PAGE - FIELD).unwrap();
                    read(page * PAGE, &mut copy[at..at + 4096]);
                }
            }
            if last {
                return (copy, memory);
            }
        }
    })
}
