//! Opening a stack of layers.

use std::path::{Path, PathBuf};

use blob::{FileBlob, Window};
use lsmt::Disk;
use zfile::ZFile;

use crate::cache::BlockCache;
use crate::error::{LayerError, OpenError};
use crate::shown::Shown;
use crate::source::{Bytes, Source};

/// Records of all layers together that are held at once before they are merged: 16 bytes each, so 512 MiB.
///
/// Each layer keeps its index until the last one is open. 255 layers with as many records as each of them may
/// have would hold 4 GB, and a ZFile can pack such a stack into a few megabytes. Stacks in use have thousands
/// of records, and a merged index ends at half of this anyway (see [`lsmt::MAX_SEGMENTS`]).
pub const MAX_RECORDS: usize = 32 << 20;
const _: () = assert!(
    MAX_RECORDS >= lsmt::MAX_SEGMENTS && MAX_RECORDS as u64 >= lsmt::MAX_INDEX_RECORDS,
    "whatever one layer or a merged index may hold, a stack may"
);

/// A stack of layers, open, checked and merged: one read-only disk.
#[derive(Debug)]
pub struct Image {
    disk: Disk<Source>,
    paths: Vec<PathBuf>,
    cache: BlockCache,
}

impl Image {
    /// Opens the layers at `paths`, lowest first. Every layer is checked before this returns.
    ///
    /// # Errors
    ///
    /// The first layer that cannot be used, by ordinal and path, or why the layers make no disk together.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self, OpenError> {
        Self::open_files(paths, None)
    }

    /// Opens the layers at `paths`, lowest first, as they are seen below a layer that states the size `len_bytes`, a
    /// multiple of 512: the disk is that long, and what the layers hold up to there counts, whatever they say.
    ///
    /// # Errors
    ///
    /// As for [`Image::open`], but no layer need state a size.
    pub fn open_with_len<P: AsRef<Path>>(paths: &[P], len_bytes: u64) -> Result<Self, OpenError> {
        Self::open_files(paths, Some(len_bytes))
    }

    fn open_files<P: AsRef<Path>>(paths: &[P], len_bytes: Option<u64>) -> Result<Self, OpenError> {
        check_layer_count(paths.len())?;
        let blobs = paths.iter().map(|path| {
            let path = path.as_ref();
            (
                path.to_owned(),
                FileBlob::open(path)
                    .map(|file| Box::new(file) as Bytes)
                    .map_err(LayerError::from),
            )
        });
        Self::stack(blobs, MAX_RECORDS, len_bytes)
    }

    /// Opens layers that are already open as byte sources, lowest first; the paths are names for messages.
    ///
    /// This is where faults are injected: everything an image ever reads comes through these sources.
    ///
    /// # Errors
    ///
    /// As for [`Image::open`].
    pub fn from_blobs(blobs: Vec<(PathBuf, Bytes)>) -> Result<Self, OpenError> {
        check_layer_count(blobs.len())?;
        let blobs = blobs.into_iter().map(|(path, bytes)| (path, Ok(bytes)));
        Self::stack(blobs, MAX_RECORDS, None)
    }

    fn stack(
        blobs: impl Iterator<Item = (PathBuf, Result<Bytes, LayerError>)>,
        max_records: usize,
        len_bytes: Option<u64>,
    ) -> Result<Self, OpenError> {
        let mut paths = Vec::new();
        let mut layers = Vec::new();
        let mut record_count = 0_usize;
        for (ordinal, (path, bytes)) in blobs.enumerate() {
            let layer = bytes
                .and_then(Source::from_blob)
                .and_then(Source::into_layer)
                .map_err(|source| OpenError::Layer {
                    ordinal,
                    path: path.clone(),
                    source,
                })?;
            // Counted as layers open, so that at most one layer is held beyond the budget.
            record_count = record_count.saturating_add(layer.info().segment_count);
            if record_count > max_records {
                return Err(OpenError::TooManyRecords {
                    ordinal,
                    path,
                    found: record_count,
                    max: max_records,
                });
            }
            layers.push(layer);
            paths.push(path);
        }
        let layer_count = layers.len();
        let disk = match len_bytes {
            None => Disk::new(layers),
            Some(len_bytes) => Disk::with_len(layers, len_bytes),
        };
        let disk = disk.map_err(|source| OpenError::Stack {
            layer_count,
            source,
        })?;
        let cache = BlockCache::new(0);
        Ok(Self { disk, paths, cache })
    }

    /// The same image, with room for at most `len_bytes` bytes of decoded blocks: those of which a read wanted only
    /// a part are kept for the reads that want the rest. Shared by all its readers. Without it, nothing is kept.
    #[must_use]
    pub fn with_cache(self, len_bytes: usize) -> Self {
        Self {
            cache: BlockCache::new(len_bytes),
            ..self
        }
    }

    /// Whether there is room for decoded blocks at all.
    #[must_use]
    pub fn keeps_blocks(&self) -> bool {
        self.cache.is_enabled()
    }

    pub(crate) fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// The ZFile that a layer is in, if it is in one.
    pub(crate) fn zfile(&self, ordinal: usize) -> Option<&ZFile<Window<Bytes>>> {
        self.disk.layers().get(ordinal)?.source().zfile()
    }

    /// The merged disk.
    #[must_use]
    pub fn disk(&self) -> &Disk<Source> {
        &self.disk
    }

    /// Length of the disk in bytes, a multiple of 512.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    /// The path of a layer, as it was given.
    #[must_use]
    pub fn path(&self, ordinal: usize) -> &Path {
        self.paths
            .get(ordinal)
            .map_or(Path::new("?"), PathBuf::as_path)
    }

    /// Peculiarities that are legal but worth a line in a log, each with the layer it was found in.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (ordinal, layer) in self.disk.layers().iter().enumerate() {
            let mut warn = |text: String| {
                warnings.push(format!(
                    "layer {ordinal} ({}): {text}",
                    Shown(self.path(ordinal))
                ));
            };
            if let Source::Compressed(zfile) = layer.source() {
                zfile
                    .info()
                    .warnings
                    .iter()
                    .for_each(|warning| warn(warning.to_string()));
            }
            layer
                .info()
                .warnings
                .iter()
                .for_each(|warning| warn(warning.to_string()));
        }
        warnings
    }
}

/// Before any file is opened: a list of a million paths should not open a million files.
fn check_layer_count(layer_count: usize) -> Result<(), OpenError> {
    let source = match layer_count {
        0 => lsmt::StackError::NoLayers,
        1..=lsmt::MAX_LAYERS => return Ok(()),
        _ => lsmt::StackError::TooManyLayers {
            count: layer_count,
            max: lsmt::MAX_LAYERS,
        },
    };
    Err(OpenError::Stack {
        layer_count,
        source,
    })
}

#[cfg(test)]
mod tests {
    use blob::MemoryBlob;

    use super::*;

    /// A layer of three records.
    fn layer() -> Bytes {
        let options = lsmt::WriterOptions {
            virtual_size_bytes: 1 << 20,
            ..lsmt::WriterOptions::default()
        };
        let mut writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
        for sector in [0, 10, 20] {
            writer.data(sector, &[7; 512]).unwrap();
        }
        Box::new(MemoryBlob::new(writer.finish().unwrap()))
    }

    fn stack(layer_count: usize, max_records: usize) -> Result<Image, OpenError> {
        let blob = |ordinal| (PathBuf::from(format!("/layers/{ordinal}")), Ok(layer()));
        Image::stack((0..layer_count).map(blob), max_records, None)
    }

    #[test]
    fn records_of_all_layers_count_against_one_budget() {
        assert!(stack(3, 9).is_ok());
        let error = stack(3, 8).unwrap_err();
        assert_eq!(
            error.to_string(),
            "layer 2 (/layers/2): 9 index records in the layers up to this one are more than the limit of 8"
        );
        // The first layer beyond is named, and none after it is opened.
        let error = stack(200, 8).unwrap_err();
        assert!(matches!(
            error,
            OpenError::TooManyRecords {
                ordinal: 2,
                found: 9,
                max: 8,
                ..
            }
        ));
    }
}
