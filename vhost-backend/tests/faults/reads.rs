//! Reads of layers that fail: every one of a boot, in every way, and two at a time (F-07, F-08).

use std::path::PathBuf;
use std::sync::Arc;

use blob::test_util::{Fault, FaultyBlob, noise};
use blob::{MemoryBlob, ReadAt};
use image::{Image, Reader};
use vhost_backend::device::Device;

use crate::support::driver::Driver;
use crate::support::image::{device_with, layers};
use crate::support::serve;
use crate::trace::{Tally, boot, run};
use crate::{seed, setting};

type Faulty = Arc<FaultyBlob<MemoryBlob>>;

/// Later than any read of a test.
const NEVER: u64 = u64::MAX / 2;

const FAULTS: [Fault; 3] = [Fault::Io, Fault::Short, Fault::BitFlip];

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
