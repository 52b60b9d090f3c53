//! Opening, merging, looking up, by themselves and in memory: `cargo bench -p lsmt`.
//!
//! Times are of whole runs; a run of lookups is 100,000 of them at random sectors, so that items per second are
//! lookups per second. `cargo bench -p lsmt -- lookup` runs a part.
#![expect(
    clippy::unwrap_used,
    reason = "a program for the terminal, run by hand"
)]

use blob::MemoryBlob;
use lsmt::test_util::{Index, Records, Search};
use lsmt::{Writer, WriterOptions};

fn main() {
    divan::main();
}

/// Segments, or records, that a benchmark is run with.
const SIZES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Lookups in one run: enough that their places in a large index do not all stay in a cache.
const LOOKUPS: usize = 100_000;
/// Sectors of data in a made layer, as many as the longest of its runs, which all share them.
const DATA_SECTORS: usize = 128;
/// Where the index of a made layer starts.
const INDEX_OFFSET: u64 = 4096 + 512 * DATA_SECTORS as u64;
/// A record that stands for none.
const PADDING: [u64; 2] = [(1 << 50) - 1, 0];

/// Reproducible numbers without an order.
struct Random(u64);

impl Random {
    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

/// Where the segments of a disk are.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// One sector, one sector of hole, and so on.
    Comb,
    /// Runs and holes of up to 16 KiB, in units of 4 KiB.
    Even,
    /// Most holes are small and some 500 times larger, as on a file system of many block groups.
    Uneven,
    /// The same as `Even`, in 16 places of a disk of 64 GiB.
    Crowded,
    /// The same, of a disk of 64 TiB.
    Sparse,
}

/// First sectors and lengths of `count` segments, and the length of the disk, in sectors.
fn runs(layout: Layout, count: u64) -> (Vec<(u64, u64)>, u64) {
    let mut random = Random(88_172_645_463_325_252);
    let mut at = 0;
    let mut runs = Vec::new();
    for k in 0..count {
        let (hole, len) = match layout {
            Layout::Comb => (1, 1),
            Layout::Uneven => {
                let magnitude = random.below(12);
                (8 * random.below(1 << magnitude), 8 * (1 + random.below(16)))
            }
            Layout::Crowded if k % (count / 16) == 0 => ((1 << 23) - random.below(1 << 20), 8),
            Layout::Sparse if k % (count / 16) == 0 => ((1 << 33) - random.below(1 << 30), 8),
            Layout::Even | Layout::Crowded | Layout::Sparse => {
                (8 * random.below(5), 8 * (1 + random.below(4)))
            }
        };
        runs.push((at + hole, len));
        at += hole + len;
    }
    (runs, at)
}

/// The index of a layer of such segments, all data, padded to whole sectors.
fn records(runs: &[(u64, u64)]) -> Vec<u8> {
    let words = runs.iter().map(|(first, len)| [first | (len << 50), 8]);
    let padding = runs.len().next_multiple_of(32) - runs.len();
    let padded = words.chain(std::iter::repeat_n(PADDING, padding));
    padded.flatten().flat_map(u64::to_le_bytes).collect()
}

fn index(runs: &[(u64, u64)]) -> Index {
    Index::parse(Records::from_bytes(&records(runs)), INDEX_OFFSET).unwrap()
}

/// A layer with such an index, by way of one that has a single record.
fn layer(runs: &[(u64, u64)], len_sectors: u64) -> MemoryBlob {
    let options = WriterOptions {
        virtual_size_bytes: len_sectors * 512,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    writer.data(0, &[7; 512 * DATA_SECTORS]).unwrap();
    let made = writer.finish().unwrap();
    let (front, trailer) = made.split_at(made.len() - 4096);
    let records = records(runs);
    let mut bytes = front
        .get(..usize::try_from(INDEX_OFFSET).unwrap())
        .unwrap()
        .to_vec();
    bytes.extend_from_slice(&records);
    let trailer_offset = bytes.len();
    bytes.extend_from_slice(trailer);
    let count = (records.len() / 16) as u64;
    let field = trailer_offset + 40;
    let index_size = bytes.get_mut(field..field + 8).unwrap();
    index_size.copy_from_slice(&count.to_le_bytes());
    MemoryBlob::new(bytes)
}

/// A search, and sectors to look up: anywhere up to the last segment, or near some segment if most of the disk is
/// hole.
fn search(layout: Layout, count: u64) -> (Search, Vec<u64>) {
    let (runs, len) = runs(layout, count);
    let mut random = Random(count);
    let sectors = (0..LOOKUPS)
        .map(|_| match layout {
            Layout::Crowded | Layout::Sparse => {
                let run = usize::try_from(random.below(count)).unwrap();
                runs.get(run).unwrap().0 + random.below(40)
            }
            _ => random.below(len),
        })
        .collect();
    (index(&runs).into_search(), sectors)
}

mod lookup {
    use std::hint::black_box;

    use divan::Bencher;
    use divan::counter::ItemsCount;

    use super::{LOOKUPS, Layout, SIZES, search};

    fn bench(bencher: Bencher, layout: Layout, count: u64) {
        let (search, sectors) = search(layout, count);
        bencher
            .counter(ItemsCount::new(LOOKUPS))
            .bench_local(|| -> usize { sectors.iter().map(|s| search.remaining(*s)).sum() });
    }

    #[divan::bench(args = SIZES)]
    fn comb(bencher: Bencher, count: u64) {
        bench(bencher, Layout::Comb, count);
    }

    #[divan::bench(args = SIZES)]
    fn even(bencher: Bencher, count: u64) {
        bench(bencher, Layout::Even, count);
    }

    #[divan::bench(args = SIZES)]
    fn uneven(bencher: Bencher, count: u64) {
        bench(bencher, Layout::Uneven, count);
    }

    #[divan::bench(args = SIZES)]
    fn crowded(bencher: Bencher, count: u64) {
        bench(bencher, Layout::Crowded, count);
    }

    #[divan::bench(args = SIZES)]
    fn sparse(bencher: Bencher, count: u64) {
        bench(bencher, Layout::Sparse, count);
    }

    /// Answers are kept, as a caller with many questions at once would.
    #[divan::bench(args = SIZES)]
    fn batch(bencher: Bencher, count: u64) {
        let (search, sectors) = search(Layout::Even, count);
        let mut answers = vec![0; LOOKUPS];
        bencher.counter(ItemsCount::new(LOOKUPS)).bench_local(|| {
            for (answer, sector) in answers.iter_mut().zip(&sectors) {
                *answer = search.remaining(*sector);
            }
            black_box(answers.as_mut_slice());
        });
    }

    /// Every lookup waits for the one before, so that the time is the latency.
    #[divan::bench(args = SIZES)]
    fn dependent(bencher: Bencher, count: u64) {
        let (search, sectors) = search(Layout::Even, count);
        let nothing = black_box(0);
        bencher.counter(ItemsCount::new(LOOKUPS)).bench_local(|| {
            sectors.iter().fold(0, |before, sector| {
                search.remaining(*sector | (before as u64 & nothing))
            })
        });
    }
}

mod resolve {
    use std::hint::black_box;

    use divan::Bencher;
    use divan::counter::ItemsCount;
    use lsmt::{Disk, Extent, Layer};

    use super::{LOOKUPS, Layout, Random, SIZES, layer, runs};

    fn bench(
        bencher: Bencher,
        count: u64,
        len_bytes: u64,
        sector: impl Fn(&mut Random, &[(u64, u64)], u64) -> u64,
    ) {
        let (runs, len_sectors) = runs(Layout::Even, count);
        let len_sectors = len_sectors + 1024;
        let layer = Layer::open(layer(&runs, len_sectors)).unwrap();
        let disk = Disk::new(vec![layer]).unwrap();
        let mut random = Random(count);
        let offsets: Vec<u64> = (0..LOOKUPS)
            .map(|_| 512 * sector(&mut random, &runs, len_sectors))
            .collect();
        let mut extents: Vec<Extent> = Vec::new();
        bencher.counter(ItemsCount::new(LOOKUPS)).bench_local(|| {
            for offset in &offsets {
                disk.resolve(*offset, len_bytes, &mut extents).unwrap();
                black_box(extents.as_slice());
            }
        });
    }

    /// Reads of 4 KiB inside a run of data.
    #[divan::bench(args = SIZES)]
    fn data_4k(bencher: Bencher, count: u64) {
        bench(bencher, count, 4096, |random, runs, _| {
            let run = usize::try_from(random.below(count)).unwrap();
            let (first, len) = *runs.get(run).unwrap();
            first + 8 * random.below(len / 8)
        });
    }

    /// Reads of 4 KiB that are in data or in a hole, which nobody can foresee.
    #[divan::bench(args = SIZES)]
    fn any_4k(bencher: Bencher, count: u64) {
        bench(bencher, count, 4096, |random, _, len| {
            8 * random.below((len - 1024) / 8)
        });
    }

    /// Reads of 128 KiB, ten extents or so.
    #[divan::bench(args = SIZES)]
    fn any_128k(bencher: Bencher, count: u64) {
        bench(bencher, count, 128 << 10, |random, _, len| {
            8 * random.below((len - 1024) / 8)
        });
    }
}

mod open {
    use divan::Bencher;
    use divan::counter::ItemsCount;
    use lsmt::test_util::{Index, Records};
    use lsmt::{Disk, Layer};

    use super::{INDEX_OFFSET, Layout, SIZES, index, layer, records, runs};

    /// Checking and converting records.
    #[divan::bench(args = SIZES)]
    fn parse(bencher: Bencher, count: u64) {
        let records = Records::from_bytes(&records(&runs(Layout::Even, count).0));
        bencher
            .counter(ItemsCount::new(count))
            .with_inputs(|| records.clone())
            .bench_local_values(|records| Index::parse(records, INDEX_OFFSET).unwrap());
    }

    /// Preparing an index for searches.
    #[divan::bench(args = SIZES)]
    fn search(bencher: Bencher, count: u64) {
        let index = index(&runs(Layout::Even, count).0);
        bencher
            .counter(ItemsCount::new(count))
            .with_inputs(|| index.clone())
            .bench_local_values(Index::into_search);
    }

    /// Reading a layer, all checks included.
    #[divan::bench(args = SIZES)]
    fn layer_of(bencher: Bencher, count: u64) {
        let count = count - count / 1000;
        let (runs, len) = runs(Layout::Even, count);
        let blob = layer(&runs, len);
        bencher
            .counter(ItemsCount::new(count))
            .bench_local(|| Layer::open(&blob).unwrap());
    }

    /// A disk out of so many layers, of a million records together, in no order.
    #[divan::bench(args = super::LAYERS)]
    fn disk_of(bencher: Bencher, layers: u64) {
        let count = 999_000 / layers;
        let blobs: Vec<_> = (0..layers)
            .map(|k| super::comb(k, layers, count))
            .map(|runs| layer(&runs, 4 * 999_000))
            .collect();
        let opened = || blobs.iter().map(|blob| Layer::open(blob).unwrap());
        bencher
            .counter(ItemsCount::new(count * layers))
            .with_inputs(|| opened().collect::<Vec<_>>())
            .bench_local_values(|layers| Disk::new(layers).unwrap());
    }
}

/// Layers in a stack.
const LAYERS: [u64; 4] = [2, 7, 32, 255];

/// Of one layer of many: every so many sectors a run of one sector.
fn comb(layer: u64, layers: u64, count: u64) -> Vec<(u64, u64)> {
    (0..count).map(|k| (layer + k * layers, 1)).collect()
}

/// A million records in all.
mod merge {
    use divan::Bencher;
    use divan::counter::ItemsCount;
    use lsmt::test_util::Index;

    use super::{LAYERS, Layout, Random, comb, index, runs};

    fn bench(bencher: Bencher, layers: &[Vec<(u64, u64)>]) {
        let records: usize = layers.iter().map(Vec::len).sum();
        let indexes: Vec<_> = layers.iter().map(|runs| index(runs)).collect();
        bencher
            .counter(ItemsCount::new(records))
            .with_inputs(|| indexes.clone())
            .bench_local_values(|indexes| Index::merge(indexes).unwrap());
    }

    /// Records of all layers take turns: the most that is to be done.
    #[divan::bench(args = LAYERS)]
    fn interleaved(bencher: Bencher, layers: u64) {
        let combs = (0..layers).map(|k| comb(k, layers, 1_000_000 / layers));
        bench(bencher, &combs.collect::<Vec<_>>());
    }

    /// Every layer speaks of the same part of the disk, in its own way.
    #[divan::bench(args = LAYERS)]
    fn random(bencher: Bencher, layers: u64) {
        let mut random = Random(layers);
        let runs = (0..layers).map(|_| {
            let mut at = 0;
            let run = (0..1_000_000 / layers).map(|_| {
                let (hole, len) = (random.below(16), 1 + random.below(15));
                at += hole + len;
                (at - len, len)
            });
            run.collect()
        });
        bench(bencher, &runs.collect::<Vec<_>>());
    }

    /// A layer of half of the records, and upper ones that each speak of a small part of the disk in one place.
    #[divan::bench(args = LAYERS)]
    fn base_and_patches(bencher: Bencher, layers: u64) {
        let (base, len) = runs(Layout::Even, 500_000);
        let mut stack = vec![base];
        let patch = 500_000 / (layers - 1);
        let mut random = Random(layers);
        for _ in 1..layers {
            let first = random.below(len / 2);
            stack.push((0..patch).map(|k| (first + 16 * k, 8)).collect());
        }
        bench(bencher, &stack);
    }
}
