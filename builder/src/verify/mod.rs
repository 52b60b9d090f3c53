//! Checking layers to their last byte.
//!
//! ```text
//! blob ──▶ tar, ZFile metadata ──▶ scan: every block (or every byte), on all processors ─┐
//!      └─▶ header, trailer, index ──▶ which disk sectors lie in what the scan has found ◀┘
//! ```
//!
//! What is wrong with one layer keeps neither the rest of it nor the others from being checked. Memory is bounded by
//! the buffers of each thread, the index of one layer, and [`MAX_FAULTS`].

mod fault;
mod reach;
mod scan;

pub use fault::{Fault, FaultKind, MAX_FAULTS};
pub use reach::{MAX_RANGES, Reach};

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;

use blob::{FileBlob, ReadAt};
use image::{Bytes, Image, LayerError, Source};
use lsmt::Segment;
use serde::Serialize;

use crate::chain::chain;
use crate::digest::BlobDigest;
use crate::progress::Progress;
use fault::Faults;

/// More threads than any machine that this runs on has processors.
const MAX_THREADS: usize = 1024;

/// How to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Threads that check; 0 means one for each processor.
    pub threads: usize,
    /// The digest that the blob of each layer should have, in the order of the layers. Those beyond the end have none.
    pub digests: Vec<BlobDigest>,
}

/// What has come of it; the later, the worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong.
    #[default]
    Good,
    /// Something could not be read, and nothing that could be read is damaged.
    Unreadable,
    /// Something is damaged.
    Damaged,
}

/// What has been found in all layers.
#[derive(Debug, Serialize)]
pub struct Verification {
    /// The worst of all layers, and of their being stacked.
    pub verdict: Verdict,
    /// The layers, lowest first.
    pub layers: Vec<VerifiedLayer>,
    /// Why layers that are good make no disk together.
    pub stack_error: Option<String>,
}

/// What has been found in one layer.
#[derive(Debug, Serialize)]
pub struct VerifiedLayer {
    /// Which layer; 0 is the lowest.
    pub ordinal: usize,
    /// Its path as it was given.
    #[serde(serialize_with = "crate::chain::path")]
    pub path: PathBuf,
    /// What it comes to.
    pub verdict: Verdict,
    /// Whether checksums guard its data. Where they do not, damage shows only in what no longer decodes, and the digest
    /// of the blob is the only proof.
    pub is_guarded: bool,
    /// Bytes of the layer that were read, and decoded where it is compressed.
    pub checked_bytes: u64,
    /// What is wrong, in the order of the blob; at most [`MAX_FAULTS`] blocks or pages of it.
    pub faults: Vec<Fault>,
    /// Damaged or unreadable places in all, blocks and pages counted one by one.
    pub fault_count: u64,
    /// The digest of the blob, where one was asked for and all of it could be read.
    #[serde(serialize_with = "crate::chain::optional_text")]
    pub digest: Option<BlobDigest>,
    /// Oddities that are no damage.
    pub remarks: Vec<String>,
}

/// Checks the layers at `paths`, lowest first.
///
/// More than one layer must also make a disk together. A single one need not: an upper layer may leave the size of the
/// disk to those below.
#[must_use]
pub fn verify(paths: &[PathBuf], options: &VerifyOptions, progress: &dyn Progress) -> Verification {
    // Stored bytes tell how far it is; how much content there is, is known only on the way.
    let lengths = paths.iter().flat_map(std::fs::metadata).map(|it| it.len());
    let passes = if options.digests.is_empty() { 1 } else { 2 };
    let total = lengths.fold(0, u64::saturating_add).saturating_mul(passes);
    progress.begin("Verifying", Some(total));
    let open = |path: &Path| Ok(Box::new(FileBlob::open(path)?) as Bytes);
    verify_with(paths, options, progress, &open)
}

/// What leads from paths to blobs.
type Open<'a> = &'a dyn Fn(&Path) -> Result<Bytes, LayerError>;

fn verify_with(
    paths: &[PathBuf],
    options: &VerifyOptions,
    progress: &dyn Progress,
    open: Open<'_>,
) -> Verification {
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, NonZeroUsize::get),
        threads => threads.min(MAX_THREADS),
    };
    let mut opened = true;
    let mut layers: Vec<_> = paths
        .iter()
        .enumerate()
        .map(|(ordinal, path)| {
            let job = Job {
                threads,
                expected: options.digests.get(ordinal).copied(),
                progress,
            };
            let (layer, opens) = layer(ordinal, path, open(path), &job);
            opened &= opens;
            layer
        })
        .collect();
    let mut stack_error = None;
    if opened {
        match stack(paths, open) {
            Ok(image) => look_through(&mut layers, image.disk().segments()),
            Err(error) => stack_error = Some(chain(&error)),
        }
    }
    let mut verdict = layers.iter().map(|layer| layer.verdict).max();
    if stack_error.is_some() && paths.len() != 1 {
        verdict = Some(Verdict::Damaged);
    }
    Verification {
        verdict: verdict.unwrap_or(Verdict::Damaged),
        layers,
        stack_error,
    }
}

fn stack(paths: &[PathBuf], open: Open<'_>) -> Result<Image, image::OpenError> {
    let mut blobs = Vec::new();
    for (ordinal, path) in paths.iter().enumerate() {
        let bytes = open(path).map_err(|source| image::OpenError::Layer {
            ordinal,
            path: path.clone(),
            source,
        })?;
        blobs.push((path.clone(), bytes));
    }
    Image::from_blobs(blobs)
}

/// Says of each fault which sectors of the disk show it.
fn look_through(layers: &mut [VerifiedLayer], merged: &[Segment]) {
    for layer in layers {
        if layer.faults.iter().all(|fault| fault.content.is_none()) {
            continue;
        }
        let own = merged
            .iter()
            .filter(|segment| usize::from(segment.layer()) == layer.ordinal);
        let mut places = reach::Places::new(own.copied());
        for fault in &mut layer.faults {
            fault.seen = fault.content.clone().map(|content| places.reach(&content));
        }
    }
}

/// What the check of a layer needs to know besides the layer.
struct Job<'a> {
    threads: usize,
    expected: Option<BlobDigest>,
    progress: &'a dyn Progress,
}

/// Checks a layer. Also says whether it can be opened.
fn layer(
    ordinal: usize,
    path: &Path,
    bytes: Result<Bytes, LayerError>,
    job: &Job<'_>,
) -> (VerifiedLayer, bool) {
    let mut faults = Faults::default();
    let mut verified = VerifiedLayer {
        ordinal,
        path: path.to_owned(),
        verdict: Verdict::Good,
        is_guarded: false,
        checked_bytes: 0,
        faults: Vec::new(),
        fault_count: 0,
        digest: None,
        remarks: Vec::new(),
    };
    let mut opens = false;
    match bytes.and_then(Source::from_blob) {
        Ok(source) => opens = source_of(&source, &mut verified, &mut faults, job),
        Err(error) => faults.add(Fault::structure(&error)),
    }
    (verified.verdict, verified.fault_count, verified.faults) = faults.finish();
    (verified, opens)
}

/// Checks what is inside the wrappers.
fn source_of(
    source: &Source,
    verified: &mut VerifiedLayer,
    faults: &mut Faults,
    job: &Job<'_>,
) -> bool {
    verified.is_guarded = source.zfile().is_some_and(|zfile| zfile.info().verify);
    if let Some(zfile) = source.zfile() {
        for warning in &zfile.info().warnings {
            match warning {
                // Files of 2021 are like that.
                zfile::Warning::HeaderImplausible => verified.remarks.push(chain(warning)),
                // The content can be had without the trailer, but no writer leaves such a file behind.
                _ => faults.add(Fault::of(FaultKind::Structure, chain(warning))),
            }
        }
    }
    let found = scan::scan(source, job.threads, job.expected.is_some(), job.progress);
    verified.checked_bytes = found.checked_bytes;
    verified.digest = found.digest;
    faults.append(found.faults);
    if let Some(padding) = padding_fault(source) {
        faults.add(padding);
    }
    if let (Some(expected), Some(digest)) = (job.expected, found.digest)
        && expected != digest
    {
        let cause = format!("the blob's digest is {digest}, expected {expected}");
        faults.add(Fault::of(FaultKind::Digest, cause));
    }
    match source.layer() {
        Ok(layer) => {
            let warnings = layer.info().warnings.iter().map(ToString::to_string);
            verified.remarks.extend(warnings);
            faults.place(layer.segments());
            true
        }
        Err(error) => {
            faults.add(Fault::structure(&error));
            false
        }
    }
}

/// Behind the payload of a tar file come zeroes, and nothing else.
fn padding_fault(source: &Source) -> Option<Fault> {
    source.tar()?;
    let window = source.stored();
    let (blob, start) = (window.source(), window.start() + window.len_bytes());
    let mut buf = vec![0; scan::CHUNK_LEN_BYTES];
    let mut offset = start;
    while offset < blob.len_bytes() {
        let left = usize::try_from(blob.len_bytes() - offset).unwrap_or(usize::MAX);
        let piece = buf.get_mut(..left.min(scan::CHUNK_LEN_BYTES))?;
        if let Err(error) = blob.read_exact_at(piece, offset) {
            let place = offset..offset + piece.len() as u64;
            return Some(Fault::of(FaultKind::Unreadable, chain(&error)).stored(place));
        }
        if let Some(at) = piece.iter().position(|byte| *byte != 0) {
            let place = offset + at as u64;
            let cause = "bytes behind the payload of the tar file that are not zero".to_owned();
            return Some(Fault::of(FaultKind::Padding, cause).stored(place..place + 1));
        }
        offset += piece.len() as u64;
    }
    None
}

/// How long a range is.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
