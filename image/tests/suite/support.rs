//! Layers, their packings, and how disks are compared. The tar header is written down a second time here, so
//! that a mistake in the reader's own idea of it shows.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blob::MemoryBlob;
use blob::test_util::noise;
use image::{Image, OpenError, ReadFailure, Reader};
use zfile::Algorithm;

pub(crate) const SECTOR: usize = 512;

/// Says why a test does nothing, past the macros for printing, whose output a passing test keeps to itself.
pub(crate) fn skipped(why: &str) {
    std::io::stderr()
        .write_all(format!("SKIPPED: {why}\n").as_bytes())
        .unwrap();
}

/// An error and its causes in one line, as a person sees them.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What stands around a layer or its ZFile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrapper {
    Bare,
    Ustar,
    Pax,
}

pub(crate) const WRAPPERS: [Wrapper; 3] = [Wrapper::Bare, Wrapper::Ustar, Wrapper::Pax];

impl Wrapper {
    pub(crate) fn wrap(self, payload: &[u8]) -> Vec<u8> {
        let size = payload.len();
        let mut tar = match self {
            Self::Bare => return payload.to_vec(),
            Self::Ustar => tar_header("overlaybd.commit", b'0', size),
            Self::Pax => {
                let body = format!(" size={size}\n");
                let len = (1..99).find(|len| len.to_string().len() + body.len() == *len);
                let record = format!("{}{body}", len.unwrap());
                let mut tar = tar_header("overlaybd.pax", b'x', record.len());
                tar.extend(record.as_bytes());
                tar.resize(2 * SECTOR, 0);
                tar.extend(tar_header("overlaybd.commit", b'0', 0));
                tar
            }
        };
        tar.extend(payload);
        tar.resize(tar.len().next_multiple_of(SECTOR) + 2 * SECTOR, 0);
        tar
    }
}

pub(crate) fn tar_header(name: &str, member_type: u8, size: usize) -> Vec<u8> {
    let mut block = vec![0; SECTOR];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = member_type;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let checksum = tar_checksum(&block);
    block[148..156].copy_from_slice(&checksum);
    block
}

/// What belongs into the checksum field of a header.
pub(crate) fn tar_checksum(block: &[u8]) -> [u8; 8] {
    let bytes = block[..148].iter().chain(&block[156..SECTOR]);
    let sum = bytes.map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
    format!("{sum:06o}\0 ").as_bytes().try_into().unwrap()
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zip {
    pub(crate) algorithm: Algorithm,
    pub(crate) block_size_bytes: u32,
    pub(crate) verify: bool,
    /// Which of the two forms of the header.
    pub(crate) overwritten: bool,
}

impl Zip {
    pub(crate) fn pack(self, content: &[u8]) -> Vec<u8> {
        let options = zfile::WriterOptions {
            algorithm: self.algorithm,
            block_size_bytes: self.block_size_bytes,
            verify: self.verify,
            allow_oversized_blocks: true,
            level: None,
        };
        let mut writer = zfile::Writer::new(Vec::new(), options).unwrap();
        writer.append(content).unwrap();
        match self.overwritten {
            true => writer.finish_overwriting().unwrap(),
            false => writer.finish().unwrap(),
        }
    }
}

pub(crate) const LZ4: Zip = Zip {
    algorithm: Algorithm::Lz4,
    block_size_bytes: 4096,
    verify: true,
    overwritten: true,
};

pub(crate) const ZSTD: Zip = Zip {
    algorithm: Algorithm::Zstd,
    block_size_bytes: 4096,
    verify: true,
    overwritten: false,
};

/// How a layer becomes a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    pub(crate) wrapper: Wrapper,
    pub(crate) zip: Option<Zip>,
}

impl Packing {
    pub(crate) fn pack(self, layer: &[u8]) -> Vec<u8> {
        let inner = self
            .zip
            .map_or_else(|| layer.to_vec(), |zip| zip.pack(layer));
        self.wrapper.wrap(&inner)
    }
}

/// Every wrapper around a raw layer and around ZFiles of both algorithms and forms.
pub(crate) fn packings() -> Vec<Packing> {
    let zips = [
        None,
        Some(LZ4),
        Some(Zip {
            overwritten: false,
            ..LZ4
        }),
        Some(ZSTD),
        Some(Zip {
            overwritten: true,
            ..ZSTD
        }),
    ];
    WRAPPERS
        .into_iter()
        .flat_map(|wrapper| zips.map(|zip| Packing { wrapper, zip }))
        .collect()
}

/// A range of a disk as a layer decides it: data from a seed, or zeroes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) first_sector: u64,
    pub(crate) len_sectors: u64,
    pub(crate) seed: Option<u64>,
}

impl Range {
    pub(crate) fn data(first_sector: u64, len_sectors: u64, seed: u64) -> Self {
        Self {
            first_sector,
            len_sectors,
            seed: Some(seed),
        }
    }

    pub(crate) fn zeroed(first_sector: u64, len_sectors: u64) -> Self {
        Self {
            first_sector,
            len_sectors,
            seed: None,
        }
    }

    /// Sectors that compress and sectors that do not, in turn.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let len = usize::try_from(self.len_sectors).unwrap() * SECTOR;
        let Some(seed) = self.seed else {
            return vec![0; len];
        };
        let mut bytes = noise(len, seed);
        for sector in bytes.chunks_mut(SECTOR).skip(1).step_by(2) {
            sector.iter_mut().for_each(|byte| *byte &= 3);
        }
        bytes
    }
}

/// A committed layer of a disk of so many sectors.
pub(crate) fn layer(ranges: &[Range], disk_sectors: u64) -> Vec<u8> {
    tagged_layer(ranges, disk_sectors, b"")
}

pub(crate) fn tagged_layer(ranges: &[Range], disk_sectors: u64, user_tag: &[u8]) -> Vec<u8> {
    let options = lsmt::WriterOptions {
        virtual_size_bytes: disk_sectors * 512,
        user_tag: user_tag.to_vec(),
        ..lsmt::WriterOptions::default()
    };
    let mut writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
    for range in ranges {
        match range.seed {
            Some(_) => writer.data(range.first_sector, &range.bytes()).unwrap(),
            None => writer
                .zeroed(range.first_sector, range.len_sectors)
                .unwrap(),
        }
    }
    writer.finish().unwrap()
}

/// What a disk of so many sectors holds once the ranges were written over it, in order.
pub(crate) fn disk_bytes(ranges: &[Range], disk_sectors: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk_sectors).unwrap() * SECTOR];
    for range in ranges {
        let start = usize::try_from(range.first_sector).unwrap() * SECTOR;
        let data = range.bytes();
        bytes[start..start + data.len()].copy_from_slice(&data);
    }
    bytes
}

/// Opens blobs in memory, named `/layers/0` and on.
pub(crate) fn open(blobs: Vec<Vec<u8>>) -> Result<Arc<Image>, OpenError> {
    let named = blobs.into_iter().enumerate().map(|(ordinal, bytes)| {
        let blob: Box<dyn blob::ReadAt> = Box::new(MemoryBlob::new(bytes));
        (PathBuf::from(format!("/layers/{ordinal}")), blob)
    });
    Image::from_blobs(named.collect()).map(Arc::new)
}

pub(crate) fn read_all(image: &Arc<Image>) -> Result<Vec<u8>, ReadFailure> {
    let mut bytes = vec![0xA5; usize::try_from(image.len_bytes()).unwrap()];
    Reader::new(Arc::clone(image)).read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Writes a file into `dir` and returns its path.
pub(crate) fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
