//! Promise: a disk that does not answer holds up nobody but the guest that asked: a ring stops, a session ends and
//! another begins within a second; what was under way is taken anew and not lost; and whenever the late read comes
//! back, it touches nobody's memory any more.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blob::test_util::{Stall, StallingBlob};
use blob::{MemoryBlob, ReadAt};
use vhost_backend::device::Device;
use vhost_backend::limits::MAX_STUCK_READS;
use vhost_backend::session::End;

use crate::daemon::wait_until;
use crate::support::driver::{Driver, WRITE, eventfd, readable};
use crate::support::guest::BUFFERS;
use crate::support::image::{device_with, layers};
use crate::support::serve;

/// What is promised with a disk that hangs.
const BOUND: Duration = Duration::from_secs(1);
const SECTOR: u64 = 50;
/// Apart from what other requests use.
const HEADER: u64 = BUFFERS + 0x10_0000;
const STATUS: u64 = HEADER + 0x100;
const DATA: u64 = HEADER + 0x1000;

fn stalling() -> (Arc<Device>, Vec<u8>, Arc<Stall>) {
    let (blobs, disk) = layers();
    let stall = Arc::new(Stall::default());
    let blobs = blobs.into_iter().enumerate().map(|(ordinal, bytes)| {
        let blob = StallingBlob::new(MemoryBlob::new(bytes), Arc::clone(&stall));
        let name = PathBuf::from(format!("memory-{ordinal}"));
        (name, Box::new(blob) as Box<dyn ReadAt>)
    });
    (device_with(blobs.collect()), disk, stall)
}

/// Asks for a read that will hang, and waits until it does.
fn hang(driver: &mut Driver, stall: &Stall) {
    let waiting = stall.waiting();
    stall.close();
    driver.header(HEADER, 0, SECTOR);
    driver.fill(DATA, 4096, 0xEE);
    let pieces = [(HEADER, 16, 0), (DATA, 4096, WRITE), (STATUS, 1, WRITE)];
    driver.chain(0, 0, &pieces);
    driver.offer(0, 0);
    driver.kick(0);
    wait_until("a read that hangs", || stall.waiting() == waiting + 1);
}

fn expected(disk: &[u8]) -> &[u8] {
    let start = usize::try_from(SECTOR).unwrap() * 512;
    &disk[start..start + 4096]
}

#[test]
fn ring_stops_in_time_and_its_request_is_taken_anew() {
    for inflight in [false, true] {
        let (device, disk, stall) = stalling();
        let (stream, _served) = serve(&device);
        let mut driver = Driver::negotiate(stream, u64::MAX, u64::MAX);
        if inflight {
            driver.client.get_inflight(1, 128);
        }
        driver.add_ring(0, 128);
        driver.read(0, 0, 512);
        hang(&mut driver, &stall);
        let start = Instant::now();
        let position = driver.stop_ring(0);
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
        assert_eq!(position, 1, "the request was not served");
        let before = driver.snapshot();
        stall.open();
        wait_until("the late read to come back", || {
            device.stuck_reads().count() == 0
        });
        assert!(driver.snapshot() == before, "a stopped ring was touched");
        // Started again, it is served.
        driver.rings[0].kick = eventfd();
        let next_avail = std::mem::replace(&mut driver.rings[0].next_avail, position);
        driver.start_ring(0);
        driver.rings[0].next_avail = next_avail;
        assert_eq!(driver.wait(0).used_len, 4097);
        assert!(driver.bytes(DATA, 4096) == expected(&disk));
        driver.read(0, 7, 512);
    }
}

#[test]
fn other_rings_go_on_and_memory_can_be_replaced() {
    let (device, disk, stall) = stalling();
    let (stream, _served) = serve(&device);
    let mut driver = Driver::start(stream, 2);
    hang(&mut driver, &stall);
    // The serial needs no disk.
    assert_eq!(driver.request(1, 8, 0, 20, WRITE).0, 0);
    let start = Instant::now();
    driver.hand_over_table(0);
    driver.client.vring_base(1);
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    stall.open();
    // Ring 0 was started again with the new table and had to ask once more.
    assert_eq!(driver.wait(0).used_len, 4097);
    assert!(driver.bytes(DATA, 4096) == expected(&disk));
}

#[test]
fn session_ends_in_time_and_the_next_one_is_served() {
    let (device, disk, stall) = stalling();
    for _ in 0..3 {
        let (stream, served) = serve(&device);
        let mut driver = Driver::start(stream, 4);
        hang(&mut driver, &stall);
        let start = Instant::now();
        drop(driver);
        assert_eq!(served.end(), End::Disconnected);
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    }
    assert_eq!(device.stuck_reads().count(), 3);
    stall.open();
    wait_until("the late reads to come back", || {
        device.stuck_reads().count() == 0
    });
    let (stream, _served) = serve(&device);
    let mut driver = Driver::start(stream, 1);
    assert!(driver.read(0, SECTOR, 4096) == expected(&disk));
}

#[test]
fn shutdown_does_not_wait_for_the_disk() {
    let (device, _disk, stall) = stalling();
    let (stream, served) = serve(&device);
    let mut driver = Driver::start(stream, 1);
    hang(&mut driver, &stall);
    let start = Instant::now();
    served.shutdown.trigger();
    assert_eq!(served.end(), End::Shutdown);
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    stall.open();
}

#[test]
fn threads_that_hang_are_limited_and_rings_start_again_when_the_disk_is_back() {
    let (device, disk, stall) = stalling();
    let (stream, _served) = serve(&device);
    let mut driver = Driver::start(stream, 1);
    hang(&mut driver, &stall);
    let mut started = 1;
    while !readable(&driver.rings[0].error, Duration::ZERO) {
        assert!(started <= MAX_STUCK_READS, "{started}");
        let position = driver.stop_ring(0);
        driver.rings[0].kick = eventfd();
        driver.rings[0].next_avail = position;
        let waiting = stall.waiting();
        driver.start_ring(0);
        driver.rings[0].next_avail = position + 1;
        wait_until("the ring to hang again, or to be refused", || {
            stall.waiting() > waiting || readable(&driver.rings[0].error, Duration::ZERO)
        });
        started += 1;
    }
    assert_eq!(device.stuck_reads().count(), MAX_STUCK_READS);
    stall.open();
    wait_until("the late reads to come back", || {
        device.stuck_reads().count() == 0
    });
    let position = driver.stop_ring(0);
    driver.rings[0].kick = eventfd();
    driver.rings[0].next_avail = position;
    driver.start_ring(0);
    driver.rings[0].next_avail = position + 1;
    driver.wait(0);
    assert!(driver.bytes(DATA, 4096) == expected(&disk));
}
