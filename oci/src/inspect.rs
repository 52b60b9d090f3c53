//! What is in a layout, and whether it is what it is called.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::{self, Display, Write as _};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blob::{FileBlob, ReadAt, Window};
use builder::Progress;
use serde::Serialize;
use serde_json::Value;

use crate::digest::Digest;
use crate::layout::Layout;
use crate::select::{Candidate, SelectError, Selection};
use crate::spec::{Config, Descriptor, Manifest};
use crate::stream::Compression;

/// What is looked at to say what a blob is.
const HEAD_LEN: usize = 512;

/// What is in a layout.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Its images.
    pub images: Vec<ImageInspection>,
    /// What is wrong; empty if nothing is.
    pub problems: Vec<String>,
}

/// An image of a layout.
#[derive(Clone, Debug, Serialize)]
pub struct ImageInspection {
    /// The name that the layout gives it.
    pub reference: Option<String>,
    /// What it runs on, as the index says.
    pub platform: Option<String>,
    /// What its manifest is.
    pub media_type: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the configuration.
    pub config: Option<Digest>,
    /// What a container is to be like: the member `config` of the configuration.
    pub container: Option<Value>,
    /// Layers, lowest first.
    pub layers: Vec<LayerInspection>,
}

/// A layer of an image.
#[derive(Clone, Debug, Serialize)]
pub struct LayerInspection {
    /// What it is said to be.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Digest of what is in it.
    pub diff_id: Option<Digest>,
    /// What it is by its first bytes.
    pub content: String,
    /// What is said about it.
    pub annotations: BTreeMap<String, String>,
}

/// Looks at the images of a layout that are meant, at all if nothing is chosen, and checks all their blobs.
///
/// # Errors
///
/// When it is no layout, its indexes cannot be read, or no such image is in it. Everything else that is wrong is among
/// the problems.
pub fn inspect(
    dir: &Path,
    selection: &Selection,
    progress: &dyn Progress,
) -> Result<Inspection, SelectError> {
    let layout = Layout::open(dir)?;
    let candidates = match (&selection.reference, &selection.platform) {
        (None, None) => layout.images()?,
        _ => vec![layout.select(selection)?],
    };
    let mut inspector = Inspector {
        layout,
        problems: Vec::new(),
        checked: BTreeMap::new(),
        progress,
    };
    let images = candidates
        .iter()
        .map(|candidate| inspector.image(candidate));
    let images = images.collect();
    Ok(Inspection {
        images,
        problems: inspector.problems,
    })
}

struct Inspector<'a> {
    layout: Layout,
    problems: Vec<String>,
    /// Blobs that were looked at already: images share them.
    checked: BTreeMap<Digest, u64>,
    progress: &'a dyn Progress,
}

impl Inspector<'_> {
    fn image(&mut self, candidate: &Candidate) -> ImageInspection {
        let descriptor = &candidate.descriptor;
        let mut image = ImageInspection {
            reference: candidate.reference.clone(),
            platform: descriptor.platform.as_ref().map(ToString::to_string),
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.clone(),
            config: None,
            container: None,
            layers: Vec::new(),
        };
        let manifest: Manifest = match self.layout.read_json(descriptor) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.problem("manifest", &error);
                return image;
            }
        };
        image.config = Some(manifest.config.digest.clone());
        let mut diff_ids = Vec::new();
        match self.layout.read_json::<Config>(&manifest.config) {
            Ok(config) => {
                let (layers, count) = (manifest.layers.len(), config.rootfs.diff_ids.len());
                if layers != count {
                    self.problems.push(format!(
                        "configuration {}: {count} layers, but {layers} in the manifest",
                        manifest.config.digest
                    ));
                }
                image.container = config.other.get("config").cloned();
                diff_ids = config.rootfs.diff_ids;
            }
            Err(error) => self.problem("configuration", &error),
        }
        let mut diff_ids = diff_ids.into_iter();
        for layer in &manifest.layers {
            let layer = self.layer(layer, diff_ids.next());
            image.layers.push(layer);
        }
        image
    }

    fn layer(&mut self, descriptor: &Descriptor, diff_id: Option<Digest>) -> LayerInspection {
        let Descriptor { digest, size, .. } = descriptor;
        if self.checked.insert(digest.clone(), *size) != Some(*size) {
            self.progress.begin("checking digests", Some(*size));
            if let Err(error) = self.layout.check_blob(descriptor) {
                self.problem("layer", &error);
            }
            self.progress.advance(*size);
        }
        let content = self.content(descriptor);
        LayerInspection {
            media_type: descriptor.media_type.clone(),
            digest: digest.clone(),
            len_bytes: *size,
            diff_id,
            content,
            annotations: descriptor.annotations.clone(),
        }
    }

    fn content(&self, descriptor: &Descriptor) -> String {
        let blob = self.layout.open_blob(descriptor).ok();
        blob.and_then(content_of)
            .unwrap_or_else(|| "not readable".to_owned())
    }

    fn problem(&mut self, what: &str, error: &dyn Error) {
        let mut text = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            // A text takes what is written to it.
            let _written = write!(text, ": {error}");
            cause = error.source();
        }
        self.problems.push(text);
    }
}

/// What a blob is by its first bytes, and by those of the one file in it if it is such a tar file.
fn content_of(file: File) -> Option<String> {
    let mut head = [0; HEAD_LEN];
    let len = file.read_at(&mut head, 0).ok()?;
    let head = &head[..len];
    match Compression::of(head) {
        Compression::None => {}
        compression => return Some(compression.name().to_owned()),
    }
    let source = FileBlob::from_file(file).ok()?;
    let is_tar = blob::tar::looks_like_tar(head);
    let payload = blob::tar::locate(&source).ok().filter(|_| is_tar);
    let wrapper = match payload {
        Some(_) => ", in tar",
        None => "",
    };
    let content = match payload {
        Some(payload) => Window::new(source, payload.start, payload.len_bytes).ok()?,
        None => Window::whole(source),
    };
    let layer = layer_of(content).map(|layer| format!("{layer}{wrapper}"));
    // Not a layer of a disk: then it is an archive of files, or nothing that is known.
    let other = if is_tar { "tar" } else { "unknown" };
    Some(layer.unwrap_or_else(|| other.to_owned()))
}

/// What a layer of a disk is stored as, if it is one.
fn layer_of(content: Window<FileBlob>) -> Option<String> {
    let mut head = [0; HEAD_LEN];
    content.read_exact_at(&mut head, 0).ok()?;
    if zfile::is_zfile(&head) {
        let algorithm = zfile::ZFile::open(content).ok()?.info().algorithm;
        return Some(format!("overlaybd in {algorithm}"));
    }
    lsmt::probe(&head).map(|_kind| "overlaybd".to_owned())
}

/// A text from outside on one line, for it may end up on a terminal.
struct OneLine<'a>(&'a str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|character| match character.is_control() {
                true => write!(f, "{}", character.escape_default()),
                false => f.write_char(character),
            })
    }
}

impl Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for image in &self.images {
            writeln!(f, "{image}")?;
        }
        match self.problems.is_empty() {
            true => write!(f, "All digests and sizes are right."),
            false => {
                writeln!(f, "Problems:")?;
                self.problems
                    .iter()
                    .try_for_each(|problem| writeln!(f, "  {problem}"))
            }
        }
    }
}

impl Display for ImageInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.reference.as_deref().unwrap_or("(no name)");
        writeln!(f, "image      {}", OneLine(name))?;
        writeln!(
            f,
            "manifest   {}  {}",
            self.digest,
            OneLine(&self.media_type)
        )?;
        if let Some(config) = &self.config {
            writeln!(f, "config     {config}")?;
        }
        if let Some(platform) = &self.platform {
            writeln!(f, "platform   {}", OneLine(platform))?;
        }
        for (ordinal, layer) in self.layers.iter().enumerate() {
            writeln!(
                f,
                "layer {ordinal:<4} {}  {} bytes",
                layer.digest, layer.len_bytes
            )?;
            writeln!(
                f,
                "           {}  {}",
                OneLine(&layer.media_type),
                layer.content
            )?;
            match &layer.diff_id {
                Some(diff_id) if *diff_id == layer.digest => {}
                Some(diff_id) => writeln!(f, "           diff id {diff_id}")?,
                None => writeln!(f, "           no diff id")?,
            }
            for (name, value) in &layer.annotations {
                writeln!(f, "           {}={}", OneLine(name), OneLine(value))?;
            }
        }
        Ok(())
    }
}
