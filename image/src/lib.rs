//! From paths to one read-only disk.
//!
//! An *image* is an ordered set of layers presented as one disk; ordinal 0 is the lowest. This room finds out
//! what each blob is, opens the stack, and reads it:
//!
//! ```text
//! paths ──▶ probe: tar? ZFile? LSMT? ──▶ open: every check, then the merge ──▶ Image ──▶ Reader, one per thread
//! config.v1.json ──┘
//! ```
//!
//! It knows files and formats, and nothing of virtio, sockets, threads or command lines.
//!
//! An [`Image`] never changes once it is open, so any number of [`Reader`]s use it at once without a lock. A
//! read is exact or an error that names the layer; see [`ReadFailure`].
//!
//! ```no_run
//! use std::sync::Arc;
//! use image::{Image, Reader};
//!
//! let image = Arc::new(Image::open(&["base.lsmt", "app.zfile", "top.tar"])?);
//! let mut first_sector = [0; 512];
//! Reader::new(image).read_exact_at(&mut first_sector, 0)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod cache;
mod config;
mod decode;
mod error;
mod open;
mod plan;
mod probe;
mod reader;
mod row;
mod shown;
mod source;

pub use config::{ConfigError, ConfigLayer, ImageConfig, StatedBlob, config_text};
pub use decode::{Decoder, Pieces};
pub use error::{LayerError, OpenError};
pub use open::{Image, MAX_RECORDS};
pub use plan::{MAX_PLAN_LEN_BYTES, MAX_WARMED, Origin, Plan, Step};
pub use reader::{ReadFailure, Reader};
pub use shown::Shown;
pub use source::{Bytes, Packing, Source, TarForm};
