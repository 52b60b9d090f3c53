//! Disks and stacks as plain byte arrays, to compare with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blob::test_util::noise;
use builder::{Content, ContentError, LayerOptions, Output, Packing, Stretch};
use image::{Image, Reader};
use lsmt::test_util::{Run, sealed_in_place};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use tempfile::TempDir;

pub(crate) const SECTOR: usize = 512;
/// Sectors that records can reach; disks are mostly shorter.
const REACH_SECTORS: u64 = 300;

/// A disk in memory, whose stretches are `cut` bytes long at most; some of its zeroes are holes.
pub(crate) struct Memory {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cut: usize,
}

impl Content for Memory {
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn stretch_at(&self, offset: u64) -> Result<Stretch, ContentError> {
        let offset = usize::try_from(offset).unwrap();
        let number = offset / self.cut;
        let end = ((number + 1) * self.cut).min(self.bytes.len());
        let is_zero = self.bytes[number * self.cut..end]
            .iter()
            .all(|byte| *byte == 0);
        let end = end as u64;
        Ok(match is_zero && !number.is_multiple_of(5) {
            true => Stretch::Zero { end },
            false => Stretch::Data { end },
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError> {
        let offset = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.bytes[offset..][..buf.len()]);
        Ok(())
    }
}

/// A layer as live systems leave them behind.
#[derive(Clone, Debug)]
pub(crate) struct LayerPlan {
    pub(crate) runs: Vec<Run>,
    /// 0 leaves it to others.
    pub(crate) virtual_size_bytes: u64,
    pub(crate) seed: u64,
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let gap = prop_oneof![Just(0_u64), 0..40_u64];
    let len = prop_oneof![1..4_u64, 1..60_u64];
    // Data, data that is zero, or zeroed.
    let kind = 0..5_u8;
    prop::collection::vec((gap, len, kind, any::<u64>()), 0..12).prop_map(|plans| {
        let mut first_sector = 0;
        let mut runs = Vec::new();
        for (gap, len_sectors, kind, seed) in plans {
            first_sector += gap;
            if first_sector + len_sectors > REACH_SECTORS {
                break;
            }
            let len = usize::try_from(len_sectors).unwrap() * SECTOR;
            runs.push(Run {
                first_sector,
                len_sectors,
                data: match kind {
                    0 => None,
                    1 => Some(vec![0; len]),
                    _ => Some(noise(len, seed)),
                },
            });
            first_sector += len_sectors;
        }
        runs
    })
}

/// Layers of sizes of their own, at least one of which says how long the disk is.
pub(crate) fn stacks() -> impl Strategy<Value = Vec<LayerPlan>> {
    let size = prop_oneof![1 => Just(0_u64), 4 => 1..REACH_SECTORS];
    let layer = (runs(), size, any::<u64>()).prop_map(|(runs, size, seed)| LayerPlan {
        runs,
        virtual_size_bytes: size * 512,
        seed,
    });
    prop::collection::vec(layer, 1..6).prop_map(|mut layers| {
        if layers.iter().all(|layer| layer.virtual_size_bytes == 0) {
            layers[0].virtual_size_bytes = 100 * 512;
        }
        layers
    })
}

/// What a disk of `len` bytes holds on which these layers lie.
pub(crate) fn flat(layers: &[LayerPlan], len: usize) -> Vec<u8> {
    let reach = usize::try_from(REACH_SECTORS).unwrap() * SECTOR;
    let mut disk = vec![0; reach.max(len)];
    for run in layers.iter().flat_map(|layer| &layer.runs) {
        let start = usize::try_from(run.first_sector).unwrap() * SECTOR;
        let len = usize::try_from(run.len_sectors).unwrap() * SECTOR;
        match &run.data {
            Some(data) => disk[start..][..len].copy_from_slice(data),
            None => disk[start..][..len].fill(0),
        }
    }
    disk.truncate(len);
    disk
}

/// How long the disk is that these layers make.
pub(crate) fn len(layers: &[LayerPlan]) -> usize {
    let sizes = layers.iter().rev().map(|layer| layer.virtual_size_bytes);
    let size = sizes.into_iter().find(|size| *size > 0).unwrap();
    usize::try_from(size).unwrap()
}

/// Files for layers.
pub(crate) struct Files {
    pub(crate) dir: TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn output(&self, name: &str) -> Output {
        Output::create(&self.path(name), true, &[]).unwrap()
    }

    /// The layers as files.
    pub(crate) fn write(&self, layers: &[LayerPlan]) -> Vec<PathBuf> {
        let write = |(number, layer): (usize, &LayerPlan)| {
            let path = self.path(&format!("layer{number}"));
            let bytes = sealed_in_place(&layer.runs, layer.virtual_size_bytes, layer.seed);
            fs::write(&path, bytes).unwrap();
            path
        };
        layers.iter().enumerate().map(write).collect()
    }
}

/// What a stack of layers reads as.
pub(crate) fn read<P: AsRef<Path>>(paths: &[P]) -> Vec<u8> {
    let image = Image::open(paths).unwrap();
    let mut bytes = vec![1; usize::try_from(image.len_bytes()).unwrap()];
    let mut reader = Reader::new(Arc::new(image));
    reader.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// A plain layer, made by so many threads.
pub(crate) fn options(len: usize, threads: usize) -> LayerOptions {
    let packing = Packing {
        threads,
        ..Packing::default()
    };
    LayerOptions::new(packing, len as u64)
}
