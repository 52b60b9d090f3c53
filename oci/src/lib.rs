//! OCI image layouts on disk: check them, and turn them into layouts whose layers are layers of a disk.
//!
//! ```text
//! layout ──▶ select: which image ──▶ stream: gzip, zstd ──▶ tar ──▶ apply ──▶ ext4 ──▶ a layer of what has changed
//!                                                                                 └──▶ a layout with manifest and config
//! ```
//!
//! [`convert()`] makes one layer of a disk from each layer of an OCI image, above one with an empty file system, so that
//! the layers of a disk are shared and cached as those of the OCI image are. It needs neither root nor mounts nor other
//! programs. [`inspect()`] says what is in a layout, and checks every digest.
//!
//! All bytes are hostile. Digests are checked to be digests before they become part of a path; documents, names, links
//! and members have limits; paths in archives are followed in the file system being made, never on this machine; a layer
//! that is not what its digest says fails the conversion.
//!
//! What this crate refuses to do: talk to registries, guess what is unknown, print.
#![forbid(unsafe_code)]

mod apply;
mod convert;
mod digest;
mod documents;
mod ext4;
mod inspect;
mod layout;
mod page_reader;
mod select;
pub mod spec;
mod stream;
mod tar;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use apply::{ApplyError, MAX_LINKS_FOLLOWED, MAX_MEMBERS, MAX_NAMES_FOLLOWED, MemberError};
pub use convert::{
    ConvertError, ConvertOptions, Converted, ConvertedLayer, LayerError, MAX_TAR_OVERHEAD_BYTES,
    convert,
};
pub use digest::{Digest, DigestError};
pub use ext4::{
    Ext4Error, MAX_DEVICE, MAX_HELD_BYTES, MAX_INODES, MAX_LINKS, MAX_NAME_LEN_BYTES,
    MAX_SIZE_BYTES, MAX_TARGET_LEN_BYTES, MAX_XATTR_NAME_LEN_BYTES, MIN_SIZE_BYTES, XattrError,
};
pub use inspect::{ImageInspection, Inspection, LayerInspection, inspect};
pub use layout::{Layout, LayoutError, MAX_JSON_LEN_BYTES};
pub use select::{
    Candidate, MAX_IMAGES, MAX_INDEX_DEPTH, MAX_LAYERS, PlatformError, ReadImage, SelectError,
    Selection, WantedPlatform,
};
pub use tar::{MAX_PATH_LEN_BYTES, MAX_PAX_LEN_BYTES, MAX_SPARSE_SEGMENTS, TarError};
