//! Making layers, and taking disks apart: what the tool `vbd` does, without its command line.
//!
//! ```text
//! Content (image file, stack, nothing) ──▶ what to keep ──▶ lsmt::Writer ──▶ Packer (ZFile? tar?) ──▶ Output
//! ```
//!
//! - [`Content`] is what a disk should hold, walked in [`Stretch`]es of data and zeroes; [`open_content`] finds it.
//! - [`create`] and [`diff`] make layers of it, [`Merge`] one layer of many, [`Commit`] one of what a live system wrote.
//! - [`export_raw`], [`export_stream`] and [`export_qcow2`] go the other way.
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
mod commit;
mod content;
mod copy;
mod diff;
mod digest;
mod error;
mod export;
mod lanes;
mod layer;
mod merge;
mod mkfs;
mod output;
mod output_dir;
mod pack;
mod parallel;
mod program;
mod progress;
mod runs;
mod survey;
mod verify;
mod walk;
mod zeroes;

pub use commit::{Commit, CommitForm};
pub use content::{
    Content, ContentError, Empty, Format, Raw, Resized, SourceOptions, Stack, Stream, Stretch,
    open as open_content, spool,
};
pub use copy::{CopyError, Expect, copy_layer, copy_stream};
pub use diff::{MAX_GRANULARITY_BYTES, create, diff};
pub use digest::{BlobDigest, DigestError, HashError, Hashed, hash_files};
pub use error::BuildError;
pub use export::{export_qcow2, export_raw, export_stream};
pub use lanes::ThreadError;
pub use layer::{LayerOptions, Written};
pub use merge::Merge;
pub use mkfs::{FileSystem, FileSystemError, FileSystemOptions, make as make_file_system};
pub use output::{Output, OutputError, Scratch, remove_unfinished};
pub use output_dir::OutputDir;
pub use pack::{PackError, Packed, Packer, Packing};
pub use program::ProgramError;
pub use progress::Progress;
pub use survey::{
    Cell, DiskMap, DiskSurvey, LayerSurvey, LsmtFacts, MapError, Origin, SIZE_CLASSES, Share,
    Survey, SurveyedLayer, ZFileFacts,
};
pub use verify::{
    Fault, FaultKind, MAX_FAULTS, MAX_RANGES, Reach, Verdict, Verification, VerifiedLayer,
    VerifyOptions, verify,
};
