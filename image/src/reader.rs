//! Reading the merged disk: resolve, fetch, decode.

use std::path::PathBuf;
use std::sync::Arc;

use blob::{ReadError, ReadErrorKind};
use lsmt::Extent;
use zfile::Scratch;

use crate::Image;
use crate::shown::Shown;

/// One thread's way to read an [`Image`]: the image is shared, the buffers are its own.
///
/// Once warm, a read allocates nothing.
#[derive(Debug)]
pub struct Reader {
    image: Arc<Image>,
    extents: Vec<Extent>,
    scratch: Scratch,
}

/// A read that could not be answered, and the layer that is to blame.
#[derive(Debug)]
pub struct ReadFailure {
    /// First byte of the disk that could not be read.
    pub disk_offset: u64,
    /// Ordinal and path of the layer, unless the range was outside the disk.
    pub layer: Option<(usize, PathBuf)>,
    /// What went wrong there.
    pub source: ReadError,
}

impl std::fmt::Display for ReadFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "disk byte {}", self.disk_offset)?;
        match &self.layer {
            Some((ordinal, path)) => write!(f, ": layer {ordinal} ({})", Shown(path)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ReadFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl ReadFailure {
    /// What the failure means.
    #[must_use]
    pub fn kind(&self) -> ReadErrorKind {
        self.source.kind()
    }
}

impl Reader {
    /// A reader with cold buffers.
    #[must_use]
    pub fn new(image: Arc<Image>) -> Self {
        Self {
            image,
            extents: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// The image being read.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Fills `buf` with the bytes of the disk at `offset`, or fails.
    ///
    /// # Errors
    ///
    /// When the range leaves the disk, or a layer cannot deliver. The content of `buf` is then unspecified and
    /// must not be used.
    pub fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<(), ReadFailure> {
        let disk = self.image.disk();
        disk.resolve(offset, buf.len() as u64, &mut self.extents)
            .map_err(|source| ReadFailure {
                disk_offset: offset,
                layer: None,
                source,
            })?;
        let mut rest = buf;
        for extent in &self.extents {
            let Some((piece, tail)) = usize::try_from(extent.len_bytes())
                .ok()
                .and_then(|len| std::mem::take(&mut rest).split_at_mut_checked(len))
            else {
                // `resolve` promises pieces that fill the range exactly.
                let source = ReadError::new(ReadErrorKind::OutOfRange, offset);
                return Err(ReadFailure {
                    disk_offset: offset,
                    layer: None,
                    source,
                });
            };
            rest = tail;
            match *extent {
                Extent::Zero { .. } => piece.fill(0),
                Extent::Data {
                    disk_offset,
                    layer,
                    layer_offset,
                    ..
                } => {
                    let ordinal = usize::from(layer);
                    let Some(source) = disk.layers().get(ordinal).map(lsmt::Layer::source) else {
                        let source = ReadError::new(ReadErrorKind::OutOfRange, offset);
                        return Err(ReadFailure {
                            disk_offset,
                            layer: None,
                            source,
                        });
                    };
                    source
                        .read_exact_at_with(&mut self.scratch, piece, layer_offset)
                        .map_err(|source| {
                            let layer = Some((ordinal, self.image.path(ordinal).to_owned()));
                            ReadFailure {
                                disk_offset,
                                layer,
                                source,
                            }
                        })?;
                }
            }
        }
        Ok(())
    }
}
