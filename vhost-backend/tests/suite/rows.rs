//! Promise: reads that go on one where the other ends are asked of the disk in order, as long as it answers soon; each of
//! them is right and fails alone; they hold up nobody else; and a ring whose row hangs stops like any other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blob::test_util::{Fault, FaultyBlob, noise};
use blob::{MemoryBlob, ReadAt, ReadError};
use vhost_backend::engine::Waiter;

use crate::cold::Cold;
use crate::daemon::wait_until;
use crate::support::driver::{Driver, IN_ORDER, IOERR, OK, eventfd};
use crate::support::image::{compress, device_with, layer};
use crate::support::slots::{
    DISK_SECTORS, ask, check, describe, device_behind, driver, stalling, status,
};

const LEN: u32 = 64 << 10;
/// From one read to the next: too much is left out for them to be fetched together, and too little for them to be no row.
const STRIDE_SECTORS: u64 = 128 + 16;
/// Reads that make a row.
const FIRST: u64 = 6;
const TOGETHER: u16 = 8;

/// Reads one after another from the beginning of the disk on, until a row is seen in it.
fn begin_row(driver: &mut Driver, disk: &[u8]) {
    for number in 0..FIRST {
        let sector = number * STRIDE_SECTORS;
        ask(driver, 0, 0, sector, LEN);
        driver.kick(0);
        driver.wait(0);
        check(driver, disk, 0, sector, LEN);
    }
}

/// Asks for the next reads of the row at once; returns their first sectors.
fn go_on(driver: &mut Driver) -> Vec<u64> {
    let sectors = (FIRST..).map(|number| number * STRIDE_SECTORS);
    let sectors: Vec<u64> = sectors.take(TOGETHER.into()).collect();
    let slots = (0..TOGETHER).zip(&sectors);
    let heads: Vec<u16> = slots
        .map(|(slot, sector)| describe(driver, slot, 0, *sector, LEN))
        .collect();
    driver.offer_together(0, &heads);
    driver.kick(0);
    sectors
}

#[test]
fn one_of_a_row_is_under_way_and_others_are_not_held_up() {
    let (device, disk, stall) = stalling();
    let (mut driver, _served) = driver(&device, !IN_ORDER, true);
    begin_row(&mut driver, &disk);
    stall.close();
    let sectors = go_on(&mut driver);
    ask(&mut driver, TOGETHER, 0, 16_000, 4096);
    driver.kick(0);
    wait_until("the first of the row and the other", || {
        stall.waiting() == 2
    });
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(stall.waiting(), 2);
    stall.open();
    for _ in 0..=TOGETHER {
        driver.wait(0);
    }
    for (slot, sector) in (0..).zip(sectors) {
        check(&driver, &disk, slot, sector, LEN);
    }
    check(&driver, &disk, TOGETHER, 16_000, 4096);
}

#[test]
fn reads_that_leave_out_more_than_they_read_are_no_row() {
    let (device, disk, stall) = stalling();
    let (mut driver, _served) = driver(&device, !IN_ORDER, true);
    let sector = |number: u64| 40 * number;
    // 4 KiB out of 20, again and again.
    for number in 0..300 {
        ask(&mut driver, 0, 0, sector(number), 4096);
        driver.kick(0);
        driver.wait(0);
    }
    stall.close();
    for slot in 0..8 {
        ask(&mut driver, slot, 0, sector(300 + u64::from(slot)), 4096);
    }
    driver.kick(0);
    wait_until("all of them", || stall.waiting() == 8);
    stall.open();
    for _ in 0..8 {
        driver.wait(0);
    }
    for slot in 0..8 {
        check(&driver, &disk, slot, sector(300 + u64::from(slot)), 4096);
    }
}

#[test]
fn row_that_hangs_is_put_back_and_taken_anew() {
    for inflight in [false, true] {
        let (device, disk, stall) = stalling();
        let (mut driver, _served) = driver(&device, u64::MAX, inflight);
        begin_row(&mut driver, &disk);
        let before = u16::try_from(FIRST).unwrap();
        stall.close();
        let sectors = go_on(&mut driver);
        wait_until("the first of the row", || stall.waiting() == 1);
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        assert_eq!(driver.stop_ring(0), before);
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        for slot in 0..TOGETHER {
            assert_eq!(status(&driver, slot), 0xEE);
        }
        stall.open();
        wait_until("the late read", || device.stuck_reads().count() == 0);
        driver.rings[0].kick = eventfd();
        driver.rings[0].next_avail = before;
        driver.start_ring(0);
        driver.rings[0].next_avail = before + TOGETHER;
        for _ in 0..TOGETHER {
            driver.wait(0);
        }
        for (slot, sector) in (0..).zip(sectors) {
            check(&driver, &disk, slot, sector, LEN);
        }
    }
}

#[test]
fn fault_in_a_row_hits_one_read() {
    for after in 0..12 {
        let mut armed = None;
        let (device, disk) = device_behind(|blob| {
            let faulty = Arc::new(FaultyBlob::new(blob, Fault::Io, u64::MAX));
            armed = Some(Arc::clone(&faulty));
            faulty
        });
        let (mut driver, _served) = driver(&device, !IN_ORDER, true);
        begin_row(&mut driver, &disk);
        armed.unwrap().arm(after);
        let sectors = go_on(&mut driver);
        for _ in 0..TOGETHER {
            driver.wait(0);
        }
        let mut failed = Vec::new();
        for (slot, sector) in (0..).zip(sectors) {
            if status(&driver, slot) == OK {
                check(&driver, &disk, slot, sector, LEN);
            } else {
                assert_eq!(status(&driver, slot), IOERR);
                failed.push(slot);
            }
        }
        // A read of the row is fetched in four pieces.
        assert_eq!(failed, [u16::try_from(after / 4).unwrap()], "{after}");
    }
}

/// A disk that takes its time, and how many reads of it are under way: now, and at most so far.
struct Late {
    blob: MemoryBlob,
    under_way: Arc<[AtomicUsize; 2]>,
}

impl ReadAt for Late {
    fn len_bytes(&self) -> u64 {
        self.blob.len_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let [now, most] = &*self.under_way;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        now.fetch_sub(1, Ordering::SeqCst);
        self.blob.read_exact_at(buf, offset)
    }
}

#[test]
fn disk_that_is_late_is_asked_for_all_of_a_row() {
    let under_way = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let (device, disk) = device_behind(|blob| Late {
        blob,
        under_way: Arc::clone(&under_way),
    });
    let (mut driver, _served) = driver(&device, !IN_ORDER, true);
    begin_row(&mut driver, &disk);
    assert_eq!(under_way[1].load(Ordering::SeqCst), 1);
    let sectors = go_on(&mut driver);
    for _ in 0..TOGETHER {
        driver.wait(0);
    }
    for (slot, sector) in (0..).zip(sectors) {
        check(&driver, &disk, slot, sector, LEN);
    }
    assert_eq!(under_way[1].load(Ordering::SeqCst), usize::from(TOGETHER));
}

#[test]
fn every_byte_of_a_row_is_right_whoever_waits_for_the_disk() {
    for waiter in [Waiter::Kernel, Waiter::Threads] {
        let cold = Cold::new(waiter);
        for features in [!IN_ORDER, u64::MAX] {
            let (mut driver, _served) = driver(&cold.device, features, true);
            let mut dice = noise(1 << 16, 3).into_iter();
            for len in [512_u32, 4096, 65_536, 0x3_0000] {
                cold.drop_caches();
                let sectors = u64::from(len / 512);
                let last = DISK_SECTORS as u64 - sectors;
                let mut row = (0..last).step_by(usize::try_from(sectors).unwrap());
                // Of the shortest, the disk has too many.
                let rounds = if len == 512 { 250 } else { usize::MAX };
                for round in 0..rounds {
                    let mut asked: Vec<u64> = row.by_ref().take(usize::from(TOGETHER)).collect();
                    if asked.is_empty() {
                        break;
                    }
                    // Now and then somebody else reads, or the memory is needed for something else.
                    if round % 7 == 5 {
                        asked[0] = last * u64::from(dice.next().unwrap()) / 256;
                    }
                    if round % 11 == 10 {
                        cold.drop_caches();
                    }
                    for (slot, sector) in (0..).zip(&asked) {
                        ask(&mut driver, slot, 0, *sector, len);
                    }
                    driver.kick(0);
                    for _ in &asked {
                        assert_eq!(driver.wait(0).used_len, len + 1);
                    }
                    for (slot, sector) in (0..).zip(&asked) {
                        check(&driver, &cold.disk, slot, *sector, len);
                    }
                }
            }
        }
    }
}

/// A source of which only a beginning is at hand, and what had to be waited for.
struct Partly {
    blob: MemoryBlob,
    at_hand_bytes: u64,
    waited_from: Arc<AtomicUsize>,
}

impl ReadAt for Partly {
    fn len_bytes(&self) -> u64 {
        self.blob.len_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let from = usize::try_from(offset).unwrap();
        self.waited_from.fetch_min(from, Ordering::SeqCst);
        self.blob.read_exact_at(buf, offset)
    }

    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> usize {
        let left = self.at_hand_bytes.saturating_sub(offset);
        let len = buf.len().min(usize::try_from(left).unwrap());
        let read = self.blob.read_exact_at(&mut buf[..len], offset);
        read.map_or(0, |()| len)
    }
}

#[test]
fn what_is_at_hand_of_compressed_blocks_is_not_fetched() {
    const BLOCK_BYTES: u32 = 4096;
    let mut disk = vec![0; DISK_SECTORS * 512];
    let bytes = layer(&mut disk, &[(0, DISK_SECTORS, Some(1))]);
    let stored = compress(&bytes, zfile::Algorithm::Lz4, BLOCK_BYTES);
    // Nothing, something that is of no use, and all but the end.
    let mut first_wait = None;
    for at_hand_bytes in [0, 1000, 30_000, 31_500, 60_000, 100_000] {
        let waited_from = Arc::new(AtomicUsize::new(usize::MAX));
        let partly = Partly {
            blob: MemoryBlob::new(stored.clone()),
            at_hand_bytes,
            waited_from: Arc::clone(&waited_from),
        };
        let blobs: Vec<(PathBuf, Box<dyn ReadAt>)> =
            vec![(PathBuf::from("partly"), Box::new(partly))];
        let device = device_with(blobs);
        waited_from.store(usize::MAX, Ordering::SeqCst);
        let (mut driver, _served) = driver(&device, !IN_ORDER, true);
        ask(&mut driver, 0, 0, 3, 0x3_0000);
        driver.kick(0);
        driver.wait(0);
        check(&driver, &disk, 0, 3, 0x3_0000);
        let from = waited_from.load(Ordering::SeqCst) as u64;
        let start = *first_wait.get_or_insert(from);
        // Blocks of noise are stored as they are, with a few bytes more.
        let at_best = start.max(at_hand_bytes.saturating_sub(u64::from(BLOCK_BYTES) + 8));
        assert!(
            (at_best..=start.max(at_hand_bytes)).contains(&from),
            "{at_hand_bytes} at hand: {from}"
        );
    }
}
