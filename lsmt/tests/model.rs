//! Promise: a disk reads like a plain byte array that the layers, lowest first, were written over — for any stack,
//! however its layers were made, and for any byte range. And what `resolve` answers covers exactly the range, in
//! order, in as few extents as possible.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use blob::test_util::{conformance, noise};
use blob::{MemoryBlob, ReadAt, ReadErrorKind};
use lsmt::test_util::{Run, sealed_in_place};
use lsmt::{Disk, Extent, Layer, Writer, WriterOptions};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::{prop_assert_eq, proptest};

const SECTOR: usize = 512;
/// Sectors that generated records can reach; disks are up to half as long, so that some lie beyond.
const REACH_SECTORS: u64 = 300;

/// A layer as the model sees it.
#[derive(Clone, Debug)]
struct LayerPlan {
    runs: Vec<Run>,
    virtual_size_bytes: u64,
    committed: bool,
    seed: u64,
}

impl LayerPlan {
    fn bytes(&self) -> Vec<u8> {
        let size = self.virtual_size_bytes;
        let fits = |run: &Run| (run.first_sector + run.len_sectors) * 512 <= size;
        // Our writer does not write beyond the end of its disk; resized systems have such layers all the same.
        if self.committed && (size == 0 || self.runs.iter().all(fits)) {
            committed(&self.runs, size)
        } else {
            sealed_in_place(&self.runs, size, self.seed)
        }
    }
}

fn committed(runs: &[Run], virtual_size_bytes: u64) -> Vec<u8> {
    let options = WriterOptions {
        virtual_size_bytes,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    for run in runs {
        match &run.data {
            Some(bytes) => writer.data(run.first_sector, bytes).unwrap(),
            None => writer.zeroed(run.first_sector, run.len_sectors).unwrap(),
        }
    }
    writer.finish().unwrap()
}

/// Runs that do not overlap and often touch; every data sector of a stack differs from every other.
fn runs() -> impl Strategy<Value = Vec<Run>> {
    let gap = prop_oneof![Just(0_u64), 0..40_u64];
    let len = prop_oneof![1..4_u64, 1..60_u64];
    let run = (gap, len, any::<bool>(), any::<u64>());
    prop::collection::vec(run, 0..16).prop_map(|parts| {
        let mut at = 0;
        let mut runs = Vec::new();
        for (gap, len_sectors, zeroed, seed) in parts {
            let first_sector = at + gap;
            at = first_sector + len_sectors;
            if at > REACH_SECTORS {
                break;
            }
            let len_bytes = usize::try_from(len_sectors).unwrap() * SECTOR;
            runs.push(Run {
                first_sector,
                len_sectors,
                data: (!zeroed).then(|| noise(len_bytes, seed)),
            });
        }
        runs
    })
}

fn layer_plan() -> impl Strategy<Value = LayerPlan> {
    let sectors = prop_oneof![Just(0_u64), 1..REACH_SECTORS / 2];
    (runs(), sectors, any::<bool>(), any::<u64>()).prop_map(|(runs, sectors, committed, seed)| {
        LayerPlan {
            runs,
            virtual_size_bytes: sectors * 512,
            committed,
            seed,
        }
    })
}

fn stack() -> impl Strategy<Value = Vec<LayerPlan>> {
    prop::collection::vec(layer_plan(), 1..=12).prop_filter("a disk needs a size", |layers| {
        layers.iter().any(|layer| layer.virtual_size_bytes > 0)
    })
}

fn open(layers: &[LayerPlan]) -> Disk<MemoryBlob> {
    let layers = layers
        .iter()
        .map(|layer| Layer::open(MemoryBlob::new(layer.bytes())).unwrap())
        .collect();
    Disk::new(layers).unwrap()
}

/// The plain byte array.
fn model(layers: &[LayerPlan]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(REACH_SECTORS).unwrap() * SECTOR];
    for run in layers.iter().flat_map(|layer| &layer.runs) {
        let first = usize::try_from(run.first_sector).unwrap() * SECTOR;
        let len = usize::try_from(run.len_sectors).unwrap() * SECTOR;
        match &run.data {
            Some(data) => bytes[first..first + len].copy_from_slice(data),
            None => bytes[first..first + len].fill(0),
        }
    }
    let sizes = layers.iter().rev().map(|layer| layer.virtual_size_bytes);
    let size = sizes.into_iter().find(|size| *size > 0).unwrap();
    bytes.truncate(usize::try_from(size).unwrap());
    bytes
}

/// Checks what `resolve` promises and returns what its extents read as.
fn read_by_extents(disk: &Disk<MemoryBlob>, offset: u64, len_bytes: u64) -> Vec<u8> {
    let mut extents = vec![Extent::Zero {
        disk_offset: 7,
        len_bytes: 7,
    }];
    disk.resolve(offset, len_bytes, &mut extents).unwrap();
    let mut at = offset;
    let mut bytes = Vec::new();
    for extent in &extents {
        assert_eq!(extent.disk_offset(), at, "no gap, no overlap");
        assert!(extent.len_bytes() > 0, "no empty extent");
        at += extent.len_bytes();
        let mut piece = vec![0xA5; usize::try_from(extent.len_bytes()).unwrap()];
        disk.read_extent(extent, &mut piece).unwrap();
        for (offset, skipped) in [(extent.disk_offset(), 0), (at - 1, extent.len_bytes() - 1)] {
            let expected = match *extent {
                Extent::Zero { .. } => None,
                Extent::Data {
                    layer,
                    layer_offset,
                    ..
                } => Some((layer, layer_offset + skipped)),
            };
            assert_eq!(disk.locate(offset), expected, "byte {offset}");
        }
        if let Extent::Data {
            layer,
            layer_offset,
            ..
        } = *extent
        {
            let mut direct = vec![0; piece.len()];
            let source = disk.layers()[usize::from(layer)].source();
            source.read_exact_at(&mut direct, layer_offset).unwrap();
            assert!(direct == piece, "an extent says where its bytes are");
        }
        bytes.extend(piece);
    }
    assert_eq!(at, offset + len_bytes, "the whole range");
    for pair in extents.windows(2) {
        assert!(!could_be_one(pair[0], pair[1]), "{pair:?} should be one");
    }
    bytes
}

fn could_be_one(a: Extent, b: Extent) -> bool {
    match (a, b) {
        (Extent::Zero { .. }, Extent::Zero { .. }) => true,
        (
            Extent::Data {
                layer,
                layer_offset,
                len_bytes,
                ..
            },
            Extent::Data {
                layer: next_layer,
                layer_offset: next_offset,
                ..
            },
        ) => layer == next_layer && layer_offset + len_bytes == next_offset,
        _ => false,
    }
}

proptest! {
    #[test]
    fn any_stack_reads_like_an_array(
        layers in stack(),
        spots in prop::collection::vec((any::<prop::sample::Index>(), 0..9000_usize), 20),
    ) {
        let (disk, expected) = (open(&layers), model(&layers));
        prop_assert_eq!(disk.len_bytes(), expected.len() as u64);
        prop_assert_eq!(disk.len_sectors() * 512, disk.len_bytes());
        assert!(read_by_extents(&disk, 0, disk.len_bytes()) == expected);
        conformance(&disk, &expected);
        for (spot, len) in spots {
            let offset = spot.index(expected.len());
            let len = len.min(expected.len() - offset);
            let mut bytes = vec![0xA5; len];
            disk.read_exact_at(&mut bytes, offset as u64).unwrap();
            assert!(bytes == expected[offset..offset + len], "{len} bytes at {offset}");
            assert!(read_by_extents(&disk, offset as u64, len as u64) == bytes);
        }
    }

    #[test]
    fn making_a_layer_the_other_way_changes_nothing(runs in runs(), seed in any::<u64>()) {
        let size = REACH_SECTORS * 512;
        let plan = |committed| LayerPlan { runs: runs.clone(), virtual_size_bytes: size, committed, seed };
        let (ours, theirs) = (open(&[plan(true)]), open(&[plan(false)]));
        let (a, b) = (ours.layers()[0].info(), theirs.layers()[0].info());
        prop_assert_eq!(a.data_sectors, b.data_sectors);
        let mut bytes = [vec![0; 300 * SECTOR], vec![0; 300 * SECTOR]];
        ours.read_exact_at(&mut bytes[0], 0).unwrap();
        theirs.read_exact_at(&mut bytes[1], 0).unwrap();
        assert!(bytes[0] == bytes[1]);
    }
}

#[test]
fn range_outside_the_disk_is_out_of_range_and_leaves_no_extents() {
    let disk = open(&[LayerPlan {
        runs: Vec::new(),
        virtual_size_bytes: 1024,
        committed: true,
        seed: 0,
    }]);
    for (offset, len_bytes) in [
        (0, 1025),
        (1024, 1),
        (1025, 0),
        (u64::MAX, 1),
        (1, u64::MAX),
    ] {
        let mut extents = vec![Extent::Zero {
            disk_offset: 0,
            len_bytes: 1,
        }];
        let error = disk.resolve(offset, len_bytes, &mut extents).unwrap_err();
        assert_eq!(
            error.kind(),
            ReadErrorKind::OutOfRange,
            "{offset} {len_bytes}"
        );
        assert_eq!(extents, []);
    }
    for offset in [1024, u64::MAX] {
        assert_eq!(disk.locate(offset), None, "{offset}");
    }
    let mut extents = Vec::new();
    disk.resolve(1024, 0, &mut extents).unwrap();
    assert_eq!(extents, []);
}

#[test]
fn extent_of_another_disk_is_out_of_range() {
    let disk = open(&[LayerPlan {
        runs: Vec::new(),
        virtual_size_bytes: 1024,
        committed: true,
        seed: 0,
    }]);
    let foreign = Extent::Data {
        disk_offset: 512,
        len_bytes: 512,
        layer: 1,
        layer_offset: 4096,
    };
    let short = Extent::Zero {
        disk_offset: 512,
        len_bytes: 511,
    };
    for extent in [foreign, short] {
        let error = disk.read_extent(&extent, &mut [0; 512]).unwrap_err();
        assert_eq!(
            (error.kind(), error.offset()),
            (ReadErrorKind::OutOfRange, 512)
        );
    }
}

/// A source whose data area is so large that it exists only as a rule: every sector holds its own number.
struct Numbered {
    layer: Vec<u8>,
    index_offset: u64,
    shift: u64,
}

impl ReadAt for Numbered {
    fn len_bytes(&self) -> u64 {
        self.layer.len() as u64 + self.shift
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), blob::ReadError> {
        if offset >= self.index_offset {
            return MemoryBlob::new(self.layer.clone()).read_exact_at(buf, offset - self.shift);
        }
        if offset == 0 {
            buf.copy_from_slice(&self.layer[..buf.len()]);
            return Ok(());
        }
        for (byte, at) in buf.iter_mut().zip(offset..) {
            *byte = (at / 512).to_le_bytes()[usize::try_from(at % 8).unwrap()];
        }
        Ok(())
    }
}

#[test]
fn three_tebibytes_with_data_around_two_and_at_the_end() {
    let size = 3_u64 << 40;
    let edge = 1_u64 << 32;
    let last = size / 512 - 1;
    let spots = [0, edge - 2, edge - 1, edge, edge + 1, last - 1, last];
    let run = |sector: u64| Run {
        first_sector: sector,
        len_sectors: 1,
        data: Some(vec![u8::try_from(sector % 251).unwrap(); SECTOR]),
    };
    let plan = |spots: &[u64], zeroed: Option<u64>| LayerPlan {
        runs: spots
            .iter()
            .map(|spot| Run {
                data: run(*spot).data.filter(|_| zeroed != Some(*spot)),
                ..run(*spot)
            })
            .collect(),
        virtual_size_bytes: size,
        committed: true,
        seed: 3,
    };
    let disk = open(&[
        plan(&spots, None),
        plan(&[edge - 1, edge + 1], Some(edge + 1)),
    ]);
    assert_eq!(disk.len_bytes(), size);
    for spot in spots {
        let mut bytes = [0xA5; SECTOR];
        disk.read_exact_at(&mut bytes, spot * 512).unwrap();
        let expected = if spot == edge + 1 {
            0
        } else {
            u8::try_from(spot % 251).unwrap()
        };
        assert_eq!(bytes, [expected; SECTOR], "sector {spot}");
        // The same place modulo 2^32 sectors is a hole.
        let other = if spot >= edge {
            spot - edge
        } else {
            spot + edge
        };
        if !spots.contains(&other) && other <= last {
            disk.read_exact_at(&mut bytes, other * 512).unwrap();
            assert_eq!(bytes, [0; SECTOR], "sector {other}");
        }
    }
    let mut extents = Vec::new();
    disk.resolve(0, size, &mut extents).unwrap();
    assert_eq!(extents.len(), 7, "{extents:?}");
    assert!(disk.read_exact_at(&mut [0; 2], size - 1).is_err());
}

#[test]
fn layer_longer_than_four_gibibytes_is_addressed_in_full() {
    // One record whose data lies beyond 4 GiB of the layer; everything between is a rule, not bytes.
    let shift = 5_u64 << 30;
    let mut layer = committed(
        &[Run {
            first_sector: 0,
            len_sectors: 1,
            data: Some(vec![0; SECTOR]),
        }],
        512,
    );
    let trailer = layer.len() - 4096;
    let index_offset = 4096 + 512 + shift;
    layer[trailer + 32..trailer + 40].copy_from_slice(&index_offset.to_le_bytes());
    let mapped = (4096 + shift) / 512;
    layer[4096 + 512 + 8..4096 + 512 + 16].copy_from_slice(&mapped.to_le_bytes());
    let source = Numbered {
        layer,
        index_offset,
        shift,
    };
    let disk = Disk::new(vec![Layer::open(source).unwrap()]).unwrap();
    let mut bytes = [0; 16];
    disk.read_exact_at(&mut bytes, 496).unwrap();
    assert_eq!(bytes[8..], mapped.to_le_bytes());
}
