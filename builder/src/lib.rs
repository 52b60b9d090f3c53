//! Making layers, and taking disks apart: what the tool `vbd` does, without its command line.
//!
//! ```text
//! Content (image file, stack, nothing) ──▶ what to keep ──▶ lsmt::Writer ──▶ Packer (ZFile? tar?) ──▶ Output
//! ```
//!
//! - [`Content`] is what a disk should hold, walked in [`Stretch`]es of data and zeroes.
//! - [`copy_layer`] and [`copy_stream`] are the short way, for layers that stay what they are.
//! - [`Packer`] takes the bytes of a layer and stores them as a [`Packing`] says.
//! - [`Output`] is a file that appears under its name only when it is complete, [`OutputDir`] a directory.
//! - [`Progress`] is told how far things have come.
//!
//! The same input and options give the same bytes, on any number of processors. Memory is bounded by constants of this
//! crate and the indexes of the layers involved, never by the length of a disk.
//!
//! What this crate refuses to do: overwrite what it was not told to, guess formats of foreign images, print.
#![forbid(unsafe_code)]

mod chain;
mod copy;
mod digest;
mod lanes;
mod output;
mod output_dir;
mod pack;
mod progress;
mod survey;
mod verify;

pub use copy::{CopyError, Expect, copy_layer, copy_stream};
pub use digest::{BlobDigest, DigestError, HashError, Hashed, hash_files};
pub use lanes::ThreadError;
pub use output::{Output, OutputError, remove_unfinished};
pub use output_dir::OutputDir;
pub use pack::{PackError, Packed, Packer, Packing};
pub use progress::Progress;
pub use survey::{
    Cell, DiskMap, DiskSurvey, LayerSurvey, LsmtFacts, MapError, Origin, SIZE_CLASSES, Share,
    Survey, SurveyedLayer, ZFileFacts,
};
pub use verify::{
    Fault, FaultKind, MAX_FAULTS, MAX_RANGES, Reach, Verdict, Verification, VerifiedLayer,
    VerifyOptions, verify,
};
