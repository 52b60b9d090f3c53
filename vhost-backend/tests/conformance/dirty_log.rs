//! A log of written pages as the front-end sees it, and a migration that follows it.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;

use vhost_backend::device::Device;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, MmapRegion, VolatileMemory};

use crate::bench::{AVAIL, Bench, USED, memfd, shared, start_on};
use crate::support::client::{SET_FEATURES, SET_VRING_ADDR};
use crate::support::driver::{LOG_ALL, LOG_LEN_BYTES, WRITE};
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

/// Pages of the used ring of ring `at`.
pub(crate) fn used_pages(bench: &Bench, at: usize) -> impl Iterator<Item = u64> {
    let ring = &bench.driver.rings[at];
    pages(ring.base + USED, 6 + 8 * u64::from(ring.size))
}

pub(crate) fn log_all(bench: &mut Bench, on: bool) {
    let features = bench.driver.features | if on { LOG_ALL } else { 0 };
    bench.driver.client.tell_u64(SET_FEATURES, features);
}

/// `rings` rings that run, and a log that is in use and empty.
pub(crate) fn logging(rings: u32) -> (Bench, Log) {
    logging_on(&shared().0, rings)
}

pub(crate) fn logging_on(device: &Arc<Device>, rings: u32) -> (Bench, Log) {
    let mut bench = start_on(device, rings);
    let log = Log::new(LOG_LEN_BYTES);
    bench.driver.client.set_log(&log.file, 0, log.len);
    log_all(&mut bench, true);
    (0..rings as usize).for_each(|at| bench.demand_runs(at));
    (bench, log)
}

/// Places a read of `len` bytes to `data` in `slot` of ring `at` and makes it available.
pub(crate) fn offer_to(bench: &mut Bench, at: usize, slot: u16, sector: u64, data: (u64, u32)) {
    place_to(bench, at, slot, sector, data);
    bench.driver.offer(at, 3 * slot);
}

pub(crate) fn place_to(
    bench: &mut Bench,
    at: usize,
    slot: u16,
    sector: u64,
    (data, len): (u64, u32),
) {
    bench.place_read(at, slot, sector);
    bench.driver.fill(data, len as usize, 0xEE);
    bench
        .driver
        .descriptor(at, 3 * slot + 1, (data, len, 1 | WRITE, 3 * slot + 2));
}

/// The addresses of ring 0, and that its used ring is to be logged at `log`.
pub(crate) fn tell_logged_addresses(bench: &mut Bench, log: u64) {
    let base = bench.driver.rings[0].base;
    let mut payload = [0, 1].map(u32::to_le_bytes).concat();
    for part in [base, base + USED, base + AVAIL] {
        payload.extend(bench.driver.guest.user(part).to_le_bytes());
    }
    payload.extend(log.to_le_bytes());
    bench.driver.client.tell(SET_VRING_ADDR, &payload, &[]);
}
