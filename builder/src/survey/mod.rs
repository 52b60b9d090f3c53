//! Looking at a stack without reading its data: what each blob is, what each layer decides, and what is left of that
//! under the layers above it.
//!
//! Everything here comes from metadata and indexes. A layer that cannot be opened is named with the reason, and the
//! others are shown all the same.

mod layer;
mod map;
mod share;

pub use layer::{LayerSurvey, LsmtFacts, SIZE_CLASSES, ZFileFacts};
pub use map::{Cell, DiskMap, MapError, Origin};
pub use share::Share;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Image, LayerError, Source};
use serde::Serialize;

use crate::chain::chain;

/// What there is to know about a stack without reading its data.
#[derive(Debug, Serialize)]
pub struct Survey {
    /// The layers, lowest first: those that could be opened, and why not the others.
    pub layers: Vec<SurveyedLayer>,
    /// The disk they make, if they make one.
    pub disk: Option<DiskSurvey>,
    /// Why good layers make no disk.
    pub stack_error: Option<String>,
    /// Layers that name another one as the layer below than is there. Writers leave such names out or wrong, so that
    /// this is no error.
    pub chain_warnings: Vec<String>,
    /// The open stack, for whoever wants to see more of it.
    #[serde(skip)]
    pub image: Option<Arc<Image>>,
}

/// A layer of a stack, or what keeps it from being one.
#[derive(Debug, Serialize)]
pub struct SurveyedLayer {
    /// Which layer; 0 is the lowest.
    pub ordinal: usize,
    /// Its path as it was given.
    #[serde(serialize_with = "crate::chain::path")]
    pub path: PathBuf,
    /// Why it cannot be opened.
    pub error: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub facts: Option<LayerSurvey>,
    /// What is seen of it in the disk.
    pub share: Option<Share>,
}

/// The disk that a stack makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskSurvey {
    /// Length of the disk in bytes.
    pub len_bytes: u64,
    /// Segments of the merged index.
    pub segment_count: usize,
    /// Bytes of the disk that come from data of a layer.
    pub data_bytes: u64,
    /// Bytes of the disk that a layer says are zero.
    pub zeroed_bytes: u64,
    /// Bytes of the disk that no layer speaks of.
    pub hole_bytes: u64,
    /// Memory that the merged index takes while the disk is served, in bytes.
    pub index_memory_bytes: u64,
    /// Memory that the jump tables of ZFiles take while the disk is served, in bytes.
    pub jump_table_memory_bytes: u64,
    /// A checksum over what all layers map; stacks that differ in it are not the same disk.
    #[serde(serialize_with = "crate::chain::hex")]
    pub fingerprint: u64,
}

impl Survey {
    /// Looks at the layers at `paths`, lowest first. Holds one index at a time, and then the merged one with a copy.
    #[must_use]
    pub fn of<P: AsRef<Path>>(paths: &[P]) -> Self {
        let mut layers: Vec<_> = paths
            .iter()
            .enumerate()
            .map(|(ordinal, path)| surveyed(ordinal, path.as_ref()))
            .collect();
        let chain_warnings = chain_warnings(&layers);
        let sound = layers.iter().all(|layer| layer.error.is_none());
        let (image, stack_error) = match sound.then(|| Image::open(paths)) {
            None => (None, None),
            Some(Ok(image)) => (Some(Arc::new(image)), None),
            Some(Err(error)) => (None, Some(chain(&error))),
        };
        let disk = image.as_deref().map(|image| {
            let (disk, shares) = share::shares(image);
            for (layer, share) in layers.iter_mut().zip(shares) {
                match share {
                    Ok(share) => layer.share = Some(share),
                    // It could be opened a moment ago.
                    Err(error) => layer.error = Some(chain(&error)),
                }
            }
            disk
        });
        Self {
            layers,
            disk,
            stack_error,
            chain_warnings,
            image,
        }
    }

    /// Whether every layer could be opened and they make a disk.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.disk.is_some() && self.layers.iter().all(|layer| layer.error.is_none())
    }
}

fn surveyed(ordinal: usize, path: &Path) -> SurveyedLayer {
    let facts = Source::open(path).and_then(|source| facts(&source));
    let (facts, error) = match facts {
        Ok(facts) => (Some(facts), None),
        Err(error) => (None, Some(chain(&error))),
    };
    SurveyedLayer {
        ordinal,
        path: path.to_owned(),
        error,
        facts,
        share: None,
    }
}

fn facts(source: &Source) -> Result<LayerSurvey, LayerError> {
    Ok(LayerSurvey::new(&source.layer()?))
}

/// Neighbours of which the upper one names another layer below it.
fn chain_warnings(layers: &[SurveyedLayer]) -> Vec<String> {
    let pairs = layers.iter().zip(layers.iter().skip(1));
    let warnings = pairs.filter_map(|(below, above)| {
        let lower = below.facts.as_ref()?;
        let upper = above.facts.as_ref()?;
        let (uuid, parent) = (lower.lsmt.uuid.as_ref()?, upper.lsmt.parent_uuid.as_ref()?);
        (!uuid.eq_ignore_ascii_case(parent)).then(|| {
            format!(
                "layer {} names {parent} as the layer below it, which is {uuid}",
                above.ordinal
            )
        })
    });
    warnings.collect()
}

#[cfg(test)]
mod tests;
