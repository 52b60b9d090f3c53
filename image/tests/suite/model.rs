//! Promise: an image reads like a plain byte array that its layers, lowest first, were written over — for any stack,
//! however its layers were made and packed, for any byte range, and from any number of threads at once.

use std::sync::Arc;

use image::{Image, Reader};
use lsmt::test_util::{Run, sealed_in_place};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof};
use proptest::proptest;
use zfile::Algorithm;

use crate::support::{Packing, Range, SECTOR, WRAPPERS, Zip, disk_bytes, layer, open, packings};

/// Sectors that generated ranges can reach; disks are up to half as long, so that some lie beyond.
const REACH_SECTORS: u64 = 300;

/// A layer as the model sees it.
#[derive(Clone, Debug)]
struct LayerPlan {
    ranges: Vec<Range>,
    disk_sectors: u64,
    committed: bool,
    seed: u64,
    packing: Packing,
}

impl LayerPlan {
    fn blob(&self) -> Vec<u8> {
        let disk_sectors = self.disk_sectors;
        let fits = |range: &Range| range.first_sector + range.len_sectors <= disk_sectors;
        // Our writer does not write beyond the end of its disk; resized systems have such layers all the same.
        let layer = if self.committed && (disk_sectors == 0 || self.ranges.iter().all(fits)) {
            layer(&self.ranges, disk_sectors)
        } else {
            let run = |range: &Range| Run {
                first_sector: range.first_sector,
                len_sectors: range.len_sectors,
                data: range.seed.map(|_| range.bytes()),
            };
            let runs: Vec<Run> = self.ranges.iter().map(run).collect();
            sealed_in_place(&runs, disk_sectors * 512, self.seed)
        };
        self.packing.pack(&layer)
    }
}

/// Ranges that do not overlap and often touch.
fn ranges() -> impl Strategy<Value = Vec<Range>> {
    let gap = prop_oneof![Just(0_u64), 0..40_u64];
    let len = prop_oneof![1..4_u64, 1..60_u64];
    let range = (gap, len, prop::option::of(any::<u64>()));
    prop::collection::vec(range, 0..16).prop_map(|parts| {
        let mut at = 0;
        let mut ranges = Vec::new();
        for (gap, len_sectors, seed) in parts {
            let first_sector = at + gap;
            at = first_sector + len_sectors;
            if at > REACH_SECTORS {
                break;
            }
            ranges.push(Range {
                first_sector,
                len_sectors,
                seed,
            });
        }
        ranges
    })
}

fn packing() -> impl Strategy<Value = Packing> {
    let algorithm = prop_oneof![Just(Algorithm::Lz4), Just(Algorithm::Zstd)];
    let zip = (algorithm, 12..=16_u32, any::<bool>(), any::<bool>());
    let zip = zip.prop_map(|(algorithm, shift, verify, overwritten)| Zip {
        algorithm,
        block_size_bytes: 1 << shift,
        verify,
        overwritten,
    });
    let wrapper = prop::sample::select(WRAPPERS.to_vec());
    (wrapper, prop::option::of(zip)).prop_map(|(wrapper, zip)| Packing { wrapper, zip })
}

fn layer_plan() -> impl Strategy<Value = LayerPlan> {
    let disk_sectors = prop_oneof![Just(0_u64), 1..REACH_SECTORS / 2];
    let parts = (
        ranges(),
        disk_sectors,
        any::<bool>(),
        any::<u64>(),
        packing(),
    );
    parts.prop_map(
        |(ranges, disk_sectors, committed, seed, packing)| LayerPlan {
            ranges,
            disk_sectors,
            committed,
            seed,
            packing,
        },
    )
}

fn stack() -> impl Strategy<Value = Vec<LayerPlan>> {
    prop::collection::vec(layer_plan(), 1..=9).prop_filter("a disk needs a size", |layers| {
        layers.iter().any(|layer| layer.disk_sectors > 0)
    })
}

fn image(layers: &[LayerPlan], cache_len_bytes: usize) -> Arc<Image> {
    let image = open(layers.iter().map(LayerPlan::blob).collect()).unwrap();
    let image = Arc::into_inner(image).unwrap();
    Arc::new(image.with_cache(cache_len_bytes))
}

/// None, one that is always full, and one that holds everything.
fn cache_len_bytes() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![0, 40 << 10, 8 << 20])
}

/// The plain byte array.
fn model(layers: &[LayerPlan]) -> Vec<u8> {
    let ranges: Vec<Range> = layers
        .iter()
        .flat_map(|layer| layer.ranges.clone())
        .collect();
    let mut bytes = disk_bytes(&ranges, REACH_SECTORS);
    let sizes = layers.iter().rev().map(|layer| layer.disk_sectors);
    let size = sizes.into_iter().find(|size| *size > 0).unwrap();
    bytes.truncate(usize::try_from(size).unwrap() * SECTOR);
    bytes
}

fn check(reader: &mut Reader, expected: &[u8], offset: usize, len: usize) {
    let len = len.min(expected.len() - offset);
    let mut bytes = vec![0xA5; len];
    reader.read_exact_at(&mut bytes, offset as u64).unwrap();
    assert!(
        bytes == expected[offset..offset + len],
        "{len} bytes at {offset}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_stack_reads_like_an_array(
        layers in stack(),
        cache_len_bytes in cache_len_bytes(),
        spots in prop::collection::vec((any::<prop::sample::Index>(), 0..9000_usize), 40),
    ) {
        let (image, expected) = (image(&layers, cache_len_bytes), model(&layers));
        assert_eq!(image.len_bytes(), expected.len() as u64);
        // Changes nothing, whatever it is asked for.
        let offsets = spots.iter().map(|(spot, _)| spot.index(2 * expected.len()) as u64);
        image.warm(offsets.chain([u64::MAX]));
        // One reader for all, so that what one read leaves in its buffers could harm the next.
        let mut reader = Reader::new(image);
        check(&mut reader, &expected, 0, expected.len());
        for (spot, len) in spots {
            check(&mut reader, &expected, spot.index(expected.len()), len);
        }
    }
}

#[test]
fn threads_share_an_image() {
    let layers: Vec<LayerPlan> = packings()
        .into_iter()
        .zip(0..)
        .map(|(packing, seed)| LayerPlan {
            ranges: vec![
                Range::data(seed * 19, 30, seed),
                Range::zeroed(seed * 19 + 33, 2),
            ],
            disk_sectors: 400,
            committed: true,
            seed,
            packing,
        })
        .collect();
    let ranges: Vec<Range> = layers
        .iter()
        .flat_map(|layer| layer.ranges.clone())
        .collect();
    let expected = disk_bytes(&ranges, 400);
    for cache_len_bytes in [0, 100 << 10] {
        let image = image(&layers, cache_len_bytes);
        read_from_threads(&image, &expected);
    }
}

fn read_from_threads(image: &Arc<Image>, expected: &[u8]) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let image = Arc::clone(image);
            scope.spawn(move || {
                let mut reader = Reader::new(image);
                for round in 0..400 {
                    let offset = (round * 7919 + thread * 104_729) % expected.len();
                    check(&mut reader, expected, offset, 1 + round * 31 % 20_000);
                }
            });
        }
    });
}
