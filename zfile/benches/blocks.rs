//! Decoding, finding blocks and opening, by themselves and in memory: `cargo bench -p zfile`. Checksums alone are in
//! `cargo bench -p crc32c`.
//!
//! A run of look-ups is 100,000 of them at random offsets, so that items per second are look-ups per second.
//! `cargo bench -p zfile -- decode` runs a part.
#![expect(
    clippy::unwrap_used,
    reason = "a program for the terminal, run by hand"
)]

use std::sync::LazyLock;

use blob::test_util::noise;
use blob::{MemoryBlob, ReadAt};
use zfile::{Algorithm, BlockRun, Writer, WriterOptions, ZFile};

fn main() {
    divan::main();
}

/// Block sizes in KiB.
const BLOCK_SIZES_KIB: [u32; 3] = [4, 16, 64];
/// Blocks in the files that are looked up in.
const BLOCK_COUNTS: [usize; 3] = [1_000, 100_000, 1_000_000];
/// Content that is decoded, in turn: more than a branch predictor learns by heart, less than a last-level cache.
const CONTENT_BYTES: usize = 4 << 20;
/// Enough that their places in a large jump table do not all stay in a cache.
const LOOKUPS: usize = 100_000;
const LOOKUP_BYTES: usize = 4096;

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

/// Words out of a vocabulary, the first of them most often: short literals and short matches by turns, which is what
/// programs and documents are for a decoder.
fn text(len_bytes: usize) -> Vec<u8> {
    let letters = noise(1 << 14, 1);
    let mut random = Random(88_172_645_463_325_252);
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

fn write(algorithm: Algorithm, block_size_bytes: u32, content: &[u8]) -> Vec<u8> {
    let options = WriterOptions {
        algorithm,
        block_size_bytes,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), options).unwrap();
    writer.append(content).unwrap();
    writer.finish().unwrap()
}

/// A file of text, and pieces of its content with the stored bytes of each.
struct Pieces {
    zfile: ZFile<MemoryBlob>,
    pieces: Vec<(BlockRun, Vec<u8>)>,
}

impl Pieces {
    fn new(algorithm: Algorithm, block_kib: u32, piece_bytes: usize) -> Self {
        let stored = write(algorithm, block_kib << 10, &text(CONTENT_BYTES));
        let zfile = ZFile::open(MemoryBlob::new(stored)).unwrap();
        let piece = |number| {
            let offset = u64::try_from(number * piece_bytes).unwrap();
            let run = zfile.plan(offset, piece_bytes).unwrap();
            let range = run.stored();
            let mut stored = vec![0; usize::try_from(range.end - range.start).unwrap()];
            zfile
                .source()
                .read_exact_at(&mut stored, range.start)
                .unwrap();
            (run, stored)
        };
        let pieces = (0..CONTENT_BYTES / piece_bytes).map(piece).collect();
        Self { zfile, pieces }
    }
}

/// A file of that many blocks of 4 KiB, which hold nothing worth storing: only the jump table counts.
fn empty_blocks(count: usize) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), WriterOptions::default()).unwrap();
    for _block in 0..count {
        writer.append(&[0; 4096]).unwrap();
    }
    writer.finish().unwrap()
}

static MILLION: LazyLock<Vec<u8>> = LazyLock::new(|| empty_blocks(1_000_000));

fn blocks(count: usize) -> MemoryBlob {
    MemoryBlob::new(match count {
        1_000_000 => MILLION.clone(),
        _ => empty_blocks(count),
    })
}

/// Checking and decoding; bytes are those of the content.
mod decode {
    use divan::Bencher;
    use divan::counter::BytesCount;
    use zfile::{Algorithm, Scratch};

    use super::{BLOCK_SIZES_KIB, Pieces};

    fn bench(bencher: Bencher, algorithm: Algorithm, block_kib: u32, piece_bytes: usize) {
        let Pieces { zfile, pieces } = Pieces::new(algorithm, block_kib, piece_bytes);
        let mut scratch = Scratch::default();
        let mut content = vec![0; piece_bytes];
        let mut pieces = pieces.iter().cycle();
        bencher
            .counter(BytesCount::new(piece_bytes))
            .bench_local(|| {
                let (run, stored) = pieces.next().unwrap();
                zfile
                    .decode(run, stored, &mut scratch, &mut content)
                    .unwrap();
                divan::black_box(content.as_slice());
            });
    }

    fn block(kib: u32) -> usize {
        usize::try_from(kib).unwrap() << 10
    }

    #[divan::bench(args = BLOCK_SIZES_KIB)]
    fn block_lz4(bencher: Bencher, kib: u32) {
        bench(bencher, Algorithm::Lz4, kib, block(kib));
    }

    #[divan::bench(args = BLOCK_SIZES_KIB)]
    fn block_zstd(bencher: Bencher, kib: u32) {
        bench(bencher, Algorithm::Zstd, kib, block(kib));
    }

    /// 4 KiB of a block, for which all of it is decoded.
    #[divan::bench(args = BLOCK_SIZES_KIB)]
    fn part_of_block_lz4(bencher: Bencher, kib: u32) {
        bench(bencher, Algorithm::Lz4, kib, 4096);
    }

    /// 1 MiB of whole blocks.
    #[divan::bench(args = BLOCK_SIZES_KIB)]
    fn run_lz4(bencher: Bencher, kib: u32) {
        bench(bencher, Algorithm::Lz4, kib, 1 << 20);
    }

    /// 1 MiB of whole blocks.
    #[divan::bench(args = BLOCK_SIZES_KIB)]
    fn run_zstd(bencher: Bencher, kib: u32) {
        bench(bencher, Algorithm::Zstd, kib, 1 << 20);
    }
}

mod jump_table {
    use divan::Bencher;
    use divan::counter::ItemsCount;
    use zfile::ZFile;

    use super::{BLOCK_COUNTS, LOOKUP_BYTES, LOOKUPS, Random, blocks};

    /// Where 4 KiB anywhere are stored.
    #[divan::bench(args = BLOCK_COUNTS)]
    fn plan(bencher: Bencher, count: usize) {
        let zfile = ZFile::open(blocks(count)).unwrap();
        let mut random = Random(88_172_645_463_325_252);
        let offsets: Vec<u64> = (0..LOOKUPS)
            .map(|_| u64::try_from(random.below(count) * LOOKUP_BYTES).unwrap())
            .collect();
        bencher
            .counter(ItemsCount::new(LOOKUPS))
            .bench_local(|| -> u64 {
                let plan = |offset: &u64| zfile.plan(*offset, LOOKUP_BYTES).unwrap();
                offsets.iter().map(|offset| plan(offset).stored().end).sum()
            });
    }

    /// Reading and checking the jump table; items are blocks.
    #[divan::bench(args = BLOCK_COUNTS)]
    fn open(bencher: Bencher, count: usize) {
        let blob = blocks(count);
        bencher
            .counter(ItemsCount::new(count))
            .bench_local(|| ZFile::open(&blob).unwrap());
    }
}
