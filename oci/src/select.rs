//! Which image of a layout is meant.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::layout::{Layout, LayoutError};
use crate::spec::{Config, Descriptor, Index, Manifest, Platform};

/// Indexes inside indexes.
pub const MAX_INDEX_DEPTH: usize = 4;
/// Images of a layout that are looked at, and indexes that are read to find them.
pub const MAX_IMAGES: usize = 1000;
/// Layers of an image: a stack has 255, and one of them is the empty file system.
pub const MAX_LAYERS: usize = lsmt::MAX_LAYERS - 1;

/// An operating system, a processor and maybe its variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// A text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no platform; expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, as linux/amd64"
)]
pub struct PlatformError {
    text: String,
}

impl FromStr for WantedPlatform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let owned = |part: &str| part.to_owned();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(owned(variant))),
            _ => {
                return Err(PlatformError {
                    text: text.to_owned(),
                });
            }
        };
        match parts.iter().any(|part| part.is_empty()) {
            true => Err(PlatformError {
                text: text.to_owned(),
            }),
            false => Ok(Self {
                os: owned(os),
                architecture: owned(architecture),
                variant,
            }),
        }
    }
}

impl fmt::Display for WantedPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl WantedPlatform {
    fn is(&self, platform: &Platform) -> bool {
        self.os == platform.os
            && self.architecture == platform.architecture
            && (self.variant.is_none() || self.variant == platform.variant)
    }
}

/// What chooses an image where there are several.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The name that the layout gives it.
    pub reference: Option<String>,
    /// What it runs on.
    pub platform: Option<WantedPlatform>,
}

/// An image that cannot be found, or not be told from others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// Nothing fits.
    #[error("no such image; there are: {choices}")]
    None {
        /// What there is.
        choices: String,
    },
    /// More than one fits.
    #[error("several images; choose one with --ref or --platform: {choices}")]
    Several {
        /// What there is.
        choices: String,
    },
    /// Indexes in indexes in indexes.
    #[error("more than {MAX_INDEX_DEPTH} indexes inside each other")]
    TooDeep,
    /// Images without end.
    #[error("more than {MAX_IMAGES} images or indexes")]
    TooMany,
    /// An image with too many layers.
    #[error("manifest {digest}: {count} layers, of at most {MAX_LAYERS}")]
    TooManyLayers {
        /// The manifest.
        digest: crate::Digest,
        /// Its layers.
        count: usize,
    },
    /// An image whose configuration speaks of other layers.
    #[error("manifest {digest}: {layers} layers, but {diff_ids} in its configuration")]
    LayersDiffer {
        /// The manifest.
        digest: crate::Digest,
        /// Layers of the manifest.
        layers: usize,
        /// Layers of the configuration.
        diff_ids: usize,
    },
    /// A document cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Where an image stands.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What points to its manifest.
    pub descriptor: Descriptor,
    /// The name it has, or an index that it is in.
    pub reference: Option<String>,
}

impl Candidate {
    /// Builders put what they say about an image beside it, as an image that runs nowhere.
    fn is_attestation(&self) -> bool {
        let platform = self.descriptor.platform.as_ref();
        platform.is_some_and(|platform| platform.os == "unknown")
    }
}

/// Some candidates for people.
fn list(candidates: &[Candidate]) -> String {
    const SHOWN: usize = 20;
    let shown = candidates.iter().take(SHOWN).map(ToString::to_string);
    let mut texts: Vec<String> = shown.collect();
    if candidates.len() > SHOWN {
        texts.push(format!("and {} more", candidates.len() - SHOWN));
    }
    match texts.is_empty() {
        true => "none".to_owned(),
        false => texts.join(", "),
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reference) = &self.reference {
            write!(f, "{reference:?} ")?;
        }
        if let Some(platform) = &self.descriptor.platform {
            write!(f, "{platform} ")?;
        }
        write!(f, "({})", self.descriptor.digest)
    }
}

/// An image that has been read.
#[derive(Clone, Debug)]
pub struct ReadImage {
    /// What points to its manifest.
    pub descriptor: Descriptor,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its configuration.
    pub config: Config,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    images: Vec<Candidate>,
    indexes: usize,
}

impl Layout {
    /// All images, in the order of the indexes.
    ///
    /// # Errors
    ///
    /// When an index cannot be read, or there are too many.
    pub fn images(&self) -> Result<Vec<Candidate>, SelectError> {
        let mut found = Found::default();
        self.collect(self.index(), None, 1, &mut found)?;
        Ok(found.images)
    }

    fn collect(
        &self,
        index: &Index,
        above: Option<&str>,
        depth: usize,
        found: &mut Found,
    ) -> Result<(), SelectError> {
        if depth > MAX_INDEX_DEPTH {
            return Err(SelectError::TooDeep);
        }
        for descriptor in &index.manifests {
            let reference = descriptor.ref_name().or(above);
            if descriptor.is_index() {
                if found.indexes == MAX_IMAGES {
                    return Err(SelectError::TooMany);
                }
                found.indexes += 1;
                let below: Index = self.read_json(descriptor)?;
                self.collect(&below, reference, depth + 1, found)?;
            } else if descriptor.is_manifest() {
                if found.images.len() == MAX_IMAGES {
                    return Err(SelectError::TooMany);
                }
                found.images.push(Candidate {
                    descriptor: descriptor.clone(),
                    reference: reference.map(str::to_owned),
                });
            }
        }
        Ok(())
    }

    /// The one image that is meant.
    ///
    /// # Errors
    ///
    /// When there is none, or more than one; the error lists what there is.
    pub fn select(&self, selection: &Selection) -> Result<Candidate, SelectError> {
        let all = self.images()?;
        let mut fitting = Vec::new();
        for candidate in &all {
            let named = match &selection.reference {
                Some(reference) => candidate.reference.as_deref() == Some(reference),
                None => true,
            };
            if named
                && !candidate.is_attestation()
                && self.runs_on(candidate, selection.platform.as_ref())?
            {
                fitting.push(candidate.clone());
            }
        }
        // The same image under several names is one.
        let mut seen = BTreeSet::new();
        fitting.retain(|candidate| seen.insert(candidate.descriptor.digest.clone()));
        match fitting.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(SelectError::None {
                choices: list(&all),
            }),
            several => Err(SelectError::Several {
                choices: list(several),
            }),
        }
    }

    /// Whether an image runs on a platform, which its descriptor need not say, but its configuration does.
    fn runs_on(
        &self,
        candidate: &Candidate,
        wanted: Option<&WantedPlatform>,
    ) -> Result<bool, SelectError> {
        let Some(wanted) = wanted else {
            return Ok(true);
        };
        if let Some(platform) = &candidate.descriptor.platform {
            return Ok(wanted.is(platform));
        }
        let manifest: Manifest = self.read_json(&candidate.descriptor)?;
        let platform: Platform = self.read_json(&manifest.config)?;
        Ok(wanted.is(&platform))
    }

    /// Reads manifest and configuration of an image.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or do not agree with each other.
    pub fn read(&self, candidate: &Candidate) -> Result<ReadImage, SelectError> {
        let descriptor = candidate.descriptor.clone();
        let manifest: Manifest = self.read_json(&descriptor)?;
        let count = manifest.layers.len();
        let digest = descriptor.digest.clone();
        if count > MAX_LAYERS + 1 {
            return Err(SelectError::TooManyLayers { digest, count });
        }
        let config: Config = self.read_json(&manifest.config)?;
        let diff_ids = config.rootfs.diff_ids.len();
        if diff_ids != count {
            return Err(SelectError::LayersDiffer {
                digest,
                layers: count,
                diff_ids,
            });
        }
        Ok(ReadImage {
            descriptor,
            manifest,
            config,
        })
    }
}
