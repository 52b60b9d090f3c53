//! The documents of a layout that is made: index, manifest, configuration.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::convert::{ConvertError, ConvertedLayer};
use crate::digest::Digest;
use crate::layout::LAYOUT_VERSION;
use crate::select::ReadImage;
use crate::spec::{CONFIG, Config, Descriptor, INDEX, Index, LAYER, LayoutFile, MANIFEST};
use crate::spec::{Manifest, Platform, REF_NAME, RootFs};

/// Annotations of a layer that containerd's overlaybd snapshotter knows it by.
pub(crate) const BLOB_DIGEST: &str = "containerd.io/snapshot/overlaybd/blob-digest";
const BLOB_SIZE: &str = "containerd.io/snapshot/overlaybd/blob-size";
const BLOB_FS_TYPE: &str = "containerd.io/snapshot/overlaybd/blob-fs-type";
const VERSION: (&str, &str) = ("containerd.io/snapshot/overlaybd/version", "0.1.0");

/// Writes everything but the layers. Gives the digest of the manifest.
pub(crate) fn write_documents(
    dir: &Path,
    image: &ReadImage,
    reference: Option<&str>,
    layers: &[ConvertedLayer],
) -> Result<Digest, ConvertError> {
    let config = Config {
        rootfs: RootFs {
            kind: image.config.rootfs.kind.clone(),
            diff_ids: layers.iter().map(|layer| layer.digest.clone()).collect(),
        },
        history: history(&image.config.history),
        other: image.config.other.clone(),
    };
    let platform = platform(image);
    let kept = image.manifest.other.get("annotations");
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: write_json_blob(dir, CONFIG, &config)?,
        layers: layers.iter().map(describe).collect(),
        other: kept
            .map(|kept| ("annotations".to_owned(), kept.clone()))
            .into_iter()
            .collect(),
    };
    let mut descriptor = write_json_blob(dir, MANIFEST, &manifest)?;
    let digest = descriptor.digest.clone();
    descriptor.platform = platform;
    let name = reference.map(|reference| (REF_NAME.to_owned(), reference.to_owned()));
    descriptor.annotations = name.into_iter().collect();
    let index = Index {
        schema_version: 2,
        media_type: Some(INDEX.to_owned()),
        manifests: vec![descriptor],
        other: Map::new(),
    };
    write_file(&dir.join("index.json"), &serde_json::to_vec(&index)?)?;
    let layout = LayoutFile {
        image_layout_version: LAYOUT_VERSION.to_owned(),
    };
    write_file(&dir.join("oci-layout"), &serde_json::to_vec(&layout)?)?;
    Ok(digest)
}

fn describe(layer: &ConvertedLayer) -> Descriptor {
    let mut descriptor = Descriptor::new(LAYER, layer.digest.clone(), layer.len_bytes);
    let annotations = [
        (BLOB_DIGEST, layer.digest.to_string()),
        (BLOB_SIZE, layer.len_bytes.to_string()),
        (BLOB_FS_TYPE, "ext4".to_owned()),
        (VERSION.0, VERSION.1.to_owned()),
    ];
    let annotations = annotations.map(|(name, value)| (name.to_owned(), value));
    descriptor.annotations.extend(annotations);
    descriptor
}

/// The history says of which steps each made a layer, so the lowest layer has a line there, too.
fn history(source: &[Value]) -> Vec<Value> {
    if source.is_empty() {
        return Vec::new();
    }
    let base = json!({
        // Some tools want one for every step.
        "created": "1970-01-01T00:00:00Z",
        "created_by": "vbd oci convert",
        "comment": "the empty file system below all layers",
    });
    let mut history = vec![base];
    history.extend_from_slice(source);
    history
}

/// What the image runs on, as its descriptor or its configuration says.
fn platform(image: &ReadImage) -> Option<Platform> {
    let text = |name: &str| Some(image.config.other.get(name)?.as_str()?.to_owned());
    image.descriptor.platform.clone().or_else(|| {
        Some(Platform {
            os: text("os")?,
            architecture: text("architecture")?,
            variant: text("variant"),
            other: Map::new(),
        })
    })
}

fn write_json_blob(
    dir: &Path,
    media_type: &str,
    document: &impl Serialize,
) -> Result<Descriptor, ConvertError> {
    let text = serde_json::to_vec(document)?;
    let digest = Digest::of(&text);
    write_file(&dir.join("blobs/sha256").join(digest.hex()), &text)?;
    Ok(Descriptor::new(media_type, digest, text.len() as u64))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ConvertError> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| ConvertError::Write {
        path: path.to_owned(),
        source,
    })
}
