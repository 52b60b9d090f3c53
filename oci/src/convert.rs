//! From an OCI image to the same image in layers of a disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use blob::PageBuffer;
use builder::{OutputDir, OutputError, PackError, Packer, Packing, Progress};
use lsmt::{SECTOR_LEN_BYTES, Uuid, Writer, WriterOptions};
use serde::Serialize;

use crate::apply::{Applied, ApplyError, apply};
use crate::digest::{Digest, Hashing};
use crate::documents::{BLOB_DIGEST, write_documents};
use crate::ext4::{BLOCK_LEN_BYTES, Ext4Error, FileSystem, PIECE_LEN_BYTES};
use crate::layout::{Layout, LayoutError, check_digest};
use crate::select::{MAX_LAYERS, ReadImage, SelectError, Selection};
use crate::spec::Descriptor;
use crate::stream::{Limited, Unpacked};
use crate::tar::Tar;

/// What the headers of an archive may take beside the bytes of its files, which the file system has to hold.
pub const MAX_TAR_OVERHEAD_BYTES: u64 = 1 << 30;

/// What is to become of an image.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Which image.
    pub selection: Selection,
    /// Length of the disk in bytes.
    pub size_bytes: u64,
    /// How layers are stored. They are always in tar files, as registries want them.
    pub packing: Packing,
    /// Whether another layout may be replaced.
    pub replace: bool,
}

/// What has become of an image.
#[derive(Clone, Debug, Serialize)]
pub struct Converted {
    /// Digest of the manifest that was read.
    pub source: Digest,
    /// Digest of the manifest that was written.
    pub manifest: Digest,
    /// The name of the image in both layouts.
    pub reference: Option<String>,
    /// Length of the disk in bytes.
    pub disk_len_bytes: u64,
    /// Layers, lowest first; the first of them is the empty file system.
    pub layers: Vec<ConvertedLayer>,
    /// What people should know.
    pub remarks: Vec<String>,
}

/// A layer that was made.
#[derive(Clone, Debug, Serialize)]
pub struct ConvertedLayer {
    /// The layer it is made from; none for the empty file system.
    pub source: Option<Digest>,
    /// Bytes of that.
    pub source_len_bytes: u64,
    /// Members of its archive.
    pub members: u64,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub len_bytes: u64,
    /// Bytes of the disk that it decides.
    pub changed_len_bytes: u64,
}

/// An image that cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The layout cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The image cannot be found.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The output cannot be made.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// What is to be replaced is something else.
    #[error("{} is no OCI image layout and will not be replaced", path.display())]
    NotOurs {
        /// The place.
        path: PathBuf,
    },
    /// A layer cannot be converted.
    #[error("layer {ordinal} ({digest})")]
    Layer {
        /// Its place among the layers of the OCI image, from 0.
        ordinal: usize,
        /// Its digest.
        digest: Digest,
        /// Why.
        source: LayerError,
    },
    /// The empty file system cannot be made.
    #[error("empty file system")]
    Base(#[source] LayerError),
    /// The output cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A document cannot be expressed.
    #[error("cannot express a document in JSON")]
    Json(#[from] serde_json::Error),
}

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// It is nothing that is known.
    #[error("media type {media_type:?} is not a layer that can be converted")]
    MediaType {
        /// What it is said to be.
        media_type: String,
    },
    /// There is nothing to do.
    #[error("it is an overlaybd layer already")]
    AlreadyConverted,
    /// Its blob cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its blob cannot be unpacked.
    #[error("cannot unpack")]
    Unpack(#[source] io::Error),
    /// It cannot be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// What is in it is not what the configuration says.
    #[error("unpacked it is {found}, but the configuration says {stated}")]
    DiffId {
        /// What it is.
        found: Digest,
        /// What it should be.
        stated: Digest,
    },
    /// The file system cannot be written.
    #[error(transparent)]
    Ext4(#[from] Ext4Error),
    /// The layer cannot be written.
    #[error("cannot write a layer")]
    Write(#[from] lsmt::WriteError),
    /// The layer cannot be stored.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The output cannot be written.
    #[error("cannot write")]
    Io(#[from] io::Error),
}

/// Converts an image of the layout in `from` to a layout of its own in `to`.
///
/// The same image and options give the same bytes. Nothing stands at `to` before all of it does. Memory is bounded by
/// the number of files, and the place for the output also holds all files of the image for a while, unpacked.
///
/// # Errors
///
/// When the image cannot be read, is damaged, does not fit, or the output cannot be written.
pub fn convert(
    from: &Path,
    to: &Path,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<Converted, ConvertError> {
    let layout = Layout::open(from)?;
    let candidate = layout.select(&options.selection)?;
    let image = layout.read(&candidate)?;
    check_layers(&image)?;
    if options.replace && to.exists() && !to.join("oci-layout").is_file() {
        return Err(ConvertError::NotOurs {
            path: to.to_owned(),
        });
    }
    let output = OutputDir::create(to, options.replace, &[from.to_owned()])?;
    let mut work = Work::start(&output, options)?;
    let mut remarks = Vec::new();
    let mut layers = vec![work.base().map_err(ConvertError::Base)?];
    let sources = image
        .manifest
        .layers
        .iter()
        .zip(&image.config.rootfs.diff_ids);
    for (ordinal, (descriptor, diff_id)) in sources.enumerate() {
        let what = format!("layer {} of {}", ordinal + 1, image.manifest.layers.len());
        progress.begin(&what, Some(descriptor.size));
        let (layer, applied) =
            work.layer(&layout, descriptor, diff_id, progress)
                .map_err(|source| ConvertError::Layer {
                    ordinal,
                    digest: descriptor.digest.clone(),
                    source,
                })?;
        remarks.extend(remark(ordinal, &applied));
        layers.push(layer);
    }
    let reference = candidate.reference.clone();
    let manifest = write_documents(output.dir(), &image, reference.as_deref(), &layers)?;
    drop(work);
    output.finish()?;
    Ok(Converted {
        source: image.descriptor.digest,
        manifest,
        reference,
        disk_len_bytes: options.size_bytes,
        layers,
        remarks,
    })
}

fn remark(ordinal: usize, applied: &Applied) -> Option<String> {
    let first = applied.first_left_out.as_ref()?;
    Some(format!(
        "layer {ordinal}: {} extended attributes left out, for which ext4 has no place, the first of them {first:?}",
        applied.xattrs_left_out
    ))
}

/// What can be said before anything is unpacked.
fn check_layers(image: &ReadImage) -> Result<(), ConvertError> {
    let layers = &image.manifest.layers;
    if layers.len() > MAX_LAYERS {
        return Err(SelectError::TooManyLayers {
            digest: image.descriptor.digest.clone(),
            count: layers.len(),
        }
        .into());
    }
    for (ordinal, layer) in layers.iter().enumerate() {
        let failed = |source| {
            Err(ConvertError::Layer {
                ordinal,
                digest: layer.digest.clone(),
                source,
            })
        };
        if layer.annotations.contains_key(BLOB_DIGEST) {
            return failed(LayerError::AlreadyConverted);
        }
        if !is_layer(&layer.media_type) {
            return failed(LayerError::MediaType {
                media_type: layer.media_type.clone(),
            });
        }
    }
    Ok(())
}

/// Layers of OCI and of Docker, also those that may not be passed on.
fn is_layer(media_type: &str) -> bool {
    const KINDS: [&str; 4] = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    const COMPRESSIONS: [&str; 5] = ["", "+gzip", "+zstd", ".gzip", ".zstd"];
    KINDS.into_iter().any(|kind| {
        let rest = media_type.strip_prefix(kind);
        rest.is_some_and(|rest| COMPRESSIONS.contains(&rest))
    })
}

/// The disk as it grows from layer to layer.
struct Work<'a> {
    options: &'a ConvertOptions,
    blobs: PathBuf,
    system: FileSystem,
    /// Names all layers so far, as it is usual for OCI images.
    chain: Option<Digest>,
    uuid: Uuid,
}

impl<'a> Work<'a> {
    fn start(output: &OutputDir, options: &'a ConvertOptions) -> Result<Self, ConvertError> {
        let blobs = output.dir().join("blobs/sha256");
        let failed = |source| ConvertError::Write {
            path: blobs.clone(),
            source,
        };
        fs::create_dir_all(&blobs).map_err(failed)?;
        let disk = tempfile::tempfile_in(output.dir()).map_err(failed)?;
        let system = FileSystem::new(disk, options.size_bytes)
            .map_err(|error| ConvertError::Base(error.into()))?;
        Ok(Self {
            options,
            blobs,
            system,
            chain: None,
            uuid: Uuid::NIL,
        })
    }

    /// The layer with the empty file system.
    fn base(&mut self) -> Result<ConvertedLayer, LayerError> {
        let size_bytes = self.options.size_bytes;
        let name = Digest::of(format!("ext4 of {size_bytes} bytes").as_bytes());
        self.system.flush()?;
        self.pack(&name, None, &Applied::default())
    }

    fn layer(
        &mut self,
        layout: &Layout,
        descriptor: &Descriptor,
        diff_id: &Digest,
        progress: &dyn Progress,
    ) -> Result<(ConvertedLayer, Applied), LayerError> {
        let blob = layout.open_blob(descriptor)?;
        let unpacked = Unpacked::new(blob).map_err(LayerError::Unpack)?;
        let max_bytes = self
            .options
            .size_bytes
            .saturating_add(MAX_TAR_OVERHEAD_BYTES);
        let mut tar = Tar::new(Hashing::new(Limited::new(unpacked, max_bytes)));
        let mut told = 0;
        let applied = apply(&mut tar, &mut self.system, |tar| {
            let now = tar.source().source().source().blob_offset();
            progress.advance(now - told);
            told = now;
        })?;
        let (found, unpacked) = tar.into_inner().finish().map_err(LayerError::Unpack)?;
        let blob = unpacked.into_inner().into_blob();
        let (digest, _) = blob.finish().map_err(LayerError::Unpack)?;
        check_digest(&descriptor.digest, digest)?;
        if found != *diff_id {
            return Err(LayerError::DiffId {
                found,
                stated: diff_id.clone(),
            });
        }
        self.system.flush()?;
        let chain = match &self.chain {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        let layer = self.pack(&chain, Some(descriptor), &applied)?;
        self.chain = Some(chain);
        Ok((layer, applied))
    }

    /// Stores what has changed as a layer.
    fn pack(
        &mut self,
        name: &Digest,
        source: Option<&Descriptor>,
        applied: &Applied,
    ) -> Result<ConvertedLayer, LayerError> {
        let uuid = uuid(name);
        let layer = WriterOptions {
            virtual_size_bytes: self.options.size_bytes,
            uuid,
            parent_uuid: self.uuid,
            ..WriterOptions::default()
        };
        let packing = Packing {
            tar: true,
            ..self.options.packing.clone()
        };
        let path = self.blobs.join("unfinished");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        let writer = Writer::new(Packer::new(&file, &packing)?, &layer)?;
        let changed_len_bytes = write_changes(&self.system, writer)?;
        file.sync_all()?;
        let (digest, len_bytes) = Digest::of_file(&file)?;
        fs::rename(&path, self.blobs.join(digest.hex()))?;
        self.system.next_step();
        self.uuid = uuid;
        Ok(ConvertedLayer {
            source: source.map(|source| source.digest.clone()),
            source_len_bytes: source.map_or(0, |source| source.size),
            members: applied.members,
            digest,
            len_bytes,
            changed_len_bytes,
        })
    }
}

fn write_changes(system: &FileSystem, mut writer: Writer<Packer<'_>>) -> Result<u64, LayerError> {
    let mut changed_len_bytes = 0;
    let mut piece = PageBuffer::zeroed(PIECE_LEN_BYTES);
    for blocks in system.changed() {
        let mut offset = u64::from(blocks.start) * BLOCK_LEN_BYTES;
        let end = u64::from(blocks.end) * BLOCK_LEN_BYTES;
        changed_len_bytes += end - offset;
        while offset < end {
            let len = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let piece = &mut piece[..len.min(PIECE_LEN_BYTES)];
            system.file().read_exact_at(piece, offset)?;
            writer.data(offset / SECTOR_LEN_BYTES, piece)?;
            offset += piece.len() as u64;
        }
    }
    writer.finish()?.finish()?;
    Ok(changed_len_bytes)
}

/// A UUID from a digest, as the reference's convertor makes it.
fn uuid(name: &Digest) -> Uuid {
    let mut text = [b'-'; 36];
    let places = (0..36).filter(|at| !matches!(at, 8 | 13 | 18 | 23));
    for (at, digit) in places.zip(name.hex().bytes()) {
        text[at] = digit.to_ascii_uppercase();
    }
    Uuid::from_text(text)
}
