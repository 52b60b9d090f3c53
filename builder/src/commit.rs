//! What a live system has written, into a layer.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blob::{FileBlob, ReadAt};
use image::Image;
use lsmt::{MAX_VIRTUAL_SIZE_BYTES, Segment, Unsealed, UnsealedError, Uuid};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::content::{ContentError, Stack};
use crate::error::BuildError;
use crate::layer::{self, LayerOptions, Written};
use crate::parallel::threads;
use crate::runs::{Run, RunSource, UnsealedSource, copy, data_bytes};
use crate::{Output, Progress};

/// The data file of a read-write layer, and its index file.
const WRITABLE: [&str; 2] = ["writable_data", "writable_index"];
/// What a layer is called in its directory that is sealed.
const SEALED: [&str; 3] = ["overlaybd.sealed", "overlaybd.commit", ".commit"];

/// A layer to be committed: read-write, or sealed already.
#[derive(Debug)]
pub struct Commit {
    layer: Found,
    /// Its files.
    pub paths: Vec<PathBuf>,
    /// Length of the disk in bytes; 0 leaves it to the layers below.
    pub virtual_size_bytes: u64,
    /// Name of the layer.
    pub uuid: Uuid,
    /// Name of the layer below.
    pub parent_uuid: Uuid,
    /// Free text.
    pub user_tag: Vec<u8>,
}

#[derive(Debug)]
enum Found {
    Unsealed(Unsealed<FileBlob>),
    Sealed(Stack),
}

/// The form a layer was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitForm {
    /// A data file and an index file.
    Appended,
    /// A data file with holes. What was discarded there has left no trace: layers below show through.
    Sparse,
    /// A layer that is sealed already.
    Sealed,
}

impl Commit {
    /// Opens the layer in a directory, `DIR`, that a live system keeps it in.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be used.
    pub fn open_dir(dir: &Path) -> Result<Self, BuildError> {
        let [data, index] = WRITABLE.map(|name| dir.join(name));
        if data.exists() {
            return match is_empty(&index) {
                true => Self::open_file(&data),
                false => Self::open_pair(&data, &index),
            };
        }
        let sealed = SEALED.map(|name| dir.join(name));
        match sealed.iter().find(|path| path.exists()) {
            Some(path) => Self::open_file(path),
            None => Err(BuildError::NotALayer {
                path: dir.to_owned(),
                what: "neither writable_data nor overlaybd.sealed nor overlaybd.commit is in it",
            }),
        }
    }

    /// Opens the read-write layer whose data and index files these are.
    ///
    /// # Errors
    ///
    /// When it cannot be used.
    pub fn open_pair(data: &Path, index: &Path) -> Result<Self, BuildError> {
        let index_file = open_file(index)?;
        let layer = Unsealed::open(open_file(data)?, &index_file).map_err(of_layer(data))?;
        Ok(Self::unsealed(
            layer,
            vec![data.to_owned(), index.to_owned()],
        ))
    }

    /// Opens the layer that is in one file: sealed, or sparse.
    ///
    /// # Errors
    ///
    /// When it cannot be used.
    pub fn open_file(path: &Path) -> Result<Self, BuildError> {
        let file = open_file(path)?;
        let sealed_image = || Image::open_with_len(&[path], MAX_VIRTUAL_SIZE_BYTES);
        if Unsealed::open_sparse(&file, &[]).is_err() {
            return Ok(Self::sealed(sealed_image()?, path));
        }
        let written = written(&file).map_err(|source| BuildError::Read {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let layer = Unsealed::open_sparse(file, &written).map_err(of_layer(path))?;
        // What a guest has written to the end of its disk may look like a trailer. Where the file ends with the disk,
        // it is none: a sealed one has index and trailer behind its data.
        let disk_end = layer.info().virtual_size_bytes + lsmt::HEADER_LEN_BYTES as u64;
        match layer.source().len_bytes() == disk_end {
            true => Ok(Self::unsealed(layer, vec![path.to_owned()])),
            false => match sealed_image() {
                Ok(image) => Ok(Self::sealed(image, path)),
                Err(_not_sealed) => Ok(Self::unsealed(layer, vec![path.to_owned()])),
            },
        }
    }

    fn unsealed(layer: Unsealed<FileBlob>, paths: Vec<PathBuf>) -> Self {
        let info = layer.info().clone();
        Self {
            layer: Found::Unsealed(layer),
            paths,
            virtual_size_bytes: info.virtual_size_bytes,
            uuid: info.uuid,
            parent_uuid: info.parent_uuid,
            user_tag: info.user_tag,
        }
    }

    fn sealed(image: Image, path: &Path) -> Self {
        let info = image.disk().layers().first().map(|layer| layer.info());
        let (virtual_size_bytes, uuid, parent_uuid, user_tag) = match info {
            Some(info) => (
                info.virtual_size_bytes,
                info.uuid,
                info.parent_uuid,
                info.user_tag.clone(),
            ),
            None => (0, Uuid::NIL, Uuid::NIL, Vec::new()),
        };
        Self {
            layer: Found::Sealed(Stack::new(Arc::new(image))),
            paths: vec![path.to_owned()],
            virtual_size_bytes,
            uuid,
            parent_uuid,
            user_tag,
        }
    }

    /// The form it was found in.
    #[must_use]
    pub fn form(&self) -> CommitForm {
        match &self.layer {
            Found::Unsealed(layer) if layer.info().is_sparse => CommitForm::Sparse,
            Found::Unsealed(_) => CommitForm::Appended,
            Found::Sealed(_) => CommitForm::Sealed,
        }
    }

    /// Writes the layer that decides the same, without what was overwritten. What lies beyond the end of the disk stays.
    ///
    /// # Errors
    ///
    /// When the layer cannot be read, or the new one not be written.
    pub fn write(
        &self,
        output: Output,
        options: &LayerOptions,
        progress: &dyn Progress,
    ) -> Result<Written, BuildError> {
        let options = options.keeping_leftovers();
        let options = &options;
        match &self.layer {
            Found::Unsealed(layer) => {
                let path = self.paths.first().map_or(Path::new("?"), PathBuf::as_path);
                let source = UnsealedSource { layer, path };
                write(layer.segments(), &source, output, options, progress)
            }
            Found::Sealed(stack) => {
                let segments = stack.image().disk().segments();
                write(segments, stack, output, options, progress)
            }
        }
    }
}

fn write(
    segments: &[Segment],
    source: &dyn RunSource,
    output: Output,
    options: &LayerOptions,
    progress: &dyn Progress,
) -> Result<Written, BuildError> {
    let runs = || segments.iter().map(Run::of);
    progress.begin("committing", Some(data_bytes(runs())));
    let threads = threads(options.packing.threads);
    let path = output.path().to_owned();
    let place = (path.as_path(), progress);
    layer::write(output, options, |writer| {
        copy(runs(), source, writer, threads, place)
    })
}

fn open_file(path: &Path) -> Result<FileBlob, BuildError> {
    FileBlob::open(path).map_err(|source| {
        BuildError::Content(ContentError::Open {
            path: path.to_owned(),
            source,
        })
    })
}

fn of_layer(path: &Path) -> impl Fn(UnsealedError) -> BuildError + '_ {
    |source| BuildError::Unsealed {
        path: path.to_owned(),
        source,
    }
}

/// Sparse layers have an index file without content, or none.
fn is_empty(index: &Path) -> bool {
    index.metadata().is_ok_and(|index| index.len() == 0) || !index.exists()
}

/// The parts of a file behind its header that are not holes.
fn written(file: &FileBlob) -> Result<Vec<Range<u64>>, Errno> {
    let mut ranges = Vec::new();
    let mut position = lsmt::HEADER_LEN_BYTES as u64;
    while position < file.len_bytes() {
        let start = match rustix::fs::seek(file.file(), SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let end = rustix::fs::seek(file.file(), SeekFrom::Hole(start))?;
        // A file that changes under our feet has no end of its own.
        position = match end > start {
            true => end,
            false => file.len_bytes(),
        };
        ranges.push(start..position);
        if ranges.len() > lsmt::MAX_SEGMENTS {
            // Too many for a layer, which says so.
            break;
        }
    }
    Ok(ranges)
}
