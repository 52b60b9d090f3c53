//! Promise: when a layer cannot deliver, the read of exactly the bytes that are lost fails and names the layer; every
//! other read is right, and so is the same read once the layer is sound again.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blob::test_util::{Fault, FaultyBlob};
use blob::{FileBlob, MemoryBlob, ReadAt, ReadErrorKind};
use image::{Image, OpenError, ReadFailure, Reader};
use zfile::ZFile;

use crate::support::{
    LZ4, Packing, Range, Wrapper, ZSTD, Zip, chain, disk_bytes, file, layer, open, read_all,
};

const SECTORS: u64 = 600;
/// How much of the disk one read covers: neither sectors nor blocks.
const PIECE: usize = 10_007;

fn stack() -> [Vec<Range>; 3] {
    [
        vec![Range::data(0, 500, 1)],
        vec![
            Range::data(30, 90, 2),
            Range::zeroed(200, 50),
            Range::data(300, 100, 3),
        ],
        vec![Range::data(100, 40, 4), Range::data(350, 100, 5)],
    ]
}

const PACKINGS: [Packing; 3] = [
    Packing {
        wrapper: Wrapper::Ustar,
        zip: None,
    },
    Packing {
        wrapper: Wrapper::Bare,
        zip: Some(LZ4),
    },
    Packing {
        wrapper: Wrapper::Pax,
        zip: Some(ZSTD),
    },
];

/// The three layers, packed, and what they make.
fn blobs() -> (Vec<Vec<u8>>, Vec<u8>) {
    let layers = stack();
    let packed = layers.iter().zip(PACKINGS);
    let blobs = packed.map(|(ranges, packing)| packing.pack(&layer(ranges, SECTORS)));
    (
        blobs.collect(),
        disk_bytes(&layers.clone().concat(), SECTORS),
    )
}

type Faulty = Arc<FaultyBlob<MemoryBlob>>;

/// The stack, with read `fail_at` of one of its layers spoiled.
fn open_faulty(
    blobs: &[Vec<u8>],
    spoiled: usize,
    fault: Fault,
    fail_at: u64,
) -> (Faulty, Result<Arc<Image>, OpenError>) {
    let sources: Vec<Faulty> = blobs
        .iter()
        .enumerate()
        .map(|(ordinal, bytes)| {
            let fail_at = if ordinal == spoiled {
                fail_at
            } else {
                u64::MAX
            };
            let source = MemoryBlob::new(bytes.clone());
            Arc::new(FaultyBlob::new(source, fault, fail_at))
        })
        .collect();
    let named = sources.iter().enumerate().map(|(ordinal, source)| {
        let source: Box<dyn ReadAt> = Box::new(Arc::clone(source));
        (name(ordinal), source)
    });
    let image = Image::from_blobs(named.collect()).map(Arc::new);
    (Arc::clone(&sources[spoiled]), image)
}

fn name(ordinal: usize) -> PathBuf {
    PathBuf::from(format!("/layers/{ordinal}"))
}

/// Reads the disk piece by piece; every piece is right or its failure is returned. A piece that failed is read again
/// and must be right then.
fn read_with_one_retry(image: &Arc<Image>, expected: &[u8]) -> Vec<ReadFailure> {
    let mut reader = Reader::new(Arc::clone(image));
    let mut failures = Vec::new();
    for (number, expected) in expected.chunks(PIECE).enumerate() {
        let start = (number * PIECE) as u64;
        let mut found = vec![0xA5; expected.len()];
        if let Err(failure) = reader.read_exact_at(&mut found, start) {
            let piece = start..start + expected.len() as u64;
            assert!(piece.contains(&failure.disk_offset), "{failure}");
            failures.push(failure);
            found.fill(0xA5);
            reader.read_exact_at(&mut found, start).unwrap();
        }
        assert!(found == expected, "wrong bytes in the piece at {start}");
    }
    failures
}

#[test]
fn io_error_at_every_read_fails_one_read_and_names_the_layer() {
    let (blobs, expected) = blobs();
    for spoiled in 0..blobs.len() {
        let (source, image) = open_faulty(&blobs, spoiled, Fault::Io, u64::MAX);
        let opening = source.reads();
        assert!(read_with_one_retry(&image.unwrap(), &expected).is_empty());
        let all = source.reads();
        assert!(opening >= 3 && all > opening + 3, "{opening} {all}");
        for n in 0..all {
            let text = match open_faulty(&blobs, spoiled, Fault::Io, n).1 {
                Err(error) => {
                    assert!(n < opening);
                    assert!(
                        matches!(&error, OpenError::Layer { ordinal, path, .. }
                            if *ordinal == spoiled && *path == name(spoiled)),
                        "{error:?}"
                    );
                    chain(&error)
                }
                Ok(image) => {
                    assert!(n >= opening, "layer {spoiled}: read {n} was not needed");
                    let failures = read_with_one_retry(&image, &expected);
                    let [failure] = &failures[..] else {
                        panic!("read {n} of layer {spoiled}: {failures:?}");
                    };
                    assert_eq!(failure.kind(), ReadErrorKind::Io);
                    assert_eq!(failure.layer, Some((spoiled, name(spoiled))));
                    let text = chain(failure);
                    let start = format!("disk byte {}: layer {spoiled} (", failure.disk_offset);
                    assert!(text.starts_with(&start), "{text}");
                    text
                }
            };
            assert!(text.ends_with("injected fault"), "{text}");
        }
    }
}

#[test]
fn flipped_bit_at_every_read_of_a_verified_layer_is_never_a_wrong_byte() {
    let (blobs, expected) = blobs();
    for spoiled in [1, 2] {
        let (source, image) = open_faulty(&blobs, spoiled, Fault::BitFlip, u64::MAX);
        let opening = source.reads();
        assert!(read_with_one_retry(&image.unwrap(), &expected).is_empty());
        for n in 0..source.reads() {
            match open_faulty(&blobs, spoiled, Fault::BitFlip, n).1 {
                Err(error) => {
                    assert!(n < opening);
                    let text = chain(&error);
                    assert!(
                        text.starts_with(&format!("layer {spoiled} (/layers/{spoiled}): ")),
                        "{text}"
                    );
                }
                Ok(image) => {
                    let failures = read_with_one_retry(&image, &expected);
                    if n < opening {
                        // A trailer that is not needed, or the name of the tar member.
                        assert!(failures.is_empty(), "{failures:?}");
                        continue;
                    }
                    assert_eq!(failures.len(), 1, "read {n} of layer {spoiled}");
                    assert_eq!(failures[0].kind(), ReadErrorKind::Corrupt);
                    assert_eq!(failures[0].layer, Some((spoiled, name(spoiled))));
                }
            }
        }
    }
}

/// Reads sector by sector; returns which fail, after checking that all others are right.
fn failing_sectors(reader: &mut Reader, expected: &[u8], kind: ReadErrorKind) -> Vec<u64> {
    let mut failing = Vec::new();
    for (sector, expected) in (0..).zip(expected.chunks(512)) {
        let mut found = [0xA5; 512];
        match reader.read_exact_at(&mut found, sector * 512) {
            Ok(()) => assert!(found == expected, "sector {sector}"),
            Err(failure) => {
                assert_eq!(failure.kind(), kind, "{}", chain(&failure));
                assert_eq!(failure.disk_offset, sector * 512);
                assert_eq!(failure.layer.as_ref().unwrap().0, 0);
                failing.push(sector);
            }
        }
    }
    failing
}

#[test]
fn truncated_file_loses_only_what_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let ranges = [Range::data(0, SECTORS, 6)];
    let expected = disk_bytes(&ranges, SECTORS);
    let raw = layer(&ranges, SECTORS);
    for (bytes, kept_sectors) in [(raw.clone(), 292), (LZ4.pack(&raw), 0)] {
        let path = file(dir.path(), "layer", &bytes);
        let image = Arc::new(Image::open(&[&path]).unwrap());
        let mut reader = Reader::new(image);
        let cut = std::fs::File::options().write(true).open(&path).unwrap();
        cut.set_len(4096 + 292 * 512 + 100).unwrap();
        let failing = failing_sectors(&mut reader, &expected, ReadErrorKind::Io);
        if kept_sectors > 0 {
            let lost: Vec<u64> = (kept_sectors..SECTORS).collect();
            assert_eq!(failing, lost);
        } else {
            // Which blocks are lost depends on how well the others compress: some, and all behind the first.
            assert!(!failing.is_empty() && failing[0] > 0);
            assert_eq!(failing.len() as u64, SECTORS - failing[0]);
        }
        let mut buf = [0; 512];
        let failure = reader
            .read_exact_at(&mut buf, (SECTORS - 1) * 512)
            .unwrap_err();
        let text = chain(&failure);
        assert!(
            text.starts_with(&format!(
                "disk byte {}: layer 0 ({}): read failed at byte ",
                (SECTORS - 1) * 512,
                path.display()
            )),
            "{text}"
        );
        assert!(
            text.ends_with("the file has become shorter since it was opened"),
            "{text}"
        );
    }
}

#[test]
fn file_replaced_or_removed_under_an_open_image_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (blobs, expected) = blobs();
    let paths: Vec<PathBuf> = blobs
        .iter()
        .enumerate()
        .map(|(ordinal, bytes)| file(dir.path(), &ordinal.to_string(), bytes))
        .collect();
    let image = Arc::new(Image::open(&paths).unwrap());
    let other = file(dir.path(), "other", b"something else");
    std::fs::rename(other, &paths[0]).unwrap();
    std::fs::remove_file(&paths[1]).unwrap();
    assert!(read_all(&image).unwrap() == expected);
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[test]
fn flipped_bit_in_a_verified_block_fails_that_block_until_it_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let ranges = [Range::data(0, SECTORS, 7)];
    let (layer, expected) = (layer(&ranges, SECTORS), disk_bytes(&ranges, SECTORS));
    for zip in [
        LZ4,
        ZSTD,
        Zip {
            block_size_bytes: 16_384,
            ..LZ4
        },
    ] {
        let path = file(dir.path(), "layer", &zip.pack(&layer));
        let zfile = ZFile::open(FileBlob::open(&path).unwrap()).unwrap();
        let block_bytes = u64::from(zip.block_size_bytes);
        let mut reader = Reader::new(Arc::new(Image::open(&[&path]).unwrap()));
        for block in [1, 7, 18] {
            let stored = zfile.plan(block * block_bytes, 1).unwrap().stored();
            // First byte, one in the middle, the last of the checksum.
            for at in [
                stored.start,
                stored.start.midpoint(stored.end),
                stored.end - 1,
            ] {
                flip(&path, at);
                let failing = failing_sectors(&mut reader, &expected, ReadErrorKind::Corrupt);
                // The data of the disk starts behind the layer's header.
                let first = (block * block_bytes - 4096) / 512;
                let hit: Vec<u64> = (first..first + block_bytes / 512).collect();
                assert_eq!(failing, hit, "{zip:?}, block {block}, byte {at}");
                flip(&path, at);
                let failing = failing_sectors(&mut reader, &expected, ReadErrorKind::Corrupt);
                assert_eq!(failing, [0; 0]);
            }
        }
    }
}

#[test]
fn read_outside_the_disk_is_out_of_range_and_blames_no_layer() {
    let image = open(blobs().0).unwrap();
    let len = image.len_bytes();
    let mut reader = Reader::new(image);
    for (offset, bytes) in [(len, 1), (len - 1, 2), (len + 1, 0), (u64::MAX, 1)] {
        let failure = reader
            .read_exact_at(&mut vec![0; bytes], offset)
            .unwrap_err();
        assert_eq!(failure.kind(), ReadErrorKind::OutOfRange);
        assert_eq!(failure.layer, None);
        assert_eq!(
            chain(&failure),
            format!("disk byte {offset}: read outside the source at byte {offset}")
        );
    }
    reader.read_exact_at(&mut [], len).unwrap();
}
