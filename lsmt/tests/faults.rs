//! Promise: a read of the source that fails, whichever it is, is an error that says where — never wrong bytes, and
//! the next read works again.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::error::Error;

use blob::test_util::{Fault, FaultyBlob, noise};
use blob::{MemoryBlob, ReadAt, ReadError, ReadErrorKind};
use lsmt::test_util::{Run, sealed_in_place};
use lsmt::{Disk, Layer, LayerReadError, OpenError};

const SECTORS: u64 = 40;

/// Four runs of data each, at places that differ from layer to layer, so that all are needed.
fn stack() -> Vec<Vec<u8>> {
    (0..3_u64)
        .map(|ordinal| {
            let runs: Vec<Run> = (0..4)
                .map(|k| Run {
                    first_sector: 10 * k + 2 * ordinal,
                    len_sectors: 3,
                    data: Some(noise(1536, 100 * ordinal + k)),
                })
                .collect();
            sealed_in_place(&runs, SECTORS * 512, ordinal)
        })
        .collect()
}

fn whole(disk: &impl ReadAt) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0xA5; usize::try_from(SECTORS).unwrap() * 512];
    disk.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn sound_disk() -> Disk<FaultyBlob<MemoryBlob>> {
    let layers = stack().into_iter().map(|bytes| {
        Layer::open(FaultyBlob::new(MemoryBlob::new(bytes), Fault::Io, u64::MAX)).unwrap()
    });
    Disk::new(layers.collect()).unwrap()
}

#[test]
fn every_failing_read_of_open_is_an_error() {
    for bytes in stack() {
        let mut fail_at = 0;
        loop {
            let source = FaultyBlob::new(MemoryBlob::new(bytes.clone()), Fault::Io, fail_at);
            match Layer::open(&source) {
                Ok(_) => break,
                Err(OpenError::Read(error)) => assert_eq!(error.kind(), ReadErrorKind::Io),
                Err(other) => panic!("read {fail_at}: {other}"),
            }
            fail_at += 1;
        }
        assert_eq!(fail_at, 3, "header, trailer and index");
    }
}

#[test]
fn every_failing_read_of_the_disk_is_an_error_that_names_the_layer() {
    let disk = sound_disk();
    let expected = whole(&disk).unwrap();
    for (ordinal, layer) in disk.layers().iter().enumerate() {
        let before = layer.source().reads();
        assert!(whole(&disk).unwrap() == expected);
        let reads = layer.source().reads() - before;
        assert!(reads >= 4, "layer {ordinal} takes part");
        for after in 0..reads {
            layer.source().arm(after);
            let error = whole(&disk).unwrap_err();
            assert_eq!(error.kind(), ReadErrorKind::Io);
            let cause = error
                .source()
                .unwrap()
                .downcast_ref::<LayerReadError>()
                .unwrap();
            assert_eq!(usize::from(cause.ordinal), ordinal);
            assert_eq!(cause.source.offset(), cause.layer_offset);
            // The place on the disk is one that this layer serves.
            let mut extents = Vec::new();
            disk.resolve(error.offset(), 1, &mut extents).unwrap();
            assert!(
                matches!(extents[..], [lsmt::Extent::Data { layer, layer_offset, .. }]
                if layer == cause.ordinal && layer_offset == cause.layer_offset)
            );
            assert!(
                whole(&disk).unwrap() == expected,
                "the next read is not affected"
            );
        }
    }
}

/// A source that forgets its end after it was opened.
struct Shrunk(MemoryBlob, std::sync::atomic::AtomicBool);

impl ReadAt for Shrunk {
    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(ReadError::new(ReadErrorKind::OutOfRange, offset));
        }
        self.0.read_exact_at(buf, offset)
    }
}

#[test]
fn layer_that_ends_too_early_is_no_mistake_of_the_reader() {
    let source = Shrunk(MemoryBlob::new(stack().remove(0)), false.into());
    let disk = Disk::new(vec![Layer::open(&source).unwrap()]).unwrap();
    source.1.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(whole(&disk).unwrap_err().kind(), ReadErrorKind::Io);
}
