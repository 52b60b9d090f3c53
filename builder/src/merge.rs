//! Many layers into one.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use image::Image;
use lsmt::{MAX_VIRTUAL_SIZE_BYTES, Uuid, WriteError};

use crate::content::Stack;
use crate::error::BuildError;
use crate::layer::{self, LayerOptions, Written};
use crate::parallel::threads;
use crate::runs::{Run, copy, data_bytes};
use crate::{Output, Progress};

/// What becomes of zeroed ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zeroed {
    /// They hide what lies below.
    Kept,
    /// There is nothing below, and they say nothing.
    Dropped,
}

/// Neighbouring layers of a stack, open, to be made one.
#[derive(Debug)]
pub struct Merge {
    stack: Stack,
    zeroed: Zeroed,
    /// Length of the disk as the layers up to the highest of these say, in bytes.
    pub virtual_size_bytes: u64,
    /// Name of the highest layer.
    pub uuid: Uuid,
    /// Name of what lies below the lowest layer, as that says.
    pub parent_uuid: Uuid,
    /// Records of all these layers.
    pub record_count: usize,
}

impl Merge {
    /// Opens layers `which` of a stack of layers at `paths`, lowest first, counted from 0.
    ///
    /// # Errors
    ///
    /// When there are no such layers, or one of those up to the highest of them cannot be used.
    pub fn open(paths: &[PathBuf], which: RangeInclusive<usize>) -> Result<Self, BuildError> {
        let (from, to) = which.into_inner();
        let no_such = BuildError::NoSuchLayers {
            from,
            to,
            count: paths.len(),
        };
        let Some(merged) = paths.get(from..=to).filter(|merged| !merged.is_empty()) else {
            return Err(no_such);
        };
        let (Some(up_to), is_top) = (paths.get(..=to), to + 1 == paths.len()) else {
            return Err(no_such);
        };
        // Where none of them states a size, layers above do.
        let sized = Image::open(up_to).or_else(|_unsized| Image::open(paths))?;
        let virtual_size_bytes = sized.len_bytes();
        let image = match (from, is_top) {
            (0, true) => sized,
            _ => {
                drop(sized);
                // Layers above may make the disk longer and show again what these hold beyond its end now.
                let reach = match is_top {
                    true => virtual_size_bytes,
                    false => MAX_VIRTUAL_SIZE_BYTES,
                };
                Image::open_with_len(merged, reach)?
            }
        };
        let layers = image.disk().layers();
        let (uuid, parent_uuid) = match layers {
            [lowest, .., highest] => (highest.info().uuid, lowest.info().parent_uuid),
            [only] => (only.info().uuid, only.info().parent_uuid),
            [] => (Uuid::NIL, Uuid::NIL),
        };
        Ok(Self {
            virtual_size_bytes,
            uuid,
            parent_uuid,
            record_count: layers.iter().map(|layer| layer.info().segment_count).sum(),
            zeroed: match from {
                0 => Zeroed::Dropped,
                _ => Zeroed::Kept,
            },
            stack: Stack::new(Arc::new(image)),
        })
    }

    /// Writes one layer that decides what these decide together. Where nothing lies below them, it says nothing of what
    /// is zero.
    ///
    /// # Errors
    ///
    /// When a layer cannot be read, or the new one not be written.
    pub fn write(
        &self,
        output: Output,
        options: &LayerOptions,
        progress: &dyn Progress,
    ) -> Result<Written, BuildError> {
        let options = options.keeping_leftovers();
        let disk = self.stack.image().disk();
        let runs = || disk.segments().iter().map(Run::of);
        progress.begin("merging", Some(data_bytes(runs())));
        let threads = threads(options.packing.threads);
        let runs = runs().filter(|run| self.zeroed == Zeroed::Kept || !run.is_zeroed());
        let path = output.path().to_owned();
        let place = (path.as_path(), progress);
        layer::write(output, &options, |writer| {
            copy(runs, &self.stack, writer, threads, place)
        })
        .map_err(|error| match error {
            BuildError::Layer {
                source: WriteError::TooManyRecords { max },
                ..
            } => BuildError::TooManyMerged { max },
            error => error,
        })
    }
}
