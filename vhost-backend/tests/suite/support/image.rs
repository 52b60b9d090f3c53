//! Disks with known content, made by the project's own writers.

use std::path::PathBuf;
use std::sync::Arc;

use blob::test_util::noise;
use blob::{MemoryBlob, ReadAt};
use image::Image;
use vhost_backend::device::Device;
use vhost_backend::limits::DeviceLimits;

/// Size of the disk of [`layers`], in sectors: not a multiple of anything convenient.
pub(crate) const SECTORS: u64 = 4099;

/// Three layers, plain, LZ4 and zstd, and the content they make together.
pub(crate) fn layers() -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut disk = vec![0; usize::try_from(SECTORS).unwrap() * 512];
    let base = layer(&mut disk, &[(1, 2000, Some(1)), (2100, 1999, Some(2))]);
    let middle = layer(
        &mut disk,
        &[(7, 3, None), (500, 333, Some(3)), (3000, 1, Some(4))],
    );
    let top = layer(
        &mut disk,
        &[(510, 5, Some(5)), (600, 10, None), (4098, 1, Some(6))],
    );
    let middle = compress(&middle, zfile::Algorithm::Lz4, 4096);
    let top = compress(&top, zfile::Algorithm::Zstd, 65_536);
    (vec![base, middle, top], disk)
}

/// A layer with these `(first sector, sectors, noise seed or zeroed)` pieces, painted onto `disk` as well.
pub(crate) fn layer(disk: &mut [u8], pieces: &[(u64, usize, Option<u64>)]) -> Vec<u8> {
    let options = lsmt::WriterOptions {
        virtual_size_bytes: disk.len() as u64,
        ..Default::default()
    };
    let mut writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
    for (first, sectors, seed) in pieces {
        let start = usize::try_from(*first).unwrap() * 512;
        let range = &mut disk[start..start + sectors * 512];
        match seed {
            Some(seed) => {
                // Half noise, half pattern: it must compress, but not to nothing.
                range.copy_from_slice(&noise(sectors * 512, *seed));
                range
                    .chunks_mut(64)
                    .for_each(|chunk| chunk[32..].fill(u8::try_from(*seed).unwrap()));
                writer.data(*first, range).unwrap();
            }
            None => {
                range.fill(0);
                writer.zeroed(*first, *sectors as u64).unwrap();
            }
        }
    }
    writer.finish().unwrap()
}

pub(crate) fn compress(
    bytes: &[u8],
    algorithm: zfile::Algorithm,
    block_size_bytes: u32,
) -> Vec<u8> {
    let options = zfile::WriterOptions {
        algorithm,
        block_size_bytes,
        ..Default::default()
    };
    let mut writer = zfile::Writer::new(Vec::new(), options).unwrap();
    writer.append(bytes).unwrap();
    writer.finish_overwriting().unwrap()
}

pub(crate) fn device_of(blobs: Vec<Vec<u8>>) -> Arc<Device> {
    let blobs = blobs.into_iter().enumerate().map(|(ordinal, bytes)| {
        let name = PathBuf::from(format!("memory-{ordinal}"));
        (name, Box::new(MemoryBlob::new(bytes)) as Box<dyn ReadAt>)
    });
    device_with(blobs.collect())
}

pub(crate) fn device_with(blobs: Vec<(PathBuf, Box<dyn ReadAt>)>) -> Arc<Device> {
    let image = Image::from_blobs(blobs).unwrap();
    Arc::new(Device::new(Arc::new(image), None, DeviceLimits::default()))
}

/// The usual device and the content of its disk.
pub(crate) fn device() -> (Arc<Device>, Vec<u8>) {
    let (layers, disk) = layers();
    (device_of(layers), disk)
}
