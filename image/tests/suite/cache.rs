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

/// A guest that reads here and there wants little of a block, so it is decoded to there; whoever wants more gets all of it.
#[test]
fn block_is_fetched_once_more_at_most_for_what_was_not_wanted_of_it() {
    let (image, expected, source) = image(1 << 20);
    let mut reader = Reader::new(image);
    let mut reads_of = |kib: usize| {
        let before = source.reads();
        let offset = kib << 10;
        let mut bytes = [0; 4096];
        reader.read_exact_at(&mut bytes, offset as u64).unwrap();
        assert!(bytes[..] == expected[offset..][..4096], "at {kib} KiB");
        source.reads() - before
    };
    // The second block of the layer begins at 60 KiB of the disk, the third at 124.
    assert_eq!(reads_of(92), 1);
    assert_eq!([reads_of(60), reads_of(76), reads_of(92)], [0; 3]);
    assert_eq!(reads_of(112), 1, "beyond what was wanted");
    assert_eq!([reads_of(120), reads_of(96), reads_of(60)], [0; 3]);
    // From its beginning on, a block is likely to be read to its end.
    assert_eq!(reads_of(124), 1);
    assert_eq!([reads_of(184), reads_of(128)], [0; 2]);
    // So it is where one read goes on where another ended, wherever in a block that is.
    assert_eq!([reads_of(200), reads_of(204)], [1, 1]);
    assert_eq!([reads_of(208), reads_of(248)], [0; 2]);
}

#[test]
fn without_a_cache_nothing_is_decoded_for_later() {
    let (image, expected, source) = image(0);
    let mut reader = Reader::new(image);
    for (offset, len) in [(0, 4096), (4096, 4096), (100_000, 80_000), (90_000, 512)] {
        let before = source.reads();
        let mut bytes = vec![0; len];
        reader.read_exact_at(&mut bytes, offset as u64).unwrap();
        assert!(bytes == expected[offset..][..len]);
        assert!(source.reads() > before);
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
    reader.read_exact_at(&mut bytes, 4096).unwrap();
    assert!(bytes[..] == expected[4096..][..4096]);
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
