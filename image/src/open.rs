//! Opening a stack of layers.

use std::path::{Path, PathBuf};

use blob::FileBlob;
use lsmt::{Disk, Layer};

use crate::error::{LayerError, OpenError};
use crate::probe;
use crate::source::{Bytes, Source};

/// A stack of layers, open, checked and merged: one read-only disk.
#[derive(Debug)]
pub struct Image {
    disk: Disk<Source>,
    paths: Vec<PathBuf>,
}

impl Image {
    /// Opens the layers at `paths`, lowest first. Every layer is checked before this returns.
    ///
    /// # Errors
    ///
    /// The first layer that cannot be used, by ordinal and path, or why the layers make no disk together.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self, OpenError> {
        check_layer_count(paths.len())?;
        Self::stack(paths.iter().map(|path| {
            let path = path.as_ref();
            (
                path.to_owned(),
                FileBlob::open(path)
                    .map(|file| Box::new(file) as Bytes)
                    .map_err(LayerError::from),
            )
        }))
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
        Self::stack(blobs.into_iter().map(|(path, bytes)| (path, Ok(bytes))))
    }

    fn stack(
        blobs: impl Iterator<Item = (PathBuf, Result<Bytes, LayerError>)>,
    ) -> Result<Self, OpenError> {
        let mut paths = Vec::new();
        let mut layers = Vec::new();
        for (ordinal, (path, bytes)) in blobs.enumerate() {
            let layer = bytes
                .and_then(probe::unwrap)
                .and_then(|source| Layer::open(source).map_err(LayerError::Lsmt))
                .map_err(|source| OpenError::Layer {
                    ordinal,
                    path: path.clone(),
                    source,
                })?;
            layers.push(layer);
            paths.push(path);
        }
        let layer_count = layers.len();
        let disk = Disk::new(layers).map_err(|source| OpenError::Stack {
            layer_count,
            source,
        })?;
        Ok(Self { disk, paths })
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
                    self.path(ordinal).display()
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
