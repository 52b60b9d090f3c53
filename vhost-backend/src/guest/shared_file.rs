//! A piece of a front-end's file, mapped with nothing taken on trust.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::bitmap::Bitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion};

use crate::system::{Alarm, SharedMapping};

/// Why a piece of a file cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Its numbers overflow, or it is empty.
    #[error("{len_bytes:#x} bytes at offset {offset:#x} are none, or overflow")]
    Bounds {
        /// Where it begins in its file.
        offset: u64,
        /// Length.
        len_bytes: u64,
    },
    /// The file ends before the piece does.
    #[error("it ends at byte {end:#x} of a file of {file_len_bytes:#x} bytes")]
    FileTooShort {
        /// Where the piece ends in its file.
        end: u64,
        /// Length of the file.
        file_len_bytes: u64,
    },
    /// The system refused.
    #[error("it cannot be mapped")]
    System(#[source] io::Error),
}

/// Maps `len_bytes` of `file` from `offset` on, for reading and writing. `alarm` is raised when the file turns out
/// to be shorter later.
///
/// # Errors
///
/// See [`MapError`].
pub fn map_file<B: Bitmap>(
    file: File,
    offset: u64,
    len_bytes: u64,
    bitmap: B,
    alarm: &Arc<Alarm>,
) -> Result<SharedMapping<B>, MapError> {
    let bounds = MapError::Bounds { offset, len_bytes };
    let (Some(end), Ok(size)) = (offset.checked_add(len_bytes), usize::try_from(len_bytes)) else {
        return Err(bounds);
    };
    if len_bytes == 0 || i64::try_from(end).is_err() {
        return Err(bounds);
    }
    let file_len_bytes = file.metadata().map_err(MapError::System)?.len();
    if end > file_len_bytes {
        return Err(MapError::FileTooShort {
            end,
            file_len_bytes,
        });
    }
    let flag_bits = MapFlags::SHARED | MapFlags::NORESERVE;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let region: MmapRegion<B> = MmapRegionBuilder::new_with_bitmap(size, bitmap)
        .with_file_offset(FileOffset::new(file, offset))
        .with_mmap_prot(protection.bits().cast_signed())
        .with_mmap_flags(flag_bits.bits().cast_signed())
        .build()
        .map_err(|error| MapError::System(io::Error::other(error)))?;
    SharedMapping::new(region, Arc::clone(alarm)).map_err(MapError::System)
}
