//! What one layer is.

use blob::ReadAt;
use image::{Source, TarForm};
use lsmt::{HeaderForm, Layer, SECTOR_LEN_BYTES, Segment};
use serde::Serialize;

/// Classes of segment lengths: class `i` counts those of `2^i` sectors and more, but less than `2^(i + 1)`. A record
/// has less than `2^14` sectors.
pub const SIZE_CLASSES: usize = 14;

/// What a blob is and what its layer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerSurvey {
    /// Length of the file or block device in bytes.
    pub file_len_bytes: u64,
    /// The form of tar around the layer, if there is one.
    #[serde(serialize_with = "crate::chain::optional_text")]
    pub tar: Option<TarForm>,
    /// The ZFile around the layer, if there is one.
    pub zfile: Option<ZFileFacts>,
    /// The layer itself.
    pub lsmt: LsmtFacts,
    /// Oddities that do not keep it from being read.
    pub warnings: Vec<String>,
}

/// What a ZFile says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ZFileFacts {
    /// How its blocks are compressed.
    #[serde(serialize_with = "crate::chain::text")]
    pub algorithm: zfile::Algorithm,
    /// Content bytes per block.
    pub block_size_bytes: u32,
    /// Number of blocks.
    pub block_count: u64,
    /// Whether each block has a checksum.
    pub verify: bool,
    /// Which copy of the metadata counts: a header is only believed when it was written again at the end.
    #[serde(serialize_with = "crate::chain::text")]
    pub metadata: zfile::Place,
    /// Whether metadata and jump table have checksums.
    pub has_digest: bool,
    /// Length of the ZFile in bytes.
    pub stored_bytes: u64,
    /// Length of the content in bytes.
    pub content_bytes: u64,
    /// Memory that the jump table takes while the layer is open, in bytes.
    pub jump_table_memory_bytes: u64,
}

impl ZFileFacts {
    /// Stored bytes for each byte of content: 0.5 has been compressed to half its size.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.stored_bytes as f64 / self.content_bytes.max(1) as f64
    }
}

/// What an LSMT file says about itself, and what its index holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LsmtFacts {
    /// How the layer came to be: `committed`, `sealed` or `sparse` (sealed from a sparse file).
    pub form: &'static str,
    /// Version of the format. Others are refused.
    pub version: &'static str,
    /// Length of the disk in bytes; 0 leaves it to the layers below.
    pub virtual_size_bytes: u64,
    /// Name of the layer, unless it has none.
    pub uuid: Option<String>,
    /// Name of the layer below, if there is one.
    pub parent_uuid: Option<String>,
    /// Free text, with everything unprintable escaped.
    pub user_tag: String,
    /// Records stored in the index, padding included.
    pub record_count: usize,
    /// Records that mean something.
    pub segment_count: usize,
    /// Bytes of the disk that the layer decides by data.
    pub data_bytes: u64,
    /// Bytes of the disk that the layer decides to be zero.
    pub zeroed_bytes: u64,
    /// Room for data in the layer, in bytes: what lies between header and index.
    pub room_bytes: u64,
    /// Whether records carry tags, as the output of merge tools does.
    pub tags_present: bool,
    /// How many segments there are of each class of length: see [`SIZE_CLASSES`].
    pub size_classes: [u64; SIZE_CLASSES],
}

impl LayerSurvey {
    /// What is known of a layer once it is open.
    pub(super) fn new(layer: &Layer<&Source>) -> Self {
        let (source, info) = (*layer.source(), layer.info());
        let zfile_warnings = source.zfile().into_iter().flat_map(|zfile| {
            let warnings = zfile.info().warnings.iter();
            warnings.map(|warning| crate::chain::chain(warning))
        });
        let lsmt_warnings = info.warnings.iter().map(ToString::to_string);
        Self {
            file_len_bytes: source.stored().source().len_bytes(),
            tar: source.tar(),
            zfile: zfile_facts(source),
            lsmt: lsmt_facts(info, layer.segments()),
            warnings: zfile_warnings.chain(lsmt_warnings).collect(),
        }
    }
}

fn zfile_facts(source: &Source) -> Option<ZFileFacts> {
    let zfile = source.zfile()?;
    let info = zfile.info();
    Some(ZFileFacts {
        algorithm: info.algorithm,
        block_size_bytes: info.block_size_bytes,
        block_count: info.block_count,
        verify: info.verify,
        metadata: info.index_source,
        has_digest: info.has_digest,
        stored_bytes: source.stored().len_bytes(),
        content_bytes: info.original_len_bytes,
        jump_table_memory_bytes: zfile.index_len_bytes() as u64,
    })
}

fn lsmt_facts(info: &lsmt::LayerInfo, segments: &[Segment]) -> LsmtFacts {
    let named = |uuid: &lsmt::Uuid| (!uuid.is_nil()).then(|| uuid.to_string());
    let mut size_classes = [0; SIZE_CLASSES];
    for segment in segments {
        let sectors = segment.disk_sectors();
        let class = (sectors.end - sectors.start).checked_ilog2().unwrap_or(0);
        let class = usize::try_from(class).unwrap_or(usize::MAX);
        if let Some(count) = size_classes.get_mut(class) {
            *count += 1;
        }
    }
    LsmtFacts {
        form: match info.header_form {
            HeaderForm::Committed => "committed",
            HeaderForm::SealedInPlace => "sealed",
            HeaderForm::SealedSparse => "sparse",
        },
        version: "1.1",
        virtual_size_bytes: info.virtual_size_bytes,
        uuid: named(&info.uuid),
        parent_uuid: named(&info.parent_uuid),
        user_tag: shown_tag(&info.user_tag),
        record_count: info.record_count,
        segment_count: info.segment_count,
        data_bytes: info.data_sectors * SECTOR_LEN_BYTES,
        zeroed_bytes: info.zeroed_sectors * SECTOR_LEN_BYTES,
        room_bytes: info.index_offset - lsmt::HEADER_LEN_BYTES as u64,
        tags_present: info.tags_present,
        size_classes,
    }
}

/// Text in any language stays legible; what could move a cursor does not.
fn shown_tag(tag: &[u8]) -> String {
    let text = String::from_utf8_lossy(tag);
    let mut shown = String::new();
    for character in text.chars() {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}
