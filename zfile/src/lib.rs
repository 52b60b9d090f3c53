//! ZFile: a container that compresses its content block by block, so that any range of it can be read.
//!
//! ```text
//! 0        512                      index_offset          end-512   end
//! | header | block 0 … block N-1    | jump table: N × u32 | trailer |
//! ```
//!
//! Content is cut into *blocks* of 4 to 64 KiB, each compressed on its own with LZ4 or zstd and usually followed
//! by a checksum. The *jump table* lists their stored lengths. Header and trailer hold the same fields; the
//! trailer is the one to believe, unless the header says that it was written again at the end.
//!
//! Reading is three steps: [`ZFile::plan`] finds the blocks, the source fetches them, [`ZFile::blocks`] checks
//! and decodes them one after another, and [`ZFile::decode`] all of them to one place.
//! [`ZFile::read_exact_at_with`] does all three steps with buffers that the thread keeps, and
//! [`ReadAt`](blob::ReadAt) with buffers of its own.
//!
//! Writing is two: a [`BlockEncoder`] makes stored bytes of the content of a block, an [`Assembler`] makes a file of
//! stored blocks. A [`Writer`] does one after the other.
//!
//! What this crate promises: a read gives the bytes that were compressed or an error; every length and position
//! of the file is checked against the length of the source before it is used; a block must decode to exactly
//! the length that its place in the content demands; memory in use depends on the number of blocks that the
//! source really has room for.
//!
//! What it refuses to do: cache, retry, log, or look into the content.
//!
//! ```
//! use std::io::Write;
//!
//! use blob::{MemoryBlob, ReadAt};
//! use zfile::{Writer, WriterOptions, ZFile};
//!
//! let mut writer = Writer::new(Vec::new(), WriterOptions::default())?;
//! writer.write_all(&[7; 10_000])?;
//! let stored = writer.finish()?;
//!
//! let zfile = ZFile::open(MemoryBlob::new(stored))?;
//! assert_eq!(zfile.len_bytes(), 10_000);
//! assert_eq!(zfile.info().block_count, 3);
//! let mut bytes = [0; 100];
//! zfile.read_exact_at(&mut bytes, 4050)?;
//! assert_eq!(bytes, [7; 100]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod assembler;
mod block_encoder;
mod blocks;
mod checksum;
mod codec;
mod error;
mod format;
mod header;
mod jump_table;
mod open;
mod reader;
mod writer;

pub use assembler::Assembler;
pub use block_encoder::BlockEncoder;
pub use blocks::{Block, Blocks};
pub use checksum::raw_crc32c;
pub use codec::Algorithm;
pub use error::{
    BlockError, BlockFault, Corruption, Feature, OpenError, Place, Warning, WriteError,
};
pub use format::{BLOCKS_MAX, CONTENT_MAX_BYTES, HEADER_LEN_BYTES};
pub use header::is_zfile;
pub use open::Info;
pub use reader::{BlockRun, Scratch, ZFile};
pub use writer::{OverwriteHead, Writer, WriterOptions};
