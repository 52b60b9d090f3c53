//! Promise: a block of which a part was read is decoded once for whoever reads the rest of it, as long as the cache has
//! room; and what the cache holds never makes a read wrong or a fault invisible for longer than it must be.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use blob::test_util::{Fault, FaultyBlob};
use blob::{MemoryBlob, ReadAt, ReadError, ReadErrorKind};
use image::{Bytes, Image, Reader};
use zfile::Algorithm;

use crate::support::{Packing, Range, WRAPPERS, Zip, disk_bytes, layer};

const BLOCK_BYTES: u64 = 64 << 10;
const DISK_SECTORS: u64 = 1024;

type Source = Arc<FaultyBlob<MemoryBlob>>;

/// An image of one layer in blocks of 64 KiB, its content, and its blob, which counts reads.
fn image(cache_len_bytes: usize) -> (Arc<Image>, Vec<u8>, Source) {
    let ranges = [Range::data(0, DISK_SECTORS, 3)];
    let zip = Zip {
        algorithm: Algorithm::Lz4,
        block_size_bytes: u32::try_from(BLOCK_BYTES).unwrap(),
        verify: true,
        overwritten: false,
    };
    let packing = Packing {
        wrapper: WRAPPERS[0],
        zip: Some(zip),
    };
    let blob = MemoryBlob::new(packing.pack(&layer(&ranges, DISK_SECTORS)));
    let source = Arc::new(FaultyBlob::new(blob, Fault::BitFlip, u64::MAX));
    let bytes: Bytes = Box::new(Arc::clone(&source));
    let image = Image::from_blobs(vec![(PathBuf::from("memory"), bytes)]).unwrap();
    let image = Arc::new(image.with_cache(cache_len_bytes));
    (image, disk_bytes(&ranges, DISK_SECTORS), source)
}

/// Reads the whole disk in pieces and returns how often the blob was read for it.
fn reads_in_pieces(cache_len_bytes: usize, piece_bytes: usize) -> u64 {
    let (image, expected, source) = image(cache_len_bytes);
    let mut reader = Reader::new(image);
    let before = source.reads();
    for (number, piece) in expected.chunks(piece_bytes).enumerate() {
        let mut bytes = vec![0; piece.len()];
        let offset = (number * piece_bytes) as u64;
        reader.read_exact_at(&mut bytes, offset).unwrap();
        assert!(bytes == piece, "{piece_bytes} bytes at {offset}");
    }
    source.reads() - before
}

#[test]
fn each_block_is_fetched_once_for_reads_in_order() {
    // Data begins at byte 4096 of the layer, so the disk is cut by one more block than it is long.
    let blocks = DISK_SECTORS * 512 / BLOCK_BYTES + 1;
    for piece_bytes in [512, 4096, 12 << 10] {
        assert_eq!(
            reads_in_pieces(1 << 20, piece_bytes),
            blocks,
            "{piece_bytes}"
        );
        let without = reads_in_pieces(0, piece_bytes);
        assert!(without > 4 * blocks, "{piece_bytes}: {without}");
    }
}

#[test]
fn damaged_block_is_not_kept() {
    let (image, expected, source) = image(1 << 20);
    let mut reader = Reader::new(image);
    let mut bytes = [0; 4096];
    source.arm(0);
    let failure = reader.read_exact_at(&mut bytes, 8192).unwrap_err();
    assert_eq!(failure.kind(), ReadErrorKind::Corrupt);
    reader.read_exact_at(&mut bytes, 8192).unwrap();
    assert!(bytes[..] == expected[8192..][..4096]);
    // Now it is kept, and the blob is left alone.
    let reads = source.reads();
    source.arm(0);
    reader.read_exact_at(&mut bytes, 16384).unwrap();
    assert!(bytes[..] == expected[16384..][..4096]);
    assert_eq!(source.reads(), reads);
}

/// A source that notes what it is advised of.
struct Advised {
    blob: MemoryBlob,
    advice: Arc<Mutex<Vec<(u64, u64)>>>,
}

impl ReadAt for Advised {
    fn len_bytes(&self) -> u64 {
        self.blob.len_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.blob.read_exact_at(buf, offset)
    }

    fn will_need(&self, offset: u64, len_bytes: u64) {
        self.advice.lock().unwrap().push((offset, len_bytes));
    }
}

#[test]
fn what_will_be_needed_is_said_once_for_each_stretch_of_a_layer() {
    let advice = Arc::new(Mutex::new(Vec::new()));
    let cells =
        |odd: u64| (0..8).map(move |cell| Range::data(cell * 32 + odd * 16, 16, cell + odd));
    let layers = [0, 1].map(|odd| layer(&cells(odd).collect::<Vec<_>>(), 1024));
    let blobs = layers.map(|bytes| {
        let source = Advised {
            blob: MemoryBlob::new(bytes),
            advice: Arc::clone(&advice),
        };
        let bytes: Bytes = Box::new(source);
        (PathBuf::from("memory"), bytes)
    });
    let image = Image::from_blobs(blobs.into()).unwrap();
    let said = |range| {
        image.will_need(range);
        std::mem::take(&mut *advice.lock().unwrap())
    };
    // Both layers hold every other cell of 8 KiB, one behind the other.
    let whole = (4096, 8 * 8192);
    assert_eq!(said(0..256 * 512), [whole, whole]);
    assert_eq!(said(8192..3 * 8192), [(4096 + 8192, 8192), (4096, 8192)]);
    assert_eq!(said(300 * 512..1024 * 512), [], "nothing is there");
    // Beyond the end of the disk there is nothing to be advised of, and nothing to fail.
    assert_eq!(said(u64::MAX - 4096..u64::MAX), []);
}
