//! Reads of layers that fail: every one of a boot, in every way, and two at a time (F-07, F-08).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blob::test_util::{Fault, FaultyBlob, Stall, StallingBlob, noise};
use blob::{MemoryBlob, ReadAt};
use image::{Image, Reader};
use vhost_backend::device::Device;

use crate::house::wait_until;
use crate::support::driver::{Driver, WRITE, eventfd};
use crate::support::guest::BUFFERS;
use crate::support::image::{device_with, layers};
use crate::support::serve;
use crate::trace::{Tally, boot, run};
use crate::{seed, setting};

type Faulty = Arc<FaultyBlob<MemoryBlob>>;

/// Later than any read of a test.
const NEVER: u64 = u64::MAX / 2;

const FAULTS: [Fault; 4] = [Fault::Io, Fault::Interrupted, Fault::Short, Fault::BitFlip];

/// A device whose layers fail as they are told.
fn device(fault: Fault) -> (Arc<Device>, Vec<Faulty>, Vec<u8>) {
    let (blobs, disk) = layers();
    let faulty = |bytes| Arc::new(FaultyBlob::new(MemoryBlob::new(bytes), fault, u64::MAX));
    let sources: Vec<Faulty> = blobs.into_iter().map(faulty).collect();
    let blobs = sources.iter().enumerate().map(|(ordinal, source)| {
        let name = PathBuf::from(format!("memory-{ordinal}"));
        (name, Box::new(Arc::clone(source)) as Box<dyn ReadAt>)
    });
    (device_with(blobs.collect()), sources, disk)
}

/// Nothing protects a layer that is not in a ZFile, so a flipped bit in it is a wrong byte whatever is done.
fn is_checked(ordinal: usize, fault: Fault) -> bool {
    fault != Fault::BitFlip || ordinal > 0
}

#[test]
fn every_read_of_a_boot_fails_once_in_every_way() {
    let reads = boot();
    let mut trials = 0;
    for fault in FAULTS {
        let (device, sources, disk) = device(fault);
        let (stream, _served) = serve(&device);
        let mut driver = Driver::start(stream, 1);
        let before: Vec<u64> = sources.iter().map(|source| source.reads()).collect();
        let sound = Tally {
            right: reads.len(),
            failed: 0,
        };
        assert_eq!(run(&mut driver, &disk, &reads), sound);
        let counts = sources.iter().zip(before);
        let counts: Vec<u64> = counts
            .map(|(source, before)| source.reads() - before)
            .collect();
        for (ordinal, source) in sources.iter().enumerate() {
            assert!(counts[ordinal] > 0, "layer {ordinal} is never read");
            if !is_checked(ordinal, fault) {
                continue;
            }
            for number in 0..counts[ordinal] {
                source.arm(number);
                let tally = run(&mut driver, &disk, &reads);
                assert_eq!(tally.failed, 1, "{fault:?}, layer {ordinal}, read {number}");
                trials += 1;
            }
            // The fault is gone, and so is what it did.
            assert_eq!(run(&mut driver, &disk, &reads), sound);
        }
    }
    println!("{trials} boots with one fault each");
    assert!(trials > 100);
}

/// A device whose layers all hang behind one stall.
fn stalling() -> (Arc<Device>, Arc<Stall>, Vec<u8>) {
    let (blobs, disk) = layers();
    let stall = Arc::new(Stall::default());
    let blobs = blobs.into_iter().map(|bytes| {
        let blob = StallingBlob::new(MemoryBlob::new(bytes), Arc::clone(&stall));
        (PathBuf::from("stalling"), Box::new(blob) as Box<dyn ReadAt>)
    });
    (device_with(blobs.collect()), stall, disk)
}

#[test]
fn every_read_of_a_boot_stalls_once_and_is_right_all_the_same() {
    let (device, stall, disk) = stalling();
    let (stream, _served) = serve(&device);
    let mut driver = Driver::start(stream, 1);
    let reads = boot();
    let mut stalls = 0;
    loop {
        stall.close_after(stalls);
        let over = std::thread::scope(|scope| {
            let boot = scope.spawn(|| run(&mut driver, &disk, &reads));
            // Either a read hangs, or the boot has fewer reads than this.
            while stall.waiting() == 0 && !boot.is_finished() {
                std::thread::yield_now();
            }
            let over = boot.is_finished();
            stall.open();
            assert_eq!(boot.join().unwrap().failed, 0);
            over
        });
        if over {
            break;
        }
        stalls += 1;
    }
    println!("{stalls} boots with one stall each");
    assert!(stalls > 30);
}

/// A few of them, for each takes half a second by design.
#[test]
fn ring_stops_in_time_at_whatever_read_the_disk_hangs() {
    let (device, stall, disk) = stalling();
    for number in (0..12).step_by(3) {
        let (stream, _served) = serve(&device);
        let mut driver = Driver::start(stream, 1);
        stall.close_after(number);
        for (head, (sector, sectors)) in (0_u16..).zip(boot()).map(|(n, read)| (n * 3, read)) {
            let area = BUFFERS + 0x4_0000 * u64::from(head / 3);
            driver.header(area, 0, sector);
            let pieces = [
                (area, 16, 0),
                (area + 0x1000, sectors * 512, WRITE),
                (area + 0x100, 1, WRITE),
            ];
            driver.chain(0, head, &pieces);
            driver.offer(0, head);
        }
        driver.kick(0);
        wait_until("the disk to hang", || stall.waiting() > 0);
        let start = Instant::now();
        let position = driver.stop_ring(0);
        assert!(start.elapsed() < Duration::from_secs(1), "{number}");
        assert_eq!(position, driver.used_index(0), "nothing is half done");
        stall.open();
        driver.rings[0].kick = eventfd();
        let offered = std::mem::replace(&mut driver.rings[0].next_avail, position);
        driver.start_ring(0);
        driver.rings[0].next_avail = offered;
        for (number, (sector, sectors)) in boot().into_iter().enumerate() {
            assert_eq!(driver.wait(0).used_len, sectors * 512 + 1);
            let data = BUFFERS + 0x4_0000 * number as u64 + 0x1000;
            let start = usize::try_from(sector).unwrap() * 512;
            let data = driver.bytes(data, sectors as usize * 512);
            assert!(data == disk[start..start + data.len()], "read {number}");
        }
    }
}

#[test]
fn two_faults_at_once_are_two_errors_at_most() {
    let (seed, seeds) = (seed(), setting("VBD_FAULT_SEEDS", 500));
    let reads = boot();
    for (number, fault) in [Fault::Io, Fault::Short].into_iter().enumerate() {
        let (device, sources, disk) = device(fault);
        let (stream, _served) = serve(&device);
        let mut driver = Driver::start(stream, 1);
        let choices = noise(4 * usize::try_from(seeds).unwrap(), seed + number as u64);
        for choice in choices.chunks_exact(4) {
            let [first, at, second, then] = choice.try_into().unwrap();
            sources.iter().for_each(|source| source.arm(NEVER));
            let other = usize::from(first) + 1 + usize::from(second) % 2;
            sources[usize::from(first) % 3].arm(u64::from(at) % 60);
            sources[other % 3].arm(u64::from(then) % 60);
            let tally = run(&mut driver, &disk, &reads);
            assert!(tally.failed <= 2, "{choice:?}: {tally:?}");
        }
        sources.iter().for_each(|source| source.arm(NEVER));
        assert_eq!(run(&mut driver, &disk, &reads).failed, 0);
    }
    println!("{} boots with two faults each", 2 * seeds);
}

#[test]
fn bit_that_flips_in_a_verified_layer_is_never_a_wrong_byte() {
    let (seed, flips) = (seed(), setting("VBD_FLIPS", 1000));
    let (blobs, disk) = layers();
    let mut outcomes = [0_u64; 3];
    for flip in 0..flips {
        let dice = noise(16, seed.wrapping_add(flip));
        let number = |at: usize| u64::from_le_bytes(dice[at..at + 8].try_into().unwrap());
        // The base is plain and has no checksums.
        let ordinal = 1 + usize::from(dice[15] & 1);
        let mut damaged = blobs.clone();
        let bit = number(0) % (8 * damaged[ordinal].len() as u64);
        damaged[ordinal][usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
        let named = damaged.into_iter().map(|bytes| {
            let blob: Box<dyn ReadAt> = Box::new(MemoryBlob::new(bytes));
            (PathBuf::from("layer"), blob)
        });
        let Ok(image) = Image::from_blobs(named.collect()) else {
            outcomes[0] += 1;
            continue;
        };
        let mut reader = Reader::new(Arc::new(image));
        let mut failed = false;
        for (at, expected) in (0..).step_by(32_768).zip(disk.chunks(32_768)) {
            let mut piece = vec![0; expected.len()];
            match reader.read_exact_at(&mut piece, at) {
                Ok(()) => assert!(piece == expected, "layer {ordinal}, bit {bit}"),
                Err(_) => failed = true,
            }
        }
        outcomes[if failed { 1 } else { 2 }] += 1;
    }
    println!("{flips} flips: refused, error, harmless: {outcomes:?}");
}
