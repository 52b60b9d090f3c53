//! Requests that have places of their own, so that many can be under way, and a disk that hangs when it is told to.

use std::path::PathBuf;
use std::sync::Arc;

use blob::test_util::{Stall, StallingBlob};
use blob::{MemoryBlob, ReadAt};
use vhost_backend::device::Device;

use crate::support::driver::{Driver, OK, WRITE};
use crate::support::guest::BUFFERS;
use crate::support::image::{device_with, layer};
use crate::support::{Served, serve};

/// Each request has an area of guest memory and three descriptors.
const AREA: u64 = 0x4_0000;
const DATA: u64 = 0x1000;
const STATUS: u64 = 0x100;
/// Length of the disks here.
pub(crate) const DISK_SECTORS: usize = 16_384;

/// Makes request number `slot` available.
pub(crate) fn ask(driver: &mut Driver, slot: u16, kind: u32, sector: u64, len: u32) {
    let head = describe(driver, slot, kind, sector, len);
    driver.offer(0, head);
}

/// Writes request number `slot` to its descriptors, and returns the first of them.
pub(crate) fn describe(driver: &mut Driver, slot: u16, kind: u32, sector: u64, len: u32) -> u16 {
    let area = BUFFERS + AREA * u64::from(slot);
    driver.header(area, kind, sector);
    driver.fill(area + DATA, len as usize, 0xEE);
    driver.fill(area + STATUS, 1, 0xEE);
    let pieces = [
        (area, 16, 0),
        (area + DATA, len, WRITE),
        (area + STATUS, 1, WRITE),
    ];
    driver.chain(0, 3 * slot, &pieces);
    3 * slot
}

/// What the status byte of request number `slot` says.
pub(crate) fn status(driver: &Driver, slot: u16) -> u8 {
    driver.bytes(BUFFERS + AREA * u64::from(slot) + STATUS, 1)[0]
}

/// Request number `slot` has read these bytes of the disk.
pub(crate) fn check(driver: &Driver, disk: &[u8], slot: u16, sector: u64, len: u32) {
    assert_eq!(status(driver, slot), OK);
    let data = driver.bytes(BUFFERS + AREA * u64::from(slot) + DATA, len as usize);
    let start = usize::try_from(sector).unwrap() * 512;
    assert!(data == disk[start..start + data.len()], "sector {sector}");
}

/// A device of one plain layer that is read through `source`, and the content of its disk.
pub(crate) fn device_behind<S: ReadAt + 'static>(
    source: impl FnOnce(MemoryBlob) -> S,
) -> (Arc<Device>, Vec<u8>) {
    let mut disk = vec![0; DISK_SECTORS * 512];
    let bytes = layer(&mut disk, &[(0, DISK_SECTORS, Some(1))]);
    let blob: Box<dyn ReadAt> = Box::new(source(MemoryBlob::new(bytes)));
    (device_with(vec![(PathBuf::from("memory"), blob)]), disk)
}

/// The same behind a stall.
pub(crate) fn stalling() -> (Arc<Device>, Vec<u8>, Arc<Stall>) {
    let stall = Arc::new(Stall::default());
    let (device, disk) = device_behind(|blob| StallingBlob::new(blob, Arc::clone(&stall)));
    (device, disk, stall)
}

/// A driver with one ring, with or without a map of requests in flight.
pub(crate) fn driver(device: &Arc<Device>, features: u64, inflight: bool) -> (Driver, Served) {
    let (stream, served) = serve(device);
    let mut driver = Driver::negotiate(stream, features, u64::MAX);
    if inflight {
        driver.inflight = Some(driver.client.get_inflight(1, 128));
    }
    driver.add_ring(0, 128);
    (driver, served)
}
