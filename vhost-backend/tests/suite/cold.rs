//! Promise: a read that has to wait for the disk holds up no other; what the guest asks for at once is asked of the disk
//! at once; who asks for the same bytes shares them; and whoever waits, the kernel or a thread, every byte is right.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blob::test_util::{Fault, FaultyBlob, noise};
use blob::{FileBlob, MemoryBlob, ReadAt, ReadError};
use image::Image;
use rustix::fs::{Advice, fadvise};
use vhost_backend::device::Device;
use vhost_backend::engine::Waiter;
use vhost_backend::limits::DeviceLimits;

use crate::daemon::wait_until;
use crate::support::driver::{Driver, IN_ORDER, IOERR, LOG_ALL, OK, eventfd};
use crate::support::image::{compress, device_with, layer};
use crate::support::slots::{DISK_SECTORS, ask, check, describe, driver, stalling, status};

const SERIAL: u32 = 8;

#[test]
fn what_is_asked_for_at_once_is_under_way_at_once() {
    let (device, disk, stall) = stalling();
    let (mut driver, _served) = driver(&device, u64::MAX, false);
    stall.close();
    for slot in 0..32 {
        ask(&mut driver, slot, 0, 500 * u64::from(slot), 4096);
    }
    driver.kick(0);
    wait_until("all reads to be under way", || stall.waiting() == 32);
    assert_eq!(driver.used_index(0), 0);
    stall.open();
    for slot in 0..32 {
        assert_eq!(driver.wait(0).used_len, 4097);
        check(&driver, &disk, slot, 500 * u64::from(slot), 4096);
    }
}

#[test]
fn neighbours_share_a_fetch_and_so_do_those_that_come_later() {
    let (device, disk, stall) = stalling();
    let (mut driver, _served) = driver(&device, u64::MAX, false);
    stall.close();
    let mut heads = Vec::new();
    for slot in 0..8 {
        let sector = 100 + 8 * u64::from(slot);
        heads.push(describe(&mut driver, slot, 0, sector, 4096));
    }
    driver.offer_together(0, &heads);
    driver.kick(0);
    wait_until("the read", || stall.waiting() > 0);
    let before = stall.waiting();
    for slot in 8..16 {
        ask(&mut driver, slot, 0, 100, 512);
    }
    // Answered at once where it can be, so when it is there, all before it were looked at.
    driver.kick(0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(before <= 2 && stall.waiting() == before, "{before}");
    stall.open();
    for slot in 0..16 {
        driver.wait(0);
        let (sector, len) = if slot < 8 {
            (100 + 8 * u64::from(slot), 4096)
        } else {
            (100, 512)
        };
        check(&driver, &disk, slot, sector, len);
    }
}

/// A driver that asks on and on without an answer, with descriptors that are in use, gets no more of our memory than an
/// honest one.
#[test]
fn no_more_is_taken_than_a_ring_can_ask_for() {
    for inflight in [false, true] {
        let (device, disk, stall) = stalling();
        let (mut driver, _served) = driver(&device, !IN_ORDER, inflight);
        stall.close();
        ask(&mut driver, 0, 0, 50, 4096);
        ask(&mut driver, 1, SERIAL, 0, 20);
        (2..128).for_each(|_| driver.offer(0, 0));
        driver.kick(0);
        wait_until("the read to hang", || stall.waiting() == 1);
        // In time the ring has taken all of them, and may be offered as many again.
        std::thread::sleep(Duration::from_millis(50));
        (0..128).for_each(|_| driver.offer(0, 0));
        driver.kick(0);
        std::thread::sleep(Duration::from_millis(50));
        // With a map, the serial is answered, and one more can be taken.
        let answered = driver.used_index(0);
        assert_eq!(answered, u16::from(inflight));
        stall.open();
        wait_until("all answers", || driver.used_index(0) == 256);
        check(&driver, &disk, 0, 50, 4096);
        assert!(!crate::support::driver::readable(
            &driver.rings[0].error,
            Duration::ZERO
        ));
    }
}

#[test]
fn fault_hits_only_whom_it_concerns() {
    let mut disk = vec![0; DISK_SECTORS * 512];
    let bytes = layer(&mut disk, &[(0, DISK_SECTORS, Some(1))]);
    let bytes = compress(&bytes, zfile::Algorithm::Lz4, 4096);
    let faulty = Arc::new(FaultyBlob::new(MemoryBlob::new(bytes), Fault::Io, u64::MAX));
    let blob: Box<dyn ReadAt> = Box::new(Arc::clone(&faulty));
    let device = device_with(vec![(PathBuf::from("faulty"), blob)]);
    let (mut driver, _served) = driver(&device, u64::MAX, false);
    // The shared fetch fails, then each is tried alone, and the fault is gone.
    faulty.arm(0);
    for slot in 0..8 {
        ask(&mut driver, slot, 0, 8 * u64::from(slot), 4096);
    }
    driver.kick(0);
    let mut failed = 0;
    for slot in 0..8 {
        driver.wait(0);
        if status(&driver, slot) == IOERR {
            failed += 1;
        } else {
            check(&driver, &disk, slot, 8 * u64::from(slot), 4096);
        }
    }
    // The first may have been fetched before the others were offered.
    assert!(failed <= 1, "{failed}");
}

#[test]
fn slow_read_is_overtaken_only_where_the_order_is_not_needed() {
    for (features, inflight, overtaken) in [
        (!IN_ORDER, true, true),
        (u64::MAX, true, false),
        (!IN_ORDER, false, false),
    ] {
        let (device, disk, stall) = stalling();
        let (mut driver, _served) = driver(&device, features, inflight);
        stall.close();
        ask(&mut driver, 0, 0, 50, 4096);
        ask(&mut driver, 1, SERIAL, 0, 20);
        driver.kick(0);
        wait_until("the read to hang", || stall.waiting() == 1);
        if overtaken {
            assert_eq!(driver.wait(0).head, 3);
            assert_eq!(status(&driver, 0), 0xEE);
        } else {
            let early = driver.wait_for(0, Duration::from_millis(100));
            assert!(early.is_none(), "{features:x} {inflight}");
        }
        stall.open();
        assert_eq!(driver.wait(0).head, 0);
        if !overtaken {
            assert_eq!(driver.wait(0).head, 3);
        }
        check(&driver, &disk, 0, 50, 4096);
        assert_eq!(status(&driver, 1), OK);
    }
}

#[test]
fn overtaken_read_that_hangs_when_the_ring_stops_is_found_in_the_map() {
    let (device, disk, stall) = stalling();
    let (mut driver, _served) = driver(&device, !IN_ORDER, true);
    stall.close();
    ask(&mut driver, 0, 0, 50, 4096);
    ask(&mut driver, 1, SERIAL, 0, 20);
    ask(&mut driver, 2, 0, 900, 512);
    driver.kick(0);
    assert_eq!(driver.wait(0).head, 3);
    wait_until("both reads to hang", || stall.waiting() == 2);
    let begun = Instant::now();
    // The first cannot be put back, for a younger one was answered; the last can.
    assert_eq!(driver.stop_ring(0), 2);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(status(&driver, 0), 0xEE, "nobody was told anything");
    let before = driver.snapshot();
    stall.open();
    wait_until("the late reads", || device.stuck_reads().count() == 0);
    assert!(driver.snapshot() == before, "a stopped ring was touched");
    driver.rings[0].kick = eventfd();
    driver.rings[0].next_avail = 2;
    driver.start_ring(0);
    driver.rings[0].next_avail = 3;
    let mut heads = [driver.wait(0).head, driver.wait(0).head];
    heads.sort_unstable();
    assert_eq!(heads, [0, 6]);
    check(&driver, &disk, 0, 50, 4096);
    check(&driver, &disk, 2, 900, 512);
}

#[test]
fn overtaken_read_that_hangs_when_the_guest_moves_away_fails() {
    let (device, _disk, stall) = stalling();
    let (mut driver, _served) = driver(&device, !IN_ORDER, true);
    let log = Driver::log_file();
    let len = log.metadata().unwrap().len();
    driver.client.set_log(&log, 0, len);
    let logged = driver.features | LOG_ALL;
    driver
        .client
        .tell_u64(crate::support::client::SET_FEATURES, logged);
    stall.close();
    ask(&mut driver, 0, 0, 50, 4096);
    ask(&mut driver, 1, SERIAL, 0, 20);
    driver.kick(0);
    assert_eq!(driver.wait(0).head, 3);
    // The other machine has no map: a request nobody speaks of would never be answered.
    assert_eq!(driver.stop_ring(0), 2);
    assert_eq!(driver.wait(0).head, 0);
    assert_eq!(status(&driver, 0), IOERR);
    stall.open();
}

/// A device of files, which can be dropped from the page cache, and the content of its disk.
pub(crate) struct Cold {
    dir: tempfile::TempDir,
    files: Vec<File>,
    pub(crate) device: Arc<Device>,
    pub(crate) disk: Vec<u8>,
}

impl Cold {
    pub(crate) fn new(waiter: Waiter) -> Self {
        let mut disk = vec![0; DISK_SECTORS * 512];
        let base = layer(&mut disk, &[(0, 12_000, Some(1)), (13_000, 3000, Some(2))]);
        let pieces: Vec<_> = (0..40).map(|n| (n * 300, 77, Some(n + 3))).collect();
        let middle = layer(&mut disk, &pieces);
        let pieces: Vec<_> = (0..20).map(|n| (n * 700 + 33, 160, Some(n + 50))).collect();
        let top = layer(&mut disk, &pieces);
        let blobs = [
            base,
            compress(&middle, zfile::Algorithm::Lz4, 4096),
            compress(&top, zfile::Algorithm::Zstd, 65_536),
        ];
        let dir = tempfile::tempdir().unwrap();
        let mut layers: Vec<(PathBuf, Box<dyn ReadAt>)> = Vec::new();
        let mut files = Vec::new();
        for (ordinal, bytes) in blobs.iter().enumerate() {
            let path = dir.path().join(format!("layer-{ordinal}"));
            std::fs::write(&path, bytes).unwrap();
            let file = File::open(&path).unwrap();
            file.sync_all().unwrap();
            files.push(file);
            layers.push((path.clone(), Box::new(FileBlob::open(&path).unwrap())));
        }
        let image = Image::from_blobs(layers).unwrap().with_cache(256 << 10);
        let limits = DeviceLimits {
            waiter,
            ..DeviceLimits::default()
        };
        Self {
            dir,
            files,
            device: Arc::new(Device::new(Arc::new(image), None, limits)),
            disk,
        }
    }

    /// Where the file system keeps nothing else, this makes every read wait.
    pub(crate) fn drop_caches(&self) {
        for file in &self.files {
            fadvise(file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}

#[test]
fn every_byte_is_right_whoever_waits_for_the_disk() {
    for waiter in [Waiter::Kernel, Waiter::Threads] {
        let cold = Cold::new(waiter);
        for (features, inflight) in [(!IN_ORDER, true), (u64::MAX, false)] {
            let (mut driver, _served) = driver(&cold.device, features, inflight);
            let mut dice = noise(1 << 20, 9).into_iter();
            let mut number = |below: u64| {
                let mut next = || u64::from(dice.next().unwrap());
                (next() << 16 | next() << 8 | next()) % below
            };
            for round in 0..60 {
                // Also where reads are missing their bytes no more, as they were a moment ago.
                if !(24..36).contains(&round) {
                    cold.drop_caches();
                }
                let mut asked = Vec::new();
                for slot in 0..32_u16 {
                    // Far apart, side by side, and everything at once.
                    let sectors = 1 + number([8, 400, 40][round % 3]);
                    let sector = match round % 4 {
                        0 => 200 * u64::from(slot),
                        _ => number(DISK_SECTORS as u64 - sectors),
                    };
                    let len = u32::try_from(sectors * 512).unwrap();
                    ask(&mut driver, slot, 0, sector, len);
                    asked.push((sector, len));
                    if slot % 5 == 0 {
                        driver.kick(0);
                    }
                }
                driver.kick(0);
                for _ in &asked {
                    let done = driver.wait(0);
                    let slot = u16::try_from(done.head / 3).unwrap();
                    let (sector, len) = asked[usize::from(slot)];
                    assert_eq!(done.used_len, len + 1);
                    check(&driver, &cold.disk, slot, sector, len);
                }
            }
        }
    }
}

/// A file that counts how often something was looked for in it, and hides what is there below an offset.
struct LookedAt {
    file: FileBlob,
    looks: Arc<AtomicU64>,
    hidden_bytes: Arc<AtomicU64>,
}

impl ReadAt for LookedAt {
    fn len_bytes(&self) -> u64 {
        self.file.len_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.file.read_exact_at(buf, offset)
    }

    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> usize {
        self.looks.fetch_add(1, Ordering::Relaxed);
        if offset < self.hidden_bytes.load(Ordering::Relaxed) {
            return 0;
        }
        self.file.read_ready_at(buf, offset)
    }

    fn file_range(&self) -> Option<(&FileBlob, u64)> {
        Some((&self.file, 0))
    }
}

#[test]
fn reads_in_company_are_asked_for_unseen_while_looking_finds_nothing() {
    const READS: u64 = 480;
    const BLOCKS: u64 = DISK_SECTORS as u64 / 8;
    let mut disk = vec![0; DISK_SECTORS * 512];
    let bytes = layer(&mut disk, &[(0, DISK_SECTORS, Some(1))]);
    let stored = compress(&bytes, zfile::Algorithm::Lz4, 4096);
    let middle = stored.len() as u64 / 2;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), stored).unwrap();
    let looks = Arc::new(AtomicU64::new(0));
    let hidden_bytes = Arc::new(AtomicU64::new(u64::MAX));
    let looked_at = LookedAt {
        file: FileBlob::open(file.path()).unwrap(),
        looks: Arc::clone(&looks),
        hidden_bytes: Arc::clone(&hidden_bytes),
    };
    if !looked_at.file.waits_without_thread() || io_uring::IoUring::new(1).is_err() {
        let place = file.path().display();
        eprintln!("SKIPPED: no io_uring, or none for files such as {place}");
        return;
    }
    let blobs: Vec<(PathBuf, Box<dyn ReadAt>)> =
        vec![(file.path().to_owned(), Box::new(looked_at))];
    let device = device_with(blobs);
    let (mut driver, _served) = driver(&device, !IN_ORDER, true);
    // Of those that are asked for together, the first is in the lower third of the disk, and the others in the upper.
    let mut looks_of_reads = |together: u16| {
        let before = looks.load(Ordering::Relaxed);
        for first in (0..READS).step_by(usize::from(together)) {
            let slots = (0..together).map(|slot| {
                let place = (first + u64::from(slot)) * 389 % (BLOCKS / 3);
                let upper = if slot == 0 { 0 } else { BLOCKS * 2 / 3 };
                (slot, 8 * (place + upper))
            });
            let describe = |(slot, sector)| describe(&mut driver, slot, 0, sector, 4096);
            let heads: Vec<u16> = slots.clone().map(describe).collect();
            driver.offer_together(0, &heads);
            driver.kick(0);
            for _ in &heads {
                assert_eq!(driver.wait(0).used_len, 4097);
            }
            for (slot, sector) in slots {
                check(&driver, &disk, slot, sector, 4096);
            }
        }
        looks.load(Ordering::Relaxed) - before
    };
    let missed = looks_of_reads(8);
    assert!(missed < READS / 4, "{missed} of {READS}");
    assert_eq!(looks_of_reads(1), READS, "alone");
    // All but the first of eight are found from now on, which is noticed in time.
    hidden_bytes.store(middle, Ordering::Relaxed);
    looks_of_reads(8);
    let found = looks_of_reads(8);
    assert!(found > READS * 3 / 4, "{found} of {READS}");
}

#[test]
fn reading_on_and_on_from_cold_files_is_right() {
    for waiter in [Waiter::Kernel, Waiter::Threads] {
        let cold = Cold::new(waiter);
        let (mut driver, _served) = driver(&cold.device, !IN_ORDER, true);
        for len in [4096_u32, 65_536, 0x3_0000] {
            cold.drop_caches();
            let sectors = u64::from(len / 512);
            for sector in
                (0..DISK_SECTORS as u64 - sectors).step_by(usize::try_from(sectors).unwrap())
            {
                ask(&mut driver, 0, 0, sector, len);
                driver.kick(0);
                driver.wait(0);
                check(&driver, &cold.disk, 0, sector, len);
            }
        }
    }
}

#[test]
fn what_was_decoded_ahead_is_there_when_it_is_asked_for() {
    const LEN: u32 = 65_536;
    let sectors = u64::from(LEN / 512);
    // How long the queue's thread needs for it, nobody knows.
    let found = [50, 400, 3000].into_iter().any(|millis| {
        let cold = Cold::new(Waiter::Kernel);
        let (mut driver, _served) = driver(&cold.device, !IN_ORDER, true);
        let mut read = |sector| {
            ask(&mut driver, 0, 0, sector, LEN);
            driver.kick(0);
            driver.wait(0);
            let is_good = status(&driver, 0) == OK;
            if is_good {
                check(&driver, &cold.disk, 0, sector, LEN);
            }
            is_good
        };
        for number in 0..12 {
            assert!(read(number * sectors));
        }
        std::thread::sleep(Duration::from_millis(millis));
        for file in std::fs::read_dir(cold.dir.path()).unwrap() {
            let file = File::options().write(true).open(file.unwrap().path());
            file.unwrap().set_len(0).unwrap();
        }
        let found = read(12 * sectors);
        assert!(!read(50 * sectors), "nothing is left of the files");
        found
    });
    assert!(found);
}

#[test]
fn file_that_shrinks_is_an_error_from_the_cold_as_well() {
    for waiter in [Waiter::Kernel, Waiter::Threads] {
        let cold = Cold::new(waiter);
        let (mut driver, _served) = driver(&cold.device, !IN_ORDER, true);
        let path = cold.dir.path().join("layer-0");
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(4096 + 5095 * 512).unwrap();
        cold.drop_caches();
        for (sector, len, right) in [
            (4_890, 4096, true),
            (6_500, 4096, false),
            (5_094, 2048, false),
            (4_890, 4096, true),
        ] {
            ask(&mut driver, 0, 0, sector, len);
            driver.kick(0);
            driver.wait(0);
            if right {
                check(&driver, &cold.disk, 0, sector, len);
            } else {
                assert_eq!(status(&driver, 0), IOERR, "{waiter:?}: sector {sector}");
            }
        }
    }
}
