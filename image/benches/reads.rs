//! Planning, decoding and reading of stacks, by themselves and in memory: `cargo bench -p image`.
//!
//! Runs of plans and reads are 1,000 of them at random offsets, so that items per second are plans and reads per
//! second. `cargo bench -p image -- plan` runs a part.
#![expect(
    clippy::unwrap_used,
    reason = "a program for the terminal, run by hand"
)]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use blob::MemoryBlob;
use blob::test_util::noise;
use image::{Bytes, Image};

fn main() {
    divan::main();
}

const SECTOR_BYTES: usize = 512;
const DISK_BYTES: usize = 64 << 20;
/// What belongs to one layer or another.
const CELL_BYTES: usize = 64 << 10;
const LAYERS: usize = 7;
/// Plans or reads in one run.
const READS: usize = 1_000;
/// What one block of a layer with large blocks decodes to.
const LARGE_BLOCK_BYTES: u32 = 64 << 10;

/// Reproducible numbers without an order.
struct Random(u64);

impl Random {
    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }
}

const SEED: u64 = 88_172_645_463_325_252;

/// Words out of a vocabulary, the first of them most often: short literals and short matches by turns, which is what
/// programs and documents are for a decoder.
fn text(len_bytes: usize) -> Vec<u8> {
    let letters = noise(1 << 14, 1);
    let mut random = Random(SEED);
    let mut text = Vec::with_capacity(len_bytes + 16);
    while text.len() < len_bytes {
        let range = 1 + random.below(1024);
        let word = random.below(range);
        let len = 3 + word % 9;
        text.extend_from_slice(letters.get(word * 12..word * 12 + len).unwrap());
    }
    text.truncate(len_bytes);
    text
}

/// A layer that has those cells of the disk, in a ZFile with LZ4 in blocks of this size, or as it is.
fn layer(disk: &[u8], cells: &[usize], block_size_bytes: Option<u32>) -> Bytes {
    let options = lsmt::WriterOptions {
        virtual_size_bytes: u64::try_from(disk.len()).unwrap(),
        ..lsmt::WriterOptions::default()
    };
    let mut writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
    for cell in cells {
        let content = disk.get(cell * CELL_BYTES..(cell + 1) * CELL_BYTES);
        let sector = u64::try_from(cell * CELL_BYTES / SECTOR_BYTES).unwrap();
        writer.data(sector, content.unwrap()).unwrap();
    }
    let bytes = writer.finish().unwrap();
    let Some(block_size_bytes) = block_size_bytes else {
        return Box::new(MemoryBlob::new(bytes));
    };
    let options = zfile::WriterOptions {
        block_size_bytes,
        ..zfile::WriterOptions::default()
    };
    let mut writer = zfile::Writer::new(Vec::new(), options).unwrap();
    writer.append(&bytes).unwrap();
    Box::new(MemoryBlob::new(writer.finish().unwrap()))
}

/// A stack in which every cell belongs to one layer, chosen at random: the lowest has the most, the next half of that,
/// then a third, and so on.
fn stack(layers: usize, block_size_bytes: Option<u32>) -> Image {
    let disk = text(DISK_BYTES);
    let mut random = Random(SEED);
    let shares: Vec<usize> = (1..=layers).map(|number| 10_000 / number).collect();
    let mut cells = vec![Vec::new(); layers];
    for cell in 0..DISK_BYTES / CELL_BYTES {
        let mut choice = random.below(shares.iter().sum());
        let owner = shares.iter().position(|share| {
            let chosen = choice < *share;
            choice = choice.saturating_sub(*share);
            chosen
        });
        cells.get_mut(owner.unwrap()).unwrap().push(cell);
    }
    let blobs = cells.iter().enumerate().map(|(number, cells)| {
        let path = PathBuf::from(format!("layer {number}"));
        (path, layer(&disk, cells, block_size_bytes))
    });
    Image::from_blobs(blobs.collect()).unwrap()
}

static LZ4: LazyLock<Arc<Image>> = LazyLock::new(|| Arc::new(stack(LAYERS, Some(4096))));
static RAW: LazyLock<Arc<Image>> = LazyLock::new(|| Arc::new(stack(LAYERS, None)));

/// Multiples of 4 KiB, each with room for that much behind it.
fn offsets(len_bytes: usize) -> Vec<u64> {
    let mut random = Random(SEED);
    let places = (DISK_BYTES - len_bytes) / 4096 + 1;
    (0..READS)
        .map(|_| u64::try_from(random.below(places) * 4096).unwrap())
        .collect()
}

/// Where the bytes of a read come from.
mod plan {
    use divan::Bencher;
    use divan::counter::ItemsCount;
    use image::{Image, Plan};

    use super::{LZ4, RAW, READS, offsets};

    /// Lengths of a read in KiB.
    const SIZES_KIB: [usize; 3] = [4, 64, 1024];

    fn bench(bencher: Bencher, image: &Image, len_bytes: usize) {
        let offsets = offsets(len_bytes);
        let mut plan = Plan::default();
        bencher
            .counter(ItemsCount::new(READS))
            .bench_local(|| -> usize {
                let mut steps = 0;
                for offset in &offsets {
                    image.plan(*offset, len_bytes, &mut plan).unwrap();
                    steps += plan.steps().len();
                }
                steps
            });
    }

    #[divan::bench(args = SIZES_KIB)]
    fn lz4(bencher: Bencher, kib: usize) {
        bench(bencher, &LZ4, kib << 10);
    }

    #[divan::bench(args = SIZES_KIB)]
    fn raw(bencher: Bencher, kib: usize) {
        bench(bencher, &RAW, kib << 10);
    }
}

/// Plan, fetch from memory and decode: all that a read is but for the file and the guest.
mod read {
    use std::sync::Arc;

    use divan::Bencher;
    use divan::counter::ItemsCount;
    use image::{Image, Reader};

    use super::{LZ4, RAW, READS, offsets};

    /// Lengths of a read in KiB.
    const SIZES_KIB: [usize; 2] = [4, 64];

    fn bench(bencher: Bencher, image: &Arc<Image>, len_bytes: usize) {
        let offsets = offsets(len_bytes);
        let mut reader = Reader::new(Arc::clone(image));
        let mut buffer = vec![0; len_bytes];
        bencher.counter(ItemsCount::new(READS)).bench_local(|| {
            for offset in &offsets {
                reader.read_exact_at(&mut buffer, *offset).unwrap();
                divan::black_box(buffer.as_slice());
            }
        });
    }

    #[divan::bench(args = SIZES_KIB)]
    fn lz4(bencher: Bencher, kib: usize) {
        bench(bencher, &LZ4, kib << 10);
    }

    #[divan::bench(args = SIZES_KIB)]
    fn raw(bencher: Bencher, kib: usize) {
        bench(bencher, &RAW, kib << 10);
    }
}

/// 4 KiB out of a block of 64 KiB.
mod large_block {
    use divan::Bencher;
    use divan::counter::ItemsCount;
    use image::{Decoder, Image, Plan, ReadFailure, Step};

    use super::{DISK_BYTES, LARGE_BLOCK_BYTES, READS, offsets, stack};

    const READ_BYTES: usize = 4096;

    /// Steps of reads that are in one block each, and what is stored of these.
    fn steps(image: &Image) -> Vec<(Step, Vec<u8>)> {
        let mut plan = Plan::default();
        let mut steps = Vec::new();
        for offset in offsets(READ_BYTES) {
            image.plan(offset, READ_BYTES, &mut plan).unwrap();
            let step = plan.steps().first().unwrap();
            let (ordinal, range) = step.stored().unwrap();
            let mut stored = vec![0; usize::try_from(range.end - range.start).unwrap()];
            image
                .read_stored(ordinal, range.start, &mut stored)
                .unwrap();
            steps.push((step.clone(), stored));
        }
        steps
    }

    fn decode(bencher: Bencher, cache_bytes: usize) {
        let image = stack(1, Some(LARGE_BLOCK_BYTES)).with_cache(cache_bytes);
        let steps = steps(&image);
        let mut decoder = Decoder::new();
        let mut out = vec![0; READ_BYTES];
        bencher.counter(ItemsCount::new(READS)).bench_local(|| {
            for (step, stored) in &steps {
                decoder.decode_to(&image, step, stored, &mut out).unwrap();
                divan::black_box(out.as_slice());
            }
        });
    }

    /// All of the block is decoded, and nothing kept.
    #[divan::bench]
    fn decoded(bencher: Bencher) {
        decode(bencher, 0);
    }

    /// All of it is decoded and kept in the place of another one.
    #[divan::bench]
    fn decoded_and_kept(bencher: Bencher) {
        decode(bencher, 8 << 20);
    }

    /// It was decoded before, and is kept.
    #[divan::bench]
    fn recalled(bencher: Bencher) {
        let image = stack(1, Some(LARGE_BLOCK_BYTES)).with_cache(2 * DISK_BYTES);
        let steps = steps(&image);
        let mut decoder = Decoder::new();
        let mut out = vec![0; READ_BYTES];
        for (step, stored) in &steps {
            decoder.decode_to(&image, step, stored, &mut out).unwrap();
        }
        bencher.counter(ItemsCount::new(READS)).bench_local(|| {
            for (step, _stored) in &steps {
                let left = decoder.recall(&image, step, |skipped, bytes| {
                    out[skipped..][..bytes.len()].copy_from_slice(bytes);
                    Ok::<_, ReadFailure>(())
                });
                let left = left.unwrap();
                assert!(left.is_none(), "a block that was decoded is not there");
                divan::black_box(out.as_slice());
            }
        });
    }
}
