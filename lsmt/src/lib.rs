//! LSMT: sealed layers of a disk, and their merge into one.
//!
//! A *layer* is a file that decides some sectors of a disk and leaves the others to the layers below it. A *disk*
//! is a stack of layers; each of its sectors is decided by the highest layer that speaks of it.
//!
//! ```text
//!  disk sectors        0       4   6   8  10          16
//!  layer 2 (top)       :       :   |zeroed |           :      an index record each, pointing
//!  layer 1             :       |ddddddd|   :           :      to data in the same file, or
//!  layer 0 (lowest)    |ddddddddddddddddddddddddddddddd|      saying "zeroes"
//!                      ─────────────────────────────────
//!  merged              |0 0 0 0|1 1|- - - -|0 0 0 0 0 0|      one sorted list of segments
//! ```
//!
//! A layer file, all little-endian, in sectors of 512 bytes:
//!
//! ```text
//!  0        4096                     index_offset              len-4096      len
//!  | header |  data, whole sectors   | records, 16 bytes each  |   trailer   |
//! ```
//!
//! 1. [`probe`] says from its first bytes whether a file is of this family.
//! 2. [`Layer::open`] reads header, trailer and index and checks all of it. The trailer counts; the header only
//!    tells what the file is.
//! 3. [`Disk::new`] merges the indexes, once.
//! 4. [`Disk::resolve`] answers where a byte range comes from, as [`Extent`]s, without reading anything.
//! 5. [`Disk::read_extent`] fetches one of them; [`ReadAt`](blob::ReadAt) for [`Disk`] does 4 and 5 at once.
//!
//! [`Writer`] makes layers. [`Disk::segments`] says everything that a stack decides, for whoever makes one layer of many;
//! [`Unsealed`] reads what a live system has written and not sealed, for whoever makes a layer of it.
//!
//! Words used here: a *record* is what an index stores; a *segment* is a record that passed its checks, or a piece
//! of one; a *hole* is what no layer speaks of, and reads as zeroes; a *zeroed* range is what a layer decides to
//! be zero, which hides the layers below. An *ordinal* counts layers from the lowest, which is 0.
//!
//! What this crate refuses to do: stack layers that are still being written, or turboOCI layers, whose data is in
//! another file (it says so by name); guess where a number is out of bounds; answer a read with anything but the
//! bytes asked for or an error. It does not decompress and does not unwrap archives: hand it the plain bytes of a
//! layer as a [`ReadAt`](blob::ReadAt). It does not log: see [`LayerInfo::warnings`]. Nothing in a layer protects
//! its bytes against damage; that is up to what the layer is wrapped in.
//!
//! # Limits
//!
//! [`MAX_LAYERS`] layers, [`MAX_INDEX_RECORDS`] records in each, [`MAX_SEGMENTS`] segments in the merged index,
//! disks of [`MAX_VIRTUAL_SIZE_BYTES`]. A stack being opened takes 16 bytes per record, and twice that for a
//! moment while it is merged; a disk 16 bytes per segment, and for the search
//! at most 2.5 more and 128 KiB.
//!
//! # Example
//!
//! ```
//! use blob::{MemoryBlob, ReadAt};
//! use lsmt::{Disk, Extent, Layer, Writer, WriterOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = WriterOptions { virtual_size_bytes: 16 * 512, ..WriterOptions::default() };
//! let mut lower = Writer::new(Vec::new(), &options)?;
//! lower.data(0, &[b'a'; 16 * 512])?;
//! let mut upper = Writer::new(Vec::new(), &options)?;
//! upper.data(4, &[b'b'; 2 * 512])?;
//! upper.zeroed(6, 4)?;
//!
//! let mut layers = Vec::new();
//! for bytes in [lower.finish()?, upper.finish()?] {
//!     layers.push(Layer::open(MemoryBlob::new(bytes))?);
//! }
//! let disk = Disk::new(layers)?;
//!
//! let mut extents = Vec::new();
//! disk.resolve(5 * 512, 2 * 512, &mut extents)?;
//! assert_eq!(extents, [
//!     Extent::Data { disk_offset: 5 * 512, len_bytes: 512, layer: 1, layer_offset: 4096 + 512 },
//!     Extent::Zero { disk_offset: 6 * 512, len_bytes: 512 },
//! ]);
//! let mut bytes = [0; 4];
//! disk.read_exact_at(&mut bytes, 4 * 512 - 2)?;
//! assert_eq!(&bytes, b"aabb");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod bucket_table;
mod disk;
mod error;
mod extent;
mod format;
mod header;
mod index;
mod layer;
mod merge;
mod merged_index;
mod segment;
#[cfg(feature = "test-util")]
pub mod test_util;
mod unsealed;
mod writer;

pub use disk::Disk;
pub use error::{
    Corruption, Feature, LayerReadError, OpenError, Part, StackError, UnsealedError, WriteError,
};
pub use extent::Extent;
pub use format::{
    HEADER_LEN_BYTES, MAX_INDEX_RECORDS, MAX_LAYERS, MAX_SEGMENTS, MAX_VIRTUAL_SIZE_BYTES,
    SECTOR_LEN_BYTES,
};
pub use header::{HeaderForm, Kind, Uuid, Warning, probe};
pub use layer::{Layer, LayerInfo};
pub use segment::Segment;
pub use unsealed::{MAX_UNSEALED_RECORDS, Unsealed, UnsealedInfo};
pub use writer::{Writer, WriterOptions};
